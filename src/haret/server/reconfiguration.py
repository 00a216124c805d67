"""Changing the members of a namespace while it runs (section 7 of the paper).

Rules:

1. New members come first: each node that gets one starts it as a learner, which follows the group and counts for nothing.
   It may have been a member before, and the node may have lost its disk. What it promised then matters only if the epoch
   that it is to join, or a later one, has begun already. So the node first lets the primary confirm which epoch it is, by
   a read: that is answered only if, after the question, no later epoch had begun.
2. Then the primary is asked to change the members, and asked again while it says that the new ones have not caught up. It
   alone decides; the epoch that is given keeps two operators from undoing each other's work.
3. Once that is committed, replicas say so themselves to their managers (`ViewChanged` of a later epoch), and the managers
   to each other. So it makes no difference whether the one that asked is still there.
4. A replica that is no member any more may be the only one that knows how its epoch ended. Its node stops it when the
   primary of the epoch confirms, by a read, that this is the epoch: a quorum of its members have then begun it, and on
   disk. So is a learner stopped that did not become a member.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import trio

from haret.protocol import (
    MAX_REPLICAS,
    MIN_REPLICAS,
    BadRequest,
    NotEnoughReplicas,
    Reconfigure,
    Unanswered,
    UnknownNamespace,
)
from haret.vr import messages
from rabble_trio import ActorDown, InvalidId, Mailbox, Node, NodeId, Pid

from .directory import Directory
from .gossip import Learn, Started, manager_of
from .groups import LocalGroups
from .registry import SUPERVISOR, Group, problem_with

logger = logging.getLogger("haret.namespaces")

CATCHING_UP: Final = 10.0
"""Seconds that new members have to catch up before the operator is told that they have not; trying again goes on from
there."""

ASK_AGAIN: Final = 0.1
"""Seconds between two questions to the primary."""

CONFIRMING: Final = 2.0
"""Seconds that a primary has to confirm its epoch: longer than a failover, and much shorter than `CATCHING_UP`."""


class Reconfigurations:
    """What the namespace manager of a node does about them.

    `learned`: what to do with a group that was heard of. `alone`: while nobody else starts or stops replicas of a namespace.
    """

    def __init__(
        self,
        node: Node,
        directory: Directory,
        groups: LocalGroups,
        learned: Callable[[Group], None],
        alone: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._node = node
        self._directory = directory
        self._groups = groups
        self._learned = learned
        self._alone = alone

    async def change(self, request: Reconfigure, mailbox: Mailbox) -> Any:
        """Replace the members of a namespace; returns what the operator is told."""
        entry = self._directory.get(request.name)
        if entry is None:
            return UnknownNamespace(request.name)
        group = entry.group
        if group is None:
            return BadRequest(entry.trouble())
        replicas = self._members(request, self._node.members)
        if not isinstance(replicas, tuple):
            return replicas
        if request.epoch != group.epoch:
            return BadRequest(f"{group.name} is in epoch {group.epoch}, not {request.epoch}: somebody else changed it")
        new = [pid for pid in replicas if pid not in group.replicas]
        answer: Any = Unanswered(f"{group.name} was not changed within {CATCHING_UP:g} s; its replicas go on as before")
        with trio.move_on_after(CATCHING_UP):
            for pid in new:
                answer = await self._ask(mailbox, manager_of(pid.node), Learn(group, pid))
                if not isinstance(answer, Started):
                    return answer
            while True:
                answer = await self._ask_primary(group, replicas, mailbox)
                if isinstance(answer, messages.Reconfigured):
                    self._learned(Group(group.name, group.creation, answer.epoch, answer.replicas, group.durability))
                    described = self._directory.get(group.name)
                    assert described is not None
                    return described.describe()
                if isinstance(answer, messages.InvalidRequest):
                    return BadRequest(answer.reason)
                await trio.sleep(ASK_AGAIN)
        if isinstance(answer, messages.NotReady):
            return Unanswered(f"{group.name} was not changed: {answer.reason}")
        return answer if isinstance(answer, Unanswered) else Unanswered(f"{group.name} has no primary that could do it")

    async def _ask_primary(self, group: Group, replicas: tuple[Pid, ...], mailbox: Mailbox) -> Any:
        entry = self._directory.get(group.name)
        primary = None if entry is None else entry.primary
        if primary is None:
            return Unanswered(f"{group.name} has no primary at the moment")
        return await self._ask(mailbox, primary, messages.Reconfigure(group.epoch, replicas))

    async def _ask(self, mailbox: Mailbox, to: Pid, message: Any) -> Any:
        try:
            return await mailbox.ask(to, message)
        except ActorDown as error:
            return Unanswered(f"{to} can't be reached: {error.reason}")

    def _members(
        self, request: Reconfigure, nodes: Collection[NodeId]
    ) -> tuple[Pid, ...] | BadRequest | NotEnoughReplicas:
        """The pids of the new members, sorted, or why they can't be."""
        name = request.name
        for pid in request.replicas:
            if pid.group not in {None, name} or pid.name == SUPERVISOR:
                return BadRequest(f"{pid} can't be a replica of {name}")
        try:
            replicas = tuple(sorted({Pid(pid.name, pid.node, name) for pid in request.replicas}))
        except InvalidId as error:
            return BadRequest(str(error))
        strangers = sorted({pid.node for pid in replicas} - set(nodes))
        if strangers:
            return BadRequest(f"{', '.join(map(str, strangers))}: not a member of this cluster")
        if len(replicas) != len(request.replicas):
            return BadRequest("a replica is named twice")
        if len(replicas) < MIN_REPLICAS:
            return NotEnoughReplicas(len(replicas), MIN_REPLICAS)
        if len(replicas) > MAX_REPLICAS:
            return BadRequest(f"a namespace has at most {MAX_REPLICAS} replicas, not {len(replicas)}")
        return replicas

    async def start_learner(self, group: Group, pid: Pid, mailbox: Mailbox) -> Started | BadRequest | Unanswered:
        """A replica on this node is to become a member (rule 1)."""
        refusal = self._no_learner(group, pid)
        if refusal is not None:
            return refusal
        if self._group(group.name) != group:
            self._learned(group)
        async with self._alone(group.name):
            if self._groups.wanted(pid):
                return Started()
            epoch = await self._confirmed_epoch(group, mailbox)
            if epoch is None:
                return Unanswered(f"{group.name} has no primary that could say whether {pid} is new")
            if epoch != group.epoch:
                return BadRequest(f"{group.name} is in epoch {epoch}, not {group.epoch}: somebody else changed it")
            try:
                await self._groups.learn(group, pid)
            except Exception as error:
                logger.exception("%s could not be started", pid)
                return BadRequest(f"{pid} could not be started: {error}")
        return Started()

    def _no_learner(self, group: Group, pid: Pid) -> BadRequest | None:
        """Why a replica can't become a member of a group here."""
        problem = problem_with(group)
        if problem is not None:
            return BadRequest(f"{group.name} is no group: {problem}")
        if pid.node != self._node.id or pid.group != group.name or pid.name == SUPERVISOR:
            return BadRequest(f"{pid} does not belong on {self._node.id}")
        if pid in group.replicas:
            return BadRequest(f"{pid} is a member of {group.name} already")
        entry = self._directory.get(group.name)
        if entry is None:
            return None
        known = entry.group
        if known is not None and known.creation == group.creation and known.epoch > group.epoch:
            return BadRequest(f"{group.name} is in epoch {known.epoch}, not {group.epoch}: somebody else changed it")
        if known is None or known.creation != group.creation or (known.epoch == group.epoch and known != group):
            return BadRequest(f"{self._node.id} knows another namespace of the name {group.name}")
        return None

    async def _confirmed_epoch(self, group: Group, mailbox: Mailbox) -> int | None:
        """The epoch in which a primary is, and a quorum with it, at some moment after the call. None if none says so."""
        entry = self._directory.get(group.name)
        primary = None if entry is None else entry.primary
        with trio.move_on_after(CONFIRMING):
            while True:
                for pid in dict.fromkeys((primary or group.replicas[0], *group.replicas)):
                    answer = await self._ask(mailbox, pid, messages.Read(b""))  # nothing is asked but who answers
                    match answer:
                        case messages.ReadReply(epoch=epoch):
                            return epoch
                        case messages.NotPrimary(primary=Pid() as primary):
                            break
                await trio.sleep(ASK_AGAIN)
        return None

    async def epoch_began(self, replica: Pid, mailbox: Mailbox) -> None:
        """A replica of this node is in a later epoch than the one that is known: find out who its members are."""
        state = await self._ask(mailbox, replica, messages.GetReplicaState())
        entry = self._directory.get(replica.group or "")
        if not isinstance(state, messages.ReplicaState) or entry is None or entry.group is None:
            return
        group = entry.group
        if state.epoch > group.epoch:
            self._learned(Group(group.name, group.creation, state.epoch, state.replicas, group.durability))

    async def stop_outsiders(self, mailbox: Mailbox) -> bool:
        """Stop replicas of this node that are no members, and of no more use to those who are (rule 4).

        Returns whether any was stopped.
        """
        stopped = False
        for entry in self._directory:
            group = entry.group
            if group is None or entry.primary is None or not self._idle_outsiders(group):
                continue
            if await self._confirmed_epoch(group, mailbox) != group.epoch:
                continue
            async with self._alone(group.name):
                # Only what still is as it was confirmed: by now, one of them may be wanted as a member, or be one.
                if self._group(group.name) == group:
                    for pid in self._idle_outsiders(group):
                        logger.info("%s is no member of %s, and stops", pid, group.name)
                        await self._groups.dismiss(pid)
                        stopped = True
        return stopped

    def _idle_outsiders(self, group: Group) -> list[Pid]:
        return [pid for pid in self._groups.outsiders(group) if self._groups.idle(pid)]

    def _group(self, name: str) -> Group | None:
        entry = self._directory.get(name)
        return None if entry is None else entry.group
