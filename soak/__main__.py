"""The command: `python -m soak cluster|haret --minutes 10`, `python -m soak check FILE`."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import trio

from .cluster import conductor as cluster
from .service import conductor as service
from .service.checker import check
from .service.faults import KINDS
from .service.history import load


def main() -> int:
    """Returns the exit code: 1 if anything is wrong."""
    arguments = _parser().parse_args()
    if arguments.what == "check":
        return _check(arguments.file)
    if arguments.what == "cluster":
        return _run(arguments, cluster.soak)
    service.enter_network(sys.argv[1:])
    return _run(arguments, partial(service.soak, nodes=arguments.nodes, kinds=arguments.faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m soak", description="Harm real processes under load, and judge them."
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--minutes", type=float, default=10.0, help="for how long (10)")
    common.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults, to repeat a run's")
    common.add_argument("--json", type=Path, help="a file for the results")
    what.add_parser("cluster", parents=[common], help="three rabble nodes: does every message arrive?")
    haret = what.add_parser("haret", parents=[common], help="haret servers: is what clients are told linearizable?")
    haret.add_argument("--nodes", type=int, choices=(3, 5), default=3, help="how many servers (3)")
    haret.add_argument(
        "--faults", type=_kinds, default=KINDS, metavar="KIND,KIND", help=f"of these alone: {', '.join(KINDS)}"
    )
    checked = what.add_parser("check", help="judge a history that was kept, once more")
    checked.add_argument("file", type=Path)
    return parser


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    return kinds


def _run(arguments: argparse.Namespace, soak: Any) -> int:
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"seed {arguments.seed}; logs and histories in {directory}", flush=True)
    results = trio.run(soak, directory, arguments.minutes * 60, arguments.seed)
    print(results.table())
    as_json = json.dumps(results.as_json())
    if arguments.json is None:
        print(as_json)
    else:
        arguments.json.write_text(as_json + "\n")
    if results.all_violations():
        print(f"kept: {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


def _check(file: Path) -> int:
    verdict = check(load(file))
    print(f"{verdict.calls} calls, {verdict.ops} ops; {verdict.unknown} without an answer, {verdict.executed} executed")
    print("\n".join(verdict.violations) or "no violations")
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
