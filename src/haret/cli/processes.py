"""Servers as processes of this machine, one cluster: what `haret dev` and `haret demo` play with.

Each node is `haret serve --until-stdin-closes` with a pipe from us: whatever ends us, even SIGKILL, closes the pipe and ends
the nodes. A node that is stopped by SIGSTOP then is waked by the kernel, which sends SIGHUP and SIGCONT to process groups
that lost their parent.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

import haret
from haret.protocol import Namespace

from .failures import CommandFailed, Exit, UsageError

START: Final = 20.0
"""Seconds that a node has to start: on an idle machine it takes less than one."""

FAREWELL: Final = 3.0
"""Seconds that the nodes have to end by themselves; then they are killed."""

LOOK: Final = 0.05
"""Seconds between looks whether there is a primary."""

MAX_NODES: Final = 9
"""More need more patience than a machine has cores."""

PORTS: Final = 10
"""Ports from one node to the next."""

SECRET: Final = "cluster.secret"
"""The file of the secret that the nodes share, in the directory of the cluster."""

CONFIG: Final = "haret.toml"
"""The file of a node's configuration, in the node's directory."""

_WORDS: Final = {signal.SIGKILL: "dead", signal.SIGSTOP: "paused", signal.SIGCONT: "runs"}


@dataclass
class NodeProcess:
    """A node of the cluster."""

    name: str
    """"n1", "n2", ..."""
    directory: Path
    """Of its configuration, its data and its log."""
    addresses: tuple[str, str, str]
    """For nodes, operators and clients; port 0 until it is chosen."""
    state: str = "dead"
    """"runs", "paused" or "dead"."""
    posture: str = ""
    """How safe it is, in words."""
    process: trio.Process | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """Its node id."""
        return f"{self.name}@{self.addresses[0]}"

    @property
    def admin(self) -> str:
        """Where operators find it."""
        return self.addresses[1]

    @property
    def clients(self) -> str:
        """Where clients find it."""
        return self.addresses[2]

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return None if self.process is None or self.state == "dead" else self.process.pid

    async def start(self) -> None:
        """Start the process, and wait until it listens. Raises `CommandFailed`."""
        self._configure()
        process = self.process = await self._open()
        try:
            with trio.move_on_after(START) as patience:
                line = await _first_line(process)
        except BaseException:
            process.kill()
            raise
        if patience.cancelled_caught or not line:
            process.kill()
            raise CommandFailed(f"{self.name} did not start: {self._last_words()}", hint=f"its log is {self._log}")
        where = json.loads(line)
        self.addresses = (where["cluster"], where["admin"], where["clients"])
        self.posture = where["security"]
        self.state = "runs"

    def signal(self, number: signal.Signals) -> None:
        """Send SIGKILL, SIGSTOP or SIGCONT to the process."""
        assert self.process is not None
        self.process.send_signal(number)
        self.state = _WORDS[number]

    async def ended(self) -> None:
        """Wait until the process has ended."""
        if self.process is not None:
            await self.process.wait()
            self.state = "dead"

    async def stop(self) -> None:
        """End the process: in good order if that is quickly done."""
        if self.process is None or self.process.returncode is not None:
            return
        with trio.CancelScope(shield=True):
            if self.state == "paused":
                self.process.send_signal(signal.SIGCONT)
            assert self.process.stdin is not None
            await self.process.stdin.aclose()
            with trio.move_on_after(FAREWELL):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
            await self.ended()

    # ------------------------------------------------------------------ details

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _configure(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        keys = ("cluster_host", "admin_host", "api_host")
        lines = [f'{key} = "{address}"\n' for key, address in zip(keys, self.addresses, strict=True)]
        names = f'node_name = "{self.name}"\ncluster_name = "dev"\nsecret_file = "../{SECRET}"\ndata_dir = "data"\n'
        (self.directory / CONFIG).write_text(names + "".join(lines))

    async def _open(self) -> trio.Process:
        command = [sys.executable, "-m", "haret", "serve", "--until-stdin-closes", "-o", "json"]
        command += ["--config", str(self.directory / CONFIG)]
        with self._log.open("ab") as log:
            process: trio.Process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,  # Ctrl-C is for us alone; see also the top of the file
            )
        return process

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            with suppress(IndexError, ValueError, KeyError, TypeError):
                return str(json.loads(lines[-1])["message"])  # it was told to speak JSON
            if lines:
                return lines[-1]
        return f"it said nothing within {START:g} s"


async def _first_line(process: trio.Process) -> bytes:
    """The first line that a process prints; nothing if it ends before."""
    assert process.stdout is not None
    received = b""
    while b"\n" not in received:
        data = await process.stdout.receive_some()
        if not data:
            return b""
        received += data
    return received.partition(b"\n")[0]


class Processes:
    """The nodes of one cluster, by name; `open_processes` makes it."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self._nodes = {node.name: node for node in nodes}

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> NodeProcess:
        """The node of this name. Raises `UsageError`."""
        if name not in self._nodes:
            raise UsageError(f"there is no node {name!r}", f"there are: {', '.join(self._nodes)}, and `primary`")
        return self._nodes[name]

    def endpoints(self) -> list[str]:
        """Where clients find the cluster."""
        return [node.clients for node in self]

    async def start_all(self) -> None:
        """Start all nodes at once. Raises `CommandFailed`."""
        failures: list[CommandFailed] = []

        async def start(node: NodeProcess) -> None:
            try:
                await node.start()
            except CommandFailed as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for node in self:
                nursery.start_soon(start, node)
        if failures:
            raise failures[0]

    async def join_all(self) -> None:
        """Make all nodes one cluster; nothing changes if they are."""
        first, *others = self
        for node in others:
            async with haret.open_admin(node.admin) as admin:
                await admin.join(first.id)

    async def kill_all(self) -> None:
        """SIGKILL to all nodes that are not dead, and wait for their ends."""
        doomed = [node for node in self if node.state != "dead"]
        for node in doomed:
            node.signal(signal.SIGKILL)
        for node in doomed:
            await node.ended()

    async def create_namespace(self, name: str) -> Namespace:
        """A namespace with a replica on each node, up to `haret.protocol.MAX_REPLICAS`."""
        first = next(iter(self))
        async with haret.open_admin(first.admin) as admin:
            return await admin.create_namespace(name, [f"r{node.name[1:]}::{node.id}" for node in self])

    async def provide_namespace(self, name: str) -> None:
        """Create a namespace, or wait until the one that there is has a primary. Raises `CommandFailed`."""
        with suppress(haret.NamespaceExists):
            await self.create_namespace(name)
        with trio.move_on_after(START):
            while await self.primary(name) is None:  # noqa: ASYNC110  # nobody tells who has not asked
                await trio.sleep(LOOK)
            return
        raise CommandFailed(f"{name} has no primary within {START:g} s", code=Exit.UNAVAILABLE)

    @asynccontextmanager
    async def admin(self, *, but: NodeProcess | None = None) -> AsyncIterator[haret.Admin]:
        """A connection to the admin port of a node that runs, and is not `but`. Raises `Unavailable`."""
        endpoints = [node.admin for node in self if node.state == "runs" and node is not but]
        if not endpoints:
            raise haret.Unavailable("no node of the cluster runs", (), False)
        async with haret.open_admin(endpoints) as admin:
            yield admin

    async def primary(self, namespace: str) -> NodeProcess | None:
        """The node whose replica leads a namespace."""
        async with self.admin() as admin:
            primary = await admin.primary(namespace)
        return None if primary is None else self._nodes.get(primary.node.name)

    async def close(self) -> None:
        """End all processes."""
        async with trio.open_nursery() as nursery:
            for node in self:
                nursery.start_soon(node.stop)


