"""The link between two nodes, as a pure machine: messages of the transport in, events and messages out.

Whoever owns a link does this, and nothing else touches it::

    reader      for event in link.receive(await transport.receive(), now()): act on it
    writer      while data := link.next_message(now()): await transport.send(data)
                then wait until something was sent or received, or until link.deadline, and call link.tick(now())
    on LinkError from any of them: transport.aclose(error.code, error.close_reason)
    on the peer's close: error = link.closed_by_peer(code, reason)
    in the end: link.undelivered() are dead letters

The states, and what may arrive in them; all else is a `LinkError`, and nothing arrives after that:

    handshake      Hello, Proof (`_handshake`)                          -> established, or closed when time is up
    established    Ping, Pong, membership messages, envelopes           -> closed after a silence
    closed         nothing: every input raises the error that closed it

Rules:

1. Two lanes lead to the peer. Control (handshake, heartbeats, membership) always goes first; envelopes leave as many in
   one message as are waiting, up to `batch_bytes`, so that a heartbeat waits for one message at most.
2. Both lanes are bounded in bytes. An envelope that finds its lane full is dropped, and `send` says so. A control lane
   that is full ends the link: the peer does not read. The runtime's own envelopes, which somebody may wait for (a `Down`),
   are not dropped: they may exceed the limit by as much as the control lane holds, and beyond that the link ends too.
3. An envelope is encoded once, when it is sent, and one that is too large for a message is refused there, with
   `EncodeError`. Delivery is at most once and in order; what was not handed to the transport when the link ends is
   undelivered.
4. A pid crosses in full the first time, and as a number after that. Receivers, senders and correlation ids have a table
   each. One that is full is emptied, on both sides at the same place in the stream.
5. An envelope is for an actor of the receiving node, from one of the sending node. The peer can't speak for others.
6. A ping follows every `heartbeat_interval`, as soon as the one before is answered. Any byte is a sign of life (`heard`);
   silence for `heartbeat_timeout` ends the link. So does a peer that stutters: bytes, but no whole message for
   `message_timeout`. The round-trip time runs from handing a ping to the transport to its pong. While an answer takes its
   time, because the peer is busy sending something large, an empty batch every `heartbeat_interval` is the sign of life.
7. A message inside an envelope that this process can't decode, because no class has its tag or the class has changed, is
   lost alone, and reported: two versions of an application may meet. Everything else that is malformed ends the link.

A message of the transport is either one control message, as `rabble_trio.encode` makes it, or a msgpack array of the number
1 and any number of envelopes. An envelope is an array too: receiver, sender, message, and if it has a correlation id,
that one's pid, connection and request. A nil between envelopes empties the tables of pids.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

from ._codec import MAX_MESSAGE_SIZE, _placed, _raise_encode_error, _unpack, encode, message
from ._convert import ENCODERS, MAX_DEPTH, Mismatch, decode_message
from ._errors import DecodeError, EncodeError, InvalidId, LinkError, NotAMessage
from ._handshake import CloseCode, Handshake, Hello, Hellos, LinkConfig, Role, violation
from ._ids import CorrelationId, NodeId, Pid
from ._members import MEMBERSHIP_MESSAGES, Gossip
from ._orset import Digest

MAX_PIDS: Final = 8192
"""Pids in each table of a link: more actors than talk across one link in a while, in a few megabytes."""

MAX_NUMBER: Final = 2**63 - 1
"""Of pings: they would take longer than the sun lasts."""

_ENVELOPES: Final = 1  # what a message that carries envelopes starts with
_HEADER_BYTES: Final = 16  # of such a message: an array header of up to 5 bytes, and the number
_FORGET_PIDS: Final = b"\xc0"  # nil

_newest: tuple[Any, Any] = (None, None)
"""The message that was converted last, and its plain value: what is sent to many nodes is sent to all of them in a row."""

_pack = msgpack.Packer(use_bin_type=True).pack
_array_header = msgpack.Packer().pack_array_header

Letter = tuple[Pid, Pid, Any, CorrelationId | None]
"""(receiver, sender, message, correlation id): an envelope in the form that the executor routes."""


@message(tag="rabble.link_ping")
class Ping:
    """Answer with `Pong`."""

    number: int
    """Counts up from 1."""


@message(tag="rabble.link_pong")
class Pong:
    """The answer to `Ping`."""

    number: int
    """The ping's."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The handshake is complete: the peer is who it says it is. Comes first, and once."""

    peer: Hello
    """What the peer said about itself."""
    hellos: Hellos
    """Both sides', for `rabble_trio._handshake.survivor`."""


