"""Exhaustive exploration: all states, the shortest violation, and nothing lost by reducing."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from random import Random

import pytest

from rabble_trio import CorrelationId, Process, Timeout
from rabble_trio.testing import explore, scenario
from rabble_trio.testing._freeze import Freezer
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, C


@scenario
def two(simulation, *, numbers=(1, 2)):
    """Numbers on their way to A and to B; A passes its own on to B."""
    simulation.spawn(A, lambda: Adder(peer=B))
    simulation.spawn(B, Adder)
    for number in numbers:
        simulation.send(A, Add(number), sender=CLIENT)

    def holds(processes):
        if B in processes:
            assert processes[B].numbers != [2, 1], "the second came first"

    simulation.always(holds)


@scenario
def independent(simulation, *, receivers=2, messages=2):
    """Each of some processes gets some different numbers."""
    for receiver in (A, B, C)[:receivers]:
        simulation.spawn(receiver, Adder)
        for number in range(messages):
            simulation.send(receiver, Add(number), sender=CLIENT)


def test_all_states_of_independent_processes():
    # Each process may have got nothing, one of the two, or both in either order: 1 + 2 + 2 states.
    for receivers in (1, 2, 3):
        found = explore(independent, parameters={"receivers": receivers})
        assert found.complete
        assert found.states == 5**receivers
        assert found.deepest == 2 * receivers
        assert found.failure is None
        # What is executed is what a process alone can do: 4 steps each.
        assert found.steps == 4 * receivers


def test_reduction_follows_fewer_transitions_to_the_same_states():
    for made, options in ((independent, {"parameters": {"receivers": 3}}), (ticking, {"fires": 3, "crashes": 1})):
        full, reduced = (explore(made, reduce=reduce, **options) for reduce in (False, True))
        assert reduced.states == full.states
        assert reduced.local_states == full.local_states
        assert reduced.transitions < full.transitions


def test_shortest_violation_is_found_and_replays():
    found = explore(two)
    assert not found.complete
    assert "the second came first" in str(found.failure)
    assert [choice.do for choice in found.schedule.choices] == ["deliver"] * 4
    with pytest.raises(AssertionError, match="second came first"):
        found.schedule.replay()
    assert "violation found" in str(found)


def test_depth_bounds_the_search():
    found = explore(two, depth=3)
    assert found.complete
    assert found.failure is None
    assert found.deepest == 3
    assert explore(two, depth=0).states == 1
    with pytest.raises(ValueError, match="depth"):
        explore(two, depth=-1)


def test_violation_at_the_very_beginning_needs_no_choices():
    @scenario
    def wrong(simulation):
        simulation.spawn(A, Adder)
        armed = [False]

        def holds(processes):
            assert not armed[0], "wrong from the start"

        simulation.always(holds)
        armed[0] = True

    found = explore(wrong)
    assert "wrong from the start" in str(found.failure)
    assert found.schedule.choices == ()


@scenario
def ticking(simulation):
    """Two processes with timers, of which one may crash."""
    simulation.spawn(A, lambda: Adder(timer=1.0, peer=B))
    simulation.spawn(B, lambda: Adder(timer=1.0))
    simulation.send(A, Add(1), sender=CLIENT)
    simulation.may_crash([A], at_once=1)


def test_timers_crashes_and_copies_are_bounded_in_all():
    quiet, fires = explore(ticking), explore(ticking, fires=2)
    assert (quiet.deepest, fires.deepest) == (2, 4)  # A and B get the number; that A gets a sum changes nothing
    crashes = explore(ticking, crashes=1)
    assert crashes.states > quiet.states
    assert crashes.deepest == 4
    assert explore(ticking, crashes=1, restarts=False).states < crashes.states
    assert explore(ticking, duplicates=1).states > quiet.states


def test_failure_of_a_process_is_a_violation():
    class Touchy(Process):
        def init(self, pid, output):
            output.start_timer(1)

        def handle(self, message, sender, correlation_id, output):
            if isinstance(message, Timeout):
                raise RuntimeError("no time")

    @scenario
    def touchy(simulation):
        simulation.spawn(A, Touchy)

    found = explore(touchy, fires=1)
    assert isinstance(found.failure, RuntimeError)
    assert [choice.to_line() for choice in found.schedule.choices] == ['{"do": "fire", "what": "a timer"}']


def test_crash_and_copy_are_in_the_schedule():
    @scenario
    def fragile(simulation):
        simulation.spawn(A, Adder)
        simulation.send(A, Add(1), sender=CLIENT)
        simulation.may_crash([A], at_once=1)

        def holds(processes):
            numbers = processes[A].numbers
            assert not (numbers == [1] and simulation is None)
            assert numbers != [1, 1], "twice"

        simulation.always(holds)

    found = explore(fragile, duplicates=1, crashes=1)
    assert [choice.do for choice in found.schedule.choices] == ["duplicate", "deliver", "deliver"]
    assert found.schedule.failure() is not None


def test_what_makes_no_difference_can_be_left_out():
    everything = explore(ticking, fires=4)
    ignoring = explore(ticking, fires=4, ignore=["timeouts"])
    assert ignoring.local_states < everything.local_states


def test_too_many_states_end_as_incomplete():
    found = explore(independent, parameters={"receivers": 3, "messages": 3}, max_states=100)
    assert not found.complete
    assert found.failure is None
    assert str(found).startswith("incomplete: ")


def test_what_it_cannot_do_it_says():
    @scenario
    def persists(simulation):
        simulation.spawn(A, Account, journal=True)

    class Watcher(Adder):
        def handle(self, message, sender, correlation_id, output):
            output.monitor(B)

    @scenario
    def monitors(simulation):
        simulation.spawn(A, Watcher)
        simulation.spawn(B, Adder)
        simulation.send(A, Add(1), sender=CLIENT)

    for made in (persists, monitors):
        with pytest.raises(TypeError, match="can't do yet"):
            explore(made)


# --- States as values ---


class Thing:
    __slots__ = ("__private", "link", "noise", "value")

    def __init__(self, value):
        self.__private = [value]
        self.value = value
        self.noise = 0
        self.link = self.method

    def method(self):
        return self.__private


class Open:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def make():
    return Open(
        thing=Thing(1),
        items=[1, (2, [3]), {4}, frozenset({5}), deque([6], maxlen=3), bytearray(b"7")],
        table=OrderedDict(a=[1], b=None),
        more=defaultdict(list, x=[1]),
        random=Random(3),
        cid=CorrelationId(A, 1),
        message=Add(1),
        kind=Thing,
        text="x",
    )


def test_equal_states_are_equal_values_and_copies_stay_apart():
    freezer = Freezer(frozenset({"noise"}))
    one, other = make(), make()
    frozen = freezer.freeze(one)
    assert frozen == freezer.freeze(other)
    assert hash(frozen) == hash(freezer.freeze(other))
    copy = freezer.copy(one)
    assert freezer.freeze(copy) == frozen
    assert copy.thing.link.__self__ is copy.thing, "a bound method is one of the copy"
    for change in (
        lambda x: x.thing.method().append(2),
        lambda x: x.items[1][1].append(1),
        lambda x: x.items[2].add(9),
        lambda x: x.items[4].append(9),
        lambda x: x.items[5].append(9),
        lambda x: x.table.move_to_end("a"),
        lambda x: x.more["y"].append(2),
        lambda x: x.random.random(),
        lambda x: setattr(x, "text", 1.0),
    ):
        changed = freezer.copy(one)
        change(changed)
        assert freezer.freeze(changed) != frozen
        assert freezer.freeze(one) == frozen, "the original does not change with the copy"


def test_what_is_ignored_is_shared_and_not_compared():
    freezer = Freezer(frozenset({"noise"}))
    one = make()
    before = freezer.freeze(one)
    one.thing.noise = 7
    assert freezer.freeze(one) == before
    assert freezer.copy(one).thing.noise == 7


def test_numbers_of_different_types_are_different_states():
    freezer = Freezer(frozenset())
    assert len({freezer.freeze([x]) for x in (1, 1.0, True)}) == 3


def test_shared_objects_and_circles_are_seen():
    freezer = Freezer(frozenset())
    shared = [1]
    assert freezer.freeze([shared, shared]) != freezer.freeze([[1], [1]])
    circle = []
    circle.append(circle)
    assert freezer.freeze(circle) == ("list", ("seen", 0))
    copy = freezer.copy(circle)
    assert copy[0] is copy
