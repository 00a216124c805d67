"""Monitors and asks between nodes: what the executors of two nodes tell each other over their link.

Rules:

1. For each actor of another node that anybody here watches, the executor there has one `Monitor` of this executor.
   Its one `Down` is handed on to all watchers. When the last of them loses interest, a `Demonitor` follows.
2. When the link is lost, every watcher here gets `Down(pid, "node lost")`, every ask under way ends with `ActorDown`, and
   the watches of that node are forgotten on both sides. Whoever still cares monitors again.
3. An ask is watched like that too, by the pid of asks. The watch stays for the next ask to the same actor, for as long
   as it is among the `MAX_IDLE_WATCHES` that were asked last.
4. An ask that can't be delivered over there, or whose reply finds the link full, is answered with `AskFailed`.
5. These messages, the signals, are never dropped: a link without room for them ends (`rabble_trio._link`, rule 2), and
   then rule 2 applies. All take the same way as other envelopes, so a reply is never overtaken by its sender's `Down`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from outcome import Error

from ._codec import message
from ._errors import ActorDown
from ._ids import CorrelationId, NodeId, Pid
from ._messages import Demonitor, Down, Monitor
from ._process import executor_pid

if TYPE_CHECKING:
    from ._executor import Executor

MAX_IDLE_WATCHES: Final = 1000
"""Actors of other nodes that stay watched though no ask is under way to them: asks often come in rows."""

SendSignal = Callable[[Pid, Pid, Any, CorrelationId | None], bool]
"""Takes (to, sender, message, correlation id) for another node; tells whether the link took it."""


@message(tag="rabble.ask_failed")
class AskFailed:
    """In the place of a reply: the request was not delivered, or its reply could not be sent."""

    pid: Pid
    """Who was asked."""
    reason: str
    """Why there is no reply, in words."""


class Remote:
    """What an executor keeps about other nodes."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._watchers: dict[Pid, set[Pid]] = {}  # of an actor elsewhere: who watches it here
        self._watched_from: dict[NodeId, set[Pid]] = {}  # actors here that another node watches
        self._asks: dict[Pid, set[int]] = {}  # of an actor elsewhere: asks under way; the one asked last comes last
        self.send_signal: SendSignal = lambda *_: False

    # Watching actors of other nodes -----------------------------------------------------------------------------------

    def watch(self, watcher: Pid, target: Pid) -> bool:
        """Let `watcher` get the `Down` of an actor of another node; tells whether there is a link to that node."""
        watchers = self._watchers.get(target)
        if watchers is None:
            # Noted first: if the link ends because of this signal, its end forgets the watch.
            watchers = self._watchers[target] = set()
            if not self._signal(target, Monitor(target)):
                self._watchers.pop(target, None)
                return False
        watchers.add(watcher)
        return True

    def unwatch(self, watcher: Pid, target: Pid) -> None:
        """Undo `watch`."""
        watchers = self._watchers.get(target)
        if watchers is None or watcher not in watchers:
            return
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[target]
            self._signal(target, Demonitor(target))

    def ask_begins(self, number: int, target: Pid) -> bool:
        """An ask to an actor of another node is about to leave; tells whether there is a link to that node."""
        asks = self._asks.pop(target, None)
        if asks is None and not self.watch(self._executor.ask_pid, target):
            return False
        asks = self._asks[target] = asks or set()
        asks.add(number)
        if len(self._asks) > MAX_IDLE_WATCHES:
            self._forget_an_idle_watch()
        return True

    def ask_ends(self, number: int, target: Pid) -> None:
        """An ask has its reply, or was given up."""
        asks = self._asks.get(target)
        if asks is not None:
            asks.discard(number)

    def _forget_an_idle_watch(self) -> None:
        for target, asks in self._asks.items():
            if not asks:
                del self._asks[target]
                self.unwatch(self._executor.ask_pid, target)
                return

    # What comes from other nodes --------------------------------------------------------------------------------------

    def on_signal(self, message: Any, sender: Pid) -> bool:
        """A message of another node's executor; tells whether it was one that executors send each other."""
        if sender != executor_pid(sender):
            return False
        if isinstance(message, Monitor):
            self._monitored(message.pid, sender)
        elif isinstance(message, Demonitor):
            self._demonitored(message.pid, sender)
        elif isinstance(message, Down) and message.pid.node == sender.node:
            self._down(message)
        else:
            return False
        return True

    def _monitored(self, pid: Pid, sender: Pid) -> None:
        executor = self._executor
        if pid in executor.builtin:
            return  # it lives as long as the node
        actor = executor.actors.get(pid)
        if actor is None:
            self.send_signal(sender, executor.pid, Down(pid, "not running"), None)
            return
        actor.watchers.add(sender)
        self._watched_from.setdefault(sender.node, set()).add(pid)

    def _demonitored(self, pid: Pid, sender: Pid) -> None:
        actor = self._executor.actors.get(pid)
        if actor is not None:
            actor.watchers.discard(sender)
        self._watched_from.get(sender.node, set()).discard(pid)

    def _down(self, down: Down) -> None:
        executor = self._executor
        for number in sorted(self._asks.pop(down.pid, ())):
            executor.end_ask(number, Error(ActorDown(down.pid, down.reason)))
        for watcher in sorted(self._watchers.pop(down.pid, ())):
            actor = executor.actors.get(watcher)
            if actor is not None:
                actor.monitoring.discard(down.pid)
                actor.put((down, executor.pid, None))

    def refused(self, to: Pid, sender: Pid, correlation_id: CorrelationId | None, reason: str) -> None:
        """An envelope from another node is a dead letter here: if it was an ask, whoever asked has to know."""
        if correlation_id is not None and is_ask_pid(sender):
            self.send_signal(sender, self._executor.pid, AskFailed(to, reason), correlation_id)

    # The ends of things here ------------------------------------------------------------------------------------------

    def tell_down(self, watcher: Pid, down: Down) -> None:
        """An actor that another node's executor watches has ended."""
        self._watched_from.get(watcher.node, set()).discard(down.pid)
        self.send_signal(watcher, self._executor.pid, down, None)

    def reply_lost(self, to: Pid, sender: Pid, correlation_id: CorrelationId | None, reason: str) -> None:
        """An envelope to another node is a dead letter: if it was the reply to an ask, whoever asked has to know."""
        if correlation_id is not None and is_ask_pid(to):
            self.send_signal(
                to, self._executor.pid, AskFailed(sender, f"its reply was not sent: {reason}"), correlation_id
            )

    def node_lost(self, node: NodeId) -> None:
        """There is no link to this node any more."""
        executor = self._executor
        targets = {pid for table in (self._watchers, self._asks) for pid in table if pid.node == node}
        for target in sorted(targets):
            self._down(Down(target, "node lost"))
        watcher = Pid("executor", node, "rabble")
        for pid in self._watched_from.pop(node, ()):
            actor = executor.actors.get(pid)
            if actor is not None:
                actor.watchers.discard(watcher)

    def _signal(self, target: Pid, message: Any) -> bool:
        return self.send_signal(executor_pid(target), self._executor.pid, message, None)


def is_ask_pid(pid: Pid) -> bool:
    """Whether this is where the replies of some node's asks go."""
    return pid.name == "ask" and pid.group == "rabble"
