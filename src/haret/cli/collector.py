"""Python's garbage collector in a server: without long pauses, and without garbage that stays.

A full collection looks at every object that might be part of a cycle. With a tree of a million nodes that takes longer
than backups wait for their primary, and it stops all threads. Nearly nothing here needs it: trees, logs and tables have
no cycles, and end when nobody refers to them any more. Cycles are made by what goes wrong: an exception that is kept, a
handshake that fails, a replica that crashes, with all that it held.

Rules:

1. A full collection that takes longer than `LONG` freezes what it found alive (`gc.freeze`): later ones leave that out.
   What is frozen still ends when nobody refers to it. So each collection looks at what is new, and takes about as long
   at most.
2. What was frozen and has become garbage in a cycle since would stay for ever. So when memory has grown by a factor
   (`GROWTH`; less if the server has nothing to do, `QUIET_GROWTH`), all is thawed, collected in one long pause, and frozen
   again. A tree that grows by itself has such a pause at each doubling; memory never holds more garbage than there was
   of everything.
3. The collector belongs to the whole process, so it is the command that decides on it, and no library.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from rabble_trio import ActorDown, GetMetrics, Mailbox, Metrics, Service

LONG: Final = 0.02
"""Seconds of a full collection, of 50,000 to 100,000 objects, from which on it is not to be repeated: less than a
heartbeat of replication, so that nobody notices."""

GROWTH: Final = 2.0
"""How many times the memory of the last thaw there must be for the next one, if the server is busy."""

QUIET_GROWTH: Final = 1.25
"""And if it has nothing to do, so that nobody waits."""

THRESHOLDS: Final = (700, 10, 3)
"""For `gc.set_threshold`. The last one is 10 by default, so that a full collection comes after 85,000 new objects at the
earliest, and takes 100 ms of a process whose memory is large; with 3, after 30,000."""

QUIET: Final = 0.05
"""Of a processor core: a server that needs less has nothing to do. Idle namespaces need about a hundredth."""

WATCH: Final = 10.0
"""Seconds from one look at memory and load to the next."""


class Collections:
    """What the rules do, told of each collection by `gc.callbacks`.

    `clock`: seconds. `blocks`: tells how many blocks of memory Python's objects take; that costs no more than a fraction of
    a millisecond, while to count objects takes as long as to collect.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, blocks: Callable[[], int] = sys.getallocatedblocks
    ) -> None:
        self._clock = clock
        self._blocks = blocks
        self._started = 0.0
        self._least = 0  # blocks since the last thaw: garbage is what comes on top of them
        self._frozen = False
        self._thresholds = gc.get_threshold()
        self.longest = 0.0
        """Seconds of the longest collection."""
        self.freezes = 0
        """How often rule 1 applied."""
        self.thaws = 0
        """How often rule 2 applied."""

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """A collection begins or has ended: see `gc.callbacks`."""
        if phase == "start":
            self._started = self._clock()
            return
        seconds = self._clock() - self._started
        self.longest = max(self.longest, seconds)
        if info["generation"] == 2 and seconds > LONG:
            gc.freeze()
            self._frozen = True
            self.freezes += 1

    def begin(self) -> None:
        """Collect what importing and starting left, and freeze what stays."""
        gc.callbacks.append(self)
        gc.set_threshold(*THRESHOLDS)
        self._collect_and_freeze()

    def end(self) -> None:
        """Leave the collector as it was found."""
        gc.callbacks.remove(self)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def look(self, load: float) -> None:
        """Thaw if it is time to. `load`: processor seconds per second since the last look."""
        blocks = self._blocks()
        self._least = min(self._least, blocks)
        growth = QUIET_GROWTH if load < QUIET else GROWTH
        if self._frozen and blocks >= growth * self._least:
            self.thaws += 1
            gc.unfreeze()
            self._collect_and_freeze()

    def _collect_and_freeze(self) -> None:
        gc.collect()
        gc.freeze()
        # The interpreter waits with a full collection until there is a quarter more than the last one found alive. Once
        # more, then, for it to forget those that are frozen.
        gc.collect()
        self._frozen = False
        self._least = self._blocks()


class Collector(Service):
    """Applies the rules as long as it runs, and answers `GetMetrics`."""

    def __init__(self) -> None:
        self._collections = Collections()

    async def run(self, mailbox: Mailbox) -> None:
        """Until it is asked to shut down."""
        self._collections.begin()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                async for envelope in mailbox:
                    if isinstance(envelope.message, GetMetrics):
                        self._reply(mailbox, envelope.sender, envelope.correlation_id)
                nursery.cancel_scope.cancel()
        finally:
            self._collections.end()

    async def _watch(self) -> None:
        while True:
            worked, now = time.process_time(), trio.current_time()
            await trio.sleep(WATCH)
            self._collections.look((time.process_time() - worked) / (trio.current_time() - now))

    def _reply(self, mailbox: Mailbox, asker: Any, correlation_id: Any) -> None:
        try:
            mailbox.send_nowait(asker, self.metrics(), correlation_id)
        except (ActorDown, trio.WouldBlock):
            return  # who asked is gone

    def metrics(self) -> Metrics:
        """Collections since the process started, and the longest pause since this service did."""
        stats = gc.get_stats()
        counts = self._collections
        return Metrics(
            {
                "collections": sum(one["collections"] for one in stats),
                "collections_full": stats[-1]["collections"],
                "objects_collected": sum(one["collected"] for one in stats),
                "freezes": counts.freezes,
                "thaws": counts.thaws,
            },
            {"longest_pause": counts.longest, "blocks": float(sys.getallocatedblocks())},
        )
