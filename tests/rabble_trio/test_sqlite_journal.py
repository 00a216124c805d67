"""The durable journal: its thread, its failures, kill -9, and nodes with a data directory."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rabble_trio._journal_open as journal_open
import rabble_trio._persistence as persistence
import rabble_trio._sqlite_journal as sqlite_journal
from rabble_trio import (
    ChildFailed,
    CorrelationId,
    JournalError,
    ListenFailed,
    MemoryJournal,
    Outbox,
    Persisted,
    Pid,
    Process,
    RecordError,
    Snapshotted,
    Stored,
    message,
    open_node,
)
from rabble_trio._sqlite_journal import SqliteJournal

NODE = "n1@127.0.0.1:0"
A, B = (Pid.parse(f"{name}::n1@127.0.0.1:1") for name in "ab")


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[SqliteJournal]:
    """A journal of node n1, closed at the end."""
    journal = await SqliteJournal.open(directory, A.node)
    try:
        yield journal
    finally:
        await journal.aclose()


# --- The journal --------------------------------------------------------------------------------------------------------


async def test_tasks_share_rounds_and_each_finds_its_records_durable(tmp_path: Path) -> None:
    async def persist(journal: SqliteJournal, pid: Pid) -> None:
        for number in range(20):
            assert journal.append(pid, b"%d" % number) == number + 1
            await journal.sync()
            stored = await journal.load(pid)
            assert stored == Stored(None, tuple(b"%d" % known for known in range(number + 1)))

    pids = [Pid(f"p{number}", A.node) for number in range(10)]
    async with opened(tmp_path) as journal:
        assert not journal.used
        async with trio.open_nursery() as nursery:
            for pid in pids:
                nursery.start_soon(persist, journal, pid)
        assert journal.used
    async with opened(tmp_path) as journal:
        assert [journal.last_index(pid) for pid in pids] == [20] * 10
        assert journal.append(pids[0], b"20") == 21


async def test_a_sync_of_nothing_waits_for_what_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT" and threading.current_thread().name.startswith("journal of"):
                go.wait(10)
            return super().execute(sql, *values)

    done = []

    async def sync() -> None:
        await journal.sync()
        done.append(go.is_set())

    go.set()
    monkeypatch.setattr(journal_open, "connect", partial(sqlite3.connect, factory=Slow))
    async with opened(tmp_path) as journal:
        go.clear()
        journal.append(A, b"1")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(sync)
                await wait_all_tasks_blocked()
            go.set()
        assert done == [True] * 3
        await journal.sync()


async def test_a_sync_that_is_cancelled_is_carried_out(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        journal.append(A, b"1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.sync()
        assert scope.cancelled_caught
        journal.append(A, b"2")
        await journal.sync()
        assert await journal.load(A) == Stored(None, (b"1", b"2"))


async def test_a_snapshot_may_cover_what_is_not_synced_yet(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        for number in range(5):
            journal.append(A, b"%d" % number)
        await journal.replace(A, 3, b"0 to 2")
        assert await journal.load(A) == Stored(b"0 to 2", (b"3", b"4"))
        await journal.replace(B, 0, b"")
        assert await journal.load(B) == Stored(b"", ())


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal, trio.open_nursery() as nursery:
        journal.append(A, b"1")
        nursery.start_soon(journal.replace, A, 1, bytes(1_000_000))
        await wait_all_tasks_blocked(0)
        journal.append(A, b"2")
        await journal.aclose()
    async with opened(tmp_path) as journal:
        assert await journal.load(A) == Stored(bytes(1_000_000), (b"2",))
    await journal.aclose()
    with pytest.raises(JournalError, match="closed"):
        await journal.sync()
    with pytest.raises(JournalError, match="closed"):
        await journal.load(A)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("journal of")]


async def test_a_record_that_is_too_large_is_the_fault_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_journal, "MAX_RECORD", 10)
    async with opened(tmp_path) as journal:
        with pytest.raises(ValueError, match=r"a record of a::n1@127.0.0.1:1 has 11 bytes, and 10 are allowed"):
            journal.append(A, bytes(11))
        journal.append(A, bytes(10))
        await journal.sync()


# --- Failures -----------------------------------------------------------------------------------------------------------


class Disk(sqlite3.Connection):
    """A connection whose disk gets full, or fails at the next statement that contains a word."""

    fails_at: str | None = None
    full = False
    statements = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        Disk.statements += 1
        if Disk.fails_at is not None and Disk.fails_at in sql:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        if Disk.full:
            [(pages,)] = super().execute("PRAGMA page_count").fetchall()
            super().execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return super().execute(sql, *values)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[Disk]:
    """What every connection from now on is."""
    monkeypatch.setattr(journal_open, "connect", partial(sqlite3.connect, factory=Disk))
    monkeypatch.setattr(Disk, "fails_at", None)
    monkeypatch.setattr(Disk, "full", False)
    return Disk


@pytest.mark.parametrize("fault", ["BEGIN", "COMMIT", "INSERT INTO record", "full"])
async def test_a_failing_disk_is_final(tmp_path: Path, disk: type[Disk], fault: str) -> None:
    with pytest.raises(JournalError, match="disk"):
        async with opened(tmp_path) as journal:
            journal.append(A, b"durable")
            await journal.sync()
            if fault == "full":
                disk.full = True
            else:
                disk.fails_at = fault
            journal.append(A, bytes(100_000))
            advice = "Make room on its disk" if fault == "full" else "Look after the disk"
            for _ in range(2):
                with pytest.raises(JournalError, match=rf"journal\.db: .*\. {advice}"):
                    await journal.sync()
            disk.full, disk.fails_at = False, None
            # It is not tried again, although it would succeed now.
            statements = disk.statements
            for wait in (journal.sync(), journal.load(A), journal.replace(A, 1, b"")):
                with pytest.raises(JournalError):
                    await wait
            assert disk.statements == statements
            journal.append(A, b"too late")
            await journal.sync()
    async with opened(tmp_path) as journal:
        assert await journal.load(A) == Stored(None, (b"durable",))


async def test_who_waits_for_many_is_called_when_it_is_over(tmp_path: Path, disk: type[Disk]) -> None:
    told: list[JournalError | None] = []

    async def tells(count: int) -> None:
        with trio.fail_after(10):
            while len(told) < count:  # it is called by the event loop
                await trio.lowlevel.checkpoint()

    async with opened(tmp_path) as journal:
        journal.append(A, b"durable")
        assert journal.start_sync(told.append)
        journal.append(A, b"more")
        assert journal.start_sync(told.append)
        await tells(2)
        assert told == [None, None]
        disk.fails_at = "COMMIT"
        journal.append(A, b"too late")
        assert journal.start_sync(told.append)
        await tells(3)
        assert "Look after the disk" in str(told[2])
        assert not journal.start_sync(told.append)  # nothing is begun any more
        disk.fails_at = None
    assert len(told) == 3
    async with opened(tmp_path) as journal:
        assert await journal.load(A) == Stored(None, (b"durable", b"more"))
    assert not journal.start_sync(told.append)


async def test_all_who_wait_are_told_that_the_disk_failed(tmp_path: Path, disk: type[Disk]) -> None:
    failed = []

    async def wait(what: Any) -> None:
        try:
            await what()
        except JournalError:
            failed.append(what)

    async with opened(tmp_path) as journal:
        journal.append(A, b"1")
        disk.fails_at = "INSERT OR REPLACE INTO chunk"
        async with trio.open_nursery() as nursery:
            for what in (partial(journal.replace, A, 1, b"2"), partial(journal.replace, A, 1, b"3")):
                nursery.start_soon(wait, what)
        assert len(failed) == 2
    await journal.aclose()


async def test_an_error_at_the_end_is_logged_and_loses_nothing(
    tmp_path: Path, disk: type[Disk], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as journal:
        journal.append(A, b"durable")
        await journal.sync()
        disk.fails_at = "wal_checkpoint(TRUNCATE)"
    assert "disk I/O error. Look after the disk" in caplog.text
    disk.fails_at = None
    async with opened(tmp_path) as journal:
        assert await journal.load(A) == Stored(None, (b"durable",))


async def test_a_disk_that_fails_at_the_start_is_a_clear_error(tmp_path: Path, disk: type[Disk]) -> None:
    async with opened(tmp_path):
        pass
    disk.fails_at = "PRAGMA journal_mode"
    with pytest.raises(JournalError, match=r"journal\.db: disk I/O error. Look after the disk"):
        await SqliteJournal.open(tmp_path, A.node)
    disk.fails_at = None
    async with opened(tmp_path) as journal:
        assert await journal.load(A) is None


def test_what_was_said_to_be_durable_is_there_after_kill_9(tmp_path: Path) -> None:
    said: dict[str, int] = {}
    for lines in (3, 40, 90, 1):
        program = [sys.executable, str(Path(__file__).with_name("journal_writer.py")), str(tmp_path)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(lines):
                name, last = process.stdout.readline().split()
                said[name] = int(last)
            process.kill()
            for line in process.stdout:
                if line.endswith("\n"):
                    name, last = line.split()
                    said[name] = int(last)
        trio.run(check_count, tmp_path, said)


async def check_count(directory: Path, said: dict[str, int]) -> None:
    async with opened(directory) as journal:
        for name, last in said.items():
            stored = await journal.load(Pid(name, A.node))
            assert stored is not None
            assert stored.damage is None
            covered = int((stored.snapshot or b"0").split()[0])
            numbers = [int(record) for record in stored.records]
            assert numbers == list(range(covered + 1, covered + 1 + len(numbers)))
            assert covered + len(numbers) >= last


# --- Nodes --------------------------------------------------------------------------------------------------------------


@message
class Keep:
    """Persist this and answer; with "snapshot", also take one."""

    text: str


class Keeper(Process):
    """Keeps what it is told, and lives with damage if it is told so."""

    def __init__(self, brave: bool = False) -> None:
        self.brave = brave
        self.snapshot: bytes | None = None
        self.records: list[bytes] = []
        self.events: list[str] = []
        self.thread: threading.Thread | None = None

    def restore(self, snapshot: bytes | None, records: Any) -> None:
        self.snapshot, self.records = snapshot, list(records)
        self.thread = threading.current_thread()

    def damaged(self, reason: str) -> None:
        if not self.brave:
            super().damaged(reason)
        self.events.append(reason)

    def init(self, pid: Pid, output: Outbox) -> None:
        self.events.append("init")

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Keep(text):
                self.records.append(text.encode())
                output.persist(text.encode())
                if text == "snapshot":
                    output.snapshot(partial(b",".join, tuple(self.records)))
                output.send(sender, message, correlation_id)
            case Persisted(count):
                self.events.append(f"persisted {count}")
            case Snapshotted(size):
                self.events.append(f"snapshotted {size}")
                output.send(Pid("test", output.pid.node), message)


async def test_what_a_process_persisted_is_there_in_the_next_life_of_its_node(tmp_path: Path) -> None:
    async with open_node(NODE, data_dir=tmp_path) as node, node.open_mailbox("test") as mailbox:
        keeper = Keeper()
        pid = await node.spawn("keeper", lambda: keeper)
        for text in ("1", "snapshot"):
            await node.ask(pid, Keep(text))
        assert (await mailbox.receive()).message == Snapshotted(len(b"1,snapshot"))
        await node.ask(pid, Keep("2"))
        await wait_all_tasks_blocked()
        assert keeper.events == ["init", "persisted 1", "persisted 2", "snapshotted 10", "persisted 3"]
    async with open_node(NODE, data_dir=tmp_path) as node:  # on another port, by the way
        keeper = Keeper()
        await node.spawn("keeper", lambda: keeper)
        assert (keeper.snapshot, keeper.records, keeper.events) == (b"1,snapshot", [b"2"], ["init"])
        assert keeper.thread is threading.current_thread()
        other = Keeper()
        await node.spawn("other", lambda: other)
        assert other.events == ["init"]


async def test_much_is_restored_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "RESTORE_INLINE", 10)
    here = threading.current_thread()
    for text, in_thread in (("1234567890", None), ("x", False), ("y", True)):
        async with open_node(NODE, data_dir=tmp_path) as node:
            keeper = Keeper()
            pid = await node.spawn("keeper", lambda keeper=keeper: keeper)
            assert in_thread is None or (keeper.thread is not here) is in_thread
            await node.ask(pid, Keep(text))
    assert keeper.records == [b"1234567890", b"x", b"y"]


async def test_a_process_that_can_not_live_with_damage_does_not_start_however_often_it_is_tried(tmp_path: Path) -> None:
    await keep(tmp_path, "1")
    (tmp_path / "journal.db").unlink()
    for _ in range(2):
        async with open_node(NODE, data_dir=tmp_path) as node:
            with pytest.raises(JournalError, match=r"the journal of Keeper is damaged: .*journal\.db is gone"):
                await node.spawn("keeper", Keeper)


async def keep(directory: Path, text: str) -> None:
    """A life of a node in which one record is persisted."""
    async with open_node(NODE, data_dir=directory) as node:
        await node.ask(await node.spawn("keeper", partial(Keeper, brave=True)), Keep(text))


async def test_a_process_that_can_begins_anew_and_is_told_until_something_of_that_is_durable(tmp_path: Path) -> None:
    await keep(tmp_path, "1")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
        connection.execute("DELETE FROM record")
    for _ in range(2):
        async with open_node(NODE, data_dir=tmp_path) as node:
            keeper = Keeper(brave=True)
            await node.spawn("keeper", lambda keeper=keeper: keeper)
            assert keeper.events == ["record 1 is missing, and 1 were synced", "init"]
    await keep(tmp_path, "anew")
    async with open_node(NODE, data_dir=tmp_path) as node:
        keeper = Keeper()
        await node.spawn("keeper", lambda: keeper)
        assert keeper.records == [b"anew"]


async def test_a_full_disk_ends_those_that_persist_and_nothing_is_said_that_is_not_on_disk(
    tmp_path: Path, disk: type[Disk], caplog: pytest.LogCaptureFixture
) -> None:
    heard = []
    with pytest.raises(ChildFailed) as caught, caplog.at_level(logging.CRITICAL):
        async with open_node(NODE, data_dir=tmp_path) as node, node.open_mailbox("test") as mailbox:
            pid = await node.spawn("keeper", Keeper)
            await mailbox.send(pid, Keep("durable"))
            heard.append((await mailbox.receive()).message)
            disk.full = True
            await mailbox.send(pid, Keep("x" * 100_000))
            heard.append((await mailbox.receive()).message)
    assert heard == [Keep("durable")]
    assert "Make room on its disk" in str(caught.value.__cause__)
    disk.full = False
    async with open_node(NODE, data_dir=tmp_path) as node:
        keeper = Keeper()
        await node.spawn("keeper", lambda: keeper)
        assert keeper.records == [b"durable"]


async def test_two_nodes_in_one_directory_are_refused(tmp_path: Path) -> None:
    async with open_node(NODE, data_dir=tmp_path):
        with pytest.raises(RecordError, match=r"belongs to a node that runs, in process \d+: stop that one"):
            async with open_node(NODE, data_dir=tmp_path):
                raise AssertionError
        for name in ("journal.db", "cluster.record"):  # nothing happened to them
            assert (tmp_path / name).stat().st_size
    async with open_node(NODE, data_dir=tmp_path) as node:  # and the lock ends with the node
        port = node.id.port
        with pytest.raises(ListenFailed):
            async with open_node(f"n2@127.0.0.1:{port}", data_dir=tmp_path / "2"):
                raise AssertionError
    async with open_node("n2@127.0.0.1:0", data_dir=tmp_path / "2"):  # as it does with one that could not start
        pass


async def test_the_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    await keep(tmp_path, "1")
    with pytest.raises(RecordError, match="n1"):
        async with open_node("n2@127.0.0.1:0", data_dir=tmp_path):
            raise AssertionError
    (tmp_path / "cluster.record").unlink()
    with pytest.raises(JournalError, match="is the journal of n1, not of n2"):
        async with open_node("n2@127.0.0.1:0", data_dir=tmp_path):
            raise AssertionError


async def test_a_journal_of_the_users_goes_before_the_one_of_the_directory(tmp_path: Path) -> None:
    await keep(tmp_path, "1")
    async with open_node(NODE, data_dir=tmp_path, journal=MemoryJournal()) as node:
        keeper = Keeper()
        await node.spawn("keeper", lambda: keeper)
        assert keeper.records == []
    (tmp_path / "journal.db").unlink()  # which the record of the cluster still knows of
    (tmp_path / "journal.mark").unlink()
    async with open_node(NODE, data_dir=tmp_path) as node:
        with pytest.raises(JournalError, match=r"journal\.db is gone"):
            await node.spawn("keeper", Keeper)
