"""The bare loop keeps what it acknowledges while it runs: else its figures would be those of something else."""

from __future__ import annotations

import os
import pathlib
import sqlite3
from collections import Counter
from collections.abc import Callable

import msgpack
import pytest
import trio
import trio_websocket

from benchmarks.coordination import bare
from benchmarks.coordination.cluster import Unfit, started
from benchmarks.coordination.loads import Load

VALUES = {f"/k{number}": b"%d" % number * 1000 for number in range(300)}


def entries(file: str) -> dict[int, list[list[object]]]:
    """The writes in a server's file, by the number of their round."""
    connection = sqlite3.connect(file)
    try:
        return {number: msgpack.unpackb(data) for number, data in connection.execute("SELECT number, data FROM log")}
    finally:
        connection.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_what_was_written_is_read_back_and_is_in_the_files_of_a_majority(
    durable: bool, tmp_path: pathlib.Path
) -> None:
    files = [str(tmp_path / f"{number}.db") if durable else "" for number in range(3)]
    async with trio.open_nursery() as servers:
        followers = [await servers.start(bare.serve, file, []) for file in files[1:]]
        leader = await servers.start(bare.serve, files[0], followers)
        async with bare.open_client(leader) as one, bare.open_client(leader) as other:
            assert await one.ask("/k0") is None
            async with trio.open_nursery() as writers:
                for number, (key, value) in enumerate(VALUES.items()):
                    writers.start_soon((one, other)[number % 2].ask, key, value)
            for key, value in VALUES.items():
                assert await other.ask(key) == value
        servers.cancel_scope.cancel()
    if durable:
        kept = [entries(file) for file in files]
        assert sorted(write for round_ in kept[0].values() for write in round_) == sorted(map(list, VALUES.items()))
        assert len(kept[0]) < len(VALUES) / 2, "requests that wait did not go together"
        copies = Counter(number for one_file in kept for number in one_file)
        assert min(copies.values()) >= 2


async def follower_of(
    heard: Callable[[object], object], nursery: trio.Nursery
) -> tuple[str, trio.MemorySendChannel[int]]:
    """A follower that answers reads at once, and writes when it is told their number; `heard` is called with them."""
    send, numbers = trio.open_memory_channel[int](10)

    async def accept(request: trio_websocket.WebSocketRequest) -> None:
        link = bare.Link(await request.accept())

        async def answer() -> None:
            async for number in numbers:
                link.put(number)

        async with trio.open_nursery() as own:
            own.start_soon(link.send)
            own.start_soon(answer)
            async for items in link:
                for item in items:
                    if isinstance(item, int):
                        link.put(item)
                    else:
                        heard(item[0])
            own.cancel_scope.cancel()

    server = await nursery.start(trio_websocket.serve_websocket, accept, "127.0.0.1", 0, None)
    return f"ws://127.0.0.1:{server.port}", send


async def test_a_write_is_acknowledged_and_seen_only_when_two_of_three_have_it() -> None:
    arrived, written = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        silent, _ = await follower_of(lambda number: None, nursery)
        slow, say = await follower_of(lambda number: arrived.set(), nursery)
        leader = await nursery.start(bare.serve, "", [silent, slow])
        async with bare.open_client(leader) as client, trio.open_nursery() as writer:

            async def write() -> None:
                await client.ask("/k", b"new")
                written.set()

            writer.start_soon(write)
            await arrived.wait()
            assert await client.ask("/k") is None
            assert not written.is_set()
            await say.send(1)
            await written.wait()
            assert await client.ask("/k") == b"new"
        nursery.cancel_scope.cancel()


def test_its_processes_measure_a_load_and_end_with_the_harness() -> None:
    with started(bare.BareCluster, "in memory") as cluster:
        pids = cluster.pids()
        for kind in ("write", "read"):
            report = cluster.load(Load(kind, 64, 10, 2, seconds=0.1, warm_up=0))
            assert report.count > 0
            assert report.failed == 0
        with pytest.raises(Unfit, match="nobody takes the place"):
            cluster.fail_over()
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_load_whose_leader_is_gone_ends() -> None:
    with started(bare.BareCluster, "in memory") as cluster:
        cluster.members[-1].close()
        with pytest.raises(Unfit, match="it ended"):
            cluster.load(Load("write", 64, 1))
