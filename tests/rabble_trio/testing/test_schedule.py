"""Schedules: saved, loaded, replayed, made shorter."""

from __future__ import annotations

import pytest

from rabble_trio.testing import (
    Choice,
    Faults,
    NotConverged,
    ScenarioFailed,
    Schedule,
    ScheduleError,
    minimize,
    run_scenario,
    scenario,
)
from rabble_trio.testing._minimize import _plainer
from tests.rabble_trio.testing.toys import A, Add, Adder, B, in_order, pid, remembering


def failing(seed=11, **parameters):
    with pytest.raises(ScenarioFailed) as caught:
        run_scenario(in_order, seed, 500, parameters=parameters, faults=Faults(duplication=0.03, loss=0.01))
    return caught.value


def test_run_that_fails_gives_its_schedule_and_what_was_raised():
    error = failing(count=40)
    assert isinstance(error.__cause__, AssertionError)
    assert "out of order" in str(error)
    assert "seed 11" in str(error)
    with pytest.raises(AssertionError, match="out of order") as caught:
        error.schedule.replay()
    assert str(caught.value) == str(error.__cause__)


def test_run_that_goes_well_gives_the_world():
    world = run_scenario(in_order, 1, 500, faults=Faults())
    assert world.process(B).numbers == [1, 2, 3]


def test_faults_are_drawn_if_none_are_given():
    drawn = {run_scenario(in_order, seed, 1, settle=False).faults for seed in range(10)}
    assert len(drawn) == 10


def test_world_that_does_not_converge_is_a_failure_with_a_schedule():
    with pytest.raises(ScenarioFailed, match="NotConverged") as caught:
        run_scenario(in_order, 1, 100, faults=Faults(loss=1.0))
    assert isinstance(caught.value.schedule.failure(), NotConverged)
    assert minimize(caught.value.schedule).choices[-1].do == "settle"


def test_schedule_outlives_the_disk(tmp_path):
    schedule = failing(count=40).schedule
    path = tmp_path / "x.schedule"
    schedule.save(path)
    loaded = Schedule.load(path)
    assert loaded == schedule
    text = path.read_text()
    assert text.splitlines()[0].startswith('{"schedule": 1, "scenario": "')
    assert '"do": "fire", "what": "a timer"' in text
    loaded.save(path)
    assert path.read_text() == text
    assert str(loaded.failure()) == str(schedule.failure())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "{",
        '{"schedule": 2, "scenario": "x:y"}',
        '{"schedule": 1, "scenario": 3}',
        '{"schedule": 1, "scenario": "no.such.module:x"}',
        '{"schedule": 1, "scenario": "..:x"}',
        '{"schedule": 1, "scenario": "os"}',
        '{"schedule": 1, "scenario": "os:getcwd"}',
        '{"schedule": 1, "scenario": "os:nothing"}',
        "HEAD\n{",
        'HEAD\n{"do": "explode"}',
        'HEAD\n{"do": "drop", "what": 3}',
        "HEAD\n" + "[" * 100_000,
    ],
)
def test_file_that_is_no_schedule_is_refused(tmp_path, text):
    head = f'{{"schedule": 1, "scenario": "{in_order.name}"}}'
    path = tmp_path / "x.schedule"
    path.write_text(text.replace("HEAD", head))
    with pytest.raises(ScheduleError):
        Schedule.load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "x.schedule"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScheduleError, match="not text"):
        Schedule.load(path)


def test_replay_says_which_choice_does_not_fit_unless_it_may_skip_it():
    schedule = Schedule(in_order, choices=(Choice("fire", "a timer"), Choice("deliver", "a>b Add#2")))
    with pytest.raises(ScheduleError, match="choice 2: nothing is pending under the name 'a>b Add#2'"):
        schedule.replay()
    assert schedule.replay(strict=False).process(A).next == 2


@scenario
def prepared(simulation):
    """A world in which something has been chosen already."""
    simulation.spawn(A, lambda: Adder(peer=B))
    simulation.spawn(B, Adder)
    simulation.deliver(simulation.send(A, Add(1), sender=B))

    def check(step):
        assert step.process.numbers.count(1) < 2, f"a second one reached {step.name}"

    simulation.check(check)


def test_what_the_scenario_chooses_is_not_in_the_schedule():
    with pytest.raises(ScenarioFailed) as caught:
        run_scenario(prepared, 1, 50, faults=Faults(duplication=0.9))
    schedule = caught.value.schedule
    assert schedule.choices[0].do != "send"
    with pytest.raises(AssertionError, match="a second one reached b"):
        schedule.replay()
    assert [choice.to_line() for choice in minimize(schedule).choices] == [
        '{"do": "duplicate", "what": "a>b Add#1"}',
        '{"do": "deliver", "what": "a>b Add#1"}',
        '{"do": "deliver", "what": "a>b Add#1.1"}',
    ]


