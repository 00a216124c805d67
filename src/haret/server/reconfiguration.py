"""Changing the members of a namespace while it runs (section 7 of the paper).

Rules:

1. New members come first: each node that gets one starts it as a learner, which follows the group and counts for nothing.
2. Then the primary is asked to change the members, and asked again while it says that the new ones have not caught up. It
   alone decides; the epoch that is given keeps two operators from undoing each other's work.
3. Once that is committed, replicas say so themselves to their managers (`ViewChanged` of a later epoch), and the managers
   to each other. So it makes no difference whether the one that asked is still there.
4. A replica that is no member any more is stopped by its node when it has told the new members all that they need, which
   its status shows; so is a learner that did not become a member.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
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
from .registry import SUPERVISOR, Group

logger = logging.getLogger("haret.namespaces")

CATCHING_UP: Final = 10.0
"""Seconds that new members have to catch up before the operator is told that they have not; trying again goes on from
there."""

ASK_AGAIN: Final = 0.1
"""Seconds between two questions to the primary."""


class Reconfigurations:
    """What the namespace manager of a node does about them."""

    def __init__(self, node: Node, directory: Directory, groups: LocalGroups, learned: Callable[[Group], None]) -> None:
        self._node = node
        self._directory = directory
        self._groups = groups
        self._learned = learned

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

    async def start_learner(self, group: Group, pid: Pid) -> Started | BadRequest:
        """A replica on this node is to become a member."""
        if pid.node != self._node.id or pid.group != group.name:
            return BadRequest(f"{pid} does not belong on {self._node.id}")
        entry = self._directory.get(group.name)
        if entry is None or entry.group is None:
            self._learned(group)
        try:
            await self._groups.learn(group, pid)
        except Exception as error:
            logger.exception("%s could not be started", pid)
            return BadRequest(f"{pid} could not be started: {error}")
        return Started()

    async def epoch_began(self, replica: Pid, mailbox: Mailbox) -> None:
        """A replica of this node is in a later epoch than the one that is known: find out who its members are."""
        state = await self._ask(mailbox, replica, messages.GetReplicaState())
        entry = self._directory.get(replica.group or "")
        if not isinstance(state, messages.ReplicaState) or entry is None or entry.group is None:
            return
        group = entry.group
        if state.epoch > group.epoch:
            self._learned(Group(group.name, group.creation, state.epoch, state.replicas, group.durability))

    async def stop_outsiders(self, mailbox: Mailbox) -> None:
        """Stop replicas of this node that are no members, and of no more use to those who are."""
        for name, pid in self._groups.outsiders(self._directory):
            state = await self._ask(mailbox, pid, messages.GetReplicaState())
            entry = self._directory.get(name)
            if not isinstance(state, messages.ReplicaState) or entry is None or entry.group is None:
                continue
            if state.status == "learning" and self._groups.idle(pid) and pid not in entry.group.replicas:
                logger.info("%s is no member of %s, and stops", pid, name)
                await self._groups.dismiss(name, pid)
