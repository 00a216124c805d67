"""What the benchmarks of coordination services share: how a load is measured, and how its figures are shown."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from benchmarks.coordination import loads
from benchmarks.coordination.loads import Load, Recorder, cpu_seconds, memory_bytes, report
from benchmarks.harness import Row, wide_table
from benchmarks.replication import rows_of


def test_report_takes_percentiles_of_the_latencies() -> None:
    made = report([number / 1000 for number in range(1000, 0, -1)], seconds=2.0, cpu=0.5)
    assert (made.p50, made.p99, made.p999) == (0.501, 0.991, 1.0)
    assert made.rate == 500
    assert made.cpu_per_request == 0.0005


def test_report_of_nothing_has_no_figures() -> None:
    assert report([], 1.0, 0.0).rate == 0


def test_recorder_counts_what_completes_between_warm_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loads, "time", SimpleNamespace(perf_counter=lambda: now))
    recorder = Recorder(Load("write", 64, 1, seconds=2.0, warm_up=1.0), [])
    going = []
    for now in (100.5, 101.0, 102.0, 103.5):
        going.append(recorder.done(now - 0.25))
    assert going == [True, True, True, False]
    made = recorder.report()
    assert (made.count, made.p50, made.seconds) == (2, 0.25, 2.5)


def test_processor_time_and_memory_are_those_of_the_process() -> None:
    before, own = cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() < own + 0.05:
        pass
    assert cpu_seconds([os.getpid(), os.getpid()]) >= before + 0.03
    assert memory_bytes([os.getpid()]) > 1_000_000
    assert cpu_seconds([2**30]) == memory_bytes([2**30]) == 0  # one that is gone


def test_wide_table_has_a_column_for_each_unit() -> None:
    load = Load("write", 64, 100)
    rows = rows_of(load, "haret, durable", report([0.01] * 100, 1.0, 0.1))
    rows += rows_of(load, "etcd, durable", report([0.02] * 50, 1.0, 0.1))
    lines = [line.split() for line in wide_table([*rows, Row("failover", "etcd, durable", 1.5, "s")]).splitlines()]
    assert ["/s", "ms", "p50", "ms", "p99", "ms", "p99.9", "us", "cpu"] in lines
    assert [">", "haret,", "durable", "100", "(20,000)", "10", "10", "10", "1,000"] in lines
    assert ["etcd,", "durable", "50", "20", "20", "20", "2,000"] in lines
    assert ["etcd,", "durable", "1.5"] in lines
