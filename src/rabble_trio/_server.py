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
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import trio

from ._codec import decode_batch, encode, join_batch
from ._errors import ActorDown, ConnectionClosed, DecodeError
from ._ids import CorrelationId, Pid
from ._mailbox import Mailbox
from ._messages import GetMetrics, Metrics
from ._process import Envelope
from ._service import Service
from ._sockets import address_of, open_listeners
from ._websocket import Connection, ServerLimits, serve_websockets

logger = logging.getLogger("rabble_trio.server")

BUDGET: Final = 256
"""Messages that one task handles before others run: a few milliseconds at most."""

BATCH_BYTES: Final = 256 * 1024
"""Bytes after which a frame of replies is full: what comes behind should not wait for a larger one."""

FAREWELL: Final = 5.0
"""Seconds that a peer has to read what it was told before its connection ends."""

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

    __slots__ = (
        "_max_requests",
        "_next",
        "backlog",
        "close_reason",
        "envelopes",
        "pending",
        "refused",
        "replies",
        "topic",
    )

    def __init__(self, max_requests: int = 1024) -> None:
        self.replies: list[Any] = []
        """Messages to the peer, in order."""
        self.envelopes: list[tuple[Pid, Any, int]] = []
        """(receiver, message, request number) to actors; 0 where no reply is expected."""
        self.pending: dict[int, Any] = {}
        """The contexts of requests that have no reply yet, by number."""
        self.refused: list[Any] = []
        """The contexts of requests that were one too many."""
        self.backlog = 0
        """Bytes of earlier replies that wait for the peer to read them. A handler whose replies are large looks at it: a
        peer is cut off beyond `RequestLimits.max_reply_bytes`, also one that reads, if it may ask for that much at once."""
        self.close_reason: str | None = None
        """Set once the connection shall end."""
        self.topic: Hashable = None
        """What this connection follows; see `follow`."""
        self._next = 0
        self._max_requests = max_requests

    def reply(self, message: Any) -> None:
        """Send a message to the peer."""
        self.replies.append(message)

    def send(self, to: Pid, message: Any) -> None:
        """Send a message to an actor; no reply is expected."""
        self.envelopes.append((to, message, 0))

    def request(self, to: Pid, message: Any, context: Any = None) -> None:
        """Send a message to an actor. `answered` is called with its reply and `context`, or else `failed` is."""
        if len(self.pending) >= self._max_requests:
            self.refused.append(context)
            return
        number = self._next = self._next + 1
        self.pending[number] = context
        self.envelopes.append((to, message, number))

    def forget_requests(self) -> list[Any]:
        """Expect no replies any more to what was requested so far; returns the contexts, in order of the requests."""
        contexts = list(self.pending.values())
        self.pending.clear()
        return contexts

    def follow(self, topic: Hashable) -> None:
        """From now on, of the messages to `ConnectionHandler.notified` that have an attribute `topic`, those with this one
        are for this connection. It follows one topic at a time, at first none.
        """
        self.topic = topic

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
        """A request will get no reply: its actor is down or full, it took too long, or there are too many of them.

        What is sent to actors here leaves with the connection's next step, so that failures can't go round in circles.
        """

    def notified(self, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """An actor sent a message to the server that answers nothing.

        Every connection gets it; if it has an attribute `topic`, those that follow that (`ConnectionOutput.follow`).
        """

    def closed(self, output: ConnectionOutput) -> None:
        """The connection is gone. Only `output.send` still has an effect."""


class _Peer:
    """What the server keeps of one connection."""

    def __init__(self, number: int, handler: ConnectionHandler, connection: Connection, max_requests: int) -> None:
        self.number = number
        self.handler = handler
        self.connection = connection
        self.output = ConnectionOutput(max_requests)
        self.topic: Hashable = None  # under which it is found among the followers
        self.deadlines: deque[tuple[float, int]] = deque()  # when which request fails; may hold answered ones
        self.outgoing: deque[bytes] = deque()
        self.wake = trio.Event()
        self.ready = False  # whether it is among those that are sent replies at the end of this turn
        self.scope = trio.CancelScope()


class WebsocketService(Service):
    """A service that listens for websockets and gives each connection a handler of its own.

    `make_handler` takes the peer's address. `address` is "host:port", once it listens. The server answers
    `GetMetrics`. Raises `ListenFailed` when it can't listen.
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
        limits: RequestLimits | None = None,
        transport_limits: ServerLimits | None = None,
    ) -> None:
        self._make_handler = make_handler
        self._host = host
        self._port = port
        self._subprotocol = subprotocol
        self._limits = limits or RequestLimits()
        self._transport_limits = transport_limits or ServerLimits()
        self._peers: dict[int, _Peer] = {}
        self._followers: dict[Hashable, dict[_Peer, None]] = {}  # by topic
        self._numbers = 0
        self._ready: list[_Peer] = []  # who is to be sent replies at the end of this turn
        self._counts: Counter[str] = Counter()
        self._mailbox: Mailbox
        self._requests_pending = trio.Event()
        self.address = ""

    async def init(self, mailbox: Mailbox) -> None:
        """Bind the port."""
        self._mailbox = mailbox
        self._listeners = await open_listeners(self._host, self._port)
        self.address = address_of(self._listeners)

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
                self._send_now()
            nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        await serve_websockets(
            self._serve,
            self._host,
            self._port,
            subprotocol=self._subprotocol,
            limits=self._transport_limits,
            listeners=self._listeners,
        )

    # ------------------------------------------------------------- one connection

    async def _serve(self, connection: Connection) -> None:
        self._numbers += 1
        handler = self._make_handler(connection.remote)
        peer = _Peer(self._numbers, handler, connection, self._limits.max_requests)
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
            self._follow(peer, None)

    async def _read(self, peer: _Peer) -> None:
        connection, output = peer.connection, peer.output
        try:
            with trio.move_on_after(self._limits.first_frame) as patience:
                frame = await connection.receive()
            if patience.cancelled_caught:
                self._counts["mute"] += 1
                output.close(f"nothing was said within {self._limits.first_frame:g} s")
                self._end(peer)
            else:
                await self._on_frame(peer, frame)
            while output.close_reason is None:
                await self._on_frame(peer, await connection.receive())
        except ConnectionClosed:
            return
        await trio.sleep_forever()  # the writer says goodbye, and ends this

    async def _on_frame(self, peer: _Peer, frame: bytes) -> None:
        self._counts["frames"] += 1
        output, handler = peer.output, peer.handler
        try:
            messages = decode_batch(frame)
        except DecodeError as error:
            self._counts["garbled"] += 1
            self._guarded(peer, partial(handler.garbled, str(error)))
            self._send_now()
            return
        self._counts["messages"] += len(messages)
        for start in range(0, len(messages), BUDGET):
            if start:
                await trio.lowlevel.checkpoint()
            self._guarded(peer, partial(self._hand_over, messages[start : start + BUDGET], handler))
            self._send_now()
            if output.close_reason is not None:
                return

    @staticmethod
    def _hand_over(messages: list[Any], handler: ConnectionHandler, output: ConnectionOutput) -> None:
        for message in messages:
            if output.close_reason is None:
                handler.received(message, output)

    def _send_now(self) -> None:
        """Send the replies that are there, as far as that needs no waiting."""
        for peer in self._ready:
            peer.ready = False
            outgoing, connection = peer.outgoing, peer.connection
            while outgoing and connection.clear:
                connection.send_nowait(self._next_frame(peer))
            if outgoing or connection.unsent:
                peer.wake.set()
        self._ready.clear()

    @staticmethod
    def _next_frame(peer: _Peer) -> bytes:
        outgoing = peer.outgoing
        batch = [outgoing.popleft()]
        size = len(batch[0])
        while outgoing and size + len(outgoing[0]) < BATCH_BYTES:
            batch.append(outgoing.popleft())
            size += len(batch[-1])
        peer.output.backlog -= size
        return join_batch(batch)

    async def _write(self, peer: _Peer) -> None:
        outgoing, connection = peer.outgoing, peer.connection
        try:
            while True:
                if connection.unsent:
                    await connection.drain()
                if not outgoing:
                    if peer.output.close_reason is not None:
                        break
                    peer.wake = trio.Event()
                    await peer.wake.wait()
                    continue
                await connection.send(self._next_frame(peer))
            await connection.aclose(POLICY_VIOLATION, peer.output.close_reason)
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
            self._failed(peer)

    def _failed(self, peer: _Peer) -> None:
        logger.exception("%s: the connection from %s failed", self._mailbox.pid, peer.connection.remote)
        self._counts["failed"] += 1
        peer.output.envelopes.clear()
        peer.output.replies.clear()
        peer.output.close("internal error: see the server's log")
        self._end(peer)

    def _carry_out(self, peer: _Peer) -> None:
        output = peer.output
        if output.topic != peer.topic:
            self._follow(peer, output.topic)
        if output.envelopes:
            self._send_envelopes(peer)
        if output.refused:
            self._counts["requests_failed"] += len(output.refused)
            refused, output.refused = output.refused, []
            for context in refused:
                peer.handler.failed(context, f"{self._limits.max_requests} requests are unanswered already", output)
        if output.replies:
            outgoing = peer.outgoing
            for message in output.replies:
                data = encode(message)
                outgoing.append(data)
                output.backlog += len(data)
            self._counts["replies"] += len(output.replies)
            output.replies.clear()
            if not peer.ready:
                peer.ready = True
                self._ready.append(peer)
            if output.backlog > self._limits.max_reply_bytes:
                self._cut_off(peer)
        if output.close_reason is not None:
            self._end(peer)

    def _follow(self, peer: _Peer, topic: Hashable) -> None:
        followers = self._followers.get(peer.topic)
        if followers is not None:
            del followers[peer]
            if not followers:
                del self._followers[peer.topic]
        peer.topic = peer.output.topic = topic
        if topic is not None:
            self._followers.setdefault(topic, {})[peer] = None

    def _cut_off(self, peer: _Peer) -> None:
        # Its task ends later than this, and until then nothing more may be piled up for it.
        peer.outgoing.clear()
        peer.output.backlog = 0
        peer.output.forget_requests()
        if not peer.scope.cancel_called:
            logger.warning("%s: %s reads too slowly and is cut off", self._mailbox.pid, peer.connection.remote)
            self._counts["cut_off"] += 1
            peer.scope.cancel()

    def _end(self, peer: _Peer) -> None:
        """Let the writer say what is left to say, for a while."""
        peer.wake.set()
        peer.scope.deadline = min(peer.scope.deadline, trio.current_time() + FAREWELL)

    def _send_envelopes(self, peer: _Peer) -> None:
        output, mailbox = peer.output, self._mailbox
        pending, deadlines = output.pending, peer.deadlines
        envelopes, output.envelopes = output.envelopes, []
        deadline = trio.current_time() + self._limits.request_timeout
        while deadlines and deadlines[0][1] not in pending:
            deadlines.popleft()
        for to, message, number in envelopes:
            failure = None
            if number:
                deadlines.append((deadline, number))
            try:
                mailbox.send_nowait(to, message, CorrelationId(mailbox.pid, peer.number, number))
            except trio.WouldBlock:
                failure = f"the mailbox of {to} is full"
            except ActorDown as error:
                failure = str(error)
            if failure is not None:
                self._fail(peer, number, failure)
        if pending:
            self._requests_pending.set()

    def _fail(self, peer: _Peer, number: int, reason: str) -> None:
        self._counts["requests_failed"] += 1
        if number in peer.output.pending:
            peer.handler.failed(peer.output.pending.pop(number), reason, peer.output)

    async def _expire_requests(self) -> None:
        timeout = self._limits.request_timeout
        while True:
            await self._requests_pending.wait()
            self._requests_pending = trio.Event()
            await trio.sleep(timeout / 4)
            now = trio.current_time()
            for peer in list(self._peers.values()):
                pending, deadlines = peer.output.pending, peer.deadlines
                while deadlines and deadlines[0][0] <= now:
                    _, number = deadlines.popleft()
                    if number in pending:
                        self._counts["timeouts"] += 1
                        self._guarded(peer, partial(self._expire, peer, number))
                        self._send_now()
                if pending:
                    self._requests_pending.set()

    def _expire(self, peer: _Peer, number: int, output: ConnectionOutput) -> None:
        self._fail(peer, number, f"no reply within {self._limits.request_timeout:g} s")

    # ----------------------------------------------------------------- from actors

    def _on_envelope(self, envelope: Envelope) -> None:
        message, sender, cid = envelope.message, envelope.sender, envelope.correlation_id
        if cid is None or cid.pid != self._mailbox.pid:
            self._on_unasked(message, sender, cid)
            return
        if not cid.request:  # an answer to what expects none
            return
        peer = self._peers.get(cid.connection or 0)
        if peer is None or cid.request not in peer.output.pending:
            self._counts["late"] += 1
            return
        context = peer.output.pending.pop(cid.request)
        try:  # _guarded in one piece: this happens once for each request
            peer.handler.answered(context, message, sender, peer.output)
            self._carry_out(peer)
        except Exception:
            self._failed(peer)

    def _on_unasked(self, message: Any, sender: Pid, cid: CorrelationId | None) -> None:
        if type(message) is GetMetrics:
            with suppress(ActorDown, trio.WouldBlock):
                self._mailbox.send_nowait(sender, self.metrics(), cid)
            return
        # A message for each of many topics, and as many connections: all of it to all of them would take for ever.
        topic = getattr(message, "topic", None)
        for peer in list(self._peers.values() if topic is None else self._followers.get(topic, ())):
            self._guarded(peer, partial(peer.handler.notified, message, sender))

    def metrics(self) -> Metrics:
        """What the server counted since it started, and what is open now."""
        gauges = {
            "open_connections": float(len(self._peers)),
            "pending_requests": float(sum(len(peer.output.pending) for peer in self._peers.values())),
            "bytes_waiting": float(sum(peer.output.backlog for peer in self._peers.values())),
        }
        return Metrics(dict(self._counts), gauges)
