"""`step` and `run`: what the seed and the faults choose."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from random import Random

import pytest

from rabble_trio.testing import Crash, Faults, Schedule, Simulation, scenario
from rabble_trio.testing._world import DAMAGES
from tests.rabble_trio.testing.toys import CLIENT, A, Add, Adder, B, C, Feeder, Teller, in_order, pid

D = pid("d", 4)


def run(seed=1, steps=300, count=60, **faults):
    world = Simulation(seed, Faults(**faults))
    in_order(world, count=count)
    world._checks.clear()  # in_order insists on a network without faults
    world.run(steps)
    return world


def test_world_without_faults_runs_in_time_and_order():
    world = run(count=5, steps=100)
    assert world.process(B).numbers == [1, 2, 3, 4, 5]
    assert not world.step(), "nothing is left"
    assert 0.05 < world.now < 0.1


def test_same_seed_same_history_another_seed_another_one():
    one, same, other = (run(seed, loss=0.2, latency_max=0.1, reordering=True) for seed in (1, 1, 2))
    assert one.choices == same.choices
    assert one.choices != other.choices


@scenario
def fed(simulation):
    """Two senders, so that it matters how long each path takes."""
    in_order(simulation, count=30)
    simulation._checks.clear()
    simulation.spawn(C, lambda: Feeder(B))
    simulation.converges(lambda: len(simulation.process(B).numbers) > 200)


def test_a_replay_settles_as_the_run_did():
    for seed in range(10):
        world = Simulation(seed, Faults(clog_rate=50, clog_max=1, latency_max=0.05))
        fed(world)
        world.run(30)
        world.settle()
        again = Schedule(fed, seed, {}, tuple(world.choices)).replay()
        assert again.process(B).numbers == world.process(B).numbers
        assert (again.now, again.steps) == (world.now, world.steps)


def test_faults_that_are_drawn_are_those_of_the_seed_and_differ():
    drawn = [Faults.draw(Random(seed)) for seed in range(50)]
    assert drawn[7] == Faults.draw(Random(7))
    assert len(set(drawn)) == 50
    for name in ("loss", "duplication", "crash_rate", "partition_rate", "pause_rate", "straggling", "clog_rate"):
        off = sum(getattr(faults, name) == 0 for faults in drawn)
        assert 5 < off < 45, f"{name} is sometimes off and sometimes on"


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.5},
        {"loss": -0.1},
        {"latency_min": 1.0},
        {"timer_min": 2.0},
        {"clog_rate": -1.0},
        {"timer_min": 0.0, "timer_max": 0.0},
    ],
)
def test_faults_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"probability|at least|minimum|above 0"):
        Faults(**wrong)


def test_loss_and_duplication():
    numbers = run(loss=0.3, steps=400).process(B).numbers
    assert sorted(set(numbers)) == numbers
    assert 20 < len(numbers) < 60
    numbers = run(duplication=0.3, steps=400).process(B).numbers
    assert sorted(set(numbers)) == list(range(1, 61))
    assert 60 < len(numbers) < 120


@pytest.mark.parametrize(
    ("faults", "in_order"),
    [
        ({"latency_max": 0.1}, True),
        ({"latency_max": 0.1, "reordering": True}, False),
        ({"straggling": 0.2, "straggle_max": 0.5}, False),
        ({"clog_rate": 5.0, "clog_max": 0.3}, True),
        ({"partition_rate": 20.0, "partition_max": 0.2, "cut_loses": 0.0}, None),
        ({"pause_rate": 5.0, "pause_max": 0.2}, None),
    ],
)
def test_delays_lose_nothing(faults, in_order):
    world = run(steps=5000, **faults)
    numbers = world.process(B).numbers
    assert sorted(numbers) == list(range(1, 61))
    assert in_order is None or (numbers == sorted(numbers)) == in_order
    counts = world.counts
    for rate, name in (("clog_rate", "clog"), ("partition_rate", "partition"), ("pause_rate", "pause")):
        assert (counts.get(name, 0) > 0) == (rate in faults)


def test_cut_paths_may_lose_everything():
    assert len(run(partition_rate=20.0, partition_max=0.3, cut_loses=1.0, steps=5000).process(B).numbers) < 60


def test_timers_fire_early_late_or_together():
    def first_times(**faults):
        world = Simulation(3, Faults(**faults))
        for each in (A, B, C):
            world.spawn(each, lambda: Adder(timer=1.0))
        times = []
        for _ in range(3):
            world.step()
            times.append(world.now)
        return times

    assert first_times() == [1.0, 1.0, 1.0]
    assert all(0.5 <= time < 1.0 for time in first_times(timer_min=0.5))
    late = first_times(timer_max=2.0)
    assert 1.0 < late[0] < late[1] < late[2] < 2.0
    assert len(set(first_times(timer_max=1.2, timer_grid=0.5))) == 1


def test_crashes_respect_their_limits_and_processes_come_back():
    world = Simulation(5, Faults(crash_rate=20.0, restart_max=0.5))
    for each in (A, B, C):
        world.spawn(each, lambda: Adder(timer=0.01))
    world.may_crash([A, B], at_once=1, total=7)
    most = 0
    for _ in range(3000):
        world.step()
        most = max(most, sum(not world.up(each) for each in (A, B)))
    assert most == 1
    assert world.incarnation(A) + world.incarnation(B) == 2 + 7
    assert world.incarnation(C) == 1
    assert world.up(A)
    assert world.up(B)
    assert world.counts["crash"] > 0
    assert world.counts["crash in a step"] > 0


def test_all_may_stop_at_the_same_moment():
    world = Simulation(5, Faults(stop_all_rate=2.0, restart_max=0.1))
    for each in (A, B):
        world.spawn(each, lambda: Adder(timer=0.01))
    world.may_crash([A, B], at_once=2)
    while world.up(A):
        world.step()
    world.step()
    assert not world.up(B)


BAD_DISKS = Faults(
    crash_rate=20.0,
    restart_max=0.05,
    sync_max=0.1,
    snapshot_max=0.2,
    torn_record=0.5,
    corrupt_tail=0.2,
    rotten_record=0.2,
    lying_fsync=0.2,
    stale_copy=0.2,
    amnesia=0.1,
    slow_disk_rate=1.0,
    full_disk_rate=1.0,
)


@scenario
def banking(simulation, *, at_once=1, silent=True):
    """Two accounts that are fed with numbers. Their disks may be damaged."""
    for account, feeder in ((A, B), (C, D)):
        simulation.spawn(account, Teller, journal=True)
        simulation.spawn(feeder, lambda account=account: Feeder(account))
    simulation.may_crash([A, C], at_once=2)
    simulation.may_damage(
        [A, C], at_once=at_once, recovered=lambda pid: bool(simulation.process(pid).numbers), silent=silent
    )
    simulation.converges(lambda: simulation.up(A) and simulation.up(C))


def bank(seed=2, faults=BAD_DISKS, steps=3000, **parameters):
    world = Simulation(seed, faults)
    banking(world, **parameters)
    world.run(steps)
    return world


def crashes(world):
    """The details of all crashes."""
    found = [choice.detail.get("crash", choice.detail) for choice in world.choices]
    return [Crash.from_detail(one) for one in found if set(one) & {"keep", "torn", "effects", *DAMAGES}]


def test_disk_faults_all_happen():
    world = bank()
    seen = {name for crash in crashes(world) for name in crash.to_detail()}
    assert seen == {"keep", "torn", "lose", "rot", "stale", "amnesia", "effects"}
    assert set(world.counts) >= {*DAMAGES.values(), "slow disk", "full disk", "crash", "crash in a step"}
    assert world.damages(A) > 10
    assert any(choice.what == "a snapshot" for choice in world.choices)


def test_disks_are_damaged_only_as_far_as_the_scenario_says():
    loud = crashes(bank(silent=False))
    assert any(crash.damages for crash in loud)
    assert not any(crash.stale for crash in loud)
    assert not any(crash.damages for crash in crashes(bank(at_once=0)))


def test_disks_are_not_damaged_while_others_have_not_recovered():
    worst = 0

    def look(step):
        nonlocal worst
        worst = max(worst, sum(world.damaged(each) for each in (A, C)))

    for at_once in (1, 2):
        worst, world = 0, Simulation(3, BAD_DISKS)
        banking(world, at_once=at_once)
        world.check(look)
        world.run(3000)
        assert worst == at_once


def test_slow_disk_makes_others_wait_and_loses_nothing():
    def longest(**faults):
        world = bank(2, Faults(sync_max=0.001, **faults), steps=0)
        waits, began = [], None
        for _ in range(3000):
            world.step()
            unsynced = bool(world._slots[C].journal.unsynced)
            if unsynced and began is None:
                began = world.now
            elif not unsynced and began is not None:
                waits.append(world.now - began)
                began = None
        assert world.process(C).numbers == sorted(world.process(C).numbers)
        return max(waits)

    assert longest() < 0.02
    assert 0.1 < longest(slow_disk_rate=2.0, slow_disk_max=0.5) < 0.6


def test_process_with_a_full_disk_crashes_until_there_is_room():
    world = bank(faults=Faults(full_disk_rate=0.5, full_disk_max=0.5, restart_max=0.05), steps=4000)
    assert "crash" not in world.counts
    assert world.counts["full disk"] > 3
    assert not any(crash.damages for crash in crashes(world))
    world.settle(seconds=1)
    assert world.process(A).restored, "what was durable is still there"


def test_settling_ends_the_faults_of_disks():
    world = bank(faults=Faults(full_disk_rate=50.0, full_disk_max=10.0, restart_max=0.05), steps=500)
    world.settle(seconds=1)
    crashed = world.incarnation(A)
    steps = len(world.process(A).numbers)
    world._converged = lambda: len(world.process(A).numbers) > steps + 20
    world.settle(seconds=5)
    assert world.incarnation(A) == crashed


@pytest.mark.parametrize("seed", range(4))
def test_runs_with_bad_disks_replay_to_the_byte(seed, tmp_path):
    world = bank(seed, steps=800)
    path = tmp_path / "bank.schedule"
    Schedule(banking, seed, {}, tuple(world.choices)).save(path)
    again = Schedule.load(path).replay()
    assert again.choices == world.choices
    assert list(again.received) == list(world.received)
    for one, other in zip(again._slots.values(), world._slots.values(), strict=True):
        assert (one.process is None) == (other.process is None)
        assert one.process is None or vars(one.process) == vars(other.process)
        for name in ("snapshot", "records", "unsynced", "damage", "stored"):
            assert getattr(one.journal, name, None) == getattr(other.journal, name, None)
    Schedule(banking, seed, {}, tuple(again.choices)).save(tmp_path / "again.schedule")
    assert path.read_bytes() == (tmp_path / "again.schedule").read_bytes()


def test_driver_goes_on_after_settling():
    world = run(steps=50, loss=0.3, latency_max=0.05)
    world.converges(lambda: True)
    world.settle()
    before = world.steps
    world.run(100)
    assert world.steps > before


SCRIPT = """
import sys
from tests.rabble_trio.testing.test_driver import history
print(history())
"""


def history() -> str:
    """A run with all kinds of faults, as text."""
    lines = []
    for seed in range(5):
        world = Simulation(seed, Faults.draw(Simulation(seed).random("faults")))
        world.spawn(A, lambda: Adder(peer=B, timer=0.02))
        world.spawn(B, lambda: Feeder(C))
        world.spawn(C, Teller, journal=True)
        world.may_crash([A, B, C], at_once=3)
        world.may_damage([C], at_once=1, recovered=lambda pid: True, silent=True)
        world.send(A, Add(1), sender=CLIENT)
        world.run(300)
        lines += [choice.to_line() for choice in world.choices]
        lines.append(json.dumps([seed, world.now, world.counts]))
    return "\n".join(lines)


def test_history_is_the_same_in_another_process():
    # Another order of hashes, too. tests/simulation compares Python versions, where there are others.
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == history()


def test_history_is_the_same_on_every_version_of_python():
    # Made by Python 3.11, 3.12 and 3.13. It changes when the driver draws in another order, and only then.
    assert hashlib.sha256(history().encode()).hexdigest()[:16] == "f353cd91277fe827"
