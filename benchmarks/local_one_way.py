"""Messages from one actor to another on the same node, nobody waiting for a reply."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pykka
import trio
from thespian.actors import Actor, ActorSystem

from rabble_trio import CorrelationId, Outbox, Pid, Process, message, open_node

from .harness import Row, Timed, rate, triotp_rate

MEASURE = "local one-way messages, actor to actor"
WINDOW = 2_000
"""Messages that the source sends per step; two windows are under way, well below the bound of a mailbox."""


@message
class Item:
    """One of the messages counted."""

    number: int


@message
class Go:
    """Send the next window."""


@message
class Finished:
    """All messages arrived."""


class Source(Process):
    """Sends `count` items to `sink`, a window at each `Go`."""

    def __init__(self, sink: Pid, count: int) -> None:
        self._sink = sink
        self._left = count

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Go):
            for number in range(min(WINDOW, self._left)):
                output.send(self._sink, Item(number))
            self._left -= min(WINDOW, self._left)


class Sink(Process):
    """Counts items, asks for the next window after each, and tells `reporter` after the last."""

    def __init__(self, reporter: Pid, count: int) -> None:
        self._reporter = reporter
        self._left = count

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if not isinstance(message, Item):
            return
        self._left -= 1
        if self._left == 0:
            output.send(self._reporter, Finished())
        elif self._left % WINDOW == 0:
            output.send(sender, Go())


def ours(count: int) -> Timed:
    """Two processes on one node."""

    async def main() -> float:
        async with open_node("bench@127.0.0.1:0") as node, node.open_mailbox("reporter") as reporter:
            sink = await node.spawn("sink", lambda: Sink(reporter.pid, count))
            source = await node.spawn("source", lambda: Source(sink, count))
            start = time.perf_counter()
            await node.send(source, Go())
            await node.send(source, Go())
            await reporter.receive()
            return time.perf_counter() - start

    return Timed(count, trio.run(main))


def trio_channel(count: int, size: float) -> Timed:
    """A bare memory channel between two tasks: what any actor on Trio must live with, or get around."""

    async def main() -> float:
        send, receive = trio.open_memory_channel[int](size)

        async def source() -> None:
            async with send:
                for number in range(count):
                    await send.send(number)

        async with trio.open_nursery() as nursery:
            start = time.perf_counter()
            nursery.start_soon(source)
            async for _ in receive:
                pass
        return time.perf_counter() - start

    return Timed(count, trio.run(main))


class PykkaSink(pykka.ThreadingActor):
    """Counts down and sets an event."""

    def __init__(self, count: int, done: threading.Event) -> None:
        super().__init__()
        self._left = count
        self._done = done

    def on_receive(self, message: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self._done.set()


class PykkaSource(pykka.ThreadingActor):
    """Sends all its messages at once: pykka's inbox has no bound."""

    def __init__(self, sink: pykka.ActorRef[PykkaSink], count: int) -> None:
        super().__init__()
        self._sink = sink
        self._count = count

    def on_receive(self, message: Any) -> None:
        for number in range(self._count):
            self._sink.tell(number)


def pykka_actors(count: int) -> Timed:
    """Two threads with queues."""
    done = threading.Event()
    sink = PykkaSink.start(count, done)
    source = PykkaSource.start(sink, count)
    start = time.perf_counter()
    source.tell("go")
    done.wait()
    seconds = time.perf_counter() - start
    pykka.ActorRegistry.stop_all()
    return Timed(count, seconds)


class ThespianSink(Actor):
    """Counts down and tells the source when all came."""

    left: int

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if isinstance(message, tuple):
            self.left = message[1]
            return
        self.left -= 1
        if self.left == 0:
            self.send(sender, "done")


class ThespianSource(Actor):
    """Makes the sink and sends to it; answers whoever started it."""

    asker: Any

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if message == "done":
            self.send(self.asker, "done")
            return
        self.asker = sender
        sink = self.createActor(ThespianSink)
        self.send(sink, ("count", message))
        for number in range(message):
            self.send(sink, number)


def thespian_actors(count: int) -> Timed:
    """Two actors in Thespian's system for one thread, its fastest."""
    system = ActorSystem("simpleSystemBase")
    try:
        source = system.createActor(ThespianSource)
        start = time.perf_counter()
        system.ask(source, count)
        return Timed(count, time.perf_counter() - start)
    finally:
        system.shutdown()


def run() -> list[Row]:
    """Measure all; each gets as many messages as keep it busy for some tenths of a second."""
    return [
        rate(MEASURE, "rabble_trio process to process", lambda: ours(400_000), target=1_000_000),
        rate(MEASURE, "trio memory channel, 10,000 places", lambda: trio_channel(60_000, 10_000)),
        rate(MEASURE, "trio memory channel, unbounded", lambda: trio_channel(60_000, math.inf)),
        rate(MEASURE, "pykka tell", lambda: pykka_actors(60_000)),
        rate(MEASURE, "thespian, calls within one thread", lambda: thespian_actors(5_000)),
        *triotp_rate(MEASURE, "one_way", 40_000),
    ]
