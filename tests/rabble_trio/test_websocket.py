"""Real sockets on the loopback. What goes wrong must stay at its connection, so most tests end with an honest client."""

from __future__ import annotations

import errno
import math
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
import trustme

from rabble_trio import _websocket
from rabble_trio._errors import ConnectFailed, ConnectionClosed, ListenFailed
from rabble_trio._sockets import is_secluded, open_listeners
from rabble_trio._websocket import (
    Connection,
    ConnectionStatistics,
    ServerLimits,
    WebsocketServer,
    open_websocket_client,
    serve_websockets,
)

HOST = "127.0.0.1"
UPGRADE = (
    b"GET /x HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: echo.1\r\n"
)


async def echo(connection: Connection) -> None:
    while True:
        await connection.send(await connection.receive())


@asynccontextmanager
async def serving(
    handler: Callable[[Connection], Awaitable[object]] = echo, **options: Any
) -> AsyncGenerator[WebsocketServer, None]:
    # The guard is for a broken build only: nothing here takes a second.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_websockets, handler, HOST, 0, subprotocol="echo.1", **options)
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


def client(server: WebsocketServer, **options: Any) -> Any:
    return open_websocket_client(HOST, server.port, **{"subprotocol": "echo.1"} | options)


async def assert_unharmed(server: WebsocketServer) -> None:
    async with client(server) as connection:
        await connection.send(b"still there?")
        assert await connection.receive() == b"still there?"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Farewells may take forever, so that one which waits for nothing hangs instead of being a second late."""
    monkeypatch.setattr(_websocket, "CLOSE_TIMEOUT", math.inf)


async def drain(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes."""
    data = b""
    with suppress(trio.BrokenResourceError):  # a reset: it was closed with our bytes unread
        while more := await stream.receive_some(65536):
            data += more
    return data


async def raw_websocket(server: WebsocketServer, extra: bytes = b"") -> trio.SocketStream:
    stream = await trio.open_tcp_stream(HOST, server.port)
    await stream.send_all(UPGRADE + extra + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += await stream.receive_some(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return stream


# What works -----------------------------------------------------------------------------------------------------------


async def test_messages_arrive_in_order_and_are_counted() -> None:
    seen: list[Connection] = []

    async def handler(connection: Connection) -> None:
        seen.append(connection)
        await echo(connection)

    async with serving(handler) as server, client(server, path="/api") as connection:
        messages = [b"", b"a", b"\x00\xff" * 40_000, b"b" * 2**20]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for message in messages:
                    await connection.send(message)

            assert [await connection.receive() for _ in messages] == messages
        size = sum(map(len, messages))
        assert connection.statistics() == ConnectionStatistics(4, 4, size, size)
        assert connection.remote == server.address == f"{HOST}:{server.port}"
        assert seen[0].path == "/api"
        assert seen[0].remote.startswith(f"{HOST}:")
        assert server.statistics().connections == 1
    assert server.statistics().connections == 0
    assert server.statistics().accepted == 1


async def test_messages_without_waiting_arrive_in_order_and_are_counted() -> None:
    async with serving() as server, client(server) as connection:
        messages = [b"first"]
        assert connection.clear
        connection.send_nowait(messages[0])
        assert not connection.unsent
        while connection.clear:
            messages.append(bytes([len(messages)]) * 100_000)
            connection.send_nowait(messages[-1])
        assert connection.unsent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.drain)
            assert [await connection.receive() for _ in messages] == messages
        assert connection.clear
        size = sum(map(len, messages))
        assert connection.statistics() == ConnectionStatistics(len(messages), len(messages), size, size)
        await connection.aclose()
        assert not connection.clear
        with pytest.raises(ConnectionClosed):
            await connection.drain()


async def test_many_connections_at_once() -> None:
    async with serving() as server, AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(server)) for _ in range(100)]
        for number, connection in enumerate(connections):
            await connection.send(b"%d" % number)
        assert [await c.receive() for c in connections] == [b"%d" % n for n in range(100)]
        assert server.statistics().connections == 100


