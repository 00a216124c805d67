"""The namespace manager, with real replicas and without sockets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from haret import vr
from haret.protocol import (
    BadRequest,
    Crash,
    CreateNamespace,
    Done,
    Namespace,
    NamespaceExists,
    Unanswered,
    UnknownActor,
)
from haret.server import namespaces
from haret.server.directory import SUPERVISOR, Directory, PrimaryChanged
from haret.server.namespaces import NamespaceManager
from haret.vr.messages import GetReplicaState
from rabble_trio import ActorDown, GetMetrics, Mailbox, Node, Pid, open_node


class World:
    def __init__(self, node: Node, directory: Directory, manager: Pid, follower: Mailbox) -> None:
        self.node = node
        self.directory = directory
        self.manager = manager
        self.follower = follower

    def request(self, name: str = "ns") -> CreateNamespace:
        return CreateNamespace(name, tuple(self.node.pid(replica) for replica in ("r1", "r2", "r3")))

    async def ask(self, message: Any) -> Any:
        return await self.node.ask(self.manager, message)

    async def news(self) -> Any:
        return (await self.follower.receive()).message


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    settings = vr.Settings(heartbeat=0.02, primary_timeout_min=0.1, primary_timeout_max=0.15)
    async with open_node("n1@127.0.0.1:0") as node, node.open_mailbox("follower") as follower:
        directory = Directory()
        manager = await node.spawn(
            "namespaces", lambda: NamespaceManager(node, directory, settings, (follower.pid,)), restart="permanent"
        )
        yield World(node, directory, manager, follower)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


async def test_a_group_is_started_and_its_primary_is_told() -> None:
    async with open_world() as w:
        created = await w.ask(w.request())
        assert isinstance(created, Namespace)
        assert created.primary == w.node.pid("r1", "ns")
        assert await w.news() == PrimaryChanged("ns", created.primary)
        for pid in created.replicas:
            state = await w.node.ask(pid, GetReplicaState())
            assert (state.status, state.replicas) == ("normal", created.replicas)


async def test_a_primary_that_crashes_is_told_at_once_and_its_successor_later() -> None:
    async with open_world() as w:
        created = await w.ask(w.request())
        await w.news()
        assert await w.ask(Crash(created.primary)) == Done()
        assert await w.news() == PrimaryChanged("ns", None)
        changed = await w.news()
        assert changed.primary in set(created.replicas) - {created.primary}


async def test_a_replica_that_crashed_knows_that_it_forgot() -> None:
    async with open_world() as w:
        created = await w.ask(w.request())
        await w.ask(Crash(created.replicas[2]))
        status = "normal"
        while status == "normal":
            try:
                status = (await w.node.ask(created.replicas[2], GetReplicaState())).status
            except ActorDown:
                await trio.lowlevel.checkpoint()  # between two incarnations
        assert status == "recovering"


async def test_what_can_not_be_started_leaves_nothing_behind() -> None:
    async with open_world() as w:
        async with w.node.open_mailbox("r2", group="ns"):
            refused = await w.ask(w.request())
            assert isinstance(refused, BadRequest)
            assert "could not be started" in refused.reason
            assert w.directory.get("ns") is None
        assert isinstance(await w.ask(w.request()), Namespace)


async def test_a_group_without_a_primary_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "FIRST_PRIMARY", 0.0)
    monkeypatch.setattr(Directory, "view_changed", lambda *_: None)  # no replica has its say
    async with open_world() as w:
        answer = await w.ask(w.request())
        assert answer == Unanswered("ns was created and has no primary yet")
        assert isinstance(await w.ask(w.request()), NamespaceExists)


async def test_groups_do_not_notice_each_other() -> None:
    async with open_world() as w:
        one, other = await w.ask(w.request("one")), await w.ask(w.request("other"))
        await w.node.stop(w.node.pid(SUPERVISOR, "one"))
        assert isinstance(await w.ask(Crash(one.primary)), UnknownActor)
        assert (await w.node.ask(other.primary, GetReplicaState())).status == "normal"


async def test_the_manager_counts() -> None:
    async with open_world() as w:
        await w.ask(w.request())
        metrics = await w.ask(GetMetrics())
        assert metrics.gauges == {"namespaces": 1.0, "namespaces without a primary": 0.0}


async def test_messages_of_no_meaning_are_ignored() -> None:
    async with open_world() as w:
        await w.node.send(w.manager, Done())
        assert isinstance(await w.ask(w.request()), Namespace)


async def test_followers_may_be_gone() -> None:
    async with open_world() as w:
        settings = vr.Settings()
        gone = w.node.pid("gone")
        manager = await w.node.spawn("second", lambda: NamespaceManager(w.node, w.directory, settings, (gone,)))
        assert isinstance(await w.node.ask(manager, w.request()), Namespace)
