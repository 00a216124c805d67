"""haret as its users see it: a client over loopback sockets, a node, and three replicas in memory, all in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

import haret

from .harness import Row, Timed, rate, table

OURS = "haret (3 replicas, 1 node, in memory)"
IN_FLIGHT = 100
"""Calls under way on one connection."""

COUNT = 20_000
"""Calls in a run with many in flight."""

ALONE = 1_000
"""Calls in a run of one after the other."""

VALUE = bytes(64)


@asynccontextmanager
async def open_demo() -> AsyncIterator[haret.Client]:
    """A client of a fresh namespace that has one blob."""
    config = haret.ServerConfig("n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
    async with haret.open_server(config) as server, haret.open_admin(server.admin_address) as admin:
        await admin.create_namespace("demo", [f"r{number}::{server.node.id}" for number in (1, 2, 3)])
        async with haret.open_client(server.api_address, "demo") as client:
            await client.create("/bench/blob", "blob")
            yield client


async def many_in_flight(call: Callable[[haret.Client], Awaitable[object]]) -> Timed:
    """So many tasks, each with one call under way."""

    async def caller(client: haret.Client) -> None:
        for _ in range(COUNT // IN_FLIGHT):
            await call(client)

    async with open_demo() as client:
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(caller, client)
        return Timed(COUNT, time.perf_counter() - started)


async def one_after_the_other() -> float:
    """The median time of a write, in milliseconds."""
    async with open_demo() as client:
        times = []
        for _ in range(ALONE):
            started = time.perf_counter()
            await put(client)
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000


def put(client: haret.Client) -> Awaitable[object]:
    """A write."""
    return client.blob_put("/bench/blob", VALUE)


def get(client: haret.Client) -> Awaitable[object]:
    """A read."""
    return client.blob_get("/bench/blob")


def run() -> list[Row]:
    """All rows."""
    writes = f"replicated writes, {IN_FLIGHT} in flight, 64-byte values, in memory"
    return [
        rate(writes, OURS, partial(trio.run, many_in_flight, put), target=20_000),
        rate(f"linearizable reads, {IN_FLIGHT} in flight", OURS, partial(trio.run, many_in_flight, get), target=30_000),
        Row(
            "replicated write, one client, median",
            OURS,
            min(trio.run(one_after_the_other) for _ in range(3)),
            "ms",
            1.0,
        ),
    ]


if __name__ == "__main__":
    print(table(run()))
