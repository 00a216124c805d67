"""The group of the benchmark still is one: its machine and its mailboxes are enough for the replicas."""

from __future__ import annotations

import pytest

from benchmarks import vr_core


@pytest.mark.parametrize("in_flight", [1, 7])
def test_all_requests_are_answered(monkeypatch: pytest.MonkeyPatch, in_flight: int) -> None:
    monkeypatch.setattr(vr_core, "COUNT", 50)
    assert vr_core.requests(in_flight).count == 50
