"""The executor: knows the actors of a node, and routes envelopes between them. How processes run is in `_steps`.

Rules:

1. Routing is synchronous and never waits: an envelope ends in a mailbox, in a pending `ask`, on a link, or as a dead
   letter that is counted.
2. Envelopes from one sender to one receiver keep their order, but for those that pass a barrier by their own wish.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error, Outcome, Value

from ._actor import Actor
from ._alarms import Alarms
from ._codec import MESSAGE_TYPES
from ._errors import ActorDown, EncodeError, NameInUse, NotAMessage
from ._ids import CorrelationId, NodeId, Pid
from ._journal import Journal
from ._mailbox import Item
from ._messages import (
    Demonitor,
    Down,
    ExecutorStatus,
    GetExecutorStatus,
    GetMetrics,
    Metrics,
    Monitor,
)
from ._outlets import Outlets
from ._persistence import Persistence
from ._process import Envelope
from ._remote import AskFailed, Remote
from ._steps import BUDGET, Steps

if TYPE_CHECKING:
    from ._recorder import NodeRecorder
    from ._supervisor import SupervisorTask

logger = logging.getLogger("rabble_trio.executor")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An envelope that could not be delivered, and why."""

    envelope: Envelope
    """What was sent."""
    reason: str
    """"not running", "mailbox full", "ended", "late reply", "no correlation id", "not accepted", "no link",
    "link queue full", "not encodable" (the log says why), or "not decodable" (it came from another node, and its message
    is None here)."""


class _Ask:
    """The reply that a task waits for, or will wait for."""

    __slots__ = ("outcome", "target", "task")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.target: Actor | None = None
        self.outcome: Outcome[Any] | None = None

    def set(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, outcome)

    async def wait(self) -> Any:
        if self.outcome is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return self.outcome.unwrap()

        def abort(_: Any) -> trio.lowlevel.Abort:
            self.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(abort)


RemoteRoute = Callable[[Pid, Pid, Any, CorrelationId | None], str | None]
"""Takes (to, sender, message, correlation id) for another node; returns a dead letter's reason if it can't.

Raises `EncodeError`.
"""


async def _no_room(node: NodeId) -> None:
    """A link that is not there is never full."""
    await trio.lowlevel.checkpoint()


