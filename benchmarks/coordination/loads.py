"""A load, and how a client measures itself under it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KEYS = 1000
"""Different keys that are written and read, in turn: enough that a store can't live on one."""

TICKS = os.sysconf("SC_CLK_TCK")
"""Of the kernel's accounts of processor time, in a second."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests in flight, for so long. Times in seconds, sizes in bytes."""

    kind: str
    """"write", or "read": the newest value, whoever wrote it (linearizable)."""
    size: int
    """Of a value."""
    in_flight: int
    """Requests under way at any time, over all connections."""
    connections: int = 1
    """Over which they are spread evenly."""
    seconds: float = 1.6
    """For which it is measured."""
    warm_up: float = 0.4
    """For which it runs before that."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What the load is, however long it takes."""
        return self.kind, self.size, self.in_flight, self.connections

    def __str__(self) -> str:
        size = f"{self.size} B" if self.size < 1024 else f"{self.size // 1024} KiB"
        how = "one connection" if self.connections == 1 else f"{self.connections} connections"
        return f"{self.kind}s of {size}, {self.in_flight:,} in flight on {how}"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a load. Latencies in seconds, as the client saw them."""

    count: int
    """Requests that completed in the measured time."""
    seconds: float
    """The measured time."""
    p50: float
    """The median latency."""
    p99: float
    """One of 100 took longer."""
    p999: float
    """One of 1,000 did."""
    cpu: float
    """Seconds of processor time, of all servers and the client."""
    failed: int = 0
    """Requests that ended with an error; they are not in `count`."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.count / self.seconds

    @property
    def cpu_per_request(self) -> float:
        """Seconds of processor time for one request."""
        return self.cpu / max(1, self.count)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Recorder:
    """Measures one load from inside of its client: call `done` for each request that completes.

    `pids`: processes whose time counts, besides this one.
    """

    def __init__(self, load: Load, pids: Iterable[int]) -> None:
        gc.collect()
        self._pids = {os.getpid(), *pids}
        self._latencies: list[float] = []
        self._opens = time.perf_counter() + load.warm_up
        self._closes = self._opens + load.seconds
        self._opened: tuple[float, float] | None = None
        self._closed: tuple[float, float] | None = None
        self.failed = 0

    def done(self, started: float) -> bool:
        """A request that began at `started`, of `time.perf_counter`, has completed. Tells whether to go on."""
        now = time.perf_counter()
        if now < self._opens:
            return True
        if self._opened is None:
            self._opened = now, cpu_seconds(self._pids)
        if now < self._closes:
            self._latencies.append(now - started)
            return True
        self._close(now)
        return False

    def _close(self, now: float) -> None:
        if self._closed is None:
            self._closed = now, cpu_seconds(self._pids)

    def report(self) -> Report:
        """What was measured."""
        self._close(time.perf_counter())
        assert self._closed is not None
        opened = self._opened or self._closed
        return report(self._latencies, self._closed[0] - opened[0], self._closed[1] - opened[1], self.failed)


def report(latencies: Sequence[float], seconds: float, cpu: float, failed: int = 0) -> Report:
    """A report from all latencies; zeros if there are none."""
    ordered = sorted(latencies)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    return Report(len(ordered), seconds, percentile(0.5), percentile(0.99), percentile(0.999), cpu, failed)


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that these processes have used, in user and kernel mode, over all their threads."""
    return sum(_ticks(pid) for pid in set(pids)) / TICKS


def _ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before it may have spaces
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def memory_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes occupy."""
    total = 0
    for pid in set(pids):
        try:
            with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
                total += int(file.read().split()[1]) * _PAGE
        except OSError:
            pass
    return total


def value_of(size: int) -> bytes:
    """A value that does not compress to nothing."""
    return bytes(number * 131 % 251 for number in range(size))