async def test_pings_and_fragments_between_messages() -> None:
    whole, key = b"\x82\x82\x00\x00\x00\x00", b"\x00\x00\x00\x00"
    async with serving() as server, await raw_websocket(server) as stream:
        for frames, answer in [
            (whole + b"ab", b"\x82\x02ab"),
            (b"\x89\x82" + key + b"hi", b"\x8a\x02hi"),
            (whole + b"cd", b"\x82\x02cd"),
            (b"\x02\x81" + key + b"e" + b"\x80\x81" + key + b"f", b"\x82\x02ef"),
            (whole + b"gh", b"\x82\x02gh"),
        ]:
            await stream.send_all(frames)
            assert await stream.receive_some() == answer


async def test_wrong_use() -> None:
    async with serving() as server, client(server) as connection:
        with pytest.raises(TypeError, match="a message is bytes, not str"):
            await connection.send("text")  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await connection.receive()
            await connection.send(b"x")


async def test_closing_while_another_task_receives() -> None:
    async with serving() as server, client(server) as connection:
        reasons: list[ConnectionClosed] = []

        async def receive() -> None:
            try:
                await connection.receive()
            except ConnectionClosed as closed:
                reasons.append(closed)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await connection.aclose(1000, "enough")
        assert (reasons[0].code, reasons[0].reason) == (1000, "enough")


async def test_small_messages_are_not_delayed() -> None:
    async with serving() as server, client(server) as connection:
        assert connection._stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_tls() -> None:
    authority, other = trustme.CA(), trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server_context)
    trusting, doubting = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trusting)
    other.configure_trust(doubting)
    async with serving(ssl_context=server_context) as server:
        async with client(server, ssl_context=trusting) as connection:
            await connection.send(b"secret")
            assert await connection.receive() == b"secret"
        with pytest.raises(ConnectFailed, match=r"TLS handshake failed: .*certificate verify failed"):
            await client(server, ssl_context=doubting).__aenter__()
        with pytest.raises(ConnectFailed, match=f"can't connect to {server.address}"):
            await client(server).__aenter__()
    async with serving() as server:
        with pytest.raises(ConnectFailed, match="TLS handshake failed"):
            await client(server, ssl_context=trusting).__aenter__()
        await assert_unharmed(server)


# What closes a connection ---------------------------------------------------------------------------------------------


async def test_the_handlers_end_and_the_clients_end() -> None:
    reasons: list[ConnectionClosed] = []

    async def handler(connection: Connection) -> None:
        try:
            while (message := await connection.receive()) != b"end":
                await connection.send(message)
        except ConnectionClosed as closed:
            reasons.append(closed)
            raise

    async with serving(handler) as server:
        async with client(server) as connection:
            await connection.send(b"end")
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
            assert caught.value.code == 1000
        async with client(server) as connection:
            await connection.aclose(4001, "fed up")
            await connection.aclose()  # twice is fine
            for action in (connection.receive(), connection.send(b"")):
                with trio.testing.assert_checkpoints(), pytest.raises(ConnectionClosed, match="4001: fed up"):
                    await action
    assert [(closed.code, closed.reason) for closed in reasons] == [(4001, "fed up")]
    assert server.statistics().crashed == 0


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_crash_of_a_handler_closes_its_connection_only(caplog: pytest.LogCaptureFixture, grouped: bool) -> None:
    async def handler(connection: Connection) -> None:
        while (message := await connection.receive()) != b"crash":
            await connection.send(message)
        if not grouped:
            raise LookupError("on purpose")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise LookupError("on purpose")

    async with serving(handler) as server, client(server) as other:
        async with client(server) as connection:
            await connection.send(b"crash")
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
            assert (caught.value.code, caught.value.reason) == (1011, "internal error")
        await other.send(b"alive")
        assert await other.receive() == b"alive"
        assert server.statistics().crashed == 1
    assert "on purpose" in caplog.text


