"""Every order in which things can happen, within bounds, on the real processes.

Rules:

1. A state of the world is: the state of each process with its running timers, the messages under way (as a multiset), and
   how much of each bound is used up. States that are equal are visited once.
2. From each state every choice is made: deliver any message, fire any timer (`fires` in all), crash any process that may
   crash (`crashes` in all), restart one that is down, deliver a message and keep a copy (`duplicates` in all, or without
   bound: then messages never go away). A message that is never delivered is a lost one, so losses need no choice of
   their own; and a delivery that changes nothing is as good as a loss, so it is not followed.
3. A step of a process depends on nothing but its state and the message. So each is executed once and remembered: the
   number of steps that are really executed is far below the number of transitions.
4. Choices that concern different processes commute, so of the two orders only one is followed to the end (sleep sets:
   Godefroid 1996, chapter 5, with the repair that hashing of states needs). All states are visited nevertheless.
5. States are visited in the order of their depth, so the first violation is a shortest one.

What is checked is what the scenario declares by `Simulation.always`: it speaks about states, not about histories. Not
here yet: journals, monitors, and time (a timer may fire at any moment).
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from .._ids import CorrelationId, Pid
from .._messages import CancelTimer, StartTimer, Timeout
from .._process import Process
from ._freeze import Freezer
from ._pending import MESSAGE, TIMER, Pending, Slot
from ._schedule import Scenario, Schedule
from ._simulation import Simulation

MAX_STATES: Final = 2_000_000
"""States that are remembered at most, about 1 KB each; then the exploration ends as incomplete."""

DELIVER, FIRE, CRASH, RESTART, KEEP = "deliver", "fire", "crash", "restart", "duplicate"

Timers = tuple[CorrelationId | None, ...]
Action = tuple[str, int, Any]
"""What is chosen: the verb, the index of the process, and a message's number or a timer's correlation id."""
State = tuple[tuple[int, ...], tuple[int, ...], int, int, int]
"""Processes (numbers of local states), messages under way (sorted), and fires, crashes and duplicates so far."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration found."""

    complete: bool
    """Whether all that is reachable within the bounds was visited, and nothing is wrong."""
    states: int
    """Different states of the world."""
    transitions: int
    """Choices that were followed."""
    deepest: int
    """Choices from the beginning to the farthest state."""
    local_states: int
    """Different states of single processes."""
    steps: int
    """Steps of processes that were executed (rule 3)."""
    seconds: float
    """How long it took."""
    failure: Exception | None
    """What is wrong, if anything is."""
    schedule: Schedule | None
    """A shortest way to it."""

    @property
    def states_per_second(self) -> float:
        """Speed."""
        return self.states / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        how = "complete" if self.complete else ("violation found" if self.failure else "incomplete")
        return (
            f"{how}: {self.states:,} states, {self.transitions:,} transitions, deepest {self.deepest}, "
            f"{self.local_states:,} states of processes, {self.steps:,} steps executed, "
            f"{self.states_per_second:,.0f} states/s"
        )


def explore(
    made: Scenario,
    *,
    parameters: dict[str, Any] | None = None,
    depth: int | None = None,
    fires: int = 0,
    crashes: int = 0,
    duplicates: int | None = 0,
    restarts: bool = True,
    ignore: Iterable[str] = (),
    max_states: int = MAX_STATES,
    reduce: bool = True,
) -> Exploration:
    """Visit every state that the scenario can reach within the bounds.

    `depth`: how many choices in a row (None: any number; with a number, rule 4 is not used). `fires`, `crashes`,
    `duplicates`: how often in all (`duplicates` may be None, which is any number, and makes fewer states). `restarts`:
    whether a process that crashed may come back. `ignore`: names of attributes of processes, or of objects in them, that
    make no difference. `reduce`: whether to use rule 4. Raises `TypeError` for processes that persist or monitor, which
    this can't do yet.
    """
    if depth is not None and depth < 0:
        raise ValueError(f"a depth is 0 or more, not {depth}")
    explorer = _Explorer(Schedule(made, 0, parameters or {}), frozenset(ignore))
    return explorer.run(depth, (fires, crashes, duplicates), restarts, max_states, reduce)


class _CantExplore(TypeError):
    """A process uses what this module can't do yet."""


