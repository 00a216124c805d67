"""What can be said against an operation without looking at any tree.

`check` runs where an operation enters the system, so that nothing senseless is logged, and once more in `Tree.apply`,
which trusts nobody. A class of operation has one function here, in `_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .limits import (
    MAX_CAS_GUARDS,
    MAX_CAS_OPERATIONS,
    MAX_ELEMENT_SIZE,
    MAX_OPERATION_SIZE,
    MAX_PAGE,
    MAX_SET_OPERANDS,
    MAX_VALUE_SIZE,
)
from .nodes import NODE_TYPES
from .operations import (
    WRITES,
    BlobGet,
    BlobPut,
    BlobSize,
    Create,
    Delete,
    ListKeys,
    MultiCas,
    Operation,
    QueueBack,
    QueueFront,
    QueueLen,
    QueuePop,
    QueuePush,
    SetContains,
    SetDifference,
    SetInsert,
    SetIntersection,
    SetOperand,
    SetRemove,
    SetSubset,
    SetSuperset,
    SetSymmetricDifference,
    SetUnion,
)
from .paths import printable, split
from .results import CannotDeleteRoot, Error, InvalidCas, InvalidPath, InvalidType, LimitExceeded, UnknownOperation


def check(operation: Operation) -> Error | None:
    """Why an operation can't succeed on any tree, or None. Never raises on anything that was decoded."""
    checker = _CHECKS.get(type(operation))
    if checker is None:
        return UnknownOperation(type(operation).__name__)
    return checker(operation)


def _check_path(operation: Any) -> Error | None:
    components = split(operation.path)
    return components if isinstance(components, InvalidPath) else None


def _check_value(operation: BlobPut | QueuePush) -> Error | None:
    components = split(operation.path)
    if isinstance(components, InvalidPath):
        return components
    if len(operation.value) > MAX_VALUE_SIZE:
        return LimitExceeded("bytes in a value", MAX_VALUE_SIZE, len(operation.value))
    return None


def _check_element(operation: SetInsert | SetRemove | SetContains) -> Error | None:
    return _check_path(operation) or _element_size(operation.value)


def _element_size(element: bytes) -> Error | None:
    if len(element) > MAX_ELEMENT_SIZE:
        return LimitExceeded("bytes in an element of a set", MAX_ELEMENT_SIZE, len(element))
    return None


def _check_create(operation: Create) -> Error | None:
    if operation.type not in NODE_TYPES:
        return InvalidType(printable(operation.type))
    return _check_path(operation)


def _check_delete(operation: Delete) -> Error | None:
    return CannotDeleteRoot() if operation.path == "/" else _check_path(operation)


def _check_union(operation: SetUnion) -> Error | None:
    return _check_operands((*operation.paths, *operation.literals))


def _check_pair(operation: Any) -> Error | None:
    return _check_operands((operation.left, operation.right))


def _check_operands(operands: Sequence[SetOperand]) -> Error | None:
    if len(operands) > MAX_SET_OPERANDS:
        return LimitExceeded("sets in a union", MAX_SET_OPERANDS, len(operands))
    size = 0
    for operand in operands:
        if isinstance(operand, str):
            components = split(operand)
            if isinstance(components, InvalidPath):
                return components
            size += len(operand)
        else:
            for element in operand:
                error = _element_size(element)
                if error is not None:
                    return error
                size += len(element)
    return _operation_size(size)


def _operation_size(size: int) -> Error | None:
    if size > MAX_OPERATION_SIZE:
        return LimitExceeded("bytes in an operation", MAX_OPERATION_SIZE, size)
    return None


def _check_list(operation: ListKeys) -> Error | None:
    listed = split(operation.path)
    if isinstance(listed, InvalidPath):
        return listed
    if not 1 <= operation.limit <= MAX_PAGE:
        return LimitExceeded("keys on a page (at least 1)", MAX_PAGE, operation.limit)
    if operation.after is None:
        return None
    after = split(operation.after)
    if isinstance(after, InvalidPath):
        return after
    if after[: len(listed)] != listed:
        return InvalidPath(
            printable(operation.after), "it is not below the path that is listed; use the last key received"
        )
    return None


def _check_multi_cas(operation: MultiCas) -> Error | None:
    if len(operation.guards) > MAX_CAS_GUARDS:
        return LimitExceeded("guards in a multi-CAS", MAX_CAS_GUARDS, len(operation.guards))
    if len(operation.operations) > MAX_CAS_OPERATIONS:
        return LimitExceeded("operations in a multi-CAS", MAX_CAS_OPERATIONS, len(operation.operations))
    size = 0
    versions: dict[str, int] = {}
    for guard in operation.guards:
        error = _check_path(guard)
        if error is not None:
            return error
        if guard.version < 0:
            return InvalidCas(f"the guard on {guard.path} wants version {guard.version}; versions are 0 or more")
        if versions.setdefault(guard.path, guard.version) != guard.version:
            return InvalidCas(f"two guards want different versions of {guard.path}; give one guard for each path")
        size += len(guard.path)
    for write in operation.operations:
        if type(write) not in WRITES:
            return InvalidCas(f"{type(write).__name__} is not a write; a multi-CAS takes writes only, and none nested")
        error = check(write)
        if error is not None:
            return error
        size += len(write.path) + len(getattr(write, "value", b""))  # type: ignore[union-attr]
    return _operation_size(size)


_CHECKS: Final[dict[type[Any], Callable[[Any], Error | None]]] = {
    Create: _check_create,
    Delete: _check_delete,
    BlobPut: _check_value,
    BlobGet: _check_path,
    BlobSize: _check_path,
    QueuePush: _check_value,
    QueuePop: _check_path,
    QueueFront: _check_path,
    QueueBack: _check_path,
    QueueLen: _check_path,
    SetInsert: _check_element,
    SetRemove: _check_element,
    SetContains: _check_element,
    SetUnion: _check_union,
    SetIntersection: _check_pair,
    SetDifference: _check_pair,
    SetSymmetricDifference: _check_pair,
    SetSubset: _check_pair,
    SetSuperset: _check_pair,
    ListKeys: _check_list,
    MultiCas: _check_multi_cas,
}