@dataclass(frozen=True, slots=True)
class MembershipReceived:
    """For `rabble_trio._members.Members.receive`."""

    news: Gossip | Digest
    """What the peer's cluster server sent."""


@dataclass(frozen=True, slots=True)
class LettersReceived:
    """Envelopes for actors of this node, in the order in which they were sent."""

    letters: list[Letter]
    """Those that arrived well."""
    lost: list[tuple[Pid, Pid, CorrelationId | None, str]]
    """(receiver, sender, correlation id, reason) of those whose message can't be decoded here."""


LinkEvent = LinkUp | MembershipReceived | LettersReceived


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """A link at this moment, and what went over it so far."""

    messages_sent: int
    """Messages handed to the transport."""
    messages_received: int
    """Messages of the transport."""
    bytes_sent: int
    """Bytes of those."""
    bytes_received: int
    """Bytes of those."""
    letters_sent: int
    """Envelopes handed to the transport."""
    letters_received: int
    """Envelopes for actors of this node, those that were lost included."""
    letters_dropped: int
    """Envelopes that found the lane full."""
    letters_lost: int
    """Envelopes received that can't be decoded here."""
    queued_letters: int
    """Envelopes that wait for the transport."""
    queued_bytes: int
    """Bytes that wait for the transport, in both lanes."""
    round_trip: float | None
    """Seconds that the last ping took there and back; None before the first pong."""
    heard: float
    """When the last message came, by the clock that `now` is of."""


class _PidTable:
    """The pids of one role that have crossed the link in one direction, on the receiving side."""

    __slots__ = ("by_number", "node", "role")

    def __init__(self, role: str, node: NodeId | None) -> None:
        self.role = role
        self.node = node  # that all of them must live on
        self.by_number: dict[int, Pid] = {}

    def find(self, reference: object) -> Pid:
        """The pid of a number, or of a text, which gets the next number; raises `LinkError`."""
        if type(reference) is int and reference in self.by_number:
            return self.by_number[reference]
        if type(reference) is not str:
            shown = f"number {reference}" if type(reference) is int else type(reference).__name__
            raise violation(f"it named a {self.role} by {shown}, which stands for no pid")
        if len(self.by_number) >= MAX_PIDS:
            raise violation(f"it sent more than {MAX_PIDS} pids of {self.role}s without emptying the table")
        try:
            pid = Pid.parse(reference)
        except InvalidId as error:
            raise violation(f"it named a {self.role} wrongly: {error}") from None
        if self.node is not None and pid.node != self.node:
            raise violation(f"it sent an envelope whose {self.role} is {pid}, which is not on {self.node}")
        self.by_number[len(self.by_number)] = pid
        return pid


