"""Alarms: each actor is woken once, never early, and at most a moment late."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from rabble_trio import NodeId, Pid
from rabble_trio._actor import INF, Actor
from rabble_trio._alarms import GRAIN, GRAIN_EACH, Alarms

NODE = NodeId("n1", "127.0.0.1:5000")


class Sleeper(Actor):
    """Notes when it is woken, and does something then."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(Pid(f"a{number}", NODE), "process", 1)
        self.times: list[float] = []
        self.then: Callable[[], None] = lambda: None

    def wake(self) -> None:
        self.times.append(trio.current_time())
        self.then()


@pytest.fixture
async def alarms(nursery: trio.Nursery) -> Alarms:
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    return alarms


async def test_it_wakes_at_the_time_and_once(alarms: Alarms, autojump_clock: MockClock) -> None:
    actor, now = Sleeper(), trio.current_time()
    alarms.set(actor, now + 1)
    await trio.sleep(10)
    assert actor.times == [now + 1]
    assert actor.alarm == INF
    alarms.set(actor, now + 11)
    await trio.sleep(10)
    assert actor.times == [now + 1, now + 11]


async def test_what_was_set_before_the_task_began_counts(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    alarms, actor, now = Alarms(), Sleeper(), trio.current_time()
    alarms.set(actor, now + 1)
    nursery.start_soon(alarms.run)
    await trio.sleep(2)
    assert actor.times == [now + 1]


async def test_only_the_earliest_time_counts(alarms: Alarms, autojump_clock: MockClock) -> None:
    actor, now = Sleeper(), trio.current_time()
    for seconds in (3, 5, 2, 4):
        alarms.set(actor, now + seconds)
    await trio.sleep(10)
    assert actor.times == [now + 2]


async def test_an_alarm_that_becomes_earlier_than_all_is_in_time(alarms: Alarms, autojump_clock: MockClock) -> None:
    one, other, now = Sleeper(1), Sleeper(2), trio.current_time()
    alarms.set(one, now + 5)
    await trio.sleep(1)
    alarms.set(other, now + 2)
    await trio.sleep(10)
    assert (other.times, one.times) == ([now + 2], [now + 5])


async def test_many_that_are_due_together_are_woken_together_and_none_early(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    actors, now = [Sleeper(number) for number in range(1000)], trio.current_time()
    due = {actor: now + 1 + number * 1e-5 for number, actor in enumerate(actors)}  # all of them within 10 ms
    for actor in actors:
        alarms.set(actor, due[actor])
    await trio.sleep(2)
    assert all(0 <= actor.times[0] - due[actor] <= GRAIN for actor in actors)
    assert len({actor.times[0] for actor in actors}) <= 4
    assert {len(actor.times) for actor in actors} == {1}


async def test_few_are_on_time(alarms: Alarms, autojump_clock: MockClock) -> None:
    actors, now = [Sleeper(number) for number in range(4)], trio.current_time()
    for number, actor in enumerate(actors):
        alarms.set(actor, now + 1 + number * 5 * GRAIN_EACH)
    await trio.sleep(2)
    assert [actor.times for actor in actors] == [[now + 1 + number * 5 * GRAIN_EACH] for number in range(4)]


async def test_a_long_timer_beside_many_short_ones_leaves_no_trace_each_time(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    """Whoever is woken says again when its next timer is due, which may be the same long one every time."""
    actor, now = Sleeper(), trio.current_time()
    actor.then = lambda: alarms.set(actor, now + 3600)
    for _ in range(1000):
        alarms.set(actor, trio.current_time() + 0.01)
        await trio.sleep(0.1)
    assert len(actor.times) == 1000
    assert len(alarms._heap) < 200


async def test_actors_that_ended_are_forgotten(alarms: Alarms, autojump_clock: MockClock) -> None:
    living = Sleeper()
    alarms.set(living, trio.current_time() + 3600)
    for number in range(1000):
        actor = Sleeper(number)
        alarms.set(actor, trio.current_time() + 3600)
        actor.alarm_number = 0  # as the executor does
    assert len(alarms._heap) < 200
    await trio.sleep(3601)
    assert len(living.times) == 1
    assert actor.times == []
