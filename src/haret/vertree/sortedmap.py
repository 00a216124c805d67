"""A persistent sorted map: a B+ tree whose blocks never change.

Rules:

1. A change copies the blocks on the way from the root to one leaf, at most `MAX_KEYS` entries each, and shares the
   rest: O(log n). All maps made before stay as they are. The lists in a block never change once the block is made.
2. The entries of a leaf are sorted by key. In a branch, `keys[i]` stands between `children[i]` and `children[i + 1]`:
   it is greater than every key of the former, and not greater than any key of the latter.
3. All leaves are equally deep. Every block but the root has `MIN_KEYS` to `MAX_KEYS` keys; a root that is a branch has
   at least two children.

How entries fall into blocks depends on the history of a map, so nothing that must be equal on all replicas may depend
on it: iteration does not, and `fingerprint` is made so that it does not either.

It is balanced by counting and not by hashing, so no choice of keys makes it slow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

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


class SortedMap(ABC, Generic[K, V]):
    """A map from comparable keys to values, iterated in the order of the keys. Make one with `empty` or `build`."""

    __slots__ = ("_fingerprint", "keys", "size")

    keys: list[K]
    """Of the root block, not of the whole map: see the rules above. Not to be changed."""
    size: int
    """How many entries the map has."""
    _fingerprint: tuple[int, int] | None

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
    def key_set(self) -> set[K]:
        """All keys, as a new plain set."""

    def put(self, key: K, value: V) -> SortedMap[K, V]:
        """This map with the value of `key` set to `value`."""
        block = self._put(key, value)
        if len(block.keys) <= MAX_KEYS:
            return block
        left, middle, right = block._split()
        return Branch([middle], [left, right])

    def remove(self, key: K) -> SortedMap[K, V]:
        """This map without `key`; this very object if it has no such key."""
        block = self._remove(key)
        if isinstance(block, Branch) and not block.keys:
            return block.children[0]
        return block

    def fingerprint(self, entry_hash: Callable[[K, V], bytes]) -> int:
        """A number that identifies the sequence of entries: equal for equal entries, however the map came to be.

        `entry_hash` makes 32 bytes of an entry; it must always be the same for one map. Remembered in each block, so
        that after a change only the changed blocks are computed again.
        """
        return self._combine(entry_hash)[0]

    # The rest is between blocks. `_put` may return a block with too many keys, and `_remove` one with too few; whoever
    # called puts that right.

    @abstractmethod
    def _put(self, key: K, value: V) -> SortedMap[K, V]: ...

    @abstractmethod
    def _remove(self, key: K) -> SortedMap[K, V]: ...

    @abstractmethod
    def _split(self) -> tuple[SortedMap[K, V], K, SortedMap[K, V]]:
        """Two halves of this block and the key that stands between them."""

    @abstractmethod
    def _join(self, separator: K, right: Any) -> SortedMap[K, V]:
        """This block and its right neighbour, of the same kind, in one block."""

    @abstractmethod
    def _combine(self, entry_hash: Callable[[K, V], bytes]) -> tuple[int, int]:
        """The fingerprint, and x to the power of the size, by which a piece to the left must be multiplied."""


class Leaf(SortedMap[K, V]):
    """A block of entries."""

    __slots__ = ("values",)

    def __init__(self, keys: list[K], values: list[V]) -> None:
        self.keys = keys
        self.values = values
        self.size = len(keys)
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

    def key_set(self) -> set[K]:
        return set(self.keys)

    def _put(self, key: K, value: V) -> Leaf[K, V]:
        keys = self.keys
        values = self.values.copy()
        i = bisect_left(keys, key)
        if i < len(keys) and keys[i] == key:
            values[i] = value
            return Leaf(keys, values)
        keys = keys.copy()
        keys.insert(i, key)
        values.insert(i, value)
        return Leaf(keys, values)

    def _remove(self, key: K) -> Leaf[K, V]:
        i = bisect_left(self.keys, key)
        if i == len(self.keys) or self.keys[i] != key:
            return self
        keys = self.keys.copy()
        values = self.values.copy()
        del keys[i], values[i]
        return Leaf(keys, values)

    def _split(self) -> tuple[Leaf[K, V], K, Leaf[K, V]]:
        keys, values = self.keys, self.values
        half = len(keys) // 2
        return Leaf(keys[:half], values[:half]), keys[half], Leaf(keys[half:], values[half:])

    def _join(self, separator: K, right: Leaf[K, V]) -> Leaf[K, V]:
        return Leaf(self.keys + right.keys, self.values + right.values)

    def _combine(self, entry_hash: Callable[[K, V], bytes]) -> tuple[int, int]:
        if self._fingerprint is None:
            total = 0
            for key, value in zip(self.keys, self.values, strict=True):
                total = (total * _X + int.from_bytes(entry_hash(key, value), "big")) % _PRIME
            self._fingerprint = total, _POWERS[len(self.keys)]
        return self._fingerprint


class Branch(SortedMap[K, V]):
    """A block of blocks."""

    __slots__ = ("children",)

    def __init__(self, keys: list[K], children: list[SortedMap[K, V]], size: int | None = None) -> None:
        self.keys = keys
        self.children = children
        self.size = sum([child.size for child in children]) if size is None else size
        self._fingerprint = None

    def get(self, key: K) -> V | None:
        return self.children[bisect_right(self.keys, key)].get(key)

    def __contains__(self, key: K) -> bool:
        return key in self.children[bisect_right(self.keys, key)]

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

    def key_set(self) -> set[K]:
        found: set[K] = set()
        for child in self.children:
            found |= child.key_set()
        return found

    def _put(self, key: K, value: V) -> Branch[K, V]:
        keys = self.keys
        i = bisect_right(keys, key)
        before = self.children[i]
        after = before._put(key, value)
        children = self.children.copy()
        if len(after.keys) > MAX_KEYS:
            left, middle, right = after._split()
            children[i : i + 1] = (left, right)
            keys = keys.copy()
            keys.insert(i, middle)
        else:
            children[i] = after
        return Branch(keys, children, self.size - before.size + after.size)

    def _remove(self, key: K) -> Branch[K, V]:
        i = bisect_right(self.keys, key)
        before = self.children[i]
        after = before._remove(key)
        if after is before:
            return self
        children = self.children.copy()
        children[i] = after
        keys = self.keys
        if len(after.keys) < MIN_KEYS:
            keys = keys.copy()
            _fill(keys, children, max(i - 1, 0))
        return Branch(keys, children, self.size - 1)

    def _split(self) -> tuple[Branch[K, V], K, Branch[K, V]]:
        keys, children = self.keys, self.children
        half = len(keys) // 2
        left = Branch(keys[:half], children[: half + 1])
        return left, keys[half], Branch(keys[half + 1 :], children[half + 1 :])

    def _join(self, separator: K, right: Branch[K, V]) -> Branch[K, V]:
        return Branch([*self.keys, separator, *right.keys], self.children + right.children, self.size + right.size)

    def _combine(self, entry_hash: Callable[[K, V], bytes]) -> tuple[int, int]:
        if self._fingerprint is None:
            total, power = 0, 1
            for child in self.children:
                part, part_power = child._combine(entry_hash)
                total = (total * part_power + part) % _PRIME
                power = power * part_power % _PRIME
            self._fingerprint = total, power
        return self._fingerprint


def _fill(keys: list[K], children: list[SortedMap[K, V]], i: int) -> None:
    """Make `children[i]` and the next, one of which is too small, into one block or two of good size."""
    joined = children[i]._join(keys[i], children[i + 1])
    if len(joined.keys) <= MAX_KEYS:
        children[i : i + 2] = [joined]
        del keys[i]
    else:
        children[i], keys[i], children[i + 1] = joined._split()


_EMPTY: SortedMap[Any, Any] = Leaf([], [])


def empty() -> SortedMap[Any, Any]:
    """The map without entries."""
    return _EMPTY


def build(keys: Sequence[K], values: Sequence[V]) -> SortedMap[K, V]:
    """The map of these entries, in time linear in their number. `keys` must be sorted and distinct."""
    if not keys:
        return _EMPTY
    blocks: list[SortedMap[K, V]] = []
    firsts: list[K] = []
    for start, end in _even_cuts(len(keys)):
        blocks.append(Leaf(list(keys[start:end]), list(values[start:end])))
        firsts.append(keys[start])
    while len(blocks) > 1:
        cuts = _even_cuts(len(blocks))
        blocks = [Branch(firsts[start + 1 : end], blocks[start:end]) for start, end in cuts]
        firsts = [firsts[start] for start, _ in cuts]
    return blocks[0]


def _even_cuts(count: int) -> list[tuple[int, int]]:
    """Cut `count` things into the fewest runs of `_BUILD_KEYS` at most, all of nearly the same length."""
    runs = -(-count // _BUILD_KEYS)
    return [(run * count // runs, (run + 1) * count // runs) for run in range(runs)]
