"""Websocket connections that carry bytes, for clients and servers: the only file that knows trio_websocket.

trio_websocket does the protocol, but for plain messages, which `_frames` carries past it. What is added here is what a
server in a hostile world needs:

1. An error stays where it happens. The library's reader task runs under a guard, so what it raises closes its connection
   and nothing else; a handler that raises loses its connection only. Callers see `ConnectionClosed`, `ConnectFailed` and
   `ListenFailed`, never a group and never an error of the library.
2. Everything is bounded: connections, unfinished handshakes, the size of a message, the time a handshake, a silence or
   a farewell may take. A newcomer pushes out the oldest unfinished handshake, so that a thousand silent peers can't
   keep an honest one waiting.
3. Only binary messages, one subprotocol, no compression (trio_websocket offers none), and no requests of web pages: a
   browser sends `Origin`, and any page that its user visits could talk to a server on this machine.

A peer's pings are answered while somebody receives: whoever holds a connection keeps receiving.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVarTuple

import trio
import trio_websocket

from ._errors import ConnectFailed, ConnectionClosed, ListenFailed
from ._frames import RECEIVE_BYTES, Tap
from ._sockets import (
    NetworkStream,
    address_of,
    certificate_names,
    connect,
    is_secluded,
    joined,
    linger,
    open_listeners,
    peer_of,
    refused_tls,
    why,
)

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")

MAX_FRAME: Final = 2**20
"""Bytes in a message, as in `rabble_trio.encode`. A larger one closes the connection with code 1009."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for a farewell: to send the close frame and to see the peer's."""

_QUEUE: Final = 4  # messages the library reads ahead; each may take MAX_FRAME
_MAX_REFUSALS: Final = 50  # newcomers beyond the limit that are told why at a time; more are closed without a word

# Close codes: RFC 6455, section 7.4.1.
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_PROTOCOL_ERROR: Final = 1002
_UNSUPPORTED: Final = 1003
_ABNORMAL: Final = 1006
_TOO_BIG: Final = 1009
_INTERNAL: Final = 1011


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """What went over a connection so far."""

    messages_sent: int
    """Messages."""
    messages_received: int
    """Messages."""
    bytes_sent: int
    """Bytes of messages, without the framing."""
    bytes_received: int
    """Bytes of messages, without the framing."""


