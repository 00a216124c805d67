"""Requests that wait in the mailbox together enter the log together, and so do those that are likely to come together; they
are answered in portions."""

from __future__ import annotations

from typing import Any

import pytest

from haret.vr.messages import ConfirmView, OpenSession, Prepare, PrepareOK, Read, ReadReply, SessionOpened
from rabble_trio import CorrelationId, StartTimer, Timeout


@pytest.fixture
def network(make_network: Any) -> Any:
    """Three replicas that gather; the timer fires when the test says so."""
    return make_network(gather=True)


def fire(network: Any, i: int = 0, timer: int = 2) -> None:
    network.give(i, Timeout(), network.pids[i], CorrelationId(network.pids[i], timer))


def ask(network: Any, session: int, *numbers: int) -> None:
    """Requests, and which timers they start."""
    network.timers.clear()
    for number in numbers:
        network.request(0, session, number)


def started(network: Any) -> list[float]:
    """The seconds of the timers that were started since."""
    return [timer.seconds for _, timer, cid in network.timers if cid == CorrelationId(network.pids[0], 2)]


def opened(network: Any) -> int:
    """A session."""
    network.give(0, OpenSession(b"c" * 16))
    fire(network)
    network.settle()
    return int(network.received(SessionOpened)[-1].session)


def test_requests_behind_the_first_are_in_its_batch(network: Any) -> None:
    session = opened(network)
    for number in (1, 2, 3):
        network.request(0, session, number)
    assert not network.flying
    fire(network)
    assert {len(each.message.entries) for each in network.find(Prepare)} == {3}
    network.settle()
    assert [len(network.replies(number)) for number in (1, 2, 3)] == [1, 1, 1]


def test_one_timer_is_started_for_all(network: Any) -> None:
    session = opened(network)
    network.timers.clear()
    for number in (1, 2, 3):
        network.request(0, session, number)
    assert network.timers == [(network.pids[0], StartTimer(0), CorrelationId(network.pids[0], 2))]
    fire(network)
    network.request(0, session, 4)
    assert len(network.timers) == 2


def test_what_comes_beyond_the_pipeline_goes_when_a_batch_is_committed(make_network: Any) -> None:
    network = make_network(gather=True, pipeline=1)
    session = opened(network)
    network.request(0, session, 1)
    fire(network)
    network.request(0, session, 2)
    network.request(0, session, 3)
    fire(network)
    assert {len(each.message.entries) for each in network.find(Prepare)} == {1}
    network.deliver(Prepare)
    network.settle()
    assert network.log(1) == [b"x1", b"x2", b"x3"]
    assert network.replies(3)


def test_timer_of_a_primary_that_is_none_any_more_does_nothing(network: Any) -> None:
    session = opened(network)
    network.isolate(0)
    network.request(0, session, 1)
    network.change_view(1, 2)
    network.isolate(0, heal=True)
    network.tick(1)
    network.settle()
    assert network.state(0).primary != network.pids[0]
    fire(network)
    network.settle()
    assert network.log(0) == network.log(1) == []


def test_reads_behind_the_first_are_in_its_round(network: Any) -> None:
    network.settle()
    for _ in range(3):
        network.give(0, Read(b""))
    assert not network.flying
    fire(network)
    assert {each.message.round for each in network.find(ConfirmView)} == {1}
    network.settle()
    assert len(network.received(ReadReply)) == 3


def test_without_it_a_request_leaves_at_once(make_network: Any) -> None:
    network = make_network()
    network.request(0, network.open(), 1)
    assert network.find(Prepare)


# --- What is likely to come ---


@pytest.fixture
def answered(make_network: Any) -> tuple[Any, int]:
    """Five requests were answered together."""
    network = make_network(gather=True, gather_wait=0.5, gather_least=2)
    session = opened(network)
    ask(network, session, 1, 2, 3, 4, 5)
    fire(network)
    network.settle()
    assert network.replies(5)
    return network, session


