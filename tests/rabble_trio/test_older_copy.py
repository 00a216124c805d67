"""A data directory that was restored from an older copy: other nodes know better, and no process acts on it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rabble_trio import CorrelationId, Node, Outbox, Pid, Process, RecordError, message, open_node
from rabble_trio.testing import Cluster, open_cluster

SECRET = b"nobody is to guess this"


@message
class Promise:
    """Persist this number and answer."""

    number: int


class Promiser(Process):
    """Persists what it promises."""

    def __init__(self) -> None:
        self.promised: Sequence[bytes] = ()
        self.reason = ""

    def restore(self, snapshot: bytes | None, records: Sequence[bytes]) -> None:
        self.promised = records

    def damaged(self, reason: str) -> None:
        self.reason = reason

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if isinstance(message, Promise):
            output.persist(b"%d" % message.number)
            output.send(sender, message, correlation_id)


async def promise(node: Node, number: int) -> Promiser:
    promiser = Promiser()
    await node.ask(await node.spawn("promiser", lambda: promiser), Promise(number))
    return promiser


async def run_again(cluster: Cluster, data_dir: Path) -> None:
    """Run n2 by hand, for as long as it runs."""
    transport = cluster.network.transport("n2")
    async with open_node("n2@n2:5000", transport=transport, insecure=True, secret=SECRET, data_dir=data_dir):
        await trio.sleep(3600)


@pytest.mark.parametrize("others", [(1,), (3,), (1, 3)])  # n2 dials n3, and is dialled by n1
async def test_an_older_copy_is_refused_by_who_knows_better_and_told_to_processes(
    tmp_path: Path, autojump_clock: MockClock, others: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "rabble_trio")
    async with open_cluster(3, data_dir=tmp_path, secret=SECRET) as cluster:
        await promise(cluster[2], 1)
        await cluster.stop(2)
        shutil.copytree(tmp_path / "n2", tmp_path / "copy")
        await cluster.start(2)
        await cluster.settled()  # it goes on well with a directory that is up to date
        assert list((await promise(cluster[2], 2)).promised) == [b"1"]
        await cluster.stop(2)
        for number in {1, 3} - set(others):
            await cluster.stop(number)
        shutil.rmtree(tmp_path / "n2")
        shutil.copytree(tmp_path / "copy", tmp_path / "n2")
        with pytest.raises(RecordError, match=r"n[13]@n[13]:5000 says: .* is an older copy: .* Start the node again"):
            await run_again(cluster, tmp_path / "n2")
        # Started again it is welcome, and its process knows that it does not know.
        await cluster.start(2)
        promiser = await promise(cluster[2], 3)
        assert "an older copy" in promiser.reason
        assert promiser.promised == ()
        with trio.fail_after(60):
            while len(cluster[2].cluster_status().established) < len(others):  # noqa: ASYNC110  (no event tells of it)
                await trio.sleep(0.1)


async def test_nobody_is_refused_for_a_directory_that_is_new(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_cluster(2, data_dir=tmp_path, secret=SECRET) as cluster:
        await cluster.stop(2)
        shutil.rmtree(tmp_path / "n2")
        await cluster.start(2)
        await cluster[2].join(cluster[1].id)
        await cluster.settled()
