"""haret: three `haret serve`, and `haret.open_client`. Also what else the benchmarks of growth do to a haret cluster.

One client is one connection, which it makes to the primary by itself. As many tasks as there are requests in flight call
its methods, as a Trio application does.
"""

from __future__ import annotations

import pathlib
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from itertools import count
from typing import Any

import trio

import haret

from .cluster import NODES, PATIENCE, Cluster, Unfit, answer, free_ports, kill, questions
from .loads import KEYS, Load, Recorder, Report, value_of

NAMESPACE = "bench"

GROWTH = 100
"""Nodes that are created with one operation, and nodes in a directory."""

LONG = 300.0
"""Seconds that a million operations may take, or a replica that missed them, or a thousand namespaces."""


class HaretCluster(Cluster):
    """Three `haret serve`."""

    name = "haret"
    modes = ("durable", "fenced")
    remarks = ("haret, fenced: the log is in memory, and lasts while a majority of the processes lives",)
    module = "haret"

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        super().__init__(folder, mode)
        ports = free_ports(3 * NODES)
        self.cluster, self.admin, self.api = ports[:3], ports[3:6], ports[6:9]
        for number in range(NODES):
            keys = {"cluster_host": self.cluster, "admin_host": self.admin, "api_host": self.api}
            lines = [f'{key} = "127.0.0.1:{where[number]}"\n' for key, where in keys.items()]
            names = f'node_name = "n{number}"\ncluster_name = "bench"\ndata_dir = "data{number}"\n'
            (folder / f"{number}.toml").write_text(names + "".join(lines))

    def command(self, number: int) -> list[str]:
        options = ["--config", str(self.folder / f"{number}.toml"), "--until-stdin-closes", "--log-level", "warning"]
        return [sys.executable, "-m", "haret", "serve", *options]

    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.api]

    def prepare(self) -> None:
        for number, port in enumerate(self.admin):
            self.wait_until_listening(number, port)
        self.client.ask(do="join", first=self.node(0))
        self.create(NAMESPACE)

    def create(self, *names: str) -> None:
        """Create namespaces, each with a replica on every node."""
        nodes = [self.node(number) for number in range(NODES)]
        self.client.ask(do="create", patience=LONG, names=names, nodes=nodes, mode=self.mode)

    def load_namespaces(self, load: Load, namespaces: list[str]) -> Report:
        """Run a load over one connection to each of these namespaces."""
        question: dict[str, Any] = {
            "load": asdict(load),
            "namespaces": namespaces,
            "endpoints": self.endpoints(),
            "pids": self.pids(),
        }
        return Report(**self.client.ask(do="load", **question))

    def fail_over_many(self, namespaces: list[str], resting: float, kind: str = "SIGKILL") -> list[float]:
        """Write to each of these namespaces over a connection of its own, wait so many seconds, and kill or freeze
        (SIGSTOP) the server that leads the first one. Returns the seconds from there until each was written to, sorted.

        Afterwards the server runs again.
        """
        number = self.leader()
        question: dict[str, Any] = {
            "namespaces": namespaces,
            "resting": resting,
            "kind": kind,
            "endpoints": self.endpoints(),
        }
        try:
            pid = self.servers[number].pid
            seconds = self.client.ask(do="failover_many", patience=LONG, kill=pid, **question)
        finally:
            if kind == "SIGSTOP":
                self.servers[number].send_signal(signal.SIGCONT)
            else:
                self.servers[number].wait(PATIENCE)
                self.servers[number] = self._spawn(number)
        return [float(one) for one in seconds]

    def grow(self, first: int, last: int) -> float:
        """Make the tree larger, from so many nodes to so many; returns the seconds that it took."""
        return float(self.client.ask(do="grow", patience=LONG, first=first, last=last, endpoints=self.endpoints()))

    def write(self, count: int) -> None:
        """Write so many times."""
        self.client.ask(do="write", patience=LONG, count=count, endpoints=self.endpoints())

    def catch_up(self, number: int) -> float:
        """Start a server that was stopped; returns the seconds until it has executed all that was committed before."""
        (commit, *_) = sorted(self.client.ask(do="commits"), reverse=True)
        started = time.perf_counter()
        self.servers[number] = self._spawn(number)
        self.client.ask(do="wait_for", patience=LONG + 1, number=number, commit=commit)
        return time.perf_counter() - started

    def node(self, number: int) -> str:
        """Its id."""
        return f"n{number}@127.0.0.1:{self.cluster[number]}"

    def client_arguments(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.admin]


# The client -----------------------------------------------------------------------------------------------------------


def path_of(number: int) -> str:
    """Where a value is."""
    return f"/bench/k{number % KEYS:04}"


