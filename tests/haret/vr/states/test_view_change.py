"""View changes: the pre-vote, voting, choosing a log, beginning the view (section 4.2)."""

import pytest

from haret.vr.messages import (
    Commit,
    DoViewChange,
    GetState,
    NewState,
    NotPrimary,
    Prepare,
    PrepareOK,
    StartView,
    StartViewChange,
)
from haret.vr.states.view_change import HOPE


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    network.inbox.clear()
    return session


def enter(network, i, view):
    """Replica i follows somebody who has entered a view."""
    network.give(i, StartViewChange(0, view, view), network.pids[(i + 1) % len(network.pids)])


# --- The pre-vote ---


def test_a_silent_primary_is_wished_away_and_nothing_is_promised(network, session):
    network.tick(1, 4)
    assert network.find(StartViewChange) == []
    network.tick(1, 5)
    wishes = network.hold(StartViewChange)
    assert {e.message for e in wishes} == {StartViewChange(0, 1, 0)}
    assert {e.to for e in wishes} == {network.pids[0], network.pids[2]}
    assert network.state(1).status == "normal"
    network.give(1, Prepare(0, 0, 2, 0, (network[1].context.log.slice(0, 1)[0],)), network.pids[0])
    assert network.find(PrepareOK, frm=1)


def test_wishes_are_repeated_and_withdrawn(network, session):
    network.tick(1, 9)
    first = len(network.hold(StartViewChange))
    network.tick(1, 2)
    assert len(network.hold(StartViewChange)) == 2
    assert first
    network.give(1, Commit(0, 0, 1, 1), network.pids[0])
    network.give(1, StartViewChange(0, 1, 0), network.pids[2])
    assert network.state(1).status == "normal"
    assert network.find(StartViewChange) == []


def test_a_quorum_of_wishes_enters_the_view(network, session):
    network.tick(1, 9)
    network.give(1, StartViewChange(0, 1, 0), network.pids[2])
    assert (network.state(1).status, network.state(1).view) == ("view-change", 1)


def test_who_has_waited_half_its_patience_joins_a_wish(network, session):
    network.give(1, StartViewChange(0, 1, 0), network.pids[2])
    assert network.state(1).view == 0
    network.tick(1, 4)
    network.give(1, StartViewChange(0, 1, 0), network.pids[2])
    assert network.state(1).view == 1


def test_a_wish_heard_in_good_times_is_forgotten(network, session):
    network.give(1, StartViewChange(0, 1, 0), network.pids[2])
    network.give(1, Commit(0, 0, 1, 1), network.pids[0])
    network.tick(1, 9)
    assert network.state(1).status == "normal"


def test_those_who_wish_agree_on_the_highest(network, session):
    network.tick(1, 9)
    network.hold(StartViewChange)
    network.give(1, StartViewChange(0, 4, 0), network.pids[2])
    assert network.state(1).view == 4


# --- Voting ---


def test_entering_is_told_to_all_and_the_vote_goes_to_the_new_primary(network, session):
    enter(network, 0, 1)
    assert [e.message for e in network.find(StartViewChange)] == [StartViewChange(0, 1, 1)] * 2
    (vote,) = network.find(DoViewChange)
    assert vote.to == network.pids[1]
    assert vote.message == DoViewChange(0, 1, 0, 1, 1, 1, (1, 1, 1))


def test_nothing_of_an_older_view_is_accepted_any_more(network, session):
    """Section 8.1."""
    enter(network, 2, 1)
    network.flying.clear()
    network.request(0, session, 1)
    network.deliver(Prepare, to=2)
    network.tick(0)
    network.deliver(Commit, to=2)
    assert network.find(frm=2) == []
    assert network.state(2).op == 1


def test_lost_votes_are_sent_again(network, session):
    network.stop(0)
    network.tick(1, 9)
    network.tick(2, 9)
    for _ in range(4):
        network.deliver(StartViewChange)
        network.lose(DoViewChange)
        network.lose(StartViewChange)
        network.lose(StartView)
    for _ in range(2):
        network.tick(1)
        network.tick(2)
    network.settle()
    assert (network.primaries(), network.state(1).view) == ([1], 1)


