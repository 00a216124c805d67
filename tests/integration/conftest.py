"""A server with a namespace, over real sockets on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

import haret
from haret.protocol import Namespace
from haret.server.config import Timeouts
from rabble_trio import Pid

# Fast enough for tests, and slow enough that a busy machine does not mistake a healthy primary for a dead one too often.
# If it does, the view changes once more, which no test may mind.
QUICK = Timeouts(request=2.0, heartbeat=0.02, primary_min=0.1, primary_max=0.15)


@dataclass
class World:
    """A server, its admin client, and the namespace "demo"."""

    server: haret.Server
    admin: haret.Admin
    namespace: Namespace
    crashed: list[Pid] = field(default_factory=list)

    def client(self, *, give_up_after: float = 10.0) -> AbstractAsyncContextManager[haret.Client]:
        return haret.open_client(self.server.api_address, "demo", give_up_after=give_up_after)

    async def crash_primary(self) -> Pid:
        """Crash whoever leads, as soon as anybody does."""
        while (primary := await self.admin.primary("demo")) is None:
            await trio.lowlevel.checkpoint()
        await self.admin.crash(primary)
        self.crashed.append(primary)
        return primary


def quick_config() -> haret.ServerConfig:
    return haret.ServerConfig("n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", timeouts=QUICK)


@asynccontextmanager
async def open_world(replicas: int = 3) -> AsyncIterator[World]:
    async with haret.open_server(quick_config()) as server, haret.open_admin(server.admin_address) as admin:
        pids = [f"r{number}::{server.node.id}" for number in range(1, replicas + 1)]
        yield World(server, admin, await admin.create_namespace("demo", pids))


@pytest.fixture
def world() -> Callable[..., AbstractAsyncContextManager[World]]:
    """Opens a server with a namespace of so many replicas (3)."""
    return open_world


@pytest.fixture
def config() -> haret.ServerConfig:
    """A configuration with free ports and short timeouts."""
    return quick_config()
