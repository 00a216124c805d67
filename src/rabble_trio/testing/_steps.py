"""What single processes do in an exploration: each step is executed once, and remembered. For `_explore`.

Rules:

1. A local state is everything that belongs to one process: its own state, its timers, its journal, what waits for
   records to become durable, whom it monitors. Equal ones have one number, its *place*.
2. A step depends on the place and on the action alone. What it does to others is part of its outcome: messages that it
   sends, what it asks about others, and that it ended.
3. What is durable matters to nobody but a later incarnation. Where nobody is restarted, it is forgotten.
4. What the runtime tells a process (`Persisted`, `Snapshotted`, `Down`) is a message as well, a *notice*: it comes once,
   and is gone when its receiver ends. Of a kind about the journal, a newer one takes the place of an older one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from .._ids import CorrelationId, Pid
from .._messages import (
    CancelTimer,
    Demonitor,
    Down,
    Monitor,
    Persisted,
    Shutdown,
    Snapshotted,
    StartTimer,
    Stop,
    Timeout,
)
from .._process import Persist, Process
from ._choices import Crash
from ._disk import SimulatedJournal
from ._freeze import Freezer
from ._pending import Held, Slot
from ._simulation import Simulation

DELIVER, FIRE, CRASH, RESTART, KEEP = "deliver", "fire", "crash", "restart", "duplicate"
SYNC, SNAPSHOT = "sync", "snapshot"

MAX_EAGER: Final = 1000
"""Syncs and notices that follow one step at most when syncing is eager; beyond it, a process persists in a circle."""

ABOUT_JOURNAL: Final = (Persisted, Snapshotted)
"""Notices of which the newest is enough."""

Action = tuple[str, int, Any]
"""What is chosen: the verb, the index of the process, and a message's number, a timer's correlation id, or a `Crash`."""


class Disk(NamedTuple):
    """The journal of a process, and what waits for it."""

    snapshot: bytes | None
    records: tuple[bytes, ...]
    unsynced: tuple[bytes, ...]
    image: tuple[int, bytes] | None
    persisted: int
    durable: int
    held: tuple[Held, ...]
    stored: bool


def _disk(journal: SimulatedJournal, persisted: int, durable: int, held: Iterable[Held]) -> Disk:
    image = None if journal.image is None else (journal.image[0], journal.image[1]())
    records, unsynced = tuple(journal.records), tuple(journal.unsynced)
    return Disk(journal.snapshot, records, unsynced, image, persisted, durable, tuple(held), journal.stored > 0)


def _forget(disk: Disk) -> Disk:
    """Rule 3."""
    image = disk.image
    if image is not None:
        # It covers the same of the records that remain.
        image = max(0, image[0] - len(disk.records)), image[1]
    return disk._replace(snapshot=None, records=(), image=image)


class Local(NamedTuple):
    """Rule 1. `owner`: the index of the process."""

    owner: int
    process: Process
    timers: tuple[CorrelationId | None, ...]
    up: bool
    incarnation: int
    disk: Disk | None
    watching: tuple[int, ...]
    damages: int


class Message(NamedTuple):
    """A message under way; `kind` is that of a notice, and None for all others."""

    to: int
    sender: Pid
    message: Any
    correlation_id: CorrelationId | None
    kind: type | None


class More(NamedTuple):
    """What few steps do."""

    told: tuple[int, ...]
    """Notices about its journal, to itself."""
    asked: tuple[tuple[int, int], ...]
    """Whose end it wants to hear of, by index, -1 for those outside; and the notice that it gets if that one is down."""
    touched: frozenset[int]
    """Whose place it depends on for that, or for asking no more."""
    ended: str
    """Why it ended; "" if it did not."""


Outcome = tuple[int, tuple[int, ...], More | None]
"""The new place, the messages sent, and more."""


class Choices(NamedTuple):
    """What a process may do by itself in a place."""

    fires: tuple[Action, ...]
    syncs: tuple[Action, ...]
    crashes: tuple[Action, ...]
    amnesia: tuple[Action, ...]
    restarts: tuple[Action, ...]


class Steps:
    """See the rules at the top of this file."""

    def __init__(self, world: Simulation, freezer: Freezer, eager: bool, restarts: bool) -> None:
        self.world = world
        self.freezer = freezer
        self.eager = eager
        self.restarts = restarts
        self.pids = world.pids
        self.index = {pid: index for index, pid in enumerate(self.pids)}
        self.locals: list[Local] = []
        self.messages: list[Message] = []
        self.executed = 0
        self.monitors = False
        """Whether any process ever asked about another."""
        self.deliveries: dict[tuple[int, int], Action | None] = {}
        """What `delivery` answered, by place and number."""
        self._places: dict[Any, int] = {}
        self._numbers: dict[Any, int] = {}
        self._outcomes: dict[tuple[int, Action], Outcome] = {}
        self._choices: dict[int, Choices] = {}
        self._may_crash = {pid for pids, _, _ in world._crash_limits for pid in pids}
        self._may_forget = {pid for limit in world._damage_limits for pid in limit.pids}

    def keep(self, local: Local) -> int:
        """The place of a local state."""
        if local.disk is not None and not self.restarts:
            local = local._replace(disk=_forget(local.disk))
        key = (local.owner, self.freezer.freeze(local.process), *local[2:])
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.locals)
            self.locals.append(local)
        return place

    def post(self, sender: Pid, to: Pid, message: Any, cid: CorrelationId | None, kind: type | None = None) -> int:
        """The number of a message."""
        key = (sender, to, message, cid)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.messages)
            self.messages.append(Message(self.index[to], sender, message, cid, kind))
        return number

    def notice(self, to: int, message: Any) -> int:
        """The number of a message from the runtime."""
        pid = self.pids[to]
        return self.post(self.world._slots[pid].executor, pid, message, None, type(message))

    def unwatch(self, place: int, index: int) -> int:
        """The place without a monitor of that process."""
        local = self.locals[place]
        return self.keep(local._replace(watching=tuple(one for one in local.watching if one != index)))

    # --- What may be done ---

    def choices(self, place: int) -> Choices:
        """What the process in this place may do without a message."""
        found = self._choices.get(place)
        if found is None:
            found = self._choices[place] = self._find_choices(self.locals[place])
        return found

    def _find_choices(self, local: Local) -> Choices:
        index, disk = local.owner, local.disk
        if not local.up:
            return Choices((), (), (), (), ((RESTART, index, None),))
        syncs: list[Action] = []
        crashes: list[Action] = []
        amnesia: list[Action] = []
        if disk is not None:
            if disk.unsynced:
                syncs.append((SYNC, index, None))
            if disk.image is not None:
                syncs.append((SNAPSHOT, index, None))
        if self.pids[index] in self._may_crash:
            crashes.append((CRASH, index, None))
            if disk is not None:
                # That all of it became durable is a sync, and then a crash.
                crashes += [(CRASH, index, Crash(keep=keep)) for keep in range(1, len(disk.unsynced))]
                if self.pids[index] in self._may_forget:
                    amnesia.append((CRASH, index, Crash(amnesia=True)))
        fires = tuple((FIRE, index, cid) for cid in local.timers)
        return Choices(fires, tuple(syncs), tuple(crashes), tuple(amnesia), ())

    def delivery(self, place: int, number: int) -> Action | None:
        """The delivery of a message to the process in this place; None if it is down, or nothing comes of it."""
        action: Action = (DELIVER, self.messages[number].to, number)
        useful = self.locals[place].up and self.step(place, action) != (place, (), None)
        found = self.deliveries[place, number] = action if useful else None
        return found

    # --- Doing it ---

    def step(self, place: int, action: Action) -> Outcome:
        """What comes of an action of the process in this place. Raises what the process raises."""
        key = (place, action)
        outcome = self._outcomes.get(key)
        if outcome is None:
            outcome = self._outcomes[key] = self._execute(self.locals[place], action)
        return outcome

    def _execute(self, local: Local, action: Action) -> Outcome:
        verb, _, what = action
        one = _Running(self, local)
        if verb == CRASH:
            one.crash(what or Crash())
        elif verb == RESTART:
            one.start()
        elif verb == SYNC:
            one.sync()
        elif verb == SNAPSHOT:
            one.sync_image()
        elif verb == FIRE:
            del one.timers[what]
            one.handle(Timeout(), one.pid, what)
        else:
            _, sender, message, cid, _ = self.messages[what]
            one.handle(message, sender, cid)
        if self.eager:
            one.sync_all()
        return one.outcome()


class _Running:
    """A process that is about to do something: its local state, taken apart."""

    def __init__(self, steps: Steps, local: Local) -> None:
        self.steps = steps
        self.local = local
        self.index = local.owner
        self.pid = steps.pids[local.owner]
        self.slot = steps.world._slots[self.pid]
        self.process = local.process
        self.timers = dict.fromkeys(local.timers)
        self.watching = dict.fromkeys(local.watching)
        self.up = local.up
        self.incarnation = local.incarnation
        self.damages = local.damages
        self.persisted = self.durable = 0
        self.held: deque[Held] = deque()
        self.journal = None if local.disk is None else self._open(local.disk)
        self.sent: list[int] = []
        self.told: dict[type, Any] = {}
        self.asked: list[tuple[int, int]] = []
        self.touched: set[int] = set()
        self.ended = ""

    def _open(self, disk: Disk) -> SimulatedJournal:
        self.persisted, self.durable = disk.persisted, disk.durable
        self.held.extend(disk.held)
        image = None
        if disk.image is not None:
            covered, snapshot = disk.image
            image = covered, lambda: snapshot
        return SimulatedJournal(
            True, disk.snapshot, list(disk.records), list(disk.unsynced), image, stored=int(disk.stored)
        )

    def outcome(self) -> Outcome:
        """What became of it."""
        local = Local(
            self.index,
            self.process,
            tuple(sorted(self.timers, key=repr)),
            self.up,
            self.incarnation,
            None if self.journal is None else _disk(self.journal, self.persisted, self.durable, self.held),
            tuple(sorted(self.watching)),
            self.damages,
        )
        more = None
        if self.told or self.asked or self.touched or self.ended:
            told = tuple(self.steps.notice(self.index, message) for message in self.told.values())
            more = More(told, tuple(self.asked), frozenset(self.touched), self.ended)
        return self.steps.keep(local), tuple(self.sent), more

    # --- What can be chosen ---

    def handle(self, message: Any, sender: Pid, cid: CorrelationId | None) -> None:
        """Handle a message."""
        if self.process is self.local.process:
            self.process = self.steps.freezer.copy(self.process)
        self.steps.executed += 1
        output = self.slot.output
        output.clear()
        self.process.handle(message, sender, cid, output)
        self._carry_out(output.items)
        if type(message) is Shutdown and self.up:
            self._finish("stopped")

    def start(self) -> None:
        """Begin anew, from the journal if there is one."""
        self.steps.executed += 1
        self.incarnation += 1
        slot, journal = self.slot, self.journal
        # What a factory may ask the simulation.
        slot.incarnation, slot.damages = self.incarnation, self.damages
        if slot.journal is not None and journal is not None:
            slot.journal.stored = journal.stored
        self.process = slot.factory()
        self.up = True
        slot.output.clear()
        if journal is not None and not journal.empty:
            self.process.restore(journal.snapshot, tuple(journal.records))
        self.process.init(self.pid, slot.output)
        self._carry_out(slot.output.items)

    def crash(self, how: Crash) -> None:
        """End without a warning."""
        if self.journal is not None and self.journal.crash(how):
            self.damages += 1
        self._end("crashed: by choice")

    def sync(self) -> None:
        """All records become durable."""
        assert self.journal is not None
        self._synced(self.journal.sync())

    def sync_image(self) -> None:
        """The snapshot becomes durable, and what it covers."""
        assert self.journal is not None
        moved, size = self.journal.sync_image()
        self._synced(moved)
        self.told[Snapshotted] = Snapshotted(size)

    def sync_all(self) -> None:
        """Sync until there is nothing left to sync, and the process knows."""
        for _ in range(MAX_EAGER):
            if self.told:
                # As they were told: the records that a snapshot covers come before it.
                self.handle(self.told.pop(min(self.told, key=ABOUT_JOURNAL.index)), self.slot.executor, None)
            elif self.journal is None or not self.up:
                return
            elif self.journal.unsynced:
                self.sync()
            elif self.journal.image is not None:
                self.sync_image()
            else:
                return
        raise RuntimeError(f"{self.slot.name} persists whenever it hears that something is durable, without an end")

    # --- Effects, as `_world` carries them out ---

    def _carry_out(self, items: list[tuple[Pid | None, Any, CorrelationId | None, bool]]) -> None:
        stops = False
        for to, message, cid, held in items:
            if to is self.slot.executor:
                stops = stops or type(message) is Stop
                self._ask_executor(message, cid)
            elif to is None:
                self._append(message)
            elif held and self.durable < self.persisted:
                self.held.append((self.persisted, to, message, cid))
            else:
                self._send(to, message, cid)
        items.clear()
        if stops:
            self._finish("finished")

    def _send(self, to: Pid, message: Any, cid: CorrelationId | None) -> None:
        if to in self.steps.index:
            self.sent.append(self.steps.post(self.pid, to, message, cid))

    def _ask_executor(self, message: Any, cid: CorrelationId | None) -> None:
        match message:
            case StartTimer():
                self.timers[cid] = None
            case CancelTimer():
                self.timers.pop(cid, None)
            case Monitor(pid):
                index = self.steps.index.get(pid, -1)
                self.asked.append((index, self.steps.notice(self.index, Down(pid, "not running"))))
                if index >= 0:
                    self.steps.monitors = True
                    self.touched.add(index)
                    self.watching[index] = None
            case Demonitor(pid) if pid in self.steps.index:
                self.steps.monitors = True
                self.touched.add(self.steps.index[pid])
                self.watching.pop(self.steps.index[pid], None)

    def _append(self, effect: Any) -> None:
        if self.journal is None:
            raise TypeError(f"{self.slot.name} persists, so it needs a journal: spawn(..., journal=True)")
        if type(effect) is Persist:
            self.journal.unsynced.append(effect.record)
            self.persisted += 1
        else:
            self.journal.ask(effect.encode)

    def _synced(self, moved: int) -> None:
        if moved:
            self.durable += moved
            while self.held and self.held[0][0] <= self.durable:
                self._send(*self.held.popleft()[1:])
            self.told[Persisted] = Persisted(self.durable)

    def _finish(self, reason: str) -> None:
        if self.journal is not None:
            self._synced(self.journal.sync())
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.ended, self.up = reason, False
        self.persisted = self.durable = 0
        self.timers.clear()
        self.watching.clear()
        self.held.clear()
        self.told.clear()
        if self.journal is not None:
            self.journal.image = None


def local_of(steps: Steps, slot: Slot) -> Local:
    """The local state of a process that runs in the world."""
    if slot.process is None:
        raise TypeError(f"explore() begins with processes that all run, and {slot.name} does not")
    disk = None if slot.journal is None else _disk(slot.journal, slot.persisted, slot.durable, slot.held)
    watching = tuple(sorted(steps.index[pid] for pid in slot.watching))
    steps.monitors = steps.monitors or bool(watching)
    timers = tuple(sorted(slot.timers, key=repr))
    return Local(steps.index[slot.pid], slot.process, timers, True, slot.incarnation, disk, watching, slot.damages)


def sync_eagerly(world: Simulation, pids: Iterable[Pid]) -> None:
    """What `_Running.sync_all` does, in a world."""
    for pid in pids:
        slot = world._slots[pid]
        for _ in range(MAX_EAGER):
            waiting = [slot.told[kind] for kind in ABOUT_JOURNAL if kind in slot.told and slot.told[kind].alive]
            if waiting:
                world.deliver(waiting[0])
            elif slot.sync is not None:
                world.sync(slot.sync)
            elif slot.image is not None:
                world.sync(slot.image)
            else:
                break
