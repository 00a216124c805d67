"""Choices as lines, and messages as JSON that one can read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import CorrelationId, NodeId, Pid, message
from rabble_trio._plain import message_to_json
from rabble_trio.testing import Choice, Crash, ScheduleError
from rabble_trio.testing._choices import VERBS, message_from_json

A = Pid("a", NodeId("n", "127.0.0.1:5000"))


@message(tag="choices.all")
class All:
    number: int
    ratio: float
    text: str
    data: bytes
    table: dict[int, bytes]
    pid: Pid
    cid: CorrelationId | None
    many: tuple[str, ...]


def test_message_is_readable():
    sent = All(1, 0.5, "x", b"plain", {2: b"\x00\xff"}, A, CorrelationId(A, 3), ("p", "q"))
    shown = message_to_json(sent)
    assert shown[:5] == ["choices.all", 1, 0.5, "x", {"bytes": "plain"}]
    assert shown[5] == [2, {"hex": "00ff"}]
    assert message_from_json(json.loads(json.dumps(shown))) == sent


@given(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(), st.binary(),
       st.dictionaries(st.integers(0, 100), st.binary()), st.lists(st.text()))  # fmt: skip
def test_every_message_comes_back(number, ratio, text, data, table, many):
    sent = All(number, ratio, text, data, table, A, None, tuple(many))
    assert message_from_json(json.loads(json.dumps(message_to_json(sent)))) == sent


@pytest.mark.parametrize("wrong", [{"hex": "0"}, {"map": [[1]]}, {"map": 3}, {"bytes": "é"}, {"odd": 1}, {}])
def test_json_that_is_no_value_is_refused(wrong):
    with pytest.raises(ScheduleError):
        message_from_json(["choices.all", wrong])


@given(
    st.builds(
        Crash,
        keep=st.integers(0, 5),
        torn=st.booleans(),
        lose=st.integers(0, 5),
        amnesia=st.booleans(),
        effects=st.none() | st.integers(0, 5),
    )
)
def test_crash_comes_back_from_its_details(crash):
    assert Crash.from_detail(json.loads(json.dumps(crash.to_detail()))) == crash


@pytest.mark.parametrize("detail", [[], {"keep": "1"}, {"keep": -1}, {"other": 1}, {"keep": 1.5}])
def test_details_that_are_no_crash_are_refused(detail):
    with pytest.raises(ScheduleError):
        Crash.from_detail(detail)


@given(st.sampled_from(sorted(VERBS)), st.text(), st.dictionaries(st.text(), st.integers()))
def test_choice_comes_back_from_its_line(verb, what, detail):
    detail = {key: value for key, value in detail.items() if key not in ("do", "what")}
    line = Choice(verb, what, detail).to_line()
    assert "\n" not in line
    assert Choice.from_line(line) == Choice(verb, what, detail)
