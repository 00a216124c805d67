"""A server that all tests of the command share, and the command in this process or in one of its own."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

import haret
from haret.cli import main

PATIENCE = 20
"""Seconds for what takes a fraction of one: only a defect reaches it."""


# Whoever runs the tests in the background has Ctrl-C ignored, and a child would inherit that.
START = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import haret_command
sys.exit(haret_command.main())
"""


@dataclass(frozen=True)
class Place:
    """Where the shared server is."""

    api: str
    admin: str
    node: str


class ServerThread:
    """A server with the namespace "demo", in a thread of its own."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    def __enter__(self) -> Place:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self.place

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        config = haret.ServerConfig("node1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
        with trio.CancelScope() as self._scope:
            async with haret.open_server(config) as server, haret.open_admin(server.admin_address) as admin:
                await admin.create_namespace("demo", [f"r{number}::{server.node.id}" for number in (1, 2, 3)])
                self.place = Place(server.api_address, server.admin_address, str(server.node.id))
                self._ready.set()
                await trio.sleep_forever()


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The shared server."""
    with ServerThread() as place:
        yield place


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: bytes


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run `haret` in this process: run("get", "/a", stdin=b"...")."""
    for name in ("HARET_ENDPOINTS", "HARET_ADMIN_ENDPOINTS", "HARET_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = main(arguments)
        return Done(code, *capsysbinary.readouterr())

    return run


@pytest.fixture
def client(run: Run, place: Place) -> Run:
    """Run `haret` in this process against the shared server."""
    return lambda *arguments, **more: run("--endpoints", place.api, *arguments, **more)


@pytest.fixture
def admin(run: Run, place: Place) -> Run:
    """Run `haret admin -e` for each of some commands against the shared server."""

    def admin(*commands: str, options: tuple[str, ...] = ()) -> Done:
        executes = [part for command in commands for part in ("-e", command)]
        return run("admin", "--endpoints", place.admin, *options, *executes)

    return admin


class Child:
    """`haret` in a process of its own."""

    def __init__(self, *arguments: str, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HARET_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.out = b""

    def wait_for(self, text: bytes) -> None:
        """Read until it has printed this."""
        assert self.process.stdout is not None
        while text not in self.out:
            data = os.read(self.process.stdout.fileno(), 4096)
            assert data, f"it ended without {text!r}: {self.out!r} {self.process.communicate()!r}"
            self.out += data

    def finish(self, number: int | None = None) -> Done:
        """Wait for its end, after sending this signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, self.out + (out or b""), err)


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Start `haret` in a process of its own; whatever still runs at the end of the test is killed."""
    children: list[Child] = []

    def start(*arguments: str, **more: Any) -> Child:
        children.append(Child(*arguments, **more))
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.process.kill()
            child.process.communicate()


@pytest.fixture
def unused_port() -> Iterator[str]:
    """An address where nobody listens, and nobody else will while the test runs."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"
