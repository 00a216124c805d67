"""The diagram as a page for a browser: the picture on the left, each step in full on the right.

One file that loads nothing. A click on a row is a link to the text of the step. The policy forbids all scripts but the one
below, which zooms, marks the row of the step that is looked at, and goes on to the next with a key. So what strangers
wrote into messages stays text, even if an escape were forgotten.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final

from ._diagram import STYLE, Diagram, to_svg
from ._recording import Frame, Recording

SCRIPT: Final = """
const main = document.querySelector("main"), svg = main.querySelector("svg");
const wide = svg.width.baseVal.value, high = svg.height.baseVal.value;
let zoom = 1;
function scale(to) {
  zoom = Math.min(4, Math.max(0.1, to));
  svg.setAttribute("width", wide * zoom);
  svg.setAttribute("height", high * zoom);
  mark();
}
const fit = () => main.clientWidth / wide;
for (const [id, act] of [["in", () => zoom * 1.25], ["out", () => zoom / 1.25], ["one", () => 1], ["fit", fit]])
  document.getElementById(id).onclick = () => scale(act());
main.addEventListener("wheel", event => {
  if (event.ctrlKey) { event.preventDefault(); scale(zoom * (event.deltaY < 0 ? 1.1 : 1 / 1.1)); }
}, {passive: false});

const rows = [...main.querySelectorAll("a.row")];
const current = () => rows.findIndex(row => row.getAttribute("href") === location.hash);
function mark() {
  for (const row of main.querySelectorAll(".marked")) row.classList.remove("marked");
  const row = rows[current()];
  if (!row) return;
  row.classList.add("marked");
  const seen = main.getBoundingClientRect(), place = row.getBoundingClientRect();
  if (place.top < seen.top || place.bottom > seen.bottom) main.scrollTop += place.top - seen.top - seen.height / 2;
}
addEventListener("hashchange", mark);
addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || !["n", "b"].includes(event.key)) return;
  const next = rows[current() < 0 ? 0 : current() + (event.key === "n" ? 1 : -1)];
  if (next) location.hash = next.getAttribute("href");
});
mark();
"""

PAGE_STYLE: Final = """\
body { margin: 0; display: flex; flex-direction: column; height: 100vh; color: #263238; background: #fff }
header { padding: 8px 14px; border-bottom: 1px solid #cfd8dc; font: 14px system-ui, sans-serif }
header p { margin: 4px 0 }
header .bad, header .bad a { color: #c62828 }
header .hint { color: #78909c }
.both { flex: 1; display: flex; min-height: 0 }
main { flex: 3; overflow: auto }
.row { fill: transparent }
.cut, .calm { pointer-events: none }
.row:hover { fill: #f3f6f8 }
.row.marked { fill: #e3f2fd }
aside { flex: 2; overflow: auto; border-left: 1px solid #cfd8dc; background: #fafafa }
section { padding: 6px 12px; border-bottom: 1px solid #eceff1 }
section:target { background: #e3f2fd }
section h2 { font: bold 13px ui-monospace, monospace; margin: 0; overflow-wrap: anywhere }
pre { margin: 4px 0; font: 12px ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.failed h2, .failed .why { color: #c62828 }
svg a:hover .flight { stroke-width: 3 }
@media (max-width: 800px) {
  .both { flex-direction: column }
  main { border-bottom: 1px solid #cfd8dc }
}"""


def draw_html(recording: Recording, steps: range | None = None) -> str:
    """The space-time diagram of all steps, or of these, as an HTML file. Raises `ScheduleError` if there are too many."""
    diagram = Diagram(recording, steps, links=True)
    schedule = recording.schedule
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = escape(f"{schedule.scenario.name}, seed {schedule.seed}")
    note = f"<p>{escape(schedule.note)}</p>" if schedule.note else ""
    last = diagram.frames[-1]
    failure = ""
    if last.error:
        number = last.number
        failure = f'<p class="bad"><a href="#s{number}">step {number}</a> fails: {escape(last.error)}</p>'
    sections = "\n".join(section(frame) for frame in diagram.frames)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
{PAGE_STYLE}
{STYLE}
</style>
</head>
<body>
<header><b>{title}</b> <button id="in">+</button> <button id="out">&minus;</button> <button id="one">1:1</button>
<button id="fit">fit</button> <span class="hint">n: next step, b: back</span>{note}{failure}</header>
<div class="both">
<main>
{to_svg(diagram.picture, style=False)}</main>
<aside>
{sections}
</aside>
</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def section(frame: Frame) -> str:
    """All about one step."""
    lines = [frame.received, *(f"> {effect}" for effect in frame.effects), *frame.changes]
    if frame.left_out:
        lines.append(f"left out: {frame.left_out}")
    text = escape("\n".join(line for line in lines if line))
    why = f'<pre class="why">{escape(frame.error)}</pre>' if frame.error else ""
    failed = ' class="failed"' if frame.error else ""
    body = f"<pre>{text}</pre>" if text else ""
    return f'<section id="s{frame.number}"{failed}><h2>{frame.number}. {escape(frame.title)}</h2>{body}{why}</section>'
