"""The client's session: every rule by itself, and all of them against a model of the replicas, in any order of events."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from haret import errors
from haret.client._calls import LONGEST_PAUSE, Backoff, Call
from haret.client._client import GIVE_UP_AFTER
from haret.client._machine import MAX_FRUITLESS, WINDOW, Machine, ProtocolBroken
from haret.client._watch import ANSWERED_WITHIN, MARKS_APART
from haret.protocol import (
    API,
    MAX_IN_FLIGHT,
    MAX_STALE_READS,
    PING_AFTER,
    SILENCE,
    VERSION,
    Enter,
    Entered,
    Expired,
    Hello,
    Leave,
    NamespaceNames,
    Ping,
    Pong,
    Ready,
    Redirect,
    Refused,
    Result,
    Retry,
    StaleRead,
    Submit,
    UnknownNamespace,
    Visit,
    Welcome,
)
from haret.server.config import MAX_REQUEST_TIMEOUT
from rabble_trio import NodeId

NODE = NodeId.parse("n1@127.0.0.1:5000")


def make(endpoints: tuple[str, ...] = ("a:1", "b:2"), patience: float = 10.0) -> Machine:
    return Machine("ns", endpoints, random.Random(1), patience)


def take(machine: Machine) -> list[Any]:
    messages, machine.outgoing = machine.outgoing, []
    return messages


def result(number: int, data: bytes = b"done") -> Result:
    return Result(number, 100 + number, 0, 0, data)


def entered(machine: Machine, session: int = 7) -> Machine:
    """Connected, with a session, and nothing to do."""
    machine.connected("a:1", 0.0)
    call = machine.call(b"first", 0.0)
    machine.receive([Welcome(NODE), Entered(session)], 0.0)
    machine.receive([result(call.number)], 0.0)
    take(machine)
    machine.finished.clear()
    return machine


def submits(machine: Machine) -> list[tuple[int, int]]:
    return [(one.number, one.lowest) for one in take(machine) if type(one) is Submit]


# --------------------------------------------------------------------------------------- an endpoint of no use


def retried(machine: Machine, times: int) -> None:
    machine.call(b"x", 0.0)
    now = 0.0
    for _ in range(times):
        (number, _lowest), *_ = submits(machine)
        machine.receive([Retry(number, "nobody leads")], now)
        if machine.broken is None:
            now += LONGEST_PAUSE
            machine.tick(now)


def test_an_endpoint_that_only_says_to_try_again_is_left_for_the_next() -> None:
    machine = entered(make())
    retried(machine, MAX_FRUITLESS)
    assert machine.broken is None
    machine = entered(make())
    retried(machine, MAX_FRUITLESS + 1)
    assert machine.broken == "nobody leads"
    machine.disconnected("closed")
    assert machine.answers["a:1"] == "nobody leads"


def test_endpoints_are_left_later_and_later_while_none_is_of_use() -> None:
    machine, now = make(patience=1000.0), 0.0
    call = machine.call(b"x", now)

    def pauses_until_it_leaves() -> int:
        nonlocal now
        machine.connected("a:1", now)
        machine.receive([Welcome(NODE), Entered(7)], now)
        count = 0
        while machine.broken is None:
            assert submits(machine) == [(call.number, call.number)]
            machine.receive([Retry(call.number, "nobody leads")], now)
            count += 1
            now += LONGEST_PAUSE
            if machine.broken is None:
                machine.tick(now)
        machine.disconnected("closed")
        return count - 1

    assert [pauses_until_it_leaves() // MAX_FRUITLESS for _ in range(5)] == [1, 2, 4, 8, 8]
    machine.connected("a:1", now)
    machine.receive([Welcome(NODE), Entered(7), result(call.number)], now)
    machine.disconnected("closed")
    call = machine.call(b"y", now)
    assert pauses_until_it_leaves() == MAX_FRUITLESS, "something succeeded"


def test_a_single_endpoint_is_never_left() -> None:
    machine = entered(make(("a:1",), patience=100.0))
    retried(machine, 3 * MAX_FRUITLESS)
    assert machine.broken is None


# ------------------------------------------------------------------------------------------------- entering


def test_a_connection_begins_with_hello_and_enters_when_there_is_something_to_do() -> None:
    machine = make()
    machine.connected("a:1", 0.0)
    assert take(machine) == [Hello(API, VERSION)]
    machine.call(b"x", 0.0)
    (enter,) = take(machine)
    assert (enter.namespace, enter.session, len(enter.client)) == ("ns", 0, 16)
    machine.receive([Welcome(NODE), Entered(7)], 0.1)
    assert take(machine) == [Submit(1, 1, b"x")]


def test_an_opening_that_is_sent_again_carries_the_same_bytes() -> None:
    machine = make()
    machine.call(b"x", 0.0)
    machine.connected("a:1", 0.0)
    _, first = take(machine)
    machine.disconnected("lost")
    machine.connected("b:2", 1.0)
    _, second = take(machine)
    assert first == second


def test_after_a_reconnect_it_enters_with_its_session_and_submits_again_in_order() -> None:
    machine = entered(make())
    for data in (b"a", b"b", b"c"):
        machine.call(data, 0.0)
    take(machine)
    machine.receive([result(3)], 0.0)
    machine.disconnected("lost")
    machine.connected("b:2", 1.0)
    machine.call(b"d", 1.0)
    _, enter = take(machine)
    assert enter.session == 7
    machine.receive([Entered(7)], 1.0)
    assert take(machine) == [Submit(2, 2, b"a"), Submit(4, 2, b"c"), Submit(5, 2, b"d")]


def test_a_session_that_was_not_asked_for_breaks_the_protocol() -> None:
    machine = entered(make())
    machine.disconnected("lost")
    machine.call(b"x", 0.0)
    machine.connected("a:1", 1.0)
    with pytest.raises(ProtocolBroken, match="session 8"):
        machine.receive([Entered(8)], 1.0)
    with pytest.raises(ProtocolBroken, match="NamespaceNames"):
        machine.receive([NamespaceNames(())], 1.0)


def test_an_unknown_namespace_fails_all_calls_and_later_ones_ask_again() -> None:
    machine = make(("a:1",))
    machine.connected("a:1", 0.0)
    calls = [machine.call(b"x", 0.0), machine.call(b"y", 0.0)]
    machine.receive([UnknownNamespace("ns")], 0.0)
    assert [call for call, _ in machine.finished] == calls
    assert all(type(error) is errors.UnknownNamespace for _, error in machine.finished)
    assert not machine.waiting
    take(machine)
    machine.call(b"z", 1.0)
    assert [type(one) for one in take(machine)] == [Enter]


def test_when_a_namespace_is_gone_calls_in_flight_are_in_doubt() -> None:
    machine = entered(make(("a:1",)))
    in_flight = machine.call(b"x", 0.0)
    machine.disconnected("closed")
    queued = machine.call(b"y", 0.0)
    machine.connected("a:1", 0.0)
    machine.receive([UnknownNamespace("ns")], 0.0)
    (one, doubt), (other, unknown) = machine.finished
    assert (one, type(doubt), other, type(unknown)) == (
        in_flight,
        errors.SessionExpired,
        queued,
        errors.UnknownNamespace,
    )
    assert not machine.waiting


def denied(machine: Machine, endpoint: str) -> Call:
    machine.connected(endpoint, 0.0)
    call = machine.call(b"x", 0.0)
    machine.receive([UnknownNamespace("ns")], 0.0)
    return call


def test_a_node_that_does_not_know_the_namespace_yet_is_left_for_the_next() -> None:
    machine = make()
    call = denied(machine, "a:1")
    assert machine.broken == "it knows no namespace 'ns'"
    assert not machine.finished
    machine.disconnected("closed")
    machine.connected("b:2", 0.0)
    assert [type(one) for one in take(machine)] == [Hello, Enter]
    machine.receive([Welcome(NODE), Entered(7)], 0.0)
    machine.receive([result(1)], 0.0)
    assert machine.finished == [(call, result(1))]


def test_a_namespace_that_no_endpoint_knows_is_unknown() -> None:
    machine = make()
    first = denied(machine, "a:1")
    machine.disconnected("closed")
    second = denied(machine, "b:2")
    assert [(one, type(error)) for one, error in machine.finished] == [
        (first, errors.UnknownNamespace),
        (second, errors.UnknownNamespace),
    ]


def test_an_endpoint_that_can_not_be_reached_knows_no_better() -> None:
    machine = make()
    machine.connect_failed("b:2", "refused")
    call = denied(machine, "a:1")
    machine.disconnected("closed")
    assert not machine.finished
    machine.connect_failed("b:2", "refused")
    assert [(one, type(error)) for one, error in machine.finished] == [(call, errors.UnknownNamespace)]


def test_a_refusal_and_a_redirect_end_the_connection() -> None:
    machine = make()
    machine.connected("a:1", 0.0)
    machine.receive([Refused("wrong version")], 0.0)
    assert machine.broken == "refused: wrong version"
    machine.disconnected("closed")
    assert machine.answers == {"a:1": "refused: wrong version"}

    machine.connected("b:2", 0.0)
    machine.receive([Redirect("c:3")], 0.0)
    assert machine.broken is not None
    machine.disconnected("closed")
    assert machine.pause_before_connect() == 0.0
    assert machine.next_endpoints() == ["c:3", "a:1", "b:2"]
    assert machine.pause_before_connect() > 0.0
    assert machine.next_endpoints() == ["a:1", "b:2"]


def test_redirects_in_a_circle_are_slowed_down() -> None:
    machine = make()
    pauses = []
    for number in range(6):
        machine.connected("a:1", 0.0)
        machine.receive([Redirect(f"c:{number}")], 0.0)
        machine.disconnected("closed")
        pauses.append(machine.pause_before_connect())
        machine.next_endpoints()
    assert pauses[:3] == [0.0, 0.0, 0.0]
    assert all(pauses[3:])
    entered(machine)
    machine.receive([Redirect("c:9")], 0.0)
    assert machine.pause_before_connect() == 0.0


def test_endpoints_take_turns() -> None:
    machine = make(("a:1", "b:2", "c:3"))
    machine.connected("b:2", 0.0)
    assert machine.next_endpoints() == ["c:3", "a:1", "b:2"]
    machine.connected("c:3", 0.0)
    assert machine.next_endpoints() == ["a:1", "b:2", "c:3"]
    machine.receive([Redirect("b:2")], 0.0)
    assert machine.next_endpoints() == ["b:2", "a:1", "c:3"]


# ---------------------------------------------------------------------------------------- numbers and limits


def test_lowest_is_the_lowest_number_without_a_result() -> None:
    machine = entered(make())
    for _ in range(3):
        machine.call(b"x", 0.0)
    assert submits(machine) == [(2, 2), (3, 2), (4, 2)]
    machine.receive([result(3)], 0.0)
    machine.call(b"x", 0.0)
    assert submits(machine) == [(5, 2)]
    machine.receive([result(2)], 0.0)
    machine.call(b"x", 0.0)
    assert submits(machine) == [(6, 4)]


def test_no_more_than_the_limit_are_in_flight() -> None:
    machine = entered(make())
    for _ in range(MAX_IN_FLIGHT + 10):
        machine.call(b"x", 0.0)
    assert len(submits(machine)) == MAX_IN_FLIGHT
    machine.receive([result(2), result(3)], 0.0)
    assert len(submits(machine)) == 2


def test_a_number_never_runs_ahead_of_the_lowest_by_more_than_the_window() -> None:
    machine = entered(make())
    stuck = machine.call(b"stuck", 0.0)
    highest = 0
    for _ in range(2 * WINDOW):
        machine.call(b"x", 0.0)
        for number, lowest in submits(machine):
            highest = number
            assert number - lowest < WINDOW
            if number != stuck.number:
                machine.receive([result(number)], 0.0)
    assert highest == stuck.number + WINDOW - 1
    machine.receive([result(stuck.number)], 0.0)
    assert submits(machine)


# ------------------------------------------------------------------------------------------------- retries


def test_after_a_retry_nothing_is_sent_until_the_pause_is_over() -> None:
    machine = entered(make())
    machine.call(b"x", 0.0)
    take(machine)
    machine.receive([Retry(2, "no primary")], 1.0)
    machine.call(b"y", 1.0)
    assert take(machine) == []
    resume = machine.next_time()
    assert 1.0 < resume < 1.1
    machine.tick(resume)
    assert submits(machine) == [(2, 2), (3, 2)]


def test_ready_ends_a_pause_at_once() -> None:
    machine = entered(make())
    machine.call(b"x", 0.0)
    take(machine)
    machine.receive([Ready()], 1.0)
    assert take(machine) == []
    machine.receive([Retry(2, "no primary"), Ready()], 1.0)
    assert submits(machine) == [(2, 2)]


def test_pauses_grow_to_a_limit_and_shrink_after_success() -> None:
    backoff = Backoff(random.Random(3))
    pauses = [backoff.pause() for _ in range(12)]
    assert pauses[0] <= 0.02
    assert LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE
    backoff.reset()
    assert backoff.pause() <= 0.02


def test_entering_is_retried_too() -> None:
    machine = make()
    machine.connected("a:1", 0.0)
    machine.call(b"x", 0.0)
    take(machine)
    machine.receive([Retry(0, "no primary")], 0.0)
    assert take(machine) == []
    machine.receive([Ready()], 0.1)
    assert [type(one) for one in take(machine)] == [Enter]


# ------------------------------------------------------------------------------------- giving up, abandoning


def test_a_call_that_was_never_submitted_is_forgotten_when_abandoned() -> None:
    machine = make()
    call = machine.call(b"x", 0.0)
    machine.abandon(call)
    assert not machine.waiting
    machine.connected("a:1", 0.0)
    assert take(machine) == [Hello(API, VERSION)]


def test_an_abandoned_call_keeps_its_number_until_it_is_answered() -> None:
    machine = entered(make())
    call = machine.call(b"x", 0.0)
    machine.abandon(call)
    machine.call(b"y", 0.0)
    assert submits(machine) == [(2, 2), (3, 2)]
    machine.receive([result(2)], 0.0)
    assert machine.finished == []
    machine.call(b"z", 0.0)
    assert submits(machine) == [(4, 3)]


def test_an_abandoned_call_is_not_sent_again() -> None:
    machine = entered(make())
    gone = machine.call(b"x", 0.0)
    machine.call(b"y", 0.0)
    machine.abandon(gone)
    take(machine)
    machine.disconnected("lost")
    machine.connected("a:1", 1.0)
    machine.receive([Entered(7)], 1.0)
    assert submits(machine) == [(3, 3)]


def test_a_call_fails_when_its_patience_is_over_and_says_what_was_tried() -> None:
    machine = make(patience=5.0)
    machine.connect_failed("a:1", "connection refused")
    machine.connect_failed("b:2", "no connection within 3 s")
    queued = machine.call(b"x", 1.0)
    assert machine.next_time() == 6.0
    machine.tick(5.9)
    assert machine.finished == []
    machine.tick(6.0)
    ((call, error),) = machine.finished
    assert call is queued
    assert isinstance(error, errors.Unavailable)
    assert error.tried == (("a:1", "connection refused"), ("b:2", "no connection within 3 s"))
    assert not error.ambiguous
    assert "refused" in str(error)
    assert machine.next_time() == float("inf")


def test_a_call_that_was_sent_fails_ambiguously() -> None:
    machine = entered(make(patience=5.0))
    machine.call(b"x", 0.0)
    machine.tick(5.0)
    ((_, error),) = machine.finished
    assert isinstance(error, errors.Unavailable)
    assert error.ambiguous


def test_a_silent_server_is_asked_for_a_sign_of_life_and_left_if_it_gives_none() -> None:
    machine = entered(make(patience=100.0))
    machine.tick(SILENCE + 1)
    assert machine.broken is None  # nothing was asked, so silence means nothing
    machine.call(b"x", 50.0)
    take(machine)
    assert machine.next_time() == 50.0 + PING_AFTER
    machine.tick(50.0 + PING_AFTER)
    assert take(machine) == [Ping()]
    assert machine.next_time() == 50.0 + SILENCE
    machine.tick(50.0 + SILENCE - 0.1)
    assert machine.broken is None
    assert take(machine) == []  # once is enough
    machine.tick(50.0 + SILENCE)
    assert machine.broken == "no sign of life for 3 s"


def test_any_sign_of_life_will_do() -> None:
    machine = entered(make(patience=100.0))
    machine.call(b"x", 50.0)
    machine.tick(50.0 + PING_AFTER)
    machine.receive([Pong()], 51.5)
    take(machine)
    machine.tick(51.5 + PING_AFTER)
    assert take(machine) == [Ping()]
    machine.heard(54.0)  # a part of something large
    machine.heard(53.0)  # told late
    machine.tick(51.5 + SILENCE)
    assert machine.broken is None
    machine.tick(54.0 + SILENCE)
    assert machine.broken is not None


def test_an_expired_session_fails_what_was_sent_and_the_rest_goes_on_in_a_new_one() -> None:
    machine = entered(make())
    sent = [machine.call(b"x", 0.0) for _ in range(MAX_IN_FLIGHT)]
    machine.call(b"queued", 0.0)
    take(machine)
    machine.receive([Expired(6)], 0.0)  # of long ago
    assert machine.finished == []
    machine.receive([Expired(7)], 0.0)
    assert [call for call, _ in machine.finished] == sent
    assert all(isinstance(error, errors.SessionExpired) for _, error in machine.finished)
    (enter,) = take(machine)
    assert enter.session == 0
    machine.receive([Entered(9)], 0.0)
    assert take(machine) == [Submit(1, 1, b"queued")]


def test_leaving() -> None:
    machine = entered(make())
    assert machine.leave()
    assert take(machine) == [Leave()]
    machine.disconnected("gone")
    assert not machine.leave()


def test_the_list_of_answers_is_bounded() -> None:
    machine = make()
    for number in range(1000):
        machine.connect_failed(f"elsewhere:{number}", "no")
    assert len(machine.answers) <= 12


# -------------------------------------------------------------------------------------------------------- reads


def test_reads_of_a_session_that_expired_go_on_in_the_next_one() -> None:
    machine = entered(make())
    write = machine.call(b"write", 0.0)
    for data in (b"one", b"two"):
        machine.call(data, 0.0, read=True)
    gone = machine.call(b"gone", 0.0, read=True)
    machine.abandon(gone)
    machine.receive([Expired(7)], 0.0)
    assert [(call, type(error)) for call, error in machine.finished] == [(write, errors.SessionExpired)]
    take(machine)
    machine.receive([Entered(9)], 0.0)
    assert take(machine) == [Submit(1, 1, b"one"), Submit(2, 1, b"two")]


def test_a_read_that_was_sent_fails_without_doubt() -> None:
    machine = entered(make(patience=5.0))
    machine.call(b"x", 0.0, read=True)
    machine.tick(5.0)
    ((_, error),) = machine.finished
    assert isinstance(error, errors.Unavailable)
    assert not error.ambiguous


def visiting(machine: Machine) -> Machine:
    """Connected, with nothing but stale reads so far, and nothing to do."""
    machine.connected("a:1", 0.0)
    machine.call(b"first", 0.0, stale=True)
    assert take(machine) == [Hello(API, VERSION), Visit("ns"), StaleRead(-1, b"first", 0)]
    machine.receive([Welcome(NODE), Result(-1, 40, 0, 0, b"done")], 0.0)
    machine.finished.clear()
    return machine


def test_stale_reads_open_no_session_and_carry_the_newest_number_that_was_seen() -> None:
    machine = visiting(make())
    machine.call(b"x", 0.0, stale=True)
    assert take(machine) == [StaleRead(-2, b"x", 40)]
    machine.call(b"write", 0.0)
    (enter,) = take(machine)
    machine.receive([Entered(7), Result(-2, 41, 0, 0, b"done")], 0.0)
    assert (type(enter), take(machine)) == (Enter, [Submit(1, 1, b"write")])
    machine.receive([result(1)], 0.0)  # op 101
    machine.call(b"y", 0.0, stale=True)
    assert take(machine) == [StaleRead(-3, b"y", 101)]
    machine.receive([Result(-3, 101, 0, 0, b"done"), Result(-3, 101, 0, 0, b"done")], 0.0)
    assert machine.counts["late"] == 1
    assert not machine.waiting


def test_stale_reads_do_not_wait_for_a_primary() -> None:
    machine = make()
    machine.connected("a:1", 0.0)
    machine.call(b"write", 0.0)
    machine.receive([Welcome(NODE), Retry(0, "nobody leads")], 0.0)
    take(machine)
    machine.call(b"x", 0.0, stale=True)
    assert take(machine) == [StaleRead(-1, b"x", 0)]  # the connection has entered, as far as that goes
    machine.receive([Result(-1, 9, 0, 0, b"done")], 0.0)
    assert len(machine.finished) == 1


def test_stale_reads_have_pauses_of_their_own() -> None:
    machine = entered(make())
    machine.call(b"x", 0.0, stale=True)
    machine.call(b"y", 0.0, stale=True)
    take(machine)
    machine.receive([Retry(-1, "behind")], 1.0)
    machine.call(b"z", 1.0, stale=True)
    machine.call(b"write", 1.0)
    assert submits(machine) == [(2, 2)]
    resume = machine.next_time()
    assert 1.0 < resume < 1.1
    machine.tick(resume)
    assert take(machine) == [StaleRead(-1, b"x", 101), StaleRead(-3, b"z", 101)]
    assert (machine.counts["retries"], machine.counts["resent"]) == (1, 1)


def test_stale_reads_are_sent_again_on_the_next_connection() -> None:
    machine = visiting(make())
    for data in (b"x", b"y"):
        machine.call(data, 0.0, stale=True)
    gone = machine.call(b"gone", 0.0, stale=True)
    machine.abandon(gone)
    take(machine)
    machine.disconnected("lost")
    machine.call(b"z", 0.0, stale=True)
    machine.connected("b:2", 1.0)
    assert take(machine)[1:] == [
        Visit("ns"),
        StaleRead(-2, b"x", 40),
        StaleRead(-3, b"y", 40),
        StaleRead(-5, b"z", 40),
    ]


def test_an_endpoint_where_every_replica_is_behind_is_left_for_the_next() -> None:
    machine = visiting(make())
    machine.call(b"x", 0.0, stale=True)
    now = 0.0
    for _ in range(MAX_FRUITLESS + 1):
        assert machine.broken is None
        machine.receive([Retry(-2, "behind")], now)
        now += LONGEST_PAUSE
        machine.tick(now)
    assert machine.broken == "behind"


def test_stale_reads_are_limited_and_given_up_in_the_order_of_their_age() -> None:
    machine = visiting(make(patience=5.0))
    for _ in range(MAX_STALE_READS + 10):
        machine.call(b"x", 1.0, stale=True)
    assert len(take(machine)) == MAX_STALE_READS
    machine.receive([Result(-2, 9, 0, 0, b"done")], 1.0)
    assert len(take(machine)) == 1
    machine.finished.clear()
    machine.call(b"older", 0.5)
    assert machine.next_time() == 1.0 + PING_AFTER
    machine.receive([Pong()], 5.4)
    machine.tick(5.5)
    assert [call.operation for call, _ in machine.finished] == [b"older"]
    machine.tick(6.0)
    assert len(machine.finished) == MAX_STALE_READS + 10
    assert not any(error.ambiguous for _, error in machine.finished)  # type: ignore[union-attr]


def test_an_unknown_namespace_fails_stale_reads_and_later_ones_ask_again() -> None:
    machine = make(("a:1",))
    machine.connected("a:1", 0.0)
    call = machine.call(b"x", 0.0, stale=True)
    machine.receive([UnknownNamespace("ns"), Retry(-1, "no namespace")], 0.0)
    assert [(one, type(error)) for one, error in machine.finished] == [(call, errors.UnknownNamespace)]
    take(machine)
    machine.tick(1.0)
    machine.call(b"y", 1.0, stale=True)
    assert take(machine) == [Visit("ns"), StaleRead(-2, b"y", 0)]


# --------------------------------------------------------------------------------- a request that was forgotten


def pong(machine: Machine, now: float) -> None:
    if pings := take(machine).count(Ping()):
        machine.receive([Pong()] * pings, now)


def left_at(machine: Machine) -> float:
    """When the machine leaves a server that answers pings and nothing else. The owner looks only when it is told to."""
    now = 0.0
    while machine.broken is None:
        now = machine.next_time()
        assert now < 1000.0
        machine.tick(now)
        pong(machine, now)
    return now


def test_a_connection_that_forgot_a_call_is_left_and_the_call_submitted_elsewhere_with_its_number() -> None:
    machine = entered(make(patience=100.0))
    call = machine.call(b"x", 50.0)
    assert submits(machine) == [(2, 2)]
    left = left_at(machine)
    assert left == 50.0 + PING_AFTER + ANSWERED_WITHIN, "the first pong shows that the server has read it"
    machine.disconnected("closed")
    assert machine.answers["a:1"] == "it answers, but not every request within 8 s"
    assert machine.next_endpoints()[0] == "b:2"
    machine.connected("b:2", left)
    machine.receive([Entered(7)], left)
    assert submits(machine) == [(2, 2)]
    machine.receive([result(2)], left)
    assert machine.finished == [(call, result(2))]
    assert machine.next_time() == float("inf")


def test_a_server_that_keeps_its_rules_is_never_late_and_there_is_time_for_another_try() -> None:
    assert 1.25 * MAX_REQUEST_TIMEOUT < ANSWERED_WITHIN
    assert PING_AFTER + ANSWERED_WITHIN < GIVE_UP_AFTER


def test_what_comes_for_others_is_no_excuse() -> None:
    machine = entered(make(patience=100.0))
    forgotten = machine.call(b"x", 50.0)
    now = 50.0
    while machine.broken is None:
        now += 0.01
        other = machine.call(b"y", now)
        machine.receive([result(other.number)], now)
        machine.tick(now)
        pong(machine, now)
        assert now < 50.0 + ANSWERED_WITHIN + 2 * MARKS_APART
    assert now >= 50.0 + ANSWERED_WITHIN
    assert forgotten.number in machine.in_flight


def test_what_the_server_may_not_have_read_yet_is_not_overdue() -> None:
    machine = entered(make(patience=1000.0))
    calls = [machine.call(b"x", 50.0) for _ in range(100)]
    now = 50.0
    take(machine)
    for call in calls:  # over a line on which each takes a second
        now += 1.0
        machine.tick(now)
        assert machine.broken is None
        machine.receive([result(call.number)], now)
    assert not machine.waiting


def test_an_answer_that_is_behind_others_on_a_slow_line_is_not_missing() -> None:
    machine = entered(make(patience=1000.0))
    call = machine.call(b"x", 50.0)
    machine.tick(51.0)
    machine.receive([Pong()], 51.0)
    take(machine)
    now = 51.0
    while now < 90.0:  # what was said before the last ping arrives
        now += 0.5
        machine.receive([Ready()], now)
        machine.tick(now)
        assert machine.broken is None
    assert take(machine) == [Ping()]
    machine.receive([Retry(call.number, "nobody leads"), Pong()], now)
    assert machine.broken is None
    machine.receive([Ready()], now)
    assert submits(machine) == [(2, 2)]
    # From now on it has a new time.
    assert left_at(machine) == now + PING_AFTER + ANSWERED_WITHIN


def test_a_call_that_got_a_retry_is_not_due_until_it_was_submitted_again() -> None:
    machine = entered(make(("a:1",), patience=1000.0))
    call = machine.call(b"x", 50.0)
    take(machine)
    now = 50.0
    for _ in range(30):
        machine.receive([Retry(call.number, "nobody leads")], now)
        now = machine.next_time()
        assert now <= 50.0 + 30 * LONGEST_PAUSE
        machine.tick(now)
        assert take(machine) == [Submit(2, 2, b"x")]
        assert machine.broken is None
    assert now + ANSWERED_WITHIN < left_at(machine) <= now + PING_AFTER + ANSWERED_WITHIN


def test_entering_is_due_too_and_calls_that_wait_for_it_are_not() -> None:
    machine = make(("a:1",), patience=1000.0)
    machine.connected("a:1", 50.0)
    machine.call(b"x", 50.0)
    take(machine)
    now = 50.0
    for _ in range(30):
        machine.receive([Welcome(NODE), Retry(0, "nobody leads")], now)
        now = machine.next_time()
        machine.tick(now)
        assert [type(one) for one in take(machine)] == [Enter]
        assert machine.broken is None
    assert now + ANSWERED_WITHIN < left_at(machine) <= now + PING_AFTER + ANSWERED_WITHIN


def test_calls_of_an_earlier_connection_are_not_due_before_they_are_submitted_again() -> None:
    machine = entered(make(("a:1",), patience=1000.0))
    machine.call(b"x", 50.0)
    machine.tick(51.0)
    assert take(machine)[-1] == Ping(), "its pong does not come any more"
    machine.disconnected("lost")
    machine.connected("a:1", 51.0)
    take(machine)
    now = 51.0
    for _ in range(30):
        machine.receive([Retry(0, "nobody leads")], now)
        now = machine.next_time()
        machine.tick(now)
        take(machine)
        assert machine.broken is None
    machine.receive([Entered(7)], now)
    assert submits(machine) == [(2, 2)]
    assert left_at(machine) == now + PING_AFTER + ANSWERED_WITHIN


def test_a_stale_read_may_be_forgotten_too() -> None:
    machine = visiting(make(patience=100.0))
    machine.call(b"x", 50.0, stale=True)
    take(machine)
    left = left_at(machine)
    assert left == 50.0 + PING_AFTER + ANSWERED_WITHIN
    machine.disconnected("closed")
    machine.connected("b:2", left)
    assert take(machine)[2:] == [StaleRead(-2, b"x", 40)]


def test_a_client_with_less_patience_leaves_the_connection_after_its_calls_have_failed() -> None:
    machine = entered(make(patience=2.0))
    call = machine.call(b"x", 50.0)
    assert left_at(machine) == 50.0 + PING_AFTER + ANSWERED_WITHIN
    assert [(one, type(error)) for one, error in machine.finished] == [(call, errors.Unavailable)]
    machine.disconnected("closed")
    machine.connected("b:2", 60.0)
    machine.call(b"y", 60.0)
    machine.receive([Entered(7)], 60.0)
    assert submits(machine) == [(3, 3)], "the window moves on"


def test_when_nothing_is_missing_nothing_is_looked_for() -> None:
    machine = entered(make(patience=100.0))
    for now in (1.0, 2.0, 3.0):
        machine.receive([result(machine.call(b"x", now).number)], now)
        assert machine.next_time() == float("inf")
    machine.call(b"x", 500.0)
    assert machine.next_time() == 500.0 + PING_AFTER


# --------------------------------------------------------------------------------- against a model of the replicas


FATES = ["answer", "answer", "answer", "retry", "lose reply", "forget request", "forget reply"]


class ExactlyOnce(RuleBasedStateMachine):
    """The machine between tasks that come and go, a network that loses connections, and replicas that keep a table."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.machine = make(patience=1e9)
        self.calls: list[Call] = []
        self.outcomes: dict[int, Any] = {}  # by id of call
        self.executed: list[bytes] = []
        self.sessions: dict[int, dict[int, Result]] = {}
        self.lowest: dict[int, int] = {}
        self.openings: dict[bytes, int] = {}
        self.connection = 0
        self.network: list[tuple[int, Any]] = []  # (connection, message), on the way to the server
        self.entered: dict[int, int] = {}  # the session that a connection entered
        self.replies: list[Any] = []  # on the way to the machine
        self.forgetful: set[int] = set()  # connections over which an answer will never come

    def flush(self) -> None:
        self.network += [(self.connection, message) for message in take(self.machine)]
        for call, outcome in self.machine.finished:
            assert id(call) not in self.outcomes
            assert not call.abandoned
            self.outcomes[id(call)] = outcome
            if isinstance(outcome, Result):
                assert outcome.result == call.operation
        self.machine.finished.clear()

    @rule(count=st.integers(1, 5))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.calls.append(self.machine.call(b"operation %d" % len(self.calls), self.now))
        self.flush()

    @rule(count=st.integers(1, 5))
    def look(self, count: int) -> None:
        for _ in range(count):
            self.calls.append(self.machine.call(b"operation %d" % len(self.calls), self.now, read=True, stale=True))
        self.flush()

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        waiting = [call for call in self.calls if id(call) not in self.outcomes and not call.abandoned]
        if waiting:
            self.machine.abandon(data.draw(st.sampled_from(waiting)))
            self.flush()

    @rule()
    def reconnect(self) -> None:
        self.machine.disconnected("lost")
        self.replies.clear()
        self.connection += 1
        self.machine.connected("a:1", self.now)
        self.flush()

    @precondition(lambda self: self.network)
    @rule(count=st.integers(1, 10), fate=st.sampled_from(FATES))
    def serve(self, count: int, fate: str) -> None:
        """The server handles what arrived, also what an earlier connection left behind. It may forget one request, before
        or after it is executed, and go on."""
        for connection, message in self.network[:count]:
            forget = fate if isinstance(message, Enter | Submit | StaleRead) else ""
            reply = None if forget == "forget request" else self.answer(connection, message, fate)
            if forget.startswith("forget"):
                self.forgetful.add(connection)
                fate = "answer"  # to all others
            elif reply is not None and connection == self.connection and fate != "lose reply":
                self.replies.append(reply)
        del self.network[:count]
        if fate == "lose reply":
            self.reconnect()  # a reply gets lost with its connection, and with everything that was to come after it

    def answer(self, connection: int, message: Any, fate: str) -> Any:
        match message:
            case Hello():
                return Welcome(NODE)
            case Enter(session=0) if fate == "retry":
                return Retry(0, "no primary")
            case Enter(client=client, session=0):
                session = self.openings.setdefault(client, 1000 + len(self.openings))
                if session == 1000 + len(self.openings) - 1 and session not in self.lowest:
                    self.sessions[session] = {}
                    self.lowest[session] = 1
                self.entered[connection] = session
                return Entered(session)
            case Enter(session=session):
                self.entered[connection] = session
                return Entered(session)
            case Visit():
                return None
            case StaleRead(number=number) if fate == "retry":
                return Retry(number, "behind")
            case StaleRead(number=number, operation=operation, least=least):
                # A replica that has come just as far as it must have.
                assert least <= len(self.executed)
                return Result(number, least, 0, 0, operation)
            case Ping():
                return Pong()
            case Submit():
                return self.execute(self.entered[connection], message, fate)

    def execute(self, session: int, submit: Submit, fate: str) -> Any:
        table = self.sessions.get(session)
        if fate == "retry":
            return Retry(submit.number, "no primary")
        if table is None:
            return Expired(session)
        if submit.number < self.lowest[session]:
            return None  # acknowledged: never executed any more
        self.lowest[session] = max(self.lowest[session], submit.lowest)
        for number in [number for number in table if number < self.lowest[session]]:
            del table[number]
        if submit.number not in table:
            self.executed.append(submit.operation)
            table[submit.number] = Result(submit.number, len(self.executed), 0, 0, submit.operation)
        return table[submit.number]

    @precondition(lambda self: self.replies)
    @rule(count=st.integers(1, 10))
    def deliver(self, count: int) -> None:
        messages = self.replies[:count]
        del self.replies[:count]
        self.machine.receive(messages, self.now)
        self.flush()

    @rule(seconds=st.floats(0.0, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.machine.tick(self.now)
        self.flush()

    @rule(seconds=st.floats(0.0, 20.0))
    def wait_for_something_large(self, seconds: float) -> None:
        """What is on its way may take its time, while bytes arrive."""
        self.now += seconds
        self.machine.heard(self.now)
        self.machine.tick(self.now)
        self.flush()

    @rule()
    def ready(self) -> None:
        self.replies.append(Ready())

    @precondition(lambda self: self.sessions)
    @rule()
    def evict(self) -> None:
        self.sessions.clear()

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert len(self.executed) == len(set(self.executed))

    @invariant()
    def it_does_not_miss_what_is_on_its_way(self) -> None:
        """Whatever time that takes: here, time goes by between any two steps."""
        if self.machine.broken is not None:
            assert self.connection in self.forgetful or "sign of life" in self.machine.broken

    def settle(self) -> None:
        while self.network or self.replies:
            if self.network:
                self.serve(len(self.network), "answer")
            if self.replies:
                self.deliver(len(self.replies))

    def teardown(self) -> None:
        """Once all is well for long enough, every call that somebody waits for has its outcome."""
        self.settle()  # or else the server would seem dead, be left for that, and what it forgot be mended by chance
        self.call(1)
        self.serve(len(self.network), "forget reply")
        for _ in range(120):
            if not any(id(call) not in self.outcomes and not call.abandoned for call in self.calls):
                break
            self.now += 1.0
            if self.machine.broken or not self.connection:
                self.reconnect()
            self.machine.tick(self.now)
            self.flush()
            self.settle()
        assert all(id(call) in self.outcomes for call in self.calls if not call.abandoned)
        for call in self.calls:
            if isinstance(self.outcomes.get(id(call)), Result):
                assert call.stale == (call.operation not in self.executed)


TestExactlyOnce = ExactlyOnce.TestCase
TestExactlyOnce.settings = settings(deadline=None, stateful_step_count=60)