class _Explorer:
    def __init__(self, schedule: Schedule, ignore: frozenset[str]) -> None:
        self._schedule = schedule
        self._freezer = Freezer(ignore)
        self._world = schedule.world()
        self._pids = self._world.pids
        self._index = {pid: index for index, pid in enumerate(self._pids)}
        self._may_crash = {pid for pids, _, _ in self._world._crash_limits for pid in pids}
        # A local state is a process and its timers, and whether it runs. Dead ones keep the process: checks see it.
        self._locals: dict[Any, int] = {}
        self._local: list[tuple[Process, Timers, bool, int]] = []
        self._messages: dict[Any, int] = {}
        self._message: list[tuple[int, Pid, Any, CorrelationId | None]] = []
        self._steps: dict[tuple[int, Action], tuple[int, tuple[int, ...]]] = {}
        self._checked: set[tuple[int, ...]] = set()
        self._bounds: tuple[int, int, int | None] = (0, 0, 0)
        self._restarts = True
        self.executed = 0

    # --- The search ---

    def run(
        self, depth: int | None, bounds: tuple[int, int, int | None], restarts: bool, max_states: int, reduce: bool
    ) -> Exploration:
        self._bounds, self._restarts = bounds, restarts
        began = perf_counter()
        reduce = reduce and depth is None  # what is asleep may be followed at a greater depth, beyond the bound
        first = self._first()
        parents: dict[State, tuple[State, Action] | None] = {first: None}
        asleep: dict[State, frozenset[Action]] = {first: frozenset()}
        todo: list[tuple[State, frozenset[Action] | None]] = [(first, None)]
        unseen: set[State] = set()  # states that were reached, but not yet left
        transitions = level = deepest = 0
        failure: Exception | None = None
        full = False
        at: tuple[State, Action] | None = None
        try:
            self._check(first)
            while todo and not full and (depth is None or level < depth):
                level += 1
                following: list[tuple[State, frozenset[Action] | None]] = []
                for state, only in todo:
                    sleeping = asleep[state]
                    unseen.discard(state)
                    followed: list[Action] = []
                    for action in self._actions(state):
                        if action in sleeping if only is None else action not in only:
                            continue
                        at = (state, action)
                        new = self._follow(state, action)
                        transitions += 1
                        after = frozenset[Action]()
                        if reduce:
                            after = frozenset(one for one in (*sleeping, *followed) if _commute(one, action))
                            followed.append(action)
                        if new not in parents:
                            parents[new] = at
                            asleep[new] = after
                            deepest = level
                            self._check(new)
                            following.append((new, None))
                            unseen.add(new)
                        elif new in unseen:
                            asleep[new] &= after
                        elif missed := asleep[new] - after:
                            asleep[new] -= missed
                            following.append((new, missed))
                    full = len(parents) >= max_states
                    if full:
                        break
                todo = following
        except _CantExplore:
            raise
        except Exception as error:
            failure = error
        return Exploration(
            complete=not full and failure is None,
            states=len(parents),
            transitions=transitions,
            deepest=deepest,
            local_states=len(self._local),
            steps=self.executed,
            seconds=perf_counter() - began,
            failure=failure,
            schedule=None if failure is None else self._to_schedule(self._path(parents, at)),
        )

    def _first(self) -> State:
        slots = [self._world._slots[pid] for pid in self._pids]
        for slot in slots:
            if slot.journal is not None or slot.watching:
                raise _CantExplore(f"{slot.name} persists or monitors, which explore() can't do yet")
        places = tuple(self._keep(slot.process, tuple(slot.timers), True, slot.incarnation) for slot in slots)
        flying: list[int] = []
        for item in self._world.pending:
            if item.kind == MESSAGE:
                assert item.path is not None
                insort(flying, self._post(item.path.sender, item.to, item.message, item.correlation_id))
        return places, tuple(flying), 0, 0, 0

    def _actions(self, state: State) -> list[Action]:
        places, flying, fires, crashes, duplicates = state
        actions: list[Action] = []
        copies = self._bounds[2]
        before = -1
        for number in flying:
            if number != before:
                before = number
                to = self._message[number][0]
                place = places[to]
                if self._local[place][2] and self._step(to, place, (DELIVER, to, number)) != (place, ()):
                    actions.append((DELIVER, to, number))
                    if copies is not None and duplicates < copies:
                        actions.append((KEEP, to, number))
        for index, place in enumerate(places):
            _, timers, up, _ = self._local[place]
            if not up:
                if self._restarts:
                    actions.append((RESTART, index, None))
                continue
            if fires < self._bounds[0]:
                actions += [(FIRE, index, cid) for cid in timers]
            if crashes < self._bounds[1] and self._pids[index] in self._may_crash:
                actions.append((CRASH, index, None))
        return actions

    def _follow(self, state: State, action: Action) -> State:
        places, flying, fires, crashes, duplicates = state
        verb, index, what = action
        place, sent = self._step(index, places[index], action if verb != KEEP else (DELIVER, index, what))
        endless = self._bounds[2] is None
        if verb == DELIVER and not endless:
            at = bisect_left(flying, what)
            flying = flying[:at] + flying[at + 1 :]
        elif verb == FIRE:
            fires += 1
        elif verb == CRASH:
            crashes += 1
        elif verb == KEEP:
            duplicates += 1
        if sent:
            flying = tuple(sorted({*flying, *sent} if endless else flying + sent))
        return (*places[:index], place, *places[index + 1 :]), flying, fires, crashes, duplicates

    # --- Steps of processes ---

    def _step(self, index: int, place: int, action: Action) -> tuple[int, tuple[int, ...]]:
        key = (place, action)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = self._execute(index, place, action)
        return step

    def _execute(self, index: int, place: int, action: Action) -> tuple[int, tuple[int, ...]]:
        verb, _, what = action
        process, timers, _, incarnation = self._local[place]
        if verb == CRASH:
            return self._keep(process, (), False, incarnation), ()
        pid = self._pids[index]
        slot = self._world._slots[pid]
        output = slot.output
        output.clear()
        self.executed += 1
        if verb == RESTART:
            incarnation += 1
            slot.incarnation = incarnation
            process = slot.factory()
            process.init(pid, output)
        else:
            process = self._freezer.copy(process)
            if verb == FIRE:
                timers = tuple(cid for cid in timers if cid != what)
                process.handle(Timeout(), pid, what, output)
            else:
                _, sender, message, cid = self._message[what]
                process.handle(message, sender, cid, output)
        timers, sent = self._carry_out(slot, timers)
        return self._keep(process, timers, True, incarnation), sent

    def _carry_out(self, slot: Slot, timers: Timers) -> tuple[Timers, tuple[int, ...]]:
        running = dict.fromkeys(timers)
        sent: list[int] = []
        for to, message, cid, _ in slot.output.items:
            if to == slot.executor:
                if type(message) is StartTimer:
                    running[cid] = None
                elif type(message) is CancelTimer:
                    running.pop(cid, None)
                else:
                    raise _CantExplore(f"{slot.name} uses {type(message).__name__}, which explore() can't do yet")
            elif to is None:
                raise _CantExplore(f"{slot.name} persists, which explore() can't do yet")
            elif to in self._index:
                sent.append(self._post(slot.pid, to, message, cid))
        slot.output.clear()
        return tuple(sorted(running, key=repr)), tuple(sent)

    def _keep(self, process: Process | None, timers: Timers, up: bool, incarnation: int) -> int:
        if process is None:
            raise _CantExplore("explore() begins with processes that all run")
        key = (self._freezer.freeze(process), timers, up, incarnation)
        number = self._locals.get(key)
        if number is None:
            number = self._locals[key] = len(self._local)
            self._local.append((process, timers, up, incarnation))
        return number

    def _post(self, sender: Pid, to: Pid, message: Any, cid: CorrelationId | None) -> int:
        key = (sender, to, message, cid)
        number = self._messages.get(key)
        if number is None:
            number = self._messages[key] = len(self._message)
            self._message.append((self._index[to], sender, message, cid))
        return number

    # --- Checks, and the way to what they found ---

    def _check(self, state: State) -> None:
        places = state[0]
        if places in self._checked:
            return
        self._checked.add(places)
        processes = {pid: self._local[place][0] for pid, place in zip(self._pids, places, strict=True)}
        for check in self._world._always:
            check(processes)

    def _path(
        self, parents: dict[State, tuple[State, Action] | None], came: tuple[State, Action] | None
    ) -> list[Action]:
        path = []
        while came is not None:
            path.append(came[1])
            came = parents[came[0]]
        return path[::-1]

    def _to_schedule(self, path: list[Action]) -> Schedule:
        """The same on a real world, which has names for what happens."""
        world = self._schedule.world()
        with contextlib.suppress(Exception):  # that is the failure which this is about
            for action in path:
                self._perform(world, *action)
        schedule = self._schedule
        return Schedule(schedule.scenario, schedule.seed, schedule.parameters, tuple(world.choices))

    def _perform(self, world: Simulation, verb: str, index: int, what: Any) -> None:
        pid = self._pids[index]
        if verb == CRASH:
            world.crash(pid)
        elif verb == RESTART:
            world.restart(pid)
        elif verb == FIRE:
            world.fire(next(one for one in world.pending if one.kind == TIMER and _is_timer(one, pid, what)))
        else:
            _, sender, message, cid = self._message[what]
            found = next(
                one
                for one in world.pending
                if one.kind == MESSAGE
                and (one.to, one.sender, one.message, one.correlation_id) == (pid, sender, message, cid)
            )
            if verb == KEEP:
                world.duplicate(found)
            world.deliver(found)


def _is_timer(item: Pending, pid: Pid, cid: CorrelationId | None) -> bool:
    return item.to == pid and item.correlation_id == cid


def _commute(first: Action, second: Action) -> bool:
    """Whether the order makes no difference: different processes, and not two that draw on one bound."""
    if first[1] == second[1]:
        return False
    return first[0] == DELIVER or second[0] == DELIVER
