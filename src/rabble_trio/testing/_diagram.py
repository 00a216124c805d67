"""Draws a schedule: time runs down, each process is a line, each message an arrow from its sender to its receiver.

Every step has a row of its own, and in it at most one label, beside the point where something happened and on the side
that the arrow does not come from. So labels don't overlap, however many steps there are. When rows are low, because there
are many, labels are left out until the others have room: what is rare (crashes, losses, failures) stays longest.

All text in the picture may come from messages of strangers: it is escaped, and its width is known because its letters
all have the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Final
from unicodedata import east_asian_width

from ._choices import ScheduleError
from ._recording import Flight, Frame, Recording, timer_name

MAX_DRAWN: Final = 5000
"""Steps of one picture: larger ones are slow in every viewer, and nobody sees anything in them."""

ROWS: Final = ((300, 24.0), (800, 18.0), (2000, 10.0), (MAX_DRAWN, 7.0))
"""Up to how many steps a row is how high, in pixels."""

FONT: Final = 11.0
"""Height of letters in pixels."""
CHARACTER: Final = 0.61 * FONT
"""Width of a letter: that of the widest of the usual fonts whose letters are all alike."""
LANE_MIN, LANE_MAX = 110.0, 210.0
"""Between two processes: from what a short label needs to what lets eight processes stand on one screen."""
GUTTER: Final = 46.0
"""For the numbers of the steps."""
TOP: Final = 64.0
"""Where step 0 is: below the names."""
NAMES_EVERY: Final = 700.0
"""After so many pixels the names of the processes stand there again, because the first ones are out of sight."""
NAME_ROW: Final = 26.0
"""The height of that."""

RED: Final = "#c62828"
GRAY: Final = "#78909c"
COLORS: Final = ("#0072b2", "#b35900", "#00785a", "#9c4f80", "#3f6fb0", "#7a6a00", "#5d4aa8", "#4e6b2a")
"""For classes of messages, in the order in which they appear. Readers who see few colours can tell the first four."""

STYLE: Final = f"""\
text {{ font: {FONT:g}px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #263238 }}
text.halo {{ paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round }}
.name {{ font-weight: bold }}
.number {{ fill: {GRAY} }}
.lane {{ stroke: #b0bec5; stroke-width: 2 }}
.down {{ stroke: #ef9a9a; stroke-width: 2; stroke-dasharray: 2 5 }}
.paused {{ stroke: #ffca28; stroke-width: 6; stroke-opacity: .6 }}
.flight {{ stroke-width: 1.4; fill: none }}
.copy {{ stroke-dasharray: 6 3 }}
.early {{ stroke-dasharray: 2 2 }}
.stub {{ stroke-opacity: .55; stroke-dasharray: 2 2 }}
.bad {{ fill: {RED} }}
.cut {{ fill: #fff8e1 }}
.calm {{ fill: #e8f5e9 }}
.rule {{ stroke: #ffb300; stroke-dasharray: 8 4 }}"""

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Label:
    """Text with a place; `end` if it ends at x, instead of beginning there."""

    x: float
    y: float
    text: str
    rank: int
    """The lower, the longer it is kept when there is too little room."""
    color: str = ""
    kind: str = "halo"
    end: bool = False

    @property
    def box(self) -> Box:
        """Left, top, right, bottom."""
        width = columns(self.text) * CHARACTER
        left = self.x - width if self.end else self.x
        return left, self.y - 0.85 * FONT, left + width, self.y + 0.25 * FONT


@dataclass(slots=True)
class Picture:
    """Shapes, as pieces of SVG, and labels, all in pixels."""

    width: float
    height: float
    shapes: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def columns(text: str) -> int:
    """How many letters wide a text is: those of East Asia count twice."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def fit(text: str, width: float) -> str:
    """The text, with its middle left out if it is too wide."""
    room = int(width / CHARACTER)
    if columns(text) <= room:
        return text
    # The number at the end tells messages apart, so it stays whole or goes.
    number = text[text.rfind("#") :] if "#" in text else ""
    tail = number if columns(number) <= room // 2 else ""
    head = ""
    for character in text:
        if columns(head) + columns(character) + 1 + columns(tail) > room:
            break
        head += character
    return f"{head}…{tail}"


@dataclass(slots=True)
class _Send:
    """Where an arrow begins."""

    flight: Flight
    number: int | None
    """The step; None if that was before the first one that is drawn."""


class Diagram:
    """Lays a recording out, or the steps of it that are given. `links`: whether each links to the text of it, "#s12".

    Raises `ScheduleError` if there are too many.
    """

    def __init__(self, recording: Recording, steps: range | None = None, *, links: bool = False) -> None:
        steps = range(recording.end + 1) if steps is None else steps
        self.first = steps.start
        count = len(steps) - 1
        if count > MAX_DRAWN:
            raise ScheduleError(
                f"{count} steps are too many for a picture of at most {MAX_DRAWN}: draw some of them (--from, --to), or "
                "make the schedule shorter (python -m rabble_trio.testing minimize)"
            )
        before = max(0, self.first - 1)
        self._standing = recording.standing(before)
        self._is_cut = bool(recording.world._cuts)
        earlier = recording.in_flight(before) if self.first else ()
        self.frames = [recording.frame(number) for number in steps]
        self._links = links
        self._lanes: dict[str, int] = {}
        self._colors: dict[str, str] = {}
        self._sent: dict[str, _Send] = {}
        self._find_lanes(recording.names, earlier)
        self._sent.update((flight.id, _Send(flight, None)) for flight in earlier)
        self._row = next(height for most, height in ROWS if count <= most)
        self._rows_a_name = int(NAMES_EVERY / self._row)
        wanted = max((columns(self._text(frame)) for frame in self.frames), default=0) * CHARACTER + 30
        self.lane = min(LANE_MAX, max(LANE_MIN, wanted))
        bottom = self._y(steps[-1]) + 40
        self.picture = Picture(self._x(len(self._lanes) - 1) + self.lane + 10, bottom)
        self._draw()

    def _find_lanes(self, names: Iterable[str], earlier: Iterable[Flight]) -> None:
        for name in [*names, *(flight.sender for flight in earlier)]:
            if name and name not in self._lanes:
                self._lanes[name] = len(self._lanes)
        for frame in self.frames:
            found = [flight.sender for flight in frame.flights]
            if frame.choice is not None and frame.choice.do == "input":
                found.append(frame.sender)
            found += [name for sender, to, _ in frame.outside for name in (sender, to)]
            for name in found:
                if name and name not in self._lanes:
                    self._lanes[name] = len(self._lanes)

    def _x(self, lane: int) -> float:
        return GUTTER + self.lane * (lane + 0.95)

    def _y(self, number: int) -> float:
        row = number - self.first
        return TOP + row * self._row + row // self._rows_a_name * NAME_ROW

    def _color(self, text: str) -> str:
        """The color of a message's class."""
        kind = text.partition("(")[0]
        return self._colors.setdefault(kind, COLORS[len(self._colors) % len(COLORS)])

    # --- What is drawn ---

    def _draw(self) -> None:
        if self._links:
            self._draw_rows()
        self._draw_ranges()
        self._draw_lanes()
        self._draw_names()
        for frame in self.frames:
            self._draw_frame(frame)
        for send in self._sent.values():
            self._draw_stub(send)
        self._draw_failure()
        self.picture.labels = thin(self.picture.labels)

    def _draw_rows(self) -> None:
        """Below everything else: all of a row is a link to the text of its step."""
        for frame in self.frames:
            place = f'y="{self._y(frame.number) - self._row / 2:.1f}" width="100%" height="{self._row:g}"'
            self._shape(f'<a class="row" href="#s{frame.number}"><rect {place}/></a>')

    def _draw_names(self) -> None:
        for row in range(0, len(self.frames), self._rows_a_name):
            y = self._y(self.first + row) - (self._row if row else 0) - 12 + (self._row / 2 if row else -8)
            for name, lane in self._lanes.items():
                text = fit(name, self.lane - 12)
                self._label(self._x(lane) - columns(text) * CHARACTER / 2, y, text, 0, kind="name halo")

    def _draw_ranges(self) -> None:
        """What holds for a while: paths that are cut."""
        since = TOP - 12 if self._is_cut else None
        for frame in [*self.frames, None]:
            verb = frame.choice.do if frame is not None and frame.choice is not None and not frame.left_out else ""
            if since is not None and (frame is None or verb in ("heal", "settle")):
                until = self.picture.height if frame is None else self._y(frame.number)
                self._band("cut", since, until)
                since = None
            elif verb == "cut" and since is None:
                assert frame is not None
                since = self._y(frame.number)
            if frame is not None and verb == "settle":
                y = self._y(frame.number)
                self._band("calm", y - self._row / 2, y + self._row / 2)

    def _band(self, kind: str, top: float, bottom: float) -> None:
        width = self.picture.width - GUTTER
        self._shape(
            f'<rect class="{kind}" x="{GUTTER:g}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"/>'
        )

    def _draw_lanes(self) -> None:
        kinds = {"up": "lane", "down": "down", "paused": "paused"}
        changes: dict[str, list[tuple[float, str]]] = {
            name: [(TOP - 12, kinds[self._standing.get(name, "up")])] for name in self._lanes
        }
        for frame in self.frames:
            for name in frame.ended:
                changes[name].append((self._y(frame.number), "down"))
            for name in frame.started:
                changes[name].append((self._y(frame.number), "lane"))
            if frame.choice is not None and not frame.left_out and frame.choice.do in ("pause", "resume"):
                kind = "paused" if frame.choice.do == "pause" else "lane"
                changes[frame.name].append((self._y(frame.number), kind))
        for name, parts in changes.items():
            x = self._x(self._lanes[name])
            ends = [y for y, _ in parts[1:]] + [self._y(self.frames[-1].number) + 16]
            for (start, kind), end in zip(parts, ends, strict=True):
                self._shape(f'<line class="{kind}" x1="{x:.1f}" y1="{start:.1f}" x2="{x:.1f}" y2="{end:.1f}"/>')

    def _draw_frame(self, frame: Frame) -> None:
        y = self._y(frame.number)
        bad = " bad" if frame.error else ""
        self._label(GUTTER - 10, y + 4, str(frame.number), 1 if frame.error else 4, kind=f"number{bad}", end=True)
        shapes = len(self.picture.shapes)
        if frame.choice is not None and not frame.left_out:
            self._draw_choice(frame, frame.choice.do, y)
        for flight in frame.flights:
            origin = self._sent.get(frame.choice.what) if flight.is_copy and frame.choice is not None else None
            self._sent[flight.id] = _Send(flight, frame.number if origin is None else origin.number)
        for sender, to, text in frame.outside:
            self._arrow(self._at(sender), y, self._at(to), y, self._color(text), "flight", text)
        drawn = self.picture.shapes[shapes:]
        if drawn:
            body = f"<g><title>{escape(tooltip(frame))}</title>{''.join(drawn)}</g>"
            self.picture.shapes[shapes:] = [f'<a href="#s{frame.number}">{body}</a>' if self._links else body]

    def _draw_choice(self, frame: Frame, verb: str, y: float) -> None:
        text, x = self._text(frame), self._at(frame.name)
        match verb:
            case "deliver" | "drop":
                self._draw_arrival(frame, x, y, lost=verb == "drop")
            case "input" if not frame.is_timer:
                self._draw_input(frame, x, y)
            case "duplicate":
                at = self._at(frame.sender) if frame.sender else x
                color = self._color(frame.received)
                self._shape(f'<circle cx="{at - 3:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>')
                self._shape(f'<circle cx="{at + 3:.1f}" cy="{y:.1f}" r="3.5" fill="#fff" stroke="{color}"/>')
                self._beside(at, y, text, 2, color)
            case "send":
                at, color = self._at(frame.sender), self._color(frame.received)
                self._dot(at, y, color)
                self._beside(at, y, text, 3, color, left=any(self._at(flight.to) > at for flight in frame.flights))
            case "fire" | "sync" | "snapshot" | "input":
                self._shape(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#fff" stroke="{GRAY}" stroke-width="1.5"/>')
                hand = "v-3.5 v3.5 h2.5" if verb in ("fire", "input") else "m-2.5,0 l2,2 l3,-4"
                self._shape(f'<path d="M{x:.1f},{y:.1f} {hand}" stroke="{GRAY}" stroke-width="1.5" fill="none"/>')
                lanes = [self._at(flight.to) for flight in frame.flights]
                self._beside(x, y, text, 4, GRAY, left=sum(to > x for to in lanes) > sum(to < x for to in lanes))
            case "cut" | "heal" | "settle":
                self._shape(
                    f'<line class="rule" x1="{GUTTER:g}" y1="{y:.1f}" x2="{self.picture.width:.1f}" y2="{y:.1f}"/>'
                )
                room = self.picture.width - self._x(0) - 20
                self._label(self._x(0) + 10, y + 4, fit(text, room), 1)
            case _:
                color = {"crash": RED, "restart": "#2e7d32"}.get(verb, "#8d6e00")
                if verb == "restart":
                    self._shape(f'<path d="M{x:.1f},{y + 6:.1f} l-6,-10 h12 z" fill="{color}"/>')
                elif verb != "crash":
                    self._shape(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>')
                self._beside(x, y, text, 1, color)
        if frame.name in frame.ended:
            self._cross(x, y, RED)
        if frame.error and verb not in ("deliver", "drop") and not (verb == "input" and not frame.is_timer):
            self._ring(x, y)

    def _draw_arrival(self, frame: Frame, x: float, y: float, *, lost: bool) -> None:
        assert frame.choice is not None
        send = self._sent.pop(frame.choice.what, None)
        color = self._color(frame.received)
        start = x if send is None or not send.flight.sender else self._at(send.flight.sender)
        side = -1.0 if start > x else 1.0  # where the label is: not where the arrow comes from
        stop = x - side * 12 if lost else x
        if send is not None and send.flight.sender:
            kind = "flight copy" if send.flight.is_copy else "flight"
            tip = f"{frame.choice.what}: {send.flight.text}, sent "
            if send.number is not None:
                tip += f"in step {send.number}"
                self._arrow(start, self._y(send.number), stop, y, color, kind, tip, has_head=not lost)
            elif start != x:
                # Sent before the first step that is drawn: whole arrows would all begin in the same few places.
                self._arrow(
                    x - side * self.lane / 2,
                    y - self._row,
                    stop,
                    y,
                    color,
                    "flight early",
                    tip + "earlier",
                    has_head=not lost,
                )
        if lost:
            self._cross(x - side * 12, y, RED)
        elif frame.is_dead_letter:
            self._shape(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#fff" stroke="{RED}" stroke-width="1.5"/>')
        else:
            self._dot(x, y, color)
        if frame.error:
            self._ring(x, y)
        bad = lost or frame.is_dead_letter or frame.ended or frame.error
        self._beside(x, y, self._text(frame), 2 if bad else 5, RED if bad else color, left=side < 0)

    def _draw_input(self, frame: Frame, x: float, y: float) -> None:
        """A message that was recorded: nobody knows when it was sent."""
        color = self._color(frame.received)
        start = self._at(frame.sender) if frame.sender else x
        if start != x:
            self._arrow(start, y - 0.6 * self._row, x, y, color, "flight", f"{frame.sender}: {frame.received}")
        self._dot(x, y, color)
        if frame.error:
            self._ring(x, y)
        bad = bool(frame.ended or frame.error)
        lanes = [start, *(self._at(to) for _, to, _ in frame.outside)]
        left = sum(lane > x for lane in lanes) > sum(lane < x for lane in lanes)
        self._beside(x, y, self._text(frame), 2 if bad else 5, RED if bad else color, left=left)

    def _text(self, frame: Frame) -> str:
        """The label of a step."""
        if frame.choice is None:
            return ""
        verb, what = frame.choice.do, frame.choice.what
        short = what.partition(" ")[2] if " " in what else frame.received.partition("(")[0]
        match verb:
            case "deliver" | "fire":
                more = " + crash" if "crash" in frame.choice.detail else ""
                down = " (down)" if frame.is_dead_letter else ""
                return short + more + down
            case "input":
                return timer_name(frame.choice.detail) if frame.is_timer else frame.received.partition("(")[0]
            case "drop":
                return f"{short} lost"
            case "duplicate":
                return f"{short} doubled"
            case "cut" | "settle" | "heal":
                return frame.title if verb != "settle" else f"{frame.title} (receipts: {frame.receipts})"
            case "send" | "sync":
                return short
        return verb

    def _draw_stub(self, send: _Send) -> None:
        """A message that no step delivers: its arrow ends in nothing."""
        if send.flight.sender and send.number is not None:
            x, y, to = self._at(send.flight.sender), self._y(send.number), self._at(send.flight.to)
            direction = (to > x) - (to < x)
            tip = f"{send.flight.id}: {send.flight.text}, sent in step {send.number}; no step that is drawn delivers it"
            self._arrow(x, y, x + direction * 26, y + 9, self._color(send.flight.text), "flight stub", tip)

    def _draw_failure(self) -> None:
        last = self.frames[-1]
        if last.error:
            y = self._y(last.number) + 44
            room = self.picture.width - GUTTER - 10
            for line in wrap(f"step {last.number} fails: {last.error}", int(room / CHARACTER)):
                self._label(GUTTER, y, line, 0, RED)
                y += 16
            self.picture.height = y

    # --- Shapes ---

    def _at(self, name: str) -> float:
        return self._x(self._lanes.get(name, 0))

    def _shape(self, text: str) -> None:
        self.picture.shapes.append(text)

    def _label(
        self, x: float, y: float, text: str, rank: int, color: str = "", *, kind: str = "halo", end: bool = False
    ) -> None:
        self.picture.labels.append(Label(x, y, text, rank, color, kind, end))

    def _beside(self, x: float, y: float, text: str, rank: int, color: str, *, left: bool = False) -> None:
        text = fit(text, self.lane - 24)
        self._label(x - 10 if left else x + 10, y + 4, text, rank, color, end=left)

    def _dot(self, x: float, y: float, color: str) -> None:
        self._shape(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>')

    def _ring(self, x: float, y: float) -> None:
        self._shape(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{RED}" stroke-width="2"/>')

    def _cross(self, x: float, y: float, color: str) -> None:
        self._shape(f'<path d="M{x - 5:.1f},{y - 5:.1f} l10,10 m0,-10 l-10,10" stroke="{color}" stroke-width="2.5"/>')

    def _arrow(
        self, x1: float, y1: float, x2: float, y2: float, color: str, kind: str, tip: str, *, has_head: bool = True
    ) -> None:
        if x1 == x2:  # to itself: a bow
            path = f"M{x1:.1f},{y1:.1f} C{x1 - 22:.1f},{y1:.1f} {x1 - 22:.1f},{y2:.1f} {x2 - 4:.1f},{y2:.1f}"
            across, down = 1.0, 0.0
        else:
            path = f"M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}"
            length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
            across, down = (x2 - x1) / length, (y2 - y1) / length
        shape = f'<path class="{kind}" d="{path}" stroke="{color}"/>'
        if has_head:
            tip_x, tip_y = x2 - 3.5 * across, y2 - 3.5 * down
            back_x, back_y = tip_x - 8 * across, tip_y - 8 * down
            points = f"{tip_x:.1f},{tip_y:.1f} {back_x - 3 * down:.1f},{back_y + 3 * across:.1f}"
            shape += f'<polygon points="{points} {back_x + 3 * down:.1f},{back_y - 3 * across:.1f}" fill="{color}"/>'
        self._shape(f"<g><title>{escape(tip)}</title>{shape}</g>")


def tooltip(frame: Frame) -> str:
    """A few lines about a step."""
    lines = [f"step {frame.number}: {frame.title}", frame.received, *(f"> {effect}" for effect in frame.effects[:8])]
    lines += [*frame.changes[:8], frame.error]
    return "\n".join(line for line in lines if line)


def wrap(text: str, width: int) -> Iterator[str]:
    """Lines of at most so many letters; a word that is wider than that is cut."""
    line = ""
    for word in text.split(" "):
        if line and columns(line) + 1 + columns(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
        while columns(line) > width:
            yield line[: width // 2]  # half, as its letters may be twice as wide
            line = line[width // 2 :]
    if line:
        yield line


def thin(labels: Iterable[Label]) -> list[Label]:
    """Those labels that have room: the important ones first, then from top to bottom."""
    kept: list[Label] = []
    by_strip: dict[int, list[Box]] = {}
    for label in sorted(labels, key=lambda label: label.rank):
        if not label.text:
            continue
        box = label.box
        strips = range(int(box[1] // 20), int(box[3] // 20) + 1)
        if not any(overlap(box, other) for strip in strips for other in by_strip.get(strip, ())):
            kept.append(label)
            for strip in strips:
                by_strip.setdefault(strip, []).append(box)
    return kept


def overlap(first: Box, second: Box) -> bool:
    """Whether two boxes have more than an edge in common."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def to_svg(picture: Picture, *, style: bool = True) -> str:
    """The picture as SVG."""
    size = f'width="{picture.width:.0f}" height="{picture.height:.0f}" viewBox="0 0 {picture.width:.0f} {picture.height:.0f}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>']
    if style:
        parts.append(f"<style>\n{STYLE}\n</style>")
    parts.append('<rect width="100%" height="100%" fill="#fff"/>')
    parts += picture.shapes
    for label in picture.labels:
        anchor = ' text-anchor="end"' if label.end else ""
        color = f' style="fill:{label.color}"' if label.color else ""
        parts.append(
            f'<text class="{label.kind}" x="{label.x:.1f}" y="{label.y:.1f}"{anchor}{color}>{escape(label.text)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def draw_svg(recording: Recording, steps: range | None = None) -> str:
    """The space-time diagram of all steps, or of these, as an SVG file. Raises `ScheduleError` if there are too many."""
    return to_svg(Diagram(recording, steps).picture)