@pytest.mark.usefixtures("patient")
async def test_a_vanished_peer() -> None:
    ends: list[ConnectionClosed] = []
    gone = trio.Event()

    async def handler(connection: Connection) -> None:
        try:
            await echo(connection)
        except ConnectionClosed as closed:
            ends.append(closed)
            gone.set()

    async with serving(handler) as server:
        async with client(server) as connection:
            await connection.abort()
            await gone.wait()
            with pytest.raises(ConnectionClosed, match="aborted"):
                await connection.receive()
        assert ends[0].code == 1006
        await assert_unharmed(server)


async def test_too_large_messages_are_refused_with_a_reason() -> None:
    async with serving() as server:
        async with client(server, max_frame=2**30) as connection:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    with suppress(ConnectionClosed):
                        await connection.send(bytes(10_000_000))

                with pytest.raises(ConnectionClosed) as caught:
                    await connection.receive()
            assert caught.value.code == 1009
        await assert_unharmed(server)

    async def large(connection: Connection) -> None:
        await connection.send(bytes(2000))
        await connection.receive()

    async with serving(large) as server, client(server, max_frame=1000) as connection:
        with pytest.raises(ConnectionClosed) as caught:
            await connection.receive()
        assert caught.value.code == 1009


async def test_who_sends_too_much_is_not_cut_off_before_it_can_read_why() -> None:
    async with serving() as server, await raw_websocket(server) as stream:
        await stream.send_all(b"\x82\xff" + (10_000_000).to_bytes(8) + bytes(4))
        await stream.send_all(bytes(10_000_000))  # a reset would break this
        answer = await stream.receive_some()
        assert answer[2:4] == (1009).to_bytes(2)
        assert await stream.receive_some() == b""


async def test_text_messages_are_refused_with_a_reason() -> None:
    async with serving() as server:
        async with await raw_websocket(server) as stream:
            await stream.send_all(b"\x81\x84\x00\x00\x00\x00text")
            answer = await stream.receive_some()
            await stream.send_all(b"\x88\x80\x00\x00\x00\x00")
            assert await drain(stream) == b""
            assert answer[2:].startswith((1003).to_bytes(2) + b"text messages are not supported")
        await assert_unharmed(server)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\xff" * 1000, id="garbage"),
        pytest.param(b"\x82\x05hello", id="unmasked"),
        pytest.param(b"\x88\x81\x00\x00\x00\x00x", id="close with half a code"),
        pytest.param(b"\x89\xfe\x01\x00" + bytes(300), id="over-long ping"),
        pytest.param(b"\x81\x81\x00\x00\x00\x00\xff", id="text that is no UTF-8"),
        pytest.param(b"\x80\x81\x00\x00\x00\x00x", id="continuation of nothing"),
        pytest.param(b"\x88\x80\x00\x00\x00\x00" + b"\x82\x81\x00\x00\x00\x00x" * 9, id="messages after the close"),
        pytest.param(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(100), id="longer than 2**63"),
    ],
)
async def test_malformed_frames(frames: bytes) -> None:
    raised: list[BaseException] = []

    async def handler(connection: Connection) -> None:
        try:
            await echo(connection)
        except BaseException as error:
            raised.append(error)
            raise

    async with serving(handler) as server:
        async with await raw_websocket(server) as stream:
            await stream.send_all(frames)
            await drain(stream)
        await assert_unharmed(server)
        assert type(raised[0]) is ConnectionClosed
        assert server.statistics().crashed == 0


async def test_a_silent_peer_is_closed_when_its_time_is_up() -> None:
    async with serving(limits=ServerLimits(idle_timeout=0.01)) as server, client(server) as connection:
        with pytest.raises(ConnectionClosed) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.reason) == (1001, "no message for 0.01 s")


