"""What a simulation consists of, and how the effects of processes are carried out in it.

Rules:

1. A process runs only while it handles one message, and its effects are carried out as the executor carries them out
   (`rabble_trio.Process`, `rabble_trio.Outbox`): in order, behind the barrier of records that are not yet durable.
2. Checks run after each step and are told what it changed, so they need not look at the whole world.
3. A process is known by a short name: its pid's name, or the whole pid if an earlier one has that name already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final

from .._ids import CorrelationId, Pid
from .._messages import CancelTimer, Demonitor, Down, Monitor, Persisted, Shutdown, StartTimer, Stop
from .._process import Envelope, Persist, Process
from ._choices import Crash, ScheduleError
from ._disk import SimulatedJournal
from ._pending import MESSAGE, SNAPSHOT, SYNC, TIMER, Path, Pending, Slot

MAX_RECEIVED: Final = 100_000
"""Envelopes to pids outside of the simulation that are kept; then the oldest ones go, as in long runs nobody looks."""


DAMAGES: Final = {"lose": "lost records", "rot": "rotten record", "stale": "stale journal", "amnesia": "amnesia"}
"""What is counted, by the detail of the `Crash` that did it."""


@dataclass(slots=True)
class Step:
    """What a check is told: one process did one thing."""

    pid: Pid
    """The process."""
    name: str
    """Its name in the simulation."""
    process: Process
    """The process itself, after the step. After a crash: as it was."""
    event: str
    """"start" (`restore` or `damaged`, and `init`), "message" (`handle`), or "crash"."""
    sender: Pid | None
    """Who sent the message; None if there was none."""
    message: Any
    """What was handled; None if nothing was."""
    correlation_id: CorrelationId | None
    """That of the message."""
    output: Sequence[tuple[Pid | None, Any, CorrelationId | None, bool]]
    """The effects, in order, as `Outbox` keeps them: (to, message, correlation id, held); `to` is None for records.
    The list is emptied after the checks, so copy what you keep."""


Check = Callable[[Step], None]
"""Raises whatever it likes if something is wrong."""


class World:
    """Processes, and what is pending. `Simulation` decides what happens."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        """Virtual time in seconds. Only `Simulation.step` moves it."""
        self.received: deque[Envelope] = deque(maxlen=MAX_RECEIVED)
        """What processes sent to pids outside of the simulation."""
        self.steps = 0
        """How often a process handled a message or started."""
        self.counts: dict[str, int] = {}
        """How often each kind of fault happened."""
        self._slots: dict[Pid, Slot] = {}
        self._names: dict[str, Pid] = {}
        self._named: dict[Pid, str] = {}
        self._outside: dict[Pid, dict[Pid, Path]] = {}  # paths from senders that are not simulated
        self._paths: list[Path] = []
        self._cuts: set[tuple[Pid, Pid]] = set()
        self._items: dict[Pending, None] = {}  # a dict, because a set has no order
        self._fresh: list[Pending] = []  # for the driver: what became pending since it looked
        self._checks: list[Check] = []
        self._always: list[Callable[[Mapping[Pid, Process]], None]] = []
        self._latest: dict[Pid, Process] = {}  # the processes that `always` is about

    # --- Making a world ---

    def random(self, name: str) -> Random:
        """A source of randomness for this purpose, decided by the seed and the name alone."""
        digest = sha256(f"{self.seed}:{name}".encode()).digest()
        return Random(int.from_bytes(digest[:8], "big"))

    def name(self, pid: Pid) -> str:
        """The name of a pid in choices (rule 5)."""
        name = self._named.get(pid)
        if name is None:
            name = pid.name if pid.name not in self._names else str(pid)
            self._names[name] = pid
            self._named[pid] = name
        return name

    def pid(self, name: str) -> Pid:
        """The reverse of `name`. Raises `ScheduleError` if there is no such pid here."""
        try:
            return self._names[name]
        except KeyError:
            raise ScheduleError(f"there is no {name!r} here; there are {', '.join(sorted(self._names))}") from None

    def spawn(self, pid: Pid, factory: Callable[[], Process], *, journal: bool = False, checksums: bool = True) -> None:
        """Start a process.

        `factory` makes it, and makes it again after a crash; `incarnation` tells it how often that was. `journal`:
        whether it may persist. `checksums`: whether its journal notices damage. Raises `ValueError` if it runs.
        """
        if pid in self._slots:
            raise ValueError(f"{pid} is there already")
        self._start(self._place(pid, factory, journal=journal, checksums=checksums))

    def _place(self, pid: Pid, factory: Callable[[], Process], *, journal: bool, checksums: bool = True) -> Slot:
        """A place for a process, which is down."""
        slot = Slot(pid, self.name(pid), factory, SimulatedJournal(checksums) if journal else None)
        self._slots[pid] = slot
        for path in self._paths:
            if path.to == pid:
                path.receiver = slot
        return slot

    def incarnation(self, pid: Pid) -> int:
        """How often a process has been started: 1 for the first time; 0 if it never was."""
        slot = self._slots.get(pid)
        return 0 if slot is None else slot.incarnation

    def durable(self, pid: Pid) -> int:
        """How many records and snapshots of a process ever became durable, over all its incarnations.

        If it is 0, nothing that it held back until a record was durable can have left it. If it is not, and a later
        incarnation is not restored, its disk has forgotten what others may know.
        """
        journal = self._slots[pid].journal
        return 0 if journal is None else journal.stored

    def damages(self, pid: Pid) -> int:
        """How often something durable of a process was lost or changed."""
        return self._slots[pid].damages

    def process(self, pid: Pid) -> Process | None:
        """The process itself; None while it is down."""
        return self._slots[pid].process

    def up(self, pid: Pid) -> bool:
        """Whether a process runs, paused or not."""
        slot = self._slots.get(pid)
        return slot is not None and slot.process is not None

    @property
    def pids(self) -> list[Pid]:
        """All processes, in the order of spawning, whether they run or not."""
        return list(self._slots)

    def check(self, check: Check) -> None:
        """Call this after each step of each process. It raises if something is wrong."""
        self._checks.append(check)

    def always(self, holds: Callable[[Mapping[Pid, Process]], None]) -> None:
        """Call this after each step with all processes, by pid. It raises if something is wrong.

        Of a process that crashed it sees the last state. Unlike `check`, this speaks about states alone, whatever led to
        them, so `explore` can use it, too.
        """
        self._always.append(holds)
        self._latest.update((pid, slot.process) for pid, slot in self._slots.items() if slot.process is not None)

    # --- What may happen next ---

    @property
    def pending(self) -> list[Pending]:
        """What may happen now, in the order in which it became pending: neither cut off, nor paused."""
        return [item for item in self._items if not self.blocked(item)]

    @property
    def waiting(self) -> list[Pending]:
        """What is pending but can't happen: on a path that is cut, or at a process that is paused."""
        return [item for item in self._items if self.blocked(item)]

    def blocked(self, item: Pending) -> bool:
        """Whether this can't happen now."""
        return item.slot.paused or (item.path is not None and item.path.cut)

    def find(self, id: str) -> Pending:
        """What is pending under this id. Raises `ScheduleError` if nothing is."""
        for item in self._items:
            if item.id == id:
                return item
        raise ScheduleError(f"nothing is pending under the name {id!r}")

    # --- Inside ---

    def _count(self, what: str) -> None:
        """Add one to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def _need(self, item: Pending, kind: str) -> None:
        if not item.alive or item.kind != kind:
            raise ScheduleError(f"{item.id} is not a {kind} that is pending")
        if self.blocked(item):
            raise ScheduleError(f"{item.id} can't happen now: its path is cut, or its process is paused")

    def _running(self, pid: Pid) -> Slot:
        slot = self._slots.get(pid)
        if slot is None or slot.process is None:
            raise ScheduleError(f"{self.name(pid)} does not run")
        return slot

    def _add(self, item: Pending) -> None:
        self._items[item] = None
        self._fresh.append(item)

    def _take(self, item: Pending) -> None:
        item.alive = False
        del self._items[item]

    def _path(self, sender: Pid, to: Pid) -> Path:
        path = Path(sender, to, f"{self.name(sender)}>{self.name(to)}", self._slots.get(to))
        path.cut = (sender, to) in self._cuts
        self._paths.append(path)
        return path

    def _put(self, path: Path, message: Any, cid: CorrelationId | None) -> Pending | None:
        kind = type(message)
        number = path.counts[kind] = path.counts.get(kind, 0) + 1
        slot = path.receiver
        if slot is None:
            self.received.append(Envelope(path.to, path.sender, message, cid))
            return None
        item = Pending(MESSAGE, slot, path, message, cid)
        item.number = number
        self._items[item] = None
        self._fresh.append(item)
        return item

    def _from_executor(self, slot: Slot, message: Any) -> Pending | None:
        paths = self._outside.setdefault(slot.executor, {})
        path = paths.get(slot.pid)
        if path is None:
            path = paths[slot.pid] = self._path(slot.executor, slot.pid)
        return self._put(path, message, None)

    def _tell(self, slot: Slot, message: Any) -> None:
        """The runtime tells a process about its journal. It does so in order, so what is newer stands for what waits."""
        waiting = slot.told.get(type(message))
        if waiting is not None and waiting.alive:
            self._take(waiting)
        told = self._from_executor(slot, message)
        assert told is not None
        slot.told[type(message)] = told

    def _start(self, slot: Slot) -> None:
        slot.incarnation += 1
        slot.persisted = slot.durable = 0
        process = slot.process = slot.factory()
        output = slot.output
        output.clear()
        if slot.journal is not None:
            self._restore_process(slot.journal, process)
        process.init(slot.pid, output)
        self._finish_step(slot, process, "start", None, None, None, None)

    def _restore_process(self, journal: SimulatedJournal, process: Process) -> None:
        damage = journal.take()
        if damage is not None:
            process.damaged(damage)
        elif not journal.empty:
            process.restore(journal.snapshot, tuple(journal.records))

    def _handle(self, slot: Slot, message: Any, sender: Pid, cid: CorrelationId | None, crash: Crash | None) -> None:
        process = slot.process
        assert process is not None
        process.handle(message, sender, cid, slot.output)
        self._finish_step(slot, process, "message", message, sender, cid, crash)
        if type(message) is Shutdown and slot.process is process:
            self._finish(slot, "stopped")

    def _finish_step(
        self,
        slot: Slot,
        process: Process,
        event: str,
        message: Any,
        sender: Pid | None,
        cid: CorrelationId | None,
        crash: Crash | None,
    ) -> None:
        self.steps += 1
        items = slot.output.items
        if crash is not None and crash.effects is not None:
            del items[crash.effects :]
        if items:
            self._carry_out(slot, items)
        if self._checks:
            step = Step(slot.pid, slot.name, process, event, sender, message, cid, items)
            for check in self._checks:
                check(step)
        if self._always:
            self._latest[slot.pid] = process
            for holds in self._always:
                holds(self._latest)
        items.clear()
        if crash is not None and slot.process is not None:
            self._crash(slot, crash)

    def _carry_out(self, slot: Slot, items: list[tuple[Pid | None, Any, CorrelationId | None, bool]]) -> None:
        executor, paths = slot.executor, slot.paths
        stops = False
        for to, message, cid, held in items:
            if to is executor:
                if type(message) is StartTimer:
                    self._start_timer(slot, message.seconds, cid)
                elif type(message) is Stop:
                    stops = True
                else:
                    self._execute(slot, message, cid)
            elif to is None:
                self._append(slot, message)
            elif held and slot.durable < slot.persisted:
                slot.held.append((slot.persisted, to, message, cid))
            else:
                path = paths.get(to)
                if path is None:
                    path = paths[to] = self._path(slot.pid, to)
                self._put(path, message, cid)
        if stops:
            self._finish(slot, "finished")

    def _execute(self, slot: Slot, message: Any, cid: CorrelationId | None) -> None:
        match message:
            case CancelTimer():
                timer = slot.timers.pop(cid, None)
                if timer is not None:
                    self._take(timer)
            case Monitor(pid):
                other = self._slots.get(pid)
                if other is None or other.process is None:
                    self._from_executor(slot, Down(pid, "not running"))
                else:
                    other.watchers[slot.pid] = None
                    slot.watching[pid] = None
            case Demonitor(pid):
                other = self._slots.get(pid)
                if other is not None:
                    other.watchers.pop(slot.pid, None)
                slot.watching.pop(pid, None)
            case _:
                self.received.append(Envelope(slot.executor, slot.pid, message, cid))

    def _start_timer(self, slot: Slot, seconds: float, cid: CorrelationId | None) -> None:
        running = slot.timers.get(cid)
        if running is not None:
            self._take(running)
        timer = slot.timers[cid] = Pending(TIMER, slot, None, None, cid)
        timer.seconds = seconds
        self._items[timer] = None
        self._fresh.append(timer)

    def _append(self, slot: Slot, effect: Any) -> None:
        journal = slot.journal
        if journal is None:
            raise TypeError(f"{slot.name} persists, so it needs a journal: spawn(..., journal=True)")
        if type(effect) is Persist:
            journal.unsynced.append(effect.record)
            slot.persisted += 1
            if slot.sync is None:
                slot.sync = self._need_sync(slot, SYNC)
        else:
            journal.ask(effect.encode)
            if slot.image is not None:
                self._take(slot.image)
            slot.image = self._need_sync(slot, SNAPSHOT)

    def _need_sync(self, slot: Slot, kind: str) -> Pending:
        item = Pending(kind, slot, None, None, None)
        self._add(item)
        return item

    def _synced(self, slot: Slot, count: int) -> None:
        """So many more records are durable: what waited for that leaves."""
        journal = slot.journal
        assert journal is not None
        if slot.sync is not None and not journal.unsynced:
            if slot.sync.alive:
                self._take(slot.sync)
            slot.sync = None
        if not count:
            return
        slot.durable += count
        self._release(slot)
        self._tell(slot, Persisted(slot.durable))

    def _release(self, slot: Slot) -> None:
        held = slot.held
        while held and held[0][0] <= slot.durable:
            _, to, message, cid = held.popleft()
            path = slot.paths.get(to)
            if path is None:
                path = slot.paths[to] = self._path(slot.pid, to)
            self._put(path, message, cid)

    def _crash(self, slot: Slot, how: Crash) -> None:
        process = slot.process
        assert process is not None
        if slot.journal is not None and slot.journal.crash(how):
            slot.damages += 1
            slot.damaged_in = slot.incarnation
            for kind, name in DAMAGES.items():
                if getattr(how, kind):
                    self._count(name)
        self._end(slot, "crashed: by choice")
        if self._checks:
            step = Step(slot.pid, slot.name, process, "crash", None, None, None, ())
            for check in self._checks:
                check(step)

    def _finish(self, slot: Slot, reason: str) -> None:
        """A process ends by itself: it waits for its records, and what waits for them leaves."""
        if slot.journal is not None:
            slot.durable += slot.journal.sync()
            self._release(slot)
        self._end(slot, reason)

    def _end(self, slot: Slot, reason: str) -> None:
        slot.process = None
        slot.paused = False
        slot.doomed = None
        slot.held.clear()
        for timer in slot.timers.values():
            self._take(timer)
        slot.timers.clear()
        for item in (slot.sync, slot.image):
            if item is not None and item.alive:
                self._take(item)
        slot.sync = slot.image = None
        slot.told.clear()
        if slot.journal is not None:
            slot.journal.image = None
        # What the runtime told this incarnation is nothing to the next one.
        for item in [item for item in self._items if item.slot is slot and item.sender is slot.executor]:
            self._take(item)
        for pid in slot.watching:
            self._slots[pid].watchers.pop(slot.pid, None)
        slot.watching.clear()
        watchers, slot.watchers = list(slot.watchers), {}
        for pid in watchers:
            watcher = self._slots[pid]
            watcher.watching.pop(slot.pid, None)
            self._from_executor(watcher, Down(slot.pid, reason))
