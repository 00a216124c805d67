"""How the file of a journal is opened: what is missing or damaged is found out before anybody relies on it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sqlite3
import struct
from dataclasses import astuple
from hashlib import blake2b
from pathlib import Path
from sqlite3 import connect
from typing import Any, Final

from ._errors import JournalError
from ._journal_file import (
    CHECKPOINT_BYTES,
    FORMAT,
    INSERT_STATE,
    PAGE_SIZE,
    SCHEMA,
    SUM,
    JournalFile,
    State,
    is_corruption,
    seal,
)
from ._wal import read_wal

logger = logging.getLogger("rabble_trio.journal")

FILE_NAME: Final = "journal.db"
MARK_NAME: Final = "journal.mark"

MAX_SET_ASIDE: Final = 3
"""Unreadable files that are kept for whoever wants to know what happened to them."""

RESERVED: Final = CHECKPOINT_BYTES + CHECKPOINT_BYTES // 8
"""Bytes of the write-ahead log that are there before they are needed: some records come in while it waits to be copied."""

_NOT_ALLOWED: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_CACHE_KIB: Final = 16 * 1024  # the newest page of each of some thousands of histories


class Mark:
    """How much was synced, in a small file of its own that is not synced itself.

    So it survives the death of the program, and never says too much after that of the machine. A file that is missing or
    damaged says nothing.
    """

    _LAYOUT: Final = struct.Struct(">8s16sQQ")
    _MAGIC: Final = b"rjmark1\n"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        data = os.pread(self._file, self._LAYOUT.size + SUM, 0)
        content = data[: self._LAYOUT.size]
        self.identity = b""
        """That of the journal which it is about; empty if it says nothing."""
        self._processes = self._records = 0
        if len(data) == self._LAYOUT.size + SUM and data == content + self._checksum(content):
            _, self.identity, self._processes, self._records = self._LAYOUT.unpack(content)
        elif data:
            logger.warning("%s is damaged, which nobody but the next start would have noticed", path)

    @staticmethod
    def _checksum(content: bytes) -> bytes:
        return blake2b(content, digest_size=SUM).digest()

    def contradiction(self, identity: bytes, processes: int, records: int) -> str | None:
        """Why a journal that has so many processes and records can't be the one it was; None if it can."""
        if not self.identity:
            return None
        if self.identity != identity:
            return f"the journal here is not the one that {self._path} is about"
        if processes < self._processes or records < self._records:
            return (
                f"of {self._records} records of {self._processes} processes that were synced, {records} records of "
                f"{processes} processes are there: the journal is damaged at its end, or an older copy"
            )
        return None

    def write(self, identity: bytes, processes: int, records: int) -> None:
        """Note what was synced."""
        self.identity, self._processes, self._records = identity, processes, records
        assert self._file is not None
        content = self._LAYOUT.pack(self._MAGIC, identity, processes, records)
        os.pwrite(self._file, content + self._checksum(content), 0)

    def close(self) -> None:
        """Close the file, once."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Unreadable(Exception):
    """A file is no journal, or not any more."""


def open_journal_file(directory: Path, node: str, expected: bytes) -> JournalFile[Any]:
    """Open the journal of a node, or make one.

    `node`: its name. `expected`: the identity of the journal that it had before; empty if it had none. What is missing or
    damaged is found out, and told to the processes. Raises `JournalError` if it can't be used at all.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark = Mark(directory / MARK_NAME)
        try:
            return _open(path, node, expected, mark)
        except BaseException:
            mark.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise failure(path, error) from error


def _open(path: Path, node: str, expected: bytes, mark: Mark) -> JournalFile[Any]:
    reason: str | None
    if path.exists() and path.stat().st_size:
        try:
            return _open_existing(path, node, expected, mark)
        except Unreadable as error:
            reason = f"{path} was not readable: {error}"
        except sqlite3.Error as error:
            if not is_corruption(error):
                raise
            reason = f"{path} was not readable: {error}"
        logger.critical("%s; it is set aside as %s", reason, _put_aside(path))
    else:
        reason = f"{path} is gone" if expected or mark.identity else None
    state = State(FORMAT, secrets.token_bytes(16), node, 1, reason, 0)
    _create(path, state)
    mark.write(state.identity, 0, 0)
    return _open_existing(path, node, b"", mark)


