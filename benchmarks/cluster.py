"""Envelopes between two processes on this machine: one way, and requests with their replies.

The other process runs this module: `python -m benchmarks.cluster PART`. It prints what has to be known of it in one line,
and ends with its standard input.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import trio
import trio_websocket
from thespian.actors import Actor, ActorSystem

from rabble_trio import CorrelationId, NodeId, Outbox, Pid, Process, message, open_node

from .erlang import open_erlang
from .harness import Row, Timed, rate

ONE_WAY = "envelopes one way, between two processes, {}"
ROUND_TRIPS = "round trips between two processes, one after the other, {}"
IN_FLIGHT = "round trips between two processes, 100 in flight, {}"

SIZES = {"64 B": (64, 100_000), "1 KiB": (1024, 50_000), "64 KiB": (65_536, 3_000)}
"""Bytes in a message, and how many of them go one way."""

TRIPS = 2_000

SECRET = b"known to both of us"


@message(tag="benchmarks.cluster.load")
class Load:
    """What goes across."""

    data: bytes


@message(tag="benchmarks.cluster.count")
class Count:
    """Answered when so many `Load` have come since the last one was."""

    number: int


class Sink(Process):
    """Counts."""

    mailbox_size = 1_000_000

    def __init__(self) -> None:
        self._seen = 0
        self._waiting: tuple[int, Pid, CorrelationId | None] | None = None

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if type(message) is Load:
            self._seen += 1
        elif isinstance(message, Count):
            self._waiting = message.number, sender, correlation_id
        if self._waiting is not None and self._seen >= self._waiting[0]:
            number, asker, asked = self._waiting
            self._seen, self._waiting = 0, None
            output.send(asker, Count(number), asked)


class Echo(Process):
    """Answers each message with itself."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if type(message) is Load:
            output.send(sender, message, correlation_id)


class Source(Process):
    """Sends in steps, as processes do, and lets others run in between: a link drops what exceeds its queue."""

    STEP = 200

    def __init__(self, sink: Pid, data: bytes, count: int) -> None:
        self._sink = sink
        self._load = Load(data)
        self._left = count

    def init(self, pid: Pid, output: Outbox) -> None:
        output.start_timer(0)

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        step = min(self.STEP, self._left)
        self._left -= step
        for _ in range(step):
            output.send(self._sink, self._load)
        if self._left:
            output.start_timer(0)


# The other process ----------------------------------------------------------------------------------------------------


async def node_part() -> None:
    """A node with a sink and an echo."""
    async with open_node("there@127.0.0.1:0", secret=SECRET) as node:
        await node.spawn("sink", Sink)
        await node.spawn("echo", Echo)
        print(node.id, flush=True)
        await until_stdin_ends()


