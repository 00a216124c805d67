"""The primary in normal operation (sections 4.1 and 6.2)."""

import pytest

from haret.vr.messages import (
    CloseSession,
    Commit,
    DoViewChange,
    InvalidRequest,
    NotPrimary,
    OpenSession,
    Overloaded,
    Prepare,
    PrepareOK,
    Reply,
    Request,
    SessionClosed,
    SessionExpired,
    SessionOpened,
    StartView,
    StartViewChange,
)
from rabble_trio import CorrelationId


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    network.inbox.clear()
    return session


def batches(network, to=1):
    return [e.message for e in network.find(Prepare, to=to)]


# --- Agreement ---


def test_a_request_is_answered_once_one_backup_of_three_holds_it(network, session):
    network.request(0, session, 1, tag=7)
    assert network.replies() == []
    network.deliver(Prepare, to=1)
    assert network.replies() == []
    network.deliver(PrepareOK, frm=1)
    assert network.replies() == [Reply(session, 1, 2, 0, 0, b"1. x1")]
    assert network.inbox[-1].correlation_id == CorrelationId(network.client, request=7)
    network.settle()
    assert len(network.replies()) == 1


def test_an_idle_group_sends_at_once_and_a_busy_one_gathers(make_network):
    network = make_network(pipeline=2)
    network.settle()
    session = network.open()
    for number in range(1, 8):
        network.request(0, session, number)
    assert [len(batch.entries) for batch in batches(network)] == [1, 1]
    network.deliver(Prepare, to=1)
    (first, second) = network.hold(PrepareOK, frm=1)
    network.release([first])
    assert [(b.first, len(b.entries)) for b in batches(network)] == [(4, 5)]
    network.release([second])
    assert [len(batch.entries) for batch in batches(network)] == [5]
    network.settle()
    assert [reply.number for reply in network.replies()] == list(range(1, 8))


def test_batches_are_bounded(make_network):
    network = make_network(pipeline=1, batch_entries=3)
    network.settle()
    session = network.open()
    for number in range(1, 9):
        network.request(0, session, number)
    sizes = []
    while network.find(Prepare, to=1):
        sizes += [len(batch.entries) for batch in batches(network)]
        network.deliver(Prepare, to=1)
        network.deliver(PrepareOK, frm=1)
    assert sizes == [1, 3, 3, 1]


def test_acks_are_cumulative_and_late_ones_change_nothing(network, session):
    for number in (1, 2):
        network.request(0, session, number)
    network.deliver(Prepare, to=1)
    first, second = network.hold(PrepareOK, frm=1)
    network.release([second])
    assert [reply.number for reply in network.replies()] == [1, 2]
    network.release([first, second])
    assert len(network.replies()) == 2
    assert network.state(0).commit == 3


def test_four_replicas_need_three_copies(make_network):
    """Section 2.2: f is 1 here, but two copies of four are no quorum."""
    network = make_network(4)
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.deliver(Prepare, to=1)
    network.deliver(PrepareOK, frm=1)
    assert network.replies() == []
    network.deliver(Prepare, to=3)
    network.deliver(PrepareOK, frm=3)
    assert len(network.replies()) == 1


@pytest.mark.parametrize("op", [-1, 1000])
def test_an_impossible_ack_is_dropped(network, session, op):
    network.request(0, session, 1)
    network.give(0, PrepareOK(0, 0, op), network.pids[1])
    assert network.replies() == []
    assert network[0].metrics().counters["dropped_prepare_ok"] == 1


# --- What may be lost ---


def test_an_idle_primary_speaks_every_heartbeat_and_a_busy_one_need_not(network, session):
    network.tick(0)
    assert [e.message for e in network.hold(Commit)] == [Commit(0, 0, 1, 1)] * 2
    network.request(0, session, 1)
    network.settle()
    network.tick(0)
    assert network.find(Commit) == []
    network.tick(0)
    assert len(network.find(Commit)) == 2


@pytest.mark.parametrize("lost", [Prepare, PrepareOK])
def test_a_lost_message_is_made_good_by_the_next_heartbeat(network, session, lost):
    network.request(0, session, 1)
    if lost is PrepareOK:
        network.deliver(Prepare)
    assert network.lose(lost)
    network.settle()
    assert network.replies() == []
    network.run(2)
    assert len(network.replies()) == 1


def test_who_is_not_heard_from_is_told_again_that_the_view_began(network):
    assert len(network.lose(PrepareOK)) == 2
    network.tick(0)
    assert [e.message for e in network.find(StartView)] == [StartView(0, 0, 0, 0, 0)] * 2
    network.settle()
    network.tick(0)
    assert network.find(StartView) == []


# --- Sessions ---


