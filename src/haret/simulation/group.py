"""The scenario: a group of replicas, clients, all invariants, and what convergence means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from haret.vr import Configuration, Replica, Settings
from rabble_trio import NodeId, Pid
from rabble_trio.testing import Simulation, scenario

from .client import Administrator, Client, Load
from .invariants import ClientInvariants, ReplicaInvariants
from .machine import Ledger

if TYPE_CHECKING:
    from random import Random

ANSWERS = 3
"""Requests of each client that must be answered after the faults have stopped: the group not only stands, it serves."""

STABLE = 1.5
"""Seconds for which the view must then stay as it is: several times the longest patience of a replica."""


def node(name: str) -> NodeId:
    """Each actor has a node of its own, so that the network is between all of them."""
    return NodeId(name, "127.0.0.1:5000")


class Group:
    """A group in a simulation."""

    def __init__(
        self,
        simulation: Simulation,
        replicas: int,
        clients: int,
        kind: type[Replica] = Replica,
        durable: bool = True,
        spares: int = 0,
        gather: bool = False,
    ) -> None:
        self.durable = durable
        self.simulation = simulation
        self.kind = kind
        self.replicas = tuple(Pid(f"r{i}", node(f"r{i}")) for i in range(replicas + spares))
        self.clients = tuple(Pid(f"c{i}", node(f"c{i}")) for i in range(clients))
        self.configuration = Configuration(0, self.replicas[:replicas])
        self.spares = spares
        self.admin = Pid("admin", node("admin"))
        self.settings = draw_settings(simulation.random("settings"), gather)
        self.load = draw_load(simulation.random("load"))
        self.invariants = ReplicaInvariants(self.configuration.quorum)
        self.history = ClientInvariants()
        simulation.check(self.invariants)
        simulation.check(self.history)
        for pid in self.replicas:
            simulation.spawn(pid, lambda pid=pid: self._replica(pid), journal=True)  # type: ignore[misc]
        for pid in self.clients:
            simulation.spawn(pid, lambda pid=pid: self._client(pid))  # type: ignore[misc]
        minority = (replicas - 1) // 2
        friends = self.clients
        if spares:
            # The members change, so who is a minority changes, too: all disks hold.
            chance = simulation.random("admin")
            simulation.spawn(self.admin, lambda: Administrator(self.replicas, replicas, chance))
            friends = (*friends, self.admin)
            simulation.may_crash(self.replicas, at_once=len(self.replicas))
        elif durable:
            # All may crash at once, as often as they like; a minority may have lost their disks and not be back yet.
            simulation.may_crash(self.replicas, at_once=replicas)
            simulation.may_damage(self.replicas, at_once=minority, recovered=self._recovered)
        else:
            # A replica that crashed counts as lost until it has recovered.
            simulation.may_crash(self.replicas, at_once=replicas, total=minority)
        simulation.converges(self.converged, self.core, friends)
        # How things were when the faults stopped: at which choice that was, newest op; by client: answers, open requests.
        self._mark = -1
        self._op = 0
        self._view, self._since = (-1, -1), 0.0  # the view that a quorum is in, and since when
        self._answered: list[int] = []
        self._waited: list[set[tuple[int | None, int]]] = []

    def _replica(self, pid: Pid) -> Replica:
        incarnation = self.simulation.incarnation(pid)
        return self.kind(
            self.configuration,
            Ledger(),
            self.simulation.random(f"{pid.name}/{incarnation}"),
            self.settings,
            # Whatever never was on the disk never left the replica, so it is as good as new.
            fresh=self.simulation.durable(pid) == 0,
            durable=self.durable,
            incarnation=incarnation,
        )

    def _recovered(self, pid: Pid) -> bool:
        replica = self.replica(pid)
        return replica is not None and replica.status == "normal" and replica.context.settled

    def _client(self, pid: Pid) -> Client:
        return Client(pid.name.encode(), self.replicas, self.simulation.random(pid.name), self.load)

    def replica(self, pid: Pid) -> Replica | None:
        """The replica itself, if it runs."""
        process = self.simulation.process(pid)
        return process if isinstance(process, Replica) else None

    def healthy(self) -> list[Pid]:
        """Replicas that count: they remember all they ever promised, or will when they run again."""
        if self.durable:
            return [pid for pid in self.replicas if not self.simulation.damaged(pid)]
        found = [(pid, self.replica(pid)) for pid in self.replicas]
        return [pid for pid, replica in found if replica is not None and replica.status != "recovering"]

    def core(self, random: Random) -> Iterable[Pid]:
        """A quorum, or more, of healthy replicas; if it is all of them, with those that have yet to recover."""
        if self.spares:
            return self.replicas
        healthy = self.healthy()
        size = self.configuration.quorum + int(random.random() * (len(healthy) - self.configuration.quorum + 1))
        if size >= len(healthy):
            return self.replicas
        drawn = sorted((random.random(), pid) for pid in healthy)[:size]
        return sorted(pid for _, pid in drawn)

    def converged(self) -> bool:
        """Invariant 17: a quorum stays normal in one view, has all that there was, and clients get their answers."""
        self._begin_to_converge()
        states = [replica for pid in self.replicas if (replica := self.replica(pid)) is not None]
        normal = [state.context for state in states if state.status == "normal" and state.context.commit >= self._op]
        views = [(one.epoch, one.view) for one in normal]
        view = max(views, key=views.count, default=(-1, -1))
        quorum = max((one.quorum for one in normal if (one.epoch, one.view) == view), default=1)
        if views.count(view) < quorum or view != self._view:
            self._view, self._since = view, self.simulation.now
            return False
        if self.simulation.now - self._since < STABLE:
            return False
        return all(
            client.answered >= before + ANSWERS and waited.isdisjoint(_waiting(client))
            for client, before, waited in zip(self._client_processes(), self._answered, self._waited, strict=True)
        )

    def _begin_to_converge(self) -> None:
        mark = len(self.simulation.history)
        if mark != self._mark:
            self._mark = mark
            self._view = (-1, -1)
            self._op = len(self.invariants.committed)
            self._answered = [client.answered for client in self._client_processes()]
            self._waited = [_waiting(client) for client in self._client_processes()]

    def _client_processes(self) -> list[Client]:
        return [client for pid in self.clients if isinstance(client := self.simulation.process(pid), Client)]


def _waiting(client: Client) -> set[tuple[int | None, int]]:
    """The requests that a client waits for."""
    return {(client.session, number) for number in client.waiting}


def draw_settings(random: Random, gather: bool) -> Settings:
    """Limits so small that they are reached, in some runs."""

    def one_of(*values: int) -> int:
        return values[int(random.random() * len(values))]

    return Settings(
        pipeline=one_of(1, 2, 3),
        batch_entries=one_of(1, 2, 3, 1000),
        max_sessions=one_of(2, 10, 10),
        max_uncommitted=one_of(3, 1000),
        checkpoint_ops=one_of(3, 10, 50, 1000),
        checkpoint_step=one_of(1, 3),
        max_unsynced=one_of(3, 1000),
        rest_after=float(one_of(0, 0, 1)) / 5,
        gather=gather,
        # Waiting for others takes longer than a client's tick now and then; portions are smaller than batches.
        gather_wait=0.02,
        gather_least=one_of(1, 2, 3) if gather else 1,
        answer_batch=one_of(1, 2, 1000) if gather else 1,
    )


def draw_load(random: Random) -> Load:
    """How busy the clients are."""
    chance = random.random
    return Load(
        tick=0.01 + 0.05 * chance(),
        appetite=0.3 + 0.6 * chance(),
        window=1 + int(6 * chance()),
        patience=2 + int(8 * chance()),
        chatter=0.2 * chance() if chance() < 0.3 else 0.0,
        reads=0.5 * chance() if chance() < 0.7 else 0.0,
    )


@scenario
def group(
    simulation: Simulation,
    *,
    replicas: int = 3,
    clients: int = 2,
    durable: bool = True,
    spares: int = 0,
    gather: bool = False,
) -> None:
    """A group of replicas with journals, and clients, under all invariants.

    `durable`: whether the log is in the journals, too. `spares`: replicas beside the group that take turns in it.
    `gather`: see `haret.vr.Settings`.
    """
    Group(simulation, replicas, clients, durable=durable, spares=spares, gather=gather)
