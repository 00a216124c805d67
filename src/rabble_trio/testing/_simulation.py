"""A world of processes without Trio, in which whoever holds it decides everything that happens.

Rules:

1. A process runs only while it handles one message, and its effects are carried out as the executor carries them out
   (`rabble_trio.Process`, `rabble_trio.Outbox`): in order, behind the barrier of records that are not yet durable.
2. Nothing else happens by itself. A message arrives, a timer fires, a journal syncs when it is *chosen*; each choice is
   written down in `history`. So a history replayed on an equal world does exactly the same.
3. `step` chooses by itself: by virtual time, the seed and the faults (`_driver`).
4. Checks run after each step and are told what it changed, so they need not look at the whole world.
5. A process is known by a short name: its pid's name, or the whole pid if an earlier one has that name already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from random import Random
from typing import Any, Final

from .._ids import CorrelationId, Pid
from .._messages import CancelTimer, Demonitor, Down, Monitor, Persisted, Shutdown, StartTimer, Stop, Timeout
from .._process import Envelope, Persist, Process
from ._choices import Choice, Crash, ScheduleError, message_from_json, message_to_json
from ._driver import Driver
from ._faults import Faults
from ._pending import MESSAGE, SYNC, TIMER, Path, Pending, SimulatedJournal, Slot

SETTLE_SECONDS: Final = 30.0
"""How much virtual time a world gets to converge once the faults have stopped: many times any usual timeout."""

SETTLE_STEPS: Final = 200_000
"""And how many steps, in case that time hardly moves because processes do nothing but chatter."""

MAX_RECEIVED: Final = 100_000
"""Envelopes to pids outside of the simulation that are kept; then the oldest ones go, as in long runs nobody looks."""

_TIMEOUT: Final = Timeout()


class NotConverged(AssertionError):
    """The faults stopped, and the world did not become what it should, although it had time enough."""


@dataclass(slots=True)
class Step:
    """What a check is told: one process did one thing. The object is reused, so copy what you keep."""

    pid: Pid
    """The process."""
    name: str
    """Its name in the simulation."""
    process: Process
    """The process itself, after the step. After a crash: as it was."""
    event: str
    """"start" (`restore` and `init`), "message" (`handle`), or "crash"."""
    sender: Pid | None
    """Who sent the message; None if there was none."""
    message: Any
    """What was handled; None if nothing was."""
    correlation_id: CorrelationId | None
    """That of the message."""
    output: Sequence[tuple[Pid | None, Any, CorrelationId | None, bool]]
    """The effects, in order, as `Outbox` keeps them: (to, message, correlation id, held); `to` is None for records."""


Check = Callable[[Step], None]
"""Raises whatever it likes if something is wrong."""


class Simulation:
    """A deterministic world of processes. See the rules at the top of its module.

    `seed`: decides everything that `step` and `run` choose, and all that comes from `random`. `faults`: what goes wrong;
    by default nothing.
    """

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.seed = seed
        self.faults = faults or Faults()
        self.now = 0.0
        """Virtual time in seconds. Only `step` moves it."""
        self.history: list[tuple[Any, ...]] = []
        """The choices so far, in a compact form; `choices` makes values of them."""
        self.received: deque[Envelope] = deque(maxlen=MAX_RECEIVED)
        """What processes sent to pids outside of the simulation."""
        self.steps = 0
        """How often a process handled a message or started."""
        self.counts: dict[str, int] = {}
        """How often each verb was chosen, and each kind of fault (the driver counts those)."""
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
        self._crash_limits: list[tuple[tuple[Pid, ...], int, int | None]] = []  # for the driver: see may_crash
        self._converged: Callable[[], bool] | None = None
        self._core: Callable[[Random], Iterable[Pid]] | None = None
        self._friends: frozenset[Pid] = frozenset()
        self._settling = False
        self._driver = Driver(self, self.random("driver"), self.faults)

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
        whether it may persist. `checksums`: whether its journal notices torn records. Raises `ValueError` if it runs.
        """
        if pid in self._slots:
            raise ValueError(f"{pid} is there already")
        slot = Slot(pid, self.name(pid), factory, SimulatedJournal(checksums) if journal else None)
        self._slots[pid] = slot
        for path in self._paths:
            if path.to == pid:
                path.receiver = slot
        self._start(slot)

    def incarnation(self, pid: Pid) -> int:
        """How often a process has been started: 1 for the first time; 0 if it never was."""
        slot = self._slots.get(pid)
        return 0 if slot is None else slot.incarnation

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

    def may_crash(self, pids: Iterable[Pid], *, at_once: int, total: int | None = None) -> None:
        """Which processes `step` may crash, how many of them at once, and how many crashes in all (None: any number)."""
        self._crash_limits.append((tuple(pids), at_once, total))

    @property
    def crashable(self) -> list[Pid]:
        """Processes that may crash now, without exceeding what `may_crash` allows."""
        found: list[Pid] = []
        for pids, at_once, total in self._crash_limits:
            slots = [self._slots[pid] for pid in pids]
            down = sum(slot.process is None or slot.doomed is not None for slot in slots)
            crashes = down + sum(slot.incarnation - 1 for slot in slots)
            if down < at_once and (total is None or crashes < total):
                found += [slot.pid for slot in slots if slot.process is not None and slot.doomed is None]
        return found

    def converges(
        self,
        done: Callable[[], bool],
        core: Callable[[Random], Iterable[Pid]] | None = None,
        friends: Iterable[Pid] = (),
    ) -> None:
        """What `settle` waits for: `done()`.

        `core` draws the processes that must be healthy for it; by default all. `friends`: processes that `settle` lets
        reach everybody, such as clients, who can't be served by whom they can't reach.
        """
        self._converged = done
        self._core = core
        self._friends = frozenset(friends)

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

    # --- Choices ---

    def send(self, to: Pid, message: Any, *, sender: Pid, cid: CorrelationId | None = None) -> Pending | None:
        """A message from outside is on its way; None if the receiver is outside, too."""
        self._note("send", to, sender, message, cid)
        path = self._outside.setdefault(sender, {}).get(to)
        if path is None:
            path = self._outside[sender][to] = self._path(sender, to)
        return self._put(path, message, cid)

    def deliver(self, item: Pending, crash: Crash | None = None) -> None:
        """A message arrives. `crash`: how its receiver crashes while carrying out the effects of the step.

        A message to a process that is down vanishes. Raises `ScheduleError` if the message can't arrive now.
        """
        self._need(item, MESSAGE)
        self._note("deliver", item, crash)
        self._take(item)
        if item.slot.process is None:
            self._count("dead letter")
            return
        assert item.path is not None
        self._handle(item.slot, item.message, item.path.sender, item.correlation_id, crash)

    def drop(self, item: Pending) -> None:
        """A message is lost; it may be one that waits."""
        if not item.alive or item.kind != MESSAGE:
            raise ScheduleError(f"only a message that is pending can be lost, not {item.id}")
        self._note("drop", item)
        self._take(item)

    def duplicate(self, item: Pending) -> Pending:
        """A message will arrive once more; returns the copy."""
        if not item.alive or item.kind != MESSAGE or item.path is None:
            raise ScheduleError(f"only a message that is pending can be doubled, not {item.id}")
        self._note("duplicate", item)
        copy = Pending(MESSAGE, item.slot, item.path, item.message, item.correlation_id)
        copy.number = item.number
        key = (type(item.message), item.number)
        copy.copy = item.path.copies[key] = item.path.copies.get(key, 0) + 1
        self._add(copy)
        return copy

    def fire(self, item: Pending, crash: Crash | None = None) -> None:
        """A timer runs out, whatever time it was started for. `crash` as in `deliver`."""
        self._need(item, TIMER)
        self._note("fire", item, crash)
        self._take(item)
        slot = item.slot
        del slot.timers[item.correlation_id]
        self._handle(slot, _TIMEOUT, slot.pid, item.correlation_id, crash)

    def sync(self, item: Pending, count: int | None = None) -> None:
        """The journal of a process makes what waits durable, or only the first `count` records and snapshots of it."""
        self._need(item, SYNC)
        slot = item.slot
        journal = slot.journal
        assert journal is not None
        if count is not None and not 0 < count <= len(journal.unsynced):
            raise ScheduleError(f"{len(journal.unsynced)} records of {slot.name} wait, so {count} can't become durable")
        self._note("sync", item, count)
        self._take(item)
        slot.sync = None
        slot.durable += journal.sync(len(journal.unsynced) if count is None else count)
        if journal.unsynced:
            self._need_sync(slot)
        self._release(slot)
        self._from_executor(slot, Persisted(slot.durable))

    def crash(self, pid: Pid, how: Crash | None = None) -> None:
        """A process ends, and with it all that it held back; what it sent stays under way. See `Crash`."""
        slot = self._running(pid)
        self._note("crash", slot, how)
        self._crash(slot, how or Crash())

    def restart(self, pid: Pid) -> None:
        """A process that is down begins anew, from its journal if it has one."""
        slot = self._slots[pid]
        if slot.process is not None:
            raise ScheduleError(f"{slot.name} runs already")
        self._note("restart", slot)
        self._start(slot)

    def pause(self, pid: Pid) -> None:
        """A process stands still: nothing arrives, and its timers don't fire, until `resume`."""
        slot = self._running(pid)
        self._note("pause", slot)
        slot.paused = True

    def resume(self, pid: Pid) -> None:
        """A paused process goes on."""
        slot = self._slots[pid]
        self._note("resume", slot)
        slot.paused = False

    def partition(self, some: Iterable[Pid], others: Iterable[Pid], *, one_way: bool = False) -> None:
        """Cut all paths from some processes to others, and back unless `one_way`.

        What is on its way on them waits until `heal`, or is dropped. Actors of one node always reach each other.
        """
        some, others = tuple(some), tuple(others)
        self._cut(some, others)
        if not one_way:
            self._cut(others, some)

    def _cut(self, senders: tuple[Pid, ...], receivers: tuple[Pid, ...]) -> None:
        self._note("cut", senders, receivers)
        self._cuts |= {(a, b) for a in senders for b in receivers if a.node != b.node}
        for path in self._paths:
            path.cut = path.cut or (path.sender, path.to) in self._cuts

    def heal(self) -> None:
        """All paths work again."""
        self._note("heal")
        self._cuts.clear()
        for path in self._paths:
            path.cut = False

    def step(self) -> bool:
        """Let the next thing happen, as the seed and the faults will. Returns False if there is nothing left."""
        return self._driver.step()

    def run(self, steps: int) -> None:
        """Take that many steps, or fewer if nothing is left to happen."""
        for _ in range(steps):
            if not self._driver.step():
                return

    def settle(self, core: Iterable[Pid] | None = None, seconds: float = SETTLE_SECONDS) -> None:
        """The faults stop for the processes of the core; then the world must converge (`converges`).

        They are started again, and reach each other; what is cut off, down or paused besides stays so. Everything then
        happens in its time, without any chance in it. `core`: by default drawn as `converges` said. `seconds`: how much
        virtual time there is. Raises `NotConverged`.
        """
        if core is None:
            core = self._slots if self._core is None else self._core(self.random(f"core {len(self.history)}"))
        members = tuple(core)
        self._note("settle", members, float(seconds))
        self._settling = True
        try:
            self._restore(members)
            self._converge(seconds)
        finally:
            self._settling = False

    def _restore(self, core: tuple[Pid, ...]) -> None:
        inside, friends = set(core), self._friends
        self._cuts = {
            (a, b) for a, b in self._cuts if not ((a in inside and b in inside) or a in friends or b in friends)
        }
        for path in self._paths:
            path.cut = (path.sender, path.to) in self._cuts
        for pid in (*core, *(pid for pid in self._slots if pid in friends)):
            slot = self._slots[pid]
            slot.paused = False
            slot.doomed = None
            if slot.process is None:
                self._start(slot)

    def _converge(self, seconds: float) -> None:
        calm = Driver(self, self.random("calm"), Faults())
        self._fresh = list(self._items)
        deadline, last = self.now + seconds, self.steps + SETTLE_STEPS
        done = self._converged or (lambda: not any(item.kind == MESSAGE for item in self.pending))
        look = self.now
        while True:
            if self.now >= look:
                if done():
                    break
                look = self.now + 0.05  # looking may be dear
            if self.now > deadline or self.steps > last or not calm.step():
                if done():
                    break
                raise NotConverged(
                    f"{seconds:g} s after the faults stopped the world has not converged; still pending: "
                    f"{', '.join(item.id for item in self.pending[:10]) or 'nothing'}"
                )
        self._driver.adopt(self._items)

    # --- Schedules ---

    @property
    def choices(self) -> list[Choice]:
        """All choices so far, as values."""
        return [self._choice(*entry) for entry in self.history]

    def _choice(self, verb: str, *arguments: Any) -> Choice:
        match verb, arguments:
            case "send", (to, sender, message, cid):
                detail = {"from": self._text(sender), "message": message_to_json(message)}
                if cid is not None:
                    detail["cid"] = [str(cid.pid), cid.connection, cid.request]
                return Choice(verb, self._text(to), detail)
            case "deliver" | "fire", (item, crash):
                return Choice(verb, item.id, {} if crash is None else {"crash": crash.to_detail()})
            case "sync", (item, count):
                return Choice(verb, item.id, {} if count is None else {"count": count})
            case "crash", (slot, how):
                return Choice(verb, slot.name, {} if how is None else how.to_detail())
            case "cut", (senders, receivers):
                return Choice(
                    verb, "", {"from": list(map(self._text, senders)), "to": list(map(self._text, receivers))}
                )
            case "settle", (core, seconds):
                return Choice(verb, "", {"core": list(map(self._text, core)), "seconds": seconds})
            case _, ():
                return Choice(verb)
            case _, (item,):
                return Choice(verb, item.name if isinstance(item, Slot) else item.id)
        raise AssertionError(f"no such choice: {verb}")

    def perform(self, choice: Choice) -> None:
        """Do what a choice says. Raises `ScheduleError` if that can't be done here and now."""
        try:
            act = self._action(choice.do, choice.what, choice.detail)
        except (KeyError, TypeError, ValueError) as error:
            raise ScheduleError(f"this choice can't be understood ({error!r}): {choice.to_line()}") from error
        act()

    def _action(self, verb: str, what: str, detail: dict[str, Any]) -> Callable[[], object]:
        match verb:
            case "send":
                sender, to = self._pid(detail["from"]), self._pid(what)
                message = message_from_json(detail["message"])
                cid = detail.get("cid")
                cid = None if cid is None else CorrelationId(Pid.parse(cid[0]), cid[1], cid[2])
                return partial(self.send, to, message, sender=sender, cid=cid)
            case "deliver" | "fire":
                crash = Crash.from_detail(detail["crash"]) if "crash" in detail else None
                return partial(getattr(self, verb), self.find(what), crash)
            case "drop" | "duplicate":
                return partial(getattr(self, verb), self.find(what))
            case "sync":
                return partial(self.sync, self.find(what), detail.get("count"))
            case "crash":
                return partial(self.crash, self.pid(what), Crash.from_detail(detail) if detail else None)
            case "restart" | "pause" | "resume":
                return partial(getattr(self, verb), self._simulated(what))
            case "cut":
                return partial(self._cut, tuple(map(self._pid, detail["from"])), tuple(map(self._pid, detail["to"])))
            case "settle":
                return partial(self.settle, tuple(map(self._simulated, detail["core"])), float(detail["seconds"]))
        return self.heal

    def _text(self, pid: Pid) -> str:
        """A pid in a choice: its name, if it is one of the processes, which all replays have."""
        return self.name(pid) if pid in self._slots else str(pid)

    def _pid(self, text: str) -> Pid:
        return Pid.parse(text) if "@" in text and text not in self._names else self.pid(text)

    def _simulated(self, name: str) -> Pid:
        pid = self.pid(name)
        if pid not in self._slots:
            raise ScheduleError(f"{name} is outside of the simulation")
        return pid

    # --- Inside ---

    def _count(self, what: str) -> None:
        """Add one to `counts`."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def _note(self, *entry: Any) -> None:
        if not self._settling:
            self.history.append(entry)

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

    def _from_executor(self, slot: Slot, message: Any) -> None:
        paths = self._outside.setdefault(slot.executor, {})
        path = paths.get(slot.pid)
        if path is None:
            path = paths[slot.pid] = self._path(slot.executor, slot.pid)
        self._put(path, message, None)

    def _start(self, slot: Slot) -> None:
        slot.incarnation += 1
        slot.persisted = slot.durable = 0
        process = slot.process = slot.factory()
        output = slot.output
        output.clear()
        journal = slot.journal
        if journal is not None and not journal.empty:
            process.restore(journal.snapshot, tuple(journal.records))
        process.init(slot.pid, output)
        self._finish_step(slot, process, "start", None, None, None, None)

    def _handle(self, slot: Slot, message: Any, sender: Pid, cid: CorrelationId | None, crash: Crash | None) -> None:
        process = slot.process
        assert process is not None
        process.handle(message, sender, cid, slot.output)
        self._finish_step(slot, process, "message", message, sender, cid, crash)
        if type(message) is Shutdown and slot.process is process:
            self._end(slot, "stopped")

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
        for to, message, cid, held in items:
            if to is executor:
                if type(message) is StartTimer:
                    self._start_timer(slot, message.seconds, cid)
                elif type(message) is Stop and slot.durable < slot.persisted:
                    slot.held.append((slot.persisted, executor, message, cid))
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
            case Stop():
                self._end(slot, "finished")
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
            journal.unsynced.append((False, effect.record))
            slot.persisted += 1
        else:
            journal.unsynced.append((True, effect.encode))
        if slot.sync is None:
            self._need_sync(slot)

    def _need_sync(self, slot: Slot) -> None:
        slot.sync = Pending(SYNC, slot, None, None, None)
        self._add(slot.sync)

    def _release(self, slot: Slot) -> None:
        held = slot.held
        while held and held[0][0] <= slot.durable:
            _, to, message, cid = held.popleft()
            if to is slot.executor:
                self._execute(slot, message, cid)
                continue
            path = slot.paths.get(to)
            if path is None:
                path = slot.paths[to] = self._path(slot.pid, to)
            self._put(path, message, cid)

    def _crash(self, slot: Slot, how: Crash) -> None:
        process = slot.process
        assert process is not None
        if slot.journal is not None:
            slot.journal.crash(how)
        self._end(slot, "crashed: by choice")
        if self._checks:
            step = Step(slot.pid, slot.name, process, "crash", None, None, None, ())
            for check in self._checks:
                check(step)

    def _end(self, slot: Slot, reason: str) -> None:
        slot.process = None
        slot.paused = False
        slot.doomed = None
        slot.held.clear()
        for timer in slot.timers.values():
            self._take(timer)
        slot.timers.clear()
        if slot.sync is not None:
            self._take(slot.sync)
            slot.sync = None
        if slot.journal is not None and reason != "crashed: by choice":
            # A process that ends by itself waits for its records.
            slot.journal.sync(len(slot.journal.unsynced))
        for pid in slot.watching:
            self._slots[pid].watchers.pop(slot.pid, None)
        slot.watching.clear()
        watchers, slot.watchers = list(slot.watchers), {}
        for pid in watchers:
            watcher = self._slots[pid]
            watcher.watching.pop(slot.pid, None)
            self._from_executor(watcher, Down(slot.pid, reason))