class Link:
    """One side of a link; see the rules at the top of the module. `now` is a time in seconds of a clock that never goes back.

    `nonce`, `expected`, `attempt` and `certificate_names` are those of `Handshake`. After `LinkError` was raised the link
    is closed.
    """

    def __init__(
        self,
        role: Role,
        config: LinkConfig,
        now: float,
        nonce: bytes,
        *,
        expected: NodeId | None = None,
        attempt: int = 0,
        certificate_names: Collection[str] | None = None,
    ) -> None:
        self._config = config
        self._handshake = Handshake(
            role, config, nonce, expected=expected, attempt=attempt, certificate_names=certificate_names
        )
        self._peer: Hello | None = None
        self._error: LinkError | None = None
        self._started = self._heard = self._whole = now

        self._control: deque[bytes] = deque(self._handshake.start())
        self._control_bytes = sum(map(len, self._control))
        self._data: deque[tuple[bytes, Letter | None]] = deque()  # without a letter: a marker that empties the tables
        self._markers = 0
        self._data_bytes = 0
        self._batch_limit = self._largest_letter = 0
        self._receiver_numbers: dict[str, int] = {}
        self._sender_numbers: dict[str, int] = {}
        self._correlation_numbers: dict[str, int] = {}
        self._tables: tuple[_PidTable, _PidTable, _PidTable]

        self._ping_at = math.inf
        self._ping_waits = False
        self._ping_number = 0
        self._ping_sent: float | None = None
        self._pong_waits: int | None = None
        self._round_trip: float | None = None
        self._said_at = now  # when the last message was handed to the transport
        self._sign_waits = False  # an empty batch is due

        self._messages_sent = self._messages_received = self._bytes_sent = self._bytes_received = 0
        self._letters_sent = self._letters_received = self._letters_dropped = self._letters_lost = 0

    @property
    def state(self) -> Literal["handshake", "established", "closed"]:
        """Where it is in its life."""
        if self._error is not None:
            return "closed"
        return "handshake" if self._peer is None else "established"

    @property
    def peer(self) -> Hello | None:
        """The hello of the proven peer; None before `LinkUp`."""
        return self._peer

    @property
    def error(self) -> LinkError | None:
        """Why it is closed; None while it is not."""
        return self._error

    def statistics(self) -> LinkStatistics:
        """What went over it so far."""
        return LinkStatistics(
            messages_sent=self._messages_sent,
            messages_received=self._messages_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            letters_sent=self._letters_sent,
            letters_received=self._letters_received,
            letters_dropped=self._letters_dropped,
            letters_lost=self._letters_lost,
            queued_letters=len(self._data) - self._markers,
            queued_bytes=self._data_bytes + self._control_bytes,
            round_trip=self._round_trip,
            heard=self._heard,
        )

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `tick` is due, unless something is received before; infinity if never."""
        if self._error is not None:
            return math.inf
        if self._peer is None:
            return self._started + self._config.handshake_timeout
        config = self._config
        return min(
            self._heard + config.heartbeat_timeout,
            self._whole + config.message_timeout,
            self._ping_at,
            self._said_at + config.heartbeat_interval if self._answer_is_late else math.inf,
        )

    @property
    def _answer_is_late(self) -> bool:
        return self._ping_sent is not None and not self._sign_waits

    def heard(self, at: float) -> None:
        """Note that bytes of the peer arrived at that time, whether or not they make a whole message yet."""
        self._heard = max(self._heard, at)

    def tick(self, now: float) -> None:
        """Note the time: a ping may be due, or the peer dead. Raises `LinkError`."""
        if self._error is not None:
            raise self._error
        if self._peer is None:
            if now >= self._started + self._config.handshake_timeout:
                self._fail("network", CloseCode.TIMEOUT, f"no handshake within {self._config.handshake_timeout:g} s")
        elif now >= self._heard + self._config.heartbeat_timeout:
            self._fail(
                "network", CloseCode.TIMEOUT, f"no sign of life from {self._peer.node} for {now - self._heard:.1f} s"
            )
        elif now >= self._whole + self._config.message_timeout:
            self._fail(
                "peer", CloseCode.TIMEOUT, f"{self._peer.node} sent no whole message for {now - self._whole:.1f} s"
            )
        elif now >= self._ping_at:
            self._ping_at = math.inf
            self._ping_waits = True
        elif self._answer_is_late and now >= self._said_at + self._config.heartbeat_interval:
            self._sign_waits = True

    # To the peer ------------------------------------------------------------------------------------------------------

    def send(
        self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None = None, *, signal: bool = False
    ) -> str | None:
        """Queue an envelope. Returns None, or the reason why it is a dead letter: "no link" or "link queue full".

        `signal`: it is the runtime's own, and may not be dropped. Raises `LinkError` if there is no room even so;
        `NotAMessage`; `EncodeError` if the message does not fit its class or is too large for a link; `ValueError` if the
        receiver is not on the peer's node or the sender not on this one.
        """
        if type(message) not in ENCODERS:
            raise NotAMessage.of(message)
        peer = self._peer
        if peer is None or self._error is not None:
            return "no link"
        receiver_ref = self._receiver_numbers.get(to._text)
        sender_ref = self._sender_numbers.get(sender._text)
        correlation_ref = -1 if correlation_id is None else self._correlation_numbers.get(correlation_id.pid._text)
        if receiver_ref is None or sender_ref is None or correlation_ref is None:
            return self._send_with_new_pids(peer.node, to, sender, message, correlation_id, signal)
        data = self._pack(receiver_ref, sender_ref, message, correlation_ref, correlation_id)
        return self._enqueue(data, (to, sender, message, correlation_id), signal)

    def _send_with_new_pids(
        self, node: NodeId, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None, signal: bool
    ) -> str | None:
        if to.node != node or sender.node != self._config.node:
            raise ValueError(f"{sender} to {to} is not from {self._config.node} to {node}")
        wanted = [(self._receiver_numbers, to._text), (self._sender_numbers, sender._text)]
        if correlation_id is not None:
            wanted.append((self._correlation_numbers, correlation_id.pid._text))
        if any(text not in numbers and len(numbers) >= MAX_PIDS for numbers, text in wanted):
            for numbers in (self._receiver_numbers, self._sender_numbers, self._correlation_numbers):
                numbers.clear()
            self._data.append((_FORGET_PIDS, None))
            self._markers += 1
            self._data_bytes += len(_FORGET_PIDS)
        references: list[Any] = [numbers.get(text, text) for numbers, text in wanted]
        data = self._pack(references[0], references[1], message, references[-1], correlation_id)
        refused = self._enqueue(data, (to, sender, message, correlation_id), signal)
        if refused is None:
            # Numbers count what the peer gets to see, so they are given only now.
            for numbers, text in wanted:
                numbers.setdefault(text, len(numbers))
        return refused

    def _enqueue(self, data: bytes, letter: Letter, signal: bool) -> str | None:
        size = len(data)
        if size > self._largest_letter:
            raise EncodeError(
                f"{type(letter[2]).__name__} takes {size} bytes on its way, more than the {self._largest_letter} that fit "
                "into one message of a link: send it in chunks"
            )
        if self._data_bytes + size > self._config.data_queue_bytes:
            if not signal:
                self._letters_dropped += 1
                return "link queue full"
            if self._data_bytes + size > self._config.data_queue_bytes + self._config.control_queue_bytes:
                self._fail_overflow(self._data_bytes)
        self._data.append((data, letter))
        self._data_bytes += size
        return None

    def _pack(
        self,
        receiver: int | str,
        sender: int | str,
        message: Any,
        origin: int | str,
        correlation_id: CorrelationId | None,
    ) -> bytes:
        global _newest  # noqa: PLW0603
        try:
            known, plain = _newest
            if message is not known:
                plain = ENCODERS[type(message)](message, MAX_DEPTH)
                _newest = message, plain
            if correlation_id is None:
                packed: bytes = _pack((receiver, sender, plain))
            else:
                packed = _pack((receiver, sender, plain, origin, correlation_id.connection, correlation_id.request))
        except (Mismatch, ValueError, OverflowError, RecursionError) as error:
            _raise_encode_error(message, error)
        return packed

    def send_membership(self, news: Gossip | Digest) -> None:
        """Queue a message to the peer's cluster server; ignored unless the link is established.

        Raises `LinkError` if the control lane is full, and `EncodeError` if the message is too large for a link.
        """
        if self._peer is None or self._error is not None:
            return
        data = encode(news, max_size=min(self._config.max_message, self._peer.max_message))
        if self._control_bytes + len(data) > self._config.control_queue_bytes:
            self._fail_overflow(self._control_bytes)
        self._put_control(data)

    def _put_control(self, data: bytes) -> None:
        self._control.append(data)
        self._control_bytes += len(data)

    def next_message(self, now: float) -> bytes | None:
        """What to give to the transport next; None if nothing waits."""
        if self._error is not None:
            return None
        if self._control:
            # Before heartbeats, because a proof must not be overtaken by anything.
            data = self._control.popleft()
            self._control_bytes -= len(data)
        elif self._pong_waits is not None:
            data = encode(Pong(self._pong_waits))
            self._pong_waits = None
        elif self._ping_waits:
            self._ping_waits = False
            self._ping_number += 1
            self._ping_sent = now
            data = encode(Ping(self._ping_number))
        elif self._data or self._sign_waits:
            data = self._next_batch()
        else:
            return None
        self._said_at = now
        self._sign_waits = False
        self._messages_sent += 1
        self._bytes_sent += len(data)
        return data

    def _next_batch(self) -> bytes:
        queue, limit = self._data, self._batch_limit
        parts = [b""]
        size = sent = 0
        while queue and (size == 0 or size + len(queue[0][0]) <= limit):
            part, letter = queue.popleft()
            parts.append(part)
            size += len(part)
            if letter is None:
                self._markers -= 1
            else:
                sent += 1
        self._data_bytes -= size
        self._letters_sent += sent
        parts[0] = _array_header(len(parts)) + _pack(_ENVELOPES)
        return b"".join(parts)

    # From the peer ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[LinkEvent]:
        """Take in a message of the transport. Raises `LinkError`, and nothing else, whatever the message is."""
        if self._error is not None:
            raise self._error
        self._heard = self._whole = now
        self._messages_received += 1
        self._bytes_received += len(data)
        try:
            return self._continue_handshake(data, now) if self._peer is None else self._read(data, now)
        except LinkError as error:
            self._error = error
            raise

    def _continue_handshake(self, data: bytes, now: float) -> list[LinkEvent]:
        for reply in self._handshake.receive(data):
            self._put_control(reply)
        peer = self._handshake.peer
        if not self._handshake.complete or peer is None:
            return []
        self._peer = peer
        self._tables = (
            _PidTable("receiver", self._config.node),
            _PidTable("sender", peer.node),
            _PidTable("pid of a correlation id", None),
        )
        self._largest_letter = min(self._config.max_message, peer.max_message, MAX_MESSAGE_SIZE) - _HEADER_BYTES
        self._batch_limit = min(self._config.batch_bytes, self._largest_letter)
        self._ping_at = now  # the first round-trip time as soon as possible
        return [LinkUp(peer, self._handshake.hellos)]

    def _read(self, data: bytes, now: float) -> list[LinkEvent]:
        try:
            plain = _unpack(data, self._config.max_message)
            if type(plain) is not tuple or not plain:
                raise violation("it sent something that is neither a message nor a batch of envelopes")
            if type(plain[0]) is int and plain[0] == _ENVELOPES:
                return [self._read_letters(plain)]
            news = decode_message(plain, MAX_DEPTH)
        except Mismatch as error:
            raise violation(_placed(plain, error)) from None
        except (DecodeError, RecursionError) as error:
            raise violation(str(error)) from None
        if type(news) in MEMBERSHIP_MESSAGES:
            return [MembershipReceived(news)]
        if type(news) is Ping:
            self._on_ping(news)
        elif type(news) is Pong:
            self._on_pong(news, now)
        else:
            raise violation(f"it sent {type(news).__name__}, which has no place on an established link")
        return []

    def _on_ping(self, ping: Ping) -> None:
        if self._pong_waits is not None:
            raise violation("it sent a ping before the last one was answered")
        if not 0 < ping.number <= MAX_NUMBER:
            raise violation(f"its ping has the number {ping.number}")
        self._pong_waits = ping.number

    def _on_pong(self, pong: Pong, now: float) -> None:
        if self._ping_sent is None or pong.number != self._ping_number:
            raise violation(f"it answered ping {pong.number}, which is not under way")
        self._round_trip = now - self._ping_sent
        self._ping_at = self._ping_sent + self._config.heartbeat_interval
        self._ping_sent = None

    def _read_letters(self, plain: tuple[Any, ...]) -> LettersReceived:
        receivers, senders, correlation_pids = self._tables
        known_receivers, known_senders = receivers.by_number, senders.by_number
        letters: list[Letter] = []
        lost: list[tuple[Pid, Pid, CorrelationId | None, str]] = []
        items = iter(plain)
        next(items)
        for item in items:
            correlation_id = None
            if type(item) is tuple and len(item) == 3:
                receiver_ref, sender_ref, body = item
            elif type(item) is tuple and len(item) == 6:
                receiver_ref, sender_ref, body, *rest = item
                correlation_id = _correlation_id(correlation_pids.find(rest[0]), rest[1], rest[2])
            elif item is None:
                for table in self._tables:
                    table.by_number.clear()
                continue
            else:
                raise violation(
                    f"it sent {type(item).__name__} in the place of an envelope, or one of the wrong length"
                )
            # Inlined from _PidTable.find, because it happens twice for every envelope.
            to = known_receivers.get(receiver_ref) if type(receiver_ref) is int else None
            if to is None:
                to = receivers.find(receiver_ref)
            sender = known_senders.get(sender_ref) if type(sender_ref) is int else None
            if sender is None:
                sender = senders.find(sender_ref)
            try:
                letters.append((to, sender, decode_message(body, MAX_DEPTH), correlation_id))
            except Mismatch as error:
                lost.append((to, sender, correlation_id, f"can't be decoded: {_placed(body, error)}"))
            except RecursionError:
                reason = "can't be decoded: nested too deeply for the stack that is left"
                lost.append((to, sender, correlation_id, reason))
        self._letters_received += len(letters) + len(lost)
        self._letters_lost += len(lost)
        return LettersReceived(letters, lost)

    # The end ----------------------------------------------------------------------------------------------------------

    def _fail(self, fault: str, code: CloseCode, reason: str) -> None:
        self._error = LinkError(fault, code, reason)
        raise self._error

    def _fail_overflow(self, waiting: int) -> None:
        assert self._peer is not None
        self._fail("peer", CloseCode.OVERFLOW, f"{self._peer.node} does not read: {waiting} bytes wait")

    def close(self, fault: str, code: CloseCode, reason: str) -> LinkError:
        """End the link for a reason of this node's own; returns what to close the transport with.

        If it is closed already, the first reason stays.
        """
        if self._error is None:
            self._error = LinkError(fault, code, reason)
        return self._error

    def closed_by_peer(self, code: int, reason: str) -> LinkError:
        """The peer closed the transport, or the network did: what that means."""
        faults: dict[CloseCode, str] = {
            CloseCode.TIMEOUT: "network",
            CloseCode.VIOLATION: "us",
            CloseCode.OVERFLOW: "us",
            CloseCode.STALE: "us",
            CloseCode.RESTORED: "us",
            CloseCode.DUPLICATE: "nobody",
            CloseCode.NOT_WANTED: "nobody",
            CloseCode.GOING_AWAY: "nobody",
        }
        # What the peer says goes into logs and terminals.
        words = "".join(letter for letter in reason[:123] if letter.isprintable())
        if code not in CloseCode.__members__.values():
            broke = f"the link broke (code {code}){': ' if words else ''}{words}"
            return self.close("network", CloseCode.GOING_AWAY, broke)
        known = CloseCode(code)
        return self.close(faults.get(known, "configuration"), known, f"the peer closed the link: {words or known.name}")

    def undelivered(self) -> list[Letter]:
        """Of a closed link: the envelopes that were not handed to the transport, in order. They are given out once."""
        if self._error is None:
            raise ValueError("the link is not closed yet")
        letters = [letter for _, letter in self._data if letter is not None]
        self._data.clear()
        self._data_bytes = self._markers = 0
        return letters


def _correlation_id(pid: Pid, connection: object, request: object) -> CorrelationId:
    try:
        return CorrelationId(pid, connection, request)  # type: ignore[arg-type]  # it checks them itself
    except InvalidId as error:
        raise violation(str(error)) from None
