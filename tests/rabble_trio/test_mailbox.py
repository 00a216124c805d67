"""Mailboxes: bounds, order, who waits, and what cancellation leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from rabble_trio import (
    ActorDown,
    CorrelationId,
    Down,
    GetMetrics,
    NameInUse,
    NodeClosed,
    NotAMessage,
    Pid,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"


@message
class Number:
    """One of the messages that are counted."""

    n: int


async def test_a_mailbox_receives_in_order_with_sender_and_correlation_id() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a, node.open_mailbox("b", group="g") as b:
        cid = CorrelationId(a.pid, 1, 2)
        await a.send(b.pid, Number(1), cid)
        a.send_nowait(b.pid, Number(2))
        first, second = await b.receive(), await b.receive()
        assert (first.to, first.sender, first.message, first.correlation_id) == (b.pid, a.pid, Number(1), cid)
        assert (second.message, second.correlation_id) == (Number(2), None)
        assert str(b.pid) == f"g::b::{node.id}"
        assert "b::" in repr(b)
        with pytest.raises(trio.WouldBlock):
            b.receive_nowait()


async def test_sending_and_receiving_are_checkpoints() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        with assert_checkpoints():
            await node.send(a.pid, Number(1))
        with assert_checkpoints():
            await a.receive()
        with assert_checkpoints():
            await a.ask(node.pid("executor", "rabble"), GetMetrics())


async def test_trio_code_waits_for_room_and_is_let_in_first_come_first_served() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a", size=2) as a:
        received: list[int] = []

        async def sender(n: int) -> None:
            await node.send(a.pid, Number(n))

        async with trio.open_nursery() as nursery:
            for n in range(2):
                await node.send(a.pid, Number(n))
            for n in range(2, 7):
                nursery.start_soon(sender, n)
                await wait_all_tasks_blocked()
            assert a.statistics().waiting == 2
            assert a.statistics().senders_waiting == 5
            assert a.statistics().capacity == 2
            with pytest.raises(trio.WouldBlock):
                node.send_nowait(a.pid, Number(99))
            received = [(await a.receive()).message.n for _ in range(7)]
        assert received == [0, 1, 2, 3, 4, 5, 6]


async def test_nobody_takes_the_place_that_was_made_for_a_waiting_sender() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a", size=1) as a, trio.open_nursery() as nursery:
        await node.send(a.pid, Number(1))
        nursery.start_soon(node.send, a.pid, Number(2))
        await wait_all_tasks_blocked()
        assert a.receive_nowait().message == Number(1)
        # No task has run since, and yet the place is taken by the one that waited.
        with pytest.raises(trio.WouldBlock):
            node.send_nowait(a.pid, Number(3))
        assert a.receive_nowait().message == Number(2)


async def test_a_cancelled_sender_has_not_sent() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a", size=1) as a:
        await node.send(a.pid, Number(1))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.send, a.pid, Number(2))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert a.statistics().senders_waiting == 0
        assert a.receive_nowait().message == Number(1)
        with pytest.raises(trio.WouldBlock):
            a.receive_nowait()


async def test_a_cancelled_receiver_takes_nothing() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        with trio.CancelScope() as scope:
            scope.cancel()
            await a.receive()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.receive)
                await wait_all_tasks_blocked()
                scope.cancel()
        await node.send(a.pid, Number(1))
        assert (await a.receive()).message == Number(1)


async def test_senders_that_wait_learn_that_the_mailbox_closed() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        failures: list[ActorDown] = []

        async def sender() -> None:
            with pytest.raises(ActorDown) as caught:
                await node.send(node.pid("a"), Number(2))
            failures.append(caught.value)

        async with node.open_mailbox("a", size=1) as a:
            await node.send(a.pid, Number(1))
            nursery.start_soon(sender)
            nursery.start_soon(sender)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert [(error.pid, error.reason) for error in failures] == [(a.pid, "finished")] * 2
        # What nobody received is a dead letter; what was never sent is none.
        assert node.executor_status().dead_letters == {"ended": 1}


async def test_a_receiver_learns_that_its_mailbox_closed() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        received: list[Any] = []

        async def reader() -> None:
            received.extend([envelope.message async for envelope in a])

        async with node.open_mailbox("a") as a:
            await node.send(a.pid, Number(1))
            nursery.start_soon(reader)
            await wait_all_tasks_blocked()
        # The block of the nursery ends only because the reader does.
        await wait_all_tasks_blocked()
        assert received == [Number(1)]
        with pytest.raises(trio.ClosedResourceError):
            a.monitor(node.pid("x"))


async def test_only_one_task_may_receive() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a, trio.open_nursery() as nursery:
        nursery.start_soon(a.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await a.receive()
        await node.send(a.pid, Number(1))


async def test_names_are_taken_once_and_free_again() -> None:
    async with open_node(NODE) as node:
        async with node.open_mailbox("a"):
            with pytest.raises(NameInUse, match="a::n1@"):
                async with node.open_mailbox("a"):
                    pytest.fail("the name was taken")
            async with node.open_mailbox("a", group="g"):
                pass
        async with node.open_mailbox("a"):
            pass
        for taken in ("executor", "cluster_server", "supervisor", "ask"):
            with pytest.raises(NameInUse):
                async with node.open_mailbox(taken, group="rabble"):
                    pytest.fail("the name was taken")


async def test_a_mailbox_of_no_size_only_sends() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a", size=0) as a, node.open_mailbox("b") as b:
        await a.send(b.pid, Number(1))
        for send in (node.send, node.ask):
            with pytest.raises(ActorDown, match="accepts no messages"):
                await send(a.pid, Number(1))
        with pytest.raises(ActorDown, match="accepts no messages"):
            node.send_nowait(a.pid, Number(1))
        with pytest.raises(ValueError, match="0 or more, not -1"):
            async with node.open_mailbox("c", size=-1):
                pytest.fail("no such size")


async def test_what_is_no_message_is_refused_here_already() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        for send in (node.send, node.ask, a.send, a.ask):
            with pytest.raises(NotAMessage, match="dict is not a message"):
                await send(a.pid, {})
        for send_nowait in (node.send_nowait, a.send_nowait):
            with pytest.raises(NotAMessage):
                send_nowait(a.pid, {})
        assert a.statistics().waiting == 0


async def test_sending_to_who_does_not_run_is_an_error_at_once() -> None:
    async with open_node(NODE) as node:
        nobody = node.pid("nobody")
        for send in (node.send, node.ask):
            with pytest.raises(ActorDown, match="not running"):
                await send(nobody, Number(1))
        with pytest.raises(ActorDown):
            node.send_nowait(nobody, Number(1))


async def test_a_closed_node_opens_no_mailbox() -> None:
    async with open_node(NODE) as node:
        pass
    with pytest.raises(NodeClosed):
        async with node.open_mailbox("a"):
            pytest.fail("the node is closed")


async def test_a_mailbox_monitors_once_until_it_no_longer_wants_to() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        async with node.open_mailbox("b") as b:
            a.monitor(b.pid)
            a.monitor(b.pid)
        down = await a.receive()
        assert down.message == Down(b.pid, "finished")
        assert down.sender == Pid("executor", node.id, "rabble")
        async with node.open_mailbox("b") as b:
            a.monitor(b.pid)
            a.demonitor(b.pid)
        with pytest.raises(trio.WouldBlock):
            a.receive_nowait()
        # Runtime messages come even into a mailbox that is full: there is one per monitor.
        async with node.open_mailbox("tiny", size=1) as tiny:
            await node.send(tiny.pid, Number(1))
            tiny.monitor(b.pid)
            assert [tiny.receive_nowait().message for _ in range(2)] == [Number(1), Down(b.pid, "not running")]


SENDERS = st.lists(st.integers(0, 3), max_size=40)


@given(SENDERS, st.integers(1, 4), st.lists(st.booleans(), max_size=80))
async def test_whatever_the_schedule_each_sender_keeps_its_order_and_nothing_is_lost(
    senders: list[int], size: int, schedule: list[bool]
) -> None:
    # Each sender sends its numbers one after the other; the schedule says when somebody receives in between.
    async with open_node(NODE) as node, node.open_mailbox("a", size=size) as a:
        received: list[tuple[int, int]] = []

        async def sender(number: int, count: int) -> None:
            for n in range(count):
                await node.send(a.pid, Number(number * 1000 + n))
                assert a.statistics().waiting <= size

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(sender, number, senders.count(number))
            for receives in schedule:
                if receives and a.statistics().waiting:
                    received.append(divmod((await a.receive()).message.n, 1000))
                else:
                    await trio.lowlevel.checkpoint()
            while len(received) < len(senders):
                received.append(divmod((await a.receive()).message.n, 1000))
        for number in range(4):
            assert [n for who, n in received if who == number] == list(range(senders.count(number)))
