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

Rule 5 alone needs a search. Replay assumes that such calls were not executed, until that does not fit:

* A version is the op of a write. One that was seen, and is no known write's, is the op of a call without an answer.
* Nothing that an answer tells of has changed since the op that is its version, so it is checked there already: what does not
  fit shows where it begins.
* An answer that replay does not give makes it place one of these calls, or place it elsewhere: first those whose values
  are in the answer, for each value is written once; then those that name the same paths.

Each attempt is replayed up to the next thing that does not fit. Some attempts have to change several calls to come further.
What leads nowhere is taken back. In the end all that was placed is right, or all was tried, or the search took too long.

Which order of attempts is the quick one can't be known before, so several searches try what they can, each in its own order,
first for a short time, then for a long one. Whatever one of them finds has been replayed and fits, so more of them find more
explanations, and no wrong ones. The same history has the same verdict, word for word, wherever it is judged: nothing goes by
the order of a set, which differs from process to process.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

from haret.vertree import (
    BlobPut,
    CasFailed,
    Keys,
    ListKeys,
    MultiCas,
    MultiResult,
    Node,
    Operation,
    QueuePush,
    Result,
    SetResult,
    Tree,
    is_write,
)

from .history import Call

BUDGET: Final = 1_000_000
"""Ops that one search for the places of calls without an answer may replay: less than a minute."""

ROUNDS: Final = (10, 1)
"""First all searches are made with this part of the budget (a tenth), then with this one (all of it): an order of attempts
that suits a history needs little, as a rule, and must not wait until others have used up all of theirs."""


class _Reach(NamedTuple):
    """How far a search goes for what explains an answer, which is mostly something that happened just before."""

    places: int | None = None
    """That are tried for a call, the last ones first; None: all."""
    calls: int | None = None
    """That are tried for a problem, those that lost their answer last first; None: all."""
    moves: int = 3
    """Calls to place for one problem."""
    jump: bool = False
    """Whether what seems to have nothing to do with a later problem is not tried anew because of it."""
    early: bool = False
    """Whether the first one of these places comes first: that is what suits calls that were executed soon, but seen late."""


EVERYTHING: Final = _Reach()
"""The search that tries everything: if it comes to its end, there is no explanation."""

SEARCHES: Final = (
    _Reach(places=30, calls=10, moves=2, jump=True, early=True),
    _Reach(places=30, calls=10, moves=1, jump=True),
    _Reach(places=30, calls=10, moves=2, jump=True),
    _Reach(places=15, calls=6, jump=True, early=True),
    _Reach(places=30, calls=10, jump=True),
    _Reach(places=30, moves=2, jump=True, early=True),
    _Reach(places=30, moves=2, jump=True),
    _Reach(moves=2, jump=True),
    EVERYTHING,
)
"""One search after the other."""

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
    return Verdict(len(events), replay.highest, unknown, replay.executed, tuple(violations))


class _Event:
    """A call, and what is derived from it."""

    __slots__ = ("after", "before", "call", "op", "paths", "values", "writes")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.op = call.op
        self.writes = is_write(call.operation)
        self.paths = _paths(call.operation)
        self.values = frozenset(_values(call.operation))
        self.after = 0  # every op up to this one had happened when the call began
        self.before: float = math.inf  # no op beyond this one had happened when it was answered

    def __str__(self) -> str:
        call = self.call
        said = "no answer" if call.outcome is None else _words(call.outcome)
        when = "" if self.op is None else f" at op {self.op}"
        return f"client {call.client}: {_words(call.operation)} -> {said}{when}"


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
    """What the replay has instead."""


_NOTHING_ELSE: Final = "no other solution"


class _Exhausted(Exception):
    """The search took too long."""


