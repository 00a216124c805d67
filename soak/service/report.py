"""What a soak of servers measured, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .checker import Verdict
from .faults import Fault
from .load import Record


@dataclass
class Results:
    """A soak. Times are seconds."""

    seconds: float
    seed: int
    nodes: int
    faults: Sequence[Fault]
    records: Sequence[Record]
    skipped: str | None = None
    """Why some kinds of faults were not possible."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By namespace."""
    others: list[str] = field(default_factory=list)
    """Whatever else was wrong."""

    def all_violations(self) -> list[str]:
        """In words."""
        wrong = [f"{name}: {said}" for name, verdict in self.verdicts.items() for said in verdict.violations]
        complaints = [f"{one.namespace}: a client was told {said}" for one in self.records for said in one.complaints]
        return wrong + complaints + self.others

    def operations(self) -> Counter[str]:
        """Calls by kind, and clients."""
        return sum((record.counts for record in self.records), Counter())

    def failovers(self) -> list[float]:
        """From each fault of a leader to the first write that was answered in a later view, if that was before the next."""
        times = []
        ends = [fault.began for fault in self.faults[1:]] + [float("inf")]
        for fault, end in zip(self.faults, ends, strict=True):
            for record in self.records:
                later = [when for _, when in record.views if fault.began < when < end]
                if record.namespace in fault.leads and later:
                    times.append(later[0] - fault.began)
        return times

    def pauses(self) -> list[float]:
        """For how long a namespace answered nobody, each time it was so."""
        return [length for record in self.records for _, length in record.pauses]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        failovers, pauses = self.failovers(), self.pauses()
        return {
            "seconds": round(self.seconds),
            "seed": self.seed,
            "nodes": self.nodes,
            "operations": dict(self.operations()),
            "faults": dict(self._faults()),
            "faults_skipped": self.skipped,
            "failovers": len(failovers),
            "failover_median": _rounded(median(failovers)) if failovers else None,
            "failover_slowest": _rounded(max(failovers, default=0.0)),
            "views": {record.namespace: len(record.views) for record in self.records},
            "unavailable_times": len(pauses),
            "unavailable_longest": _rounded(max(pauses, default=0.0)),
            "unavailable_sum": _rounded(sum(pauses)),
            "heal_slowest": _rounded(max((fault.healed - fault.began for fault in self.faults), default=0.0)),
            "checked": {
                name: {
                    "calls": verdict.calls,
                    "ops": verdict.ops,
                    "unanswered_writes": verdict.unknown,
                    "known_to_be_executed": verdict.executed,
                }
                for name, verdict in self.verdicts.items()
            },
            "violations": self.all_violations(),
        }

    def table(self) -> str:
        """For people."""
        figures = self.as_json()
        lines = [f"{'namespace':<12}{'calls':>10}{'ops':>10}{'no answer':>12}{'of them executed':>18}{'views':>8}"]
        for name, verdict in self.verdicts.items():
            views = figures["views"][name]
            lines.append(
                f"{name:<12}{verdict.calls:>10}{verdict.ops:>10}{verdict.unknown:>12}{verdict.executed:>18}{views:>8}"
            )
        lines.append("operations: " + _listed(self.operations()))
        lines.append("faults: " + _listed(self._faults()))
        if self.skipped is not None:
            lines.append(f"no faults of network and disks: {self.skipped}")
        if figures["failovers"]:
            lines.append(
                f"failovers: {figures['failovers']}, median {figures['failover_median']} s, slowest "
                f"{figures['failover_slowest']} s"
            )
        lines.append(
            f"no answers for a second or more: {figures['unavailable_times']} times, longest "
            f"{figures['unavailable_longest']} s, together {figures['unavailable_sum']} s of {len(self.records)} namespaces"
        )
        lines.append(f"from fault to health, slowest: {figures['heal_slowest']} s")
        lines += [f"VIOLATION: {what}" for what in self.all_violations()] or ["no violations"]
        return "\n".join(lines)

    def _faults(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.faults)


def _rounded(seconds: float) -> float:
    return round(seconds, 2)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items())) or "none"
