"""Clusters of real nodes, over a network in memory and under virtual time, unless a test says otherwise."""

from __future__ import annotations

import gc
import itertools
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from rabble_trio import (
    ActorDown,
    ClusterStatus,
    ConnectionClosed,
    Down,
    EncodeError,
    GetClusterStatus,
    GetExecutorStatus,
    GetMetrics,
    InsecureAddress,
    JoinFailed,
    LinkStatus,
    MembershipError,
    MonitorNodes,
    Node,
    NodeClosed,
    NodeDown,
    NodeId,
    NodeUp,
    Pid,
    Process,
    RecordError,
    message,
    open_node,
)
from rabble_trio._handshake import CloseCode
from rabble_trio._members import Gossip
from rabble_trio._orset import ORSet
from rabble_trio.testing import open_cluster

Clock = trio.testing.MockClock
SECRET = b"0123456789abcdef"


@message(tag="test.cluster.say")
class Say:
    text: str
    data: bytes = b""


class Echo(Process):
    """Answers, unless told otherwise."""

    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        match message:
            case Say(text="die"):
                raise ValueError("it was told to die")
            case Say(text="silence"):
                pass
            case Say(text="huge"):
                output.send(sender, Say("", b"x" * 2**20), correlation_id)
            case Say():
                output.send(sender, message, correlation_id)


