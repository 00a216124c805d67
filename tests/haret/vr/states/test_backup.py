"""A backup in normal operation (section 4.1), and filling gaps in its log (section 5.2, same view)."""

import pytest

from haret.vr.messages import (
    Commit,
    ConfirmView,
    DoViewChange,
    GetState,
    NewState,
    NotPrimary,
    Prepare,
    PrepareOK,
    Request,
    StartView,
    StartViewChange,
    ViewConfirmed,
)


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.run(2)
    network.inbox.clear()
    network.forged = True
    return session


def entry(number):
    return Request(1, number, 1, b"x%d" % number)


def prepare(first, *numbers, commit=0, view=0):
    return Prepare(0, view, first, commit, tuple(map(entry, numbers)))


def acked(network, frm=1):
    return [e.message.op for e in network.hold(PrepareOK, frm=frm)]


def test_entries_are_acknowledged_in_order(network, session):
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.give(1, prepare(4, 3), network.pids[0])
    assert acked(network) == [3, 4]
    assert network.log(1) == [b"x1", b"x2", b"x3"]
    assert network.applied(1) == []


def test_the_commit_number_rides_on_the_next_message(network, session):
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.give(1, prepare(4, 3, commit=3), network.pids[0])
    assert network.applied(1) == [b"x1", b"x2"]
    network.give(1, Commit(0, 0, 4, 4), network.pids[0])
    assert network.applied(1) == [b"x1", b"x2", b"x3"]


def test_what_is_committed_is_executed_when_the_acknowledgement_has_left(network, session):
    network.slow.add(1)
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.sync(1)
    network.give(1, prepare(4, 3, commit=3), network.pids[0])
    assert network.applied(1) == []
    network.sync(1)
    assert acked(network)[-1] == 4
    assert network.applied(1) == [b"x1", b"x2"]


def test_execution_is_not_put_off_twice(network, session):
    network.slow.add(1)
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.give(1, prepare(4, 3, commit=2), network.pids[0])
    assert network.applied(1) == []
    network.give(1, prepare(5, 4, commit=3), network.pids[0])
    assert network.applied(1) == [b"x1"]
    network.give(1, Commit(0, 0, 4, 5), network.pids[0])
    assert network.applied(1) == [b"x1", b"x2", b"x3"]


def test_a_duplicate_is_acknowledged_again_and_its_commit_number_counts(network, session):
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.give(1, prepare(2, 1, commit=2), network.pids[0])
    assert acked(network) == [3, 3]
    assert network.applied(1) == [b"x1"]
    assert network.log(1) == [b"x1", b"x2"]


def test_an_overlap_is_appended_from_where_it_is_new(network, session):
    network.give(1, prepare(2, 1, 2), network.pids[0])
    network.give(1, prepare(3, 2, 3, 4), network.pids[0])
    assert network.log(1) == [b"x1", b"x2", b"x3", b"x4"]


def test_a_gap_is_asked_for_and_not_acknowledged(network, session):
    network.give(1, prepare(3, 2), network.pids[0])
    assert acked(network) == []
    (question,) = network.find(GetState)
    assert question.to == network.pids[0]
    assert question.message.after == 1
    assert network.state(1).status == "normal"
    network.give(1, prepare(5, 4), network.pids[0])
    assert len(network.find(GetState)) == 1


def test_a_gap_is_filled_in_pieces(make_network):
    network = make_network(batch_entries=2)
    network.settle()
    session = network.open()
    network.run(1)
    for number in range(1, 8):
        network.request(0, session, number)
        network.lose(Prepare, to=2)
        network.settle()
    network.tick(0, 2)
    asked = 0
    while network.find():
        asked += isinstance(network.flying[0].message, GetState)
        network.release([network.flying.pop(0)])
    assert asked == 4
    network.assert_converged(0, 2)


