"""Supervisors: who is restarted, when and in which order; giving up; starting, stopping and what interrupts them."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rabble_trio import (
    ActorDown,
    ChildFailed,
    ChildSpec,
    CorrelationId,
    InvalidId,
    Mailbox,
    NameInUse,
    Node,
    NodeClosed,
    Outbox,
    Pid,
    Process,
    Service,
    Supervisor,
    message,
    open_node,
)

NODE = "n1@127.0.0.1:0"


@message
class Do:
    """A word that says what to do."""

    what: str


class World:
    """Makes children that write down their starts and ends."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken: set[str] = set()  # names whose factory raises

    def spec(self, name: str, restart: Any = "permanent", **options: Any) -> ChildSpec:
        return ChildSpec(name, lambda: self.child(name), restart, **options)

    def child(self, name: str) -> Process:
        if name in self.broken:
            self.log.append(f"!{name}")
            raise ValueError(f"{name} is broken")
        return Child(name, self.log)

    def take(self) -> str:
        words = " ".join(self.log)
        self.log.clear()
        return words


class Child(Process):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        log.append(f"+{name}")

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Do("crash"):
                raise ValueError(f"{self.name} crashed")
            case Do("finish"):
                output.stop()
            case Do():
                output.send(sender, Do(self.name), correlation_id)
            case _:
                self.log.append(f"-{self.name}")


class Fixed(random.Random):
    """Always the longest delay."""

    def random(self) -> float:
        return 1.0


@pytest.fixture
def world() -> World:
    return World()


@asynccontextmanager
async def tree(strategy: Any, *children: ChildSpec, **options: Any) -> AsyncIterator[Node]:
    async with open_node(NODE, supervisor=Supervisor(strategy, children, **options), rng=Fixed()) as node:
        yield node


async def tell(node: Node, *words: str) -> None:
    """Send "name:what" each, at once, so that all happens in the same turn."""
    for word in words:
        name, _, what = word.partition(":")
        node.send_nowait(node.pid(name), Do(what))
    await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        ("one_for_one", "+b"),
        ("one_for_all", "-d -c -a +a +b +c +d"),
        ("rest_for_one", "-d -c +b +c +d"),
    ],
)
async def test_the_strategy_says_who_is_restarted_in_which_order(world: World, strategy: str, log: str) -> None:
    async with tree(strategy, *(world.spec(name) for name in "abcd")) as node:
        assert world.take() == "+a +b +c +d"
        await tell(node, "b:crash")
        assert world.take() == log
        for name in "abcd":
            assert await node.ask(node.pid(name), Do("who")) == Do(name)
        assert node.metrics().counters["restarts"] == log.count("+")
    assert world.take() == "-d -c -b -a"


@pytest.mark.parametrize(
    ("restart", "how", "again"),
    [
        ("permanent", "crash", True),
        ("permanent", "finish", True),
        ("transient", "crash", True),
        ("transient", "finish", False),
        ("temporary", "crash", False),
        ("temporary", "finish", False),
    ],
)
async def test_the_restart_type_says_after_which_ends(world: World, restart: str, how: str, again: bool) -> None:
    async with tree("one_for_all", world.spec("a"), world.spec("b", restart)) as node:
        world.take()
        await tell(node, f"b:{how}")
        assert world.take() == ("-a +a +b" if again else "")
        if not again:  # it is gone, so its name is free
            await node.spawn("b", lambda: world.child("b"))
        else:
            with pytest.raises(NameInUse):
                await node.spawn("b", lambda: world.child("b"))


async def test_two_that_crash_at_once_are_one_failure_of_the_group(world: World) -> None:
    async with tree("one_for_all", *(world.spec(name) for name in "abc"), intensity=1) as node:
        world.take()
        await tell(node, "a:crash", "c:crash")
        assert world.take() == "-b +a +b +c"


async def test_a_temporary_sibling_is_stopped_with_the_group_and_not_restarted(world: World) -> None:
    async with tree("one_for_all", world.spec("a"), world.spec("b", "temporary"), world.spec("c", "transient")) as node:
        world.take()
        await tell(node, "a:crash")
        assert world.take() == "-c -b +a +c"
        await node.spawn("b", lambda: world.child("b"))


