"""Every error has an exit code that scripts can rely on."""

from __future__ import annotations

import inspect

import pytest

from haret import errors
from haret.cli.failures import CommandFailed, Exit, UsageError, explain
from rabble_trio import InvalidId, ListenFailed, Pid

PID = Pid.parse("g::r1::n@127.0.0.1:1")

CODES = [
    (errors.DoesNotExist("/a"), 3),
    (errors.UnknownNamespace("x"), 3),
    (errors.UnknownActor(PID), 3),
    (errors.AlreadyExists("/a"), 4),
    (errors.NamespaceExists("x"), 4),
    (errors.WrongType("/a", "set", "blob"), 4),
    (errors.PathMustEndInDirectory("/a"), 4),
    (errors.CasFailed("/a", 1, 2), 4),
    (errors.Unavailable("no", (("127.0.0.1:1", "refused"),), False), 5),
    (errors.Unanswered("no"), 5),
    (errors.SessionExpired(1), 5),
    (errors.InvalidPath("a", "no slash"), 2),
    (errors.InvalidType("x"), 2),
    (errors.InvalidCas("no"), 2),
    (errors.CannotDeleteRoot(), 2),
    (errors.NotEnoughReplicas(2, 3), 2),
    (errors.BadRequest("no"), 2),
    (errors.ConfigError("key", "no"), 2),
    (errors.LimitExceeded("a value", 1, 2), 1),
    (errors.UnknownOperation("x"), 1),
    (InvalidId("no"), 2),
    (ListenFailed("no"), 1),
    (PermissionError(13, "Permission denied"), 1),
    (UsageError("no"), 2),
    (CommandFailed("no"), 1),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_exit_codes(error: Exception, code: int) -> None:
    failure = explain(error)
    assert failure.code == code
    assert failure.data()["exit_code"] == code
    assert failure.message
    assert "\n" not in failure.message


def test_every_error_of_haret_was_thought_about() -> None:
    tested = {type(error) for error, _ in CODES}
    every = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.HaretError)}
    assert every - tested == {errors.HaretError}


def test_exit_codes_never_change() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "CONFLICT": 4,
        "UNAVAILABLE": 5,
        "AUTHENTICATION": 6,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
    }


def test_an_error_of_several_lines_becomes_one() -> None:
    assert explain(ListenFailed("one\n  two\n")).message == "one; two"
