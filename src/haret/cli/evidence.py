"""What the demonstration looks for in what it reads back. Each function returns a problem in words, or None. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

SHOWN: Final = 5
"""Examples that a problem names."""


def nothing_lost(acknowledged: Iterable[bytes], found: Iterable[bytes]) -> str | None:
    """Whatever was acknowledged is there."""
    return _problem("lost", set(acknowledged) - set(found))


def nothing_twice(found: Iterable[bytes]) -> str | None:
    """Nothing is there more than once."""
    return _problem("there more than once", {element for element, times in Counter(found).items() if times > 1})


def in_order(found: Iterable[bytes]) -> str | None:
    """Elements are "writer:number"; the numbers of each writer grow."""
    numbers: dict[bytes, list[int]] = {}
    for element in found:
        writer, _, number = element.partition(b":")
        numbers.setdefault(writer, []).append(int(number))
    late = {
        b"%b:%d" % (writer, second)
        for writer, sequence in numbers.items()
        for first, second in pairwise(sequence)
        if second < first
    }
    return _problem("too late", late)


def counted_exactly(increments: int, count: int) -> str | None:
    """A number that was counted up so often has this value."""
    if count == increments:
        return None
    return f"it is {count}: {abs(count - increments)} {'lost' if count < increments else 'done twice'}"


def longest_gap(times: Sequence[float], since: float) -> float:
    """Seconds without an event, at most, from `since` to the last one."""
    relevant = [since, *sorted(when for when in times if when > since)]
    return max((second - first for first, second in pairwise(relevant)), default=0.0)


def _problem(what: str, elements: set[bytes]) -> str | None:
    if not elements:
        return None
    examples = ", ".join(element.decode("utf-8", "backslashreplace") for element in sorted(elements)[:SHOWN])
    return f"{len(elements)} {what}, such as {examples}"
