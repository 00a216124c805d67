"""The rabble process that runs the states of a replica.

What every message passes, in this order: questions about the replica itself are answered in any state; a message
between replicas must come from a member of the group and carry its epoch; then the state handles it, and may name its
successor. What nobody wants is dropped and counted, never an error: the network may deliver anything, late and twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rabble_trio import (
    CorrelationId,
    DecodeError,
    GetMetrics,
    Metrics,
    Outbox,
    Persisted,
    Pid,
    Process,
    Snapshotted,
    Timeout,
)

from .configuration import Configuration, Settings, StateMachine
from .context import Context
from .digests import SHOWN, Digests
from .messages import (
    ANY_VIEW,
    Checkpoint,
    Commit,
    ConfirmView,
    DoViewChange,
    EpochStarted,
    Forgotten,
    GetReplicaState,
    GetState,
    ImagePart,
    NewEpoch,
    NewState,
    Prepare,
    PrepareOK,
    Recovery,
    RecoveryResponse,
    ReplicaState,
    Rest,
    StaleRead,
    StartView,
    StartViewChange,
    ViewConfirmed,
    Wake,
)
from .records import Configured, read_records
from .restore import Memory, replay
from .states.backup import Backup
from .states.base import (
    State,
    ToBackup,
    ToCatchUp,
    ToEpoch,
    ToPrimary,
    ToRecovering,
    ToStateTransfer,
    ToStopped,
    ToViewChange,
    Transition,
)
from .states.catch_up import CatchUp
from .states.leaving import Leaving, Stopped
from .states.primary import Primary
from .states.recovering import Recovering
from .states.state_transfer import StateTransfer
from .states.view_change import ViewChange
from .violation import ProtocolViolation, check

if TYPE_CHECKING:
    from random import Random

TICK_JITTER: Final = 0.1
"""Heartbeats are so much shorter or longer at random, lest all groups of a node wake at the same moment."""

BETWEEN_REPLICAS: Final = frozenset(
    {
        Prepare,
        PrepareOK,
        Commit,
        ConfirmView,
        ViewConfirmed,
        StartViewChange,
        DoViewChange,
        StartView,
        GetState,
        NewState,
        ImagePart,
        Recovery,
        RecoveryResponse,
        Forgotten,
        Checkpoint,
        Rest,
    }
)
"""Messages that count only from members of the group, in its epoch, and not from incarnations that are over."""


LETS_REST: Final = frozenset({Rest, Persisted, Snapshotted, StaleRead, GetReplicaState, GetMetrics})
"""Messages that don't wake a replica that rests."""


