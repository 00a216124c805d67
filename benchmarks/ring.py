"""A token that goes round a ring of 1,000 actors: every hop wakes another one, so nothing can be batched."""

from __future__ import annotations

import threading
import time
from typing import Any

import pykka
import trio
import trio.testing

from rabble_trio import CorrelationId, NodeId, Outbox, Pid, Process, message, open_node

from .harness import Row, Timed, rate, triotp_rate

MEASURE = "hops of one token in a ring of 1,000 actors"
RING = 1_000


@message
class Token:
    """Goes on until `left` is 0."""

    left: int


class Member(Process):
    """Passes the token on to `following`; tells `reporter` when it stops."""

    def __init__(self, following: Pid, reporter: Pid) -> None:
        self._following = following
        self._reporter = reporter

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Token(0):
                output.send(self._reporter, message)
            case Token(left):
                output.send(self._following, Token(left - 1))


def ours(hops: int) -> Timed:
    """A thousand processes on one node."""

    async def main() -> float:
        async with open_node("bench@127.0.0.1:0") as node, node.open_mailbox("reporter") as reporter:
            members = [_pid(index, node.id) for index in range(RING)]
            for index, member in enumerate(members):
                following = members[(index + 1) % RING]
                await node.spawn(member.name, lambda following=following: Member(following, reporter.pid))
            start = time.perf_counter()
            await node.send(members[0], Token(hops))
            await reporter.receive()
            return time.perf_counter() - start

    return Timed(hops, trio.run(main))


def _pid(index: int, node: NodeId) -> Pid:
    return Pid(f"member{index}", node)


def trio_channels(hops: int) -> Timed:
    """A thousand tasks, each with a memory channel."""

    async def main() -> float:
        channels = [trio.open_memory_channel[int](1) for _ in range(RING)]

        async def member(index: int) -> None:
            send = channels[(index + 1) % RING][0]
            async for left in channels[index][1]:
                if left == 0:
                    nursery.cancel_scope.cancel()
                else:
                    await send.send(left - 1)

        async with trio.open_nursery() as nursery:
            for index in range(RING):
                nursery.start_soon(member, index)
            await trio.testing.wait_all_tasks_blocked()
            start = time.perf_counter()
            await channels[0][0].send(hops)
        return time.perf_counter() - start

    return Timed(hops, trio.run(main))


class PykkaMember(pykka.ThreadingActor):
    """Passes the token on to `following`, set once the ring is complete."""

    following: pykka.ActorRef[PykkaMember]

    def __init__(self, done: threading.Event) -> None:
        super().__init__()
        self._done = done

    def on_receive(self, message: Any) -> None:
        if isinstance(message, pykka.ActorRef):
            self.following = message
        elif message:
            self.following.tell(message - 1)
        else:
            self._done.set()


def pykka_actors(hops: int) -> Timed:
    """A thousand threads."""
    done = threading.Event()
    members = [PykkaMember.start(done) for _ in range(RING)]
    for index, member in enumerate(members):
        member.tell(members[(index + 1) % RING])
    start = time.perf_counter()
    members[0].tell(hops)
    done.wait()
    seconds = time.perf_counter() - start
    pykka.ActorRegistry.stop_all()
    return Timed(hops, seconds)


def run() -> list[Row]:
    """Measure all."""
    return [
        rate(MEASURE, "rabble_trio processes", lambda: ours(50_000)),
        rate(MEASURE, "trio tasks and memory channels", lambda: trio_channels(50_000)),
        rate(MEASURE, "pykka actors", lambda: pykka_actors(10_000)),
        *triotp_rate(MEASURE, "ring", 20_000),
    ]
