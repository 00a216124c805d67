"""A state machine for tests, whose answers tell the whole history before them."""

from __future__ import annotations

from hashlib import blake2b

DIGEST_BYTES = 8
"""Enough to tell histories of a run apart."""


class Ledger:
    """Each result is the place of the operation in history, and a digest of all that was executed up to it.

    So an answer is right only if everything before it is. `history` keeps what was done, for the checks.
    """

    def __init__(self) -> None:
        self.history: list[tuple[int, bytes, bytes]] = []
        """Op, operation, result."""
        self._digest = b""

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation."""
        self._digest = blake2b(self._digest + operation, digest_size=DIGEST_BYTES).digest()
        result = b"%d " % (len(self.history) + 1) + self._digest
        self.history.append((op, operation, result))
        return result

    def digest(self) -> bytes:
        """A digest of the history."""
        return self._digest
