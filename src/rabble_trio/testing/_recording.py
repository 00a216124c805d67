"""A schedule that is replayed step by step, forward and backward, with what each step did written down.

A step is one choice: a message arrives, a timer fires, a process crashes. Step 0 is the start of the world. Nothing is
remembered but the text of steps that were looked at: to go back is to begin again, because replaying is fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from .._ids import Pid
from .._messages import CancelTimer, Demonitor, Monitor, StartTimer, Stop, Timeout
from .._plain import message_to_json
from .._process import Persist, Snapshot
from .._show import Printer, changes, correlation, describe, printable
from ._choices import Choice, ScheduleError, message_from_json
from ._pending import MESSAGE, TIMER, Pending
from ._schedule import Schedule
from ._simulation import Simulation, Step

MAX_KEPT: Final = 10_000
"""Steps whose text is kept; then it is forgotten and made again when it is needed."""

_TIMEOUT: Final = message_to_json(Timeout())

MAX_TITLE: Final = 300
"""Letters of a title: many processes may be cut off at once."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A message that is on its way since a step."""

    id: str
    """Its name in choices."""
    sender: str
    """The name of the sender; "" if it comes from the runtime."""
    to: str
    """The name of the receiver."""
    text: str
    """The message."""
    is_copy: bool = False
    """Whether it is the duplicate of another one."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one step did."""

    number: int
    """Its place in the schedule; 0 is the start."""
    choice: Choice | None
    """What was chosen; None at the start."""
    name: str = ""
    """The process that it concerned; "" if it was none or several."""
    received: str = ""
    """The message that arrived, or was lost or doubled."""
    sender: str = ""
    """Its sender."""
    effects: tuple[str, ...] = ()
    """What the process wanted done, in order."""
    flights: tuple[Flight, ...] = ()
    """Messages that are on their way since."""
    outside: tuple[tuple[str, str, str], ...] = ()
    """Messages that left the simulation: sender, receiver, message."""
    changes: tuple[str, ...] = ()
    """What became of the states of processes, as lines."""
    started: tuple[str, ...] = ()
    """Processes that run since."""
    ended: tuple[str, ...] = ()
    """Processes that run no more."""
    receipts: int = 0
    """How many messages, timers and starts were handled."""
    is_dead_letter: bool = False
    """Whether a message arrived at a process that was down."""
    left_out: str = ""
    """Why the choice could not be made, if it could not."""
    error: str = ""
    """What went wrong, if something did."""

    @property
    def title(self) -> str:
        """The step on one line."""
        text = printable(self._title())
        return text if len(text) <= MAX_TITLE else f"{text[:MAX_TITLE]}…"

    @property
    def is_timer(self) -> bool:
        """Whether a timer fires, as a flight recorder noted it."""
        choice = self.choice
        return choice is not None and choice.do == "input" and choice.detail.get("message") == _TIMEOUT

    def _title(self) -> str:
        if self.choice is None:
            return "start"
        choice = self.choice
        match choice.do, choice.detail:
            case "send", {"from": str(sender), "message": _}:
                return f"send {sender}>{choice.what} {self.received.partition('(')[0]}"
            case "input", detail if self.is_timer:
                return f"input {choice.what} {timer_name(detail)}"
            case "input", {"message": _}:
                return f"input {self.sender or 'executor'}>{choice.what} {self.received.partition('(')[0]}"
            case "cut", {"from": [*senders], "to": [*receivers]}:
                return f"cut {' '.join(map(str, senders))} > {' '.join(map(str, receivers))}"
            case "settle", {"seconds": seconds, "core": [*core]}:
                return f"settle {' '.join(map(str, core))}: {seconds} s without faults"
            case _, detail:
                more = "".join(f" {key}={value}" for key, value in detail.items() if key != "crash")
                crash = " and crash" if "crash" in detail else ""
                return f"{choice.do} {choice.what}".rstrip() + more + crash


