"""Chain replication: each replica passes what it has to the next one, and the last one answers questions."""

from itertools import pairwise
from pathlib import Path

from rabble_trio import NodeId, Pid, Process, Timeout, message
from rabble_trio.testing import ScenarioFailed, Schedule, explore, minimize, run_scenario, scenario


@message
class Put:
    """The next value, from a replica to its successor."""

    number: int
    value: str


@message
class Have:
    """The answer: so many values are here."""

    number: int


class Replica(Process):
    """Passes its values on, one at each tick."""

    def __init__(self, successor, values=()):
        self.successor = successor
        self.values = list(values)
        self.sent = 0

    def init(self, pid, output):
        output.start_timer(0.1)

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Timeout():
                output.start_timer(0.1)
                if self.successor is not None and self.sent < len(self.values):
                    output.send(self.successor, Put(self.sent + 1, self.values[self.sent]))
                    self.sent += 1
            case Put():
                self.values.append(message.value)


CHAIN = [Pid(name, NodeId(name, "127.0.0.1:5000")) for name in ("head", "middle", "tail")]
VALUES = ("a", "b", "c")


def prefixes(processes):
    """What a replica has, its predecessor has, too, and in the same order."""
    for before, after in pairwise(CHAIN):
        if before in processes and after in processes:
            more, less = processes[before].values, processes[after].values
            assert less == more[: len(less)], f"{after.name} has {less}, {before.name} has {more}"


def fill(simulation, kind):
    head, middle, tail = CHAIN
    simulation.spawn(head, lambda: kind(middle, VALUES))
    simulation.spawn(middle, lambda: kind(tail))
    simulation.spawn(tail, lambda: kind(None))
    simulation.always(prefixes)
    simulation.converges(lambda: simulation.process(tail).values == list(VALUES))


@scenario
def chain(simulation):
    """Three replicas; the clients have given the head its values."""
    fill(simulation, Replica)


class CarefulReplica(Replica):
    """Takes values in order only, and repeats what its successor has not confirmed."""

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Timeout():
                output.start_timer(0.1)
                if self.successor is not None:
                    for number in range(self.sent, len(self.values)):
                        output.send(self.successor, Put(number + 1, self.values[number]))
            case Put():
                if message.number == len(self.values) + 1:
                    self.values.append(message.value)
                output.send(sender, Have(len(self.values)))
            case Have():
                self.sent = max(self.sent, message.number)


@scenario
def careful_chain(simulation):
    """The same with careful replicas."""
    fill(simulation, CarefulReplica)


def search(made, runs):
    """The schedule of the first run that fails."""
    for seed in range(runs):
        try:
            run_scenario(made, seed, steps=200)
        except ScenarioFailed as error:
            print(error)
            return error.schedule
    print(f"{runs} runs, and nothing went wrong")
    return None


def show(schedule):
    for choice in schedule.choices:
        print("  ", choice.to_line())


def main():
    # Let seeds decide what happens, until something goes wrong.
    failing = search(chain, runs=100)
    # Leave out what the failure does not need.
    short = minimize(failing)
    print(f"{len(failing.choices)} choices, of which {len(short.choices)} matter:")
    show(short)
    print(repr(short.failure()))
    # Keep it.
    short.save("chain.schedule")
    print(Schedule.load("chain.schedule") == short)
    Path("chain.schedule").unlink()
    # The same schedule does not harm the careful chain, and nor does any other.
    mended = Schedule(careful_chain, choices=short.choices)
    print(mended.failure())
    search(careful_chain, runs=100)
    # Try every order of events.
    for made in (chain, careful_chain):
        found = explore(made, fires=6, duplicates=None)
        print(f"{found.states} states, {found.failure or 'all is well'}")


if __name__ == "__main__":
    main()
