"""A websocket server as a service: each connection is a small state machine between its peer and the actors.

Rules:

1. A connection is a `ConnectionHandler`: pure, one instance each. It is told what the peer sent and what actors
   answered, and appends what it wants done to its `ConnectionOutput`.
2. A frame is a batch of messages, in both directions. Replies that are ready at the same time leave in one frame.
3. A request to an actor carries a correlation id of (server, connection, request). Its reply finds the connection by
   that; so does the end of patience with it. A reply that comes later, or twice, is counted and dropped.
4. The task that reads from a peer never waits for an actor: a full mailbox fails the request at once.
5. Nobody waits for a slow peer: one whose replies pile up beyond a limit is cut off.
6. What fails in a handler closes its connection, is logged, and touches no other.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import trio

from ._codec import decode_batch, encode, join_batch
from ._errors import ActorDown, CodecError, DecodeError
from ._ids import CorrelationId, Pid
from ._mailbox import Mailbox
from ._messages import GetMetrics, Metrics
from ._process import Envelope
from ._service import Service
from ._websocket import Connection, ConnectionClosed, ServerLimits, listen_websockets

logger = logging.getLogger("rabble_trio.server")

BUDGET: Final = 256
"""Messages that one task handles before others run: a few milliseconds at most."""

BATCH_BYTES: Final = 256 * 1024
"""Bytes after which a frame of replies is full: what comes behind should not wait for a larger one."""

POLICY_VIOLATION: Final = 1008
"""The close code for a peer that breaks the rules (RFC 6455, section 7.4.1)."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a connection may cost. Raises `ValueError` unless all are positive."""

    request_timeout: float = 5.0
    """Seconds after which a request to an actor that has no reply fails; up to a quarter more, for there is one clock
    for all of them."""
    first_frame: float = 5.0
    """Seconds in which a new connection must say something, so that mute ones don't use up `max_connections`."""
    max_requests: int = 1024
    """Requests of one connection that may be without a reply; further ones fail at once."""
    max_reply_bytes: int = 8 * 1024 * 1024
    """Bytes of replies that may wait for one peer to read them: several of the largest frames. Beyond it, the peer is
    cut off."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)!r}")


class ConnectionOutput:
    """What a handler wants done, as data. A test makes its own and looks at the attributes."""

    __slots__ = ("_next", "close_reason", "envelopes", "pending", "replies")

    def __init__(self) -> None:
        self.replies: list[Any] = []
        """Messages to the peer, in order."""
        self.envelopes: list[tuple[Pid, Any, int]] = []
        """(receiver, message, request number) to actors; 0 where no reply is expected."""
        self.pending: dict[int, Any] = {}
        """The contexts of requests that have no reply yet, by number."""
        self.close_reason: str | None = None
        """Set once the connection shall end."""
        self._next = 0

    def reply(self, message: Any) -> None:
        """Send a message to the peer."""
        self.replies.append(message)

    def send(self, to: Pid, message: Any) -> None:
        """Send a message to an actor; no reply is expected."""
        self.envelopes.append((to, message, 0))

    def request(self, to: Pid, message: Any, context: Any = None) -> None:
        """Send a message to an actor. Its reply comes back to `answered`, or else `failed` is called, with `context`."""
        number = self._next = self._next + 1
        self.pending[number] = context
        self.envelopes.append((to, message, number))

    def forget_requests(self) -> list[Any]:
        """Expect no replies any more to what was requested so far; returns the contexts, in order of the requests."""
        contexts = list(self.pending.values())
        self.pending.clear()
        return contexts

    def close(self, reason: str) -> None:
        """End the connection after what was replied so far. The peer is told why."""
        self.close_reason = reason


class ConnectionHandler:
    """One connection, as a pure state machine: subclass it and override what you need."""

    def received(self, message: Any, output: ConnectionOutput) -> None:
        """The peer sent a message: of any registered class, so check it."""
        raise NotImplementedError(f"{type(self).__name__} must define received()")

    def garbled(self, reason: str, output: ConnectionOutput) -> None:
        """The peer sent what is no batch of messages. By default the connection is closed."""
        output.close(reason)

    def answered(self, context: Any, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """An actor answered a request that was made with this context."""

    def failed(self, context: Any, reason: str, output: ConnectionOutput) -> None:
        """A request will get no reply: its actor is down or full, it took too long, or there are too many of them."""

    def notified(self, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """An actor sent a message to the server that answers nothing. Every connection gets it."""

    def closed(self, output: ConnectionOutput) -> None:
        """The connection is gone. Only `output.send` still has an effect."""


class _Peer:
    """What the server keeps of one connection."""

    def __init__(self, number: int, handler: ConnectionHandler, connection: Connection) -> None:
        self.number = number
        self.handler = handler
        self.connection = connection
        self.output = ConnectionOutput()
        self.deadlines: dict[int, float] = {}  # of pending requests, oldest first
        self.outgoing: deque[bytes] = deque()
        self.outgoing_bytes = 0
        self.wake = trio.Event()
        self.scope = trio.CancelScope()


class WebsocketServer(Service):
    """A service that listens for websockets and gives each connection a handler of its own.

    `make_handler` takes the peer's address. `on_message(message, sender)` is called once for every message to the
    server that answers no request, before all connections are notified of it. `address` is "host:port", once it listens.
    The server answers `GetMetrics`. Raises `ListenFailed` when it can't listen.
    """

    mailbox_size: ClassVar[int] = 100_000
    """Replies of all connections' requests arrive here, in bursts."""

    def __init__(
        self,
        make_handler: Callable[[str], ConnectionHandler],
        host: str,
        port: int,
        *,
        subprotocol: str,
        on_message: Callable[[Any, Pid], None] | None = None,
        limits: RequestLimits | None = None,
        transport_limits: ServerLimits | None = None,
    ) -> None:
        self._make_handler = make_handler
        self._host = host
        self._port = port
        self._subprotocol = subprotocol
        self._on_message = on_message
        self._limits = limits or RequestLimits()
        self._transport_limits = transport_limits or ServerLimits()
        self._peers: dict[int, _Peer] = {}
        self._numbers = 0
        self._counts: Counter[str] = Counter()
        self._mailbox: Mailbox
        self._requests_pending = trio.Event()
        self.address = ""

    async def init(self, mailbox: Mailbox) -> None:
        """Bind the port."""
        self._mailbox = mailbox
        self._listener = await listen_websockets(self._host, self._port)
        self.address = self._listener.address

    async def run(self, mailbox: Mailbox) -> None:
        """Serve until asked to shut down; then close all connections."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._expire_requests)
            while True:
                try:
                    envelope = await mailbox.receive()
                    for _ in range(BUDGET):
                        self._on_envelope(envelope)
                        envelope = mailbox.receive_nowait()
                    self._on_envelope(envelope)
                except trio.WouldBlock:
                    pass
                except trio.EndOfChannel:
                    break
            nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        await self._listener.serve(self._serve, subprotocol=self._subprotocol, limits=self._transport_limits)

    # ------------------------------------------------------------- one connection

    async def _serve(self, connection: Connection) -> None:
        self._numbers += 1
        peer = _Peer(self._numbers, self._make_handler(connection.remote), connection)
        self._peers[peer.number] = peer
        self._counts["connections"] += 1
        try:
            with peer.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, peer)
                    await self._read(peer)
                    nursery.cancel_scope.cancel()
        finally:
            del self._peers[peer.number]
            peer.output.forget_requests()
            peer.output.envelopes.clear()
            self._guarded(peer, peer.handler.closed)

    async def _read(self, peer: _Peer) -> None:
        try:
            with trio.move_on_after(self._limits.first_frame):
                await self._on_frame(peer, await peer.connection.receive())
                while peer.output.close_reason is None:
                    # Patience ends with the first frame; a later one may take as long as it likes.
                    trio.current_effective_deadline()
                    break
            while peer.output.close_reason is None:
                await self._on_frame(peer, await peer.connection.receive())
        except ConnectionClosed:
            return
        await trio.sleep_forever()  # the writer says goodbye, and ends it

    async def _on_frame(self, peer: _Peer, frame: bytes) -> None:
        self._counts["frames"] += 1
        output, handler = peer.output, peer.handler
        try:
            messages = decode_batch(frame)
        except DecodeError as error:
            self._counts["garbled"] += 1
            reason = str(error)
            self._guarded(peer, lambda output: handler.garbled(reason, output))
            return
        self._counts["messages"] += len(messages)
        for start in range(0, len(messages), BUDGET):
            part = messages[start : start + BUDGET]

            def handle(output: ConnectionOutput, part: list[Any] = part) -> None:
                for message in part:
                    if output.close_reason is None:
                        handler.received(message, output)

            self._guarded(peer, handle)
            if output.close_reason is not None:
                return
            if start:
                await trio.lowlevel.checkpoint()

    async def _write(self, peer: _Peer) -> None:
        outgoing = peer.outgoing
        try:
            while True:
                if not outgoing:
                    if peer.output.close_reason is not None:
                        break
                    peer.wake = trio.Event()
                    await peer.wake.wait()
                    continue
                batch, size = [outgoing.popleft()], 0
                while outgoing and size + len(outgoing[0]) < BATCH_BYTES:
                    size += len(outgoing[0])
                    batch.append(outgoing.popleft())
                peer.outgoing_bytes -= sum(map(len, batch))
                await peer.connection.send(join_batch(batch))
            await peer.connection.aclose(POLICY_VIOLATION, peer.output.close_reason)
        except ConnectionClosed:
            pass
        peer.scope.cancel()

    # ------------------------------------------------------------------- effects

    def _guarded(self, peer: _Peer, step: Callable[[ConnectionOutput], None]) -> None:
        """Let a handler do a step, and carry out what it wants; if it fails, its connection ends."""
        try:
            step(peer.output)
            self._carry_out(peer)
        except Exception:
            logger.exception("%s: the connection from %s failed", self._mailbox.pid, peer.connection.remote)
            self._counts["failed"] += 1
            peer.output.envelopes.clear()
            peer.output.replies.clear()
            peer.output.close("internal error: see the server's log")
            peer.wake.set()

    def _carry_out(self, peer: _Peer) -> None:
        output = peer.output
        if output.envelopes:
            self._send_envelopes(peer)
        if output.replies:
            outgoing = peer.outgoing
            for message in output.replies:
                data = encode(message)
                outgoing.append(data)
                peer.outgoing_bytes += len(data)
            self._counts["replies"] += len(output.replies)
            output.replies.clear()
            peer.wake.set()
            if peer.outgoing_bytes > self._limits.max_reply_bytes:
                logger.warning("%s: %s reads too slowly and is cut off", self._mailbox.pid, peer.connection.remote)
                self._counts["cut off"] += 1
                peer.scope.cancel()
        if output.close_reason is not None:
            peer.wake.set()

    def _send_envelopes(self, peer: _Peer) -> None:
        output, pending = peer.output, peer.output.pending
        send, pid, connection = self._mailbox.send_nowait, self._mailbox.pid, peer.number
        deadline = trio.current_time() + self._limits.request_timeout
        failed: list[tuple[int, str]] = []
        for to, message, number in output.envelopes:
            if not number:
                failure = self._try_send(to, message, None)
            elif len(pending) > self._limits.max_requests and number in pending:
                failure = f"more than {self._limits.max_requests} requests are unanswered"
            else:
                peer.deadlines[number] = deadline
                failure = None
                try:
                    send(to, message, CorrelationId(pid, connection, number))
                except (trio.WouldBlock, ActorDown) as error:
                    failure = _said(error)
            if failure is not None and number:
                failed.append((number, failure))
        output.envelopes.clear()
        if pending and not self._requests_pending.is_set():
            self._requests_pending.set()
        for number, failure in failed:
            self._fail(peer, number, failure)
        if output.envelopes:
            # A handler answered a failure with another request. What fails again must not come back for ever.
            self._send_envelopes(peer) if not failed else self._send_once(peer)
