"""Shortening a schedule that fails, until nothing can be left out (delta debugging: Zeller and Hildebrandt, 2002).

Choices that make no sense any more, because what they need never happened, are skipped on replay. So any subset of a
schedule is a schedule, and chunks can be left out blindly: large ones first, then smaller ones, down to single choices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from ._choices import Choice, Crash
from ._schedule import Schedule, with_choices

MAX_REPLAYS: Final = 5000
"""So many replays are tried at most; then the shortest schedule so far is good enough."""


def same_kind(first: Exception, second: Exception) -> bool:
    """Whether two failures are the same, as far as minimising goes: same class, and same text up to its first digit."""
    return type(first) is type(second) and _stem(first) == _stem(second)


def _stem(error: Exception) -> str:
    text = str(error)
    for position, character in enumerate(text):
        if character.isdigit() and position > 3:
            return text[:position]
    return text


def minimize(
    schedule: Schedule,
    same: Callable[[Exception, Exception], bool] = same_kind,
    max_replays: int = MAX_REPLAYS,
) -> Schedule:
    """The schedule without the choices that its failure does not need.

    `same`: whether another schedule's failure is the one that is looked for. Raises `ValueError` if the schedule does not
    fail.
    """
    failure = schedule.failure()
    if failure is None:
        raise ValueError("this schedule does not fail, so there is nothing to keep while it is shortened")
    budget = max_replays

    def fails(choices: Sequence[Choice]) -> bool:
        nonlocal budget
        budget -= 1
        found = with_choices(schedule, choices).failure()
        return found is not None and same(failure, found)

    choices, before = _done(schedule), None
    while choices != before and budget > 0:
        before = choices
        chunk = max(1, len(choices) // 2)
        while chunk and budget > 0:
            choices = _without_chunks(choices, chunk, fails, lambda: budget > 0)
            chunk //= 2
        choices = _done(with_choices(schedule, _simplify(choices, fails, lambda: budget > 0)))
    return with_choices(schedule, choices)


def _without_chunks(
    choices: list[Choice], chunk: int, fails: Callable[[Sequence[Choice]], bool], may_go_on: Callable[[], bool]
) -> list[Choice]:
    """Leave out each run of `chunk` choices that the failure does not need; the latest first, as most matter least."""
    end = len(choices)
    while end > 0 and may_go_on():
        start = max(0, end - chunk)
        shorter = choices[:start] + choices[end:]
        if fails(shorter):
            choices = shorter
        end = start
    return choices


def _simplify(
    choices: list[Choice], fails: Callable[[Sequence[Choice]], bool], may_go_on: Callable[[], bool]
) -> list[Choice]:
    """Replace what a choice says by something plainer, where the failure does not need it."""
    for index, choice in enumerate(choices):
        for plainer in _plainer(choice):
            changed = [*choices[:index], plainer, *choices[index + 1 :]]
            if may_go_on() and fails(changed):
                choices = changed
                break
    return choices


def _plainer(choice: Choice) -> list[Choice]:
    do, what, detail = choice.do, choice.what, choice.detail
    if do in ("deliver", "fire") and "crash" in detail:
        crashes = [Crash(effects=0).to_detail(), *_plainer_crashes(detail["crash"])]
        return [
            Choice(do, what),
            *(Choice(do, what, {"crash": crash}) for crash in crashes if crash != detail["crash"]),
        ]
    if do == "crash" and detail:
        return [Choice(do, what, crash) for crash in ({}, *_plainer_crashes(detail))]
    if do == "sync" and detail:
        return [Choice(do, what)]
    kind, mark, number = what.rpartition("#")
    if mark and number.isdigit():
        # The third message may do as well as the thirtieth; then those before it are not needed.
        smaller = sorted({1, int(number) // 2, int(number) - 1} - {0, int(number)})
        return [Choice(do, f"{kind}#{one}", detail) for one in smaller]
    return []


def _plainer_crashes(detail: dict[str, Any]) -> list[dict[str, Any]]:
    """The same crash with less damage: without one of its details, or with a smaller number."""
    without = [{name: value for name, value in detail.items() if name != left_out} for left_out in detail]
    smaller = [
        {**detail, name: number}
        for name, value in detail.items()
        if type(value) is int
        for number in sorted({1, value // 2, value - 1})
        if 0 < number < value
    ]
    return [crash for crash in without if "effects" in crash or "effects" not in detail] + smaller


def _done(schedule: Schedule) -> list[Choice]:
    """The choices that can be made, up to the one that fails."""
    simulation = schedule.world()
    with contextlib.suppress(Exception):  # that is the failure which is being minimised
        schedule.replay(strict=False, simulation=simulation)
    return simulation.choices
