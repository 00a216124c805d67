"""What the clients of a namespace did and were told: one `Call` after the other, kept in a file of JSON lines."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haret.vertree import Operation, Outcome
from rabble_trio import decode, encode


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client, and what became of it. Times are nanoseconds of one clock that only grows."""

    client: int
    """Which client: one session after the other, and one memory of what it has seen."""
    operation: Operation
    """What was to be done."""
    invoked: int
    """When the call began, or shortly before."""
    answered: int | None
    """When it had its answer, or shortly after. None: there was none, and it may have been executed, then or later."""
    outcome: Outcome | None
    """The answer: a result, or an error of the tree."""
    op: int | None
    """The commit number that came with the answer; errors have none."""
    view: int | None = None
    """In which it was answered, if that is known."""
    stale: bool = False
    """Whether the caller was content with an old state, though never an older one than it had seen."""

    @property
    def is_known(self) -> bool:
        """Whether there was an answer."""
        return self.answered is not None


def to_line(call: Call) -> str:
    """A call as a line of a file. The operation and its outcome are there as bytes to read back, and in words."""
    said = "unknown" if call.outcome is None else repr(call.outcome)
    fields: dict[str, Any] = {
        "client": call.client,
        "text": f"{call.operation!r} -> {said}",
        "invoked": call.invoked,
        "answered": call.answered,
        "op": call.op,
        "view": call.view,
        "stale": call.stale,
        "operation": b64encode(encode(call.operation)).decode(),
        "outcome": None if call.outcome is None else b64encode(encode(call.outcome)).decode(),
    }
    return json.dumps(fields) + "\n"


def from_line(line: str) -> Call:
    """The call of a line. Raises `ValueError`, `KeyError` or `rabble_trio.DecodeError` for what is none."""
    fields = json.loads(line)
    outcome = fields["outcome"]
    return Call(
        fields["client"],
        decode(b64decode(fields["operation"])),
        fields["invoked"],
        fields["answered"],
        None if outcome is None else decode(b64decode(outcome)),
        fields["op"],
        fields["view"],
        fields["stale"],
    )


def load(path: Path) -> Iterator[Call]:
    """The calls in a file."""
    with path.open() as file:
        for line in file:
            yield from_line(line)
