"""Members that change while nodes are restarted, lose their disks, or hear of it late."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from haret import vr
from haret.protocol import BadRequest, CreateNamespace, Namespace, Reconfigure, Unanswered
from haret.server.directory import Entry
from haret.server.gossip import Learn, News, Started, manager_of
from haret.server.groups import MAX_KEPT, LocalGroups
from haret.server.namespaces import COMPARE, NamespaceManager
from haret.server.reconfiguration import Reconfigurations
from haret.server.registry import Group
from haret.vr.messages import GetReplicaState, ReplicaState
from haret.vr.states.base import ToEpoch
from haret.vr.states.leaving import Leaving
from haret.vr.states.primary import Primary
from rabble_trio import ActorDown, GetMetrics, Mailbox, Node, NodeId, Pid
from tests.haret.server.worlds import Machines, open_machines, until, until_gone


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def state_of(m: Machines, pid: Pid) -> ReplicaState | None:
    """What a replica says of itself; None if it does not run."""
    number = int(pid.node.name[1:])
    try:
        state = await m[number].node.ask(pid, GetReplicaState())
    except (ActorDown, KeyError):
        return None
    assert isinstance(state, ReplicaState)
    return state


async def until_all(m: Machines, pids: tuple[Pid, ...], **values: object) -> list[ReplicaState]:
    """Wait until these replicas run and say this of themselves."""
    while True:
        states = [await state_of(m, pid) for pid in pids]
        if all(state is not None and all(getattr(state, k) == v for k, v in values.items()) for state in states):
            return [state for state in states if state is not None]
        await trio.sleep(0.1)


async def group_of(m: Machines, number: int, name: str = "ns") -> Group:
    """The group as a node knows it, once it does."""
    await until(lambda: (entry := m[number].directory.get(name)) is not None and entry.group is not None)
    entry = m[number].directory.get(name)
    assert entry is not None
    assert entry.group is not None
    return entry.group


async def learn(m: Machines, group: Group, pid: Pid) -> None:
    """Let a replica be started that is to become a member, and wait until it has caught up."""
    learned = await m[1].node.ask(manager_of(pid.node), Learn(group, pid))
    assert learned == Started()
    (first,) = await until_all(m, group.replicas[:1])
    await until_all(m, (pid,), status="learning", commit=first.commit)


async def until_kept(m: Machines, number: int, replicas: tuple[Pid, ...]) -> None:
    """Wait until a node has written down that it keeps these replicas, and no others."""
    await until(lambda: m.stores[number].kept.replicas == replicas)


class Change:
    """A namespace of which two members leave: r1, its primary on the second node, and r2 on the third one."""

    def __init__(self, m: Machines) -> None:
        self.m = m
        self.old = tuple(m.cluster[n].pid(name, "ns") for n, name in ((2, "r1"), (3, "r2"), (1, "r3")))
        self.new = (self.old[2], m.cluster[4].pid("r4", "ns"), m.cluster[5].pid("r5", "ns"))

    async def prepare(self) -> None:
        """All but the change itself."""
        created = await self.m[1].ask(CreateNamespace("ns", self.old))
        assert created.primary == self.old[0]
        self.group = await group_of(self.m, 2)
        for pid in self.new[1:]:
            await learn(self.m, self.group, pid)

    async def commit(self) -> int:
        """The last entry of the epoch, and one before it; returns the op of that."""
        op = await self.m[2].open_session(self.old[0])
        answer = await self.m[2].node.ask(self.old[0], vr.messages.Reconfigure(0, self.new))
        assert answer == vr.messages.Reconfigured(1, self.new)
        return op

    async def tell(self, *numbers: int) -> None:
        """Nodes hear of the epoch that begins with it."""
        later = replace(self.group, epoch=1, replicas=self.new)
        for number in numbers:
            await self.m[number].node.send(self.m[number].manager, News((later,), ()))
            await until(lambda number=number: self.m[number].directory.registry.get("ns") == (later,))  # type: ignore[misc]


async def test_all_nodes_stop_when_only_those_that_leave_know_how_the_epoch_ended(autojump_clock: MockClock) -> None:
    async with open_machines(5) as m:
        change = Change(m)
        await change.prepare()
        m.cluster.partition(2, 3)
        op = await change.commit()
        await change.tell(1, 2, 3, 4, 5)
        await m.crash(1, 2, 3, 4, 5)
        m.cluster.heal()
        await m.start(1, 2, 3, 4, 5)
        states = await until_all(m, change.new, status="normal", epoch=1)
        assert all(state.commit > op for state in states)
        # Then nobody needs those that left any more, which is remembered.
        for number, pid in ((2, change.old[0]), (3, change.old[1])):
            await until_gone(m[number], pid)
            await until_kept(m, number, ())


async def test_who_left_is_kept_until_a_quorum_of_the_new_members_has_begun(autojump_clock: MockClock) -> None:
    async with open_machines(5) as m:
        change = Change(m)
        await change.prepare()
        await m.crash(1, 4, 5)
        op = await change.commit()
        await change.tell(2, 3)
        await m.crash(2, 3)
        await m.start(2, 3)
        await m.start(4)  # with the others down, one of them is no quorum
        await trio.sleep(10 * COMPARE)
        await until_all(m, change.old[:2], epoch=1)
        await until_kept(m, 2, change.old[:1])
        await m.start(5)
        await until_all(m, change.new[1:], status="normal", epoch=1)
        await m[4].until_back(change.new[1], op)
        await until_gone(m[2], change.old[0])


async def test_who_left_is_kept_if_that_is_heard_before_it_is_started_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    heard = trio.Event()
    settle = LocalGroups.settle

    async def late(self: LocalGroups, entry: Entry, *, fresh: bool) -> None:
        await heard.wait()
        await settle(self, entry, fresh=fresh)

    async with open_machines(5) as m:
        change = Change(m)
        await change.prepare()
        await change.commit()
        await m.crash(1, 2, 3, 4, 5)
        monkeypatch.setattr(LocalGroups, "settle", late)
        await m.start(2, 3)
        await change.tell(2, 3)
        heard.set()
        await until_all(m, change.old[:2], epoch=1)


async def test_who_left_is_not_stopped_before_the_primary_has_confirmed_the_epoch(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def says_nothing(*_: object) -> None:
        await trio.lowlevel.checkpoint()

    async with open_machines(5) as m:
        change = Change(m)
        await change.prepare()
        with monkeypatch.context() as patch:
            patch.setattr(Reconfigurations, "_confirmed_epoch", says_nothing)
            await change.commit()
            await change.tell(1, 2, 3, 4, 5)
            await until_all(m, change.new, status="normal", epoch=1)
            await trio.sleep(10 * COMPARE)
            await until_all(m, change.old, epoch=1)
        await until_gone(m[2], change.old[0])


async def test_more_replicas_than_can_be_are_not_kept() -> None:
    node = NodeId.parse("n1@n1:5000")
    group = Group("ns", bytes(16), 0, tuple(Pid(f"r{n}", NodeId.parse("n2@n2:5000"), "ns") for n in range(3)))
    kept = [Pid(f"r{n}", node, "ns") for n in range(100)]
    groups = LocalGroups(cast(Any, None), vr.Settings(), kept)
    assert groups.outsiders(group) == sorted(kept[:MAX_KEPT])


# ------------------------------------------------------------------------------- who is started fresh


async def test_a_member_whose_disk_is_lost_is_not_taken_for_new_by_one_who_is_behind(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_machines(4) as m:
        await m[1].ask(m.request())
        group = await group_of(m, 1)
        member = m.cluster[4].pid("r4", "ns")
        changed = await m[1].ask(Reconfigure("ns", 0, (*group.replicas[:2], member)))
        assert isinstance(changed, Namespace)
        await until_all(m, (member,), status="normal", epoch=1)
        await m.crash(4)
        m.wipe(4)
        with monkeypatch.context() as patch:
            patch.setattr(NamespaceManager, "_on_news", lambda *_: None)  # it is late
            await m.start(4)
            answer = await m[3].node.ask(manager_of(member.node), Learn(group, member))
            assert isinstance(answer, BadRequest)
            assert "is in epoch 1, not 0" in answer.reason
            assert await state_of(m, member) is None
        await until_all(m, (member,), status="normal", epoch=1)
        assert (await m[4].node.ask(member, GetMetrics())).counters["recovered"] == 1


async def test_nobody_is_taken_for_new_while_nobody_can_say_so(autojump_clock: MockClock) -> None:
    async with open_machines(4) as m:
        await m[1].ask(m.request())
        group = await group_of(m, 4)
        await m.crash(1, 2)
        learner = m.cluster[4].pid("r4", "ns")
        answer = await m[3].node.ask(manager_of(learner.node), Learn(group, learner))
        assert isinstance(answer, Unanswered)
        assert "no primary that could say" in answer.reason
        assert await state_of(m, learner) is None


async def test_only_strangers_learn(autojump_clock: MockClock) -> None:
    async with open_machines(3) as m:
        await m[1].ask(m.request())
        group = await group_of(m, 3)
        new = m.cluster[3].pid("r9", "ns")
        for strange, pid, words in (
            (group, group.replicas[2], "a member of ns already"),
            (group, m.cluster[1].pid("r9", "ns"), "does not belong on n3"),
            (group, m.cluster[3].pid("r9", "other"), "does not belong on n3"),
            (group, m.cluster[3].pid("supervisor", "ns"), "does not belong on n3"),
            (replace(group, creation=bytes(16)), new, "knows another namespace"),
            (replace(group, replicas=(*group.replicas[:2], new)), m.cluster[3].pid("r8", "ns"), "another namespace"),
            (replace(group, replicas=group.replicas[:2]), new, "is no group"),
        ):
            answer = await m[1].node.ask(m[3].manager, Learn(strange, pid))
            assert isinstance(answer, BadRequest)
            assert words in answer.reason
        assert m[3].directory.registry.get("ns") == (group,)
        assert isinstance(await m[1].ask(Reconfigure("ns", 0, (*group.replicas[:2], new))), Namespace)
        answer = await m[1].node.ask(m[3].manager, Learn(group, group.replicas[2]))
        assert isinstance(answer, BadRequest)


async def test_learners_that_lost_their_memory_before_they_were_members_can_form_a_group(
    autojump_clock: MockClock,
) -> None:
    async with open_machines(6) as m:
        created = await m[1].ask(m.request())
        op = await m[1].open_session(created.primary)
        group = await group_of(m, 1)
        new = tuple(m.cluster[n].pid(f"r{n}", "ns") for n in (4, 5, 6))
        for pid in new:
            await learn(m, group, pid)
        await m[4].ask(m.request("other", 4, 5, 6))  # so that the nodes write down what they have
        for number, pid in zip((4, 5, 6), new, strict=True):
            await until_kept(m, number, (pid,))
        await m.crash(4, 5, 6)
        for number in (4, 5, 6):
            m.lose_journal(number)
        await m.start(4, 5, 6)
        await until_all(m, new, status="learning")
        assert isinstance(await m[1].ask(Reconfigure("ns", 0, new)), Namespace)
        states = await until_all(m, new, status="normal", epoch=1)
        assert all(state.commit > op for state in states)


# ---------------------------------------------------------------------- one change after the other


async def test_who_is_wanted_again_while_it_is_stopped_is_started_after_that(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    stopping, stopped = trio.Event(), trio.Event()
    stop = Node.stop

    async def slow(self: Node, pid: Pid) -> None:
        stopping.set()
        await trio.sleep(1)
        await stop(self, pid)
        stopped.set()

    async with open_machines(4) as m:
        await m[1].ask(m.request())
        group = await group_of(m, 1)
        other = (*group.replicas[:2], m.cluster[4].pid("r4", "ns"))
        again = group.replicas[2]
        with monkeypatch.context() as patch:
            patch.setattr(Node, "stop", slow)
            assert isinstance(await m[1].ask(Reconfigure("ns", 0, other)), Namespace)
            await stopping.wait()
            assert await m[1].node.ask(m[3].manager, Learn(await group_of(m, 1), again)) == Started()
            assert stopped.is_set()
        await until_all(m, (again,), status="learning")
        assert isinstance(await m[1].ask(Reconfigure("ns", 1, group.replicas)), Namespace)
        await until_all(m, group.replicas, status="normal", epoch=2)


@pytest.mark.parametrize("announced", [True, False])
async def test_who_is_wanted_again_since_it_was_found_to_be_needless_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, announced: bool
) -> None:
    confirmed, stop = Reconfigurations._confirmed_epoch, Node.stop
    changed_back = trio.Event()
    stopped: list[Pid] = []

    async def noted(self: Node, pid: Pid) -> None:
        stopped.append(pid)
        await stop(self, pid)

    async with open_machines(4) as m:
        await m[1].ask(m.request())
        group = await group_of(m, 1)
        other = (*group.replicas[:2], m.cluster[4].pid("r4", "ns"))

        async def late(self: Reconfigurations, asked: Group, mailbox: Mailbox) -> int | None:
            epoch = await confirmed(self, asked, mailbox)
            if asked.epoch == 1 and not changed_back.is_set():
                changed_back.set()
                if announced:
                    assert isinstance(await m[1].ask(Reconfigure("ns", 1, group.replicas)), Namespace)
                else:
                    await m[1].node.ask(other[0], vr.messages.Reconfigure(1, group.replicas))
                    await until(lambda: m[3].directory.registry.get("ns")[0].epoch == 2)
            return epoch

        monkeypatch.setattr(Node, "stop", noted)
        monkeypatch.setattr(Reconfigurations, "_confirmed_epoch", late)
        assert isinstance(await m[1].ask(Reconfigure("ns", 0, other)), Namespace)
        await changed_back.wait()
        await until_all(m, group.replicas, status="normal", epoch=2)
        await until_gone(m[4], other[2])
        assert stopped == [other[2]]


async def test_an_epoch_ends_although_a_member_of_the_next_one_has_lost_its_disk(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with open_machines(5) as m:
        change = Change(m)
        await change.prepare()
        m.cluster.partition(2, 3)
        with monkeypatch.context() as patch:
            # One has the last entry of the epoch, and never hears that it is committed.
            patch.setattr(Primary, "_end_epoch", lambda *_: ToEpoch())
            patch.setattr(Leaving, "_tell", lambda *_: None)
            op = await change.commit()
            await m.crash(3, 2)
        await change.tell(1, 4, 5)
        await m.crash(1, 4, 5)
        m.wipe(4)
        m.cluster.heal()
        # The one that knows more stays down. The members of the next epoch begin to look for it.
        await m.start(1, 4, 5)
        await until_all(m, (change.new[1],), status="recovering")
        await m.start(3)
        states = await until_all(m, change.new, status="normal", epoch=1)
        assert all(state.commit > op for state in states)
