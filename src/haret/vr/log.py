"""The log: entries addressed by their op, whatever was cut off in front."""

from __future__ import annotations

from collections.abc import Sequence

from .messages import Entry, Request
from .violation import check

ENTRY_OVERHEAD = 64
"""Bytes that an entry takes in a message beside its operation, generously counted."""


def entry_size(entry: Entry) -> int:
    """Roughly the bytes that an entry takes in a message."""
    return ENTRY_OVERHEAD + len(entry.operation) if isinstance(entry, Request) else ENTRY_OVERHEAD


def first_batch(entries: Sequence[Entry], max_bytes: int) -> tuple[Entry, ...]:
    """As many of the first entries as fit: at least one, if there is one."""
    room = max_bytes
    for count, entry in enumerate(entries):
        room -= entry_size(entry)
        if room < 0:
            return tuple(entries[: max(1, count)])
    return tuple(entries)


class Log:
    """Entries of consecutive ops, from `start` + 1 to `op`. No caller ever computes a list index.

    The only places where a replica's log changes are the three methods `extend`, `replace_after` and `truncate`.
    """

    __slots__ = ("_entries", "op", "start")

    def __init__(self, start: int = 0) -> None:
        self.start = start
        """The op before the first entry."""
        self.op = start
        """The newest op."""
        self._entries: list[Entry] = []

    def extend(self, first: int, entries: Sequence[Entry]) -> None:
        """Add the entries of ops `first`, `first` + 1, ..., which must follow the newest one."""
        check(first == self.op + 1, "the log has no gaps")
        self._entries.extend(entries)
        self.op += len(entries)

    def replace_after(self, op: int, entries: Sequence[Entry]) -> None:
        """Cut off everything after `op`, then add the entries of ops `op` + 1, ..."""
        check(self.start <= op <= self.op, "a log is replaced from an op that it holds")
        del self._entries[op - self.start :]
        self._entries.extend(entries)
        self.op = op + len(entries)

    def truncate(self, upto: int) -> None:
        """Forget the entries up to `upto`: an image has their effects."""
        if upto > self.start:
            check(upto <= self.op, "only entries that the log holds are cut off")
            del self._entries[: upto - self.start]
            self.start = upto

    def slice(self, after: int, last: int) -> list[Entry]:
        """The entries of ops `after` + 1 to `last`."""
        check(self.start <= after <= last <= self.op, "only entries that the log holds are read")
        return self._entries[after - self.start : last - self.start]

    def batch(self, after: int, last: int, max_entries: int, max_bytes: int) -> tuple[Entry, ...]:
        """As many entries after `after`, up to `last`, as the limits allow: at least one, if there is one."""
        return first_batch(self.slice(after, min(last, after + max_entries)), max_bytes)

    def holds(self, after: int) -> bool:
        """Whether the entries after `after` can be read: none of them was cut off, and `after` exists."""
        return self.start <= after <= self.op
