"""Three servers and a client, as processes: what every measured service implements."""

from __future__ import annotations

import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

from .loads import Load, Report

PATIENCE = 60.0
"""Seconds that anything may take: a server's start, a client's answer. Usual are one or two."""

NODES = 3

ATTEMPTS = 2
"""To start a cluster: a port that was free may be taken meanwhile, by any connection of this machine."""


class Unfit(Exception):
    """A service can't be measured, or not any further. Says why."""


class JsonProcess:
    """A process that answers each line of JSON on its standard input with one on its standard output.

    It ends with its standard input, and so with us, however we end.
    """

    def __init__(self, command: list[str], log: pathlib.Path) -> None:
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                bufsize=1,
                process_group=0,  # Ctrl-C is for us
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, question: dict[str, Any]) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Unfit(f"{error}; {last_words(self._log)}") from None

    def hear(self, patience: float) -> Any:
        """The next line. Raises `Unfit` if there is none in time, or if it says that something failed."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise Unfit(f"no answer for {patience:g} s; {last_words(self._log)}") from None
        if not line:
            raise Unfit(f"it ended; {last_words(self._log)}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise Unfit(answer["error"])
        return answer

    def ask(self, *, patience: float = PATIENCE, **question: Any) -> Any:
        """Send a line, and get its answer within so many seconds."""
        self.tell(question)
        return self.hear(patience)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it may be gone already
            self._process.stdin.close()
        end(self._process)


def questions() -> Any:
    """The other side of `JsonProcess`: the questions, one after the other, until there are no more."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(content: Any) -> None:
    """Answer a question."""
    print(json.dumps(content), flush=True)


class Cluster:
    """Three servers of a service in a folder, and a client. A subclass starts them; the rest is common.

    `mode` is one of `modes`. Everything raises `Unfit` if it does not work.
    """

    name: ClassVar[str]
    """How the table calls it."""
    modes: ClassVar[tuple[str, ...]] = ("durable",)
    """What can be measured. "durable": an acknowledged write is on the disks of a majority."""
    remarks: ClassVar[tuple[str, ...]] = ()
    """What a reader of its figures has to know."""
    module: ClassVar[str] = ""
    """What to run as its client, in `benchmarks.coordination`."""

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.mode = mode
        self.servers: list[subprocess.Popen[bytes]] = []
        self._client: JsonProcess | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why it can't be measured on this machine; None if it can."""
        return None

    # For subclasses ---------------------------------------------------------------------------------------------------

    def command(self, number: int) -> list[str]:
        """What starts server 0, 1 or 2, in its folder; also again after it was killed."""
        raise NotImplementedError

    def endpoints(self) -> list[str]:
        """Where a client finds the servers, by number."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What is to be done once all servers run, before a client comes."""

    def leader(self) -> int:
        """The number of the server that leads. Usually the client knows."""
        return int(self.client.ask(do="leader", endpoints=self.endpoints()))

    def client_arguments(self) -> list[str]:
        """More for the client to know."""
        return []

    # Used by benchmarks -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the servers, and wait until a write succeeds."""
        self.servers = [self._spawn(number) for number in range(NODES)]
        self.prepare()
        self.fill(1)

    def fill(self, size: int) -> None:
        """Give every key a value of this size."""
        self.client.ask(do="fill", size=size, endpoints=self._leader_first())

    def can(self, load: Load) -> bool:
        """Whether a load makes sense here."""
        return True

    def load(self, load: Load) -> Report:
        """Run a load."""
        return Report(**self.client.ask(do="load", load=asdict(load), endpoints=self._leader_first(), pids=self.pids()))

    def fail_over(self) -> float:
        """Kill the leader with SIGKILL; returns the seconds from there until a new write is acknowledged.

        Afterwards the server is started again.
        """
        number = self.leader()
        seconds = self.client.ask(do="failover", kill=self.servers[number].pid, endpoints=self.endpoints())
        self.servers[number].wait(PATIENCE)
        self.servers[number] = self._spawn(number)
        return float(seconds)

    def settle(self, seconds: float = 15.0) -> bool:
        """Wait until a server that was started again is a full member; tells whether it is."""
        return bool(self.client.ask(do="settle", endpoints=self.endpoints(), seconds=seconds))

    def pids(self) -> list[int]:
        """Of the servers."""
        return [server.pid for server in self.servers]

    @property
    def client(self) -> JsonProcess:
        """The client's process."""
        if self._client is None:
            command = [sys.executable, "-m", f"benchmarks.coordination.{self.module}", *self.client_arguments()]
            self._client = JsonProcess(command, self.folder / "client.log")
        return self._client

    def wait_until_listening(self, number: int, port: int) -> None:
        """Until a server accepts connections on this port."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError as error:
                code = self.servers[number].poll()
                if code is not None or time.monotonic() > deadline:
                    words = last_words(self.folder / f"{number}.log")
                    raise Unfit(f"server {number} does not listen ({error}, exit code {code}); {words}") from None
                time.sleep(0.05)

    def stop(self, number: int) -> None:
        """Stop a server with SIGKILL."""
        self.servers[number].send_signal(signal.SIGKILL)
        self.servers[number].wait(PATIENCE)

    def close(self) -> None:
        """End all processes."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for server in self.servers:
            server.kill()
        for server in self.servers:
            server.wait(PATIENCE)

    def _leader_first(self) -> list[str]:
        endpoints = self.endpoints()
        number = self.leader()
        return [endpoints[number], *endpoints[:number], *endpoints[number + 1 :]]

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        with (self.folder / f"{number}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(number),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )


C = TypeVar("C", bound=Cluster)


@contextmanager
def started(kind: type[C], mode: str) -> Iterator[C]:
    """A cluster that has started, in a folder of its own. Raises `Unfit`."""
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder, ExitStack() as stack:
        for attempt in range(ATTEMPTS):
            cluster = kind(pathlib.Path(folder) / str(attempt), mode)
            stack.callback(cluster.close)
            try:
                cluster.start()
                break
            except Unfit:
                cluster.close()
                if attempt == ATTEMPTS - 1:
                    raise
        yield cluster


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Wait a little for the end of a process, then kill it."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(log: pathlib.Path) -> str:
    """The last line of a log, for an error."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"its log ends with: {lines[-1]:.300}" if lines else "its log is empty"


def kill(pid: int, kind: signal.Signals = signal.SIGKILL) -> float:
    """Send a process a signal; returns when, in `time.perf_counter`."""
    os.kill(pid, kind)
    return time.perf_counter()
