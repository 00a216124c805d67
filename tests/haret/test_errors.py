"""Errors as exceptions: one for every error value, with the same fields and a text that helps."""

from __future__ import annotations

import pickle
from dataclasses import Field, fields
from typing import Any

import pytest

from haret import errors, protocol
from haret.vertree import Result, results
from rabble_trio import Pid

VALUES = sorted(
    (
        *results.ERRORS,
        protocol.BadRequest,
        protocol.NamespaceExists,
        protocol.NotEnoughReplicas,
        protocol.Unanswered,
        protocol.UnknownActor,
        protocol.UnknownNamespace,
    ),
    key=lambda kind: kind.__name__,
)

SAMPLES: dict[str, Any] = {"int": 3, "str": "some text", "Pid": Pid.parse("ns::r1::n1@127.0.0.1:5000")}


def sample(field: Field[Any]) -> Any:
    """A value for a field, whose type may be a class or the name of one."""
    return SAMPLES[getattr(field.type, "__name__", field.type)]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_error_value_has_its_exception(kind: Any) -> None:
    value = kind(*(sample(field) for field in fields(kind)))
    error = errors.error_from_value(value)
    assert error is not None
    assert type(error).__name__ == kind.__name__
    for field in fields(kind):
        assert getattr(error, field.name) == getattr(value, field.name)
        assert str(sample(field)) in str(error)


def test_results_are_no_errors() -> None:
    assert errors.error_from_value(Result(None, 1)) is None
    assert errors.error_from_value(protocol.Done()) is None


def test_exceptions_can_be_copied_and_refuse_wrong_fields() -> None:
    error = errors.CasFailed("/a", 1, 2)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.path, copy.expected, copy.actual) == (errors.CasFailed, "/a", 1, 2)
    with pytest.raises(TypeError, match="path, expected, actual"):
        errors.CasFailed("/a")


def test_what_is_worth_trying_again() -> None:
    retryable = {kind.__name__ for kind in errors.HaretError.__subclasses__() if kind.retryable}
    assert retryable == {"Unanswered", "SessionExpired", "Unavailable"}


def test_unavailable_says_what_was_tried() -> None:
    error = errors.Unavailable("no answer", (("a:1", "refused"), ("b:2", "silent")), True)
    assert str(error) == "no answer (the operation may have been executed); tried a:1: refused; b:2: silent"
    assert str(errors.ConfigError("", "no file")) == "no file"
    assert str(errors.ConfigError("api_host", "is missing")) == "api_host: is missing"
