"""The whole command line. Global options may stand before the sub-command, or anywhere behind it."""

from __future__ import annotations

import argparse
import math
from importlib.metadata import version
from typing import Any, Final

from . import demo, dev, prompt, serve, sim
from .admin import ADMIN
from .command import Parser, PrintAndEnd
from .commands import CLIENT
from .failures import Exit
from .output import FORMATS
from .prompt import DEFAULT_ADMIN, DEFAULT_ENDPOINTS, DEFAULT_NAMESPACE, DEFAULT_TIMEOUT

_ABOUT: Final = """\
haret keeps small, important data on several replicas at once: configuration, queues and sets, under paths, in
independent namespaces. What it has acknowledged survives the crash of any minority of the replicas."""

_MORE: Final = f"""\
environment:
  HARET_ENDPOINTS        client ports, as in --endpoints (default {DEFAULT_ENDPOINTS})
  HARET_ADMIN_ENDPOINTS  admin ports, for `haret admin` (default {DEFAULT_ADMIN})
  HARET_NAMESPACE        as in --namespace (default {DEFAULT_NAMESPACE})

exit codes:
  {Exit.OK:d} done            {Exit.FAILURE:d} failed             {Exit.USAGE:d} wrong usage    {Exit.NOT_FOUND:d} not found
  {Exit.CONFLICT:d} conflict        {Exit.UNAVAILABLE:d} nobody answered    {Exit.INTERRUPTED:d} Ctrl-C

examples:
  haret demo                                  see what it does, in a few seconds
  haret dev                                   run a cluster on this machine, and in another terminal
  haret put /motd hello                       store something
  haret get /motd                             and read it
  haret serve --example-config > haret.toml   write a configuration, and start a single server with it
  haret serve --config haret.toml
"""


def make_parser() -> Parser:
    """The parser of `haret`. What it parses has the attribute `start`: what to call with the options and a console."""
    common = _common_options()
    parser = Parser(
        prog="haret", usage="%(prog)s [options] COMMAND ...", description=_ABOUT, epilog=_MORE, parents=[common]
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the release and end")
    parser.set_defaults(start=prompt.run_one)
    place = parser.add_table(CLIENT, [common])
    serve.add_parser(place, [common])
    demo.add_parser(place, [common])
    dev.add_parser(place, [common])
    sim.add_parser(place, [common])
    prompt.add_parsers(place, [common], ADMIN)
    return parser


def _common_options() -> argparse.ArgumentParser:
    # Every parser gets these, and none gives them a default, which would undo what stood before a sub-command.
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = options.add_argument_group("global options")
    group.add_argument(
        "--endpoints", metavar="HOST:PORT,...", help="where the servers are; the first that answers is used"
    )
    group.add_argument("--namespace", metavar="NAME", help=f"the namespace to work in (default {DEFAULT_NAMESPACE})")
    group.add_argument(
        "-o",
        "--output",
        choices=FORMATS,
        help="how to print; by default a table on a terminal, and tabs between columns in a pipe",
    )
    group.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long to wait for an answer (default {DEFAULT_TIMEOUT:g})",
    )
    return options


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> None:
        raise PrintAndEnd(f"haret {version('rabble-trio')}\n")
