"""Choices, as values and as lines of JSON. A schedule is a list of them; see `_schedule`.

    do          what                  detail
    send        the receiver          "from", "message", and perhaps "cid"
    deliver     a message             perhaps "crash": how the receiver crashes while it carries out the effects
    drop        a message
    duplicate   a message
    fire        a timer               perhaps "crash"
    sync        a sync, a snapshot    perhaps "count": how many records become durable, if not all
    crash       a process             how, see `Crash`
    restart     a process
    pause, resume  a process
    cut         (nothing)             "from", "to": lists of names; what the first send to the second does not arrive
    heal        (nothing)
    settle      (nothing)             "core", "seconds"
    input       a process             "message", and perhaps "from" and "cid": it was recorded, and is handled at once

A process is called by its name in the simulation, and what is pending by its id: "r0>r1 Prepare#3" is the third
`Prepare` from r0 to r1, "r0>r1 Prepare#3.1" a copy of it, "r0 timer 1" the timer that r0 started with the correlation
id's connection number 1. Such ids stay the same when other choices are left out, mostly, which is what minimising needs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from .._codec import decode

VERBS: Final = frozenset(
    {
        "send",
        "deliver",
        "drop",
        "duplicate",
        "fire",
        "sync",
        "crash",
        "restart",
        "pause",
        "resume",
        "cut",
        "heal",
        "settle",
        "input",
    }
)
"""What can be done."""


class ScheduleError(Exception):
    """A schedule can't be read, or does not fit what it is replayed on. The text says where and why."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that was decided."""

    do: str
    """The verb."""
    what: str = ""
    """What is pending, by its id, or a process, by its name; "" if the verb needs neither."""
    detail: dict[str, Any] = field(default_factory=dict)
    """What else belongs to it: values that JSON knows."""

    def to_line(self) -> str:
        """As a line of JSON, without the newline."""
        what = {"what": self.what} if self.what else {}
        return json.dumps({"do": self.do, **what, **self.detail}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Choice:
        """Read such a line. Raises `ScheduleError`."""
        fields = _read_object(line)
        do, what = fields.pop("do", None), fields.pop("what", "")
        if do not in VERBS or not isinstance(what, str):
            raise ScheduleError(f'"do" is one of {", ".join(sorted(VERBS))}, and "what" a string: {line[:200]}')
        return cls(do, what, fields)


def _read_object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"not JSON ({error}): {line[:200]}") from None
    if not isinstance(fields, dict):
        raise ScheduleError(f"each line is a JSON object, not {line[:200]}")
    return fields


@dataclass(frozen=True, slots=True)
class Crash:
    """What a crash leaves of a process: nothing but its journal, and perhaps less."""

    keep: int = 0
    """How many records become durable that were not when the process crashed."""
    torn: bool = False
    """Whether a piece of the next one is left as well. A journal with checksums drops it."""
    lose: int = 0
    """How many durable records, the newest ones, are gone. A journal with checksums notices."""
    rot: int = 0
    """Which durable record is not what was written: 1 is the newest one. A journal with checksums notices."""
    stale: int = 0
    """How many syncs the journal is behind, because a disk lied or it is a copy. That can't be noticed."""
    amnesia: bool = False
    """Whether all is lost, the snapshot included, as if nothing had ever been there."""
    effects: int | None = None
    """In the middle of a step: how many of its effects are carried out before the crash. None: between two steps."""

    def to_detail(self) -> dict[str, Any]:
        """Values that JSON knows; those that say nothing are left out."""
        named = {name: getattr(self, name) for name in ("keep", "torn", "lose", "rot", "stale", "amnesia")}
        detail: dict[str, Any] = {name: value for name, value in named.items() if value}
        return detail if self.effects is None else {**detail, "effects": self.effects}

    @property
    def damages(self) -> bool:
        """Whether it may harm what is durable."""
        return bool(self.lose or self.rot or self.stale or self.amnesia)

    @classmethod
    def from_detail(cls, detail: Any) -> Crash:
        """The reverse. Raises `ScheduleError`."""
        if not isinstance(detail, dict) or set(detail) - set(cls.__slots__):
            raise ScheduleError(f"a crash has the details {', '.join(cls.__slots__)}, not {detail!r}")
        if any(type(value) not in (int, bool) or value < 0 for value in detail.values()):
            raise ScheduleError(f"the details of a crash are whole numbers and booleans, not {detail!r}")
        return cls(**detail)


# --- Messages as JSON that one can read ---


def message_from_json(value: Any) -> Any:
    """The reverse of `message_to_json`. Raises `ScheduleError` or `DecodeError`."""
    return decode(msgpack.packb(_from_json(value)))


def _from_json(value: Any) -> Any:
    match value:
        case {"bytes": str(text)} if text.isascii():
            return text.encode("ascii")
        case {"hex": str(digits)}:
            try:
                return bytes.fromhex(digits)
            except ValueError:
                raise ScheduleError(f"not hexadecimal digits: {digits[:80]}") from None
        case {"map": [*pairs]} if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return {_hashable(_from_json(key)): _from_json(item) for key, item in pairs}
        case dict():
            raise ScheduleError(f'a JSON object in a message is {{"bytes"}}, {{"hex"}} or {{"map"}}: {str(value)[:80]}')
        case list():
            return [_from_json(item) for item in value]
    return value


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
