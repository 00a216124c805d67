"""`haret serve`: a server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from signal import SIGTERM
from typing import Any, Final

import trio

import haret

from .collector import Collector
from .failures import CommandFailed, Exit, UsageError
from .interrupt import SHUTDOWN, Interrupted, run_trio
from .output import Answer, Console

EXAMPLE: Final = """\
# A haret server on this machine alone. Start it with: haret serve --config FILE
node_name = "node1"
cluster_host = "127.0.0.1:5000"   # other nodes
admin_host = "127.0.0.1:5001"     # haret admin
api_host = "127.0.0.1:5002"       # clients
data_dir = "node1"                # members, namespaces and the replicas' logs; relative to this file
# recorder_dir = "flights"        # what replicas received before they failed, to be replayed with rabble-step
# secret_file = "cluster.secret"  # the same on all nodes: openssl rand -hex 32 > cluster.secret; chmod 600 cluster.secret
"""

LEVELS: Final = ("debug", "info", "warning", "error")


def add_parser(place: Any, parents: Sequence[ArgumentParser]) -> None:
    """Add `haret serve` to the command line."""
    parser = place.add_parser(
        "serve",
        help="run a server",
        usage="%(prog)s --config FILE [options]",
        description="Run a server until Ctrl-C or SIGTERM. It prints where it listens, and logs to stderr.",
        epilog="example:\n  haret serve --example-config > haret.toml\n  haret serve --config haret.toml",
        parents=list(parents),
    )
    what = parser.add_mutually_exclusive_group(required=False)
    what.add_argument("--config", metavar="FILE", help="the server's configuration, in TOML")
    what.add_argument("--example-config", action="store_true", help="print a configuration to begin with, and end")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end when stdin does: for a program that starts a server as a part of itself",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="what to log (default info)")
    parser.set_defaults(start=start)


def start(options: Namespace, console: Console) -> int:
    """Run the server."""
    if options.example_config:
        console.write(EXAMPLE)
        return Exit.OK
    if options.config is None:
        raise UsageError(
            "a server needs a configuration: haret serve --config FILE",
            "`haret serve --example-config > haret.toml` writes this one:\n\n" + EXAMPLE,
        )
    config = _load(options.config)
    _log_to_stderr(options.log_level)
    try:
        run_trio(lambda: _serve(config, console, until_eof=options.until_stdin_closes), SHUTDOWN)
    except Interrupted as end:
        # To be stopped is what a server expects; that a person was in a hurry is for their shell to know.
        return Exit.OK if end.number == SIGTERM else Exit.INTERRUPTED
    return Exit.OK


def _load(path: str) -> haret.ServerConfig:
    try:
        return haret.load_config(path)
    except haret.ConfigError as error:
        text = str(error)
        raise CommandFailed(text if path in text else f"{path}: {text}", code=Exit.USAGE) from None


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )


async def _serve(config: haret.ServerConfig, console: Console, *, until_eof: bool) -> None:
    async with haret.open_server(config) as server:
        await server.node.spawn("collector", Collector, group="haret", restart="permanent")
        console.print(describe(server))
        if until_eof:
            await _stdin_closed()
        else:
            await trio.sleep_forever()


async def _stdin_closed() -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some():
            pass  # what is said there is nothing to us


def describe(server: haret.Server) -> Answer:
    """Where a server listens, and how safe that is."""
    kept = server.config.data_dir
    data = {
        "node": server.node.id,
        "cluster": server.node.id.addr,
        "admin": server.admin_address,
        "clients": server.api_address,
        "security": server.config.security(),
        "storage": f"{kept}; new namespaces are {server.config.durability}"
        if kept
        else "none: without data_dir nothing outlives this process, and its replicas recover from the others",
    }
    return Answer(data, rows=tuple(data.items()), raw=f"{server.api_address}\n".encode())
