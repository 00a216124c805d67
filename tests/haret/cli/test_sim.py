"""`haret sim`."""

from __future__ import annotations

import json

import pytest

from haret.cli import main, sim
from haret.vr.states import primary
from rabble_trio.testing import Schedule
from tests.simulation.test_explore_group import commits_alone


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def figures(capsys):
    return json.loads(capsys.readouterr().out)


def test_runs_that_go_well(capsys, here):
    assert main(["sim", "--runs", "4", "--steps", "200", "--seed", "5", "-o", "json"]) == 0
    found = figures(capsys)
    assert (found["runs"], found["first_seed"], found["replicas"], found["failed_seed"]) == (4, 5, 3, None)
    assert found["steps"] > 400
    assert found["requests_answered"] > 0
    assert found["faults"]
    assert list(here.iterdir()) == []


def test_table_is_for_people(capsys):
    assert main(["sim", "--runs", "2", "--steps", "100", "--replicas", "5", "-o", "table"]) == 0
    text = capsys.readouterr().out
    assert "steps per second" in text
    assert "replicas" in text


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(primary, "acknowledged", lambda acked, others: max(acked))


def test_run_that_fails_is_saved_shortened_and_repeated(broken, monkeypatch, capsys, here):
    assert main(["sim", "--runs", "20", "--replicas", "5", "--minimize", "-o", "json"]) == 1
    out, err = capsys.readouterr()
    seed = json.loads(out)["failed_seed"]
    path = here / f"haret-sim-{seed}.schedule"
    assert f"seed {seed} failed: InvariantBroken: invariant 6" in err
    assert f"haret sim --replay {path.name}" in err
    short = Schedule.load(path)
    assert len(short.choices) < 40
    # The same again, from the file.
    assert main(["sim", "--replay", str(path)]) == 1
    assert "InvariantBroken: invariant 6" in capsys.readouterr().err
    assert main(["sim", "--replay", str(path), "--minimize"]) == 1
    assert (here / f"haret-sim-{seed}.min.schedule").exists()
    # And with the defect mended.
    monkeypatch.undo()
    assert main(["sim", "--replay", str(path)]) in (0, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--runs", "0"], "not a whole number"),
        (["--seed", "-1"], "not a whole number"),
        (["--steps", "x"], "not a whole number"),
        (["--replicas", "2"], "invalid choice"),
        (["--save", "nowhere"], "is not a folder"),
        (["--replay", "nowhere"], "nowhere"),
        (["--replay", "odd"], "a schedule begins with"),
    ],
)
def test_what_is_wrong_with_the_arguments(capsys, here, arguments, text):
    (here / "odd").write_text("{}")
    assert main(["sim", *arguments]) == 2
    assert text in capsys.readouterr().err


RANDOM = [
    ("--seed", "0"),
    ("--runs", "100"),
    ("--steps", "1000"),
    ("--fenced",),
    ("--spares", "0"),
    ("--replicas", "3"),
    ("--clients", "2"),
]
EXPLORED = [("--requests", "2"), ("--fires", "1"), ("--crashes", "1")]


@pytest.mark.parametrize(
    ("kind", "option", "belongs"),
    [
        *[(("--explore",), option, "random runs, not of --explore") for option in RANDOM],
        *[(("--replay", "x"), option, "random runs, not of --replay") for option in RANDOM],
        *[((), option, "--explore, not of random runs") for option in EXPLORED],
        *[(("--replay", "x"), option, "--explore, not of --replay") for option in EXPLORED],
        (("--explore",), ("--minimize",), "random runs and --replay, not of --explore"),
        (("--replay", "x"), ("--save", "."), "random runs and --explore, not of --replay"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_of_another_kind_of_test_is_refused_even_if_it_has_the_default_value(
    monkeypatch, capsys, kind, option, belongs
):
    for work in ("_run", "_explore", "_replay"):
        monkeypatch.setattr(sim, work, lambda *_: pytest.fail("it began to work"))
    for arguments in ([*kind, *option], [*option, *kind]):
        assert main(["sim", *arguments]) == 2
        assert f"{option[0]} is an option of {belongs}" in capsys.readouterr().err


def test_only_one_of_explore_and_replay(capsys):
    assert main(["sim", "--explore", "--replay", "x"]) == 2
    assert "--explore and --replay" in capsys.readouterr().err


def test_every_order_of_events(capsys, here):
    assert main(["sim", "--explore", "--requests", "1", "--fires", "1", "-o", "json"]) == 0
    found = figures(capsys)
    assert found["complete"]
    assert found["transitions"] > found["states"] > 500
    assert list(here.iterdir()) == []


def test_exploration_that_finds_something_saves_the_shortest_way_to_it(monkeypatch, capsys, here):
    monkeypatch.setattr(primary.Primary, "_send_batch", commits_alone())
    assert main(["sim", "--explore", "--requests", "1", "--fires", "2", "--crashes", "0", "-o", "json"]) == 1
    out, err = capsys.readouterr()
    assert not json.loads(out)["complete"]
    path = here / "haret-explore.schedule"
    assert f"haret sim --replay {path.name}" in err
    assert main(["sim", "--replay", str(path)]) == 1


def test_exploration_beyond_what_memory_can_hold_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sim, "MAX_STATES", 50)
    assert main(["sim", "--explore", "-o", "json"]) == 1
    assert "more than 50 states" in capsys.readouterr().err
