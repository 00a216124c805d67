"""What `Tree.apply` answers: results, and errors, both as data.

Every result has `value` and `version`. The version of a write is its revision, which is now the version of the node
(for `Delete`: of the directory that it was in); if the write changed nothing, and for a read, it is the version that
the node had before.
"""

# Annotations are evaluated at once, for the reason given in `operations.py`.

from typing import Any

from rabble_trio import message


@message(tag="haret.result")
class Result:
    """An operation on one node, or a yes or no about two sets, succeeded."""

    value: bytes | int | bool | None
    """See the operation."""
    version: int
    """The node's version; of two sets the higher version, and 0 for literals alone."""


@message(tag="haret.set_result")
class SetResult:
    """Set algebra succeeded."""

    value: frozenset[bytes]
    """The elements."""
    version: int
    """The highest version of the sets in the tree that took part; 0 for literals alone."""


@message(tag="haret.keys")
class Keys:
    """A page of a listing."""

    value: tuple[tuple[str, int, str], ...]
    """(path, version, type) for each node, in order."""
    version: int
    """The version of the node that the listing began with: two pages with one version belong to one state."""
    more: bool
    """Whether another page follows; ask for it with `after` set to the last path of this one."""


@message(tag="haret.multi_result")
class MultiResult:
    """A multi-CAS succeeded."""

    value: tuple[Result, ...]
    """One result for each operation."""
    version: int
    """The version of the tree afterwards: the revision, unless nothing changed."""


@message(tag="haret.does_not_exist")
class DoesNotExist:
    """There is no node at the path."""

    path: str
    """The path that was asked for."""


@message(tag="haret.already_exists")
class AlreadyExists:
    """A node can't be created where there is one."""

    path: str
    """Its path."""


@message(tag="haret.wrong_type")
class WrongType:
    """The operation is for another type of node."""

    path: str
    """The node's."""
    expected: str
    """The type that the operation is for."""
    actual: str
    """The type that the node has."""


@message(tag="haret.path_must_end_in_directory")
class PathMustEndInDirectory:
    """A path leads through a leaf as if it were a directory."""

    path: str
    """The leaf's: the part of the path before it must end in a directory."""


@message(tag="haret.cannot_delete_root")
class CannotDeleteRoot:
    """The root was to be deleted."""


@message(tag="haret.cas_failed")
class CasFailed:
    """A guard does not hold."""

    path: str
    """The guard's."""
    expected: int
    """The guard's version."""
    actual: int
    """The node's version; 0 if there is none."""


@message(tag="haret.invalid_cas")
class InvalidCas:
    """A multi-CAS makes no sense: it can never succeed."""

    reason: str
    """What is wrong with it, and what to do instead."""


@message(tag="haret.invalid_path")
class InvalidPath:
    """A path breaks the grammar."""

    path: str
    """The path, shortened if it is long."""
    reason: str
    """What is wrong with it, and what to write instead."""


@message(tag="haret.invalid_type")
class InvalidType:
    """A node of an unknown type was to be created."""

    type: str
    """The type, shortened if it is long."""


@message(tag="haret.limit_exceeded")
class LimitExceeded:
    """Something is larger than it may be; see `haret.vertree.limits`."""

    what: str
    """What, in words."""
    limit: int
    """The most that is allowed."""
    actual: int
    """How much it is, or would become."""


@message(tag="haret.unknown_operation")
class UnknownOperation:
    """A message that is no operation."""

    name: str
    """Its class."""


Error = (
    DoesNotExist
    | AlreadyExists
    | WrongType
    | PathMustEndInDirectory
    | CannotDeleteRoot
    | CasFailed
    | InvalidCas
    | InvalidPath
    | InvalidType
    | LimitExceeded
    | UnknownOperation
)
"""Why an operation failed; the tree is then unchanged."""

Outcome = Result | SetResult | Keys | MultiResult | Error
"""Anything that `Tree.apply` answers."""

ERRORS: frozenset[type[Any]] = frozenset(Error.__args__)
"""The classes of `Error`."""


def is_error(outcome: Outcome) -> bool:
    """Whether an operation failed."""
    return type(outcome) in ERRORS
