"""Monitors: `Down` comes exactly once, with the reason, to the incarnation that asked for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rabble_trio import (
    CorrelationId,
    Demonitor,
    Down,
    Mailbox,
    Monitor,
    Node,
    Outbox,
    Pid,
    Process,
    Supervisor,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"


@message
class Do:
    """A word that says what to do."""

    what: str
    pid: Pid | None = None


class Watcher(Process):
    """Monitors whom it is told to, and writes down what it hears."""

    heard: list[Down]

    def __init__(self) -> None:
        self.heard = []

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Do("monitor", pid):
                assert pid is not None
                output.monitor(pid)
            case Do("demonitor", pid):
                assert pid is not None
                output.demonitor(pid)
            case Do("stop"):
                output.stop()
            case Do("crash"):
                raise ValueError("as told")
            case Down():
                self.heard.append(message)


def assert_no_monitors(node: Node) -> None:
    actors = node._executor.actors.values()
    assert [(actor.watchers, actor.monitoring) for actor in actors if actor.watchers or actor.monitoring] == []


async def ends_by(node: Node, pid: Pid, how: str) -> None:
    match how:
        case "stop":
            await node.stop(pid)
        case "kill":
            node.kill(pid)
        case word:
            await node.send(pid, Do({"finish": "stop", "crash": "crash"}[word]))
    await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("stop", "stopped"),
        ("finish", "finished"),
        ("crash", "crashed: ValueError: as told"),
        ("kill", "crashed: ActorKilled: killed"),
    ],
)
async def test_down_comes_once_and_says_why(how: str, reason: str) -> None:
    async with open_node(NODE) as node:
        watcher = Watcher()
        watcher_pid = await node.spawn("watcher", lambda: watcher)
        watched = await node.spawn("watched", Watcher, restart="temporary")
        for _ in range(3):  # three times counts as once
            await node.send(watcher_pid, Do("monitor", watched))
        await wait_all_tasks_blocked()
        await ends_by(node, watched, how)
        assert watcher.heard == [Down(watched, reason)]
        assert_no_monitors(node)


async def test_down_comes_after_the_last_message_of_the_one_that_ended() -> None:
    class Last(Process):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            output.stop()
            output.send(sender, Do("last words"))

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("last", Last)
        a.monitor(pid)
        await a.send(pid, Do("go"))
        assert (await a.receive()).message == Do("last words")
        assert (await a.receive()).message == Down(pid, "finished")


async def test_who_does_not_run_is_down_at_once_and_the_runtime_never() -> None:
    async with open_node(NODE) as node:
        watcher = Watcher()
        pid = await node.spawn("watcher", lambda: watcher)
        nobody, elsewhere = node.pid("nobody"), Pid.parse("p::n2@127.0.0.1:1")
        for other in (nobody, elsewhere, node.pid("executor", "rabble"), node.pid("cluster_server", "rabble")):
            await node.send(pid, Do("monitor", other))
        await wait_all_tasks_blocked()
        assert watcher.heard == [Down(nobody, "not running"), Down(elsewhere, "node lost")]


async def test_no_down_after_a_demonitor() -> None:
    async with open_node(NODE) as node:
        watcher = Watcher()
        pid = await node.spawn("watcher", lambda: watcher)
        watched = await node.spawn("watched", Watcher)
        await node.send(pid, Do("monitor", watched))
        await node.send(pid, Do("demonitor", watched))
        await node.send(pid, Do("demonitor", node.pid("nobody")))
        await node.stop(watched)
        await wait_all_tasks_blocked()
        assert watcher.heard == []
        assert_no_monitors(node)


@pytest.mark.parametrize("how", ["stop", "finish", "crash", "kill"])
async def test_a_watcher_that_ends_is_forgotten_by_those_it_watched(how: str) -> None:
    async with open_node(NODE) as node:
        watcher_pid = await node.spawn("watcher", Watcher, restart="temporary")
        watched = await node.spawn("watched", Watcher)
        await node.send(watcher_pid, Do("monitor", watched))
        await wait_all_tasks_blocked()
        await ends_by(node, watcher_pid, how)
        assert_no_monitors(node)
        await node.stop(watched)


async def test_a_restarted_watcher_hears_nothing_that_the_one_before_asked_for() -> None:
    made: list[Watcher] = []

    def factory() -> Watcher:
        made.append(Watcher())
        return made[-1]

    async with open_node(NODE) as node:
        pid = await node.spawn("watcher", factory)
        watched = await node.spawn("watched", Watcher)
        await node.send(pid, Do("monitor", watched))
        await node.send(pid, Do("crash"))
        await wait_all_tasks_blocked()
        await node.stop(watched)
        await wait_all_tasks_blocked()
        assert [watcher.heard for watcher in made] == [[], []]


async def test_a_monitor_ends_with_the_incarnation_that_it_watched() -> None:
    async with open_node(NODE) as node:
        watcher = Watcher()
        pid = await node.spawn("watcher", lambda: watcher)
        watched = await node.spawn("watched", Watcher)
        await node.send(pid, Do("monitor", watched))
        await node.send(watched, Do("crash"))
        await wait_all_tasks_blocked()
        assert len(watcher.heard) == 1
        await node.stop(watched)  # the restarted one, which nobody asked about
        await wait_all_tasks_blocked()
        assert len(watcher.heard) == 1


async def test_watching_oneself_and_each_other_is_harmless() -> None:
    async with open_node(NODE) as node:
        one, other = Watcher(), Watcher()
        pids = [await node.spawn("one", lambda: one), await node.spawn("other", lambda: other)]
        for pid in pids:
            for whom in pids:
                await node.send(pid, Do("monitor", whom))
        await wait_all_tasks_blocked()
        await node.stop(pids[0])
        await wait_all_tasks_blocked()
        assert (one.heard, other.heard) == ([], [Down(pids[0], "stopped")])
        await node.stop(pids[1])
        assert_no_monitors(node)


async def test_services_mailboxes_and_supervisors_are_watched_alike() -> None:
    async def service(mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            raise ValueError(envelope.message.what)

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("service", service, restart="temporary")
        tree = await node.spawn("tree", Supervisor)
        a.monitor(pid)
        a.monitor(tree)
        await node.send(pid, Do("of its own"))
        assert (await a.receive()).message == Down(pid, "crashed: ValueError: of its own")
        await node.stop(tree)
        assert (await a.receive()).message == Down(tree, "stopped")


async def test_the_reason_of_a_crash_is_short_and_never_fails() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def crash_with(error: Exception) -> Callable[[Mailbox], Any]:
        async def service(mailbox: Mailbox) -> None:
            await mailbox.receive()
            raise error

        return service

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        for error, start in ((Unspeakable(), "<Unspeakable"), (ValueError("x" * 10_000), "ValueError: xxx")):
            pid = await node.spawn("service", crash_with(error), restart="temporary")
            a.monitor(pid)
            await node.send(pid, Do("crash"))
            down = (await a.receive()).message
            assert down.reason.startswith(f"crashed: {start}")
            assert len(down.reason) <= 520
        assert node.metrics().counters["actors_ended_crashed"] == 2


async def test_a_mailbox_may_write_to_the_executor_itself() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        executor = node.pid("executor", "rabble")
        await a.send(executor, Monitor(node.pid("nobody")))
        assert (await a.receive()).message == Down(node.pid("nobody"), "not running")
        async with node.open_mailbox("b") as b:
            await a.send(executor, Monitor(b.pid))
            await a.send(executor, Demonitor(b.pid))
        with pytest.raises(trio.WouldBlock):
            a.receive_nowait()
        # Without an actor behind it, a monitor would have nobody to tell.
        await node.send(executor, Monitor(a.pid))
        assert node.executor_status().dead_letters == {"not accepted": 1}
