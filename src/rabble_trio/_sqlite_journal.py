"""The durable journal of a node: one file, and one thread that writes it.

1. The thread takes all that waits, of all processes, writes it in one transaction with one sync, and reports.
2. Between two such rounds it does one bounded piece of other work: a chunk of a snapshot, garbage, a checkpoint.
3. After an error it does nothing any more, and says so to everybody who comes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import outcome
import trio

from ._errors import JournalError
from ._ids import NodeId, Pid
from ._journal import Journal, Stored
from ._journal_file import MAX_RECORD, JournalFile
from ._journal_open import failure, open_journal_file

logger = logging.getLogger("rabble_trio.journal")


class _Job:
    """Something for the thread to do, and for a task to wait for."""

    __slots__ = ("batches", "call", "done", "error", "result", "then")

    def __init__(self, batches: dict[Pid, list[bytes]] | None, call: Callable[[], Any] | None = None) -> None:
        self.batches = batches  # records to write
        self.call = call  # or something else
        self.then: Callable[[JournalError | None], object] | None = None  # what else to do when it is done
        self.done = trio.Event()
        self.result: outcome.Outcome[Any] = outcome.Value(None)
        self.error: JournalError | None = None  # of the journal


_LATER = object()
"""What a call returns if its job is done only when `JournalFile.step` says so."""


class SqliteJournal(Journal):
    """A journal in a directory. `open` it, and close it with `aclose`."""

    def __init__(self, directory: Path, node: NodeId, expected: bytes) -> None:
        self._directory = directory
        self._node = node
        self._expected = expected
        self._file: JournalFile[_Job]  # the thread's, but for what never changes
        self._identity = b""
        self._suspect = False
        self._pending: dict[Pid, list[bytes]] = {}
        self._last: dict[Pid, int] = {}
        self._in_flight = 0  # jobs with records that the thread has not reported
        self._failure: JournalError | None = None
        self._closed = False
        self._ending = False  # the thread's: it has been told to end
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread: threading.Thread
        self._ended = trio.Event()

    @classmethod
    async def open(cls, directory: Path, node: NodeId, expected: bytes = b"") -> SqliteJournal:
        """Open the journal of a node in its data directory, or make it there.

        `expected`: the `identity` of the journal that the node had before; empty if it had none. Raises `JournalError`.
        """
        journal = cls(directory, node, expected)
        job = _Job(None)
        # A daemon, so that a program that dies without closing its node does not hang: nothing is lost by that.
        journal._thread = threading.Thread(target=journal._run, args=[job], name=f"journal of {node}", daemon=True)
        journal._thread.start()
        with trio.CancelScope(shield=True):  # it is not long, and somebody has to close what was opened
            await job.done.wait()
        job.result.unwrap()
        return journal

    @property
    def identity(self) -> bytes:
        """16 random bytes that no other journal has."""
        return self._identity

    @property
    def used(self) -> bool:
        """See `Journal.used`."""
        return self._suspect or bool(self._last)

    async def load(self, pid: Pid) -> Stored | None:
        """See `Journal.load`."""
        self._check()
        if pid not in self._last and not self._suspect:
            await trio.lowlevel.checkpoint()
            return None
        stored: Stored | None = await self._do(_Job(None, lambda: self._file.load(pid)))
        if stored is not None and stored.damage is not None:
            self._last[pid] = 0
        return stored

    def append(self, pid: Pid, record: bytes) -> int:
        """See `Journal.append`."""
        if len(record) > MAX_RECORD:
            raise ValueError(f"a record of {pid} has {len(record)} bytes, and {MAX_RECORD} are allowed: use several")
        pending = self._pending.get(pid)
        if pending is None:
            self._pending[pid] = [record]
        else:
            pending.append(record)
        self._last[pid] = index = self._last.get(pid, 0) + 1
        return index

    def last_index(self, pid: Pid) -> int:
        """See `Journal.last_index`."""
        return self._last.get(pid, 0)

    async def replace(self, pid: Pid, upto: int, snapshot: bytes) -> None:
        """See `Journal.replace`."""
        self._check()
        self._last.setdefault(pid, 0)
        if self._pending:  # the snapshot may cover some of them, so they go first
            self._send_pending()
        job = _Job(None)

        def begin() -> object:
            self._file.begin_snapshot(pid, upto, snapshot, job)
            return _LATER

        job.call = begin
        await self._do(job)

    async def sync(self) -> None:
        """See `Journal.sync`."""
        self._check()
        if self._pending or self._in_flight:
            job = self._send_pending()
            await job.done.wait()
            job.result.unwrap()
        else:
            await trio.lowlevel.checkpoint()

    def start_sync(self, done: Callable[[JournalError | None], object]) -> bool:
        """See `Journal.start_sync`."""
        if self._failure is not None or self._closed:
            return False
        self._send_pending(done)
        return True

    async def distrust(self, reason: str) -> None:
        """Let no process trust what it persisted, from the next start on. Nothing can be done with this journal after it."""

        def distrust() -> None:
            self._file.distrust(reason)
            raise JournalError(f"{self._file.path}: {reason}")

        with contextlib.suppress(JournalError):
            await self._do(_Job(None, distrust))

    def _send_pending(self, then: Callable[[JournalError | None], object] | None = None) -> _Job:
        job = _Job(self._pending)
        job.then = then
        self._pending = {}
        self._in_flight += 1
        self._jobs.put(job)
        return job

    async def _do(self, job: _Job) -> Any:
        self._jobs.put(job)
        await job.done.wait()
        return job.result.unwrap()

    def _check(self) -> None:
        if self._failure is not None:
            raise JournalError(str(self._failure))
        if self._closed:
            raise JournalError(f"the journal of {self._node} is closed")

    async def aclose(self) -> None:
        """Write what waits, and close the file. An error is logged: who waits for a sync has been told of it."""
        with trio.CancelScope(shield=True):
            if not self._closed:
                self._closed = True
                if self._pending:
                    self._send_pending()
                self._jobs.put(None)
            await self._ended.wait()
            self._thread.join()  # that was the last thing it did

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self, opening: _Job) -> None:
        try:
            file = self._file = open_journal_file(self._directory, self._node.name, self._expected)
            lasts = {Pid(name, self._node, group): last for (group, name), last in file.lasts().items()}
        except Exception as error:
            opening.result = outcome.Error(error)
            self._report([opening])
            return
        self._identity, self._suspect, self._last = file.identity, file.suspect, lasts
        self._report([opening])
        waiting: list[_Job] = []  # who was not answered yet
        try:
            self._serve(file, waiting)
            file.close()
        except Exception as error:
            file.abandon()
            problem = failure(file.path, error)
            logger.critical("%s", problem)
            self._refuse(problem, waiting)
        self._tell(self._ended.set)

    def _serve(self, file: JournalFile[_Job], waiting: list[_Job]) -> None:
        """Do jobs until the end; raises what goes wrong."""
        while not self._ending or file.has_snapshot:
            taken = self._take(block=not file.has_work)
            waiting += taken
            batches = _merge(taken)
            if batches:
                file.write(batches)
            done = [job for job in taken if job.call is None or _call(job, job.call)]
            if done:
                self._report(done)
                waiting[:] = [job for job in waiting if job not in done]
            if file.has_work:
                job = file.step()
                if job is not None:
                    self._report([job])
                    waiting.remove(job)

    def _take(self, block: bool) -> list[_Job]:
        """All jobs there are; with `block` at least one, or the end."""
        taken: list[_Job] = []
        try:
            while not self._ending:
                job = self._jobs.get(block=block and not taken)
                if job is None:
                    self._ending = True
                else:
                    taken.append(job)
        except Empty:
            pass
        return taken

    def _refuse(self, error: JournalError, waiting: list[_Job]) -> None:
        """After an error: fail whoever waits, and all that comes until the end."""
        self._failure = error
        while waiting or not self._ending:
            for job in waiting:
                job.error = JournalError(str(error))
                job.result = outcome.Error(job.error)
            self._report(waiting)
            waiting = self._take(block=True)

    def _report(self, jobs: Sequence[_Job]) -> None:
        def report() -> None:
            for job in jobs:
                self._in_flight -= job.batches is not None
                job.done.set()
                if job.then is not None:
                    job.then(job.error)

        self._tell(report)

    def _tell(self, function: Callable[[], object]) -> None:
        """Call a function in Trio's thread; if Trio has ended, nobody waits for that."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)


def _merge(jobs: Iterable[_Job]) -> dict[Pid, list[bytes]]:
    """The records of all jobs, in order."""
    merged: dict[Pid, list[bytes]] = {}
    for job in jobs:
        if not merged:
            merged = job.batches or {}
        else:
            for pid, records in (job.batches or {}).items():
                merged.setdefault(pid, []).extend(records)
    return merged


def _call(job: _Job, call: Callable[[], Any]) -> bool:
    """Do a job that is no writing of records; tells whether it is done."""
    result = call()
    job.result = outcome.Value(result)
    return result is not _LATER
