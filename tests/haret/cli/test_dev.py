"""`haret dev`: real processes, what can be done to them from another terminal, and that nothing of them is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from haret.cli import control, dev
from haret.cli.failures import CommandFailed
from haret.cli.processes import PORTS, addresses_of, open_processes

Run = Callable[..., Any]
Start = Callable[..., Any]
PATIENCE = 20.0


@pytest.fixture
def base_port() -> int:
    """The first of the ports of three nodes, none of which is taken."""
    while True:
        base = random.randrange(20_000, 30_000, 100)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(1, 4):
                for address in addresses_of(number, base):
                    reserved = stack.enter_context(socket.socket())
                    reserved.bind(("127.0.0.1", int(address.rpartition(":")[2])))
            return base


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place of our own for sockets and data."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    monkeypatch.setattr("tempfile.tempdir", None)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def wait_until_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.02)


class Dev:
    """A cluster, in a process of its own."""

    def __init__(self, start: Start, run: Run, base_port: int, *options: str) -> None:
        self.option = ("--base-port", str(base_port))
        self.child = start("dev", *self.option, "-o", "json", *options)
        self.child.wait_for(b"\n")
        self.nodes = json.loads(self.child.out)["nodes"]
        self._run = run

    @property
    def pids(self) -> list[int]:
        return [node["pid"] for node in self.nodes]

    def do(self, *words: str) -> Any:
        return self._run("dev", *words, *self.option, "-o", "json")

    def states(self) -> dict[str, str]:
        self.nodes = json.loads(self.do("status").out)["nodes"]
        return {node["node"].partition("@")[0]: node["state"] for node in self.nodes}

    def client(self, *words: str) -> Any:
        return self._run(*words, "--endpoints", ",".join(node["clients"] for node in self.nodes))


def test_a_cluster_lives_through_what_is_done_to_its_nodes(
    start: Start, run: Run, base_port: int, tmp_path: Path
) -> None:
    cluster = Dev(start, run, base_port, "--data-dir", str(tmp_path / "data"))
    pids = cluster.pids
    assert [node["primary"] for node in cluster.nodes] == [True, False, False]
    assert cluster.client("put", "/a", "1").code == 0
    killed = cluster.do("kill", "primary")
    assert json.loads(killed.out)["node"] == "n1"
    assert cluster.client("get", "/a", "-o", "raw").out == b"1"
    assert cluster.states() == {"n1": "dead", "n2": "runs", "n3": "runs"}
    again = cluster.do("kill", "n1")
    assert (again.code, json.loads(again.err)["message"]) == (1, "n1 is dead")
    assert cluster.do("restart", "n1").code == 0
    assert json.loads(cluster.do("pause", "n1").out)["state"] == "paused"
    assert cluster.states()["n1"] == "paused"
    assert cluster.do("resume", "n1").code == 0
    unknown = cluster.do("pause", "n9")
    assert (unknown.code, "there are: n1, n2, n3" in json.loads(unknown.err)["hint"]) == (2, True)
    assert cluster.do("kill", "n2").code == 0
    assert cluster.client("get", "/a", "-o", "raw").out == b"1"  # n1 has come back in earnest
    assert json.loads(cluster.do("kill", "all").out)["node"] == "all"
    assert set(cluster.states().values()) == {"dead"}
    assert cluster.do("restart", "all").code == 0
    assert cluster.client("get", "/a", "-o", "raw").out == b"1"
    assert cluster.do("pause", "all").code == 0
    assert cluster.do("resume", "all").code == 0
    assert set(cluster.states().values()) == {"runs"}
    second = run("dev", *cluster.option)
    assert (second.code, b"runs already" in second.err) == (1, True)
    pids += [pid for pid in cluster.pids if pid is not None]
    done = cluster.child.finish(signal.SIGINT)
    assert (done.code, done.err) == (130, b"")
    wait_until_dead(pids)
    assert list((tmp_path / "tmp").glob("haret-dev-*/*")) == []


def test_a_cluster_goes_on_in_its_directory_another_time(
    start: Start, run: Run, base_port: int, tmp_path: Path
) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    cluster = Dev(start, run, base_port, *data, "--nodes", "4")
    assert cluster.client("put", "/a", "1").code == 0
    cluster.child.finish(signal.SIGKILL)
    wait_until_dead(cluster.pids)
    other = run("dev", "--nodes", "3", *data)
    assert (other.code, f"4 nodes from port {base_port} on".encode() in other.err) == (2, True)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").touch()
    for strange in ("strange", "strange/file"):
        done = run("dev", "--data-dir", str(tmp_path / strange))
        assert (done.code, b"holds no cluster of `haret dev`" in done.err) == (2, True)
    child = start("dev", *data, "-o", "json")
    child.wait_for(b"\n")
    nodes = json.loads(child.out)["nodes"]
    assert [node["clients"] for node in nodes] == [node["clients"] for node in cluster.nodes]
    assert cluster.client("get", "/a", "-o", "raw").out == b"1"
    child.finish(signal.SIGINT)


def test_no_node_outlives_a_parent_that_is_killed(start: Start, run: Run, base_port: int) -> None:
    cluster = Dev(start, run, base_port)
    cluster.do("pause", "n2")
    cluster.child.finish(signal.SIGKILL)
    wait_until_dead(cluster.pids)
    gone = cluster.do("status")
    assert (gone.code, "no development cluster" in json.loads(gone.err)["message"]) == (5, True)


def test_a_port_that_is_taken_is_named(run: Run, base_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base_port + PORTS + 2))
        taken.listen()
        done = run("dev", "--base-port", str(base_port))
    assert done.code == 1
    assert f"n2 did not start: can't listen on 127.0.0.1:{base_port + PORTS + 2}".encode() in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dev", "--nodes", "2"), b"from 3 to 9"),
        (("dev", "--nodes", "x"), b"whole number"),
        (("dev", "--base-port", "0"), b"whole number"),
        (("dev", "--base-port", "65500"), b"whole number"),
        (("dev", "kill"), b"which node?"),
        (("dev", "explode", "n1"), b"explode"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...], words: bytes) -> None:
    done = run(*arguments)
    assert (done.code, words in done.err) == (2, True)


def test_the_default_endpoints_are_those_of_the_cluster() -> None:
    from haret.cli.prompt import DEFAULT_ADMIN, DEFAULT_ENDPOINTS

    nodes = [addresses_of(number, dev.BASE_PORT) for number in (1, 2, 3)]
    assert DEFAULT_ADMIN.split(",") == [admin for _, admin, _ in nodes]
    assert DEFAULT_ENDPOINTS.split(",") == [clients for _, _, clients in nodes]


# ------------------------------------------------------------------------------------------------- the control socket


async def test_the_socket_is_for_this_user_alone(tmp_path: Path) -> None:
    async with control.open_control(1234):
        path = control.socket_path(1234)
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(0o755)
    with pytest.raises(CommandFailed, match="yours alone"):
        control.socket_path(1234)


async def test_questions_that_make_no_sense_are_answered(nursery: Any) -> None:
    async def answerer(question: dict[str, Any]) -> dict[str, Any]:
        return {"text": question["word"]}

    async with control.open_control(1234) as listener:
        nursery.start_soon(control.serve, listener, answerer)
        assert (await control.ask(1234, {"word": "yes"}))["text"] == "yes"
        for line in (b"{", b"[]\n", b"7\n"):
            reply = json.loads(
                await control._answer(line, answerer) and json.dumps(await control._answer(line, answerer))
            )
            assert (reply["ok"], reply["exit_code"]) == (False, 2)
        nursery.cancel_scope.cancel()


async def test_a_node_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("haret.cli.processes.START", 0.0)
    with pytest.raises(CommandFailed, match="it said nothing within"):
        async with open_processes(tmp_path / "x", 1):
            pass
