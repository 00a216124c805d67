"""A world in which everything happens that a schedule can say, for the tests of the stepping debugger and its pictures."""

from __future__ import annotations

from rabble_trio import CorrelationId, Pid, Process, message
from rabble_trio.testing import Choice, Crash, NotConverged, Schedule, Simulation, scenario
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, C

NASTY = "\x1b[2J</text></script><script>alert(1)</script>\u202e&\"'\x00\n"
"""What a stranger would write into a message."""


@message(tag="stepping.note")
class Note:
    text: str


class Parrot(Process):
    """Keeps what it hears, in parts that change in all ways."""

    def __init__(self) -> None:
        self.heard: list[Note] = []
        self.count = {"notes": 0}
        self.senders: set[Pid] = set()

    def handle(self, message, sender, correlation_id, output):
        if isinstance(message, Note):
            self.heard = [*self.heard, message][-2:]
            self.count["notes"] += 1
            self.senders.add(sender)
            output.start_timer(0.25, CorrelationId(output.pid, 7))
            output.monitor(A)
            assert message.text != "fail", f"told to {NASTY}"


@scenario
def mixed(simulation: Simulation) -> None:
    """A passes on to B, which persists; C hears notes."""
    simulation.spawn(A, lambda: Adder(peer=B, timer=0.5))
    simulation.spawn(B, Account, journal=True)
    simulation.spawn(C, Parrot)


def everything() -> Schedule:
    """Each verb at least once, and nothing goes wrong but that the world does not calm down."""
    world = Simulation(1)
    mixed(world)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    world.partition([A], [C])
    world.pause(A)
    world.resume(A)
    world.heal()
    world.run(6)
    world.deliver(world.send(B, Add(5), sender=CLIENT), Crash(keep=1, effects=2))
    world.deliver(world.send(B, Add(6), sender=CLIENT))
    world.restart(B)
    copy = world.duplicate(world.send(C, Note("hello"), sender=A))
    world.drop(copy)
    world.deliver(world.find("a>c Note#1"))
    world.fire(world.find("c timer 7"))
    world.crash(A)
    try:
        world.settle(seconds=1.0)
    except NotConverged:
        raise AssertionError("this world should calm down") from None
    return Schedule(mixed, 1, {}, tuple(world.choices), note=f"everything {NASTY}")


def failing() -> Schedule:
    """The third step fails, in a process, with a text that should not be trusted; a choice before it fits nothing."""
    world = Simulation(1)
    mixed(world)
    item = world.send(C, Note(NASTY), sender=CLIENT)
    world.deliver(item)
    world.send(C, Note("fail"), sender=CLIENT)
    choices = [*world.choices, Choice("drop", f"a>b {NASTY}"), Choice("deliver", "client>c Note#2")]
    return Schedule(mixed, 1, {}, (*choices, Choice("heal")))
