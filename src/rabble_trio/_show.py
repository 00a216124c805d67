"""Values as text for people: one line, or one line per part that may change, so that two states can be compared.

What is shown may come from a message of a stranger, so no character of it ever commands a terminal: what does not print
is escaped. Nothing shown depends on where in memory an object is, so the text of a replay is always the same.
"""

from __future__ import annotations

import re
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from ._codec import MESSAGE_TYPES
from ._ids import CorrelationId, NodeId, Pid
from ._process import Outbox, Process

MAX_VALUE: Final = 240
"""Characters of a value on one line: three lines of a terminal. What is longer is cut, or taken apart in a state."""

MAX_COLLECTION: Final = 100
"""Characters of a collection of plain values that is shown as one; a longer one has a line for each item."""

MAX_LINES: Final = 5000
"""Lines of one state: more than anybody reads, and a bound on what a step costs."""

MAX_DEPTH: Final = 40
"""How deep a value is taken apart: deeper is a mistake, or an attack on the reader."""

MAX_KNOWN: Final = 10_000
"""Texts of messages that are kept: those of the logs of a few processes."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_NUMBERS: Final = frozenset({int, float, bool, type(None)})
_SCALARS: Final = (int, float, complex, str, bytes, type(None), Pid, NodeId, CorrelationId, Enum)
_FUNCTIONS: Final = (FunctionType, BuiltinFunctionType, MethodType, type)
_SHOWN_AS_ONE: Final = (*_SCALARS, *_FUNCTIONS, Process, Outbox, Random, ModuleType)
_BRACKETS: Final[dict[type, tuple[str, str]]] = {list: ("[", "]"), deque: ("[", "]")}


def printable(text: str) -> str:
    """The text with what does not print escaped, line ends included: fit for a terminal, and for XML."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Full(Exception):
    """The line is long enough."""


