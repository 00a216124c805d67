"""The stepping debugger: `rabble-step SCHEDULE` goes through a saved schedule, step by step, in both directions.

It is also `python -m rabble_trio.testing.step`. Each step is one choice of the schedule: a message arrives, a timer fires,
a process crashes. Commands are read from the terminal, from a pipe, or from `-c`; `--svg` and `--html` draw instead.

Exit codes: 0, done; 1, a search found nothing; 2, wrong usage, a file that can't be read, or a command that makes no
sense while nobody is there to type a better one; 130, Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from .._show import printable
from ._choices import ScheduleError
from ._diagram import draw_svg
from ._flight import flight
from ._page import draw_html
from ._recording import Frame, Recording
from ._schedule import Schedule

MAX_CHANGES: Final = 20
"""Lines of a state's changes that a step shows by itself: the rest of the screen is for the effects. `d` shows all."""

MAX_COUNT: Final = 1000
"""Steps that one command shows: more is a mistake, and scrolls away."""

AROUND: Final = 5
"""Steps before and after the current one that `l` lists."""

HELP: Final = """\
n [COUNT]    next step                        b [COUNT]    back one step
g NUMBER     go to a step; g end: the last    l [NUMBER]   list the steps around
/TEXT        next step that says TEXT         ?TEXT        the same, backward
p            what is pending                  s [NAME]     state of a process
d            all that the step changed        q            quit
h            this help                        Enter: the last command again"""


class BadCommand(Exception):
    """What was typed makes no sense; the text says what would."""


