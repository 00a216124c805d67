"""What clients do in a soak, against a group in memory: if it keeps its promises the checker is content, else it sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from haret.vertree import Operation, Outcome, QueuePop, QueuePush, Tree, is_error, is_write
from soak.service.checker import check
from soak.service.history import Call
from soak.service.mix import EVERYTHING, SETUP, Mix

CLIENTS = 9
DOUBT = 0.01
"""The part of writes that get no answer; half of them are executed."""

Harm = Callable[[Tree, Tree, Operation, int], Tree]
"""From the trees before and after a write, the write, and its op, the tree that there is then."""


@dataclass
class Waiting:
    """A call under way."""

    client: int
    operation: Operation
    invoked: int
    executed: tuple[int, Outcome] | None = None


def play(seed: int, number: int, harm: Harm | None = None) -> list[Call]:
    """So many calls of several clients. Half-way, `harm` is done to the first write that it is for."""
    random = Random(seed)
    states = [Tree.empty()]
    calls: list[Call] = []
    waiting: list[Waiting] = []
    idle = list(range(CLIENTS))
    mixes = [Mix(random, b"%d" % client) for client in idle]
    for operation in SETUP:
        tree, outcome = states[-1].apply(operation, len(states))
        states.append(tree)
        calls.append(Call(CLIENTS, operation, -2, -1, outcome, len(states) - 1))
    time = 0
    while len(calls) < number:
        time += 1
        if idle and random.random() < 0.5:
            client = idle.pop(random.randrange(len(idle)))
            operation = mixes[client].write() if random.random() < 0.5 else mixes[client].read()
            waiting.append(Waiting(client, operation, time))
        elif random.random() < 0.02:
            states.append(states[-1])  # an op for a session
        elif waiting:
            call = random.choice(waiting)
            if call.executed is not None:
                op, outcome = call.executed
                calls.append(
                    Call(call.client, call.operation, call.invoked, time, outcome, None if is_error(outcome) else op)
                )
                mixes[call.client].learn(call.operation, outcome)
            else:
                in_doubt = is_write(call.operation) and random.random() < DOUBT
                if not in_doubt or random.random() < 0.5:
                    before = states[-1]
                    op = len(states) - (not is_write(call.operation))
                    tree, outcome = before.apply(call.operation, op)
                    if is_write(call.operation):
                        states.append(tree)
                    if harm is not None and len(calls) > number // 2 and tree is not before and not in_doubt:
                        harmed = harm(before, tree, call.operation, op)
                        if harmed is not tree:
                            harm = None
                            states.append(harmed)
                    call.executed = op, outcome
                if not in_doubt:
                    continue
                calls.append(Call(call.client, call.operation, call.invoked, None, None, None))
            waiting.remove(call)
            idle.append(call.client)
    for operation in EVERYTHING:
        time += 2
        _, outcome = states[-1].apply(operation, len(states))
        calls.append(Call(CLIENTS, operation, time, time + 1, outcome, len(states) - 1))
    return calls + [Call(call.client, call.operation, call.invoked, None, None, None) for call in waiting]


@pytest.mark.parametrize("seed", range(5))
def test_promises_that_are_kept(seed: int) -> None:
    verdict = check(play(seed, 3000))
    assert verdict.violations == ()
    assert verdict.unknown > verdict.executed > 0


def lose(before: Tree, after: Tree, operation: Operation, op: int) -> Tree:
    return before


def lose_a_push(before: Tree, after: Tree, operation: Operation, op: int) -> Tree:
    return before if isinstance(operation, QueuePush) else after


def push_again(before: Tree, after: Tree, operation: Operation, op: int) -> Tree:
    return after.apply(operation, op + 1)[0] if isinstance(operation, QueuePush) else after


def undo_a_pop(before: Tree, after: Tree, operation: Operation, op: int) -> Tree:
    return before if isinstance(operation, QueuePop) else after


@pytest.mark.parametrize("harm", [lose, lose_a_push, push_again, undo_a_pop])
def test_promises_that_are_broken(harm: Any) -> None:
    assert check(play(1, 2000, harm), budget=5000).violations != ()