class Watcher(Process):
    """Watches nodes."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def init(self, pid: Any, output: Any) -> None:
        output.monitor_nodes()

    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        self.heard.append(message)
        if message == Say("enough"):
            output.demonitor_nodes()


async def converge(nodes: Sequence[Node], *groups: set[int]) -> None:
    """Wait until each group of nodes, given by places, is a cluster with all its links, and nothing else."""
    with trio.fail_after(20):
        for group in groups:
            ids = {nodes[place].id for place in group}
            for place in group:
                node = nodes[place]
                while not set(node.members) == ids == {node.id, *node.cluster_status().established}:  # noqa: ASYNC110
                    await trio.sleep(0.01)


# Joining and leaving --------------------------------------------------------------------------------------------------


async def test_the_life_of_a_cluster(autojump_clock: Clock) -> None:
    # The sequence of Rabble's own test of joins and leaves. Over sockets it is in test_cluster_sockets.py.
    async with open_cluster(3, join=False) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.01)
        nodes = one, two, three = list(cluster)
        assert one.members == (one.id,)
        await one.join(two.id)
        assert set(one.members) == {one.id, two.id}
        assert one.cluster_status().established == (two.id,)
        await converge(nodes, {0, 1})
        await one.join(str(three.id))
        await converge(nodes, {0, 1, 2})
        await one.leave(two.id)
        await converge(nodes, {0, 2}, {1})
        await one.leave(one.id)
        await converge(nodes, {0}, {1}, {2})
        await two.join(three.id)  # who left may come back
        await one.join(two.id)
        await converge(nodes, {0, 1, 2})


async def test_two_clusters_become_one_and_a_join_that_is_done_is_done_at_once(autojump_clock: Clock) -> None:
    async with open_cluster(4, join=False) as cluster:
        nodes = list(cluster)
        await nodes[0].join(nodes[1].id)
        await nodes[2].join(nodes[3].id)
        await nodes[1].join(nodes[3].id)
        assert len(nodes[1].members) == 4
        await cluster.settled()
        await nodes[0].join(nodes[3].id)
        await cluster.settled()


async def test_nodes_that_join_each_other_at_once_keep_one_link(autojump_clock: Clock) -> None:
    async with open_cluster(2, join=False) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster[1].join, cluster[2].id)
            nursery.start_soon(cluster[2].join, cluster[1].id)
        await trio.sleep(10)
        for node in cluster:
            assert len(node.cluster_status().established) == 1
            assert node.cluster_status().connections == 1


async def test_a_node_that_cannot_be_reached_is_tried_until_the_caller_gives_up(
    autojump_clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_cluster(1) as cluster:
        nobody = NodeId("n2", "n2:5000")
        with trio.move_on_after(60) as scope:
            await cluster[1].join(nobody)
        assert scope.cancelled_caught
        assert caplog.text.count("Connection refused") == 1  # said once, tried often
        tried = cluster[1]._cluster.metrics().counters["dials_failed"]
        assert 10 < tried < 40
        await trio.sleep(60)
        assert cluster[1]._cluster.metrics().counters["dials_failed"] == tried  # it is wanted no longer
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster[1].join, nobody)
                await trio.sleep(3)
                await cluster.start(2)
        await cluster.settled()


async def test_joins_that_cannot_be(autojump_clock: Clock) -> None:
    async with open_cluster(1) as cluster:
        await cluster.start(2, secret=b"another secret..")
        await cluster.start(3, cluster="other")
        for number, reason in ((2, "don't have the same cluster secret"), (3, "'other'")):
            for one, other in ((1, number), (number, 1)):
                with pytest.raises(JoinFailed, match=reason) as caught:
                    await cluster[one].join(cluster[other].id)
                assert caught.value.node == cluster[other].id
                assert reason in caught.value.reason
        with pytest.raises(JoinFailed, match="same name"):
            await cluster[1].join(cluster[1].id)
        with pytest.raises(JoinFailed, match="expected n9@n2:5000, but n2@n2:5000 answered"):
            await cluster[1].join("n9@n2:5000")
        with pytest.raises(MembershipError, match="no member"):
            await cluster[1].leave(cluster[2].id)
        await trio.sleep(30)
        assert all(len(node.members) == 1 and not node.cluster_status().connections for node in cluster)


async def test_a_node_that_is_closed_joins_nobody(autojump_clock: Clock) -> None:
    async with open_cluster(1) as cluster, trio.open_nursery() as nursery:
        node = cluster[1]

        async def join() -> None:
            with pytest.raises(NodeClosed):
                await node.join("n2@n2:5000")

        nursery.start_soon(join)
        await trio.sleep(1)
        await cluster.stop(1)
        for action in (node.join, node.leave):
            with pytest.raises(NodeClosed):
                await action(node.id)


async def test_leaving_while_others_are_away(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        one, two, three = cluster
        cluster.partition(3)
        await trio.sleep(10)
        await one.leave(three.id)
        assert three.id not in one.members
        assert len(three.members) == 3  # it has not heard of it
        cluster.heal()
        await converge([one, two, three], {0, 1}, {2})
        await trio.sleep(30)
        assert three.cluster_status().connections == 0


async def test_leaving_by_oneself_tells_the_others_before_it_returns(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.1)
        two = cluster[2]
        await cluster[1].leave()
        await cluster.stop(1)
        await converge([two, cluster[3]], {0, 1})


# Links that come and go -----------------------------------------------------------------------------------------------


async def test_a_partition_is_noticed_and_healed(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        one, two, _three = cluster
        watcher = Watcher()
        await one.spawn("watcher", lambda: watcher)
        async with one.open_mailbox("m") as mailbox:
            assert {event.node.name for event in watcher.heard} == {"n2", "n3"}
            watcher.heard.clear()
            mailbox.monitor(await two.spawn("echo", Echo))
            cluster.partition(2)
            with trio.fail_after(7):  # the heartbeats' limit is 5 seconds
                envelope = await mailbox.receive()
            assert envelope.message == Down(two.pid("echo"), "node lost")
            await trio.testing.wait_all_tasks_blocked()
            assert [type(event) for event in watcher.heard] == [NodeDown]
            assert "no sign of life" in watcher.heard[0].reason
            assert len(one.members) == 3  # unreachable is not removed
            with pytest.raises(ActorDown, match="no link"):
                await mailbox.send(two.pid("echo"), Say("hello?"))
            mailbox.monitor(two.pid("echo"))
            assert (await mailbox.receive()).message == Down(two.pid("echo"), "node lost")
            await trio.sleep(60)
            cluster.heal()
            with trio.fail_after(10):
                await cluster.settled()
            assert watcher.heard[1:] == [NodeUp(two.id)]
            assert await mailbox.ask(two.pid("echo"), Say("hello?")) == Say("hello?")
            assert one.cluster_status().links[0].reconnects == 1


async def test_a_partition_in_one_direction_is_one_in_both(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        cluster.partition(2, one_way=True)
        with trio.fail_after(20):
            while any(  # noqa: ASYNC110
                cluster[2].id in node.cluster_status().established or node.id in cluster[2].cluster_status().established
                for node in (cluster[1], cluster[3])
            ):
                await trio.sleep(0.1)
        await trio.sleep(60)
        assert cluster[2].cluster_status().established == ()
        assert cluster[1].cluster_status().established == (cluster[3].id,)
        cluster.heal()
        with trio.fail_after(15):
            await cluster.settled()


async def test_a_slow_link_stays(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.3, bandwidth=300_000)
        echo = await cluster[2].spawn("echo", Echo)
        blob = Say("big", b"x" * 300_000)
        assert await cluster[1].ask(echo, blob) == blob
        assert [link.reconnects for link in cluster[1].cluster_status().links] == [0]
        await trio.sleep(10)
        assert cluster[1].cluster_status().links[0].round_trip == pytest.approx(0.6, abs=0.01)


async def test_a_message_that_takes_longer_than_the_heartbeat_limit_arrives(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        cluster.network.set_path("n1", "n2", bandwidth=100_000)
        echo = await cluster[2].spawn("echo", Echo)
        blob = Say("big", b"x" * 900_000)
        started = trio.current_time()
        assert await cluster[1].ask(echo, blob) == blob
        assert trio.current_time() - started > 15
        assert [link.reconnects for link in cluster[1].cluster_status().links] == [0]


async def test_a_peer_that_stutters_is_cut_off(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async with open_cluster(2) as cluster:
        await trio.sleep(10)
        cluster.network.set_path("n1", "n2", bandwidth=10_000)
        async with cluster[2].open_mailbox("in") as inbox:
            await cluster[1].send(inbox.pid, Say("big", b"x" * 900_000))
            await trio.sleep(25)
            assert cluster[2].cluster_status().established == (cluster[1].id,)
            await trio.sleep(10)
            assert "n1@n1:5000 sent no whole message for 30" in caplog.text
            cluster.network.set_path("n1", "n2", bandwidth=1e6)
            await cluster.settled()


async def test_two_hundred_cuts_leave_nothing_behind(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        rng = random.Random(1)
        await trio.sleep(30)

        def everything() -> tuple[int, int]:
            gc.collect()
            return trio.lowlevel.current_statistics().tasks_living, sum(
                type(thing).__name__ in {"LinkTask", "Link", "_MemoryWire", "_Pipe"} for thing in gc.get_objects()
            )

        before = everything()
        for _ in range(200):
            cluster.network.cut(rng.choice(["n1", "n2", "n3"]), rng.choice(["n1", "n2", "n3"]))
            await trio.sleep(rng.uniform(0, 0.3))
        await cluster.settled()
        await trio.sleep(30)
        tasks, objects = everything()
        assert tasks == before[0]
        assert objects < 2 * before[1]  # the last error may keep the last link alive, but not those before it
        assert cluster[1]._cluster.metrics().counters["links_lost"] > 20


async def test_a_node_that_crashes_and_comes_back_is_another_incarnation(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        one, old = cluster[1], cluster[2].id
        watcher = Watcher()
        await one.spawn("watcher", lambda: watcher)
        await trio.testing.wait_all_tasks_blocked()
        watcher.heard.clear()
        await cluster.crash(2)
        await cluster.start(2)
        await cluster.settled()  # nobody joined: it is a member, and the others find it
        assert [type(event) for event in watcher.heard] == [NodeDown, NodeUp]
        assert cluster[2].id == old


async def test_watchers_of_nodes_may_stop_to_watch(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        watcher = Watcher()
        pid = await cluster[1].spawn("watcher", lambda: watcher)
        short_lived = await cluster[1].spawn("short", Watcher)
        await cluster[1].stop(short_lived)
        await cluster[1].send(pid, Say("enough"))
        await cluster.crash(2)
        await trio.sleep(10)
        assert watcher.heard == [NodeUp(NodeId("n2", "n2:5000")), Say("enough")]
        cluster_server = cluster[1].pid("cluster_server", "rabble")
        await cluster[1].send(cluster_server, MonitorNodes())  # nobody who could be told
        assert cluster[1].executor_status().dead_letters["not accepted"] == 1


# Envelopes ------------------------------------------------------------------------------------------------------------


async def test_asks_end(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        echo = await two.spawn("echo", Echo, restart="temporary")
        assert await one.ask(echo, Say("hi")) == Say("hi")
        with pytest.raises(ActorDown, match="not running"):
            await one.ask(two.pid("nobody"), Say("hi"))
        with trio.move_on_after(1) as scope:
            await one.ask(echo, Say("silence"))
        assert scope.cancelled_caught
        with pytest.raises(ActorDown, match="crashed: ValueError: it was told to die"):
            await one.ask(echo, Say("die"))
        async with two.open_mailbox("deaf", size=0) as deaf:
            with pytest.raises(ActorDown, match="not accepted"):
                await one.ask(deaf.pid, Say("hi"))
        async with two.open_mailbox("full", size=1) as full:
            await one.send(full.pid, Say("first"))
            with pytest.raises(ActorDown, match="mailbox full"):
                await one.ask(full.pid, Say("second"))
        for pid, question, kind in (
            (two.pid("cluster_server", "rabble"), GetClusterStatus(), ClusterStatus),
            (two.pid("executor", "rabble"), GetExecutorStatus(), object),
            (two.pid("cluster_server", "rabble"), GetMetrics(), object),
        ):
            assert isinstance(await one.ask(pid, question), kind)
        assert one.statistics().asks_pending == 0


async def test_asks_end_with_their_node(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        echo = await cluster[2].spawn("echo", Echo)
        errors: list[str] = []

        async def ask() -> None:
            with pytest.raises(ActorDown) as caught:
                await cluster[1].ask(echo, Say("silence"))
            errors.append(caught.value.reason)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(1)
            await cluster.crash(2)
        assert errors == ["node lost"] * 3


async def test_the_same_ask_number_of_another_incarnation_is_answered_too_late(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.5)
        one, two = cluster
        async with two.open_mailbox("m") as mailbox:
            with trio.move_on_after(2):
                await one.ask(mailbox.pid, Say("who?"))
            question = await mailbox.receive()
            await cluster.crash(1)
            one = await cluster.start(1)
            await cluster.settled()
            with trio.move_on_after(2) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.ask, mailbox.pid, Say("and you?"))
                    await mailbox.receive()
                    await mailbox.send(question.sender, Say("wrong"), question.correlation_id)
            assert scope.cancelled_caught
            assert one.executor_status().dead_letters["late reply"] == 1


async def test_monitors_across_nodes(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        echo = await two.spawn("echo", Echo)
        async with one.open_mailbox("a") as a, one.open_mailbox("b") as b:
            for mailbox in (a, b):
                mailbox.monitor(echo)
                mailbox.monitor(two.pid("executor", "rabble"))  # lives as long as its node
            a.monitor(two.pid("nobody"))
            assert (await a.receive()).message == Down(two.pid("nobody"), "not running")
            await trio.sleep(1)
            watched = two._executor.actors[echo].watchers
            assert watched == {one.pid("executor", "rabble")}  # once for both
            b.demonitor(echo)
            await trio.sleep(1)
            assert watched
            await two.stop(echo)
            assert (await a.receive()).message == Down(echo, "stopped")
            await trio.sleep(1)
            for mailbox in (a, b):
                with pytest.raises(trio.WouldBlock):
                    mailbox.receive_nowait()


async def test_nobody_is_left_watching(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        echo = await two.spawn("echo", Echo)
        watched = two._executor.actors[echo].watchers
        async with one.open_mailbox("a") as a:
            a.monitor(echo)
            await trio.sleep(1)
            assert watched
        await trio.sleep(1)
        assert not watched  # its watcher ended
        async with one.open_mailbox("b") as b:
            b.monitor(echo)
            await trio.sleep(1)
            assert watched
            cluster.network.cut()
            await trio.sleep(0.01)
            assert not watched  # its watcher's node was lost
            assert (await b.receive()).message == Down(echo, "node lost")


async def test_order_holds_and_nothing_comes_twice_while_links_are_cut(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        rng = random.Random(2)
        async with two.open_mailbox("in", size=100_000) as inbox, one.open_mailbox("out") as out:

            async def cut() -> None:
                while True:
                    await trio.sleep(rng.uniform(0.05, 0.5))
                    cluster.network.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut)
                cluster.network.set_path("n1", "n2", delay=0.01)
                for number in range(1000):
                    with suppress(ActorDown):
                        await out.send(inbox.pid, Say(str(number)))
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            await trio.sleep(10)
            numbers = []
            while True:
                try:
                    numbers.append(int(inbox.receive_nowait().message.text))
                except trio.WouldBlock:
                    break
        assert numbers == sorted(set(numbers))
        assert 100 < len(numbers) < 1000


async def test_who_sends_too_much_waits_and_processes_do_not(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        cluster.network.set_path("n1", "n2", bandwidth=2e6)
        async with two.open_mailbox("in", size=100) as inbox, one.open_mailbox("out") as out:
            blob = Say("", b"x" * 500_000)
            started = trio.current_time()
            for _ in range(60):  # 30 MB, of which 16 MiB fit into the queue
                await out.send(inbox.pid, blob)
            assert 5 < trio.current_time() - started < 15
            with pytest.raises(trio.WouldBlock):
                out.send_nowait(inbox.pid, blob)
            one._executor.route(inbox.pid, out.pid, blob, None)
            assert one.executor_status().dead_letters == {"link queue full": 1}
            while inbox.statistics().waiting < 60:  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_senders_that_wait_for_room_learn_that_the_link_is_lost(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        cluster.partition(2)
        sent = 0
        with pytest.raises(ActorDown, match="no link"):
            while True:
                await cluster[1].send(Pid("in", NodeId("n2", "n2:5000")), Say("", b"x" * 500_000))
                sent += 1
        assert sent > 30
        assert cluster[1].executor_status().dead_letters["no link"] > 30


async def test_what_is_too_large_is_refused_where_it_is_sent(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cluster(2) as cluster:
        one, two = cluster
        echo = await two.spawn("echo", Echo)
        with pytest.raises(EncodeError, match="send it in chunks"):
            await one.send(echo, Say("", b"x" * 2**20))
        with pytest.raises(ActorDown, match="its reply was not sent: not encodable"):
            await one.ask(echo, Say("huge"))
        assert two.executor_status().dead_letters == {"not encodable": 1}
        assert "send it in chunks" in caplog.text
        assert await one.ask(echo, Say("still there?")) == Say("still there?")


async def test_a_clean_end_delivers_what_waits_and_says_so(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        cluster.network.set_path("n1", "n2", bandwidth=1e6)
        async with cluster[2].open_mailbox("in", size=1000) as inbox:
            for number in range(5):
                await cluster[1].send(inbox.pid, Say(str(number), b"x" * 100_000))
            await cluster.stop(1)
            await trio.sleep(1)
            assert [inbox.receive_nowait().message.text for _ in range(5)] == list("01234")
            cluster[2]._executor.route(Pid("x", NodeId("n1", "n1:5000")), inbox.pid, Say("late"), None)
            assert cluster[2].executor_status().dead_letters == {"no link": 1}


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happened_a_network_that_is_well_again_is_one_cluster(
    autojump_clock: Clock, tmp_path: Path, seed: int
) -> None:
    async with open_cluster(4, seed=seed, data_dir=tmp_path) as cluster:
        rng = random.Random(seed)
        tasks = trio.lowlevel.current_statistics().tasks_living
        down: set[int] = set()
        for one, other in itertools.combinations("1234", 2):
            cluster.network.set_path(f"n{one}", f"n{other}", delay=rng.uniform(0, 0.2), loss=rng.choice([0, 0.001]))
        for _ in range(100):
            number = rng.randint(1, 4)
            match rng.choice(["cut", "partition", "one way", "heal", "crash", "start"]):
                case "cut":
                    cluster.network.cut(f"n{number}")
                case "partition":
                    cluster.partition(number)
                case "one way":
                    cluster.partition(number, one_way=True)
                case "heal":
                    cluster.heal()
                case "crash" if number not in down:
                    await cluster.crash(number)
                    down.add(number)
                case "start" if number in down:
                    await cluster.start(number)
                    down.discard(number)
            await trio.sleep(rng.expovariate(0.5))
        cluster.heal()
        for number in down:
            await cluster.start(number)
        with trio.fail_after(60):
            await cluster.settled()
        await trio.sleep(30)
        assert [node.cluster_status().connections for node in cluster] == [3] * 4
        assert trio.lowlevel.current_statistics().tasks_living == tasks


# Records --------------------------------------------------------------------------------------------------------------


async def test_a_restarted_node_finds_its_cluster_by_its_record(autojump_clock: Clock, tmp_path: Path) -> None:
    async with open_cluster(3, data_dir=tmp_path) as cluster:
        assert (tmp_path / "n1" / "cluster.record").stat().st_mode & 0o777 == 0o600
        for number in (1, 2, 3):  # so that nobody is left who could find the others
            await cluster.crash(number)
        for number in (1, 2, 3):
            await cluster.start(number)
        await cluster.settled()
        assert len(cluster[1].members) == 3
        await cluster.stop(3)
        await cluster[1].leave(NodeId("n3", "n3:5000"))
        await cluster.start(3)  # it hears of it
        await converge(list(cluster), {0, 1}, {2})
        await cluster.stop(3)
        await cluster.start(3)
        await trio.sleep(30)
        await converge(list(cluster), {0, 1}, {2})


async def test_records_that_are_of_no_use(autojump_clock: Clock, tmp_path: Path) -> None:
    async with open_node("n1@127.0.0.1:0", data_dir=tmp_path):
        pass
    file = tmp_path / "cluster.record"
    sound = file.read_bytes()
    for damaged, reason in (
        (b"", "no record of a cluster"),
        (b"something else" * 10, "no record of a cluster"),
        (sound[:-1], "checksum is wrong"),
        (sound[:-1] + bytes([sound[-1] ^ 1]), "checksum is wrong"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(RecordError, match=reason):
            async with open_node("n1@127.0.0.1:0", data_dir=tmp_path):
                pass
        assert file.read_bytes() == damaged
    file.write_bytes(sound)
    with pytest.raises(RecordError, match="each node has its own data directory"):
        async with open_node("n2@127.0.0.1:0", data_dir=tmp_path):
            pass
    with pytest.raises(RecordError, match="of the cluster 'rabble', not 'other'"):
        async with open_node("n1@127.0.0.1:0", data_dir=tmp_path, cluster="other"):
            pass
    file.unlink()
    file.mkdir()
    with pytest.raises(RecordError, match="can't read"):
        async with open_node("n1@127.0.0.1:0", data_dir=tmp_path):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="can't"):
        async with open_node("n1@127.0.0.1:0", data_dir=tmp_path / "file"):
            pass


# Who does not keep to the protocol: more of them in test_link_attacks.py and test_cluster_sockets.py ------------------


async def test_who_says_nothing_is_closed_in_time(autojump_clock: Clock) -> None:
    async with open_cluster(2) as cluster:
        async with cluster.network.transport("mallory").dial(cluster[1].id) as wire:
            started = trio.current_time()
            with pytest.raises(ConnectionClosed, match="no handshake within 5 s") as caught:
                await wire.receive()
        assert caught.value.code == CloseCode.TIMEOUT
        assert trio.current_time() - started == pytest.approx(5)
        assert cluster[1].cluster_status().connections == 1


async def test_a_member_that_lies_about_others_is_cut_off_and_others_are_not(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cluster(3) as cluster:
        one, two, three = cluster
        liar = two._cluster
        forged = Gossip(ORSet[NodeId]().add((three.id.name, 1), one.id)[1])  # "n3 added n1"
        liar._send_membership(liar._links[one.id], forged)
        await trio.sleep(1)
        await cluster.settled()  # it is a member still, and gets another chance
        assert [link.reconnects for link in one.cluster_status().links] == [1, 0]
        assert f"{one.id}: lost the link to {two.id}: {two.id} says that n3 added something else" in caplog.text
        assert f"{two.id}: lost the link to {one.id}: the peer closed the link" in caplog.text


# Status and safety ----------------------------------------------------------------------------------------------------


async def test_the_status_tells_about_links(autojump_clock: Clock) -> None:
    async with open_cluster(3) as cluster:
        cluster.network.set_path("n1", "n2", delay=0.1)
        await trio.sleep(10)
        status = await cluster[1].ask(cluster[1].pid("cluster_server", "rabble"), GetClusterStatus())
        assert status == cluster[1].cluster_status()
        assert status.node == cluster[1].id
        assert [link.node.name for link in status.links] == ["n2", "n3"]
        link = status.links[0]
        assert isinstance(link, LinkStatus)
        assert link.round_trip == pytest.approx(0.2, abs=0.01)
        assert link.bytes_sent > 0
        assert link.bytes_received > 0
        metrics = await cluster[1].ask(cluster[1].pid("cluster_server", "rabble"), GetMetrics())
        assert metrics.gauges["members"] == 3
        assert metrics.gauges["links"] == 2
        assert metrics.counters["links_established"] == 2


@pytest.mark.parametrize("security", [{}, {"secret": SECRET}])
async def test_a_node_is_not_open_to_the_world_unasked(autojump_clock: Clock, security: dict[str, Any]) -> None:
    with pytest.raises(InsecureAddress, match="cluster_tls"):
        async with open_node("n1@0.0.0.0:0", **security):
            pass


async def test_a_bad_secret(autojump_clock: Clock) -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        async with open_node("n1@127.0.0.1:0", secret=b"short"):
            pass


async def test_the_log_tells_of_joins_and_losses(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rabble_trio.cluster")
    async with open_cluster(2) as cluster:
        assert "n1@n1:5000: n2@n2:5000 is a member now" in caplog.text
        cluster.partition(2)
        await trio.sleep(10)
        assert "n1@n1:5000: lost the link to n2@n2:5000: no sign of life" in caplog.text
