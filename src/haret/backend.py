"""What a namespace replicates: a tree. The state machine that `haret.vr` drives, and the check before anything is logged.

Rules:

1. Only bytes that `admit` admits are logged. It decodes an operation and checks what can be checked without a tree.
2. `Backend.apply` never raises, whatever the bytes: it admits them once more, and a refusal is a result.
3. `Backend.read` answers from the tree as it is, changes nothing, and never raises either: what is no read is refused.
4. All replicas of a node share what `admit` decoded. Operations are immutable, and equal bytes are equal operations, so
   that is a matter of speed only: each is decoded and checked once, not once by the server and once by every replica.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, final

from haret.protocol import BadRequest
from haret.vertree import Decoder, Image, Operation, Tree, check
from haret.vertree.operations import READS
from rabble_trio import DecodeError, decode, encode

CACHED_OPERATIONS: Final = 4096
"""Operations that `admit` remembers: several times what is under way between a server and its replicas."""

MAX_CACHED: Final = 2048
"""Bytes of an operation that is remembered: larger ones cost more to keep (up to 8 MiB in all) than to decode again."""


@final
class Refusal:
    """Why an operation is not admitted. `error` is the error value, `encoded` its bytes."""

    __slots__ = ("encoded", "error")

    def __init__(self, error: Any) -> None:
        self.error = error
        self.encoded = encode(error)


def admit(data: bytes) -> Operation | Refusal:
    """The operation that these bytes are, or why it is none that could succeed. Never raises."""
    return _remembered(data) if len(data) <= MAX_CACHED else _admit(data)


def _admit(data: bytes) -> Operation | Refusal:
    try:
        operation = decode(data)
    except DecodeError as error:
        return Refusal(BadRequest(f"not an operation: {str(error)[:200]}"))
    refused = check(operation)
    return operation if refused is None else Refusal(refused)


_remembered = lru_cache(CACHED_OPERATIONS)(_admit)


def is_read(operation: bytes | Operation | Refusal) -> bool:
    """Whether an operation only reads, so that it need not be logged. A multi-CAS is no read, and a refusal neither.

    Takes encoded bytes, or what `admit` made of them, which costs next to nothing. Never raises.
    """
    return type(admit(operation) if type(operation) is bytes else operation) in READS


_NOT_A_READ: Final = encode(BadRequest("this operation can change the tree, so it can't be sent as a read: submit it"))


@final
class Loader:
    """Takes the bytes of an `Image`, and puts the tree that they are in the place of a backend's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._decoder = Decoder()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere. Work and memory are linear in their number. Raises `BadSnapshot`."""
        self._decoder.feed(chunk)

    def finish(self) -> None:
        """That was all: from now on the backend has this tree.

        Raises `BadSnapshot` if the bytes are not a whole image; the backend then keeps the tree that it had.
        """
        self._backend.tree = Tree(self._decoder.finish())


@final
class Backend:
    """One replica's tree: a `haret.vr.StateMachine`."""

    def __init__(self) -> None:
        self.tree = Tree.empty()

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation with this commit number as its revision; returns the encoded result or error."""
        admitted = admit(operation)
        if type(admitted) is Refusal:
            return admitted.encoded
        self.tree, outcome = self.tree.apply(admitted, op)
        return encode(outcome)

    def read(self, operation: bytes) -> bytes:
        """The encoded answer to a read; the tree stays as it is. A `BadRequest` for what is not a read."""
        admitted = admit(operation)
        if type(admitted) is Refusal:
            return admitted.encoded
        if type(admitted) not in READS:
            return _NOT_A_READ
        _, outcome = self.tree.apply(admitted, self.tree.version)
        return encode(outcome)

    def image(self) -> Image:
        """The tree as it is now, whatever is applied later. Takes no time."""
        return Image(self.tree)

    def loader(self) -> Loader:
        """What replaces the tree by the one of an image, when it is finished; until then, this one goes on."""
        return Loader(self)

    def digest(self) -> bytes:
        """Equal on all replicas that applied the same operations."""
        return self.tree.digest
