"""Every operation on a tree: its result, its errors, and what happens to versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from haret.vertree import (
    AlreadyExists,
    Blob,
    BlobGet,
    BlobPut,
    BlobSize,
    CasFailed,
    Create,
    Delete,
    DoesNotExist,
    Guard,
    Keys,
    LimitExceeded,
    ListKeys,
    MultiCas,
    MultiResult,
    PathMustEndInDirectory,
    Queue,
    QueueBack,
    QueueFront,
    QueueLen,
    QueuePop,
    QueuePush,
    Result,
    Set,
    SetContains,
    SetDifference,
    SetInsert,
    SetIntersection,
    SetRemove,
    SetResult,
    SetSubset,
    SetSuperset,
    SetSymmetricDifference,
    SetUnion,
    Tree,
    WrongType,
    is_error,
)
from haret.vertree import apply as apply_module
from haret.vertree.limits import MAX_ELEMENT_SIZE, MAX_RESULT_SIZE
from haret.vertree.operations import Operation


class World:
    """A tree, and a revision that counts up with each operation."""

    def __init__(self) -> None:
        self.tree = Tree.empty()
        self.revision = 0

    def __call__(self, operation: Operation) -> Any:
        """Do an operation that should succeed."""
        outcome = self.attempt(operation)
        assert not is_error(outcome), outcome
        return outcome

    def attempt(self, operation: Operation) -> Any:
        before = self.tree
        self.revision += 1
        self.tree, outcome = before.apply(operation, self.revision)
        assert not (is_error(outcome) and self.tree is not before)
        return outcome

    def versions(self) -> dict[str, int]:
        return {path: node.version for path, node in self.tree.nodes()}


@pytest.fixture
def world() -> World:
    return World()


def set_of(*elements: bytes) -> frozenset[bytes]:
    return frozenset(elements)


def test_a_new_tree_is_a_root_at_version_0(world: World) -> None:
    assert world.versions() == {"/": 0}
    assert world.tree.version == 0


def test_a_version_is_that_of_the_newest_change_below(world: World) -> None:
    world(Create("/a/b", "blob"))
    world(Create("/a/c/d", "queue"))
    assert world.versions() == {"/": 2, "/a": 2, "/a/b": 1, "/a/c": 2, "/a/c/d": 2}
    world(BlobPut("/a/b", b"x"))
    assert world.versions() == {"/": 3, "/a": 3, "/a/b": 3, "/a/c": 2, "/a/c/d": 2}
    world(Delete("/a/c/d"))
    assert world.versions() == {"/": 4, "/a": 4, "/a/b": 3, "/a/c": 4}
    assert world.tree.version == 4


@pytest.mark.parametrize("type_", ["blob", "queue", "set", "directory"])
def test_create_makes_an_empty_node_and_its_directories(world: World, type_: str) -> None:
    assert world(Create("/a/b/c", type_)) == Result(None, 1)
    assert [(path, node.type) for path, node in world.tree.nodes()] == [
        ("/", "directory"),
        ("/a", "directory"),
        ("/a/b", "directory"),
        ("/a/b/c", type_),
    ]


def test_create_refuses_what_is_there(world: World) -> None:
    world(Create("/a/b", "blob"))
    for path in ("/", "/a", "/a/b"):
        assert world.attempt(Create(path, "blob")) == AlreadyExists(path)
    assert world.attempt(Create("/a/b/c/d", "blob")) == PathMustEndInDirectory("/a/b")


def test_delete_takes_all_below_and_leaves_the_directory(world: World) -> None:
    world(Create("/a/b/c", "blob"))
    world(Create("/a/b/d", "blob"))
    assert world(Delete("/a/b")) == Result(None, 3)
    assert world.versions() == {"/": 3, "/a": 3}
    assert world.attempt(Delete("/a/b")) == DoesNotExist("/a/b")
    assert world(Delete("/a")) == Result(None, 5)
    assert world.versions() == {"/": 5}


def test_a_blob_holds_what_was_put(world: World) -> None:
    world(Create("/b", "blob"))
    assert world(BlobGet("/b")) == Result(b"", 1)
    revision = world.revision + 1
    assert world(BlobPut("/b", b"abc")) == Result(None, revision)
    assert world(BlobGet("/b")) == Result(b"abc", revision)
    assert world(BlobSize("/b")) == Result(3, revision)


def test_putting_an_equal_value_is_a_change(world: World) -> None:
    world(Create("/b", "blob"))
    assert [world(BlobPut("/b", b"x")).version for _ in range(2)] == [2, 3]


def test_a_queue_gives_first_what_came_first(world: World) -> None:
    world(Create("/q", "queue"))
    assert world(QueueFront("/q")) == world(QueueBack("/q")) == Result(None, 1)
    for element in (b"1", b"2", b"3"):
        world(QueuePush("/q", element))
    version = world.tree.version
    assert world(QueueFront("/q")) == Result(b"1", version)
    assert world(QueueBack("/q")) == Result(b"3", version)
    assert world(QueueLen("/q")) == Result(3, version)
    assert world(QueuePop("/q")) == Result(b"1", world.revision)
    world(QueuePush("/q", b"4"))
    assert [world(QueuePop("/q")).value for _ in range(3)] == [b"2", b"3", b"4"]
    assert world(QueueLen("/q")).value == 0


def test_popping_from_an_empty_queue_changes_nothing(world: World) -> None:
    world(Create("/q", "queue"))
    before = world.tree
    assert world(QueuePop("/q")) == Result(None, 1)
    assert world.tree is before


def test_a_set_holds_each_element_once(world: World) -> None:
    world(Create("/s", "set"))
    assert world(SetInsert("/s", b"x")) == Result(True, 2)
    before = world.tree
    assert world(SetInsert("/s", b"x")) == Result(False, 2)
    assert world(SetRemove("/s", b"y")) == Result(False, 2)
    assert world.tree is before
    assert world(SetContains("/s", b"x")) == Result(True, 2)
    assert world(SetContains("/s", b"y")) == Result(False, 2)
    assert world(SetRemove("/s", b"x")) == Result(True, world.revision)
    assert world(SetContains("/s", b"x")).value is False


def test_set_algebra_over_paths_and_literals(world: World) -> None:
    for path, elements in (("/a", b"123"), ("/b", b"34"), ("/c", b"5")):
        world(Create(path, "set"))
        for element in elements:
            world(SetInsert(path, bytes([element])))
    versions = world.versions()
    a, b = set_of(b"1", b"2", b"3"), set_of(b"3", b"4")
    assert world(SetUnion(("/a", "/b", "/c"), (set_of(b"6"), set_of(b"7", b"1")))) == SetResult(
        a | b | set_of(b"5", b"6", b"7"), versions["/c"]
    )
    assert world(SetUnion(("/a",))) == SetResult(a, versions["/a"])
    assert world(SetUnion((), (a, b))) == SetResult(a | b, 0)
    assert world(SetUnion(())) == SetResult(set_of(), 0)
    for left, right, version in (("/a", "/b", "/b"), ("/a", b, "/a"), (a, "/b", "/b"), (a, b, None)):
        at = versions[version] if version else 0
        assert world(SetIntersection(left, right)) == SetResult(a & b, at)
        assert world(SetDifference(left, right)) == SetResult(a - b, at)
        assert world(SetSymmetricDifference(left, right)) == SetResult(a ^ b, at)
        assert world(SetSubset(left, right)) == world(SetSuperset(left, right)) == Result(False, at)
    assert world(SetSubset("/b", a | b)).value is True
    assert world(SetSuperset("/b", set_of(b"3"))).value is True
    assert world(SetSubset("/b", "/b")).value is True


@pytest.mark.parametrize("pair", [SetIntersection, SetDifference, SetSymmetricDifference, SetSubset, SetSuperset])
def test_set_algebra_wants_sets(world: World, pair: Callable[[Any, Any], Operation]) -> None:
    world(Create("/b", "blob"))
    world(Create("/s", "set"))
    wrong = WrongType("/b", "set", "blob")
    for operation in (pair("/b", "/s"), pair("/s", "/b"), pair(set_of(), "/b"), SetUnion(("/s", "/b"))):
        assert world.attempt(operation) == wrong
    assert world.attempt(pair("/s", "/no")) == world.attempt(SetUnion(("/no",))) == DoesNotExist("/no")
    assert world.attempt(pair("/s", "/b/no")) == PathMustEndInDirectory("/b")


def test_a_set_too_large_for_a_reply_is_an_error(world: World) -> None:
    world(Create("/s", "set"))
    count = MAX_RESULT_SIZE // MAX_ELEMENT_SIZE  # without what msgpack adds, so one too many
    elements = [i.to_bytes(2, "big") * (MAX_ELEMENT_SIZE // 2) for i in range(count)]
    for element in elements[1:]:
        world(SetInsert("/s", element))
    assert world(SetUnion(("/s",))).value == frozenset(elements[1:])
    error = world.attempt(SetUnion(("/s",), (frozenset(elements[:1]),)))
    assert isinstance(error, LimitExceeded)
    assert world(SetIntersection("/s", frozenset(elements[:2]))).value == frozenset(elements[1:2])


LEAF_OPERATIONS = [
    (Blob, BlobPut("/x", b"")),
    (Blob, BlobGet("/x")),
    (Blob, BlobSize("/x")),
    (Queue, QueuePush("/x", b"")),
    (Queue, QueuePop("/x")),
    (Queue, QueueFront("/x")),
    (Queue, QueueBack("/x")),
    (Queue, QueueLen("/x")),
    (Set, SetInsert("/x", b"")),
    (Set, SetRemove("/x", b"")),
    (Set, SetContains("/x", b"")),
]


@pytest.mark.parametrize(("wanted", "operation"), LEAF_OPERATIONS, ids=lambda value: type(value).__name__)
def test_an_operation_is_for_one_type(world: World, wanted: Any, operation: Any) -> None:
    assert world.attempt(operation) == DoesNotExist("/x")
    for type_ in ("blob", "queue", "set", "directory"):
        world(Create("/x", type_))
        if type_ != wanted.type:
            assert world.attempt(operation) == WrongType("/x", wanted.type, type_)
        else:
            world(operation)
        world(Delete("/x"))
    assert world.attempt(type(operation)("/", *([b""] if hasattr(operation, "value") else []))) == WrongType(
        "/", wanted.type, "directory"
    )


@pytest.mark.parametrize(("wanted", "operation"), LEAF_OPERATIONS, ids=lambda value: type(value).__name__)
def test_a_leaf_is_no_directory(world: World, wanted: Any, operation: Any) -> None:
    world(Create("/x/leaf", wanted.type))
    for path in ("/x/leaf/y", "/x/leaf/y/z"):
        below = type(operation)(path, *([b""] if hasattr(operation, "value") else []))
        for other in (below, Delete(path), Create(path, "blob"), ListKeys(path)):
            assert world.attempt(other) == PathMustEndInDirectory("/x/leaf")


@pytest.mark.parametrize(
    ("limit", "type_", "fill"),
    [
        ("MAX_QUEUE_LENGTH", "queue", lambda number: QueuePush("/x", b"")),
        ("MAX_SET_SIZE", "set", lambda number: SetInsert("/x", bytes([number]))),
        ("MAX_CHILDREN", "directory", lambda number: Create(f"/x/{number}/y", "blob")),
    ],
)
def test_nothing_grows_without_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, type_: str, fill: Callable[[int], Operation]
) -> None:
    monkeypatch.setattr(apply_module, limit, 3)
    world(Create("/x", type_))
    for number in range(3):
        world(fill(number))
    error = world.attempt(fill(3))
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.actual) == (3, 4)


# Listing


@pytest.fixture
def listed(world: World) -> World:
    for path, type_ in (("/a/x", "blob"), ("/a-b", "set"), ("/a/b/y", "queue"), ("/b", "directory")):
        world(Create(path, type_))
    return world


def test_a_listing_is_sorted_by_component_and_begins_with_the_node(listed: World) -> None:
    assert listed(ListKeys()) == Keys(
        (
            ("/", 4, "directory"),
            ("/a", 3, "directory"),
            ("/a/b", 3, "directory"),
            ("/a/b/y", 3, "queue"),
            ("/a/x", 1, "blob"),
            ("/a-b", 2, "set"),
            ("/b", 4, "directory"),
        ),
        4,
        more=False,
    )
    assert paths(listed(ListKeys("/a"))) == ["/a", "/a/b", "/a/b/y", "/a/x"]
    assert paths(listed(ListKeys("/a/x"))) == ["/a/x"]
    assert paths(listed(ListKeys("/", recursive=False))) == ["/", "/a", "/a-b", "/b"]
    assert paths(listed(ListKeys("/a", recursive=False))) == ["/a", "/a/b", "/a/x"]
    assert listed.attempt(ListKeys("/no")) == DoesNotExist("/no")


def paths(keys: Keys) -> list[str]:
    return [path for path, _, _ in keys.value]


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("limit", range(1, 9))
def test_pages_put_together_are_the_listing(listed: World, limit: int, recursive: bool) -> None:
    found: list[str] = []
    after = None
    for _ in range(10):
        page = listed(ListKeys(after=after, limit=limit, recursive=recursive))
        assert len(page.value) == limit or not page.more
        found += paths(page)
        if not page.more:
            break
        after = found[-1]
    assert found == paths(listed(ListKeys(recursive=recursive)))


def test_a_listing_goes_on_after_a_key_that_is_gone(listed: World) -> None:
    assert paths(listed(ListKeys(after="/a/b/no"))) == ["/a/b/y", "/a/x", "/a-b", "/b"]
    assert paths(listed(ListKeys(after="/a/b/z"))) == ["/a/x", "/a-b", "/b"]
    assert paths(listed(ListKeys(after="/a/x/no/no"))) == ["/a-b", "/b"]
    assert paths(listed(ListKeys(after="/aa/no"))) == ["/b"]
    assert paths(listed(ListKeys(after="/c"))) == []
    assert paths(listed(ListKeys(after="/a/b/y", recursive=False))) == ["/a-b", "/b"]


def test_a_page_ends_before_it_is_too_large_for_a_reply(world: World) -> None:
    for number in range(1100):
        world(Create("/" + "/".join(["x" * 250] * 3) + f"/{number:03}", "blob"))
    page = world(ListKeys(limit=2000))
    assert page.more
    assert 1000 < len(page.value) < 1100
    assert sum(len(path) for path in paths(page)) <= MAX_RESULT_SIZE
    rest = world(ListKeys(after=page.value[-1][0]))
    assert len(page.value) + len(rest.value) == 1104
    assert not rest.more


# Multi-CAS


def test_a_multi_cas_is_one_change(world: World) -> None:
    world(Create("/a", "blob"))
    outcome = world(
        MultiCas(
            (Guard("/a", 1), Guard("/b", 0), Guard("/", 1)),
            (
                BlobPut("/a", b"x"),
                Create("/b/c", "set"),
                SetInsert("/b/c", b"y"),
                SetInsert("/b/c", b"y"),
                Delete("/a"),
            ),
        )
    )
    assert outcome == MultiResult(
        (Result(None, 2), Result(None, 2), Result(True, 2), Result(False, 2), Result(None, 2)), 2
    )
    assert world.versions() == {"/": 2, "/b": 2, "/b/c": 2}


def test_a_guard_that_does_not_hold_stops_everything(world: World) -> None:
    world(Create("/a/b", "blob"))
    put = BlobPut("/a/b", b"x")
    for path, version, actual in (
        ("/a/b", 2, 1),
        ("/a", 0, 1),
        ("/", 0, 1),
        ("/no", 1, 0),
        ("/a/b/no", 1, 0),
        ("/no/no", 7, 0),
    ):
        operation = MultiCas((Guard("/a/b", 1), Guard(path, version)) if path != "/a/b" else (Guard(path, 2),), (put,))
        assert world.attempt(operation) == CasFailed(path, version, actual)
    assert world.versions() == {"/": 1, "/a": 1, "/a/b": 1}


def test_version_0_means_that_nothing_may_be_there(world: World) -> None:
    put_new = MultiCas((Guard("/k/x", 0),), (Create("/k/x", "blob"), BlobPut("/k/x", b"v")))
    world(put_new)
    assert world(BlobGet("/k/x")) == Result(b"v", 1)
    assert world.attempt(put_new) == CasFailed("/k/x", 0, 1)
    assert isinstance(world(MultiCas((Guard("/k/x/below", 0), Guard("/no/no", 0)), ())), MultiResult)


def test_an_operation_that_fails_undoes_those_before(world: World) -> None:
    world(Create("/a", "blob"))
    before = world.tree
    outcome = world.attempt(MultiCas((), (BlobPut("/a", b"x"), Create("/b", "blob"), QueuePop("/b"), Delete("/a"))))
    assert outcome == WrongType("/b", "queue", "blob")
    assert world.tree is before


def test_a_multi_cas_without_effect_changes_nothing(world: World) -> None:
    world(Create("/q", "queue"))
    before = world.tree
    assert world(MultiCas((Guard("/", 1),), (QueuePop("/q"),))) == MultiResult((Result(None, 1),), 1)
    assert world(MultiCas((Guard("/q", 1),), ())) == MultiResult((), 1)
    assert world.tree is before


def test_a_multi_cas_can_not_pop_more_than_a_reply_holds(world: World) -> None:
    world(Create("/q", "queue"))
    for _ in range(3):
        world(QueuePush("/q", b"x" * (MAX_RESULT_SIZE // 2)))
    before = world.tree
    pop = QueuePop("/q")
    assert world.attempt(MultiCas((), (pop, pop, pop))) == LimitExceeded(
        "bytes in a result", MAX_RESULT_SIZE, 3 * (MAX_RESULT_SIZE // 2)
    )
    assert world.tree is before
    assert len(world(MultiCas((), (pop, pop))).value) == 2


def test_a_revision_in_the_past_is_the_callers_mistake(world: World) -> None:
    tree, _ = world.tree.apply(Create("/a", "blob"), 5)
    with pytest.raises(ValueError, match="revision 4 is in the past: the tree is at 5"):
        tree.apply(BlobPut("/a", b""), 4)
    tree.apply(BlobPut("/a", b""), 5)
