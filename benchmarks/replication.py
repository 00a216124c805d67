"""Writes and reads of three replicas: haret beside etcd, ZooKeeper and PySyncObj, three processes each, in one run.

A bare loop that makes the same hops, and promises nothing, says what these cost on this machine: read haret's figures as a
share of its own.

What is the same for all of them, and what can't be, stands in `benchmarks.coordination`. Peers that are not installed are
left out with a word. One service runs at a time. It is warmed up; then comes each load; then its leader is killed
(SIGKILL) a few times, to measure how long it takes until a new write is acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .coordination.bare import BareCluster
from .coordination.cluster import Cluster, Unfit, started
from .coordination.etcd import EtcdCluster, EtcdH2loadCluster
from .coordination.haret import HaretCluster
from .coordination.loads import Load, Report
from .coordination.pysyncobj import PysyncobjCluster
from .coordination.zookeeper import ZookeeperCluster
from .harness import Row, wide_table

CLUSTERS: tuple[type[Cluster], ...] = (
    HaretCluster,
    BareCluster,
    EtcdCluster,
    EtcdH2loadCluster,
    ZookeeperCluster,
    PysyncobjCluster,
)

SMALL, LARGE = 64, 4096

SHAPES = ((1, 1), (10, 1), (100, 1), (1000, 1), (100, 100))
"""(requests in flight, connections)"""

LOADS = [
    Load(kind, size, in_flight, connections)
    for size in (SMALL, LARGE)
    for kind in ("write", "read")
    for in_flight, connections in SHAPES
]

QUICK = [Load(kind, SMALL, in_flight, seconds=0.6, warm_up=0.2) for kind in ("write", "read") for in_flight in (1, 100)]

WARM_UP = Load("write", SMALL, 100, seconds=3, warm_up=0)
"""Before all others: a virtual machine compiles what is hot, and a journal has its first pages."""

FAILOVERS = 3

FAILOVER = "failover: SIGKILL of the leader to the first new write"

TARGETS = {
    (("write", SMALL, 100, 1), "/s"): 20_000.0,
    (("write", SMALL, 1, 1), "ms p50"): 1.0,
    (("read", SMALL, 100, 1), "/s"): 30_000.0,
}
"""Of the design, for haret in its durable mode."""


def run(*, quick: bool = False) -> list[Row]:
    """All rows: figures of each load by service, and the failovers."""
    rows: list[Row] = []
    for kind in CLUSTERS:
        why = kind.missing()
        if quick and kind is EtcdH2loadCluster:
            continue
        if why is not None:
            print(f"  {kind.name} left out: {why}")
            continue
        for mode in kind.modes:
            rows += list(_measure(kind, mode, quick))
    return rows


def table(rows: list[Row]) -> str:
    """A line for each load and service, a column for each unit; below it, what one has to know."""
    remarks = [f"  {remark}" for kind in CLUSTERS for remark in kind.remarks]
    notes = ["all: one client process, connected to the leader; cpu: of all processes, client and servers, per request"]
    return "\n".join([wide_table(rows), "", *notes, *remarks])


def _measure(kind: type[Cluster], mode: str, quick: bool) -> Iterator[Row]:
    name = f"{kind.name}, {mode}"
    print(f"  {name} ...", flush=True)
    try:
        with started(kind, mode) as cluster:
            cluster.load(replace(WARM_UP, seconds=1) if quick else WARM_UP)
            yield from _loads(cluster, name, QUICK if quick else LOADS)
            yield from _failovers(cluster, name, 1 if quick else FAILOVERS)
    except (Unfit, OSError) as error:
        print(f"  {name}: the rest is left out: {error}")


def _loads(cluster: Cluster, name: str, loads: list[Load]) -> Iterator[Row]:
    size = 0
    for load in loads:
        if not cluster.can(load):
            continue
        if size != load.size:
            size = load.size
            cluster.fill(size)
        yield from rows_of(load, name, cluster.load(load))


def rows_of(load: Load, name: str, report: Report) -> list[Row]:
    """The figures of one load."""
    if report.failed:
        print(f"  {name}: {load}: {report.failed} requests failed")
    figures = {
        "/s": report.rate,
        "ms p50": report.p50 * 1e3,
        "ms p99": report.p99 * 1e3,
        "ms p99.9": report.p999 * 1e3,
        "us cpu": report.cpu_per_request * 1e6,
    }
    targets = TARGETS if name == "haret, durable" else {}
    return [Row(str(load), name, value, unit, targets.get((load.key, unit))) for unit, value in figures.items()]


def _failovers(cluster: Cluster, name: str, count: int) -> Iterator[Row]:
    times: list[float] = []
    for number in range(count):
        times.append(cluster.fail_over())
        if number < count - 1 and not cluster.settle():
            print(f"  {name}: a server that was killed did not become a member again: {number + 1} failovers measured")
            break
    times.sort()
    target = 1.0 if name.startswith(HaretCluster.name) else None
    yield Row(FAILOVER, name, times[len(times) // 2], "s median", target)
    yield Row(FAILOVER, name, times[-1], "s longest")
