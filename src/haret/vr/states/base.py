"""What all states share: how a state handles a message, and how it names its successor.

    view 0 begins                               -->                   Primary or Backup
    restarted, with its log                     -->                   Backup, or ViewChange
    restarted, without                          -->                   Recovering
    new in the group                            -->                   CatchUp

    Primary, Backup, StateTransfer, ViewChange  --ToViewChange-->     ViewChange
    Primary, Backup, StateTransfer, ViewChange  --ToStateTransfer-->  StateTransfer
    StateTransfer                               --ToBackup-->         Backup
    ViewChange                                  --ToPrimary-->        Primary
    Recovering                                  --ToBackup-->         Backup
    Recovering                                  --ToViewChange-->     ViewChange
    Backup                                      --ToRecovering-->     Recovering
    any                                         --ToCatchUp-->        CatchUp        a later epoch was heard of
    any                                         --ToEpoch-->          Primary, Backup or Leaving
    any                                         --ToStopped-->        Stopped

A handler returns the transition to make, or None to stay. Transitions are data, so that no state needs to import
another. A message that a state has no handler for is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import (
    ANY_VIEW,
    Behind,
    CloseSession,
    Commit,
    DoViewChange,
    GetState,
    NotPrimary,
    OpenSession,
    Prepare,
    Read,
    ReadReply,
    Reconfigure,
    Request,
    StaleRead,
    StartView,
)
from ..transfer import answer


class ToViewChange(NamedTuple):
    """Enter the view change to `view`."""

    view: int
    sender: Pid | None = None
    """Whose vote for that view arrived already."""
    vote: DoViewChange | None = None
    """The vote."""


class ToStateTransfer(NamedTuple):
    """Fetch the log of `view`, which has begun."""

    view: int
    responder: Pid
    """Whom to ask first."""
    after: int
    """The own log is good up to here."""
    target: int | None
    """The op at which the log is complete, if it is known."""


class ToBackup(NamedTuple):
    """Follow the primary of the view whose log was just installed."""

    commit: int
    """The highest commit number heard."""


class ToPrimary(NamedTuple):
    """Begin the view whose log was just installed."""

    log_view: int
    """Whose log was chosen."""
    commit: int
    """The highest commit number among the votes."""


class ToRecovering(NamedTuple):
    """The log has turned out to be incomplete."""


class ToCatchUp(NamedTuple):
    """There is a later epoch: fetch what led to it."""

    responders: tuple[Pid, ...]
    """Whom to ask."""


class ToEpoch(NamedTuple):
    """The last entry of the epoch was executed: take part in the next one, or leave."""


class ToStopped(NamedTuple):
    """Stand still."""

    reason: str
    """Why."""


Transition = ToViewChange | ToStateTransfer | ToBackup | ToPrimary | ToRecovering | ToCatchUp | ToEpoch | ToStopped
Handler = Callable[[Any, Pid, CorrelationId | None, Outbox], Transition | None]


class State:
    """A state of a replica. Subclasses add their handlers to `handlers` when they are made."""

    status: ClassVar[str]
    """As `ReplicaState` shows it."""

    __slots__ = ("ctx", "handlers")

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.handlers: dict[type, Handler] = {
            OpenSession: self.on_client,
            CloseSession: self.on_client,
            Request: self.on_client,
            Read: self.on_client,
            Reconfigure: self.on_client,
            StaleRead: self.on_stale_read,
        }

    def enter(self, output: Outbox) -> Transition | None:
        """Called once, before the first message."""
        return None

    def leave(self, output: Outbox) -> None:
        """Called once, after the last message."""

    def tick(self, output: Outbox) -> Transition | None:
        """Called every heartbeat."""
        return None

    def on_persisted(self, output: Outbox) -> Transition | None:
        """More of the journal is durable."""
        return None

    def gathered(self, output: Outbox) -> None:
        """`Context.gather_timer` fired: all that was in the mailbox when it was started has been handled."""

    def go_on(self, output: Outbox) -> Transition | None:
        """`Context.commit_timer` fired: others had their turn."""
        return None

    def wake(self) -> None:
        """Somebody spoke to this replica."""

    def may_rest(self) -> bool:
        """Whether this replica needs no time to pass until somebody speaks to it."""
        return False

    def primary(self) -> Pid | None:
        """Whom to send clients to, if it is known."""
        return None

    def on_client(self, message: Any, sender: Pid, cid: CorrelationId | None, output: Outbox) -> Transition | None:
        """A client's message reached a replica that is not primary: tell it who is."""
        self.ctx.send(sender, NotPrimary(self.ctx.epoch, self.ctx.view, self.primary()), output, cid)
        return None

    def on_stale_read(
        self, message: StaleRead, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A client wants to know something, and takes the answer of any replica that is not too old (section 6.3.2)."""
        ctx = self.ctx
        if ctx.commit < message.least:
            ctx.send(sender, Behind(ctx.commit), output, cid)
        else:
            result = ctx.machine.read(message.operation)
            ctx.send(sender, ReadReply(ctx.commit, ctx.epoch, ctx.view, result), output, cid)
        return None

    def on_get_state(self, message: GetState, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """A normal replica answers questions about the log of its view (section 5.2), and about committed entries."""
        if message.view == ANY_VIEW or message.view == message.log_view == self.ctx.view:
            answer(self.ctx, message, sender, output)
        else:
            self.ctx.count("dropped_get_state_other_view")

    def on_later_vote(
        self, message: DoViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Somebody votes for a later view, so a quorum wished for it: join (section 4.2)."""
        if message.view > self.ctx.view:
            return ToViewChange(message.view, sender, message)
        return None

    def on_later_view(
        self, message: Prepare | Commit | StartView, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """The primary of a later view speaks: that view has begun without this replica, so fetch its log (5.2).

        The paper cuts the own log to the commit number and takes the view's number at once. That loses acknowledged
        entries (defect D1), so here the replica changes nothing until it has the whole log of the view.
        """
        ctx = self.ctx
        if message.view <= ctx.view:
            ctx.count("dropped_older_view")
            return None
        if sender != ctx.configuration.primary(message.view):
            ctx.count("dropped_not_from_primary")
            return None
        return self.fetch_view(message, sender)

    def fetch_view(self, message: Prepare | Commit | StartView, sender: Pid) -> ToStateTransfer:
        """How much of the own log is good for a view that has begun, and how much there is to get."""
        ctx = self.ctx
        if isinstance(message, StartView) and message.log_view == ctx.last_normal_view:
            # The own log and the one that the view began with are of the same view, so the shorter one is a prefix of
            # the longer one: only what is missing needs fetching, most often nothing.
            # (Who caught up from outside may hold committed entries of later views; they belong to this one, too.)
            after = max(ctx.commit, min(ctx.log.op, message.start))
            return ToStateTransfer(message.view, sender, after, max(after, message.start))
        return ToStateTransfer(message.view, sender, ctx.commit, None)
