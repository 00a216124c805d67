"""Schedules that break the protocol as published, or earlier implementations of it.

T1 to T12 are numbered as in the collection of known traps (T2 is in test_restart.py, T10 in test_reads.py, T11 in
test_reconfiguration.py); D numbers are the defects they come from. Primary of view v is
replica v % K. "Held" messages are still in the network. Every step is also checked by conftest.Checker.
"""

import pytest

from haret.vr.messages import (
    Commit,
    DoViewChange,
    GetState,
    ImagePart,
    NewState,
    Prepare,
    PrepareOK,
    StartView,
    StartViewChange,
)


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    return session


def test_t1_a_laggard_keeps_what_it_acknowledged_until_it_has_the_whole_new_log(network, session):
    """Section 5.2 as published loses x1: the laggard cuts its log to its commit number, under the new view's name (D1)."""
    # x1 is acknowledged by R1 and committed at R0; R1 does not know that it is. R2 never hears of it.
    network.request(0, session, 1)
    network.lose(Prepare, to=2)
    network.settle()
    assert network.replies(1)
    assert network.state(1).commit < network.state(1).op
    network.request(0, session, 2)
    network.lose(Prepare)

    # R1 and R2 give up on view 0 and enter view 1, R0 follows; then R0 and R2 give up on view 1 and enter view 2. R0's
    # vote, which has x1 and x2, is held.
    network.tick(1, 9)
    network.tick(2, 9)
    network.deliver(StartViewChange, to=2, frm=1)
    network.lose(DoViewChange)
    network.deliver(StartViewChange, to=0, frm=2)
    network.deliver(StartViewChange, to=1, frm=2)
    assert [network.state(i).view for i in range(3)] == [1, 1, 1]
    network.flying.clear()
    network.tick(0, 9)
    network.tick(2, 9)
    network.deliver(StartViewChange, to=2, frm=0)
    network.deliver(StartViewChange, to=0, frm=2)
    vote = network.hold(DoViewChange, to=2, frm=0)[-1:]
    network.flying.clear()
    assert vote[0].message.view == 2

    # R2 gets the vote, fetches x1 and x2, and is primary of view 2. Its news of view 2 to R0 are lost; R0 gives up on it.
    network.release(vote)
    network.deliver(GetState, to=0)
    network.deliver(NewState, to=2)
    assert network.primaries() == [2]
    assert network.log(2) == [b"x1", b"x2"]
    network.flying.clear()
    network.request(2, session, 3, b"x3")
    network.lose(to=0)

    # R1 hears of view 2 and asks for its log. Before the answer comes, R0 and R1 change to view 3, whose primary is R0.
    network.deliver(Prepare, to=1, frm=2)
    assert network.state(1).status == "state-transfer"
    answer = network.hold(GetState, to=2, frm=1)
    network.isolate(2)
    network.tick(0, 9)
    network.tick(1, 9)
    network.settle()
    assert network.primaries() == [0, 2]
    assert network.state(0).view == 3
    assert network.log(0)[0] == b"x1"

    network.cut.clear()
    network.release(answer)
    network.run(12)
    network.assert_converged(0, 1, 2)
    assert network.applied(2)[0] == b"x1"


def test_t3_a_log_that_came_by_state_transfer_counts_for_its_view(network, session):
    """Section 4.2 picks the log of the newest view: whoever fetched a view's log must say so in its vote (D9)."""
    network.isolate(0)
    for number in (1, 2, 3):
        network.request(0, session, number, b"lost%d" % number)
    network.lose(frm=0)

    network.tick(1, 9)
    network.tick(2, 9)
    while network.find() and 1 not in network.primaries():
        network.release([network.flying.pop(0)])
    network.lose(StartView)
    network.request(1, session, 4, b"y")
    assert network.deliver(Prepare, to=2, frm=1)
    assert network.state(2).status == "state-transfer"
    network.lose(to=0)
    network.settle()
    assert network.replies(4)

    network.crash(1)
    network.isolate(0, heal=True)
    network.run(30)
    network.assert_converged(0, 2)
    assert network.state(0).view >= 2
    assert network.log(0) == network.log(2) == [b"y"]


