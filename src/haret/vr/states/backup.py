"""A backup in normal operation (section 4.1).

Rules:

1. Entries are appended strictly in the order of their ops. A `Prepare` that leaves a gap is not appended: the backup
   asks for what it lacks, without leaving normal operation, for the log of its view only ever grows (section 5.2).
2. Everything the log holds is acknowledged, cumulatively. A `Prepare` that is known already is acknowledged again, and
   its commit number still counts; so the loss of any one message is made good by the next one.
3. Only the primary of this view is obeyed. Committed entries are executed in order, without replying.
4. An acknowledgement leaves when what it acknowledges is durable. If the disk is slower than the primary, a backup takes
   no more; the others go on without it, and it catches up later.
5. A backup that was restarted, and whose primary remembers more acknowledgements than it has entries, has lost some of
   its disk without noticing. It gives up its memory, and recovers.
6. What a `Prepare` says is committed is executed when the acknowledgement of its entries has left: others wait for that,
   and nobody for the execution. When the next `Prepare` comes first, it is late, and executed at once.

| message          | what it does                                                                         |
|------------------|--------------------------------------------------------------------------------------|
| Prepare, Commit, StartView | this view: rules 1 to 3; a later one: state transfer; an older one: dropped |
| NewState         | fills the gap, if it answers the outstanding question                                |
| ImagePart        | the gap is too old: state transfer, for an image                                     |
| ConfirmView      | confirmed                                                                            |
| Forgotten        | rule 5                                                                               |
| Rest             | silence is no bad sign any more, until somebody speaks                               |
| Recovery         | answered; of the primary: wish for another view                                      |
| GetState         | answered, if it is about this view                                                   |
| StartViewChange  | counted as a wish; of one who has entered a later view: follow                       |
| DoViewChange     | of a later view: join it                                                             |
| of a client      | answered with `NotPrimary`, naming the primary                                       |
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import (
    Commit,
    ConfirmView,
    DoViewChange,
    Entry,
    Forgotten,
    GetState,
    ImagePart,
    NewState,
    Prepare,
    PrepareOK,
    Recovery,
    Rest,
    StartView,
    ViewConfirmed,
)
from ..transfer import Question
from .base import ToEpoch, ToRecovering, ToStateTransfer, Transition
from .waiting import Normal


class Backup(Normal):
    """Status normal, and not primary of the view."""

    status: ClassVar[str] = "normal"

    __slots__ = ("_commit", "_gap", "_leader", "_resting")

    def __init__(self, ctx: Context, commit: int) -> None:
        super().__init__(ctx)
        self._leader = ctx.configuration.primary(ctx.view)
        self._gap: Question | None = None
        self._commit = commit  # up to which op may be executed
        self._resting = False
        self.handlers |= {
            Prepare: self.on_prepare,
            Commit: self.on_commit,
            StartView: self.on_start_view,
            NewState: self.on_new_state,
            ImagePart: self.on_image_part,
            GetState: self.on_get_state,
            DoViewChange: self.on_later_vote,
            ConfirmView: self.on_confirm_view,
            Forgotten: self.on_forgotten,
            Recovery: self.on_recovery,
            Rest: self.on_rest,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self.ctx.announce(output)
        self._acknowledge(output)
        return self._execute(output)

    def _execute(self, output: Outbox) -> Transition | None:
        """Execute what may be executed."""
        ctx = self.ctx
        if self._commit <= ctx.commit:
            return None
        epoch = ctx.epoch
        ctx.execute_to(self._commit, output)
        return ToEpoch() if ctx.epoch != epoch else None

    def _execute_to(self, commit: int, output: Outbox) -> Transition | None:
        self._commit = max(self._commit, commit)
        return self._execute(output)

    def on_persisted(self, output: Outbox) -> Transition | None:
        """Rule 6: the acknowledgement has left."""
        return self._execute(output)

    def tick(self, output: Outbox) -> Transition | None:
        if self.silence == 0:
            # All is well here, so the wishes of others that were heard so far are not shared. Whoever still has one
            # repeats it; kept, it would make a later moment of silence a view change.
            self.ctx.wishes.clear()
        if self._gap is not None:
            self._gap.tick(output)
        return self.wait(output)

    def primary(self) -> Pid | None:
        return self._leader

    def _obeys(self, view: int, sender: Pid) -> bool:
        if view == self.ctx.view and sender == self._leader:
            self.silence = 0
            if self.ctx.wishes.mine:
                self.heard()
            return True
        return False

    def _acknowledge(self, output: Outbox) -> None:
        ctx = self.ctx
        output.send(self._leader, PrepareOK(ctx.epoch, ctx.view, ctx.log.op, ctx.incarnation))

    def on_prepare(self, message: Prepare, sender: Pid, cid: CorrelationId | None, output: Outbox) -> Transition | None:
        """Section 4.1, steps 4 and 7."""
        if not self._obeys(message.view, sender):
            return self.on_later_view(message, sender, cid, output)
        ctx, first = self.ctx, message.first
        if ctx.unsynced > ctx.settings.max_unsynced:
            ctx.count("dropped_disk_slow")
        elif first <= ctx.log.op + 1:
            late = self._execute(output)
            if late is not None:
                return late
            self._append_new(first, message.entries, output)
            self._acknowledge(output)
            if ctx.unsynced:
                self._commit = max(self._commit, message.commit)
                return None
        else:
            self._ask(output)
        return self._execute_to(message.commit, output)

    def on_commit(self, message: Commit, sender: Pid, cid: CorrelationId | None, output: Outbox) -> Transition | None:
        """The primary lives. What it has and this replica has not was lost on the way."""
        if not self._obeys(message.view, sender):
            return self.on_later_view(message, sender, cid, output)
        if message.op > self.ctx.log.op:
            self._ask(output)
        if message.op > message.commit:
            self._acknowledge(output)
        return self._execute_to(message.commit, output)

    def on_start_view(
        self, message: StartView, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """The primary has not heard from this replica in this view."""
        if not self._obeys(message.view, sender):
            return self.on_later_view(message, sender, cid, output)
        self._acknowledge(output)
        return None

    def on_rest(self, message: Rest, sender: Pid, cid: CorrelationId | None, output: Outbox) -> Transition | None:
        """The primary falls silent, and this replica with it, if it has everything, too."""
        ctx = self.ctx
        if not self._obeys(message.view, sender):
            ctx.count("dropped_older_view")
            return None
        if message.op > ctx.log.op:
            self._ask(output)
            return None
        transition = self._execute_to(message.op, output)
        self._resting = ctx.unsynced == 0 and ctx.undigested is None and self._gap is None
        return transition

    def may_rest(self) -> bool:
        return self._resting

    def wake(self) -> None:
        """Somebody else than the primary spoke, or it spoke of something else."""
        self._resting = False

    # --- Filling a gap ---

    def _append_new(self, first: int, entries: tuple[Entry, ...], output: Outbox) -> None:
        known = self.ctx.log.op + 1 - first
        if known < len(entries):
            self.ctx.append(entries[known:] if known else entries, output)

    def _ask(self, output: Outbox) -> None:
        ctx = self.ctx
        if self._gap is None:
            ctx.count("gaps")
            others = tuple(peer for peer in ctx.peers if peer != self._leader)
            self._gap = Question(ctx, ctx.view, ctx.view, ctx.log.op, (self._leader, *others), output)

    def on_new_state(
        self, message: NewState, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Section 5.2, the same view. What arrived meanwhile otherwise is skipped; it is the same."""
        ctx, gap = self.ctx, self._gap
        if gap is None or not gap.answered_by(message):
            ctx.count("dropped_stale_new_state")
            return None
        self._append_new(message.first, message.entries, output)
        self._acknowledge(output)
        if message.op > ctx.log.op:
            gap.ask(ctx.view, ctx.view, ctx.log.op, output)
        else:
            self._gap = None
        return self._execute_to(message.commit, output)

    def on_image_part(
        self, message: ImagePart, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """The entries that are missing were cut off everywhere."""
        ctx, gap = self.ctx, self._gap
        if gap is None or not gap.answered_by(message) or message.image <= ctx.log.op:
            ctx.count("dropped_image_part")
            return None
        return ToStateTransfer(ctx.view, sender, ctx.log.op, None)

    # --- Confirming, recovering ---

    def on_confirm_view(self, message: ConfirmView, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """The primary wants to answer reads. That alone is no reason to be content: one that can't commit wants so, too."""
        ctx = self.ctx
        if message.view == ctx.view and sender == self._leader:
            ctx.send(sender, ViewConfirmed(ctx.epoch, ctx.view, message.round, ctx.incarnation), output)
        else:
            ctx.count("dropped_older_view")

    def on_forgotten(
        self, message: Forgotten, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Rule 5."""
        ctx = self.ctx
        if message.view == ctx.view and sender == self._leader and message.op > ctx.log.op:
            return ToRecovering()
        ctx.count("dropped_forgotten")
        return None

    def on_recovery(
        self, message: Recovery, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Section 4.3. If it is the primary that has lost its memory, there is no use in waiting for it."""
        self.respond(message, sender, output)
        if sender == self._leader:
            self.silence = max(self.silence, self.patience - 1)
            return self.wait(output)
        return None
