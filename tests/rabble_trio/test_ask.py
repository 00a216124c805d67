"""`ask` ends in exactly one of three ways: the reply, `ActorDown`, or the caller's cancellation. Nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rabble_trio import (
    ActorDown,
    CorrelationId,
    ExecutorStatus,
    GetClusterStatus,
    GetExecutorStatus,
    GetMetrics,
    Node,
    Outbox,
    Pid,
    Process,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"


@message
class Do:
    """What the process does when it is asked, as words out of a small language."""

    what: str


@message
class Done:
    """The reply."""

    what: str


class Obedient(Process):
    """Does what it is told, word by word."""

    def __init__(self) -> None:
        self.kept: list[tuple[Pid, CorrelationId | None]] = []

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        if not isinstance(message, Do):
            return
        for word in message.what.split():
            match word:
                case "reply":
                    output.send(sender, Done(message.what), correlation_id)
                case "keep":
                    self.kept.append((sender, correlation_id))
                case "answer-kept":
                    for to, kept in self.kept:
                        output.send(to, Done("late"), kept)
                case "stop":
                    output.stop()
                case "crash":
                    raise ValueError("as told")
                case "reply-without-id":
                    output.send(sender, Done(message.what))
                case "reply-with-own-id":
                    output.send(sender, Done("wrong"), CorrelationId(output.pid, None, 1))


def assert_nothing_pending(node: Node) -> None:
    assert node.statistics().asks_pending == 0
    assert all(not actor.asks for actor in node._executor.actors.values())


async def test_the_reply() -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("p", Obedient)
        assert await node.ask(pid, Do("reply")) == Done("reply")
        assert_nothing_pending(node)


@pytest.mark.parametrize("what", ["reply stop", "reply reply stop"])
async def test_a_reply_counts_even_if_its_sender_is_gone_before_the_asker_runs(what: str) -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("p", Obedient)
        assert await node.ask(pid, Do(what)) == Done(what)
        await wait_all_tasks_blocked()
        assert_nothing_pending(node)
        # And the supervisor is well.
        assert await node.ask(await node.spawn("p", Obedient), Do("reply")) == Done("reply")


async def test_of_two_replies_the_first_counts_and_the_second_is_a_late_one() -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("p", Obedient)
        assert await node.ask(pid, Do("reply reply")) == Done("reply reply")
        assert node.executor_status().dead_letters == {"late reply": 1}


@pytest.mark.parametrize(
    ("what", "reason"), [("stop", "finished"), ("crash", "crashed: ValueError: as told"), ("keep", "stopped")]
)
async def test_an_actor_that_ends_before_it_replied(what: str, reason: str) -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        pid = await node.spawn("p", Obedient)

        async def ask() -> None:
            with pytest.raises(ActorDown) as caught:
                await node.ask(pid, Do(what))
            assert (caught.value.pid, caught.value.reason) == (pid, reason)

        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        if what == "keep":
            await node.stop(pid)
        await wait_all_tasks_blocked()
        assert_nothing_pending(node)


async def test_a_killed_actor() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        pid = await node.spawn("p", Obedient)

        async def ask() -> None:
            with pytest.raises(ActorDown, match="crashed: ActorKilled: by a test"):
                await node.ask(pid, Do("keep"))

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        node.kill(pid, "by a test")


async def test_who_gave_up_harms_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("p", Obedient)
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(5):
                await node.ask(pid, Do("keep"))
        assert_nothing_pending(node)
        assert await node.ask(pid, Do("answer-kept reply")) == Done("answer-kept reply")
        assert node.executor_status().dead_letters == {"late reply": 1}


async def test_replies_that_answer_nothing_are_counted_and_reach_nobody() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        pid = await node.spawn("p", Obedient)
        replies: list[Any] = []

        async def ask() -> None:
            replies.append(await node.ask(pid, Do("keep")))  # this node's ask number 1

        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await node.send(pid, Do("reply-without-id reply-with-own-id"))
        await wait_all_tasks_blocked()
        assert replies == []
        assert node.executor_status().dead_letters == {"no correlation id": 2}
        await node.send(pid, Do("answer-kept"))
        await wait_all_tasks_blocked()
        assert replies == [Done("late")]


async def test_an_ask_cancelled_while_it_waits_for_room_was_never_sent() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a", size=1) as a:
        await node.send(a.pid, Do("1"))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.ask, a.pid, Do("2"))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert_nothing_pending(node)
        assert a.receive_nowait().message == Do("1")
        assert a.statistics().waiting == 0


async def test_an_ask_that_waits_for_room_learns_that_the_actor_ended() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:

        async def ask(n: int) -> None:
            with pytest.raises(ActorDown, match="finished"):
                await node.ask(node.pid("a"), Do(str(n)))

        async with node.open_mailbox("a", size=1):
            for n in range(3):
                nursery.start_soon(ask, n)
            await wait_all_tasks_blocked()
            assert node.statistics().asks_pending == 3
        await wait_all_tasks_blocked()
        assert_nothing_pending(node)


async def test_the_end_right_after_room_was_made_is_not_missed() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        failures: list[ActorDown] = []

        async def ask() -> None:
            with pytest.raises(ActorDown) as caught:
                await node.ask(node.pid("a"), Do("2"))
            failures.append(caught.value)

        async with node.open_mailbox("a", size=1) as a:
            await node.send(a.pid, Do("1"))
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            a.receive_nowait()  # lets the ask in, and before its task runs the mailbox is closed
        await wait_all_tasks_blocked()
        assert len(failures) == 1
        assert_nothing_pending(node)


async def test_the_runtime_answers_and_refuses() -> None:
    async with open_node(NODE) as node:
        executor, cluster = node.pid("executor", "rabble"), node.pid("cluster_server", "rabble")
        status = await node.ask(executor, GetExecutorStatus())
        assert isinstance(status, ExecutorStatus)
        assert status == node.executor_status()
        assert (await node.ask(executor, GetMetrics())).counters["asks"] == 2
        assert (await node.ask(cluster, GetClusterStatus())).members == (node.id,)
        assert "members" in (await node.ask(cluster, GetMetrics())).gauges
        for pid in (executor, cluster):
            with pytest.raises(ActorDown, match="not accepted"):
                await node.ask(pid, Do("something"))
        assert_nothing_pending(node)


async def test_asking_another_node_without_a_link_says_so() -> None:
    async with open_node(NODE) as node:
        elsewhere = Pid.parse("p::n2@127.0.0.1:1")
        with pytest.raises(ActorDown, match="no link"):
            await node.ask(elsewhere, Do("reply"))
        assert node.executor_status().dead_letters == {"no link": 1}


async def test_many_asks_at_once_each_get_their_own_reply() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        pid = await node.spawn("p", Obedient)
        replies: dict[int, Any] = {}

        async def ask(n: int) -> None:
            replies[n] = await node.ask(pid, Do(f"reply {n}"))

        for n in range(500):
            nursery.start_soon(ask, n)
        await wait_all_tasks_blocked()
        assert replies == {n: Done(f"reply {n}") for n in range(500)}
        assert_nothing_pending(node)
