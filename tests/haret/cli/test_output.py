"""Answers in all forms; and stored data can't harm a terminal."""

from __future__ import annotations

import base64
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret.cli.failures import CommandFailed, Exit
from haret.cli.output import Answer, Console, escape, json_line, jsonable, render

TABLE = Answer(
    {"a": 1},
    headings=("PATH", "TYPE"),
    rows=[("/a", "blob"), ("/long/path", None)],
    raw=b"/a\n/long/path\n",
)


def test_a_table_is_aligned_and_has_a_heading() -> None:
    assert render(TABLE, "table") == b"PATH        TYPE\n/a          blob\n/long/path  -\n"


def test_plain_is_separated_by_tabs_and_has_no_heading() -> None:
    assert render(TABLE, "plain") == b"/a\tblob\n/long/path\t-\n"


def test_an_empty_table_is_nothing_when_plain() -> None:
    assert render(Answer({}, headings=("PATH",)), "plain") == b""


def test_raw_is_what_is_stored() -> None:
    assert render(TABLE, "raw") == b"/a\n/long/path\n"


def test_a_single_value_ends_its_line() -> None:
    assert render(Answer({}, text=b"one\ntwo"), "table") == b"one\ntwo\n"
    assert render(Answer({}, text=b"one\n"), "table") == b"one\n"
    assert render(Answer({}, text=b""), "plain") == b"\n"


def test_json_is_one_line() -> None:
    assert render(TABLE, "json") == b'{"a": 1}\n'


def test_json_of_bytes_is_text_where_it_can_be() -> None:
    assert jsonable({"t": "é\n".encode(), "b": b"\xff", "s": frozenset({b"b", b"a"}), "n": None, "y": True}) == {
        "t": "é\n",
        "b": {"base64": "/w=="},
        "s": ["a", "b"],
        "n": None,
        "y": True,
    }


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        (b"a\rb", r"a\rb"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
        ("\x9b2J".encode(), r"\x9b2J"),
        ("\U000e0041".encode(), r"\U000e0041"),
        ("Grüße 👩‍🚀".encode(), "Grüße 👩‍🚀"),
        (b"C:\\new", "C:\\new"),
    ],
)
def test_what_could_harm_a_terminal_is_shown_as_an_escape(stored: bytes, shown: str) -> None:
    assert escape(stored) == shown


def test_line_ends_pass_in_a_text_and_not_in_a_cell() -> None:
    assert escape(b"a\n\tb", lines=True) == "a\n\tb"
    assert escape(b"a\n\tb") == r"a\n\tb"


@given(st.binary())
def test_no_bytes_get_a_control_character_to_the_terminal(data: bytes) -> None:
    answer = Answer({"value": data}, rows=[(data,)])
    for form in ("table", "plain"):
        shown = render(answer, form).decode()
        assert shown.endswith("\n")
        assert all(character >= " " and character != "\x7f" for character in shown[:-1])


@given(st.binary())
def test_json_gives_every_value_back(data: bytes) -> None:
    value = json.loads(json_line({"value": data}))["value"]
    assert (value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])) == data


@given(st.text())
def test_json_holds_no_control_characters(text: str) -> None:
    line = json_line({"value": text.encode("utf-8", "replace")})
    assert escape(line[:-1]) == line[:-1]


def console(*, terminal: bool = False) -> tuple[Console, io.BytesIO, io.BytesIO]:
    out, err = io.BytesIO(), io.BytesIO()
    return Console(out, err, terminal=terminal), out, err


def test_a_terminal_gets_tables_and_a_pipe_plain_text() -> None:
    for terminal, expected in ((True, b"PATH"), (False, b"/a\tblob")):
        one, out, _ = console(terminal=terminal)
        one.print(TABLE)
        assert out.getvalue().startswith(expected)


def test_errors_go_to_stderr_with_their_hint_and_without_escapes() -> None:
    one, out, err = console()
    assert one.report(CommandFailed("no \x1b[2J", code=Exit.CONFLICT, hint="do this")) is Exit.CONFLICT
    assert (out.getvalue(), err.getvalue()) == (b"", b"haret: no \\x1b[2J\n  do this\n")


def test_errors_are_json_when_answers_are() -> None:
    one, _, err = console()
    one.form = "json"
    one.report(CommandFailed("no", code=Exit.UNAVAILABLE, hint="later"))
    assert json.loads(err.getvalue()) == {
        "error": "Failed",
        "message": "no",
        "exit_code": 5,
        "retryable": True,
        "hint": "later",
    }
