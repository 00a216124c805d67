"""The replicas that run on this node: each group's in a supervision tree of its own.

Rules:

1. A group whose replicas crash too often ends on this node, and no other group notices.
2. A replica is told that it is `fresh` only if it promised nothing that still matters: when its namespace is created, or when
   it is to become a member and the members have said that they are in the epoch before that (`learn`). Whatever starts
   otherwise, after a crash of its own or of the node, goes on with what the journal holds of it. If that is nothing, or not
   to be trusted, it recovers from the others.
3. Each start has a larger incarnation than any before, by the clock; a replica that finds a larger one in its journal takes
   the next after that. So what an earlier incarnation promised and forgot can be told apart from what this one says.
4. A replica that is no member any more may be the only one that knows how its epoch ended. It is kept, over restarts of the
   node, too, until the others need it no longer (`dismiss`). One that is to become a member runs before it is one.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any, Final, Self

import trio

from haret import vr
from haret.backend import Backend
from haret.protocol import DURABLE
from haret.vr import picture
from rabble_trio import ActorDown, ChildSpec, Node, Pid, Supervisor

from .directory import Entry
from .gossip import manager_of
from .registry import SUPERVISOR, Group

CRASHES: Final = 10
"""Crashes of the replicas of one group within `CRASH_PERIOD` after which it ends: that is a defect, and not chance."""

CRASH_PERIOD: Final = 10.0
"""Seconds."""

LEARNING: Final = 60.0
"""Seconds that a replica follows a group which has not made it a member: several attempts to catch up."""

MAX_KEPT: Final = 16
"""Replicas of one namespace that a node keeps although they are no members any more: it takes many changes, one after the
other, and none complete, to make as many. Beyond it, those that come later are not kept."""


class TreeReplica(vr.Replica):
    """A replica of a tree, whose flights can be replayed although their beginning is forgotten."""

    def flight_state(self) -> Callable[[], bytes] | None:
        """See `haret.vr.picture`."""
        return picture.take(self)

    @classmethod
    def from_flight_state(cls, state: bytes) -> Self:
        """See `haret.vr.picture`."""
        return picture.restore(cls, state, Backend(), Random())


def make_replica(
    epoch: int,
    replicas: tuple[Pid, ...],
    observer: Pid,
    settings: dict[str, Any],
    *,
    seed: int,
    fresh: bool,
    durable: bool,
    incarnation: int,
) -> TreeReplica:
    """A replica of a tree. All that decides what it does is in the arguments, so its flights can be replayed.

    `epoch`, `replicas`: the group as far as it is known. `settings`: the fields of a `haret.vr.Settings`. `seed`: of the
    jitter. The rest is for `haret.vr.Replica`.
    """
    return TreeReplica(
        vr.Configuration(epoch, replicas),
        Backend(),
        Random(seed),
        vr.Settings(**settings),
        fresh=fresh,
        durable=durable,
        incarnation=incarnation,
        observer=observer,
    )


class LocalGroups:
    """Starts and stops replicas. It outlives incarnations of the namespace manager, which alone uses it.

    `kept`: replicas of this node that were no members any more when it ended, and not dismissed.
    """

    def __init__(self, node: Node, settings: vr.Settings, kept: Iterable[Pid] = ()) -> None:
        self._node = node
        self._settings = asdict(settings)
        self._random = Random()
        self._incarnation = 0
        self._running: dict[str, set[Pid]] = {}
        self._kept: defaultdict[str, set[Pid]] = defaultdict(set)  # members of earlier epochs
        self._doubtful: set[Pid] = set()  # those that were started without knowing whether they ran before
        self._since: dict[Pid, float] = {}  # when a replica was last wanted as a new member
        self.keep(kept)

    def keep(self, pids: Iterable[Pid]) -> None:
        """These replicas of this node were members, and may still be needed; `settle` lets them run."""
        for pid in pids:
            kept = self._kept[pid.group or ""]
            if len(kept) < MAX_KEPT:
                kept.add(pid)

    async def settle(self, entry: Entry, *, fresh: bool) -> None:
        """Let those replicas of a namespace run here that belong here, or are kept.

        `fresh`: members that are to be started never ran before (see `haret.server.grants`). Raises whatever keeps an actor
        from starting; if that, or a cancellation, comes at the first start of a namespace, nothing was started. Nothing is
        started for a namespace with rivals. One call for a namespace at a time.
        """
        group = entry.group
        if group is None:
            return
        kept = self._kept.pop(entry.name, set()).difference(group.replicas)
        if kept:
            self._kept[entry.name] = kept
        await self._start(group, group.on(self._node.id), fresh)
        await self._start(group, kept, False)

    async def learn(self, group: Group, pid: Pid) -> None:
        """Start a replica that is to become a member, fresh. Raises whatever keeps an actor from starting.

        To be called only after the members have said that they are in the group's epoch, while the replica either did not
        run or is `doubtful`: whatever it promised before was in epochs that are over.
        """
        if pid in self._doubtful:
            await self._end(group.name, pid)
        self._since[pid] = trio.current_time()
        await self._start(group, (pid,), True)

    def wanted(self, pid: Pid) -> bool:
        """Note that a replica is to become a member; tells whether it runs already, and knows whether it ran before."""
        if pid in self._doubtful or pid not in self._running.get(pid.group or "", ()):
            return False
        self._since[pid] = trio.current_time()
        return True

    async def _start(self, group: Group, wanted: Iterable[Pid], fresh: bool) -> None:
        running = self._running.get(group.name)
        pids = sorted(set(wanted).difference(running or ()))
        if not fresh:
            self._doubtful.update(pids)
        if running is not None:
            for pid in pids:
                await self._add(group, pid, fresh)
                running.add(pid)
        elif pids:
            await self._start_all(group, pids, fresh)
            self._running[group.name] = set(pids)

    async def _add(self, group: Group, pid: Pid, fresh: bool) -> None:
        await self._node.spawn(
            pid.name,
            self._factory(group, fresh),
            group=pid.group,
            restart="permanent",
            supervisor=self._node.pid(SUPERVISOR, group.name),
        )

    def outsiders(self, group: Group) -> list[Pid]:
        """Replicas of a group that run here, or are kept, and are no members."""
        found = self._running.get(group.name, set()) | self._kept.get(group.name, set())
        return sorted(found.difference(group.replicas))

    def idle(self, pid: Pid) -> bool:
        """Whether nobody has wanted this replica as a member for a while."""
        return trio.current_time() - self._since.get(pid, -math.inf) > LEARNING

    async def dismiss(self, pid: Pid) -> None:
        """Stop a replica that is no member, and is not needed. Nothing may start it meanwhile."""
        name = pid.group or ""
        self._kept[name].discard(pid)
        if not self._kept[name]:
            del self._kept[name]
        await self._end(name, pid)

    async def _end(self, name: str, pid: Pid) -> None:
        self._since.pop(pid, None)
        self._doubtful.discard(pid)
        # Shielded: half way, the replica would neither run nor could it be started.
        with trio.CancelScope(shield=True), suppress(ActorDown):  # then it is as it should be
            await self._node.stop(pid)
        self._running.get(name, set()).discard(pid)

    async def _start_all(self, group: Group, pids: list[Pid], fresh: bool) -> None:
        children = [ChildSpec(pid.name, self._factory(group, fresh), group=pid.group) for pid in pids]
        await self._node.spawn(
            SUPERVISOR,
            lambda: Supervisor(children=children, intensity=CRASHES, period=CRASH_PERIOD),
            group=group.name,
            restart="temporary",
        )

    def _factory(self, group: Group, fresh: bool) -> Callable[[], vr.Replica]:
        never_ran = fresh

        def make() -> vr.Replica:
            nonlocal never_ran
            truth, never_ran = never_ran, False
            recipe = partial(
                make_replica,
                group.epoch,
                group.replicas,
                manager_of(self._node.id),
                self._settings,
                seed=self._random.getrandbits(64),
                fresh=truth,
                durable=group.durability == DURABLE,
                incarnation=self._next_incarnation(),
            )
            replica = recipe()
            replica.flight_recipe = recipe
            return replica

        return make

    def _next_incarnation(self) -> int:
        self._incarnation = max(self._incarnation + 1, time.time_ns())
        return self._incarnation
