"""The diagram as a page for a browser: the picture on the left, each step in full on the right.

One file that loads nothing. Its policy forbids all scripts but the one below, which only zooms; a click on a step is a
link to its text. So what strangers wrote into messages stays text, even if an escape were forgotten.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final

from ._diagram import STYLE, Diagram, to_svg
from ._recording import Frame, Recording

SCRIPT: Final = """
const svg = document.querySelector("main svg"), wide = svg.width.baseVal.value, high = svg.height.baseVal.value;
let zoom = 1;
function scale(to) {
  zoom = Math.min(4, Math.max(0.1, to));
  svg.setAttribute("width", wide * zoom);
  svg.setAttribute("height", high * zoom);
}
const fit = () => document.querySelector("main").clientWidth / wide;
for (const [id, act] of [["in", () => zoom * 1.25], ["out", () => zoom / 1.25], ["one", () => 1], ["fit", fit]])
  document.getElementById(id).onclick = () => scale(act());
document.querySelector("main").addEventListener("wheel", event => {
  if (event.ctrlKey) { event.preventDefault(); scale(zoom * (event.deltaY < 0 ? 1.1 : 1 / 1.1)); }
}, {passive: false});
"""

PAGE_STYLE: Final = """\
body { margin: 0; display: flex; flex-direction: column; height: 100vh; color: #263238; background: #fff }
header { padding: 8px 14px; border-bottom: 1px solid #cfd8dc; font: 14px system-ui, sans-serif }
header p { margin: 4px 0 }
header .bad { color: #c62828 }
.both { flex: 1; display: flex; min-height: 0 }
main { flex: 3; overflow: auto }
aside { flex: 2; overflow: auto; border-left: 1px solid #cfd8dc; background: #fafafa }
section { padding: 6px 12px; border-bottom: 1px solid #eceff1 }
section:target { background: #e3f2fd }
section h2 { font: bold 13px ui-monospace, monospace; margin: 0 }
pre { margin: 4px 0; font: 12px ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
.failed h2, .failed .why { color: #c62828 }
svg a:hover .flight { stroke-width: 3 }"""


def draw_html(recording: Recording, steps: range | None = None) -> str:
    """The space-time diagram of all steps, or of these, as an HTML file. Raises `ScheduleError` if there are too many."""
    diagram = Diagram(recording, steps, links=True)
    schedule = recording.schedule
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = escape(f"{schedule.scenario.name}, seed {schedule.seed}")
    note = f"<p>{escape(schedule.note)}</p>" if schedule.note else ""
    last = diagram.frames[-1]
    failure = f'<p class="bad">step {last.number} fails: {escape(last.error)}</p>' if last.error else ""
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
<button id="fit">fit</button>{note}{failure}</header>
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
