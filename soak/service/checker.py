"""Whether what the clients of a namespace were told is linearizable, and each call executed at most once.

Every answer tells its place in history, the *op*; so history is not searched for but replayed, against a tree alone:

1. In real time: a call that began after op n was answered has a greater op if it writes, and no smaller one if it reads.
   A stale read may be older, but not older than what its client has seen.
2. An op is one write at most.
3. With the writes in the order of their ops, each gives the answer that its client had. A read gives its answer after the
   write of its op.
4. An error has no op, and changes nothing. It is right if some state gives it, from the last op that was answered before
   the call began to the one before the first that was called after it was answered.
5. A call without an answer may have been executed, once, at an op that no other write has, after the call began (1).

Rule 5 alone needs a search. Replay assumes that such calls were not executed, until an answer can't be explained without.
Then it puts one of them where it could explain it, goes on, and comes back for the next choice if that leads nowhere. The
numbers in the answer that is to be explained are tried first, for they are versions, and a version is the op of a write.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final

from haret.vertree import ListKeys, MultiCas, Operation, Tree, is_write

from .history import Call

BUDGET: Final = 1_000_000
"""Ops that may be replayed beyond one pass, in search for the place of calls without an answer: about half a minute."""

MAX_CHAIN: Final = 2
"""Calls that may be placed without coming further, before the one that does: one answer may need several to explain it."""

SHOWN: Final = 10
"""Violations of one kind that are told."""


@dataclass(frozen=True)
class Verdict:
    """What was found in the history of one namespace."""

    calls: int
    """How many were looked at."""
    ops: int
    """The highest op that was answered."""
    unknown: int
    """Calls that had no answer."""
    executed: int
    """How many of them must have been executed."""
    violations: tuple[str, ...]
    """In words; none if the history is right."""


def check(calls: Iterable[Call], budget: int = BUDGET) -> Verdict:
    """Judge the history of one namespace, from its creation on, with all calls that could have changed it."""
    events = [_Event(call) for call in calls]
    _bound(events)
    violations = _in_real_time(events) + _written_once(events)
    replay = _Replay(events, budget)
    if not violations:  # or a replay would find the same again, and call it something else
        violations = replay.find_order()
    unknown = sum(not event.call.is_known for event in events)
    return Verdict(len(events), replay.highest, unknown, len(replay.placed), tuple(violations))


class _Event:
    """A call, and what is derived from it."""

    __slots__ = ("after", "before", "call", "op", "paths", "writes")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.op = call.op
        self.writes = is_write(call.operation)
        self.paths = _paths(call.operation)
        self.after = 0  # every op up to this one had happened when the call began
        self.before: float = math.inf  # no op beyond this one had happened when it was answered

    def __str__(self) -> str:
        call = self.call
        said = "no answer" if call.outcome is None else f"{call.outcome!r:.300}"
        when = "" if self.op is None else f" at op {self.op}"
        return f"client {call.client}: {call.operation!r:.300} -> {said}{when}"


def _bound(events: list[_Event]) -> None:
    """Find `after` and `before`. Calls that touch in one instant overlap, so in each instant calls begin first."""
    begun = [(event.call.invoked, 0, event) for event in events]
    ended = [(event.call.answered, 1, event) for event in events if event.call.answered is not None]
    instants = sorted(begun + ended, key=lambda instant: instant[:2])
    highest = 0
    seen: defaultdict[int, int] = defaultdict(int)  # by client
    for _, is_end, event in instants:
        client = event.call.client
        if not is_end:
            event.after = seen[client] if event.call.stale else highest
        elif event.op is not None:
            highest = max(highest, event.op)
            seen[client] = max(seen[client], event.op)
    lowest = math.inf
    for _, is_end, event in reversed(instants):
        if is_end:
            event.before = max(lowest, event.after)
        elif event.op is not None and not event.call.stale:
            lowest = min(lowest, event.op - event.writes)


def _in_real_time(events: list[_Event]) -> list[str]:
    """Rule 1."""
    found = []
    for event in events:
        if event.op is not None and event.op < event.after + event.writes:
            seen = "its client had seen" if event.call.stale else "another call had been answered from"
            found.append(f"out of order: {event}, though {seen} op {event.after} before it was called")
    return found[:SHOWN]


def _written_once(events: list[_Event]) -> list[str]:
    """Rule 2."""
    writes: dict[int, _Event] = {}
    found = []
    for event in events:
        if event.writes and event.op is not None:
            other = writes.setdefault(event.op, event)
            if other is not event:
                found.append(f"op {event.op} is two writes: {event}, and {other}")
    return found[:SHOWN]


@dataclass(frozen=True)
class _Problem:
    """An answer that the replay does not give."""

    op: int
    """How far the replay had come."""
    last: int
    """The last op at which another write could explain it."""
    event: _Event
    """Whose answer it is."""
    found: object
    """The answer of the replay."""


@dataclass
class _Choice:
    """A problem, and where the search is among the moves that could explain it."""

    problem: _Problem
    targets: tuple[str, ...]
    """Paths of what is to be explained."""
    chain: int
    """How many calls were placed for this problem before."""
    moves: Iterator[tuple[_Event, int]]
    undo: tuple[_Event, int | None] | None = None
    """The call that was moved, and where it was before."""


class _Exhausted(Exception):
    """The search took too long."""


@dataclass(eq=False)
class _Replay:
    """A tree, the writes in the order of their ops, and calls without an answer that are put between them."""

    events: list[_Event]
    budget: int
    writes: dict[int, _Event] = field(default_factory=dict)
    reads: defaultdict[int, list[_Event]] = field(default_factory=lambda: defaultdict(list))
    errors: defaultdict[int, list[_Event]] = field(default_factory=lambda: defaultdict(list))  # by `before`
    unknown: list[_Event] = field(default_factory=list)
    placed: dict[int, _Event] = field(default_factory=dict)
    highest: int = 0

    def __post_init__(self) -> None:
        self.highest = max((event.op for event in self.events if event.op is not None), default=0)
        self.unknown = [event for event in self.events if not event.call.is_known and event.writes]
        self.end = self.highest + len(self.unknown)  # they may have been executed after everything else
        for event in self.events:
            if not event.call.is_known:
                continue
            if event.op is None:
                self.errors[int(min(event.before, self.end))].append(event)
            elif event.writes:
                self.writes[event.op] = event
            else:
                self.reads[event.op].append(event)
        self.deepest: _Problem  # that any choice came to
        self.places: dict[_Event, int] = {}  # the inverse of `placed`
        self.states: list[Tree] = []  # after each op from 0, as far as they are right for what is placed

    def find_order(self) -> list[str]:
        """Rules 3 to 5: what is wrong, in words, or nothing."""
        first = self._run()
        if first is None:
            return []
        self.deepest = first
        try:
            if any(self._search(first, patience) for patience in range(MAX_CHAIN + 1)):
                return []
            end = f"and none of {len(self.unknown)} calls without an answer explains it"
        except _Exhausted:
            end = "and the search for calls without an answer that could explain it took too long"
        problem = self.deepest
        return [
            f"wrong answer: {problem.event}; a tree that executed the same operations up to op {problem.op} one after "
            f"the other answers {problem.found!r:.300}, {end}"
        ]

    # Replay -----------------------------------------------------------------------------------------------------------

    def _run(self) -> _Problem | None:
        """Replay to the end, or to the first problem."""
        while len(self.states) <= self.end:
            problem = self._step(len(self.states))
            if problem is not None:
                return problem
        return None

    def _step(self, op: int) -> _Problem | None:
        tree = self.states[-1] if self.states else Tree.empty()
        if op in self.writes:
            event = self.writes[op]
            tree, found = tree.apply(event.call.operation, op)
            if found != event.call.outcome:
                return _Problem(op, op - 1, event, found)
        elif op in self.placed:
            tree, _ = tree.apply(self.placed[op].call.operation, op)
        for event in self.reads.get(op, ()):
            _, found = tree.apply(event.call.operation, op)
            if found != event.call.outcome:
                return _Problem(op, op, event, found)
        self.states.append(tree)
        for event in self.errors.get(op, ()):
            found = self._error(event, op)
            if found != event.call.outcome:
                del self.states[op:]
                return _Problem(op, op, event, found)
        return None

    def _error(self, event: _Event, last: int) -> Any:
        """What a call that failed could have been answered: what it was, if any state up to this op gives that."""
        before = found = None
        for tree in self.states[event.after : last + 1]:
            if tree is before:
                continue
            _, found = tree.apply(event.call.operation, tree.version + 1)
            if found == event.call.outcome:
                break
            before = tree
        return found

    # Search -----------------------------------------------------------------------------------------------------------

    def _search(self, first: _Problem, patience: int) -> bool:
        """Depth first: place calls until all can be explained. Tells whether it can."""
        stack = [self._choice(first, first.event.paths, 0)]
        while stack:
            choice = stack[-1]
            if choice.undo is not None:
                self._place(*choice.undo)
                choice.undo = None
            move = next(choice.moves, None)
            if move is None:
                stack.pop()
                continue
            event, op = move
            choice.undo = event, self.places.get(event)
            self._place(event, op)
            came = len(self.states)
            problem = self._run()
            if problem is None:
                return True
            if problem.op > self.deepest.op:
                self.deepest = problem
            self.budget -= problem.op - came + 1
            if self.budget < 0:
                raise _Exhausted
            if problem.op > choice.problem.op:
                stack.append(self._choice(problem, problem.event.paths, 0))
            elif choice.chain < patience:
                targets = choice.targets + event.paths + problem.event.paths
                stack.append(self._choice(problem, targets, choice.chain + 1))
        return False

    def _choice(self, problem: _Problem, targets: tuple[str, ...], chain: int) -> _Choice:
        return _Choice(problem, targets, chain, self._moves(problem, targets))

    def _place(self, event: _Event, op: int | None) -> None:
        """Let a call without an answer be executed as this op, or never."""
        before = self.places.pop(event, None)
        if before is not None:
            del self.placed[before]
            del self.states[before:]
        if op is not None:
            self.placed[op] = event
            self.places[event] = op
            del self.states[op:]

    def _moves(self, problem: _Problem, targets: tuple[str, ...]) -> Iterator[tuple[_Event, int]]:
        """Where calls without an answer could be put to explain a problem: the likely places first, then all others."""
        suspects = [event for event in self.unknown if event.after < problem.last and _related(event.paths, targets)]
        versions = sorted(set(_numbers(problem.event.call.outcome)), reverse=True)
        for op in versions:
            for event in suspects:
                if event.after < op <= problem.last and self._is_free(op):
                    yield event, op
        absent = [event for event in suspects if event not in self.places]
        for event in absent:
            yield from ((event, op) for op in self._gaps(event, problem.last, distinct=True))
        for event in absent:
            yield from ((event, op) for op in self._gaps(event, problem.last, distinct=False))

    def _gaps(self, event: _Event, last: int, *, distinct: bool) -> Iterator[int]:
        """Ops that are no write's, the last one first. `distinct`: one between any two ops that have to do with the call."""
        wanted = True
        for op in range(last, event.after, -1):
            if wanted and self._is_free(op):
                yield op
                wanted = not distinct
            at_op = [*self.reads.get(op, ()), *filter(None, (self.writes.get(op), self.placed.get(op)))]
            wanted = wanted or any(_related(event.paths, other.paths) for other in at_op)

    def _is_free(self, op: int) -> bool:
        return op not in self.writes and op not in self.placed


def _paths(operation: Operation) -> tuple[str, ...]:
    """The paths that an operation names."""
    if isinstance(operation, MultiCas):
        inner = [path for write in operation.operations for path in _paths(write)]
        return tuple({*inner, *(guard.path for guard in operation.guards)})
    if isinstance(operation, ListKeys):
        return (operation.path,)
    named = [getattr(operation, name, None) for name in ("path", "left", "right")]
    return tuple(path for path in [*named, *getattr(operation, "paths", ())] if isinstance(path, str))


def _related(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether one of these paths is, or is above or below, one of the others."""
    return any(_is_below(a, b) or _is_below(b, a) for a in some for b in others)


def _is_below(path: str, other: str) -> bool:
    return path == other or path.startswith(other if other == "/" else f"{other}/")


def _numbers(outcome: Any) -> Iterator[int]:
    """All whole numbers in an answer."""
    if isinstance(outcome, int):
        yield outcome
    elif isinstance(outcome, tuple):
        for element in outcome:
            yield from _numbers(element)
    elif is_dataclass(outcome):
        for one in fields(outcome):
            yield from _numbers(getattr(outcome, one.name))
