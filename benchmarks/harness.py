"""What the benchmarks share: rows, repeated runs, the table and the file of results."""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

OURS = ("rabble_trio", "haret")
"""How the implementations of this project begin, so that the table can mark them."""

RESULTS = pathlib.Path(__file__).parent / "results"
"""Where runs are kept, one JSON file each. Not in version control: a figure means little on another machine."""

REPEATS = 3
"""Measured runs, after one that only warms up. The best counts: whatever else the machine does can only slow a run."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    measure: str
    """What was measured, for example "local ask round trips"."""
    implementation: str
    """Whose figure it is, for example "pykka"."""
    value: float
    """The figure."""
    unit: str
    """Its unit, for example "/s" (more is better) or "us" (less is better)."""
    target: float | None = None
    """What this project wants to reach, in the same unit."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What one run did: so many operations in so many seconds."""

    count: int
    seconds: float


def rate(measure: str, implementation: str, body: Callable[[], Timed], *, target: float | None = None) -> Row:
    """Operations per second: the best of `REPEATS` runs of `body`, which leaves its own set-up out of the time."""
    best = 0.0
    for repeat in range(REPEATS + 1):
        gc.collect()
        timed = body()
        if repeat:
            best = max(best, timed.count / timed.seconds)
    return Row(measure, implementation, best, "/s", target)


def triotp_rate(measure: str, scenario: str, count: int) -> list[Row]:
    """The figure of triotp, which needs an ancient Trio: run in its own interpreter, named by TRIOTP_PYTHON.

    No row if the variable is not set, so that a benchmark also runs without nox.
    """
    python = os.environ.get("TRIOTP_PYTHON")
    if not python:
        print("  triotp left out: TRIOTP_PYTHON does not name an interpreter that has it (nox -s bench makes one)")
        return []
    script = pathlib.Path(__file__).parent / "peers" / "triotp_peer.py"

    def body() -> Timed:
        done = subprocess.run([python, "-I", script, scenario, str(count)], capture_output=True, text=True, check=True)
        return Timed(**json.loads(done.stdout))

    try:
        return [rate(measure, "triotp", body)]
    except subprocess.CalledProcessError as error:
        print(f"  triotp left out, its old Trio may not know this Python: {error.stderr.strip().splitlines()[-1]}")
        return []


def table(rows: Iterable[Row]) -> str:
    """All rows as one text table, grouped by measure, with each figure's ratio to this project's."""
    lines = [f"{'':52}{'figure':>14}      {'ours/theirs':>11}{'target':>12}"]
    measures: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        measures.setdefault((row.measure, row.unit), []).append(row)
    for (measure, unit), group in measures.items():
        lines += ["", measure]
        ours = next((row.value for row in group if row.implementation.startswith(OURS)), None)
        for row in group:
            mine = row.implementation.startswith(OURS)
            ratio = "" if mine or not ours else _figure(ours / row.value)
            target = "" if row.target is None else _figure(row.target)
            name = f"{'>' if mine else ' '} {row.implementation}"
            lines.append(f"  {name:50}{_figure(row.value):>14} {unit:5}{ratio:>11}{target:>12}".rstrip())
    return "\n".join(lines)


def wide_table(rows: Iterable[Row]) -> str:
    """All rows as one text table: a line for each measure and implementation, a column for each unit.

    A figure with a target has the target behind it.
    """
    measures: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        measures.setdefault(row.measure, {}).setdefault(row.implementation, {})[row.unit] = row
    lines = []
    head: list[str] = []
    for measure, group in measures.items():
        units = list(dict.fromkeys(unit for found in group.values() for unit in found))
        if units != head:
            head = units
            lines += ["", f"{'':34}" + "".join(f"{unit:>18}" for unit in units)]
        lines.append(measure)
        for implementation, found in group.items():
            cells = "".join(f"{_cell(found.get(unit)):>18}" for unit in units)
            mark = ">" if implementation.startswith(OURS) else " "
            lines.append(f"  {mark} {implementation:30}{cells}".rstrip())
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return _figure(row.value) + ("" if row.target is None else f" ({_figure(row.target)})")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(rows: Iterable[Row]) -> pathlib.Path:
    """Write the rows and the facts of the machine to a new file in `RESULTS`; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    path = RESULTS / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    content = {"time": now.isoformat(), "machine": machine_facts(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def machine_facts() -> dict[str, str | int | None]:
    """What a figure depends on: processor, cores, interpreter, versions, and how busy the machine was."""
    facts: dict[str, str | int | None] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "commit": _commit(),
    }
    for name in (
        "rabble-trio",
        "trio",
        "trio-websocket",
        "msgpack",
        "pykka",
        "thespian",
        "kazoo",
        "pysyncobj",
        "grpcio",
    ):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