async def test_more_restarts_than_intensity_within_the_period_give_up(world: World, autojump_clock: MockClock) -> None:
    with pytest.raises(ChildFailed) as caught:
        async with tree("one_for_one", world.spec("a"), world.spec("b"), intensity=2, period=10, backoff=0) as node:
            b = node.pid("b")
            for _ in range(3):
                await tell(node, "b:crash")
            await trio.sleep_forever()
    assert (caught.value.child, caught.value.restarts, caught.value.period) == (b, 2, 10)
    assert isinstance(caught.value.__cause__, ValueError)
    assert world.take() == "+a +b +b +b -a"


async def test_restarts_that_are_older_than_the_period_do_not_count(world: World, autojump_clock: MockClock) -> None:
    async with tree("one_for_one", world.spec("a"), intensity=2, period=10, backoff=0) as node:
        for _ in range(20):
            await tell(node, "a:crash")
            await trio.sleep(5)
        assert node.metrics().counters["restarts"] == 20


async def test_no_restart_at_all_is_allowed_with_intensity_0(world: World) -> None:
    with pytest.raises(ChildFailed, match="restarted 0 times"):
        async with tree("one_for_one", world.spec("a"), intensity=0) as node:
            await tell(node, "a:crash")
            await trio.sleep_forever()


async def test_the_back_off_doubles_up_to_its_maximum_and_starts_anew(world: World, autojump_clock: MockClock) -> None:
    starts: list[float] = []

    class Crashing(Process):
        def init(self, pid: Pid, output: Outbox) -> None:
            starts.append(trio.current_time())
            output.start_timer(0)

        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            if len(starts) not in (8, 9):
                raise ValueError("again")
            output.start_timer(1000)  # longer than the period
            starts.append(trio.current_time())

    spec = ChildSpec("a", Crashing)
    async with tree("one_for_one", spec, intensity=100, period=60, backoff=0.5, max_backoff=4):
        await trio.sleep(500)
    delays = [round(b - a, 3) for a, b in pairwise(starts)]
    assert delays[:7] == [0, 0.5, 1, 2, 4, 4, 4]


async def test_a_thousand_restarts_within_a_period_are_no_arithmetic_error(autojump_clock: MockClock) -> None:
    starts = 0

    class Crashing(Process):
        def init(self, pid: Pid, output: Outbox) -> None:
            nonlocal starts
            starts += 1
            if starts <= 1500:
                output.start_timer(0)

        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
            if not isinstance(message, Do) and starts <= 1500:
                raise ValueError("again")

    spec = ChildSpec("a", Crashing)
    async with tree("one_for_one", spec, intensity=2000, period=1e9, backoff=1, max_backoff=2):
        await trio.sleep(10_000)
    assert starts == 1501


async def test_each_child_has_its_own_back_off(world: World, mock_clock: MockClock) -> None:
    async with tree("one_for_one", world.spec("a"), world.spec("b"), backoff=1) as node:
        world.take()
        await tell(node, "a:crash", "b:crash")
        first = world.take()  # comes at once, although the other one has to wait
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert {first, world.take()} == {"+a", "+b"}


async def test_an_earlier_sibling_that_fails_takes_along_those_that_wait(world: World, mock_clock: MockClock) -> None:
    async with tree("rest_for_one", *(world.spec(name) for name in "abc"), backoff=1) as node:
        await tell(node, "b:crash")
        world.take()
        await tell(node, "b:crash")
        assert world.take() == "-c"
        await tell(node, "a:crash")
        assert world.take() == ""
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert world.take() == ""  # b's time has come, but a must be there before it
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert world.take() == "+a +b +c"


async def test_a_factory_that_fails_at_a_restart_is_tried_again(world: World, autojump_clock: MockClock) -> None:
    async with tree("one_for_all", *(world.spec(name) for name in "abc")) as node:
        world.take()
        world.broken.add("b")
        await tell(node, "a:crash")
        assert world.take() == "-c -b +a !b -a"
        world.broken.clear()
        await trio.sleep(1)
        assert world.take() == "+a +b +c"


async def test_a_factory_that_fails_for_ever_ends_in_giving_up(world: World, autojump_clock: MockClock) -> None:
    with pytest.raises(ChildFailed, match="b::n1") as caught:
        async with tree("one_for_one", world.spec("a"), world.spec("b"), intensity=3) as node:
            world.broken.add("b")
            await tell(node, "b:crash")
            await trio.sleep_forever()
    assert str(caught.value.__cause__) == "b is broken"
    assert world.take() == "+a +b !b !b !b -a"


