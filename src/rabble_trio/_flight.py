"""The flight of one incarnation of a process: how it began, and the last messages that it received, in order.

Rules:

1. A flight is a chain of `SEGMENTS` segments at most. A full one is followed by a new one, and the oldest one goes.
2. A segment may know how it began: by the start of the process, or by a picture of the state that the process gave.
   From there a process can be made again; it then does the same, because its messages decide all that it does.
3. What is written begins with the oldest segment from which the process can be made again. If there is none, all
   messages are written, for people to read, together with the state in which the process ended.
4. Until a flight is written, it costs references to messages that never change, and no bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ._codec import MESSAGE_TYPES
from ._errors import EncodeError
from ._ids import CorrelationId, Pid
from ._plain import bytes_to_json, correlation_to_json, message_to_json

SEGMENTS: Final = 4
"""Of a flight. With more, less is lost at once when the oldest one goes, and a process gives its state more often."""

FORMAT: Final = 1
"""The version of schedule files that are written: that of `rabble_trio.testing`, which reads them."""

SCENARIO: Final = "rabble_trio.testing:flight"
"""The scenario that makes the world of a flight again."""

OVERHEAD: Final = 150
"""Bytes that one input costs besides what its message holds."""

MAX_DEPTH: Final = 8
"""How deep a message is looked into to estimate its size."""

Input = tuple[Any, Pid, CorrelationId | None]
"""(message, sender, correlation id)"""


@dataclass(frozen=True, slots=True)
class Start:
    """The segment begins where the process was made, before it was restored and initialised."""

    make: dict[str, Any] | None
    """How to make it again (`_plain.call_to_json`); None if nobody knows."""
    snapshot: bytes | None = None
    """What it was restored from."""
    records: Sequence[bytes] = ()
    """What it was restored from, too."""
    damaged: str | None = None
    """What it was told instead; None if it was not."""

    def to_json(self) -> dict[str, Any]:
        """As parameters of the scenario."""
        found: dict[str, Any] = {} if self.make is None else {"make": self.make}
        if self.damaged is not None:
            found["damaged"] = self.damaged
        elif self.snapshot is not None or self.records:
            found["snapshot"] = None if self.snapshot is None else bytes_to_json(self.snapshot)
            found["records"] = [bytes_to_json(record) for record in self.records]
        return found


@dataclass(frozen=True, slots=True)
class Picture:
    """The segment begins in the state that the process gave of itself."""

    cls: str
    """The name of its class."""
    encode: Callable[[], bytes]
    """Makes bytes of the state."""
    timers: Sequence[tuple[CorrelationId | None, float]]
    """The timers that ran, and after how many seconds they were due."""
    persisted: int
    """How many records it had persisted."""

    def to_json(self) -> dict[str, Any]:
        """As parameters of the scenario. Raises what `encode` raises, and `TypeError` if it does not give bytes."""
        state = self.encode()
        if not isinstance(state, bytes):
            raise TypeError(f"flight_state() returns a function that returns bytes, not {type(state).__name__}")
        return {
            "make": {"resume": self.cls, "state": bytes_to_json(state)},
            "timers": [[correlation_to_json(cid), seconds] for cid, seconds in self.timers],
            "persisted": self.persisted,
            "runs": True,
        }


@dataclass(slots=True)
class Segment:
    """Inputs that followed each other."""

    begin: Start | Picture | None
    """How the process was made, or its state before the first of them; None if nobody knows."""
    inputs: list[Input] = field(default_factory=list)
    size: int = 0
    """About how many bytes they hold."""


class Flight:
    """The chain of segments. `inputs` and `size`: at most so many inputs, and about so many bytes."""

    __slots__ = ("_inputs", "_size", "forgotten", "full", "last", "segments")

    def __init__(self, inputs: int, size: int, begin: Start | None, begin_size: int = 0) -> None:
        self._inputs = max(1, inputs // SEGMENTS)
        self._size = size // SEGMENTS
        self.last = Segment(begin, size=begin_size)
        self.segments = [self.last]
        self.forgotten = 0
        """How many inputs came before the first one that is still here."""
        self.full = False
        """Whether the last segment is full, so that `turn` is due before the next input."""

    def add(self, item: Input, size: int) -> None:
        """One more input, before it is handled."""
        last = self.last
        last.inputs.append(item)
        last.size += size
        if len(last.inputs) >= self._inputs or last.size >= self._size:
            self.full = True

    def turn(self, begin: Picture | None) -> None:
        """Begin a new segment."""
        self.last = Segment(begin)
        self.segments.append(self.last)
        self.full = False
        while len(self.segments) > SEGMENTS or (
            len(self.segments) > 2 and sum(segment.size for segment in self.segments) > self._size * SEGMENTS
        ):
            self.forgotten += len(self.segments.pop(0).inputs)

    @property
    def count(self) -> int:
        """How many inputs there were since the process started."""
        return self.forgotten + sum(len(segment.inputs) for segment in self.segments)

    @property
    def size(self) -> int:
        """About how many bytes are held."""
        return sum(segment.size for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Ended:
    """A flight that is over, to be written."""

    pid: Pid
    flight: Flight
    why_not: str
    """Why the process can't be made again from its start, if its factory is the reason."""
    when: str
    """Date and time of the failure."""
    failure: str
    """What went wrong, on one line."""
    state: Callable[[], dict[str, str]]
    """The state of the process when it failed, as text: places, and what is there."""

    def lines(self) -> Iterable[str]:
        """The schedule file, without newlines."""
        problems: list[str] = []
        segments = self.flight.segments
        for number, segment in enumerate(segments):
            if segment.begin is not None and not self._is_nameless(segment):
                try:
                    begin = segment.begin.to_json()
                    inputs = [self._line(item) for later in segments[number:] for item in later.inputs]
                except Exception as error:  # a user's code made it; a flight without a beginning is better than none
                    problems.append(f"{type(error).__name__}: {error}")
                    continue
                skipped = sum(len(earlier.inputs) for earlier in segments[:number])
                return [self._head(begin, len(inputs), self.flight.forgotten + skipped), *self._first(segment), *inputs]
        return self._for_people("; ".join(dict.fromkeys(problems)) or self._why_unknown())

    @staticmethod
    def _is_nameless(segment: Segment) -> bool:
        return isinstance(segment.begin, Start) and segment.begin.make is None

    def _first(self, segment: Segment) -> list[str]:
        """The choice that starts the process, if the segment begins there."""
        start = {"do": "restart", "what": self.pid.name}
        return [json.dumps(start, ensure_ascii=False)] if isinstance(segment.begin, Start) else []

    def _for_people(self, why: str) -> Iterable[str]:
        lines, readable = [], 0
        for item in [item for segment in self.flight.segments for item in segment.inputs]:
            try:
                lines.append(self._line(item))
                readable += 1
            except EncodeError as error:
                lines.append(self._line((None, *item[1:]), str(error)))
        first = self.flight.segments[0]
        # All but how it is made may be known, and then whoever knows that may replay it.
        begin: dict[str, Any] = first.begin.to_json() if isinstance(first.begin, Start) else {"runs": True}
        begin["unknown"] = {"why": why, "inputs": readable, "state": self.state()}
        begin.pop("make", None)
        return [self._head(begin, len(lines), self.flight.forgotten), *self._first(first), *lines]

    def _why_unknown(self) -> str:
        if self.why_not:
            return self.why_not
        return (
            f"the first {self.flight.forgotten} inputs are forgotten, and the process gives no flight_state(): see "
            "rabble_trio.Process.flight_state, or let FlightRecorder keep more inputs"
        )

    def _head(self, begin: dict[str, Any], inputs: int, skipped: int) -> str:
        modules = {type(item[0]).__module__ for segment in self.flight.segments for item in segment.inputs}
        parameters = {"pid": str(self.pid), **begin, "modules": sorted(modules), "failure": self.failure}
        ended = f"{self.pid} failed on {self.when} after {self.flight.count} inputs"
        first = f", of which the last {inputs} are here" if skipped else ""
        head = {
            "schedule": FORMAT,
            "scenario": SCENARIO,
            "seed": 0,
            "parameters": parameters,
            "note": f"{ended}{first}: {self.failure}",
        }
        return json.dumps(head, ensure_ascii=False)

    def _line(self, item: Input, problem: str = "") -> str:
        message, sender, cid = item
        choice: dict[str, Any] = {"do": "input", "what": self.pid.name}
        if sender.group != "rabble" or sender.name != "executor" or sender.node != self.pid.node:
            choice["from"] = str(sender)
        if problem:
            choice["problem"] = problem
        else:
            choice["message"] = message_to_json(message)
        if cid is not None:
            choice["cid"] = correlation_to_json(cid)
        return json.dumps(choice, ensure_ascii=False)


