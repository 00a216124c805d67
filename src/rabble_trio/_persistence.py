"""Between the processes of a node and its journal: the barrier, snapshots, and what happens when the journal fails.

Rules:

1. Records of all processes are synced together. While one sync is under way, further records gather for the next.
2. After a sync, what was held behind the records leaves, and then `Persisted` tells the process how many are durable.
3. A snapshot is encoded in a worker thread, beside the syncs. Of two of one process the newer makes the older needless.
   `Snapshotted` tells the process when one is durable.
4. After any error of a sync nobody knows what is on the disk, so it is never tried again: all processes that persisted
   crash, and so does who persists from then on. Those that don't persist go on.
5. A process that is started finds all that its earlier incarnation appended, is told that it is lost, or is not started.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from ._actor import Actor
from ._errors import JournalError
from ._ids import Pid
from ._journal import Journal
from ._messages import Persisted, Snapshotted
from ._process import Persist, Process, Snapshot

if TYPE_CHECKING:
    from ._executor import Executor

logger = logging.getLogger("rabble_trio.executor")

RESTORE_INLINE: Final = 256 * 1024
"""Bytes that are restored on the event loop, which takes a few milliseconds; beyond it, in a worker thread."""


class Persistence:
    """What an executor keeps about its journal."""

    def __init__(self, executor: Executor, journal: Journal) -> None:
        self._executor = executor
        self.journal = journal
        self._dirty: dict[Actor, None] = {}  # actors with records appended since the last sync began
        self._syncing: list[tuple[Actor, int]] | None = None  # those of the sync that is under way
        self._work = trio.Event()  # for the task: the journal can't sync without one, or has failed
        # Snapshots to take, the newest of each process.
        self._snapshots: dict[Pid, tuple[Actor, int, int, Callable[[], bytes]]] = {}
        self._snapshot_work = trio.Event()
        self._failure: Exception | None = None

    async def restore(self, actor: Actor, process: Process) -> None:
        """Give a process what earlier incarnations persisted. Raises `JournalError`, and what the process raises."""
        if self._failure is not None:
            raise _journal_error(self._failure)
        if self.journal.used:
            # What the last incarnation appended may be on its way: it must be all there or not at all.
            await self._sync()
            stored = await self.journal.load(actor.pid)
            if stored is None:
                return
            if stored.damage is not None:
                process.damaged(stored.damage)
            elif len(stored.snapshot or b"") + sum(map(len, stored.records)) <= RESTORE_INLINE:
                process.restore(stored.snapshot, stored.records)
            else:
                await trio.to_thread.run_sync(process.restore, stored.snapshot, stored.records)

    def effect(self, actor: Actor, effect: Persist | Snapshot) -> None:
        """Append a record, or note that a snapshot is to be taken. Raises `JournalError`."""
        if self._failure is not None:
            raise _journal_error(self._failure)
        if isinstance(effect, Persist):
            self.journal.append(actor.pid, effect.record)
            actor.persisted += 1
            if actor not in self._dirty:
                self._dirty[actor] = None
                if self._syncing is None:
                    self._executor.outlets.open_soon()
        else:
            upto = self.journal.last_index(actor.pid)
            self._snapshots[actor.pid] = (actor, upto, actor.persisted, effect.encode)
            self._snapshot_work.set()

    def begin_sync(self) -> None:
        """Begin to sync what there is to sync, if no sync is under way. The executor calls it at the end of a turn."""
        if self._dirty and self._syncing is None and self._failure is None:
            self._syncing = [(actor, actor.persisted) for actor in self._dirty]
            self._dirty.clear()
            if not self.journal.start_sync(self._on_synced):
                self._work.set()

    def _on_synced(self, error: Exception | None) -> None:
        assert self._syncing is not None
        synced, self._syncing = self._syncing, None
        if error is not None:
            self._fail(error)
            return
        released = [pair for pair in synced if self._release(*pair)]
        self._executor.outlets.open_now()  # which begins the next sync
        for actor, count in released:
            self._tell(actor, Persisted(count))

    async def run(self) -> None:
        """Take snapshots, and await the syncs of a journal that has to be awaited, until it fails."""
        async with trio.open_nursery() as nursery:
            # A task of their own, because a sync must not wait until a large snapshot is encoded.
            nursery.start_soon(self._take_snapshots, name="snapshots")
            while True:
                await self._work.wait()
                if self._failure is not None:
                    break
                self._work = trio.Event()
                try:
                    await self.journal.sync()
                except Exception as error:
                    self._on_synced(error)
                else:
                    self._on_synced(None)
            nursery.cancel_scope.cancel()

    async def _take_snapshots(self) -> None:
        while True:
            await self._snapshot_work.wait()
            self._snapshot_work = trio.Event()
            while self._snapshots:
                # One at a time, so that an older snapshot of a process can't arrive after a newer one.
                actor, upto, count, encode = self._snapshots.pop(next(iter(self._snapshots)))
                try:
                    snapshot = await trio.to_thread.run_sync(encode)
                    if not isinstance(snapshot, bytes):
                        raise TypeError(f"encode() of a snapshot returns bytes, not {type(snapshot).__name__}")
                except Exception as error:  # whatever a user's encode() raises is that actor's crash and nobody else's
                    actor.kill(error)
                    continue
                if self._executor.actors.get(actor.pid) is not actor:
                    continue  # its successor may be told that the records which it covers are damaged
                try:
                    await self.journal.replace(actor.pid, upto, snapshot)
                except Exception as error:
                    self._fail(error)
                    return
                if self._release(actor, count):  # what it covers is durable, so that is told first
                    self._tell(actor, Persisted(count))
                self._tell(actor, Snapshotted(len(snapshot)))

    async def _sync(self) -> None:
        """Sync the journal. Raises `JournalError`, when it is over with the journal and all that need it."""
        if self._failure is not None:
            raise _journal_error(self._failure)
        try:
            await self.journal.sync()
        except Exception as error:
            self._fail(error)
            raise _journal_error(error) from error

    def _release(self, actor: Actor, durable: int) -> bool:
        """So many records of a process are durable; tells whether that is news."""
        if self._executor.actors.get(actor.pid) is not actor or durable <= actor.durable:
            return False
        actor.durable = durable
        held = actor.held
        while held and held[0][0] <= durable:
            _, to, effect, correlation_id = held.popleft()
            self._executor.steps.effect(actor, to, effect, correlation_id)
        if actor.sync_done is not None:
            actor.sync_done.set()
        return True

    def _tell(self, actor: Actor, message: Persisted | Snapshotted) -> None:
        executor = self._executor
        if executor.actors.get(actor.pid) is actor and not executor.steps.handle_now(
            actor, message, executor.pid, None
        ):
            actor.put((message, executor.pid, None))

    def _fail(self, error: Exception) -> None:
        if self._failure is not None:
            return
        logger.critical("%s: the journal failed, so processes that persist stop: %s", self._executor.node, error)
        self._failure = error
        self._work.set()
        for actor in list(self._executor.actors.values()):
            if actor.persisted:
                actor.kill(_journal_error(error))

    async def synced(self, actor: Actor) -> None:
        """Wait until more records of this process are durable. There must be some that are not."""
        actor.sync_done = trio.Event()
        await actor.sync_done.wait()


def _journal_error(cause: Exception) -> JournalError:
    """A fresh error for each actor that gets it: raising one instance in several tasks would mix their tracebacks."""
    error = JournalError(str(cause) if isinstance(cause, JournalError) else f"{type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
