"""The garbage collector of a server: what is frozen and thawed when, and that no garbage stays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import trio

from haret.cli import collector
from haret.cli.collector import GROWTH, LONG, QUIET, QUIET_GROWTH, THRESHOLDS, Collections, Collector
from rabble_trio import GetMetrics, open_node


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a collector was told to do, which does nothing."""
    did: list[str] = []
    fake = SimpleNamespace(
        collect=lambda: did.append("collect"),
        freeze=lambda: did.append("freeze"),
        unfreeze=lambda: did.append("unfreeze"),
        get_threshold=lambda: (1, 2, 3),
        set_threshold=lambda *numbers: did.append(f"threshold {numbers}"),
        callbacks=[],
    )
    monkeypatch.setattr(collector, "gc", fake)
    return did


class Counted:
    """Collections that take as long, and memory that is as much, as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.blocks = 1000
        self.made = Collections(lambda: self.now, lambda: self.blocks)

    def collection(self, generation: int, seconds: float) -> None:
        self.made("start", {"generation": generation})
        self.now += seconds
        self.made("stop", {"generation": generation})


def test_only_a_full_collection_that_takes_long_freezes(did: list[str]) -> None:
    counted = Counted()
    counted.collection(2, LONG)
    counted.collection(1, 10 * LONG)
    assert (did, counted.made.freezes) == ([], 0)
    counted.collection(2, 1.5 * LONG)
    assert (did, counted.made.freezes) == (["freeze"], 1)
    assert counted.made.longest == pytest.approx(10 * LONG)


THAW = ["unfreeze", "collect", "freeze", "collect"]


@pytest.mark.parametrize(
    ("load", "growth"), [(1.0, GROWTH), (QUIET, GROWTH), (0.9 * QUIET, QUIET_GROWTH), (0.0, QUIET_GROWTH)]
)
def test_it_thaws_when_memory_has_grown_and_earlier_if_nobody_waits(did: list[str], load: float, growth: float) -> None:
    counted = Counted()
    counted.made.begin()
    counted.collection(2, 2 * LONG)
    did.clear()
    counted.blocks = int(growth * 1000) - 1
    counted.made.look(load)
    assert did == []
    counted.blocks += 1
    counted.made.look(load)
    assert (did, counted.made.thaws) == (THAW, 1)
    # From here on, twice as much again.
    counted.collection(2, 2 * LONG)
    did.clear()
    counted.made.look(load)
    assert did == []


def test_it_does_not_thaw_what_is_not_frozen(did: list[str]) -> None:
    counted = Counted()
    counted.made.begin()
    did.clear()
    counted.blocks *= 100
    counted.made.look(1.0)
    assert did == []


def test_memory_that_was_given_back_does_not_hide_garbage(did: list[str]) -> None:
    counted = Counted()
    counted.made.begin()
    counted.blocks = 100
    counted.collection(2, 2 * LONG)
    counted.made.look(1.0)
    did.clear()
    counted.blocks = int(GROWTH * 100)
    counted.made.look(1.0)
    assert did == THAW


@pytest.fixture
def as_before() -> Iterator[None]:
    """The interpreter's own collector is left as it was."""
    callbacks, thresholds = list(gc.callbacks), gc.get_threshold()
    yield
    assert (gc.callbacks, gc.get_threshold(), gc.get_freeze_count()) == (callbacks, thresholds, 0)


class Loop:
    """Garbage in a cycle, once nobody refers to it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_that_was_frozen_is_collected_in_the_end(as_before: None) -> None:
    counted = Counted()
    made = counted.made
    made.begin()
    try:
        loop = Loop()
        seen = weakref.ref(loop)
        made("start", {"generation": 2})
        counted.now += 2 * LONG
        made("stop", {"generation": 2})
        del loop
        gc.collect()
        assert seen() is not None, "it is frozen, so there was nothing to test"
        counted.blocks = int(GROWTH * counted.blocks)
        made.look(1.0)
        assert seen() is None
        loop = Loop()
        seen = weakref.ref(loop)
        del loop
        gc.collect()
        assert seen() is None, "new garbage is found at once"
    finally:
        made.end()


def test_a_tree_that_is_frozen_ends_without_being_collected(as_before: None) -> None:
    counted = Counted()
    counted.made.begin()
    try:
        tree = [Plain() for _ in range(10)]
        gc.freeze()
        frozen = gc.get_freeze_count()
        tree.clear()
        assert gc.get_freeze_count() <= frozen - 10
    finally:
        counted.made.end()


class Plain:
    """Something that is no part of a cycle."""


async def test_the_service_tells_and_leaves_nothing_behind(as_before: None) -> None:
    async with open_node("n1@127.0.0.1:0") as node:
        pid = await node.spawn("collector", Collector)
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
        metrics = await node.ask(pid, GetMetrics())
        assert set(metrics.gauges) == {"longest_pause", "blocks"}
        assert metrics.gauges["longest_pause"] > 0.0
        assert metrics.counters["collections_full"] >= 2
        assert metrics.counters["thaws"] == 0


async def test_the_service_looks_now_and_then(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    looks: list[float] = []
    monkeypatch.setattr(Collections, "look", lambda self, load: looks.append(load))
    async with open_node("n1@127.0.0.1:0") as node:
        await node.spawn("collector", Collector)
        await trio.sleep(3.5 * collector.WATCH)
    assert len(looks) == 3
    assert all(0.0 <= load < 1.0 for load in looks)
