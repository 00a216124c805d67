"""What commands print: one answer, in four forms.

    table   columns with a heading, for people; what a terminal gets
    plain   the same rows, separated by tabs and without a heading; what a pipe gets
    json    one object on one line, with the same keys in every release
    raw     the bytes that are stored, and nothing else

What is stored in the tree comes from strangers. In a table it can't move the cursor, rename the window, or reverse the
direction of writing: such characters are shown as escapes. In JSON, bytes are text where they are valid UTF-8, and
otherwise {"base64": "..."}.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

from .failures import Exit, explain

FORMATS: Final = ("table", "json", "raw")
"""What one may ask for; plain is a table in a pipe."""

Format = Literal["table", "plain", "json", "raw"]
"""The form of an answer."""

# Control characters, direction marks, line separators, the byte order mark and invisible tags. What is not listed
# (combining characters, joined emoji) can look odd, but stays in its place.
_DANGEROUS: Final = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_IN_CELL: Final = re.compile(f"[{_DANGEROUS}]")
_IN_TEXT: Final = re.compile(f"(?![\n\t])[{_DANGEROUS}]")
_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(value: str | bytes, *, lines: bool = False) -> str:
    """Text that is safe on a terminal; `lines` lets line ends and tabs pass, which only a table would suffer from."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return (_IN_TEXT if lines else _IN_CELL).sub(_escape_character, text)


def _escape_character(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def jsonable(value: Any) -> Any:
    """A value as JSON has it; sets become sorted arrays, so that equal sets give equal lines."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return [jsonable(item) for item in sorted(value)]
    if isinstance(value, (tuple, list)):
        return [jsonable(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def json_line(value: Any) -> str:
    """One line of JSON. Not only controls are escaped in it but all that `escape` thinks dangerous."""
    text = json.dumps(jsonable(value), ensure_ascii=False)
    return _IN_CELL.sub(_escape_json, text) + "\n"


def _escape_json(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found out, in all forms."""

    data: Mapping[str, Any]
    """For JSON. Bytes and sets may stand in it; see `jsonable`."""
    rows: Sequence[Sequence[Any]] = ()
    """For tables and plain text: cells of text, bytes, numbers, booleans or None."""
    headings: tuple[str, ...] = ()
    """Of the columns; none for a single column that explains itself."""
    raw: bytes = b""
    """For raw."""
    text: bytes | None = None
    """Instead of rows: a single value, which may have several lines."""
    note: str = ""
    """For people, on stderr, when the answer is not what they may expect."""
    exit: Exit = Exit.OK
    """How a one-shot command ends after it."""


def render(answer: Answer, form: Format) -> bytes:
    """The answer as bytes for stdout."""
    if form == "raw":
        return answer.raw
    if form == "json":
        return _encode(json_line(answer.data))
    if answer.text is not None:
        text = escape(answer.text, lines=True)
        return _encode(text if text.endswith("\n") else text + "\n")
    cells = [[_cell(value) for value in row] for row in answer.rows]
    if form == "plain":
        return _encode("".join("\t".join(row) + "\n" for row in cells))
    if answer.headings:
        cells.insert(0, list(answer.headings))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return _encode("".join(f"{line}\n" for line in lines))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(value) if isinstance(value, bytes) else escape(str(value))


def _encode(text: str) -> bytes:
    # Surrogates stand for bytes of an argument that are no UTF-8; `escape` has dealt with those from the tree.
    return text.encode("utf-8", "backslashreplace")


class Console:
    """Where answers and errors go. `form`: "table", "json" or "raw", or None to let the terminal decide.

    `out` and `err` are binary streams; `terminal` tells whether `out` is one.
    """

    def __init__(self, out: BinaryIO, err: BinaryIO, *, terminal: bool) -> None:
        self._out = out
        self._err = err
        self.terminal = terminal
        self.form: Format = "table" if terminal else "plain"

    def choose(self, form: Format | None) -> None:
        """Take the form that the user asked for, if any."""
        if form is not None:
            self.form = form

    def print(self, answer: Answer, form: Format | None = None) -> None:
        """Print an answer, for once in another form than usual if one is given."""
        self.write(render(answer, form or self.form))
        if answer.note and (form or self.form) != "json":
            self.complain(escape(answer.note))

    def report(self, error: Exception, where: str = "haret") -> Exit:
        """Tell what went wrong; returns the exit code. `error` is one of `failures.EXPECTED`."""
        failure = explain(error)
        if self.form == "json":
            self.complain(json_line(failure.data()))
            return failure.code
        self.complain(f"{where}: {escape(failure.message)}")
        if failure.hint:
            self.complain(f"  {escape(failure.hint, lines=True)}")
        return failure.code

    def write(self, data: bytes | str) -> None:
        """Print bytes, or text that is known to be safe, as they are."""
        self._out.write(_encode(data) if isinstance(data, str) else data)
        # At once: whoever waits for this output at the other end of a pipe gets it now, and a pipe that was closed
        # shows here and not when the interpreter ends.
        self._out.flush()

    def complain(self, text: str) -> None:
        """Print a line on stderr."""
        self._err.write(_encode(text.rstrip("\n") + "\n"))
        self._err.flush()
