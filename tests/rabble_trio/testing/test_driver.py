"""`step` and `run`: what the seed and the faults choose."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from random import Random

import pytest

from rabble_trio.testing import Faults, Simulation
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, C, in_order


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


def test_journal_faults_all_happen():
    seen = set()
    faults = Faults(crash_rate=20.0, restart_max=0.05, sync_max=0.1, torn_record=0.5, corrupt_tail=0.3, amnesia=0.2)
    world = Simulation(2, faults)
    world.spawn(A, Account, journal=True)
    world.spawn(B, lambda: Feeder(A))
    world.may_crash([A], at_once=1)
    world.run(3000)
    for choice in world.choices:
        seen |= set(choice.detail.get("crash", choice.detail))
    assert {"keep", "torn", "lose", "amnesia", "effects"} <= seen


class Feeder(Adder):
    def __init__(self, to):
        super().__init__(timer=0.01)
        self.to = to

    def handle(self, message, sender, correlation_id, output):
        super().handle(message, sender, correlation_id, output)
        if self.timeouts and not isinstance(message, Add):
            output.send(self.to, Add(self.timeouts)) if type(message).__name__ == "Timeout" else None


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
        world.spawn(C, Account, journal=True)
        world.may_crash([A, B, C], at_once=3)
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
    assert hashlib.sha256(history().encode()).hexdigest()[:16] == "c553abca06e02d8b"
