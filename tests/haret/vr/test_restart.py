"""Replicas that are restarted with their journal, and what must be durable before what is sent (sections 1.7 and 4)."""

import pytest

from haret.vr.messages import (
    Commit,
    ConfirmView,
    DoViewChange,
    Forgotten,
    GetState,
    OpenSession,
    Prepare,
    PrepareOK,
    Recovery,
    RecoveryResponse,
    Reply,
    StartView,
    StartViewChange,
)
from haret.vr.records import Appended, Began, Entered, Lost


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    network.inbox.clear()
    return session


# --- Coming back ---


@pytest.mark.parametrize("who", [1, 2])
def test_backup_goes_on_where_it_was(network, session, who):
    network.request(0, session, 1)
    network.run(2)
    network.restart(who)
    assert network.state(who).status == "normal"
    assert network.log(who) == [b"x1"]
    assert network.find(GetState) == network.find(Recovery) == []
    network.run(2)
    network.assert_converged(0, 1, 2)
    assert network.applied(who) == [b"x1"]


def test_primary_never_prepares_in_its_old_view(network, session):
    """What it prepared last may not be in its journal, and must not get another meaning."""
    network.slow.add(0)
    network.request(0, session, 1, b"lost")
    assert network.find(Prepare)
    network.restart(0)
    assert (network.state(0).status, network.log(0)) == ("view-change", [])
    network.sync(0)
    network.slow.clear()
    network.request(0, session, 2, b"other")
    assert {e.message.first for e in network.find(Prepare)} == {2}
    assert all(e.message.entries[0].operation == b"lost" for e in network.find(Prepare))
    network.settle()
    network.run(20)
    assert network.state(0).view > 0
    network.assert_converged(0, 1, 2)


def test_replica_in_a_view_change_comes_back_to_it(network, session):
    network.stop(1)
    network.give(2, StartViewChange(0, 1, 1), network.pids[0])
    assert (network.state(2).status, network.state(2).view) == ("view-change", 1)
    network.restart(2)
    assert (network.state(2).status, network.state(2).view) == ("view-change", 1)
    network.flying.clear()
    network.request(0, session, 1)
    network.deliver(Prepare, to=2)
    assert network.find(PrepareOK) == []


def test_stop_of_all_loses_nothing(network, session):
    for number in (1, 2, 3):
        network.request(0, session, number)
        network.settle()
    assert len(network.replies()) == 3
    network.stop_all()
    for i in range(3):
        network.restart(i)
    network.run(30)
    network.assert_converged(0, 1, 2)
    assert network.applied(0) == [b"x1", b"x2", b"x3"]
    (primary,) = network.primaries()
    network.inbox.clear()
    network.request(primary, session, 2)
    assert [reply.result for reply in network.replies()] == [b"2. x2"]


def test_stop_of_all_may_lose_what_was_never_acknowledged(network, session):
    network.slow |= {0, 1, 2}
    network.request(0, session, 1)
    network.settle()
    assert network.replies() == []
    network.stop_all()
    network.slow.clear()
    for i in range(3):
        network.restart(i)
    network.run(30)
    network.assert_converged(0, 1, 2)
    assert network.applied(0) == []


def test_restart_makes_a_larger_incarnation_whatever_the_clock_says(network, session):
    before = network[1].context.incarnation
    network._incarnations[network.pids[1]] = 0
    network.restart(1)
    assert network[1].context.incarnation == before + 1


# --- Nothing is said that is not durable ---


def test_acknowledgement_waits_for_the_disk(network, session):
    network.slow.add(1)
    network.request(0, session, 1)
    network.lose(Prepare, to=2)
    network.settle()
    assert network.held(1, PrepareOK) == [PrepareOK(0, 0, 2)]
    assert network.replies() == []
    network.sync(1)
    network.settle()
    assert [reply.number for reply in network.replies()] == [1]


def test_vote_waits_for_the_promise_and_the_wish_need_not(network, session):
    network.slow.add(2)
    network.tick(2, 9)
    assert network.find(StartViewChange, frm=2)
    network.give(2, StartViewChange(0, 1, 1), network.pids[0])
    assert network.held(2, DoViewChange)
    assert network.find(DoViewChange) == []
    network.sync(2)
    assert [e.to for e in network.find(DoViewChange, frm=2)] == [network.pids[1]]


def test_promise_that_nobody_heard_is_forgotten_and_that_harms_nothing(network, session):
    network.slow.add(2)
    network.give(2, StartViewChange(0, 1, 1), network.pids[0])
    network.restart(2)
    assert (network.state(2).status, network.state(2).view) == ("normal", 0)
    assert network.find(DoViewChange) == []


