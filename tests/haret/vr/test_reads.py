"""Reads without a log entry: by read-index at the primary, and stale ones anywhere (section 6.3.2)."""

import pytest

from haret.vr.messages import (
    Behind,
    ConfirmView,
    InvalidRequest,
    NotPrimary,
    Prepare,
    PrepareOK,
    Read,
    ReadReply,
    StaleRead,
    ViewConfirmed,
)


@pytest.fixture
def session(network):
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.run(2)
    network.inbox.clear()
    return session


def answers(network):
    return [(reply.op, reply.result) for reply in network.received(ReadReply)]


def test_read_is_answered_when_a_quorum_confirms_the_view_and_logs_nothing(network, session):
    network.give(0, Read(b"?"))
    assert answers(network) == []
    assert network.find(Prepare) == []
    network.deliver(ConfirmView, to=1)
    assert answers(network) == []
    network.deliver(ViewConfirmed)
    assert answers(network) == [(2, b"1: ?")]
    assert network.state(0).op == 2


def test_many_reads_share_a_round_and_a_later_one_waits_for_the_next(network, session):
    network.give(0, Read(b"a"))
    for _ in range(10):
        network.give(0, Read(b"b"))
    assert len(network.find(ConfirmView, to=1)) == 1
    network.deliver(ConfirmView, to=1)
    network.deliver(ViewConfirmed)
    assert answers(network) == [(2, b"1: a")]
    network.settle()
    assert [result for _, result in answers(network)] == [b"1: a"] + [b"1: b"] * 10


def test_late_confirmation_of_an_earlier_round_does_not_count(network, session):
    network.give(0, Read(b"a"))
    network.deliver(ConfirmView)
    first, second = network.hold(ViewConfirmed)
    network.release([first])
    network.give(0, Read(b"b"))
    network.release([first, second])
    assert [result for _, result in answers(network)] == [b"1: a"]


def test_deposed_primary_does_not_answer(network, session):
    network.isolate(0)
    network.change_view(1, 2)
    network.request(1, session, 2)
    network.settle()
    assert network.replies(2)
    network.give(0, Read(b"?"))
    network.run(20)
    assert answers(network) == []
    network.isolate(0, heal=True)
    network.run(20)
    assert answers(network) == []
    assert network.refusals()


def test_new_primary_waits_for_what_its_view_began_with(network, session):
    """Its commit number may be older than what was answered before."""
    network.request(0, session, 2)
    network.lose(Prepare, to=2)
    network.settle()
    assert network.replies(2)
    assert network.state(1).commit == 2
    network.stop(0)
    network.flying.clear()
    network.tick(1, 9)
    network.tick(2, 9)
    while network.primaries() != [1]:
        network.lose(PrepareOK)
        network.release([network.flying.pop(0)])
    network.flying.clear()
    network.give(1, Read(b"?"))
    network.deliver(ConfirmView)
    network.deliver(ViewConfirmed)
    assert answers(network) == []
    network.run(3)
    assert answers(network) == [(3, b"2: ?")]


@pytest.mark.parametrize("uncommitted", [False, True])
def test_primary_that_is_heard_but_hears_nobody_does_not_keep_its_office_by_asking(network, session, uncommitted):
    """To the others `ConfirmView` is a sign of life. Found by the simulator: the group stood still for ever."""
    network.cut = {(1, 0), (2, 0)}
    if uncommitted:
        network.request(0, session, 2)
    for _ in range(40):
        network.give(0, Read(b"?"))
        network.run(1)
    assert [i for i in network.primaries() if i], "one of the others is primary"
    assert answers(network) == []


def test_primary_that_answers_reads_only_stays(network, session):
    for _ in range(40):
        network.deliver()
        network.give(0, Read(b"?"))
        network.tick(0)
        network.deliver(ConfirmView)
    network.settle()
    assert network.primaries() == [0]
    assert network[0].context.wishes.mine == 0
    assert len(answers(network)) == 40


def test_lost_confirmations_are_asked_for_again(network, session):
    network.give(0, Read(b"?"))
    network.lose(ConfirmView)
    network.run(4)
    assert len(answers(network)) == 1


def test_backup_names_the_primary(network, session):
    network.give(1, Read(b"?"))
    assert network.received(NotPrimary) == [NotPrimary(0, 0, network.pids[0])]


def test_read_that_is_too_large_is_refused(make_network):
    network = make_network(max_operation=10)
    network.settle()
    network.give(0, Read(b"x" * 11))
    assert network.received(InvalidRequest)
    assert network.find(ConfirmView) == []


@pytest.mark.parametrize("who", [0, 1, 2])
def test_stale_read_is_answered_anywhere_but_never_from_before_its_token(network, session, who):
    network.give(who, StaleRead(b"?", 2))
    assert answers(network) == [(2, b"1: ?")]
    network.give(who, StaleRead(b"?", 3))
    assert network.received(Behind) == [Behind(2)]
    assert len(answers(network)) == 1
