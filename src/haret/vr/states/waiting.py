"""What a replica does that waits: a backup for its primary, a primary for acknowledgements, the others for an outcome.

The view change has a pre-vote (an addition to section 4.2; TigerBeetle changes the protocol likewise). Rules:

1. A replica that hears nothing for its patience *wishes* for the next view: it sends `StartViewChange` to all, again and
   again. It promises nothing and goes on with what it did. When it hears from its primary, it stops wishing.
2. It enters a view change when a quorum, itself included, wishes for the same view. So one replica that hears nobody
   disturbs nobody, however long it lasts (defect D6).
3. Who wishes takes over the highest wish that it hears of, so that all come to wish for the same view. Who has been
   waiting for half its patience joins a wish early, so that a failover takes as long as the shortest patience.
4. Who hears that somebody has *entered* a later view follows: a quorum wished for it, and that replica has promised
   never to go back.
"""

from __future__ import annotations

from rabble_trio import CorrelationId, Outbox, Pid

from ..context import Context
from ..messages import Recovery, RecoveryResponse, StartViewChange
from .base import State, ToViewChange, Transition


class Waiting(State):
    """A state with patience."""

    __slots__ = ("patience", "silence")

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.silence = 0
        """Ticks since the last sign of progress."""
        self.patience = ctx.patience()
        """So many of them are too many."""
        self.handlers[StartViewChange] = self.on_start_view_change

    def floor(self) -> int:
        """Wishes and entered views up to this one are no news."""
        return self.ctx.view

    def restless(self) -> bool:
        """Whether this replica joins the wish of another one (rule 3)."""
        return 2 * self.silence >= self.patience

    def wait(self, output: Outbox) -> Transition | None:
        """To be called every tick: counts the silence, and wishes for another view when it has lasted too long."""
        self.silence += 1
        overdue = self.silence - self.patience
        if overdue < 0:
            return None
        wishes, settings = self.ctx.wishes, self.ctx.settings
        changed = wishes.join(max(self.floor() + 1, wishes.mine))
        if changed or overdue % settings.ticks(settings.resend) == 0:
            self.send_wish(output)
        return self.decide()

    def heard(self) -> None:
        """The primary lives, or there is progress."""
        self.silence = 0
        if self.ctx.wishes.mine:
            self.ctx.wishes.clear()

    def send_wish(self, output: Outbox) -> None:
        """Tell all which view this replica is in, and which one it wishes for."""
        ctx = self.ctx
        wish = StartViewChange(ctx.epoch, max(ctx.wishes.mine, ctx.view), ctx.view, ctx.incarnation)
        ctx.broadcast(wish, output)

    def decide(self) -> Transition | None:
        """Enter the view that a quorum wishes for."""
        wishes = self.ctx.wishes
        if wishes.mine > self.floor() and wishes.supporters() >= self.ctx.quorum:
            return ToViewChange(wishes.mine)
        return None

    def on_start_view_change(
        self, message: StartViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Rules 2 to 4."""
        wishes, floor = self.ctx.wishes, self.floor()
        if message.view <= floor:
            self.ctx.count("dropped_old_wish")
            return None
        wishes.note(sender, message.view)
        if message.entered > floor:
            return ToViewChange(message.entered)
        if wishes.mine or self.restless():
            if wishes.join(message.view):
                self.send_wish(output)
            return self.decide()
        return None


class Normal(Waiting):
    """A state in which a replica has the log of its view."""

    __slots__ = ()

    def respond(self, message: Recovery, sender: Pid, output: Outbox) -> None:
        """Tell one that has lost its memory what it needs to know (section 4.3)."""
        ctx = self.ctx
        op = ctx.log.op if ctx.is_primary(ctx.view) else -1
        # This promises not to take anything more from earlier incarnations of the sender, so it waits for the disk.
        known = ctx.known_incarnations()
        output.send(sender, RecoveryResponse(ctx.epoch, ctx.view, message.nonce, op, known, ctx.incarnation))
