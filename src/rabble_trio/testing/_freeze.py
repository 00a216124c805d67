"""The state of a process as a value to compare, and a copy of it. For `_explore`, which keeps many states of a process.

A process is an ordinary object, so this walks over its attributes, as `copy.deepcopy` does, with three differences:
messages, ids, functions and frozen dataclasses are shared, because they never change; attributes that the caller names
are shared and not compared, such as counters that nothing depends on; and a bound method becomes one of the copy.
"""

from __future__ import annotations

import enum
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from .._codec import MESSAGE_TYPES
from .._ids import CorrelationId, NodeId, Pid

_ATOMS: Final = frozenset(
    {int, float, str, bytes, bool, complex, type(None), type(Ellipsis), Pid, NodeId, CorrelationId, type}
    | {FunctionType, BuiltinFunctionType, ModuleType}
)


def _is_atom(value: Any) -> bool:
    kind = type(value)
    if kind in _ATOMS or kind in MESSAGE_TYPES or isinstance(value, type | enum.Enum):
        return True
    parameters = getattr(kind, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _attributes(value: Any, ignore: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Names and values, slots first; without those to ignore."""
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{kind.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ignore and hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                yield name, getattr(value, name)
    for name, item in getattr(value, "__dict__", {}).items():
        if name not in ignore:
            yield name, item


class Freezer:
    """Makes values of states, and copies of them. `ignore`: names of attributes that don't matter."""

    def __init__(self, ignore: frozenset[str]) -> None:
        self._ignore = ignore

    def freeze(self, value: Any) -> Any:
        """Something hashable that is equal for equal states."""
        return self._freeze(value, {})

    def _freeze(self, value: Any, seen: dict[int, int]) -> Any:
        if _is_atom(value):
            # 1, 1.0 and True are equal, and are not the same state.
            return value if type(value) not in (bool, float) else (type(value).__name__, value)
        known = seen.get(id(value))
        if known is not None:
            return ("seen", known)
        seen[id(value)] = len(seen)
        kind = type(value)
        if kind is tuple or issubclass(kind, tuple):
            return ("tuple", kind.__name__, *(self._freeze(item, seen) for item in value))
        if isinstance(value, list | deque):
            return (kind.__name__, *(self._freeze(item, seen) for item in value))
        if isinstance(value, dict):
            items = [(self._freeze(key, seen), self._freeze(item, seen)) for key, item in value.items()]
            # The order of a plain dict shows only when it is iterated over, which it may be: keep it.
            return (kind.__name__, *items)
        if isinstance(value, set | frozenset):
            return (kind.__name__, frozenset(self._freeze(item, {}) for item in value))
        if isinstance(value, bytearray):
            return ("bytearray", bytes(value))
        if kind is MethodType:
            return ("method", value.__func__, self._freeze(value.__self__, seen))
        if isinstance(value, Random):
            return ("random", value.getstate())
        attributes = sorted(_attributes(value, self._ignore), key=lambda item: item[0])
        return (kind, *((name, self._freeze(item, seen)) for name, item in attributes))

    def copy(self, value: Any) -> Any:
        """Another object in the same state, which shares what never changes."""
        return self._copy(value, {})

    def _copy(self, value: Any, made: dict[int, Any]) -> Any:
        if _is_atom(value):
            return value
        known = made.get(id(value))
        if known is not None:
            return known
        kind = type(value)
        if issubclass(kind, tuple):
            items = [self._copy(item, made) for item in value]
            return kind(items) if kind is tuple else kind(*items)
        if isinstance(value, list | deque | dict | set | bytearray):
            return self._copy_collection(value, made)
        if kind is frozenset:
            return frozenset(self._copy(item, made) for item in value)
        if kind is MethodType:
            return MethodType(value.__func__, self._copy(value.__self__, made))
        if isinstance(value, Random):
            other = made[id(value)] = kind()
            other.setstate(value.getstate())
            return other
        other = made[id(value)] = object.__new__(kind)
        for name, item in _attributes(value, self._ignore):
            object.__setattr__(other, name, self._copy(item, made))
        for name in self._ignore:
            if (hasattr(value, name) and not hasattr(kind, name)) or name in getattr(kind, "__slots__", ()):
                object.__setattr__(other, name, getattr(value, name))
        return other

    def _copy_collection(self, value: Any, made: dict[int, Any]) -> Any:
        other: Any
        if isinstance(value, deque):
            other = made[id(value)] = deque(maxlen=value.maxlen)
            other.extend(self._copy(item, made) for item in value)
        elif isinstance(value, dict):
            other = defaultdict(value.default_factory) if isinstance(value, defaultdict) else type(value)()
            made[id(value)] = other
            for key, item in value.items():
                other[self._copy(key, made)] = self._copy(item, made)
        elif isinstance(value, bytearray):
            other = bytearray(value)
        else:
            other = made[id(value)] = type(value)()
            add: Callable[[Any], None] = other.append if isinstance(value, list) else other.add
            for item in value:
                add(self._copy(item, made))
        return other
