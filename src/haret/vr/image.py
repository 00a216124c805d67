"""Images of the whole replicated state at one op: made without stopping work, sent in parts, read piece by piece.

All replicas make an image at the same ops (`Context.executed`), and equal states give equal parts, so the parts of one
may come from several replicas (section 5.1). The bytes, cut without regard to what is in them:

    image   = head session* machine sum
    head    = ImageHead
    session = ImageSession ImageResult*           in the order of their last use
    machine = ImageMachine bytes...               what the state machine makes of itself

    sum     = the SHA-256 of all that is before it

Each message has its length before it, 4 bytes. The sum is for parts that were mixed up, on a wire or a disk, in a way that
still makes sense: what is not the state that it says must never be taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from rabble_trio import Pid, decode, encode, message

from .client_table import SessionImage
from .configuration import Configuration, Image, StateMachine
from .messages import IMAGE_PART

_LENGTH: Final = struct.Struct(">I")
_MAX_PIECE: Final = 2**20
"""Bytes of one message in an image: a result and a bit around it."""

ENOUGH: Final = 8 * 1024
"""Bytes after which a part is not filled up any more: it may consist of a thousand small things already, and reading one
takes a microsecond or several."""

_SUM_BYTES: Final = 32
"""Bytes of the sum."""

_BYTES_OF_WORK: Final = 1024
"""Bytes that are hashed in the time that a result costs anyway."""


@message(tag="vr.image.head")
class ImageHead:
    """The beginning of an image."""

    op: int
    """The image includes the effects of this op and all before it."""
    epoch: int
    """The epoch after it."""
    replicas: tuple[Pid, ...]
    """The members of that epoch."""
    epoch_start: int
    """The last op of the epoch before."""


@message(tag="vr.image.session")
class ImageSession:
    """A session of the client table."""

    number: int
    """Its number."""
    client: bytes
    """The client's random bytes."""
    lowest: int
    """The lowest number whose result is kept."""


@message(tag="vr.image.result")
class ImageResult:
    """A result of the session before."""

    number: int
    """The request's number."""
    op: int
    """The op at which it was executed."""
    result: bytes
    """What the state machine returned."""


@message(tag="vr.image.machine")
class ImageMachine:
    """What follows are the bytes of the state machine."""


class StateImage:
    """The state of a replica after an op. Nothing of it ever changes, so it can be used in any thread."""

    __slots__ = ("_chain", "_machine", "_result", "_session", "_sessions", "head")

    def __init__(self, head: ImageHead, sessions: tuple[SessionImage, ...], machine: Image) -> None:
        self.head = head
        self._sessions = sessions
        self._machine = machine
        # How far the digest of the sessions has come, and what it is up to there.
        self._session = self._result = 0
        self._chain = b""

    @property
    def op(self) -> int:
        """The op whose effects it includes, and all before."""
        return self.head.op

    def digest(self, budget: int) -> bytes | None:
        """A digest of the state, or None as long as there is more to do than `budget` allows in one call.

        `budget`: about how many sessions, results, and nodes of the state machine to look at.
        """
        budget = self._digest_sessions(budget)
        machine = self._machine.digest(budget) if budget > 0 else None
        return None if machine is None else sha256(self._chain + machine).digest()

    def _digest_sessions(self, budget: int) -> int:
        """Go on with the digest of the sessions, each hashed together with all before it; returns what is left to do."""
        sessions = self._sessions
        while budget > 0 and self._session < len(sessions):
            *session, results = sessions[self._session]
            while budget > 0 and self._result < len(results):
                number, (op, result) = results[self._result]
                self._chain = sha256(self._chain + repr((number, op)).encode() + result).digest()
                self._result += 1
                budget -= 1 + len(result) // _BYTES_OF_WORK
            if self._result == len(results):
                self._chain = sha256(self._chain + repr((session, self._result)).encode()).digest()
                self._session += 1
                self._result = 0
                budget -= 1
        return budget

    def parts(self) -> Iterator[bytes]:
        """Its bytes, in parts of at most `IMAGE_PART`, each of which is read in about a millisecond."""
        waiting, made = bytearray(), sha256()
        for piece in self._pieces():
            waiting += piece
            if len(waiting) >= ENOUGH:
                made.update(waiting)
                yield from _cut(waiting)
                waiting.clear()
        made.update(waiting)
        yield from _cut(waiting + made.digest())

    def _pieces(self) -> Iterator[bytes]:
        for one in self._messages():
            data = encode(one)
            yield _LENGTH.pack(len(data))
            yield data
        yield from self._machine.chunks()

    def _messages(self) -> Iterator[Any]:
        yield self.head
        for number, client, lowest, results in self._sessions:
            yield ImageSession(number, client, lowest)
            for request, (op, result) in results:
                yield ImageResult(request, op, result)
        yield ImageMachine()


