"""Recordings of schedules: what each step did, in both directions."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

import pytest

from rabble_trio._show import MAX_LINES, MAX_VALUE, Printer, changes, printable
from rabble_trio.testing import ScenarioFailed, Schedule, ScheduleError, run_scenario
from rabble_trio.testing._choices import VERBS
from rabble_trio.testing._recording import Recording
from tests.rabble_trio.testing.stepping import NASTY, Note, everything, failing, mixed
from tests.rabble_trio.testing.toys import A, in_order


def frames(schedule):
    recording = Recording(schedule)
    return [recording.frame(number) for number in range(recording.end + 1)]


def only(found, verb, number=0):
    return [frame for frame in found if frame.choice is not None and frame.choice.do == verb][number]


def test_each_step_tells_what_it_did():
    schedule = everything()
    assert {choice.do for choice in schedule.choices} == VERBS - {"input"}  # which test_flight is about
    found = frames(schedule)
    assert found[0].effects == ("a: start timer 1, 0.5 s",)
    received = only(found, "deliver")
    assert (received.name, received.sender, received.received) == ("a", "client::n9@127.0.0.1:5009", "Add(number=1)")
    assert received.effects == ("to b: Add(number=1)", "to client::n9@127.0.0.1:5009: Sum(total=1)")
    assert received.changes == ("  numbers = [] -> [1]",)
    assert [flight.id for flight in received.flights] == ["a>b Add#1"]
    assert received.outside == (("a", "client::n9@127.0.0.1:5009", "Sum(total=1)"),)
    persisted = only(found, "deliver", 1)
    assert persisted.effects[1] == "persist b'1'"
    assert persisted.effects[2] == "to a: Sum(total=1) (held until the records before it are durable)"
    assert persisted.effects[3] == "to a: Sum(total=-1)"
    assert [flight.text for flight in only(found, "sync").flights] == ["Sum(total=1)", "Persisted(count=1)"]
    crashed = next(frame for frame in found if frame.title.endswith(" and crash"))
    assert (crashed.ended, crashed.changes) == (("b",), ("- all of b's state",))
    assert crashed.effects == ("to client::n9@127.0.0.1:5009: Sum(total=0)", "persist b'5'")
    assert found[crashed.number + 2].is_dead_letter
    assert only(found, "restart").started == ("b",)
    assert "+ numbers = [1, 5]" in only(found, "restart").changes
    assert only(found, "duplicate").flights[0].is_copy
    heard = next(frame for frame in found if frame.name == "c" and frame.choice.do == "deliver")
    assert heard.effects == ("start timer 7, 0.25 s", "monitor a")
    assert heard.changes == (
        "- heard = []",
        "+ heard[0] = Note(text='hello')",
        "  count = {'notes': 0} -> {'notes': 1}",
        "  senders = {} -> {a}",
    )
    assert only(found, "settle").receipts > 0
    assert "+ a: timeouts = 1" in only(found, "settle").changes
    assert not any(frame.error or frame.left_out for frame in found)


def test_going_back_shows_the_same_as_going_forward():
    schedule = everything()
    forward = frames(schedule)
    recording = Recording(schedule)
    backward = [recording.frame(number) for number in range(recording.end, -1, -1)]
    assert backward[::-1] == forward
    for number in (0, 5, 2, recording.end, 1):
        fresh = Recording(schedule)
        fresh.go(number)
        assert recording.state("a", number) == fresh.state("a", number)
        assert recording.pending(number) == fresh.pending(number)


def test_what_was_looked_at_is_forgotten_when_it_is_too_much(monkeypatch):
    monkeypatch.setattr("rabble_trio.testing._recording.MAX_KEPT", 2)
    assert frames(everything())[:6] == [Recording(everything()).frame(number) for number in range(6)]


def test_failure_ends_the_recording_and_says_where_it_was_raised():
    recording = Recording(failing())
    assert recording.end == 5  # of six
    assert recording.left_out == 1
    last = recording.frame(5)
    assert last.error.startswith(f"AssertionError: told to {printable(NASTY[:-2])}")
    assert "(stepping.py, line " in last.error
    assert last.error.endswith(", in handle)")
    assert "nothing is pending under the name" in recording.frame(4).left_out
    assert recording.frame(4).changes == ()


def test_failure_of_a_check_is_the_one_that_the_run_had():
    with pytest.raises(ScenarioFailed) as caught:
        run_scenario(in_order, 11, 500, parameters={"count": 40})
    recording = Recording(caught.value.schedule)
    assert recording.end == len(caught.value.schedule.choices)
    assert type(recording.failure) is type(caught.value.__cause__)
    assert str(recording.failure) == str(caught.value.__cause__)


def test_scenario_that_makes_no_world_is_an_error_of_the_schedule():
    with pytest.raises(ScheduleError, match=r"mixed can't make its world: TypeError: .*do its parameters fit"):
        Recording(Schedule(mixed, parameters={"nothing": 1}))


def test_recording_changes_nothing_in_the_world():
    schedule = everything()
    recording = Recording(schedule)
    recording.frame(recording.end)
    replayed = schedule.replay()
    assert recording.world.choices == replayed.choices
    assert recording.world.counts == replayed.counts


# --- Values as text ---


@dataclass(frozen=True)
class Entry:
    number: int
    payload: bytes = b""


class Holder:
    def __init__(self, **parts):
        self.__dict__.update(parts)


def state(**parts):
    return Printer(lambda pid: pid.name).state(Holder(**parts))


def test_states_are_taken_apart_where_they_may_change():
    assert state(a=1, b=[1, 2], c=(), d={A: 2.5}, e=None) == {
        "a": "1", "b": "[1, 2]", "c": "()", "d": "{a: 2.5}", "e": "None",
    }  # fmt: skip
    assert state(log=[Entry(1), Entry(2, b"x")]) == {
        "log[0]": "Entry(number=1, payload=b'')",
        "log[1]": "Entry(number=2, payload=b'x')",
    }
    assert state(inner=Holder(x=deque([1]), y={"k": Holder(z={3})})) == {"inner.x": "[1]", "inner.y['k'].z": "{3}"}
    long = state(numbers=list(range(60)))
    assert len(long) == 60
    assert long["numbers[59]"] == "59"


def test_states_end_where_a_value_is_the_one_above_or_too_much():
    loop = Holder()
    loop.self = loop
    shared = [Entry(1)]
    found = state(loop=loop, one=shared, two=shared, many=[[number] * 101 for number in range(MAX_LINES)])
    assert found["loop.self"] == "<Holder that was shown above>"
    assert found["two"] == "<list that was shown above>"
    assert len(found) == MAX_LINES + 1
    deep = []
    for _ in range(5000):
        deep = [deep, Entry(1)]
    assert len(state(deep=deep)) < 100


def test_text_depends_on_no_address_and_commands_no_terminal():
    class Broken:
        def __repr__(self):
            raise ValueError

    found = state(a=Holder(), b=printable, c=Broken(), d=Note(NASTY), e="x" * 10**6, f={"b", "a"})
    assert found["a"] == "<Holder>"
    assert found["b"] == "<printable>"
    assert found["c"] == "<Broken, whose repr fails>"
    assert all(text.isprintable() for text in found.values())
    assert len(found["e"]) == MAX_VALUE
    assert found["f"] == "{'a', 'b'}"


def test_random_source_shows_whether_it_was_drawn_from():
    source = Random(1)
    before = state(random=source)
    assert state(random=Random(1)) == before
    source.random()
    assert state(random=source) != before


def test_changes():
    assert changes({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}) == [
        "- a = 1",
        "  c = 3 -> 4",
        "+ d = 5",
    ]
    assert changes({"a": "1"}, {"a": "1"}) == []
