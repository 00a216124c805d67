"""What a namespace replicates: a tree. The state machine that `haret.vr` drives, and the check before anything is logged.

Rules:

1. Only bytes that `admit` admits are logged. It decodes an operation and checks what can be checked without a tree.
2. `Backend.apply` never raises, whatever the bytes: it admits them once more, and a refusal is a result.
3. All replicas of a node share what `admit` decoded. Operations are immutable, and equal bytes are equal operations, so
   that is a matter of speed only: each is decoded and checked once, not once by the server and once by every replica.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, final

from haret.protocol import BadRequest
from haret.vertree import Operation, Tree, check
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


class Backend:
    """One replica's tree."""

    def __init__(self) -> None:
        self.tree = Tree.empty()

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation with this commit number as its revision; returns the encoded result or error."""
        admitted = admit(operation)
        if type(admitted) is Refusal:
            return admitted.encoded
        self.tree, outcome = self.tree.apply(admitted, op)
        return encode(outcome)

    def digest(self) -> bytes:
        """Equal on all replicas that applied the same operations."""
        return self.tree.digest
