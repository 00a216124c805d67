"""Reads without a log entry: the read-index of a primary (not in the paper).

Rules:

1. A primary may have been replaced without knowing it. So before it answers, it asks the others whether they are still
   in its view (`ConfirmView`); a quorum that is, itself included, means that no later view had begun when it asked.
2. Many reads share a round. One that comes while a round is under way waits for the next one, because the answers to
   this one may be older than the question.
3. The answer is given from a state that includes every op which was committed when the round began. A new primary may not
   know yet that the entries which its view began with are committed: it waits for those, too.
"""

from __future__ import annotations

from rabble_trio import CorrelationId, Outbox, Pid

from .context import Context
from .gathering import Gathering
from .messages import ConfirmView, InvalidRequest, NotPrimary, Overloaded, Read, ReadReply

MAX_READS = 16_384
"""Reads that wait at a primary; more hear `Overloaded`."""

_Asked = tuple[bytes, Pid, CorrelationId | None]


class Reads:
    """The reads that wait at the primary of a view which began with the log up to `start`."""

    __slots__ = (
        "_age",
        "_confirmed",
        "_ctx",
        "_gathering",
        "_index",
        "_next",
        "_ready",
        "_round",
        "_start",
        "_under_way",
    )

    def __init__(self, ctx: Context, start: int, gathering: Gathering) -> None:
        self._ctx = ctx
        self._gathering = gathering
        self._start = start
        self._round = 0
        self._age = 0
        self._index = 0  # what the state must include to answer the round under way
        self._confirmed: set[Pid] = set()
        self._next: list[_Asked] = []
        self._under_way: list[_Asked] = []
        # Confirmed, but the state does not include everything yet: (index, reads).
        self._ready: list[tuple[int, list[_Asked]]] = []

    def ask(self, read: Read, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """A client asks; `begin` has to follow."""
        ctx = self._ctx
        if len(read.operation) > ctx.settings.max_operation:
            text = f"an operation has at most {ctx.settings.max_operation} bytes, not {len(read.operation)}"
            ctx.send(sender, InvalidRequest(text), output, cid)
            return
        if len(self._next) + len(self._under_way) >= MAX_READS:
            ctx.count("overloaded")
            ctx.send(sender, Overloaded(), output, cid)
            return
        self._next.append((read.operation, sender, cid))

    @property
    def asked(self) -> int:
        """How many wait for the next round."""
        return len(self._next)

    @property
    def may_begin(self) -> bool:
        """Whether reads wait, and no round is under way."""
        return bool(self._next) and not self._under_way

    def begin(self, output: Outbox) -> None:
        """A round, for all that wait."""
        ctx = self._ctx
        self._under_way, self._next = self._next, []
        self._round += 1
        self._age = 0
        self._index = max(ctx.commit, self._start)
        self._confirmed.clear()
        self._send(output)

    def _send(self, output: Outbox) -> None:
        ctx = self._ctx
        ctx.broadcast(ConfirmView(ctx.epoch, ctx.view, self._round, ctx.incarnation), output)

    def confirmed(self, number: int, sender: Pid, output: Outbox) -> bool:
        """A backup is still in this view. Returns whether a quorum is, so that the round is over."""
        if number != self._round or not self._under_way:
            return False
        self._confirmed.add(sender)
        if len(self._confirmed) < self._ctx.quorum - 1:
            return False
        reads, self._under_way = self._under_way, []
        if self._index <= self._ctx.commit:
            self._answer(reads, output)
        else:
            self._ready.append((self._index, reads))
        if self._next:
            self.begin(output)
        return True

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._next or self._under_way or self._ready)

    def committed(self, output: Outbox) -> None:
        """The state includes more than before."""
        while self._ready and self._ready[0][0] <= self._ctx.commit:
            self._answer(self._ready.pop(0)[1], output)

    def _answer(self, reads: list[_Asked], output: Outbox) -> None:
        ctx = self._ctx
        self._gathering.expected += len(reads)
        op, epoch, view, read = ctx.commit, ctx.epoch, ctx.view, ctx.machine.read
        for operation, sender, cid in reads:
            ctx.send(sender, ReadReply(op, epoch, view, read(operation)), output, cid)

    def tick(self, output: Outbox) -> None:
        """Ask again if need be."""
        if self._under_way:
            self._age += 1
            if self._age >= self._ctx.settings.ticks(self._ctx.settings.resend):
                self._age = 0
                self._send(output)

    def leave(self, output: Outbox) -> None:
        """The view is over."""
        refusal = NotPrimary(self._ctx.epoch, self._ctx.view, None)
        for reads in (self._next, self._under_way, *(reads for _, reads in self._ready)):
            for _, sender, cid in reads:
                self._ctx.send(sender, refusal, output, cid)
