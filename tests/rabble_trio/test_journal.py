"""The barrier: nothing that stands behind a record leaves its process before the record is durable."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import rabble_trio._steps as steps_module
from rabble_trio import (
    ChildFailed,
    CorrelationId,
    Down,
    JournalError,
    Mailbox,
    MemoryJournal,
    Outbox,
    Persisted,
    Pid,
    Process,
    Shutdown,
    Supervisor,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"
ME = Pid.parse("p::n1@127.0.0.1:1")


@message
class Do:
    """Words that say what to do."""

    what: str


@message
class Said:
    """What a process said."""

    what: str


class Gate(MemoryJournal):
    """A journal whose syncs wait until the test lets them pass, or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.lot = trio.lowlevel.ParkingLot()
        self.failure: Exception | None = None
        self.open = False
        self.syncs = 0

    async def sync(self) -> None:
        pending = len(self._pending)
        if not self.open:
            await self.lot.park()
        if self.failure is not None:
            raise self.failure
        self.syncs += 1
        # Durable is what was remembered before the call, as with a real disk, and not what came since.
        later, self._pending = self._pending[pending:], self._pending[:pending]
        await super().sync()
        self._pending += later

    async def pass_one(self) -> None:
        await wait_all_tasks_blocked()
        self.lot.unpark()
        await wait_all_tasks_blocked()


class Keeper(Process):
    """Does what it is told and keeps what it persisted."""

    def __init__(self) -> None:
        self.snapshot: bytes | None = None
        self.records: list[bytes] = []
        self.counts: list[int] = []

    def restore(self, snapshot: bytes | None, records: Any) -> None:
        self.snapshot, self.records = snapshot, list(records)

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Persisted):
            self.counts.append(message.count)
        if not isinstance(message, Do):
            return
        for word in message.what.split():
            what, _, text = word.partition(":")
            match what:
                case "persist":
                    self.records.append(text.encode())
                    output.persist(text.encode())
                case "say":
                    output.send(sender, Said(text))
                case "whisper":
                    output.send(sender, Said(text), held=False)
                case "snapshot":
                    records = tuple(self.records)
                    output.snapshot(lambda records=records: b",".join(records))  # type: ignore[misc]
                case "stop":
                    output.stop()
                case "crash":
                    raise ValueError("as told")
                case "tell":
                    output.send(sender, Said(f"{self.snapshot!r} {self.records}"))


async def heard(mailbox: Mailbox) -> list[str]:
    await wait_all_tasks_blocked()
    words = []
    while mailbox.statistics().waiting:
        message = mailbox.receive_nowait().message
        words.append(message.what if isinstance(message, Said) else message.reason)
    return words


async def test_what_stands_behind_a_record_waits_for_it() -> None:
    journal, keeper = Gate(), Keeper()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: keeper)
        await a.send(pid, Do("say:1 persist:x say:2 whisper:3 persist:y say:4"))
        assert await heard(a) == ["1", "3"]
        # A later step waits as well, also where it persists nothing itself.
        await a.send(pid, Do("say:5 whisper:6"))
        assert await heard(a) == ["6"]
        assert keeper.counts == []
        assert node.metrics().gauges["envelopes_held"] == 3
        await journal.pass_one()
        assert await heard(a) == ["2", "4", "5"]
        assert keeper.counts == [2]
        await a.send(pid, Do("say:7"))
        assert await heard(a) == ["7"]
        assert node.metrics().gauges["envelopes_held"] == 0


async def test_what_is_persisted_during_a_sync_waits_for_the_next() -> None:
    journal, keeper = Gate(), Keeper()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: keeper)
        await a.send(pid, Do("persist:x say:1"))
        await wait_all_tasks_blocked()
        await a.send(pid, Do("persist:y say:2 persist:z say:3"))
        await a.send(pid, Do("say:4"))
        await journal.pass_one()
        assert await heard(a) == ["1"]
        await journal.pass_one()
        assert await heard(a) == ["2", "3", "4"]
        assert keeper.counts == [1, 3]
        assert journal.syncs == 2
        journal.open = True