def test_a_view_change_that_takes_too_long_leads_to_the_next_view(network, session):
    """Section 4.2, last paragraph: the primary of view 1 is down as well as... nobody to begin it."""
    network.stop(1)
    enter(network, 0, 1)
    enter(network, 2, 1)
    network.flying.clear()
    network.run(25)
    assert (network.primaries(), network.state(2).view) == ([2], 2)


def test_clients_hear_that_there_is_no_primary(network, session):
    enter(network, 2, 1)
    network.request(2, session, 1)
    assert network.refusals() == [NotPrimary(0, 1, None)]


# --- Choosing a log ---


def vote(network, to, view, frm, **described):
    fields = {"last_normal_view": 0, "op": 1, "commit": 1} | described
    network.give(to, DoViewChange(0, view, **fields), network.pids[frm])


def test_the_view_begins_at_once_if_the_own_log_is_best(network, session):
    enter(network, 1, 1)
    network.flying.clear()
    vote(network, 1, 1, 2, op=0, commit=0)
    assert network.primaries() == [0, 1]
    assert [e.message for e in network.find(StartView)] == [StartView(0, 1, 0, 1, 1)] * 2


def test_votes_of_other_views_do_not_count(network, session):
    enter(network, 1, 4)
    vote(network, 1, 1, 2)
    assert network.state(1).status == "view-change"
    vote(network, 1, 7, 2)
    assert (network.state(1).status, network.state(1).view) == ("normal", 7)


def test_a_repeated_vote_counts_once(make_network):
    network = make_network(5)
    network.settle()
    enter(network, 1, 1)
    for _ in range(3):
        vote(network, 1, 1, 2, op=0, commit=0)
    assert network.state(1).status == "view-change"
    vote(network, 1, 1, 3, op=0, commit=0)
    assert network.state(1).status == "normal"


def test_a_vote_at_a_replica_that_is_not_to_be_primary_is_dropped(network, session):
    enter(network, 2, 1)
    for sender in (0, 1):
        vote(network, 2, 1, sender)
    assert network.state(2).status == "view-change"


def test_of_a_log_of_the_same_view_only_the_rest_is_fetched(network, session):
    for number in (1, 2):
        network.request(0, session, number)
        network.lose(Prepare, to=1)
        network.settle()
    network.stop(0)
    network.change_view(1, 2)
    assert network.primaries() == [1]
    assert network.log(1) == [b"x1", b"x2"]


def test_a_long_log_is_fetched_in_pieces_and_lost_pieces_again(make_network):
    network = make_network(batch_entries=2)
    network.settle()
    session = network.open()
    network.run(1)
    for number in range(1, 8):
        network.request(0, session, number)
        network.lose(Prepare, to=1)
        network.settle()
    network.stop(0)
    enter(network, 2, 1)
    network.deliver(DoViewChange, to=1)
    assert [e.message.after for e in network.hold(GetState, to=2)] == [1]
    network.tick(1, 2)
    for _ in range(4):
        assert network.state(1).status == "view-change"
        network.give(1, NewState(0, 1, 0, 12345, 2, 8, 0, ()), network.pids[2])
        network.deliver(GetState, to=2)
        assert len(network.deliver(NewState, to=1)) == 1
    assert network.primaries() == [1]
    assert network.log(1) == [b"x%d" % number for number in range(1, 8)]


def test_a_log_under_a_vote_is_for_the_new_primary_alone(network, session):
    """It is not the log of the view, which has not begun."""
    enter(network, 2, 1)
    network.flying.clear()
    network.give(2, GetState(0, 1, 0, 0, 5), network.pids[0])
    network.give(2, GetState(0, 1, 1, 0, 5), network.pids[1])
    network.give(2, GetState(0, 0, 0, 0, 5), network.pids[1])
    assert network.find() == []
    network.give(2, GetState(0, 1, 0, 0, 5), network.pids[1])
    (answer,) = network.find(NewState)
    assert (answer.message.view, answer.message.log_view, answer.message.op) == (1, 0, 1)


