"""The rabble process that runs the states of a replica.

What every message passes, in this order: questions about the replica itself are answered in any state; a message
between replicas must come from a member of the group and carry its epoch; then the state handles it, and may name its
successor. What nobody wants is dropped and counted, never an error: the network may deliver anything, late and twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rabble_trio import CorrelationId, GetMetrics, Metrics, Outbox, Pid, Process, Timeout

from .configuration import Configuration, Settings, StateMachine
from .context import Context
from .messages import (
    Commit,
    DoViewChange,
    GetReplicaState,
    GetState,
    NewState,
    Prepare,
    PrepareOK,
    ReplicaState,
    StartView,
    StartViewChange,
)
from .states.backup import Backup
from .states.base import State, ToBackup, ToPrimary, ToStateTransfer, Transition
from .states.primary import Primary
from .states.recovering import Recovering
from .states.state_transfer import StateTransfer
from .states.view_change import ViewChange
from .violation import check

if TYPE_CHECKING:
    from random import Random

TICK: Final = 1
"""The connection number in the correlation id of the heartbeat timer, the only timer of a replica."""

TICK_JITTER: Final = 0.1
"""Heartbeats are so much shorter or longer at random, lest all groups of a node wake at the same moment."""

BETWEEN_REPLICAS: Final = frozenset(
    {Prepare, PrepareOK, Commit, StartViewChange, DoViewChange, StartView, GetState, NewState}
)
"""Messages that count only from members of the group, in its epoch."""


class Replica(Process):
    """A member of a group that replicates a state machine by Viewstamped Replication.

    `configuration`: the group; the replica's own pid must be in it, or `init` raises `ValueError`. `state_machine`: see
    `haret.vr.StateMachine`. `random`: the source of jitter. `fresh`: whether this is the first incarnation of this
    replica, so that an empty memory is the truth; if not, it stays silent, because what it promised is lost. `observer`:
    who is told, by `ViewChanged`, whenever the replica becomes normal in a view.

    `handle` raises `ProtocolViolation` if a rule of the protocol turns out not to hold.
    """

    def __init__(
        self,
        configuration: Configuration,
        state_machine: StateMachine,
        random: Random,
        settings: Settings | None = None,
        fresh: bool = True,
        observer: Pid | None = None,
    ) -> None:
        self.context = Context(configuration, state_machine, random, settings or Settings(), observer)
        self._fresh = fresh
        self._state: State = Recovering(self.context)

    def init(self, pid: Pid, output: Outbox) -> None:
        """Begin in view 0, or stay silent."""
        ctx = self.context
        ctx.start(pid)
        self._epoch = ctx.epoch
        self._members = frozenset(ctx.peers)
        self._tick = CorrelationId(pid, TICK)
        if not self._fresh:
            self._become(Recovering(ctx), output)
            return
        self._become(Primary(ctx, 0, 0) if ctx.is_primary(0) else Backup(ctx, 0), output)
        self._start_timer(output)

    @property
    def status(self) -> str:
        """ "normal", "view-change", "state-transfer" or "recovering"."""
        return self._state.status

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Handle one message; see the top of this file."""
        kind = type(message)
        handler = self._state.handlers.get(kind)
        if handler is None:
            self._handle_other(message, sender, correlation_id, output)
            return
        if kind in BETWEEN_REPLICAS and (message.epoch != self._epoch or sender not in self._members):
            other = "epoch" if sender in self._members else "sender"
            self.context.count(f"dropped_other_{other}")
            return
        transition = handler(message, sender, correlation_id, output)
        if transition is not None:
            self._follow(transition, output)

    def _handle_other(self, message: Any, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Timeout() if cid == self._tick:
                self._start_timer(output)
                transition = self._state.tick(output)
                if transition is not None:
                    self._follow(transition, output)
            case GetReplicaState():
                output.send(sender, self.replica_state(), cid)
            case GetMetrics():
                output.send(sender, self.metrics(), cid)
            case _:
                self.context.count("dropped_unexpected")

    def _start_timer(self, output: Outbox) -> None:
        jitter = self.context.random.uniform(1 - TICK_JITTER, 1 + TICK_JITTER)
        output.start_timer(self.context.settings.heartbeat * jitter, self._tick)

    def _follow(self, transition: Transition, output: Outbox) -> None:
        self._state.leave(output)
        self._become(self._make(transition), output)

    def _become(self, state: State, output: Outbox) -> None:
        self._state = state
        self._check()
        transition = state.enter(output)
        if transition is not None:
            self._follow(transition, output)

    def _make(self, transition: Transition) -> State:
        ctx = self.context
        if isinstance(transition, ToBackup):
            return Backup(ctx, *transition)
        if isinstance(transition, ToPrimary):
            return Primary(ctx, *transition)
        if isinstance(transition, ToStateTransfer):
            return StateTransfer(ctx, *transition)
        return ViewChange(ctx, *transition)

    def _check(self) -> None:
        ctx = self.context
        check(ctx.log.start <= ctx.commit <= ctx.log.op, "log_start <= commit <= op")
        check(ctx.last_normal_view <= ctx.view, "last_normal_view <= view")
        if self.status == "normal":
            check(ctx.last_normal_view == ctx.view, "a normal replica has the log of its view")
            check(isinstance(self._state, Primary) == ctx.is_primary(ctx.view), "each view has one primary")

    def replica_state(self) -> ReplicaState:
        """What `GetReplicaState` is answered with. Its cost is that of the state machine's digest."""
        ctx = self.context
        normal = self.status == "normal"
        return ReplicaState(
            pid=ctx.pid,
            status=self.status,
            epoch=ctx.epoch,
            view=ctx.view,
            primary=ctx.configuration.primary(ctx.view) if normal else None,
            op=ctx.log.op,
            commit=ctx.commit,
            log_start=ctx.log.start,
            last_normal_view=ctx.last_normal_view,
            replicas=ctx.configuration.replicas,
            sessions=len(ctx.clients),
            digest=ctx.machine.digest(),
        )

    def metrics(self) -> Metrics:
        """What `GetMetrics` is answered with."""
        ctx = self.context
        return Metrics(
            counters=dict(sorted(ctx.counters.items())),
            gauges={
                "commit": float(ctx.commit),
                "log_entries": float(ctx.log.op - ctx.log.start),
                "op": float(ctx.log.op),
                "sessions": float(len(ctx.clients)),
                "uncommitted": float(ctx.log.op - ctx.commit),
                "view": float(ctx.view),
            },
        )
