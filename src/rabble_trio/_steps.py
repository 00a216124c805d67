"""How a process runs: its steps, its timers, and what becomes of the effects.

Rules:

1. One Trio task per process. It parks until its mailbox or its next timer wakes it, then handles what waits, at most
   `BUDGET` messages before other tasks get a turn. While it is parked and the mailbox is empty, whoever brings a message
   from another node, or from the journal, lets the process handle that at once: a turn of the event loop costs as much as
   several steps. What it raises is its own crash all the same.
2. A due timer fires after the messages that were already waiting when it became due, so that a process that was kept
   from running does not take its own delay for the silence of others.
3. The effects of a step are carried out in order after the step. Behind a record that is not yet durable they are held
   (`rabble_trio.Outbox.persist`); a crash loses what is held. A process that ends in any other way first waits until
   its records are durable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from ._actor import INF, Actor
from ._ids import CorrelationId, Pid
from ._messages import CancelTimer, Demonitor, Monitor, Shutdown, StartTimer, Stop, Timeout
from ._process import Outbox, Process

if TYPE_CHECKING:
    from ._executor import Executor

BUDGET: Final = 128
"""Messages that one actor handles before other tasks run: at 5 to 20 microseconds each, others wait 1 to 3 ms."""

MAX_HELD: Final = 100_000
"""Envelopes of one process behind a barrier; beyond it the process handles no message until a sync is done."""

_TIMEOUT: Final = Timeout()
_SHUTDOWN: Final = Shutdown()


class Steps:
    """Runs the processes of an executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def run(self, actor: Actor, process: Process, started: Callable[[], None]) -> None:
        """Restore and initialise a process, then handle its messages until it ends. A crash is an exception."""
        await self._executor.persistence.restore(actor, process)
        outbox = Outbox(actor.pid)
        process.init(actor.pid, outbox)
        self._carry_out(actor, outbox.items)
        started()
        await self._run_steps(actor, process, outbox)
        while actor.durable < actor.persisted:
            await self._executor.persistence.synced(actor)

    def handle_now(self, actor: Actor, message: Any, sender: Pid, correlation_id: CorrelationId | None) -> bool:
        """Let a process that has nothing to do handle a message (rule 1). If it has not, the message is for the mailbox."""
        step = actor.step
        if step is None or actor.task is None or actor.queue or actor.shutdown_requested or len(actor.held) > MAX_HELD:
            return False
        process, outbox = step
        timers = actor.timer_number
        actor.step = None  # until this step is over
        try:
            process.handle(message, sender, correlation_id, outbox)
            self._carry_out(actor, outbox.items)
        except Exception as error:
            actor.kill(_noted(error, actor, message, process))
            return True
        actor.step = step
        actor.handled += 1
        if actor.finished or actor.timer_number != timers:
            actor.wake()  # to see to that itself
        return True

    async def _run_steps(self, actor: Actor, process: Process, outbox: Outbox) -> None:
        """Let a process handle its messages, and its timers, until it ends."""
        executor, pid, queue = self._executor, actor.pid, actor.queue
        items: list[Any] = outbox.items
        handle, popleft = process.handle, queue.popleft
        actor.step = process, outbox
        find_actor = executor.actors.get
        set_alarm = executor.alarms.set
        message: Any = None
        try:
            while not self._has_finished(actor):
                count = len(queue)
                count = min(count, BUDGET)
                for done in range(1, count + 1):
                    message, sender, correlation_id = popleft()
                    handle(message, sender, correlation_id, outbox)
                    if items:
                        if outbox.uses_journal:
                            self._carry_out(actor, items)
                        else:
                            # The hot path of _carry_out and route, in one piece. `to` is never None here.
                            for to, effect, effect_id, _held in items:
                                target = find_actor(to)
                                if target is None:
                                    self._effect_elsewhere(actor, to, effect, effect_id)
                                elif len(target.queue) < target.capacity:
                                    target.queue.append((effect, pid, effect_id))
                                    if target.task is not None:
                                        target.wake()
                                else:
                                    executor.refuse(target, pid, effect, effect_id)
                            items.clear()
                        if actor.finished:
                            count = done
                            break
                actor.handled += count
                if actor.senders:
                    actor.make_room()
                message = _TIMEOUT
                deadline = self._fire_timers(actor, process, outbox, items, count)
                if actor.shutdown_requested and not actor.finished:
                    actor.remaining -= count
                    if actor.remaining <= 0:
                        message = _SHUTDOWN
                        handle(_SHUTDOWN, executor.pid, None, outbox)
                        self._carry_out(actor, items)
                        return
                if len(actor.held) > MAX_HELD:
                    await executor.persistence.synced(actor)
                elif queue or deadline == 0.0:
                    await trio.lowlevel.checkpoint()
                elif not actor.finished:
                    if deadline < actor.alarm:
                        set_alarm(actor, deadline)
                    await actor.park(INF)
        except Exception as error:
            _noted(error, actor, message, process)
            raise
        finally:
            actor.step = None

    @staticmethod
    def _has_finished(actor: Actor) -> bool:
        # Any step may set it, which a type checker that sees `while not actor.finished` doesn't expect.
        return actor.finished

    def _fire_timers(self, actor: Actor, process: Process, outbox: Outbox, items: list[Any], handled: int) -> float:
        """Fire what is due; returns when to come back: a deadline, infinity, or 0.0 for as soon as possible."""
        if not actor.timers:
            return INF
        deadline = actor.next_deadline()
        now = trio.current_time()
        if deadline > now:
            actor.ahead = -1
            return deadline
        # Due. Messages that wait by now go first (rule 2); those that come later don't count.
        actor.ahead = len(actor.queue) if actor.ahead < 0 else actor.ahead - handled
        if actor.ahead > 0:
            return 0.0
        actor.ahead = -1
        # A step may start timers, and one of 0 seconds must not keep this loop busy for ever: only what is due now fires.
        last = actor.timer_number
        while deadline <= now and not actor.finished:
            number = actor.timer_heap[0][1]
            if number > last:
                return 0.0
            correlation_id = actor.timer_heap[0][2]
            del actor.timers[correlation_id]
            process.handle(_TIMEOUT, self._executor.pid, correlation_id, outbox)
            self._carry_out(actor, items)
            deadline = actor.next_deadline()
        return deadline

    def _carry_out(self, actor: Actor, items: list[Any]) -> None:
        """Carry out the effects of a step in order, holding back what stands behind a barrier."""
        for to, effect, correlation_id, held in items:
            if to is None:
                self._executor.persistence.effect(actor, effect)
            elif held and actor.persisted > actor.durable and type(effect) is not Stop:
                # (A process that stops handles no further message, and waits for its records before it is gone.)
                actor.held.append((actor.persisted, to, effect, correlation_id))
            else:
                self.effect(actor, to, effect, correlation_id)
        items.clear()

    def effect(self, actor: Actor, to: Pid, effect: Any, correlation_id: CorrelationId | None) -> None:
        """Carry out an envelope of a process."""
        executor = self._executor
        if to in executor.actors:
            executor.route(to, actor.pid, effect, correlation_id)
        else:
            self._effect_elsewhere(actor, to, effect, correlation_id)

    def _effect_elsewhere(self, actor: Actor, to: Pid, effect: Any, correlation_id: CorrelationId | None) -> None:
        """An envelope of a process to anything but a running actor of this node; timers are the most frequent."""
        executor = self._executor
        if to == executor.pid:
            kind = type(effect)
            if kind is StartTimer:
                actor.start_timer(trio.current_time(), effect.seconds, correlation_id)
                return
            if kind is CancelTimer:
                actor.cancel_timer(correlation_id)
                return
            if kind is Monitor:
                executor.monitor(actor, effect.pid)
                return
            if kind is Demonitor:
                executor.demonitor(actor, effect.pid)
                return
            if kind is Stop:
                actor.finished = True
                return
        executor.route_elsewhere(to, actor.pid, effect, correlation_id)


def _noted(error: Exception, actor: Actor, message: Any, process: Process) -> Exception:
    error.add_note(f"while {actor.pid} handled {shorten(message)} in state {shorten(process)}")
    return error


def shorten(value: object, show: Callable[[Any], str] = repr) -> str:
    """`repr(value)`, or what else `show` makes of it, short enough for a log; never an error."""
    try:
        shown = show(value)
    except Exception as error:
        shown = f"<{type(value).__name__} that can't be shown: {type(error).__name__}>"
    return shown if len(shown) <= 500 else f"{shown[:500]}..."
