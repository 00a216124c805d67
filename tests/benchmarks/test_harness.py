"""The arithmetic and the table of the benchmarks. What they measure is not tested: figures belong to a machine."""

from __future__ import annotations

import json
import pathlib

import pytest

from benchmarks import harness
from benchmarks.harness import Row, Timed, rate, save, table, triotp_rate

ROWS = [
    Row("asks", "rabble_trio", 60_000.0, "/s", target=50_000.0),
    Row("asks", "pykka", 20_000.0, "/s"),
    Row("delay", "haret", 0.8, "ms"),
]


def test_rate_is_the_best_of_the_runs_after_the_first() -> None:
    runs = iter([Timed(100, 0.01), Timed(100, 2.0), Timed(100, 1.0), Timed(100, 4.0)])
    assert rate("asks", "pykka", lambda: next(runs)) == Row("asks", "pykka", 100.0, "/s")
    assert list(runs) == []


def test_table_groups_by_measure_and_compares_with_ours() -> None:
    lines = [line.split() for line in table(ROWS).splitlines() if line]
    assert ["asks"] in lines
    assert [">", "rabble_trio", "60,000", "/s", "50,000"] in lines
    assert ["pykka", "20,000", "/s", "3"] in lines
    assert [">", "haret", "0.8", "ms"] in lines


def test_save_writes_the_rows_and_the_machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    saved = json.loads(save(ROWS).read_text(encoding="utf-8"))
    assert saved["rows"][0]["target"] == 50_000.0
    assert saved["machine"]["python"]


def test_triotp_is_left_out_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIOTP_PYTHON", raising=False)
    assert triotp_rate("asks", "ask", 1) == []
