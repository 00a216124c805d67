"""The short way of a message through a websocket connection.

trio_websocket takes two tasks, a channel and a general parser for each message. Nearly all of ours are the simplest
thing there is: one whole binary frame. `Tap` sits between the socket and the library, lets the library do the handshake,
and then reads and writes such frames itself, in the task that asks for them. Whatever else comes (a ping, a farewell,
a fragment, text, a frame that is too large or malformed) it does not look into: from that byte on, the library reads.

It also spares what Trio's `SocketStream` does around each call. A read waits first and then reads, for a peer hardly ever
has spoken already; a write whose bytes the kernel takes at once, as it nearly always does, is over without a turn through
the scheduler.

Frames: RFC 6455, section 5.2.
"""

from __future__ import annotations

import enum
import os
from functools import cache
from typing import Final

import trio

RECEIVE_BYTES: Final = 2**16
"""Bytes per read from the socket: a batch of messages should not take many."""

SENDS_IN_A_ROW: Final = 16
"""Messages that may be sent without a turn through the scheduler, which costs as much as sending one: a sender that never
waits must not keep others from running for longer than a millisecond."""

_MAX_HEAD: Final = 2**16  # bytes of a handshake; the library gives up at a quarter of that
_WHOLE_BINARY: Final = 0x82  # the first byte of a frame: final, no extension, binary
_MASKED: Final = 0x80  # in the second byte
_LONG: Final = 1000  # bytes beyond which masking by tables is quicker


class _Reader(enum.Enum):
    """Whose turn it is to read from the socket."""

    HANDSHAKE = enum.auto()
    """The library's, and we look for the end of the handshake."""
    TAP = enum.auto()
    """Ours."""
    LIBRARY = enum.auto()
    """The library's, for good."""


_NO_KEY: Final = bytes(4)
"""A masking key that leaves data as they are."""