class HaretClient:
    """Answers questions about one cluster, whose admin ports it knows."""

    def __init__(self, admins: list[str]) -> None:
        self._admins = admins

    async def join(self, first: str) -> None:
        """Make the nodes one cluster."""
        for endpoint in self._admins[1:]:
            async with haret.open_admin(endpoint) as admin:
                await admin.join(first)

    async def create(self, names: list[str], nodes: list[str], mode: str) -> None:
        """Create namespaces."""
        async with haret.open_admin(self._admins[0]) as admin:
            for name in names:
                replicas = [f"r{number}::{node}" for number, node in enumerate(nodes)]
                await admin.create_namespace(name, replicas, durability=mode)

    async def leader(self, endpoints: list[str]) -> int:
        """The number of the node whose replica is primary."""
        with trio.move_on_after(10):
            while True:
                for endpoint in self._admins:
                    try:
                        async with haret.open_admin(endpoint) as admin:
                            primary = await admin.primary(NAMESPACE)
                    except haret.HaretError:
                        continue
                    if primary is not None:
                        return int(primary.node.name[1:])
                await trio.sleep(0.02)
        raise Unfit("the group has no primary")

    async def fill(self, size: int, endpoints: list[str]) -> None:
        """Give every key a value."""
        value = value_of(size)
        async with haret.open_client(endpoints, NAMESPACE) as client, trio.open_nursery() as nursery:
            for number in range(KEYS):
                nursery.start_soon(self._put, client, path_of(number), value)

    async def _put(self, client: haret.Client, path: str, value: bytes) -> None:
        try:
            await client.blob_put(path, value)
        except haret.DoesNotExist:
            await client.create(path, "blob")
            await client.blob_put(path, value)

    async def load(
        self, load: dict[str, Any], endpoints: list[str], pids: list[int], namespaces: list[str] | None = None
    ) -> dict[str, Any]:
        """Run a load: over many connections to one namespace, or one connection to each of many."""
        wanted = Load(**load)
        places = namespaces or [NAMESPACE] * wanted.connections
        value = value_of(wanted.size)
        keys = count()

        async def work(client: haret.Client) -> None:
            going = True
            while going:
                path = path_of(0 if namespaces else next(keys))
                started = time.perf_counter()
                try:
                    if wanted.kind == "write":
                        await client.blob_put(path, value)
                    else:
                        await client.blob_get(path)
                except haret.HaretError:
                    recorder.failed += 1
                going = recorder.done(started)

        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(haret.open_client(endpoints, place)) for place in places]
            for client in clients:
                await self._put(client, path_of(0), value)  # so that it is connected, to the primary
            recorder = Recorder(wanted, pids)
            async with trio.open_nursery() as nursery:
                for number in range(wanted.in_flight):
                    nursery.start_soon(work, clients[number % len(clients)])
        return recorder.report().plain()

    async def failover(self, kill_pid: int, endpoints: list[str]) -> float:
        """Kill the primary's process, and write."""
        async with haret.open_client(endpoints, NAMESPACE, give_up_after=30) as client:
            await client.blob_put(path_of(0), b"before")
            started = kill(kill_pid)
            await client.blob_put(path_of(0), b"after")
            return time.perf_counter() - started

    async def failover_many(
        self, kill_pid: int, kind: str, namespaces: list[str], resting: float, endpoints: list[str]
    ) -> list[float]:
        """Kill or freeze a process, and write to many namespaces."""
        seconds: list[float] = []

        async def work(client: haret.Client) -> None:
            await client.blob_put(path_of(0), b"after")
            seconds.append(time.perf_counter() - started)

        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(haret.open_client(endpoints, name, give_up_after=60))
                for name in namespaces
            ]
            for client in clients:
                await self._put(client, path_of(0), b"before")
            await trio.sleep(resting)
            started = kill(kill_pid, signal.Signals[kind])
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(work, client)
        return sorted(seconds)

    async def grow(self, first: int, last: int, endpoints: list[str]) -> float:
        """Create blobs, many with each operation, `GROWTH` in a directory."""
        started = time.perf_counter()
        numbers = iter(range(first, last, GROWTH))

        async def work() -> None:
            for begin in numbers:
                paths = [f"/tree/d{begin:07}/b{number:07}" for number in range(begin, min(begin + GROWTH, last))]
                await client.multi_cas(operations=[haret.Create(path, "blob") for path in paths])

        async with haret.open_client(endpoints, NAMESPACE) as client, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(work)
        return time.perf_counter() - started

    async def write(self, count: int, endpoints: list[str]) -> None:
        """Write so many times, as fast as it goes."""
        numbers = iter(range(count))

        async def work() -> None:
            for number in numbers:
                await client.blob_put(path_of(number), b"x" * 64)

        async with haret.open_client(endpoints, NAMESPACE, give_up_after=60) as client, trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(work)

    async def commits(self) -> list[int]:
        """The commit numbers of the replicas that answer, by number; 0 of those that don't."""
        return [await self._commit(number) for number in range(NODES)]

    async def _commit(self, number: int) -> int:
        try:
            async with haret.open_admin(self._admins[number]) as admin:
                (found,) = [one for one in await admin.namespaces() if one.name == NAMESPACE]
                (own,) = [pid for pid in found.replicas if pid.name == f"r{number}"]
                return (await admin.replica(own)).commit
        except (haret.HaretError, ValueError):
            return 0

    async def wait_for(self, number: int, commit: int) -> None:
        """Wait until a replica has executed so much."""
        with trio.fail_after(LONG):
            while True:
                if await self._commit(number) >= commit:
                    return
                await trio.sleep(0.02)

    async def settle(self, seconds: float, endpoints: list[str]) -> bool:
        """Wait until all replicas take part, and none is far behind."""
        with trio.move_on_after(seconds):
            while True:
                if await self._all_normal():
                    return True
                await trio.sleep(0.05)
        return False

    async def _all_normal(self) -> bool:
        commits = []
        for endpoint in self._admins:
            try:
                async with haret.open_admin(endpoint) as admin:
                    (found,) = [one for one in await admin.namespaces() if one.name == NAMESPACE]
                    own = [await admin.replica(pid) for pid in found.replicas]
            except (haret.HaretError, ValueError):
                return False
            if any(one.status != "normal" for one in own):
                return False
            commits += [one.commit for one in own]
        return max(commits) - min(commits) < KEYS


async def main() -> None:
    """Answer questions until there are no more."""
    client = HaretClient(sys.argv[1:])
    source = questions()
    while (question := await trio.to_thread.run_sync(next, source, None)) is not None:
        do = question.pop("do")
        if do in {"failover", "failover_many"}:
            question["kill_pid"] = question.pop("kill")
        try:
            answer(await getattr(client, do)(**question))
        except (haret.HaretError, Unfit, trio.TooSlowError) as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    trio.run(main)