def test_a_session_is_an_operation_of_the_group(network, session):
    network.give(0, OpenSession(b"d" * 16))
    assert network.received(SessionOpened) == []
    network.settle()
    assert network.received(SessionOpened) == [SessionOpened(2, 0, 0)]
    network.run(2)
    assert [network.state(i).sessions for i in range(3)] == [2, 2, 2]


def test_opening_again_gives_the_same_session(network, session):
    network.give(0, OpenSession(b"d" * 16))
    network.give(0, OpenSession(b"d" * 16))
    network.settle()
    network.give(0, OpenSession(b"d" * 16))
    assert network.received(SessionOpened) == [SessionOpened(2, 0, 0)] * 2
    assert network.state(0).op == 2


def test_a_session_may_be_used_before_its_opening_is_answered(network, session):
    """The client can't know its number then, but a new primary may have executed less than the client has seen."""
    network.give(0, OpenSession(b"d" * 16))
    network.request(0, 2, 1)
    network.settle()
    assert [reply.op for reply in network.replies()] == [3]


def test_a_closed_session_expires(network, session):
    network.give(0, CloseSession(session))
    network.give(0, CloseSession(session))
    network.request(0, session, 1)
    network.settle()
    network.request(0, session, 2)
    network.give(0, CloseSession(session))
    assert network.received(SessionClosed) == [SessionClosed(session)] * 2
    assert network.received(SessionExpired) == [SessionExpired(session)] * 2
    assert network.applied(0) == []


def test_sessions_make_room_for_newer_ones(make_network):
    network = make_network(max_sessions=2)
    network.settle()
    a, b = network.open(client=b"a" * 16), network.open(client=b"b" * 16)
    network.request(0, a, 1)
    network.settle()
    c = network.open(client=b"c" * 16)
    network.request(0, b, 1, b"b1")
    network.request(0, a, 2)
    network.request(0, c, 1, b"c1")
    network.settle()
    assert network.received(SessionExpired) == [SessionExpired(b)]
    assert [reply.session for reply in network.replies()] == [a, a, c]
    network.run(2)
    network.assert_converged(0, 1, 2)


@pytest.mark.parametrize("session_number", [0, -1])
def test_a_session_that_never_was_has_expired(network, session, session_number):
    network.request(0, session_number, 1)
    assert network.received(SessionExpired) == [SessionExpired(session_number)]


def test_a_session_of_the_future_is_decided_by_the_log(network, session):
    """A deposed primary does not know of sessions opened since; only what is committed can say that there is none."""
    network.request(0, 1000, 1)
    assert network.received(SessionExpired) == []
    network.settle()
    assert network.received(SessionExpired) == [SessionExpired(1000)]
    assert network.applied(0) == []


# --- Exactly once ---


def test_a_pending_request_is_not_logged_again_and_whoever_asked_last_is_answered(network, session):
    network.request(0, session, 1, tag=1)
    network.request(0, session, 1, tag=2)
    assert network.state(0).op == 2
    network.settle()
    assert [e.correlation_id.request for e in network.inbox] == [2]


def test_an_executed_request_is_answered_from_the_table(network, session):
    network.request(0, session, 1)
    network.settle()
    network.request(0, session, 2)
    network.settle()
    network.request(0, session, 1, tag=3)
    assert network.find(Prepare) == []
    assert network.replies(1) == [Reply(session, 1, 2, 0, 0, b"1. x1")] * 2
    assert network.inbox[-1].correlation_id == CorrelationId(network.client, request=3)


def test_a_new_primary_takes_what_is_pending_from_the_log_alone(network, session):
    """Section 4.2, step 4: requests that the log holds are not logged again, those it lost are."""
    network.request(0, session, 1)
    network.settle()
    network.request(0, session, 2)
    network.deliver(Prepare, to=1)
    network.stop(0)
    network.flying.clear()
    assert network.state(1).commit == 2
    network.give(1, StartViewChange(0, 1, 1), network.pids[2])
    network.give(1, DoViewChange(0, 1, 0, 1, 1), network.pids[2])
    network.give(2, StartViewChange(0, 1, 1), network.pids[1])
    network.inbox.clear()
    assert network.primaries() == [1]
    assert (network.state(1).op, network.state(1).commit) == (3, 2)
    network.request(1, session, 1, tag=1)
    network.request(1, session, 2, tag=2)
    assert network.state(1).op == 3
    network.run(4)
    assert sorted(e.correlation_id.request for e in network.inbox if e.correlation_id) == [1, 2]
    assert network.applied(2) == [b"x1", b"x2"]


def test_requests_below_the_lowest_wanted_one_are_not_executed(network, session):
    network.request(0, session, 2, lowest=2)
    network.request(0, session, 1, lowest=1)
    network.settle()
    network.request(0, session, 1, lowest=1)
    assert [m.reason for m in network.received(InvalidRequest)] == [
        f"request 1 of session {session} is below the lowest number that the client said it still wants"
    ] * 2
    assert network.applied(0) == [b"x2"]


# --- Limits ---


