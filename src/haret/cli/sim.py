"""`haret sim`: the replication protocol under simulated faults, all invariants checked after every step.

Or, with `--explore`, in every order of events that a small group has.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

from haret.simulation import Campaign
from haret.simulation.small import explore_group
from rabble_trio.testing import Schedule, ScheduleError, minimize

from .failures import CommandFailed, Exit, UsageError
from .output import Answer, Console

PROGRESS: Final = 2.0
"""Seconds between two lines of progress."""

DEFAULT_RUNS: Final = 100
"""Enough for a look, in a few seconds."""

DEFAULT_STEPS: Final = 1000
"""Long enough for several view changes, short enough that a failing run is readable."""

RANDOM: Final = "random runs"
REPLAY: Final = "--replay"
EXPLORE: Final = "--explore"

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    RANDOM: {
        "seed": 0,
        "runs": DEFAULT_RUNS,
        "steps": DEFAULT_STEPS,
        "fenced": False,
        "spares": 0,
        "replicas": 3,
        "clients": 2,
        "minimize": False,
        "save": ".",
    },
    REPLAY: {"minimize": False},
    EXPLORE: {"requests": 2, "fires": 1, "crashes": 1, "save": "."},
}
"""The options of each kind of test, and what they are if they are left out. Those of another kind are refused: whoever
gives one expects it to have an effect. The parser has no defaults, so that one that was given is told from one that was
not."""

MAX_STATES: Final = 10_000_000
"""Of an exploration, which then ends as incomplete: some 7 GB of memory."""


def add_parser(place: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add `haret sim` to the command line."""
    parser = place.add_parser(
        "sim",
        help="test the replication protocol in a simulated world",
        usage="%(prog)s [--seed N] [--runs N] [--steps N] [options]",
        description="Run groups of replicas with clients in a simulated world in which messages get lost, doubled and\n"
        "late, the network is cut, clocks are wrong and replicas crash; check every invariant after every\n"
        "step, then stop the faults and see the group recover. A seed decides everything, so that a failing\n"
        "run can be repeated; its schedule is saved.",
        epilog="examples:\n"
        "  haret sim --runs 1000\n"
        "  haret sim --replay haret-sim-17.schedule --minimize\n"
        "  haret sim --explore --fires 2      (three million orders of events: minutes, and 2 GB of memory)",
        parents=list(parents),
    )
    parser.add_argument("--seed", type=_at_least(0), metavar="N", help="of the first run (default 0)")
    parser.add_argument("--runs", type=_at_least(1), metavar="N", help=f"how many (default {DEFAULT_RUNS})")
    parser.add_argument("--steps", type=_at_least(1), metavar="N", help=f"in each (default {DEFAULT_STEPS})")
    parser.add_argument(
        "--fenced", action="store_true", default=None, help="logs in memory only: groups in mode fenced"
    )
    parser.add_argument(
        "--spares", type=int, choices=range(5), help="replicas that take turns in the group (default 0)"
    )
    parser.add_argument("--replicas", type=int, choices=(3, 4, 5, 7), help="in the group (default 3)")
    parser.add_argument("--clients", type=_at_least(1), metavar="N", help="beside it (default 2)")
    parser.add_argument("--replay", metavar="FILE", help="repeat a saved schedule instead")
    parser.add_argument(
        "--minimize", action="store_true", default=None, help="shorten a failing schedule to what the failure needs"
    )
    parser.add_argument("--save", metavar="DIR", help="where failing schedules go (default here)")
    small = parser.add_argument_group("every order of events in three replicas, instead of random runs")
    small.add_argument("--explore", action="store_true", help="try all that there are within these bounds:")
    small.add_argument("--requests", type=_at_least(1), metavar="N", help="of a client (default 2)")
    small.add_argument("--fires", type=_at_least(0), metavar="N", help="of timers (default 1)")
    small.add_argument("--crashes", type=_at_least(0), metavar="N", help="for good (default 1)")
    parser.set_defaults(start=start)


def _at_least(smallest: int) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and smallest <= int(text) < 2**62):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {smallest}")
        return int(text)

    return number


def start(options: argparse.Namespace, console: Console) -> int:
    """Run, or repeat."""
    _complete(options)
    if options.replay is not None:
        return _replay(options, console)
    folder = Path(options.save)
    if not folder.is_dir():
        raise CommandFailed(f"{folder} is not a folder: --save says where failing schedules go", code=Exit.USAGE)
    if options.explore:
        return _explore(options, folder, console)
    campaign = Campaign(
        options.seed,
        options.runs,
        options.steps,
        options.replicas,
        options.clients,
        durable=not options.fenced,
        spares=options.spares,
    )
    began = _run(campaign, console)
    console.print(_report(campaign, monotonic() - began))
    if campaign.failed is None:
        return Exit.OK
    path = folder / f"haret-sim-{campaign.failed.seed}.schedule"
    campaign.failed.save(path)
    console.complain(f"seed {campaign.failed.seed} failed: {_first_line(campaign.cause)}\nschedule: {path}\n")
    if options.minimize:
        _minimize(campaign.failed, path, console)
    console.complain(f"replay it with: haret sim --replay {path}\n")
    return Exit.FAILURE