def test_own_vote_for_a_view_counts_when_it_is_durable(network, session):
    network.stop(0)
    network.slow.add(1)
    network.give(1, StartViewChange(0, 1, 1), network.pids[2])
    network.give(2, StartViewChange(0, 1, 1), network.pids[1])
    network.deliver(DoViewChange, to=1)
    assert network.state(1).status == "view-change"
    network.sync(1)
    assert network.state(1).status == "normal"
    assert network.held(1, StartView)
    assert network.find(StartView) == []
    # Nothing of the view is heard before it is durable, not even what is never held otherwise.
    network.request(1, session, 1)
    network.tick(1)
    assert network.find(Prepare, frm=1) == network.find(Commit, frm=1) == []
    network.sync(1)
    assert network.find(StartView, frm=1)
    network.settle()
    assert network.find(Reply) == []


def test_own_copy_of_the_primary_counts_when_it_is_durable(network, session):
    network.stop(2)
    network.slow.add(0)
    network.request(0, session, 1)
    assert network.find(Prepare, to=1), "the disks work at the same time"
    network.settle()
    assert network.replies() == []
    network.sync(0)
    assert [reply.number for reply in network.replies()] == [1]


def test_nothing_waits_for_the_disk_of_a_primary_if_the_others_have_it(network, session):
    network.slow.add(0)
    network.request(0, session, 1)
    network.settle()
    assert [reply.number for reply in network.replies()] == [1]
    network.tick(0, 2)
    assert network.find(Commit, frm=0)
    network.give(1, ConfirmView(0, 0, 1), network.pids[0])
    assert network.find(to=0)


def test_answer_to_one_that_recovers_waits_for_the_disk(network, session):
    network.slow.add(0)
    network.crash(2)
    network.deliver(Recovery, to=0)
    assert network.held(0, RecoveryResponse)
    assert network.find(RecoveryResponse, frm=0) == []
    network.sync(0)
    assert network.find(RecoveryResponse, frm=0)


def test_question_of_one_that_recovers_waits_for_its_incarnation(network, session):
    network.slow.add(2)
    network.crash(2)
    assert network.held(2, Recovery)
    assert network.find(frm=2) == []
    network.sync(2)
    assert len(network.find(Recovery, frm=2)) == 2


def test_nothing_is_heard_of_an_incarnation_that_is_not_durable(network):
    """If it crashes then, it is started as a new one, and prepares something else under the same number."""
    network.slow.add(0)
    network.journals.clear()
    network.restart(0, fresh=True)
    network.give(0, OpenSession(b"a" * 16))
    network.tick(0)
    assert network.find(frm=0) == []
    network.restart(0, fresh=True)
    network.give(0, OpenSession(b"b" * 16))
    network.sync(0)
    assert [e.message.entries for e in network.find(Prepare)] == [(OpenSession(b"b" * 16),)] * 2


# --- Slow disks ---


def test_primary_whose_disk_stalls_gives_up_its_office(network, session):
    network.slow.add(0)
    network.request(0, session, 1)
    network.run(30)
    assert network.primaries()
    assert 0 not in network.primaries()
    network.slow.clear()
    network.sync(0)
    network.run(20)
    network.assert_converged(0, 1, 2)


def test_backup_with_a_slow_disk_takes_no_more_and_catches_up(make_network):
    network = make_network(max_unsynced=3)
    network.settle()
    session = network.open()
    network.run(2)
    network.slow.add(2)
    for number in range(1, 20):
        network.request(0, session, number, lowest=number)
        network.settle()
    assert len(network.replies()) == 19
    assert network[2].metrics().counters["dropped_disk_slow"]
    assert network.state(2).op < 8
    network.slow.clear()
    network.sync(2)
    network.run(10)
    network.assert_converged(0, 1, 2)


# --- Disks that lose ---


def test_backup_that_lost_its_newest_records_without_noticing_is_told(network, session):
    for number in (1, 2):
        network.request(0, session, number)
        network.settle()
    snapshot, records = network.journals[network.pids[1]]
    network.journals[network.pids[1]] = (snapshot, records[:-1])
    network.restart(1)
    assert network.log(1) == [b"x1"]
    network.deliver(PrepareOK, to=0)
    assert [e.message.op for e in network.find(Forgotten, to=1)] == [3]
    network.deliver(Forgotten)
    assert network.state(1).status == "recovering"
    network.run(10)
    network.assert_converged(0, 1, 2)
    assert any(isinstance(record, Lost) for record in network.records(1))


def test_forgotten_of_another_view_or_of_what_is_there_is_dropped(network, session):
    for message in (Forgotten(0, 1, 9), Forgotten(0, 0, 1)):
        network.give(1, message, network.pids[0])
    network.give(1, Forgotten(0, 0, 9), network.pids[2])
    assert network.state(1).status == "normal"
    assert network[1].metrics().counters["dropped_forgotten"] == 3


