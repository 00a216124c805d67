"""Reads that any replica may answer: from a state that may be old, but never older than what this client has seen.

Rules:

1. They need no session and no primary: they are sent on whatever connection there is, and again on the next one.
2. `seen` is the newest commit number in any answer that the client got. Each read carries it, and no replica that has not
   come so far answers.
3. They are numbered downwards from -1, so that they are never mistaken for requests of a session.
4. After a `Retry` none is sent until a pause is over. Pauses grow as long as nothing succeeds. They are not those of the
   session, which waits for a primary.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from haret.protocol import MAX_STALE_READS, StaleRead

from ._calls import Backoff, Call, Random
from ._watch import Watch


class StaleReads:
    """See the rules at the top of the file. The machine of the session decides when the connection is of use."""

    def __init__(self, random: Random) -> None:
        self.seen = 0
        self.waiting: OrderedDict[Call, None] = OrderedDict()
        self.in_flight: dict[int, Call] = {}
        self.resume_at: float | None = None  # paused until then
        self.fruitless = 0  # pauses since anything succeeded on this connection
        self._backoff = Backoff(random)
        self._next = -1

    def __bool__(self) -> bool:
        return bool(self.waiting or self.in_flight)

    def __iter__(self) -> Any:
        """All calls that are not answered, the oldest first."""
        yield from self.in_flight.values()
        yield from self.waiting

    def oldest(self) -> Call | None:
        """The call that was made first of those that are not answered. Calls are sent again in their order."""
        return next(iter(self), None)

    def take(self, counts: dict[str, int], watch: Watch) -> list[StaleRead]:
        """What is to be sent now."""
        messages = []
        while self.resume_at is None and self.waiting and len(self.in_flight) < MAX_STALE_READS:
            call, _ = self.waiting.popitem(last=False)
            counts["resent" if call.number else "sent"] += 1
            if not call.number:
                call.number = self._next
                self._next -= 1
            call.sent = watch.send()
            self.in_flight[call.number] = call
            messages.append(StaleRead(call.number, call.operation, self.seen))
        return messages

    def answered(self, number: int) -> Call | None:
        """A result came; returns the call that it is for, unless nobody waits for it any more."""
        call = self.in_flight.pop(number, None)
        self.fruitless = 0
        self._backoff.reset()
        return call

    def retry(self, number: int, now: float) -> bool:
        """Nobody could answer now; tells whether a pause has begun."""
        call = self.in_flight.pop(number, None)
        if call is not None:
            self._put_back([call])
        if self.resume_at is not None:
            return False
        self.resume_at = now + self._backoff.pause()
        self.fruitless += 1
        return True

    def connection_lost(self) -> None:
        """What was sent on it may get no answer any more."""
        calls, self.in_flight = list(self.in_flight.values()), {}
        self._put_back(calls)
        self.resume_at = None
        self.fruitless = 0

    def abandon(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        self.waiting.pop(call, None)
        self.in_flight.pop(call.number, None)

    def clear(self) -> None:
        """All calls have failed."""
        self.waiting.clear()
        self.in_flight.clear()

    def _put_back(self, calls: list[Call]) -> None:
        for call in reversed(calls):
            self.waiting[call] = None
            self.waiting.move_to_end(call, last=False)