@pytest.mark.parametrize(
    "bad",
    [
        Request(1, 0, 0, b""),
        Request(1, 1, 0, b""),
        Request(1, 1, 2, b""),
        Request(1, 5000, 1, b""),
        Request(1, 2**63, 2**63, b""),
        Request(1, 1, 1, bytes(512 * 1024 + 1)),
        OpenSession(b"short"),
    ],
    ids=["zero", "lowest zero", "below lowest", "window", "too large a number", "too large", "client"],
)
def test_bad_requests_are_refused_with_the_rule(network, session, bad):
    network.give(0, bad)
    (refusal,) = network.received(InvalidRequest)
    assert len(refusal.reason) > 30
    assert network.state(0).op == 1
    assert network.find() == []


def test_too_much_under_way_is_refused(make_network):
    network = make_network(max_uncommitted=3)
    network.settle()
    session = network.open()
    for number in range(1, 6):
        network.request(0, session, number)
    assert network.received(Overloaded) == [Overloaded()] * 2
    network.settle()
    assert [reply.number for reply in network.replies()] == [1, 2, 3]
    network.request(0, session, 4)
    network.settle()
    assert len(network.replies()) == 4


def test_too_many_bytes_under_way_are_refused(make_network):
    network = make_network(max_uncommitted_bytes=1000, max_operation=600)
    network.settle()
    session = network.open()
    for number in range(1, 4):
        network.request(0, session, number, bytes([number]) * 600)
    assert len(network.received(Overloaded)) == 1
    network.settle()
    network.request(0, session, 3, b"3" * 600)
    network.settle()
    assert len(network.replies()) == 3


def test_sessions_leave_nothing_of_their_size_behind(make_network):
    network = make_network(max_uncommitted_bytes=300, max_operation=100)
    network.settle()
    for _ in range(20):
        network.give(0, CloseSession(network.open()))
        network.settle()
    assert network.received(Overloaded) == []
    assert network.state(0).op == 40


def test_a_client_that_acknowledges_nothing_is_stopped(make_network):
    network = make_network(max_kept_results=100)
    network.settle()
    session = network.open()
    for number in range(1, 4):
        network.request(0, session, number, bytes([number]) * 60)
        network.settle()
    assert [reply.number for reply in network.replies()] == [1, 2]
    assert len(network.received(Overloaded)) == 1
    network.request(0, session, 3, b"3", lowest=3)
    network.settle()
    assert [reply.number for reply in network.replies()] == [1, 2, 3]


# --- Other views ---


def test_a_wish_moves_no_primary_but_an_entered_view_does(network, session):
    network.give(0, StartViewChange(0, 1, 0), network.pids[2])
    assert network.state(0).status == "normal"
    network.give(0, StartViewChange(0, 1, 1), network.pids[2])
    assert (network.state(0).status, network.state(0).view) == ("view-change", 1)


def test_a_vote_for_a_later_view_is_joined(network, session):
    network.give(0, DoViewChange(0, 3, 0, 0, 0), network.pids[2])
    assert network.state(0).view == 3


def test_a_primary_that_goes_tells_those_who_wait(network, session):
    network.request(0, session, 1, tag=4)
    network.give(0, StartViewChange(0, 1, 1), network.pids[2])
    assert [(e.message, e.correlation_id.request) for e in network.inbox] == [(NotPrimary(0, 0, None), 4)]


def test_progress_keeps_a_primary_content_however_much_is_under_way(network, session):
    under_way = []
    for number in range(1, 30):
        network.request(0, session, number)
        network.tick(0)
        assert network.state(0).op > network.state(0).commit
        under_way += network.hold(Prepare, to=1)
        if number > 1:
            network.release([under_way.pop(0)])
            network.deliver(PrepareOK, frm=1)
    assert network.find(StartViewChange) == []


def test_a_late_vote_is_answered_with_the_news_that_the_view_began(network, session):
    network.stop(0)
    network.flying.clear()
    network.change_view(1, 2)
    assert network.primaries() == [1]
    network.give(1, DoViewChange(0, 1, 0, 1, 1), network.pids[2])
    assert [e.message for e in network.find(StartView, to=2)] == [StartView(0, 1, 0, 1, 1)]


@pytest.mark.parametrize("message", [Prepare(0, 0, 1, 0, ()), Commit(0, 0, 9, 9), StartView(0, 0, 0, 9, 9)])
def test_a_second_primary_of_the_same_view_is_not_listened_to(network, session, message):
    before = network.state(0)
    network.give(0, message, network.pids[1])
    assert network.state(0) == before


def test_only_the_primary_of_a_later_view_says_that_it_began(network, session):
    network.give(0, Commit(0, 1, 0, 0), network.pids[2])
    assert network.state(0).status == "normal"
    network.give(0, Commit(0, 1, 0, 0), network.pids[1])
    assert network.state(0).status == "state-transfer"
