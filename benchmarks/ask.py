"""A request and its reply on the same node, one after the other."""

from __future__ import annotations

import time
from typing import Any

import pykka
import trio
from thespian.actors import Actor, ActorSystem

from rabble_trio import CorrelationId, Outbox, Pid, Process, message, open_node

from .harness import Row, Timed, rate, triotp_rate

MEASURE = "local ask round trips"


@message
class Question:
    """Comes back as it went."""

    number: int


class Echo(Process):
    """Answers each message with itself."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Question):
            output.send(sender, message, correlation_id)


def ours(count: int) -> Timed:
    """`node.ask` from a Trio task to a process."""

    async def main() -> float:
        async with open_node("bench@127.0.0.1:0") as node:
            echo = await node.spawn("echo", Echo)
            start = time.perf_counter()
            for number in range(count):
                await node.ask(echo, Question(number))
            return time.perf_counter() - start

    return Timed(count, trio.run(main))


def trio_channels(count: int) -> Timed:
    """Two tasks and two memory channels, ping and pong."""

    async def main() -> float:
        ping_send, ping_receive = trio.open_memory_channel[int](1)
        pong_send, pong_receive = trio.open_memory_channel[int](1)

        async def echo() -> None:
            async for number in ping_receive:
                await pong_send.send(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            start = time.perf_counter()
            for number in range(count):
                await ping_send.send(number)
                await pong_receive.receive()
            seconds = time.perf_counter() - start
            ping_send.close()
        return seconds

    return Timed(count, trio.run(main))


class PykkaEcho(pykka.ThreadingActor):
    """Answers each message with itself."""

    def on_receive(self, message: Any) -> Any:
        return message


def pykka_actor(count: int) -> Timed:
    """`ref.ask` from the main thread."""
    echo = PykkaEcho.start()
    start = time.perf_counter()
    for number in range(count):
        echo.ask(number)
    seconds = time.perf_counter() - start
    pykka.ActorRegistry.stop_all()
    return Timed(count, seconds)


class ThespianEcho(Actor):
    """Answers each message with itself."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        self.send(sender, message)


def thespian_actor(count: int) -> Timed:
    """`system.ask` in Thespian's system for one thread, its fastest."""
    system = ActorSystem("simpleSystemBase")
    try:
        echo = system.createActor(ThespianEcho)
        start = time.perf_counter()
        for number in range(count):
            system.ask(echo, number)
        return Timed(count, time.perf_counter() - start)
    finally:
        system.shutdown()


def run() -> list[Row]:
    """Measure all."""
    return [
        rate(MEASURE, "rabble_trio node.ask", lambda: ours(30_000), target=60_000),
        rate(MEASURE, "trio memory channels, ping-pong", lambda: trio_channels(30_000)),
        rate(MEASURE, "pykka ask", lambda: pykka_actor(8_000)),
        rate(MEASURE, "thespian ask, calls within one thread", lambda: thespian_actor(5_000)),
        *triotp_rate(MEASURE, "ask", 15_000),
    ]
