"""What a soak measured, and the verdict.

Only *quiet* samples count for flatness: those taken while all nodes had links to each other and no fault was under way.

A node process is flat if, from the second quarter of its quiet samples to the last quarter,

* the median of its resident memory grew by less than `RSS_GROWTH` of it plus `RSS_SLACK`,
* the highest number of its tasks, of open files, and of questions that wait for a reply, grew by at most `COUNT_SLACK`.

The first quarter is for warming up. Processes that had no `MIN_SAMPLES` quiet samples are too young to be judged. The first
node is never killed, so that there is one that sees all of the faults.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

RSS_GROWTH: Final = 0.03
"""Of the memory before: allocators are not exact."""

RSS_SLACK: Final = 1.5 * 2**20
"""Bytes: what a run of some minutes may still bring into memory. A link that is kept takes 50 kB; there are a hundred."""

COUNT_SLACK: Final = 4
"""Of each: a link that one accepted takes a task more than one that one dialled."""

MIN_SAMPLES: Final = 40
"""Quiet samples, one a second."""


@dataclass
class Life:
    """One process, from start to end."""

    name: str
    generation: int
    last: dict[str, Any] = field(default_factory=dict)
    """The newest report of the process; see `soak.node.report`."""
    quiet: list[dict[str, Any]] = field(default_factory=list)
    """Those that count for flatness."""

    def series(self, key: str) -> list[float]:
        """A figure's quiet samples."""
        return [sample[key] for sample in self.quiet]

    def not_flat(self) -> list[str]:
        """What has grown, in words."""
        if len(self.quiet) < MIN_SAMPLES:
            return []
        found = []
        before, after = _quarters(self.series("rss"))
        if median(after) > median(before) * (1 + RSS_GROWTH) + RSS_SLACK:
            found.append(f"memory grew from {_mib(median(before))} to {_mib(median(after))}")
        for key in ("tasks", "files", "asks_pending"):
            before, after = _quarters(self.series(key))
            if max(after) > max(before) + COUNT_SLACK:
                found.append(f"{key} grew from {max(before):g} to {max(after):g}")
        return [f"{self.name}, process {self.generation}: {what}" for what in found]

    def points(self, key: str) -> tuple[float, float, float] | None:
        """Start, middle and end of a figure."""
        series = self.series(key)
        return (series[0], series[len(series) // 2], series[-1]) if series else None


@dataclass
class Results:
    """A soak."""

    seconds: float
    seed: int
    lives: list[Life]
    faults: Counter[str]
    heal_times: list[float]
    """Seconds from the end of each fault until all nodes had links to each other."""
    violations: list[str]
    """Of invariants that the conductor checks; the nodes' own are in their reports."""

    def all_violations(self) -> list[str]:
        """In words."""
        theirs = [f"{life.name}: {what}" for life in self.lives for what in life.last.get("violations", ())]
        return self.violations + theirs + [what for life in self.lives for what in life.not_flat()]

    def counts(self) -> Counter[str]:
        """Operations of all processes."""
        return sum((Counter(life.last.get("counts", {})) for life in self.lives), Counter())

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "seconds": round(self.seconds),
            "seed": self.seed,
            "operations": dict(self.counts()),
            "faults": dict(self.faults),
            "slowest_heal": round(max(self.heal_times, default=0.0), 1),
            "processes": [
                {
                    "node": life.name,
                    "generation": life.generation,
                    "quiet_samples": len(life.quiet),
                    "reconnects": life.last.get("reconnects"),
                    "dead_letters": life.last.get("dead_letters"),
                    **{key: life.points(key) for key in ("rss", "tasks", "files")},
                }
                for life in self.lives
            ],
            "violations": self.all_violations(),
        }

    def table(self) -> str:
        """For people."""
        lines = [
            f"{'process':<10}{'samples':>8}{'memory: start, middle, end':>32}{'tasks':>14}{'files':>14}{'links':>7}"
        ]
        for life in self.lives:
            if len(life.quiet) >= MIN_SAMPLES:
                memory = " ".join(_mib(value) for value in life.points("rss") or ())
                tasks, files = (
                    " ".join(f"{value:g}" for value in life.points(key) or ()) for key in ("tasks", "files")
                )
                name = f"{life.name}/{life.generation}"
                lines.append(
                    f"{name:<10}{len(life.quiet):>8}{memory:>32}{tasks:>14}{files:>14}{life.last['reconnects']:>7}"
                )
        young = sum(len(life.quiet) < MIN_SAMPLES for life in self.lives)
        lines.append(f"{young} more processes did not live long enough to be judged")
        lines.append("operations: " + _listed(self.counts()))
        lines.append("faults: " + _listed(self.faults))
        lines.append(f"slowest to heal: {max(self.heal_times, default=0.0):.1f} s")
        lines += [f"VIOLATION: {what}" for what in self.all_violations()] or ["no violations"]
        return "\n".join(lines)


def _quarters(series: list[float]) -> tuple[list[float], list[float]]:
    quarter = len(series) // 4
    return series[quarter : 2 * quarter], series[-quarter:]


def _mib(value: float) -> str:
    return f"{value / 2**20:.1f} MiB"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items())) or "none"
