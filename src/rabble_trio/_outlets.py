"""What leaves a node at the end of a turn of the event loop: one task for all links, and for the journal.

Actors that run in the same turn send to the same peers. If each envelope left at once, each would be a message of its own;
if each link had its own task awakened, each would cost a step of the event loop.

Rules:

1. Whoever has something to send for the first time in a turn is called in the next one, once.
2. Links go before the journal. Its thread competes with the event loop for the interpreter as soon as it has something to
   do, and what goes over a link (a `Prepare`) makes others start their own part of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio


class Outlets:
    """Whom to call in the next turn."""

    def __init__(self, last: Callable[[], None]) -> None:
        self._links: list[Callable[[], None]] = []
        self._last = last  # called after the links
        self._task: trio.lowlevel.Task | None = None

    def open_soon(self, link: Callable[[], None] | None = None) -> None:
        """Call this in the next turn, or at least the last one. Not twice in a turn with the same."""
        if link is not None:
            self._links.append(link)
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def open_now(self) -> None:
        """Call all that wait."""
        links, self._links = self._links, []
        for link in links:
            link()
        self._last()

    async def run(self) -> None:
        """Call whom there is to call, until cancelled."""

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self.open_now()
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