class Connection:
    """An open websocket connection. Made by `open_websocket_client` and `serve_websockets`.

    `remote` is the peer's address, "host:port"; `path` the path that the client asked for; `certificate_names` the DNS
    names in the peer's verified certificate, None without TLS.
    """

    def __init__(
        self,
        websocket: trio_websocket.WebSocketConnection,
        stream: NetworkStream,
        tap: Tap,
        reader: _GuardedReader,
        idle_timeout: float = math.inf,
    ) -> None:
        self.remote: str = reader.remote
        self.path: str = websocket.path or "/"
        self.certificate_names: frozenset[str] | None = certificate_names(stream)
        self._websocket = websocket
        self._stream = stream
        self._tap = tap
        self._reader = reader
        self._idle_timeout = idle_timeout
        self._closed: tuple[int, str] | None = None
        self._farewell_possible = True
        self._messages_sent = self._messages_received = self._bytes_sent = self._bytes_received = 0
        tap.handshake_done()

    @property
    def heard_at(self) -> float:
        """When the last byte of the peer arrived, in Trio's clock, whether or not its message is whole yet."""
        return self._tap.heard_at

    async def send(self, data: bytes) -> None:
        """Send one message; waits while the peer does not read. Messages of several tasks don't mix. If it need not wait,
        it is a checkpoint only now and then.

        Cancelling it may leave half a message on the wire, so the connection is of no use afterwards. Raises
        `ConnectionClosed`, and `TypeError` if `data` is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        await self._send(self._tap.send_message, data)
        self._messages_sent += 1
        self._bytes_sent += len(data)

    async def _send(self, send: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed is not None:
            await trio.lowlevel.checkpoint()  # a loop around it must not keep all others from running
            raise ConnectionClosed(*self._closed)
        if self._websocket.closed is not None:
            raise self._failed(trio.ClosedResourceError())
        try:
            await send(*args)
        except trio.Cancelled:
            self._closed = _ABNORMAL, "a send was cancelled midway"
            self._farewell_possible = False
            raise
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._closed is not None or self._websocket.closed is not None:
                raise self._failed(error) from None
            # Why the peer is gone may still be there to receive, so this is not the last word.
            raise ConnectionClosed(_ABNORMAL, "the peer is gone") from None

    @property
    def clear(self) -> bool:
        """Whether `send_nowait` may be called: the connection is open, as far as is known, and nobody is sending."""
        return self._closed is None and self._websocket.closed is None and self._tap.clear

    def send_nowait(self, data: bytes) -> None:
        """Send one message, or several in a row, while the way is `clear`. Somebody has to `drain` what is `unsent` then."""
        self._messages_sent += 1
        self._bytes_sent += len(data)
        self._tap.send_message_nowait(data)

    @property
    def unsent(self) -> bool:
        """Whether `send_nowait` left something over."""
        return self._tap.unsent

    async def drain(self) -> None:
        """Send what is `unsent`; like `send`."""
        await self._send(self._tap.drain)

    async def receive(self) -> bytes:
        """The next message. A text message closes the connection with code 1003. Raises `ConnectionClosed`.

        One task at a time may receive.
        """
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            raise ConnectionClosed(*self._closed)
        try:
            if self._idle_timeout == math.inf:
                data = await self._next_message()
            else:
                # `trio.fail_after`, without the cost of its context manager.
                with trio.CancelScope(deadline=trio.current_time() + self._idle_timeout) as patience:
                    data = await self._next_message()
                if patience.cancelled_caught:
                    raise await self._close_for(_GOING_AWAY, f"no message for {self._idle_timeout:g} s")
        except (trio.BusyResourceError, ConnectionClosed):
            raise
        except Exception as error:
            raise self._failed(error) from None
        if not isinstance(data, bytes):
            raise await self._close_for(_UNSUPPORTED, "text messages are not supported: send binary ones")
        self._messages_received += 1
        self._bytes_received += len(data)
        return data

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        """Say goodbye and close, within `CLOSE_TIMEOUT`; at once if cancelled. Closing twice is fine.

        `reason` is cut to the 123 bytes that a close frame has room for. Raises nothing but the caller's cancellation.
        """
        if self._closed is None:
            self._closed = code, reason
        farewell, self._farewell_possible = self._farewell_possible, False
        try:
            if farewell:
                with trio.move_on_after(CLOSE_TIMEOUT), suppress(Exception):
                    await self._say_goodbye(code, reason)
        finally:
            await trio.aclose_forcefully(self._stream)

    async def abort(self) -> None:
        """Close at once, without a goodbye: for peers that don't answer any more."""
        self._farewell_possible = False
        await self.aclose(_ABNORMAL, "aborted")

    def statistics(self) -> ConnectionStatistics:
        """What went over this connection so far."""
        return ConnectionStatistics(
            self._messages_sent, self._messages_received, self._bytes_sent, self._bytes_received
        )

    def __repr__(self) -> str:
        return f"<Connection with {self.remote}{'' if self._closed is None else ', closed'}>"

    async def _next_message(self) -> bytes | str:
        data = await self._tap.receive_message()
        return await self._websocket.get_message() if data is None else data

    async def _say_goodbye(self, code: int, reason: str) -> None:
        closed = self._websocket.closed
        if closed is not None and closed.code == _TOO_BIG:
            # The library has sent a close frame and lost interest. Closing now, with data unread, would make the kernel
            # reset the connection, and the peer might never learn why.
            self._reader.stop()
            await self._reader.ended.wait()
            await linger(self._stream)
        elif not self._reader.ended.is_set():
            self._tap.hand_over()  # so that the library sees the peer's farewell
            await self._websocket.aclose(code, reason or None)

    async def _close_for(self, code: int, reason: str) -> ConnectionClosed:
        await self.aclose(code, reason)
        return ConnectionClosed(code, reason)

    def _failed(self, error: Exception) -> ConnectionClosed:
        """What became of the connection, now that the library raised `error`."""
        if self._closed is None:
            closed = self._websocket.closed
            if self._reader.error is not None:
                self._closed = _ABNORMAL, f"{type(self._reader.error).__name__}: {self._reader.error}"
            elif closed is not None:
                self._closed = closed.code, closed.reason or ""
            elif isinstance(error, trio_websocket.ConnectionClosed):
                self._closed = _PROTOCOL_ERROR, "the peer broke the websocket protocol"
            elif isinstance(error, trio.BrokenResourceError):
                self._closed = _ABNORMAL, "the peer is gone"
            else:
                self._closed = _ABNORMAL, f"{type(error).__name__}: {error}"
        return ConnectionClosed(*self._closed)


