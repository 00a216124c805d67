"""Requests that wait in the mailbox together enter the log together."""

from __future__ import annotations

from typing import Any

import pytest

from haret.vr.messages import ConfirmView, OpenSession, Prepare, Read, ReadReply, SessionOpened
from rabble_trio import CorrelationId, StartTimer, Timeout


@pytest.fixture
def network(make_network: Any) -> Any:
    """Three replicas that gather; the timer fires when the test says so."""
    return make_network(gather=True)


def fire(network: Any, i: int = 0) -> None:
    network.give(i, Timeout(), network.pids[i], CorrelationId(network.pids[i], 2))


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