def test_those_who_were_answered_together_are_waited_for(answered: tuple[Any, int]) -> None:
    network, session = answered
    ask(network, session, 6, 7)
    assert started(network) == [0.5]
    ask(network, session, 8, 9)  # as soon as few are missing, nobody is waited for
    assert started(network) == [0.0]
    fire(network)
    assert {len(each.message.entries) for each in network.find(Prepare)} == {4}


def test_it_waits_as_long_as_enough_come(answered: tuple[Any, int]) -> None:
    network, session = answered
    ask(network, session, 6, 7, 8)
    fire(network)
    assert started(network) == [0.5, 0.5]
    assert not network.find(Prepare)
    fire(network)
    assert {len(each.message.entries) for each in network.find(Prepare)} == {3}


def test_those_who_come_one_by_one_are_not_waited_for(answered: tuple[Any, int]) -> None:
    network, session = answered
    ask(network, session, 6, 7)
    fire(network)
    assert {len(each.message.entries) for each in network.find(Prepare)} == {2}


def test_who_does_not_come_back_is_waited_for_once(answered: tuple[Any, int]) -> None:
    network, session = answered
    ask(network, session, 6)
    fire(network)
    assert network.find(Prepare)
    network.settle()
    ask(network, session, 7)
    assert started(network) == [0.0]


def test_nobody_is_waited_for_after_a_heartbeat(answered: tuple[Any, int]) -> None:
    network, session = answered
    network.tick(0)
    ask(network, session, 6)
    assert started(network) == [0.0]


def test_who_has_read_may_write_and_the_other_way_round(answered: tuple[Any, int]) -> None:
    network, session = answered
    network.timers.clear()
    for _ in range(4):
        network.give(0, Read(b""))
    assert started(network) == [0.5, 0.0]
    fire(network)
    network.settle()
    assert len(network.received(ReadReply)) == 4
    ask(network, session, 6)
    assert started(network) == [0.5]


def test_many_that_wait_are_not_held_up_by_few(make_network: Any) -> None:
    network = make_network(gather=True, gather_wait=0.5, gather_least=2)
    session = opened(network)
    ask(network, session, *range(1, 33))
    fire(network)
    network.settle()
    ask(network, session, *range(33, 62))
    assert started(network) == [0.5, 0.0]


# --- Portions ---


def test_entries_are_answered_in_portions_and_the_next_batch_goes_first(make_network: Any) -> None:
    network = make_network(gather=True, pipeline=1, answer_batch=2)
    session = opened(network)
    ask(network, session, 1, 2, 3, 4, 5)
    fire(network)
    network.request(0, session, 6)
    network.deliver(Prepare)
    network.deliver(PrepareOK, frm=1)
    assert {(each.message.commit, len(each.message.entries)) for each in network.find(Prepare)} == {(session + 5, 1)}
    assert network.applied(0) == [b"x1", b"x2"]
    assert [len(network.replies(number)) for number in range(1, 6)] == [1, 1, 0, 0, 0]
    assert network.timers[-1] == (network.pids[0], StartTimer(0), CorrelationId(network.pids[0], 3))
    fire(network, timer=3)
    assert network.applied(0) == [b"x1", b"x2", b"x3", b"x4"]
    fire(network, timer=3)
    assert network.replies(5)
    network.timers.clear()
    fire(network, timer=3)  # one too many
    assert not network.timers
    network.settle()
    assert network.replies(6)


def test_portions_of_a_primary_that_is_none_any_more_are_answered_by_the_next(make_network: Any) -> None:
    network = make_network(gather=True, answer_batch=1)
    session = opened(network)
    ask(network, session, 1, 2)
    fire(network)
    network.settle()
    assert not network.replies(2)
    network.isolate(0)
    network.change_view(1, 2)
    network.isolate(0, heal=True)
    network.run(2)
    fire(network, timer=3)  # what is left of its time as primary
    fire(network, 1, timer=3)
    network.run(2)
    assert network.applied(1) == network.applied(0) == [b"x1", b"x2"]
    network.request(1, session, 2)
    assert network.replies(2)
