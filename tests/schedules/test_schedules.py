"""Saved schedules that broke the protocol, or would break it without one of its rules, must not break it.

Each file says in its first line what it is about. To add one: `haret sim --minimize`, move the file here, add a note.
(With the plugin installed, `rabble_schedules` would collect them; this also works in a checkout that is not installed anew.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rabble_trio.testing import Schedule

FILES = sorted(Path(__file__).parent.glob("*.schedule"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_goes_wrong(file):
    schedule = Schedule.load(file)
    assert schedule.note, "say in the first line what this schedule is about"
    world = schedule.replay(strict=False)
    assert len(world.history) > len(schedule.choices) / 2, "most of it does not fit any more: make it anew"


def test_there_are_some():
    assert FILES