def test_the_commit_number_is_the_highest_among_the_votes(network, session):
    network.request(0, session, 1)
    network.settle()
    network.request(0, session, 2)
    network.deliver(Prepare, to=2)
    assert (network.state(1).commit, network.state(2).commit) == (1, 2)
    network.stop(0)
    network.flying.clear()
    network.change_view(1, 2)
    assert network.state(1).commit >= 2


# --- Patience ---


def given_up(network, i):
    """Whether replica i has just wished for a later view than view 1."""
    return any(e.message.view > 1 for e in network.hold(StartViewChange) if e.sender == network.pids[i])


def ticks_until_given_up(network, i, message, sender):
    """How long replica i stays with view 1 if it gets a message at each tick."""
    for ticks in range(1, 200):
        network.tick(i)
        if given_up(network, i):
            return ticks
        network.give(i, message, network.pids[sender])
    raise AssertionError("it waits for ever")


def test_a_silent_new_primary_is_given_up(network, session):
    enter(network, 2, 1)
    network.tick(2, 9)
    assert given_up(network, 2)


def test_a_new_primary_that_is_heard_is_given_time_but_not_for_ever(network, session):
    """Hundreds of groups that lost their primary together would else go on from view to view."""
    enter(network, 2, 1)
    patience = range(5, 9)
    assert (
        HOPE * patience[0] <= ticks_until_given_up(network, 2, StartViewChange(0, 1, 1), 1) <= (HOPE + 1) * patience[-1]
    )


@pytest.mark.parametrize(("wish", "sender"), [(StartViewChange(0, 1, 1), 0), (StartViewChange(0, 0, 0), 1)])
def test_nobody_else_gives_hope_nor_one_that_is_not_there_yet(network, session, wish, sender):
    enter(network, 2, 1)
    assert ticks_until_given_up(network, 2, wish, sender) <= 9


def test_a_new_primary_waits_for_new_voters_and_not_for_one_that_repeats_itself(make_network):
    network = make_network(5)
    network.settle()
    vote = DoViewChange(0, 1, 0, 0, 0, 1, (1, 1, 1, 1, 1))
    enter(network, 1, 1)
    assert ticks_until_given_up(network, 1, vote, 2) <= 10
    network.give(1, vote, network.pids[3])
    assert network.primaries() == [0, 1]


# --- Following the outcome ---


def test_start_view_is_followed_without_a_transfer_if_nothing_is_missing(network, session):
    network.request(0, session, 1)
    network.settle()
    network.stop(0)
    network.tick(1, 9)
    network.tick(2, 9)
    asked = 0
    while network.find():
        asked += isinstance(network.flying[0].message, GetState)
        network.release([network.flying.pop(0)])
    assert network.state(2).view == 1
    assert asked == 0
    assert network.state(1).commit == network.state(1).op == 2


def test_an_end_that_the_chosen_log_lacks_is_cut_off(network, session):
    network.isolate(0)
    network.request(0, session, 1, b"old")
    enter(network, 0, 1)
    network.forged = True
    network.give(0, StartView(0, 1, 0, 1, 1), network.pids[1])
    assert network.log(0) == []
    assert (network.state(0).status, network.state(0).view, network.state(0).last_normal_view) == ("normal", 1, 1)


@pytest.mark.parametrize("message", [StartView(0, 1, 0, 1, 1), Commit(0, 1, 1, 1)])
def test_a_view_that_began_long_ago_is_not_followed(network, session, message):
    enter(network, 2, 3)
    network.give(2, message, network.pids[1])
    assert (network.state(2).status, network.state(2).view) == ("view-change", 3)


def test_the_outcome_counts_only_from_the_new_primary(network, session):
    enter(network, 2, 1)
    network.give(2, StartView(0, 1, 0, 1, 1), network.pids[0])
    assert network.state(2).status == "view-change"
