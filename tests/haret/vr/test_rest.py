"""Idle groups fall silent, and wake when it matters."""

from __future__ import annotations

from typing import Any

from haret.vr.messages import Commit, GetReplicaState, Read, ReadReply, Rest, StaleRead, StartViewChange, Wake


def resting(make_network: Any, **changes: Any) -> Any:
    """Three replicas in which nothing has happened for long after one request."""
    network = make_network(rest_after=0.5, **changes)
    network.request(0, network.open(), 1, b"x")
    network.run(30)
    network.inbox.clear()
    return network


def silent(network: Any) -> bool:
    """Whether no timer runs and nothing is under way."""
    return not network.flying and all(network[i]._resting for i in range(3))


def test_an_idle_group_rests(make_network: Any) -> None:
    network = resting(make_network)
    assert silent(network)
    assert [network.applied(i) for i in range(3)] == [[b"x"]] * 3


def test_by_default_no_group_rests(make_network: Any) -> None:
    network = make_network()
    network.run(100)
    network.tick(0)
    assert network.find(Commit)
    assert not any(network[i]._resting for i in range(3))


def test_questions_about_a_replica_and_stale_reads_let_it_rest(make_network: Any) -> None:
    network = resting(make_network)
    for i in range(3):
        network.give(i, GetReplicaState())
        network.give(i, StaleRead(b"", 0))
    assert silent(network)
    assert len(network.received(ReadReply)) == 3


def test_a_request_wakes_it_and_it_rests_again(make_network: Any) -> None:
    network = resting(make_network)
    network.give(0, Read(b""))
    network.settle()
    assert not silent(network)
    assert network.received(ReadReply)
    network.run(30)
    assert silent(network)


def test_who_lacks_something_keeps_the_group_awake(make_network: Any) -> None:
    network = make_network(rest_after=0.5)
    network.stop(2)
    network.request(0, network.open(), 1, b"x")
    network.run(60)
    assert not network[0]._resting
    assert not network.received(Rest)


def test_a_backup_that_missed_the_rest_wakes_the_others_and_nothing_changes(make_network: Any) -> None:
    network = resting(make_network)
    network.give(1, Wake())
    network.settle()
    for _ in range(12):  # longer than its patience: it hears nobody, and says so
        network.tick(1)
    assert network.find(StartViewChange)
    network.settle()
    network.run(30)
    assert silent(network)
    assert {network.state(i).view for i in range(3)} == {0}


def test_the_primary_of_a_resting_group_is_replaced_once_somebody_is_told(make_network: Any) -> None:
    network = resting(make_network)
    network.stop(0)
    network.give(1, Wake())
    network.give(2, Wake())
    network.run(30)
    assert network.primaries() == [1]
    assert network.applied(1) == [b"x"]


def test_a_restarted_primary_wakes_the_group(make_network: Any) -> None:
    network = resting(make_network)
    network.restart(0)
    network.run(30)
    assert len(network.primaries()) == 1
    assert {network.state(i).view for i in range(3)} == {1}