def _open_existing(path: Path, node: str, expected: bytes, mark: Mark) -> JournalFile[Any]:
    wal_path = path.with_name(f"{path.name}-wal")
    wal = read_wal(wal_path, PAGE_SIZE)
    connection = _connect(path)
    try:
        # What SQLite accepted of the log; nothing has been written since it was opened.
        [(_, accepted, _)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        _check_schema(connection)
        state = _read_state(connection)
        if state.format != FORMAT:
            raise JournalError(f"{path} has format {state.format}, and this version reads {FORMAT} only: use the other")
        if state.node != node:
            raise JournalError(
                f"{path} is the journal of {state.node}, not of {node}: each node has a directory of its own"
            )
        reason = None
        if lost := wal.lost(accepted):
            reason = (
                f"the write-ahead log of {path} is damaged, so at least {lost} transactions that were synced are lost"
            )
        elif expected not in {b"", state.identity}:
            reason = f"{path} is not the journal that this node had before"
        _reserve(wal_path)
        file: JournalFile[Any] = JournalFile(path, connection, state, mark)
        file.take_up(reason)
    except BaseException:
        connection.close()
        raise
    return file


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path, isolation_level=None, timeout=0, cached_statements=64)
    # A text that is damaged has a checksum that is wrong. Without this it would be an error to read it.
    connection.text_factory = lambda data: data.decode(errors="replace")
    try:
        for setting in (
            "locking_mode = EXCLUSIVE",  # fewer system calls, and a second connection has been known to damage files
            "synchronous = FULL",
            "wal_autocheckpoint = 0",  # `step` does it, when nobody waits
            f"cache_size = -{_CACHE_KIB}",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        [(mode,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode != "wal":
            raise Unreadable(f"it can't be used with a write-ahead log, but in mode {mode} only")
    except BaseException:
        connection.close()
        raise
    return connection


def _reserve(path: Path) -> None:
    """Give the write-ahead log the size that it has when it is copied into the main file.

    A sync of a file that does not grow needs no more of its file system than the data, and takes half the time. SQLite
    takes what is left over at the end of a log for what it is, nothing: no frame begins with zeros.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            missing = RESERVED - file.seek(0, os.SEEK_END)
            while missing > 0:
                missing -= file.write(bytes(min(missing, 1024 * 1024)))
            os.fsync(file.fileno())
    except OSError as error:
        logger.warning("%s stays short, so that syncs take longer: %s", path, error)


def _create(path: Path, state: State) -> None:
    """Make a file that is complete when it gets its name, so that a crash leaves none that is half made."""
    new = path.with_suffix(".new")
    for leftover in (new, new.with_name(f"{new.name}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # or SQLite makes it readable for others
    with contextlib.closing(connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        for statement in SCHEMA:
            connection.execute(statement)
        values = astuple(state)
        connection.execute(INSERT_STATE, (*values, seal(state.identity, values)))
        connection.execute("COMMIT")
    for leftover in _log_files(path):
        leftover.unlink(missing_ok=True)  # those of another journal.db would be taken for this one's
    new.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raise `Unreadable` unless the tables are ours, as they may be damaged to others that SQLite reads as well."""
    found = connection.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    if found != [(statement,) for statement in SCHEMA]:
        raise Unreadable("its tables are not those of a journal")


def _read_state(connection: sqlite3.Connection) -> State:
    rows = connection.execute("SELECT * FROM journal").fetchall()
    if len(rows) == 1:
        *values, checksum = rows[0]
        state = State(*values)
        if (
            isinstance(state.identity, bytes)
            and len(state.identity) == SUM
            and seal(state.identity, values) == checksum
        ):
            return state
    raise Unreadable("what it says about itself is damaged or missing")


def _log_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def _put_aside(path: Path) -> Path:
    """Rename a file and its logs; of those put aside the newest few are kept."""
    number = 1
    while number < MAX_SET_ASIDE and path.with_name(f"{path.name}.damaged-{number}").exists():
        number += 1
    aside = path.with_name(f"{path.name}.damaged-{number}")
    for file in _log_files(path):
        if file.exists():
            file.replace(aside.with_name(file.name.replace(path.name, aside.name)))
    return path.replace(aside)


def failure(path: Path, error: Exception) -> JournalError:
    """The error for those who use the journal, with what to do."""
    if isinstance(error, JournalError):
        return error
    code, number = getattr(error, "sqlite_errorcode", 0) & 0xFF, getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number in {errno.ENOSPC, errno.EDQUOT}:
        advice = "Make room on its disk, and start the node again. Nothing that anybody was told is lost"
    elif code in _NOT_ALLOWED or number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        advice = "Make it and its directory writable for the user that the node runs as, and start the node again"
    elif code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        advice = (
            "Start the node again. If that does not help, move the file away: its processes are told that it is gone"
        )
    else:
        advice = (
            "Look after the disk, then start the node again. It is not tried again, as nobody knows what was written"
        )
    if not isinstance(error, sqlite3.Error | OSError):
        advice = "This is a defect of the journal. It is not tried again, as nobody knows what was written"
    return JournalError(f"{path}: {error}. {advice}")
