"""Every order in which things can happen, within bounds, on the real processes.

Rules:

1. A state of the world is: the place of each process (`_steps`), the messages under way (as a multiset), and how much of
   each bound is used up. States that are equal are visited once.
2. From each state every choice is made: deliver any message, fire any timer (`fires` in all), let any records or snapshot
   become durable, crash any process that may crash (`crashes` in all), with any of its records that are not durable or
   without its whole journal (`amnesia` in all), restart one that is down, deliver a message and keep a copy (`duplicates`
   in all, or without bound: then messages never go away). A message that is never delivered is a lost one, so losses need
   no choice of their own; and a delivery that changes nothing is as good as a loss, so it is not followed.
3. A step of a process depends on nothing but its place and the action. So each is executed once and remembered: the
   number of steps that are really executed is far below the number of transitions.
4. States are visited in the order of their depth, so the first violation is a shortest one.
5. Choices that concern different processes commute, so of the two orders only one is followed to the end (sleep sets:
   Godefroid 1996, chapter 5). All states are visited nevertheless, each at its least depth. For suppose that all shortest
   ways to a state have a choice that sleeps where it comes up. Take the way that always prefers what is followed
   earlier. Each state on it was found by it, because states are left in the order in which they were found. The choice
   sleeps because it was followed before another one further up the way, and commutes with all since: made there it gives
   a way that is preferred to the one taken. So it need not be known what sleeps when a state is reached once more.

What is checked is what the scenario declares by `Simulation.always`: it speaks about states, not about histories. Time is
not here: a timer may fire at any moment. Nor is damage but amnesia, nor are crashes in the middle of a step: what is sent
before one and never arrives is lost, which is covered.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal

from .._ids import CorrelationId, Pid
from .._messages import Down
from ._freeze import Freezer
from ._pending import MESSAGE, TIMER, Pending
from ._schedule import Scenario, Schedule
from ._simulation import Simulation
from ._steps import (
    CRASH,
    DELIVER,
    FIRE,
    KEEP,
    RESTART,
    SNAPSHOT,
    SYNC,
    Action,
    More,
    Steps,
    local_of,
    sync_eagerly,
)

MAX_STATES: Final = 2_000_000
"""States that are remembered at most, about 1 KB each; then the exploration ends as incomplete."""

UNBOUNDED: Final = frozenset({DELIVER, RESTART, SYNC, SNAPSHOT})
"""What may be done any number of times."""

Used = tuple[int, int, int, int]
"""Fires, crashes, duplicates and amnesias so far."""
State = tuple[tuple[int, ...], tuple[int, ...], Used]
"""Places of the processes, messages under way (sorted), and how much of each bound is used up."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What `explore` was told."""

    fires: int
    crashes: int
    duplicates: int | None
    amnesia: int
    restarts: bool


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
    amnesia: int = 0,
    restarts: bool = True,
    sync: Literal["chosen", "eager"] = "chosen",
    ignore: Iterable[str] = (),
    max_states: int = MAX_STATES,
    reduce: bool = True,
) -> Exploration:
    """Visit every state that the scenario can reach within the bounds.

    `depth`: how many choices in a row (None: any number). `fires`, `crashes`, `duplicates`: how often in all
    (`duplicates` may be None, which is any number, and makes fewer states). `amnesia`: how many of the crashes may lose
    the whole journal, of a process that `Simulation.may_damage` names. `restarts`: whether a process that crashed may
    come back; without, what is durable makes no difference, which makes far fewer states of processes that persist.
    `sync`: when records and snapshots become durable, "chosen" at any later time, or "eager", at once, together with
    what the process does when it hears of it; that makes far fewer states, and a crash loses nothing. `ignore`: names
    of attributes of processes, or of objects in them, that make no difference. `reduce`: whether to leave out
    transitions that lead to no new state (rule 5), which needs processes that share nothing. Raises `TypeError` if a
    process is down at the beginning, and `ValueError` for bounds that make no sense.
    """
    if depth is not None and depth < 0:
        raise ValueError(f"a depth is 0 or more, not {depth}")
    if sync not in ("chosen", "eager"):
        raise ValueError(f'sync is "chosen" or "eager", not {sync!r}')
    bounds = Bounds(fires, crashes, duplicates, amnesia, restarts)
    explorer = _Explorer(Schedule(made, 0, parameters or {}), frozenset(ignore), bounds, sync == "eager")
    return explorer.run(depth, max_states, reduce)


