"""What a simulated world holds: processes, paths between them, and what is pending."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .._ids import CorrelationId, Pid
from .._process import Outbox, Process
from ._choices import Crash
from ._disk import SimulatedJournal

MESSAGE: Final = "message"
TIMER: Final = "timer"
SYNC: Final = "sync"
SNAPSHOT: Final = "snapshot"


class Pending:
    """Something that may happen next: a message may arrive, a timer fire, a journal sync.

    Attributes: `kind`, "message", "timer", "sync" (records become durable) or "snapshot" (one becomes durable); `to`, the
    pid of the process that it concerns; `sender`, `message` and `correlation_id` of a message (a timer has the last one,
    too); `seconds`, for how long a timer was started.
    """

    __slots__ = ("_id", "alive", "copy", "correlation_id", "kind", "message", "number", "path", "seconds", "slot")

    def __init__(self, kind: str, slot: Slot, path: Path | None, message: Any, cid: CorrelationId | None) -> None:
        self.kind = kind
        self.slot = slot
        self.path = path
        self.message = message
        self.correlation_id = cid
        self.number = 0
        self.copy = 0
        self.seconds = 0.0
        self.alive = True
        self._id: str | None = None

    @property
    def id(self) -> str:
        """The name of this in choices: "r0>r1 Prepare#3", "r0 timer 1", "r0 sync" or "r0 snapshot"."""
        if self._id is None:
            self._id = self._make_id()
        return self._id

    def _make_id(self) -> str:
        if self.path is not None:
            copy = f".{self.copy}" if self.copy else ""
            return f"{self.path.name} {type(self.message).__name__}#{self.number}{copy}"
        cid = self.correlation_id
        if cid is None:
            return f"{self.slot.name} {self.kind}"
        numbers = "/".join("-" if number is None else str(number) for number in (cid.connection, cid.request))
        of = "" if cid.pid == self.slot.pid else f" of {cid.pid}"
        return f"{self.slot.name} timer {numbers.removesuffix('/-')}{of}"

    @property
    def to(self) -> Pid:
        """The process that it concerns."""
        return self.slot.pid

    @property
    def sender(self) -> Pid:
        """Who sent the message; of timers and syncs, the process itself."""
        return self.slot.pid if self.path is None else self.path.sender

    def __repr__(self) -> str:
        return f"<pending {self.id}>"


class Path:
    """Messages from one pid to another."""

    __slots__ = ("clogged_until", "copies", "counts", "cut", "last_due", "name", "receiver", "remote", "sender", "to")

    def __init__(self, sender: Pid, to: Pid, name: str, receiver: Slot | None) -> None:
        self.sender = sender
        self.to = to
        self.name = name
        self.receiver = receiver
        self.remote = sender.node != to.node
        self.cut = False
        self.counts: dict[type, int] = {}
        self.copies: dict[tuple[type, int], int] = {}
        # For the driver: times before which nothing new arrives here.
        self.last_due = 0.0
        self.clogged_until = 0.0


Held = tuple[int, Pid, Any, CorrelationId | None]
"""A message behind a barrier: how many records must be durable, to whom, what, correlation id."""


class Slot:
    """The place of a process in the world, over all its incarnations."""

    __slots__ = (
        "damaged_in", "damages", "doomed", "durable", "executor", "factory", "held", "image", "incarnation", "journal",
        "name", "output", "paths", "paused", "persisted", "pid", "process", "sync", "timers", "told", "watchers", "watching",
    )  # fmt: skip

    def __init__(self, pid: Pid, name: str, factory: Callable[[], Process], journal: SimulatedJournal | None) -> None:
        self.pid = pid
        self.name = name
        self.factory = factory
        self.journal = journal
        self.process: Process | None = None
        self.incarnation = 0
        self.output = Outbox(pid)
        self.executor = self.output._executor  # the same object, so that `is` finds what is for the executor
        self.paths: dict[Pid, Path] = {}
        self.timers: dict[CorrelationId | None, Pending] = {}
        self.watchers: dict[Pid, None] = {}
        self.watching: dict[Pid, None] = {}
        self.paused = False
        self.doomed: Crash | None = None  # for the driver: how the process crashes in its next step
        # The barrier: records of this incarnation, how many of them are durable, and what waits for how many.
        self.persisted = 0
        self.durable = 0
        self.held: deque[Held] = deque()
        self.sync: Pending | None = None
        self.image: Pending | None = None
        self.told: dict[type, Pending] = {}  # the last Persisted and Snapshotted
        # How often the journal was damaged, and in which incarnation last; 0 if that has been made good.
        self.damages = 0
        self.damaged_in = 0
