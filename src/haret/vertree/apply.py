"""How each operation is done: functions from a root, an operation, a revision and an owner to a root and an outcome.

A function for every class of operation is in `HANDLERS`; the rules that they keep are in `tree.py`. Operations have
passed `check` before they come here. A root that is returned unchanged is the very object that was given; one that is
changed may be the same object, too, if it belongs to the owner (see the rules of `sortedmap.py`).

Nothing is changed before it is certain that the operation succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, cast

from .limits import MAX_CHILDREN, MAX_QUEUE_LENGTH, MAX_RESULT_SIZE, MAX_SET_SIZE
from .nodes import NODE_TYPES, Blob, Directory, Node, Queue, Set
from .operations import (
    BlobGet,
    BlobPut,
    BlobSize,
    Create,
    Delete,
    Guard,
    ListKeys,
    MultiCas,
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
from .paths import join, split, split_checked
from .results import (
    AlreadyExists,
    CasFailed,
    DoesNotExist,
    Error,
    InvalidPath,
    Keys,
    LimitExceeded,
    MultiResult,
    Outcome,
    PathMustEndInDirectory,
    Result,
    SetResult,
    WrongType,
)

Handler = Callable[[Directory, Any, int, object], tuple[Directory, Outcome]]
Value = bytes | int | bool | None
Components = tuple[str, ...]

_KEY_OVERHEAD: Final = 24
"""Bytes that a key takes on the wire beside its path, at most: its version, its type, and what msgpack adds."""

_ELEMENT_OVERHEAD: Final = 5
"""The same for an element of a set."""


# Finding nodes, and putting new ones in their place


def find(root: Directory, path: str) -> Node | Error:
    """The node at a path, or why there is none."""
    components = split(path)
    if isinstance(components, InvalidPath):
        return components
    node: Node = root
    for depth, name in enumerate(components):
        if type(node) is not Directory:
            return PathMustEndInDirectory(join(components[:depth]))
        child = node.children.get(name)
        if child is None:
            return DoesNotExist(path)
        node = child
    return node


def _wrong(found: Node | Error, path: str, wanted: type[Any]) -> Error:
    """Why what `find` found at a path is not what an operation wants."""
    return WrongType(path, wanted.type, found.type) if isinstance(found, Node) else found


def _parents(root: Directory, components: Components) -> list[Directory]:
    """The directories on the way to a node, the root first, up to the one that is missing or the leaf that is none."""
    found = [root]
    for name in components[:-1]:
        child = found[-1].children.get(name)
        if type(child) is not Directory:
            break
        found.append(child)
    return found


def _put_back(parents: list[Directory], components: Components, node: Node, revision: int, owner: object) -> Directory:
    """The root after `node` took its place below its parents, which get the new version; they are copied if need be."""
    new: Node | None = node  # what its parent has yet to get
    for depth in range(len(parents) - 1, -1, -1):
        parent = parents[depth]
        if parent.owner is owner:
            parent.version = revision
            if new is not None:
                parent.children = parent.children.put(components[depth], new, owner)
                new = None
            node = parent
        else:
            node = new = Directory(revision, parent.children.put(components[depth], node, owner), owner)
    return cast("Directory", node)


# Writing to leaves


def _leaf_write(
    wanted: type[Any], edit: Callable[[Any, Any, int, object], tuple[Node | None, Value | LimitExceeded]]
) -> Handler:
    """The handler of a write to a leaf.

    `edit` takes the leaf, the operation, the revision and the owner. It returns the new leaf, or None if there is no
    change, and the value of the result or an error.
    """

    def handle(root: Directory, operation: Any, revision: int, owner: object) -> tuple[Directory, Outcome]:
        # As `find`, written out because every write to a leaf comes by here and needs the parents.
        components = split_checked(operation.path)
        parents: list[Directory] = []
        node: Any = root
        for name in components:
            if type(node) is not Directory:
                break
            parents.append(node)
            node = node.children.get(name)
        if type(node) is not wanted or len(parents) < len(components):
            return root, _wrong(find(root, operation.path), operation.path, wanted)
        new, value = edit(node, operation, revision, owner)
        if isinstance(value, LimitExceeded):
            return root, value
        if new is None:
            return root, Result(value, node.version)
        return _put_back(parents, components, new, revision, owner), Result(value, revision)

    return handle


def _blob_put(_blob: Blob, operation: BlobPut, revision: int, _owner: object) -> tuple[Node, None]:
    return Blob(revision, operation.value), None


def _queue_push(
    queue: Queue, operation: QueuePush, revision: int, owner: object
) -> tuple[Node | None, LimitExceeded | None]:
    elements = queue.elements
    if elements.size >= MAX_QUEUE_LENGTH:
        return None, LimitExceeded("elements in a queue", MAX_QUEUE_LENGTH, elements.size + 1)
    number = elements.last()[0] + 1 if elements.size else 0
    return Queue(revision, elements.put(number, operation.value, owner)), None


def _queue_pop(queue: Queue, _operation: QueuePop, revision: int, owner: object) -> tuple[Node | None, bytes | None]:
    if not queue.elements.size:
        return None, None
    number, value = queue.elements.first()
    return Queue(revision, queue.elements.remove(number, owner)), value


def _set_insert(
    members: Set, operation: SetInsert, revision: int, owner: object
) -> tuple[Node | None, bool | LimitExceeded]:
    elements = members.elements
    if operation.value in elements:
        return None, False
    if elements.size >= MAX_SET_SIZE:
        return None, LimitExceeded("elements in a set", MAX_SET_SIZE, elements.size + 1)
    return Set(revision, elements.put(operation.value, None, owner)), True


def _set_remove(members: Set, operation: SetRemove, revision: int, owner: object) -> tuple[Node | None, bool]:
    if operation.value not in members.elements:
        return None, False
    return Set(revision, members.elements.remove(operation.value, owner)), True


# Creating and deleting


def _create(root: Directory, operation: Create, revision: int, owner: object) -> tuple[Directory, Outcome]:
    found = find(root, operation.path)
    if isinstance(found, Node):
        return root, AlreadyExists(operation.path)
    if type(found) is not DoesNotExist:
        return root, found
    components = split_checked(operation.path)
    parents = _parents(root, components)
    if parents[-1].children.size >= MAX_CHILDREN:
        return root, LimitExceeded("children of a directory", MAX_CHILDREN, parents[-1].children.size + 1)
    parents += [Directory(revision)] * (len(components) - len(parents))
    node = NODE_TYPES[operation.type](revision)
    return _put_back(parents, components, node, revision, owner), Result(None, revision)


def _delete(root: Directory, operation: Delete, revision: int, owner: object) -> tuple[Directory, Outcome]:
    found = find(root, operation.path)
    if not isinstance(found, Node):
        return root, found
    components = split_checked(operation.path)
    *parents, parent = _parents(root, components)
    emptier = Directory(revision, parent.children.remove(components[-1], owner), owner)
    return _put_back(parents, components[:-1], emptier, revision, owner), Result(None, revision)


# Reading leaves


def _leaf_read(wanted: type[Any], read: Callable[[Any, Any], Value]) -> Handler:
    """The handler of a read of a leaf. `read` takes the leaf and the operation and returns the value of the result."""

    def handle(root: Directory, operation: Any, _revision: int, _owner: object) -> tuple[Directory, Outcome]:
        node = find(root, operation.path)
        if isinstance(node, wanted):
            return root, Result(read(node, operation), node.version)
        return root, _wrong(node, operation.path, wanted)

    return handle


def _queue_front(queue: Queue, _operation: QueueFront) -> bytes | None:
    return queue.elements.first()[1] if queue.elements.size else None


def _queue_back(queue: Queue, _operation: QueueBack) -> bytes | None:
    return queue.elements.last()[1] if queue.elements.size else None


# Set algebra. It is done on plain sets, which are an order of magnitude faster than anything sorted; nothing of their
# order, which differs between processes, gets into a result.


def _plain_set(root: Directory, operand: SetOperand) -> tuple[frozenset[bytes] | set[bytes], int] | Error:
    """The elements of an operand, and its version: 0 for a literal."""
    if isinstance(operand, frozenset):
        return operand, 0
    node = find(root, operand)
    if isinstance(node, Set):
        return node.elements.key_set(), node.version
    return _wrong(node, operand, Set)


def _set_result(value: set[bytes] | frozenset[bytes], version: int) -> SetResult | LimitExceeded:
    size = sum(map(len, value)) + _ELEMENT_OVERHEAD * len(value)
    if size > MAX_RESULT_SIZE:
        return LimitExceeded("bytes in a result", MAX_RESULT_SIZE, size)
    return SetResult(frozenset(value), version)


def _set_union(root: Directory, operation: SetUnion, _revision: int, _owner: object) -> tuple[Directory, Outcome]:
    operands: tuple[SetOperand, ...] = (*operation.paths, *operation.literals)
    union: set[bytes] = set()
    highest = 0
    for operand in operands:
        found = _plain_set(root, operand)
        if not isinstance(found, tuple):
            return root, found
        elements, version = found
        union |= elements
        highest = max(highest, version)
    return root, _set_result(union, highest)


def _set_pair(combine: Callable[[Any, Any], Any]) -> Handler:
    """The handler of an operation on two sets; `combine` makes a set or a bool of two plain sets."""

    def handle(root: Directory, operation: Any, _revision: int, _owner: object) -> tuple[Directory, Outcome]:
        left = _plain_set(root, operation.left)
        if not isinstance(left, tuple):
            return root, left
        right = _plain_set(root, operation.right)
        if not isinstance(right, tuple):
            return root, right
        value = combine(left[0], right[0])
        version = max(left[1], right[1])
        return root, Result(value, version) if isinstance(value, bool) else _set_result(value, version)

    return handle


# Listing


def walk(
    prefix: Components, node: Node, after: Components | None = None, *, recursive: bool = True
) -> Iterator[tuple[Components, Node]]:
    """A node and those below it with their components, parents first, siblings sorted by name.

    `prefix`: the components of `node`. `after`: where to go on, the components below `prefix` of the last node that the
    caller has seen, none for `node` itself; None begins at `node`. `recursive`: not only the children of `node`.
    """
    if after is None:
        yield prefix, node
    if type(node) is not Directory:
        return
    for name, child in node.children.items_from(after[0]) if after else node.children.items():
        seen = after[1:] if after and name == after[0] else None
        if recursive:
            yield from walk((*prefix, name), child, seen)
        elif seen is None:
            yield (*prefix, name), child


def _list_keys(root: Directory, operation: ListKeys, _revision: int, _owner: object) -> tuple[Directory, Outcome]:
    node = find(root, operation.path)
    if not isinstance(node, Node):
        return root, node
    prefix = split_checked(operation.path)
    after = None if operation.after is None else split_checked(operation.after)[len(prefix) :]
    found = walk(prefix, node, after, recursive=operation.recursive)
    page: list[tuple[str, int, str]] = []
    size = 0
    for components, below in islice(found, operation.limit):
        path = join(components)
        size += len(path.encode()) + _KEY_OVERHEAD
        if size > MAX_RESULT_SIZE:
            return root, Keys(tuple(page), node.version, more=True)
        page.append((path, below.version, below.type))
    return root, Keys(tuple(page), node.version, more=next(found, None) is not None)


# Multi-CAS


def _guard_failure(root: Directory, guard: Guard) -> CasFailed | None:
    node = find(root, guard.path)
    actual = node.version if isinstance(node, Node) else 0
    return None if actual == guard.version else CasFailed(guard.path, guard.version, actual)


def _multi_cas(root: Directory, operation: MultiCas, revision: int, _owner: object) -> tuple[Directory, Outcome]:
    for guard in operation.guards:
        failure = _guard_failure(root, guard)
        if failure is not None:
            return root, failure
    new_root = root
    owner = object()  # its own, so that `root` stays as it is for the case that an operation fails
    results: list[Result] = []
    size = 0
    for write in operation.operations:
        new_root, outcome = HANDLERS[type(write)](new_root, write, revision, owner)
        if not isinstance(outcome, Result):
            return root, outcome
        results.append(outcome)
        if isinstance(outcome.value, bytes):
            # Few pops could fetch more than a reply holds, and then nobody would get what was popped.
            size += len(outcome.value)
            if size > MAX_RESULT_SIZE:
                return root, LimitExceeded("bytes in a result", MAX_RESULT_SIZE, size)
    return new_root, MultiResult(tuple(results), new_root.version)


HANDLERS: Final[dict[type[Any], Handler]] = {
    Create: _create,
    Delete: _delete,
    BlobPut: _leaf_write(Blob, _blob_put),
    BlobGet: _leaf_read(Blob, lambda blob, _: blob.value),
    BlobSize: _leaf_read(Blob, lambda blob, _: len(blob.value)),
    QueuePush: _leaf_write(Queue, _queue_push),
    QueuePop: _leaf_write(Queue, _queue_pop),
    QueueFront: _leaf_read(Queue, _queue_front),
    QueueBack: _leaf_read(Queue, _queue_back),
    QueueLen: _leaf_read(Queue, lambda queue, _: queue.elements.size),
    SetInsert: _leaf_write(Set, _set_insert),
    SetRemove: _leaf_write(Set, _set_remove),
    SetContains: _leaf_read(Set, lambda members, operation: operation.value in members.elements),
    SetUnion: _set_union,
    SetIntersection: _set_pair(lambda left, right: left & right),
    SetDifference: _set_pair(lambda left, right: left - right),
    SetSymmetricDifference: _set_pair(lambda left, right: left ^ right),
    SetSubset: _set_pair(lambda left, right: left <= right),
    SetSuperset: _set_pair(lambda left, right: left >= right),
    ListKeys: _list_keys,
    MultiCas: _multi_cas,
}
"""The function for each class of operation."""
