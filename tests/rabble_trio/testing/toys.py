"""Small worlds for the tests of rabble_trio.testing. Imported by name, because saved schedules name their scenarios."""

from __future__ import annotations

from rabble_trio import CorrelationId, Down, NodeId, Persisted, Pid, Process, Shutdown, Snapshotted, Timeout, message
from rabble_trio.testing import Simulation, scenario


@message(tag="toys.add")
class Add:
    number: int


@message(tag="toys.sum")
class Sum:
    total: int


def pid(name: str, node: int = 1) -> Pid:
    return Pid(name, NodeId(f"n{node}", f"127.0.0.1:{5000 + node}"))


CLIENT = pid("client", 9)
A, B, C = (pid(name, number) for number, name in enumerate("abc", 1))


class Adder(Process):
    """Adds up what it gets, and answers with the sum. With a peer it passes everything on; it may have a timer."""

    def __init__(self, peer: Pid | None = None, timer: float | None = None) -> None:
        self.peer = peer
        self.timer = timer
        self.numbers: list[int] = []
        self.timeouts = 0
        self.downs: list[Down] = []
        self.shut = False

    def init(self, pid, output):
        self.pid = pid
        if self.timer is not None:
            output.start_timer(self.timer, CorrelationId(pid, 1))

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Add(number):
                self.numbers.append(number)
                if self.peer is not None:
                    output.send(self.peer, message)
                output.send(sender, Sum(sum(self.numbers)), correlation_id)
            case Timeout():
                self.timeouts += 1
                output.start_timer(self.timer, CorrelationId(self.pid, 1))
            case Down():
                self.downs.append(message)
            case Shutdown():
                self.shut = True


class Account(Process):
    """A sum that survives crashes: each number is persisted before the answer leaves."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.restored: list[bytes] = []

    def restore(self, snapshot, records):
        self.restored = list(records)
        self.numbers = [int(number) for number in snapshot.split()] if snapshot else []
        self.numbers += [int(record) for record in records]

    def handle(self, message, sender, correlation_id, output):
        if isinstance(message, Add):
            output.send(sender, Sum(0))  # stands before the barrier
            self.numbers.append(message.number)
            output.persist(b"%d" % message.number)
            output.send(sender, Sum(sum(self.numbers)))
            output.send(sender, Sum(-1), held=False)
            if len(self.numbers) % 3 == 0:
                numbers = tuple(self.numbers)
                output.snapshot(lambda: b" ".join(b"%d" % number for number in numbers))


class Teller(Account):
    """An account that can live with a damaged journal, and remembers what it was told about it."""

    def __init__(self) -> None:
        super().__init__()
        self.restored = None
        self.damage = ""
        self.told: list[Persisted | Snapshotted] = []

    def damaged(self, reason):
        self.damage = reason

    def handle(self, message, sender, correlation_id, output):
        super().handle(message, sender, correlation_id, output)
        if isinstance(message, Persisted | Snapshotted):
            self.told.append(message)


class Feeder(Adder):
    """Sends 1, 2, ... to an account."""

    def __init__(self, to: Pid) -> None:
        super().__init__(timer=0.01)
        self.to = to

    def handle(self, message, sender, correlation_id, output):
        super().handle(message, sender, correlation_id, output)
        if isinstance(message, Timeout):
            output.send(self.to, Add(self.timeouts))


@scenario
def remembering(simulation: Simulation) -> None:
    """A, which B feeds, must never forget what it said it has. Wrong if its disk is bad."""
    simulation.spawn(A, Teller, journal=True)
    simulation.spawn(B, lambda: Feeder(A))
    simulation.may_crash([A], at_once=1)
    simulation.may_damage([A], at_once=1, silent=True)
    said = 0

    def check(step):
        nonlocal said
        if step.pid == B and isinstance(step.message, Sum):
            said = max(said, step.message.total)
        if step.pid == A and step.event == "start":
            assert sum(step.process.numbers) >= said, f"forgot {said - sum(step.process.numbers)} of {said}"

    simulation.check(check)


@scenario
def in_order(simulation: Simulation, *, count: int = 3) -> None:
    """A sends 1, 2, ... to B, which insists on that order. Wrong as soon as the network reorders, loses or doubles."""

    class Sender(Process):
        def __init__(self) -> None:
            self.next = 1

        def init(self, pid, output):
            output.start_timer(0.01)

        def handle(self, message, sender, correlation_id, output):
            if isinstance(message, Timeout) and self.next <= count:
                output.send(B, Add(self.next))
                self.next += 1
                output.start_timer(0.01)

    simulation.spawn(A, Sender)
    simulation.spawn(B, Adder)
    simulation.may_crash([A], at_once=1)

    def check(step):
        if step.pid == B and step.event == "message":
            numbers = step.process.numbers
            assert numbers == list(range(1, len(numbers) + 1)), f"out of order: {numbers}"

    simulation.check(check)
    simulation.converges(lambda: not simulation.up(B) or len(simulation.process(B).numbers) == count)
