"""An add-wins observed-remove set that replicas change on their own and join in any order.

Background: Shapiro et al., "Conflict-free Replicated Data Types" (2011); Bieniusa et al., "An optimized conflict-free
replicated set" (2012), which needs no tombstones; Almeida et al., "Delta state replicated data types" (2018).

Rules:

1. A *replica* is (name, incarnation). Each of its additions gets a *dot*: the replica and a number that counts up from 1.
   A replica that restarts without its memory must take a higher incarnation, so that no dot is ever used twice.
2. A set holds the dots that are *live*, each with its element, and knows which dots it has *seen*. A dot that was seen and
   is not live has been removed: nothing else remembers a removal. An element is in the set while it has a live dot.
3. Join keeps a dot that is live on both sides, or live on one side and not seen by the other, and unites what was seen. So
   adding wins over a concurrent removal, and an old delta can't bring a removed element back.
4. All that is about the replicas of one name is a *line*. Lines are joined one by one; a delta is some lines, perhaps
   with a part of their dots only, and a whole state is a delta with everything in it.

What was seen is stored as a count per replica ("all up to 5"), single dots beyond it while deltas are missing (the *cloud*),
and per line a *floor*: every dot of a lower incarnation counts as seen. Hence the size of a set, whatever was removed:

* one line for each name that ever added anything, until `forget`;
* in it, one count for each incarnation since the floor; `retire` raises the floor, so a node that calls it when it starts
  keeps one count however often it restarts;
* single dots only for deltas that were lost or overtaken: the next join with a state that has them takes them away;
* the live dots: at most one of each replica for an element.

Sets are immutable: what changes one returns another, and shares the lines that are the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, cast

from ._codec import encode, message
from ._convert import MAX_SAME_HASH
from ._ids import check_name

T = TypeVar("T", bound=Hashable)

Replica = tuple[str, int]
"""Name and incarnation of whoever adds."""

_Dot = tuple[int, int]  # (incarnation, number); the name is that of the line

MAX_NUMBER: Final = 2**63 - 1
"""The highest incarnation, and the highest number of a dot: what any reader of msgpack can hold."""

FINGERPRINT_SIZE: Final = 16
"""Bytes of a line's fingerprint: two different lines of equal fingerprint would take 2**64 tries."""


@message(tag="rabble.set_line")
class Line:
    """What a set, or a delta, knows about the replicas of one name. Raises `ValueError` unless it is in normal form."""

    name: str
    """Of the replicas: a name as in `rabble_trio.NodeId`."""
    floor: int
    """Dots of lower incarnations count as seen, and none of them is live."""
    counts: tuple[tuple[int, int], ...]
    """(incarnation, count), sorted: dots 1 to count were seen."""
    cloud: tuple[tuple[int, int], ...]
    """(incarnation, number), sorted: single dots that were seen beyond the counts."""
    live: tuple[tuple[int, int, Any], ...]
    """(incarnation, number, element), sorted: dots that were seen and not removed."""

    def __post_init__(self) -> None:
        check_name("replica", self.name)
        counts = dict(self.counts)
        dots = [(incarnation, number) for incarnation, number, _ in self.live]
        for incarnation, number in (*self.counts, *self.cloud, *dots):
            if not (0 <= self.floor <= incarnation <= MAX_NUMBER and 1 <= number <= MAX_NUMBER):
                raise ValueError(f"dot ({incarnation}, {number}) is out of range, or below the floor {self.floor}")
        if not 0 <= self.floor <= MAX_NUMBER:
            raise ValueError(f"the floor {self.floor} is out of range")
        for what in (list(self.counts), list(self.cloud), dots):
            if any(one >= other for one, other in itertools.pairwise(what)):
                raise ValueError("counts, cloud and live dots must be sorted, each once")
        if len(counts) != len(self.counts):
            raise ValueError("an incarnation has two counts")
        # Numbers are sorted within an incarnation, so the lowest of a cloud can't be next to the count, nor below it.
        if any(number <= counts.get(incarnation, 0) + 1 for incarnation, number in self.cloud):
            raise ValueError("the cloud holds a dot that belongs into the counts")
        _check_hashes((self.cloud, dots, [element for _, _, element in self.live]))
        cloud = frozenset(self.cloud)
        for dot in dots:
            if dot[1] > counts.get(dot[0], 0) and dot not in cloud:
                raise ValueError(f"dot {dot} is live, but was not seen")


def _check_hashes(keys: Iterable[Collection[Any]]) -> None:
    # All of these become keys of dicts or elements of sets, which are slow if somebody made their hashes collide.
    try:
        for some in keys:
            if some and Counter(map(hash, some)).most_common(1)[0][1] > MAX_SAME_HASH:
                raise ValueError(f"more than {MAX_SAME_HASH} dots or elements have the same hash")
    except TypeError:
        raise ValueError("an element can't be hashed") from None


