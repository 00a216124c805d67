"""The laws of the tree: digests, structure sharing, and messages that cross the wire."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haret.vertree import (
    BlobPut,
    CannotDeleteRoot,
    CasFailed,
    Create,
    Delete,
    Directory,
    DoesNotExist,
    Error,
    Guard,
    Image,
    InvalidPath,
    Keys,
    LimitExceeded,
    ListKeys,
    MultiCas,
    MultiResult,
    Operation,
    Outcome,
    QueuePop,
    QueuePush,
    Result,
    SetInsert,
    SetRemove,
    SetResult,
    SetSubset,
    SetUnion,
    Tree,
    WrongType,
    check,
    is_error,
    is_write,
    nodes,
)
from rabble_trio import decode, encode


def tree_of(*operations: Operation, revision: int | None = None) -> Tree:
    """The tree after some operations: with revisions 1, 2, ..., or all of one change."""
    tree = Tree.empty()
    for number, operation in enumerate(operations, 1):
        tree, outcome = tree.apply(operation, number if revision is None else revision)
        assert not is_error(outcome), outcome
    return tree


def contents(tree: Tree) -> bytes:
    return b"".join(tree.chunks())


@pytest.mark.parametrize("seed", range(10))
def test_equal_content_gives_equal_bytes_and_digest_whatever_the_history(seed: int) -> None:
    order = random.Random(seed)
    wanted: list[Operation] = [Create(f"/d/{number}", "blob") for number in range(200)]
    wanted += [SetInsert("/s", b"%d" % number) for number in range(200)]
    detour: list[Operation] = [Create(f"/d/x{number}", "set") for number in range(200)]
    detour += [SetInsert("/s", b"x%d" % number) for number in range(200)]
    undo: list[Operation] = [Delete(f"/d/x{number}") for number in range(200)]
    undo += [SetRemove("/s", b"x%d" % number) for number in range(200)]
    queue: list[Operation] = [QueuePush("/q", b"%d" % number) for number in range(100)]
    mixed = wanted + detour
    order.shuffle(mixed)
    order.shuffle(undo)
    made = [Create("/s", "set"), Create("/q", "queue")]
    straight = tree_of(*made, *wanted, *queue, revision=7)
    winding = tree_of(
        *made, *([QueuePush("/q", b"x")] * 99), *mixed, *undo, *queue, *([QueuePop("/q")] * 99), revision=7
    )
    assert contents(straight) == contents(winding)
    assert straight.digest == winding.digest


BASE: list[Operation] = [
    Create("/a/blob", "blob"),
    Create("/a/queue", "queue"),
    Create("/a/set", "set"),
    BlobPut("/a/blob", b"x"),
    QueuePush("/a/queue", b"1"),
    QueuePush("/a/queue", b"2"),
    SetInsert("/a/set", b"x"),
    SetInsert("/a/set", b"y"),
]


def test_any_difference_shows_in_the_digest_and_the_bytes() -> None:
    base = tree_of(*BASE, revision=5)
    others = [
        tree_of(*BASE, revision=6),  # the versions alone
        tree_of(*BASE, BlobPut("/a/blob", b"y"), revision=5),
        tree_of(*BASE, BlobPut("/a/blob", b""), revision=5),
        tree_of(*BASE, QueuePop("/a/queue"), revision=5),
        tree_of(*BASE, QueuePush("/a/queue", b""), revision=5),
        tree_of(*BASE, QueuePop("/a/queue"), QueuePush("/a/queue", b"1"), revision=5),  # the order alone
        tree_of(*BASE, SetInsert("/a/set", b""), revision=5),
        tree_of(*BASE, SetRemove("/a/set", b"x"), revision=5),
        tree_of(*BASE, Create("/a/b", "directory"), revision=5),
        tree_of(*BASE, Create("/b", "set"), revision=5),
        tree_of(*BASE, Create("/b", "queue"), revision=5),
        tree_of(*BASE, Create("/b", "blob"), revision=5),
        tree_of(*BASE, Create("/c", "blob"), revision=5),
        tree_of(*BASE, Delete("/a/set"), revision=5),
        Tree.empty(),
    ]
    assert len({tree.digest for tree in [base, *others]}) == len(others) + 1
    assert len({contents(tree) for tree in [base, *others]}) == len(others) + 1


def test_a_digest_after_one_write_hashes_only_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tree_of(*(Create(f"/a/b/{number}", "blob") for number in range(20_000)))
    digest = tree.digest
    hashes = 0
    blake2b = hashlib.blake2b

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal hashes
        hashes += 1
        return blake2b(*args, **kwargs)

    monkeypatch.setattr(nodes, "blake2b", counting)
    written, _ = tree.apply(BlobPut("/a/b/777", b"x"), tree.version + 1)
    assert written.digest != digest
    assert 4 <= hashes <= 40
    hashes = 0
    assert tree.digest == digest
    assert hashes == 0


def test_trees_share_what_is_not_written() -> None:
    def reachable(tree: Tree) -> set[int]:
        return {id(node) for _, node in tree.nodes()}

    tree = tree_of(*(Create(f"/{top}/{number}", "set") for top in "abc" for number in range(1000)))
    written, _ = tree.apply(SetInsert("/b/500", b"x"), tree.version + 1)
    assert len(reachable(written) - reachable(tree)) == 3
    assert written.find("/a") is tree.find("/a")


def test_nodes_can_be_looked_at() -> None:
    tree = tree_of(*BASE)
    found = tree.find("/a")
    assert isinstance(found, Directory)
    assert (found.version, found.children.size) == (8, 3)
    assert tree.find("/a/no") == DoesNotExist("/a/no")
    assert isinstance(tree.find("a"), InvalidPath)
    assert [path for path, _ in tree.nodes()] == ["/", "/a", "/a/blob", "/a/queue", "/a/set"]
    assert repr(tree) == "<Tree at version 8>"


def test_all_operations_of_one_change_may_have_one_revision_one_by_one() -> None:
    together, outcome = Tree.empty().apply(MultiCas((), tuple(BASE)), 3)  # type: ignore[arg-type]
    tree, results = Tree.empty(), []
    for operation in BASE:
        tree, result = tree.apply(operation, 3)
        results.append(result)
    assert outcome == MultiResult(tuple(results), 3)  # type: ignore[arg-type]
    assert together.digest == tree.digest


MESSAGES: list[Operation | Outcome] = [
    *BASE,
    SetUnion(("/a", "/b"), (frozenset([b"x"]), frozenset())),
    SetSubset("/a", frozenset([b"x", b"y"])),
    SetSubset(frozenset(), "/a"),
    ListKeys(),
    ListKeys("/a", after="/a/b", limit=5, recursive=False),
    MultiCas((Guard("/", 3), Guard("/a", 0)), (BlobPut("/a", b"x"), Delete("/b"))),
    MultiCas((), (SetUnion(("/a",)), Delete("/"))),
    *(Result(value, 2**63 - 1) for value in (None, True, False, 0, 1, b"", b"x")),
    SetResult(frozenset([b"x", b"y"]), 3),
    Keys((("/", 3, "directory"), ("/a", 2, "blob")), 3, more=True),
    MultiResult((Result(None, 1), Result(True, 1)), 1),
    WrongType("/a", "blob", "set"),
    CasFailed("/a", 1, 2),
    CannotDeleteRoot(),
    LimitExceeded("things", 3, 4),
]


@pytest.mark.parametrize("thing", MESSAGES, ids=repr)
def test_operations_and_outcomes_cross_the_wire(thing: Operation | Outcome) -> None:
    assert decode(encode(thing)) == thing
    assert type(getattr(decode(encode(thing)), "value", None)) is type(getattr(thing, "value", None))


# Whatever can come out of the decoder, sensible or not.
PATHS = st.sampled_from(["/", "/a", "/a/blob", "/a/queue", "/a/set", "/a/set/x", "/no"]) | st.text(max_size=5)
INTS = st.integers(-(2**63), 2**64 - 1)
VALUES = st.binary(max_size=3)
OPERANDS = PATHS | st.frozensets(VALUES)
BY_NAME = {
    "path": PATHS,
    "type": st.sampled_from(["blob", "set"]) | st.text(max_size=3),
    "value": VALUES,
    "left": OPERANDS,
    "right": OPERANDS,
    "paths": st.lists(PATHS, max_size=3).map(tuple),
    "literals": st.lists(st.frozensets(VALUES), max_size=2).map(tuple),
    "after": st.none() | PATHS,
    "limit": st.integers(-1, 3) | INTS,
    "recursive": st.booleans(),
    "guards": st.lists(st.builds(Guard, PATHS, st.integers(-1, 9) | INTS), max_size=3).map(tuple),
}


def operations(cls: Any, **more: Any) -> st.SearchStrategy[Operation]:
    names = [field.name for field in dataclasses.fields(cls)]
    return st.builds(cls, **{name: {**BY_NAME, **more}[name] for name in names})


SINGLE = st.one_of(*(operations(cls) for cls in Operation.__args__ if cls is not MultiCas))


@settings(max_examples=500)
@given(SINGLE | operations(MultiCas, operations=st.lists(SINGLE, max_size=3).map(tuple)))
def test_whatever_is_decoded_can_be_applied_and_what_comes_out_be_sent(operation: Operation) -> None:
    tree = tree_of(*BASE)
    after, outcome = tree.apply(decode(encode(operation)), 9)
    assert decode(encode(outcome)) == outcome
    assert after is tree or (is_write(operation) and not is_error(outcome))
    if check(operation) is not None:
        assert (after, outcome) == (tree, check(operation))


def test_errors_and_writes_are_told_apart() -> None:
    errors: list[Error] = [DoesNotExist("/a"), CannotDeleteRoot()]
    assert all(is_error(error) for error in errors)
    assert not is_error(Result(None, 1))
    assert is_write(Delete("/a"))
    assert is_write(MultiCas((), ()))
    assert not is_write(ListKeys())


def test_an_image_stays_as_it_was_and_its_digest_comes_in_slices() -> None:
    editor = tree_of(*BASE, *(Create(f"/many/{number}", "blob") for number in range(2000))).edit()
    expected = tree_of(*BASE, *(Create(f"/many/{number}", "blob") for number in range(2000)))
    image = Image(editor.tree())
    calls = 1
    while (digest := image.digest(100)) is None:
        editor.apply(BlobPut(f"/many/{calls}", b"x"), expected.version + calls)
        calls += 1
    assert digest == expected.digest
    assert 2000 / 100 <= calls <= 2000 / 100 + 2
    assert image.digest(1) == digest
    assert b"".join(image.chunks()) == contents(expected)


def test_a_slice_of_a_digest_hashes_about_as_much_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0
    blake2b = hashlib.blake2b

    def counting(data: bytes, **kwargs: Any) -> Any:
        nonlocal hashed
        hashed += 1 + len(data) // 1024
        return blake2b(data, **kwargs)

    monkeypatch.setattr(nodes, "blake2b", counting)
    tree = tree_of(
        Create("/queue", "queue"),
        *(QueuePush("/queue", bytes(100_000)) for _ in range(100)),
        Create("/set", "set"),
        *(SetInsert("/set", b"%d" % number) for number in range(3000)),
        *(Create(f"/{number}/x", "blob") for number in range(1000)),
        Create("/blob", "blob"),
        BlobPut("/blob", bytes(400_000)),
    )
    image = Image(tree)
    most = 0
    while image.digest(200) is None:
        most, hashed = max(most, hashed), 0
    assert 200 < most < 200 + 400  # the largest value is indivisible


def test_slices_of_a_digest_are_remembered_for_trees_that_come_later() -> None:
    tree = tree_of(*(Create(f"/{number}", "blob") for number in range(2000)))
    image = Image(tree)
    for _ in range(10):
        image.digest(100)
    later, _ = tree.apply(BlobPut("/1999", b"x"), tree.version + 1)
    assert sum(later.digest_steps()) < 2000 - 10 * 100 + 100
    assert sum(later.digest_steps()) == 0
