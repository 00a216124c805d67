"""Values as JSON that people can read and edit, and names of what makes processes. For files that a test reads again.

Only values that say all about themselves are written: numbers, text, bytes, collections, ids and messages. Nothing else
has a form here, so nothing that a file holds can choose what code runs, but for the names of callables, which whoever
reads the file imports.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

import msgpack

from ._codec import MESSAGE_TYPES, encode
from ._ids import CorrelationId, NodeId, Pid

_AS_THEY_ARE: Final = frozenset({int, float, str, bool, type(None)})


def message_to_json(message: Any) -> Any:
    """A message as JSON values: its tag and its fields. Raises `EncodeError` or `NotAMessage`."""
    return _to_json(msgpack.unpackb(encode(message), use_list=False, strict_map_key=False))


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return bytes_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
    return value


def bytes_to_json(value: bytes) -> dict[str, str]:
    """Bytes: as text, if they are that, or else as hexadecimal digits."""
    if value.isascii() and value.decode("ascii").isprintable():
        return {"bytes": value.decode("ascii")}
    return {"hex": value.hex()}


def correlation_to_json(cid: CorrelationId | None) -> Any:
    """A correlation id as a list of its parts."""
    return None if cid is None else [str(cid.pid), cid.connection, cid.request]


def value_to_json(value: Any) -> Any:
    """A plain value, such as an argument of a factory. Raises `TypeError` if it is none, `EncodeError` for bad messages."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is bytes:
        return bytes_to_json(value)
    if kind is list:
        return [value_to_json(item) for item in value]
    if kind is tuple:
        return {"tuple": [value_to_json(item) for item in value]}
    if kind is dict:
        return {"map": [[value_to_json(key), value_to_json(item)] for key, item in value.items()]}
    if kind is Pid:
        return {"pid": str(value)}
    if kind is NodeId:
        return {"node": str(value)}
    if kind is CorrelationId:
        return {"cid": correlation_to_json(value)}
    if kind in MESSAGE_TYPES:
        return {"message": message_to_json(value)}
    raise TypeError(f"a {kind.__name__} is no plain value")


def name_of(function: Any) -> str | None:
    """Where a class or function is found, "module:name"; None if that leads to nothing, or to something else."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    try:
        found: Any = import_module(module)  # it is there already, or the name is a lie
    except ImportError:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is not None and found == function else None


def call_to_json(function: Callable[..., Any]) -> dict[str, Any]:
    """How to call this again: a name, and the arguments if it is a `functools.partial`. Raises `TypeError` if it can't."""
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    target: Any = function
    if isinstance(function, partial):
        target, arguments = function.func, [value_to_json(argument) for argument in function.args]
        keywords = {name: value_to_json(argument) for name, argument in function.keywords.items()}
    name = name_of(target)
    if name is None:
        raise TypeError(
            f"{getattr(target, '__qualname__', type(target).__name__)} is not found by its name in a module"
        )
    return {"call": name, "arguments": arguments, "keywords": keywords}
