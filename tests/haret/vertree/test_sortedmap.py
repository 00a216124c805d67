"""The persistent sorted map against a dict, and the rules in its file."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret.vertree.sortedmap import MAX_KEYS, MIN_KEYS, Branch, Builder, Leaf, SortedMap, build, empty


def check_rules(block: SortedMap[int, Any], *, root: bool = True) -> int:
    """Check the rules of the map's file; returns the depth."""
    keys = block.keys
    assert keys == sorted(set(keys))
    assert len(keys) <= MAX_KEYS
    assert root or len(keys) >= MIN_KEYS
    if isinstance(block, Leaf):
        assert block.size == len(keys) == len(block.values)
        return 1
    assert isinstance(block, Branch)
    assert len(block.children) == len(keys) + 1 >= 2
    assert block.size == sum(child.size for child in block.children)
    for i, key in enumerate(keys):
        assert block.children[i].last()[0] < key <= block.children[i + 1].first()[0]
    (depth,) = {check_rules(child, root=False) for child in block.children}
    return depth + 1


def hash_entry(key: int, value: object) -> bytes:
    return blake2b(f"{key} {value}".encode(), digest_size=32).digest()


# Ranges of keys, so that few drawn numbers make maps of several levels.
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove"]), st.integers(0, 3000), st.integers(1, 700), st.sampled_from([1, -1, 7])
    )
)


def numbers(start: int, count: int, step: int) -> list[int]:
    return [(start + i * step) % 3000 for i in range(count)]


@given(RUNS)
def test_it_is_a_dict_that_is_sorted(runs: list[tuple[str, int, int, int]]) -> None:
    ours: SortedMap[int, int] = empty()
    model: dict[int, int] = {}
    kept = []
    for change, start, count, step in runs:
        kept.append((ours, dict(model)))
        for key in numbers(start, count, step):
            if change == "put":
                ours = ours.put(key, start)
                model[key] = start
            else:
                before = ours
                ours = ours.remove(key)
                assert (ours is before) == (key not in model)
                model.pop(key, None)
        check_rules(ours)
    kept.append((ours, model))
    for old, old_model in kept:  # the map never changes, so neither do the old ones
        check_rules(old)
        assert list(old.items()) == sorted(old_model.items())
        assert old.size == len(old_model)


@given(st.lists(st.tuples(RUNS, st.booleans())))
def test_an_owner_changes_in_place_what_nobody_else_has_seen(epochs: list[tuple[Any, bool]]) -> None:
    ours: SortedMap[int, int] = empty()
    model: dict[int, int] = {}
    kept = []
    for runs, again in epochs:
        kept.append((ours, dict(model)))
        owner = object()
        # Two owners, as when a change may have to be taken back, and both leave blocks in the map.
        for runs_of_one, who in ((runs, owner), (runs if again else [], object()), (runs[:1], owner)):
            for change, start, count, step in runs_of_one:
                for key in numbers(start, count, step):
                    if change == "put":
                        ours = ours.put(key, start, who)
                        model[key] = start
                    else:
                        ours = ours.remove(key, who)
                        model.pop(key, None)
                check_rules(ours)
    kept.append((ours, model))
    for old, old_model in kept:
        check_rules(old)
        assert list(old.items()) == sorted(old_model.items())
        assert old.size == len(old_model)


def test_an_owner_copies_a_block_once() -> None:
    built = build(range(1000), range(1000))
    owner = object()
    ours = built.put(500, -1, owner)
    assert ours is not built
    assert ours.put(500, -2, owner) is ours  # known
    assert ours.put(500.5, -3, owner) is ours  # type: ignore[arg-type]  # new
    assert ours.put(500, -4, object()) is not ours
    assert ours.put(500, -4) is not ours
    assert (ours.get(500), ours.size, built.get(500), built.size) == (-2, 1001, 500, 1000)


@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_it_grows_and_shrinks_in_any_order(order: str) -> None:
    keys = list(range(3000))
    if order == "down":
        keys.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(keys)
    ours: SortedMap[int, None] = empty()
    kept = []
    for key in keys:
        kept.append(ours)
        ours = ours.put(key, None)
    for key in keys:
        kept.append(ours)
        ours = ours.remove(key)
    for i, old in enumerate([*kept, ours]):
        expected = keys[:i] if i <= len(keys) else keys[i - len(keys) :]
        assert old.size == len(expected)
        if i % 50 == 0:
            check_rules(old)
            assert [key for key, _ in old.items()] == sorted(expected)


