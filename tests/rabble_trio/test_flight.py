"""What a flight keeps, and how it is written."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import CorrelationId, NodeId, Pid
from rabble_trio._flight import FORMAT, OVERHEAD, SEGMENTS, Ended, Flight, Picture, Start, size_of
from rabble_trio._plain import call_to_json, name_of, value_to_json
from rabble_trio.testing import Schedule, _flight, _schedule
from tests.rabble_trio.flights import Loose, Pay, Plain, Till, Total

PID = Pid("till", NodeId("n", "127.0.0.1:5000"))
MAKE = call_to_json(Till)


def start(**restored):
    return Start(MAKE, **restored)


def picture(number=0):
    return Picture("tests.rabble_trio.flights:Stateful", lambda: b"%d" % number, (), 0)


def pay(amount):
    return Pay(amount), PID, None


def lines(flight, why_not=""):
    ended = Ended(PID, flight, why_not, "2026-01-02 03:04:05 UTC", "ValueError: x", lambda: {"total": "5"})
    return [json.loads(line) for line in ended.lines()]


@given(st.integers(1, 40), st.integers(1, 4000), st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=120))
def test_flight_keeps_the_last_inputs_within_its_bounds(inputs, size, script):
    flight = Flight(inputs, size, start())
    added = []
    for number, (cost, has_picture) in enumerate(script):
        if flight.full:
            flight.turn(picture(number) if has_picture else None)
        flight.add(pay(number), cost)
        added.append(cost)
    kept = [item[0].amount for segment in flight.segments for item in segment.inputs]
    assert flight.count == len(script)
    assert kept == list(range(flight.forgotten, len(script)))
    # One segment more than the bound may be begun, and one input may be as large as it likes.
    assert len(kept) <= max(inputs, SEGMENTS)
    assert flight.size <= size + 2 * max(added, default=0) + size // SEGMENTS
    assert flight.size == sum(added[flight.forgotten :])
    if inputs >= SEGMENTS and not any(added):
        assert len(kept) >= min(len(script), inputs - inputs // SEGMENTS - SEGMENTS)
    for segment in flight.segments[flight.forgotten == 0 :]:
        if isinstance(segment.begin, Picture):
            assert segment.begin.encode() == b"%d" % segment.inputs[0][0].amount


def test_flight_from_the_start_is_written_as_a_schedule():
    flight = Flight(100, 10_000, start(snapshot=b"\xff", records=(b"1", b"2")))
    flight.add((Pay(5), Pid("ann", PID.node), CorrelationId(PID, 1)), 10)
    flight.add((Total(1), Pid("executor", PID.node, "rabble"), None), 10)
    head, *choices = lines(flight)
    assert head["schedule"] == FORMAT == _schedule.FORMAT
    assert head["scenario"] == _flight.flight.name
    assert head["parameters"] == {
        "pid": str(PID),
        "make": {"call": "tests.rabble_trio.flights:Till", "arguments": [], "keywords": {}},
        "snapshot": {"hex": "ff"},
        "records": [{"bytes": "1"}, {"bytes": "2"}],
        "modules": ["tests.rabble_trio.flights"],
        "failure": "ValueError: x",
    }
    assert head["note"] == f"{PID} failed on 2026-01-02 03:04:05 UTC after 2 inputs: ValueError: x"
    assert choices[0] == {"do": "restart", "what": "till"}
    assert choices[1]["from"] == "ann::n@127.0.0.1:5000"
    assert choices[1]["cid"] == [str(PID), 1, None]
    assert "from" not in choices[2]  # the executor


def test_oldest_segment_that_knows_its_beginning_begins_the_file():
    flight = Flight(4, 10_000, start())
    for number, begin in enumerate([None, None, picture(3), None, picture(5)]):
        flight.add(pay(number), 1)
        flight.turn(begin)
    flight.add(pay(5), 1)
    head, *choices = lines(flight)  # 2 is kept too, but nobody knows the state before it
    assert flight.forgotten == 2
    assert head["parameters"]["make"]["state"] == {"bytes": "3"}
    assert "after 6 inputs, of which the last 3 are here" in head["note"]
    assert [choice["message"][1] for choice in choices] == [3, 4, 5]


def broken():
    raise OSError("no\nstate")


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (None, "the first 3 inputs are forgotten"),
        (Picture("x:y", broken, (), 0), "OSError: no"),
        (Picture("x:y", lambda: "text", (), 0), "returns bytes, not str"),
    ],
)
def test_flight_without_a_beginning_is_written_for_people(begin, why):
    flight = Flight(4, 10_000, start())
    for number in range(6):
        flight.add(pay(number), 1)
        flight.turn(begin)
    head, *choices = lines(flight)
    unknown = head["parameters"]["unknown"]
    assert why in unknown["why"]
    assert unknown["state"] == {"total": "5"}
    assert [choice["message"][1] for choice in choices] == list(range(3, 6))
    assert "make" not in head["parameters"]


def test_message_that_the_wire_refuses_breaks_the_chain_only_before_it():
    flight = Flight(8, 10_000, start())
    flight.add((Loose(("no number",)), PID, None), 1)
    flight.add(pay(1), 1)
    head, *choices = lines(flight)
    assert "Loose.items[0]" in head["parameters"]["unknown"]["why"]
    assert choices[0] == {"do": "restart", "what": "till"}
    assert "Loose.items[0]" in choices[1]["problem"]
    assert head["parameters"]["unknown"]["inputs"] == 1
    flight.turn(picture(7))
    flight.add(pay(2), 1)
    head, *choices = lines(flight)
    assert head["parameters"]["make"]["state"] == {"bytes": "7"}
    assert len(choices) == 1


def test_sizes_are_about_right():
    assert size_of(Total(5)) == OVERHEAD
    assert size_of(Pay(1, b"x" * 1000)) == OVERHEAD + 1040
    assert size_of(Loose(tuple(range(100)))) == OVERHEAD + 4000
    assert size_of(Loose((b"x" * 1000, 5))) > 1000  # whatever it holds
    assert size_of(Loose((Pay(1, b"x" * 1000), {"key": [b"y" * 1000]}))) > 2000
    assert size_of(Loose(())) < 200
    deep = ()
    for _ in range(1000):
        deep = (deep,)
    assert size_of(Loose(deep)) < 1000


# --- What is plain ---


def test_callables_are_found_by_their_names():
    assert name_of(Till) == "tests.rabble_trio.flights:Till"
    for nameless in (lambda: None, partial(Plain), Plain().handle, 5):
        assert name_of(nameless) is None
    assert name_of(type("Plain", (), {"__module__": "tests.rabble_trio.flights"})) is None  # another one of that name
    assert name_of(type("X", (), {"__module__": "no.such.module"})) is None
    found = call_to_json(partial(Till, tip=3))
    assert found == {"call": "tests.rabble_trio.flights:Till", "arguments": [], "keywords": {"tip": 3}}
    with pytest.raises(TypeError, match="is not found by its name"):
        call_to_json(lambda: None)
    with pytest.raises(TypeError, match="a object is no plain value"):
        call_to_json(partial(Till, object()))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.sampled_from([PID, PID.node, CorrelationId(PID, 1, 2), Pay(3, b"\x00")]),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.integers(), inner),
    max_leaves=10,
)  # fmt: skip


@given(PLAIN)
def test_plain_values_come_back(value):
    found = _flight._value(json.loads(json.dumps(value_to_json(value))))
    assert found == value
    assert type(found) is type(value)


def test_written_flight_is_read_by_the_simulator():
    flight = Flight(100, 10_000, start())
    flight.add(pay(5), 1)
    flight.add(pay(13), 1)
    ended = Ended(PID, flight, "", "now", "ValueError: unlucky at 18, 0 durable", dict)
    failure = Schedule.from_lines(list(ended.lines())).failure()
    assert repr(failure) == "ValueError('unlucky at 18, 0 durable')"
