"""What the executor keeps of one incarnation of a running actor."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

import trio

from ._ids import CorrelationId, Pid
from ._mailbox import MessageQueue

if TYPE_CHECKING:
    from ._process import Outbox, Process
    from ._supervisor import SupervisorTask

INF: Final = float("inf")


class Actor(MessageQueue):
    """An actor as the executor sees it: mailbox, timers, monitors, asks, and what waits for the journal."""

    __slots__ = (
        "ahead",
        "alarm",
        "alarm_number",
        "asks",
        "children",
        "durable",
        "failure",
        "finished",
        "handled",
        "held",
        "kind",
        "monitoring",
        "persisted",
        "pid",
        "remaining",
        "scope",
        "shutdown_requested",
        "step",
        "sync_done",
        "timer_heap",
        "timer_number",
        "timers",
        "watchers",
    )

    def __init__(self, pid: Pid, kind: str, capacity: float) -> None:
        super().__init__(capacity)
        self.pid = pid
        self.kind = kind  # "process", "service", "mailbox" or "supervisor"
        self.children: SupervisorTask | None = None  # of a supervisor: the task that keeps its children
        self.scope = trio.CancelScope()
        self.shutdown_requested = False
        self.remaining = 0  # messages that it still handles once its shutdown is requested
        self.finished = False  # a process that stopped by itself
        self.failure: BaseException | None = None  # set by whoever kills it
        self.handled = 0
        # A process, and where its effects go; None unless it may be given a message.
        self.step: tuple[Process, Outbox] | None = None
        self.watchers: set[Pid] = set()  # who gets Down when this actor ends
        self.monitoring: set[Pid] = set()  # whose Down this actor gets
        self.asks: set[int] = set()  # asks in flight to this actor
        # Timers: the number of the running timer by its correlation id, and a heap of (deadline, number, id) in which
        # entries of replaced and cancelled timers stay until they surface or outnumber the others.
        self.timers: dict[CorrelationId | None, int] = {}
        self.timer_heap: list[tuple[float, int, CorrelationId | None]] = []
        self.timer_number = 0
        self.alarm = INF  # when the node's alarms wake it, and which of them
        self.alarm_number = 0
        self.ahead = -1  # messages to handle before the due timer may fire; -1: none is known to be due
        # Persistence: counts of this incarnation's records, and what waits for how many of them to be durable.
        self.persisted = 0
        self.durable = 0
        self.held: deque[tuple[int, Pid, Any, CorrelationId | None]] = deque()
        self.sync_done: trio.Event | None = None

    def request_shutdown(self) -> None:
        """Ask the actor to end after what waits in its mailbox now."""
        if self.shutdown_requested:
            return
        self.shutdown_requested = True
        self.remaining = len(self.queue)
        if self.children is not None:
            self.children.give_up_starts()
        self.wake()

    def kill(self, failure: BaseException) -> None:
        """Make the actor crash with this failure at its next checkpoint."""
        if self.failure is None:
            self.failure = failure
        self.scope.cancel()

    def start_timer(self, now: float, seconds: float, correlation_id: CorrelationId | None) -> None:
        """Start a timer, or replace the one that runs under the same correlation id."""
        self.timer_number += 1
        self.timers[correlation_id] = self.timer_number
        heap = self.timer_heap
        heappush(heap, (now + seconds, self.timer_number, correlation_id))
        if len(heap) > 2 * len(self.timers) + 64:
            timers = self.timers
            heap[:] = [entry for entry in heap if timers.get(entry[2]) == entry[1]]
            heapify(heap)

    def cancel_timer(self, correlation_id: CorrelationId | None) -> None:
        """Cancel a timer, if it runs."""
        self.timers.pop(correlation_id, None)
        if not self.timers:
            self.timer_heap.clear()

    def next_deadline(self) -> float:
        """When the next timer is due, in Trio's clock; infinity if none runs."""
        heap, timers = self.timer_heap, self.timers
        while heap and timers.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else INF
