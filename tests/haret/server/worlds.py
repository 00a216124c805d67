"""Namespace managers with real replicas, on nodes without sockets, for the tests of several files."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from haret import vr
from haret.protocol import CreateNamespace, Namespace
from haret.server.directory import Directory
from haret.server.groups import LocalGroups
from haret.server.namespaces import NamespaceManager
from haret.server.registry import Group
from haret.server.store import Kept, Store
from haret.vr.messages import GetReplicaState, OpenSession
from rabble_trio import ActorDown, Mailbox, MemoryJournal, Node, Pid, open_node
from rabble_trio.testing import Cluster, open_cluster

SETTINGS = vr.Settings(heartbeat=0.02, primary_timeout_min=0.1, primary_timeout_max=0.15)


class World:
    """A node with a namespace manager, and a mailbox that follows its news."""

    def __init__(self, node: Node, follower: Mailbox | None = None) -> None:
        self.node = node
        self.directory = Directory()
        self.directory.addresses[node.id] = f"api-of-{node.id.name}"
        self._follower = follower

    async def open(self, store: Store | None = None) -> None:
        followers = () if self._follower is None else (self._follower.pid,)
        store = store or Store(None)
        kept = await store.load()
        self.directory.learn(kept.groups)
        groups = LocalGroups(self.node, SETTINGS, kept.replicas)
        self.manager = await self.node.spawn(
            "namespaces",
            lambda: NamespaceManager(self.node, self.directory, groups, store, followers),
            group="haret",
            restart="permanent",
        )

    def request(self, name: str = "ns") -> CreateNamespace:
        return CreateNamespace(name, tuple(self.node.pid(replica) for replica in ("r1", "r2", "r3")))

    async def ask(self, message: Any) -> Any:
        return await self.node.ask(self.manager, message)

    async def news(self) -> Any:
        assert self._follower is not None
        return (await self._follower.receive()).message

    async def status(self, replica: Pid) -> str:
        while True:
            try:
                return str((await self.node.ask(replica, GetReplicaState())).status)
            except ActorDown:
                await trio.sleep(0.01)  # between two incarnations, or before the first one

    async def open_session(self, primary: Pid) -> int:
        """Let the group commit something; returns its op."""
        return int((await self.node.ask(primary, OpenSession(secrets.token_bytes(16)))).session)

    async def until_back(self, replica: Pid, op: int) -> None:
        """Wait until a replica takes part and knows that this op is committed."""
        while True:
            try:
                state = await self.node.ask(replica, GetReplicaState())
            except ActorDown:
                state = None
            if state is not None and state.status == "normal" and state.commit >= op:
                return
            await trio.sleep(0.05)


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    async with open_node("n1@127.0.0.1:0") as node, node.open_mailbox("follower") as follower:
        world = World(node, follower)
        await world.open()
        yield world


class Worlds:
    """Three nodes over a network in memory, each with a manager."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._worlds: dict[int, World] = {}

    def __getitem__(self, number: int) -> World:
        return self._worlds[number]

    async def open(self, number: int, store: Store | None = None) -> World:
        world = self._worlds[number] = World(self.cluster[number])
        await world.open(store)
        return world

    def request(self, name: str = "ns", *numbers: int) -> CreateNamespace:
        chosen = numbers or (1, 2, 3)
        return CreateNamespace(name, tuple(self.cluster[number].pid(f"r{number}") for number in chosen))

    async def until_all_know(self, name: str = "ns") -> Namespace:
        """Wait until all running nodes say the same of a namespace, and that it has a primary."""
        while True:
            entries = [world.directory.get(name) for world in self._worlds.values()]
            told = {None if entry is None else entry.describe() for entry in entries}
            one = next(iter(told))
            if len(told) == 1 and one is not None and one.primary is not None:
                return one
            await trio.sleep(0.05)


@asynccontextmanager
async def open_worlds(nodes: int = 3, **options: Any) -> AsyncIterator[Worlds]:
    async with open_cluster(nodes, **options) as cluster:
        worlds = Worlds(cluster)
        for number in range(1, nodes + 1):
            await worlds.open(number)
        with trio.fail_after(300):  # of virtual time
            yield worlds


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # no event tells
        await trio.sleep(0.05)


async def until_gone(world: World, pid: Pid) -> None:
    """Wait until a replica does not run any more."""
    while True:
        try:
            await world.node.ask(pid, GetReplicaState())
        except ActorDown:
            return
        await trio.sleep(0.5)


class MemoryStore(Store):
    """What a manager keeps, without a disk."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kept = Kept()

    async def load(self) -> Kept:
        await trio.lowlevel.checkpoint()
        return self.kept

    async def save(self, groups: Iterable[Group], replicas: Iterable[Pid] = ()) -> None:
        await trio.lowlevel.checkpoint()
        self.kept = Kept(tuple(groups), tuple(replicas))


class Machines(Worlds):
    """Nodes whose disks outlive them. The disks are in memory, because real ones don't know of virtual time."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.stores: defaultdict[int, MemoryStore] = defaultdict(MemoryStore)
        self._journals: defaultdict[int, MemoryJournal] = defaultdict(MemoryJournal)

    async def start(self, *numbers: int) -> None:
        """Start nodes, or start them again; they join each other."""
        running = [*self._worlds]
        for number in numbers:
            await self.cluster.start(number, journal=self._journals[number])
            if running:
                await self.cluster[number].join(self.cluster[running[0]].id)
            running.append(number)
        for number in numbers:
            await self.open(number, self.stores[number])
        running_ids = {node.id for node in self.cluster}
        await until(lambda: all({*node.cluster_status().established, node.id} >= running_ids for node in self.cluster))

    async def crash(self, *numbers: int) -> None:
        """End nodes without a farewell."""
        for number in numbers:
            await self.cluster.crash(number)
            del self._worlds[number]

    def lose_journal(self, number: int) -> None:
        """What its replicas persisted is lost."""
        del self._journals[number]

    def wipe(self, number: int) -> None:
        """The disk of a node is lost."""
        self.lose_journal(number)
        del self.stores[number]


@asynccontextmanager
async def open_machines(nodes: int) -> AsyncIterator[Machines]:
    async with open_cluster(0) as cluster:
        machines = Machines(cluster)
        await machines.start(*range(1, nodes + 1))
        with trio.fail_after(600):  # of virtual time
            yield machines