# Clients --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_websocket_client(
    host: str,
    port: int,
    *,
    subprotocol: str,
    path: str = "/",
    max_frame: int = MAX_FRAME,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncGenerator[Connection, None]:
    """Connect to a server of this subprotocol; the connection is closed at the end of the block.

    The caller's cancel scope is the timeout; closing takes up to `CLOSE_TIMEOUT` even if cancelled. With an
    `ssl_context` the connection is encrypted, and the server's certificate must be for `host`, as the context says.

    Raises `ConnectFailed` if the server can't be reached, does not speak websocket or this subprotocol, or refuses.
    What the block raises leaves it as it is, never in a group.
    """
    address = joined(host, port)
    async with _open_reader_nursery() as nursery:
        stream = await connect(host, port, ssl_context, address)
        try:
            reader = _GuardedReader(nursery, stream)
            connection = await _ask_for_websocket(stream, reader, address, path, subprotocol, max_frame)
            try:
                yield connection
            finally:
                with trio.CancelScope(shield=True):
                    await connection.aclose()
        finally:
            await trio.aclose_forcefully(stream)


async def _ask_for_websocket(
    stream: NetworkStream, reader: _GuardedReader, address: str, path: str, subprotocol: str, max_frame: int
) -> Connection:
    tap = Tap(stream, client=True, max_frame=max_frame, secluded=is_secluded(stream))
    with reader.handshake_scope:
        websocket = await trio_websocket.wrap_client_stream(
            reader,  # type: ignore[arg-type]  # as Trio says of handler_nursery: anything with a start_soon will do
            tap,  # type: ignore[arg-type]  # any stream will do, and on the server's side the library says so
            address,
            path,
            subprotocols=[subprotocol],
            message_queue_size=_QUEUE,
            max_message_size=max_frame,
            receive_buffer_size=RECEIVE_BYTES,
        )
        if websocket.subprotocol != subprotocol:
            spoken = websocket.subprotocol or "no subprotocol"
            raise ConnectFailed(address, f"it speaks {spoken}, not {subprotocol}", "configuration")
        return Connection(websocket, stream, tap, reader)
    error = reader.error
    if isinstance(error, trio_websocket.ConnectionRejected):
        text = (error.body or b"").decode("utf-8", "replace").strip()[:200]
        fault = "network" if error.status_code >= 500 else "configuration"
        raise ConnectFailed(address, f"it answered HTTP {error.status_code}{': ' if text else ''}{text}", fault)
    if error is not None:
        raise ConnectFailed(address, why(error))
    unspoken = "it does not speak websocket, or closed the connection"
    if isinstance(stream, trio.SSLStream):  # Trio's servers don't send the alert that would say so
        unspoken += ", or does not accept this side's certificate: its log says more"
    raise ConnectFailed(address, unspoken)


# Servers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes upon itself, at most. Times are in seconds."""

    max_connections: int = 1000
    """Open connections. More are refused with HTTP 503: each costs a task, a file descriptor and some `max_frame`."""
    max_handshakes: int = 100
    """Connections that did not ask for a websocket yet. One more, and the oldest of them is closed."""
    handshake_timeout: float = 5.0
    """How long a connection may take to ask for a websocket, TLS included."""
    idle_timeout: float = math.inf
    """How long a handler waits in `receive` before the connection is closed with code 1001."""
    max_frame: int = MAX_FRAME
    """Bytes in a message; a larger one closes the connection with code 1009."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What a server did so far."""

    connections: int
    """Open now."""
    handshakes: int
    """In their handshake now."""
    accepted: int
    """Handshakes that succeeded."""
    refused: int
    """Connections that were refused: over a limit, a wrong subprotocol, an `Origin`."""
    abandoned: int
    """Connections that failed in the handshake: too slow, malformed, closed by the peer, pushed out."""
    crashed: int
    """Connections whose handler raised."""