def test_entries_that_arrive_while_a_gap_is_filled_are_not_taken_twice(network, session):
    network.request(0, session, 1)
    network.request(0, session, 2)
    lost = network.hold(Prepare, to=2)
    network.settle()
    network.tick(0, 2)
    network.deliver(Commit, to=2)
    network.deliver(GetState, to=0)
    network.release(lost)
    network.settle()
    assert network.log(2) == [b"x1", b"x2"]
    network.run(2)
    network.assert_converged(0, 1, 2)


def test_a_question_goes_to_another_replica_if_it_is_not_answered(network, session):
    network.give(1, prepare(3, 2), network.pids[0])
    network.tick(1, 4)
    assert [e.to for e in network.find(GetState)] == [network.pids[i] for i in (0, 2, 0)]
    assert len({e.message.request for e in network.find(GetState)}) == 1


def test_a_heartbeat_is_acknowledged_only_while_something_is_open(network, session):
    network.give(1, Commit(0, 0, 1, 1), network.pids[0])
    assert acked(network) == []
    network.give(1, prepare(2, 1), network.pids[0])
    network.flying.clear()
    network.give(1, Commit(0, 0, 1, 2), network.pids[0])
    assert acked(network) == [2]


@pytest.mark.parametrize(
    ("message", "sender"),
    [
        (prepare(2, 1), 2),
        (prepare(2, 1, view=1), 2),
        (Commit(0, 0, 1, 9), 2),
        (Commit(0, 5, 1, 9), 0),
        (StartView(0, 4, 0, 9, 9), 0),
        (prepare(9, 1, 1), 2),
    ],
)
def test_only_the_primary_of_a_view_is_obeyed(network, session, message, sender):
    before = network.state(1)
    network.give(1, message, network.pids[sender])
    assert network.state(1) == before
    assert network.find() == []


@pytest.mark.parametrize(
    "message", [prepare(-5, 1), Prepare(0, 0, 2, 0, ()), Prepare(0, 0, 2, 10**9, ()), Commit(0, 0, -1, -1)]
)
def test_odd_numbers_harm_nothing(network, session, message):
    network.give(1, message, network.pids[0])
    assert network.state(1).status == "normal"
    assert network.state(1).op == 1


def test_an_unasked_new_state_is_dropped(network, session):
    network.give(1, NewState(0, 0, 0, 1, 2, 2, 2, (entry(1),)), network.pids[0])
    assert network.log(1) == []


def test_clients_are_sent_to_the_primary(network, session):
    network.request(1, session, 1, tag=8)
    assert network.refusals() == [NotPrimary(0, 0, network.pids[0])]
    assert network.inbox[-1].correlation_id.request == 8


def test_state_is_given_to_those_in_the_same_view(network, session):
    network.give(1, GetState(0, 0, 0, 0, 77), network.pids[2])
    (answer,) = network.hold(NewState)
    assert (answer.message.request, answer.message.first, len(answer.message.entries)) == (77, 1, 1)
    for other in (GetState(0, 1, 1, 0, 1), GetState(0, 1, 0, 0, 1), GetState(0, 0, 0, -1, 1), GetState(0, 0, 0, 9, 1)):
        network.give(1, other, network.pids[2])
    assert network.find() == []


def test_a_later_view_is_followed(network, session):
    network.give(1, DoViewChange(0, 5, 0, 1, 1), network.pids[2])
    assert (network.state(1).status, network.state(1).view) == ("view-change", 5)
    network.give(2, StartViewChange(0, 7, 6), network.pids[1])
    assert network.state(2).view == 6


def test_questions_about_the_view_are_no_sign_of_life(network) -> None:
    # Found by the simulator: a primary whose entries could not be committed kept its backups content by its reads.
    network.tick(1, 3)
    before = network[1]._state.silence
    network.give(1, ConfirmView(0, 0, 1), network.pids[0])
    assert network.find(ViewConfirmed, to=0, frm=1)
    assert network[1]._state.silence == before > 0
