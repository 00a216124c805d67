"""Many runs of the scenario, one seed after the other, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from haret.vr import Replica
from rabble_trio.testing import ScenarioFailed, Simulation, run_scenario

from .client import Client
from .group import group

if TYPE_CHECKING:
    from rabble_trio.testing import Schedule


@dataclass(slots=True)
class Campaign:
    """So many runs. Iterate over `run`; the fields tell what has happened so far."""

    seed: int
    """The first run's; the next one has the next number."""
    runs: int
    """How many."""
    steps: int
    """Choices in each, with faults; then the faults stop, and the group must converge."""
    replicas: int = 3
    """In the group."""
    clients: int = 2
    """Beside it."""
    durable: bool = True
    """Whether the logs are in the journals, too."""
    spares: int = 0
    """Replicas that take turns in the group."""
    done: int = 0
    """Runs that went well."""
    receipts: int = 0
    """Messages and timers that processes handled."""
    seconds: float = 0.0
    """Virtual time."""
    answers: int = 0
    """Requests that were answered."""
    views: int = 0
    """View changes: the sum over all runs of the latest view."""
    faults: dict[str, int] = field(default_factory=dict)
    """What went wrong on purpose, by kind."""
    failed: Schedule | None = None
    """The run that went wrong, if one did; it was the last."""
    cause: BaseException | None = None
    """What was wrong."""

    def run(self) -> Iterator[int]:
        """Do the runs; yields each seed that went well, and ends at the first that does not."""
        parameters = {
            "replicas": self.replicas,
            "clients": self.clients,
            "durable": self.durable,
            "spares": self.spares,
        }
        for seed in range(self.seed, self.seed + self.runs):
            try:
                world = run_scenario(group, seed, self.steps, parameters={**parameters, "gather": seed % 2 == 1})
            except ScenarioFailed as error:
                self.failed, self.cause = error.schedule, error.__cause__
                return
            self._add(world)
            yield seed

    def _add(self, world: Simulation) -> None:
        self.done += 1
        self.receipts += world.steps
        self.seconds += world.now
        for name, count in world.counts.items():
            self.faults[name] = self.faults.get(name, 0) + count
        processes = [world.process(pid) for pid in world.pids]
        self.views += max((one.context.view for one in processes if isinstance(one, Replica)), default=0)
        self.answers += sum(one.answered for one in processes if isinstance(one, Client))
