"""Schedules: what happened in a world, complete, so that it happens again.

A `Scenario` makes a world: which processes there are, which checks, what convergence means. A `Schedule` is a scenario's
name and parameters, a seed, and the list of choices. In a file the former is the first line, and each choice one more.

`run_scenario` lets a seed choose: a phase in which faults happen and the checks must hold (safety), then one without
faults in which the world must converge (liveness). What goes wrong is raised as `ScenarioFailed`, with the schedule.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ._choices import Choice, ScheduleError, _read_object
from ._faults import Faults
from ._simulation import Simulation

FORMAT: Final = 1
"""The version of schedule files that this release writes, and the only one that it reads."""

SUFFIX: Final = ".schedule"
"""The end of the names of schedule files."""

MAX_FILE: Final = 64 * 2**20
"""Bytes of the largest schedule file that is read: some hundred thousand choices."""


class Scenario:
    """A function that makes a world, decorated with `@scenario`. Call it like the function."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.name = f"{function.__module__}:{function.__qualname__}"
        """Where it is found: "module:function"."""
        self.__doc__ = function.__doc__

    def __call__(self, simulation: Simulation, **parameters: Any) -> None:
        self._function(simulation, **parameters)
        simulation.history.clear()  # what it chose itself is part of the world: every replay does it again

    def __repr__(self) -> str:
        return f"<scenario {self.name}>"


def scenario(function: Callable[..., None]) -> Scenario:
    """Decorator: this function fills a `Simulation`, given as its first argument, with processes and checks.

    It must be at the top level of a module, so that a saved schedule finds it; its other parameters are keywords whose
    values JSON knows.
    """
    return Scenario(function)


def find_scenario(name: str) -> Scenario:
    """The scenario called "module:function"; imports the module. Raises `ScheduleError`."""
    module_name, _, attribute = name.partition(":")
    if attribute and module_name == "__main__" and not hasattr(sys.modules["__main__"], attribute):
        raise ScheduleError(f"{name} was in the program that saved the schedule; move it to a module")
    try:
        found = getattr(import_module(module_name), attribute, None) if attribute else None
    except (ImportError, ValueError, TypeError) as error:
        raise ScheduleError(f"the scenario {name!r} can't be imported: {error}") from error
    if not isinstance(found, Scenario):
        raise ScheduleError(
            f"{name!r} is not a scenario: write module:function, and decorate the function with @scenario"
        )
    return found


@dataclass(frozen=True, slots=True)
class Schedule:
    """A complete run, as a value."""

    scenario: Scenario
    """What makes the world."""
    seed: int = 0
    """The simulation's seed; the processes may draw from it when they are made."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The scenario's."""
    choices: tuple[Choice, ...] = ()
    """What happened, in order."""
    note: str = ""
    """What this schedule is about, for people."""

    def world(self) -> Simulation:
        """The world as it was before the first choice."""
        simulation = Simulation(self.seed)
        self.scenario(simulation, **self.parameters)
        return simulation

    def replay(self, *, strict: bool = True, simulation: Simulation | None = None) -> Simulation:
        """Do it all again, and return the world as it is then. Raises what the processes and checks raise.

        `strict`: whether a choice that can't be made raises `ScheduleError`; otherwise it is left out. `simulation`: a
        world made by `world`, if the caller wants to keep it whatever happens.
        """
        simulation = simulation or self.world()
        for number, choice in enumerate(self.choices, 1):
            try:
                simulation.perform(choice)
            except ScheduleError as error:
                if strict:
                    raise ScheduleError(f"choice {number}: {error}") from error
        return simulation

    def failure(self) -> Exception | None:
        """What goes wrong when this is replayed; None if nothing does. Choices that can't be made are left out."""
        try:
            self.replay(strict=False)
        except Exception as error:
            return error
        return None

    def lines(self) -> Iterable[str]:
        """The lines of the file, without newlines."""
        head: dict[str, Any] = {"schedule": FORMAT, "scenario": self.scenario.name, "seed": self.seed}
        if self.parameters:
            head["parameters"] = self.parameters
        if self.note:
            head["note"] = self.note
        yield json.dumps(head, ensure_ascii=False)
        for choice in self.choices:
            yield choice.to_line()

    def save(self, path: Path | str) -> None:
        """Write the file."""
        Path(path).write_text("".join(f"{line}\n" for line in self.lines()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> Schedule:
        """Read the file, and import the scenario that it names. Raises `ScheduleError` or `OSError`."""
        path = Path(path)
        if path.stat().st_size > MAX_FILE:
            raise ScheduleError(f"{path} is larger than {MAX_FILE} bytes")
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ScheduleError(f"{path} is not text: {error}") from None
        return cls.from_lines(lines)

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> Schedule:
        """The reverse of `lines`; empty lines count for nothing. Raises `ScheduleError`."""
        head = _read_object(lines[0]) if lines else {}
        if head.get("schedule") != FORMAT:
            raise ScheduleError(f'a schedule begins with a line {{"schedule": {FORMAT}, "scenario": ...}}')
        name, seed, parameters = head.get("scenario"), head.get("seed", 0), head.get("parameters", {})
        if not isinstance(name, str) or type(seed) is not int or not isinstance(parameters, dict):
            raise ScheduleError('in the first line "scenario" is a string, "seed" an integer, "parameters" an object')
        choices = []
        for number, line in enumerate(lines[1:], 2):
            if line.strip():
                try:
                    choices.append(Choice.from_line(line))
                except ScheduleError as error:
                    raise ScheduleError(f"line {number}: {error}") from None
        return cls(find_scenario(name), seed, parameters, tuple(choices), str(head.get("note", "")))


class ScenarioFailed(Exception):
    """A run went wrong. What was raised is the `__cause__`; `schedule` is how it came about."""

    def __init__(self, schedule: Schedule, cause: Exception) -> None:
        shown = f"{type(cause).__name__}: {cause}"
        super().__init__(f"seed {schedule.seed}, after {len(schedule.choices)} choices: {shown}")
        self.schedule = schedule


def run_scenario(
    made: Scenario,
    seed: int,
    steps: int,
    *,
    parameters: dict[str, Any] | None = None,
    faults: Faults | None = None,
    settle: bool = True,
) -> Simulation:
    """One run: `steps` steps with faults, then, if `settle`, the world must converge. Returns it.

    `faults`: by default drawn from the seed. Raises `ScenarioFailed`.
    """
    parameters = parameters or {}
    simulation = Simulation(seed, faults or Faults.draw(Simulation(seed).random("faults")))
    try:
        made(simulation, **parameters)
        simulation.run(steps)
        if settle:
            simulation.settle()
    except Exception as error:
        schedule = Schedule(made, seed, parameters, tuple(simulation.choices))
        raise ScenarioFailed(schedule, error) from error
    return simulation


def replay_command(path: Path | str) -> str:
    """The command that replays a saved schedule."""
    return f"python -m rabble_trio.testing replay {path}"


def with_choices(schedule: Schedule, choices: Sequence[Choice]) -> Schedule:
    """The same schedule with other choices."""
    return replace(schedule, choices=tuple(choices))