def _cut(data: bytearray) -> Iterator[bytes]:
    return (bytes(data[start : start + IMAGE_PART]) for start in range(0, len(data), IMAGE_PART))


class PartServer:
    """Parts of an image for replicas that ask for them one after the other. Made on demand, a few in each step."""

    __slots__ = ("_made", "_more", "idle", "image")

    AT_ONCE: Final = 16
    """Parts that are made in one step at most: a millisecond each."""

    def __init__(self, image: StateImage) -> None:
        self.image = image
        self.idle = 0
        """Ticks since somebody asked."""
        self._made: list[bytes] = []
        self._more: Iterator[bytes] | None = image.parts()

    def part(self, number: int) -> tuple[bytes, bool] | None:
        """A part, and whether it is the last; None if there is no such part, or not yet: ask again."""
        self.idle = 0
        made = self._made
        for _ in range(self.AT_ONCE):
            if self._more is None or number + 1 < len(made):
                break
            # One more than was asked for, to know whether that is the last one.
            part = next(self._more, None)
            if part is None:
                self._more = None
            else:
                made.append(part)
        if number >= len(made) or (number + 1 == len(made) and self._more is not None):
            return None
        return made[number], number + 1 == len(made)


class ImageReader:
    """Takes the parts of an image in order; nothing changes until `finish`. Raises `ValueError` for bad bytes."""

    def __init__(self, op: int, machine: StateMachine) -> None:
        self.op = op
        """The image's."""
        self.next = 0
        """The number of the part that is needed next."""
        self.whole = False
        """Whether the last part was taken."""
        self._head: ImageHead | None = None
        self._sessions: list[tuple[int, bytes, int, list[tuple[int, tuple[int, bytes]]]]] = []
        self._sum = sha256()
        self._end = bytearray()  # the last bytes so far: they may be the sum
        self._buffer = bytearray()
        self._loader = machine.loader()
        self._in_machine = False

    def feed(self, data: bytes, last: bool) -> None:
        """Take the next part."""
        self.next += 1
        self.whole = last
        self._end += data
        ready = bytes(self._end[:-_SUM_BYTES])
        del self._end[:-_SUM_BYTES]
        self._sum.update(ready)
        self._read(ready)

    def _read(self, data: bytes) -> None:
        if self._in_machine:
            self._loader.feed(data)
            return
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > _MAX_PIECE:
                raise ValueError(f"an image has no message of {length} bytes")
            end = _LENGTH.size + length
            if len(buffer) < end:
                return
            piece = decode(bytes(buffer[_LENGTH.size : end]))
            del buffer[:end]
            if isinstance(piece, ImageMachine) and self._head is not None:
                self._in_machine = True
                self._loader.feed(bytes(buffer))
                buffer.clear()
                return
            self._take(piece)

    def _take(self, piece: Any) -> None:
        if (self._head is None) != isinstance(piece, ImageHead):
            raise ValueError("an image begins with its head, and has one")
        match piece:
            case ImageHead():
                if piece.op != self.op:
                    raise ValueError(f"this image is of op {piece.op}, not {self.op}")
                Configuration(piece.epoch, piece.replicas)  # raises if there can be no such group
                self._head = piece
            case ImageSession(number, client, lowest):
                self._sessions.append((number, client, lowest, []))
            case ImageResult(number, op, result) if self._sessions:
                self._sessions[-1][3].append((number, (op, result)))
            case _:
                raise ValueError(f"an image has no {type(piece).__name__} there")

    def finish(self) -> tuple[ImageHead, tuple[SessionImage, ...]]:
        """All parts were taken: the state machine now has the state, and the rest is returned."""
        if self._head is None or not self._in_machine or not self.whole:
            raise ValueError("the image is not complete")
        if self._sum.digest() != self._end:
            raise ValueError("the sum of the image is not that of its bytes: parts of it are missing, or not its own")
        for place, name in enumerate(("number", "client")):
            if len({session[place] for session in self._sessions}) < len(self._sessions):
                raise ValueError(f"two sessions of the image have the same {name}")
        self._loader.finish()
        return self._head, tuple(
            (number, client, lowest, tuple(kept)) for number, client, lowest, kept in self._sessions
        )
