"""Websocket connections that carry bytes, for clients and servers: the only file that knows trio_websocket.

trio_websocket does the protocol. What is added here is what a server in a hostile world needs:

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
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import trio
import trio_websocket

from ._errors import ConnectFailed, ConnectionClosed, ListenFailed

logger = logging.getLogger(__name__)

MAX_FRAME: Final = 2**20
"""Bytes in a message, as in `rabble_trio.encode`. A larger one closes the connection with code 1009."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for a farewell: to send the close frame and to see the peer's."""

_QUEUE: Final = 4  # messages the library reads ahead; each may take MAX_FRAME
_RECEIVE_BYTES: Final = 2**16  # per read; the library's 4 KiB would be many reads for a batch
_MAX_REASON: Final = 100  # characters; a close frame has room for 123 bytes
_MAX_LINGER: Final = 2**24  # bytes that are read and thrown away so that a peer can read why it was refused
_MAX_REFUSALS: Final = 50  # connections beyond the limit that are told so at the same time; more are closed without a word

_NORMAL, _GOING_AWAY, _UNSUPPORTED, _ABNORMAL, _INTERNAL = 1000, 1001, 1003, 1006, 1011

_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


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

    `remote` is the peer's address, "host:port"; `path` the path that the client asked for.
    """

    def __init__(
        self, websocket: trio_websocket.WebSocketConnection, stream: _Stream, reader: _GuardedReader, idle_timeout: float
    ) -> None:
        self.remote = _address_of(stream, "getpeername")
        self.path: str = websocket.path or "/"
        self._websocket = websocket
        self._stream = stream
        self._reader = reader
        self._idle_timeout = idle_timeout
        self._closed: ConnectionClosed | None = None
        self._messages_sent = self._messages_received = self._bytes_sent = self._bytes_received = 0

    async def send(self, data: bytes) -> None:
        """Send one message; waits while the peer does not read. Messages of several tasks don't mix.

        Cancelling it may leave half a message on the wire, so it makes the connection unusable. Raises `ConnectionClosed`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed is not None:
            raise self._again()
        try:
            await self._websocket.send_message(data)
        except trio.Cancelled:
            self._closed = ConnectionClosed(_ABNORMAL, "a send was cancelled midway")
            raise
        except Exception as error:
            raise self._failed(error) from None
        self._messages_sent += 1
        self._bytes_sent += len(data)

    async def receive(self) -> bytes:
        """The next message. A text message closes the connection with code 1003. Raises `ConnectionClosed`."""
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            raise self._again()
        try:
            if self._idle_timeout == math.inf:
                data = await self._websocket.get_message()
            else:
                with trio.fail_after(self._idle_timeout):
                    data = await self._websocket.get_message()
        except trio.TooSlowError:
            await self.aclose(_GOING_AWAY, f"no message for {self._idle_timeout:g} s")
            raise self._again() from None
        except Exception as error:
            raise self._failed(error) from None
        if not isinstance(data, bytes):
            await self.aclose(_UNSUPPORTED, "text messages are not supported: send binary ones")
            raise self._again()
        self._messages_received += 1
        self._bytes_received += len(data)
        return data

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        """Say goodbye and close, within `CLOSE_TIMEOUT`, at once if cancelled. Closing twice is fine. Never raises but
        for the caller's cancellation.
        """
        said = self._closed is not None
        if self._closed is None:
            self._closed = ConnectionClosed(code, reason)
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                if not said and not self._reader.ended.is_set():
                    with suppress(Exception):
                        await self._websocket.aclose(code, reason[:_MAX_REASON] or None)
                elif self._reader.refused_peer:
                    await _linger(self._stream)
        finally:
            await _close_forcefully(self._stream)

    def statistics(self) -> ConnectionStatistics:
        """What went over this connection so far."""
        return ConnectionStatistics(
            self._messages_sent, self._messages_received, self._bytes_sent, self._bytes_received
        )

    def __repr__(self) -> str:
        return f"<Connection with {self.remote}{' closed' if self._closed else ''}>"

    def _again(self) -> ConnectionClosed:
        # A fresh one each time: tracebacks of several tasks would pile up on a shared one.
        assert self._closed is not None
        return ConnectionClosed(self._closed.code, self._closed.reason)

    def _failed(self, error: Exception) -> ConnectionClosed:
        """What became of the connection, now that the library raised `error`."""
        if self._closed is None:
            closed = self._websocket.closed
            if self._reader.error is not None:
                self._closed = ConnectionClosed(_ABNORMAL, f"protocol error: {self._reader.error}")
            elif closed is not None:
                self._closed = ConnectionClosed(closed.code, closed.reason or "")
            else:
                self._closed = ConnectionClosed(_ABNORMAL, f"{type(error).__name__}: {error}")
        return self._again()


class _GuardedReader:
    """Stands in for the nursery that the library starts its reader task in, and keeps that task's errors.

    The library's reader raises what it likes on malformed input, and when it ends early whoever waits for a handshake
    waits forever: hence `ended`, and `scope`, which is cancelled then.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.ended = trio.Event()
        self.handshake_scope = trio.CancelScope()
        self.error: Exception | None = None

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: Any, name: object = None) -> None:
        self._nursery.start_soon(self._run, task, args, name=name or "websocket reader")

    async def _run(self, task: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001
            self.error = error
        finally:
            self.ended.set()
            self.handshake_scope.cancel()
