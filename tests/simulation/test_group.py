"""Groups of replicas under simulation: a small fixed set of seeds. `haret sim` runs many more."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter

import pytest

from haret.simulation import group
from haret.vr.transfer import Collection
from rabble_trio.testing import Faults, ScenarioFailed, Simulation, run_scenario


@pytest.mark.parametrize(("replicas", "clients"), [(3, 2), (4, 2), (5, 3)])
@pytest.mark.parametrize("part", range(4))
def test_invariants_hold_and_the_group_converges(replicas, clients, part):
    for seed in range(part, 60, 4):
        run_scenario(group, seed, 700, parameters={"replicas": replicas, "clients": clients})


def test_runs_are_worth_something():
    """Faults happen, views change, requests are answered: a simulation that does nothing finds nothing, too."""
    worlds = [run_scenario(group, seed, 1000) for seed in range(40)]
    counts = {name for world in worlds for name in world.counts}
    assert counts >= {"lost", "duplicated", "straggler", "clog", "partition", "pause", "crash", "crash in a step"}
    views = [max(world.process(p).context.view for p in world.pids[:3] if world.up(p)) for world in worlds]
    assert sum(view > 0 for view in views) > 10
    assert max(views) > 3
    assert sum(world.process(pid).answered for world in worlds for pid in world.pids[3:]) > 1000


def test_images_come_in_many_parts(monkeypatch):
    """Replicas that lose their disks get images whose parts are late, lost and doubled, while the next image is made."""
    taken = Counter()
    accept_part = Collection._accept_part

    def accept(self, answer, *arguments):
        accepted = accept_part(self, answer, *arguments)
        taken["refused" if not accepted else "first" if answer.part == 0 else "last" if answer.last else "part"] += 1
        return accepted

    monkeypatch.setattr("haret.vr.image.ENOUGH", 64)
    monkeypatch.setattr(Collection, "_accept_part", accept)
    faults = Faults(
        latency_max=0.02,
        reordering=True,
        loss=0.05,
        duplication=0.3,
        crash_rate=4.0,
        restart_max=0.3,
        amnesia=1.0,
        sync_max=0.005,
    )
    for seed in range(40):
        run_scenario(group, seed, 700, faults=faults)
    assert min(taken[what] for what in ("first", "part", "last")) >= 5, taken


def test_without_faults_everything_is_answered():
    world = Simulation(1, Faults())
    group(world)
    world.run(3000)
    clients = [world.process(pid) for pid in world.pids[3:]]
    assert min(client.answered for client in clients) > 50
    assert {world.process(pid).context.view for pid in world.pids[:3]} == {0}


def test_failed_run_replays_to_the_same_failure(monkeypatch):
    from haret.vr.states import primary

    monkeypatch.setattr(primary, "acknowledged", lambda acked, others: max(acked))
    with pytest.raises(ScenarioFailed) as caught:
        for seed in range(20):
            run_scenario(group, seed, 500, parameters={"replicas": 5})
    assert str(caught.value.schedule.failure()) == str(caught.value.__cause__)


def fingerprint() -> str:
    """What a few runs did, in all detail."""
    made = hashlib.sha256()
    for seed in range(6):
        world = run_scenario(group, seed, 600)
        for choice in world.choices:
            made.update(choice.to_line().encode() + b"\n")
        for pid in world.pids[:3]:
            if world.up(pid):
                made.update(world.process(pid).context.machine.digest())
    return made.hexdigest()


def test_same_seed_gives_the_same_bytes_in_another_process():
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    script = "from tests.simulation.test_group import fingerprint; print(fingerprint())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == fingerprint()