@message(tag="rabble.set_delta")
class Delta:
    """A part of a set, or all of it: what `ORSet.join` takes. Raises `ValueError` unless its lines are sorted by name."""

    lines: tuple[Line, ...] = ()
    """Sorted by name, each name once."""

    def __post_init__(self) -> None:
        if any(one.name >= other.name for one, other in itertools.pairwise(self.lines)):
            raise ValueError("the lines of a delta must be sorted by name, each name once")

    def __bool__(self) -> bool:
        return bool(self.lines)


@message(tag="rabble.set_digest")
class Digest:
    """A short description of a whole set, for `ORSet.differing`: sets of equal digest are equal."""

    fingerprints: dict[str, bytes]
    """By name of the line: `FINGERPRINT_SIZE` bytes of its SHA-256."""


class _Line(Generic[T]):
    """A line in the form that is quick to join. Never changed after it was made."""

    __slots__ = ("_fingerprint", "cloud", "counts", "floor", "live")

    def __init__(self, floor: int, counts: dict[int, int], cloud: Iterable[_Dot], live: dict[_Dot, T]) -> None:
        self.floor = floor
        self.counts = {incarnation: count for incarnation, count in counts.items() if incarnation >= floor}
        beyond = set()
        for incarnation, number in sorted(cloud):
            count = self.counts.get(incarnation, 0)
            if incarnation >= floor and number == count + 1:
                self.counts[incarnation] = number
            elif incarnation >= floor and number > count:
                beyond.add((incarnation, number))
        self.cloud = frozenset(beyond)
        self.live = live
        self._fingerprint: bytes | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Line)
            and (self.floor, self.counts, self.cloud) == (other.floor, other.counts, other.cloud)
            and self.live == other.live
        )

    __hash__ = None  # type: ignore[assignment]

    def seen(self, dot: _Dot) -> bool:
        incarnation, number = dot
        return incarnation < self.floor or number <= self.counts.get(incarnation, 0) or dot in self.cloud

    def join(self, other: _Line[T]) -> _Line[T]:
        if self is other:
            return self
        live = {dot: one for dot, one in self.live.items() if not other.seen(dot)}
        live |= {dot: one for dot, one in other.live.items() if not self.seen(dot)}
        for dot in self.live.keys() & other.live.keys():
            # They are equal unless somebody lied or used a dot twice; even then all must choose the same.
            live[dot] = min(self.live[dot], other.live[dot], key=repr)
        counts = dict(self.counts)
        for incarnation, count in other.counts.items():
            counts[incarnation] = max(count, counts.get(incarnation, 0))
        joined = _Line(max(self.floor, other.floor), counts, self.cloud | other.cloud, live)
        return self if joined == self else joined

    def next_number(self, incarnation: int) -> int:
        beyond = [number for other, number in self.cloud if other == incarnation]
        return max([self.counts.get(incarnation, 0), *beyond]) + 1

    def to_message(self, name: str) -> Line:
        return Line(
            name=name,
            floor=self.floor,
            counts=tuple(sorted(self.counts.items())),
            cloud=tuple(sorted(self.cloud)),
            live=tuple((*dot, self.live[dot]) for dot in sorted(self.live)),
        )

    def fingerprint(self, name: str) -> bytes:
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(encode(self.to_message(name))).digest()[:FINGERPRINT_SIZE]
        return self._fingerprint


_UNKNOWN: Final[_Line[Any]] = _Line(0, {}, (), {})


def _from_delta(delta: Delta) -> dict[str, _Line[Any]]:
    lines: dict[str, _Line[Any]] = {}
    for line in delta.lines:
        live = {(incarnation, number): element for incarnation, number, element in line.live}
        made: _Line[Any] = _Line(line.floor, dict(line.counts), line.cloud, live)
        if made != _UNKNOWN:
            lines[line.name] = made
    return lines


