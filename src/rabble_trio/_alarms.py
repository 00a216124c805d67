"""Waking the actors of a node when their timers are due: one task for all of them.

A cancel scope around each wait would wake a task by raising an exception in it, which costs as much as several steps; and a
node may have thousands of timers a second.

Rules:

1. An actor that parks says when its next timer is due, and is woken then. It may also be woken for nothing, when a timer
   was cancelled or replaced: it looks itself.
2. Those that are due shortly after others were woken are woken together, so at most `GRAIN` late.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

import trio

from ._actor import INF, Actor

GRAIN: Final = 0.005
"""Seconds from one time that actors are woken to the next, at least, on a node with many timers: a turn of the event loop
costs as much as several steps, and what has many timers is patient for much longer than that."""

GRAIN_EACH: Final = 25e-6
"""Seconds that each running timer adds to it, up to `GRAIN`: where there are few, they are on time."""


class Alarms:
    """When to wake whom."""

    def __init__(self) -> None:
        # (deadline, number, actor); an entry counts if it is the newest one of its actor.
        self._heap: list[tuple[float, int, Actor]] = []
        self._number = 0
        self._most = 64  # entries from which on it is worth looking for those that don't count
        self._scope = trio.CancelScope()  # around the sleep of the task
        self._next = -INF  # it wakes nobody before that

    def set(self, actor: Actor, deadline: float) -> None:
        """Wake an actor at this time (of Trio's clock), unless it is to be woken before anyway."""
        if deadline >= actor.alarm:
            return
        self._number += 1
        actor.alarm, actor.alarm_number = deadline, self._number
        heap = self._heap
        heappush(heap, (deadline, self._number, actor))
        if len(heap) > self._most:
            heap[:] = [entry for entry in heap if entry[1] == entry[2].alarm_number]
            heapify(heap)
            self._most = 2 * len(heap) + 64
        if deadline < self._scope.deadline:
            self._scope.deadline = max(deadline, self._next)

    async def run(self) -> None:
        """Wake actors until cancelled."""
        heap = self._heap
        while True:
            deadline = max(heap[0][0], self._next) if heap else INF
            with trio.CancelScope(deadline=deadline) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            self._next = now + min(GRAIN, GRAIN_EACH * len(heap))
            while heap and heap[0][0] <= now:
                _, number, actor = heappop(heap)
                if number == actor.alarm_number:
                    actor.alarm = INF
                    actor.wake()
