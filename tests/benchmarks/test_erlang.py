"""The benchmarks' Erlang peer: it measures where there is Erlang, and says so where there is none."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.erlang import open_erlang

needs_erlang = pytest.mark.skipif(shutil.which("erl") is None, reason="there is no erl on this machine")


@needs_erlang
def test_measures_between_two_nodes() -> None:
    with open_erlang() as erlang:
        for scenario in (("one_way", 64, 100), ("round_trips", 64, 100, 1), ("round_trips", 64, 100, 10)):
            timed = erlang.run(*scenario)
            assert timed.count == 100
            assert timed.seconds > 0
        assert erlang.release.isdigit()


@needs_erlang
def test_failed_run_says_what_erlang_said() -> None:
    with open_erlang() as erlang, pytest.raises(ChildProcessError, match="case_clause"):
        erlang.run("sideways", 64, 100)


def test_is_left_out_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("thespian")
    from benchmarks.cluster import erlang_rows

    monkeypatch.setenv("PATH", "")
    assert erlang_rows() == []
    assert "Erlang left out" in capsys.readouterr().out
