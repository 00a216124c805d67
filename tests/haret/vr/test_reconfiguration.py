"""Members change while the group runs (section 7)."""

import pytest

from haret.vr.messages import (
    ConfirmView,
    EpochStarted,
    InvalidRequest,
    NewEpoch,
    NotReady,
    Overloaded,
    Prepare,
    Reconfigure,
    Reconfigured,
    Retired,
    ViewConfirmed,
)


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.run(2)
    return session


def reconfigure(network, *members, at=None):
    """Ask for these members, and let time pass. Returns the answer."""
    network.inbox.clear()
    (primary,) = network.primaries() if at is None else (at,)
    epoch = network.state(primary).epoch
    network.give(primary, Reconfigure(epoch, tuple(network.pids[i] for i in members)))
    network.run(8)
    (answer,) = network.received((Reconfigured, NotReady, InvalidRequest))
    return answer


def check_served(network, session, number, *members):
    (primary,) = [i for i in network.primaries() if i in members]
    network.request(primary, session, number, lowest=number)
    network.run(4)
    assert network.replies(number)
    network.assert_converged(*members)
    assert {network.state(i).replicas for i in members} == {tuple(sorted(network.pids[i] for i in members))}


def test_replica_is_added(network, session):
    network.add()
    network.run(5)
    assert reconfigure(network, 0, 1, 2, 3) == Reconfigured(1, network.pids)
    check_served(network, session, 2, 0, 1, 2, 3)
    assert network.applied(3) == [b"x1", b"x2"]


def test_replica_is_replaced_and_retires(network, session):
    network.add()
    network.run(5)
    reconfigure(network, 1, 2, 3)
    check_served(network, session, 2, 1, 2, 3)
    assert network.state(0).status == "learning"
    assert Retired(network.pids[0], 1) in network.received(Retired)


def test_replica_is_removed(make_network):
    network = make_network(4)
    network.settle()
    session = network.open()
    network.run(2)
    reconfigure(network, 0, 1, 2)
    check_served(network, session, 1, 0, 1, 2)
    assert network.state(3).status == "learning"
    assert Retired(network.pids[3], 1) in network.received(Retired)


def test_whole_group_is_replaced(network, session):
    for _ in range(3):
        network.add()
    network.run(5)
    reconfigure(network, 3, 4, 5)
    network.run(10)
    check_served(network, session, 2, 3, 4, 5)
    assert [network.state(i).status for i in range(3)] == ["learning"] * 3
    assert {retired.pid for retired in network.received(Retired)} == set(network.pids[:3])


def test_twice_in_a_row_and_a_member_that_slept_through_both(network, session):
    network.add()
    network.run(5)
    network.isolate(2)
    reconfigure(network, 0, 1, 2, 3, at=0)
    network.add()
    network.run(5)
    at = next(i for i in network.primaries() if i != 2)
    assert isinstance(reconfigure(network, 1, 2, 3, 4, at=at), Reconfigured)
    assert network.state(2).epoch == 0
    network.isolate(2, heal=True)
    network.run(20)
    check_served(network, session, 2, 1, 2, 3, 4)
    assert network.state(2).epoch == 2


def test_members_that_have_not_caught_up_are_not_counted(network, session):
    network.add()
    network.add()
    network.isolate(3)
    network.isolate(4)
    answer = reconfigure(network, 0, 3, 4)
    assert isinstance(answer, NotReady)
    assert "r3" in answer.reason
    check_served(network, session, 2, 0, 1, 2)


def test_what_can_not_be_is_refused(network, session):
    for epoch, members in ((1, (0, 1, 2)), (0, (0, 1)), (0, (0, 1, 1)), (0, (2, 1, 0))):
        network.inbox.clear()
        network.give(0, Reconfigure(epoch, tuple(network.pids[i] for i in members)))
        assert network.received(InvalidRequest), (epoch, members)
    assert network.state(0).epoch == 0


def test_t11_no_request_after_the_reconfiguration(network, session):
    """It is the last entry of its epoch: a request that is sent right after it must not run in this one (D18)."""
    network.add()
    network.run(5)
    network.give(0, Reconfigure(0, network.pids[1:]))
    network.deliver(ConfirmView)
    network.deliver(ViewConfirmed)
    assert network.find(Prepare)
    network.inbox.clear()
    network.request(0, session, 2)
    assert network.received(Overloaded)
    # The primary commits it with R1, and is gone before anybody hears so.
    network.deliver(Prepare, to=1)
    network.settle()
    network.stop(0)
    network.run(40)
    check_served(network, session, 3, 1, 2, 3)
    assert network.applied(1) == [b"x1", b"x3"]


def test_who_leaves_tells_the_new_ones_until_a_quorum_has_started(network, session):
    network.add()
    network.run(5)
    network.inbox.clear()
    network.give(0, Reconfigure(0, network.pids[1:]))
    while network.find():
        network.lose(EpochStarted)
        network.deliver()
    assert network.state(0).status == "leaving"
    assert network.received(Retired) == []
    network.flying.clear()
    network.tick(0, 4)
    assert {e.to for e in network.find(NewEpoch, frm=0)} == set(network.pids[1:])
    network.run(20)
    assert network.received(Retired) == [Retired(network.pids[0], 1)]
    network.flying.clear()
    network.tick(0, 4)
    assert network.find(NewEpoch, frm=0) == []


@pytest.mark.parametrize("who", [0, 1, 2, 3])
def test_epoch_survives_restarts(network, session, who):
    network.add()
    network.run(5)
    reconfigure(network, 0, 1, 2, 3)
    network.restart(who)
    assert network.state(who).epoch == 1
    network.run(20)
    check_served(network, session, 2, 0, 1, 2, 3)