class Executor:
    """The actors of one node and the routes between them."""

    def __init__(self, node: NodeId, journal: Journal) -> None:
        self.node = node
        self.persistence = Persistence(self, journal)
        self.outlets = Outlets(self.persistence.begin_sync)
        self.steps = Steps(self)
        self.recorder: NodeRecorder | None = None
        self.pid = Pid("executor", node, "rabble")
        self.ask_pid = Pid("ask", node, "rabble")
        self.actors: dict[Pid, Actor] = {}
        # Whose child has this name. A child keeps its name between its incarnations, when it is no actor.
        self.owners: dict[Pid, SupervisorTask] = {}
        self.remote: RemoteRoute = lambda *_: "no link"
        self.remote_room: Callable[[NodeId], Awaitable[None]] = _no_room  # waits until a full link has room, or is lost
        self.far = Remote(self)
        self.alarms = Alarms()
        # In the correlation ids of asks: a reply to an earlier incarnation of this node must not meet an ask of this one.
        self.incarnation: int | None = None
        # Built-in receivers that answer at once, in place of an actor: executor and cluster server.
        self.builtin: dict[Pid, Callable[[Any, Pid, CorrelationId | None], bool]] = {self.pid: self._on_message}
        self._asks: dict[int, _Ask] = {}
        self._ask_number = 0
        self._ended_counts: Counter[str] = Counter()
        self._handled_before = 0  # messages handled by actors that ended
        self._dead_letters: Counter[str] = Counter()
        self._observers: list[trio.MemorySendChannel[DeadLetter]] = []
        self._not_observed = 0  # dead letters that a full observer was not shown
        self.restarts = 0

    # ---------------------------------------------------------------- actors

    def claim(self, pid: Pid, owner: SupervisorTask) -> None:
        """Keep a name for a child of `owner`, over all its incarnations. Raises `NameInUse`."""
        self._check_free(pid)
        self.owners[pid] = owner

    def register(self, actor: Actor, owner: SupervisorTask | None = None) -> None:
        """Make an actor reachable: its owner's child, or nobody's. Raises `NameInUse`."""
        if owner is None or self.owners.get(actor.pid) is not owner:
            self._check_free(actor.pid)
        self.actors[actor.pid] = actor

    def _check_free(self, pid: Pid) -> None:
        if pid in self.actors or pid in self.owners or pid in self.builtin or pid == self.ask_pid:
            raise NameInUse.of(pid)

    def unregister(self, actor: Actor, reason: str) -> None:
        """An actor ended: tell watchers, askers and waiting senders; what waited in its mailbox becomes dead letters."""
        if self.actors.get(actor.pid) is not actor:
            return
        del self.actors[actor.pid]
        self._handled_before += actor.handled
        self._ended_counts[reason.partition(":")[0]] += 1
        actor.close(reason)
        for number in actor.asks:
            ask = self._asks.pop(number, None)
            if ask is not None:  # it is gone if the reply came, and the task that asked has not run since
                ask.set(Error(ActorDown(actor.pid, reason)))
        actor.asks.clear()
        actor.alarm_number = 0  # its alarm doesn't count any more
        for pid in actor.monitoring:
            watched = self.actors.get(pid)
            if watched is not None:
                watched.watchers.discard(actor.pid)
            elif pid.node != self.node:
                self.far.unwatch(actor.pid, pid)
        down = Down(actor.pid, reason)
        for watcher in sorted(actor.watchers):
            target = self.actors.get(watcher)
            if target is None and watcher.node != self.node:
                self.far.tell_down(watcher, down)
            elif target is not None:
                target.monitoring.discard(actor.pid)
                target.put((down, self.pid, None))
        while actor.queue:
            message, sender, correlation_id = actor.queue.popleft()
            if sender is not self.pid:
                self.dead_letter(actor.pid, sender, message, correlation_id, "ended")
        actor.held.clear()

    def monitor(self, watcher: Actor, pid: Pid) -> None:
        """`watcher` gets `Down` when `pid` ends, or now if it does not run."""
        watched = self.actors.get(pid)
        if pid in self.builtin:
            return  # it lives as long as the node
        if watched is None:
            if pid.node == self.node:
                watcher.put((Down(pid, "not running"), self.pid, None))
            elif self.far.watch(watcher.pid, pid):
                watcher.monitoring.add(pid)
            else:
                watcher.put((Down(pid, "node lost"), self.pid, None))
        else:
            watched.watchers.add(watcher.pid)
            watcher.monitoring.add(pid)

    def demonitor(self, watcher: Actor, pid: Pid) -> None:
        """Undo `monitor`; a `Down` that already waits stays."""
        watched = self.actors.get(pid)
        if watched is not None:
            watched.watchers.discard(watcher.pid)
        elif pid.node != self.node:
            self.far.unwatch(watcher.pid, pid)
        watcher.monitoring.discard(pid)

    # --------------------------------------------------------------- routing

    def route(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> None:
        """Deliver an envelope, or count it as a dead letter. Never waits."""
        target = self.actors.get(to)
        if target is None:
            self.route_elsewhere(to, sender, message, correlation_id)
        elif len(target.queue) < target.capacity:
            target.put((message, sender, correlation_id))
        else:
            self.refuse(target, sender, message, correlation_id)

    def refuse(self, target: Actor, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> None:
        """A mailbox has no room, or never takes anything: a dead letter."""
        reason = "mailbox full" if target.capacity else "not accepted"
        self.dead_letter(target.pid, sender, message, correlation_id, reason)

    def route_elsewhere(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> str | None:
        """Deliver to anything but an actor of this node; returns why it is a dead letter, if it is one."""
        node = to.node
        if node is not self.node and node != self.node:
            return self._route_to_node(to, sender, message, correlation_id)
        if to == self.ask_pid:
            reason = self._reply(correlation_id, message)
        elif to in self.builtin:
            reason = None if self.builtin[to](message, sender, correlation_id) else "not accepted"
        else:
            reason = "not running"
        if reason is not None:
            self.dead_letter(to, sender, message, correlation_id, reason)
        return reason

    def _route_to_node(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> str | None:
        try:
            reason = self.remote(to, sender, message, correlation_id)
        except EncodeError as error:
            # Not the sender's crash: what is too large may be the answer to a question that somebody else asked.
            logger.warning("%s can't send to %s: %s", sender, to, error)
            reason = "not encodable"
        if reason is not None:
            self.dead_letter(to, sender, message, correlation_id, reason)
            if reason != "no link":
                self.far.reply_lost(to, sender, correlation_id, reason)
        return reason

    def deliver(self, letters: Iterable[tuple[Pid, Pid, Any, CorrelationId | None]]) -> None:
        """Envelopes that came over a link, for actors of this node."""
        find_actor = self.actors.get
        budget = BUDGET
        for to, sender, message, correlation_id in letters:
            target = find_actor(to)
            if target is not None and len(target.queue) < target.capacity:
                if target.task is None:
                    target.queue.append((message, sender, correlation_id))
                elif budget and self.steps.handle_now(target, message, sender, correlation_id):
                    budget -= 1
                else:
                    target.put((message, sender, correlation_id))
            elif target is not None:
                self.refuse(target, sender, message, correlation_id)
                self.far.refused(to, sender, correlation_id, "mailbox full" if target.capacity else "not accepted")
            else:
                reason = self.route_elsewhere(to, sender, message, correlation_id)
                if reason is not None:
                    self.far.refused(to, sender, correlation_id, reason)

    def not_decodable(self, to: Pid, sender: Pid, correlation_id: CorrelationId | None, reason: str) -> None:
        """An envelope came over a link, and its message can't be read."""
        logger.warning("%s: an envelope from %s to %s %s", self.node, sender, to, reason)
        self.dead_letter(to, sender, None, correlation_id, "not decodable")
        self.far.refused(to, sender, correlation_id, reason)

    def dead_letter(
        self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None, reason: str
    ) -> None:
        """Count an envelope that can't be delivered, and show it to those who observe."""
        self._dead_letters[reason] += 1
        if self._observers:
            letter = DeadLetter(Envelope(to, sender, message, correlation_id), reason)
            for observer in self._observers:
                try:
                    observer.send_nowait(letter)
                except (trio.WouldBlock, trio.BrokenResourceError):
                    self._not_observed += 1

    def observe_dead_letters(self, observer: trio.MemorySendChannel[DeadLetter]) -> Callable[[], None]:
        """Send every dead letter from now on to a channel, as long as it has room; returns what ends it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    # ------------------------------------------------- Trio code that sends

    def send_nowait(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Deliver an envelope. Raises `trio.WouldBlock` if the mailbox or link is full, `ActorDown`, `CodecError`."""
        check_message(message)
        target = self.actors.get(to)
        if target is not None:
            if target.try_put((message, sender, correlation_id)):
                return
            if not target.capacity:
                raise _not_accepted(to)
            raise trio.WouldBlock
        if to.node != self.node:
            reason = self.remote(to, sender, message, correlation_id)
            if reason == "link queue full":
                raise trio.WouldBlock
            if reason is not None:
                raise ActorDown(to, reason)
            return
        if to not in self.builtin and to != self.ask_pid:
            raise ActorDown(to, "not running")
        self.route_elsewhere(to, sender, message, correlation_id)

    async def send(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Deliver an envelope, waiting for room in the mailbox or link. Raises `ActorDown`, `CodecError`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        target = self.actors.get(to)
        if target is None:
            await self._send_elsewhere(to, sender, message, correlation_id)
        else:
            check_message(message)
            item = (message, sender, correlation_id)
            if not target.try_put(item):  # most often there is room
                await _put_when_room(target, item)
        # The message is on its way, so from here on nothing may be raised: it would be sent twice.
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send_elsewhere(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> None:
        """Like `send_nowait`, waiting for room in the link. No checkpoint if there is room."""
        while True:
            try:
                return self.send_nowait(to, sender, message, correlation_id)
            except trio.WouldBlock:
                await self.remote_room(to.node)

    async def ask(self, to: Pid, message: Any) -> Any:
        """Send a message and wait for its reply. Raises `ActorDown`, `CodecError`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        check_message(message)
        self._ask_number = number = self._ask_number + 1
        correlation_id = CorrelationId(self.ask_pid, self.incarnation, number)
        # Registered before the message leaves, so that no reply can be missed, however fast.
        self._asks[number] = ask = _Ask()
        try:
            target = self.actors.get(to)
            if target is not None:
                # Before the message is in, so that an end of the actor can't be missed either.
                ask.target = target
                target.asks.add(number)
                item = (message, self.ask_pid, correlation_id)
                if not target.try_put(item):
                    await _put_when_room(target, item)
            elif to.node != self.node:
                if not self.far.ask_begins(number, to):
                    self.dead_letter(to, self.ask_pid, message, correlation_id, "no link")
                    raise ActorDown(to, "no link")
                await self._send_elsewhere(to, self.ask_pid, message, correlation_id)
            elif to not in self.builtin:
                raise ActorDown(to, "not running")
            else:
                refused = self.route_elsewhere(to, self.ask_pid, message, correlation_id)
                if refused is not None:
                    raise ActorDown(to, refused)
            return await ask.wait()
        finally:
            self._asks.pop(number, None)
            if ask.target is not None:
                ask.target.asks.discard(number)
            elif to.node != self.node:
                self.far.ask_ends(number, to)

    def _reply(self, correlation_id: CorrelationId | None, message: Any) -> str | None:
        """A message for the pid of asks: hand it to the task that waits for it."""
        if correlation_id is None or correlation_id.request is None or correlation_id.pid != self.ask_pid:
            return "no correlation id"  # or one that no ask was sent with
        known = correlation_id.connection == self.incarnation
        failed = type(message) is AskFailed
        reply = Error(ActorDown(message.pid, message.reason)) if failed else Value(message)
        return None if known and self.end_ask(correlation_id.request, reply) else "late reply"

    def end_ask(self, number: int, reply: Outcome[Any]) -> bool:
        """Hand a reply, or why there is none, to the task that waits for it; tells whether there is one."""
        ask = self._asks.pop(number, None)
        if ask is None:
            return False
        ask.set(reply)
        return True

    # ------------------------------------------------------ status, metrics

    def _on_message(self, message: Any, sender: Pid, correlation_id: CorrelationId | None) -> bool:
        """The executor as a receiver; tells whether it knows the message."""
        if isinstance(message, GetExecutorStatus):
            self.route(sender, self.pid, self.status(), correlation_id)
        elif isinstance(message, GetMetrics):
            self.route(sender, self.pid, self.metrics(), correlation_id)
        elif isinstance(message, Monitor) and sender in self.actors:
            self.monitor(self.actors[sender], message.pid)
        elif isinstance(message, Demonitor) and sender in self.actors:
            self.demonitor(self.actors[sender], message.pid)
        else:
            return sender.node != self.node and self.far.on_signal(message, sender)
        return True

    def status(self) -> ExecutorStatus:
        """What runs at this moment."""
        actors = sorted(self.actors.values(), key=lambda actor: actor.pid)
        return ExecutorStatus(
            node=self.node,
            processes=tuple(actor.pid for actor in actors if actor.kind == "process"),
            services=tuple(actor.pid for actor in actors if actor.kind != "process"),
            mailboxes={str(actor.pid): len(actor.queue) for actor in actors if actor.queue},
            timers=sum(len(actor.timers) for actor in actors),
            dead_letters=dict(sorted(self._dead_letters.items())),
        )

    def metrics(self) -> Metrics:
        """Counters since the node started, and gauges of this moment."""
        actors = self.actors.values()
        counters = {
            "messages_handled": self._handled_before + sum(actor.handled for actor in actors),
            "restarts": self.restarts,
            "asks": self._ask_number,
            **{f"actors_ended_{reason.replace(' ', '_')}": n for reason, n in sorted(self._ended_counts.items())},
            **{f"dead_letters_{reason.replace(' ', '_')}": n for reason, n in sorted(self._dead_letters.items())},
            "dead_letters_not_observed": self._not_observed,
            **({} if self.recorder is None else self.recorder.counters()),
        }
        gauges = {
            "actors": float(len(actors)),
            "processes": float(sum(actor.kind == "process" for actor in actors)),
            "asks_pending": float(len(self._asks)),
            "mailbox_messages": float(sum(len(actor.queue) for actor in actors)),
            "mailbox_deepest": float(max((len(actor.queue) for actor in actors), default=0)),
            "timers": float(sum(len(actor.timers) for actor in actors)),
            "envelopes_held": float(sum(len(actor.held) for actor in actors)),
            **({} if self.recorder is None else self.recorder.gauges()),
        }
        return Metrics(counters, gauges)


def check_message(message: Any) -> None:
    """Raise `NotAMessage` unless the class of `message` is decorated with `@message`."""
    if type(message) not in MESSAGE_TYPES:
        raise NotAMessage.of(message)


async def _put_when_room(target: Actor, item: Item) -> None:
    """Put into a mailbox, waiting for room; no checkpoint after it is in. Raises `ActorDown`."""
    if not target.capacity:
        raise _not_accepted(target.pid)
    if not await target.put_when_room(item):
        raise ActorDown(target.pid, target.closed or "ended")


def _not_accepted(pid: Pid) -> ActorDown:
    return ActorDown(pid, "it accepts no messages")
