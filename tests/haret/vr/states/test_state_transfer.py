"""Catching up with a later view (section 5.2, corrected)."""

import pytest

from haret.vr.messages import (
    Commit,
    DoViewChange,
    GetState,
    NewState,
    NotPrimary,
    PrepareOK,
    StartView,
    StartViewChange,
)


@pytest.fixture
def behind(make_network):
    """R2 was away while R0 went and view 1 began with R1; it has an uncommitted entry of view 0 that the others lack."""
    network = make_network(5, batch_entries=2)
    network.settle()
    network.session = network.open()
    network.run(1)
    network.request(0, network.session, 1, b"old")
    network.deliver(to=2)
    network.isolate(2)
    network.isolate(0)
    network.run(25)
    assert network.primaries() == [0, 1]
    for number in range(2, 9):
        network.request(1, network.session, number)
        network.settle()
    network.run(2)
    network.isolate(2, heal=True)
    network.isolate(0)
    network.flying.clear()
    network.tick(1)
    network.flying = [e for e in network.flying if isinstance(e.message, Commit | StartView)]
    news = network.hold(to=2)
    network.flying.clear()
    network.give(2, Commit(0, 1, network.state(1).commit, network.state(1).op), network.pids[1])
    assert news
    return network


def test_nothing_changes_until_the_log_is_complete(behind):
    """D1: not the log, not the view, not last_normal_view."""
    before = behind.state(2)
    assert (before.status, before.view, before.last_normal_view) == ("state-transfer", 0, 0)
    assert behind.log(2) == [b"old"]
    for _ in range(4):
        assert behind.state(2) == before
        behind.deliver(GetState)
        assert len(behind.deliver(NewState)) == 1
    assert behind.state(2).status == "normal"
    assert behind.log(2) == [b"x%d" % number for number in range(2, 9)]
    assert (behind.state(2).view, behind.state(2).last_normal_view) == (1, 1)
    assert behind.find(PrepareOK, to=1, frm=2)


def test_meanwhile_it_answers_nobody(behind):
    behind.flying.clear()
    behind.give(2, GetState(0, 0, 0, 0, 1), behind.pids[3])
    behind.give(2, GetState(0, 1, 1, 0, 1), behind.pids[3])
    behind.request(2, behind.session, 9)
    assert behind.find() == []
    assert behind.refusals()[-1] == NotPrimary(0, 0, None)


def test_another_replica_may_take_over_in_the_middle(behind):
    behind.deliver(GetState)
    behind.deliver(NewState)
    behind.lose(GetState, to=1)
    behind.tick(2, 4)  # the next one is asked after two, but that is R0, which is away
    (question,) = behind.find(GetState)
    assert question.to != behind.pids[1]
    assert question.message.after == 3
    behind.cut |= {(2, 1), (1, 2)}
    behind.cut -= {(2, 0), (0, 2)}
    behind.settle()
    behind.run(4)
    assert behind.log(2) == [b"x%d" % number for number in range(2, 9)]


def test_an_answer_counts_once(behind):
    behind.deliver(GetState)
    (answer,) = behind.hold(NewState)
    behind.release([answer, answer])
    assert len(behind.find(GetState)) == 1
    behind.settle()
    assert behind.log(2) == [b"x%d" % number for number in range(2, 9)]


def test_a_vote_in_the_middle_describes_the_old_log(behind):
    behind.flying.clear()
    behind.give(2, StartViewChange(0, 3, 3), behind.pids[3])
    (vote,) = behind.find(DoViewChange)
    assert vote.message == DoViewChange(0, 3, 0, 2, 1, 1, (1, 1, 1, 1, 0))  # nothing was heard of R4 yet


def test_views_up_to_the_one_being_fetched_are_no_news(behind):
    before = behind.state(2)
    behind.flying.clear()
    behind.give(2, StartViewChange(0, 1, 1), behind.pids[3])
    behind.give(2, DoViewChange(0, 1, 0, 0, 0), behind.pids[3])
    behind.give(2, Commit(0, 0, 1, 1), behind.pids[0])
    assert behind.state(2) == before
    assert behind.find() == []


def test_a_still_later_view_starts_over(behind):
    behind.deliver(GetState)
    late = behind.hold(NewState)
    behind.give(2, Commit(0, 3, 1, 1), behind.pids[3])
    (question,) = behind.find(GetState)
    assert (question.to, question.message.view, question.message.after) == (behind.pids[3], 3, 1)
    behind.release(late)
    assert behind.state(2).status == "state-transfer"
    assert behind.log(2) == [b"old"]


def test_a_view_between_the_own_one_and_the_one_being_fetched_is_old(behind):
    behind.give(2, Commit(0, 3, 1, 1), behind.pids[3])
    behind.flying.clear()
    behind.give(2, Commit(0, 1, 9, 9), behind.pids[1])
    assert behind.find() == []


def test_the_primary_s_heartbeat_keeps_it_patient_and_silence_does_not(behind):
    for _ in range(30):
        behind.tick(2)
        behind.give(2, Commit(0, 1, 9, 9), behind.pids[1])
    assert behind.find(StartViewChange) == []
    behind.tick(2, 9)
    assert {e.message for e in behind.find(StartViewChange)} == {StartViewChange(0, 2, 0)}


def test_a_vote_for_a_later_view_is_joined(behind):
    behind.give(2, DoViewChange(0, 6, 0, 0, 0), behind.pids[3])
    assert (behind.state(2).status, behind.state(2).view) == ("view-change", 6)
