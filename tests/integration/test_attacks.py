"""Whatever arrives at the client port and the admin port: a clear answer or a closed connection, and an unharmed node."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgpack
import pytest
import trio

import haret
from haret import protocol
from haret.protocol import ADMIN, API, VERSION, Enter, Hello, Refused, Submit
from haret.vr import messages as vr
from rabble_trio import (
    Connection,
    ConnectionClosed,
    Pid,
    Timeout,
    decode_batch,
    encode,
    encode_batch,
    open_websocket_client,
)

World = Callable[..., AbstractAsyncContextManager[Any]]

PORTS = pytest.mark.parametrize("port", [API, ADMIN])

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def address(world: Any, port: str) -> tuple[str, int]:
    text = world.server.api_address if port == API else world.server.admin_address
    host, _, number = text.rpartition(":")
    return host, int(number)


@asynccontextmanager
async def connect(world: Any, port: str) -> AsyncIterator[Connection]:
    host, number = address(world, port)
    async with open_websocket_client(host, number, subprotocol=port, max_frame=20 * 2**20) as connection:
        yield connection


async def everything(connection: Connection) -> list[Any]:
    """What the server says until it closes."""
    said: list[Any] = []
    try:
        while True:
            said += decode_batch(await connection.receive())
    except ConnectionClosed as closed:
        said.append(closed)
    return said


async def assert_unharmed(world: Any) -> None:
    """Both ports serve newcomers, and the replicas agree."""
    async with world.client() as client:
        path = f"/unharmed{world.server.node.statistics().actors}"
        await client.create(path, "set")
        await client.delete(path)
    async with haret.open_admin(world.server.admin_address) as admin:
        states = [await admin.replica(pid) for pid in world.namespace.replicas]
        assert {state.status for state in states} == {"normal"}
        assert {state.view for state in states} == {0}


@PORTS
@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"\xff" * 70_000,
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        UPGRADE,  # half a handshake
        UPGRADE + b"Sec-WebSocket-Protocol: other\r\n\r\n",
        UPGRADE + b"Origin: http://evil.example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS
    ],
    ids=["zeros", "ones", "http", "half a handshake", "another subprotocol", "a browser", "tls"],
)
async def test_what_is_no_websocket(world: World, port: str, data: bytes) -> None:
    async with world() as w:
        stream = await trio.open_tcp_stream(*address(w, port))
        async with stream:
            with suppress(trio.BrokenResourceError):  # closed in our face
                await stream.send_all(data)
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        await assert_unharmed(w)


@PORTS
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"not msgpack at all",
        msgpack.packb([["haret.hello", port_field, 1] for port_field in (None,)]),
        msgpack.packb([["no such tag"]]),
        msgpack.packb([["haret.hello", API, 1, "extra"]]),
        msgpack.packb({"a": 1}),
        b"\xdd\xff\xff\xff\xff" * 1000,  # arrays that claim four billion elements each
        b"\x91" * 100_000,  # nested as deep as a frame is long
    ],
)
async def test_garbage_in_a_frame_is_refused(world: World, port: str, frame: bytes) -> None:
    async with world() as w:
        async with connect(w, port) as connection:
            await connection.send(frame)
            refused, closed = await everything(connection)
            assert isinstance(refused, Refused)
            assert "not a batch" in refused.reason
            assert closed.code == 1008
        await assert_unharmed(w)


@PORTS
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Hello("haret-api" + "x" * 10_000, VERSION), "speaks"),
        (Hello("", VERSION), "speaks"),
        (Hello("mine", 2), "speaks"),
        (Timeout(), "must be Hello"),
        (vr.StartViewChange(0, 99, 99), "must be Hello"),
        (vr.Request(1, 1, 1, b""), "must be Hello"),
    ],
)
async def test_a_wrong_beginning_is_refused(world: World, port: str, message: Any, words: str) -> None:
    async with world() as w:
        async with connect(w, port) as connection:
            await connection.send(encode_batch([message]))
            refused, closed = await everything(connection)
            assert words in refused.reason
            assert len(refused.reason) < 300
            assert closed.code == 1008
        await assert_unharmed(w)


@PORTS
async def test_another_version_is_refused(world: World, port: str) -> None:
    async with world() as w, connect(w, port) as connection:
        await connection.send(encode_batch([Hello(port, VERSION + 1)]))
        refused, _ = await everything(connection)
        assert f"version {VERSION}" in refused.reason


@PORTS
@pytest.mark.parametrize(
    "message",
    [
        Timeout(),
        vr.StartViewChange(0, 99, 99),
        vr.Prepare(0, 0, 1, 0, (vr.OpenSession(bytes(16)),)),
        protocol.Done(),
        protocol.Welcome(Pid.parse("a::b@c:1").node),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_messages_of_the_wrong_kind_are_refused(world: World, port: str, message: Any) -> None:
    async with world() as w:
        async with connect(w, port) as connection:
            await connection.send(encode_batch([Hello(port, VERSION), message]))
            *_, refused, closed = await everything(connection)
            assert type(message).__name__ in refused.reason
            assert closed.code == 1008
        await assert_unharmed(w)


@PORTS
async def test_a_frame_of_ten_megabytes(world: World, port: str) -> None:
    async with world() as w:
        async with connect(w, port) as connection:
            with pytest.raises(ConnectionClosed) as caught:
                await connection.send(bytes(10 * 2**20))
                await connection.receive()
            assert caught.value.code in {1006, 1009}
        await assert_unharmed(w)


@PORTS
async def test_text_frames(world: World, port: str) -> None:
    async with world() as w:
        async with connect(w, port) as connection:
            await connection._websocket.send_message("text")
            (closed,) = await everything(connection)
            assert closed.code == 1003
        await assert_unharmed(w)


@PORTS
async def test_a_thousand_idle_connections(world: World, port: str) -> None:
    async with world() as w, AsyncExitStack() as stack:
        for number in range(1000):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*address(w, port)))
            if number % 2:
                await stream.send_all(UPGRADE)
        await assert_unharmed(w)


async def test_many_connections_that_vanish_in_the_middle_of_their_requests(world: World) -> None:
    async with world() as w:
        hello = [Hello(API, VERSION), Enter("demo", bytes(16), 0)]
        for number in range(50):
            async with connect(w, API) as connection:
                await connection.send(encode_batch([*hello, *hello[1:]] if number % 2 else hello))
                connection._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await assert_unharmed(w)


async def test_submitting_nonsense(world: World) -> None:
    """Numbers and operations that no client sends: each is answered, and nothing reaches a log."""
    async with world() as w:
        async with connect(w, API) as connection:
            await connection.send(encode_batch([Hello(API, VERSION), Enter("demo", bytes(16), 0)]))
            said: list[Any] = []
            while len(said) < 2:
                said += decode_batch(await connection.receive())
            before = (await w.admin.replica(w.namespace.primary)).op
            operation = encode(haret.BlobPut("/a", b"x"))
            nonsense = [
                Submit(1, 1, b""),
                Submit(2, 1, b"\xc1" * 1000),
                Submit(3, 1, encode(Timeout())),
                Submit(4, 1, encode(haret.BlobGet("no slash"))),
                Submit(5, 1, encode(haret.BlobPut("/a", bytes(600 * 1024)))),
                Submit(0, 0, operation),
                Submit(-(2**63), -1, operation),
                Submit(7, 9, operation),
                Submit(2**63, 1, operation),
            ]
            await connection.send(encode_batch(nonsense))
            said = []
            while len(said) < len(nonsense):
                said += decode_batch(await connection.receive())
            assert {one.number for one in said} == {one.number for one in nonsense}
            assert all(isinstance(one, protocol.Result) and one.op == 0 for one in said)
            assert (await w.admin.replica(w.namespace.primary)).op == before
        await assert_unharmed(w)


async def test_sessions_of_nobody(world: World) -> None:
    async with world() as w:
        for session in (10**6, 2**63 - 1):
            async with connect(w, API) as connection:
                submit = Submit(1, 1, encode(haret.BlobPut("/a", b"x")))
                await connection.send(encode_batch([Hello(API, VERSION), Enter("demo", bytes(16), session), submit]))
                said: list[Any] = []
                while len(said) < 3:
                    said += decode_batch(await connection.receive())
                assert said[2] == protocol.Expired(session)
        await assert_unharmed(w)


async def test_too_many_requests_at_once_are_told_to_wait(world: World) -> None:
    async with world() as w:
        async with connect(w, API) as connection:
            await connection.send(encode_batch([Hello(API, VERSION), Enter("demo", bytes(16), 0)]))
            said: list[Any] = []
            while len(said) < 2:
                said += decode_batch(await connection.receive())
            operation = encode(haret.BlobGet("/a"))
            count = 3 * protocol.MAX_IN_FLIGHT
            await connection.send(encode_batch([Submit(n, 1, operation) for n in range(1, count + 1)]))
            said = []
            while len(said) < count:
                said += decode_batch(await connection.receive())
            assert sorted(one.number for one in said) == list(range(1, count + 1))
            assert {type(one) for one in said} == {protocol.Result, protocol.Retry}
        await assert_unharmed(w)
