"""What a server records of its replicas, and that it replays."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import trio

import haret
from haret.backend import Backend
from haret.server.directory import Directory
from haret.server.registry import Group
from rabble_trio import FlightRecorder, Pid
from rabble_trio.testing import Schedule
from rabble_trio.testing.step import Recording


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def config(folder: Path, **options: str) -> haret.ServerConfig:
    places = dict.fromkeys(("cluster_host", "admin_host", "api_host"), "127.0.0.1:0")
    return haret.ServerConfig("node1", **places, recorder_dir=str(folder), **options)


@pytest.fixture
def defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica fails when it applies a certain operation."""
    apply = Backend.apply

    def planted(self: Backend, op: int, operation: bytes) -> bytes:
        if b"planted" in operation:
            raise RuntimeError(f"planted at {op}")
        return apply(self, op, operation)

    monkeypatch.setattr(Backend, "apply", planted)


async def crash(config: haret.ServerConfig, writes: int, flights: int) -> None:
    """Let clients write, the last of which makes all replicas fail, and wait for so many flights."""
    async with haret.open_server(config) as server:
        async with haret.open_admin([server.admin_address]) as admin:
            await admin.create_namespace("demo", [f"r{n}::{server.node.id}" for n in (1, 2, 3)])
        async with haret.open_client([server.api_address], namespace="demo") as client, trio.open_nursery() as nursery:
            await client.create("/a", "blob")
            for number in range(writes):
                await client.blob_put("/a", b"%d" % number)
            nursery.start_soon(client.create, "/planted", "blob")
            while server.node.metrics().counters["flights_saved"] < flights:  # noqa: ASYNC110  # no event tells
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def flights_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("durability", ["durable", "fenced"])
async def test_replicas_that_fail_leave_flights_that_fail_in_the_same_way(
    defect: None, tmp_path: Path, durability: str
) -> None:
    await crash(config(tmp_path / "flights", durability=durability), writes=50, flights=2)
    files = flights_in(tmp_path / "flights")
    assert len(files) >= 2
    for file in files:
        schedule = Schedule.load(file)
        recording = Recording(schedule)
        assert recording.shows(schedule.parameters["failure"])
        with pytest.raises(RuntimeError, match=r"^planted at \d+$"):
            schedule.replay()  # strictly: each choice can be made


@pytest.mark.parametrize("durability", ["durable", "fenced"])
async def test_flights_whose_beginning_is_forgotten_replay_from_the_middle(
    defect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    monkeypatch.setattr("haret.server.config.FlightRecorder", partial(FlightRecorder, inputs=200))
    await crash(config(tmp_path, durability=durability), writes=200, flights=2)
    for file in flights_in(tmp_path)[:2]:
        schedule = Schedule.load(file)
        assert "of which the last" in schedule.note
        assert 150 <= len(schedule.choices) <= 200
        assert Recording(schedule).shows(schedule.parameters["failure"])
        with pytest.raises(RuntimeError, match=r"^planted at \d+$"):
            schedule.replay()


def test_replicas_alone_are_recorded(tmp_path: Path) -> None:
    directory = Directory()
    recorder = config(tmp_path / "new" / "flights").recorder(directory.names)
    assert recorder is not None
    assert (tmp_path / "new" / "flights").stat().st_mode & 0o777 == 0o700
    pid, other = Pid.parse("demo::r1::n1@n1:5000"), Pid.parse("haret::namespaces::n1@n1:5000")
    assert not recorder.records(pid)
    directory.learn([Group("demo", bytes(16), 0, tuple(Pid(f"r{n}", pid.node, "demo") for n in (1, 2, 3)))])
    assert recorder.records(pid)
    assert not recorder.records(other)


def test_nothing_is_recorded_by_default() -> None:
    assert haret.ServerConfig("node1", *(f"127.0.0.1:{port}" for port in (1, 2, 3))).recorder([]) is None


def test_a_directory_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(haret.ConfigError, match=r"recorder_dir: can't make .*file/flights: Not a directory"):
        config(tmp_path / "file" / "flights").recorder([])
    with pytest.raises(haret.ConfigError, match=r"recorder_dir: can't make .*file: File exists"):
        config(tmp_path / "file").recorder([])
