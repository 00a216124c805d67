"""A replica that has lost its log (section 4.3), and how it takes part again without breaking what it promised.

It may have acknowledged entries, and promised to take part in no older view. The log it gets from the others; what it
promised, its journal tells in most cases (the *fence*: the latest view that it entered), and if even that is gone, the
others do. Rules:

1. It answers nothing of the protocol, and wishes for nothing. It asks all others, with a new nonce for each attempt,
   until f + 1 of them have answered one attempt: enough to share a member with any quorum that it could have been part of.
   Each of them has then noted its new incarnation, durably, and tells so in its votes: so a vote or an acknowledgement
   that this replica sent before it lost its memory, and that is still on its way, counts no more (defect D2).
2. The log is that of the latest view L among the answers, and one of them must be from the primary of L: everything that
   was acknowledged in L by this replica is in that log. If no such answer comes, because the view was changed meanwhile,
   the next attempt will bring it (defect D4).
3. With the fence V: if L is V or later, it becomes a backup in L. If L is before V, it takes the log, but it has promised
   not to take part in L: it goes on with the view change to V. If L is before the view whose log it had, the answers are
   too old: the next attempt.

| message            | what it does                                                                     |
|--------------------|----------------------------------------------------------------------------------|
| RecoveryResponse   | rules 1 and 2                                                                    |
| NewState, ImagePart | a piece of the log, if it answers the outstanding question                      |
| of a client        | answered with `NotPrimary`, naming nobody; nothing is read here                  |
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import Behind, ImagePart, NewState, Recovery, RecoveryResponse, StaleRead
from ..transfer import Collection
from .base import State, ToBackup, ToViewChange, Transition

BACK_OFF = 8
"""How much longer the attempts of a replica whose peers don't answer become: a node may have many of them."""


class Recovering(State):
    """Status recovering."""

    status: ClassVar[str] = "recovering"

    __slots__ = ("_age", "_answers", "_attempts", "_collection", "_nonce", "_patience", "_silence")

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._nonce = 0
        self._attempts = 0
        self._answers: dict[Pid, RecoveryResponse] = {}
        self._collection: Collection | None = None
        self._age = 0
        self._silence = 0
        self._patience = ctx.patience()
        self.handlers |= {
            RecoveryResponse: self.on_response,
            NewState: self.on_new_state,
            ImagePart: self.on_new_state,
            StaleRead: self.on_stale_read,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self._attempt(output)
        return None

    def _attempt(self, output: Outbox) -> None:
        self._nonce = self.ctx.next_question()
        self._answers.clear()
        self._collection = None
        self._silence = 0
        self._attempts = min(self._attempts + 1, BACK_OFF)
        self._patience = self.ctx.patience() * self._attempts
        self._ask(output)

    def _ask(self, output: Outbox) -> None:
        ctx = self.ctx
        # The new incarnation is durable before anybody hears of it, lest the next one be the same.
        ctx.promise_all(Recovery(ctx.epoch, self._nonce, ctx.incarnation), output)
        self._age = 0

    def tick(self, output: Outbox) -> Transition | None:
        settings = self.ctx.settings
        self._age += 1
        self._silence += 1
        if self._collection is not None:
            self._collection.tick(output)
        if self._silence >= self._patience:
            self.ctx.count("recovery_attempts")
            self._attempt(output)
        elif self._collection is None and self._age >= settings.ticks(settings.resend) * self._attempts:
            self._ask(output)
        return None

    def on_response(
        self, message: RecoveryResponse, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Rules 1 and 2."""
        ctx = self.ctx
        if message.nonce != self._nonce or self._collection is not None:
            ctx.count("dropped_recovery_response")
            return None
        self._attempts = 1  # somebody is there
        ctx.learn_incarnations(message.known, output)
        self._answers[sender] = message
        answers = {pid: answer for pid, answer in self._answers.items() if answer.incarnation >= ctx.known.get(pid, 0)}
        needed = len(ctx.configuration.replicas) - ctx.quorum + 1
        if len(answers) < needed:
            return None
        view = max(answer.view for answer in answers.values())
        primary = ctx.configuration.primary(view)
        latest = answers.get(primary)
        if latest is None or latest.view != view or latest.op < 0 or view < ctx.last_normal_view:
            return None
        self._silence = 0
        others = tuple(peer for peer in ctx.peers if peer != primary)
        self._collection = Collection(ctx, view, view, 0, latest.op, (primary, *others), output)
        return self._finish(output)

    def on_new_state(
        self, message: NewState | ImagePart, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A piece of the log."""
        if self._collection is not None and self._collection.accept(message, output):
            self._silence = 0
        return self._finish(output)

    def _finish(self, output: Outbox) -> Transition | None:
        """Rule 3."""
        collection = self._collection
        if collection is None or not collection.complete:
            return None
        ctx = self.ctx
        fence = ctx.view
        if not collection.install(collection.view, output):
            self._attempt(output)
            return None
        ctx.count("recovered")
        return ToViewChange(fence) if fence > collection.view else ToBackup(collection.commit)

    def on_stale_read(
        self, message: StaleRead, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """There is nothing to read."""
        self.ctx.send(sender, Behind(0), output, cid)
        return None
