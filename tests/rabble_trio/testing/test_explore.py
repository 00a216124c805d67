"""Exhaustive exploration: all states, the shortest violation, and nothing lost by reducing."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from random import Random

import pytest

from rabble_trio import CorrelationId, Down, Persisted, Process, Shutdown, Snapshotted, Timeout
from rabble_trio.testing import Schedule, explore, scenario
from rabble_trio.testing._explore import Bounds, _Explorer
from rabble_trio.testing._freeze import Freezer
from rabble_trio.testing._steps import local_of, sync_eagerly
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, C, pid


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


def test_what_makes_no_sense_is_refused():
    @scenario
    def down(simulation):
        simulation.spawn(A, Adder)
        simulation.crash(A)

    with pytest.raises(TypeError, match="a does not"):
        explore(down)
    with pytest.raises(ValueError, match="eager"):
        explore(ticking, sync="often")
    with pytest.raises(ValueError, match="may_damage"):
        explore(ticking, crashes=1, amnesia=1)


def test_process_without_a_journal_must_not_persist():
    @scenario
    def careless(simulation):
        simulation.spawn(A, Account)
        simulation.send(A, Add(1), sender=CLIENT)

    assert "journal=True" in str(explore(careless).failure)


# --- Journals ---


class Voter(Process):
    """Persists what it is told, and passes it on to B when that is durable, or at once if it is careless."""

    def __init__(self, careless: bool = False) -> None:
        self.careless = careless
        self.numbers: list[int] = []
        self.count = 0
        self.snapshots = 0

    def restore(self, snapshot, records):
        self.numbers = [*(snapshot or b""), *(record[0] for record in records)]

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Add(number):
                self.numbers.append(number)
                output.persist(bytes([number]))
                output.send(B, message, held=not self.careless)
                if len(self.numbers) == 2:
                    numbers = bytes(self.numbers)
                    output.snapshot(lambda: numbers)
            case Persisted(count):
                self.count = count
            case Snapshotted():
                self.snapshots += 1


@scenario
def voting(simulation, *, careless=False, numbers=2, careful=True):
    """A must never forget what B has heard of."""
    simulation.spawn(A, lambda: Voter(careless), journal=True)
    simulation.spawn(B, Adder)
    for number in range(1, numbers + 1):
        simulation.send(A, Add(number), sender=CLIENT)
    simulation.may_crash([A], at_once=1)
    simulation.may_damage([A], at_once=1)

    def holds(processes):
        if careful and simulation.incarnation(A) and processes[A].numbers is not None:
            one = processes[A]
            assert one.count <= len(one.numbers)
            lost = set(processes[B].numbers) - set(one.numbers)
            assert not lost, f"forgotten: {lost}"

    simulation.always(holds)


def test_what_is_durable_is_never_forgotten_and_the_rest_may_be():
    for sync in ("chosen", "eager"):
        found = explore(voting, crashes=2, sync=sync)
        assert found.complete, found.failure
    found = explore(voting, parameters={"careless": True}, crashes=1)
    assert "forgotten: {1}" in str(found.failure)
    assert [choice.do for choice in found.schedule.choices] == ["deliver", "deliver", "crash", "restart"]
    assert "forgotten: {1}" in str(found.schedule.failure())
    # Where syncing is eager, no crash finds anything that is not durable.
    assert explore(voting, parameters={"careless": True}, crashes=1, sync="eager").complete


def test_eager_syncing_makes_fewer_states():
    chosen, eager = (explore(voting, crashes=1, sync=sync) for sync in ("chosen", "eager"))
    assert eager.complete
    assert eager.states * 3 < chosen.states


def test_amnesia_is_found_as_far_as_it_is_allowed():
    assert explore(voting, crashes=2).failure is None
    for sync in ("chosen", "eager"):
        found = explore(voting, crashes=1, amnesia=1, sync=sync)
        assert "forgotten" in str(found.failure)
        assert [choice.detail for choice in found.schedule.choices if choice.do == "crash"] == [{"amnesia": True}]
        assert "forgotten" in str(found.schedule.failure())


def test_all_that_can_become_of_records_is_seen():
    seen = set()

    class Two(Process):
        restored: tuple | None = None

        def restore(self, snapshot, records):
            self.restored = (snapshot, *records)

        def handle(self, message, sender, correlation_id, output):
            if isinstance(message, Add):
                output.persist(b"1")
                output.persist(b"2")
                output.snapshot(lambda: b"s")
                output.persist(b"3")

    @scenario
    def two_records(simulation):
        simulation.spawn(A, Two, journal=True)
        simulation.send(A, Add(1), sender=CLIENT)
        simulation.may_crash([A], at_once=1)
        simulation.always(lambda processes: seen.add(processes[A].restored))

    assert explore(two_records, crashes=1).complete
    prefixes = {(None, b"1"), (None, b"1", b"2"), (None, b"1", b"2", b"3")}
    assert seen == {None, *prefixes, (b"s",), (b"s", b"3")}


def test_factory_may_ask_what_its_journal_held():
    asked = set()

    @scenario
    def asking(simulation):
        def make():
            asked.add((simulation.incarnation(A), simulation.durable(A) > 0, simulation.damages(A)))
            return Voter()

        simulation.spawn(A, make, journal=True)
        simulation.spawn(B, Adder)
        simulation.send(A, Add(1), sender=CLIENT)
        simulation.may_crash([A], at_once=1)
        simulation.may_damage([A], at_once=1)

    explore(asking, crashes=1, amnesia=1)
    assert asked == {(0, False, 0), (1, False, 0), (2, False, 0), (2, True, 0), (2, True, 1)} - {(0, False, 0)}


def test_endless_persisting_is_an_error():
    class Circle(Process):
        def handle(self, message, sender, correlation_id, output):
            output.persist(b"x")

    @scenario
    def circle(simulation):
        simulation.spawn(A, Circle, journal=True)
        simulation.send(A, Add(1), sender=CLIENT)

    assert "without an end" in str(explore(circle, sync="eager").failure)


def test_what_is_durable_makes_no_difference_if_nobody_is_restarted():
    class Diary(Process):
        """Writes each number down, and knows the sum alone."""

        def __init__(self) -> None:
            self.sum = 0

        def restore(self, snapshot, records):
            self.sum = sum(record[0] for record in records)

        def handle(self, message, sender, correlation_id, output):
            if isinstance(message, Add):
                self.sum += message.number
                output.persist(bytes([message.number]))

    @scenario
    def diary(simulation):
        simulation.spawn(A, Diary, journal=True)
        for number in range(1, 5):
            simulation.send(A, Add(number), sender=CLIENT)
        simulation.may_crash([A], at_once=1)

    # Without: a state for each subset of the numbers, up and down. With: one for each order in which they were written.
    assert explore(diary, sync="eager", crashes=1, restarts=False).states == 2 * 16
    assert explore(diary, sync="eager", crashes=1).states > 2 * 64


# --- Monitors ---


NOBODY = pid("nobody", 8)


class Watcher(Adder):
    """Watches B, and again when it went down, once; a number 9 makes it lose interest, 8 end."""

    def init(self, pid, output):
        super().init(pid, output)
        output.monitor(B)
        output.monitor(NOBODY)

    def handle(self, message, sender, correlation_id, output):
        super().handle(message, sender, correlation_id, output)
        match message:
            case Down(_, reason) if reason != "not running":
                output.monitor(B)
            case Add(9):
                output.demonitor(B)
            case Add(8):
                output.stop()


@scenario
def watching(simulation, *, numbers=(9, 8), others=True):
    """A watches B, which may be told to end; and C, which nobody watches, persists."""
    simulation.spawn(B, lambda: Adder(timer=1.0))
    simulation.spawn(A, Watcher)
    for number in numbers:
        simulation.send(A, Add(number), sender=CLIENT)
    simulation.send(B, Shutdown(), sender=CLIENT)
    if others:
        simulation.spawn(C, Voter, journal=True)
        simulation.send(C, Add(1), sender=CLIENT)
    simulation.may_crash(simulation.pids, at_once=3)


def test_monitors_are_told_once_and_never_when_they_lost_interest():
    downs = set()

    @scenario
    def seen(simulation):
        watching(simulation, numbers=(9,), others=False)
        simulation.always(lambda processes: downs.update([tuple((d.pid.name, d.reason) for d in processes[A].downs)]))

    assert explore(seen, crashes=1, restarts=False).complete
    stopped, crashed = ("b", "stopped"), ("b", "crashed: by choice")
    nobody, again = ("nobody", "not running"), ("b", "not running")
    # Each end is told once; whoever asks again hears at once that it does not run.
    assert {frozenset(found) for found in downs} == {
        frozenset(found)
        for end in (stopped, crashed)
        for found in ([], [nobody], [end], [nobody, end], [end, again], [nobody, end, again])
    }
    assert all(len(set(found)) == len(found) for found in downs)


class Bell(Process):
    """Has few states, however many messages it gets: it watches B from an 8 to a 9, and knows how it ended."""

    def __init__(self) -> None:
        self.heard: set[str] = set()

    def handle(self, message, sender, correlation_id, output):
        match message:
            case Add(8):
                output.monitor(B)
            case Add(9):
                output.demonitor(B)
            case Down():
                self.heard.add(message.reason)


@scenario
def ringing(simulation):
    """A watches B now and then."""
    simulation.spawn(A, Bell)
    simulation.spawn(B, Bell)
    for number in (8, 9):
        simulation.send(A, Add(number), sender=CLIENT)
    simulation.send(B, Shutdown(), sender=CLIENT)
    simulation.may_crash([A, B], at_once=2)


def walk(made, sync, seed, steps=60, parameters=None, **bounds):
    """Go any way through an exploration, and the same way through a world, and compare them; yields the actions."""
    explorer = _Explorer(
        Schedule(made, 0, parameters or {}),
        frozenset(),
        Bounds(**{"fires": 0, "amnesia": 0, "restarts": True, **bounds}),
        sync,
    )
    world, random = explorer._schedule.world(), Random(seed)
    if sync:
        sync_eagerly(world, world.pids)
    state = explorer._first()
    steps_of, pids = explorer._steps, explorer._pids
    for _ in range(steps):
        actions = explorer._actions(state)
        if not actions:
            return
        action = random.choice(actions)
        state = explorer._follow(state, action)
        explorer._perform(world, *action)
        if sync:
            sync_eagerly(world, [pids[action[1]]])
        places, flying, _ = state
        messages = Counter((m.sender, pids[m.to], m.message) for m in map(steps_of.messages.__getitem__, flying))
        assert messages == Counter((i.sender, i.to, i.message) for i in world._items if i.kind == "message"), action
        for place, slot in zip(places, world._slots.values(), strict=True):
            local = steps_of.locals[place]
            assert local.up == (slot.process is not None), action
            if local.up:
                assert steps_of.keep(local_of(steps_of, slot)) == place, action
            elif local.disk is not None and bounds.get("restarts", True):
                assert local.disk.records == tuple(slot.journal.records), action
        yield action


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("made", "options"),
    [
        (watching, {"fires": 2}),
        (ringing, {}),
        (voting, {"amnesia": 1, "parameters": {"careful": False}}),
        (voting, {"restarts": False}),
    ],
)
def test_exploration_does_what_the_world_does(made, options, sync):
    verbs = Counter()
    for seed in range(60):
        verbs.update(action[0] for action in walk(made, sync, seed, **{"crashes": 4, "duplicates": 2, **options}))
    assert set(verbs) >= {"deliver", "crash", "duplicate"}
    assert ("restart" in verbs) == options.get("restarts", True)
    assert ("sync" in verbs) == (made is not ringing and not sync)


# --- Reduction ---


BOUNDED = [
    (watching, {"crashes": 1, "parameters": {"numbers": (9,)}}),
    (watching, {"crashes": 1, "duplicates": 1, "parameters": {"numbers": (8,), "others": False}}),
    (ringing, {"crashes": 2, "duplicates": None, "restarts": False}),
    (ringing, {"crashes": 2, "duplicates": 2}),
    (voting, {"crashes": 2, "amnesia": 1, "parameters": {"careful": False}}),
    (voting, {"crashes": 1, "duplicates": 1, "sync": "eager"}),
    (ticking, {"fires": 2, "crashes": 2}),
]


@pytest.mark.parametrize(("made", "bounds"), BOUNDED, ids=lambda value: str(value)[:60])
def test_reduction_loses_no_state_at_any_depth(made, bounds):
    full = explore(made, reduce=False, **bounds)
    assert full.complete
    reduced = explore(made, **bounds)
    assert (reduced.states, reduced.local_states, reduced.deepest) == (full.states, full.local_states, full.deepest)
    assert reduced.transitions < full.transitions
    for depth in range(1, full.deepest, max(1, full.deepest // 5)):
        one, other = (explore(made, depth=depth, reduce=reduce, **bounds) for reduce in (True, False))
        assert (one.states, one.deepest) == (other.states, other.deepest)
        assert one.transitions <= other.transitions


class Table(Process):
    """A random machine of three states: what it does with a number, the seed says."""

    def __init__(self, random) -> None:
        self.state = 0
        self.rules = tuple(
            tuple((random.randrange(3), random.choice((None, A, B, C)), random.randrange(2)) for _ in range(2))
            for _ in range(3)
        )

    def init(self, pid, output):
        output.start_timer(1)

    def handle(self, message, sender, correlation_id, output):
        number = message.number if isinstance(message, Add) else 0
        self.state, to, sent = self.rules[self.state][number]
        if to is not None:
            output.send(to, Add(sent))


@scenario
def tables(simulation, *, seed):
    """Three random machines, with numbers on their way to each."""
    random = Random(seed)
    for each in (A, B, C):
        made = Table(random)
        simulation.spawn(each, lambda made=made: Freezer(frozenset()).copy(made))
        simulation.send(each, Add(random.randrange(2)), sender=CLIENT)
    simulation.may_crash([A, B, C], at_once=3)


def test_reduction_loses_no_state_of_random_machines():
    for seed in range(25):
        bounds = {"duplicates": None if seed % 2 else 1, "fires": seed % 3, "crashes": seed % 2, "restarts": False}
        for depth in (3, 5, 6):
            options = {"parameters": {"seed": seed}, "depth": depth, **bounds}
            full, reduced = (explore(tables, reduce=reduce, **options) for reduce in (False, True))
            assert (reduced.states, reduced.deepest) == (full.states, full.deepest), options
            assert reduced.transitions <= full.transitions


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