@dataclass(eq=False)
class _Replay:
    """A tree, the writes in the order of their ops, and calls without an answer that are put between them."""

    events: list[_Event]
    budget: int
    writes: dict[int, _Event] = field(default_factory=dict)
    reads: defaultdict[int, list[_Event]] = field(default_factory=lambda: defaultdict(list))
    nodes: defaultdict[int, dict[tuple[str, str], _Event]] = field(default_factory=lambda: defaultdict(dict))
    errors: defaultdict[int, list[_Event]] = field(default_factory=lambda: defaultdict(list))  # by `before`
    seen: set[int] = field(default_factory=set)
    """Versions in answers that are no known write's."""
    unknown: list[_Event] = field(default_factory=list)
    placed: dict[int, _Event] = field(default_factory=dict)
    highest: int = 0
    executed: int = 0
    """Calls without an answer that were executed after all, as it was found in the end."""

    def __post_init__(self) -> None:
        self.highest = max((event.op for event in self.events if event.op is not None), default=0)
        self.unknown = [event for event in self.events if not event.call.is_known and event.writes]
        self.end = self.highest + len(self.unknown)  # they may have been executed after everything else
        for event in self.events:
            if event.call.is_known:
                self._sort_in(event)
        self.seen -= {0, *self.writes}
        # Calls that lost their answer just before come first: what was not executed soon was hardly executed later.
        self.unknown.sort(key=lambda event: -event.after)
        self.deepest: _Problem  # that any attempt came to
        self.places: dict[_Event, int] = {}  # the inverse of `placed`
        self.states: list[Tree] = []  # after each op from 0, as far as they are right for what is placed

    def _sort_in(self, event: _Event) -> None:
        if event.op is None:
            self.errors[int(min(event.before, self.end))].append(event)
        elif event.writes:
            self.writes[event.op] = event
        else:
            self.reads[event.op].append(event)
        for node, version in _versions(event):
            self.seen.add(version)
            if node is not None:
                self.nodes[version].setdefault(node, event)
            elif version != event.op:
                self.reads[version].append(event)

    def find_order(self) -> list[str]:
        """Rules 3 to 5: what is wrong, in words, or nothing."""
        first = self._run()
        if first is None:
            return []
        self.deepest = first
        found = self._explain(first)
        if found:
            return []
        end = f"none of {len(self.unknown)} calls without an answer explains it"
        if found is None:
            end = "the search for calls without an answer that could explain it took too long"
        problem = self.deepest
        return [
            f"wrong answer: {problem.event}; a tree that executed the same operations up to op {problem.op} one after "
            f"the other has {_words(problem.found)}, and {end}"
        ]

    def _explain(self, first: _Problem) -> bool | None:
        """Whether calls without an answer explain what does not fit; None if the searches took too long."""
        for part in ROUNDS:
            for reach in SEARCHES:
                self.left = self.budget // part
                self._place(dict.fromkeys(self.places))
                try:
                    if self._search(first, reach):
                        return True
                except _Exhausted:
                    continue
                if reach == EVERYTHING:
                    return False
        return None

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
        for (path, kind), event in self.nodes.get(op, {}).items():
            node = tree.find(path)
            if not isinstance(node, Node) or node.version != op or kind not in {node.type, ""}:
                return _Problem(op, op, event, node)
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

    def _search(self, first: _Problem, reach: _Reach) -> bool:
        """Place calls without an answer until everything fits. Tells whether that is possible."""

        def solutions(problem: _Problem) -> Generator[_Problem | None, None, None]:
            return self._solve(problem, reach)

        stack = [(first, solutions(first), dict(self.places))]
        conflict: tuple[
            str, ...
        ] = ()  # paths of problems that could not be solved after what was placed for those before
        while stack:
            problem, trials, before = stack[-1]
            following = next(trials, _NOTHING_ELSE)
            if following is None:
                self.executed = len(self.placed)
                return True
            if isinstance(following, _Problem):
                stack.append((following, solutions(following), dict(self.places)))
                continue
            conflict += problem.event.paths
            stack.pop()
            # What was placed for problems that have nothing to do with it is not to blame, so it is not tried anew.
            while reach.jump and stack:
                problem, trials, before = stack[-1]
                moved = {event for event, _ in before.items() ^ self.places.items()}
                if _related(conflict, chain(problem.event.paths, *(event.paths for event in moved))):
                    break
                trials.close()
                stack.pop()
        return False

    def _solve(self, problem: _Problem, reach: _Reach) -> Generator[_Problem | None, None, None]:
        """Make what does not fit fit, in one way after the other, those of fewer moves first. Yields the next problem for
        each, or None."""
        for number in range(1, reach.moves + 1):
            yield from self._solve_with(number, problem, problem.op, problem.event.paths, reach)

    def _solve_with(
        self, moves: int, problem: _Problem, goal: int, targets: tuple[str, ...], reach: _Reach
    ) -> Generator[_Problem | None, None, None]:
        """The ways of so many moves, none of which would do alone, to make what is up to the goal, an op, fit."""
        for event, op in self._moves(problem, targets, reach):
            undo = {event: self.places.get(event)}
            if op in self.placed:
                undo[self.placed[op]] = op
            self._place({**dict.fromkeys(undo), event: op})
            try:
                came = len(self.states)
                following = self._run()
                self.left -= (self.end if following is None else following.op) - came + 1
                if self.left < 0:
                    raise _Exhausted
                if following is None or following.op > goal:
                    if following is not None and following.op > self.deepest.op:
                        self.deepest = following
                    if moves == 1:
                        yield following
                elif moves > 1:
                    also = targets + event.paths + following.event.paths
                    yield from self._solve_with(moves - 1, following, goal, also, reach)
            finally:
                self._place(undo)

    def _place(self, places: dict[_Event, int | None]) -> None:
        """Let calls without an answer be executed as these ops, or never."""
        for event in places:
            before = self.places.pop(event, None)
            if before is not None:
                del self.placed[before]
                del self.states[before:]
        for event, op in places.items():
            if op is not None:
                self.placed[op] = event
                self.places[event] = op
                del self.states[op:]

    def _moves(self, problem: _Problem, targets: tuple[str, ...], reach: _Reach) -> Iterator[tuple[_Event, int | None]]:
        """Where calls without an answer could be put to solve a problem; None: it was not executed."""
        suspects = [event for event in self.unknown if event.after < problem.last]
        values = {*_values(problem.event.call.outcome), *_values(problem.found)}
        # Those in question first; and those that are placed already were placed for a reason.
        suspects.sort(key=lambda event: (values.isdisjoint(event.values), event in self.places))
        told = {version for _, version in _versions(problem.event) if problem.op >= version in self.seen}
        for version in sorted(told, reverse=True):
            for event in suspects:
                if event.after < version and self.places.get(event) != version:
                    yield event, version
        if problem.op in self.seen and problem.op not in self.placed:
            return  # it is somebody's op; or else whoever is there may need something before it
        suspects = [event for event in suspects if _related(event.paths, targets)]
        for event in suspects[: reach.calls]:
            gaps = self._gaps(event, problem.last, reach.places)
            yield from ((event, op) for op in (reversed([*gaps]) if reach.early else gaps))
            if event in self.places:
                yield event, None

    def _gaps(self, event: _Event, last: int, places: int | None) -> Iterator[int]:
        """Ops for a call, the last ones first: all if `places` is None, or the ends of so many runs of them. Between those of
        a run nothing is known that has to do with a node that the call names, or with the directory of that. So it makes
        a difference only for what else is put there, before it or after it."""
        free = (op for op in range(last, event.after, -1) if self._is_free(op))
        if places is None:
            yield from free
            return
        area = tuple(path.rpartition("/")[0] or path for path in event.paths)
        run: list[int] = []
        for op in range(last, event.after, -1):
            # What is read at an op has seen what was written at it.
            at_op = [*self.reads.get(op, ()), *filter(None, (self.writes.get(op), self.placed.get(op)))]
            if run and any(other is not event and _related(area, other.paths) for other in at_op):
                yield from dict.fromkeys((run[0], run[-1]))
                run.clear()
                places -= 1
                if places == 0:
                    return
            if self._is_free(op):
                run.append(op)
        if run:
            yield from dict.fromkeys((run[0], run[-1]))

    def _is_free(self, op: int) -> bool:
        return op not in self.writes and op not in self.placed and op not in self.seen