@pytest.mark.usefixtures("patient")
async def test_a_cancelled_send_makes_the_connection_unusable() -> None:
    async def deaf(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await connection.abort()

    async with serving(deaf) as server, client(server) as connection:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                while True:
                    await connection.send(bytes(1_000_000))

            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        with pytest.raises(ConnectionClosed, match="cancelled midway"):
            await connection.send(b"")
        with pytest.raises(ConnectionClosed, match="cancelled midway"):
            await connection.receive()


async def test_a_send_that_was_cancelled_before_it_began_harms_nothing() -> None:
    async with serving() as server, client(server) as connection:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.send(b"never")
        assert scope.cancelled_caught
        await connection.send(b"now")
        assert await connection.receive() == b"now"


@pytest.mark.usefixtures("patient")
async def test_farewells_are_answered_at_once() -> None:
    served = trio.Event()

    async def handler(connection: Connection) -> None:
        served.set()
        await echo(connection)

    async with serving(handler) as server:
        with trio.CancelScope() as scope:
            async with client(server):
                await served.wait()
                scope.cancel()
                await trio.sleep_forever()
        await assert_unharmed(server)

    async with trio.open_nursery() as nursery, serving() as server:
        await nursery.start(_receive_until_closed, server)
        # The server is gone, though its client had to answer first.


async def _receive_until_closed(server: WebsocketServer, task_status: trio.TaskStatus[None]) -> None:
    async with client(server) as connection:
        task_status.started()
        with pytest.raises(ConnectionClosed):
            await connection.receive()


async def test_shutdown_says_goodbye() -> None:
    arrived = trio.Event()

    async def handler(connection: Connection) -> None:
        arrived.set()
        await echo(connection)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_websockets, handler, HOST, 0, subprotocol="echo.1")
            server_scope = trio.CancelScope()

            async def run(task_status: Any) -> None:
                with server_scope:
                    await serve(task_status=task_status)

            server = await nursery.start(run)
            silent = await trio.open_tcp_stream(HOST, server.port)
            deaf = await raw_websocket(server)  # never says goodbye
            async with silent, deaf:
                async with client(server) as connection:
                    await arrived.wait()
                    server_scope.cancel()
                    with pytest.raises(ConnectionClosed) as caught:
                        await connection.receive()
                    assert (caught.value.code, caught.value.reason) == (1001, "the server is shutting down")
                assert await drain(silent) == b""
                assert (await drain(deaf)).startswith(b"\x88")
        assert server.statistics().connections == 0


# Handshakes that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        pytest.param(b"\x00\xff\x13" * 1000 + b"\r\n\r\n", b"HTTP/1.1 400", id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"HTTP/1.1 4", id="a plain request"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, b"", id="endless headers"),
        pytest.param(UPGRADE[:60], b"", id="half a handshake"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(UPGRADE + b"Origin: http://evil.example\r\n\r\n", b"HTTP/1.1 403", id="a web page"),
        pytest.param(UPGRADE.replace(b"echo.1", b"echo.2") + b"\r\n", b"HTTP/1.1 400", id="another subprotocol"),
    ],
)
async def test_bad_handshakes(request_bytes: bytes, answer: bytes) -> None:
    async with serving(limits=ServerLimits(handshake_timeout=0.1)) as server:
        async with await trio.open_tcp_stream(HOST, server.port) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(request_bytes)
            assert (await drain(stream)).startswith(answer)
        await assert_unharmed(server)
        statistics = server.statistics()
        assert statistics.abandoned + statistics.refused == 1
        assert statistics.handshakes == 0


async def test_allowed_origins() -> None:
    async with serving(allowed_origins={"https://good.example"}) as server:
        await (await raw_websocket(server, b"Origin: https://good.example\r\n")).aclose()
        await assert_unharmed(server)


async def test_silent_connections_cannot_keep_an_honest_one_waiting() -> None:
    limits = ServerLimits(max_handshakes=20, max_connections=50, handshake_timeout=1000)
    async with serving(limits=limits) as server, AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(await trio.open_tcp_stream(HOST, server.port))
        await assert_unharmed(server)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.statistics().handshakes == 20 - 1
        assert server.statistics().abandoned == 300 - (20 - 1)


