"""How a command ends when it can't do what it was asked: the exit code, and one or two lines that say what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from haret import errors
from rabble_trio import InvalidId, RabbleError


class Exit(IntEnum):
    """Exit codes. Scripts rely on them: add, never change."""

    OK = 0
    """It was done."""
    FAILURE = 1
    """It could not be done, for another reason than those below."""
    USAGE = 2
    """The command line, a path, a name or a configuration is wrong: the same call will fail again."""
    NOT_FOUND = 3
    """There is no such path, namespace, replica or element."""
    CONFLICT = 4
    """It exists already, or is of another type, or was changed meanwhile."""
    UNAVAILABLE = 5
    """Nobody answered in time."""
    AUTHENTICATION = 6
    """Reserved for servers that ask who is calling; none does yet."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells have it."""
    BROKEN_PIPE = 141
    """Whoever read the output went away: 128 + SIGPIPE."""


class CommandFailed(Exception):
    """A command failed for a reason of its own. `hint` says what to do about it."""

    def __init__(self, message: str, *, code: Exit = Exit.FAILURE, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class UsageError(CommandFailed):
    """The command line is wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, code=Exit.USAGE, hint=hint)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the user gets it."""

    code: Exit
    """How the command ends."""
    name: str
    """Of the error, for programs."""
    message: str
    """What went wrong."""
    hint: str
    """What to do about it, or nothing."""
    retryable: bool
    """Whether the same call may succeed later though nobody changes anything."""

    def data(self) -> dict[str, Any]:
        """For `-o json`."""
        data = {"error": self.name, "message": self.message, "exit_code": int(self.code), "retryable": self.retryable}
        return {**data, "hint": self.hint} if self.hint else data


_CODES: Final[dict[type[Exception], Exit]] = {
    errors.DoesNotExist: Exit.NOT_FOUND,
    errors.UnknownNamespace: Exit.NOT_FOUND,
    errors.UnknownActor: Exit.NOT_FOUND,
    errors.AlreadyExists: Exit.CONFLICT,
    errors.NamespaceExists: Exit.CONFLICT,
    errors.WrongType: Exit.CONFLICT,
    errors.PathMustEndInDirectory: Exit.CONFLICT,
    errors.CasFailed: Exit.CONFLICT,
    errors.Unavailable: Exit.UNAVAILABLE,
    errors.Unanswered: Exit.UNAVAILABLE,
    errors.SessionExpired: Exit.UNAVAILABLE,
    errors.InvalidPath: Exit.USAGE,
    errors.InvalidType: Exit.USAGE,
    errors.InvalidCas: Exit.USAGE,
    errors.CannotDeleteRoot: Exit.USAGE,
    errors.NotEnoughReplicas: Exit.USAGE,
    errors.BadRequest: Exit.USAGE,
    errors.ConfigError: Exit.USAGE,
    InvalidId: Exit.USAGE,
}
"""Anything else that haret or rabble_trio raises on purpose is a plain failure."""

_HINTS: Final[dict[type[Exception], str]] = {
    errors.UnknownNamespace: "`haret namespaces` lists those there are; choose one with --namespace or HARET_NAMESPACE",
    errors.WrongType: "`haret ls PATH` shows the type of a node",
    errors.Unavailable: "does a server run there? --endpoints or HARET_ENDPOINTS says where; `haret dev` starts some",
}

EXPECTED: Final = (CommandFailed, errors.HaretError, RabbleError, OSError)
"""What a command may end with. Anything else is a defect and keeps its traceback."""


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The exceptions in a group, and in groups inside of it."""
    nested = [leaves(one) if isinstance(one, BaseExceptionGroup) else [one] for one in group.exceptions]
    return [one for part in nested for one in part]


def explain(error: Exception) -> Failure:
    """What to tell the user about one of `EXPECTED`."""
    if isinstance(error, CommandFailed):
        name = "Usage" if error.code is Exit.USAGE else "Failed"
        return Failure(error.code, name, str(error), error.hint, error.code is Exit.UNAVAILABLE)
    code = next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), Exit.FAILURE)
    hint = _HINTS.get(type(error), "")
    return Failure(code, type(error).__name__, _first_line(str(error)), hint, getattr(error, "retryable", False))


def _first_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line)
