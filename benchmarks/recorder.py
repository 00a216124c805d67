"""What the flight recorder costs: messages from one process to another, recorded and not, in the same run."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import trio

from rabble_trio import CorrelationId, FlightRecorder, Outbox, Pid, Process, message, open_node

from .harness import Row, Timed, rate
from .local_one_way import WINDOW, Finished, Go, Sink, Source

MEASURE = "local one-way messages, both processes recorded or not"
COST = "flight recorder, per message"
MESSAGES = 300_000
BATCH = 64
"""Values of 64 bytes in each message with bytes, whose size has to be looked at."""


@message
class Batch:
    """What a replica gets from its primary, about."""

    number: int
    values: tuple[bytes, ...]


class BatchSource(Process):
    """Sends batches, a window at each `Go`; the batches are made before."""

    def __init__(self, sink: Pid, count: int) -> None:
        self._sink = sink
        self._left = count
        self._batches = [Batch(number, tuple(bytes(64) for _ in range(BATCH))) for number in range(WINDOW)]

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Go):
            for batch in self._batches[: self._left]:
                output.send(self._sink, batch)
            self._left -= min(WINDOW, self._left)


class BatchSink(Process):
    """Counts batches and asks for more."""

    def __init__(self, reporter: Pid, count: int) -> None:
        self._reporter = reporter
        self._left = count

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Batch):
            self._left -= 1
            if self._left == 0:
                output.send(self._reporter, Finished())
            elif self._left % WINDOW == 0:
                output.send(sender, Go())


def small(count: int, recorder: FlightRecorder | None) -> Timed:
    """Messages that are one number, whose size is known by their class."""
    return _run(count, recorder, Source, Sink)


def large(count: int, recorder: FlightRecorder | None) -> Timed:
    """Messages of 64 values of 64 bytes."""
    return _run(count, recorder, BatchSource, BatchSink)


def _run(count: int, recorder: FlightRecorder | None, source_class: Any, sink_class: Any) -> Timed:
    async def main() -> float:
        async with (
            open_node("bench@127.0.0.1:0", recorder=recorder) as node,
            node.open_mailbox("reporter") as reporter,
        ):
            sink = await node.spawn("sink", lambda: sink_class(reporter.pid, count))
            source = await node.spawn("source", lambda: source_class(sink, count))
            start = time.perf_counter()
            await node.send(source, Go())
            await node.send(source, Go())
            await reporter.receive()
            return time.perf_counter() - start

    return Timed(count, trio.run(main))


def run() -> list[Row]:
    """Measure all, and the cost as a difference."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recorder = FlightRecorder(folder)
        for what, body in (("of a number", small), (f"of {BATCH} x 64 bytes", large)):
            off = rate(MEASURE, f"rabble_trio, {what}, no recorder", lambda body=body: body(MESSAGES, None))
            on = rate(MEASURE, f"rabble_trio, {what}, recorded", lambda body=body: body(MESSAGES, recorder))
            seconds = 1 / on.value - 1 / off.value
            rows += [
                off,
                on,
                Row(COST, f"rabble_trio, {what}", seconds * 1e9, "ns"),
                Row(f"{MEASURE}: recorded / not", f"rabble_trio, {what}", on.value / off.value, "x"),
            ]
    return rows
