"""A replica that is no member any more (section 7.1, "being replaced"), and one that stands still.

`Leaving` may be the only one that knows how its epoch ended. So it goes on telling the members of the next one, and
answers their questions about committed entries, until a quorum of them has said that it is under way. Then it tells its
observer, and only follows: it may be made a member again.

`Stopped` has found that its state differs from that of the others, and says nothing to anybody but what it is.
"""

from __future__ import annotations

from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import ANY_VIEW, EpochStarted, GetState, Halted, NewEpoch, Retired
from .base import State, ToCatchUp, Transition


class Leaving(State):
    """Status leaving."""

    status: ClassVar[str] = "leaving"

    __slots__ = ("_age", "_started")

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._started: set[Pid] = set()
        self._age = 0
        self.handlers |= {
            GetState: self.on_get_state,
            EpochStarted: self.on_epoch_started,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self._tell(output)
        return None

    def _tell(self, output: Outbox) -> None:
        ctx = self.ctx
        for pid in ctx.configuration.replicas:
            if pid not in self._started:
                ctx.send(pid, NewEpoch(ctx.epoch, ctx.configuration.replicas), output)

    def tick(self, output: Outbox) -> Transition | None:
        settings = self.ctx.settings
        self._age += 1
        if self._age % settings.ticks(settings.resend) == 0:
            self._tell(output)
        return None

    def on_epoch_started(
        self, message: EpochStarted, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A member of the new epoch takes part in it."""
        ctx = self.ctx
        if message.epoch >= ctx.epoch and sender in ctx.configuration.replicas:
            self._started.add(sender)
            if len(self._started) >= ctx.quorum:
                if ctx.observer is not None:
                    output.send(ctx.observer, Retired(ctx.pid, ctx.epoch))
                return ToCatchUp(())
        return None

    def on_get_state(self, message: GetState, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Only what is committed concerns others."""
        if message.view == ANY_VIEW:
            super().on_get_state(message, sender, cid, output)
        else:
            self.ctx.count("dropped_get_state_other_view")


class Stopped(State):
    """Status stopped."""

    status: ClassVar[str] = "stopped"

    __slots__ = ("_reason",)

    def __init__(self, ctx: Context, reason: str) -> None:
        super().__init__(ctx)
        self._reason = reason

    def enter(self, output: Outbox) -> Transition | None:
        if self.ctx.observer is not None:
            output.send(self.ctx.observer, Halted(self.ctx.pid, self._reason))
        return None
