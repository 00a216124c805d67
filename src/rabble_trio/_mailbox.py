"""Bounded mailboxes: the queue under every actor, and the handle with which Trio code is an actor itself.

Rules:

1. A queue holds `(message, sender, correlation_id)` and never grows beyond its capacity, but for the few messages of the
   runtime (`Down`, `Persisted`), of which there is one per monitor and one per sync.
2. One task receives. It parks when the queue is empty, and whoever puts something in wakes it.
3. Trio code that sends to a full queue parks until there is room, first come first served: the receiver that makes room
   puts the item in itself, so nobody can take the place meanwhile. Nobody else ever waits.

It has the semantics of a Trio memory channel, and is none because of its price: a channel takes about a microsecond a
message and a checkpoint each, while a process that wakes takes all that waits with one checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from outcome import Value

from ._ids import CorrelationId, Pid
from ._messages import DemonitorNodes, MonitorNodes
from ._process import Envelope, cluster_pid

if TYPE_CHECKING:
    from ._actor import Actor
    from ._executor import Executor

Item = tuple[Any, Pid, CorrelationId | None]
"""(message, sender, correlation id)"""


class MessageQueue:
    """What waits for one actor. Not safe for other threads, like everything in Trio."""

    __slots__ = ("capacity", "closed", "queue", "senders", "task")

    def __init__(self, capacity: float) -> None:
        self.queue: deque[Item] = deque()
        self.capacity = capacity
        self.closed: str | None = None  # why nothing can be put in any more
        self.task: trio.lowlevel.Task | None = None  # the receiver, while it is parked
        self.senders: dict[trio.lowlevel.Task, Item] = {}  # who waits for room, and with what; in order

    def wake(self) -> None:
        """Let the receiver run, if it is parked."""
        task = self.task
        if task is not None:
            self.task = None
            trio.lowlevel.reschedule(task)

    def put(self, item: Item) -> None:
        """Put in, whatever the capacity; for messages of the runtime."""
        self.queue.append(item)
        if self.task is not None:
            self.wake()

    def try_put(self, item: Item) -> bool:
        """Put in if there is room; tells whether there was."""
        if len(self.queue) >= self.capacity:
            return False
        self.put(item)
        return True

    async def put_when_room(self, item: Item) -> bool:
        """Put in, waiting for room; tells whether it is in, which it is not if the queue was closed meanwhile.

        If cancelled, the item is not in. Not a checkpoint if there is room.
        """
        if self.try_put(item):
            return True
        task = trio.lowlevel.current_task()
        self.senders[task] = item

        def abort(_: Any) -> trio.lowlevel.Abort:
            del self.senders[task]
            return trio.lowlevel.Abort.SUCCEEDED

        return bool(await trio.lowlevel.wait_task_rescheduled(abort))

    def make_room(self) -> None:
        """Let in as many waiting senders as there is room for. The receiver calls it after it took something out."""
        senders, queue = self.senders, self.queue
        while senders and len(queue) < self.capacity:
            task = next(iter(senders))
            queue.append(senders.pop(task))
            trio.lowlevel.reschedule(task, Value(True))

    def close(self, reason: str) -> None:
        """Nothing can be put in any more: waiting senders learn it, and a waiting receiver."""
        self.closed = reason
        senders, self.senders = self.senders, {}
        for task in senders:
            trio.lowlevel.reschedule(task, Value(False))
        self.wake()

    async def park(self, deadline: float) -> None:
        """Wait until woken, or until the deadline (in Trio's clock)."""

        def abort(_: Any) -> trio.lowlevel.Abort:
            self.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        if deadline == float("inf"):
            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            with trio.CancelScope(deadline=deadline):
                await trio.lowlevel.wait_task_rescheduled(abort)


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A mailbox at this moment."""

    waiting: int
    """Messages waiting to be received."""
    capacity: float
    """How many may wait."""
    senders_waiting: int
    """Tasks waiting for room."""


class Mailbox:
    """Trio code as an actor: made by `rabble_trio.Node.open_mailbox`, and handed to every service.

    `async for envelope in mailbox` receives until the actor is asked to shut down. Only one task may receive.
    """

    def __init__(self, executor: Executor, actor: Actor) -> None:
        self._executor = executor
        self._actor = actor

    def __repr__(self) -> str:
        return f"<Mailbox {self.pid}>"

    @property
    def pid(self) -> Pid:
        """The address of this mailbox."""
        return self._actor.pid

    async def send(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Send a message; waits while the receiver's mailbox is full.

        Raises `ActorDown` if the receiver does not run on this node, `NotAMessage` if the message can't be sent.
        """
        await self._executor.send(to, self.pid, message, correlation_id)

    def send_nowait(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Like `send`, but raises `trio.WouldBlock` while the receiver's mailbox is full."""
        self._executor.send_nowait(to, self.pid, message, correlation_id)

    async def ask(self, to: Pid, message: Any) -> Any:
        """Send a message and return the reply to it. See `rabble_trio.Node.ask`."""
        return await self._executor.ask(to, message)

    async def receive(self) -> Envelope:
        """The next envelope. Raises `trio.EndOfChannel` once the actor was asked to shut down.

        What waited when it was asked still comes before that, and what is sent later does not: senders that never pause
        can't keep an actor from ending.
        """
        if self._actor.queue or self._actor.shutdown_requested:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                if self._actor.task is not None:
                    raise trio.BusyResourceError("another task is receiving from this mailbox") from None
                await self._actor.park(float("inf"))

    def receive_nowait(self) -> Envelope:
        """Like `receive`, but raises `trio.WouldBlock` if nothing waits."""
        actor = self._actor
        if actor.shutdown_requested:
            if actor.remaining <= 0:
                raise trio.EndOfChannel
            actor.remaining -= 1
        if actor.queue:
            message, sender, correlation_id = actor.queue.popleft()
            actor.handled += 1
            if actor.senders:
                actor.make_room()
            return Envelope(actor.pid, sender, message, correlation_id)
        if actor.closed is not None:
            raise trio.EndOfChannel
        raise trio.WouldBlock

    def __aiter__(self) -> AsyncIterator[Envelope]:
        return self

    async def __anext__(self) -> Envelope:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def monitor(self, pid: Pid) -> None:
        """Receive one `Down(pid, reason)` when that actor ends; at once if it does not run. Twice counts as once.

        Raises `trio.ClosedResourceError` if this mailbox is closed.
        """
        if self._actor.closed is not None:
            raise trio.ClosedResourceError(f"the mailbox of {self.pid} is closed")
        self._executor.monitor(self._actor, pid)

    def demonitor(self, pid: Pid) -> None:
        """No longer receive the `Down` of `pid`."""
        self._executor.demonitor(self._actor, pid)

    def monitor_nodes(self) -> None:
        """Receive `NodeUp` for each member of the cluster that is linked, now and later, and `NodeDown` for each lost."""
        self._executor.route(cluster_pid(self.pid.node), self.pid, MonitorNodes(), None)

    def demonitor_nodes(self) -> None:
        """No longer receive `NodeUp` and `NodeDown`."""
        self._executor.route(cluster_pid(self.pid.node), self.pid, DemonitorNodes(), None)

    def statistics(self) -> MailboxStatistics:
        """How full the mailbox is."""
        actor = self._actor
        return MailboxStatistics(len(actor.queue), actor.capacity, len(actor.senders))
