"""Histories for the tests, made by executing operations on a tree."""

from __future__ import annotations

from typing import Any

import pytest

from haret.vertree import Operation, Tree, is_error
from soak.service.checker import Verdict, check
from soak.service.history import Call


class Story:
    """A group that executes operations one after the other, and the calls of its clients. Time is counted in calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.tree = Tree.empty()
        self.op = 0
        self.time = 0

    def do(self, operation: Operation, client: int = 1, **changed: Any) -> Call:
        """A call that is executed and answered at once. `changed`: what is recorded otherwise than it was."""
        self.op += 1
        return self.read(operation, client, **changed)

    def read(self, operation: Operation, client: int = 1, **changed: Any) -> Call:
        """The same, without an op of its own, as reads are."""
        self.tree, outcome = self.tree.apply(operation, self.op)
        known = {"outcome": outcome, "op": None if is_error(outcome) else self.op}
        return self.record(operation, client, **{**known, **changed})

    def lose(self, operation: Operation, client: int = 9, *, executed: bool) -> Call:
        """A call without an answer."""
        self.op += 1
        if executed:
            self.tree, _ = self.tree.apply(operation, self.op)
        return self.record(operation, client, outcome=None, op=None, answered=None)

    def skip(self, ops: int = 1) -> None:
        """Ops that are no client's business, such as those that open sessions."""
        self.op += ops

    def record(self, operation: Operation, client: int, **known: Any) -> Call:
        """Add a call that happens after all others, unless its times are given."""
        self.time += 10
        fields: dict[str, Any] = {"invoked": self.time, "answered": self.time + 5, **known}
        call = Call(client, operation, **fields)
        self.calls.append(call)
        return call

    def judge(self, **options: Any) -> Verdict:
        """What the checker says."""
        return check(self.calls, **options)

    def violation(self) -> str:
        """The only thing that the checker finds wrong."""
        (said,) = self.judge().violations
        return said


@pytest.fixture
def story() -> Story:
    return Story()
