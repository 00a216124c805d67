"""The operations on a tree, as data: what clients send, what consensus carries, what `Tree.apply` takes.

Which operation answers with what is said in its docstring; the results and the errors are in `results.py`. An operation
that names a path that is not there answers `DoesNotExist`, one that names a node of another type `WrongType`, and one
whose path leads through a leaf `PathMustEndInDirectory`.
"""

# Annotations are evaluated at once here, not kept as text: the codec reads them when a class is first used, and by then
# `haret` has moved the public classes to its own name, where the aliases of this file can't be found.

from typing import Any

from rabble_trio import message

from .limits import DEFAULT_PAGE

SetOperand = str | frozenset[bytes]
"""What set algebra works on: the path of a set, or a literal set."""


@message(tag="haret.create")
class Create:
    """Make an empty node, and the directories that are missing above it. Or `AlreadyExists`. Value: None."""

    path: str
    """Where."""
    type: str
    """"blob", "queue", "set" or "directory"."""


@message(tag="haret.delete")
class Delete:
    """Remove a node with everything below it. Or `CannotDeleteRoot`. Value: None."""

    path: str
    """What."""


@message(tag="haret.blob_put")
class BlobPut:
    """Replace the value of a blob; its version changes even if the value is the same. Value: None."""

    path: str
    """The blob's."""
    value: bytes
    """The new value."""


@message(tag="haret.blob_get")
class BlobGet:
    """Value: the bytes of a blob, none in a new one."""

    path: str
    """The blob's."""


@message(tag="haret.blob_size")
class BlobSize:
    """Value: how many bytes a blob holds."""

    path: str
    """The blob's."""


@message(tag="haret.queue_push")
class QueuePush:
    """Append an element at the back of a queue. Or `LimitExceeded`. Value: None."""

    path: str
    """The queue's."""
    value: bytes
    """The element."""


@message(tag="haret.queue_pop")
class QueuePop:
    """Remove the element at the front of a queue.

    Value: the element, or None if the queue was empty, which changes nothing.
    """

    path: str
    """The queue's."""


@message(tag="haret.queue_front")
class QueueFront:
    """Value: the element that was pushed first, or None if the queue is empty."""

    path: str
    """The queue's."""


@message(tag="haret.queue_back")
class QueueBack:
    """Value: the element that was pushed last, or None if the queue is empty."""

    path: str
    """The queue's."""


@message(tag="haret.queue_len")
class QueueLen:
    """Value: how many elements a queue holds."""

    path: str
    """The queue's."""


@message(tag="haret.set_insert")
class SetInsert:
    """Add an element to a set. Or `LimitExceeded`.

    Value: True, or False if it was there already, which changes nothing.
    """

    path: str
    """The set's."""
    value: bytes
    """The element."""


@message(tag="haret.set_remove")
class SetRemove:
    """Remove an element from a set.

    Value: True, or False if it was not there, which changes nothing.
    """

    path: str
    """The set's."""
    value: bytes
    """The element."""


@message(tag="haret.set_contains")
class SetContains:
    """Value: whether an element is in a set."""

    path: str
    """The set's."""
    value: bytes
    """The element."""


@message(tag="haret.set_union")
class SetUnion:
    """What is in any of the sets. Answers `SetResult`, or `LimitExceeded` if that is too large for a reply."""

    paths: tuple[str, ...]
    """Sets in the tree; one alone reads that set."""
    literals: tuple[frozenset[bytes], ...] = ()
    """Sets of the caller's."""


@message(tag="haret.set_intersection")
class SetIntersection:
    """What is in both sets. Answers `SetResult`, or `LimitExceeded` if that is too large for a reply."""

    left: SetOperand
    """A path or a literal set."""
    right: SetOperand
    """A path or a literal set."""


@message(tag="haret.set_difference")
class SetDifference:
    """What is in the left set only. Answers `SetResult`, or `LimitExceeded` if that is too large for a reply."""

    left: SetOperand
    """A path or a literal set."""
    right: SetOperand
    """A path or a literal set."""


@message(tag="haret.set_symmetric_difference")
class SetSymmetricDifference:
    """What is in one of the sets only. Answers `SetResult`, or `LimitExceeded` if that is too large for a reply."""

    left: SetOperand
    """A path or a literal set."""
    right: SetOperand
    """A path or a literal set."""


@message(tag="haret.set_subset")
class SetSubset:
    """Value: whether every element of the left set is in the right one."""

    left: SetOperand
    """A path or a literal set."""
    right: SetOperand
    """A path or a literal set."""


@message(tag="haret.set_superset")
class SetSuperset:
    """Value: whether every element of the right set is in the left one."""

    left: SetOperand
    """A path or a literal set."""
    right: SetOperand
    """A path or a literal set."""


@message(tag="haret.list_keys")
class ListKeys:
    """A page of a node's key and those below it. Answers `Keys`.

    Parents come before their children, and siblings are sorted by name (by code point, component by component: "/a/x"
    comes before "/a-b").
    """

    path: str = "/"
    """Where to begin. It is the first key itself."""
    after: str | None = None
    """The last key of the page before; None for the first page. It may be gone by now."""
    limit: int = DEFAULT_PAGE
    """Keys on the page, 1 to 10,000. A page ends early when it grows too large for a reply."""
    recursive: bool = True
    """The whole subtree, or only the node and its children."""


@message(tag="haret.guard")
class Guard:
    """The condition that a node, or anything below it, did not change since it was seen."""

    path: str
    """The node's; a directory stands for everything below it, and "/" for the whole tree."""
    version: int
    """The version that it must have; 0: nothing may exist there (at "/": nothing was ever written)."""


Write = Create | Delete | BlobPut | QueuePush | QueuePop | SetInsert | SetRemove
"""An operation that creates, changes or deletes one node. A multi-CAS is made of these."""

Read = (
    BlobGet
    | BlobSize
    | QueueFront
    | QueueBack
    | QueueLen
    | SetContains
    | SetUnion
    | SetIntersection
    | SetDifference
    | SetSymmetricDifference
    | SetSubset
    | SetSuperset
    | ListKeys
)
"""An operation that never changes the tree."""


@message(tag="haret.multi_cas")
class MultiCas:
    """If all guards hold, do all operations in order; if a guard or an operation fails, nothing at all.

    Answers `MultiResult`, `CasFailed` for the first guard that does not hold, or the error of the first operation that
    fails. All operations together are one change, with one revision. `LimitExceeded` if they pop more than a reply
    holds.
    """

    guards: tuple[Guard, ...]
    """What must hold before the first operation."""
    operations: tuple[Write | Read, ...]
    """Writes. A read is `InvalidCas`."""


Operation = Write | Read | MultiCas
"""Any operation, whether it writes or reads."""

WRITES: frozenset[type[Any]] = frozenset(Write.__args__)
"""The classes of `Write`."""


READS: frozenset[type[Any]] = frozenset(Read.__args__)
"""The classes of `Read`."""


def is_write(operation: Operation) -> bool:
    """Whether an operation can change the tree and so must go through the log."""
    return type(operation) in WRITES or type(operation) is MultiCas