async def test_a_first_start_that_fails_stops_those_before_it_and_is_the_callers_error(world: World) -> None:
    world.broken.add("c")
    with pytest.raises(ValueError, match="c is broken"):
        async with tree("one_for_one", *(world.spec(name) for name in "abcd")):
            pytest.fail("it did not start")
    assert world.take() == "+a +b !c -b -a"


async def test_a_spawn_that_fails_leaves_nothing(world: World) -> None:
    async with open_node(NODE) as node:
        world.broken.add("a")
        for _ in range(10):  # more often than any intensity: a first start is no restart
            with pytest.raises(ValueError, match="a is broken"):
                await node.spawn("a", lambda: world.child("a"))
        with pytest.raises(TypeError, match="must make a Process, a Service or a Supervisor"):
            await node.spawn("a", lambda: "nonsense")  # type: ignore[arg-type, return-value]
        world.broken.clear()
        await node.spawn("a", lambda: world.child("a"))
        assert node._executor.owners.keys() == {node.pid("a")}


async def test_supervisors_under_supervisors(world: World, autojump_clock: MockClock) -> None:
    def inner() -> Supervisor:
        return Supervisor("one_for_all", [world.spec("x"), world.spec("y")], intensity=1, backoff=0)

    async with tree("one_for_one", world.spec("a"), ChildSpec("inner", inner)) as node:
        assert world.take() == "+a +x +y"
        await tell(node, "x:crash")
        assert world.take() == "-y +x +y"
        # Once more: the inner supervisor gives up, which is a crash like any other for the one above it.
        await tell(node, "x:crash")
        assert world.take() == "-y +x +y"
        assert await node.ask(node.pid("y"), Do("who")) == Do("y")
        # Killing a supervisor cancels its children; they come back with it.
        node.kill(node.pid("inner"))
        await trio.sleep(1)
        assert world.take() == "+x +y"
        z = await node.spawn("z", lambda: world.child("z"), supervisor=node.pid("inner"))
        assert world.take() == "+z"
        await node.stop(node.pid("inner"))
        assert world.take() == "-z -y -x"
        for gone in (z, node.pid("x"), node.pid("inner")):
            with pytest.raises(ActorDown):
                await node.stop(gone)
        with pytest.raises(ActorDown):
            await node.spawn("z", lambda: world.child("z"), supervisor=node.pid("inner"))
        with pytest.raises(ActorDown, match="no supervisor"):
            await node.spawn("z", lambda: world.child("z"), supervisor=node.pid("a"))
        assert node._executor.owners.keys() == {node.pid("a")}


async def test_giving_up_climbs_the_tree_one_exception_at_a_time(world: World, autojump_clock: MockClock) -> None:
    def level(*children: ChildSpec) -> Callable[[], Supervisor]:
        return lambda: Supervisor("one_for_one", children, intensity=0)

    outer = ChildSpec("outer", level(ChildSpec("inner", level(world.spec("x")))))
    with pytest.raises(ChildFailed, match="outer::n1") as caught:
        async with tree("one_for_one", outer, intensity=0) as node:
            await tell(node, "x:crash")
            await trio.sleep_forever()
    chain = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(type(error).__name__)
        error = error.__cause__
    assert chain == ["ChildFailed", "ChildFailed", "ChildFailed", "ValueError"]


# Starting and stopping ------------------------------------------------------------------------------------------------


class Slow(Service):
    """A service whose `init` waits until it may go on, and whose `run` ignores what it is asked."""

    def __init__(self, go: trio.Event, obeys: bool = True) -> None:
        self.go = go
        self.obeys = obeys

    async def init(self, mailbox: Mailbox) -> None:
        await self.go.wait()

    async def run(self, mailbox: Mailbox) -> None:
        async for _ in mailbox:
            pass
        if not self.obeys:
            await trio.sleep_forever()


def slow(go: trio.Event | None = None, obeys: bool = True) -> Callable[[], Slow]:
    if go is None:
        go = trio.Event()
        go.set()
    return lambda: Slow(go, obeys)