def _paths(operation: Operation) -> tuple[str, ...]:
    """The paths that an operation names."""
    if isinstance(operation, MultiCas):
        inner = [path for write in operation.operations for path in _paths(write)]
        return tuple(dict.fromkeys([*inner, *(guard.path for guard in operation.guards)]))
    if isinstance(operation, ListKeys):
        return (operation.path,)
    named = [getattr(operation, name, None) for name in ("path", "left", "right")]
    return tuple(path for path in [*named, *getattr(operation, "paths", ())] if isinstance(path, str))


def _related(some: tuple[str, ...], others: Iterable[str]) -> bool:
    """Whether one of these paths is, or is above or below, one of the others."""
    return any(_is_below(a, b) or _is_below(b, a) for b in others for a in some)


def _is_below(path: str, other: str) -> bool:
    return path == other or path.startswith(other if other == "/" else f"{other}/")


def _versions(event: _Event) -> Iterator[tuple[tuple[str, str] | None, int]]:
    """The versions in an answer, each with the path and the type of the node that has it, or None for the answer's own."""
    outcome = event.call.outcome
    if isinstance(outcome, Keys):
        yield from (((path, kind), version) for path, version, kind in outcome.value)
    if isinstance(outcome, CasFailed):
        if outcome.actual:
            yield (outcome.path, ""), outcome.actual
    elif isinstance(outcome, MultiResult) and isinstance(event.call.operation, MultiCas):
        for part, result in zip(event.call.operation.operations, outcome.value, strict=True):
            if result.version != event.op:  # it changed nothing, and tells of the node that it found
                yield (part.path, ""), result.version
    elif isinstance(outcome, Result | SetResult | Keys):
        yield None, outcome.version


def _values(given: Any) -> Iterator[bytes]:
    """All values in an operation or an answer, if they tell who wrote them."""
    if isinstance(given, bytes):
        yield given
    elif isinstance(given, tuple):
        for element in given:
            yield from _values(element)
    elif isinstance(given, BlobPut | QueuePush | Result):
        yield from _values(given.value)
    elif isinstance(given, MultiCas):
        yield from _values(given.operations)
    elif isinstance(given, MultiResult):
        yield from _values(given.value)


def _words(given: Any, limit: int = 300) -> str:
    """Much like `repr`, or the beginning of it, but the same in each process: elements of sets are sorted, and a node is what
    it is instead of where."""
    if isinstance(given, frozenset):
        said = f"{{{', '.join(sorted(map(repr, given)))}}}"
    elif isinstance(given, tuple):
        said = f"({', '.join(map(_words, given))})"
    elif isinstance(given, Node):
        said = f"a {given.type} of version {given.version}"
    elif is_dataclass(given):
        parts = [f"{one.name}={_words(getattr(given, one.name))}" for one in fields(given)]
        said = f"{type(given).__name__}({', '.join(parts)})"
    else:
        said = repr(given)
    return said[:limit]
