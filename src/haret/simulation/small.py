"""A group so small that every order of events can be tried, by `rabble_trio.testing.explore`.

What differs from production, to keep the number of states small: all jitter is gone, and a timer that fires stands for as
much silence as a replica is ready to bear. The clients' requests are under way when it begins; their session is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from haret.vr import Configuration, Replica, Settings
from haret.vr.messages import OpenSession, Request
from rabble_trio import CorrelationId, Outbox, Pid, Process, Timeout
from rabble_trio.testing import Exploration, Simulation, explore, scenario

from .group import node
from .invariants import InvariantBroken
from .machine import Ledger

IGNORE: Final = (
    *("counters", "random", "settings", "configuration", "observer"),
    *("_journal_bytes", "_bytes_since_image"),  # far from any limit here
)
"""Attributes of replicas that make no difference to what they do here: for `explore`."""

PATIENCE: Final = 2
"""Heartbeats of silence until a replica wishes for another view: the least that its settings allow."""

CLIENT: Final = Pid("client", node("client"))
"""Who sent the requests. It is outside, so replies to it don't matter."""


class _NoJitter:
    """A source of randomness without any."""

    def uniform(self, low: float, high: float) -> float:
        return low

    def getrandbits(self, bits: int) -> int:
        return 0


class Impatient(Replica):
    """A replica for which one timeout is a long silence."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """As `Replica.handle`; a timeout counts for several."""
        for _ in range(PATIENCE if type(message) is Timeout else 1):
            super().handle(message, sender, correlation_id, output)


def fill(simulation: Simulation, requests: int, kind: type[Replica] = Impatient) -> None:
    """Put three replicas into a simulation, and requests on their way: the first to r0, the second to r1, and so on."""
    pids = tuple(Pid(f"r{i}", node(f"r{i}")) for i in range(3))
    configuration = Configuration(0, pids)
    patience = float(PATIENCE)
    settings = Settings(heartbeat=1.0, primary_timeout_min=patience, primary_timeout_max=patience, gather=False)

    def replica(pid: Pid) -> Replica:
        random: Any = _NoJitter()
        incarnation = simulation.incarnation(pid)
        fresh = simulation.durable(pid) == 0
        return kind(configuration, Ledger(), random, settings, fresh=fresh, incarnation=incarnation)

    for pid in pids:
        simulation.spawn(pid, lambda pid=pid: replica(pid), journal=True)  # type: ignore[misc]
    # A session opens, everywhere.
    _settle(simulation)
    simulation.send(pids[0], OpenSession(b"client".ljust(16, b".")), sender=CLIENT)
    _settle(simulation)
    simulation.fire(simulation.find("r0 timer 1"))
    _settle(simulation)
    for number in range(1, requests + 1):
        simulation.send(pids[(number - 1) % 3], Request(1, number, 1, b"x%d" % number), sender=CLIENT)
    simulation.may_crash(pids, at_once=3)
    simulation.always(agreement)


def _settle(simulation: Simulation) -> None:
    """Deliver everything; the disks are as quick."""
    while items := [item for item in simulation.pending if item.kind in {"message", "sync"}]:
        item = next((one for one in items if one.kind == "sync"), items[0])
        if item.kind == "sync":
            simulation.sync(item)
        else:
            simulation.deliver(item)


def agreement(processes: Mapping[Pid, Process]) -> None:
    """Invariants 1 and 7, as far as they are about states: what was committed by anybody, also by one that crashed since,
    is what all others have committed there, and whoever is primary of the same or a later view has it. Invariant 11:
    nothing is executed twice.
    """
    replicas = [process for process in processes.values() if isinstance(process, Replica)]
    for one in replicas:
        done = one.context.log.slice(0, one.context.commit)
        machine = one.context.machine
        if isinstance(machine, Ledger):
            operations = [operation for _, operation, _ in machine.history]
            if len(set(operations)) < len(operations):
                raise InvariantBroken(11, f"an operation was executed twice: {operations}")
        for other in replicas:
            _compare(one, done, other)


def _compare(one: Replica, done: list[Any], other: Replica) -> None:
    mine, theirs = one.context, other.context
    common = min(mine.commit, theirs.commit)
    if theirs.log.slice(0, common) != done[:common]:
        raise InvariantBroken(1, f"two replicas committed different entries up to op {common}")
    leads = other.status == "normal" and theirs.is_primary(theirs.view) and theirs.view >= mine.last_normal_view
    if leads and theirs.log.slice(0, min(len(done), theirs.log.op)) != done:
        raise InvariantBroken(7, f"the primary of view {theirs.view} lacks an op up to {len(done)} that was committed")


@scenario
def small(simulation: Simulation, *, requests: int = 2) -> None:
    """Three replicas, and requests on their way."""
    fill(simulation, requests)


def explore_group(requests: int, fires: int, crashes: int, max_states: int) -> Exploration:
    """Try every order of events in it: any message lost, late or doubled at any time, so many timers that fire, so many
    replicas that crash for good. Two requests, two timers and a crash are three million states.
    """
    return explore(
        small,
        parameters={"requests": requests},
        fires=fires,
        crashes=crashes,
        duplicates=None,
        restarts=False,
        sync="eager",
        ignore=IGNORE,
        max_states=max_states,
    )
