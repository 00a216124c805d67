"""From the arguments of the process to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, BinaryIO, TextIO

from .command import PrintAndEnd
from .failures import EXPECTED, Exit, UsageError
from .interrupt import Interrupted
from .output import Console
from .parser import make_parser


def run(arguments: Sequence[str]) -> int:
    """Parse, run, and report. Raises `KeyboardInterrupt`."""
    console = Console(_bytes_of(sys.stdout), _bytes_of(sys.stderr), terminal=_is_terminal(sys.stdout))
    try:
        return _run(arguments, console)
    except Interrupted:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return Exit.BROKEN_PIPE


def _run(arguments: Sequence[str], console: Console) -> int:
    if _asks_for_json(arguments):
        # An error in the arguments, too, is reported in the form they ask for.
        console.form = "json"
    try:
        if not arguments:
            raise UsageError(
                "what should it do?", "`haret --help` lists the commands; `haret demo` shows what it is about"
            )
        try:
            options = make_parser().parse_args(arguments)
        except PrintAndEnd as text:
            console.write(str(text))
            return Exit.OK
        start: Callable[[Any, Console], int] = options.start
        console.form = getattr(options, "output", None) or ("table" if console.terminal else "plain")
        return start(options, console)
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        return console.report(error)


def _asks_for_json(arguments: Sequence[str]) -> bool:
    joined = any(one in {"-ojson", "--output=json"} for one in arguments)
    return joined or any(pair in {("-o", "json"), ("--output", "json")} for pair in pairwise(arguments))


def _bytes_of(stream: TextIO | None) -> BinaryIO:
    """The bytes below a standard stream; whoever closed it before we started gets nothing."""
    return open(os.devnull, "wb") if stream is None else stream.buffer  # it lives as long as we do


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _abandon_output() -> None:
    """Nobody reads any more: let what Python still wants to write at its end go nowhere, instead of failing there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