# --- Minimising ---


def test_failing_schedule_shrinks_to_what_the_failure_needs():
    schedule = failing(count=40).schedule
    short = minimize(schedule)
    assert len(schedule.choices) > 20
    assert [choice.do for choice in short.choices] == ["fire", "duplicate", "deliver", "deliver"] or [
        choice.do for choice in short.choices
    ] == ["fire", "fire", "deliver"]
    assert isinstance(short.failure(), AssertionError)
    for index in range(len(short.choices)):
        fewer = Schedule(in_order, short.seed, short.parameters, short.choices[:index] + short.choices[index + 1 :])
        assert fewer.failure() is None, "nothing more can be left out"


def test_minimising_keeps_to_the_failure_that_was_found():
    # A wish for another class of failure is not fulfilled by this one.
    schedule = failing(count=40).schedule
    assert minimize(schedule, same=lambda first, second: False).choices == schedule.choices


def test_details_of_crashes_become_plainer():
    choices = (
        Choice("fire", "a timer", {"crash": {"effects": 2}}),
        Choice("restart", "a"),
        Choice("fire", "a timer"),
        Choice("deliver", "a>b Add#1"),
        Choice("deliver", "a>b Add#2"),
    )
    short = minimize(Schedule(in_order, choices=choices))
    # The second incarnation counts from 1 again. How the first one crashed does not matter.
    assert isinstance(short.failure(), AssertionError)
    assert Choice("fire", "a timer", {"crash": {"effects": 2}}) not in short.choices or len(short.choices) == 5


DAMAGES = {
    "amnesia": "amnesia",
    "corrupt_tail": "lose",
    "rotten_record": "rot",
    "lying_fsync": "stale",
    "stale_copy": "stale",
}


BUSY = {"crash_rate": 10.0, "crash_in_step": 0.0, "torn_record": 0.5, "sync_max": 0.02, "snapshot_max": 0.1}


def failures_of_disks(**faults):
    for seed in range(10):
        try:
            run_scenario(remembering, seed, 200, faults=Faults(**faults), settle=False)
        except ScenarioFailed as error:
            yield error


@pytest.mark.parametrize("fault", DAMAGES)
def test_damage_shrinks_to_what_the_failure_needs(fault, tmp_path):
    [failure, *_] = failures_of_disks(**BUSY, **{fault: 0.5})
    shortest = minimize(failure.schedule)
    assert len(shortest.choices) * 2 < len(failure.schedule.choices)
    *rest, crash, restart = shortest.choices
    assert {choice.do for choice in rest} <= {"fire", "deliver", "sync"}
    assert (crash.do, restart.do) == ("crash", "restart")
    # One kind of damage, and no more of it than is needed; what else the crash did made no difference.
    [(kind, amount)] = crash.detail.items()
    assert kind == DAMAGES[fault]
    assert amount == 1
    shortest.save(tmp_path / "short.schedule")
    again = Schedule.load(tmp_path / "short.schedule")
    assert again == shortest
    assert str(again.failure()).startswith("forgot ")


def test_crashes_without_damage_lose_nothing_that_anybody_knows_of():
    assert list(failures_of_disks(**BUSY, slow_disk_rate=1.0, full_disk_rate=1.0)) == []


def test_crash_in_a_step_that_damages_becomes_plainer():
    def plainer(**crash):
        return [choice.detail for choice in _plainer(Choice("deliver", "a>b Add#1", {"crash": crash}))]

    assert plainer(effects=1, lose=2)[:3] == [{}, {"crash": {"effects": 0}}, {"crash": {"effects": 1}}]
    assert {"crash": {"effects": 1, "lose": 1}} in plainer(effects=1, lose=2)
    assert plainer(effects=0) == [{}]


def test_schedule_that_does_not_fail_cannot_be_minimised():
    with pytest.raises(ValueError, match="does not fail"):
        minimize(Schedule(in_order))


def test_parameters_and_external_messages_are_part_of_a_schedule(tmp_path):
    schedule = Schedule(in_order, 5, {"count": 2}, note="an example")
    world = schedule.world()
    world.send(B, Add(7), sender=pid("other", 4))
    saved = Schedule(in_order, 5, {"count": 2}, tuple(world.choices), "an example")
    saved.save(tmp_path / "x.schedule")
    assert Schedule.load(tmp_path / "x.schedule") == saved
    assert [item.id for item in saved.replay().pending] == ["a timer", "other>b Add#1"]
