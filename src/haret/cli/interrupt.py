"""Run Trio so that Ctrl-C, or SIGTERM, cancels everything in order.

Trio's own way, an exception in whatever task happens to run, would come out of our nurseries in a group, after who knows
what was cut short. Here the first signal cancels the one scope around everything, and the second ends it at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

import trio

_T = TypeVar("_T")

INTERRUPT: Final = (signal.SIGINT,)
"""What ends a command that a person waits for."""

SHUTDOWN: Final = (signal.SIGINT, signal.SIGTERM)
"""What ends a server."""


class Interrupted(Exception):
    """A signal ended the run before its time, in order."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_trio(main: Callable[[], Awaitable[_T]], signals: tuple[signal.Signals, ...] = INTERRUPT) -> _T:
    """Run `main` and return its result. Raises `Interrupted` if one of the signals came first.

    The second one ends the process at once: by `KeyboardInterrupt` where it hits a task.
    """
    received: list[int] = []
    cancel: list[Callable[[], Any]] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            if trio.lowlevel.currently_ki_protected():
                # It hit Trio itself, mostly while it waits. An exception there would end in tracebacks, and end nothing.
                os._exit(128 + number)
            raise KeyboardInterrupt
        for one in cancel:
            one()

    async def guarded() -> _T:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            # The one thing of Trio's that a signal handler may call.
            cancel.append(lambda: token.run_sync_soon(scope.cancel, idempotent=True))
            if received:
                scope.cancel()
            return await main()
        raise Interrupted(received[0])

    with _handling(signals, handle):
        try:
            return trio.run(guarded)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _handling(signals: tuple[signal.Signals, ...], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    for number in signals:
        # A shell starts background jobs with Ctrl-C ignored, and they should stay that way.
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
