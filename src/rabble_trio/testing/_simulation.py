"""A world of processes without Trio, in which whoever holds it decides everything that happens.

Rules:

1. Nothing happens by itself. A message arrives, a timer fires, a journal syncs when it is *chosen*; each choice is
   written down in `history`. So a history replayed on an equal world does exactly the same.
2. `step` chooses by itself: by virtual time, the seed and the faults (`_driver`).
3. How processes run, what they are called and when checks are made is said in `_world`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

from .._ids import CorrelationId, Pid
from .._messages import Persisted, Snapshotted, Timeout
from .._plain import correlation_to_json, message_to_json
from .._process import Process
from ._choices import Choice, Crash, ScheduleError, message_from_json
from ._driver import Driver
from ._faults import Faults
from ._pending import MESSAGE, SNAPSHOT, SYNC, TIMER, Pending, Slot
from ._world import Step as Step  # noqa: PLC0414  # it was here before, and is imported from here
from ._world import World

SETTLE_SECONDS: Final = 30.0
"""How much virtual time a world gets to converge once the faults have stopped: many times any usual timeout."""

SETTLE_STEPS: Final = 200_000
"""And how many steps, in case that time hardly moves because processes do nothing but chatter."""

_TIMEOUT: Final = Timeout()


@dataclass(frozen=True, slots=True)
class DamageLimit:
    """What `Simulation.may_damage` said."""

    pids: tuple[Pid, ...]
    at_once: int
    total: int | None
    recovered: Callable[[Pid], bool] | None
    silent: bool


class NotConverged(AssertionError):
    """The faults stopped, and the world did not become what it should, although it had time enough."""


class StandIn(Process):
    """Stands for a process that nobody knows how to make. It has whatever timers fire."""


class Simulation(World):
    """A deterministic world of processes, in which nothing happens but what is chosen.

    `seed`: decides everything that `step` and `run` choose, and all that comes from `random`. `faults`: what goes wrong;
    by default nothing.
    """

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        super().__init__(seed)
        self.faults = faults or Faults()
        self.history: list[tuple[Any, ...]] = []
        """The choices so far, in a compact form; `choices` makes values of them."""
        self._crash_limits: list[tuple[tuple[Pid, ...], int, int | None]] = []  # see may_crash
        self._damage_limits: list[DamageLimit] = []  # see may_damage
        self._converged: Callable[[], bool] | None = None
        self._core: Callable[[Random], Iterable[Pid]] | None = None
        self._friends: frozenset[Pid] = frozenset()
        self._settling = False
        self._driver = Driver(self, self.random("driver"), self.faults)

    # --- Limits and aims ---

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

    def may_damage(
        self,
        pids: Iterable[Pid],
        *,
        at_once: int,
        total: int | None = None,
        recovered: Callable[[Pid], bool] | None = None,
        silent: bool = False,
    ) -> None:
        """Whose journal `step` may damage when it lets the process crash. Otherwise a crash harms nothing durable.

        `at_once`: how many may be damaged and not recovered. `total`: how many damages in all (None: any number).
        `recovered`: whether a process that runs again has made good what its journal lost; by default none ever has.
        `silent`: whether also damage that no journal can notice may happen, from a disk that said that it had synced and
        had not, or from a copy of the journal that takes its place (`Crash.stale`).
        """
        self._damage_limits.append(DamageLimit(tuple(pids), at_once, total, recovered, silent))

    def damaged(self, pid: Pid) -> bool:
        """Whether a journal was damaged, and its process has not recovered since; what that means says `may_damage`."""
        slot = self._slots[pid]
        if slot.damaged_in and slot.process is not None and slot.incarnation > slot.damaged_in:
            for limit in self._damage_limits:
                if pid in limit.pids and limit.recovered is not None and limit.recovered(pid):
                    slot.damaged_in = 0
                    break
        return slot.damaged_in > 0

    def damageable(self, silent: bool = False) -> list[Pid]:
        """Processes whose journal may be damaged now; if `silent`, so that nobody can notice."""
        found: list[Pid] = []
        for limit in self._damage_limits:
            if silent and not limit.silent:
                continue
            slots = [self._slots[pid] for pid in limit.pids]
            doomed = [slot for slot in slots if slot.doomed is not None and slot.doomed.damages]
            hurt = [slot for slot in slots if slot in doomed or self.damaged(slot.pid)]
            damages = len(doomed) + sum(slot.damages for slot in slots)
            if limit.total is None or damages < limit.total:
                found += [slot.pid for slot in slots if len(hurt) < limit.at_once or slot in hurt]
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
        """The journal of a process makes what waits durable: its records, or only the first `count`; or its snapshot."""
        self._need(item, SNAPSHOT if item.kind == SNAPSHOT else SYNC)
        slot = item.slot
        journal = slot.journal
        assert journal is not None
        if count is not None and not 0 < count <= len(journal.unsynced):
            raise ScheduleError(f"{len(journal.unsynced)} records of {slot.name} wait, so {count} can't become durable")
        self._note("sync", item, count)
        self._take(item)
        if item.kind == SNAPSHOT:
            slot.image = None
            moved, size = journal.sync_image()
            self._synced(slot, moved)
            self._tell(slot, Snapshotted(size))
            return
        slot.sync = None
        moved = journal.sync(count)
        if journal.unsynced:
            slot.sync = self._need_sync(slot, SYNC)
        self._synced(slot, moved)

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

    def input(self, pid: Pid, message: Any, *, sender: Pid | None = None, cid: CorrelationId | None = None) -> None:
        """A process handles what a flight recorder noted, at once; what is pending stays so, but for a timer that fires.

        `sender`: None for the executor. Raises `ScheduleError` if the process does not run, or such a timer.
        """
        slot = self._running(pid)
        of_executor = sender is None or sender == slot.executor
        timer = None
        if of_executor and type(message) is Timeout:
            timer = slot.timers.get(cid)
            if timer is None and not isinstance(slot.process, StandIn):
                raise ScheduleError(f"this timer of {slot.name} does not run, so it can't fire: {cid}")
        self._note("input", slot, message, None if of_executor else sender, cid)
        if timer is not None:
            del slot.timers[cid]
            self._take(timer)
        if of_executor and type(message) is Persisted:
            slot.durable = max(slot.durable, message.count)
            self._release(slot)
        self._handle(slot, message, slot.executor if sender is None else sender, cid, None)

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
        self._note("settle", members, float(seconds), self.now)
        self._settling = True
        try:
            self._restore(members)
            self._converge(seconds)
        finally:
            self._settling = False

    def _settle_at(self, at: float, core: tuple[Pid, ...], seconds: float) -> None:
        # From here on things happen in their time, so it matters which that is, if only by how sums are rounded.
        self.now = max(self.now, at)
        self.settle(core, seconds)

    def _restore(self, core: tuple[Pid, ...]) -> None:
        inside, friends = set(core), self._friends
        self._cuts = {
            (a, b) for a, b in self._cuts if not ((a in inside and b in inside) or a in friends or b in friends)
        }
        for path in self._paths:
            path.cut = (path.sender, path.to) in self._cuts
            # What the faults did to it before is not in a schedule.
            path.last_due = path.clogged_until = 0.0
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
                    detail["cid"] = correlation_to_json(cid)
                return Choice(verb, self._text(to), detail)
            case "input", (slot, message, sender, cid):
                from_whom = {} if sender is None else {"from": self._text(sender)}
                answers = {} if cid is None else {"cid": correlation_to_json(cid)}
                return Choice(verb, slot.name, {**from_whom, "message": message_to_json(message), **answers})
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
            case "settle", (core, seconds, at):
                return Choice(verb, "", {"core": list(map(self._text, core)), "seconds": seconds, "at": at})
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
                return partial(self.send, to, message, sender=sender, cid=_correlation(detail.get("cid")))
            case "input":
                message = message_from_json(detail["message"])
                noted = self._pid(detail["from"]) if "from" in detail else None
                return partial(
                    self.input, self._simulated(what), message, sender=noted, cid=_correlation(detail.get("cid"))
                )
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
                core, at = tuple(map(self._simulated, detail["core"])), float(detail.get("at", 0.0))
                return partial(self._settle_at, at, core, float(detail["seconds"]))
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

    def _note(self, *entry: Any) -> None:
        if not self._settling:
            self.history.append(entry)


def _correlation(parts: Any) -> CorrelationId | None:
    """The reverse of `correlation_to_json`."""
    return None if parts is None else CorrelationId(Pid.parse(parts[0]), parts[1], parts[2])
