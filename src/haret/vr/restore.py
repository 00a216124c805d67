"""Reading a journal back: what a replica remembers when it starts again.

Two parts of it may be there without each other. What was *promised* (views, incarnations, members) counts in any case.
The *log* counts only if it was written (mode "durable") and not lost since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .configuration import Configuration
from .image import ImageReader
from .records import (
    Appended,
    Began,
    Configured,
    Entered,
    Installed,
    Lost,
    Record,
    StagedEntries,
    StagedImage,
    Stopped,
)

if TYPE_CHECKING:
    from .context import Context
    from .messages import Entry


@dataclass(slots=True)
class Memory:
    """What a journal says beside what it put into the context."""

    complete: bool
    """Whether the log is there."""
    incarnation: int
    """The last incarnation that wrote into it; 0 if none did."""
    stopped: str | None = None
    """Why the replica stands still, if it does."""


def replay(ctx: Context, records: list[Record]) -> Memory:
    """Bring a new context to where the journal ends. Raises `ValueError` if the records contradict each other."""
    lost = max((index for index, record in enumerate(records) if type(record) is Lost), default=-1)
    memory = Memory(complete=ctx.durable and lost < 0, incarnation=0)
    replayer = _Replayer(ctx, memory)
    for index, record in enumerate(records):
        replayer.take(record, with_log=ctx.durable and index > lost)
    if memory.complete:
        ctx.execute_to(replayer.commit, None)
    return memory


class _Replayer:
    def __init__(self, ctx: Context, memory: Memory) -> None:
        self.ctx = ctx
        self.memory = memory
        self.commit = 0
        self._reader: ImageReader | None = None
        self._staged: list[Entry] = []

    def take(self, record: Record, *, with_log: bool) -> None:
        ctx, memory = self.ctx, self.memory
        match record:
            case Began(incarnation, known):
                if incarnation != memory.incarnation:
                    # What an earlier incarnation staged and did not install is of no use any more.
                    self._reader, self._staged = None, []
                memory.incarnation = incarnation
                ctx.known.update(known)
            case Entered(view):
                ctx.view = view
            case Configured():
                self._configured(record, with_log)
            case Stopped(reason):
                memory.stopped = reason
            case Installed():
                self._installed(record, with_log)
            case Appended(first, commit, entries) if with_log:
                ctx.log.extend(first, entries)
                self.commit = max(self.commit, commit)
            case StagedImage(image, part, data) if with_log:
                if part == 0 or self._reader is None:
                    self._reader = ImageReader(image, ctx.machine)
                self._reader.feed(data, True)
            case StagedEntries(entries) if with_log:
                self._staged += entries

    def _configured(self, record: Configured, with_log: bool) -> None:
        ctx = self.ctx
        if with_log and ctx.epoch < record.epoch and ctx.log.op >= record.op:
            ctx.execute_to(record.op, None)
        if ctx.epoch != record.epoch:
            ctx.previous = ctx.configuration.replicas
            ctx.view = ctx.last_normal_view = 0
        ctx.configure(Configuration(record.epoch, record.replicas))
        ctx.epoch_start = record.op

    def _installed(self, record: Installed, with_log: bool) -> None:
        ctx = self.ctx
        if with_log:
            entries, reader = self._staged, self._reader
            self._staged, self._reader = [], None
            if not record.image:
                ctx.log.replace_after(record.after, entries)
            elif reader is None:
                raise ValueError(f"the image at op {record.after} is not there")
            else:
                ctx.load(reader)
                ctx.log.extend(record.after + 1, entries)
            self.memory.complete = True
        ctx.last_normal_view = record.view
        ctx.view = max(ctx.view, record.view)
