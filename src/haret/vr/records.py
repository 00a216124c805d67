"""What a replica writes into its journal, and how the journal is read back.

Rules:

1. Records are written before what they say can be heard (`Outbox.persist` holds everything behind them back), so a
   journal never knows less than the other replicas were told.
2. Any prefix of the journal is a truthful one. What belongs together ends with one record that makes it count: entries and
   images that are to replace a log are only staged until `Installed` says so.
3. A snapshot of the journal is nothing but a shorter list of records that leads to the same state.
4. A replica that can't trust its records writes `Lost`. What it promised (views, incarnations, members) still counts
   then, and its log does not, until one is installed again.
5. In mode "fenced" only promises are written. Each start finds them, and no log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from rabble_trio import Pid, decode, encode, message

from .messages import Entry

_LENGTH: Final = struct.Struct(">I")


@message(tag="vr.record.began")
class Began:
    """An incarnation of the replica began, or it heard of newer ones of others."""

    incarnation: int
    """Its own."""
    known: dict[Pid, int]
    """The newest of the others that it knows."""


@message(tag="vr.record.configured")
class Configured:
    """An epoch began (section 7): the entry at `op` was executed. In the first record, `op` is 0."""

    epoch: int
    """Its number."""
    replicas: tuple[Pid, ...]
    """Its members."""
    op: int
    """The last op of the epoch before."""


@message(tag="vr.record.appended")
class Appended:
    """Entries were added to the log."""

    first: int
    """The op of the first one."""
    commit: int
    """The commit number at that time."""
    entries: tuple[Entry, ...]
    """At least one."""


@message(tag="vr.record.entered")
class Entered:
    """A view change was entered: a promise to take part in no view before this one (section 8.1)."""

    view: int
    """The view."""


@message(tag="vr.record.staged_image")
class StagedImage:
    """A part of an image, which `Installed` may make the state."""

    image: int
    """The op of the image."""
    part: int
    """From 0; with it, earlier parts are forgotten."""
    data: bytes
    """See `haret.vr.image`."""


@message(tag="vr.record.staged_entries")
class StagedEntries:
    """Entries that `Installed` makes part of the log."""

    entries: tuple[Entry, ...]
    """In order, after those staged before."""


@message(tag="vr.record.installed")
class Installed:
    """The log of a view was taken over: what was staged replaces everything after `after`."""

    view: int
    """The view whose log it is: `last_normal_view` from now on. The view itself never goes back by it."""
    after: int
    """The last op that stays; that of the image, if one was staged."""
    image: bool
    """Whether an image was staged."""


@message(tag="vr.record.lost")
class Lost:
    """The log before this can't be trusted (rule 4)."""


@message(tag="vr.record.stopped")
class Stopped:
    """The replica stands still, until somebody replaces it."""

    reason: str
    """Why."""


Record = Began | Configured | Appended | Entered | StagedImage | StagedEntries | Installed | Lost | Stopped
"""Any of them."""


def join_records(records: Iterable[Record]) -> bytes:
    """A snapshot: records, each with its length before it."""
    parts: list[bytes] = []
    for record in records:
        data = encode(record)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def split_records(snapshot: bytes) -> Iterator[bytes]:
    """The encoded records of a snapshot. Raises `ValueError` if it ends too early."""
    position, end = 0, len(snapshot)
    while position < end:
        start = position + _LENGTH.size
        if start > end:
            raise ValueError("the snapshot ends within a length")
        position = start + _LENGTH.unpack_from(snapshot, position)[0]
        if position > end:
            raise ValueError("the snapshot ends within a record")
        yield snapshot[start:position]


def read_records(snapshot: bytes | None, records: Iterable[bytes]) -> list[Record]:
    """All records, oldest first. Raises `ValueError` if some bytes are none."""
    found: list[Record] = []
    for data in (*split_records(snapshot or b""), *records):
        record = decode(data)
        if not isinstance(record, Record):
            raise ValueError(f"{type(record).__name__} is no record of a replica")  # noqa: TRY004  # wrong bytes
        found.append(record)
    return found
