"""What a command is, and how a table of commands becomes a parser.

`haret blob put /a x` on the command line and `blob put /a x` in the shell are the same entry of one table: the words,
the arguments, the help and the code exist once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NoReturn

from haret.vertree.limits import MAX_VALUE_SIZE

from .failures import UsageError
from .output import Answer

STDIN: Final = "-"
"""A value that stands for what comes in on stdin."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a command."""

    name: str
    """Its attribute, and in capitals its name in the help."""
    help: str
    """One line."""
    nargs: str | None = None
    """As in `argparse`."""
    default: Any = None
    """If it is left out."""
    value: bool = False
    """Whether it is bytes to store, for which `STDIN` may stand."""


@dataclass(frozen=True, slots=True)
class Option:
    """What may be added to a command, behind two dashes."""

    name: str
    """Its attribute: a flag, which is False unless given, or one of `choices`, which is None."""
    help: str
    """One line."""
    choices: tuple[str, ...] = ()
    """None for a flag."""


@dataclass(frozen=True, slots=True)
class Command:
    """An entry of a table of commands."""

    words: tuple[str, ...]
    """What one types: one word or several."""
    summary: str
    """One line."""
    run: Callable[[Any, argparse.Namespace], Awaitable[Answer]]
    """Does it; the first argument is the session that the table is for."""
    arguments: tuple[Argument, ...] = ()
    """In order."""
    example: str = ""
    """A line that works when typed, without the "haret" before it."""
    detail: str = ""
    """A paragraph for the help of this command alone."""
    options: tuple[Option, ...] = ()
    """In any order."""

    @property
    def name(self) -> str:
        """The words, as one types them."""
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Table:
    """Commands, and what the words are about that several of them begin with."""

    commands: tuple[Command, ...]
    """All commands."""
    groups: dict[str, str] = field(default_factory=dict)
    """First words (as one types them) and a line about each."""


def read_values(command: Command, arguments: argparse.Namespace, stdin: BinaryIO | None) -> None:
    """Turn the values among the arguments into bytes. `stdin` is where those come from that say so, if that is possible."""
    for argument in command.arguments:
        text = getattr(arguments, argument.name)
        if not argument.value:
            continue
        if text != STDIN:
            setattr(arguments, argument.name, os.fsencode(text))
        elif stdin is None:
            raise UsageError("- reads a value from stdin, which is where the commands come from here")
        else:
            # One byte more than a value may have: enough for the error that says so.
            setattr(arguments, argument.name, stdin.read(MAX_VALUE_SIZE + 1))


class PrintAndEnd(Exception):
    """The arguments ask for a text, such as the help, and nothing else."""


class Parser(argparse.ArgumentParser):
    """An argument parser that never ends the process, which may be a shell, and guesses what a misspelt command meant.

    Raises `UsageError`, or `PrintAndEnd` where others would print and exit.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)
        self._words: Iterable[str] = ()

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`."""
        wrong = re.match(r"argument \w+: invalid choice: '(.*?)'", message)
        program = self.prog.strip()
        ask = f"{program} --help" if program.startswith("haret") else f"help {program}".strip()
        if message.endswith("required: COMMAND"):
            raise UsageError(f"{program or 'this'} needs one of: {', '.join(self._words)}", f"`{ask}` tells about them")
        if wrong is None or wrong[1] in self._words:
            raise UsageError(message, " ".join(self.format_usage().split()))
        name = f"{program} {wrong[1]}".removeprefix("haret ").strip()
        close = difflib.get_close_matches(wrong[1], self._words, 1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"there is no command {name!r}", f"{guess}`{ask}` lists the commands")

    def print_help(self, file: Any = None) -> None:
        """Raise `PrintAndEnd`."""
        raise PrintAndEnd(self.format_help())

    def add_table(self, table: Table, parents: Sequence[argparse.ArgumentParser] = ()) -> Any:
        """Add the commands of a table as sub-commands; `parents` are parsers whose options each of them has as well.

        A parsed command is in the attribute `command`. Returns the sub-parsers action, to add more.
        """
        places = {"": self.add_words()}
        for command in table.commands:
            before = ""
            for depth in range(1, len(command.words)):
                group = " ".join(command.words[:depth])
                if group not in places:
                    about = table.groups[group]
                    parser = places[before].add_parser(
                        command.words[depth - 1], help=about, description=_sentence(about), parents=list(parents)
                    )
                    places[group] = parser.add_words()
                before = group
            _add_command(places[before], command, self.prog, parents)
        return places[""]

    def add_words(self) -> Any:
        """Expect a sub-command."""
        action = self.add_subparsers(
            prog=self.prog.strip(), title="commands", metavar="COMMAND", dest="_word", required=True
        )
        self._words = action.choices
        return action


def _add_command(place: Any, command: Command, program: str, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = place.add_parser(
        command.words[-1],
        usage=" ".join(("%(prog)s", *map(usage, command.arguments), "[options]")),
        help=command.summary,
        description=_sentence(command.summary) + (f"\n\n{command.detail}" if command.detail else ""),
        epilog=f"example:\n  {f'{program} {command.example}'.strip()}" if command.example else None,
        parents=list(parents),
    )
    for argument in command.arguments:
        parser.add_argument(
            argument.name,
            metavar=argument.name.removesuffix("s").upper() if argument.nargs == "+" else argument.name.upper(),
            help=argument.help,
            nargs=argument.nargs,
            default=argument.default,
        )
    for option in command.options:
        if option.choices:
            parser.add_argument(f"--{option.name}", choices=option.choices, help=option.help)
        else:
            parser.add_argument(f"--{option.name}", action="store_true", help=option.help)
    parser.set_defaults(command=command)


def usage(argument: Argument) -> str:
    """How an argument looks in a line of usage."""
    name = argument.name.upper()
    return {"?": f"[{name}]", "+": f"{name.removesuffix('S')}..."}.get(argument.nargs or "", name)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
