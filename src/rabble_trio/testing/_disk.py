"""The journal of one simulated process, and what a crash or a bad disk makes of it.

Rules:

1. Records become durable in the order in which they were appended. A snapshot becomes durable by itself, perhaps after
   records that are newer than it; it then stands for what had been appended when it was asked for.
2. A crash loses what is not durable, but for the first records of it, if the disk was that quick.
3. What a disk damages is either noticed when the journal is read (`damage`), because records carry checksums that are
   chained; or it is not, because what is left is a journal as it once was (`Crash.stale`), or none at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ._choices import Crash

KEPT_SYNCS: Final = 32
"""So many syncs back a journal is remembered, for `Crash.stale`. All that changes is how old the oldest copy can be."""

Past = tuple[bytes | None, list[bytes], int]
"""Snapshot, records, and how many of these there were: the list is shared, and only grows."""


@dataclass(slots=True)
class SimulatedJournal:
    """See the rules at the top of its module."""

    checksums: bool = True
    """Whether damage is noticed when the journal is read. Otherwise the process gets whatever is there."""
    snapshot: bytes | None = None
    """The durable snapshot."""
    records: list[bytes] = field(default_factory=list)
    """The durable records that it does not cover. Never shortened in place."""
    unsynced: list[bytes] = field(default_factory=list)
    """Records that are not durable yet."""
    image: tuple[int, Callable[[], bytes]] | None = None
    """The snapshot that was asked for and is not durable yet: how many of `records + unsynced` it covers, and what
    encodes it."""
    damage: str | None = None
    """What was noticed; then the process is not restored."""
    stored: int = 0
    """Records and snapshots that ever became durable."""
    _past: deque[Past] = field(default_factory=lambda: deque(maxlen=KEPT_SYNCS))

    def sync(self, count: int | None = None) -> int:
        """Make the next `count` records durable, by default all. Returns how many that were."""
        moved = self.unsynced[:count]
        if moved:
            self._remember()
            self.records += moved
            del self.unsynced[: len(moved)]
            self.stored += len(moved)
        return len(moved)

    def ask(self, encode: Callable[[], bytes]) -> None:
        """A snapshot is to be taken; an older one that is not durable yet is needless then."""
        self.image = len(self.records) + len(self.unsynced), encode

    def sync_image(self) -> tuple[int, int]:
        """Make the snapshot durable, and what it covers. Returns how many records became so, and its size in bytes."""
        assert self.image is not None
        covered, encode = self.image
        snapshot = encode()
        moved = self.sync(max(0, covered - len(self.records)))
        self._remember()
        self.snapshot, self.records, self.image = snapshot, self.records[covered:], None
        self.stored += 1
        return moved, len(snapshot)

    def crash(self, how: Crash) -> bool:
        """Make of it what the next incarnation finds. Returns whether anything durable was lost or changed."""
        self.sync(how.keep)
        if how.torn and not self.checksums and self.unsynced:
            self.records.append(self.unsynced[0][: len(self.unsynced[0]) // 2])
        self.unsynced.clear()
        self.image = None
        return any([self._go_back(how.stale), self._lose(how.lose), self._rot(how.rot), how.amnesia and self._forget()])

    def take(self) -> str | None:
        """What is wrong with it, of which it is then rid: a new history begins."""
        damage, self.damage = self.damage, None
        if damage is not None:
            self._forget()
        return damage

    @property
    def empty(self) -> bool:
        """Whether nothing is durable."""
        return self.snapshot is None and not self.records

    # --- Damage ---

    def _go_back(self, syncs: int) -> bool:
        """Be as it was so many syncs ago."""
        if not syncs or not self._past:
            return False
        self.snapshot, records, count = self._past[max(0, len(self._past) - syncs)]
        self.records = records[:count]
        for _ in range(min(syncs, len(self._past))):
            self._past.pop()
        return True

    def _lose(self, count: int) -> bool:
        lost = min(count, len(self.records))
        if lost:
            self._remember()
            self.records = self.records[:-lost]
            self._notice(f"the last {lost} of its durable records are missing")
        return lost > 0

    def _rot(self, back: int) -> bool:
        """Spoil the newest record but `back - 1`, or the oldest, or the snapshot if there is nothing else."""
        if not back or self.empty:
            return False
        self._remember()
        if self.records:
            place = max(0, len(self.records) - back)
            self.records = [*self.records[:place], _spoiled(self.records[place]), *self.records[place + 1 :]]
            self._notice(f"record {place + 1} of {len(self.records)} is not what was written")
        else:
            assert self.snapshot is not None
            self.snapshot = _spoiled(self.snapshot)
            self._notice("the snapshot is not what was written")
        return True

    def _forget(self) -> bool:
        if self.empty:
            return False
        self._remember()
        self.snapshot, self.records, self.damage = None, [], None
        return True

    def _remember(self) -> None:
        self._past.append((self.snapshot, self.records, len(self.records)))

    def _notice(self, damage: str) -> None:
        if self.checksums:
            self.damage = damage


def _spoiled(data: bytes) -> bytes:
    """The same with a bit turned over in the middle; one byte if it was empty."""
    middle = len(data) // 2
    return data[:middle] + bytes([(data[middle] if data else 0) ^ 1]) + data[middle + 1 :]
