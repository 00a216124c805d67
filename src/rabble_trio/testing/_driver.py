"""Chooses what happens next: by virtual time, chance and the faults of the run.

Whatever becomes pending gets a time at which it happens; the earliest comes first. Faults that are events of their own
(crashes, partitions, ...) are in the same queue. All chance is drawn here, in the order of events, from one source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, Final

from .._ids import NodeId, Pid
from ._choices import Crash
from ._disk import KEPT_SYNCS
from ._faults import Faults
from ._pending import MESSAGE, SYNC, TIMER, Pending, Slot

if TYPE_CHECKING:
    from ._simulation import Simulation

SOON: Final = 0.001
"""Seconds until what was blocked happens, once it is not any more."""

LOCAL: Final = 0.00001
"""Seconds that a message between actors of one node takes: not nothing, or two that chatter would stop the clock."""

MAX_EFFECTS: Final = 6
"""A crash in the middle of a step comes after at most so many of its effects: beyond the first few, all are alike."""


class Driver:
    """Takes one step after the other."""

    def __init__(self, world: Simulation, random: Random, faults: Faults) -> None:
        self._world = world
        self._random = random.random
        self._faults = faults
        self._queue: list[tuple[float, int, Any]] = []
        self._order = 0
        self._blocked: list[Pending] = []
        # Until when disks are slow, or full.
        self._slow: dict[Slot, float] = {}
        self._full: dict[Slot, float] = {}
        self._is_plain = faults.loss == faults.duplication == faults.straggling == 0
        faults_by_rate: list[tuple[float, Callable[[], None]]] = [
            (faults.clog_rate, self._clog),
            (faults.partition_rate, self._partition),
            (faults.crash_rate, self._crash_one),
            (faults.stop_all_rate, self._stop_all),
            (faults.pause_rate, self._pause),
            (faults.slow_disk_rate, self._slow_down_disk),
            (faults.full_disk_rate, self._fill_disk),
        ]
        for rate, act in faults_by_rate:
            if rate > 0:
                self._repeat(rate, act)

    def step(self) -> bool:
        """Make one choice. Returns False if nothing is left to choose."""
        world, queue = self._world, self._queue
        while True:
            if world._fresh:
                self._plan()
            if not queue:
                return False
            due, _, what = heappop(queue)
            if type(what) is Pending:
                if not what.alive:
                    continue
                world.now = max(world.now, due)
                if self._happen(what):
                    return True
            else:
                if not world._fresh and not any(type(entry[2]) is Pending for entry in queue) and not self._blocked:
                    return False  # only faults are left, with nothing to happen to
                world.now = max(world.now, due)
                made = len(world.history)
                what()
                if len(world.history) > made:
                    return True

    def adopt(self, items: Iterable[Pending]) -> None:
        """Somebody else drove for a while: plan what is pending anew."""
        self._queue = [entry for entry in self._queue if type(entry[2]) is not Pending]
        self._queue.sort()
        self._blocked.clear()
        self._world._fresh = list(items)

    # --- When things happen ---

    def _at(self, due: float, what: Any) -> None:
        self._order += 1
        heappush(self._queue, (due, self._order, what))

    def _plan(self) -> None:
        world, faults, chance = self._world, self._faults, self._random
        now = world.now
        fresh, world._fresh = world._fresh, []
        for item in fresh:
            if not item.alive:
                continue
            if item.kind is MESSAGE:
                due = self._arrival(item, now)
            elif item.kind is TIMER:
                due = now + item.seconds * (faults.timer_min + (faults.timer_max - faults.timer_min) * chance())
                if faults.timer_grid:
                    due = (int(due / faults.timer_grid) + 1) * faults.timer_grid
            else:
                longest = faults.sync_max if item.kind is SYNC else faults.snapshot_max
                due = max(now + longest * chance(), self._slow.get(item.slot, 0.0))
            self._order += 1
            heappush(self._queue, (due, self._order, item))

    def _arrival(self, item: Pending, now: float) -> float:
        faults, chance, path = self._faults, self._random, item.path
        assert path is not None
        if not path.remote:
            return now + LOCAL  # the queue keeps the order
        due = now + faults.latency_min + (faults.latency_max - faults.latency_min) * chance()
        if faults.straggling and chance() < faults.straggling:
            self._world._count("straggler")
            return due + faults.straggle_max * chance()
        due = max(due, path.clogged_until)
        if not faults.reordering:
            due = path.last_due = max(due, path.last_due)
        return due

    def _happen(self, item: Pending) -> bool:
        world, slot = self._world, item.slot
        path = item.path
        if slot.paused:
            self._blocked.append(item)
            return False
        if path is None:
            if item.kind is TIMER:
                crash, slot.doomed = slot.doomed, None
                world.fire(item, crash)
            elif self._full and self._is_full(slot):
                world._count("full disk")
                self._crash(slot.pid)
            else:
                world.sync(item)
            return True
        if path.remote:
            if path.cut:
                if self._random() < self._faults.cut_loses:
                    world.drop(item)
                    return True
                self._blocked.append(item)
                return False
            if not self._is_plain:
                luck = self._random() - self._faults.loss
                if luck < 0:
                    world._count("lost")
                    world.drop(item)
                    return True
                if luck < self._faults.duplication:
                    world._count("duplicated")
                    world.duplicate(item)
        if slot.doomed is None or slot.process is None:
            world.deliver(item)
        else:
            crash, slot.doomed = slot.doomed, None
            world.deliver(item, crash)
        return True

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, []
        for item in blocked:
            if item.alive:
                self._at(self._world.now + SOON, item)

    # --- Faults ---

    def _repeat(self, rate: float, act: Callable[[], None]) -> None:
        def again() -> None:
            act()
            self._repeat(rate, act)

        self._at(self._world.now + 2 * self._random() / rate, again)

    def _pick(self, items: list[Any]) -> Any:
        return items[int(self._random() * len(items))]

    def _nodes(self) -> list[list[Pid]]:
        """The processes, by node, in the order of spawning."""
        nodes: dict[NodeId, list[Pid]] = {}
        for pid in self._world.pids:
            nodes.setdefault(pid.node, []).append(pid)
        return list(nodes.values())

    def _clog(self) -> None:
        paths = [path for path in self._world._paths if path.remote]
        if paths:
            path = self._pick(paths)
            path.clogged_until = self._world.now + self._faults.clog_max * self._random()
            self._world._count("clog")

    def _partition(self) -> None:
        world, nodes = self._world, self._nodes()
        if len(nodes) < 2:
            return
        kind, one_way = self._random(), self._random() < 0.4
        if kind < 0.4:  # two halves
            sides = [self._random() < 0.5 for _ in nodes]
            some = [pid for side, pids in zip(sides, nodes, strict=True) if side for pid in pids]
            others = [pid for side, pids in zip(sides, nodes, strict=True) if not side for pid in pids]
        elif kind < 0.7:  # one node
            some = self._pick(nodes)
            others = [pid for pids in nodes if pids is not some for pid in pids]
            if self._random() < 0.5:
                some, others = others, some
        else:  # one link
            some, others = self._pick(nodes), self._pick(nodes)
        if some and others and some is not others:
            world._count("partition")
            world.partition(some, others, one_way=one_way)
            self._at(world.now + self._faults.partition_max * self._random(), self._heal)

    def _heal(self) -> None:
        self._world.heal()
        self._unblock()

    def _pause(self) -> None:
        world = self._world
        pids = [pid for pid in world.pids if world.up(pid) and not world._slots[pid].paused]
        if pids:
            pid = self._pick(pids)
            world._count("pause")
            world.pause(pid)
            self._at(world.now + self._faults.pause_max * self._random(), lambda: self._resume(pid))

    def _resume(self, pid: Pid) -> None:
        if self._world._slots[pid].paused:
            self._world.resume(pid)
            self._unblock()

    def _how(self, slot: Slot, effects: int | None) -> Crash:
        faults, chance = self._faults, self._random
        keep, torn, lose, amnesia = chance(), chance(), chance(), chance()
        if slot.journal is None:
            return Crash(effects=effects)
        return Crash(
            keep=int(keep * (len(slot.journal.unsynced) + 1)),
            torn=torn < faults.torn_record,
            effects=effects,
            **self._damage(slot, lose, amnesia),
        )

    def _damage(self, slot: Slot, lose: float, amnesia: float) -> dict[str, Any]:
        """What else a crash does to the journal, as far as the scenario allows it. The numbers are drawn already."""
        faults, world = self._faults, self._world
        if slot.pid not in world.damageable():
            return {}
        rot, lie, copy, much = (self._random() for _ in range(4))
        damage: dict[str, Any] = {}
        if amnesia < faults.amnesia:
            damage["amnesia"] = True
        if lose < faults.corrupt_tail:
            damage["lose"] = 1 + int(much * 3)
        if rot < faults.rotten_record:
            damage["rot"] = 1 + int(much * much * 20)  # mostly among the newest
        if (lie < faults.lying_fsync or copy < faults.stale_copy) and slot.pid in world.damageable(silent=True):
            damage["stale"] = 1 + int(much * (3 if lie < faults.lying_fsync else KEPT_SYNCS))
        return damage

    def _disks(self) -> list[Slot]:
        return [slot for slot in self._world._slots.values() if slot.journal is not None]

    def _slow_down_disk(self) -> None:
        if disks := self._disks():
            self._slow[self._pick(disks)] = self._world.now + self._faults.slow_disk_max * self._random()
            self._world._count("slow disk")

    def _fill_disk(self) -> None:
        if disks := self._disks():
            self._full[self._pick(disks)] = self._world.now + self._faults.full_disk_max * self._random()

    def _is_full(self, slot: Slot) -> bool:
        return self._world.now < self._full.get(slot, 0.0) and slot.pid in self._world.crashable

    def _crash_one(self) -> None:
        victims = self._world.crashable
        if not victims:
            return
        pid = self._pick(victims)
        if self._random() < self._faults.crash_in_step:
            slot = self._world._slots[pid]
            slot.doomed = self._how(slot, int(self._random() * MAX_EFFECTS))
            self._world._count("crash in a step")
            self._at(self._world.now + self._restart_after(), lambda: self._restart(pid))
        else:
            self._world._count("crash")
            self._crash(pid)

    def _crash(self, pid: Pid) -> None:
        world = self._world
        world.crash(pid, self._how(world._slots[pid], None))
        self._at(world.now + self._restart_after(), lambda: self._restart(pid))

    def _restart_after(self) -> float:
        return SOON + self._faults.restart_max * self._random()

    def _restart(self, pid: Pid) -> None:
        slot = self._world._slots[pid]
        if slot.doomed is not None:
            self._at(self._world.now + SOON, lambda: self._restart(pid))  # it has not crashed yet
        elif slot.process is None:
            self._world.restart(pid)
            self._unblock()

    def _stop_all(self) -> None:
        for pids, at_once, total in self._world._crash_limits:
            up = [pid for pid in pids if self._world.up(pid)]
            if at_once >= len(pids) and total is None and up:
                self._world._count("all stop")
                for pid in up:
                    self._crash(pid)