@pytest.mark.parametrize("disk", ["is lost", "has the log"])
def test_t4_what_was_recovered_is_not_applied_twice(network, session, disk):
    """Section 4.3: the log that a replica recovers is executed from its commit number on, and not once more as primary."""
    network.stop(2)
    for number in range(1, 6):
        network.request(0, session, number, b"push%d" % number)
        network.settle()
    if disk == "is lost":
        network.crash(2)
    else:
        network.restart(2)
    network.run(10)
    network.assert_converged(0, 1, 2)

    for leader in (0, 1):
        network.isolate(leader)
        network.run(20)
        network.isolate(leader, heal=True)
        network.run(10)
    assert network.primaries() == [2]
    assert network.applied(2) == [b"push%d" % number for number in range(1, 6)]
    network.request(2, session, 6, b"push6")
    network.settle()
    assert [reply.result for reply in network.replies(6)] == [b"6. push6"]


def test_t5_a_late_answer_changes_nothing(network, session):
    """Section 5.2: `NewState` counts only as the answer to the question under way (D5, D14)."""
    for number in (1, 2, 3):
        network.request(0, session, number)
        network.lose(Prepare, to=2)
        network.settle()
    network.tick(0, 2)
    network.deliver(Commit, to=2)
    network.tick(2, 2)  # the first question got no answer yet, so another replica is asked too
    network.deliver(GetState, to=0)
    network.deliver(GetState, to=1)
    late = network.hold(NewState, to=2, frm=1)
    assert len(late) == 1
    network.settle()
    assert network.log(2) == [b"x1", b"x2", b"x3"]

    network.change_view(1, 2)
    network.run(3)
    assert network.state(2).view == 1
    for number in (4, 5):
        network.request(1, session, number)
        network.lose(Prepare, to=2)
        network.settle()
    network.tick(1, 2)
    network.deliver(Commit, to=2)
    assert network.find(GetState, frm=2)
    before = network.state(2), network.log(2)
    network.release(late)
    assert (network.state(2), network.log(2)) == before
    network.settle()
    network.run(2)
    network.assert_converged(0, 1, 2)


def test_t6_the_reply_was_lost_and_the_primary_died(network, session):
    """Section 4.1: the new primary answers from the client table, with the same op and result."""
    network.request(0, session, 7, b"pop")
    network.settle()
    first = network.replies(7)[0]
    network.stop(0)
    network.run(20)
    for i in (1, 2):
        network.request(i, session, 7, b"pop")
    network.settle()
    again = network.replies(7)[1]
    assert (again.op, again.result) == (first.op, first.result)
    assert again.view == 1
    assert network.applied(1) == network.applied(2) == [b"pop"]
    assert [refusal.primary for refusal in network.refusals()] == [network.pids[1]]


@pytest.mark.parametrize("witness", [0, 1])
def test_t6a_a_request_that_a_view_change_dropped_is_executed_when_it_comes_again(make_network, witness):
    """Sections 4.1 and 4.2: what is pending dies with its log entry (D8), in whoever had it: old primary or a backup."""
    network = make_network(5)
    network.settle()
    session = network.open()
    network.run(1)
    network.request(0, session, 7, b"pop")
    network.deliver(Prepare, to=1)
    network.flying.clear()
    assert network.log(1) == [b"pop"]
    network.isolate(0)
    network.isolate(1)
    network.run(25)
    assert network.primaries() == [0, 2]
    network.cut.clear()
    network.run(5)
    assert network.log(0) == network.log(1) == []

    # Make the witness the primary: everybody else's patience ends until its turn comes.
    while network.primaries() != [witness]:
        network.isolate(network.primaries()[-1])
        network.run(12)
        network.cut.clear()
        network.run(5)
    network.request(witness, session, 7, b"pop")
    network.settle()
    assert [reply.result for reply in network.replies(7)] == [b"1. pop"]
    network.run(2)
    assert all(network.applied(i) == [b"pop"] for i in range(5))


def test_t6c_two_copies_of_a_request_in_one_batch(make_network):
    """Section 6.2: a batch holds a request once, and whoever asked last gets the reply."""
    network = make_network(pipeline=1)
    network.settle()
    session = network.open()
    network.request(0, session, 6, b"first")
    network.request(0, session, 7, b"pop", tag=1)
    network.request(0, session, 7, b"pop", tag=2)
    network.settle()
    assert network.applied(0) == [b"first", b"pop"]
    answered = [e.correlation_id.request for e in network.inbox if e.correlation_id is not None]
    assert answered == [2]
    assert len(network.replies(7)) == 1


