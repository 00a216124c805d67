"""Clusters for tests: real nodes over a network in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from .._node import Node, open_node
from .._supervisor import leaf
from ._network import MemoryNetwork

_SECRET = b"nobody is to guess this"
_POLL = 0.05  # seconds of virtual time


class Cluster:
    """Nodes named n1, n2, ..., as `open_cluster` makes them. `network` is what is between them.

    `cluster[1]` is n1, and so on, as long as it runs.
    """

    def __init__(self, nursery: trio.Nursery, seed: int, options: dict[str, Any]) -> None:
        self.network = MemoryNetwork(seed=seed)
        self._nursery = nursery
        self._seed = seed
        self._options = options
        self._running: dict[int, _Running] = {}

    def __getitem__(self, number: int) -> Node:
        return self._running[number].node

    def __iter__(self) -> Iterator[Node]:
        return iter([self._running[number].node for number in sorted(self._running)])

    async def start(self, number: int, **options: Any) -> Node:
        """Start a node, or start it again; it joins nobody by itself. The options are those of `rabble_trio.open_node`.

        A `data_dir` is a directory for all nodes, in which each has its own. Raises `ValueError` if it runs.
        """
        if number in self._running:
            raise ValueError(f"n{number} runs already")
        options = {"secret": _SECRET, **self._options, **options}
        if options.get("data_dir") is not None:
            options["data_dir"] = Path(options["data_dir"]) / f"n{number}"
        running = _Running()
        node: Node = await self._nursery.start(self._run, number, running, options)
        return node

    async def _run(self, number: int, running: _Running, options: dict[str, Any], *, task_status: Any) -> None:
        name = f"n{number}"
        rng = random.Random(f"{self._seed}/{name}")
        transport = self.network.transport(name)
        try:
            with running.scope:
                async with open_node(
                    f"{name}@{name}:5000", transport=transport, rng=rng, insecure=True, **options
                ) as node:
                    running.node = node
                    self._running[number] = running
                    task_status.started(node)
                    await running.stop.wait()
        finally:
            self._running.pop(number, None)
            running.ended.set()

    async def stop(self, number: int) -> None:
        """Stop a node in good order."""
        running = self._running[number]
        running.stop.set()
        await running.ended.wait()

    async def crash(self, number: int) -> None:
        """End a node without a farewell: its connections break."""
        running = self._running[number]
        self.network.cut(f"n{number}")
        running.scope.cancel()
        await running.ended.wait()

    def partition(self, *numbers: int, one_way: bool = False) -> None:
        """Part these nodes from all others; with `one_way`, what they send is lost, but not what is sent to them."""
        others = [number for number in self._running if number not in numbers]
        for inside in numbers:
            for outside in others:
                self.network.partition(f"n{inside}", f"n{outside}", one_way=one_way)

    def heal(self) -> None:
        """End all partitions."""
        self.network.heal()

    async def settled(self) -> None:
        """Wait until all running nodes are members of one cluster, and have links to each other. It takes virtual time.

        Wrap it in a cancel scope if it may never come true.
        """
        everybody = {node.id for node in self}
        while not all(  # noqa: ASYNC110  # no event tells of all nodes at once
            set(node.members) == everybody and {node.id, *node.cluster_status().established} == everybody
            for node in self
        ):
            await trio.sleep(_POLL)


class _Running:
    """A node and its task."""

    def __init__(self) -> None:
        self.node: Node
        self.scope = trio.CancelScope()
        self.stop = trio.Event()
        self.ended = trio.Event()


@asynccontextmanager
async def open_cluster(
    nodes: int = 3, *, seed: int = 0, join: bool = True, **options: Any
) -> AsyncGenerator[Cluster, None]:
    """Run so many nodes over a network in memory for the length of an `async with`; they have joined, unless told not to.

    Use it under virtual time, for example with the fixture `autojump_clock` of pytest-trio: then heartbeats, timeouts
    and pauses take no time. `seed` decides jitter and losses. The options are those of `rabble_trio.open_node`, for all
    nodes. What the block raises leaves it as it is.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, seed, options)
            for number in range(1, nodes + 1):
                await cluster.start(number)
            if join:
                for number in range(2, nodes + 1):
                    await cluster[number].join(cluster[1].id)
                await cluster.settled()
            try:
                yield cluster
            except Exception as error:
                failure = error
            for number in list(cluster._running):
                await cluster.stop(number)
    except BaseExceptionGroup as group:
        failure = failure or leaf(group)
    if failure is not None:
        raise failure
