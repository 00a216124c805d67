"""A state machine for tests, whose answers tell the whole history before them."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import msgpack

DIGEST_BYTES = 8
"""Enough to tell histories of a run apart."""

Done = tuple[int, bytes, bytes]
"""Op, operation, result."""


class LedgerImage:
    """A picture of a ledger."""

    def __init__(self, history: tuple[Done, ...], digest: bytes) -> None:
        self._history = history
        self._digest = digest

    def chunks(self) -> Iterator[bytes]:
        """One piece per operation."""
        for done in self._history:
            yield msgpack.packb(done)

    def digest(self, budget: int) -> bytes | None:
        """That of the ledger."""
        return self._digest


class LedgerLoader:
    """Makes a ledger what it was in a picture."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._unpacker = msgpack.Unpacker(use_list=False)
        self._history: list[Done] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take some bytes. Raises `ValueError`."""
        self._bytes += len(chunk)
        self._unpacker.feed(chunk)
        for done in self._unpacker:
            match done:
                case (int(), bytes(), bytes()):
                    self._history.append(done)
                case _:
                    raise ValueError(f"a ledger consists of ops, operations and results, not of {done!r}")

    def finish(self) -> None:
        """The ledger has that history now. Raises `ValueError`."""
        if self._unpacker.tell() != self._bytes:
            raise ValueError("the last entry of the ledger is not complete")
        self._ledger.become(self._history)


class Ledger:
    """Each result is the place of the operation in history, and a digest of all that was executed up to it.

    So an answer is right only if everything before it is. `history` keeps what was done, for the checks.
    """

    def __init__(self) -> None:
        self.history: list[Done] = []
        """Op, operation, result."""
        self._digest = b""

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation."""
        self._digest = blake2b(self._digest + operation, digest_size=DIGEST_BYTES).digest()
        result = b"%d " % (len(self.history) + 1) + self._digest
        self.history.append((op, operation, result))
        return result

    def read(self, operation: bytes) -> bytes:
        """The result of the last operation, whatever is asked."""
        return self.history[-1][2] if self.history else b"0 "

    def digest(self) -> bytes:
        """A digest of the history."""
        return self._digest

    def image(self) -> LedgerImage:
        """A picture of it."""
        return LedgerImage(tuple(self.history), self._digest)

    def loader(self) -> LedgerLoader:
        """What makes it the one of a picture."""
        return LedgerLoader(self)

    def become(self, history: list[Done]) -> None:
        """Have this history."""
        self.history = list(history)
        self._digest = b""
        for _, operation, _ in history:
            self._digest = blake2b(self._digest + operation, digest_size=DIGEST_BYTES).digest()
