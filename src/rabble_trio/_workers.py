"""Blocking and CPU-bound work beside the event loop: in a thread, or in a worker process.

Rules:

1. Work that waits (files, a blocking library) belongs in a thread; work that computes in Python belongs in a process,
   because threads share one interpreter lock and would stop the event loop with it.
2. A thread can't be stopped from outside, so a cancelled `run_in_thread` waits for its function. A process can: a
   cancelled `run` kills it.
3. Processes belong to a block: when it ends, they do. No worker outlives its parent.
4. Nothing is retried. What the function raises, and the end of its process, are errors of the call.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, TypeVarTuple

import trio

from ._errors import WorkerDied, WorkFailed
from ._worker import HEADER, find, pack, unpack

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

MAX_THREADS: Final = 20
"""Functions of `run_in_thread` that run at once, unless another limiter is given; further ones wait. Apart from Trio's own
40, so that slow work of services keeps neither the journal nor name look-ups waiting."""

_EXIT_GRACE: Final = 1.0  # seconds for a process whose pipe is closed to tell its exit code, before it is killed
_CHUNK: Final = 64 * 1024

_threads: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("rabble_trio worker threads")


async def run_in_thread(function: Callable[[*_Ts], _T], *args: *_Ts, limiter: trio.CapacityLimiter | None = None) -> _T:
    """Run a blocking function in a worker thread; returns or raises what it does.

    At most `MAX_THREADS` run at once in one `trio.run`, or what `limiter` allows; cancellation of the wait for a place is
    immediate. Once the function runs, cancellation waits for it to return, because a thread that goes on behind everybody's
    back may still write to what others believe is theirs. A long function should call `trio.from_thread.check_cancelled()`
    now and then, which raises in it when the caller was cancelled.
    """
    if limiter is None:
        try:
            limiter = _threads.get()
        except LookupError:
            limiter = trio.CapacityLimiter(MAX_THREADS)
            _threads.set(limiter)
    return await trio.to_thread.run_sync(function, *args, limiter=limiter, abandon_on_cancel=False)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Worker processes at this moment."""

    running: int
    """Processes that exist, busy or idle."""
    busy: int
    """Calls that have a process, or are starting one."""
    waiting: int
    """Calls that wait for a place."""


class WorkerProcesses:
    """Processes that run functions; `open_worker_processes` makes it."""

    def __init__(self, max_workers: int) -> None:
        self._limiter = trio.CapacityLimiter(max_workers)
        self._workers: set[trio.Process] = set()
        self._idle: list[trio.Process] = []
        self._closed = False

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in one of the processes; returns what it returns.

        The function is imported there, so it must be found at the top level of a module (or class) that can be imported.
        Arguments and result are plain values: None, bool, int (64 bits), float, str, bytes, messages, and tuples, lists and
        dicts of those; lists arrive as tuples. Together they are at most 64 MiB.

        Waits while all processes are busy. If cancelled, the process is killed. Raises `WorkFailed` with the text of what
        the function raised, `WorkerDied` if its process ended, `EncodeError` for other values, `ValueError` for a function
        that can't be imported, and `trio.ClosedResourceError` when the block of these processes has ended.
        """
        name = name_of(function)
        # The arguments are packed by themselves: see _worker.answer.
        request = pack((name, pack(args)[HEADER.size :]))
        async with self._limiter:
            worker = await self._take()
            try:
                reply = await self._call(worker, request)
            except BaseException:
                await self._discard(worker)
                raise
            if self._closed:
                await self._discard(worker)
            else:
                self._idle.append(worker)
        done, *outcome = unpack(reply)
        if done:
            return outcome[0]
        raise WorkFailed(name, *outcome)

    def statistics(self) -> WorkerStatistics:
        """How busy the processes are."""
        limiter = self._limiter.statistics()
        return WorkerStatistics(len(self._workers), limiter.borrowed_tokens, limiter.tasks_waiting)

    async def aclose(self) -> None:
        """Kill all processes. Calls that are under way raise `trio.ClosedResourceError`."""
        self._closed = True
        for worker in list(self._workers):
            worker.kill()
        for worker in list(self._workers):
            await self._discard(worker)

    async def _take(self) -> trio.Process:
        """An idle process, or a new one."""
        while self._idle:
            worker = self._idle.pop()
            if worker.returncode is None:
                return worker
            await self._discard(worker)  # it ended while it had nothing to do, which is nobody's failure
        self._check_open()
        command = [sys.executable, "-P", "-c", "from rabble_trio._worker import main; main()"]
        # What can be imported here can be imported there. A session of its own keeps the terminal's Ctrl-C away: it is
        # this process that decides what becomes of the worker.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        worker = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._workers.add(worker)
        try:
            self._check_open()  # it may have been closed meanwhile
        except trio.ClosedResourceError:
            await self._discard(worker)
            raise
        return worker

    async def _call(self, worker: trio.Process, request: bytes) -> bytes:
        """Send a request and receive its reply. Raises `WorkerDied`."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            await worker.stdin.send_all(request)
            buffer = bytearray()
            while len(buffer) < HEADER.size or len(buffer) < HEADER.size + HEADER.unpack_from(buffer)[0]:
                received = await worker.stdout.receive_some(_CHUNK)
                if not received:
                    raise trio.BrokenResourceError
                buffer += received
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._check_open()
            with trio.move_on_after(_EXIT_GRACE):
                await worker.wait()
            raise WorkerDied(await self._discard(worker)) from None
        return bytes(buffer[HEADER.size :])

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the block of these worker processes has ended")

    async def _discard(self, worker: trio.Process) -> int:
        """Kill a process, unless it ended; gives its exit code."""
        with trio.CancelScope(shield=True):  # a killed process ends at once, and must not become a zombie
            worker.kill()
            exit_code = await worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream is not None:
                    await stream.aclose()
        self._workers.discard(worker)
        return exit_code


@asynccontextmanager
async def open_worker_processes(max_workers: int | None = None) -> AsyncIterator[WorkerProcesses]:
    """Have worker processes for the length of an `async with`.

    `max_workers`: how many at most; by default one per processor. They are started when they are needed, which takes some
    tenths of a second, and used again. At the end of the block all are killed. Raises `ValueError` if `max_workers` is not
    1 or more.
    """
    if max_workers is None:
        max_workers = os.cpu_count() or 1
    if max_workers < 1:
        raise ValueError(f"max_workers is 1 or more, not {max_workers}")
    workers = WorkerProcesses(max_workers)
    try:
        yield workers
    finally:
        await workers.aclose()


async def run_in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Run one function in a process of its own, which takes some tenths of a second to start and is killed afterwards.

    For several calls, `open_worker_processes`. See `WorkerProcesses.run` for what functions and values may be, and for what
    it raises.
    """
    async with open_worker_processes(1) as workers:
        return await workers.run(function, *args)


def name_of(function: Callable[..., Any]) -> str:
    """The name, "module:qualname", by which a worker imports a function. Raises `ValueError`, `TypeError`."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function!r} is async: a worker process has no event loop")
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    name = f"{module}:{qualname}"
    try:
        found = find(name) if module and qualname and module != "__main__" else None
    except (ImportError, AttributeError):
        found = None
    if found is not function:
        raise ValueError(
            f"a worker process can't import {function!r}: it must be a function at the top level of a module that can be "
            "imported, so no lambda, no function within another, and none of the script that was started (__main__)"
        )
    return name
