"""Space-time diagrams: what is in them, that labels don't overlap, and that text stays text."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import takewhile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rabble_trio.testing import (
    Choice,
    Faults,
    ScenarioFailed,
    Schedule,
    ScheduleError,
    Simulation,
    flight,
    run_scenario,
)
from rabble_trio.testing._diagram import CHARACTER, LANE_MAX, Diagram, columns, draw_svg, fit, overlap, thin, wrap
from rabble_trio.testing._page import SCRIPT, draw_html
from rabble_trio.testing._recording import Recording
from tests.rabble_trio.testing.stepping import NASTY, everything, failing
from tests.rabble_trio.testing.toys import CLIENT, B, in_order

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial"
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def titles(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def long_run(steps):
    """A schedule of about so many steps."""
    faults = Faults(loss=0.05, duplication=0.05, latency_max=0.5, reordering=True, pause_rate=2.0, crash_rate=0.5)
    world = Simulation(4, faults)
    in_order(world, count=10**6)
    world._checks.clear()  # here it may be wrong: only the picture matters
    world.run(steps)
    return Schedule(in_order, 4, {"count": 10**6}, tuple(world.choices))


def recording_of(schedule, monkeypatch):
    monkeypatch.setattr("tests.rabble_trio.testing.toys.Simulation.check", lambda self, check: None)
    return Recording(schedule)


def test_everything_is_drawn():
    svg = draw_svg(Recording(everything()))
    found = texts(svg)
    assert found.count("a") == found.count("b") == found.count("c") == 1  # the names
    for label in (
        "0", "Add#1", "cut a > c", "cut c > a", "heal", "pause", "resume", "sync", "Add#1 + crash", "Add#2 (down)", "restart",
        "Note#1 doubled", "Note#1.1 lost", "Note#1", "timer 7", "crash",
        "settle a b c: 1.0 s without faults (receipts: 3)",
    ):  # fmt: skip
        assert label in found, label
    kinds = Counter(element.get("class") for element in ElementTree.fromstring(svg).iter())
    assert kinds["cut"] == 1  # from the first cut to the heal
    assert kinds["calm"] == 1
    assert kinds["paused"] == 1
    assert kinds["down"] == 2
    assert kinds["flight copy"] == 1
    assert any("a>b Add#1: Add(number=1), sent in step 2" in title for title in titles(svg))
    assert any(title.startswith("step 2: deliver client>a Add#1\nAdd(number=1)\n> to b: ") for title in titles(svg))


def test_arrow_goes_from_the_senders_step_to_the_receivers():
    recording = Recording(everything())
    diagram = Diagram(recording)
    number = next(n for n in range(recording.end) if recording.frame(n).title == "deliver a>b Add#1")
    path = f"M{diagram._at('a'):.1f},{diagram._y(2):.1f} L{diagram._at('b'):.1f},{diagram._y(number):.1f}"
    assert sum(path in shape for shape in diagram.picture.shapes) == 1


def test_message_that_no_step_delivers_ends_in_nothing():
    world = Simulation(1)
    in_order(world)
    world.run(1)
    svg = draw_svg(Recording(Schedule(in_order, 1, {}, tuple(world.choices))))
    assert 'class="flight stub"' in svg
    assert any("no step that is drawn delivers it" in title for title in titles(svg))


@pytest.mark.parametrize("steps", [0, 30, 400, 1200])
def test_labels_overlap_nothing_and_stay_inside(steps, monkeypatch):
    schedule = long_run(steps)
    assert len(schedule.choices) >= steps
    diagram = Diagram(recording_of(schedule, monkeypatch))
    labels = diagram.picture.labels
    boxes = sorted((label.box for label in labels), key=lambda box: box[1])
    for number, box in enumerate(boxes):
        for other in takewhile(lambda other: other[1] < box[3], boxes[number + 1 :]):  # noqa: B023
            assert not overlap(box, other)
    for label in labels:
        left, top, right, bottom = label.box
        assert left >= 0
        assert top >= 0
        assert right <= diagram.picture.width
        assert bottom <= diagram.picture.height
    numbers = [label for label in labels if label.text.isdigit()]
    assert len(numbers) >= min(steps, 600) / 2
    # What is rare is there, however many steps there are.
    assert len([label for label in labels if label.text == "restart"]) == sum(
        c.do == "restart" for c in schedule.choices
    )


def test_overlap_would_be_seen():
    diagram = Diagram(Recording(everything()))
    first, second = diagram.picture.labels[:2]
    second.x, second.y, second.end = first.x + 1, first.y + 1, first.end
    assert overlap(first.box, second.box)
    assert len(thin([first, second])) == 1


def test_labels_leave_the_arrow_its_side(monkeypatch):
    diagram = Diagram(Recording(everything()))
    left, right = diagram._at("a"), diagram._at("b")
    add = [label for label in diagram.picture.labels if label.text == "Add#1"]
    assert any(label.end and label.x < left for label in add)  # it came from the client, on the right
    assert any(not label.end and label.x > right for label in add)  # it came from A, on the left


def test_too_many_steps_are_refused(monkeypatch):
    monkeypatch.setattr("rabble_trio.testing._diagram.MAX_DRAWN", 10)
    with pytest.raises(ScheduleError, match=r"too many for a picture of at most 10: .* minimize"):
        draw_svg(Recording(everything()))


def test_part_is_drawn_as_it_is_in_the_whole():
    recording = Recording(everything())
    resumed = next(n for n in range(recording.end) if recording.frame(n).title == "resume a")
    diagram = Diagram(recording, range(resumed, resumed + 9))
    svg = draw_svg(recording, range(resumed, resumed + 9))
    numbers = [int(text) for text in texts(svg) if text.isdigit()]
    assert numbers == list(range(resumed, resumed + 9))
    kinds = Counter(element.get("class") for element in ElementTree.fromstring(svg).iter())
    assert kinds["cut"] == 1  # which began before
    assert kinds["paused"] == 1  # too
    assert kinds["flight early"] == 1  # a>b Add#1
    assert any(title == "a>b Add#1: Add(number=1), sent earlier" for title in titles(svg))
    assert "cut a > c" not in texts(svg)
    assert diagram._y(resumed) == Diagram(recording)._y(0)
    last = Diagram(recording, range(recording.end, recording.end + 1))
    assert [frame.number for frame in last.frames] == [recording.end]


def test_down_before_the_part_is_down_in_it():
    recording = Recording(everything())
    crashed = next(n for n in range(recording.end) if recording.frame(n).title.endswith(" and crash"))
    shapes = "".join(Diagram(recording, range(crashed + 1, crashed + 2)).picture.shapes)
    assert shapes.count('class="down"') == 1
    assert shapes.count('class="lane"') == 3  # a, c and the client


def test_recorded_input_is_an_arrow_from_its_sender():
    head = {
        "pid": str(B), "make": {"call": "tests.rabble_trio.testing.toys:Adder", "arguments": [], "keywords": {"timer": 1.0}}
    }  # fmt: skip
    cid = [str(B), 1, None]
    choices = (
        Choice("restart", "b"),
        Choice("input", "b", {"from": str(CLIENT), "message": ["toys.add", 3], "cid": cid}),
        Choice("input", "b", {"message": ["rabble.timeout"], "cid": cid}),
        Choice("input", "b", {"message": ["rabble.timeout"]}),  # which does not run
        Choice("input", "b", {"message": ["rabble.shutdown"]}),
    )
    recording = Recording(Schedule(flight, 0, head, choices))
    assert [recording.frame(number).title for number in range(1, 6)] == [
        "restart b", f"input {CLIENT}>b Add", "input b timer 1", "input b timer", "input executor>b Shutdown",
    ]  # fmt: skip
    assert "does not run, so it can't fire" in recording.frame(4).left_out
    assert recording.left_out == 1
    svg = draw_svg(recording)
    assert {"restart", "Add", "timer 1", "Shutdown"} < set(texts(svg))
    diagram = Diagram(recording)
    arrow = f"M{diagram._at(str(CLIENT)):.1f},{diagram._y(2) - 0.6 * diagram._row:.1f} L{diagram._at('b'):.1f}"
    assert any(arrow in shape for shape in diagram.picture.shapes)


def test_failure_is_marked_and_told():
    with pytest.raises(ScenarioFailed) as caught:
        run_scenario(in_order, 11, 500, parameters={"count": 40}, faults=Faults(duplication=0.2))
    svg = draw_svg(Recording(caught.value.schedule))
    assert f"step {len(caught.value.schedule.choices)} fails: AssertionError: out of order: " in " ".join(texts(svg))
    assert re.search(r'<circle[^>]*r="8"[^>]*stroke="#c62828"', svg)


@pytest.mark.parametrize("draw", [draw_svg, draw_html])
def test_text_of_strangers_stays_text(draw):
    page = draw(Recording(failing()))
    assert "alert(1)" in page
    assert page.count("<script") == (draw is draw_html)
    assert "</text></script>" not in page
    assert all(character.isprintable() or character == "\n" for character in page)
    if draw is draw_svg:
        ElementTree.fromstring(page)


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loaded, self.policy, self.open = [], [], [], "", []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.append(found.get("id"))
        if tag == "a":
            self.links.append(found["href"])
        self.loaded += [value for name, value in attrs if name in ("src", "data") or (name == "href" and tag != "a")]
        if found.get("http-equiv"):
            self.policy = found["content"]


@pytest.mark.parametrize("schedule", [everything(), failing()], ids=["everything", "failing"])
def test_page_has_each_step_and_loads_nothing(schedule):
    recording = Recording(schedule)
    text = draw_html(recording)
    page = Page()
    page.feed(text)
    sections = [f"s{number}" for number in range(recording.end + 1)]
    assert [id for id in page.ids if id in sections] == sections
    assert {link.removeprefix("#") for link in page.links} == set(sections)  # each row is a link
    assert page.loaded == []
    assert page.policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"<script>{SCRIPT}</script>" in text
    assert draw_html(Recording(schedule)) == text


def test_pictures_of_the_tutorial_are_what_is_drawn_today(monkeypatch):
    monkeypatch.syspath_prepend(TUTORIAL)
    drawn = draw_svg(Recording(Schedule.load(TUTORIAL / "lock.schedule")))
    assert drawn == (TUTORIAL / "lock.svg").read_text(encoding="utf-8"), (
        "draw it anew: rabble-step lock.schedule --svg lock.svg"
    )


def test_long_text_fits():
    assert fit("Prepare#3", 100) == "Prepare#3"
    assert fit("AVeryLongMessageName#1234", 15.01 * CHARACTER) == "AVeryLong…#1234"
    assert columns("知る") == 4
    for text in ("x" * 99, "知" * 99, "", NASTY):
        for width in (0, 7, 20, 50, LANE_MAX):
            assert columns(fit(text, width)) * CHARACTER <= max(width, 2 * CHARACTER)
            assert all(
                columns(line) <= max(2, int(width / CHARACTER)) for line in wrap(text, max(2, int(width / CHARACTER)))
            )
    assert "".join(wrap("知" * 99, 10)) == "知" * 99
    assert list(wrap("one two three", 8)) == ["one two", "three"]
