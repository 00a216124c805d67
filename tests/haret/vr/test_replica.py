"""What every message passes before a state sees it, and what the states together promise."""

from dataclasses import replace

import pytest

from haret.vr import Configuration, ProtocolViolation, Settings
from haret.vr.digests import SHOWN
from haret.vr.messages import (
    ANY_VIEW,
    Behind,
    Commit,
    DoViewChange,
    GetReplicaState,
    GetState,
    NewEpoch,
    NewState,
    NotPrimary,
    OpenSession,
    Prepare,
    PrepareOK,
    ReadReply,
    Recovery,
    ReplicaState,
    Request,
    StaleRead,
    StartView,
    StartViewChange,
    ViewChanged,
)
from haret.vr.violation import check
from rabble_trio import CorrelationId, GetMetrics, Metrics, NodeId, Outbox, Pid, Shutdown, StartTimer, Timeout

BETWEEN = [
    Prepare(0, 3, 1, 0, (OpenSession(b"c" * 16),)),
    PrepareOK(0, 0, 0),
    Commit(0, 3, 0, 5),
    StartViewChange(0, 1, 1),
    DoViewChange(0, 1, 0, 0, 0),
    StartView(0, 3, 0, 0, 0),
    GetState(0, 0, 0, 0, 1),
    NewState(0, 0, 0, 1, 1, 0, 0, ()),
]


def kind(message):
    return type(message).__name__


def test_view_0_begins_by_itself(network):
    network.settle()
    assert network.primaries() == [0]
    assert [network.state(i).status for i in range(3)] == ["normal"] * 3
    assert network.received(ViewChanged) == [ViewChanged(pid, 0, 0, network.pids[0]) for pid in network.pids]


def test_the_observer_hears_of_every_view(network):
    network.settle()
    network.stop(0)
    network.inbox.clear()
    network.run(20)
    assert sorted((m.pid, m.view, m.primary) for m in network.received(ViewChanged)) == [
        (network.pids[1], 1, network.pids[1]),
        (network.pids[2], 1, network.pids[1]),
    ]


def test_a_replica_that_is_no_member_learns_and_counts_for_nothing(network):
    """It may become one; until then it asks for what is committed, and nothing else leaves it."""
    network.settle()
    session = network.open()
    network.add()
    assert (network.state(3).status, network.state(3).primary) == ("learning", None)
    assert {type(e.message) for e in network.find(frm=3)} == {GetState}
    network.request(0, session, 1)
    network.run(5)
    assert network.applied(3) == [b"x1"]
    network.flying.clear()
    for message in BETWEEN:
        if not isinstance(message, GetState | NewState):
            network.give(3, message, network.pids[0])
    network.tick(3, 50)
    assert {type(e.message) for e in network.find(frm=3)} <= {GetState}


@pytest.mark.parametrize("message", BETWEEN, ids=kind)
@pytest.mark.parametrize("who", [0, 1])
def test_messages_of_strangers_are_dropped(network, message, who):
    network.settle()
    network.request(0, 1, 1)
    network.flying.clear()
    before, inbox = network.state(who), len(network.inbox)
    network.give(who, message, network.client)
    assert network.state(who) == before
    assert network.flying == []
    assert len(network.inbox) == inbox
    assert network[who].metrics().counters["dropped_other_sender"] == 1


@pytest.mark.parametrize("message", BETWEEN, ids=kind)
@pytest.mark.parametrize("who", [0, 1])
def test_messages_of_an_older_epoch_are_dropped_and_their_sender_is_told(network, message, who):
    network.settle()
    network.request(0, 1, 1)
    network.flying.clear()
    before = network.state(who)
    peers = set(network.pids) - {network.pids[who]}
    for peer in peers:
        network.give(who, replace(message, epoch=-1), peer)
    assert network.state(who) == before
    assert {(e.to, e.message) for e in network.flying} == {(peer, NewEpoch(0, network.pids)) for peer in peers}


@pytest.mark.parametrize("message", BETWEEN, ids=kind)
@pytest.mark.parametrize("who", [0, 1])
def test_a_later_epoch_is_fetched_before_anything_of_it_counts(network, message, who):
    """Section 7.2. The log and the commit number stay; the sender is asked for what is committed."""
    network.settle()
    network.request(0, 1, 1)
    network.flying.clear()
    before = network.state(who)
    peer = network.pids[2]
    network.give(who, replace(message, epoch=1), peer)
    after = network.state(who)
    assert after.status == "learning"
    assert replace(after, status="normal", primary=before.primary) == before
    (question,) = network.flying
    assert (question.to, question.message.view, question.message.after) == (peer, ANY_VIEW, before.commit)


@pytest.mark.parametrize("message", BETWEEN, ids=kind)
@pytest.mark.parametrize("who", [0, 1])
def test_what_an_incarnation_said_that_is_over_does_not_count(network, message, who):
    """Defect D2: it may have forgotten since what it said."""
    network.settle()
    peer = network.pids[2]
    network.give(who, Commit(0, 0, 0, 0, incarnation=5), peer)
    network.request(0, 1, 1)
    network.flying.clear()
    before = network.state(who)
    network.give(who, replace(message, incarnation=4), peer)
    assert network.state(who) == before
    assert network.flying == []
    assert network[who].metrics().counters["dropped_other_incarnation"] == 1