def test_t7_a_laggard_behind_the_image_finishes_it_from_another_replica(make_network, monkeypatch):
    """Sections 5.1 and 5.2: what it lacks was cut off, the view is another one, and who sent it half of the image dies."""
    monkeypatch.setattr("haret.vr.image.ENOUGH", 256)
    network = make_network(checkpoint_ops=100)
    network.settle()
    session = network.open()
    for number in range(1, 10):
        network.request(0, session, number)
        network.settle()
    assert (network.state(2).op, network.state(2).commit) == (10, 9)
    network.isolate(2)
    for number in range(10, 390):
        network.request(0, session, number, lowest=max(1, number - 200))
    network.settle()
    network.restart(0)  # its view is over with it
    network.run(5)
    assert (network.state(0).view, network.state(1).view) == (1, 1)
    assert network.state(0).log_start == network.state(1).log_start == 200

    network.isolate(2, heal=True)
    network.tick(1, 2)
    network.deliver(Commit, to=2)
    network.deliver(StartView, to=2)
    for _ in range(5):
        network.deliver(GetState, to=1)
        network.deliver(ImagePart, to=2)
    assert network.state(2).status == "state-transfer"
    network.deliver(GetState, to=1)
    assert [e.message.part for e in network.lose(ImagePart, to=2)] == [5]
    network.stop(1)
    network.tick(2, 3)
    assert {e.message.part for e in network.find(GetState, to=0)} == {5}, "it goes on, and does not begin again"
    network.run(60)
    network.assert_converged(0, 2)
    assert network.applied(2) == network.applied(0) == [b"x%d" % number for number in range(1, 390)]


def test_t8_a_view_change_does_not_wait_for_a_state_transfer(network, session):
    """Section 5.2: a replica in state transfer votes, with its old log, when nobody is left to answer it (D17)."""
    # View 3 begins with R0 and R2, but R2 misses that, and R1 knows nothing of it.
    network.isolate(1)
    for view in (1, 2, 3):
        network.tick(0, 80)  # longer than there is hope for a new primary that was heard
        network.tick(2, 80)
        if view == 1:
            # A primary does not give itself up. It follows R2, which entered view 1 with R1 before it was cut off.
            wish = StartViewChange(0, 1, 1)
            network.give(0, wish, network.pids[2])
            network.give(2, wish, network.pids[1])
        while network.find() and network.state(0).view < view:
            network.release([network.flying.pop(0)])
    while network.find() and network.state(0).status != "normal":
        network.release([network.flying.pop(0)])
    network.flying.clear()
    assert network.primaries() == [0]
    assert (network.state(2).status, network.state(2).view) == ("view-change", 3)

    network.cut.clear()
    network.tick(0)
    network.lose(to=2)
    network.deliver(to=1)
    assert network.state(1).status == "state-transfer"
    network.stop(0)
    network.flying.clear()
    network.run(25)
    network.assert_converged(1, 2)
    (primary,) = network.primaries()
    network.request(primary, session, 1)
    network.settle()
    assert network.replies(1)


def test_t9_a_replica_that_hears_nobody_disturbs_nobody(network, session):
    """Section 4.2 as published would drag the group to a new view at each of its timeouts (D6)."""
    network.cut = {(0, 2), (1, 2)}
    number = 0
    for tick in range(10_000):
        for i in range(3):
            network.tick(i)
        network.settle()
        if tick % 100 == 0:
            number += 1
            network.request(0, session, number, lowest=number)
            network.settle()
    assert len(network.replies()) == number
    assert [network.state(i).view for i in range(3)] == [0, 0, 0]
    assert network.state(2).op < number

    network.cut.clear()
    network.run(5)
    network.assert_converged(0, 1, 2)
    assert network.state(0).view == 0


def test_t9_one_replica_ahead_does_not_lock_the_clients_out(network, session):
    """A replica that has entered a later view never acknowledges the old one again; the others follow it."""
    network.tick(1, 9)
    network.deliver(StartViewChange, to=2)
    network.tick(2, 9)
    network.flying.clear()
    network.settle()
    assert network.state(2).view == 1
    assert network.primaries() == [0]
    network.stop(1)
    network.run(25)
    network.assert_converged(0, 2)
    (primary,) = network.primaries()
    network.request(primary, session, 1)
    network.settle()
    assert network.replies(1)


def test_d13_an_old_suffix_does_not_survive_in_a_new_view(network, session):
    """Section 5.2: who missed `StartView` and hears a `Prepare` of its view takes the log over, not just its end."""
    network.isolate(0)
    network.request(0, session, 1, b"old")
    network.tick(1, 9)
    network.tick(2, 9)
    network.settle()
    assert network.primaries() == [0, 1]
    network.cut.clear()
    # R0 votes for view 1, too late to matter, and then misses its beginning.
    network.give(0, StartViewChange(0, 1, 1), network.pids[2])
    network.flying.clear()
    assert network.state(0).status == "view-change"
    network.request(1, session, 2, b"new")
    network.deliver(Prepare, to=0)
    network.deliver(Prepare, to=2)
    network.settle()
    network.run(2)
    network.assert_converged(0, 1, 2)
    assert network.log(0) == [b"new"]