async def test_processes_share_a_sync() -> None:
    journal = Gate()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pids = [await node.spawn(f"p{n}", Keeper) for n in range(20)]
        await a.send(pids[0], Do("persist:first"))
        await wait_all_tasks_blocked()
        for pid in pids:
            await a.send(pid, Do("persist:x say:done"))
        await journal.pass_one()
        assert await heard(a) == []
        await journal.pass_one()
        assert await heard(a) == ["done"] * 20
        assert journal.syncs == 2


async def test_a_crash_before_the_sync_loses_what_was_held_and_the_record_is_there() -> None:
    journal = Gate()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", Keeper)
        await a.send(pid, Do("persist:x say:1"))
        await a.send(pid, Do("say:2 persist:y crash"))  # a step that crashes has no effects at all
        await wait_all_tasks_blocked()
        journal.open = True
        journal.lot.unpark_all()
        await wait_all_tasks_blocked()
        await a.send(pid, Do("tell"))
        assert await heard(a) == ["None [b'x']"]


class Noticed(MemoryJournal):
    """A journal that tells when it gets a snapshot, which a worker thread makes."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = trio.Event()

    async def replace(self, pid: Pid, upto: int, snapshot: bytes) -> None:
        await super().replace(pid, upto, snapshot)
        self.replaced.set()

    async def next_snapshot(self) -> None:
        await self.replaced.wait()
        self.replaced = trio.Event()


async def test_a_restarted_process_finds_the_last_snapshot_and_what_came_after() -> None:
    journal = Noticed()
    async with open_node(NODE, journal=journal, supervisor=Supervisor(backoff=0)) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", Keeper)
        for what in ("persist:1 persist:2 snapshot", "persist:3", "crash", "tell"):
            await a.send(pid, Do(what))
            if "snapshot" in what:
                await journal.next_snapshot()
            await wait_all_tasks_blocked()
        assert await heard(a) == ["b'1,2' [b'3']"]
        # Indexes go on where the one before left off, so that a snapshot covers what it should.
        for what in ("persist:4 snapshot", "persist:5", "crash", "tell"):
            await a.send(pid, Do(what))
            if "snapshot" in what:
                await journal.next_snapshot()
            await wait_all_tasks_blocked()
        assert await heard(a) == ["b'3,4' [b'5']"]


async def test_an_encode_that_takes_long_holds_up_no_sync() -> None:
    encoding, go = threading.Event(), threading.Event()

    class Encoder(Keeper):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            if message == Do("encode"):
                output.snapshot(lambda: (encoding.set(), go.wait(10), b"snapshot")[-1])  # type: ignore[func-returns-value]
            else:
                super().handle(message, sender, correlation_id, output)

    journal = Noticed()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", Encoder)
        await a.send(pid, Do("persist:1"))
        await a.send(pid, Do("encode"))
        await trio.to_thread.run_sync(encoding.wait)
        await a.send(pid, Do("persist:2 say:done"))
        assert (await a.receive()).message == Said("done")
        go.set()
        await journal.next_snapshot()
        await a.send(pid, Do("crash"))
        await wait_all_tasks_blocked()
        await a.send(pid, Do("tell"))
        assert (await a.receive()).message == Said("b'snapshot' [b'2']")


@pytest.mark.parametrize("bad", ["raises", "returns text"])
async def test_a_snapshot_that_can_not_be_encoded_is_a_crash_of_its_process_alone(bad: str) -> None:
    class Bad(Keeper):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            output.snapshot((lambda: 1 // 0) if bad == "raises" else (lambda: "text"))  # type: ignore[arg-type, return-value]

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("bad", Bad, restart="temporary")
        other = await node.spawn("other", Keeper)
        a.monitor(pid)
        await a.send(pid, Do("go"))
        down = (await a.receive()).message
        assert isinstance(down, Down)
        expected = "ZeroDivisionError" if bad == "raises" else "TypeError: encode() of a snapshot returns bytes"
        assert down.reason.startswith(f"crashed: {expected}")
        await a.send(other, Do("persist:x say:well"))
        assert (await a.receive()).message == Said("well")


@pytest.mark.parametrize("error", [JournalError("disk full"), OSError("disk full")])
async def test_an_error_of_a_sync_ends_those_that_persist_and_nobody_else(error: Exception) -> None:
    journal = Gate()
    with pytest.raises(ChildFailed) as caught:
        async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
            pids = [await node.spawn(f"p{n}", Keeper, restart="temporary") for n in range(2)]
            innocent = await node.spawn("innocent", Keeper)
            for pid in pids:
                a.monitor(pid)
                await a.send(pid, Do("persist:x say:never"))
            await wait_all_tasks_blocked()
            journal.failure = error
            await journal.pass_one()
            reasons = await heard(a)
            assert len(reasons) == 2
            assert all(reason.startswith("crashed: JournalError: ") and "disk full" in reason for reason in reasons)
            await a.send(innocent, Do("say:well"))
            assert await heard(a) == ["well"]
            # It is never tried again: who persists from now on crashes, and so does who would have to be restored.
            journal.failure = None
            a.monitor(innocent)
            await a.send(innocent, Do("persist:x say:never"))
            await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, JournalError)
    assert journal.syncs == 0


async def test_an_error_of_a_sync_before_a_restart_is_as_final() -> None:
    # The new incarnation wants all that the old one appended to be durable; that this fails is for everybody.
    journal = Gate()
    with pytest.raises(JournalError, match="disk full"):
        async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
            journal.open = True
            pid = await node.spawn("p", Keeper)
            await a.send(pid, Do("persist:x"))
            await wait_all_tasks_blocked()
            journal.failure = OSError("disk full")
            with pytest.raises(JournalError):
                await node.spawn("q", Keeper)
            journal.failure = None
            syncs = journal.syncs
            await wait_all_tasks_blocked()
            assert pid not in node.executor_status().processes
            assert journal.syncs == syncs
            await node.spawn("q", Keeper)


async def test_a_process_ends_in_order_only_when_its_records_are_durable() -> None:
    for how in ("finish", "shutdown"):
        journal = Gate()
        async with (
            open_node(NODE, journal=journal) as node,
            node.open_mailbox("a") as a,
            trio.open_nursery() as nursery,
        ):
            pid = await node.spawn("p", Keeper)
            a.monitor(pid)
            if how == "finish":
                await a.send(pid, Do("persist:x say:1 stop"))
                await a.send(pid, Do("whisper:too-late"))
            else:
                await a.send(pid, Do("persist:x say:1"))
                await wait_all_tasks_blocked()
                nursery.start_soon(node.stop, pid)
            assert await heard(a) == []
            await journal.pass_one()
            assert await heard(a) == ["1", "finished" if how == "finish" else "stopped"]
            assert node.executor_status().dead_letters == ({"ended": 1} if how == "finish" else {})


async def test_records_are_durable_after_an_orderly_end_of_the_node() -> None:
    journal = MemoryJournal()
    async with open_node(NODE, journal=journal) as node:
        pid = await node.spawn("p", Keeper)
        await node.send(pid, Do("persist:x"))
    stored = await journal.load(pid)
    assert stored is not None
    assert stored.records == (b"x",)


async def test_held_envelopes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "MAX_HELD", 10)
    journal = Gate()
    async with open_node(NODE, journal=journal) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", Keeper)
        await a.send(pid, Do("persist:x"))
        await wait_all_tasks_blocked()
        for n in range(20):
            await a.send(pid, Do(f"say:{n}"))
            await wait_all_tasks_blocked()
        assert node.metrics().gauges["envelopes_held"] == 11
        assert node.metrics().gauges["mailbox_messages"] == 9
        await journal.pass_one()
        assert await heard(a) == [str(n) for n in range(20)]
        journal.open = True


async def test_a_process_with_records_and_no_restore_says_so() -> None:
    class Forgetful(Process):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            if not isinstance(message, Persisted | Shutdown):
                output.persist(b"x")

    async with open_node(NODE) as node:
        pid = await node.spawn("p", Forgetful)
        await node.send(pid, Do("go"))
        await node.stop(pid)
        with pytest.raises(NotImplementedError, match="Forgetful has persisted records, but no restore"):
            await node.spawn("p", Forgetful)


async def test_two_syncs_at_once_keep_the_order_of_records() -> None:
    # Which of the two tasks runs first is chance, so it is tried often enough for both.
    for _ in range(50):
        journal = MemoryJournal()
        async with trio.open_nursery() as nursery:
            journal.append(ME, b"1")
            nursery.start_soon(journal.sync)
            await trio.lowlevel.checkpoint()
            journal.append(ME, b"2")
            nursery.start_soon(journal.sync)
            nursery.start_soon(journal.sync)
        stored = await journal.load(ME)
        assert stored is not None
        assert stored.records == (b"1", b"2")


async def test_a_sync_returns_only_when_what_was_remembered_before_it_is_durable() -> None:
    for _ in range(50):
        journal = MemoryJournal()

        async def check(journal: MemoryJournal = journal) -> None:
            await journal.sync()
            assert await journal.load(ME) is not None

        journal.append(ME, b"1")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(check)


STEPS = st.lists(st.sampled_from(["append", "replace", "old replace", "sync", "crash"]), max_size=30)


@given(STEPS)
async def test_a_memory_journal_against_a_model(steps: list[str]) -> None:
    journal = MemoryJournal()
    records: list[bytes] = []  # all that were ever appended
    snapshot = 0  # how many of them the newest snapshot covers
    for step in steps:
        match step:
            case "append":
                records.append(str(len(records)).encode())
                assert journal.append(ME, records[-1]) == len(records)
            case "replace" if records:
                snapshot = journal.last_index(ME)
                await journal.replace(ME, snapshot, b"%d" % snapshot)
            case "old replace" if snapshot > 1:  # changes nothing: a newer one is there
                await journal.replace(ME, snapshot - 1, b"old")
            case "sync":
                await journal.sync()
                stored = await journal.load(ME)
                if stored is None:
                    assert not records
                else:
                    assert stored.snapshot == (b"%d" % snapshot if snapshot else None)
                    assert list(stored.records) == records[snapshot:]
    assert journal.used == bool(records)
    assert await journal.load(Pid.parse("other::n1@127.0.0.1:1")) is None


async def test_a_crash_by_the_news_that_a_record_is_durable_is_the_process_own(tmp_path: Path) -> None:
    class Sensitive(Keeper):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            if isinstance(message, Persisted) and len(self.records) == 2:
                raise ValueError("too much news")
            super().handle(message, sender, correlation_id, output)

    async with (
        open_node(NODE, data_dir=tmp_path, supervisor=Supervisor(backoff=0)) as node,
        node.open_mailbox("a") as a,
    ):
        pid = await node.spawn("p", Sensitive)
        other = await node.spawn("other", Keeper)
        a.monitor(pid)
        await a.send(other, Do("persist:x say:other"))
        await a.send(pid, Do("persist:1 say:1"))
        assert {(await a.receive()).message for _ in range(2)} == {Said("other"), Said("1")}
        await a.send(pid, Do("persist:2 say:2"))
        assert (await a.receive()).message == Said("2")  # it was durable
        assert (await a.receive()).message == Down(pid, "crashed: ValueError: too much news")
        with trio.fail_after(10):
            while pid not in node._executor.actors:  # its successor reads what was durable first
                await trio.lowlevel.checkpoint()
        await a.send(pid, Do("tell"))
        assert (await a.receive()).message == Said("None [b'1', b'2']")
        await a.send(other, Do("tell"))
        assert (await a.receive()).message == Said("None [b'x']")
