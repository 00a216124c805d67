"""The file of a durable journal: what stands in it, how it is written, and how a loss is found out.

Everything here is synchronous and belongs to one thread (`_sqlite_journal`).

What one process persisted is its *history*: a row in `process`, with its records and the chunks of its snapshot.

1. One connection, held exclusively, in WAL mode with `synchronous=FULL`: a commit that returns is on the disk.
2. The records of a process that one sync makes durable are one row, with a checksum over them and over the checksum of
   the row before. The row in `process` holds the newest checksum, and a seal over itself. So rows that are changed,
   missing or old are found when the history is read.
3. A snapshot is written in chunks, one transaction each, between the syncs of records. It counts from the transaction
   that enters it into its history, and then the rows that it covers are garbage, which goes in pieces of bounded size.
4. What was committed may vanish as a whole: SQLite drops the tail of a damaged write-ahead log, and files get deleted or
   restored. So `journal.mark` counts what was synced, the write-ahead log is read before SQLite opens it (`_wal`), and the
   identity of the journal is kept elsewhere too (`_record`). If something is missing, no history is trusted any more.
5. A history that is damaged or not trusted stays in the file, aside, and its process is told. With the first record that
   the process then persists, a new history begins. Until that is durable, the process is told again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import struct
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from msgpack import packb

from ._ids import Pid
from ._journal import Stored

if TYPE_CHECKING:
    from ._journal_open import Mark

logger = logging.getLogger("rabble_trio.journal")

MAX_RECORD: Final = 64 * 1024 * 1024
"""Bytes of one record: it is written at one go, and as long as that takes nothing else is synced."""

CHUNK: Final = 256 * 1024
"""Bytes of a snapshot that are written between two syncs of records, which wait less than a millisecond for them."""

PURGE_ROWS: Final = 1024
"""Rows of garbage that are deleted between two syncs of records: a millisecond or two."""

PURGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of garbage that are deleted between two syncs of records, as large rows take longer."""

CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
"""Bytes written to the write-ahead log before it is copied into the main file, at most, and two thirds of it at least. That
takes some ten milliseconds, in which nothing is synced: nodes that write the same must not do it at the same time."""

ROWS: Final = 64
"""Rows that one statement writes, at most. This thread gives its turn away with each statement, and when the event loop
has much to do it may wait for 5 ms until it has another one: hundreds of processes with a statement each took a second."""

FORMAT: Final = 1
PAGE_SIZE: Final = 4096
SUM: Final = 16  # bytes of a checksum
_ROW_BYTES: Final = 1024 * 1024  # of records in a row, so that rows stay of a size that is deleted at one go
_PART_BITS: Final = 32
_EVERYTHING: Final = 1 << 62  # more than any place
_START: Final = bytes(SUM)  # what stands for the checksum before the first row

SCHEMA: Final = (
    "CREATE TABLE journal (format INTEGER, identity BLOB, node TEXT, generation INTEGER, reason TEXT, processes INTEGER, "
    "seal BLOB)",
    'CREATE TABLE process (id INTEGER PRIMARY KEY, "group" TEXT, name TEXT, generation INTEGER, damage TEXT, '
    "last INTEGER, sum BLOB, first INTEGER, anchor BLOB, "
    "snapshot INTEGER, upto INTEGER, parts INTEGER, size INTEGER, snapshot_sum BLOB, seal BLOB)",
    # `place` is the index of the first record of a row.
    "CREATE TABLE record (process INTEGER, place INTEGER, sizes BLOB, data BLOB, sum BLOB, PRIMARY KEY (process, place)) "
    "WITHOUT ROWID",
    # `place` is (number of the snapshot << _PART_BITS) + number of the chunk.
    "CREATE TABLE chunk (process INTEGER, place INTEGER, data BLOB, PRIMARY KEY (process, place)) WITHOUT ROWID",
)
_UPDATE_HEADS: Final = (  # rows that are there, which an UPDATE would take one by one
    "INSERT INTO process (id, last, sum, seal) VALUES {} "
    "ON CONFLICT (id) DO UPDATE SET last = excluded.last, sum = excluded.sum, seal = excluded.seal"
)
INSERT_STATE: Final = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)"

