"""`haret demo` proves what it says: it succeeds, and whatever is broken on purpose makes it fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

import haret
from haret.cli import demo, processes

Run = Callable[..., Any]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less load than a spectator deserves."""
    monkeypatch.setattr(demo, "LOAD_BEFORE", 0.1)
    monkeypatch.setattr(demo, "LOAD_BETWEEN", 0.1)


def failed(done: Any) -> list[str]:
    """The promises that a report says were broken."""
    report = json.loads(done.out)
    broken = [check["promise"] for step in report["steps"] for check in step["checks"] if not check["ok"]]
    assert (report["ok"], report["failed"], done.code) == (not broken, len(broken), 1 if broken else 0)
    return broken


def test_the_demonstration_succeeds_and_tells_what_it_did(run: Run, quick: None) -> None:
    """(That it runs as a process of its own, and ends in order, test_interrupt.py tries.)"""
    done = run("demo")
    assert (done.code, done.err) == (0, b"")
    assert b"1. Start three nodes" in done.out
    assert b"ok    the others chose r" in done.out
    assert b"ok    n1 found the others by itself" in done.out
    assert b"ok    its replica, r1, goes on with what is on its disk" in done.out
    assert b"ok    the replicas found each other, chose a primary and go on" in done.out
    assert b"ok    r1 and r2 and r3 hold the same tree" in done.out
    assert b"No acknowledged write was lost" in done.out
    assert b"FAIL" not in done.out


def test_whatever_is_broken_is_found(run: Run, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    drain, push, multi_cas = demo.drain, haret.Client.queue_push, haret.Client.multi_cas

    async def lossy(client: haret.Client, path: str) -> list[bytes]:
        found = await drain(client, path)
        found.remove(b"1:1")
        return found

    async def stuttering(self: haret.Client, path: str, value: bytes) -> Any:
        if value == b"0:3":
            await push(self, path, value)
        return await push(self, path, value)

    async def wrong(self: haret.Client, *_: object) -> Any:
        return haret.Reply(frozenset({b"ann"}), 1, 1, 0, 0)

    async def careless(self: haret.Client, *, guards: Any = (), operations: Any) -> Any:
        return await multi_cas(self, operations=operations)

    monkeypatch.setattr(demo, "drain", lossy)
    monkeypatch.setattr(demo, "REJOINING", 0.0)
    monkeypatch.setattr(haret.Client, "queue_push", stuttering)
    monkeypatch.setattr(haret.Client, "set_intersection", wrong)
    monkeypatch.setattr(haret.Client, "multi_cas", careless)
    done = run("demo", "-o", "json")
    broken, report = failed(done), json.loads(done.out)
    assert set(report) == {"ok", "checks", "failed", "failover", "steps"}
    times = {"pause_ms", "restart_ms"}
    assert set(report["failover"]) == {"old_primary", "new_primary", "view", "acknowledged", *times}
    for words in ("is lost", "pushed twice", "intersection", "the guard is stale", "changes nothing", "member again"):
        assert any(words in promise for promise in broken), words


def test_disks_that_are_lost_are_found(run: Run, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_all = processes.Processes.kill_all

    async def burn(self: processes.Processes) -> None:
        await kill_all(self)
        for node in self:
            shutil.rmtree(node.directory / "data")

    async def pass_over(*_: object) -> None:
        """The primary is not killed before, as the other tests try that: it would take another start of a process."""

    monkeypatch.setattr(processes.Processes, "kill_all", burn)
    monkeypatch.setattr(demo, "_kill_primary", pass_over)
    monkeypatch.setattr(demo, "REJOINING", 0.5)
    monkeypatch.setattr(demo, "PATIENCE", 1.0)
    broken = failed(run("demo", "-o", "json"))
    assert any("go on, without anybody's help" in promise for promise in broken)


def test_an_error_fails_the_step_that_it_happens_in(run: Run, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: haret.Client, path: str) -> Any:
        raise haret.SessionExpired(1)

    monkeypatch.setattr(haret.Client, "blob_size", failing)
    done = run("demo")
    assert done.code == 1
    assert b"FAIL  the step succeeds: SessionExpired: session 1 expired" in done.out
    assert b"1 of " in done.out


def test_a_cluster_that_does_not_start_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START", 0.0)
    done = run("demo")
    assert done.code == 1
    assert b"did not start" in done.out


def test_it_does_not_take_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LIMIT", 0.2)
    (broken,) = failed(run("demo", "-o", "json"))
    assert "ends within 0.2 s" in broken