@given(RUNS, st.integers(-1, 3001))
def test_reads_are_those_of_a_dict(runs: list[tuple[str, int, int, int]], key: int) -> None:
    ours: SortedMap[int, int] = empty()
    model: dict[int, int] = {}
    for _, start, count, step in runs:
        for number in numbers(start, count, step):
            ours = ours.put(number, -number)
            model[number] = -number
    assert ours.get(key) == model.get(key)
    assert (key in ours) == (key in model)
    assert list(ours.items_from(key)) == sorted(item for item in model.items() if item[0] >= key)
    assert ours.key_set() == set(model)
    if model:
        assert (ours.first(), ours.last()) == (min(model.items()), max(model.items()))


@given(st.integers(0, 5000))
def test_building_at_once_gives_what_putting_gives(count: int) -> None:
    built = build(range(count), range(count))
    check_rules(built)
    assert list(built.items()) == [(i, i) for i in range(count)]


@given(st.integers(0, 3000), st.lists(st.integers(1, 700)))
def test_entries_may_come_a_few_at_a_time(count: int, portions: list[int]) -> None:
    builder: Builder[int, int] = Builder(count)
    come = 0
    for portion in [*portions, count]:
        some = range(come, min(come + portion, count))
        if builder.missing:
            with pytest.raises(ValueError, match=f"{count - come} entries of the map have yet to come"):
                builder.finish()
        builder.extend(some, some)
        come += len(some)
        assert builder.missing == count - come
    built = builder.finish()
    check_rules(built)
    assert list(built.items()) == [(i, i) for i in range(count)]


def test_a_builder_makes_no_room_for_what_is_only_announced() -> None:
    tracemalloc.start()
    try:
        builder: Builder[int, int] = Builder(10**15)
        builder.extend([1], [1])
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_a_fingerprint_is_made_in_steps_each_of_one_entry() -> None:
    one, other = build(range(1000), range(1000)), build(range(1000), range(1000))
    steps = one.fingerprint_steps(hash_entry)
    assert [next(steps)[0] for _ in range(500)] == list(range(500))
    # Others who come meanwhile go on where a leaf began, and nobody disturbs anybody.
    second = list(one.fingerprint_steps(hash_entry))
    assert 500 <= len(second) < 500 + MAX_KEYS
    assert len(list(steps)) < MAX_KEYS
    assert list(one.fingerprint_steps(hash_entry)) == []
    assert one.fingerprint(hash_entry) == other.fingerprint(hash_entry)


@given(st.integers(0, 2000), st.randoms(use_true_random=False))
def test_the_fingerprint_does_not_depend_on_the_history(count: int, order: random.Random) -> None:
    keys = list(range(count))
    built = build(keys, keys).fingerprint(hash_entry)
    order.shuffle(keys)
    ours: SortedMap[int, int] = empty()
    for key in keys:
        ours = ours.put(key + 10_000, 0).put(key, key)
    for key in keys:
        ours = ours.remove(key + 10_000)
    assert ours.fingerprint(hash_entry) == built


def test_the_fingerprint_sees_every_entry() -> None:
    base = build(range(1000), range(1000))
    seen = {base.fingerprint(hash_entry), empty().fingerprint(hash_entry)}
    for key in range(0, 1000, 37):
        for other in (base.put(key, -1), base.remove(key), base.put(key + 1000, 0)):
            seen.add(other.fingerprint(hash_entry))
    assert len(seen) == 2 + 3 * len(range(0, 1000, 37))


def test_the_fingerprint_sees_the_order() -> None:
    def hash_value(_key: int, value: object) -> bytes:
        return hash_entry(0, value)

    values = list(range(100))
    straight = build(range(100), values).fingerprint(hash_value)
    values[10], values[90] = values[90], values[10]
    assert build(range(100), values).fingerprint(hash_value) != straight


def test_a_fingerprint_after_one_change_hashes_one_leaf() -> None:
    hashed: list[int] = []

    def counting(key: int, value: object) -> bytes:
        hashed.append(key)
        return hash_entry(key, value)

    base = build(range(100_000), range(100_000))
    base.fingerprint(counting)
    assert len(hashed) == 100_000
    hashed.clear()
    base.put(50_000, 0).fingerprint(counting)
    assert len(hashed) <= MAX_KEYS


@pytest.mark.parametrize("change", ["put", "replace", "remove"])
def test_a_change_copies_one_block_of_each_level(change: str) -> None:
    def blocks(block: Any) -> set[int]:
        return {id(block)}.union(*(blocks(child) for child in getattr(block, "children", ())))

    base: SortedMap[int, int] = build(range(0, 200_000, 2), range(100_000))
    changed = {"put": base.put(7, 0), "replace": base.put(8, 0), "remove": base.remove(8)}[change]
    assert len(blocks(changed) - blocks(base)) == check_rules(base)
    assert check_rules(base) <= 5


def test_an_empty_map_has_no_ends() -> None:
    for end in (empty().first, empty().last):
        with pytest.raises(IndexError):
            end()
    assert empty().put(1, 1).remove(1).size == 0