class _Explorer:
    def __init__(self, schedule: Schedule, ignore: frozenset[str], bounds: Bounds, eager: bool) -> None:
        self._schedule = schedule
        self._bounds = bounds
        self._eager = eager
        self._world = world = schedule.world()
        if bounds.amnesia and not world._damage_limits:
            raise ValueError("amnesia happens to processes that Simulation.may_damage names, and there are none")
        if eager:
            sync_eagerly(world, world.pids)
        self._pids = world.pids
        self._steps = Steps(world, Freezer(ignore), eager, bounds.restarts)
        self._checked: set[tuple[int, ...]] = set()

    # --- The search ---

    def run(self, depth: int | None, max_states: int, reduce: bool) -> Exploration:
        began = perf_counter()
        first = self._first()
        parents: dict[State, tuple[State, Action] | None] = {first: None}
        nothing: frozenset[Action] = frozenset()
        todo = [(first, nothing)]  # states to leave, and what sleeps in them
        transitions = level = deepest = 0
        failure: Exception | None = None
        full = False
        at: tuple[State, Action] | None = None
        try:
            self._check(first)
            while todo and not full and (depth is None or level < depth):
                level += 1
                following: list[tuple[State, frozenset[Action]]] = []
                for state, sleeping in todo:
                    followed: list[Action] = []
                    for action in self._actions(state):
                        if action in sleeping:
                            continue
                        at = (state, action)
                        new = self._follow(state, action)
                        transitions += 1
                        if new not in parents:
                            parents[new] = at
                            deepest = level
                            self._check(new)
                            asleep = self._still_asleep(state, action, sleeping, followed) if reduce else nothing
                            following.append((new, asleep))
                        if reduce:
                            followed.append(action)
                    full = len(parents) >= max_states
                    if full:
                        break
                todo = following
        except Exception as error:
            failure = error
        return Exploration(
            complete=not full and failure is None,
            states=len(parents),
            transitions=transitions,
            deepest=deepest,
            local_states=len(self._steps.locals),
            steps=self._steps.executed,
            seconds=perf_counter() - began,
            failure=failure,
            schedule=None if failure is None else self._to_schedule(self._path(parents, at)),
        )

    def _first(self) -> State:
        steps, world = self._steps, self._world
        places = tuple(steps.keep(local_of(steps, world._slots[pid])) for pid in self._pids)
        flying: list[int] = []
        for item in world._items:
            if item.kind == MESSAGE:
                kind = type(item.message) if item.sender is item.slot.executor else None
                insort(flying, steps.post(item.sender, item.to, item.message, item.correlation_id, kind))
        return places, tuple(flying), (0, 0, 0, 0)

    def _actions(self, state: State) -> list[Action]:
        places, flying, (fires, crashes, duplicates, amnesias) = state
        bounds, steps = self._bounds, self._steps
        messages, deliveries, copies = steps.messages, steps.deliveries, bounds.duplicates
        actions: list[Action] = []
        before = -1
        for number in flying:
            if number != before:
                before = number
                to, _, _, _, kind = messages[number]
                key = (places[to], number)
                action = deliveries[key] if key in deliveries else steps.delivery(*key)
                if action is not None:
                    actions.append(action)
                    if copies is not None and duplicates < copies and kind is None:
                        actions.append((KEEP, to, number))
        may_fire, may_crash, may_forget = fires < bounds.fires, crashes < bounds.crashes, amnesias < bounds.amnesia
        for place in places:
            own = steps.choices(place)
            if own.syncs:
                actions += own.syncs
            if may_fire:
                actions += own.fires
            if may_crash:
                actions += own.crashes
                if may_forget:
                    actions += own.amnesia
            if own.restarts and bounds.restarts:
                actions += own.restarts
        return actions

    def _follow(self, state: State, action: Action) -> State:
        places, flying, used = state
        verb, index, what = action
        place, sent, more = self._steps.step(places[index], action if verb != KEEP else (DELIVER, index, what))
        endless = self._bounds.duplicates is None
        if verb == DELIVER:
            if not endless or self._steps.messages[what].kind is not None:
                flying = _without(flying, what)
        elif verb not in UNBOUNDED:
            fires, crashes, duplicates, amnesias = used
            forgets = verb == CRASH and what is not None and what.amnesia
            used = (fires + (verb == FIRE), crashes + (verb == CRASH), duplicates + (verb == KEEP), amnesias + forgets)
        if sent:
            flying = tuple(sorted({*flying, *sent} if endless else flying + sent))
        places = (*places[:index], place, *places[index + 1 :])
        if more is not None:
            places, flying = self._reach_others(places, flying, index, more)
        return places, flying, used

    def _reach_others(
        self, places: tuple[int, ...], flying: tuple[int, ...], index: int, more: More
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the runtime tells processes after a step of one of them."""
        steps = self._steps
        now, notices = list(places), list(flying)
        for other, notice in more.asked:
            if other < 0 or not (other == index or steps.locals[now[other]].up):
                notices.append(notice)
                now[index] = steps.unwatch(now[index], other)
        for notice in more.told:
            kind = steps.messages[notice].kind
            notices = [one for one in notices if not self._is_notice(one, index, kind)]
            notices.append(notice)
        if more.ended:
            notices = [one for one in notices if not self._is_notice(one, index)]
            for other, place in enumerate(now):
                if index in steps.locals[place].watching:
                    now[other] = steps.unwatch(place, index)
                    notices.append(steps.notice(other, Down(self._pids[index], more.ended)))
        return tuple(now), tuple(sorted(set(notices) if self._bounds.duplicates is None else notices))

    def _is_notice(self, number: int, to: int, kind: type | None = None) -> bool:
        message = self._steps.messages[number]
        return message.to == to and message.kind is not None and (kind is None or message.kind is kind)

    # --- Reduction ---

    def _still_asleep(
        self, state: State, action: Action, sleeping: frozenset[Action], followed: list[Action]
    ) -> frozenset[Action]:
        """What need not be followed after `action`, because it was, or will be, followed before it."""
        _, index, _ = action
        bound = None if action[0] in UNBOUNDED else action[0]
        found = [one for one in (*sleeping, *followed) if one[1] != index and one[0] != bound]
        if found and self._steps.monitors:
            found = [
                one for one in found if not (self._touches(state, one, action) or self._touches(state, action, one))
            ]
        return frozenset(found)

    def _touches(self, state: State, first: Action, second: Action) -> bool:
        """Whether the first asks or hears about the process of the second, and that one starts or ends."""
        other = self._outcome(state, second)
        if second[0] != RESTART and (other is None or not other.ended):
            return False
        if first[0] == DELIVER:
            message = self._steps.messages[first[2]].message
            if type(message) is Down and message.pid == self._pids[second[1]]:
                return True  # without bound for copies, two that say the same are one
        more = self._outcome(state, first)
        return more is not None and second[1] in more.touched

    def _outcome(self, state: State, action: Action) -> More | None:
        verb, index, what = action
        return self._steps.step(state[0][index], action if verb != KEEP else (DELIVER, index, what))[2]

    # --- Checks, and the way to what they found ---

    def _check(self, state: State) -> None:
        places = state[0]
        if places in self._checked:
            return
        self._checked.add(places)
        processes = {pid: self._steps.locals[place].process for pid, place in zip(self._pids, places, strict=True)}
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
        if self._eager:
            sync_eagerly(world, world.pids)
        with contextlib.suppress(Exception):  # that is the failure which this is about
            for action in path:
                self._perform(world, *action)
                if self._eager:
                    sync_eagerly(world, [self._pids[action[1]]])
        schedule = self._schedule
        return Schedule(schedule.scenario, schedule.seed, schedule.parameters, tuple(world.choices))

    def _perform(self, world: Simulation, verb: str, index: int, what: Any) -> None:
        pid = self._pids[index]
        if verb == CRASH:
            world.crash(pid, what)
        elif verb == RESTART:
            world.restart(pid)
        elif verb == FIRE:
            world.fire(next(one for one in world.pending if one.kind == TIMER and _is_timer(one, pid, what)))
        elif verb in (SYNC, SNAPSHOT):
            world.sync(next(one for one in world.pending if one.kind == verb and one.to == pid))
        else:
            _, sender, message, cid, _ = self._steps.messages[what]
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


def _without(flying: tuple[int, ...], number: int) -> tuple[int, ...]:
    at = bisect_left(flying, number)
    return flying[:at] + flying[at + 1 :]
