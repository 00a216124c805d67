"""What leaves a node at the end of a turn: links first, once each; then the journal."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rabble_trio._outlets import Outlets


@pytest.fixture
def called() -> list[str]:
    return []


@pytest.fixture
def outlets(called: list[str]) -> Outlets:
    return Outlets(lambda: called.append("last"))


async def test_links_are_called_in_the_next_turn_and_then_the_last(outlets: Outlets, called: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlets.run)
        await wait_all_tasks_blocked()
        called.clear()
        outlets.open_soon()
        outlets.open_soon(lambda: called.append("a"))
        outlets.open_soon(lambda: called.append("b"))
        assert called == []
        await wait_all_tasks_blocked()
        assert called == ["a", "b", "last"]
        outlets.open_soon()
        await wait_all_tasks_blocked()
        assert called == ["a", "b", "last", "last"]
        nursery.cancel_scope.cancel()


async def test_what_was_called_now_is_not_called_again(outlets: Outlets, called: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlets.run)
        await wait_all_tasks_blocked()
        outlets.open_soon(lambda: called.append("a"))
        outlets.open_now()
        await wait_all_tasks_blocked()
        assert called.count("a") == 1
        nursery.cancel_scope.cancel()


async def test_what_comes_before_the_task_is_called_when_it_starts(outlets: Outlets, called: list[str]) -> None:
    outlets.open_soon(lambda: called.append("a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlets.run)
        await wait_all_tasks_blocked()
        assert called == ["a", "last"]
        nursery.cancel_scope.cancel()
    outlets.open_soon(lambda: called.append("b"))  # nobody is there any more, which harms nobody
