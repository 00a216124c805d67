"""Strategies, and the state machine: they find what is wrong, and find nothing where nothing is."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from haret.simulation import InvariantBroken
from haret.simulation.small import small
from rabble_trio import JournalError
from rabble_trio.testing import Faults, Schedule, run_scenario, scenario
from rabble_trio.testing.hypothesis import SimulationMachine, faults, schedules
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, Teller, in_order

QUICK = settings(
    max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@given(faults())
@QUICK
def test_mixtures_of_faults_are_valid(drawn):
    assert isinstance(drawn, Faults)


def test_simplest_mixture_is_a_world_without_faults():
    assert find(faults(), lambda drawn: True) == Faults()


@scenario
def adders(simulation):
    """A passes on to B; nothing can go wrong that B can't live with."""
    simulation.spawn(A, lambda: Adder(peer=B, timer=1.0))
    simulation.spawn(B, Teller, journal=True)
    simulation.may_crash([A, B], at_once=1)
    simulation.may_damage([B], at_once=1, recovered=lambda pid: True, silent=True)
    simulation.send(A, Add(1), sender=CLIENT)


@given(schedules(adders))
@QUICK
def test_drawn_schedules_replay_strictly(schedule):
    world = schedule.replay()
    assert tuple(world.choices) == schedule.choices


def test_drawn_schedules_hold_all_kinds_of_choices():
    seen, details = set(), set()

    @given(schedules(adders))
    @settings(QUICK, max_examples=200)
    def look(schedule):
        seen.update(choice.do for choice in schedule.choices)
        details.update(name for choice in schedule.choices if choice.do == "crash" for name in choice.detail)

    look()
    assert seen >= {"deliver", "fire", "sync", "drop", "duplicate", "crash", "restart", "cut", "heal"}
    assert details == {"keep", "amnesia", "lose", "rot", "stale"}


@scenario
def fragile(simulation):
    """An account that can't live with a damaged journal, which only the machine and `schedules` may damage loudly."""
    simulation.spawn(A, Account, journal=True)
    simulation.may_crash([A], at_once=1)
    simulation.may_damage([A], at_once=1)
    simulation.send(A, Add(1), sender=CLIENT)


def test_damage_is_found_and_shrunk_to_its_plainest():
    def fails(schedule):
        return isinstance(schedule.failure(), JournalError)

    found = find(schedules(fragile, max_choices=12), fails, settings=settings(QUICK, max_examples=400))
    assert [choice.do for choice in found.choices] == ["deliver", "crash", "restart"]
    assert set(found.choices[1].detail) == {"keep", "lose"}


def test_what_fails_is_found_and_shrunk():
    with pytest.raises(AssertionError, match="out of order"):
        find_failure(in_order)


def find_failure(made):
    @given(schedules(made, parameters={"count": 5}))
    @settings(QUICK, max_examples=300, phases=[Phase.generate])
    def fails(schedule: Schedule):
        schedule.replay()

    fails()


@given(schedules(small, max_choices=60))
@QUICK
def test_replication_survives_whatever_is_drawn(schedule):
    try:
        schedule.replay()
    except InvariantBroken as error:
        raise AssertionError(f"{error}: {schedule}") from error


@given(faults(), st.integers(0, 1000))
@settings(QUICK, max_examples=10)
def test_adders_run_under_any_faults(drawn, seed):
    run_scenario(adders, seed, 100, faults=drawn, settle=False)


# --- The state machine ---


class Adders(SimulationMachine):
    """Numbers reach B through A at most as often as there are copies."""

    sent = 0

    def fill(self, simulation):
        adders(simulation)

    @rule()
    def ask(self):
        self.sent += 1
        self.simulation.send(A, Add(1), sender=CLIENT)


class Wrong(Adders):
    """Claims that B never gets more than one number."""

    def fill(self, simulation):
        super().fill(simulation)

        def check(step):
            assert step.pid != B or len(step.process.numbers) < 2, "two numbers"

        simulation.check(check)


def test_machine_goes_where_it_likes():
    run_state_machine_as_test(Adders, settings=QUICK)


def test_machine_finds_what_is_wrong_and_shows_the_schedule():
    with pytest.raises(AssertionError, match="two numbers") as caught:
        run_state_machine_as_test(Wrong, settings=settings(QUICK, max_examples=300, phases=[Phase.generate]))
    notes = "\n".join(caught.value.__notes__)
    assert '{"do": "deliver", "what": "a>b Add#' in notes


def test_machine_must_say_what_it_is_about():
    with pytest.raises(NotImplementedError, match="must define fill"):
        type("Empty", (SimulationMachine,), {})()
    assert issubclass(SimulationMachine, RuleBasedStateMachine)