class ORSet(Generic[T]):
    """An immutable observed-remove set; see the rules at the top of the module. `ORSet()` is empty, and has seen nothing.

    Elements are hashable and have an order among each other; to cross the wire, they are what a message's field of type
    `Any` may hold. Iteration is sorted. Sets are equal when their elements are and they have seen the same.
    """

    __slots__ = ("_elements", "_lines")

    def __init__(self, delta: Delta | None = None) -> None:
        self._lines: Mapping[str, _Line[T]] = _from_delta(delta) if delta else {}
        self._elements: dict[T, list[tuple[str, _Dot]]] | None = None

    def _with_lines(self, lines: Mapping[str, _Line[T]]) -> ORSet[T]:
        made: ORSet[T] = ORSet()
        made._lines = lines
        return made

    # Reading ----------------------------------------------------------------------------------------------------------

    def _index(self) -> dict[T, list[tuple[str, _Dot]]]:
        if self._elements is None:
            self._elements = {}
            for name, line in self._lines.items():
                for dot, element in line.live.items():
                    self._elements.setdefault(element, []).append((name, dot))
        return self._elements

    def __contains__(self, element: object) -> bool:
        return element in self._index()

    def __iter__(self) -> Iterator[T]:
        return iter(sorted(cast("Iterable[Any]", self._index())))

    def __len__(self) -> int:
        return len(self._index())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ORSet) and self._lines == other._lines

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<ORSet {list(self)!r}>"

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it has a line for: of every replica that ever added, sorted."""
        return tuple(sorted(self._lines))

    def incarnation(self, name: str) -> int:
        """The highest incarnation it knows of that name: of a dot or of the floor; -1 if it has no line for it."""
        line = self._lines.get(name)
        return -1 if line is None else max((line.floor, *line.counts, *(incarnation for incarnation, _ in line.cloud)))

    # Changing ---------------------------------------------------------------------------------------------------------

    def add(self, replica: Replica, element: T) -> tuple[ORSet[T], Delta]:
        """The set with the element, added by this replica, and the delta that does the same to others.

        To be called by that replica only. The new dot replaces those of the element that are seen here. Raises
        `InvalidId` for a bad name and `ValueError` if the incarnation is retired or out of range.
        """
        name, incarnation = replica
        check_name("replica", name)
        own = self._lines.get(name, _UNKNOWN)
        if not own.floor <= incarnation <= MAX_NUMBER:
            raise ValueError(f"incarnation {incarnation} of {name} is retired: the lowest that may add is {own.floor}")
        dot = incarnation, own.next_number(incarnation)
        delta = self._removal(element)
        delta[name] = delta.get(name, _UNKNOWN).join(_Line(0, {}, (dot,), {dot: element}))
        return self._changed(delta)

    def remove(self, element: T) -> tuple[ORSet[T], Delta]:
        """The set without the element, and the delta; both say nothing new if it is not in the set.

        An addition that is not known here survives: adding wins.
        """
        return self._changed(self._removal(element))

    def retire(self, name: str, before: int) -> tuple[ORSet[T], Delta]:
        """Forget all incarnations of `name` lower than `before`, and remove what only they have added.

        A replica that starts calls it for itself, with its incarnation, when it has lost its memory or is about to add
        anew what it wants to keep. Raises `InvalidId`, and `ValueError` if `before` is out of range.
        """
        check_name("replica", name)
        if not 0 <= before <= MAX_NUMBER:
            raise ValueError(f"{before} is no incarnation: use 0 to 2**63 - 1")
        return self._changed({name: _Line(before, {}, (), {})})

    def join(self, other: ORSet[T] | Delta) -> ORSet[T]:
        """The set that knows what both know. It is `self`, the same object, if `other` brings nothing new."""
        lines = (ORSet[T](other) if isinstance(other, Delta) else other)._lines
        return self._joined(lines)

    def forget(self, names: Collection[str]) -> ORSet[T]:
        """The set without any knowledge of these names, so that it takes no room for those who left for good.

        Safe only once no state, however old, that holds a dot of theirs as live can ever be joined again: every replica
        has seen the removal, and none will be restored from an earlier copy. Otherwise what they had added comes back.
        A replica that did not forget yet gives the knowledge back, which harms nobody. Raises `ValueError` if one of them
        has a live element.
        """
        for name in names:
            if self._lines.get(name, _UNKNOWN).live:
                raise ValueError(f"what {name} added is still in the set: remove it before you forget {name}")
        return self.only(self._lines.keys() - set(names))

    def only(self, names: Collection[str]) -> ORSet[T]:
        """The set that knows nothing but the lines of these names; joined into the whole it changes nothing."""
        wanted = frozenset(names)
        return self._with_lines({name: line for name, line in self._lines.items() if name in wanted})

    def _removal(self, element: T) -> dict[str, _Line[T]]:
        dots: dict[str, set[_Dot]] = {}
        for name, dot in self._index().get(element, ()):
            dots.setdefault(name, set()).add(dot)
        return {name: _Line(0, {}, seen, {}) for name, seen in dots.items()}

    def _changed(self, delta: dict[str, _Line[T]]) -> tuple[ORSet[T], Delta]:
        return self._joined(delta), self._with_lines(delta).state()

    def _joined(self, lines: Mapping[str, _Line[T]]) -> ORSet[T]:
        changed: dict[str, _Line[T]] = {}
        for name, line in lines.items():
            mine = self._lines.get(name, _UNKNOWN)
            joined = mine.join(line)
            if joined is not mine:
                changed[name] = joined
        return self._with_lines({**self._lines, **changed}) if changed else self

    # Telling others ---------------------------------------------------------------------------------------------------

    def state(self) -> Delta:
        """All of it, as a delta."""
        return Delta(tuple(self._lines[name].to_message(name) for name in self.names))

    def digest(self) -> Digest:
        """What another set needs to find the lines in which it differs."""
        return Digest({name: line.fingerprint(name) for name, line in self._lines.items()})

    def differing(self, digest: Digest) -> tuple[str, ...]:
        """The names, sorted, whose lines are not the same here and there; of both kinds: we may know more, or they."""
        mine = self.digest().fingerprints
        return tuple(
            sorted(name for name in {*mine, *digest.fingerprints} if mine.get(name) != digest.fingerprints.get(name))
        )

    def delta_since(self, digest: Digest) -> Delta:
        """All that the set of this digest may be lacking: the lines in which it differs, whole."""
        return self.only(self.differing(digest)).state()
