"""Clients that call, die and come again, and the record of what they were told.

A client's calls are of three kinds: writes, linearizable reads, and stale reads. Now and then a call is given up after a
moment, or a whole client dies in the middle of its calls: then nobody knows whether they were executed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final

import trio

import haret
from haret import vertree
from haret.vertree import Keys, ListKeys, MultiCas, MultiResult, Operation, Outcome, Result, SetResult, is_write

from .history import Call, to_line
from .mix import EVERYTHING, SETUP, Mix

CLIENTS: Final = 3
"""Clients of one namespace at a time."""

TASKS: Final = 3
"""Calls that one client has under way, at most."""

THINK: Final = 0.03
"""Seconds between two calls of a task, on average: the load is there to be judged, not to be a burden."""

LIFE: Final = 60.0
"""Seconds that a client lives, on average. Those that die leave calls without an answer, and so do impatient ones: enough
that some are executed after all, and so few that it can be found out which."""

IMPATIENT: Final = 0.005
"""The part of calls that are given up after a moment."""

MOMENT: Final = 0.01
"""Seconds, at most: about as long as an answer takes."""

READS: Final = 0.35
"""The part of calls that read, and want the truth."""

STALE: Final = 0.15
"""The part of calls that read, and are content with an old state."""

UNAVAILABLE: Final = 1.0
"""Seconds without an answer for a namespace that count as unavailable."""

_KNOWN_ERRORS: Final = {kind.__name__: kind for kind in vertree.Error.__args__}


class Record:
    """Everything that the clients of one namespace did, in memory and in a file."""

    def __init__(self, namespace: str, file: Path) -> None:
        self.namespace = namespace
        self.file = file
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.pauses: list[tuple[float, float]] = []
        """When no call was answered for `UNAVAILABLE` seconds: from when, and for how long. Seconds of `now`."""
        self.views: list[tuple[int, float]] = []
        """Views in which writes were answered, and when that was first so. Seconds of `now`."""
        self.complaints: list[str] = []
        """What clients were told that is neither an answer nor an error that they have to expect."""
        self.written = 0.0
        """When the newest write that was answered had begun. Seconds of `now`."""
        self._stream = file.open("w")
        self._answered = now()
        self._changed = trio.Event()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def add(self, call: Call) -> None:
        """A call has come to its end."""
        self.calls.append(call)
        self._stream.write(to_line(call))
        writes = is_write(call.operation)
        self.counts["writes" if writes else "stale_reads" if call.stale else "reads"] += 1
        if call.answered is None:
            self.counts["unanswered"] += 1
            return
        if call.op is None:
            self.counts["errors"] += 1
        self._note_pause(call.answered / 1e9)
        if writes:
            self.written = max(self.written, call.invoked / 1e9)
            if call.view is not None and (not self.views or call.view > self.views[-1][0]):
                self.views.append((call.view, call.answered / 1e9))
            self._changed.set()
            self._changed = trio.Event()

    async def written_after(self, when: float) -> None:
        """Wait until a write has been answered that began after this time."""
        while self.written <= when:
            await self._changed.wait()

    def _note_pause(self, answered: float) -> None:
        if answered - self._answered >= UNAVAILABLE:
            self.pauses.append((self._answered, answered - self._answered))
        self._answered = max(self._answered, answered)


def now() -> float:
    """Seconds of the clock of histories."""
    return time.monotonic_ns() / 1e9


class _Calling:
    """Records one call, however its block ends."""

    def __init__(self, record: Record, client: int, operation: Operation, *, stale: bool) -> None:
        self.outcome: Outcome | None = None
        self._record = record
        self._call = (client, operation)
        self._stale = stale
        self._known: tuple[int | None, int | None] = (None, None)
        self._happened = True

    def __enter__(self) -> _Calling:
        self._invoked = time.monotonic_ns()
        return self

    def answer(self, reply: haret.Reply[Any]) -> None:
        """There was a result."""
        self.outcome = to_result(self._call[1], reply)
        self._known = reply.op, reply.view

    def __exit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> bool:
        if isinstance(error, haret.HaretError):
            self.outcome, self._happened = _to_outcome(error, self._record.complaints)
        if self._happened:
            answered = None if self.outcome is None else time.monotonic_ns()
            self._record.add(Call(*self._call, self._invoked, answered, self.outcome, *self._known, self._stale))
        return isinstance(error, haret.HaretError)


def to_result(operation: Operation, reply: haret.Reply[Any]) -> Outcome:
    """The answer of the tree that a client made this reply of."""
    if isinstance(operation, ListKeys):
        return Keys(tuple(tuple(key) for key in reply.value), reply.version, reply.more)
    if isinstance(operation, MultiCas):
        return MultiResult(reply.value, reply.version)
    kind = SetResult if isinstance(reply.value, frozenset) else Result
    return kind(reply.value, reply.version)


def _to_outcome(error: haret.HaretError, complaints: list[str]) -> tuple[Outcome | None, bool]:
    """The answer of the tree that became this error, or None; and whether the call may have been executed."""
    kind = _KNOWN_ERRORS.get(type(error).__name__)
    if kind is not None:
        return kind(*error.args), True
    if isinstance(error, haret.Unavailable):
        return None, error.ambiguous
    if not isinstance(error, haret.SessionExpired):
        complaints.append(f"{type(error).__name__}: {error}")
    return None, True


class Load:
    """The clients of one namespace. `new_number` gives each client its own."""

    def __init__(self, record: Record, endpoints: Sequence[str], random: Random, new_number: Callable[[], int]) -> None:
        self._record = record
        self._endpoints = endpoints
        self._random = random
        self._new_number = new_number

    async def prepare(self) -> None:
        """Make the namespace ready."""
        await self._all(SETUP)

    async def read_everything(self) -> None:
        """See how things stand, as somebody new."""
        await self._all(EVERYTHING)

    async def run(self, stopping: trio.Event) -> None:
        """Call until told to stop; then end with the calls that are under way."""
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._lives, stopping)

    async def _all(self, operations: Sequence[Operation]) -> None:
        number = self._new_number()
        async with self._open() as client:
            for operation in operations:
                with _Calling(self._record, number, operation, stale=False) as calling:
                    calling.answer(await client.execute(operation))

    def _open(self) -> Any:
        where = self._random.sample(self._endpoints, len(self._endpoints))
        return haret.open_client(where, self._record.namespace, give_up_after=math.inf)

    async def _lives(self, stopping: trio.Event) -> None:
        """One client after the other."""
        while not stopping.is_set():
            number = self._new_number()
            with trio.move_on_after(self._random.expovariate(1 / LIFE)) as life:
                async with self._open() as client, trio.open_nursery() as nursery:
                    for task in range(TASKS):
                        mix = Mix(self._random, b"%d.%d" % (number, task))
                        nursery.start_soon(self._call, client, number, mix, stopping)
            self._record.counts["clients"] += 1
            self._record.counts["clients_that_died"] += life.cancelled_caught

    async def _call(self, client: haret.Client, number: int, mix: Mix, stopping: trio.Event) -> None:
        chance = self._random.random
        while not stopping.is_set():
            kind = chance()
            operation = mix.read() if kind < READS + STALE else mix.write()
            stale = kind < STALE
            with trio.CancelScope() as patience:
                if chance() < IMPATIENT:
                    patience.deadline = trio.current_time() + MOMENT * chance()
                with _Calling(self._record, number, operation, stale=stale) as calling:
                    calling.answer(await client.execute(operation, stale=stale))
                if calling.outcome is not None:
                    mix.learn(operation, calling.outcome)
            await trio.sleep(THINK * 2 * chance())
