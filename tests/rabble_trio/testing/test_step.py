"""rabble-step: its commands, as a user types them, and all that can go wrong."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rabble_trio.testing import Schedule, step
from rabble_trio.testing._recording import Recording
from rabble_trio.testing.step import BadCommand, Stepper, main
from tests.rabble_trio.testing.stepping import everything, failing, mixed

ROOT = Path(__file__).parents[3]


@pytest.fixture
def stepper():
    return Stepper(Recording(everything()))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "everything.schedule"
    everything().save(path)
    return path


def ask(stepper, *commands):
    """The lines that the last command gives."""
    lines = []
    for command in commands:
        lines = list(stepper.answer(command))
    return lines


def test_steps_forward_and_back(stepper):
    assert stepper.prompt() == "(0/25) "
    assert ask(stepper, "n") == ["1. send client::n9@127.0.0.1:5009>a Add", "   Add(number=1)"]
    second = ask(stepper, "")  # the last command again
    assert second == [
        "2. deliver client>a Add#1",
        "   Add(number=1)",
        "   > to b: Add(number=1)",
        "   > to client::n9@127.0.0.1:5009: Sum(total=1)",
        "     numbers = [] -> [1]",
    ]
    assert ask(stepper, "next 3")[-1] == "5. pause a"
    assert ask(stepper, "b 3") == ["4. cut c > a", "3. cut a > c", *second]
    assert ask(stepper, "back 100") == [
        "1. send client::n9@127.0.0.1:5009>a Add",
        "   Add(number=1)",
        *ask(stepper, "g 0"),
    ]
    assert ask(stepper, "b") == ["this is the start"]
    assert ask(stepper, "g end")[0].startswith("25. settle")
    assert ask(stepper, "n") == ["this is the last step"]
    assert ask(stepper, "goto 2") == second


def test_search_looks_at_all_that_a_step_says(stepper):
    assert ask(stepper, "/PERSIST b'1'")[0] == "8. deliver a>b Add#1"
    assert ask(stepper, "/is down")[0].endswith("deliver client>b Add#2")
    assert ask(stepper, "?numbers = [] -> [1]")[0] == "8. deliver a>b Add#1"
    assert ask(stepper, "")[0] == "2. deliver client>a Add#1"
    assert not stepper.missed
    assert ask(stepper, "?persist") == ["no earlier step says 'persist'"]
    assert stepper.missed
    assert stepper.number == 2
    with pytest.raises(BadCommand, match="what to search for"):
        stepper.answer("/")


def test_looks_at_the_world(stepper):
    assert ask(stepper, "g 8", "p") == [
        "a timer 1  after 0.5 s",
        "b>a Sum#1  Sum(total=0)",
        "b sync     records become durable",
        "b>a Sum#2  Sum(total=-1)",
    ]
    assert ask(stepper, "s") == ["numbers = [1]", "restored = []"]
    assert ask(stepper, "s a")[0] == "peer = b"
    assert ask(stepper, "d") == ["  numbers = [] -> [1]"]
    assert ask(stepper, "g 5", "p") == ["a timer 1  after 0.5 s (blocked)", "a>b Add#1  Add(number=1)"]
    assert ask(stepper, "d") == ["no state changed"]
    assert ask(stepper, "l")[4:7] == ["    4 cut c > a", ">   5 pause a", "    6 resume a"]
    assert ask(stepper, "list 20")[0].startswith("   15 ")
    assert ask(stepper, "/ and crash", "s") == ["b is down"]
    assert ask(stepper, "?") == ask(stepper, "h") == step.HELP.splitlines()


def test_long_changes_are_cut_and_d_shows_all(stepper, monkeypatch):
    monkeypatch.setattr(step, "MAX_CHANGES", 2)
    assert ask(stepper, "g end")[-1] == "   and 5 changes more: d shows all"
    assert len(ask(stepper, "d")) == 7


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("jump", "there is no command 'jump'; h lists them"),
        ("x" * 99, "…'; h lists them"),
        ("g", "needs a number"),
        ("g x", "needs a number, not 'x'"),
        ("g -1", "needs a number"),
        ("g 26", "steps are 0 to 25"),
        ("g ٣", "needs a number"),
        ("g " + "9" * 5000, "needs a number"),
        ("n 0", "a count is from 1 to 1000"),
        ("n 1001", "g NUMBER goes farther"),
        ("s nobody", "there is no process 'nobody'; there are a, b, c"),
        ("s client", "there is no process"),
        ("s", "whose state"),
        ("p all", "p takes nothing"),
        ("d 3", "d takes nothing"),
    ],
)
def test_command_that_makes_no_sense_says_what_would(stepper, command, says):
    with pytest.raises(BadCommand) as caught:
        ask(stepper, command)
    assert says in str(caught.value)
    assert stepper.number == 0


def test_commands_from_the_command_line(file, capsys):
    assert main([str(file), "-c", "g 2", "-c", "b", "-c", "q", "-c", "nonsense"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tests.rabble_trio.testing.stepping:mixed, seed 1, 25 steps"
    assert lines[1].startswith("everything \\x1b[2J")
    assert lines[2:5] == ["nothing goes wrong", "(0/25) g 2", "2. deliver client>a Add#1"]
    assert lines[-1] == "(1/25) q"
    assert main([str(file), "-c", "/nowhere", "-c", "n"]) == 1
    assert "1. send" in capsys.readouterr().out


def test_commands_from_a_pipe_end_at_the_first_that_makes_no_sense(file, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n\nnonsense\nn\n"))
    assert main([str(file)]) == 2
    done = capsys.readouterr()
    assert "2. deliver client>a Add#1" in done.out
    assert "3. cut" not in done.out
    assert done.err == "error: there is no command 'nonsense'; h lists them\n"


def test_failure_is_told_first(tmp_path, capsys):
    path = tmp_path / "failing.schedule"
    failing().save(path)
    assert main([str(path), "-c", "g end", "-c", "g 4"]) == 0
    out = capsys.readouterr().out
    assert "1 choice can't be made in this world, and left out" in out
    assert "step 5 fails: AssertionError: told to \\x1b[2J" in out
    assert "   FAILS: AssertionError" in out
    assert "   left out: nothing is pending under the name" in out
    assert all(character.isprintable() or character == "\n" for character in out)


HEAD = '{"schedule": 1, "scenario": "tests.rabble_trio.testing.stepping:mixed"}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "is not text"),
        (b"hello", "not JSON"),
        (b"", "not JSON"),
        (b'{"schedule": 2, "scenario": "x:y"}', "a schedule begins with"),
        (b'{"schedule": 1, "scenario": "no.such.module:x"}', "can't be imported: No module named 'no'"),
        (b'{"schedule": 1, "scenario": "os:getcwd"}', "is not a scenario"),
        (HEAD.replace("}", ', "parameters": {"x": 1}}').encode(), "can't make its world: TypeError"),
        (HEAD.encode() + b'{"do": "\\u001b[2J"}', "line 2: "),
    ],
    ids=range(9),
)
def test_file_that_is_no_schedule(tmp_path, capsys, text, says):
    path = tmp_path / "x.schedule"
    if text is not None:
        path.write_bytes(text)
    assert main([str(path), "-c", "n"]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert str(path) in done.err
    assert says in done.err
    assert done.err[:-1].isprintable()


@pytest.mark.parametrize(
    "choice",
    [
        '{"do": "deliver"}',
        '{"do": "send", "what": "a"}',
        '{"do": "send", "what": "a", "from": 3, "message": 4}',
        '{"do": "send", "what": "a", "from": "b", "message": ["no such tag"]}',
        '{"do": "cut", "from": 1, "to": {}}',
        '{"do": "settle", "core": ["x"], "seconds": "y"}',
        '{"do": "crash", "what": "a", "keep": []}',
        '{"do": "pause", "what": "\\u202e"}',
    ],
)
def test_choice_that_makes_no_sense_is_shown(tmp_path, capsys, choice):
    path = tmp_path / "x.schedule"
    path.write_text(f"{HEAD}{choice}\n")
    assert main([str(path), "-c", "n"]) == 0
    out = capsys.readouterr().out
    assert "left out" in out or "FAILS" in out
    assert all(character.isprintable() or character == "\n" for character in out)


def test_pictures_are_written(file, tmp_path, capsys):
    svg, html = tmp_path / "x.svg", tmp_path / "x.html"
    assert main([str(file), "--svg", str(svg), "--html", str(html)]) == 0
    assert capsys.readouterr().out == f"25 steps drawn in {svg}\n25 steps drawn in {html}\n"
    assert svg.read_text(encoding="utf-8").startswith("<svg ")
    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main([str(file), "--svg", str(tmp_path / "no" / "x.svg")]) == 2


def test_part_of_a_schedule_is_drawn(file, tmp_path, capsys):
    svg, html = tmp_path / "x.svg", tmp_path / "x.html"
    assert main([str(file), "--svg", str(svg), "--html", str(html), "--from", "10", "--to", "12"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"steps 10 to 12 of 25 steps drawn in {svg}"
    assert re.findall(r'<section id="s(\d+)"', html.read_text(encoding="utf-8")) == ["10", "11", "12"]
    assert main([str(file), "--svg", str(svg), "--from", "24", "--to", "999"]) == 0
    assert "steps 24 to 25 of" in capsys.readouterr().out
    assert main([str(file), "--svg", str(svg), "--from", "26"]) == 2
    assert "there are no steps from 26 to 25: they are 0 to 25" in capsys.readouterr().err


def test_part_that_is_small_enough_is_drawn_of_a_schedule_that_is_too_long(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rabble_trio.testing._diagram.MAX_DRAWN", 10)
    assert main([str(file), "--svg", str(tmp_path / "x.svg")]) == 2
    assert "draw some of them (--from, --to)" in capsys.readouterr().err
    assert main([str(file), "--svg", str(tmp_path / "x.svg"), "--from", "15"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [["--nothing"], [], ["x", "-c"], ["x", "--svg", "y", "-c", "n"], ["x", "--from", "1"],
     ["x", "--svg", "y", "--from", "-1"], ["x", "--svg", "y", "--to", "end"]],
)  # fmt: skip
def test_wrong_usage(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_at_a_terminal(file, capsys, monkeypatch):
    typed = iter(["n", "nonsense", "", "q"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "1. send" in out
    assert out.count("there is no command 'nonsense'") == 2  # it goes on, and an empty line repeats it

    def end(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert main([str(file)]) == 0


def start(*arguments, **options):
    command = [sys.executable, "-W", "error", "-m", "rabble_trio.testing.step", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


def test_ctrl_c_ends_it_cleanly(file):
    ours, theirs = pty.openpty()
    with start(file, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        seen = b""
        while b"(0/25) " not in seen:
            seen += os.read(ours, 1000)
        # In the moment between the prompt and the waiting for input a signal may go unnoticed until the next one.
        for _ in range(30):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
                break
        process.kill()  # if it is still there
        assert process.returncode == 130
        assert process.stderr.read() == b""
    os.close(ours)


def test_reader_that_has_seen_enough(file):
    commands = [part for _ in range(300) for part in ("-c", "g 2")]
    with start(file, *commands, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_schedules_of_the_protocol_can_be_stepped_through():
    path = ROOT / "tests" / "schedules" / "too-few-copies.schedule"
    stepper = Stepper(Recording(Schedule.load(path)))
    assert ask(stepper, "/Prepare(")
    assert any("view" in line for line in ask(stepper, "s r0"))


def test_schedule_without_choices():
    stepper = Stepper(Recording(Schedule(mixed)))
    assert list(stepper.greeting())[-1] == "nothing goes wrong"
    assert ask(stepper, "n") == ["this is the last step"]
    assert ask(stepper, "g end") == ["0. start", "   > a: start timer 1, 0.5 s"]
