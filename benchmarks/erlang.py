"""Erlang as a peer: two nodes of its distribution on loopback, each an operating system process.

They have an epmd, the daemon that knows the ports of Erlang's nodes, of their own on a free port, so that a run neither
needs nor disturbs one that is there already. All of them are gone when the run is over.
"""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .harness import Timed

SOURCE = pathlib.Path(__file__).parent / "peers" / "erlang_peer.erl"

THERE = "there@127.0.0.1"

PATIENCE = 60
"""Seconds for one run, nodes' start included. A run takes one or two."""


class Erlang:
    """A node that is up, and a way to measure against it."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._cookie = secrets.token_hex()
        self.release = "?"
        """Which OTP it was, known after the first run."""

    def command(self, name: str, function: str, *arguments: str) -> list[str]:
        """What starts a node that runs a function of the peer."""
        node = ["erl", "-noshell", "-start_epmd", "false", "-name", name, "-setcookie", self._cookie]
        loopback = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        return [*node, *loopback, "-pa", self._folder, "-s", "erlang_peer", function, "-extra", *arguments]

    def run(self, scenario: str, *numbers: int) -> Timed:
        """Run one scenario in a new node, against the one that is up.

        Raises ChildProcessError if the node fails, subprocess.TimeoutExpired if it lasts too long.
        """
        command = self.command("here@127.0.0.1", "here", THERE, scenario, *map(str, numbers))
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,  # what it printed says more than CalledProcessError would
            timeout=PATIENCE,
        )
        if done.returncode:
            raise ChildProcessError(f"an Erlang node ended with {done.returncode}: {done.stdout}{done.stderr}".strip())
        answer = json.loads(done.stdout)
        self.release = answer["release"]
        return Timed(answer["count"], answer["seconds"])


@contextmanager
def open_erlang() -> Iterator[Erlang]:
    """Start epmd and a node; stop both at the end.

    Raises OSError or subprocess.SubprocessError if something of Erlang is missing or fails, here or in a run.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        subprocess.run(["erlc", "-o", folder, SOURCE], check=True, timeout=PATIENCE)
        port = _free_port()
        # HOME is where a node would write a cookie file. A node that fails shall not leave a dump of its memory.
        environment = {**os.environ, "ERL_EPMD_PORT": str(port), "HOME": folder, "ERL_CRASH_DUMP_SECONDS": "0"}
        stack.enter_context(_running(["epmd", "-port", str(port), "-address", "127.0.0.1"], folder, environment))
        _wait_for(port)
        erlang = Erlang(folder, environment)
        stack.enter_context(_running(erlang.command(THERE, "there"), folder, environment))
        yield erlang


@contextmanager
def _running(command: list[str], folder: str, environment: dict[str, str]) -> Iterator[None]:
    """Run a program until the block ends. Its standard input ends with us, and with that a node, even if we are killed."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
    )
    with process:
        try:
            yield
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