class _Line:
    """Text up to a length."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.text = ""

    def add(self, text: str) -> None:
        """Raises `_Full` if that was more than there is room for."""
        self.text += printable(text[: self.room + 1])
        if len(self.text) > self.room:
            self.text = self.text[: self.room - 1] + "…"
            raise _Full


class Printer:
    """Shows values. `name` makes short names of pids. `whole`: further classes whose instances are not taken apart."""

    def __init__(self, name: Callable[[Pid], str], *whole: type) -> None:
        self._name = name
        self._whole_classes = _SHOWN_AS_ONE + whole
        # Texts of messages, which never change and stay in states for many steps. The message is kept with its text, so
        # that its id belongs to no other.
        self._known: dict[tuple[int, int], tuple[Any, str | tuple[str]]] = {}

    def value(self, value: Any, limit: int = MAX_VALUE) -> str:
        """A value on one line, cut after `limit` characters."""
        text = self._whole(value, limit)
        return text[0] if isinstance(text, tuple) else text

    def _whole(self, value: Any, limit: int) -> str | tuple[str]:
        """The value's text; in a tuple if it had to be cut."""
        if type(value) not in MESSAGE_TYPES:
            return self._make_text(value, limit)
        known = self._known.get((id(value), limit))
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            known = self._known[id(value), limit] = (value, self._make_text(value, limit))
        return known[1]

    def _make_text(self, value: Any, limit: int) -> str | tuple[str]:
        line = _Line(limit)
        try:
            self._write(value, line, 0)
        except _Full:
            return (line.text,)
        return line.text

    def _write(self, value: Any, line: _Line, depth: int) -> None:
        kind = type(value)
        if kind in _NUMBERS:  # first, because most values are
            line.add(repr(value))
        elif depth > MAX_DEPTH:
            line.add("…")
        elif isinstance(value, Pid):
            line.add(self._name(value))
        elif isinstance(value, CorrelationId):
            line.add(correlation(value, self._name))
        elif isinstance(value, NodeId):
            line.add(str(value))
        elif isinstance(value, Enum):
            line.add(f"{kind.__name__}.{value.name}")
        elif isinstance(value, str | bytes) and len(value) > line.room:
            line.add(repr(value[: line.room]))  # a megabyte is not escaped in order to be cut
            raise _Full
        elif isinstance(value, list | tuple | deque):
            opening, closing = _BRACKETS.get(kind, ("(", ")"))
            self._write_all(opening, value, ",)" if kind is tuple and len(value) == 1 else closing, line, depth)
        elif isinstance(value, AbstractSet):
            items = sorted(value, key=self.value)
            self._write_all("{", items, "}", line, depth) if items else line.add("{}")
        elif isinstance(value, Mapping):
            self._write_pairs("{", ((self.value(key), item) for key, item in value.items()), ": ", "}", line, depth)
        elif is_dataclass(value) and not isinstance(value, type):
            shown = ((field.name, getattr(value, field.name, None)) for field in fields(value) if field.repr)
            self._write_pairs(f"{kind.__name__}(", shown, "=", ")", line, depth)
        else:
            line.add(_other(value))

    def _write_all(self, opening: str, items: Any, closing: str, line: _Line, depth: int) -> None:
        line.add(opening)
        for number, item in enumerate(items):
            if number:
                line.add(", ")
            self._write(item, line, depth + 1)
        line.add(closing)

    def _write_pairs(self, opening: str, pairs: Any, between: str, closing: str, line: _Line, depth: int) -> None:
        line.add(opening)
        for number, (key, item) in enumerate(pairs):
            line.add(f"{', ' if number else ''}{key}{between}")
            self._write(item, line, depth + 1)
        line.add(closing)

    # --- States ---

    def state(self, process: Any) -> dict[str, str]:
        """All that a process holds, one entry per part that may change: where it is, and what it is."""
        found: dict[str, str] = {}
        seen = {id(process)}
        for name, item in _attributes(process):
            self._take_apart(name, item, found, seen, 1)
        return found

    def _take_apart(self, path: str, value: Any, found: dict[str, str], seen: set[int], depth: int) -> None:
        if len(found) >= MAX_LINES:
            found.setdefault("…", "more than is shown")
            return
        parts = None if depth > MAX_DEPTH else self._parts(value)
        if parts is None:
            found[path] = self.value(value)
        elif id(value) in seen:
            found[path] = f"<{type(value).__name__} that was shown above>"
        else:
            seen.add(id(value))
            for name, item in parts:
                self._take_apart(path + name, item, found, seen, depth + 1)

    def _parts(self, value: Any) -> Iterator[tuple[str, Any]] | None:
        """The parts that get lines of their own; None if the value is shown as one."""
        if isinstance(value, self._whole_classes):
            return None
        if isinstance(value, AbstractSet):
            if self._short(value, value):
                return None
            # An element is its own place: it is there, or it is not.
            return iter(sorted((f"{{{self.value(item)}}}", True) for item in value))
        if isinstance(value, Mapping):
            if self._short(value, value.values()):
                return None
            return ((f"[{self.value(key)}]", item) for key, item in value.items())
        if isinstance(value, list | deque | tuple):
            if self._short(value, value):
                return None
            return ((f"[{number}]", item) for number, item in enumerate(value))
        if _never_changes(value) and isinstance(self._whole(value, MAX_VALUE), str):
            return None
        attributes = [(f".{name}", item) for name, item in _attributes(value)]
        return iter(attributes) if attributes else None

    def _short(self, value: Any, items: Any) -> bool:
        if not value:
            return True
        if len(value) > MAX_COLLECTION:
            return False
        plain = isinstance(value, tuple) or all(isinstance(item, _SCALARS) for item in items)
        return plain and isinstance(self._whole(value, MAX_COLLECTION), str)


def _other(value: Any) -> str:
    kind = type(value)
    if isinstance(value, Random):
        return f"<random {sha256(repr(value.getstate()).encode()).hexdigest()[:6]}>"  # shows whether it was drawn from
    if isinstance(value, _FUNCTIONS):
        return f"<{value.__qualname__}>"
    try:
        text = _ADDRESS.sub("", repr(value))
    except Exception:
        return f"<{kind.__name__}, whose repr fails>"
    return f"<{kind.__name__}>" if text == f"<{kind.__module__}.{kind.__qualname__} object>" else text


def _never_changes(value: Any) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return type(value) in MESSAGE_TYPES or (parameters is not None and parameters.frozen)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values, those in slots included."""
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{kind.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
    yield from getattr(value, "__dict__", {}).items()


def correlation(cid: CorrelationId, name: Callable[[Pid], str]) -> str:
    """A correlation id, short: "a 1/2", its pid, connection and request."""
    numbers = "/".join("-" if number is None else str(number) for number in (cid.connection, cid.request))
    return f"{name(cid.pid)} {numbers}".removesuffix(" -/-").removesuffix("/-")


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What became of a state, as lines: "+ place = value", "- place = value", "  place = old -> new"."""
    lines = [f"- {place} = {value}" for place, value in before.items() if place not in after]
    for place, value in after.items():
        if place not in before:
            lines.append(f"+ {place} = {value}")
        elif before[place] != value:
            lines.append(f"  {place} = {before[place]} -> {value}")
    return lines


def describe(error: BaseException) -> str:
    """An exception on one line, with where it was raised."""
    first = printable(str(error).partition("\n")[0])
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return said
    where = frames[-1]
    return f"{said} ({Path(where.filename).name}, line {where.lineno}, in {where.name})"
