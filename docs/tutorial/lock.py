"""A lock server, and clients that want the lock: broken, unless `tickets` is true."""

from __future__ import annotations

from rabble_trio import CorrelationId, NodeId, Outbox, Pid, Process, Timeout, message
from rabble_trio.testing import Simulation, scenario


@message
class Acquire:
    """May I have the lock?"""


@message
class Granted:
    """You have it."""

    ticket: int


@message
class Release:
    """I no longer need it."""

    ticket: int


class Server(Process):
    """Gives the lock to one client after the other."""

    def __init__(self, tickets: bool) -> None:
        self.tickets = tickets
        self.ticket = 0
        self.holder: Pid | None = None
        self.waiting: list[Pid] = []

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Acquire() if sender != self.holder and sender not in self.waiting:
                self.waiting.append(sender)
            case Release(ticket) if ticket == self.ticket or not self.tickets:
                self.holder = None
        if self.holder is None and self.waiting:
            self.holder = self.waiting.pop(0)
            self.ticket += 1
            output.send(self.holder, Granted(self.ticket))


class Client(Process):
    """Takes the lock again and again, and keeps it for a while."""

    def __init__(self, server: Pid) -> None:
        self.server = server
        self.newest = 0
        self.holds = False

    def init(self, pid: Pid, output: Outbox) -> None:
        output.send(self.server, Acquire())

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Granted(ticket) if ticket > self.newest:
                self.newest = ticket
                self.holds = True
                output.start_timer(0.1)
            case Timeout():
                self.holds = False
                output.send(self.server, Release(self.newest))
                output.send(self.server, Acquire())


@scenario
def clients(simulation: Simulation, *, tickets: bool = False) -> None:
    """Two clients and a server. At most one client holds the lock."""
    server, *pids = (Pid(name, NodeId(name, "127.0.0.1:5000")) for name in ("server", "ann", "bob"))
    simulation.spawn(server, lambda: Server(tickets))
    for pid in pids:
        simulation.spawn(pid, lambda: Client(server))

    def check(_: object) -> None:
        holders = [pid.name for pid in pids if getattr(simulation.process(pid), "holds", False)]
        assert len(holders) <= 1, f"{' and '.join(holders)} hold the lock"

    simulation.check(check)