def test_lost_is_the_first_record_of_one_that_forgot(network, session):
    """A journal that only said who began would be taken for that of a new replica, which promised nothing."""
    network.slow.add(2)
    network.crash(2)
    written = [type(one) for one in network.unsynced(2)]
    assert written[0] is Lost
    assert Began in written


@pytest.mark.parametrize("records", [1, 2, 3])
def test_crash_before_it_recovered_does_not_look_new(network, session, records):
    network.crash(2)
    snapshot, written = network.journals[network.pids[2]]
    network.journals[network.pids[2]] = (snapshot, written[:records])
    network.restart(2)
    assert network.state(2).status == "recovering"


def test_fenced_replica_remembers_views_and_recovers_the_log(make_network):
    network = make_network(durable=False)
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.run(2)
    assert not any(isinstance(record, Appended) for record in network.records(2))
    network.give(2, StartViewChange(0, 1, 1), network.pids[1])
    assert Entered(1) in network.records(2)
    network.restart(2)
    assert (network.state(2).status, network.state(2).view) == ("recovering", 1)
    network.run(30)
    network.assert_converged(0, 1, 2)
    assert network.state(0).view >= 1
    assert network.applied(2) == [b"x1"]


# --- T2: diskless amnesia (DISC 2017) ---


def t2(network):
    """A vote that a replica gave before it lost its memory arrives when it has recovered into an older view."""
    network.settle()
    session = network.open()
    network.run(2)
    network.tick(1, 9)
    network.tick(2, 9)
    network.deliver(StartViewChange, to=2, frm=1)
    old_vote = network.hold(DoViewChange, to=1, frm=2)
    assert len(old_vote) == 1
    network.flying.clear()
    return session, old_vote


def wish_for_view_1(network):
    """R2 wishes for it, too, so R1 enters it; R2 does not hear so."""
    network.tick(1, 9)
    network.tick(2, 9)
    network.deliver(StartViewChange, to=1, frm=2)
    network.flying.clear()
    assert (network.state(1).status, network.state(1).view) == ("view-change", 1)
    assert network.state(2).view == 0


def test_t2_vote_of_a_forgotten_incarnation_counts_no_more(network):
    session, old_vote = t2(network)
    network.crash(2)
    network.settle()
    assert (network.state(2).status, network.state(2).view) == ("normal", 0)
    # R2 and R0 commit what R1 does not have.
    network.request(0, session, 1)
    network.lose(Prepare, to=1)
    network.settle()
    assert network.replies(1)
    network.isolate(0)
    wish_for_view_1(network)
    network.release(old_vote)
    assert network.state(1).status == "view-change", "an empty view 1 would lose what was answered"
    assert network[1].metrics().counters["dropped_other_incarnation"] >= 1
    network.isolate(0, heal=True)
    network.run(40)
    network.assert_converged(0, 1, 2)
    assert network.applied(1) == [b"x1"]


def test_t2_the_fence_on_disk_keeps_the_promise(make_network):
    network = make_network(durable=False)
    session, old_vote = t2(network)
    network.restart(2)
    assert network.state(2).view == 1
    network.request(0, session, 1)
    network.lose(Prepare, to=1)
    network.settle()
    assert not network.find(PrepareOK, frm=2)
    assert network.state(2).view == 1
    network.release(old_vote)
    network.run(40)
    network.assert_converged(0, 1, 2)
    assert network.applied(0) == network.applied(1)


def test_t2_loses_without_incarnations(network, monkeypatch):
    """The same schedule, and the old vote counts: the invariants notice that what was committed is gone."""
    session, old_vote = t2(network)
    network.crash(2)
    network.settle()
    network.request(0, session, 1)
    network.lose(Prepare, to=1)
    network.settle()
    assert network.replies(1)
    network.isolate(0)
    wish_for_view_1(network)
    monkeypatch.setattr("haret.vr.replica.Replica._counts", lambda *_: True)
    monkeypatch.setattr("haret.vr.quorum.Votes.drop_older", lambda *_: None)
    with pytest.raises(AssertionError, match="invariant 7"):
        network.release(old_vote)


# --- Any prefix of a journal is a truthful one ---


def test_any_prefix_of_a_journal_can_be_read(network, session):
    for number in (1, 2, 3):
        network.request(0, session, number)
        network.settle()
    network.change_view(0, 2)
    network.run(10)
    snapshot, records = network.journals[network.pids[2]]
    assert snapshot is None
    for count in range(1, len(records) + 1):
        network.forged = True  # a disk that loses its end breaks promises; what counts here is that it can be read
        network.journals[network.pids[2]] = (None, list(records[:count]))
        network.restart(2)
        assert network.state(2).status in {"normal", "view-change"}
