"""A persistent sorted map: a B+ tree whose blocks change only for the one who made them.

Rules:

1. A change copies the blocks on the way from the root to one leaf, at most `MAX_KEYS` entries each, and shares the
   rest: O(log n). All maps made before stay as they are.
2. Except that whoever changes a map says who he is, with any object as `owner`, and the blocks that he made himself are
   changed in place. So an owner is a licence for one map, the last one, and for as long as nobody else has it: to hand
   a map out, forget its owner. Two changes with two owners are rule 1 without exception, which is the default.
3. The entries of a leaf are sorted by key. In a branch, `keys[i]` stands between `children[i]` and `children[i + 1]`:
   it is greater than every key of the former, and not greater than any key of the latter.
4. All leaves are equally deep. Every block but the root has `MIN_KEYS` to `MAX_KEYS` keys; a root that is a branch has
   at least two children.
5. A fingerprint is remembered in the blocks, and taken only of a map whose owner is forgotten: it need never be unset.

How entries fall into blocks depends on the history of a map, so nothing that must be equal on all replicas may depend
on it: iteration does not, and `fingerprint` is made so that it does not either.

It is balanced by counting and not by hashing, so no choice of keys makes it slow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, cast

K = TypeVar("K", bound=Any)
V = TypeVar("V")

MAX_KEYS: Final = 32
"""Keys in a block. Larger blocks make flatter trees but longer copies; 16 to 64 measured alike."""

MIN_KEYS: Final = 8
"""A quarter, so that a block that was just split or joined takes many changes until it is split or joined again."""

_BUILD_KEYS: Final = 24
"""Keys in the blocks of a map that is built at once: room for the next insertions."""

# A sequence of n hashes h0, h1, ... is identified by h0 * x**(n-1) + ... + h(n-1) modulo a prime. Two neighbouring
# pieces can be put together, left * x**len(right) + right, wherever the sequence was cut. x is fixed and public: the
# fingerprint finds replicas that went apart; it does not withstand someone who can choose all contents freely.
_PRIME: Final = 2**255 - 19
_X: Final = int.from_bytes(b"haret.vertree.sortedmap, base x.", "big") % _PRIME
_POWERS: Final = [pow(_X, exponent, _PRIME) for exponent in range(2 * MAX_KEYS + 2)]

Fingerprint = tuple[int, int]
"""Of some entries, and x to the power of their number, by which a piece to their left must be multiplied."""

FingerprintSteps = Generator[tuple[K, V], None, Fingerprint]
"""Computes a fingerprint; yields each entry before it is hashed."""


class SortedMap(ABC, Generic[K, V]):
    """A map from comparable keys to values, iterated in the order of the keys. Make one with `empty` or `build`."""

    __slots__ = ("_fingerprint", "_owner", "keys", "size")

    keys: list[K]
    """Of the root block, not of the whole map: see the rules above. Not to be changed."""
    _owner: object
    """Who may change this block in place."""
    size: int
    """How many entries the map has."""
    _fingerprint: Fingerprint | None

    @abstractmethod
    def get(self, key: K) -> V | None:
        """The value of `key`, or None."""

    @abstractmethod
    def __contains__(self, key: K) -> bool: ...

    @abstractmethod
    def items(self) -> Iterator[tuple[K, V]]:
        """All entries in order."""

    @abstractmethod
    def items_from(self, key: K) -> Iterator[tuple[K, V]]:
        """The entries whose keys are not less than `key`, in order."""

    @abstractmethod
    def first(self) -> tuple[K, V]:
        """The entry with the least key. Raises `IndexError` if the map is empty."""

    @abstractmethod
    def last(self) -> tuple[K, V]:
        """The entry with the greatest key. Raises `IndexError` if the map is empty."""

    @abstractmethod
    def leaves(self) -> Iterator[Leaf[K, V]]:
        """The blocks that hold the entries, in order: the cheapest way to see many."""

    def key_set(self) -> set[K]:
        """All keys, as a new plain set."""
        return set().union(*(leaf.keys for leaf in self.leaves()))

    def put(self, key: K, value: V, owner: object = None) -> SortedMap[K, V]:
        """This map with the value of `key` set to `value`. `owner`: see rule 2."""
        owner = owner or object()
        # Mostly the blocks on the way belong to the owner already, and there is room.
        block: Any = self
        above: list[Branch[K, V]] = []
        while block._owner is owner:
            keys = block.keys
            if type(block) is Branch:
                above.append(block)
                block = block.children[bisect_right(keys, key)]
                continue
            i = bisect_left(keys, key)
            if i < len(keys) and keys[i] == key:
                block.values[i] = value
                return self
            if len(keys) == MAX_KEYS:
                break
            keys.insert(i, key)
            block.values.insert(i, value)
            block.size += 1
            for branch in above:
                branch.size += 1
            return self
        block = self._put(key, value, owner)
        if len(block.keys) <= MAX_KEYS:
            return block  # type: ignore[no-any-return]
        left, middle, right = block._split(owner)
        return Branch([middle], [left, right], owner)

    def remove(self, key: K, owner: object = None) -> SortedMap[K, V]:
        """This map without `key`; this very object if it has no such key. `owner`: see rule 2."""
        block = self._remove(key, owner or object())
        if isinstance(block, Branch) and not block.keys:
            return block.children[0]
        return block

    def fingerprint(self, entry_hash: Callable[[K, V], bytes]) -> int:
        """A number that identifies the sequence of entries: equal for equal entries, however the map came to be.

        `entry_hash` makes 32 bytes of an entry; it must always be the same for one map. Remembered in each block, so
        that after a change only the changed blocks are computed again.
        """
        for _ in self.fingerprint_steps(entry_hash):
            pass
        return cast("Fingerprint", self._fingerprint)[0]

    @abstractmethod
    def fingerprint_steps(self, entry_hash: Callable[[K, V], bytes]) -> FingerprintSteps[K, V]:
        """What `fingerprint` has yet to do, in steps: yields each entry before it is hashed.

        When it ends, the fingerprint is remembered. Whoever does not go on loses no more than a leaf's worth of work.
        """

    # The rest is between blocks. `_put` may return a block with too many keys, and `_remove` one with too few; whoever
    # called puts that right.

    @abstractmethod
    def _put(self, key: K, value: V, owner: object) -> SortedMap[K, V]: ...

    @abstractmethod
    def _remove(self, key: K, owner: object) -> SortedMap[K, V]: ...

    @abstractmethod
    def _split(self, owner: object) -> tuple[SortedMap[K, V], K, SortedMap[K, V]]:
        """Two halves of this block and the key that stands between them."""

    @abstractmethod
    def _join(self, separator: K, right: Any, owner: object) -> SortedMap[K, V]:
        """This block and its right neighbour, of the same kind, in one block."""


class Leaf(SortedMap[K, V]):
    """A block of entries."""

    __slots__ = ("values",)

    def __init__(self, keys: list[K], values: list[V], owner: object) -> None:
        self.keys = keys
        self.values = values
        self.size = len(keys)
        self._owner = owner
        self._fingerprint = None

    def get(self, key: K) -> V | None:
        keys = self.keys
        i = bisect_left(keys, key)
        if i < len(keys) and keys[i] == key:
            return self.values[i]
        return None

    def __contains__(self, key: K) -> bool:
        keys = self.keys
        i = bisect_left(keys, key)
        return i < len(keys) and bool(keys[i] == key)

    def items(self) -> Iterator[tuple[K, V]]:
        return zip(self.keys, self.values, strict=True)

    def items_from(self, key: K) -> Iterator[tuple[K, V]]:
        i = bisect_left(self.keys, key)
        return zip(self.keys[i:], self.values[i:], strict=True)

    def first(self) -> tuple[K, V]:
        return self.keys[0], self.values[0]

    def last(self) -> tuple[K, V]:
        return self.keys[-1], self.values[-1]

    def leaves(self) -> Iterator[Leaf[K, V]]:
        yield self

    def _own(self, owner: object) -> Leaf[K, V]:
        return self if self._owner is owner else Leaf(self.keys.copy(), self.values.copy(), owner)

    def _put(self, key: K, value: V, owner: object) -> Leaf[K, V]:
        mine = self._own(owner)
        keys = mine.keys
        i = bisect_left(keys, key)
        if i < len(keys) and keys[i] == key:
            mine.values[i] = value
        else:
            keys.insert(i, key)
            mine.values.insert(i, value)
            mine.size += 1
        return mine

    def _remove(self, key: K, owner: object) -> Leaf[K, V]:
        i = bisect_left(self.keys, key)
        if i == len(self.keys) or self.keys[i] != key:
            return self
        mine = self._own(owner)
        del mine.keys[i], mine.values[i]
        mine.size -= 1
        return mine

    def _split(self, owner: object) -> tuple[Leaf[K, V], K, Leaf[K, V]]:
        keys, values = self.keys, self.values
        half = len(keys) // 2
        return Leaf(keys[:half], values[:half], owner), keys[half], Leaf(keys[half:], values[half:], owner)

    def _join(self, separator: K, right: Leaf[K, V], owner: object) -> Leaf[K, V]:
        return Leaf(self.keys + right.keys, self.values + right.values, owner)

    def fingerprint_steps(self, entry_hash: Callable[[K, V], bytes]) -> FingerprintSteps[K, V]:
        if self._fingerprint is None:
            total = 0
            for entry in zip(self.keys, self.values, strict=True):
                yield entry
                total = (total * _X + int.from_bytes(entry_hash(*entry), "big")) % _PRIME
            self._fingerprint = total, _POWERS[len(self.keys)]
        return self._fingerprint


class Branch(SortedMap[K, V]):
    """A block of blocks."""

    __slots__ = ("children",)

    def __init__(self, keys: list[K], children: list[SortedMap[K, V]], owner: object, size: int | None = None) -> None:
        self.keys = keys
        self.children = children
        self.size = sum([child.size for child in children]) if size is None else size
        self._owner = owner
        self._fingerprint = None

    def _leaf(self, key: K) -> Leaf[K, V]:
        """The leaf that has `key`, if any has."""
        block: Any = self
        while type(block) is Branch:
            block = block.children[bisect_right(block.keys, key)]
        return block  # type: ignore[no-any-return]

    def get(self, key: K) -> V | None:
        return self._leaf(key).get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._leaf(key)

    def items(self) -> Iterator[tuple[K, V]]:
        for child in self.children:
            yield from child.items()

    def items_from(self, key: K) -> Iterator[tuple[K, V]]:
        i = bisect_right(self.keys, key)
        yield from self.children[i].items_from(key)
        for child in self.children[i + 1 :]:
            yield from child.items()

    def first(self) -> tuple[K, V]:
        return self.children[0].first()

    def last(self) -> tuple[K, V]:
        return self.children[-1].last()

    def leaves(self) -> Iterator[Leaf[K, V]]:
        for child in self.children:
            yield from child.leaves()

    def _own(self, owner: object) -> Branch[K, V]:
        return self if self._owner is owner else Branch(self.keys.copy(), self.children.copy(), owner, self.size)

    def _put(self, key: K, value: V, owner: object) -> Branch[K, V]:
        mine = self._own(owner)
        i = bisect_right(mine.keys, key)
        child = mine.children[i]
        mine.size -= child.size
        child = child._put(key, value, owner)
        mine.size += child.size
        if len(child.keys) > MAX_KEYS:
            left, middle, right = child._split(owner)
            mine.children[i : i + 1] = (left, right)
            mine.keys.insert(i, middle)
        else:
            mine.children[i] = child
        return mine

    def _remove(self, key: K, owner: object) -> Branch[K, V]:
        i = bisect_right(self.keys, key)
        child = self.children[i]
        size = child.size
        child = child._remove(key, owner)
        if child.size == size:
            return self
        mine = self._own(owner)
        mine.children[i] = child
        mine.size -= 1
        if len(child.keys) < MIN_KEYS:
            _fill(mine.keys, mine.children, max(i - 1, 0), owner)
        return mine

    def _split(self, owner: object) -> tuple[Branch[K, V], K, Branch[K, V]]:
        keys, children = self.keys, self.children
        half = len(keys) // 2
        left = Branch(keys[:half], children[: half + 1], owner)
        return left, keys[half], Branch(keys[half + 1 :], children[half + 1 :], owner)

    def _join(self, separator: K, right: Branch[K, V], owner: object) -> Branch[K, V]:
        return Branch([*self.keys, separator, *right.keys], self.children + right.children, owner)

    def fingerprint_steps(self, entry_hash: Callable[[K, V], bytes]) -> FingerprintSteps[K, V]:
        if self._fingerprint is None:
            total, power = 0, 1
            for child in self.children:
                part, part_power = yield from child.fingerprint_steps(entry_hash)
                total = (total * part_power + part) % _PRIME
                power = power * part_power % _PRIME
            self._fingerprint = total, power
        return self._fingerprint


def _fill(keys: list[K], children: list[SortedMap[K, V]], i: int, owner: object) -> None:
    """Make `children[i]` and the next, one of which is too small, into one block or two of good size."""
    joined = children[i]._join(keys[i], children[i + 1], owner)
    if len(joined.keys) <= MAX_KEYS:
        children[i : i + 2] = [joined]
        del keys[i]
    else:
        children[i], keys[i], children[i + 1] = joined._split(owner)


_EMPTY: SortedMap[Any, Any] = Leaf([], [], object())


def empty() -> SortedMap[Any, Any]:
    """The map without entries."""
    return _EMPTY


class Builder(Generic[K, V]):
    """Makes a map of so many entries, which come in order, a few at a time: work is linear in those that come.

    Room is made only for what has come, whatever the announced `count`.
    """

    __slots__ = ("_keys", "_levels", "_map", "_owner", "_values", "missing")

    def __init__(self, count: int) -> None:
        self.missing = count
        """How many entries have yet to come."""
        self._owner = object()
        self._keys: list[K] = []
        self._values: list[V] = []
        self._map = empty()
        # On each level from the leaves up, how many things there are to put into blocks.
        self._levels = [_Level(count)]
        while self._levels[-1].runs > 1:
            self._levels.append(_Level(self._levels[-1].runs))

    def extend(self, keys: Sequence[K], values: Sequence[V]) -> None:
        """Add entries: greater keys than all before, sorted, distinct, and not more than are missing."""
        level = self._levels[0]
        self.missing -= len(keys)
        start = 0
        while start < len(keys):
            end = start + level.width - len(self._keys)
            self._keys += keys[start:end]
            self._values += values[start:end]
            start = end
            if len(self._keys) == level.width:
                leaf = Leaf(self._keys, self._values, self._owner)
                self._keys, self._values = [], []
                level.close()
                self._add(1, leaf.keys[0], leaf)

    def _add(self, height: int, first: K, block: SortedMap[K, V]) -> None:
        """Take a block that is complete to those that make a branch."""
        if height == len(self._levels):
            self._map = block
            return
        level = self._levels[height]
        level.firsts.append(first)
        level.blocks.append(block)
        if len(level.blocks) == level.width:
            branch = Branch(level.firsts[1:], level.blocks, self._owner)
            first = level.firsts[0]
            level.close()
            self._add(height + 1, first, branch)

    def finish(self) -> SortedMap[K, V]:
        """The map. Raises `ValueError` if entries are missing."""
        if self.missing:
            raise ValueError(f"{self.missing} entries of the map have yet to come")
        return self._map


class _Level:
    """What is to be cut into the fewest runs of `_BUILD_KEYS` at most, all of nearly the same length."""

    __slots__ = ("_closed", "_count", "blocks", "firsts", "runs", "width")

    def __init__(self, count: int) -> None:
        self._count = count
        self._closed = -1
        self.runs = -(-count // _BUILD_KEYS)
        self.close()

    def close(self) -> None:
        """Begin the next run."""
        self.firsts: list[Any] = []
        self.blocks: list[SortedMap[Any, Any]] = []
        self._closed += 1
        if self._closed < self.runs:
            count, run = self._count, self._closed
            self.width = (run + 1) * count // self.runs - run * count // self.runs


def build(keys: Sequence[K], values: Sequence[V]) -> SortedMap[K, V]:
    """The map of these entries, in time linear in their number. `keys` must be sorted and distinct."""
    builder: Builder[K, V] = Builder(len(keys))
    builder.extend(keys, values)
    return builder.finish()