_CORRUPT: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_READ,
}
"""Errors of SQLite that speak of the bytes on the disk (their low byte is the kind, the rest details)."""

T = TypeVar("T")
_Key = tuple[str | None, str]


@dataclass(slots=True)
class State:
    """The row of `journal`, but for its seal."""

    format: int
    identity: bytes
    node: str  # the name of the node that it belongs to
    generation: int  # goes up when trust in all histories is lost
    reason: str | None  # why unknown processes, and histories of earlier generations, are told that they are damaged
    processes: int  # rows of `process`


@dataclass(slots=True)
class _History:
    """A row of `process`, but for its seal."""

    id: int
    group: str | None
    name: str
    generation: int
    damage: str | None = None  # why it was set aside; None: it was not
    last: int = 0  # the index of the last record
    sum: bytes = _START  # of the last row
    first: int = 1  # the index of the first record that is no garbage
    anchor: bytes = _START  # the checksum of the row before that
    snapshot: int = 0  # snapshots so far
    upto: int = 0  # the newest one covers the records up to this index
    parts: int = 0
    size: int = 0
    snapshot_sum: bytes = b""

    @property
    def key(self) -> _Key:
        return self.group, self.name


_COLUMNS: Final = [field.name for field in fields(_History)]
_values: Final = attrgetter(*_COLUMNS)  # astuple copies each value


class _Damage(Exception):
    """A history can't be trusted; says why."""


@dataclass(slots=True)
class _Writing(Generic[T]):
    """A snapshot that is being written."""

    pid: Pid
    upto: int
    data: bytes
    token: T
    history: _History | None = None
    number: int = 0
    parts: int = 0
    sum: Any = None