def test_what_a_replica_does_not_understand_is_dropped(network):
    network.settle()
    network.give(0, Shutdown())
    network.give(0, Timeout(), cid=CorrelationId(network.pids[0], 99))
    assert network.flying == []
    assert network[0].metrics().counters["dropped_unexpected"] == 2


def test_questions_about_a_replica_are_answered_with_the_asker_s_correlation_id(network):
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.settle()
    cid = CorrelationId(network.client, 5, 6)
    network.inbox.clear()
    network.give(0, GetReplicaState(), cid=cid)
    network.give(0, GetMetrics(), cid=cid)
    state, metrics = network.inbox
    assert state.correlation_id == metrics.correlation_id == cid
    assert state.message == ReplicaState(
        pid=network.pids[0],
        status="normal",
        epoch=0,
        view=0,
        primary=network.pids[0],
        op=2,
        commit=2,
        log_start=0,
        last_normal_view=0,
        replicas=network.pids,
        sessions=1,
        digest=network[0].context.machine.digest(),
    )
    assert isinstance(metrics.message, Metrics)
    assert metrics.message.counters["prepares"] == 2
    assert metrics.message.gauges["commit"] == 2.0


def test_the_digest_of_a_large_state_is_not_computed_at_once(network, monkeypatch):
    """It would take seconds for a tree of a million nodes."""
    network.settle()
    network.inbox.clear()
    budgets = []
    picture = type(network[0].context.machine.image())
    monkeypatch.setattr(picture, "digest", lambda self, budget: budgets.append(budget))
    network.give(0, GetReplicaState())
    (state,) = network.inbox
    assert (state.message.digest, budgets) == (b"", [SHOWN])


def test_the_only_timer_is_the_heartbeat_and_it_is_jittered(network):
    network.settle()
    replica, pid = network[1], network.pids[1]
    lengths = set()
    for _ in range(50):
        output = Outbox(pid)
        replica.handle(Timeout(), pid, CorrelationId(pid, 1), output)
        (timer,) = [e for e in output.envelopes if isinstance(e.message, StartTimer)]
        assert timer.correlation_id == CorrelationId(pid, 1)
        lengths.add(timer.message.seconds)
    assert len(lengths) == 50
    assert 0.9 * 0.05 <= min(lengths) < max(lengths) <= 1.1 * 0.05


def test_the_same_schedule_gives_the_same_replicas(make_network):
    def played():
        network = make_network(seed=5)
        network.settle()
        session = network.open()
        network.request(0, session, 1)
        network.stop(0)
        network.run(20)
        return [network.state(i) for i in (1, 2)], network.inbox

    assert played() == played()


def test_a_broken_rule_is_a_crash():
    check(True, "fine")
    with pytest.raises(ProtocolViolation, match="no two primaries"):
        check(False, "no two primaries")


# --- A replica that lost its memory (section 4.3) ---


def test_a_replica_without_memory_says_nothing_and_asks(network):
    network.settle()
    session = network.open()
    network.crash(2)
    assert network.state(2).status == "recovering"
    for message in BETWEEN:
        network.give(2, replace(message, incarnation=7), network.pids[0])
    network.tick(2, 50)
    assert {type(e.message) for e in network.find(frm=2)} == {Recovery}
    network.give(2, Request(session, 1, 1, b"x"))
    network.give(2, OpenSession(b"d" * 16))
    assert network.refusals() == [NotPrimary(0, 0, None)] * 2
    assert network.state(2).primary is None
    network.give(2, StaleRead(b"?", 0))
    assert network.received(Behind) == [Behind(0)]
    assert network.received(ReadReply) == []


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_group_goes_on_with_the_majority_and_who_was_lost_recovers(network, lost):
    network.settle()
    session = network.open()
    network.request(0, session, 1)
    network.settle()
    network.isolate(lost)
    network.crash(lost)
    network.run(25)
    rest = [i for i in range(3) if i != lost]
    (primary,) = network.primaries()
    assert primary in rest
    network.request(primary, session, 2, lowest=2)
    network.settle()
    network.run(2)
    network.assert_converged(*rest)
    assert network.applied(primary) == [b"x1", b"x2"]
    assert network.state(lost).status == "recovering"
    network.isolate(lost, heal=True)
    network.run(25)
    network.assert_converged(0, 1, 2)
    assert network.applied(lost) == [b"x1", b"x2"]


def test_two_losses_at_once_stop_the_group_and_lose_nothing(network):
    """Section 2.2: more than f failures cost liveness, never safety."""
    network.settle()
    session = network.open()
    network.crash(1)
    network.crash(2)
    network.lose(PrepareOK)
    network.request(0, session, 1)
    network.run(100)
    assert network.replies() == []
    assert network.state(0).commit < network.state(0).op


def test_defaults_are_usable():
    Settings()
    pids = tuple(Pid(f"r{i}", NodeId("n", "127.0.0.1:5000")) for i in range(3))
    Configuration(0, pids)
