"""What the schedule was kept for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rabble_trio.testing import Schedule

SCHEDULE = Schedule.load(Path(__file__).with_name("lock.schedule"))


def test_schedule_still_shows_what_goes_wrong_without_tickets():
    assert str(SCHEDULE.failure()) == "ann and bob hold the lock"


def test_tickets_keep_a_second_release_from_freeing_the_lock_of_somebody_else():
    assert replace(SCHEDULE, parameters={"tickets": True}).failure() is None
