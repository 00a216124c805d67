"""The protocol alone: three replicas that hand each other their messages, without Trio, network, tree or disk.

They make the records for their journals, which are durable at once. Each replica handles what is in its mailbox when its
turn comes, as it does under the executor, so batches form as they do there. There is no peer: the pure cores of other
implementations can't be driven from Python.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any

from haret.vr import Configuration, Replica
from haret.vr.messages import OpenSession, Reply, Request, SessionOpened
from rabble_trio import CorrelationId, NodeId, Outbox, Persist, Persisted, Pid, StartTimer, Timeout

from .harness import Row, Timed, rate

NODE = NodeId("bench", "127.0.0.1:5000")
CLIENT = Pid("client", NODE)
COUNT = 50_000
"""Requests in a run."""
IN_FLIGHT = (1, 10, 100)
"""Requests that the client has under way."""
TARGET = {100: 83_000.0}
"""12 microseconds of the 25 that a replicated write has in all; with so many under way, batches make it cheap."""


class Nothing:
    """A state machine that costs nothing."""

    def apply(self, op: int, operation: bytes) -> bytes:
        return b"ok"

    def read(self, operation: bytes) -> bytes:
        return b"ok"

    def digest(self, budget: int = 0) -> bytes:
        return b""

    def image(self) -> Nothing:
        return self

    def chunks(self) -> Iterator[bytes]:
        return iter(())

    def loader(self) -> Nothing:
        return self

    def feed(self, chunk: bytes) -> None:
        pass

    def finish(self) -> None:
        pass


class Group:
    """Three replicas and their mailboxes."""

    def __init__(self) -> None:
        pids = tuple(Pid(f"r{i}", NODE) for i in range(3))
        configuration = Configuration(0, pids)
        self.mailboxes: dict[Pid, deque[tuple[Any, Pid, CorrelationId | None]]] = {pid: deque() for pid in pids}
        self.primary = self.mailboxes[pids[0]]
        self.replies: list[Any] = []
        self.replicas = [(Replica(configuration, Nothing(), Random(0)), Outbox(pid)) for pid in pids]
        self.persisted = dict.fromkeys(pids, 0)
        for replica, output in self.replicas:
            replica.init(output.pid, output)
            self.carry(output)

    def carry(self, output: Outbox) -> None:
        # The tuples that the executor reads, too: making envelopes of them would cost more than the protocol.
        pid = output.pid
        records = 0
        for to, message, correlation_id, _ in output.items:
            if to == CLIENT:
                self.replies.append(message)
            elif to in self.mailboxes:
                self.mailboxes[to].append((message, pid, correlation_id))
            elif type(message) is Persist:
                records += 1
            elif type(message) is StartTimer and message.seconds == 0:
                self.mailboxes[pid].append((Timeout(), pid, correlation_id))
        if records:
            self.persisted[pid] += records
            self.mailboxes[pid].append((Persisted(self.persisted[pid]), pid, None))
        output.clear()

    def turn(self) -> None:
        """Each replica handles what it has received."""
        for replica, output in self.replicas:
            mailbox = self.mailboxes[output.pid]
            for _ in range(len(mailbox)):
                replica.handle(*mailbox.popleft(), output)
            self.carry(output)


def requests(in_flight: int) -> Timed:
    """A client that keeps `in_flight` requests under way."""
    group = Group()
    correlation_id = CorrelationId(CLIENT, 0, 0)
    group.primary.append((OpenSession(b"c" * 16), CLIENT, None))
    while not any(isinstance(reply, SessionOpened) for reply in group.replies):
        group.turn()
    session = group.replies.pop().session
    made = [Request(session, n, max(1, n - in_flight + 1), b"x" * 64) for n in range(1, COUNT + 1)]
    started = time.perf_counter()
    todo = iter([(request, CLIENT, correlation_id) for request in made])
    group.primary.extend(next(todo) for _ in range(in_flight))
    done = 0
    while done < COUNT:
        group.turn()
        done += len(group.replies)
        assert all(type(reply) is Reply for reply in group.replies)
        group.primary.extend(request for _, request in zip(group.replies, todo, strict=False))
        group.replies.clear()
    return Timed(COUNT, time.perf_counter() - started)


def run() -> list[Row]:
    """Requests a second, by how many are under way."""
    return [
        rate(
            f"protocol alone, 3 replicas, {count} in flight",
            "haret.vr",
            lambda count=count: requests(count),  # type: ignore[misc]
            target=TARGET.get(count),
        )
        for count in IN_FLIGHT
    ]
