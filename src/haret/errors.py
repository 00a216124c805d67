"""Every error that haret raises on purpose. `HaretError` is the root.

Inside, errors are values: messages that replicas and servers answer with (`haret.vertree.results`, `haret.protocol`).
The client raises each as the exception of the same name and the same fields; `error_from_value` does that for all.

Each class has a `retryable` flag: whether the same call may succeed later though nobody changes anything. It does not
say that nothing happened: see `SessionExpired` and `Unavailable`.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from rabble_trio import Pid


class HaretError(Exception):
    """The root of all errors of haret. Positional arguments are the fields, in order."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later though nobody changes anything."""

    _text: ClassVar[str] = "{}"
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(inspect.get_annotations(cls))

    def __init__(self, *values: Any) -> None:
        if len(values) != len(self._fields):
            raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields) or 'nothing'}, not {values!r}")
        super().__init__(*values)
        for name, value in zip(self._fields, values, strict=True):
            setattr(self, name, value)

    def __str__(self) -> str:
        return self._text.format(**{name: getattr(self, name) for name in self._fields})


class DoesNotExist(HaretError):
    """There is no node at the path."""

    path: str
    _text = "{path} does not exist"


class AlreadyExists(HaretError):
    """A node can't be created where there is one."""

    path: str
    _text = "{path} exists already"


class WrongType(HaretError):
    """The operation is for another type of node."""

    path: str
    expected: str
    actual: str
    _text = "{path} is a {actual}, and this operation is for a {expected}"


class PathMustEndInDirectory(HaretError):
    """A path leads through a leaf as if it were a directory. `path` is the leaf's."""

    path: str
    _text = "{path} is a leaf: nothing can be below it"


class CannotDeleteRoot(HaretError):
    """The root was to be deleted."""

    _text = "the root can't be deleted: delete what is below it"


class CasFailed(HaretError):
    """A guard of a multi-CAS does not hold; nothing was changed. Version 0 stands for "does not exist"."""

    path: str
    expected: int
    actual: int
    _text = "the guard on {path} expected version {expected}, and it has {actual}: read again and decide anew"


class InvalidCas(HaretError):
    """A multi-CAS makes no sense: it can never succeed."""

    reason: str
    _text = "{reason}"


class InvalidPath(HaretError):
    """A path breaks the grammar."""

    path: str
    reason: str
    _text = "{path!r} is not a valid path: {reason}"


class InvalidType(HaretError):
    """A node of an unknown type was to be created."""

    type: str
    _text = "{type!r} is not a type of node: use blob, queue, set or directory"


class LimitExceeded(HaretError):
    """Something is larger than it may be. Sizes are bytes."""

    what: str
    limit: int
    actual: int
    _text = "{what}: {actual} is more than the {limit} allowed"


class UnknownOperation(HaretError):
    """The server does not know this operation: it is older than the client."""

    name: str
    _text = "{name} is not an operation"


class UnknownNamespace(HaretError):
    """No namespace of this name exists."""

    namespace: str
    _text = "there is no namespace {namespace!r}: create it with: haret admin -e 'vr create namespace NAME PID,PID,PID'"


class NamespaceExists(HaretError):
    """A namespace of this name exists already."""

    namespace: str
    _text = "the namespace {namespace!r} exists already"


class NotEnoughReplicas(HaretError):
    """A namespace needs more replicas."""

    given: int
    needed: int
    _text = "{given} different replicas are not enough: a namespace needs at least {needed}, so that it can lose one"


class UnknownActor(HaretError):
    """No such actor, or replica, runs, or is known on the node that was asked."""

    pid: Pid
    _text = "{pid} does not run here"


class BadRequest(HaretError):
    """The request makes no sense, and nothing was done."""

    reason: str
    _text = "{reason}"


class Unanswered(HaretError):
    """The server gave up waiting for somebody else's answer. What was asked may or may not have happened."""

    retryable = True
    reason: str
    _text = "{reason}"


class SessionExpired(HaretError):
    """The session ended while the call was under way: the operation may or may not have been executed.

    A group keeps a bounded number of sessions and forgets the one that was silent for longest. Later calls of the same
    client use a new session.
    """

    retryable = True
    session: int
    _text = "session {session} expired: the operation may or may not have been executed; read before you repeat it"


class Unavailable(HaretError):
    """Nobody answered for as long as the client is told to be patient, or an admin port can't be used.

    `reason` says what was wanted; `tried` holds (endpoint, what it answered last); if `ambiguous`, the operation was
    sent and may have been, or may yet be, executed.
    """

    retryable = True
    reason: str
    tried: tuple[tuple[str, str], ...]
    ambiguous: bool
    _text = "{reason}"

    def __str__(self) -> str:
        tried = "; ".join(f"{endpoint}: {answer}" for endpoint, answer in self.tried)
        doubt = " (the operation may have been executed)" if self.ambiguous else ""
        return f"{self.reason}{doubt}" + (f"; tried {tried}" if tried else "")


class ConfigError(HaretError):
    """The configuration of a server is wrong. `key` names the setting, or is empty."""

    key: str
    reason: str
    _text = "{reason}"

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" if self.key else self.reason


_EXCEPTIONS = {cls.__name__: cls for cls in HaretError.__subclasses__()}


def error_from_value(value: Any) -> HaretError | None:
    """The exception for an error value, which has its name and its fields; None if the value is no error."""
    exception = _EXCEPTIONS.get(type(value).__name__)
    return None if exception is None else exception(*(getattr(value, name) for name in exception._fields))