def _complete(options: argparse.Namespace) -> None:
    """Fill in what was left out, and refuse what would have no effect."""
    hint = "`haret sim --help` tells which options there are for what"
    if options.explore and options.replay is not None:
        raise UsageError("--explore and --replay are two things to do: choose one", hint)
    kind = EXPLORE if options.explore else RANDOM if options.replay is None else REPLAY
    for name in {name: None for names in OPTIONS.values() for name in names}:
        given = getattr(options, name) is not None
        if given and name not in OPTIONS[kind]:
            owners = " and ".join(owner for owner, names in OPTIONS.items() if name in names)
            raise UsageError(f"--{name} is an option of {owners}, not of {kind}", hint)
        if not given:
            setattr(options, name, OPTIONS[kind].get(name))


def _run(campaign: Campaign, console: Console) -> float:
    began = said = monotonic()
    for _ in campaign.run():
        now = monotonic()
        if now - said >= PROGRESS:
            said = now
            speed = campaign.receipts / (now - began)
            console.complain(f"{campaign.done} of {campaign.runs} runs, {campaign.receipts:,} steps, {speed:,.0f}/s\n")
    return began


def _report(campaign: Campaign, elapsed: float) -> Answer:
    elapsed = max(elapsed, 0.001)
    figures: dict[str, Any] = {
        "runs": campaign.done,
        "first_seed": campaign.seed,
        "replicas": campaign.replicas,
        "steps": campaign.receipts,
        "runs_per_second": round(campaign.done / elapsed, 1),
        "steps_per_second": round(campaign.receipts / elapsed),
        "virtual_seconds": round(campaign.seconds),
        "view_changes": campaign.views,
        "requests_answered": campaign.answers,
        "failed_seed": None if campaign.failed is None else campaign.failed.seed,
        "faults": dict(sorted(campaign.faults.items())),
    }
    rows: list[tuple[Any, Any]] = [
        (name.replace("_", " "), value) for name, value in figures.items() if name != "faults"
    ]
    rows += [(f"fault: {name}", count) for name, count in sorted(campaign.faults.items())]
    return Answer(figures, rows=tuple(rows))


def _explore(options: argparse.Namespace, folder: Path, console: Console) -> int:
    found = explore_group(options.requests, options.fires, options.crashes, MAX_STATES)
    figures: dict[str, Any] = {
        "complete": found.complete,
        "states": found.states,
        "transitions": found.transitions,
        "deepest": found.deepest,
        "states_of_replicas": found.local_states,
        "seconds": round(found.seconds, 1),
        "states_per_second": round(found.states_per_second),
    }
    console.print(Answer(figures, rows=tuple((name.replace("_", " "), value) for name, value in figures.items())))
    if found.schedule is not None:
        path = folder / "haret-explore.schedule"
        found.schedule.save(path)
        console.complain(f"{_first_line(found.failure)}\nshortest schedule: {path}\n")
        console.complain(f"replay it with: haret sim --replay {path}\n")
    elif not found.complete:
        console.complain(f"there are more than {MAX_STATES:,} states: give smaller bounds\n")
    return Exit.OK if found.complete else Exit.FAILURE


def _replay(options: argparse.Namespace, console: Console) -> int:
    path = Path(options.replay)
    try:
        schedule = Schedule.load(path)
        simulation = schedule.world()
        schedule.replay(simulation=simulation)
    except (ScheduleError, OSError) as error:
        raise CommandFailed(f"{path}: {error}", code=Exit.USAGE) from None
    except Exception as error:
        console.complain("".join(traceback.format_exception(error)))
        done = len(simulation.history)
        console.complain(f"failed at choice {done} of {len(schedule.choices)}: {_first_line(error)}\n")
        if options.minimize:
            _minimize(schedule, path.with_name(f"{path.stem}.min.schedule"), console)
        return Exit.FAILURE
    console.write(f"{len(schedule.choices)} choices repeated; nothing went wrong\n")
    return Exit.OK


def _minimize(schedule: Schedule, path: Path, console: Console) -> None:
    short = minimize(schedule)
    short.save(path)
    console.complain(f"{len(schedule.choices)} choices became {len(short.choices)}, in {path}\n")


def _first_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
