"""Timers that are started and then cancelled, as a request's timeout is when its reply comes."""

from __future__ import annotations

import threading
import time
from typing import Any

import trio

from rabble_trio import CorrelationId, Outbox, Pid, Process, message, open_node

from .harness import Row, Timed, rate

MEASURE = "timers started and cancelled"
RUNNING = 1_000
"""Timers that run at the same time; a round starts them all and then cancels them all."""


@message
class Round:
    """Start and cancel so many timers."""

    timers: int


class Starter(Process):
    """Starts and cancels timers, one effect each, and answers."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Round(timers):
                ids = [CorrelationId(output.pid, request=number) for number in range(timers)]
                for timer in ids:
                    output.start_timer(60.0, timer)
                for timer in ids:
                    output.cancel_timer(timer)
                output.send(sender, message, correlation_id)


def ours(count: int) -> Timed:
    """A process that keeps its timers under correlation ids."""

    async def main() -> float:
        async with open_node("bench@127.0.0.1:0") as node:
            starter = await node.spawn("starter", Starter)
            start = time.perf_counter()
            for _ in range(count // RUNNING):
                await node.ask(starter, Round(RUNNING))
            return time.perf_counter() - start

    return Timed(count, trio.run(main))


def trio_tasks(count: int) -> Timed:
    """A task per timer, as actor libraries on Trio commonly do it."""

    async def main() -> float:
        start = time.perf_counter()
        for _ in range(count // RUNNING):
            async with trio.open_nursery() as nursery:
                for _ in range(RUNNING):
                    nursery.start_soon(trio.sleep, 60.0)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        return time.perf_counter() - start

    return Timed(count, trio.run(main))


def trio_scopes(count: int) -> Timed:
    """A cancel scope with a deadline, entered and left in turn: no timer of Trio's is cheaper."""

    async def main() -> float:
        start = time.perf_counter()
        for _ in range(count):
            with trio.move_on_after(60.0):  # noqa: ASYNC100  (the scope itself is what is measured)
                pass
        await trio.lowlevel.checkpoint()
        return time.perf_counter() - start

    return Timed(count, trio.run(main))


def threading_timers(count: int) -> Timed:
    """A `threading.Timer` each, which is what pykka's users have: it brings no timers of its own."""

    start = time.perf_counter()
    for _ in range(count // 100):
        timers = [threading.Timer(60.0, print) for _ in range(100)]
        for timer in timers:
            timer.start()
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join()
    return Timed(count, time.perf_counter() - start)


def run() -> list[Row]:
    """Measure all."""
    return [
        rate(MEASURE, "rabble_trio output.start_timer, cancel_timer", lambda: ours(50_000)),
        rate(MEASURE, "trio, a task per timer", lambda: trio_tasks(20_000)),
        rate(MEASURE, "trio, a cancel scope per timer, one at a time", lambda: trio_scopes(50_000)),
        rate(MEASURE, "threading.Timer (pykka)", lambda: threading_timers(2_000)),
    ]
