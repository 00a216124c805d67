"""The executor: order, fairness, bounds, dead letters, crashes, ends; and what is left of an actor: nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from rabble_trio import (
    CorrelationId,
    Down,
    Envelope,
    Node,
    NotAMessage,
    Outbox,
    Pid,
    Process,
    Shutdown,
    StartTimer,
    Supervisor,
    Timeout,
    message,
    open_node,
)
from rabble_trio._steps import BUDGET

NODE = "n1@127.0.0.1:0"


@message
class Number:
    """One of the messages that are counted."""

    n: int


@message
class Go:
    """Do what you are made for."""


Handler = Callable[[Any, Pid, Outbox], None]


class Scripted(Process):
    """Does what a function says, and keeps what it received."""

    def __init__(self, handler: Handler = lambda *_: None) -> None:
        self.handler = handler
        self.received: list[Any] = []

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        self.received.append(message)
        self.handler(message, sender, output)


async def test_messages_are_handled_in_order_and_replies_find_back() -> None:
    def double(message: Any, sender: Pid, output: Outbox) -> None:
        if isinstance(message, Number):
            output.send(sender, Number(2 * message.n))

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(double))
        for n in range(1000):
            await a.send(pid, Number(n))
        envelopes = [await a.receive() for _ in range(1000)]
        assert [envelope.message.n for envelope in envelopes] == [2 * n for n in range(1000)]
        assert {envelope.sender for envelope in envelopes} == {pid}
        assert node.metrics().counters["messages_handled"] == 2000


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=60))
async def test_order_holds_for_each_sender_and_receiver(sends: list[tuple[int, int]]) -> None:
    # Every process sends its part of the schedule as fast as it may, in steps of its own.
    receivers = [Scripted() for _ in range(3)]

    def source(number: int) -> Handler:
        left = [(n, to) for n, (by, to) in enumerate(sends) if by == number]

        def handle(message: Any, sender: Pid, output: Outbox) -> None:
            if left and isinstance(message, Go):
                n, to = left.pop(0)
                output.send(pids[to], Number(n))
                output.send(output.pid, Go())

        return handle

    async with open_node(NODE) as node:
        pids = [await node.spawn(f"r{n}", lambda n=n: receivers[n]) for n in range(3)]  # type: ignore[misc]
        sources = [await node.spawn(f"s{n}", lambda n=n: Scripted(source(n))) for n in range(3)]  # type: ignore[misc]
        for pid in sources:
            await node.send(pid, Go())
        await wait_all_tasks_blocked()
        for to, receiver in enumerate(receivers):
            for by in range(3):
                expected = [n for n, send in enumerate(sends) if send == (by, to)]
                assert [m.n for m in receiver.received if sends[m.n][0] == by] == expected


async def test_one_that_never_runs_out_of_messages_lets_others_run() -> None:
    def flood(message: Any, sender: Pid, output: Outbox) -> None:
        output.send(output.pid, Go())

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("flood", lambda: Scripted(flood))
        for _ in range(300):
            await node.send(pid, Go())
        for n in range(20):
            await a.send(a.pid, Number(n))
            assert (await a.receive()).message == Number(n)
        # Nor does it keep itself from ending: what comes after the request is not waited for.
        await node.stop(pid)


async def test_a_shutdown_comes_after_what_waits_and_is_the_last_message() -> None:
    process = Scripted()
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        for n in range(1000):  # several turns of budget
            node.send_nowait(pid, Number(n))
        await node.stop(pid)
    assert process.received == [*(Number(n) for n in range(1000)), Shutdown()]


async def test_last_words_at_a_shutdown_are_sent() -> None:
    def last_words(message: Any, sender: Pid, output: Outbox) -> None:
        if isinstance(message, Shutdown):
            output.send(a.pid, Number(1))

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(last_words))
        await node.stop(pid)
        assert a.receive_nowait().message == Number(1)


async def test_one_that_stops_handles_nothing_more() -> None:
    def stop(message: Any, sender: Pid, output: Outbox) -> None:
        output.stop()
        output.send(a.pid, Number(1))  # an effect of the same step still counts

    process = Scripted(stop)
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: process)
        for n in range(5):
            node.send_nowait(pid, Number(n))
        await wait_all_tasks_blocked()
        assert process.received == [Number(0)]
        assert a.receive_nowait().message == Number(1)
        assert node.executor_status().dead_letters == {"ended": 4}
        assert node.metrics().counters["messages_handled"] == 2


async def test_one_that_stops_in_init_is_spawned_and_gone() -> None:
    class Done(Scripted):
        def init(self, pid: Pid, output: Outbox) -> None:
            output.send(pid, Number(1))
            output.stop()

    process = Done()
    async with open_node(NODE) as node:
        await node.spawn("p", lambda: process)
        await wait_all_tasks_blocked()
        assert node.statistics().actors == 1
        assert process.received == []


async def test_a_crash_discards_the_step_and_says_where(caplog: pytest.LogCaptureFixture) -> None:
    def crash(message: Any, sender: Pid, output: Outbox) -> None:
        output.send(a.pid, message)
        if message == Number(2):
            raise ValueError("as told")

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(crash), restart="temporary")
        for n in (1, 2, 3):
            node.send_nowait(pid, Number(n))
        await wait_all_tasks_blocked()
        assert a.receive_nowait().message == Number(1)
        assert a.statistics().waiting == 0
        assert node.executor_status().dead_letters == {"ended": 1}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    (note,) = record.exc_info[1].__notes__  # type: ignore[union-attr]
    assert note.startswith(f"while {pid} handled Number(n=2) in state <")


async def test_sending_what_is_no_message_is_a_crash_of_the_sender() -> None:
    def send(message: Any, sender: Pid, output: Outbox) -> None:
        with pytest.raises(NotAMessage):
            output.send(sender, "text")
        output.send(sender, {"no": "message"})

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(send), restart="temporary")
        a.monitor(pid)
        await a.send(pid, Go())
        assert (await a.receive()).message.reason.startswith("crashed: NotAMessage: builtins.dict is not a message")


async def test_dead_letters_are_counted_by_reason_and_can_be_observed() -> None:
    class Small(Scripted):
        mailbox_size = 2

    def spray(message: Any, sender: Pid, output: Outbox) -> None:
        for to in (
            small,
            node.pid("nobody"),
            Pid.parse("p::n2@127.0.0.1:1"),
            executor,
            node.pid("supervisor", "rabble"),
        ):
            for n in range(3):
                output.send(to, Number(n))

    async with open_node(NODE) as node, node.open_dead_letters() as letters, node.open_dead_letters(1) as few:
        executor = node.pid("executor", "rabble")
        small = await node.spawn("small", Small)
        pid = await node.spawn("p", lambda: Scripted(spray))
        await node.send(pid, Go())
        await wait_all_tasks_blocked()
        expected = {"mailbox full": 1, "not running": 3, "no link": 3, "not accepted": 6}
        assert node.executor_status().dead_letters == expected
        assert node.statistics().dead_letters == 13
        first = letters.receive_nowait()
        assert first.reason == "mailbox full"
        assert first.envelope == Envelope(small, pid, Number(2))
        assert letters.statistics().current_buffer_used == 12
        assert few.receive_nowait() == first
        counters = node.metrics().counters
        assert counters["dead_letters_not_observed"] == 12
        assert counters["dead_letters_mailbox_full"] == 1
    assert node._executor._observers == []


async def test_a_mailbox_of_a_process_is_bounded_for_all() -> None:
    class Small(Scripted):
        mailbox_size = 3

    process = Small()
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(node.send, pid, Number(n))
        await wait_all_tasks_blocked()
        assert sorted(message.n for message in process.received) == list(range(50))
        for n in range(3):
            node.send_nowait(pid, Number(n))
        with pytest.raises(trio.WouldBlock):
            node.send_nowait(pid, Number(3))
        assert node.executor_status().mailboxes == {str(pid): 3}
        assert node.executor_status().dead_letters == {}


async def test_status_and_metrics_tell_what_runs() -> None:
    def timer(message: Any, sender: Pid, output: Outbox) -> None:
        output.start_timer(1000)

    async def service(mailbox: Any) -> None:
        await mailbox.receive()

    async with open_node(NODE) as node, node.open_mailbox("m") as m:
        pid = await node.spawn("p", lambda: Scripted(timer))
        s = await node.spawn("s", service)
        await node.send(pid, Go())
        await node.send(m.pid, Go())
        await wait_all_tasks_blocked()
        status = node.executor_status()
        assert status.node == node.id
        assert status.processes == (pid,)
        assert status.services == (m.pid, node.pid("supervisor", "rabble"), s)
        assert (status.timers, status.mailboxes) == (1, {str(m.pid): 1})
        gauges = node.metrics().gauges
        assert (gauges["actors"], gauges["processes"], gauges["timers"]) == (4, 1, 1)
        assert (gauges["mailbox_messages"], gauges["mailbox_deepest"]) == (1, 1)
        assert node.statistics().messages_waiting == 1
        await node.stop(pid)
        await node.stop(s)
        counters = node.metrics().counters
        assert counters["actors_ended_stopped"] == 2
        assert counters["messages_handled"] == 1


async def test_a_timer_for_somebody_else_is_not_accepted() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        await a.send(node.pid("executor", "rabble"), StartTimer(1.0))
        assert node.executor_status().dead_letters == {"not accepted": 1}


# Messages from elsewhere, which a process that has nothing to do handles at once ---------------------------------------

FAR = Pid.parse("far::n2@127.0.0.1:2")


def bring(node: Node, to: Pid, *messages: Any) -> None:
    """Messages from another node."""
    node._executor.deliver([(to, FAR, message, None) for message in messages])


async def test_a_process_that_has_nothing_to_do_handles_at_once_what_comes_from_elsewhere() -> None:
    process = Scripted(lambda message, sender, output: output.send(a.pid, message))
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: process)
        await wait_all_tasks_blocked()
        bring(node, pid, Number(1), Number(2))
        assert process.received == [Number(1), Number(2)]
        # What waits already goes first.
        node.send_nowait(pid, Number(3))
        bring(node, pid, Number(4))
        assert process.received == [Number(1), Number(2)]
        assert [(await a.receive()).message.n for _ in range(4)] == [1, 2, 3, 4]
        assert node.metrics().counters["messages_handled"] == 8


async def test_however_much_comes_from_elsewhere_others_get_a_turn() -> None:
    process = Scripted()
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        await wait_all_tasks_blocked()
        bring(node, pid, *map(Number, range(3 * BUDGET)))
        assert len(process.received) == BUDGET
        await wait_all_tasks_blocked()
        assert process.received == list(map(Number, range(3 * BUDGET)))


async def test_a_crash_by_what_comes_from_elsewhere_is_the_process_own() -> None:
    def fail(message: Any, sender: Pid, output: Outbox) -> None:
        output.send(a.pid, message)
        if isinstance(message, Number) and message.n < 0:
            raise ValueError("a negative number")

    async with open_node(NODE, supervisor=Supervisor(backoff=0)) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(fail))
        a.monitor(pid)
        await wait_all_tasks_blocked()
        bring(node, pid, Number(1), Number(-1), Number(2))
        await wait_all_tasks_blocked()
        first, second = (await a.receive()).message, (await a.receive()).message
        assert first == Number(1)  # a step that crashes has no effects
        assert second == Down(pid, "crashed: ValueError: a negative number")
        bring(node, pid, Number(3))
        assert (await a.receive()).message == Number(3)
        await wait_all_tasks_blocked()
        assert a.statistics().waiting == 0  # what came behind it ended with it


async def test_a_process_may_stop_and_start_timers_because_of_what_comes_from_elsewhere() -> None:
    def handle(message: Any, sender: Pid, output: Outbox) -> None:
        if isinstance(message, Timeout):
            output.send(a.pid, message)
            output.stop()
        else:
            output.start_timer(0)

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("p", lambda: Scripted(handle), restart="transient")
        a.monitor(pid)
        await wait_all_tasks_blocked()
        bring(node, pid, Go())
        assert [(await a.receive()).message for _ in range(2)] == [Timeout(), Down(pid, "finished")]
        bring(node, pid, Go())
        assert node.executor_status().dead_letters == {"not running": 1}


async def test_a_process_that_is_to_end_does_so_in_its_own_turn() -> None:
    process = Scripted()
    async with open_node(NODE) as node:
        pid = await node.spawn("p", lambda: process)
        await wait_all_tasks_blocked()
        node._executor.actors[pid].request_shutdown()
        bring(node, pid, Number(1))
        assert process.received == []
        await wait_all_tasks_blocked()
        assert process.received[-1] == Shutdown()
