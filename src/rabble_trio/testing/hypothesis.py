"""Simulations driven by Hypothesis, which is not a dependency of this package: install it to import this module.

Hypothesis chooses what happens and shortens what fails by itself; `schedules` gives it whole runs, `SimulationMachine`
single choices, to which a test adds rules of its own.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from .._ids import Pid
from ._choices import Crash
from ._faults import PROBABILITIES, Faults
from ._pending import MESSAGE, TIMER, Pending
from ._schedule import Scenario, Schedule
from ._simulation import Simulation

MAX_CHOICES: Final = 100
"""Choices in a schedule, unless the caller says otherwise: about as many as Hypothesis can shorten well."""

_VERBS: Final = ("happen", "happen", "happen", "drop", "duplicate", "crash", "restart", "cut", "heal", "damage")
"""What `schedules` draws from; most often something just happens."""


def faults() -> st.SearchStrategy[Faults]:
    """Mixtures of faults; the simplest is a world without any."""
    pairs = st.tuples(st.floats(0, 0.1), st.floats(0, 0.3))
    ratios = st.tuples(st.floats(0.1, 1), st.floats(1, 3))
    drawn: dict[str, st.SearchStrategy[Any]] = {"reordering": st.booleans()}
    for field in fields(Faults):
        if field.name in PROBABILITIES:
            drawn[field.name] = st.just(field.default) | st.floats(0, 1)
        elif field.name.endswith("_rate"):
            drawn[field.name] = st.just(0.0) | st.floats(0, 5)

    def make(latency: tuple[float, float], ratio: tuple[float, float], others: dict[str, Any]) -> Faults:
        low, more = latency
        return Faults(latency_min=low, latency_max=low + more, timer_min=ratio[0], timer_max=ratio[1], **others)

    exact = st.just((0.001, 0.0)) | pairs
    return st.builds(make, exact, st.just((1.0, 1.0)) | ratios, st.fixed_dictionaries(drawn))


@st.composite
def schedules(
    draw: st.DrawFn, made: Scenario, *, parameters: dict[str, Any] | None = None, max_choices: int = MAX_CHOICES
) -> Schedule:
    """Schedules of a scenario: any order of events, losses, copies, cuts, and crashes and damage to journals as far as the
    scenario allows them.

    Each is run while it is drawn, because what can be chosen depends on what happened. One that fails ends with the
    choice that fails, so a test replays what it gets: `schedule.replay()`.
    """
    start = Schedule(made, draw(st.integers(0, 2**16)), parameters or {})
    simulation = start.world()
    number = draw(st.integers(0, max_choices))
    try:
        for _ in range(number):
            _choose(simulation, draw(st.sampled_from(_VERBS)), draw(st.integers(0, 2**16)))
    except Exception:  # a failure of the processes or the checks: the replay raises it again
        pass
    return Schedule(made, start.seed, start.parameters, tuple(simulation.choices))


def _choose(simulation: Simulation, verb: str, number: int) -> None:
    """Make a choice, if there is any of this kind; `number` says which one."""
    if verb == "happen":
        if pending := simulation.pending:
            happen(simulation, pending[number % len(pending)])
    elif verb in ("drop", "duplicate"):
        if messages := [item for item in simulation.pending if item.kind == MESSAGE]:
            getattr(simulation, verb)(messages[number % len(messages)])
    elif verb in ("crash", "damage"):
        pids = simulation.crashable
        if verb == "damage":
            pids = [pid for pid in pids if pid in simulation.damageable()]
        if pids:
            pid = pids[number % len(pids)]
            simulation.crash(pid, _how(simulation, pid, number // len(pids), verb == "damage"))
    elif verb == "restart":
        if pids := [pid for pid in simulation.pids if not simulation.up(pid)]:
            simulation.restart(pids[number % len(pids)])
    elif verb == "cut":
        pids = simulation.pids
        some = pids[number % len(pids)]
        simulation.partition([some], [pid for pid in pids if pid != some], one_way=number % 3 == 0)
    else:
        simulation.heal()


def _how(simulation: Simulation, pid: Pid, number: int, damages: bool) -> Crash:
    """A crash, which may harm the journal as far as the scenario allows it; 0 is the plainest."""
    number, keep = divmod(number, 3)
    if not damages:
        return Crash(keep=keep)
    details: list[dict[str, Any]] = [{"amnesia": True}, {"lose": 1 + number}, {"rot": 1 + number}]
    if pid in simulation.damageable(silent=True):
        details.append({"stale": 1 + number})
    return Crash(keep=keep, **details[number % len(details)])


def happen(simulation: Simulation, item: Pending) -> None:
    """Let it happen, whatever it is."""
    if item.kind == MESSAGE:
        simulation.deliver(item)
    elif item.kind == TIMER:
        simulation.fire(item)
    else:
        simulation.sync(item)


_NUMBER = st.integers(0, 2**16)


class SimulationMachine(RuleBasedStateMachine):
    """A state machine whose rules are the choices of a `Simulation`. Subclass it, and define `fill`; add rules as you like.

    A failing example is shown by Hypothesis, with the choices that were made as lines of a schedule.
    """

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation()
        self.fill(self.simulation)

    def fill(self, simulation: Simulation) -> None:
        """Spawn processes, add checks, say what may crash."""
        raise NotImplementedError(f"{type(self).__name__} must define fill()")

    def _messages(self) -> list[Pending]:
        return [item for item in self.simulation.pending if item.kind == MESSAGE]

    def _damageable(self) -> list[Pid]:
        damageable = self.simulation.damageable()
        return [pid for pid in self.simulation.crashable if pid in damageable]

    def _down(self) -> list[Pid]:
        return [pid for pid in self.simulation.pids if not self.simulation.up(pid)]

    @precondition(lambda self: self.simulation.pending)
    @rule(number=_NUMBER)
    def happen(self, number: int) -> None:
        """A message arrives, a timer fires, or a journal syncs."""
        pending = self.simulation.pending
        happen(self.simulation, pending[number % len(pending)])

    @precondition(lambda self: self._messages())
    @rule(number=_NUMBER)
    def drop(self, number: int) -> None:
        """A message is lost."""
        messages = self._messages()
        self.simulation.drop(messages[number % len(messages)])

    @precondition(lambda self: self._messages())
    @rule(number=_NUMBER)
    def duplicate(self, number: int) -> None:
        """A message will arrive twice."""
        messages = self._messages()
        self.simulation.duplicate(messages[number % len(messages)])

    @precondition(lambda self: self.simulation.crashable)
    @rule(number=_NUMBER)
    def crash(self, number: int) -> None:
        """A process that may crash does."""
        pids = self.simulation.crashable
        pid = pids[number % len(pids)]
        self.simulation.crash(pid, _how(self.simulation, pid, number // len(pids), False))

    @precondition(lambda self: self._damageable())
    @rule(number=_NUMBER)
    def damage(self, number: int) -> None:
        """A process crashes, and its journal is damaged."""
        pids = self._damageable()
        pid = pids[number % len(pids)]
        self.simulation.crash(pid, _how(self.simulation, pid, number // len(pids), True))

    @precondition(lambda self: self._down())
    @rule(number=_NUMBER)
    def restart(self, number: int) -> None:
        """A process that is down comes back."""
        pids = self._down()
        self.simulation.restart(pids[number % len(pids)])

    @rule(number=_NUMBER, one_way=st.booleans())
    def cut(self, number: int, one_way: bool) -> None:
        """A process is cut off."""
        pids = self.simulation.pids
        some = pids[number % len(pids)]
        self.simulation.partition([some], [pid for pid in pids if pid != some], one_way=one_way)

    @rule()
    def heal(self) -> None:
        """All paths work again."""
        self.simulation.heal()

    def teardown(self) -> None:
        """Show what happened."""
        note("\n".join(choice.to_line() for choice in self.simulation.choices))