async def test_connections_beyond_the_limit_are_refused() -> None:
    async with serving(limits=ServerLimits(max_connections=2)) as server, client(server) as first, client(server):
        with pytest.raises(ConnectFailed, match="HTTP 503: this server has as many connections"):
            await client(server).__aenter__()
        await first.send(b"x")
        assert await first.receive() == b"x"
        assert server.statistics().refused == 1
        assert server.statistics().connections == 2


async def test_the_limit_holds_for_handshakes_under_way() -> None:
    limits = ServerLimits(max_connections=1)
    async with serving(limits=limits) as server, await trio.open_tcp_stream(HOST, server.port) as early:
        await early.send_all(UPGRADE)
        async with client(server):
            await early.send_all(b"\r\n")
            assert (await drain(early)).startswith(b"HTTP/1.1 503")


async def test_running_out_of_descriptors_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept = trio.SocketListener.accept
    failures = [OSError(errno.EMFILE, "too many open files")]

    async def failing_once(listener: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing_once)
    async with serving() as server:
        await assert_unharmed(server)
    assert not failures
    assert "EMFILE" in caplog.text


async def test_a_broken_listener_is_an_ordinary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        raise OSError(errno.EBADF, "bad file")

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    with pytest.raises(ListenFailed, match=r"can't listen on 127\.0\.0\.1:\d+ any more: Bad file descriptor"):
        await serve_websockets(echo, HOST, 0, subprotocol="echo.1")


async def test_listeners_are_closed_whenever_it_is_cancelled() -> None:
    listeners = await open_listeners(HOST, 0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await serve_websockets(echo, HOST, 0, subprotocol="echo.1", listeners=listeners)
    assert scope.cancelled_caught
    assert listeners[0].socket.fileno() == -1


async def test_an_address_in_use() -> None:
    async with serving() as server:
        with pytest.raises(ListenFailed, match=rf"can't listen on 127\.0\.0\.1:{server.port}: Address already in use"):
            await serve_websockets(echo, HOST, server.port, subprotocol="echo.1")
    with pytest.raises(ListenFailed, match=r"no\.\.such"):
        await serve_websockets(echo, "no..such", 1, subprotocol="echo.1")


async def test_a_name_with_several_addresses_gets_one_port() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_websockets, echo, "localhost", 0, subprotocol="echo.1"))
            async with open_websocket_client("localhost", server.port, subprotocol="echo.1") as connection:
                await connection.send(b"x")
                assert await connection.receive() == b"x"
            nursery.cancel_scope.cancel()


# The client's side ----------------------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectFailed, match=f"can't connect to 127.0.0.1:{port}: Connection refused"):
            await open_websocket_client(HOST, port, subprotocol="echo.1").__aenter__()
    with pytest.raises(ConnectFailed, match=r"can't connect to no\.\.such:1"):
        await open_websocket_client("no..such", 1, subprotocol="echo.1").__aenter__()


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", bytes(100_000)])
async def test_the_server_is_no_websocket_server(greeting: bytes) -> None:
    async def other(stream: trio.SocketStream) -> None:
        await stream.send_all(greeting)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, other, 0, host=HOST))
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(60), pytest.raises(ConnectFailed, match=f"can't connect to 127.0.0.1:{port}: "):
            await open_websocket_client(HOST, port, subprotocol="echo.1").__aenter__()
        nursery.cancel_scope.cancel()


async def test_the_server_speaks_another_subprotocol() -> None:
    async with serving() as server:
        with pytest.raises(ConnectFailed, match=r"HTTP 400: this server speaks the websocket subprotocol echo\.1 only"):
            await client(server, subprotocol="chess.1").__aenter__()

    async def careless(request: trio_websocket.WebSocketRequest) -> None:
        await (await request.accept()).aclose()

    async with trio.open_nursery() as nursery:
        other = await nursery.start(partial(trio_websocket.serve_websocket, careless, HOST, 0, None))
        with pytest.raises(ConnectFailed, match=r"it speaks no subprotocol, not echo\.1"):
            await open_websocket_client(HOST, other.port, subprotocol="echo.1").__aenter__()
        nursery.cancel_scope.cancel()


