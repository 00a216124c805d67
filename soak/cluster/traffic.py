"""What the nodes of a soak send each other, and the invariants of delivery.

Every node sends numbers to the `Sink` of each other node, and asks it questions. A node process has a *generation*, which
is greater than that of any process before it under the same name, and every sender counts from 0.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio

from rabble_trio import (
    ActorDown,
    CorrelationId,
    Mailbox,
    Node,
    NodeDown,
    NodeId,
    NodeUp,
    Outbox,
    Pid,
    Process,
    message,
)

PAUSE = 0.01
"""Seconds between two numbers for the same node, and between two questions."""

PADDING = b"x" * 200


@message(tag="soak.number")
class Number:
    """One of a sender's numbers."""

    generation: int
    number: int
    padding: bytes


@message(tag="soak.question")
class Question:
    """Answered with itself."""

    number: int


class Sink(Process):
    """Receives numbers, answers questions, and notes each violation of an invariant. They are:

    1. `NodeUp` and `NodeDown` of a node come by turns, and numbers of it only in between.
    2. A sender's (generation, number) only grows: nothing arrives twice, or after what was sent later.
    3. Between `NodeUp` and `NodeDown` nothing is lost: the numbers have no gaps.
    """

    mailbox_size = 100_000  # what the others send while this process is paused comes at once

    def __init__(self, counts: Counter[str], violations: list[str]) -> None:
        self._counts = counts
        self._violations = violations
        self._up: set[NodeId] = set()
        self._last: dict[NodeId, tuple[int, int]] = {}
        self._contiguous: set[NodeId] = set()  # nodes of which a number came over the present link

    def init(self, pid: Pid, output: Outbox) -> None:
        """Watch the nodes."""
        output.monitor_nodes()

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Check what comes."""
        match message:
            case Number():
                self._check(message, sender.node)
            case Question():
                output.send(sender, message, correlation_id)
            case NodeUp(node):
                self._counts["node_up"] += 1
                if node in self._up:
                    self._violations.append(f"NodeUp of {node} came twice")
                self._up.add(node)
            case NodeDown(node):
                self._counts["node_down"] += 1
                if node not in self._up:
                    self._violations.append(f"NodeDown of {node} without a NodeUp before it")
                self._up.discard(node)
                self._contiguous.discard(node)

    def _check(self, message: Number, node: NodeId) -> None:
        self._counts["received"] += 1
        now = message.generation, message.number
        last = self._last.get(node, (-1, -1))
        if node not in self._up:
            self._violations.append(f"{now} of {node} came while that was down")
        if now <= last:
            self._violations.append(f"{now} of {node} came after {last}")
        elif node in self._contiguous and now != (last[0], last[1] + 1):
            self._violations.append(f"{now} of {node} came after {last}, and the link was up all the time")
        self._last[node] = max(now, last)
        self._contiguous.add(node)


async def send_numbers(node: Node, mailbox: Mailbox, name: str, generation: int, counts: Counter[str]) -> None:
    """Send numbers to the node of that name, for as long as it is there, until cancelled."""
    number = 0
    while True:
        await trio.sleep(PAUSE)
        peer = _linked(node, name)
        if peer is None:
            continue
        try:
            await mailbox.send(Pid("sink", peer), Number(generation, number, PADDING))
        except ActorDown:
            counts["not_sent"] += 1
        else:
            number += 1
            counts["sent"] += 1


async def ask_questions(node: Node, name: str, counts: Counter[str], violations: list[str]) -> None:
    """Ask the node of that name, for as long as it is there, until cancelled."""
    number = 0
    while True:
        await trio.sleep(PAUSE)
        peer = _linked(node, name)
        if peer is None:
            continue
        number += 1
        try:
            reply = await node.ask(Pid("sink", peer), Question(number))
        except ActorDown:
            counts["not_answered"] += 1
        else:
            counts["answered"] += 1
            if reply != Question(number):
                violations.append(f"question {number} to {name} was answered with {reply}")


def _linked(node: Node, name: str) -> NodeId | None:
    return next((peer for peer in node.cluster_status().established if peer.name == name), None)
