"""The flight recorder of a node: it notes what processes receive, and writes that down when one fails.

Rules:

1. A tape stands before each process that is recorded, as a process itself. Where nothing is recorded nothing stands, so
   it costs nothing.
2. Only what a process itself raises out of `restore`, `damaged`, `init` or `handle` is a failure. Who is killed,
   cancelled or loses the journal has not failed.
3. Files are written in a worker thread, one after the other. What goes wrong with that is logged and counted, and harms
   nobody.
4. Everything is bounded: what one process holds, how many are recorded, how many flights wait to be written, and how
   many files there are.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

from ._actor import Actor
from ._errors import EncodeError
from ._flight import OVERHEAD, Ended, Flight, Picture, Start, size_of
from ._ids import CorrelationId, Pid
from ._messages import Timeout
from ._plain import call_to_json, name_of
from ._process import Outbox, Process
from ._show import Printer, describe

logger = logging.getLogger("rabble_trio.recorder")

MAX_INPUTS: Final = 100_000
"""Of one flight: more make a file that nobody steps through."""

MAX_SIZE: Final = 16 * 2**20
"""Bytes of one flight: a file of more than four times that would not be read again."""

MAX_WAITING: Final = 16
"""Flights that wait to be written; when many processes fail at once, the first ones tell why."""

FAREWELL: Final = 5.0
"""Seconds that a node that ends gives its last flights to be written: what made it end is among them."""

SUFFIX: Final = ".schedule"
_OURS: Final = re.compile(r"(.+)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}\.schedule")


@dataclass(frozen=True, slots=True)
class FlightRecorder:
    """How a node records its processes: hand it to `rabble_trio.open_node`.

    Of each process the last messages are kept, in order, and whatever else decides what it does. When it fails, they are
    written to a file, a schedule that `rabble-step` replays up to the failure. The file holds what the messages hold, so
    only its owner may read it. Raises `ValueError` for what can't be.
    """

    folder: str | os.PathLike[str]
    """Where the files go. It is made when the first one is written."""
    inputs: int = 10_000
    """Messages kept of each process, at most 100,000. At least three quarters of them are there when it fails."""
    size: int = 8 * 2**20
    """About how many bytes of memory they may hold, at most 16 MiB."""
    only: Collection[str] | None = None
    """Names of processes, or of groups of them, that are recorded; by default all."""
    processes: int = 100
    """How many are recorded at once, and so a bound for the memory of all; those started beyond it are not."""
    files: int = 50
    """How many files may be in the folder. When there are more, the process with the most loses its oldest."""

    def __post_init__(self) -> None:
        if not 1 <= self.inputs <= MAX_INPUTS or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"inputs is 1 to {MAX_INPUTS}, and size 1 to {MAX_SIZE}, not {self.inputs}, {self.size}")
        if self.processes < 1 or self.files < 1:
            raise ValueError(f"processes and files are 1 or more, not {self.processes}, {self.files}")
        if isinstance(self.only, str):
            raise ValueError(f"only is a collection of names: [{self.only!r}]")  # noqa: TRY004 - one error for all of them

    def records(self, pid: Pid) -> bool:
        """Whether a process is recorded."""
        return self.only is None or pid.name in self.only or (pid.group is not None and pid.group in self.only)


class Tape(Process):
    """Stands before a process, notes what it receives, and passes it on."""

    def __init__(
        self, plan: FlightRecorder, actor: Actor, process: Process, factory: Any, land: Callable[[Ended], None]
    ):
        self._plan = plan
        self._actor = actor
        self._process = process
        self._land = land
        self._why_not = ""
        self._class = name_of(type(process))
        self._gives_state = type(process).flight_state is not Process.flight_state
        self._handle = process.handle
        make = None
        try:
            make = call_to_json(process.flight_recipe or factory)
        except (TypeError, EncodeError) as error:
            self._why_not = (
                f"nobody knows how to make this process again, because {error}: spawn it with a class, a function of a "
                "module, or a functools.partial of one with plain arguments; see rabble_trio.Process.flight_recipe"
            )
        self.flight = Flight(plan.inputs, plan.size, Start(make))
        self.flight.full = make is None  # so that its state is asked for before the first message

    def __repr__(self) -> str:
        return repr(self._process)

    def restore(self, snapshot: bytes | None, records: Sequence[bytes]) -> None:
        """Note what is restored, if that is not too much."""
        size = len(snapshot or b"") + sum(OVERHEAD + len(record) for record in records)
        self._begins(size, snapshot, records)
        self._guarded(partial(self._process.restore, snapshot, records))

    def damaged(self, reason: str) -> None:
        """Note that nothing is restored."""
        self._begins(len(reason), None, (), reason)
        self._guarded(partial(self._process.damaged, reason))

    def _begins(self, size: int, snapshot: bytes | None, records: Sequence[bytes], damaged: str | None = None) -> None:
        begin = self.flight.last.begin
        make = begin.make if isinstance(begin, Start) else None
        start: Start | None = Start(make, snapshot, records, damaged)
        if size > self._plan.size:
            start = None
            self._why_not = f"it was restored from {size} bytes, and FlightRecorder keeps {self._plan.size}"
        self.flight = Flight(self._plan.inputs, self._plan.size, start, size if start else 0)
        self.flight.full = start is None or start.make is None

    def init(self, pid: Pid, output: Outbox) -> None:
        """Pass it on."""
        self._guarded(partial(self._process.init, pid, output))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._failed(error)
            raise

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Note the message, and pass it on."""
        flight = self.flight
        if flight.full:
            self._turn(message, correlation_id)
        flight.add((message, sender, correlation_id), size_of(message))
        try:
            self._handle(message, sender, correlation_id, output)
        except Exception as error:
            self._failed(error)
            raise

    def _turn(self, message: Any, cid: CorrelationId | None) -> None:
        """Begin a new segment, with a picture of the state if the process gives one."""
        picture = None
        if self._gives_state and self._class is not None:
            try:
                encode = self._process.flight_state()
            except Exception:
                # A defect of what exists for defects must not make another one.
                logger.exception("%s: flight_state() failed, and is not asked again", self._actor.pid)
                encode, self._gives_state = None, False
            if encode is not None:
                # The timer that fires now does not run any more, but did when the state was this.
                fires = [(cid, 0.0)] if type(message) is Timeout else []
                picture = Picture(self._class, encode, [*fires, *self._timers()], self._actor.persisted)
        self.flight.turn(picture)

    def _timers(self) -> list[tuple[CorrelationId | None, float]]:
        running, now = self._actor.timers, trio.current_time()
        entries = sorted(self._actor.timer_heap, key=lambda entry: entry[:2])
        return [(cid, max(0.0, due - now)) for due, number, cid in entries if running.get(cid) == number]

    def _failed(self, error: Exception) -> None:
        process, pid = self._process, self._actor.pid
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        self._land(Ended(pid, self.flight, self._why_not, when, describe(error), lambda: Printer(str).state(process)))


