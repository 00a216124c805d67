"""Several endpoints at once, over real sockets: the first that answers is taken, and nobody waits for one that is frozen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

import haret
from haret.client import _transport
from haret.client._transport import open_first
from haret.protocol import API, GetNamespaceNames, NamespaceNames, Welcome
from rabble_trio import ConnectFailed, Connection, NodeId, decode_batch, encode_batch
from rabble_trio._sockets import address_of, open_listeners
from rabble_trio._websocket import serve_websockets


@asynccontextmanager
async def frozen() -> AsyncIterator[str]:
    """Somebody who accepts connections, as the kernel does for a process that is stopped, and says nothing."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        yield address_of([listener])


async def refusing() -> str:
    """Where nobody listens."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        return address_of([listener])


@asynccontextmanager
async def serving(names: tuple[str, ...] = ("ns",)) -> AsyncIterator[str]:
    """A server that knows these namespaces, or, if there are none, speaks in riddles."""

    async def handle(connection: Connection) -> None:
        while GetNamespaceNames() not in decode_batch(await connection.receive()):
            pass
        answer = NamespaceNames(names) if names else GetNamespaceNames()
        await connection.send(encode_batch([Welcome(NodeId.parse("n1@127.0.0.1:1")), answer]))
        await connection.receive()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(lambda task_status: _serve(handle, task_status))
        yield server
        nursery.cancel_scope.cancel()


async def _serve(handle: object, task_status: trio.TaskStatus[str]) -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    task_status.started(address_of(listeners))
    await serve_websockets(handle, "127.0.0.1", 0, subprotocol=API, listeners=listeners)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "STAGGER", 0.01)


async def test_whoever_does_not_answer_is_passed_by() -> None:
    failed: dict[str, str] = {}
    with trio.fail_after(2.5):  # less than `CONNECT_TIMEOUT`
        async with frozen() as cold, serving() as warm, open_first([cold, warm], API, failed.__setitem__) as (where, _):
            assert where == warm
    assert failed == {}


async def test_whoever_can_not_be_reached_is_told_of() -> None:
    failed: dict[str, str] = {}
    nobody, other = await refusing(), await refusing()
    async with serving() as warm:
        async with open_first([nobody, warm], API, failed.__setitem__) as (where, connection):
            assert (where, set(failed)) == (warm, {nobody})
        with pytest.raises(Exception, match="closed"):
            await connection.receive()
    with pytest.raises(ConnectFailed):
        async with open_first([nobody, "no endpoint", other], API, failed.__setitem__):
            pass
    assert set(failed) == {nobody, other, "no endpoint"}


async def test_what_the_block_raises_leaves_it_as_it_is() -> None:
    async with serving() as warm:
        with pytest.raises(KeyError):
            async with open_first([warm], API, lambda *_: None):
                raise KeyError
        with trio.move_on_after(0.01) as scope:
            async with open_first([warm], API, lambda *_: None):
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_names_come_from_the_first_that_gives_sense() -> None:
    async with frozen() as cold, serving(()) as mad, serving(("a", "b")) as warm:
        with trio.fail_after(2.5):
            assert await haret.list_namespaces([mad, cold, warm]) == ("a", "b")
        with pytest.raises(haret.Unavailable, match="it sent GetNamespaceNames"):
            await haret.list_namespaces([mad])
        with pytest.raises(haret.ConfigError):
            await haret.list_namespaces([warm, "nowhere"])