class WebsocketServer:
    """A running server, as `serve_websockets` tells it to whoever started it.

    `address` is what it is bound to, "host:port"; `port` the port alone.
    """

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[object]],
        address: str,
        subprotocol: str,
        limits: ServerLimits,
        allowed_origins: Set[str],
        readers: trio.Nursery,
    ) -> None:
        self.address = address
        self.port = int(address.rpartition(":")[2])
        self._handler = handler
        self._subprotocol = subprotocol
        self._limits = limits
        self._allowed_origins = allowed_origins
        self._readers = readers
        self._handshakes: dict[_GuardedReader, None] = {}  # oldest first
        self._connections = self._accepted = self._refused = self._abandoned = self._crashed = self._refusing = 0

    def statistics(self) -> ServerStatistics:
        """What this server did so far."""
        return ServerStatistics(
            self._connections, len(self._handshakes), self._accepted, self._refused, self._abandoned, self._crashed
        )

    async def serve(self, stream: NetworkStream) -> None:
        """Everything about one connection, from accept to close. Raises nothing but the server's own cancellation."""
        try:
            if self._connections >= self._limits.max_connections:
                await self._refuse(stream)
                return
            reader = _GuardedReader(self._readers, stream)
            try:
                connection = await self._shake_hands(stream, reader)
                if connection is not None:
                    await self._handle(connection)
            finally:
                reader.stop()
        finally:
            await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: NetworkStream) -> None:
        self._refused += 1
        if self._refusing >= _MAX_REFUSALS or not isinstance(stream, trio.SocketStream):
            return
        self._refusing += 1
        try:
            with trio.move_on_after(CLOSE_TIMEOUT), suppress(trio.BrokenResourceError):
                await stream.send_all(_TOO_MANY)
                await linger(stream)
        finally:
            self._refusing -= 1

    async def _shake_hands(self, stream: NetworkStream, reader: _GuardedReader) -> Connection | None:
        self._handshakes[reader] = None
        if len(self._handshakes) > self._limits.max_handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]  # not when it ends: many may come before that
            oldest.handshake_scope.cancel()
        connection = None
        refused = self._refused
        tap = Tap(stream, client=False, max_frame=self._limits.max_frame)
        try:
            with reader.handshake_scope as scope:
                scope.deadline = trio.current_time() + self._limits.handshake_timeout
                connection = await self._answer(stream, reader, tap)
        except Exception as error:
            logger.debug("handshake of %s with %s failed: %r", reader.remote, self.address, error)
        finally:
            self._handshakes.pop(reader, None)
        if connection is None and self._refused == refused:
            self._abandoned += 1
        if (problem := refused_tls(tap.broken)) is not None:
            logger.warning("TLS handshake of %s with %s failed: %s", reader.remote, self.address, problem)
        return connection

    async def _answer(self, stream: NetworkStream, reader: _GuardedReader, tap: Tap) -> Connection | None:
        request = await trio_websocket.wrap_server_stream(
            reader,  # type: ignore[arg-type]  # as Trio says of handler_nursery: anything with a start_soon will do
            tap,
            message_queue_size=_QUEUE,
            max_message_size=self._limits.max_frame,
            receive_buffer_size=RECEIVE_BYTES,
        )
        refusal = self._refusal(request)
        if refusal is None:
            websocket = await request.accept(subprotocol=self._subprotocol)
            return Connection(websocket, stream, tap, reader, self._limits.idle_timeout)
        status, reason = refusal
        logger.debug("refused %s at %s: %s", reader.remote, self.address, reason)
        self._refused += 1
        await request.reject(status, body=reason.encode(), extra_headers=[(b"Content-Type", b"text/plain")])
        return None

    def _refusal(self, request: trio_websocket.WebSocketRequest) -> tuple[int, str] | None:
        origins = {value.decode("latin-1") for name, value in request.headers if name.lower() == b"origin"}
        if not origins <= self._allowed_origins:
            return 403, "requests of web pages are refused: this server does not allow their origin\n"
        if self._subprotocol not in request.proposed_subprotocols:
            return 400, f"this server speaks the websocket subprotocol {self._subprotocol} only\n"
        if self._connections >= self._limits.max_connections:
            return 503, _TOO_MANY_TEXT
        return None

    async def _handle(self, connection: Connection) -> None:
        self._connections += 1
        self._accepted += 1
        code, reason = _NORMAL, ""
        try:
            await self._handler(connection)
        except BaseException as error:
            faults, beyond = _sort_out(error)
            if faults is not None:
                self._crashed += 1
                code, reason = _INTERNAL, "internal error"
                logger.error("the handler of %s at %s raised", connection.remote, self.address, exc_info=faults)
            if beyond is not None:
                if faults is None:
                    code, reason = _GOING_AWAY, "the server is shutting down"
                raise beyond from None
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose(code, reason)
            self._connections -= 1