async def websocket_part() -> None:
    """A bare trio-websocket server: an echo at /echo, else a counter that answers each hundredth message."""

    async def serve(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        count = 0
        try:
            while True:
                data = await connection.get_message()
                count += 1
                if request.path == "/echo":
                    await connection.send_message(data)
                elif data == b"end":
                    await connection.send_message(b"%d" % count)
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        print(server.port, flush=True)
        await until_stdin_ends()
        nursery.cancel_scope.cancel()


async def until_stdin_ends() -> None:
    """Wait until the process that started this one closes its end."""
    await trio.to_thread.run_sync(sys.stdin.read)


@contextmanager
def other_process(part: str) -> Iterator[str]:
    """Run a part in a process of its own; gives the line it prints."""
    command = [sys.executable, "-m", "benchmarks.cluster", part]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()


# Ours -----------------------------------------------------------------------------------------------------------------


def ours(body: Callable[[Any, NodeId], Awaitable[float]], count: int) -> Timed:
    """Run against another node."""

    async def main(there: NodeId) -> float:
        async with open_node("here@127.0.0.1:0", secret=SECRET) as node:
            await node.join(there)
            return await body(node, there)

    with other_process("node") as line:
        return Timed(count, trio.run(main, NodeId.parse(line)))


def one_way(size: int, count: int) -> Timed:
    """A process sends to a process."""

    async def body(node: Any, there: NodeId) -> float:
        sink = Pid("sink", there)
        start = time.perf_counter()
        if size * count < 8 * 2**20:
            await node.spawn("source", lambda: Source(sink, b"x" * size, count))
        else:  # more than a link's queue takes, so somebody has to wait for room
            async with node.open_mailbox("source") as mailbox:
                load = Load(b"x" * size)
                for number in range(count):
                    try:
                        mailbox.send_nowait(sink, load)
                    except trio.WouldBlock:
                        await mailbox.send(sink, load)
                    if number % Source.STEP == 0:
                        await trio.lowlevel.checkpoint()
        await node.ask(sink, Count(count))
        return time.perf_counter() - start

    return ours(body, count)


def round_trips(size: int, count: int, in_flight: int) -> Timed:
    """`node.ask`, from so many tasks."""

    async def body(node: Any, there: NodeId) -> float:
        echo, load = Pid("echo", there), Load(b"x" * size)

        async def ask() -> None:
            for _ in range(count // in_flight):
                await node.ask(echo, load)

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(ask)
        return time.perf_counter() - start

    return ours(body, count)


# Peers ----------------------------------------------------------------------------------------------------------------


def bare_websocket(path: str, size: int, count: int) -> Timed:
    """trio-websocket alone, a frame a message."""

    async def main(port: int) -> float:
        async with trio_websocket.open_websocket("127.0.0.1", port, path, use_ssl=False) as connection:
            data = b"x" * size
            start = time.perf_counter()
            for _ in range(count):
                await connection.send_message(data)
                if path == "/echo":
                    await connection.get_message()
            if path != "/echo":
                await connection.send_message(b"end")
                await connection.get_message()
            return time.perf_counter() - start

    with other_process("websocket") as line:
        return Timed(count, trio.run(main, int(line)))


class ThespianEcho(Actor):  # type: ignore[misc]  # it has no types
    """Answers each message but those that are only to be counted."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        """Handle one."""
        if message[0] == "echo":
            self.send(sender, message)


def thespian(kind: str, size: int, count: int) -> Timed:
    """thespian, whose actors are processes and talk over TCP."""
    system = ActorSystem("multiprocTCPBase")
    try:
        actor = system.createActor(ThespianEcho)
        data = b"x" * size
        system.ask(actor, ("echo", data), 10)
        start = time.perf_counter()
        for _ in range(count):
            if kind == "echo":
                system.ask(actor, ("echo", data), 10)
            else:
                system.tell(actor, ("count", data))
        system.ask(actor, ("echo", b""), 60)
        return Timed(count, time.perf_counter() - start)
    finally:
        system.shutdown()


def erlang_rows() -> list[Row]:
    """Erlang's distribution, with as many messages as ours. No rows where there is no Erlang."""
    if shutil.which("erl") is None:
        print("  Erlang left out: there is no erl on this machine")
        return []
    rows = []
    try:
        with open_erlang() as erlang:
            for name, (size, count) in SIZES.items():
                for measure, scenario in (
                    (ONE_WAY, ("one_way", size, count)),
                    (ROUND_TRIPS, ("round_trips", size, TRIPS, 1)),
                    (IN_FLIGHT, ("round_trips", size, 4 * TRIPS, 100)),
                ):
                    row = rate(measure.format(name), "Erlang", partial(erlang.run, *scenario))
                    rows.append(replace(row, implementation=f"Erlang/OTP {erlang.release}"))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"  Erlang left out, as far as it is missing below: {error}")
    return rows


def run() -> list[Row]:
    """All rows."""
    rows = []
    for name, (size, count) in SIZES.items():
        target = 250_000 if size == 64 else None
        measure = ONE_WAY.format(name)
        rows.append(rate(measure, "rabble_trio", partial(one_way, size, count), target=target))
        rows.append(rate(measure, "trio-websocket", partial(bare_websocket, "/", size, min(count, 10_000))))
        rows.append(rate(measure, "thespian", partial(thespian, "count", size, 1000)))
        measure = ROUND_TRIPS.format(name)
        rows.append(rate(measure, "rabble_trio", partial(round_trips, size, TRIPS, 1)))
        rows.append(rate(measure, "trio-websocket", partial(bare_websocket, "/echo", size, TRIPS)))
        rows.append(rate(measure, "thespian", partial(thespian, "echo", size, 500)))
        rows.append(rate(IN_FLIGHT.format(name), "rabble_trio", partial(round_trips, size, 4 * TRIPS, 100)))
    return rows + erlang_rows()


if __name__ == "__main__":
    trio.run({"node": node_part, "websocket": websocket_part}[sys.argv[1]])
