"""What the parts of a client's machine share: calls, pauses, and the randomness that they are handed."""

from __future__ import annotations

from typing import Any, Final, Protocol

FIRST_PAUSE: Final = 0.02
"""Seconds before the first retry: a view change takes a few times as long."""

LONGEST_PAUSE: Final = 1.0
"""Seconds between retries at most: what a user waits after a repair, at most."""


class Random(Protocol):
    """What the machine needs of `random.Random`."""

    def random(self) -> float:
        """A number from 0 to 1."""

    def randbytes(self, n: int, /) -> bytes:
        """So many random bytes."""


class Backoff:
    """Growing pauses with jitter: half of it is random, so that many clients do not come back at once."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = FIRST_PAUSE

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._next * (0.5 + 0.5 * self._random.random())
        self._next = min(LONGEST_PAUSE, self._next * 2)
        return pause

    def reset(self) -> None:
        """Something succeeded."""
        self._next = FIRST_PAUSE


class Call:
    """One operation that somebody waits for."""

    __slots__ = ("abandoned", "number", "operation", "parked", "read", "sent", "since", "stale", "waiter")

    def __init__(self, operation: bytes, since: float, *, read: bool = False, stale: bool = False) -> None:
        self.operation = operation
        self.since = since
        self.read = read  # it changes nothing, so it may be executed again
        self.stale = stale  # any replica may answer it
        self.number = 0  # 0: never submitted
        self.sent = 0  # its position on the connection, since it was sent last
        self.parked = False  # answered with Retry, or its connection is gone: to be submitted again
        self.abandoned = False
        self.waiter: Any = None  # the owner's; the machine never looks at it
