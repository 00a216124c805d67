"""A node's data directory: who may use it, and what it keeps of its cluster, to find the others again after a restart.

One file, `cluster.record`, readable by its owner alone: a line that says what it is, the SHA-256 of the rest, and a
`ClusterRecord`. It is replaced as a whole, by renaming a synced file over it, so a crash leaves the old one or the new one.
The directory belongs to the one process that holds a lock on `node.lock`, which its death releases.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from ._codec import MAX_MESSAGE_SIZE, decode, encode, message
from ._errors import DecodeError, RecordError
from ._members import MembersRecord

logger = logging.getLogger("rabble_trio.cluster")

FILE_NAME: Final = "cluster.record"
LOCK_NAME: Final = "node.lock"

_HEAD: Final = b"rabble cluster record 1\n"
_SUM_BYTES: Final = 32
_MAX_BYTES: Final = 2 * MAX_MESSAGE_SIZE  # the members fit into a message, and a bit is around them


@message(tag="rabble.cluster_record")
class ClusterRecord:
    """The content of the file."""

    incarnation: int
    """The highest that this node ever had."""
    cluster: str
    """The name of the cluster."""
    members: MembersRecord
    """Who belongs to it."""
    journal: bytes = b""
    """The identity of the node's journal, by which it is missed when it is gone; empty if it never had one."""


class RecordKeeper:
    """Reads and writes the record of one node; without a directory it keeps nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / FILE_NAME
        self._lock: int | None = None
        self._next: ClusterRecord | None = None
        self._work = trio.Event()
        self._settled = trio.Event()
        self._settled.set()
        self.journal = b""
        """The identity of the node's journal, which goes into every record from now on."""

    async def load(self) -> ClusterRecord | None:
        """Take the directory, and give what was kept there, or None; `close` gives it back.

        Raises `RecordError` if another node has it, or if there is something, but not a sound record.
        """
        if self._path is not None:
            self._lock = _take(self._path.with_name(LOCK_NAME))
        record = None if self._path is None else await trio.to_thread.run_sync(_read, self._path)
        if record is not None:
            self.journal = record.journal
        return record

    async def store(self, record: ClusterRecord) -> None:
        """Write it now. Raises `RecordError`."""
        if self._path is None:
            return
        try:
            await trio.to_thread.run_sync(_write, self._path, replace(record, journal=self.journal))
        except OSError as error:
            raise RecordError(f"can't write {self._path}: {error.strerror or error}") from error

    def save(self, record: ClusterRecord) -> None:
        """Write it soon, unless a newer one comes."""
        if self._path is not None:
            self._next = record
            self._work.set()
            if self._settled.is_set():
                self._settled = trio.Event()

    def close(self) -> None:
        """Let others have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def settled(self) -> None:
        """Wait until what was saved is durable."""
        await self._settled.wait()

    async def run(self, retry: float) -> None:
        """Write what is saved, until cancelled. What can't be written is logged, and tried again after `retry` seconds."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            record = self._next
            assert record is not None
            try:
                await self.store(record)
            except RecordError as error:
                # Others know what this node forgets if it dies now, so it is no reason to die.
                logger.error("%s; trying again in %g s", error, retry)
                await trio.sleep(retry)
                self._work.set()
            else:
                if self._next is record:
                    self._settled.set()


def _take(path: Path) -> int:
    """Lock a file, until the descriptor is closed or this process dies."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RecordError(f"can't write {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())  # for whoever is refused
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise RecordError(
            f"{path.parent} belongs to a node that runs, in process {holder or '?'}: stop that one, or give each node a "
            "directory of its own"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise RecordError(f"can't lock {path}: {error.strerror or error}") from error
    return descriptor


def _read(path: Path) -> ClusterRecord | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"can't read {path}: {error.strerror or error}") from error
    advice = "restore it, or remove it if this node shall start afresh and join its cluster again"
    start = len(_HEAD) + _SUM_BYTES
    if len(data) > _MAX_BYTES or not data.startswith(_HEAD) or len(data) < start:
        raise RecordError(f"{path} is no record of a cluster: {advice}")
    if hashlib.sha256(data[start:]).digest() != data[len(_HEAD) : start]:
        raise RecordError(f"{path} is damaged, its checksum is wrong: {advice}")
    try:
        record = decode(data[start:], max_size=_MAX_BYTES)
    except DecodeError as error:
        raise RecordError(f"{path} can't be read by this version: {error}") from error
    if not isinstance(record, ClusterRecord):
        raise RecordError(f"{path} holds {type(record).__name__}, not the record of a cluster: {advice}")
    return record


def _write(path: Path, record: ClusterRecord) -> None:
    content = encode(record, max_size=_MAX_BYTES)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_HEAD + hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # or the rename itself may be lost
    finally:
        os.close(directory)
