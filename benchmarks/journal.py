"""The durable journal: how long a sync takes, what records cost the event loop, and processes that persist each message.

Its peer is SQLite alone: the same records, one row each, without checksums, threads or an event loop. Both sync the same
disk, whose own time for 8 KiB is a row of the table, as it is most of the time of small rounds.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from rabble_trio import CorrelationId, NodeId, Outbox, Persisted, Pid, Process, message, open_node
from rabble_trio._sqlite_journal import SqliteJournal

from .harness import Row, Timed, rate

NODE = NodeId.parse("bench@127.0.0.1:1")
RECORD = b"y" * 100
ROUNDS = [(1, 1), (10, 1), (100, 1), (1000, 1), (100, 100), (1000, 1000)]
"""Records in a round, and of how many processes."""
MESSAGES = 20_000


def repeats(records: int) -> int:
    """Rounds to measure, so that none takes long."""
    return max(20, min(300, 30_000 // records))


def disk(directory: Path) -> list[float]:
    """Seconds of a sync of the disk alone."""
    seconds = []
    with (directory / "disk").open("wb", buffering=0) as file:
        for _ in range(repeats(1)):
            file.write(bytes(8192))
            start = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - start)
    return seconds


def bare(directory: Path, records: int, processes: int) -> list[float]:
    """Seconds of each round of SQLite alone."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    for setting in ("locking_mode = exclusive", "journal_mode = wal", "synchronous = full"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    connection.execute("CREATE TABLE record (process, number, data, PRIMARY KEY (process, number)) WITHOUT ROWID")
    seconds = []
    for turn in range(repeats(records)):
        rows = [(number % processes, turn * records + number, RECORD) for number in range(records)]
        start = time.perf_counter()
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        seconds.append(time.perf_counter() - start)
    connection.close()
    return seconds


def ours(directory: Path, records: int, processes: int) -> tuple[list[float], float]:
    """Seconds of each sync, and seconds that a record takes on the event loop before that."""

    async def main() -> tuple[list[float], float]:
        journal = await SqliteJournal.open(directory, NODE)
        pids = [Pid(f"p{number}", NODE) for number in range(processes)]
        appended = 0.0
        seconds = []
        for _ in range(repeats(records)):
            start = time.perf_counter()
            for number in range(records):
                journal.append(pids[number % processes], RECORD)
            middle = time.perf_counter()
            await journal.sync()
            seconds.append(time.perf_counter() - middle)
            appended += middle - start
        await journal.aclose()
        return seconds, appended / (len(seconds) * records)

    return trio.run(main)


@message
class Keep:
    """Persist this, and answer when it is durable."""

    data: bytes


class Keeper(Process):
    """Persists each message."""

    def restore(self, snapshot: bytes | None, records: Any) -> None:
        """Nothing is kept."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Persist, and answer."""
        if not isinstance(message, Persisted):
            output.persist(RECORD)
            output.send(sender, message, correlation_id)


def processes(data_dir: str | None, in_flight: int) -> Timed:
    """Messages to a process that persists each of them, so many of them unanswered at a time."""
    count = MESSAGES if in_flight > 1 else MESSAGES // 20

    async def main() -> float:
        async with open_node("bench@127.0.0.1:0", data_dir=data_dir) as node, node.open_mailbox("client") as mailbox:
            keeper = await node.spawn("keeper", Keeper)
            start = time.perf_counter()
            for _ in range(in_flight):
                await mailbox.send(keeper, Keep(b""))
            for _ in range(count - in_flight):
                await mailbox.receive()
                await mailbox.send(keeper, Keep(b""))
            for _ in range(in_flight):
                await mailbox.receive()
            return time.perf_counter() - start

    return Timed(count, trio.run(main))


def in_directory(body: Callable[[str], Timed]) -> Callable[[], Timed]:
    """Each run with a directory of its own."""

    def run_in_directory() -> Timed:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            return body(directory)

    return run_in_directory


def run() -> list[Row]:
    """Measure all."""
    rows = []
    for records, pids in ROUNDS:
        measure = f"journal: a sync of {records} records of {pids} processes, median"
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            seconds, each = ours(directory, records, pids)
            rows += [
                Row(measure, "rabble_trio, durable journal", statistics.median(seconds) * 1e6, "us"),
                Row(measure, "sqlite3 alone", statistics.median(bare(directory, records, pids)) * 1e6, "us"),
                Row(measure, "fsync alone", statistics.median(disk(directory)) * 1e6, "us"),
                Row(f"{measure}: event loop, per record", "rabble_trio, durable journal", each * 1e6, "us", target=3.0),
            ]
    for in_flight in (1, 100, 1000):
        measure = f"process that persists each message, {in_flight} in flight"
        rows += [
            rate(measure, "rabble_trio, durable", in_directory(lambda name, n=in_flight: processes(name, n))),
            rate(measure, "in memory", lambda n=in_flight: processes(None, n)),
        ]
    return rows
