"""A tree to bytes and back, and bytes that are no tree."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from haret.vertree import BadSnapshot, BlobPut, Create, Operation, QueuePop, QueuePush, SetInsert, SetRemove, Tree
from haret.vertree.limits import MAX_DEPTH, MAX_ELEMENT_SIZE, MAX_SET_SIZE, MAX_VALUE_SIZE
from haret.vertree.snapshot import CHUNK_OBJECTS, CHUNK_SIZE, FORMAT

BLOB, QUEUE, SET, DIRECTORY = range(4)


def tree_of(*operations: Operation) -> Tree:
    tree = Tree.empty()
    for revision, operation in enumerate(operations, 1):
        tree, _ = tree.apply(operation, revision)
    return tree


SMALL = tree_of(
    Create("/a/blob", "blob"),
    BlobPut("/a/blob", b"value"),
    Create("/a/queue", "queue"),
    QueuePush("/a/queue", b"2"),
    QueuePush("/a/queue", b"1"),
    Create("/b/set", "set"),
    SetInsert("/b/set", b"y"),
    SetInsert("/b/set", b"x"),
    Create("/empty", "directory"),
)
SMALL_BYTES = b"".join(SMALL.chunks())

LARGE = tree_of(
    Create("/blob", "blob"),
    BlobPut("/blob", b"v" * MAX_VALUE_SIZE),
    Create("/queue", "queue"),
    *(QueuePush("/queue", b"%d" % number) for number in range(2000)),
    *(QueuePop("/queue") for number in range(500)),
    Create("/set", "set"),
    *(SetInsert("/set", b"%d" % number) for number in range(2000)),
    *(SetRemove("/set", b"%d" % number) for number in range(0, 2000, 3)),
    *(Create(f"/many/{number}/x", "blob") for number in range(500)),
)
LARGE_BYTES = b"".join(LARGE.chunks())


def snapshot_of(*objects: Any) -> bytes:
    """Objects with the checksum that belongs to them."""
    body = b"".join(msgpack.packb(thing) for thing in objects)
    return body + blake2b(body, digest_size=32).digest()


def rooted(count: int, *objects: Any) -> bytes:
    """A root at version 9 with so many children, and what comes after it."""
    return snapshot_of([FORMAT], [DIRECTORY, "", 9, count], *objects)


def everything(tree: Tree) -> list[Any]:
    """All there is to know about a tree, in plain data."""
    found: list[Any] = []
    for path, node in tree.nodes():
        content = getattr(node, "value", None)
        if node.type == "queue":
            content = [value for _, value in node.elements.items()]  # type: ignore[attr-defined]
        elif node.type == "set":
            content = [key for key, _ in node.elements.items()]  # type: ignore[attr-defined]
        found.append((path, node.type, node.version, content))
    return found


@pytest.mark.parametrize("tree", [Tree.empty(), SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_tree_comes_back_as_it_was(tree: Tree) -> None:
    restored = Tree.restore(tree.chunks())
    assert everything(restored) == everything(tree)
    assert restored.digest == tree.digest
    assert list(restored.chunks()) == list(tree.chunks())


def test_a_restored_tree_goes_on() -> None:
    operations: list[Operation] = [QueuePush("/queue", b"new"), QueuePop("/queue"), SetInsert("/set", b"0")]
    trees = [LARGE, Tree.restore(LARGE.chunks())]
    for operation in operations:
        outcomes = []
        for i, tree in enumerate(trees):
            trees[i], outcome = tree.apply(operation, LARGE.version + 1)
            outcomes.append(outcome)
        assert outcomes[0] == outcomes[1]
    assert trees[0].digest == trees[1].digest


def test_the_form_on_disk_does_not_change_unnoticed() -> None:
    expected = snapshot_of(
        ["haret.vertree 2"],
        [3, "", 9, 3],
        [3, "a", 5, 2],
        [0, "blob", 2, b"value"],
        [1, "queue", 5, 2],
        b"2",
        b"1",
        [3, "b", 8, 1],
        [2, "set", 8, 2],
        b"x",
        b"y",
        [3, "empty", 9, 0],
    )
    assert expected == SMALL_BYTES


def test_chunks_cost_about_the_same_and_are_made_one_at_a_time() -> None:
    sizes = [len(chunk) for chunk in LARGE.chunks()]
    assert len(sizes) > MAX_VALUE_SIZE // CHUNK_SIZE
    assert sizes.count(CHUNK_SIZE) == MAX_VALUE_SIZE // CHUNK_SIZE
    assert 0 < min(sizes) <= max(sizes) == CHUNK_SIZE
    chunks = LARGE.chunks()
    assert isinstance(chunks, Iterator)
    assert 0 < len(next(chunks)) <= CHUNK_SIZE
    tiny = list(tree_of(Create("/q", "queue"), *[QueuePush("/q", b"")] * 5000).chunks())
    assert [len(chunk) // 2 for chunk in tiny[1:-1]] == [CHUNK_OBJECTS] * 3
    large = list(tree_of(Create("/q", "queue"), *[QueuePush("/q", bytes(1000))] * 1000).chunks())
    assert all(CHUNK_SIZE - 1003 < len(chunk) <= CHUNK_SIZE for chunk in large[:-1])


@given(st.lists(st.integers(0, len(LARGE_BYTES)), max_size=20))
def test_the_bytes_may_be_cut_anywhere(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(LARGE_BYTES)]
    chunks = [LARGE_BYTES[start:end] for start, end in pairwise(ends)]
    assert Tree.restore(chunks).digest == LARGE.digest


@pytest.mark.parametrize("length", range(len(SMALL_BYTES)))
def test_an_incomplete_snapshot_is_refused(length: int) -> None:
    with pytest.raises(BadSnapshot):
        Tree.restore([SMALL_BYTES[:length]])


@given(st.integers(0, len(SMALL_BYTES) - 1), st.integers(1, 255))
def test_a_damaged_snapshot_is_refused(at: int, flip: int) -> None:
    damaged = bytearray(SMALL_BYTES)
    damaged[at] ^= flip
    with pytest.raises(BadSnapshot):
        Tree.restore([bytes(damaged)])


@given(st.lists(st.binary(max_size=200)))
@example([])
@example([SMALL_BYTES, b"x"])
@example([SMALL_BYTES, SMALL_BYTES])
def test_other_bytes_are_refused(chunks: list[bytes]) -> None:
    with pytest.raises(BadSnapshot):
        Tree.restore(chunks)


def bad(*objects: Any, count: int = 1) -> bytes:
    return rooted(count, *objects)


EMPTY_BLOB = [BLOB, "a", 1, b""]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (snapshot_of(["haret.vertree 0"], [DIRECTORY, "", 9, 0]), "not a snapshot of format"),
        (snapshot_of([FORMAT], [BLOB, "", 9, b""]), "not a root"),
        (snapshot_of([FORMAT], [DIRECTORY, "a", 9, 0]), "not a root"),
        (snapshot_of([FORMAT], [DIRECTORY, "", 2**63, 0]), "version"),
        (bad(count=0), None),
        (bad(count=1), "checksum|too early"),
        (bad(EMPTY_BLOB, count=0), "after the last node"),
        (bad(b"", count=1), "is no node"),
        (bad([BLOB, "a", 1]), "is no node"),
        (bad([BLOB, b"a", 1, b""]), "is no node"),
        (bad([BLOB, "a", True, b""]), "is no node"),
        (bad([BLOB, "a", 1.0, b""]), "is no node"),
        (bad([BLOB, "a", None, b""]), "is no node"),
        (bad([4, "a", 1, 0]), "no type 4"),
        (bad([-1, "a", 1, 0]), "no type -1"),
        (bad([True, "a", 1, b""]), "is no node"),
        (bad([BLOB, "a", 10, b""]), "version 10, its directory 9"),
        (bad([BLOB, "a", -1, b""]), "version -1"),
        (bad([BLOB, "a", 1, 1]), "no value of a blob"),
        (bad([BLOB, "a", 1, "text"]), "no value of a blob"),
        (bad([SET, "a", 1, b""]), "no size of a node"),
        (bad([SET, "a", 1, True], b""), "no size of a node"),
        (bad([SET, "a", 1, MAX_SET_SIZE + 1]), "no size of a node"),
        (bad([QUEUE, "a", 1, -1]), "no size of a node"),
        (bad([DIRECTORY, "a", 1, 2**62]), "no size of a node"),
        (bad([DIRECTORY, "a", 1, 1_000_000]), "checksum|too early"),
        (bad([QUEUE, "a", 1, 1], "text"), "is no value"),
        (bad([QUEUE, "a", 1, 1], 5), "is no value"),
        (bad([SET, "a", 1, 1], b"x" * (MAX_ELEMENT_SIZE + 1)), "is no value of at most"),
        (bad([BLOB, "a", 1, b"x" * (MAX_VALUE_SIZE + 1)]), "max_bin_len"),
        (bad([QUEUE, "a", 1, 1], b"x" * (MAX_VALUE_SIZE + 1)), "max_bin_len"),
        (bad([SET, "a", 1, 2], b"x", b"x"), "not sorted"),
        (bad([SET, "a", 1, 2], b"y", b"x"), "not sorted"),
        (bad([BLOB, "b", 1, b""], [BLOB, "a", 1, b""], count=2), "not sorted"),
        (bad([BLOB, "a", 1, b""], [BLOB, "a", 1, b""], count=2), "not sorted"),
        (bad([BLOB, "", 1, b""]), "no name"),
        (bad([BLOB, "a/b", 1, b""]), "no name"),
        (bad([BLOB, "..", 1, b""]), "no name"),
        (bad([BLOB, "a\n", 1, b""]), "no name"),
        (bad([BLOB, "x" * 256, 1, b""]), "max_str_len"),
        (rooted(1, *([[DIRECTORY, "a", 1, 1]] * MAX_DEPTH), [DIRECTORY, "a", 1, 0]), "no name"),
        (rooted(1, *([[DIRECTORY, "x" * 200, 1, 1]] * 6)), "no name"),
        (rooted(1, *([[DIRECTORY, "", 1, 1]] * 100_000)), "no name"),
        (bad(msgpack.Timestamp(1)), "max_ext_len"),
        (bad({}), "is no node"),
        (b"\x91" * 100_000, "Stack|recursion|nested|not a snapshot"),
        (b"\xc1" * 100, "no snapshot"),
        (b"\xa1\xff" * 100, "no snapshot"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_a_tree_can_not_have_is_refused(data: bytes, reason: str | None) -> None:
    if reason is None:
        Tree.restore([data])
        return
    with pytest.raises(BadSnapshot, match=reason):
        Tree.restore([data])


def test_the_deepest_tree_is_not_too_deep() -> None:
    data = rooted(1, *([[DIRECTORY, "a", 1, 1]] * (MAX_DEPTH - 1)), EMPTY_BLOB)
    assert len(list(Tree.restore([data]).nodes())) == MAX_DEPTH + 1


def test_an_announced_length_takes_no_memory() -> None:
    # Arrays in arrays of a million entries each and of four billion, a string of 4 GB, and as much as is allowed.
    bombs = [
        b"\xdd\x00\x0f\xff\xff" * 20,
        b"\xdd\xff\xff\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff" * 1000,
        b"\x94" * 100_000,
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            tracemalloc.reset_peak()
            with pytest.raises(BadSnapshot):
                Tree.restore([snapshot_of([FORMAT])[:-32] + bomb])
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_an_error_of_the_source_is_not_the_snapshots() -> None:
    def chunks() -> Iterator[bytes]:
        yield SMALL_BYTES[:50]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        Tree.restore(chunks())
