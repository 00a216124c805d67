"""Histories with many calls that lost their answers, as `python hard_histories.py` judges them: prints the verdicts."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from haret.vertree import Keys, Outcome, SetResult, SetUnion, Tree, is_error, is_write
from soak.service.checker import check
from soak.service.history import Call
from soak.service.mix import SETUP, Mix

CLIENTS = 9


def make(calls: int, seed: int, lost: float) -> list[Call]:
    """What clients see of a group that keeps its promises, but loses answers, and requests as often."""
    random = Random(seed)
    mixes = [Mix(random, b"%d" % number) for number in range(CLIENTS)]
    states = [Tree.empty()]
    made: list[Call] = []
    for time, operation in enumerate(SETUP):
        after, outcome = states[-1].apply(operation, len(states))
        states.append(after)
        made.append(Call(0, operation, 2 * time, 2 * time + 1, outcome, len(states) - 1))
    waiting: dict[int, Call] = {}  # by client
    answers: dict[int, tuple[int, Outcome]] = {}  # that are on their way
    for time in range(2 * len(SETUP), 10 * calls):
        client = random.randrange(CLIENTS)
        if client not in waiting:
            mix = mixes[client]
            operation = mix.write() if random.random() < 0.5 else mix.read()
            waiting[client] = Call(client, operation, time, None, None, None)
        elif client in answers:
            op, outcome = answers.pop(client)
            call = waiting.pop(client)
            mixes[client].learn(call.operation, outcome)
            known = None if is_error(outcome) else op
            made.append(Call(client, call.operation, call.invoked, time, outcome, known))
        else:
            call = waiting[client]
            writes = is_write(call.operation)
            loses = writes and random.random() < lost
            if not loses or random.random() < 0.5:
                op = len(states) - (not writes)
                after, outcome = states[-1].apply(call.operation, op)
                if writes:
                    states.append(after)
                answers[client] = (op, outcome)
            if loses:
                answers.pop(client, None)
                made.append(waiting.pop(client))
        if len(made) >= calls:
            break
    return made + list(waiting.values())


def with_strange_set(calls: list[Call]) -> list[Call]:
    """The same, but what was read of a set last has elements in it that nobody ever inserted."""
    for index in reversed(range(len(calls))):
        call = calls[index]
        if isinstance(call.operation, SetUnion) and isinstance(call.outcome, SetResult):
            strange = call.outcome.value | {b"strange %d" % number for number in range(9)}
            return [*calls[:index], replace(call, outcome=replace(call.outcome, value=strange)), *calls[index + 1 :]]
    raise ValueError("nobody read a set")


def with_strange_type(calls: list[Call]) -> list[Call]:
    """The same, but a node that was listed last had another type."""
    for index in reversed(range(len(calls))):
        call = calls[index]
        if isinstance(call.outcome, Keys) and call.outcome.value:
            *others, (path, version, kind) = call.outcome.value
            listed = (*others, (path, version, "set" if kind == "queue" else "queue"))
            return [*calls[:index], replace(call, outcome=replace(call.outcome, value=listed)), *calls[index + 1 :]]
    raise ValueError("nobody listed anything")


def main() -> None:
    """Judge a history that is right, and two that are not."""
    calls = make(400, 57, 0.15)
    for judged in (calls, with_strange_set(calls), with_strange_type(calls)):
        print(check(judged, 2000))


if __name__ == "__main__":
    main()
