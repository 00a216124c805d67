"""An outbox is data: in order, complete, and empty after it was taken."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rabble_trio._codec import message
from rabble_trio._errors import NotAMessage
from rabble_trio._ids import CorrelationId, NodeId, Pid
from rabble_trio._messages import CancelTimer, Demonitor, Monitor, StartTimer, Stop
from rabble_trio._process import Envelope, Outbox, Persist, Process, Send, Snapshot, executor_pid

NODE = NodeId("n1", "127.0.0.1:5000")
ME, YOU = Pid("me", NODE, "g"), Pid("you", NodeId("n2", "127.0.0.1:5001"))
EXECUTOR = Pid.parse("rabble::executor::n1@127.0.0.1:5000")
CID = CorrelationId(ME, request=1)


@message(tag="t.hello")
class Hello:
    text: str


@pytest.fixture
def output() -> Outbox:
    return Outbox(ME)


def test_effects_are_data_in_order(output: Outbox) -> None:
    output.send(YOU, Hello("before"))
    output.persist(b"record")
    output.send(YOU, Hello("after"), CID)
    output.send(YOU, Hello("past"), held=False)
    output.snapshot(bytes)
    assert output.effects == [
        Send(Envelope(YOU, ME, Hello("before"))),
        Persist(b"record"),
        Send(Envelope(YOU, ME, Hello("after"), CID)),
        Send(Envelope(YOU, ME, Hello("past")), held=False),
        Snapshot(bytes),
    ]
    assert output.envelopes == [
        Envelope(YOU, ME, Hello("before")),
        Envelope(YOU, ME, Hello("after"), CID),
        Envelope(YOU, ME, Hello("past")),
    ]
    assert len(output) == 5


def test_what_is_for_the_executor_are_envelopes_to_it(output: Outbox) -> None:
    output.start_timer(1.5, CID)
    output.start_timer(0)
    output.cancel_timer(CID)
    output.monitor(YOU)
    output.demonitor(YOU)
    output.stop()
    assert output.envelopes == [
        Envelope(EXECUTOR, ME, StartTimer(1.5), CID),
        Envelope(EXECUTOR, ME, StartTimer(0.0)),
        Envelope(EXECUTOR, ME, CancelTimer(), CID),
        Envelope(EXECUTOR, ME, Monitor(YOU)),
        Envelope(EXECUTOR, ME, Demonitor(YOU)),
        Envelope(EXECUTOR, ME, Stop()),
    ]
    # Timers and monitors promise nothing to anybody, so they don't wait for records; the end of the process does.
    assert [effect.held for effect in output.effects if isinstance(effect, Send)] == [False] * 5 + [True]
    assert executor_pid(ME) == EXECUTOR


def test_taking_and_clearing_empty_it(output: Outbox) -> None:
    output.send(YOU, Hello("x"))
    assert output.take() == [Send(Envelope(YOU, ME, Hello("x")))]
    assert output.take() == output.effects == output.envelopes == []
    output.send(YOU, Hello("y"))
    output.clear()
    assert len(output) == 0
    output.send(YOU, Hello("z"))
    assert output.envelopes == [Envelope(YOU, ME, Hello("z"))]


def test_looking_changes_nothing(output: Outbox) -> None:
    output.send(YOU, Hello("x"))
    output.effects.clear()
    output.envelopes.clear()
    assert len(output) == len(output.effects) == 1


@pytest.mark.parametrize("thing", [None, "text", Hello, object()])
def test_only_messages_can_be_sent(output: Outbox, thing: Any) -> None:
    with pytest.raises(NotAMessage):
        output.send(YOU, thing)
    assert len(output) == 0


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf])
def test_timers_run_forwards(output: Outbox, seconds: float) -> None:
    with pytest.raises(ValueError, match="a timer runs for 0 seconds or more, not"):
        output.start_timer(seconds)
    assert len(output) == 0


@pytest.mark.parametrize("record", ["text", None, bytearray(b"x"), Hello("x")])
def test_records_are_bytes(output: Outbox, record: Any) -> None:
    with pytest.raises(TypeError, match=r"a record is bytes, not .*: encode"):
        output.persist(record)
    assert len(output) == 0


def test_a_process_must_handle_and_one_that_persists_must_restore(output: Outbox) -> None:
    class Empty(Process):
        pass

    empty = Empty()
    empty.init(ME, output)
    assert len(output) == 0
    with pytest.raises(NotImplementedError, match=r"Empty must define handle\(\)"):
        empty.handle(Hello("x"), YOU, None, output)
    with pytest.raises(NotImplementedError, match=r"Empty has persisted records, but no restore\(\)"):
        empty.restore(None, [b"record"])


def test_an_envelope_is_a_value() -> None:
    envelope = Envelope(YOU, ME, Hello("x"))
    assert envelope == Envelope(YOU, ME, Hello("x"), None)
    with pytest.raises(AttributeError):
        envelope.to = ME  # type: ignore[misc]
    match envelope:
        case Envelope(message=Hello(text)):
            assert text == "x"
