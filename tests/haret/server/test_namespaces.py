"""The namespace manager, with real replicas and without sockets."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from haret.protocol import (
    BadRequest,
    Crash,
    CreateNamespace,
    Done,
    Namespace,
    NamespaceExists,
    Reconfigure,
    Unanswered,
    UnknownActor,
)
from haret.server import namespaces
from haret.server.directory import Directory, Entry, PrimaryChanged
from haret.server.gossip import Learn, Reserve, Start, Started, manager_of
from haret.server.groups import LEARNING, LocalGroups
from haret.server.namespaces import NamespaceManager
from haret.server.registry import SUPERVISOR, Group
from haret.server.store import Store
from haret.vr.messages import GetReplicaState, Halted
from rabble_trio import ActorDown, GetMetrics, JournalError, Pid, open_node
from rabble_trio.testing import open_cluster
from tests.haret.server.worlds import SETTINGS, World, open_world, open_worlds, until, until_gone


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def test_a_group_is_started_and_its_primary_is_told() -> None:
    async with open_world() as w:
        created = await w.ask(w.request())
        assert isinstance(created, Namespace)
        assert created.primary == w.node.pid("r1", "ns")
        assert await w.news() == PrimaryChanged("ns", created.primary)
        for pid in created.replicas:
            state = await w.node.ask(pid, GetReplicaState())
            assert (state.status, state.replicas) == ("normal", created.replicas)


async def test_a_primary_that_crashes_is_told_at_once_and_its_successor_later() -> None:
    async with open_world() as w:
        created = await w.ask(w.request())
        await w.news()
        assert await w.ask(Crash(created.primary)) == Done()
        assert await w.news() == PrimaryChanged("ns", None)
        changed = await w.news()
        assert changed.primary in set(created.replicas) - {created.primary}


async def test_a_replica_that_crashed_goes_on_with_what_it_wrote() -> None:
    async with open_world() as w, w.node.open_mailbox("watcher") as watcher:
        created = await w.ask(w.request())
        op = await w.open_session(created.primary)
        watcher.monitor(created.replicas[2])
        await w.ask(Crash(created.replicas[2]))
        await watcher.receive()
        await w.until_back(created.replicas[2], op)


async def test_a_group_of_which_all_replicas_crash_at_once_goes_on() -> None:
    async with open_world() as w, w.node.open_mailbox("watcher") as watcher:
        created = await w.ask(w.request())
        op = await w.open_session(created.primary)
        for pid in created.replicas:
            watcher.monitor(pid)
            w.node.kill(pid)
        for _ in created.replicas:
            await watcher.receive()
        for pid in created.replicas:
            await w.until_back(pid, op)


async def test_a_fenced_group_of_which_a_majority_crashes_at_once_stands_still() -> None:
    async with open_world() as w, w.node.open_mailbox("watcher") as watcher:
        created = await w.ask(replace(w.request(), durability="fenced"))
        await w.open_session(created.primary)
        for pid in created.replicas[:2]:
            watcher.monitor(pid)
            w.node.kill(pid)
            await watcher.receive()
        for pid in created.replicas[:2]:
            assert await w.status(pid) == "recovering"
        assert isinstance(await w.ask(Crash(created.replicas[0])), Done)


def test_each_start_is_told_apart_from_all_before(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = LocalGroups(cast(Any, None), SETTINGS)
    monkeypatch.setattr("time.time_ns", lambda: 1000)  # a clock that stands, or is set back
    assert [groups._next_incarnation() for _ in range(3)] == [1000, 1001, 1002]


async def test_what_can_not_be_started_leaves_nothing_behind() -> None:
    async with open_world() as w:
        async with w.node.open_mailbox("r2", group="ns"):
            refused = await w.ask(w.request())
            assert isinstance(refused, BadRequest)
            assert "could not be started" in refused.reason
            assert w.directory.get("ns") is None
        assert isinstance(await w.ask(w.request()), Namespace)


async def test_a_group_without_a_primary_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "FIRST_PRIMARY", 0.0)
    monkeypatch.setattr(Directory, "view_changed", lambda *_: None)  # no replica has its say
    async with open_world() as w:
        answer = await w.ask(w.request())
        assert answer == Unanswered("ns was created and has no primary yet")
        assert isinstance(await w.ask(w.request()), NamespaceExists)


async def test_groups_do_not_notice_each_other() -> None:
    async with open_world() as w:
        one, other = await w.ask(w.request("one")), await w.ask(w.request("other"))
        await w.node.stop(w.node.pid(SUPERVISOR, "one"))
        assert isinstance(await w.ask(Crash(one.primary)), UnknownActor)
        assert (await w.node.ask(other.primary, GetReplicaState())).status == "normal"


async def test_the_manager_counts() -> None:
    async with open_world() as w:
        await w.ask(w.request())
        metrics = await w.ask(GetMetrics())
        assert metrics.gauges == {
            "namespaces": 1.0,
            "namespaces_without_primary": 0.0,
            "namespaces_with_rivals": 0.0,
            "replicas_stopped": 0.0,
            "other_nodes": 0.0,
        }


async def test_messages_of_no_meaning_are_ignored() -> None:
    async with open_world() as w:
        await w.node.send(w.manager, Done())
        assert isinstance(await w.ask(w.request()), Namespace)


async def test_followers_may_be_gone() -> None:
    async with open_node("n1@127.0.0.1:0") as node:
        directory, gone = Directory(), node.pid("gone")
        manager = manager_of(node.id)
        await node.spawn(
            manager.name,
            lambda: NamespaceManager(node, directory, LocalGroups(node, SETTINGS), Store(None), (gone,)),
            group=manager.group,
        )
        request = CreateNamespace("ns", tuple(node.pid(replica) for replica in ("r1", "r2", "r3")))
        assert isinstance(await node.ask(manager, request), Namespace)


# ------------------------------------------------------------------------------------------------ several nodes


async def test_a_namespace_is_known_on_all_nodes_with_its_primary_and_addresses(
    autojump_clock: MockClock,
) -> None:
    async with open_worlds(4) as w:
        created = await w[4].ask(w.request())  # by a node without a replica
        assert created.primary == w.cluster[1].pid("r1", "ns")
        assert await w.until_all_know() == created
        for number in (1, 2, 3):
            assert await w[4].status(w.cluster[number].pid(f"r{number}", "ns")) == "normal"
            addresses = w[number].directory.addresses
            assert addresses == {w.cluster[other].id: f"api-of-n{other}" for other in (1, 2, 3, 4)}


async def test_a_primary_that_is_lost_with_its_node_has_a_successor_everywhere(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        await w[2].ask(w.request())
        await w.cluster.crash(1)
        del w._worlds[1]
        assert (await w.until_all_know()).primary == w.cluster[2].pid("r2", "ns")
        assert list(w[2].directory.addresses) == [w.cluster[2].id, w.cluster[3].id]


async def test_after_a_partition_all_know_the_same(autojump_clock: MockClock) -> None:
    async with open_worlds(4) as w:
        await w[1].ask(w.request())
        w.cluster.partition(1, 4)
        await trio.sleep(20)
        entry = w[2].directory.get("ns")
        assert entry is not None
        assert entry.primary in {w.cluster[2].pid("r2", "ns"), w.cluster[3].pid("r3", "ns")}
        w.cluster.heal()
        await w.cluster.settled()
        assert (await w.until_all_know()).primary == entry.primary


async def test_a_primary_that_stays_through_a_lost_link_is_known_again(autojump_clock: MockClock) -> None:
    async with open_worlds(4) as w:
        created = await w[1].ask(w.request())
        w.cluster.network.partition("n1", "n4")
        entry = w[4].directory.get("ns")
        assert entry is not None
        await until(lambda: entry.primary is None)
        w.cluster.heal()
        assert await w.until_all_know() == created


async def test_news_that_was_lost_is_late_and_not_missing(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_worlds() as w:
        with monkeypatch.context() as patch:
            patch.setattr(NamespaceManager, "_spread", lambda *_: None)
            await w[1].ask(CreateNamespace("ns", tuple(w.cluster[1].pid(f"r{n}") for n in (1, 2, 3))))
            assert w[3].directory.get("ns") is None
        await w.until_all_know()


async def test_a_replica_that_stopped_is_shown_everywhere_until_it_runs_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with open_worlds() as w:
        await w[1].ask(w.request())
        await w.until_all_know()
        pid = w.cluster[2].pid("r2", "ns")
        await w[2].node.send(w[2].manager, Halted(pid, "its digest differs"))
        await until(lambda: w[3].directory.stopped_on(pid.node))
        assert (await w.until_all_know()).stopped == (pid,)
        assert f"{pid} stopped: its digest differs" in caplog.text
        assert (await w[1].ask(GetMetrics())).gauges["replicas_stopped"] == 1.0
        caplog.set_level(logging.CRITICAL)
        await w[2].ask(Crash(pid))
        await until(lambda: not w[3].directory.stopped_on(pid.node))
        assert (await w.until_all_know()).stopped == ()


async def test_a_namespace_that_can_not_be_started_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    settle = LocalGroups.settle
    begun: list[str] = []

    async def slow(self: LocalGroups, entry: Entry, *, fresh: bool) -> None:
        begun.append(entry.name)
        if entry.name == "a":
            await trio.sleep_forever()
        if entry.name == "b":
            raise JournalError("what it stored is damaged")
        await settle(self, entry, fresh=fresh)

    monkeypatch.setattr(LocalGroups, "settle", slow)
    async with open_cluster(1) as cluster:
        world, node = World(cluster[1]), cluster[1]
        world.directory.learn(
            Group(name, bytes(16), 0, tuple(node.pid(f"r{n}", name) for n in (1, 2, 3))) for name in ("a", "b", "c")
        )
        await world.open()
        assert await world.status(node.pid("r1", "c")) == "recovering"
        assert isinstance(await world.ask(world.request("new")), Namespace)
        assert sorted(begun) == ["a", "b", "c", "new"]


# ------------------------------------------------------------- what can't be created


async def test_a_node_that_is_unknown_or_out_of_reach_is_named(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        stranger = CreateNamespace("ns", (*w.request().replicas[:2], Pid.parse("r3::n9@n9:5000")))
        refused = await w[1].ask(stranger)
        assert isinstance(refused, BadRequest)
        assert "n9@n9:5000: not a member" in refused.reason
        w.cluster.partition(3)
        refused = await w[1].ask(w.request())
        assert isinstance(refused, Unanswered)
        assert "n3@n3:5000" in refused.reason
        w.cluster.heal()
        await w.cluster.settled()
        assert isinstance(await w[1].ask(w.request()), Namespace)  # nothing was left reserved


async def test_of_several_creations_at_once_one_succeeds(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        answers = []

        async def create(number: int) -> None:
            answers.append(await w[number].ask(w.request()))

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(create, number)
        created = [answer for answer in answers if isinstance(answer, Namespace)]
        assert len(created) == 1
        assert all(isinstance(one, Unanswered | NamespaceExists) for one in answers if one not in created)
        assert await w.until_all_know() == created[0]
        entry = w[1].directory.get("ns")
        assert entry is not None
        assert len(entry.rivals) == 1


async def test_a_group_starts_without_a_minority_that_does_not_start_its_replica(
    autojump_clock: MockClock,
) -> None:
    async with open_worlds() as w, w.cluster[3].open_mailbox("r3", group="ns"):
        created = await w[1].ask(w.request())
        assert isinstance(created, Namespace)


async def test_creations_on_two_sides_of_a_partition_are_rivals(autojump_clock: MockClock) -> None:
    async with open_worlds(2) as w:
        w.cluster.partition(1)
        for number in (1, 2):
            assert isinstance(await w[number].ask(w[number].request()), Namespace)
        w.cluster.heal()
        entry = w[1].directory.get("ns")
        assert entry is not None
        await until(lambda: len(entry.rivals) == 2)
        assert entry.primary is None
        assert await w[1].ask(w[1].request()) == NamespaceExists("ns")
        assert (await w[1].ask(GetMetrics())).gauges["namespaces_with_rivals"] == 1.0


# ----------------------------------------------------------------- fresh or not


async def test_a_restarted_node_comes_back_with_its_replicas(tmp_path: Path) -> None:
    async with open_worlds(data_dir=tmp_path / "members") as w:
        store = Store(str(tmp_path / "n3"))
        await w.cluster.stop(3)
        await w.cluster.start(3)
        await w.open(3, store)
        await w.cluster.settled()
        created = await w[1].ask(w.request())
        op = await w[1].open_session(created.primary)
        await w.cluster.crash(3)
        await w.cluster.start(3)
        assert len((await store.load()).groups) == 1
        await w.open(3, store)
        await w[1].until_back(w.cluster[3].pid("r3", "ns"), op)
        assert (await w.until_all_know()).primary is not None


async def test_a_node_that_lost_its_disk_recovers_from_the_others(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        created = await w[1].ask(w.request())
        op = await w[1].open_session(created.primary)
        await w.cluster.crash(3)
        await w.cluster.start(3)
        await w.cluster[3].join(w.cluster[1].id)
        await w.open(3)  # it knows nothing of the namespace, but what others tell
        await w[1].until_back(w.cluster[3].pid("r3", "ns"), op)


async def test_a_start_that_is_repeated_or_foreign_starts_nothing(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        group = Group("ns", bytes(16), 0, tuple(w.cluster[n].pid(f"r{n}", "ns") for n in (1, 2, 3)))
        far = manager_of(w.cluster[2].id)
        assert isinstance(await w.cluster[1].ask(far, Start(group)), Unanswered)
        await w.cluster[1].ask(far, Reserve(group))
        assert await w.cluster[1].ask(far, Start(group)) == Started()
        assert isinstance(await w.cluster[1].ask(far, Start(group)), Unanswered)
        assert await w[1].status(group.replicas[1]) == "normal"


async def test_news_does_not_start_what_its_creator_is_about_to_start(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        group = Group("ns", bytes(16), 0, tuple(w.cluster[n].pid(f"r{n}", "ns") for n in (1, 2, 3)))
        for number in (2, 3):
            await w.cluster[1].ask(manager_of(w.cluster[number].id), Reserve(group))
        await w.cluster[1].ask(manager_of(w.cluster[2].id), Start(group))
        await until(lambda: w[3].directory.get("ns") is not None)
        with pytest.raises(ActorDown):
            await w.cluster[3].ask(group.replicas[2], GetReplicaState())
        assert await w.cluster[1].ask(manager_of(w.cluster[3].id), Start(group)) == Started()
        assert await w[1].status(group.replicas[2]) in {"normal", "view-change"}  # fresh, and without its primary


async def test_a_reservation_that_lapses_does_not_let_the_replica_start_fresh(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        group = Group("ns", bytes(16), 0, tuple(w.cluster[n].pid(f"r{n}", "ns") for n in (1, 2, 3)))
        for number in (2, 3):
            await w.cluster[1].ask(manager_of(w.cluster[number].id), Reserve(group))
        await w.cluster[1].ask(manager_of(w.cluster[2].id), Start(group))
        assert await w[1].status(group.replicas[2]) == "recovering"


async def test_a_bad_group_is_refused(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        group = Group("ns", bytes(16), 0, (w.cluster[1].pid("r1", "ns"),))
        assert isinstance(await w.cluster[1].ask(manager_of(w.cluster[2].id), Reserve(group)), BadRequest)


async def test_a_new_member_takes_part_and_the_old_one_is_stopped(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        created = await w[1].ask(w.request())
        op = await w[1].open_session(created.primary)
        pids = (*created.replicas[:2], w.cluster[3].pid("r4", "ns"))
        changed = await w[2].ask(Reconfigure("ns", 0, pids))
        assert isinstance(changed, Namespace)
        assert (changed.epoch, changed.replicas) == (1, pids)
        await w[1].until_back(pids[2], op)
        assert (await w.until_all_know()).replicas == pids
        await until_gone(w[1], created.replicas[2])


async def test_a_learner_that_nobody_makes_a_member_is_stopped(autojump_clock: MockClock) -> None:
    async with open_worlds() as w:
        await w[1].ask(w.request())
        (group,) = w[1].directory.registry.get("ns")
        learner = w.cluster[3].pid("r9", "ns")
        assert await w.cluster[1].ask(manager_of(learner.node), Learn(group, learner)) == Started()
        assert await w[1].status(learner) == "learning"
        strange = await w.cluster[1].ask(manager_of(learner.node), Learn(group, w.cluster[1].pid("r9", "ns")))
        assert isinstance(strange, BadRequest)
        begun = trio.current_time()
        await until_gone(w[1], learner)
        assert trio.current_time() - begun > LEARNING
        assert (await w.until_all_know()).replicas == group.replicas
