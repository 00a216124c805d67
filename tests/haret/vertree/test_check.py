"""What is refused without looking at a tree, and that `Tree.apply` refuses the same."""

from __future__ import annotations

from typing import Any

import pytest

from haret import vertree
from haret.vertree import (
    BlobGet,
    BlobPut,
    CannotDeleteRoot,
    Create,
    Delete,
    Guard,
    InvalidCas,
    InvalidPath,
    InvalidType,
    LimitExceeded,
    ListKeys,
    MultiCas,
    QueuePop,
    QueuePush,
    SetContains,
    SetDifference,
    SetInsert,
    SetRemove,
    SetSubset,
    SetUnion,
    Tree,
    UnknownOperation,
    check,
)
from haret.vertree.apply import HANDLERS
from haret.vertree.limits import (
    MAX_CAS_GUARDS,
    MAX_CAS_OPERATIONS,
    MAX_ELEMENT_SIZE,
    MAX_OPERATION_SIZE,
    MAX_PAGE,
    MAX_SET_OPERANDS,
    MAX_VALUE_SIZE,
)
from haret.vertree.operations import WRITES, Operation, is_write

BAD = "/a/"
ELEMENTS = frozenset(bytes([i]) * MAX_ELEMENT_SIZE for i in range(MAX_OPERATION_SIZE // MAX_ELEMENT_SIZE))
VALUE = b"x" * MAX_VALUE_SIZE


def refused(operation: Any) -> Any:
    error = check(operation)
    tree = Tree.empty()
    assert tree.apply(operation, 1) == (tree, error)
    return error


@pytest.mark.parametrize(
    "operation",
    [
        Create("/a", "directory"),
        BlobPut("/a", VALUE),
        QueuePush("/a", VALUE),
        SetInsert("/a", b"x" * MAX_ELEMENT_SIZE),
        SetUnion((), ()),
        SetUnion(("/",) * MAX_SET_OPERANDS),
        SetDifference("/a", ELEMENTS - {min(ELEMENTS)}),
        ListKeys(limit=1),
        ListKeys("/a", after="/a", limit=MAX_PAGE),
        MultiCas((), ()),
        MultiCas((Guard("/a", 2), Guard("/a", 2), Guard("/", 0)), (BlobPut("/a", VALUE),)),
        MultiCas((Guard("/a", 0),) * MAX_CAS_GUARDS, (QueuePop("/a"),) * MAX_CAS_OPERATIONS),
    ],
)
def test_what_may_succeed_passes(operation: Operation) -> None:
    assert check(operation) is None


def with_paths(path: str) -> list[Operation]:
    """One operation of every class, and every place for a path in it."""
    simple: list[Operation] = [
        cls(path)
        for cls in (
            Delete,
            BlobGet,
            vertree.BlobSize,
            QueuePop,
            vertree.QueueFront,
            vertree.QueueBack,
            vertree.QueueLen,
        )
    ]
    pairs: list[Operation] = [
        cls(*operands)
        for cls in (
            vertree.SetIntersection,
            SetDifference,
            vertree.SetSymmetricDifference,
            SetSubset,
            vertree.SetSuperset,
        )
        for operands in ((path, frozenset[bytes]()), (frozenset[bytes](), path), (path, path))
    ]
    values: list[Operation] = [cls(path, b"") for cls in (BlobPut, QueuePush, SetInsert, SetRemove, SetContains)]
    other: list[Operation] = [Create(path, "blob"), SetUnion((path,)), ListKeys(path), ListKeys(after=path)]
    cas = [MultiCas((Guard(path, 1),), ()), MultiCas((), (BlobPut(path, b""),))]
    return [*simple, *pairs, *values, *other, *cas]


@pytest.mark.parametrize("operation", with_paths(BAD), ids=repr)
def test_a_bad_path_is_refused_wherever_it_stands(operation: Operation) -> None:
    assert refused(operation) == InvalidPath("/a/", "it ends in a slash; write /a")


def test_every_operation_has_a_check() -> None:
    assert {type(operation) for operation in with_paths("/a")} == set(Operation.__args__) == set(HANDLERS)
    assert {type(operation) for operation in with_paths("/a") if is_write(operation)} == {*WRITES, MultiCas}


@pytest.mark.parametrize(
    ("operation", "limit", "actual"),
    [
        (BlobPut("/a", VALUE + b"x"), MAX_VALUE_SIZE, MAX_VALUE_SIZE + 1),
        (QueuePush("/a", VALUE + b"x"), MAX_VALUE_SIZE, MAX_VALUE_SIZE + 1),
        (SetInsert("/a", b"x" * (MAX_ELEMENT_SIZE + 1)), MAX_ELEMENT_SIZE, MAX_ELEMENT_SIZE + 1),
        (SetRemove("/a", b"x" * (MAX_ELEMENT_SIZE + 1)), MAX_ELEMENT_SIZE, MAX_ELEMENT_SIZE + 1),
        (SetContains("/a", b"x" * (MAX_ELEMENT_SIZE + 1)), MAX_ELEMENT_SIZE, MAX_ELEMENT_SIZE + 1),
        (SetUnion(("/a",), (frozenset([b"x" * (MAX_ELEMENT_SIZE + 1)]),)), MAX_ELEMENT_SIZE, MAX_ELEMENT_SIZE + 1),
        (SetUnion(("/a",) * (MAX_SET_OPERANDS + 1)), MAX_SET_OPERANDS, MAX_SET_OPERANDS + 1),
        (SetUnion(("/a",) * MAX_SET_OPERANDS, (frozenset(),)), MAX_SET_OPERANDS, MAX_SET_OPERANDS + 1),
        (SetSubset("/a", ELEMENTS), MAX_OPERATION_SIZE, MAX_OPERATION_SIZE + 2),
        (ListKeys(limit=0), MAX_PAGE, 0),
        (ListKeys(limit=MAX_PAGE + 1), MAX_PAGE, MAX_PAGE + 1),
        (MultiCas((Guard("/a", 1),) * (MAX_CAS_GUARDS + 1), ()), MAX_CAS_GUARDS, MAX_CAS_GUARDS + 1),
        (MultiCas((), (QueuePop("/a"),) * (MAX_CAS_OPERATIONS + 1)), MAX_CAS_OPERATIONS, MAX_CAS_OPERATIONS + 1),
        (MultiCas((), (BlobPut("/a", VALUE),) * 2), MAX_OPERATION_SIZE, 2 * MAX_VALUE_SIZE + 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_too_large_is_refused(operation: Operation, limit: int, actual: int) -> None:
    error = refused(operation)
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.actual) == (limit, actual)


def test_deleting_the_root_is_refused() -> None:
    assert refused(Delete("/")) == CannotDeleteRoot()
    assert refused(MultiCas((), (Delete("/"),))) == CannotDeleteRoot()


def test_an_unknown_type_is_refused() -> None:
    assert refused(Create("/a", "list")) == InvalidType("list")
    assert refused(Create("/a", "\0" * 100)) == InvalidType("\ufffd" * 80 + "...")


@pytest.mark.parametrize("operation", [BlobGet("/a"), ListKeys(), MultiCas((), ()), Guard("/a", 1)], ids=repr)
def test_a_multi_cas_takes_writes_only(operation: Any) -> None:
    error = refused(MultiCas((), (BlobPut("/a", b""), operation)))
    assert error == InvalidCas(
        f"{type(operation).__name__} is not a write; a multi-CAS takes writes only, and none nested"
    )


def test_a_guard_has_a_possible_version() -> None:
    assert isinstance(refused(MultiCas((Guard("/a", -1),), ())), InvalidCas)


def test_a_listing_goes_on_below_its_path() -> None:
    for after in ("/b", "/", "/ab"):
        assert isinstance(refused(ListKeys("/a", after=after)), InvalidPath)


@pytest.mark.parametrize("operation", [Guard("/a", 1), 42, None, "create", Create])
def test_what_is_no_operation_is_refused(operation: Any) -> None:
    assert refused(operation) == UnknownOperation(type(operation).__name__)
