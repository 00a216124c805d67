"""Processes for the tests of the flight recorder. Imported by name, because files name them."""

from __future__ import annotations

from functools import partial
from random import Random

from rabble_trio import CorrelationId, Persisted, Process, Timeout, message
from rabble_trio.testing import flight, scenario


@message(tag="flights.pay")
class Pay:
    """An amount of 13 is what the till can't bear; that is what the tests wait for."""

    amount: int
    note: bytes = b""


@message(tag="flights.total")
class Total:
    amount: int


@message(tag="flights.loose")
class Loose:
    """Its field may hold what the wire refuses."""

    items: tuple[int, ...]


class Till(Process):
    """Adds up and persists; a timer closes it, after which it starts another."""

    def __init__(self, tip: int = 0) -> None:
        self.tip = tip
        self.total = 0
        self.durable = 0
        self.closings: list[int] = []

    def restore(self, snapshot, records):
        self.total = sum(int(record) for record in records)
        if self.total == 1300:
            raise ValueError("restored from what can't be")

    def init(self, pid, output):
        self.pid = pid
        output.start_timer(0.0, CorrelationId(pid, 1))

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Pay(amount):
                self.total += amount + self.tip
                output.persist(b"%d" % amount)
                output.send(sender, Total(self.total), correlation_id)
                if amount == 13:
                    raise ValueError(f"unlucky at {self.total}, {self.durable} durable")
            case Timeout():
                self.closings.append(correlation_id.connection)
                if len(self.closings) < 3:
                    output.start_timer(0.0, CorrelationId(self.pid, 1 + len(self.closings)))
            case Persisted(count):
                self.durable = count


class Plain(Process):
    """Adds up, and nothing else."""

    def __init__(self) -> None:
        self.total = 0

    def handle(self, message, sender, correlation_id, output):
        if isinstance(message, Pay):
            self.total += message.amount
            output.send(sender, Total(self.total), correlation_id)
            if message.amount == 13:
                raise ValueError(f"unlucky at {self.total}")


class Lottery(Process):
    """Draws a number for each payment. Two of one seed do the same."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.drawn: list[int] = []

    def handle(self, message, sender, correlation_id, output):
        if isinstance(message, Pay):
            self.drawn = [*self.drawn, self.random.randrange(1000)][-3:]
            if message.amount == 13:
                raise ValueError(f"drew {self.drawn}")


def lottery(source: Random) -> Lottery:
    """A factory that draws a seed, and says so."""
    seed = source.getrandbits(32)
    made = Lottery(seed)
    made.flight_recipe = partial(Lottery, seed)
    return made


class Stateful(Plain):
    """Gives its state, and has a timer for each payment that ends in 0."""

    asked = 0

    def init(self, pid, output):
        assert not self.total, "who is resumed is not initialised"

    def handle(self, message, sender, correlation_id, output):
        if isinstance(message, Timeout):
            self.total += 1000
            return
        if isinstance(message, Pay) and message.amount % 10 == 0:
            output.start_timer(0.0, CorrelationId(output.pid, message.amount))
        if isinstance(message, Pay) and message.note == b"keep":
            output.persist(message.note)
        super().handle(message, sender, correlation_id, output)

    def flight_state(self):
        type(self).asked += 1
        total = self.total
        return lambda: b"%d" % total

    @classmethod
    def from_flight_state(cls, state):
        made = cls()
        made.total = int(state)
        return made


@scenario
def with_plain(simulation, *, unknown, **recorded):
    """For a process whose factory has no name."""
    flight(simulation, make=Plain, **recorded)
