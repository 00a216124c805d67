"""Where commands come from: the command line, `-e`, a prompt, or a pipe. All run the same tables of commands.

At a prompt, Ctrl-C clears the line, and during a command it cancels the command; Ctrl-D or `exit` leaves. From a pipe, or
with -e, the first error ends it all with its exit code.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from .background import Background
from .command import Argument, Command, Parser, PrintAndEnd, Table, read_values, usage
from .commands import CLIENT
from .failures import EXPECTED, CommandFailed, Exit, UsageError
from .interrupt import run_trio
from .output import FORMATS, Answer, Console
from .session import AdminSession, ClientSession, Session, run_command, use_session

DEFAULT_ENDPOINTS: Final = "127.0.0.1:5002,127.0.0.1:5012,127.0.0.1:5022"
"""The client ports of `haret dev`; the first one is that of the example configuration, too."""

DEFAULT_ADMIN: Final = "127.0.0.1:5001,127.0.0.1:5011,127.0.0.1:5021"
"""The admin ports of `haret dev`; the first one is that of the example configuration, too."""

DEFAULT_NAMESPACE: Final = "demo"
"""Where one-shot commands go unless told."""

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds: many times what a view change takes, and about as long as a person waits before pressing Ctrl-C."""

MAX_LINE: Final = 4 * 1024 * 1024
"""Bytes in a line from a pipe: a few times the largest value. Something else is no line, but a file gone astray."""


# ------------------------------------------------------------------- sessions


def _endpoints(options: Namespace, variable: str, default: str) -> list[str]:
    text = getattr(options, "endpoints", None) or os.environ.get(variable) or default
    endpoints = [part.strip() for part in text.split(",") if part.strip()]
    if not endpoints:
        raise UsageError(f"there is no endpoint in {text!r}", f"write host:port, for example {default}")
    return endpoints


def _client_session(options: Namespace, namespace: str | None) -> Callable[[trio.Nursery], ClientSession]:
    chosen = getattr(options, "namespace", None) or os.environ.get("HARET_NAMESPACE") or namespace
    endpoints = _endpoints(options, "HARET_ENDPOINTS", DEFAULT_ENDPOINTS)
    timeout = getattr(options, "timeout", DEFAULT_TIMEOUT)
    return lambda nursery: ClientSession(nursery, endpoints, timeout, chosen)


def _admin_session(options: Namespace) -> Callable[[trio.Nursery], AdminSession]:
    endpoints = _endpoints(options, "HARET_ADMIN_ENDPOINTS", DEFAULT_ADMIN)
    timeout = getattr(options, "timeout", DEFAULT_TIMEOUT)
    return lambda nursery: AdminSession(nursery, endpoints, timeout)


# ------------------------------------------------------------------- one shot


def run_one(options: Namespace, console: Console) -> int:
    """Run the command in `options`, on a session of its own."""
    command: Command = options.command
    read_values(command, options, sys.stdin.buffer if sys.stdin is not None else None)
    make = _client_session(options, DEFAULT_NAMESPACE)
    answer = run_trio(lambda: use_session(make, lambda session: run_command(session, command, options)))
    console.print(answer)
    return answer.exit


# ---------------------------------------------------------- many on one session


async def _enter(session: ClientSession, arguments: Namespace) -> Answer:
    await session.enter(arguments.name)
    return Answer({"namespace": arguments.name}, rows=[(f"entered {arguments.name}",)])


def _renamed(words: tuple[str, ...], table: Table) -> Command:
    """A command of a table under the name that it had in the original."""
    old = next(command for command in table.commands if command.words == {"keys": ("ls",)}.get(words[-1], words[-1:]))
    return replace(old, words=words, example=" ".join(words))


SHELL: Final = Table(
    commands=(
        Command(
            ("enter",),
            "work in this namespace from now on",
            _enter,
            (Argument("name", "of the namespace"),),
            example="enter test-ns",
        ),
        _renamed(("list", "namespaces"), CLIENT),
        _renamed(("list", "keys"), CLIENT),
        *CLIENT.commands,
    ),
    groups={**CLIENT.groups, "list": "namespaces or keys"},
)
"""What works in `haret shell`: all one-shot commands, and what makes sense only there."""


def add_parsers(place: Any, parents: Sequence[ArgumentParser], admin: Table) -> None:
    """Add `haret shell` and `haret admin` to the command line."""
    _add_parser(
        place,
        "shell",
        "type commands for clients at a prompt, or read them from a pipe",
        SHELL,
        parents,
        lambda options: _client_session(options, None),
        'haret shell\n  haret shell -e "enter test-ns" -e "create set /a" -e "set insert /a x"',
    )
    _add_parser(
        place,
        "admin",
        "type commands for operators at a prompt, or read them from a pipe; --endpoints are admin ports here",
        admin,
        parents,
        _admin_session,
        'haret admin -e "vr namespaces"',
    )


