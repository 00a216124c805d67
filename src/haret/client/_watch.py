"""When a connection has forgotten a request: it goes on, with pongs and with other answers, and this one never comes.

Rules:

1. A server reads what comes over a connection in the order in which it was sent, and answers each request, or says `Retry`,
   within `ANSWERED_WITHIN` of reading it. What it says arrives in the order in which it says it.
2. So the time of a request begins when the server has certainly read it: when anything that was sent later is answered, or
   the request itself. A client that sends much over a slow line finds nothing overdue only because of that.
3. When the time is over, a last `Ping` is sent. With its `Pong`, all that the server said in that time is here. A request
   that has no answer then was forgotten.

How old a silence is does not matter here, and what comes for one request is no excuse for another. What the server has read
is kept as marks, one for several answers, since there may be many thousands of those in a second.
"""

from __future__ import annotations

from collections import deque
from typing import Final

ANSWERED_WITHIN: Final = 8.0
"""Seconds in which a server answers each request that it has read, or says `Retry`. By its own rule it takes 7.5 at most:
`timeouts.request` is 6 at most, and its clock may be a quarter late. What is left of `GIVE_UP_AFTER` is for another try."""

MARKS_APART: Final = 0.25
"""Seconds between two marks at least: so much later than necessary something is missed when answers come all the time."""


class Watch:
    """See the rules at the top of the file. Everything that is sent has a position, and each connection begins anew."""

    __slots__ = ("_last", "_marked", "_marks", "_pings", "_sent", "read")

    def __init__(self) -> None:
        self.read = 0  # the last position that the server has certainly read
        self._marked = 0  # what was read at the last mark
        self._sent = 0  # the last position at all; it goes on from one connection to the next
        self._pings: deque[int] = deque()  # those without a pong
        self._marks: deque[tuple[float, int]] = deque()  # when, and what had been read by then
        self._last: tuple[int, int] | None = None  # up to where something is overdue, and where the last ping stands

    def begin(self) -> None:
        """A new connection."""
        self.read = self._marked = self._sent
        self._pings.clear()
        self._marks.clear()
        self._last = None

    def rest(self) -> None:
        """Nothing is without an answer."""
        self._marks.clear()

    def send(self) -> int:
        """The position of what is sent now."""
        self._sent += 1
        return self._sent

    def ping(self) -> None:
        """A `Ping` is sent now."""
        self._pings.append(self.send())

    def pong(self) -> None:
        """A `Pong` came."""
        if self._pings:
            self.read = max(self.read, self._pings.popleft())

    def next_time(self) -> float:
        """When to look for what is overdue; infinity if no time is running."""
        return self._marks[0][0] + ANSWERED_WITHIN if self._marks and self._last is None else float("inf")

    def overdue(self, now: float) -> int:
        """The time of everything up to this position is over; 0 if there is no such thing."""
        position = 0
        while now >= self.next_time():
            _, position = self._marks.popleft()
        return position

    def last_ping(self, position: int) -> None:
        """Something up to this position has no answer, and this `Ping` is to tell whether one is on its way."""
        self.ping()
        self._last = (position, self._sent)

    def came(self, now: float) -> int:
        """Messages came, and `read` is up to date. What has no answer now, up to this position, was forgotten; 0: nothing."""
        if self.read > self._marked and (not self._marks or now >= self._marks[-1][0] + MARKS_APART):
            self._marks.append((now, self.read))
            self._marked = self.read
        if self._last is None or self.read < self._last[1]:
            return 0
        (position, _), self._last = self._last, None
        return position
