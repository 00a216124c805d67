"""What carries links between nodes: the interface, and its implementation by websockets.

A transport carries whole messages, in order, and says how a connection ended: with a code and a reason that the other
side gave, or with 1006 when the connection broke. `rabble_trio.testing.MemoryNetwork` is another implementation.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from ._ids import NodeId
from ._sockets import address_of, open_listeners
from ._websocket import ServerLimits, open_websocket_client, serve_websockets

SUBPROTOCOL: Final = "rabble.link.1"
"""What a websocket on the cluster port speaks, with the version of the protocol."""

MAX_CONNECTIONS: Final = 600
"""Of a cluster port: one for each of `rabble_trio._members.MAX_MEMBERS`, and some that are being replaced or refused."""


class Wire(Protocol):
    """An open connection between two nodes, as `Transport` makes it. One task may send, another receive."""

    @property
    def remote(self) -> str:
        """The peer's address, for people to read."""

    @property
    def certificate_names(self) -> frozenset[str] | None:
        """The names in the peer's verified certificate; None without TLS."""

    @property
    def heard_at(self) -> float:
        """When the last byte of the peer arrived, in Trio's clock, whether or not its message is whole yet."""

    async def send(self, data: bytes) -> None:
        """Send one message; waits while the peer does not read. Raises `ConnectionClosed`.

        If it is cancelled, the connection is of no use any more.
        """

    @property
    def clear(self) -> bool:
        """Whether `send_nowait` may be called now."""

    def send_nowait(self, data: bytes) -> None:
        """Send one message while the way is `clear`. Somebody has to `drain` what is `unsent` then."""

    @property
    def unsent(self) -> bool:
        """Whether `send_nowait` left something over."""

    async def drain(self) -> None:
        """Send what is `unsent`. Raises as `send` does."""

    async def receive(self) -> bytes:
        """The next message. Raises `ConnectionClosed`, with the code and reason that the peer gave, if it did.

        Always a checkpoint: actors must get their turn to handle what is received.
        """

    async def aclose(self, code: int, reason: str) -> None:
        """Say goodbye and close, within a second or so; at once if cancelled. Closing twice is fine."""


Handler = Callable[[Wire], Awaitable[object]]
"""What a listener runs for each connection; when it returns, the connection is closed."""


class Listener(Protocol):
    """A bound port, as `Transport.listen` makes it."""

    @property
    def port(self) -> int:
        """The port that it is bound to."""

    async def serve(self, handler: Handler) -> None:
        """Run the handler for each connection, in a task of its own, until cancelled."""

    async def aclose(self) -> None:
        """Release the port, if it was not served; fine if it was."""


class Transport(Protocol):
    """How a node reaches others, and is reached."""

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a port; 0 picks a free one. Raises `ListenFailed`."""

    def dial(self, node: NodeId) -> AbstractAsyncContextManager[Wire]:
        """Connect to a node; the connection is closed at the end of the block. Raises `ConnectFailed`.

        The caller's cancel scope is the timeout.
        """


TlsContexts = tuple[ssl.SSLContext, ssl.SSLContext]
"""(for connections that come in, for connections that go out)"""


class WebsocketTransport:
    """Links over websockets, encrypted if there are contexts."""

    def __init__(self, tls: TlsContexts | None = None) -> None:
        self._server_context = None if tls is None else tls[0]
        self._client_context = None if tls is None else tls[1]

    async def listen(self, host: str, port: int) -> Listener:
        """Bind a port."""
        return _WebsocketListener(host, await open_listeners(host, port, self._server_context))

    @asynccontextmanager
    async def dial(self, node: NodeId) -> AsyncGenerator[Wire, None]:
        """Connect to a node."""
        context = self._client_context
        async with open_websocket_client(
            node.host, node.port, subprotocol=SUBPROTOCOL, ssl_context=context
        ) as connection:
            yield connection


class _WebsocketListener:
    def __init__(self, host: str, listeners: list[Any]) -> None:
        self.port = int(address_of(listeners).rpartition(":")[2])
        self._host = host
        self._listeners = listeners

    async def serve(self, handler: Handler) -> None:
        limits = ServerLimits(max_connections=MAX_CONNECTIONS)
        await serve_websockets(
            handler, self._host, self.port, subprotocol=SUBPROTOCOL, limits=limits, listeners=self._listeners
        )

    async def aclose(self) -> None:
        for listener in self._listeners:
            await trio.aclose_forcefully(listener)


def cluster_tls(certificate: str | Path, key: str | Path, authority: str | Path) -> TlsContexts:
    """TLS for the links of a cluster, from files in PEM format: the argument `tls` of `rabble_trio.open_node`.

    `certificate`: this node's, with the name of the node among its DNS names, and with any intermediate ones behind it.
    `key`: its private key. `authority`: the certificates of whoever signs the nodes' certificates, and nobody else's,
    because both sides of a link have to show one.

    The link checks that a certificate has the name of its node, so that its address doesn't have to be in it. Raises
    `OSError` and `ssl.SSLError` if a file can't be read or used.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # both sides are ours, and of this century
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
    return server, client
