"""When what waits at a primary goes: at once, or together with what is about to come.

A batch, or a round of reads, costs the same whatever it carries, and much more than one request in it. Rules:

1. What may go waits for what is in the mailbox behind it: a timer of 0 seconds.
2. Who was answered asks again, and those who were answered together do so at about the same time. So the primary counts
   the answers that it gave, less the questions that came since. As long as `Settings.gather_least` are expected, and more
   than an eighth of what waits, it waits on, if as many come within `Settings.gather_wait`.
3. When it has waited, and at each heartbeat, nothing is expected any more. So clients who don't come back cost the others
   `gather_wait` at most once.
"""

from __future__ import annotations

from rabble_trio import Outbox

from .context import Context


class Gathering:
    """The waiting of one primary."""

    __slots__ = ("_ctx", "_running", "_waiting", "expected")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._running: float | None = None  # the seconds of the timer that runs
        self._waiting = 0  # how much waited when it was started
        self.expected = 0
        """Questions that are likely to come soon."""

    def came(self) -> None:
        """A question came."""
        if self.expected:
            self.expected -= 1

    def begin(self, waiting: int, output: Outbox) -> None:
        """So much waits, and may go. `over` is to be called when the timer fires."""
        seconds = self._patience(waiting)
        if self._running is None or seconds < self._running:
            self._start(seconds, waiting, output)

    def over(self, waiting: int, output: Outbox) -> bool:
        """The timer has fired; tells whether what waits may go."""
        patience = self._patience(waiting)
        if self._running and patience and waiting - self._waiting >= self._ctx.settings.gather_least:
            self._start(patience, waiting, output)
            return False
        self._running = None
        self.expected = 0
        return True

    def _patience(self, waiting: int) -> float:
        settings = self._ctx.settings
        enough = max(settings.gather_least, waiting // 8 + 1)
        return settings.gather_wait if self.expected >= enough else 0.0

    def _start(self, seconds: float, waiting: int, output: Outbox) -> None:
        self._running, self._waiting = seconds, waiting
        output.start_timer(seconds, self._ctx.gather_timer)
