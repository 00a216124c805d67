"""A session in a thread of its own, so that the main thread can wait for the next line, and for Ctrl-C."""

from __future__ import annotations

import signal
import threading
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple

import trio

from .command import Command
from .failures import EXPECTED, CommandFailed, Exit
from .output import Answer
from .session import Session, run_command, use_session

FAREWELL: Final = 2.0
"""Seconds that the session may take to close its connections at the end."""


class _Job(NamedTuple):
    command: Command
    arguments: Namespace
    scope: trio.CancelScope
    future: Future[Answer]


class Background:
    """Runs the commands of a session one after the other. A context manager; use it from one thread."""

    session: Session

    def __init__(self, make: Callable[[trio.Nursery], Session]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._send: trio.MemorySendChannel[_Job]
        self._job: _Job | None = None
        # A daemon, so that nothing that goes wrong in it can keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._token.run_sync_soon(self._send.close)
        except trio.RunFinishedError:
            return
        self._thread.join(FAREWELL)

    def run(self, command: Command, arguments: Namespace) -> Answer:
        """Run a command and return its answer. Raises what it raises.

        Ctrl-C cancels it; then `CommandFailed` says so.
        """
        job = self._job = _Job(command, arguments, trio.CancelScope(), Future())
        try:
            self._token.run_sync_soon(self._send.send_nowait, job)
            return job.future.result()
        except KeyboardInterrupt:
            self._token.run_sync_soon(job.scope.cancel)
            job.future.exception()  # waits until it has ended; a second Ctrl-C ends the waiting
            raise CommandFailed(
                "interrupted: what was asked may or may not have been done", code=Exit.INTERRUPTED
            ) from None
        finally:
            self._job = None

    # -------------------------------------------------------------- the thread

    def _run(self) -> None:
        # Ctrl-C must interrupt the main thread, which waits for a line or an answer. The kernel gives the signal to any
        # thread that takes it; those that this one starts inherit that they do not.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            trio.run(use_session, self._make, self._work)
        finally:
            # Whoever waits for an answer is told that none will come; the defect's traceback is on stderr.
            job = self._job
            if job is not None and not job.future.done():
                job.future.set_exception(CommandFailed("the session ended by a defect of haret"))

    async def _work(self, session: Session) -> None:
        self.session = session
        self._token = trio.lowlevel.current_trio_token()
        self._send, receive = trio.open_memory_channel[_Job](1)
        self._ready.set()
        async for job in receive:
            with job.scope:
                try:
                    answer = await run_command(session, job.command, job.arguments)
                except EXPECTED as error:
                    job.future.set_exception(error)
                else:
                    job.future.set_result(answer)
            if not job.future.done():
                job.future.set_exception(CommandFailed("interrupted", code=Exit.INTERRUPTED))
