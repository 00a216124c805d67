"""Following a group from outside: a replica that is to become a member, or one that slept through the end of its epoch.

It fetches what is *committed* from any replica that answers, and executes it. Committed entries are the same in all views
and epochs, so nothing can go wrong with them, whoever sends them. Rules:

1. It answers nothing that concerns views, acknowledges nothing and votes for nothing: it counts for nothing.
2. When it executes the entry that makes it a member, it takes part in the epoch that begins with it, in view 0: that view
   begins with exactly this log. If the group has gone on meanwhile, it hears so, and fetches the rest as any backup does.
3. A member of an epoch that is over may hold entries that it acknowledged and that are not committed. They may go: the
   last entry of that epoch is committed, so every log that can still win there has it, and all before it.
4. Whom to ask is known from who said that there is a later epoch, and from the configurations that are passed on the way
   (defect D7).

| message          | what it does                                                                             |
|------------------|------------------------------------------------------------------------------------------|
| NewState, ImagePart | a piece, if it answers the outstanding question                                       |
| GetState         | answered, if it is about committed entries                                               |
| of a client      | answered with `NotPrimary`, naming nobody; stale reads are answered                      |
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import ANY_VIEW, GetState, ImagePart, NewState
from ..transfer import Collection
from .base import State, ToEpoch, Transition


class CatchUp(State):
    """Status learning."""

    status: ClassVar[str] = "learning"

    __slots__ = ("_collection", "_responders", "_turn")

    def __init__(self, ctx: Context, responders: tuple[Pid, ...]) -> None:
        super().__init__(ctx)
        self._responders = responders
        self._turn = 0
        self._collection: Collection | None = None
        self.handlers |= {
            NewState: self.on_new_state,
            ImagePart: self.on_new_state,
            GetState: self.on_get_state,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self._ask(output)
        return None

    def _ask(self, output: Outbox) -> None:
        ctx = self.ctx
        members = dict.fromkeys((*self._responders, *ctx.configuration.replicas, *ctx.previous))
        members.pop(ctx.pid, None)
        everybody = tuple(members)
        # Another one each time: the primary wants to know how far this replica has come, and some may be gone.
        self._turn = (self._turn + 1) % len(everybody) if self._collection else 0
        order = everybody[self._turn :] + everybody[: self._turn]
        self._collection = Collection(ctx, ANY_VIEW, ANY_VIEW, ctx.commit, None, order, output)

    def tick(self, output: Outbox) -> Transition | None:
        if self._collection is None or self._collection.complete:
            self._ask(output)
        else:
            self._collection.tick(output)
        return None

    def on_new_state(
        self, message: NewState | ImagePart, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A piece of what is committed."""
        ctx, collection = self.ctx, self._collection
        if collection is None or not collection.accept(message, output) or not collection.complete:
            return None
        if not collection.entries and collection.image is None:
            return None  # nothing new; ask again at the next tick
        epoch = ctx.epoch
        if not collection.install(None, output):
            self._ask(output)
            return None
        ctx.execute_to(ctx.log.op, output)
        if ctx.epoch != epoch and ctx.member:
            return ToEpoch()
        self._ask(output)
        return None

    def on_get_state(self, message: GetState, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Only what is committed is known here."""
        if message.view == ANY_VIEW:
            super().on_get_state(message, sender, cid, output)
        else:
            self.ctx.count("dropped_get_state_other_view")
