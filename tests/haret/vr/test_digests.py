"""Replicas compare their states; one that differs stops, and stays stopped. All of that over restarts, too."""

from __future__ import annotations

import pytest

from haret.vr.messages import Checkpoint, Commit, GetState, Halted, Prepare, Read, Recovery, StartViewChange
from haret.vr.records import StagedImage, Stopped


@pytest.fixture
def network(make_network):
    """Three replicas that make an image every three ops."""
    return make_network(checkpoint_ops=3, checkpoint_step=3)


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    return session


def requests(network, session, *numbers):
    for number in numbers:
        network.request(0, session, number)
        network.settle()
    network.run(3)


def spoil(network, i):
    """The state of replica i becomes another one, and nobody notices at that moment."""
    network.forged = True  # the checker would
    machine = network[i].context.machine
    machine.applied.insert(0, (0, b"what never was"))
    machine._digest = b"another"


def make_images(network, session):
    """All have op 3, and the primary tells the others that it is committed."""
    for number in (1, 2):
        network.request(0, session, number)
        network.settle()
    network.tick(0, 2)
    network.lose(Checkpoint)
    network.deliver(Commit)


def test_equal_states_are_told_and_nothing_happens(network, session):
    make_images(network, session)
    for i in (1, 2):
        network.tick(i)
        assert {e.message.op for e in network.find(Checkpoint, frm=i)} == {3}
    network.settle()
    network.run(3)
    network.assert_converged(0, 1, 2)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_replica_that_differs_from_a_quorum_stops_and_the_others_go_on(network, session, who):
    spoil(network, who)
    requests(network, session, 1, 2)
    network.run(30)
    assert network.state(who).status == "stopped"
    assert [halted.pid for halted in network.received(Halted)] == [network.pids[who]]
    assert "after op 3 its state differs from that of 2 other replicas" in network.received(Halted)[0].reason
    others = [i for i in range(3) if i != who]
    network.assert_converged(*others)
    (primary,) = network.primaries()
    network.request(primary, session, 3)
    network.settle()
    assert network.replies(3)


def test_without_a_quorum_that_agrees_nobody_stops(network, session):
    """One of two is wrong, and nobody can tell which."""
    network.stop(2)
    spoil(network, 1)
    requests(network, session, 1, 2)
    network.run(10)
    assert [network.state(i).status for i in (0, 1)] == ["normal", "normal"]
    assert network[0].metrics().counters["digests_differ"] >= 1


# --- Over restarts ---


@pytest.mark.parametrize("times", [1, 2])
def test_stopped_is_stopped_after_any_number_of_restarts(network, session, times):
    spoil(network, 2)
    requests(network, session, 1, 2)
    assert network.state(2).status == "stopped"
    network.settle()
    for _ in range(times):
        network.inbox.clear()
        network.restart(2)
        assert network.state(2).status == "stopped"
        assert [type(record) for record in network.records(2)].count(Stopped) == 1
        assert "after op 3" in network.received(Halted)[0].reason
    network.give(2, Prepare(0, 0, network.state(0).op + 1, 3, ()), network.pids[0])
    network.give(2, StartViewChange(0, 1, 1), network.pids[1])
    network.give(2, Recovery(0, 1, 9), network.pids[1])
    network.give(2, GetState(0, -1, -1, 0, 1), network.pids[1])
    network.give(2, Read(b""))
    network.tick(2, 30)
    assert network.find(frm=2) == [], "it says nothing to anybody"


def test_stop_that_was_not_durable_is_found_again(network, session):
    """The record is lost, and so is what was wrong if it was in memory only; what is in an image comes back."""
    spoil(network, 2)
    network.slow.add(2)
    requests(network, session, 1, 2)
    assert network.state(2).status == "stopped"
    assert [type(record) for record in network.unsynced(2)][-1] is Stopped
    network.slow.clear()
    network.restart(2)
    assert network.state(2).status == "normal"
    network.run(5)
    requests(network, session, 3, 4, 5)
    network.assert_converged(0, 1, 2)


def test_image_that_was_made_before_a_crash_is_compared_after_it(network, session):
    make_images(network, session)
    assert network[2].context.undigested is not None
    network.restart(2)
    network.settle()
    network.tick(0, 2)
    network.deliver(Commit, to=2)
    network.tick(2)
    assert {e.message.op for e in network.find(Checkpoint, frm=2)} == {3}


def test_wrong_state_in_a_snapshot_is_found_after_the_restart(network, session, monkeypatch):
    """What the others told before is forgotten, so the next image tells."""
    monkeypatch.setattr("haret.vr.context.MIN_JOURNAL", 0)
    network.stop(1)  # so that nobody can tell who is wrong
    spoil(network, 2)
    requests(network, session, 1, 2, 3, 4)
    assert any(isinstance(record, StagedImage) for record in network.records(2))

    network.restart(2)
    assert network.state(2).status == "normal"
    assert network.applied(2)[0] == b"what never was"
    network.restart(1)
    network.run(5)
    requests(network, session, 5, 6, 7, 8)
    assert network.state(2).status == "stopped"
    network.assert_converged(0, 1)
