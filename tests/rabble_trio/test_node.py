"""`open_node`: what leaves its block, in which shape, and in which order all ends."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rabble_trio import (
    ActorDown,
    ChildFailed,
    ChildSpec,
    CorrelationId,
    InsecureAddress,
    InvalidId,
    Mailbox,
    MemoryJournal,
    NodeId,
    NodeStatistics,
    Outbox,
    Pid,
    Process,
    Shutdown,
    Supervisor,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"


@message
class Do:
    """A word that says what to do."""

    what: str


class Obedient(Process):
    def __init__(self, name: str = "", log: list[str] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Do("crash"):
                raise ValueError("as told")
            case Do("interrupt"):
                signal.raise_signal(signal.SIGINT)
            case Shutdown():
                self.log.append(self.name)


async def test_a_node_has_an_id_with_the_port_it_got() -> None:
    async with open_node(NODE) as node:
        assert node.id.name == "n1"
        assert node.id.host == "127.0.0.1"
        assert node.id.port > 0
        assert repr(node) == f"<Node {node.id}>"
        assert node.members == node.cluster_status().members == (node.id,)
        assert node.pid("a", "g") == Pid("a", node.id, "g")
        assert node.statistics() == NodeStatistics(
            actors=1, processes=0, messages_waiting=0, asks_pending=0, timers=0, dead_letters=0
        )
        stream = await trio.open_tcp_stream(node.id.host, node.id.port)
        await stream.aclose()


async def test_what_can_not_be_a_node() -> None:
    for bad in ("n1", "n1@127.0.0.1", "n 1@127.0.0.1:0"):
        with pytest.raises(InvalidId):
            async with open_node(bad):
                pytest.fail("no such node")
    for everywhere in ("n1@0.0.0.0:0", "n1@[::]:0", "n1@example.org:0"):
        with pytest.raises(InsecureAddress, match="use a loopback address"):
            async with open_node(everywhere):
                pytest.fail("not without being told")
    async with open_node(NodeId("n1", "0.0.0.0:0"), insecure=True) as node:
        assert node.id.host == "0.0.0.0"


async def test_actors_are_stopped_in_reverse_order_at_the_end_of_the_block() -> None:
    log: list[str] = []
    async with open_node(NODE) as node:
        for name in "abc":
            await node.spawn(name, lambda name=name: Obedient(name, log))  # type: ignore[misc]
    assert log == ["c", "b", "a"]
    with pytest.raises(ActorDown):
        await node.send(node.pid("a"), Do("x"))
    assert node.statistics().actors == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        ExceptionGroup("mine", [ValueError("one")]),
        StopAsyncIteration(),
        SystemExit(3),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_block_leaves_as_it_is_after_an_orderly_end(error: BaseException) -> None:
    log: list[str] = []
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        async with open_node(NODE) as node:
            await node.spawn("a", lambda: Obedient("a", log))
            raise error
    assert caught.value is error
    assert log == ["a"]


async def test_a_cancelled_block_cancels_its_actors() -> None:
    log: list[str] = []

    async def service(mailbox: Mailbox) -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    with trio.CancelScope() as scope:
        async with open_node(NODE) as node:
            await node.spawn("s", service, shutdown=1000)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["cancelled"]


async def test_a_deadline_around_the_node_also_holds_for_its_end(autojump_clock: MockClock) -> None:
    async def stubborn(mailbox: Mailbox) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        async with open_node(NODE) as node:
            await node.spawn("s", stubborn, shutdown=1000)
            start = trio.current_time()
    assert scope.cancelled_caught
    assert trio.current_time() - start == 5


async def test_giving_up_cancels_the_block_and_leaves_alone() -> None:
    cancelled = False
    with pytest.raises(ChildFailed) as caught:
        async with open_node(NODE, supervisor=Supervisor(children=[ChildSpec("a", Obedient)], intensity=0)) as node:
            await node.send(node.pid("a"), Do("crash"))
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled = True
                raise
    assert cancelled
    assert isinstance(caught.value.__cause__, ValueError)


async def test_an_error_of_the_block_goes_before_that_of_the_node_which_stays_visible() -> None:
    with pytest.raises(ActorDown) as caught:
        async with open_node(NODE, supervisor=Supervisor(children=[ChildSpec("a", Obedient)], intensity=0)) as node:
            try:
                await node.ask(node.pid("a"), Do("crash"))
            finally:
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()  # meanwhile the node gives up
    assert isinstance(caught.value.__context__, ChildFailed)


async def test_giving_up_at_the_very_end_is_not_lost() -> None:
    class CrashesAtShutdown(Process):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            raise ValueError("as told")

    # Not a failure that anybody would restart, so the node ends as if nothing was.
    async with open_node(NODE, supervisor=Supervisor(intensity=0)) as node:
        await node.spawn("a", CrashesAtShutdown, restart="permanent")


async def test_a_nursery_in_the_block_and_the_nodes_own_failure() -> None:
    with pytest.raises(ChildFailed):
        supervisor = Supervisor(children=[ChildSpec("a", Obedient)], intensity=0)
        async with open_node(NODE, supervisor=supervisor) as node, trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            await node.send(node.pid("a"), Do("crash"))


@pytest.mark.parametrize("where", ["block", "process"])
def test_ctrl_c_leaves_as_itself(where: str) -> None:
    log: list[str] = []

    async def main() -> None:
        async with open_node(NODE) as node:
            pid = await node.spawn("a", lambda: Obedient("a", log))
            if where == "process":
                await node.send(pid, Do("interrupt"))
            else:
                signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    # In the block it is an error like any other, and all end in order.
    assert log == (["a"] if where == "block" else [])


async def test_two_nodes_in_one_program_know_nothing_of_each_other() -> None:
    async with open_node("a@127.0.0.1:0") as a, open_node("b@127.0.0.1:0") as b:
        await a.spawn("p", Obedient)
        await b.spawn("p", Obedient)
        assert a.pid("p") != b.pid("p")
        await a.stop(a.pid("p"))
        assert b.statistics().processes == 1


async def test_a_journal_that_is_empty_is_still_the_journal_that_was_given() -> None:
    class Sized(MemoryJournal):
        def __len__(self) -> int:
            return 0

    journal = Sized()
    async with open_node(NODE, journal=journal) as node:
        assert node._executor.persistence.journal is journal


async def test_mailboxes_and_actors_left_open_elsewhere_learn_the_end() -> None:
    failures: list[BaseException] = []

    async def ask() -> None:
        try:
            await node.ask(pid, Do("nothing"))
        except ActorDown as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        async with open_node(NODE) as node:
            pid = await node.spawn("a", Obedient)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert len(failures) == 1