class Recording:
    """A schedule under the needle. Raises `ScheduleError` if its scenario can't make a world.

    Attributes: `end`, the number of the last step, after which nothing happens, or which fails; `failure`, what went
    wrong there, or None; `left_out`, how many choices could not be made; `position`, the step that `world` is after.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._frames: dict[int, Frame] = {}
        self._events: list[tuple[str, str, tuple[str, ...]]] = []
        self._receipts = 0
        self._writing = False
        self.position = 0
        self.world, self.printer = self._rewind()
        self._first = self._start_frame()
        self.end = len(schedule.choices)
        self.failure: Exception | None = None
        self.left_out = 0
        self._find_end()

    def _find_end(self) -> None:
        for number, choice in enumerate(self.schedule.choices, 1):
            try:
                self.world.perform(choice)
            except ScheduleError:
                self.left_out += 1
            except Exception as error:
                self.end, self.failure = number, error
                break
        self.position = self.end

    def _rewind(self) -> tuple[Simulation, Printer]:
        """Make the world anew."""
        self.position = 0
        self._events.clear()
        # As `Schedule.world`, but that the recorder hears of each step before any check can end the run.
        self.world = world = Simulation(self.schedule.seed)
        self.printer = Printer(world._text, Simulation)
        world.check(self._record)
        self._writing = True
        try:
            self.schedule.scenario(world, **self.schedule.parameters)
        except Exception as error:
            raise ScheduleError(
                f"{self.schedule.scenario.name} can't make its world: {describe(error)}; "
                f"do its parameters fit, {self.printer.value(self.schedule.parameters)}?"
            ) from error
        finally:
            self._writing = False
        return world, self.printer

    def _record(self, step: Step) -> None:
        self._receipts += 1
        if self._writing:
            self._events.append((step.name, step.event, tuple(self._effects(step))))

    # --- Going to a step ---

    def go(self, number: int) -> None:
        """Make `world` what it was after this step."""
        if number < self.position:
            self._rewind()
        while self.position < number:
            with suppress(Exception):  # a choice that is left out, or the failure at the end: `frame` tells
                self.world.perform(self.schedule.choices[self.position])
            self.position += 1

    def frame(self, number: int) -> Frame:
        """What this step did; `world` may be anywhere then."""
        if number == 0:
            return self._first
        frame = self._frames.get(number)
        if frame is None:
            if len(self._frames) >= MAX_KEPT:
                self._frames.clear()
            self.go(number - 1)
            frame = self._frames[number] = self._step(number, self.schedule.choices[number - 1])
        return frame

    def state(self, name: str, number: int) -> dict[str, str]:
        """The state of a process after a step; empty if it is down. Raises `ScheduleError` if there is none such."""
        self.go(number)
        return self._state(self.world._simulated(name))

    def _state(self, pid: Pid) -> dict[str, str]:
        process = self.world.process(pid)
        return {} if process is None else self.printer.state(process)

    def shows(self, failure: str) -> bool:
        """Whether it ends with this failure, as `describe` tells it; the line in the code may be another one by now."""
        return self.failure is not None and failure.rpartition(" (")[0] in describe(self.failure)

    @property
    def names(self) -> list[str]:
        """The processes of the simulation."""
        return [self.world.name(pid) for pid in self.world.pids]

    # --- One step ---

    def _start_frame(self) -> Frame:
        effects = tuple(f"{name}: {effect}" for name, _, effects in self._events for effect in effects)
        flights = tuple(self._flight(item) for item in self.world._items if item.kind == MESSAGE)
        return Frame(0, None, effects=effects, flights=flights, receipts=self._receipts)

    def _step(self, number: int, choice: Choice) -> Frame:
        world = self.world
        what: dict[str, Any] = {}
        pids: Iterable[Pid] = ()
        left_out = error = ""
        with suppress(Exception):  # it can't be done, and `perform` says why
            pids, what = self._concerned(choice)
        before = {pid: self._state(pid) for pid in pids}
        pending = set(world._items)
        up = {pid for pid in world.pids if world.up(pid)}
        left = len(world.received)
        self._events.clear()
        self._receipts, self._writing = 0, choice.do != "settle"
        try:
            world.perform(choice)
        except ScheduleError as refused:
            left_out = printable(str(refused))
        except Exception as raised:
            error = describe(raised)
        finally:
            self._writing = False
        self.position = number
        fresh = [item for item in world._items if item not in pending]
        return Frame(
            number,
            choice,
            **what,
            effects=self._all_effects(choice),
            flights=tuple(
                self._flight(item, is_copy=choice.do == "duplicate") for item in fresh if item.kind == MESSAGE
            ),
            outside=self._left(left),
            changes=tuple(self._changes(choice, before)),
            started=tuple(world.name(pid) for pid in world.pids if world.up(pid) and pid not in up),
            ended=tuple(world.name(pid) for pid in world.pids if not world.up(pid) and pid in up),
            receipts=self._receipts,
            is_dead_letter=choice.do == "deliver" and not (self._receipts or error or left_out),
            left_out=left_out,
            error=error,
        )

    def _concerned(self, choice: Choice) -> tuple[list[Pid], dict[str, Any]]:
        """Whose state may change, and what arrives. Raises what a choice that makes no sense raises."""
        world = self.world
        match choice.do:
            case "deliver" | "drop" | "duplicate" | "fire" | "sync":
                item = world.find(choice.what)
                what = {"name": item.slot.name}
                if item.kind == MESSAGE:
                    what |= {"received": self.printer.value(item.message), "sender": self._sender(item)}
                return [item.to], what
            case "input":
                pid = world._simulated(choice.what)
                what = {"name": world.name(pid)}
                if choice.detail["message"] != _TIMEOUT:
                    what |= {"received": self.printer.value(message_from_json(choice.detail["message"]))}
                    what |= {"sender": choice.detail.get("from", "")}
                return [pid], what
            case "crash" | "restart" | "pause" | "resume":
                pid = world._simulated(choice.what)
                return [pid], {"name": world.name(pid)}
            case "send":
                message = world._action(choice.do, choice.what, choice.detail)
                sent = getattr(message, "args", (None, None))[1]
                return [], {"received": self.printer.value(sent), "sender": choice.detail["from"]}
            case "settle":
                return world.pids, {}
        return [], {}

    def _changes(self, choice: Choice, before: dict[Pid, dict[str, str]]) -> Iterable[str]:
        for pid, old in before.items():
            new = self._state(pid)
            if old and not new:
                yield f"- all of {self.world.name(pid)}'s state"
                continue
            name = f"{self.world.name(pid)}: " if choice.do == "settle" else ""
            for line in changes(old, new):
                yield f"{line[:2]}{name}{line[2:]}"

    def _all_effects(self, choice: Choice) -> tuple[str, ...]:
        if choice.do == "settle":
            return (f"messages, timers and starts that were handled: {self._receipts}",)
        return tuple(effect for _, _, effects in self._events for effect in effects)

    def _left(self, before: int) -> tuple[tuple[str, str, str], ...]:
        """The messages that left the simulation since it had so many."""
        text, value = self.world._text, self.printer.value
        return tuple(
            (text(envelope.sender), text(envelope.to), value(envelope.message))
            for envelope in islice(self.world.received, before, None)
            if envelope.to.group != "rabble"  # what the runtime is told is no message to draw
        )

    def _sender(self, item: Pending) -> str:
        return "" if item.sender.group == "rabble" else self.world._text(item.sender)

    def _flight(self, item: Pending, is_copy: bool = False) -> Flight:
        return Flight(item.id, self._sender(item), item.slot.name, self.printer.value(item.message), is_copy)

    def in_flight(self, number: int) -> tuple[Flight, ...]:
        """Messages that are on their way after a step."""
        self.go(number)
        return tuple(self._flight(item, is_copy=item.copy > 0) for item in self.world._items if item.kind == MESSAGE)

    def standing(self, number: int) -> dict[str, str]:
        """What the processes do after a step, by name: "up", "down" or "paused"."""
        self.go(number)
        found = {}
        for pid in self.world.pids:
            paused = self.world._slots[pid].paused
            found[self.world.name(pid)] = "paused" if paused else "up" if self.world.up(pid) else "down"
        return found

    # --- Effects and what is pending ---

    def _effects(self, step: Step) -> Iterable[str]:
        slot = self.world._slots[step.pid]
        waiting = {id(message) for _, _, message, _ in slot.held}
        for to, message, cid, held in step.output:
            match message:
                case Persist(record):
                    yield f"persist {self.printer.value(record)}"
                case Snapshot():
                    yield "snapshot"
                case _ if to is slot.executor:
                    yield self._request(message, "" if cid is None else f" {correlation(cid, self._own(step.name))}")
                case _:
                    about = "" if cid is None else f" [{correlation(cid, self.world._text)}]"
                    late = " (held until the records before it are durable)" if held and id(message) in waiting else ""
                    assert to is not None
                    yield f"to {self.world._text(to)}: {self.printer.value(message)}{printable(about)}{late}"

    def _own(self, owner: str) -> Any:
        """Names for the ids of timers, whose owner goes without saying."""
        return lambda pid: "timer" if self.world._text(pid) == owner else f"timer of {self.world._text(pid)}"

    def _request(self, message: Any, which: str) -> str:
        """What the executor is asked for, in words."""
        which = printable(which or " timer")
        match message:
            case StartTimer(seconds):
                return f"start{which}, {seconds:g} s"
            case CancelTimer():
                return f"cancel{which}"
            case Monitor(pid):
                return f"monitor {self.world._text(pid)}"
            case Demonitor(pid):
                return f"demonitor {self.world._text(pid)}"
            case Stop():
                return "stop"
        return f"ask the executor: {self.printer.value(message)}"

    def pending(self, number: int) -> list[tuple[str, str]]:
        """All that is pending after a step: its id, and what it is."""
        self.go(number)
        shown = []
        for item in self.world._items:
            if item.kind == MESSAGE:
                text = self.printer.value(item.message)
            else:
                text = f"after {item.seconds:g} s" if item.kind == TIMER else "records become durable"
            shown.append((printable(item.id), text + (" (blocked)" if self.world.blocked(item) else "")))
        return shown


def timer_name(detail: Mapping[str, Any]) -> str:
    """What a recorded timer is called, short: "timer 7"."""
    match detail.get("cid"):
        case [_, *numbers] if any(number is not None for number in numbers):
            shown = "/".join("-" if number is None else str(number) for number in numbers)
            return f"timer {shown.removesuffix('/-')}"
    return "timer"