class _LargeFields(dict[type, tuple[str, ...]]):
    """By class of message: its fields whose size has to be looked at."""

    def __missing__(self, kind: type) -> tuple[str, ...]:
        fields = getattr(kind, "__dataclass_fields__", {}) if kind in MESSAGE_TYPES else {}
        found = self[kind] = tuple(name for name, one in fields.items() if not _is_small(one.type))
        return found


_SMALL: Final = frozenset({"int", "float", "bool", "None", "NoneType", "Pid", "NodeId", "CorrelationId"})
_LARGE_FIELDS: Final = _LargeFields()


def _is_small(annotation: Any) -> bool:
    # An annotation is text where its module says so; it need not be understood to be told from a plain name.
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return all(part.strip() in _SMALL for part in text.split("|"))


def size_of(message: Any) -> int:
    """About how many bytes a message holds in memory. This is in the path of every input, so it is quick, and no more."""
    size = OVERHEAD
    for name in _LARGE_FIELDS[type(message)]:
        size += _size(getattr(message, name), MAX_DEPTH)
    return size


def _size(value: Any, depth: int) -> int:
    kind = type(value)
    if kind is bytes or kind is str:
        return 40 + len(value)
    if not depth or not value:
        return 40
    if kind is dict:
        return _size_of_all(value.keys(), depth) + _size_of_all(value.values(), depth)
    if kind is tuple or kind is list or kind is frozenset or kind is set:
        return _size_of_all(value, depth)
    return 40 + sum(_size(getattr(value, name), depth - 1) for name in _LARGE_FIELDS[kind])


def _size_of_all(values: Any, depth: int) -> int:
    first = type(next(iter(values)))
    if first is bytes or first is str:
        try:
            return 48 * len(values) + sum(map(len, values))  # many at once, as batches are what is large
        except TypeError:
            pass  # they are not all alike
    if first is int or first is float:
        return 40 * len(values)
    return 8 * len(values) + sum(_size(value, depth - 1) for value in values)
