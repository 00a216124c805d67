"""Timers of processes: once each, replaced and cancelled for certain, after what waited, and without a trace left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from rabble_trio import CorrelationId, Outbox, Pid, Process, Timeout, message, open_node

NODE = "n1@127.0.0.1:0"


@message
class Do:
    """Something to do; the test says what."""

    n: int


Handler = Callable[["Scripted", Any, CorrelationId | None, Outbox], None]


class Scripted(Process):
    """Does what a function says and writes down what it received, and when."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.received: list[tuple[Any, CorrelationId | None]] = []
        self.times: list[float] = []
        self.fired = False
        self.sender: Pid | None = None

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        self.received.append((message, correlation_id))
        self.times.append(trio.current_time())
        self.sender = sender
        self.fired = self.fired or message == Timeout()
        self.handler(self, message, correlation_id, output)

    @property
    def timeouts(self) -> list[tuple[int | None, float]]:
        """The request number of each timeout's correlation id, and when it came."""
        return [
            (None if cid is None else cid.request, time)
            for (message, cid), time in zip(self.received, self.times, strict=True)
            if message == Timeout()
        ]


def cid(output: Outbox, number: int) -> CorrelationId:
    return CorrelationId(output.pid, None, number)


async def test_a_timer_fires_once_at_its_time_with_its_correlation_id(autojump_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if isinstance(message, Do):
            output.start_timer(3, cid(output, 3))
            output.start_timer(1, cid(output, 1))
            output.start_timer(2)

    process = Scripted(handler)
    async with open_node(NODE) as node:
        start = trio.current_time()
        pid = await node.spawn("p", lambda: process)
        await node.send(pid, Do(0))
        await wait_all_tasks_blocked()
        assert node.statistics().timers == node.executor_status().timers == 3
        await trio.sleep(10)
        assert [(n, time - start) for n, time in process.timeouts] == [(1, 1.0), (None, 2.0), (3, 3.0)]
        assert process.sender == Pid("executor", node.id, "rabble")
        assert node.statistics().timers == 0


async def test_starting_a_running_timer_replaces_it(autojump_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if isinstance(message, Do):
            output.start_timer(message.n)

    process = Scripted(handler)
    async with open_node(NODE) as node:
        start = trio.current_time()
        pid = await node.spawn("p", lambda: process)
        await node.send(pid, Do(2))
        await trio.sleep(1)
        await node.send(pid, Do(5))  # later
        await trio.sleep(1)
        await node.send(pid, Do(1))  # sooner
        await trio.sleep(10)
        assert [time - start for _, time in process.timeouts] == [3.0]


@pytest.mark.parametrize("again", [False, True])
async def test_no_timeout_after_a_cancel_even_if_the_time_was_up(mock_clock: MockClock, again: bool) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        match message:
            case Do(1):
                output.start_timer(1)
            case Do(2):
                output.cancel_timer()
                if again:
                    output.start_timer(1)

    process = Scripted(handler)
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        await node.send(pid, Do(1))
        await wait_all_tasks_blocked()
        node.send_nowait(pid, Do(2))  # waits in the mailbox when the timer becomes due
        mock_clock.jump(5)
        await wait_all_tasks_blocked()
        assert process.timeouts == []
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert len(process.timeouts) == again


async def test_a_due_timer_cancels_another_that_is_due_as_well(mock_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if isinstance(message, Do):
            output.start_timer(1, cid(output, 1))
            output.start_timer(2, cid(output, 2))
        else:
            output.cancel_timer(cid(output, 2))

    process = Scripted(handler)
    async with open_node(NODE) as node:
        await node.send(await node.spawn("p", lambda: process), Do(0))
        await wait_all_tasks_blocked()
        mock_clock.jump(5)
        await wait_all_tasks_blocked()
        assert [n for n, _ in process.timeouts] == [1]
        assert node.statistics().timers == 0


async def test_cancelling_what_does_not_run_does_nothing(autojump_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if isinstance(message, Do):
            output.cancel_timer()
            output.cancel_timer(cid(output, 7))
            output.start_timer(1)

    process = Scripted(handler)
    async with open_node(NODE) as node:
        await node.send(await node.spawn("p", lambda: process), Do(0))
        await trio.sleep(2)
        assert len(process.timeouts) == 1


async def test_a_timer_of_no_seconds_that_restarts_itself_lets_others_run(mock_clock: MockClock) -> None:
    # The clock stands still, so each of these timers is due at once, for ever.
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        output.start_timer(0)

    process = Scripted(handler)
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        await node.send(pid, Do(0))
        async with node.open_mailbox("other") as other:
            for n in range(50):
                await node.send(other.pid, Do(n))
                assert (await other.receive()).message == Do(n)
        assert len(process.timeouts) >= 40
        await node.stop(pid)


async def test_a_due_timer_comes_after_what_waited_and_before_what_came_later(mock_clock: MockClock) -> None:
    started = trio.Event()

    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if message == Do(-1):
            output.start_timer(1)
            started.set()

    process = Scripted(handler)
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        await node.send(pid, Do(-1))
        await started.wait()
        await wait_all_tasks_blocked()
        # More than one turn's budget waits when the timer becomes due.
        for n in range(400):
            node.send_nowait(pid, Do(n))
        mock_clock.jump(1)
        while len(process.received) < 300:
            await trio.lowlevel.checkpoint()
        for n in range(400, 600):
            node.send_nowait(pid, Do(n))
        await wait_all_tasks_blocked()
        order = [message for message, _ in process.received]
        # A turn's messages are handled in one go, so it may be as many messages later, but not after all.
        assert 401 <= order.index(Timeout()) <= 401 + 128
        assert len(order) == 602


async def test_a_flood_does_not_keep_a_timer_from_firing(mock_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        match message:
            case Do(0):
                output.start_timer(1)
                for _ in range(500):
                    output.send(output.pid, Do(1))
            case Do(1) if not self.fired:
                output.send(output.pid, Do(1))  # so the mailbox is never empty before the timer fires

    process = Scripted(handler)
    async with open_node(NODE) as node:
        await node.send(await node.spawn("p", lambda: process), Do(0))
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert process.timeouts == []
        mock_clock.jump(1)
        before = len(process.received)
        await wait_all_tasks_blocked()
        # Those that waited went first: one batch that told that it is due, then 500 of them in batches.
        index = [message for message, _ in process.received].index(Timeout())
        assert 500 <= index - before <= 500 + 2 * 128


async def test_a_restarted_process_gets_no_timeout_of_the_one_before(autojump_clock: MockClock) -> None:
    made: list[Scripted] = []

    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        match message:
            case Do(1):
                output.start_timer(1)
            case Do(2):
                raise ValueError("crash")

    def factory() -> Scripted:
        made.append(Scripted(handler))
        return made[-1]

    async with open_node(NODE) as node:
        pid = await node.spawn("p", factory)
        await node.send(pid, Do(1))
        await node.send(pid, Do(2))
        await trio.sleep(10)
        assert [process.timeouts for process in made] == [[], []]
        assert node.statistics().timers == 0


async def test_a_timeout_may_end_or_crash_its_process(autojump_clock: MockClock) -> None:
    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        match message:
            case Do(n):
                output.start_timer(1, cid(output, n))
                output.start_timer(1, cid(output, 9))
            case Timeout() if correlation_id is not None and correlation_id.request == 0:
                output.stop()
            case Timeout():
                raise ValueError("crash")

    for n, count in ((0, {"actors_ended_finished": 1}), (1, {"actors_ended_crashed": 1})):
        process = Scripted(handler)
        async with open_node(NODE) as node:
            await node.send(await node.spawn("p", lambda p=process: p, restart="temporary"), Do(n))
            await trio.sleep(5)
            assert len(process.timeouts) == 1
            ended = {k: v for k, v in node.metrics().counters.items() if k.startswith("actors_ended_")}
            assert ended == count


async def test_timers_that_were_replaced_or_cancelled_leave_nothing_behind(mock_clock: MockClock) -> None:
    # 100,000 of each; the heap keeps a few that are dead, never many.
    sizes: list[int] = []

    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if message == Do(3):
            for n in range(101):
                output.cancel_timer(cid(output, n))
            return
        for n in range(100):
            number = 0 if message == Do(0) else 1 + n
            output.start_timer(60, cid(output, number))
            if message == Do(1):
                output.cancel_timer(cid(output, number))
        sizes.append(len(node._executor.actors[output.pid].timer_heap))

    process = Scripted(handler)
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        for n in (0, 1):
            for _ in range(1000):
                await node.send(pid, Do(n))
            await wait_all_tasks_blocked()
        assert max(sizes) < 400
        # All at once and then cancelled: nothing is left, though no further timer is started.
        await node.send(pid, Do(2))
        await wait_all_tasks_blocked()
        actor = node._executor.actors[pid]
        assert len(actor.timers) == 101
        await node.send(pid, Do(3))
        await wait_all_tasks_blocked()
        assert (len(actor.timers), len(actor.timer_heap)) == (0, 0)


def test_a_time_that_is_none_is_refused() -> None:
    output = Outbox(Pid.parse("p::n1@127.0.0.1:1"))
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match="a timer runs for 0 seconds or more"):
            output.start_timer(seconds)
    assert len(output) == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "cancel", "pass"]), st.integers(0, 3), st.integers(0, 5)), max_size=40
)


