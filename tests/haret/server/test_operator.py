"""Joining and leaving, as an operator asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from haret.protocol import BadRequest, Done, JoinCluster, LeaveCluster, Unanswered
from haret.server.gossip import operator_of
from haret.server.operator import Operator
from rabble_trio import Node, NodeId
from rabble_trio.testing import Cluster, open_cluster


@asynccontextmanager
async def open_operators(nodes: int, **options: Any) -> AsyncIterator[Cluster]:
    async with open_cluster(nodes, join=False, **options) as cluster:
        for node in cluster:
            await node.spawn("operator", lambda node=node: Operator(node), group="haret")  # type: ignore[misc]
        yield cluster


async def ask(node: Node, message: Any) -> Any:
    return await node.ask(operator_of(node.id), message)


async def test_nodes_join_and_leave(autojump_clock: MockClock) -> None:
    async with open_operators(3) as cluster:
        one, two, three = (node.id for node in cluster)
        assert await ask(cluster[1], JoinCluster(two)) == Done()
        assert await ask(cluster[3], JoinCluster(two)) == Done()
        await cluster.settled()
        assert await ask(cluster[1], LeaveCluster(three)) == Done()
        assert cluster[1].members == (one, two)
        while cluster[3].members != (three,):  # noqa: ASYNC110  # no event tells
            await trio.sleep(0.1)
        assert await ask(cluster[1], LeaveCluster(one)) == Done()
        assert cluster[1].members == (one,)


async def test_what_can_not_be(autojump_clock: MockClock) -> None:
    async with open_operators(2) as cluster:
        itself = await ask(cluster[1], JoinCluster(cluster[1].id))
        assert isinstance(itself, BadRequest)
        nobody = await ask(cluster[1], JoinCluster(NodeId.parse("n9@n9:5000")))
        assert isinstance(nobody, Unanswered)
        assert "n9@n9:5000 can't be reached" in nobody.reason
        stranger = await ask(cluster[1], LeaveCluster(cluster[2].id))
        assert isinstance(stranger, BadRequest)


async def test_a_cluster_of_another_secret_refuses(autojump_clock: MockClock) -> None:
    async with open_operators(1) as cluster:
        await cluster.start(2, secret=b"quite another secret")
        refused = await ask(cluster[1], JoinCluster(cluster[2].id))
        assert isinstance(refused, BadRequest)
        assert "secret" in refused.reason


async def test_messages_of_no_meaning_are_ignored(autojump_clock: MockClock) -> None:
    async with open_operators(2) as cluster:
        await cluster[1].send(operator_of(cluster[1].id), Done())
        assert await ask(cluster[1], JoinCluster(cluster[2].id)) == Done()