def test_d13_a_new_primary_drops_its_own_old_suffix(network, session):
    """Section 4.2, step 3: the best log replaces that of the new primary, which may be longer."""
    network.isolate(0)
    for number in (1, 2, 3):
        network.request(0, session, number, b"old%d" % number)
    network.run(20)
    network.request(1, session, 4, b"new")
    network.settle()
    assert network.replies(4)
    network.stop(1)
    network.cut.clear()
    # R2 was in view 3 with R1 when that stopped; R0, the primary of view 3, follows.
    network.give(2, StartViewChange(0, 3, 3), network.pids[1])
    network.settle()
    assert network.state(0).view == 3
    assert network.primaries() == [0]
    network.run(3)
    network.assert_converged(0, 2)
    assert network.log(0) == [b"new"]


def test_acknowledgements_of_an_old_view_never_count(make_network):
    """Section 4.1: R1 acknowledged op 2 of view 0; the op 2 of view 2 is another one."""
    network = make_network(5)
    network.settle()
    session = network.open()
    network.run(1)
    network.request(0, session, 1, b"old")
    network.deliver(Prepare, to=1)
    (late,) = network.hold(PrepareOK, frm=1)
    network.isolate(0)
    network.isolate(1)
    network.run(25)
    assert network.primaries() == [0, 2]
    network.isolate(4)
    network.request(2, session, 2, b"new")
    assert network.state(2).op == late.message.op == 2
    network.give(2, late.message, network.pids[1])
    network.settle()
    assert network.state(2).commit == 1
    assert network.replies(2) == []


def test_a_primary_that_is_heard_but_hears_nobody_gives_way(network, session):
    """Its heartbeats would keep the others content for ever, and no request would ever be committed."""
    network.cut = {(1, 0), (2, 0)}
    network.request(0, session, 1)
    network.run(25)
    assert 1 in network.primaries()
    network.request(1, session, 1)
    network.settle()
    assert len(network.replies(1)) == 1
    network.cut = set()
    network.run(3)
    network.assert_converged(0, 1, 2)


def test_a_primary_that_was_alone_serves_again_with_one_backup(network, session):
    """It fell silent meanwhile; a third replica is down, so nothing is decided without it."""
    network.crash(2)
    network.isolate(0)
    network.request(0, session, 1)
    network.run(40)
    assert network.replies() == []
    network.cut = set()
    network.run(40)
    network.assert_converged(0, 1)
    network.request(network.primaries()[0], session, 1)
    network.settle()
    assert len(network.replies(1)) == 1


def test_two_primaries_without_a_quorum_find_each_other(network, session):
    """Each has entries that nobody acknowledges; the third replica is down. Neither may just wait to be spoken to."""
    network.isolate(0)
    network.request(0, session, 1, b"old")
    network.run(20)
    assert network.primaries() == [0, 1]
    network.crash(2)
    network.request(1, session, 2, b"new")
    network.run(40)
    network.cut = set()
    network.run(60)
    network.assert_converged(0, 1)
    assert network.log(0) == [b"new"]


def test_slow_acknowledgements_and_a_replica_that_hears_nobody_do_not_add_up(network, session):
    network.request(0, session, 1)
    held = network.hold(Prepare, to=1)
    network.lose(Prepare, to=2)
    network.tick(0, 4)
    network.give(0, StartViewChange(0, 1, 0), network.pids[2])
    assert network.primaries() == [0]
    network.release(held)
    network.settle()
    assert len(network.replies(1)) == 1
    assert network.state(0).view == 0


def test_t12_a_rotten_record_is_no_shorter_log(network, session):
    """Whose journal is damaged may have acknowledged what is not there. It must not decide with one that never had it."""
    network.request(0, session, 1)
    network.lose(Prepare, to=2)
    network.settle()
    assert network.replies(1)
    assert network.log(2) == []
    network.stop_all()
    network.crash(1)  # of a journal whose damage was noticed nothing is left
    network.restart(2)
    network.run(100)
    assert network.primaries() == []
    assert network.state(1).status == "recovering"

    network.restart(0)
    network.run(40)
    network.assert_converged(0, 1, 2)
    assert network.applied(0) == [b"x1"]