class Replica(Process):
    """A member of a group that replicates a state machine by Viewstamped Replication.

    `configuration`: the group as far as it is known; a replica that is not among its members is about to become one, and
    follows it. `state_machine`: see `haret.vr.StateMachine`. `random`: the source of jitter. `fresh`: whether this is the
    first start of this replica ever, so that an empty memory is the truth. If it is not, and the journal has nothing, the
    replica recovers from the others. `durable`: whether the log is written into the journal, too, and not only what the
    replica promised; the same for all replicas of a group. `incarnation`: a number greater than that of any earlier start.
    `observer`: who is told, by `ViewChanged`, whenever the replica becomes normal in a view, and by `Retired` and `Halted`.

    It persists, so where it runs there must be a journal. `restore` raises `ValueError` for records that are none of
    its own; `handle` raises `ProtocolViolation` if a rule of the protocol turns out not to hold.
    """

    def __init__(
        self,
        configuration: Configuration,
        state_machine: StateMachine,
        random: Random,
        settings: Settings | None = None,
        *,
        fresh: bool = True,
        durable: bool = True,
        incarnation: int = 1,
        observer: Pid | None = None,
    ) -> None:
        settings = settings or Settings()
        self.context = Context(configuration, state_machine, random, settings, observer, durable, incarnation)
        self._digests = Digests(self.context)
        self._resting = False  # no timer runs
        self._memory: Memory | None = None
        # Whether it is known what this replica promised, or that it promised nothing.
        self._sure = fresh
        self._state: State = Recovering(self.context)

    def restore(self, snapshot: bytes | None, records: Sequence[bytes]) -> None:
        """Take up what the journal has; see `haret.vr.records`."""
        try:
            self._memory = replay(self.context, read_records(snapshot, records))
        except (DecodeError, ProtocolViolation) as error:
            raise ValueError(f"the journal of this replica can't be read: {error}") from error

    def damaged(self, reason: str) -> None:
        """The journal has lost something, so this replica knows nothing for sure: it recovers from the others."""
        self._sure = False

    def init(self, pid: Pid, output: Outbox) -> None:
        """Take part from where the journal ends, or find out from the others what there is to know."""
        ctx, memory = self.context, self._memory
        ctx.start(pid)
        if memory is not None:
            self._sure = True
            ctx.incarnation = max(ctx.incarnation, memory.incarnation + 1)
        stopped = None if memory is None else memory.stopped
        forgot = not self._sure if memory is None else not memory.complete
        if forgot and stopped is None:
            # First of all: a journal that says nothing but who began would be taken for that of a new replica.
            ctx.lose(output)
        if memory is None:
            # The journal says by itself which epoch its log belongs to. By the next start, whoever makes this replica may
            # know of a later one, which begins with entries that this replica does not have.
            ctx.persist(Configured(ctx.epoch, ctx.configuration.replicas, 0), output)
        ctx.begin(output)
        self._start_timer(output)
        if stopped is not None:
            self._become(Stopped(ctx, stopped), output)
        elif not ctx.member:
            self._become(CatchUp(ctx, ctx.configuration.replicas), output)
        elif forgot:
            self._become(Recovering(ctx), output)
        elif memory is None:
            self._become(Primary(ctx, 0, 0) if ctx.is_primary(0) else Backup(ctx, 0), output)
        else:
            self._become(self._resume(), output)
        ctx.maybe_snapshot(output)

    def _resume(self) -> State:
        """Where a replica goes on that has its log."""
        ctx = self.context
        if ctx.view > ctx.last_normal_view:
            return ViewChange(ctx, ctx.view, None, None)
        if ctx.is_primary(ctx.view):
            # What it prepared last may not be in its journal, so it must not prepare anything else in this view.
            return ViewChange(ctx, ctx.view + 1, None, None)
        return Backup(ctx, ctx.commit)

    @property
    def status(self) -> str:
        """ "normal", "view-change", "state-transfer", "recovering", "learning", "leaving" or "stopped"."""
        return self._state.status

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Handle one message; see the top of this file."""
        kind = type(message)
        if self._resting and kind not in LETS_REST:
            self._wake(output)
        if kind in BETWEEN_REPLICAS and not self._counts(message, sender, output):
            return
        handler = self._state.handlers.get(kind)
        if handler is None:
            self._handle_other(message, sender, correlation_id, output)
        else:
            transition = handler(message, sender, correlation_id, output)
            if transition is not None:
                self._follow(transition, output)
        self.context.maybe_snapshot(output)

    def _wake(self, output: Outbox) -> None:
        self._resting = False
        self._state.wake()
        self._start_timer(output)

    def _counts(self, message: Any, sender: Pid, output: Outbox) -> bool:
        """Whether a message between replicas is from a member of this epoch, in the incarnation that is known."""
        ctx = self.context
        if message.epoch != ctx.epoch and not self._other_epoch(message, sender, output):
            return False
        known = ctx.known.get(sender)
        if message.incarnation == known:
            return True if sender in ctx.members else self._from_outside(message)
        if known is not None and message.incarnation < known:
            ctx.count("dropped_other_incarnation")
            return False
        if sender not in ctx.members:
            return self._from_outside(message)
        ctx.known[sender] = message.incarnation
        ctx.began(output)
        return True

    def _other_epoch(self, message: Any, sender: Pid, output: Outbox) -> bool:
        """Somebody is in another epoch (section 7.2). Whether its message counts all the same.

        Nobody is to follow one that has lost its log: it can show nobody the way, and who follows does not vote meanwhile
        in his own epoch, whose end may not be known to anybody else.
        """
        ctx = self.context
        if self._from_outside(message):
            return True
        ctx.count("dropped_other_epoch")
        if message.epoch < ctx.epoch:
            if ctx.knows_beginning:
                output.send(sender, NewEpoch(ctx.epoch, ctx.configuration.replicas))
        elif type(message) is not Recovery and not isinstance(self._state, CatchUp | Stopped):
            self._follow(ToCatchUp((sender,)), output)
        return False

    def _from_outside(self, message: Any) -> bool:
        """What is committed may be asked by anybody, and told to one that catches up by anybody."""
        if type(message) is GetState and message.view == ANY_VIEW:
            return True
        if isinstance(self._state, CatchUp) and type(message) in {NewState, ImagePart}:
            return True
        self.context.count("dropped_other_sender")
        return False

    def _handle_other(self, message: Any, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        ctx = self.context
        transition: Transition | None = None
        match message:
            case Timeout() if cid == ctx.tick_timer:
                ctx.tick()
                reason = self._digests.tick(output)
                transition = self._state.tick(output) if reason is None else ToStopped(reason)
                if transition is None and self._state.may_rest():
                    self._resting = True
                else:
                    self._start_timer(output)
            case Timeout() if cid == ctx.gather_timer:
                self._state.gathered(output)
            case Timeout() if cid == ctx.commit_timer:
                transition = self._state.go_on(output)
            case Wake():
                pass
            case Persisted(count=count):
                ctx.on_persisted(count)
                transition = self._state.on_persisted(output)
            case Snapshotted(size=size):
                ctx.on_snapshotted(size)
            case Checkpoint():
                reason = self._digests.heard(message, sender)
                transition = None if reason is None or self.status == "stopped" else ToStopped(reason)
            case NewEpoch(epoch=epoch, replicas=replicas):
                transition = self._on_new_epoch(epoch, replicas, sender, output)
            case GetReplicaState():
                output.send(sender, self.replica_state(), cid, held=False)
            case GetMetrics():
                output.send(sender, self.metrics(), cid, held=False)
            case _:
                ctx.count("dropped_unexpected")
        if transition is not None:
            self._follow(transition, output)

    def _on_new_epoch(self, epoch: int, replicas: tuple[Pid, ...], sender: Pid, output: Outbox) -> Transition | None:
        ctx = self.context
        if epoch > ctx.epoch and not isinstance(self._state, CatchUp | Stopped):
            return ToCatchUp((sender, *replicas))
        if epoch == ctx.epoch and self.status == "normal" and sender not in ctx.members:
            output.send(sender, EpochStarted(epoch))
        return None

    def _start_timer(self, output: Outbox) -> None:
        ctx = self.context
        jitter = ctx.random.uniform(1 - TICK_JITTER, 1 + TICK_JITTER)
        output.start_timer(ctx.settings.heartbeat * jitter, ctx.tick_timer)

    def _follow(self, transition: Transition, output: Outbox) -> None:
        self._state.leave(output)
        self._become(self._make(transition, output), output)

    def _become(self, state: State, output: Outbox) -> None:
        self._state = state
        self._check()
        transition = state.enter(output)
        if transition is not None:
            self._follow(transition, output)

    def _make(self, transition: Transition, output: Outbox) -> State:
        ctx = self.context
        match transition:
            case ToBackup():
                self._sure = True
                return Backup(ctx, *transition)
            case ToPrimary():
                return Primary(ctx, *transition)
            case ToStateTransfer():
                return StateTransfer(ctx, *transition)
            case ToRecovering():
                ctx.lose(output)
                return Recovering(ctx)
            case ToCatchUp():
                return CatchUp(ctx, *transition)
            case ToEpoch():
                return self._new_epoch(output)
            case ToStopped():
                ctx.stop(transition.reason, output)
                return Stopped(ctx, *transition)
            case ToViewChange():
                self._sure = True
                return ViewChange(ctx, *transition)

    def _new_epoch(self, output: Outbox) -> State:
        """Take part in the epoch whose first op was just passed."""
        ctx = self.context
        if not ctx.member:
            return Leaving(ctx)
        if not self._sure:
            # It may have been a member before, and have promised what it does not know.
            ctx.lose(output)
            return Recovering(ctx)
        for pid in ctx.previous:
            if pid not in ctx.configuration.replicas:
                output.send(pid, EpochStarted(ctx.epoch))
        if not ctx.is_primary(0):
            return Backup(ctx, ctx.commit)
        if ctx.log.op > ctx.epoch_start:
            return ViewChange(ctx, 1, None, None)  # the others have gone on without it
        return Primary(ctx, 0, ctx.commit)

    def _check(self) -> None:
        ctx = self.context
        check(ctx.log.start <= ctx.commit <= ctx.log.op, "log_start <= commit <= op")
        check(ctx.last_normal_view <= ctx.view, "last_normal_view <= view")
        if self.status == "normal":
            check(ctx.last_normal_view == ctx.view, "a normal replica has the log of its view")
            check(isinstance(self._state, Primary) == ctx.is_primary(ctx.view), "each view has one primary")

    def replica_state(self) -> ReplicaState:
        """What `GetReplicaState` is answered with."""
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
            digest=ctx.machine.image().digest(SHOWN) or b"",
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
