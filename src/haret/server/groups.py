"""The replicas that run on this node: each group's in a supervision tree of its own.

Rules:

1. A group whose replicas crash too often ends on this node, and no other group notices.
2. A replica is told once at most that it is `fresh`: when its namespace is created. Whatever starts later, after a crash of
   its own or of the node, goes on with what the journal holds of it. If that is nothing, or not to be trusted, it recovers
   from the others.
3. Each start has a larger incarnation than any before, by the clock; a replica that finds a larger one in its journal takes
   the next after that. So what an earlier incarnation promised and forgot can be told apart from what this one says.
4. A replica that is no member any more runs on until the others need it no longer (`dismiss`), and one that is to become a
   member runs before it is one (`learn`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from random import Random
from typing import Final

import trio

from haret import vr
from haret.backend import Backend
from haret.protocol import DURABLE
from rabble_trio import ActorDown, ChildSpec, Node, Pid, Supervisor

from .directory import Directory, Entry
from .gossip import manager_of
from .registry import SUPERVISOR, Group

CRASHES: Final = 10
"""Crashes of the replicas of one group within `CRASH_PERIOD` after which it ends: that is a defect, and not chance."""

CRASH_PERIOD: Final = 10.0
"""Seconds."""

LEARNING: Final = 60.0
"""Seconds that a replica follows a group which has not made it a member: several attempts to catch up."""


class LocalGroups:
    """Starts and stops replicas. It outlives incarnations of the namespace manager, which alone uses it."""

    def __init__(self, node: Node, settings: vr.Settings) -> None:
        self._node = node
        self._settings = settings
        self._random = Random()
        self._incarnation = 0
        self._running: dict[str, set[Pid]] = {}
        self._since: dict[Pid, float] = {}  # when a replica was last wanted as a new member

    async def settle(self, entry: Entry, *, fresh: bool) -> None:
        """Let those replicas of a namespace run here that belong here.

        `fresh`: those to be started never ran before (see `haret.server.grants`). Raises whatever keeps an actor from
        starting; then, or if cancelled, nothing was started. Nothing is started or stopped for a namespace with rivals.
        One call for a namespace at a time.
        """
        group = entry.group
        if group is None:
            return
        running = self._running.get(entry.name)
        wanted = set(group.on(self._node.id))
        if running is None:
            if wanted:
                await self._start_all(group, sorted(wanted), fresh)
                self._running[entry.name] = wanted
            return
        for pid in sorted(wanted - running):
            await self._add(group, pid, fresh)

    async def learn(self, group: Group, pid: Pid) -> None:
        """Start a replica that is to become a member, unless it runs. Raises whatever keeps an actor from starting.

        It promised nothing to this group that matters: whatever epoch it was a member of is over.
        """
        self._since[pid] = trio.current_time()
        if group.name not in self._running:
            await self._start_all(group, [pid], True)
            self._running[group.name] = {pid}
        elif pid not in self._running[group.name]:
            await self._add(group, pid, True)

    async def _add(self, group: Group, pid: Pid, fresh: bool) -> None:
        await self._node.spawn(
            pid.name,
            self._factory(group, fresh),
            group=pid.group,
            restart="permanent",
            supervisor=self._node.pid(SUPERVISOR, group.name),
        )
        self._running[group.name].add(pid)

    def outsiders(self, directory: Directory) -> list[tuple[str, Pid]]:
        """Replicas that run here and are no members, with their namespaces."""
        found = []
        for name, running in self._running.items():
            entry = directory.get(name)
            group = None if entry is None else entry.group
            if group is not None:
                found += [(name, pid) for pid in running if pid not in group.replicas]
        return sorted(found)

    def idle(self, pid: Pid) -> bool:
        """Whether nobody has wanted this replica as a member for a while."""
        return trio.current_time() - self._since.get(pid, -math.inf) > LEARNING

    async def dismiss(self, name: str, pid: Pid) -> None:
        """Stop a replica that is no member."""
        self._running[name].discard(pid)
        self._since.pop(pid, None)
        await self._stop(pid)

    async def _start_all(self, group: Group, pids: list[Pid], fresh: bool) -> None:
        children = [ChildSpec(pid.name, self._factory(group, fresh), group=pid.group) for pid in pids]
        await self._node.spawn(
            SUPERVISOR,
            lambda: Supervisor(children=children, intensity=CRASHES, period=CRASH_PERIOD),
            group=group.name,
            restart="temporary",
        )

    async def _stop(self, pid: Pid) -> None:
        try:
            await self._node.stop(pid)
        except ActorDown:
            return  # it is as it should be

    def _factory(self, group: Group, fresh: bool) -> Callable[[], vr.Replica]:
        configuration = vr.Configuration(group.epoch, group.replicas)
        observer = manager_of(self._node.id)
        never_ran = fresh

        def make() -> vr.Replica:
            nonlocal never_ran
            truth, never_ran = never_ran, False
            return vr.Replica(
                configuration,
                Backend(),
                Random(self._random.getrandbits(64)),
                self._settings,
                fresh=truth,
                durable=group.durability == DURABLE,
                incarnation=self._next_incarnation(),
                observer=observer,
            )

        return make

    def _next_incarnation(self) -> int:
        self._incarnation = max(self._incarnation + 1, time.time_ns())
        return self._incarnation
