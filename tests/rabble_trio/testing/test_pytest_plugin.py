"""Saved schedules as tests, and the command that replays them. Both are run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from rabble_trio.testing.__main__ import main

PLUGIN = "rabble_trio.testing.pytest_plugin"

SCENARIO = """
from rabble_trio import NodeId, Pid, Process, Timeout
from rabble_trio.testing import scenario

LIMIT = 3
A = Pid("a", NodeId("n", "127.0.0.1:5000"))


class Counter(Process):
    count = 0

    def init(self, pid, output):
        output.start_timer(1)

    def handle(self, message, sender, correlation_id, output):
        self.count += 1
        assert self.count < LIMIT, f"too many: {self.count}"
        output.start_timer(1)


@scenario
def counting(simulation):
    simulation.spawn(A, Counter)
"""

TEST = """
from counters import counting
from rabble_trio.testing import run_scenario

def test_counting():
    run_scenario(counting, 1, 10)
"""

HEAD = '{"schedule": 1, "scenario": "counters:counting", "note": "Counts too far."}\n'
FIRE = '{"do": "fire", "what": "a timer"}\n'
PAUSE = '{"do": "pause", "what": "a"}\n{"do": "resume", "what": "a"}\n'


@pytest.fixture
def project(tmp_path):
    """A project with a scenario and a folder for schedules."""
    (tmp_path / "counters.py").write_text(SCENARIO)
    (tmp_path / "saved").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nrabble_schedules = saved\n")
    return tmp_path


def run(project, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=project, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def pytest_in(project):
    # An editable installation from before there was a plugin does not know it; to name it twice would be an error.
    known = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
    return run(project, "pytest", "-q", *(() if known else ("-p", PLUGIN)))


def test_saved_schedule_is_a_test_that_passes_when_nothing_goes_wrong(project):
    (project / "saved" / "good.schedule").write_text(HEAD + FIRE * 2)
    (project / "elsewhere.schedule").write_text(HEAD + FIRE * 3)
    code, text = pytest_in(project)
    assert code == 0, text
    assert "1 passed" in text


def test_saved_schedule_that_fails_says_how_to_repeat_it(project):
    (project / "saved" / "bad.schedule").write_text(HEAD + FIRE * 3)
    code, text = pytest_in(project)
    assert code == 1
    assert "too many: 3" in text
    command = next(line for line in text.splitlines() if "replay it with: " in line).partition("python -m ")[2]
    code, text = run(project, *command.split())
    assert code == 1
    assert "Counts too far." in text
    assert 'failed at choice 3 of 3: {"do": "fire", "what": "a timer"}' in text


def test_file_that_is_no_schedule_fails_its_test_without_a_traceback(project):
    (project / "saved" / "odd.schedule").write_text("{}")
    code, text = pytest_in(project)
    assert code == 1
    assert "a schedule begins with" in text
    assert "Traceback" not in text


def test_run_that_fails_in_a_test_is_saved(project):
    (project / "test_it.py").write_text(TEST)
    code, text = pytest_in(project)
    assert code == 1
    command = next(line for line in text.splitlines() if line.startswith("replay it with: ")).partition("python -m ")[2]
    code, text = run(project, *command.split())
    assert code == 1
    assert "AssertionError: too many: 3" in text


def test_plugin_is_off_unless_a_folder_is_named(project):
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "saved" / "bad.schedule").write_text(HEAD + FIRE * 3)
    (project / "test_it.py").write_text(TEST)
    code, text = pytest_in(project)
    assert code == 1
    assert "replay it with" not in text
    assert "1 failed" in text


# --- The command ---


@pytest.fixture
def saved(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "counters", raising=False)
    path = project / "saved" / "x.schedule"
    path.write_text(HEAD + PAUSE + FIRE * 2 + PAUSE + FIRE)
    return path


def test_minimize_writes_the_shorter_schedule(saved, capsys):
    assert main(["minimize", str(saved)]) == 1
    assert "7 choices became 3" in capsys.readouterr().out
    assert saved.read_text().splitlines()[1:] == [FIRE.strip()] * 3


def test_minimize_leaves_the_file_alone_if_told_another_one(saved, project):
    before = saved.read_text()
    assert main(["minimize", str(saved), "-o", str(project / "short.schedule")]) == 1
    assert saved.read_text() == before
    assert (project / "short.schedule").read_text().count("fire") == 3


def test_schedule_that_goes_well_exits_with_0(saved, capsys):
    saved.write_text(HEAD + FIRE)
    assert main(["replay", str(saved)]) == 0
    assert "1 of 1 choices repeated; nothing went wrong" in capsys.readouterr().out
    assert main(["minimize", str(saved)]) == 0


def test_choice_that_cannot_be_made_exits_with_2_or_is_skipped(saved, capsys):
    saved.write_text(HEAD + '{"do": "restart", "what": "a"}\n')
    assert main(["replay", str(saved)]) == 2
    assert "error: choice 1: a runs already" in capsys.readouterr().err
    assert main(["replay", "--skip", str(saved)]) == 0


def test_file_that_is_not_there_exits_with_2(saved, capsys):
    assert main(["replay", str(saved) + "x"]) == 2
    assert "error:" in capsys.readouterr().err
