"""Where records of processes go. One journal serves all processes of a node, so that they share each sync.

Rules of every journal:

1. `append` only remembers; `sync` makes all that was remembered before it durable, in order.
2. Several tasks may wait in `sync` at once; each returns when all that was remembered before its own call is durable.
3. `replace` makes a snapshot durable by itself, and holds up no `sync` for long, however large the snapshot is.
4. `load` gives what is durable: a snapshot, if there is one, and the records after it.
5. An error of `sync` or `replace` is final: what is on the disk is unknown, so nothing is ever appended or synced again.
6. A journal that lost records of a process, or can't trust them, says so in `load`, and gives none. What is appended then
   begins a new history. Until something of that is durable, each `load` says the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from ._errors import JournalError
from ._ids import Pid


@dataclass(frozen=True, slots=True)
class Stored:
    """What a journal holds of one process."""

    snapshot: bytes | None
    """The last durable snapshot; None if there never was one."""
    records: Sequence[bytes]
    """The durable records that the snapshot does not cover, oldest first."""
    damage: str | None = None
    """Why nothing of what was durable can be given, in words; None if all is well."""


class Journal(ABC):
    """The interface of journals; see the rules at the top of its module."""

    @property
    @abstractmethod
    def used(self) -> bool:
        """Whether anything was ever stored, so that actors that persist nothing need not wait for a look-up."""

    @abstractmethod
    async def load(self, pid: Pid) -> Stored | None:
        """What is durable of a process; None if there is nothing. Raises `JournalError` if it can't be read at all."""

    @abstractmethod
    def append(self, pid: Pid, record: bytes) -> int:
        """Remember a record; gives its index, which counts a process's records over all incarnations, from 1.

        Raises `ValueError` if it is larger than the journal takes.
        """

    @abstractmethod
    def last_index(self, pid: Pid) -> int:
        """The index of the last record appended for a process; 0 if there is none."""

    @abstractmethod
    async def replace(self, pid: Pid, upto: int, snapshot: bytes) -> None:
        """Make a snapshot durable that stands for the records with index <= `upto`, which then go. Raises `JournalError`.

        It changes nothing if a newer one is there, or no such records.
        """

    @abstractmethod
    async def sync(self) -> None:
        """Make durable what was remembered so far. Raises `JournalError`, after which the journal is dead."""

    def start_sync(self, done: Callable[[JournalError | None], object]) -> bool:
        """Like `sync`, for who waits for many: `done` is called in Trio's thread when it is over, with its error if it has
        one. False if this journal can't; then nothing was done.
        """
        return False


@dataclass(slots=True)
class _Log:
    snapshot: bytes | None = None
    records: list[bytes] = field(default_factory=list)
    first: int = 1  # the index of records[0]


class MemoryJournal(Journal):
    """A journal that lasts as long as the node: actors that crash find their records again, processes that end don't."""

    def __init__(self) -> None:
        self._logs: dict[Pid, _Log] = {}
        self._pending: list[tuple[Pid, int, bytes, bool]] = []
        self._last: dict[Pid, int] = {}

    @property
    def used(self) -> bool:
        """See `Journal.used`."""
        return bool(self._last)

    async def load(self, pid: Pid) -> Stored | None:
        """See `Journal.load`."""
        await trio.lowlevel.checkpoint()
        log = self._logs.get(pid)
        return None if log is None else Stored(log.snapshot, tuple(log.records))

    def append(self, pid: Pid, record: bytes) -> int:
        """See `Journal.append`."""
        self._last[pid] = index = self.last_index(pid) + 1
        self._pending.append((pid, index, record, False))
        return index

    def last_index(self, pid: Pid) -> int:
        """See `Journal.last_index`."""
        return self._last.get(pid, 0)

    async def replace(self, pid: Pid, upto: int, snapshot: bytes) -> None:
        """See `Journal.replace`."""
        self._last.setdefault(pid, 0)
        self._pending.append((pid, upto, snapshot, True))
        await self.sync()

    async def sync(self) -> None:
        """See `Journal.sync`."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        # All in one piece after the checkpoint: of two tasks that sync at once, either may come back from it first.
        pending, self._pending = self._pending, []
        for pid, index, data, is_snapshot in pending:
            log = self._logs.setdefault(pid, _Log())
            if is_snapshot and index + 1 < log.first:
                continue  # a newer snapshot stands for these records already
            if is_snapshot:
                del log.records[: max(0, index + 1 - log.first)]
                log.first = max(log.first, index + 1)
                log.snapshot = data
            else:
                log.records.append(data)
