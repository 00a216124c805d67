"""`python -m rabble_trio.testing replay FILE` repeats a saved schedule; `minimize FILE` shortens it.

Exit codes: 0, nothing goes wrong; 1, something does; 2, the file can't be read or does not fit.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ._choices import ScheduleError
from ._minimize import minimize
from ._schedule import Schedule


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, by default those of the process."""
    parser = argparse.ArgumentParser(prog="python -m rabble_trio.testing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, text in (
        ("replay", "repeat a saved schedule"),
        ("minimize", "leave out what its failure does not need"),
    ):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("file", type=Path, metavar="FILE")
        if command == "minimize":
            sub.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write; by default over FILE")
        else:
            sub.add_argument("--skip", action="store_true", help="leave out choices that can't be made any more")
    options = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())  # where the scenario's module is likely to be, as with `python -m pytest`
    try:
        schedule = Schedule.load(options.file)
        return _replay(schedule, options.skip) if options.command == "replay" else _minimize(schedule, options)
    except (ScheduleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _replay(schedule: Schedule, skip: bool) -> int:
    simulation = schedule.world()
    if schedule.note:
        print(schedule.note)
    try:
        schedule.replay(strict=not skip, simulation=simulation)
    except ScheduleError:
        raise
    except Exception as error:
        traceback.print_exc()
        made = simulation.choices
        last = f": {made[-1].to_line()}" if made else ""
        print(f"failed at choice {len(made)} of {len(schedule.choices)}{last}")
        print(f"{type(error).__name__}: {error}")
        return 1
    print(f"{len(simulation.history)} of {len(schedule.choices)} choices repeated; nothing went wrong")
    return 0


def _minimize(schedule: Schedule, options: argparse.Namespace) -> int:
    try:
        short = minimize(schedule)
    except ValueError as error:
        print(error)
        return 0
    short.save(options.output or options.file)
    print(f"{len(schedule.choices)} choices became {len(short.choices)}: {short.failure()}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