class NodeRecorder:
    """The flight recorder at work on one node."""

    def __init__(self, plan: FlightRecorder) -> None:
        self._plan = plan
        self._tapes: WeakValueDictionary[Pid, Tape] = WeakValueDictionary()
        self._waiting: deque[Ended] = deque()
        self._wake = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._shield = trio.CancelScope(shield=True)  # around what is being written
        self._is_closing = False
        self._is_full = False
        self.saved = 0
        self.lost = 0

    def watch(self, actor: Actor, process: Process, factory: Any) -> Process:
        """Put a tape before a process that was just made, if it is to be recorded."""
        plan = self._plan
        if not plan.records(actor.pid):
            return process
        if len(self._tapes) >= plan.processes and actor.pid not in self._tapes:
            if not self._is_full:
                logger.warning("%d processes are recorded: %s and others are not", plan.processes, actor.pid)
            self._is_full = True
            return process
        tape = self._tapes[actor.pid] = Tape(plan, actor, process, factory, self._land)
        return tape

    def _land(self, ended: Ended) -> None:
        # Perhaps in a worker thread, where a process is restored from much.
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            logger.error("the flight of %s is lost: %d others wait to be written", ended.pid, MAX_WAITING)
            return
        self._waiting.append(ended)
        self._token.run_sync_soon(self._wake_up)

    def _wake_up(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Write the flights of processes that failed, until cancelled; then those that wait, if there is time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_all, name="flights")
            try:
                await trio.sleep_forever()
            finally:
                self._is_closing = True
                self._shield.deadline = trio.current_time() + FAREWELL
                self._wake.set()

    async def _write_all(self) -> None:
        # Shielded, because a flight that is half written when the node is cancelled is the one that tells why.
        with self._shield:
            while self._waiting or not self._is_closing:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._waiting:
                    await self._write(self._waiting[0])
                    self._waiting.popleft()
        for ended in self._waiting:
            self.lost += 1
            logger.error("the flight of %s is lost: it could not be written within %g s", ended.pid, FAREWELL)

    async def _write(self, ended: Ended) -> None:
        try:
            path = await trio.to_thread.run_sync(write, self._plan, ended, abandon_on_cancel=True)
        except Exception as error:
            self.lost += 1
            logger.error("the flight of %s is lost: %s", ended.pid, describe(error))
        else:
            self.saved += 1
            logger.error("the flight of %s can be looked at: rabble-step %s", ended.pid, path)

    def counters(self) -> dict[str, int]:
        """For the metrics of the node."""
        return {"flights_saved": self.saved, "flights_lost": self.lost}

    def gauges(self) -> dict[str, float]:
        """For the metrics of the node."""
        tapes = list(self._tapes.values())
        return {"flights_recording": float(len(tapes)), "flights_bytes": float(sum(tape.flight.size for tape in tapes))}


def write(plan: FlightRecorder, ended: Ended) -> Path:
    """Write a flight to a new file, and remove what is too many. Returns its path. Raises `OSError`."""
    folder = Path(plan.folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = "-".join(part for part in (ended.pid.group, ended.pid.name) if part)[:200]  # of harmless characters
    stamp = ended.when.removesuffix(" UTC").replace(" ", "T").replace(":", "-")
    path = folder / f"{name}-{stamp}{SUFFIX}"
    unfinished = path.with_suffix(".part")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in ended.lines())
    unfinished.rename(path)
    _remove_too_many(folder, plan.files)
    return path


def _remove_too_many(folder: Path, most: int) -> None:
    """Remove files until there are few enough: always the oldest of the process that has the most."""
    names = sorted(path.name for path in folder.iterdir() if _OURS.fullmatch(path.name))
    while len(names) > most:
        counts = Counter(_process_of(name) for name in names)
        crowd = max(counts, key=lambda process: counts[process])
        oldest = next(name for name in names if _process_of(name) == crowd)
        (folder / oldest).unlink(missing_ok=True)
        names.remove(oldest)


def _process_of(name: str) -> str:
    found = _OURS.fullmatch(name)
    return found.group(1) if found else ""