class Stepper:
    """Answers commands with lines of text; knows no terminal."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.number = 0
        """The step that was shown last."""
        self.missed = False
        """Whether a search found nothing."""
        self._last = "n"
        self._commands: dict[str, Callable[[str], Iterable[str]]] = {
            "n": self._next, "next": self._next, "b": self._back, "back": self._back, "g": self._go, "goto": self._go,
            "l": self._list, "list": self._list, "p": self._pending, "pending": self._pending, "s": self._state,
            "state": self._state, "d": self._diff, "diff": self._diff, "h": self._help, "help": self._help,
        }  # fmt: skip

    def greeting(self) -> Iterable[str]:
        """What the schedule is, and how it ends."""
        recording = self.recording
        schedule = recording.schedule
        yield f"{schedule.scenario.name}, seed {schedule.seed}, {_count(len(schedule.choices), 'step')}"
        if schedule.note:
            yield printable(schedule.note)
        if recording.left_out:
            yield f"{_count(recording.left_out, 'choice')} can't be made in this world, and left out"
        if recording.failure is None:
            yield "nothing goes wrong"
        else:
            yield f"step {recording.end} fails: {recording.frame(recording.end).error}"
        recorded = schedule.parameters.get("failure") if schedule.scenario is flight else None
        if recorded is not None and not recording.shows(str(recorded)):
            yield f"which is not how the recording ended: {printable(str(recorded))}"

    def prompt(self) -> str:
        """Where we are."""
        return f"({self.number}/{self.recording.end}) "

    def answer(self, command: str) -> Iterable[str]:
        """Lines that answer a command. Raises `BadCommand`."""
        command = command.strip() or self._last
        self._last = command
        if command[0] in "/?" and command != "?":
            return self._search(command)
        word, _, rest = command.partition(" ")
        found = self._help if word == "?" else self._commands.get(word)
        if found is None:
            raise BadCommand(f"there is no command {_cut(word)!r}; h lists them")
        return found(rest.strip())

    # --- Moving ---

    def _next(self, rest: str) -> Iterable[str]:
        last = self.recording.end
        if self.number == last:
            return ["this is the last step"]
        return self._show_to(min(last, self.number + self._count_of(rest)), 1)

    def _back(self, rest: str) -> Iterable[str]:
        if self.number == 0:
            return ["this is the start"]
        return self._show_to(max(0, self.number - self._count_of(rest)), -1)

    def _show_to(self, number: int, direction: int) -> Iterable[str]:
        while self.number != number:
            self.number += direction
            yield from show(self.recording.frame(self.number))

    def _go(self, rest: str) -> Iterable[str]:
        self.number = self._step_of(rest)
        return show(self.recording.frame(self.number))

    def _search(self, command: str) -> Iterable[str]:
        text = command[1:].strip().lower()
        if not text:
            raise BadCommand(f"what to search for? For example {command[0]}Timeout")
        forward = command[0] == "/"
        numbers = range(self.number + 1, self.recording.end + 1) if forward else range(self.number)
        found = None
        for number in numbers:  # always forward, because that is how a world goes
            if text in "\n".join(show(self.recording.frame(number), whole=True)).lower():
                found = number
                if forward:
                    break
        if found is None:
            self.missed = True
            return [f"no {'later' if forward else 'earlier'} step says {_cut(text)!r}"]
        self.number = found
        return show(self.recording.frame(found))

    # --- Looking ---

    def _list(self, rest: str) -> Iterable[str]:
        middle = self._step_of(rest) if rest else self.number
        for number in range(max(0, middle - AROUND), min(self.recording.end, middle + AROUND) + 1):
            frame = self.recording.frame(number)
            yield f"{'>' if number == self.number else ' '}{number:4} {frame.title}{'   FAILS' if frame.error else ''}"

    def _pending(self, rest: str) -> Iterable[str]:
        _nothing_after("p", rest)
        pending = self.recording.pending(self.number)
        width = min(32, max((len(name) for name, _ in pending), default=0))
        return [f"{name:{width}}  {text}" for name, text in pending] or ["nothing is pending"]

    def _state(self, rest: str) -> Iterable[str]:
        name = rest or self.recording.frame(self.number).name
        if not name:
            raise BadCommand(f"whose state? One of {', '.join(self.recording.names)}: for example s NAME")
        try:
            state = self.recording.state(name, self.number)
        except ScheduleError:
            raise BadCommand(
                f"there is no process {_cut(name)!r}; there are {', '.join(self.recording.names)}"
            ) from None
        if not self.recording.world.up(self.recording.world.pid(name)):
            return [f"{name} is down"]
        return [f"{place} = {value}" for place, value in state.items()] or [f"{name} has no state"]

    def _diff(self, rest: str) -> Iterable[str]:
        _nothing_after("d", rest)
        return self.recording.frame(self.number).changes or ["no state changed"]

    def _help(self, rest: str) -> Iterable[str]:
        return HELP.splitlines()

    # --- Numbers ---

    def _count_of(self, rest: str) -> int:
        count = _number(rest or "1")
        if not 1 <= count <= MAX_COUNT:
            raise BadCommand(f"a count is from 1 to {MAX_COUNT}; g NUMBER goes farther")
        return count

    def _step_of(self, rest: str) -> int:
        number = self.recording.end if rest == "end" else _number(rest)
        if not 0 <= number <= self.recording.end:
            raise BadCommand(f"steps are 0 to {self.recording.end}")
        return number


def show(frame: Frame, *, whole: bool = False) -> Iterable[str]:
    """A step as lines. `whole`: with all that it changed, however much that is."""
    yield f"{frame.number}. {frame.title}"
    if frame.left_out:
        yield f"   left out: {frame.left_out}"
    if frame.received:
        yield f"   {frame.received}"
    if frame.is_dead_letter:
        yield f"   nobody handles it: {frame.name} is down"
    for effect in frame.effects:
        yield f"   > {effect}"
    shown = frame.changes if whole else frame.changes[:MAX_CHANGES]
    for line in shown:
        yield f"   {line}"
    if len(shown) < len(frame.changes):
        yield f"   and {_count(len(frame.changes) - len(shown), 'change')} more: d shows all"
    if frame.error:
        yield f"   FAILS: {frame.error}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _number(text: str) -> int:
    # int() also takes underscores, other digits than ours, and numbers that take a minute to read.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadCommand(f"that needs a number, not {_cut(text)!r}" if text else "that needs a number")
    return int(text)


def _nothing_after(command: str, rest: str) -> None:
    if rest:
        raise BadCommand(f"{command} takes nothing after it")


# --- The command ---


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, by default those of the process. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    draws = options.svg or options.html
    if options.command and draws:
        parser.error("-c goes with neither --svg nor --html: draw, or step")
    if not draws and (options.first is not None or options.last is not None):
        parser.error("--from and --to say what to draw, so they go with --svg or --html")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # where the scenario's module is likely to be, as with `python -m pytest`
    try:
        recording = Recording(Schedule.load(options.schedule))
        if draws:
            return _draw(recording, options)
        return _talk(Stepper(recording), options.command)
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:
        # The reader has seen enough. What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ScheduleError, OSError) as error:
        where = "" if str(options.schedule) in str(error) else f"{options.schedule}: "
        print(f"error: {printable(where + str(error))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rabble-step", description="Go through a saved schedule step by step, forward and backward, or draw it."
    )
    parser.add_argument("schedule", type=Path, metavar="SCHEDULE", help="a file saved by rabble_trio.testing")
    parser.add_argument(
        "-c", dest="command", action="append", metavar="COMMAND", help="do this and end; may be given more than once"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the space-time diagram")
    parser.add_argument("--html", type=Path, metavar="FILE", help="draw it with all details, for a browser")
    parser.add_argument("--from", dest="first", type=_step, metavar="N", help="the first step to draw; by default 0")
    parser.add_argument("--to", dest="last", type=_step, metavar="N", help="the last one; by default the end")
    return parser


def _step(text: str) -> int:
    try:
        return _number(text)
    except BadCommand as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _draw(recording: Recording, options: argparse.Namespace) -> int:
    end = recording.end
    first, last = options.first or 0, end if options.last is None else min(options.last, end)
    if first > last:
        raise ScheduleError(f"there are no steps from {first} to {last}: they are 0 to {end}")
    for path, draw in ((options.svg, draw_svg), (options.html, draw_html)):
        if path is not None:
            path.write_text(draw(recording, range(first, last + 1)), encoding="utf-8")
            some = "" if last - first == end else f"steps {first} to {last} of "
            print(f"{some}{_count(end, 'step')} drawn in {path}")
    return 0


def _talk(stepper: Stepper, commands: Sequence[str] | None) -> int:
    print(*stepper.greeting(), sep="\n", flush=True)
    if commands is None and sys.stdin.isatty():
        return _interactive(stepper)
    for line in commands if commands is not None else sys.stdin:
        command = line.strip()
        print(f"{stepper.prompt()}{command}")  # so that what comes out reads as if somebody had typed it
        if command in ("q", "quit"):
            break
        try:
            for answer in stepper.answer(command):
                print(answer)
        except BadCommand as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    sys.stdout.flush()
    return 1 if stepper.missed else 0


def _interactive(stepper: Stepper) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - importing it gives input() a history; not all systems have it
    while True:
        try:
            command = input(stepper.prompt())
        except EOFError:
            print()
            return 0
        if command.strip() in ("q", "quit"):
            return 0
        try:
            for line in stepper.answer(command):
                print(line)
        except BadCommand as error:
            print(error)


if __name__ == "__main__":
    raise SystemExit(main())
