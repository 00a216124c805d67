"""What a soak takes for flat."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from soak.cluster.report import MIN_SAMPLES, Life, Results

FLAT = {"rss": 40 * 2**20, "tasks": 27, "files": 12, "asks_pending": 1}


def life(samples: int = 100, **growth: float) -> Life:
    """A process whose figures grow by so much from each sample to the next."""
    quiet: list[dict[str, Any]] = [
        {key: value + growth.get(key, 0) * number for key, value in FLAT.items()} for number in range(samples)
    ]
    return Life("n1", 1, {**quiet[-1], "reconnects": 7, "counts": {"sent": 5}, "violations": []}, quiet)


def test_a_flat_process() -> None:
    assert life().not_flat() == []


@pytest.mark.parametrize("what", ["rss", "tasks", "files", "asks_pending"])
def test_growth_is_seen(what: str) -> None:
    growing = life(**{what: 100_000 if what == "rss" else 0.2})
    (said,) = growing.not_flat()
    assert said.startswith("n1, process 1: " + ("memory" if what == "rss" else what))


def test_growth_at_the_start_is_warming_up_and_the_young_are_not_judged() -> None:
    warm = life()
    for number in range(25):
        warm.quiet[number]["rss"] = 2**20 * number
    assert warm.not_flat() == []
    assert life(MIN_SAMPLES - 1, tasks=10).not_flat() == []


def test_results_for_people_and_machines() -> None:
    bad = life(tasks=1)
    bad.last["violations"] = ["(1, 7) came after (1, 8)"]
    results = Results(60.0, 1, [bad, life(3)], Counter(kill=2), [0.5, 1.25], ["n2 ended by itself, with 1"])
    assert results.all_violations() == [
        "n2 ended by itself, with 1",
        "n1: (1, 7) came after (1, 8)",
        "n1, process 1: tasks grew from 76 to 126",
    ]
    assert results.as_json()["operations"] == {"sent": 10}
    table = results.table()
    assert table.count("VIOLATION") == 3
    for part in ("n1/1", "40.0 MiB 40.0 MiB 40.0 MiB", "1 more", "10 sent", "2 kill", "1.2 s"):
        assert part in table