def _add_parser(
    place: Any,
    name: str,
    about: str,
    table: Table,
    parents: Sequence[ArgumentParser],
    session: Callable[[Namespace], Callable[[trio.Nursery], Session]],
    example: str,
) -> None:
    parser = place.add_parser(
        name,
        help=about,
        usage="%(prog)s [-e COMMAND]... [options]",
        description=f"{about[0].upper()}{about[1:]}.\n\ncommands there:\n{overview(table)}",
        epilog=f"examples:\n  {example}",
        parents=list(parents),
    )
    parser.add_argument(
        "-e", "--execute", metavar="COMMAND", action="append", help="run this command, and end; may be given repeatedly"
    )
    parser.set_defaults(start=partial(_converse, table=table, session=session))


def _converse(
    options: Namespace,
    console: Console,
    *,
    table: Table,
    session: Callable[[Namespace], Callable[[trio.Nursery], Session]],
) -> int:
    with Background(session(options)) as background:
        prompt = Prompt(table, background, console)
        if options.execute:
            return prompt.script((f"-e {line!r}", line) for line in options.execute)
        if sys.stdin is None:
            raise UsageError("there is no stdin to read commands from", "use -e COMMAND")
        if not sys.stdin.isatty():
            return prompt.script(_lines(sys.stdin.buffer))
        return prompt.interactive()


def _lines(stream: Any) -> Iterable[tuple[str, str]]:
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise UsageError(f"line {number} is longer than {MAX_LINE} bytes")
        yield f"line {number}", line.decode("utf-8", "surrogateescape")


class _Exit(Exception):
    """The user wants to leave."""


class Prompt:
    """Reads, runs and answers lines."""

    def __init__(self, table: Table, background: Background, console: Console) -> None:
        self._table = table
        self._background = background
        self._console = console
        self._parser = Parser(prog="")
        options = ArgumentParser(add_help=False)
        options.add_argument("-o", "--output", choices=FORMATS, help="how to print this one answer")
        self._parser.add_table(table, [options])

    def execute(self, line: str) -> None:
        """Run one line. Raises what its command raises, and `_Exit`."""
        if line.lstrip().startswith("#"):
            return
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(
                f"can't read the line: {error}", "close every quote, or put a backslash before it"
            ) from None
        match words:
            case []:
                pass
            case ["exit" | "quit"]:
                raise _Exit
            case ["help"]:
                self._console.write(f"{overview(self._table)}\n{HELP}")
            case ["help", *about]:
                self._parse_and_run([*about, "--help"])
            case _:
                self._parse_and_run(words)

    def _parse_and_run(self, words: list[str]) -> None:
        try:
            arguments = self._parser.parse_args(words)
        except PrintAndEnd as text:
            self._console.write(str(text))
            return
        read_values(arguments.command, arguments, None)
        self._console.print(self._background.run(arguments.command, arguments), arguments.output)

    def script(self, lines: Iterable[tuple[str, str]]) -> int:
        """Run (where it stands, line) one after the other, up to the first error."""
        for where, line in lines:
            try:
                self.execute(line)
            except _Exit:
                break
            except BrokenPipeError:
                raise
            except EXPECTED as error:
                return self._console.report(error, f"haret: {where}")
        return Exit.OK

    def interactive(self) -> int:
        """Read lines from the terminal until the user leaves."""
        _use_readline(self._table)
        self._console.write("Type `help` for the commands, `exit` or Ctrl-D to leave.\n")
        while True:
            try:
                self.execute(input(self._background.session.prompt))
            except _Exit:
                return Exit.OK
            except EOFError:
                self._console.write("\n")
                return Exit.OK
            except KeyboardInterrupt:
                self._console.write("\n")
            except BrokenPipeError:
                raise
            except UnicodeDecodeError:
                self._console.report(UsageError("the line is no UTF-8 text"), "error")
            except EXPECTED as error:
                if isinstance(error, CommandFailed) and error.code is Exit.INTERRUPTED:
                    self._console.write("\n")
                self._console.report(error, "error")


# ----------------------------------------------------------------- convenience

HELP: Final = """\
help COMMAND tells more about one of them. Quotes and backslashes work as in a Unix shell: put /a "two words".
A line that begins with # is a comment. exit leaves.
"""


def overview(table: Table) -> str:
    """One line for each command of a table."""
    usages = [" ".join((command.name, *map(usage, command.arguments))) for command in table.commands]
    width = max(map(len, usages))
    lines = zip(usages, table.commands, strict=True)
    return "".join(f"  {usage:{width}}  {command.summary}\n" for usage, command in lines)


def next_words(table: Table, before: Sequence[str]) -> list[str]:
    """The words that can follow these."""
    depth = len(before)
    starts = tuple(before)
    return sorted(
        {one.words[depth] for one in table.commands if one.words[:depth] == starts and len(one.words) > depth}
    )


def _use_readline(table: Table) -> None:
    """Let the arrow keys go through this session's lines, and Tab complete the words of commands, where possible.

    Lines are kept in memory only: they hold values, and a file of them would outlive what was deleted.
    """
    try:
        import readline  # noqa: PLC0415  # not there on every platform, and importing it changes input()
    except ImportError:
        return
    own = Table((*table.commands, *(Command((word,), "", _enter) for word in ("exit", "help"))))

    def complete(text: str, state: int) -> str | None:
        before = readline.get_line_buffer()[: readline.get_begidx()].split()
        found = [f"{word} " for word in next_words(own, before) if word.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