def assert_only_the_node_is_left(node: Node) -> None:
    assert node.statistics().actors == 1
    assert node._executor.owners == {}
    assert node._root._children == {}
    assert node._root._starting == {}
    assert node._root._to_restart == {}


async def test_an_actor_that_does_not_end_is_cancelled_at_its_deadline(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        for shutdown in (0, 3):
            pid = await node.spawn("s", slow(obeys=False), shutdown=shutdown)
            start = trio.current_time()
            await node.stop(pid)
            assert trio.current_time() - start == shutdown
        # Nobody waits for one that obeys.
        pid = await node.spawn("s", slow(), shutdown=math.inf)
        start = trio.current_time()
        await node.stop(pid)
        assert trio.current_time() == start
        assert_only_the_node_is_left(node)


async def test_at_the_end_each_child_has_its_deadline_one_after_the_other(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        for n in range(3):
            await node.spawn(f"s{n}", slow(obeys=False), shutdown=2)
        start = trio.current_time()
    assert trio.current_time() - start == 6


async def test_a_supervisor_gets_all_the_time_that_its_children_need(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        specs = [ChildSpec(f"s{n}", slow(obeys=False), shutdown=4) for n in range(2)]
        pid = await node.spawn("tree", lambda: Supervisor(children=specs), shutdown=1)
        start = trio.current_time()
        await node.stop(pid)
        assert trio.current_time() - start == 8
        assert_only_the_node_is_left(node)


async def test_one_that_starts_slowly_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    go = trio.Event()
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        nursery.start_soon(node.spawn, "slow", slow(go))
        await wait_all_tasks_blocked()
        pid = await node.spawn("quick", slow())
        with pytest.raises(NameInUse):
            await node.spawn("slow", slow())
        await node.stop(pid)
        go.set()
        await wait_all_tasks_blocked()
        await node.stop(node.pid("slow"))
        assert_only_the_node_is_left(node)


async def test_a_spawn_that_is_cancelled_has_started_nothing(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        with trio.move_on_after(5) as scope:
            await node.spawn("hangs", slow(trio.Event()), restart="permanent")
        assert scope.cancelled_caught
        assert_only_the_node_is_left(node)
        with trio.CancelScope() as scope:
            scope.cancel()
            await node.spawn("hangs", slow())
        assert_only_the_node_is_left(node)


async def test_a_spawn_that_is_cancelled_when_the_actor_is_ready_has_started_nothing() -> None:
    async with open_node(NODE) as node:
        scope = trio.CancelScope()

        class CancelsItsSpawner(Service):
            async def init(self, mailbox: Mailbox) -> None:
                await trio.lowlevel.checkpoint()
                scope.cancel()

            async def run(self, mailbox: Mailbox) -> None:
                async for _ in mailbox:
                    pass

        with scope:
            await node.spawn("s", CancelsItsSpawner, restart="permanent")
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert_only_the_node_is_left(node)


async def test_stopping_one_that_is_still_being_started(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:

        async def spawn() -> None:
            with pytest.raises(ActorDown, match="stopped before it was initialised"):
                await node.spawn("hangs", slow(trio.Event()))

        nursery.start_soon(spawn)
        await wait_all_tasks_blocked()
        await node.stop(node.pid("hangs"))
        await wait_all_tasks_blocked()
        assert_only_the_node_is_left(node)


async def test_killing_one_that_is_still_being_started() -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:

        async def spawn() -> None:
            with pytest.raises(Exception, match="by a test"):
                await node.spawn("hangs", slow(trio.Event()))

        nursery.start_soon(spawn)
        await wait_all_tasks_blocked()
        node.kill(node.pid("hangs"), "by a test")
        await wait_all_tasks_blocked()
        assert_only_the_node_is_left(node)


async def test_a_node_ends_although_a_spawn_hangs() -> None:
    failures: list[Exception] = []

    async def spawn() -> None:
        with pytest.raises(ActorDown) as caught:
            await node.spawn("hangs", slow(trio.Event()))
        failures.append(caught.value)

    async with trio.open_nursery() as nursery:
        async with open_node(NODE) as node:
            nursery.start_soon(spawn)
            await wait_all_tasks_blocked()
        assert len(failures) == 1
        with pytest.raises(NodeClosed):
            await node.spawn("late", slow())


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_a_restart_that_hangs_gives_way(world: World, autojump_clock: MockClock, end: str) -> None:
    events = [trio.Event(), trio.Event()]
    events[0].set()
    starts = iter(events)

    def factory() -> Service:
        return Slow(next(starts))

    async with open_node(NODE) as node:
        await node.spawn("hangs", factory)
        await node.spawn("other", lambda: world.child("other"))
        node.kill(node.pid("hangs"))
        await wait_all_tasks_blocked()
        if end == "stop":
            await node.stop(node.pid("hangs"))
            await node.stop(node.pid("other"))
            assert_only_the_node_is_left(node)
    assert world.take() == "+other -other"
    assert_only_the_node_is_left(node)


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_a_group_that_is_being_restarted_gives_way(world: World, end: str) -> None:
    go = trio.Event()
    starts = iter([slow()(), Slow(go)])
    specs = [ChildSpec("a", lambda: next(starts)), world.spec("b"), world.spec("c")]
    async with tree("one_for_all", *specs) as node:
        await tell(node, "b:crash")
        assert world.take() == "+b +c -c"
        if end == "stop":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.stop, node.pid("b"))
                await wait_all_tasks_blocked()
                go.set()
            assert world.take() == "+c"
    assert world.take() == ("-c" if end == "stop" else "")
    assert_only_the_node_is_left(node)


async def test_a_supervisor_that_stops_starts_nobody(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node, trio.open_nursery() as nursery:
        specs = [ChildSpec("s", slow(obeys=False), shutdown=10)]
        pid = await node.spawn("tree", lambda: Supervisor(children=specs))
        nursery.start_soon(node.stop, pid)
        await wait_all_tasks_blocked()
        with pytest.raises(ActorDown, match="it is stopping"):
            await node.spawn("late", slow(), supervisor=pid)


async def test_a_group_that_init_raises_arrives_whole() -> None:
    class Fails(Slow):
        async def init(self, mailbox: Mailbox) -> None:
            async with trio.open_nursery():
                raise ValueError("in a nursery")

    def factory() -> Service:
        return Fails(trio.Event())

    async with open_node(NODE) as node:
        with pytest.RaisesGroup(ValueError):
            await node.spawn("s", factory)
    with pytest.RaisesGroup(ValueError):
        async with tree("one_for_one", ChildSpec("tree", lambda: Supervisor(children=[ChildSpec("s", factory)]))):
            pytest.fail("it did not start")


async def test_one_that_waits_to_be_restarted_can_be_stopped(world: World, autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        await node.spawn("a", lambda: world.child("a"))
        await tell(node, "a:crash")
        await tell(node, "a:crash")
        assert node.statistics().actors == 1  # it waits
        for take in (node.spawn("a", lambda: world.child("a")), node.open_mailbox("a").__aenter__()):
            with pytest.raises(NameInUse):
                await take
        with pytest.raises(ActorDown, match="not running"):
            node.kill(node.pid("a"))
        await node.stop(node.pid("a"))
        assert_only_the_node_is_left(node)
        await trio.sleep(10)
        assert world.take() == "+a +a"
        with pytest.raises(ActorDown):
            await node.stop(node.pid("a"))


async def test_a_stop_that_is_cancelled_still_stops(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("s", slow(obeys=False), shutdown=10, restart="permanent")
        with trio.move_on_after(1) as scope:
            await node.stop(pid)
        assert scope.cancelled_caught
        await trio.sleep(10)
        assert_only_the_node_is_left(node)


async def test_several_may_stop_the_same_actor(autojump_clock: MockClock) -> None:
    async with open_node(NODE) as node:
        pid = await node.spawn("s", slow(obeys=False), shutdown=1, restart="permanent")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(node.stop, pid)
        assert_only_the_node_is_left(node)


async def test_a_crash_while_it_is_stopped_is_an_end_like_any_other() -> None:
    class CrashesAtShutdown(Service):
        async def run(self, mailbox: Mailbox) -> None:
            async for _ in mailbox:
                pass
            raise ValueError("at the worst moment")

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("s", CrashesAtShutdown, restart="permanent")
        a.monitor(pid)
        await node.stop(pid)
        assert (await a.receive()).message.reason == "crashed: ValueError: at the worst moment"
        assert node.metrics().counters["restarts"] == 0


async def test_what_belongs_to_nobody_can_not_be_stopped_or_killed() -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        for pid in (a.pid, node.pid("supervisor", "rabble")):
            with pytest.raises(ActorDown, match="belongs to the Trio code"):
                await node.stop(pid)
            with pytest.raises(ActorDown, match="belongs to the Trio code"):
                node.kill(pid)
        for pid, why in ((node.pid("b"), "not running"), (Pid.parse("b::n2@127.0.0.1:1"), "another node")):
            with pytest.raises(ActorDown, match=why):
                await node.stop(pid)


async def test_an_actor_may_spawn_and_stop_others_also_while_it_starts() -> None:
    class Parent(Service):
        async def init(self, mailbox: Mailbox) -> None:
            await node.spawn("child", slow())

        async def run(self, mailbox: Mailbox) -> None:
            await mailbox.receive()
            await node.stop(node.pid("child"))

    async with open_node(NODE) as node:
        pid = await node.spawn("parent", Parent)
        await node.send(pid, Do("go"))
        await wait_all_tasks_blocked()
        assert_only_the_node_is_left(node)


async def test_ten_thousand_actors_leave_nothing_behind() -> None:
    async with open_node(NODE) as node:
        for name in range(10_000):
            await node.spawn(f"a{name}", Quiet)
        assert node.statistics().processes == 10_000
        async with trio.open_nursery() as nursery:
            for name in range(0, 10_000, 2):
                nursery.start_soon(node.stop, node.pid(f"a{name}"))
        for name in range(1, 10_000, 2):
            node.send_nowait(node.pid(f"a{name}"), Do("finish"))
        await wait_all_tasks_blocked()
        assert_only_the_node_is_left(node)
        assert not node._root._ended
        assert not node._root._unwanted


class Quiet(Process):
    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        output.stop()


def test_what_can_not_be_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="strategy is one of one_for_one, one_for_all, rest_for_one"):
        Supervisor("all_for_one")  # type: ignore[arg-type]
    for options in ({"intensity": -1}, {"period": 0}, {"backoff": -1}, {"backoff": 2, "max_backoff": 1}):
        with pytest.raises(ValueError, match="intensity must be"):
            Supervisor(**options)  # type: ignore[arg-type]
    with pytest.raises(InvalidId):
        ChildSpec("a b", Quiet)
    with pytest.raises(InvalidId):
        ChildSpec("a", Quiet, group="g:")
    with pytest.raises(ValueError, match="restart is one of permanent, transient, temporary"):
        ChildSpec("a", Quiet, "sometimes")  # type: ignore[arg-type]
    for shutdown in (-1, math.nan):
        with pytest.raises(ValueError, match="shutdown is a number of seconds"):
            ChildSpec("a", Quiet, shutdown=shutdown)
    with pytest.raises(TypeError, match="must be callable"):
        ChildSpec("a", Quiet())  # type: ignore[arg-type]


async def test_a_mailbox_size_that_can_not_be() -> None:
    class Negative(Quiet):
        mailbox_size = -1

    async with open_node(NODE) as node:
        with pytest.raises(ValueError, match="mailbox_size of Negative must be 0 or more"):
            await node.spawn("a", Negative)


@pytest.mark.parametrize("restart", ["temporary", "transient"])
async def test_who_hears_that_an_actor_ended_may_use_its_name(restart: Any) -> None:
    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("s", Quiet, restart=restart)
        for _ in range(10):
            a.monitor(pid)
            await node.send(pid, Do("finish"))
            # This task may run before the supervisor hears of the end.
            await a.receive()
            await node.spawn("s", Quiet, restart=restart)


async def test_a_crash_is_logged_with_its_traceback_and_a_killing_in_one_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with tree("one_for_one", world.spec("a"), world.spec("b")) as node:
        await tell(node, "a:crash")
        node.kill(node.pid("b"), "an operator wished it")
        await wait_all_tasks_blocked()
    crashed, killed = [record for record in caplog.records if record.levelname == "ERROR"]
    assert crashed.getMessage() == f"{node.pid('a')} crashed"
    assert crashed.exc_info is not None
    assert killed.getMessage() == f"{node.pid('b')} was killed: an operator wished it"
    assert killed.exc_info is None
