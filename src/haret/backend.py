"""What a namespace replicates: a tree. The state machine that `haret.vr` drives, and the check before anything is logged.

Rules:

1. Only bytes that `admit` admits are logged. It decodes an operation and checks what can be checked without a tree.
2. `Backend.apply` never raises, whatever the bytes: it admits them once more, and a refusal is a result.
3. `Backend.read` answers from the tree as it is, changes nothing, and never raises either: what is no read is refused.
4. What `admit` decoded for a server is kept until its replica applies or reads it. Operations are immutable, and equal
   bytes are equal operations, so that is a matter of speed only: each is decoded and checked once, not twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast, final

import msgpack

from haret.protocol import BadRequest
from haret.vertree import Decoder, Image, Operation, Read, Result, Tree, check
from haret.vertree.operations import READS
from rabble_trio import DecodeError, decode, encode

MAX_ADMITTED: Final = 4096
"""Operations that are remembered between `admit` and `Backend.apply`: several times what is under way in a server."""

MAX_REMEMBERED: Final = 2048
"""Bytes of an operation that is remembered: larger ones cost more to keep (up to 8 MiB in all) than to decode again."""


@final
class Refusal:
    """Why an operation is not admitted. `error` is the error value, `encoded` its bytes."""

    __slots__ = ("encoded", "error")

    def __init__(self, error: Any) -> None:
        self.error = error
        self.encoded = encode(error)


_admitted: Final[dict[bytes, Operation | Refusal]] = {}


def admit(data: bytes) -> Operation | Refusal:
    """The operation that these bytes are, or why it is none that could succeed. Never raises."""
    known = _admitted.get(data)
    if known is None:
        known = _admit(data)
        if len(data) <= MAX_REMEMBERED:
            if len(_admitted) >= MAX_ADMITTED:
                _admitted.clear()  # forgotten ones are decoded again
            _admitted[data] = known
    return known


def _admit(data: bytes) -> Operation | Refusal:
    try:
        operation = decode(data)
    except DecodeError as error:
        return Refusal(BadRequest(f"not an operation: {str(error)[:200]}"))
    refused = check(operation)
    return operation if refused is None else Refusal(refused)


def is_read(admitted: Operation | Refusal) -> bool:
    """Whether what was admitted only reads, so that it need not be logged. A multi-CAS is no read."""
    return type(admitted) in READS


# What most writes answer differs in its last field only, the version. Every replica encodes every answer, so it counts.
_WRITTEN: Final = encode(Result(None, 0))[:-1]
_pack: Final[Callable[[int], bytes]] = msgpack.Packer().pack

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
        self._backend._editor = Tree(self._decoder.finish()).edit()


@final
class Backend:
    """One replica's tree: a `haret.vr.StateMachine`."""

    def __init__(self) -> None:
        self._editor = Tree.empty().edit()

    @property
    def tree(self) -> Tree:
        """The tree as it is now."""
        return self._editor.tree()

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation with this commit number as its revision; returns the encoded result or error."""
        admitted = _admitted.pop(operation, None) or _admit(operation)
        if type(admitted) is Refusal:
            return admitted.encoded
        outcome = self._editor.apply(admitted, op)
        if type(outcome) is Result and outcome.value is None:
            return _WRITTEN + _pack(outcome.version)
        return encode(outcome)

    def read(self, operation: bytes) -> bytes:
        """The encoded answer to a read; the tree stays as it is. A `BadRequest` for what is not a read."""
        admitted = _admitted.pop(operation, None) or _admit(operation)
        if type(admitted) is Refusal:
            return admitted.encoded
        if type(admitted) not in READS:
            return _NOT_A_READ
        return encode(self._editor.read(cast("Read", admitted)))

    def image(self) -> Image:
        """The tree as it is now, whatever is applied later. Takes no time."""
        return Image(self.tree)

    def loader(self) -> Loader:
        """What replaces the tree by the one of an image, when it is finished; until then, this one goes on."""
        return Loader(self)

    def digest(self) -> bytes:
        """Equal on all replicas that applied the same operations."""
        return self.tree.digest
