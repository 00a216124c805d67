"""A replica that crashed and lost its memory (section 4.3).

It may have acknowledged entries, and promised to take part in no older view; it knows neither any more. So it answers
nothing of the protocol, asks nothing, and counts for nothing: the group goes on with the others. It tells clients that
it is not primary, and shows its state.
"""

from __future__ import annotations

from typing import ClassVar

from .base import State


class Recovering(State):
    """Status recovering. The only messages that are handled are those of clients."""

    status: ClassVar[str] = "recovering"

    __slots__ = ()
