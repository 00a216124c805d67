"""A view change under way (section 4.2).

Rules:

1. Entering it is a promise: this replica acknowledges nothing of an older view any more (section 8.1), its log stands
   still, and its vote describes that log.
2. The new primary begins the view when it has votes for exactly this view from a quorum, itself included, and the best
   log among them: the one of the newest `last_normal_view`, and of those the longest. If that is not its own, it fetches
   it from the voter, whose log stands still. The commit number is the highest among the votes.
3. The vote and the fact of having entered are sent again and again. After too long a wait the replica wishes for the next
   view, and still accepts the outcome of this one.
4. What is too long is a silence, as in normal operation. But there is no silence as long as the new primary is heard, nor
   where its votes arrive; though not for ever, as somebody may be heard and get nothing done. A node that leads hundreds of
   groups leaves hundreds of view changes to the others when it dies. If each gave up while it waits for the others, they
   would all go on to the next view, again and again.

| message          | what it does                                                                          |
|------------------|---------------------------------------------------------------------------------------|
| DoViewChange     | this view: a vote, if this replica is its primary; a later view: join that            |
| StartView, Prepare, Commit | this view or a later one has begun: state transfer; older: dropped          |
| GetState         | answered for the primary of this view, about the log that this replica voted with     |
| NewState, ImagePart | a piece of the chosen log, if it answers the outstanding question                  |
| StartViewChange  | counted as a wish; of one who has entered a later view: follow; of the new primary: rule 4 |
| of a client      | answered with `NotPrimary`, naming nobody                                             |
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import (
    ANY_VIEW,
    Commit,
    DoViewChange,
    GetState,
    ImagePart,
    NewState,
    Prepare,
    StartView,
    StartViewChange,
)
from ..quorum import Votes
from ..transfer import Collection, answer
from ..violation import check
from .base import ToPrimary, Transition
from .waiting import Waiting

HOPE = 8
"""So many times its patience a replica waits for a new primary that is heard: two to three seconds by default, in which
much can be done."""


class ViewChange(Waiting):
    """Status view-change."""

    status: ClassVar[str] = "view-change"

    __slots__ = ("_age", "_chosen", "_leader", "_view", "_votes")

    def __init__(self, ctx: Context, view: int, sender: Pid | None, vote: DoViewChange | None) -> None:
        super().__init__(ctx)
        self._view = view
        self._leader = ctx.configuration.primary(view)
        self._age = 0
        self._votes = Votes()
        self._chosen: Collection | None = None
        if sender is not None and vote is not None:
            self._votes.add(sender, vote)
        self.handlers |= {
            DoViewChange: self.on_do_view_change,
            Prepare: self.on_begun,
            Commit: self.on_begun,
            StartView: self.on_begun,
            GetState: self.on_get_state,
            NewState: self.on_new_state,
            ImagePart: self.on_new_state,
        }

    def enter(self, output: Outbox) -> Transition | None:
        if self._view > self.ctx.view:
            self.ctx.enter_view_change(self._view, output)
        # Else it was entered before, and the replica was restarted meanwhile: its log is that of its vote.
        self.send_wish(output)
        if self._leader != self.ctx.pid:
            output.send(self._leader, self._vote())
            return None
        self._votes.add(self.ctx.pid, self._vote())
        return self._choose(output)

    def tick(self, output: Outbox) -> Transition | None:
        settings = self.ctx.settings
        self._age += 1
        if self._age % settings.ticks(settings.resend) == 0:
            self.send_wish(output)
            if self._leader != self.ctx.pid:
                output.send(self._leader, self._vote())
        if self._chosen is not None:
            self._chosen.tick(output)
        return self.wait(output)

    def _vote(self) -> DoViewChange:
        ctx = self.ctx
        return DoViewChange(
            ctx.epoch,
            ctx.view,
            ctx.last_normal_view,
            ctx.log.op,
            ctx.commit,
            ctx.incarnation,
            ctx.known_incarnations(),
        )

    def on_do_view_change(
        self, message: DoViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Section 4.2, step 3."""
        if message.view != self.ctx.view:
            return self.on_later_vote(message, sender, cid, output)
        if self._leader == self.ctx.pid:
            self.ctx.learn_incarnations(message.known, output)
            count = len(self._votes)
            self._votes.add(sender, message)
            if len(self._votes) > count or count >= self.ctx.quorum:
                self._hope()
            return self._choose(output)
        return None

    def on_start_view_change(
        self, message: StartViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """The new primary says again and again that it has entered this view, unless it has given up (rule 4)."""
        if sender == self._leader and message.view == message.entered == self.ctx.view:
            self._hope()
        return super().on_start_view_change(message, sender, cid, output)

    def _hope(self) -> None:
        if self._age < HOPE * self.patience and self.ctx.stalled < self.patience:
            self.heard()

    def _choose(self, output: Outbox) -> Transition | None:
        ctx, votes = self.ctx, self._votes
        # A vote of an incarnation that has lost its memory since is worth nothing (defect D2), whoever knows of it.
        votes.drop_older(ctx.known)
        # One's own vote counts when the promise is durable.
        if self._chosen is not None or not ctx.settled or len(votes) < ctx.quorum:
            return None
        owner, best = votes.best(ctx.pid)
        check(best.op >= votes.commit(), "the best log among a quorum holds everything that is committed")
        # Logs of the same view are prefixes of one another, so of a longer one only the rest is needed. (One's own log,
        # if it is the best, is complete already, and nothing is asked.)
        same = best.last_normal_view == ctx.last_normal_view
        after = ctx.log.op if same else ctx.commit
        self._chosen = Collection(ctx, ctx.view, best.last_normal_view, after, best.op, (owner,), output)
        return self._begin(output)

    def on_persisted(self, output: Outbox) -> Transition | None:
        """One's own vote is durable."""
        return self._choose(output) if self._leader == self.ctx.pid else None

    def on_new_state(
        self, message: NewState | ImagePart, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A piece of the best log."""
        if self._chosen is not None and self._chosen.accept(message, output):
            self.silence = 0
            return self._begin(output)
        return None

    def _begin(self, output: Outbox) -> Transition | None:
        chosen = self._chosen
        if chosen is None or not chosen.complete:
            return None
        if not chosen.install(chosen.view, output):
            self._chosen = None
            return self._choose(output)
        return ToPrimary(chosen.log_view, self._votes.commit())

    def on_begun(
        self, message: Prepare | Commit | StartView, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Section 4.2, step 5. The view may have begun with another log, so the own one is not just extended (D13)."""
        if message.view == self.ctx.view and sender == self._leader:
            return self.fetch_view(message, sender)
        return self.on_later_view(message, sender, cid, output)

    def on_get_state(self, message: GetState, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """The new primary chose this replica's log."""
        ctx = self.ctx
        voted = message.view == ctx.view and message.log_view == ctx.last_normal_view and sender == self._leader
        if voted or message.view == ANY_VIEW:
            answer(ctx, message, sender, output)
        else:
            ctx.count("dropped_get_state_other_view")
