"""haret: three `haret serve`, and `haret.open_client`. Also what else the benchmarks of growth do to a haret cluster.

One client is one connection, which it makes to the primary by itself. As many tasks as there are requests in flight call
its methods, as a Trio application does.
"""

from __future__ import annotations

import inspect
import pathlib
import sys
import time
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import trio

import haret

from .cluster import NODES, Cluster, Unfit, answer, free_ports, kill, questions
from .loads import KEYS, Load, Recorder, value_of

NAMESPACE = "bench"

HAS_MODES = "durability" in inspect.signature(haret.Admin.create_namespace).parameters


class HaretCluster(Cluster):
    """Three `haret serve`."""

    name = "haret"
    modes = ("durable", "fenced") if HAS_MODES else ("memory",)
    remarks = ("haret: fenced and memory keep the log in memory; a majority of the processes must live",)
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
        self.client.ask(do="create", names=names, nodes=nodes, mode=self.mode)

    def node(self, number: int) -> str:
        """Its id."""
        return f"n{number}@127.0.0.1:{self.cluster[number]}"

    def restart(self, number: int) -> None:
        """Start a server again that was stopped."""
        self.servers[number] = self._spawn(number)
        self.wait_until_listening(number, self.admin[number])

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
        options = {"durability": mode} if HAS_MODES else {}
        async with haret.open_admin(self._admins[0]) as admin:
            for name in names:
                await admin.create_namespace(
                    name, [f"r{number}::{node}" for number, node in enumerate(nodes)], **options
                )

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

    async def load(self, load: dict[str, Any], endpoints: list[str], pids: list[int]) -> dict[str, Any]:
        """Run a load."""
        wanted = Load(**load)
        value = value_of(wanted.size)
        keys = count()

        async def work(client: haret.Client) -> None:
            going = True
            while going:
                path = path_of(next(keys))
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
            opened = [haret.open_client(endpoints, NAMESPACE) for _ in range(wanted.connections)]
            clients = [await stack.enter_async_context(one) for one in opened]
            for client in clients:
                await client.blob_get(path_of(0))  # so that it is connected, to the primary
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

    async def settle(self, patience: float, endpoints: list[str]) -> bool:
        """Wait until all replicas take part, and none is far behind."""
        with trio.move_on_after(patience):
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
        if do == "failover":
            question["kill_pid"] = question.pop("kill")
        try:
            answer(await getattr(client, do)(**question))
        except (haret.HaretError, Unfit) as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    trio.run(main)