class JournalFile(Generic[T]):
    """A journal's file, open; `open_journal_file` makes it. `T`: what names a snapshot that is being written.

    Methods raise `sqlite3.Error` and `OSError`, after which it may only be closed.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, state: State, mark: Mark) -> None:
        self.path = path
        self._connection = connection
        self._state = state
        self._mark = mark
        self._histories: dict[_Key, _History] = {}
        self._aside: dict[_Key, int] = {}  # the newest history of each process that was set aside
        self._next_id = 1
        self._records = 0  # synced ones, of all histories that ever were
        self._writing: deque[_Writing[T]] = deque()
        self._garbage: deque[tuple[str, int, int]] = deque()  # in which table, of whom, and below which place
        self._unchecked = 0  # bytes written since the last checkpoint, roughly
        self._checkpoint_bytes = _checkpoint_bytes()

    # What is in it ----------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> bytes:
        """16 random bytes that no other journal has."""
        return self._state.identity

    @property
    def suspect(self) -> bool:
        """Whether processes that are not known here may have persisted something that is lost."""
        return self._state.reason is not None

    def lasts(self) -> dict[tuple[str | None, str], int]:
        """The index of the last record of each known process, by its group and name."""
        return {key: history.last if self._trusted(history) else 0 for key, history in self._histories.items()}

    def _trusted(self, history: _History) -> bool:
        return history.damage is None and history.generation == self._state.generation

    def load(self, pid: Pid) -> Stored | None:
        """What is durable of a process, or what is wrong with it; None if there is nothing."""
        history = self._histories.get((pid.group, pid.name))
        if history is None or history.generation != self._state.generation:
            reason = self._state.reason
            return None if reason is None else Stored(None, (), reason)
        if history.snapshot:
            self._discard_covered(history)  # what a crash may have left
        if history.damage is None:
            try:
                return self._read(history)
            except _Damage as damage:
                history.damage = str(damage)
            except sqlite3.Error as error:
                if not is_corruption(error):
                    raise
                history.damage = f"{self.path} is damaged where this process has its records: {error}"
            logger.error("%s: %s", pid, history.damage)
        return Stored(None, (), history.damage)

    def _read(self, history: _History) -> Stored | None:
        if history.last == 0 and history.parts == 0:
            return None
        snapshot = self._read_snapshot(history) if history.parts else None
        records: list[bytes] = []
        index, previous = history.first, history.anchor
        rows = self._connection.execute(
            "SELECT place, sizes, data, sum FROM record WHERE process = ? ORDER BY place", (history.id,)
        )
        for place, sizes, data, checksum in rows.fetchall():
            if place < history.first:
                continue  # garbage that a crash left
            if place != index:
                raise _Damage(f"record {index} is missing")
            previous = _chain(self.identity, previous, history.id, index, sizes, data)
            if previous != checksum:
                raise _Damage(f"the checksum of record {index} is wrong")
            position = 0
            for (size,) in struct.iter_unpack(">I", sizes):
                if index > history.upto:
                    records.append(data[position : position + size])
                position += size
                index += 1
        if index != history.last + 1:
            raise _Damage(f"record {index} is missing, and {history.last} were synced")
        if previous != history.sum:
            raise _Damage(f"the last records, up to {history.last}, are not the ones that were synced last")
        return Stored(snapshot, tuple(records))

    def _read_snapshot(self, history: _History) -> bytes:
        base = history.snapshot << _PART_BITS
        rows = self._connection.execute(
            "SELECT data FROM chunk WHERE process = ? AND place >= ? AND place < ? ORDER BY place",
            (history.id, base, base + history.parts),
        )
        snapshot = b"".join(data for (data,) in rows.fetchall())
        checksum = _snapshot_sum(self.identity, history.id, history.snapshot)
        checksum.update(snapshot)
        if len(snapshot) != history.size or checksum.digest() != history.snapshot_sum:
            raise _Damage(f"the snapshot that stands for the records up to {history.upto} is damaged or missing")
        return snapshot

    # Writing records --------------------------------------------------------------------------------------------------

    def write(self, batches: Mapping[Pid, Sequence[bytes]]) -> None:
        """Append records to the histories of these processes, and sync."""
        execute = self._connection.execute
        execute("BEGIN")
        rows: list[tuple[object, ...]] = []
        heads: list[tuple[object, ...]] = []
        for pid, records in batches.items():
            history = self._history(pid)
            for batch in _pieces(records):
                index = history.last + 1
                sizes = struct.pack(f">{len(batch)}I", *map(len, batch))
                data = batch[0] if len(batch) == 1 else b"".join(batch)
                history.sum = _chain(self.identity, history.sum, history.id, index, sizes, data)
                history.last += len(batch)
                rows.append((history.id, index, sizes, data, history.sum))
                self._unchecked += len(data) + 2 * PAGE_SIZE
            self._records += len(records)
            heads.append((history.id, history.last, history.sum, self._seal(history)))
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            execute("INSERT INTO record VALUES " + _places(len(some), 5), list(chain.from_iterable(some)))
        for start in range(0, len(heads), ROWS):
            some = heads[start : start + ROWS]
            execute(_UPDATE_HEADS.format(_places(len(some), 4)), list(chain.from_iterable(some)))
        execute("COMMIT")
        self._mark.write(self.identity, self._state.processes, self._records)

    def _history(self, pid: Pid) -> _History:
        """The history to go on with. It is a new one if the process has none that can be trusted."""
        key = (pid.group, pid.name)
        history = self._histories.get(key)
        if history is not None:
            if self._trusted(history):
                return history
            self._set_aside(history)
        history = _History(self._next_id, pid.group, pid.name, self._state.generation)
        self._next_id += 1
        self._histories[key] = history
        places = ", ".join("?" * (len(_COLUMNS) + 1))
        self._connection.execute(f"INSERT INTO process VALUES ({places})", (*_values(history), self._seal(history)))
        self._state.processes += 1
        self._update_state()
        return history

    def _set_aside(self, history: _History) -> None:
        if history.damage is None:
            history.damage = self._state.reason
        self._update(history)
        self._keep_aside(history)

    def _keep_aside(self, history: _History) -> None:
        """Keep the newest for whoever wants to know what happened to it."""
        older = self._aside.get(history.key)
        if older is not None:
            self._garbage.append(("record", older, _EVERYTHING))
            self._garbage.append(("chunk", older, _EVERYTHING))
        self._aside[history.key] = history.id

    def _update(self, history: _History) -> None:
        places = ", ".join(f'"{name}" = ?' for name in _COLUMNS)
        self._connection.execute(
            f"UPDATE process SET {places}, seal = ? WHERE id = ?",
            (*_values(history), self._seal(history), history.id),
        )

    def _seal(self, history: _History) -> bytes:
        return seal(self.identity, _values(history))

    # Work between syncs -----------------------------------------------------------------------------------------------

    def begin_snapshot(self, pid: Pid, upto: int, data: bytes, token: T) -> None:
        """Write a snapshot that stands for the records up to an index, which must be written; `step` does it."""
        self._writing.append(_Writing(pid, upto, data, token))

    @property
    def has_work(self) -> bool:
        """Whether there is something for `step` to do."""
        return bool(self._writing or self._garbage) or self._unchecked > self._checkpoint_bytes

    @property
    def has_snapshot(self) -> bool:
        """Whether there is a snapshot to be written."""
        return bool(self._writing)

    def step(self) -> T | None:
        """Do a bounded piece of work; tells which snapshot it made durable, if it did."""
        if self._unchecked > self._checkpoint_bytes:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._unchecked = 0
            self._checkpoint_bytes = _checkpoint_bytes()
        elif self._writing:
            return self._write_chunk(self._writing[0])
        elif self._garbage:
            self._purge()
        return None

    def _write_chunk(self, writing: _Writing[T]) -> T | None:
        if writing.history is None and self._is_needless(writing):
            return self._writing.popleft().token
        execute = self._connection.execute
        execute("BEGIN")
        if writing.history is None:
            writing.history = self._history(writing.pid)
            writing.number = writing.history.snapshot + 1
            writing.sum = _snapshot_sum(self.identity, writing.history.id, writing.number)
        position = writing.parts * CHUNK
        chunk = memoryview(writing.data)[position : position + CHUNK]
        writing.sum.update(chunk)
        place = (writing.number << _PART_BITS) + writing.parts
        # In the place of one that a crash left, of a snapshot that was never entered.
        execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", (writing.history.id, place, chunk))
        writing.parts += 1
        finished = position + CHUNK >= len(writing.data)
        if finished:
            self._enter(writing.history, writing)
        execute("COMMIT")
        self._unchecked += CHUNK
        return self._writing.popleft().token if finished else None

    def _is_needless(self, writing: _Writing[T]) -> bool:
        """Whether a newer snapshot stands for the records already, or they are of a history that was set aside."""
        history = self._histories.get((writing.pid.group, writing.pid.name))
        if history is None or not self._trusted(history):
            return writing.upto > 0
        return not history.upto <= writing.upto <= history.last

    def _enter(self, history: _History, writing: _Writing[T]) -> None:
        """Let a snapshot, all of which is written, take the place of records."""
        history.first, history.anchor = self._anchor(history, writing.upto)
        history.snapshot, history.upto = writing.number, writing.upto
        history.parts, history.size = writing.parts, len(writing.data)
        history.snapshot_sum = writing.sum.digest()
        self._update(history)
        self._discard_covered(history)

    def _discard_covered(self, history: _History) -> None:
        self._garbage.append(("record", history.id, history.first))
        self._garbage.append(("chunk", history.id, history.snapshot << _PART_BITS))

    def _anchor(self, history: _History, upto: int) -> tuple[int, bytes]:
        """Where the records that a snapshot does not cover begin, and the checksum before that.

        The unit is the row, so that of records that were synced together covered ones may be kept.
        """
        if upto >= history.last:
            return history.last + 1, history.sum
        before = "SELECT place, sum FROM record WHERE process = ? AND place <= ? ORDER BY place DESC LIMIT 2"
        rows = self._connection.execute(before, (history.id, upto + 1)).fetchall()
        if len(rows) < 2 or rows[1][0] < history.first:
            return history.first, history.anchor
        return rows[0][0], rows[1][1]

    def _purge(self) -> None:
        table, id, below = self._garbage[0]
        execute = self._connection.execute
        try:
            rows = execute(
                f"SELECT place, length(data) FROM {table} WHERE process = ? AND place < ? ORDER BY place LIMIT ?",
                (id, below, PURGE_ROWS),
            ).fetchall()
            size = count = 0
            while count < len(rows) and size <= PURGE_BYTES:
                size += rows[count][1]
                count += 1
            if count:
                execute(f"DELETE FROM {table} WHERE process = ? AND place <= ?", (id, rows[count - 1][0]))
                self._unchecked += size
            if count == len(rows) < PURGE_ROWS:
                self._garbage.popleft()
        except sqlite3.Error as error:
            # Damage in what nobody needs any more is nobody's damage.
            if not is_corruption(error):
                raise
            logger.error("%s: garbage can't be removed: %s", self.path, error)
            self._garbage.popleft()

    def close(self) -> None:
        """Copy the write-ahead log into the main file, and close it."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()
        self._mark.close()

    def abandon(self) -> None:
        """Close it after an error, also one of `close`."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._mark.close()

    # Opening ----------------------------------------------------------------------------------------------------------

    def take_up(self, reason: str | None) -> None:
        """Read who has histories here. With a reason, none of them is trusted any more."""
        rows = self._connection.execute("SELECT * FROM process ORDER BY id").fetchall()
        broken = [row for row in rows if row[-1] != seal(self.identity, row[:-1])]
        for row in rows:
            if row not in broken:
                self._know(_History(*row[:-1]))
        lost = len(broken) + max(0, self._state.processes - len(rows))
        self._state.processes = len(rows) - len(broken)
        if reason is None and not lost:
            reason = self._mark.contradiction(self.identity, self._state.processes, self._records)
        if reason is not None:
            self.distrust(reason)
        elif lost:
            self._forget(broken, lost)
        # Never the id of an earlier history, whose records may be here although its row is lost.
        used = "SELECT max(i) FROM (SELECT max(id) i FROM process UNION SELECT max(process) FROM record UNION "
        [(highest,)] = self._connection.execute(f"{used} SELECT max(process) FROM chunk)")
        self._next_id = (highest or 0) + 1
        self._mark.write(self.identity, self._state.processes, self._records)

    def _know(self, history: _History) -> None:
        self._records += history.last
        if history.damage is None:
            self._histories[history.key] = history
        else:
            self._keep_aside(history)

    def distrust(self, reason: str) -> None:
        """Trust no history any more: each process is told this reason, the ones that are not known here as well."""
        logger.critical("%s: no process can trust its records any more: %s", self.path, reason)
        self._state.generation += 1
        self._state.reason = reason
        self._update_state()

    def _forget(self, broken: Sequence[object], lost: int) -> None:
        """Rows of `process` are damaged or missing. Whoever is not known from now on may be one of theirs."""
        reason = (
            f"{self.path} is damaged where it says who has records here: {lost} processes are unreadable or missing"
        )
        logger.critical("%s: %r", reason, broken)
        known = [history.id for history in self._histories.values()] + list(self._aside.values())
        self._connection.execute("BEGIN")
        self._connection.execute(f"DELETE FROM process WHERE id NOT IN ({', '.join(map(str, known))})")
        self._state.reason = reason
        self._update_state()
        self._connection.execute("COMMIT")

    def _update_state(self) -> None:
        values = astuple(self._state)
        self._connection.execute("DELETE FROM journal")
        self._connection.execute(INSERT_STATE, (*values, seal(self.identity, values)))


def _checkpoint_bytes() -> float:
    return CHECKPOINT_BYTES * random.uniform(2 / 3, 1)


def _pieces(records: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Part records into rows."""
    if len(records) == 1:
        yield records
        return
    start = size = 0
    for end, record in enumerate(records):
        if size and size + len(record) > _ROW_BYTES:
            yield records[start:end]
            start, size = end, 0
        size += len(record)
    yield records[start:]


@cache
def _places(rows: int, columns: int) -> str:
    """Where the values go in a statement: "(?, ?), (?, ?), ..."."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def _chain(identity: bytes, previous: bytes, id: int, place: int, sizes: bytes, data: bytes) -> bytes:
    """The checksum of a row."""
    head = previous + struct.pack(">QQI", id, place, len(sizes)) + sizes
    checksum = blake2b(head, digest_size=SUM, key=identity)
    checksum.update(data)
    return checksum.digest()


def _snapshot_sum(identity: bytes, id: int, number: int) -> Any:
    """The checksum of a snapshot, whose bytes are still to come."""
    return blake2b(struct.pack(">QQ", id, number), digest_size=SUM, key=identity)


def seal(identity: bytes, values: Sequence[object]) -> bytes:
    """The checksum of a row of numbers, texts and bytes."""
    return blake2b(packb(values), digest_size=SUM, key=identity).digest()


def is_corruption(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code in _CORRUPT or code & 0xFF in _CORRUPT