@given(STEPS)
def test_timers_against_a_model(steps: list[tuple[str, int, int]]) -> None:
    clock = MockClock()  # a fixture would be shared by all examples
    trio.run(compare_with_model, clock, steps, clock=clock)


async def compare_with_model(clock: MockClock, steps: list[tuple[str, int, int]]) -> None:
    model: dict[int, float] = {}
    expected: list[tuple[int, float]] = []
    script: list[tuple[str, int, int]] = []

    def handler(self: Scripted, message: Any, correlation_id: Any, output: Outbox) -> None:
        if isinstance(message, Do):
            what, number, seconds = script[message.n]
            if what == "start":
                output.start_timer(seconds, cid(output, number))
            else:
                output.cancel_timer(cid(output, number))

    def due() -> None:
        for number, at in sorted(model.items(), key=lambda item: (item[1], order[item[0]])):
            if at <= trio.current_time():
                expected.append((number, trio.current_time()))
                del model[number]

    order: dict[int, int] = {}
    process = Scripted(handler)
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        for index, step in enumerate(steps):
            what, number, seconds = step
            script.append(step)
            if what == "pass":
                clock.jump(seconds)
            else:
                await node.send(pid, Do(index))
                if what == "start":
                    model[number] = trio.current_time() + seconds
                    order[number] = index
                else:
                    model.pop(number, None)
            await wait_all_tasks_blocked()
            due()
            assert process.timeouts == expected
            assert node.statistics().timers == len(model)