async def silence(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_server_that_never_answers_is_the_callers_to_time_out() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, silence, 0, host=HOST))
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            async with open_websocket_client(HOST, listeners[0].socket.getsockname()[1], subprotocol="echo.1"):
                pytest.fail("connected to a silent server")
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    scope.cancel()


async def test_the_blocks_own_error_leaves_it_as_it_is() -> None:
    async with serving() as server:
        with pytest.raises(LookupError, match="mine") as caught:
            async with client(server):
                raise LookupError("mine")
        assert caught.value.__context__ is None
        # ... also when a cancellation comes at the same time,
        with trio.CancelScope() as scope, pytest.raises(LookupError, match="mine"):
            async with client(server):
                scope.cancel()
                raise LookupError("mine")
        # ... or the connection was lost.
        with pytest.raises(LookupError, match="mine"):
            async with client(server) as connection:
                await connection.abort()
                raise LookupError("mine")
        await assert_unharmed(server)


async def test_cancelling_the_block_closes_the_connection() -> None:
    closed = trio.Event()

    async def handler(connection: Connection) -> None:
        with pytest.raises(ConnectionClosed):
            await echo(connection)
        closed.set()

    async with serving(handler) as server:
        with trio.CancelScope() as scope:
            async with client(server) as connection:
                scope.cancel()
                await connection.receive()
        assert scope.cancelled_caught
        await closed.wait()


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when any task takes its next step for the given time."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.steps = steps
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps -= 1
        if self.steps == 0:
            self.scope.cancel()


async def _converse(server: WebsocketServer) -> None:
    async with client(server) as connection:
        await connection.send(b"x")
        assert await connection.receive() == b"x"


async def test_a_client_may_be_cancelled_at_any_step() -> None:
    async with serving() as server:
        for steps in range(1, 500):
            with trio.CancelScope() as scope:
                trio.lowlevel.add_instrument(instrument := CancelAt(steps, scope))
                try:
                    await _converse(server)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            if instrument.steps > 0:
                break  # it was over before
        assert 20 < steps < 499
        await assert_unharmed(server)


async def test_a_server_may_be_cancelled_at_any_step() -> None:
    for steps in range(1, 500):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                listeners = await open_listeners(HOST, 0)
                server = partial(serve_websockets, echo, HOST, 0, subprotocol="echo.1", listeners=listeners)
                scope = trio.CancelScope()
                nursery.start_soon(_run_in, scope, server)
                trio.lowlevel.add_instrument(instrument := CancelAt(steps, scope))
                try:
                    port = listeners[0].socket.getsockname()[1]
                    with suppress(ConnectFailed, ConnectionClosed):
                        async with open_websocket_client(HOST, port, subprotocol="echo.1") as connection:
                            await connection.send(b"x")
                            assert await connection.receive() == b"x"
                finally:
                    trio.lowlevel.remove_instrument(instrument)
                    scope.cancel()
        if instrument.steps > 0:
            break
    assert 20 < steps < 499


async def _run_in(scope: trio.CancelScope, function: Callable[[], Awaitable[object]]) -> None:
    with scope:
        await function()


async def test_only_what_leaves_this_machine_unencrypted_could_meet_a_proxy() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    far: Any = _AnySocket("192.0.2.7")
    encrypted, gone = trio.SSLStream(far, context), _AnySocket(None)
    here: list[Any] = [_AnySocket(host) for host in ("127.0.0.1", "127.8.0.1", "::1")]
    assert [is_secluded(stream) for stream in [far, gone, encrypted, *here]] == [False, False, *[True] * 4]


class _AnySocket:
    """The stream of a socket whose peer is at some address, or has gone."""

    def __init__(self, host: str | None) -> None:
        self._host = host
        self.socket = self

    def getpeername(self) -> tuple[str, int]:
        if self._host is None:
            raise OSError
        return self._host, 5000
