"""Typed messages and their bytes.   (first cut: the decorator and the registry)"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, overload, dataclass_transform
from collections.abc import Callable

from ._errors import NotAMessage

_T = TypeVar("_T")

_BY_TAG: dict[str, type[Any]] = {}
MESSAGE_TYPES: dict[type[Any], str] = {}


@overload
def message(cls: type[_T], /) -> type[_T]: ...
@overload
def message(*, tag: str | None = None) -> Callable[[type[_T]], type[_T]]: ...


@dataclass_transform(frozen_default=True)
def message(cls: Any = None, /, *, tag: str | None = None) -> Any:
    """Make a class a message: a frozen dataclass with slots that is registered under `tag` and can cross the wire."""
    if cls is None:
        return lambda c: _register(c, tag)
    return _register(cls, tag)


def _register(cls: type[Any], tag: str | None) -> type[Any]:
    made = dataclasses.dataclass(frozen=True, slots=True)(cls)
    name = tag or f"{cls.__module__}.{cls.__qualname__}"
    _BY_TAG[name] = made
    MESSAGE_TYPES[made] = name
    return made


def encode(message: Any) -> bytes:
    raise NotAMessage


def decode(data: bytes) -> Any:
    raise NotImplementedError
