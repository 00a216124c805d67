"""Describes the `haret` command from its own tables and parsers, so that the page can't fall behind.

`.. haret-commands:: client` (or `admin`) lists a table of commands; `.. haret-help:: serve` shows what `haret serve
--help` prints, and without an argument, `haret --help`.
"""

from __future__ import annotations

import os
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from haret.cli.admin import ADMIN
from haret.cli.command import Command
from haret.cli.commands import CLIENT
from haret.cli.parser import make_parser

TABLES = {"client": (CLIENT, "haret {}"), "admin": (ADMIN, 'haret admin -e "{}"')}
COLUMNS = "100"
"""The width of the help: that of a page, whatever the terminal of whoever builds it."""


class Commands(SphinxDirective):
    """A definition list of the commands of one table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        table, frame = TABLES[self.arguments[0]]
        lines: list[str] = []
        for command in table.commands:
            lines += [f"``{_usage(command)}``", f"   {_sentence(command.summary)} {command.detail}".rstrip()]
            lines.append("")
            lines += [f"   | {one.name.upper()}: {one.help}" for one in command.arguments]
            lines += [f"   | --{one.name}: {one.help}" for one in command.options]
            if command.example:
                lines.append(f"   | Example: ``{frame.format(command.example)}``")
            lines.append("")
        container = nodes.container()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, container)
        return container.children


class Help(SphinxDirective):
    """What a command prints when it is asked for help."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Called by docutils."""
        parser: Any = make_parser()
        for word in " ".join(self.arguments).split():
            choices = next(action.choices for action in parser._actions if isinstance(action.choices, dict))
            parser = choices[word]
        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = COLUMNS
        try:
            text = parser.format_help()
        finally:
            if before is None:
                del os.environ["COLUMNS"]
            else:
                os.environ["COLUMNS"] = before
        return [nodes.literal_block(text, text, language="text")]


def _usage(command: Command) -> str:
    shown = []
    for argument in command.arguments:
        name = argument.name.upper()
        shown.append({None: name, "?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}[argument.nargs])
    return " ".join([command.name, *shown])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("haret-commands", Commands)
    app.add_directive("haret-help", Help)
    return {"parallel_read_safe": True}
