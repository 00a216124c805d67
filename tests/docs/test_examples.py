"""The examples of the documentation do what the pages say.

`x.py` is run and its output compared with `x.out` beside it; `test_x.py` is run by pytest; and each screen of Python in
the README is a copy of a file in docs/examples.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = sorted(path for path in DOCS.glob("[!_]*/*.py"))
PROGRAMS = [path for path in FILES if not path.name.startswith("test_")]
TESTS = [path for path in FILES if path.name.startswith("test_")]

LONGEST = 60
"""Seconds until an example that hangs is killed; they take about one."""


def run(*arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run Python as a reader would, in the docs' folder, with warnings as errors."""
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        command, cwd=DOCS, capture_output=True, text=True, timeout=LONGEST, check=False, stdin=subprocess.DEVNULL
    )


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(DOCS))


@pytest.mark.parametrize("program", PROGRAMS, ids=name)
def test_program_prints_what_the_page_shows(program: pathlib.Path) -> None:
    # One without an .out file prints nothing. What goes to stderr is the log, in which some crash on purpose.
    expected = program.with_suffix(".out")
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (expected.read_text(encoding="utf-8") if expected.exists() else "")


@pytest.mark.parametrize("file", TESTS, ids=name)
def test_test_shown_on_a_page_passes(file: pathlib.Path) -> None:
    # Its import of its neighbour works by pytest's default import mode, which is what readers have.
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", file.parent, file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_expected_output_belongs_to_a_program() -> None:
    stray = [name(path) for path in DOCS.rglob("*.out") if path.with_suffix(".py") not in PROGRAMS]
    assert stray == []


@pytest.mark.parametrize("file", FILES, ids=name)
def test_example_is_shown_somewhere(file: pathlib.Path) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in file.parent.glob("*.rst"))
    assert f":: {file.name}" in pages or file.read_text(encoding="utf-8").rstrip() in readme_screens()


def readme_screens() -> list[str]:
    """The Python code blocks of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [screen.rstrip() for screen in re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)]


def test_readme_shows_tested_files() -> None:
    examples = {path.read_text(encoding="utf-8").rstrip() for path in (DOCS / "examples").glob("*.py")}
    screens = readme_screens()
    assert screens, "the README shows no Python"
    for screen in screens:
        assert screen in examples, f"not the text of a file in docs/examples:\n{screen}"