def _sort_out(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What a handler raised by its own fault, and what must go on: cancellation, KeyboardInterrupt."""
    if isinstance(error, BaseExceptionGroup):
        exceptions, beyond = error.split(Exception)
        return (None if exceptions is None else exceptions.split(ConnectionClosed)[1]), beyond
    if isinstance(error, Exception):
        return (None if isinstance(error, ConnectionClosed) else error), None
    return None, error


async def serve_websockets(
    handler: Callable[[Connection], Awaitable[object]],
    host: str,
    port: int,
    *,
    subprotocol: str,
    limits: ServerLimits = ServerLimits(),
    allowed_origins: Set[str] = frozenset(),
    ssl_context: ssl.SSLContext | None = None,
    listeners: list[Any] | None = None,
    task_status: trio.TaskStatus[WebsocketServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Listen, and run `handler(connection)` in a task of its own for each connection, until cancelled.

    Port 0 picks a free port; `task_status.started` tells a `WebsocketServer` that knows it. When the handler returns, the
    connection is closed with code 1000; when it raises, that is logged and the connection closed with code 1011; when
    the server is cancelled, connections are closed with code 1001, within `CLOSE_TIMEOUT`.

    `listeners`: from `open_listeners`, for who wants to know the port, or that it can't be had, before serving.

    `allowed_origins`: values of the `Origin` header that are let in, for example "https://example.org". A request
    without that header is from no browser, and always let in.

    Raises `ListenFailed`.
    """
    if listeners is None:
        listeners = await open_listeners(host, port, ssl_context)
    try:
        async with _open_reader_nursery() as readers:
            server = WebsocketServer(handler, address_of(listeners), subprotocol, limits, allowed_origins, readers)
            # It survives what accept raises when the machine is short of descriptors or memory: it logs, and tries again.
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, server.serve, listeners)
                task_status.started(server)
    except BaseExceptionGroup as group:
        broken, others = group.split(OSError)
        if broken is None or others is not None:
            raise
        raise ListenFailed(f"can't listen on {server.address} any more: {why(broken)}") from None
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)  # if serve_listeners was never reached
    raise AssertionError("serve_listeners never returns")


_TOO_MANY_TEXT: Final = "this server has as many connections as it can take: try again later\n"
_TOO_MANY: Final = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    f"Content-Length: {len(_TOO_MANY_TEXT)}\r\n\r\n{_TOO_MANY_TEXT}"
).encode()


# What both need -------------------------------------------------------------------------------------------------------


class _GuardedReader:
    """Stands in for the nursery that the library starts its reader task in, and keeps that task's errors.

    The library's reader raises whatever it likes on malformed input. And if it ends early, whoever waits for a handshake
    waits forever; so `handshake_scope` is cancelled then.
    """

    def __init__(self, nursery: trio.Nursery, stream: NetworkStream) -> None:
        self.remote = peer_of(stream)
        self.handshake_scope = trio.CancelScope()
        self.ended = trio.Event()
        self.error: Exception | None = None
        self._scope = trio.CancelScope()
        self._nursery = nursery

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        self._nursery.start_soon(self._run, task, args, name=f"websocket reader of {self.remote}")

    def stop(self) -> None:
        self._scope.cancel()

    async def _run(self, task: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            with self._scope:
                await task(*args)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
            self.handshake_scope.cancel()


@asynccontextmanager
async def _open_reader_nursery() -> AsyncGenerator[trio.Nursery, None]:
    """A nursery for readers. When the block is cancelled they live on, to see the peer's farewell, until it ends.

    What the block raises leaves it as it is, never in a group.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as outer:
        with trio.CancelScope(shield=True):  # a cancellation in here would leave behind what nobody ends
            readers = await outer.start(_hold_nursery_open)
        try:
            yield readers
        except BaseException as raised:
            error = raised
        readers.cancel_scope.cancel()
    if error is not None:
        try:
            raise error
        finally:
            del error  # or the frame and its traceback would keep each other alive


async def _hold_nursery_open(task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED) -> None:
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.shield = True
        task_status.started(nursery)
        await trio.sleep_forever()
