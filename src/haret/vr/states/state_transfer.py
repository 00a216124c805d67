"""Catching up with a view that has begun without this replica (section 5.2, with the corrected rules).

Rules:

1. Nothing that the replica holds changes until the whole log of the new view is here: not the log, not the view, not
   `last_normal_view`. The paper cuts the log and takes the view's number first, and so loses entries that this replica
   acknowledged, and that another view change then counts on (defect D1).
2. Until then it answers nobody and acknowledges nothing. But it takes part in later view changes, with its *old* log;
   else a group of which one replica is down could wait for it for ever (defect D17).
3. Entries are taken from any replica that is normal in the new view. If a still later view is heard of, it starts over.

| message          | what it does                                                                |
|------------------|-----------------------------------------------------------------------------|
| NewState, ImagePart | a piece, if it answers the outstanding question; the last: become backup |
| Prepare, Commit, StartView | the same view: its primary lives; a later one: start over; older: dropped |
| StartViewChange  | counted as a wish; of one who has entered a later view: follow              |
| DoViewChange     | of a later view: join it                                                    |
| GetState         | dropped                                                                     |
| of a client      | answered with `NotPrimary`, naming nobody                                   |
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import Commit, DoViewChange, ImagePart, NewState, Prepare, StartView
from ..transfer import Collection
from .base import ToBackup, ToViewChange, Transition
from .waiting import Waiting


class StateTransfer(Waiting):
    """Status state-transfer."""

    status: ClassVar[str] = "state-transfer"

    __slots__ = ("_after", "_collection", "_responder", "_target", "_view")

    def __init__(self, ctx: Context, view: int, responder: Pid, after: int, target: int | None) -> None:
        super().__init__(ctx)
        self._view = view
        self._responder = responder
        self._after = after
        self._target = target
        self._collection: Collection
        ctx.count("state_transfers")
        self.handlers |= {
            Prepare: self.on_begun,
            Commit: self.on_begun,
            StartView: self.on_begun,
            NewState: self.on_new_state,
            ImagePart: self.on_new_state,
            DoViewChange: self.on_do_view_change,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self._collect(output)
        return self._finish(output)

    def _collect(self, output: Outbox) -> None:
        ctx, first = self.ctx, self._responder
        responders = (first, *(peer for peer in ctx.peers if peer != first))
        self._collection = Collection(ctx, self._view, self._view, self._after, self._target, responders, output)

    def tick(self, output: Outbox) -> Transition | None:
        self._collection.tick(output)
        return self.wait(output)

    def floor(self) -> int:
        return self._view

    def on_new_state(
        self, message: NewState | ImagePart, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A piece of the log of the new view."""
        if self._collection.accept(message, output):
            self.heard()
        return self._finish(output)

    def _finish(self, output: Outbox) -> Transition | None:
        collection = self._collection
        if not collection.complete:
            return None
        if not collection.install(self._view, output):
            self._collect(output)
            return None
        return ToBackup(collection.commit)

    def on_begun(
        self, message: Prepare | Commit | StartView, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Rule 3."""
        if message.view == self._view and sender == self.ctx.configuration.primary(self._view):
            self.heard()
            return None
        if message.view < self._view:
            self.ctx.count("dropped_older_view")
            return None
        return self.on_later_view(message, sender, cid, output)

    def on_do_view_change(
        self, message: DoViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A vote for a view later than the one that is being fetched."""
        return ToViewChange(message.view, sender, message) if message.view > self._view else None