def mask(data: bytes, key: bytes) -> bytes:
    """Exclusive or with the repeated key of four bytes."""
    if key == _NO_KEY:
        return data
    length = len(data)
    if length < _LONG:  # as one large number, which is the cheapest for short data
        keys = (key * (length // 4 + 1))[:length]
        return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(length, "little")
    masked = bytearray(length)
    for place, byte in enumerate(key):
        masked[place::4] = data[place::4].translate(_table(byte))
    return bytes(masked)


@cache
def _table(key: int) -> bytes:
    return bytes(byte ^ key for byte in range(256))


def binary_frame(data: bytes, *, masked: bool, secluded: bool = False) -> bytes:
    """A message as one binary frame; clients must mask theirs.

    The mask keeps a proxy on the way from taking what a message contains for a request (RFC 6455, section 10.3). Where
    there can't be one, on a `secluded` connection, the key is zero: to mask a large message takes longer than to send it.
    """
    length, bit = len(data), _MASKED if masked else 0
    if length < 126:
        head = bytes((_WHOLE_BINARY, bit | length))
    elif length < 2**16:
        head = bytes((_WHOLE_BINARY, bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_WHOLE_BINARY, bit | 127)) + length.to_bytes(8, "big")
    if not masked:
        return head + data
    key = _NO_KEY if secluded else os.urandom(4)
    return head + key + mask(data, key)


class Tap(trio.abc.Stream):
    """The stream that the library gets instead of the socket's.

    `client` tells which side we are. `max_frame` is in bytes. `secluded`: see `binary_frame`.
    """

    def __init__(self, stream: trio.abc.Stream, *, client: bool, max_frame: int, secluded: bool = False) -> None:
        self._stream = stream
        self._secluded = secluded
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None  # None with TLS
        self._client = client
        self._max_frame = max_frame
        self._reader = _Reader.HANDSHAKE
        self._head = b""
        self._buffer = bytearray()  # read from the socket, and not yet by anybody
        self._missing = 0  # bytes of the message at the front of the buffer that are still to come
        self._at_end = False
        self._reading = False  # whether receive_message waits for the socket
        self._librarys_turn = trio.Event()
        self._send_lock = trio.StrictFIFOLock()
        self._unsent = b""  # what the kernel did not take of messages that were sent without waiting
        self._sends = 0  # messages since the last checkpoint of a sender
        self.broken: trio.BrokenResourceError | None = None
        """What the library met in the place of data."""
        self.heard_at = trio.current_time()
        """When the last bytes of the peer arrived."""

    # What we use

    def handshake_done(self) -> None:
        """From now on `receive_message` may be called, unless the handshake was a peculiar one."""
        if self._reader is _Reader.HANDSHAKE:
            self.hand_over()

    def hand_over(self) -> None:
        """Let the library read from now on. A `receive_message` that waits gives it what it gets, and returns None."""
        self._reader = _Reader.LIBRARY
        if not self._reading:
            self._librarys_turn.set()

    async def send_message(self, data: bytes) -> None:
        """Send one binary message. Raises `trio.BrokenResourceError` and `trio.ClosedResourceError`.

        A checkpoint if it has to wait, and otherwise each `SENDS_IN_A_ROW` times.
        """
        frame = binary_frame(data, masked=self._client, secluded=self._secluded)
        sent = self._write(frame) if self.clear else 0
        if sent < len(frame):
            await self.send_all(frame[sent:] if sent else frame)
            self._sends = 0
            return
        self._sends += 1
        if self._sends >= SENDS_IN_A_ROW:
            self._sends = 0
            await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def clear(self) -> bool:
        """Whether nobody is sending."""
        return not (self._unsent or self._socket is None or self._send_lock.locked())

    @property
    def unsent(self) -> bool:
        """Whether there is something for `drain` to send."""
        return bool(self._unsent)

    def send_message_nowait(self, data: bytes) -> None:
        """Send one message, or several in a row, while the way is `clear`; what the kernel does not take is `unsent`."""
        frame = binary_frame(data, masked=self._client, secluded=self._secluded)
        self._unsent = self._unsent + frame if self._unsent else frame[self._write(frame) :]

    async def drain(self) -> None:
        """Send what is `unsent`. So does whatever is sent next."""
        await self.send_all(b"")

    async def receive_message(self) -> bytes | None:
        """The next message; None once it is the library that reads, in which the message may be found, or the reason
        why there is none.

        A checkpoint, also if several messages came together: whoever reads them must not keep others from running.
        """
        if self._buffer:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while self._reader is _Reader.TAP:
            message = self._take_message()
            if message is not None:
                return message
            if self._reader is _Reader.TAP:
                await self._read()
        return None

    # What the library uses

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        while self._reader is _Reader.TAP or self._reading:
            await self._librarys_turn.wait()
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            await trio.lowlevel.checkpoint()
            return data
        if self._at_end:
            await trio.lowlevel.checkpoint()
            return b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            self.broken = error  # the library keeps it to itself
            raise
        self.heard_at = trio.current_time()
        return self._up_to_end_of_head(data) if self._reader is _Reader.HANDSHAKE else data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # The library sends pongs and farewells from its own task, and a stream takes one sender at a time.
        async with self._send_lock:
            if self._unsent:
                unsent, self._unsent = self._unsent, b""
                await self._stream.send_all(unsent)
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    # Inside

    def _up_to_end_of_head(self, data: bytes) -> bytes:
        """What of `data` belongs to the handshake. Behind it may come the first messages: they are ours."""
        seen = len(self._head)
        self._head += data
        end = self._head.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._head) > _MAX_HEAD:
                self.hand_over()
            return data
        if self._client and not self._head.startswith(b"HTTP/1.1 101"):
            self.hand_over()  # it is a refusal, which has a body
            return data
        self._head = b""
        self._buffer += data[end - seen :]
        self._reader = _Reader.TAP
        return data[: end - seen]

    async def _read(self) -> None:
        if self._reading:
            raise trio.BusyResourceError("another task is receiving from this connection already")
        self._reading = True
        try:
            data = await self._receive(max(RECEIVE_BYTES, self._missing))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._reader = _Reader.LIBRARY  # it will run into the same error, and knows what to do
        else:
            self._buffer += data
            self.heard_at = trio.current_time()
            if not data:
                self._at_end = True
                self._reader = _Reader.LIBRARY
        finally:
            self._reading = False
            if self._reader is _Reader.LIBRARY:
                self._librarys_turn.set()

    async def _receive(self, max_bytes: int) -> bytes | bytearray:
        sock = self._socket
        if sock is None:
            return await self._stream.receive_some(max_bytes)
        while True:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError("this connection is closed")
            await trio.lowlevel.wait_readable(sock)
            try:
                return os.read(sock.fileno(), max_bytes)
            except BlockingIOError:
                continue  # the kernel changed its mind
            except OSError as error:
                raise trio.BrokenResourceError(f"{error}") from error

    def _write(self, data: bytes) -> int:
        """How many bytes the kernel takes at once. Errors are left to `send_all`, which knows them all."""
        if self._socket is None:
            return 0
        try:
            return os.write(self._socket.fileno(), data)
        except OSError:
            return 0

    def _take_message(self) -> bytes | None:
        """The message at the front of the buffer; None if it is incomplete, or for the library."""
        buffer = self._buffer
        available = len(buffer)
        if available < 2:
            if buffer and buffer[0] != _WHOLE_BINARY:
                self.hand_over()
            return None
        length = buffer[1] & ~_MASKED
        masked = buffer[1] >= _MASKED
        if buffer[0] != _WHOLE_BINARY or masked is self._client:
            self.hand_over()
            return None
        start = 2
        if length > 125:
            start = 4 if length == 126 else 10
            if available < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if length > self._max_frame:
            self.hand_over()
            return None
        if masked:
            start += 4
        end = start + length
        self._missing = end - available
        if available < end:
            return None
        with memoryview(buffer) as view:
            data = bytes(view[start:end])
        if masked:
            data = mask(data, bytes(buffer[start - 4 : start]))
        del buffer[:end]
        return data
