"""The `haret` command.

    __init__      main: parse, run, turn errors into exit codes
    parser        the whole command line: sub-commands and global options
    command       what a command is; a table of commands becomes a parser
    commands      the table of commands for clients    (one-shot, and in `haret shell`)
    admin         the table of commands for operators  (one-shot with -e, and in `haret admin`)
    session       what those commands run on: connections that are opened when they are needed
    prompt        the prompt of `haret shell` and `haret admin`, interactive or fed by a pipe
    serve         the command that runs a server    (collector: its garbage collection)
    dev, demo     the commands that run a cluster on this machine
    processes     its nodes, each a process
    control       how `haret dev kill` in one terminal reaches `haret dev` in another
    sim           the protocol in a simulated world
    output        an answer as table, plain text, JSON or raw bytes
    failures      an error as exit code, message and hint

Only `main` is meant for others. It imports the rest itself, so that Ctrl-C during the imports ends the command as quietly
as at any other time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process, and return its exit code."""
    try:
        from .run import run  # noqa: PLC0415  # see the docstring of the module

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
