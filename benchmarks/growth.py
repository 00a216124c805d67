"""What becomes of haret as it grows, on three nodes: many namespaces, large trees, a replica that missed much, and a node
that leads many groups and dies.

Memory and processor time are those of the three server processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from .coordination.cluster import Unfit, started
from .coordination.haret import NAMESPACE, HaretCluster
from .coordination.loads import Load, cpu_seconds, memory_bytes
from .harness import Row, wide_table

NAMESPACES = (1, 100, 1000)
TREES = (1_000, 10_000, 100_000, 1_000_000)
MISSED = (1_000, 100_000, 1_000_000)
LED = (1, 50, 200)

QUICK_NAMESPACES = (1, 20)
QUICK_TREES = (1_000, 10_000)
QUICK_MISSED = (1_000, 10_000)
QUICK_LED = (1, 20)

IDLE_SECONDS = 5.0
"""For which the processor time of idle nodes is measured."""

SPREAD = 100
"""Namespaces that are written to at the same time, at most: one connection and one request in flight each."""

RESTING = 4.0
"""Seconds after which idle groups have fallen silent."""

LED_TARGET = 1.0
"""Seconds until all groups of a node that died have been written to."""

IDLE_TARGET = 20.0
"""Per cent of one core, with 1,000 namespaces."""


def run(*, quick: bool = False) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    parts: list[Callable[[HaretCluster, str], Iterator[Row]]] = [
        lambda cluster, name: many_namespaces(cluster, name, QUICK_NAMESPACES if quick else NAMESPACES),
        lambda cluster, name: large_trees(cluster, name, QUICK_TREES if quick else TREES),
        lambda cluster, name: missed_operations(cluster, name, QUICK_MISSED if quick else MISSED),
        *(
            partial(lost_leader, count=count, kind=kind)
            for count in (QUICK_LED if quick else LED)
            for kind in ("SIGKILL", "SIGSTOP")
        ),
    ]
    mode = HaretCluster.modes[0]
    for part in parts:
        try:
            with started(HaretCluster, mode) as cluster:
                for row in part(cluster, f"haret, {mode}"):
                    print(f"  {row.measure}: {row.value:,.3g} {row.unit}", flush=True)
                    rows.append(row)
        except (Unfit, OSError) as error:
            print(f"  the rest of this part is left out: {error}")
    return rows


def table(rows: list[Row]) -> str:
    """A line for each size, a column for each unit."""
    return wide_table(rows)


def many_namespaces(cluster: HaretCluster, name: str, counts: tuple[int, ...]) -> Iterator[Row]:
    """Idle and busy, with more and more namespaces."""
    names = [NAMESPACE]
    for count in counts:
        more = [f"n{number}" for number in range(len(names), count)]
        started = time.perf_counter()
        cluster.create(*more)
        creation = time.perf_counter() - started
        names += more
        measure = f"{count:,} namespaces"
        busy = cluster.load_namespaces(Load("write", 64, 100), names[-SPREAD:])
        time.sleep(1)  # until what the load left to do is done
        before = cpu_seconds(cluster.pids())
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(cluster.pids()) - before) / IDLE_SECONDS
        yield Row(measure, name, busy.rate, "/s")
        yield Row(measure, name, busy.p50 * 1e3, "ms p50")
        yield Row(measure, name, idle * 100, "% core idle", IDLE_TARGET if count == 1000 else None)
        yield Row(measure, name, memory_bytes(cluster.pids()) / 2**20, "MiB")
        if more:
            yield Row(measure, name, creation / len(more) * 1e3, "ms to create")


def large_trees(cluster: HaretCluster, name: str, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Writes beside more and more nodes."""
    cluster.fill(64)
    size = 0
    for wanted in sizes:
        seconds = cluster.grow(size, wanted)
        measure = f"a tree of {wanted:,} nodes"
        busy = cluster.load(Load("write", 64, 100))
        yield Row(measure, name, busy.rate, "/s")
        yield Row(measure, name, busy.p50 * 1e3, "ms p50")
        yield Row(measure, name, busy.p999 * 1e3, "ms p99.9")
        yield Row(measure, name, memory_bytes(cluster.pids()) / 2**20, "MiB")
        yield Row(measure, name, (wanted - size) / seconds, "nodes made/s")
        size = wanted


def missed_operations(cluster: HaretCluster, name: str, counts: tuple[int, ...]) -> Iterator[Row]:
    """A backup is killed, others go on, and it is started again."""
    cluster.fill(64)
    for count in counts:
        victim = (cluster.leader() + 1) % len(cluster.servers)
        cluster.stop(victim)
        cluster.write(count)
        measure = f"a replica that missed {count:,} operations"
        yield Row(measure, name, cluster.catch_up(victim), "s to catch up")


def lost_leader(cluster: HaretCluster, name: str, *, count: int, kind: str) -> Iterator[Row]:
    """The node that leads all groups, which rest, is killed or freezes. A client of each group, connected to it, writes."""
    names = [NAMESPACE, *(f"n{number}" for number in range(1, count))]
    cluster.create(*names[1:])
    others = [pid for number, pid in enumerate(cluster.pids()) if number != cluster.leader()]
    before = cpu_seconds(others)
    seconds = cluster.fail_over_many(names, RESTING, kind)
    worked = cpu_seconds(others) - before
    measure = f"{'a node is killed' if kind == 'SIGKILL' else 'a node freezes'} that leads {count:,} groups"
    yield Row(measure, name, seconds[0], "s to first write")
    yield Row(measure, name, seconds[len(seconds) // 2], "s median")
    yield Row(measure, name, seconds[-1], "s to last group", LED_TARGET if kind == "SIGKILL" else None)
    yield Row(measure, name, worked / count * 1e3, "ms CPU a group")