@asynccontextmanager
async def open_processes(directory: Path, count: int, base_port: int | None = None) -> AsyncIterator[Processes]:
    """Run a cluster of so many processes for the length of an `async with`.

    `directory`: for their files. `base_port`: the first port of n1; each node takes three, and the next begins `PORTS` later.
    None takes free ones. Raises `CommandFailed` if a node does not start.
    """
    _write_secret(directory)
    nodes = [NodeProcess(f"n{n}", directory / f"n{n}", addresses_of(n, base_port)) for n in range(1, count + 1)]
    processes = Processes(nodes)
    try:
        await processes.start_all()
        await processes.join_all()
        yield processes
    finally:
        with trio.CancelScope(shield=True):
            await processes.close()


def _write_secret(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # it is that of an earlier run in the same directory
        descriptor = os.open(directory / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def find_cluster(directory: Path) -> tuple[int, int] | None:
    """How many nodes a directory holds from an earlier run, and their first port; None if it is empty, or not there.

    Raises `CommandFailed` if it holds something else.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    configs: list[haret.ServerConfig] = []
    while (path := directory / f"n{len(configs) + 1}" / CONFIG).exists():
        configs.append(haret.load_config(path))
    ports = [config.node.port for config in configs]
    found = [(config.cluster_host, config.admin_host, config.api_host) for config in configs]
    if not configs or found != [addresses_of(number, ports[0]) for number in range(1, len(configs) + 1)]:
        raise CommandFailed(
            f"{directory} is not empty, and holds no cluster of `haret dev`",
            code=Exit.USAGE,
            hint="take a directory that is empty, or not there yet",
        )
    return len(configs), ports[0]


def addresses_of(number: int, base_port: int | None) -> tuple[str, str, str]:
    """Where node 1, 2, ... listens: for nodes, for operators, for clients."""
    ports: Any = (0, 0, 0) if base_port is None else [base_port + PORTS * (number - 1) + which for which in range(3)]
    cluster, admin, clients = (f"127.0.0.1:{port}" for port in ports)
    return cluster, admin, clients
