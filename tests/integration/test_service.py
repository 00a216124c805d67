"""Client, server and replicas together: every operation, every error, and nothing lost or done twice when things break."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest
import trio

import haret
from haret import protocol
from haret.vr import messages as vr
from rabble_trio import InvalidId, ListenFailed, Pid, decode_batch, encode, encode_batch, open_websocket_client
from rabble_trio._websocket import serve_websockets  # a server that answers what a test wants

World = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # crashes on purpose are logged with tracebacks


# ------------------------------------------------------------------------------------------------- operations


async def test_every_operation(world: World) -> None:
    async with world() as w, w.client() as c:
        created = await c.create("/dir/blob", "blob")
        put = await c.blob_put("/dir/blob", b"x" * 5)
        assert put.version == put.op > created.version
        assert (await c.blob_get("/dir/blob")).value == b"xxxxx"
        assert (await c.blob_size("/dir/blob")).value == 5

        await c.create("/queue", "queue")
        for element in (b"1", b"2", b"3"):
            await c.queue_push("/queue", element)
        assert (await c.queue_front("/queue")).value == b"1"
        assert (await c.queue_back("/queue")).value == b"3"
        assert (await c.queue_pop("/queue")).value == b"1"
        assert (await c.queue_len("/queue")).value == 2

        for path, elements in (("/s", (b"a", b"b")), ("/t", (b"b", b"c"))):
            await c.create(path, "set")
            for element in elements:
                assert (await c.set_insert(path, element)).value is True
        assert (await c.set_insert("/s", b"a")).value is False
        assert (await c.set_contains("/s", b"a")).value is True
        assert (await c.set_union("/s", "/t", literals=[[b"d"]])).value == {b"a", b"b", b"c", b"d"}
        assert (await c.set_intersection("/s", "/t")).value == {b"b"}
        assert (await c.set_difference("/s", {b"b"})).value == {b"a"}
        assert (await c.set_symmetric_difference("/s", "/t")).value == {b"a", b"c"}
        assert (await c.set_subset({b"a"}, "/s")).value is True
        assert (await c.set_superset({b"a"}, "/s")).value is False
        assert (await c.set_remove("/s", b"a")).value is True

        page = await c.list_keys("/", limit=3)
        assert [key.path for key in page.value] == ["/", "/dir", "/dir/blob"]
        assert page.more
        page = await c.list_keys("/", after=page.value[-1].path)
        assert [(key.path, key.type) for key in page.value] == [("/queue", "queue"), ("/s", "set"), ("/t", "set")]
        assert not page.more

        done = await c.multi_cas(
            guards=[("/dir/blob", put.version)],
            operations=[haret.BlobPut("/dir/blob", b"y"), haret.QueuePop("/queue")],
        )
        assert [one.value for one in done.value] == [None, b"2"]
        with pytest.raises(haret.CasFailed) as caught:
            await c.multi_cas(guards=[("/dir/blob", put.version)], operations=[haret.BlobPut("/dir/blob", b"z")])
        assert (caught.value.expected, caught.value.actual) == (put.version, done.version)
        await c.delete("/dir")
        with pytest.raises(haret.DoesNotExist):
            await c.blob_get("/dir/blob")


async def test_every_read_leaves_no_trace_in_the_log_and_may_be_stale(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/b", "blob")
        await c.create("/q", "queue")
        await c.create("/s", "set")
        last = await c.set_insert("/s", b"x")
        for stale in (False, True):
            found = [
                (await c.blob_get("/b", stale=stale)).value,
                (await c.blob_size("/b", stale=stale)).value,
                (await c.queue_front("/q", stale=stale)).value,
                (await c.queue_back("/q", stale=stale)).value,
                (await c.queue_len("/q", stale=stale)).value,
                (await c.set_contains("/s", b"x", stale=stale)).value,
                (await c.set_union("/s", stale=stale)).value,
                (await c.set_intersection("/s", "/s", stale=stale)).value,
                (await c.set_difference("/s", "/s", stale=stale)).value,
                (await c.set_symmetric_difference("/s", "/s", stale=stale)).value,
                (await c.set_subset("/s", "/s", stale=stale)).value,
                (await c.set_superset("/s", "/s", stale=stale)).value,
            ]
            assert found == [b"", 0, None, None, 0, True, {b"x"}, {b"x"}, set(), set(), True, True]
            listed = await c.list_keys("/", stale=stale)
            assert [key.path for key in listed.value] == ["/", "/b", "/q", "/s"]
            assert listed.op == last.op
        with pytest.raises(haret.DoesNotExist):
            await c.blob_get("/no", stale=True)
        with pytest.raises(ValueError, match="BlobPut can change the tree"):
            await c.execute(haret.BlobPut("/b", b""), stale=True)
        primary = await w.admin.primary("demo")
        assert (await w.admin.replica(primary)).op == last.op


async def test_the_largest_value_and_one_byte_more(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/blob", "blob")
        await c.blob_put("/blob", bytes(512 * 1024))
        assert (await c.blob_size("/blob")).value == 512 * 1024
        assert len((await c.blob_get("/blob")).value) == 512 * 1024
        with pytest.raises(haret.LimitExceeded):
            await c.blob_put("/blob", bytes(512 * 1024 + 1))


async def test_more_results_than_a_connection_may_have_waiting(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/blob", "blob")
        await c.blob_put("/blob", bytes(512 * 1024))
        sizes = []

        async def get() -> None:
            sizes.append(len((await c.blob_get("/blob")).value))

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(get)
        assert sizes == [512 * 1024] * 40
        assert c.statistics().connections == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.create("a", "blob"), haret.InvalidPath),
        (lambda c: c.create("/a//b", "blob"), haret.InvalidPath),
        (lambda c: c.create("/a", "tree"), haret.InvalidType),
        (lambda c: c.create("/blob", "blob"), haret.AlreadyExists),
        (lambda c: c.create("/blob/x", "blob"), haret.PathMustEndInDirectory),
        (lambda c: c.queue_push("/blob", b""), haret.WrongType),
        (lambda c: c.delete("/"), haret.CannotDeleteRoot),
        (lambda c: c.multi_cas(operations=[haret.BlobPut("/no", b"")]), haret.DoesNotExist),
        (lambda c: c.blob_get("/\udcff"), haret.InvalidPath),  # has no UTF-8
        (lambda c: c.blob_put("/blob", bytes(5_000_000)), haret.LimitExceeded),  # more than a frame
        (lambda c: c.multi_cas(operations=[haret.BlobPut("/blob", bytes(500_000))] * 4), haret.LimitExceeded),
        (lambda c: c.blob_put("/blob", "text"), TypeError),
        (lambda c: c.blob_put(7, b""), TypeError),
    ],
)
async def test_errors(world: World, call: Any, error: type[Exception]) -> None:
    async with world() as w, w.client() as c:
        await c.create("/blob", "blob")
        with pytest.raises(error):
            await call(c)
        assert (await c.blob_get("/blob")).value == b""


async def test_calls_of_many_tasks_share_frames(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/q", "queue")
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(c.queue_push, "/q", b"%d" % number)
        assert (await c.queue_len("/q")).value == 200
        metrics = await w.admin.metrics(w.server.node.pid("api", "haret"))
        assert metrics.counters["messages"] >= 200
        assert metrics.counters["frames"] < 50


# --------------------------------------------------------------------------------------------- when things break


class Load:
    """Pushes unique elements as fast as it can, and knows which were acknowledged."""

    def __init__(self, client: haret.Client, tasks: int = 20) -> None:
        self.client = client
        self.tasks = tasks
        self.acknowledged: dict[bytes, int] = {}  # element: op
        self.tried: set[bytes] = set()
        self._stop = False
        self._goal = 0
        self._reached = trio.Event()

    async def run(self, until: Callable[[], Any]) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(self.tasks):
                nursery.start_soon(self._push, task)
            await until()
            self._stop = True

    async def _push(self, task: int) -> None:
        number = 0
        while not self._stop:
            element = b"%d:%d" % (task, number)
            number += 1
            self.tried.add(element)
            try:
                reply = await self.client.queue_push("/q", element)
            except haret.SessionExpired:
                continue  # it may be there or not
            self.acknowledged[element] = reply.op
            if len(self.acknowledged) >= self._goal:
                self._reached.set()

    async def until_more(self, count: int) -> None:
        self._goal = len(self.acknowledged) + count
        self._reached = trio.Event()
        await self._reached.wait()

    async def check(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and the order is that of the commit numbers."""
        found: list[bytes] = []
        while (element := (await self.client.queue_pop("/q")).value) is not None:
            found.append(element)
        assert len(found) == len(set(found))
        assert set(self.acknowledged) <= set(found) <= self.tried
        known = [self.acknowledged[element] for element in found if element in self.acknowledged]
        assert known == sorted(known)


async def test_primaries_that_crash_under_load(world: World) -> None:
    async with world(replicas=5) as w, w.client() as c:
        await c.create("/q", "queue")
        load = Load(c)

        async def crash_twice() -> None:
            for _ in range(2):
                await load.until_more(200)
                await w.crash_primary()
            await load.until_more(200)

        await load.run(crash_twice)
        await load.check()
        assert len(set(w.crashed)) == 2
        assert c.statistics().sessions == 1
        states = [await w.admin.replica(pid) for pid in w.namespace.replicas if pid not in w.crashed]
        newest = max(state.commit for state in states)
        assert len({state.digest for state in states if state.commit == newest}) == 1


async def test_a_backup_that_crashes_is_hardly_noticed(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/q", "queue")
        load = Load(c)

        async def crash_a_backup() -> None:
            await load.until_more(100)
            await w.admin.crash(w.namespace.replicas[2])
            await load.until_more(100)

        await load.run(crash_a_backup)
        await load.check()
        while (state := await w.admin.replica(w.namespace.replicas[2])).status != "normal":  # noqa: ASYNC110
            await trio.sleep(0.02)
        assert state.commit > 100


async def test_connections_that_break_under_load(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/q", "queue")
        load = Load(c)

        async def break_connections() -> None:
            for _ in range(3):
                await load.until_more(100)
                w.server.node.kill(w.server.node.pid("api", "haret"))
            await load.until_more(100)

        await load.run(break_connections)
        await load.check()
        statistics = c.statistics()
        assert statistics.connections >= 3
        assert statistics.sessions == 1


async def test_the_namespace_manager_may_crash(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/q", "queue")
        node, manager = w.server.node, w.server.node.pid("namespaces", "haret")
        async with node.open_mailbox("watcher") as watcher:
            watcher.monitor(manager)
            node.kill(manager)
            await watcher.receive()
        with trio.fail_after(10):
            while manager not in node.executor_status().services:  # it is started again after a moment
                await trio.lowlevel.checkpoint()
        await w.crash_primary()
        await c.queue_push("/q", b"x")
        assert (await c.queue_len("/q")).value == 1


async def test_calls_that_are_cancelled_leave_no_trace_in_the_client(world: World) -> None:
    async with world() as w, w.client() as c:
        await c.create("/q", "queue")
        load = Load(c)

        async def cancel_many() -> None:
            for number in range(100):
                element = b"cancelled:%d" % number
                load.tried.add(element)
                with trio.move_on_after(number / 20_000):
                    await c.queue_push("/q", element)
            await w.crash_primary()
            await load.until_more(10)

        await load.run(cancel_many)
        await load.check()
        assert c.statistics().waiting == 0


async def test_an_expired_session_is_said_and_followed_by_a_new_one(world: World) -> None:
    async with world() as w, w.client() as c:
        opened = await c.create("/q", "queue")
        session = opened.op - 1  # the operation before the first one of this client
        await w.server.node.ask(w.namespace.primary, vr.CloseSession(session))
        with pytest.raises(haret.SessionExpired) as caught:
            await c.queue_push("/q", b"x")
        assert caught.value.session == session
        await c.queue_push("/q", b"y")
        assert c.statistics().sessions == 2


async def test_a_client_that_ends_closes_its_session(world: World) -> None:
    async with world() as w:
        async with w.client() as c:
            await c.create("/q", "queue")
            assert (await w.admin.replica(w.namespace.primary)).sessions == 1
        while (await w.admin.replica(w.namespace.primary)).sessions:
            await trio.lowlevel.checkpoint()


# --------------------------------------------------------------------------------------- when nothing helps


async def test_without_a_majority_a_call_gives_up_and_says_why(world: World) -> None:
    async with world() as w, w.client(give_up_after=0.3) as c:
        await c.create("/q", "queue")
        for pid in w.namespace.replicas[:2]:
            await w.server.node.stop(pid)
        with pytest.raises(haret.Unavailable) as caught:
            await c.queue_push("/q", b"x")
        assert caught.value.ambiguous
        ((endpoint, answer),) = caught.value.tried
        assert endpoint == w.server.api_address
        assert "no primary" in answer
        assert await w.admin.primary("demo") is None


async def test_nobody_there() -> None:
    async with haret.open_client(["127.0.0.1:1"], "demo", give_up_after=0.2) as c:
        with pytest.raises(haret.Unavailable, match="refused") as caught:
            await c.blob_get("/a")
        assert not caught.value.ambiguous
        assert not c.statistics().waiting
    with pytest.raises(haret.Unavailable, match="refused"):
        await haret.list_namespaces("127.0.0.1:1")
    with pytest.raises(haret.Unavailable, match="refused"):
        async with haret.open_admin("127.0.0.1:1"):
            pytest.fail("nobody is there")


async def test_a_caller_may_be_less_patient(world: World) -> None:
    async with haret.open_client(["127.0.0.1:1"], "demo") as c:
        with trio.move_on_after(0.05) as scope:
            await c.blob_get("/a")
        assert scope.cancelled_caught
        assert c.statistics().waiting == 0


async def test_an_unknown_namespace_is_said_at_once_and_may_come_to_be(world: World) -> None:
    async with world() as w, haret.open_client(w.server.api_address, "later") as c:
        with pytest.raises(haret.UnknownNamespace):
            await c.create("/a", "blob")
        await w.admin.create_namespace("later", [f"r{n}::{w.server.node.id}" for n in (1, 2, 3)])
        await c.create("/a", "blob")
        assert await haret.list_namespaces([w.server.api_address]) == ("demo", "later")


async def test_a_client_may_be_there_before_the_server(config: haret.ServerConfig) -> None:
    async with haret.open_server(config) as server:
        address = server.api_address
    async with haret.open_client(address, "demo") as c, trio.open_nursery() as nursery:

        async def write() -> None:
            created = False
            while not created:
                with suppress(haret.UnknownNamespace):  # the server is there before its namespace
                    await c.create("/a", "blob")
                    created = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(write)
        later = haret.ServerConfig("n1", "127.0.0.1:0", "127.0.0.1:0", address, timeouts=config.timeouts)
        async with haret.open_server(later) as server, haret.open_admin(server.admin_address) as admin:
            await admin.create_namespace("demo", [f"r{n}::{server.node.id}" for n in (1, 2, 3)])
            await trio.sleep_forever()


@pytest.mark.parametrize("patience", [0, -1, float("nan")])
async def test_what_is_no_patience(patience: float) -> None:
    with pytest.raises(haret.ConfigError, match="give_up_after"):
        async with haret.open_client("127.0.0.1:1", "demo", give_up_after=patience):
            pytest.fail("it was taken for a time")


@pytest.mark.parametrize("endpoints", [[], "nowhere", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999"])
async def test_what_is_no_endpoint(endpoints: Any) -> None:
    with pytest.raises(haret.ConfigError):
        async with haret.open_client(endpoints, "demo"):
            pytest.fail("it was taken for an endpoint")


@pytest.mark.parametrize("name", ["", "x" * 129, "\udcff", "ü", None])
async def test_what_is_no_name_of_a_namespace(name: Any) -> None:
    with pytest.raises(haret.ConfigError, match="namespace"):
        async with haret.open_client("127.0.0.1:1", name):
            pytest.fail("it was taken for a name")


async def test_a_closed_client_answers_so(world: World) -> None:
    async with world() as w, w.client() as c:
        pass
    with pytest.raises(haret.Unavailable, match="closed"):
        await c.blob_get("/a")


async def test_the_users_own_errors_leave_as_they_are(world: World) -> None:
    async with world() as w:
        with pytest.raises(KeyError):
            async with w.client():
                raise KeyError("mine")
        with pytest.raises(KeyError):
            async with haret.open_admin(w.server.admin_address):
                raise KeyError("mine")
        with trio.CancelScope() as scope:
            async with w.client() as c:
                scope.cancel()
                await c.create("/a", "blob")
        assert scope.cancelled_caught


# ------------------------------------------------------------------------------------------- other servers


async def talk(stream: Any, *answers: Any) -> None:
    """Answer every frame with the next of these."""
    for answer in answers:
        decode_batch(await stream.receive())
        await stream.send(encode_batch(answer))
    await stream.receive()


async def test_a_redirect_is_followed(world: World) -> None:
    async with world() as w, trio.open_nursery() as nursery:
        redirect = (protocol.Welcome(w.server.node.id), protocol.Redirect(w.server.api_address))
        other = await nursery.start(
            lambda task_status: serve_websockets(
                lambda stream: talk(stream, redirect), "127.0.0.1", 0, subprotocol=protocol.API, task_status=task_status
            )
        )
        async with haret.open_client(other.address, "demo") as c:
            await c.create("/a", "blob")
            assert c.statistics().redirects == 1
            assert c.statistics().endpoint == w.server.api_address
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        (protocol.Refused("this server speaks version 7"),),
        (protocol.Done(),),
    ],
)
async def test_servers_that_do_not_speak_our_language(answer: Any) -> None:
    async with trio.open_nursery() as nursery:
        for subprotocol in (protocol.API, protocol.ADMIN):
            other = await nursery.start(
                lambda task_status, subprotocol=subprotocol: serve_websockets(
                    lambda stream: talk(stream, answer),
                    "127.0.0.1",
                    0,
                    subprotocol=subprotocol,
                    task_status=task_status,
                )
            )
            words = "version 7|Done"
            if subprotocol == protocol.API:
                async with haret.open_client(other.address, "demo", give_up_after=0.2) as c:
                    with pytest.raises(haret.Unavailable, match=words):
                        await c.create("/a", "blob")
                with pytest.raises(haret.Unavailable, match=words):
                    await haret.list_namespaces(other.address)
            else:
                with pytest.raises(haret.Unavailable, match=words):
                    async with haret.open_admin(other.address):
                        pytest.fail("it was taken for an admin port")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("result", [b"\xc1", encode(protocol.Done())])
async def test_results_that_can_not_be_read(result: bytes) -> None:
    answers = (
        (protocol.Welcome(Pid.parse("a::b@c:1").node), protocol.Entered(1)),
        (protocol.Result(1, 1, 0, 0, result),),
    )
    async with trio.open_nursery() as nursery:
        other = await nursery.start(
            lambda task_status: serve_websockets(
                lambda stream: talk(stream, *answers), "127.0.0.1", 0, subprotocol=protocol.API, task_status=task_status
            )
        )
        async with haret.open_client(other.address, "demo") as c:
            with pytest.raises(haret.Unavailable, match=r"can't be read|no result") as caught:
                await c.create("/a", "blob")
            assert caught.value.ambiguous
        nursery.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------- admin


async def test_the_admin_port(world: World) -> None:
    async with world() as w:
        node, admin, primary = w.server.node.id, w.admin, w.namespace.primary
        assert (await admin.config()).node == node
        assert [one.name for one in await admin.namespaces()] == ["demo"]
        assert await admin.primary("demo") == primary
        state = await admin.replica(str(primary))
        assert (state.status, state.primary) == ("normal", primary)
        assert (await admin.cluster_status()).members == (node,)
        assert primary in (await admin.executor_status()).processes
        assert (await admin.metrics(primary)).gauges["view"] == 0
        assert (await admin.metrics(Pid("executor", node, "rabble"))).gauges


async def test_admin_errors(world: World) -> None:
    async with world() as w:
        node, admin = w.server.node.id, w.admin
        trio_of_pids = [f"r{n}::{node}" for n in (1, 2, 3)]
        with pytest.raises(haret.NamespaceExists):
            await admin.create_namespace("demo", trio_of_pids)
        with pytest.raises(haret.NotEnoughReplicas):
            await admin.create_namespace("x", trio_of_pids[:2])
        with pytest.raises(haret.BadRequest, match="not a member"):
            await admin.create_namespace("x", ["r1::n2@127.0.0.1:1", *trio_of_pids])
        with pytest.raises(InvalidId):
            await admin.create_namespace("x", ["nonsense"])
        with pytest.raises(haret.UnknownNamespace):
            await admin.primary("no")
        for name in ("\udcff", "x" * 2_000_000):  # no UTF-8, and more than a frame
            with pytest.raises(haret.BadRequest):
                await admin.primary(name)
        with pytest.raises(haret.UnknownActor):
            await admin.replica(f"demo::r9::{node}")
        with pytest.raises(haret.UnknownActor):
            await admin.crash(f"haret::api::{node}")
        with pytest.raises(haret.Unanswered, match="not running"):
            await admin.metrics(f"nobody::{node}")
        assert [one.name for one in await admin.namespaces()] == ["demo"]


async def test_a_lost_admin_connection(config: haret.ServerConfig) -> None:
    async with haret.open_server(config) as server, haret.open_admin(server.admin_address) as admin:
        await admin.config()
        await server.node.stop(server.node.pid("admin", "haret"))
        with pytest.raises(haret.Unavailable, match="lost"):
            await admin.config()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (protocol.Answer(1, protocol.Done()), "answered with Done"),
        (protocol.Refused("enough"), "enough"),
        (None, "expected a batch"),
    ],
)
async def test_admin_answers_that_make_no_sense(answer: Any, words: str) -> None:
    async def serve(stream: Any) -> None:
        await stream.receive()
        await stream.send(encode_batch([protocol.Welcome(Pid.parse("a::b@c:1").node)]))
        await stream.receive()
        await stream.send(b"\xc0" if answer is None else encode_batch([answer]))
        await stream.receive()

    async with trio.open_nursery() as nursery:
        other = await nursery.start(
            lambda task_status: serve_websockets(
                serve, "127.0.0.1", 0, subprotocol=protocol.ADMIN, task_status=task_status
            )
        )
        async with haret.open_admin(other.address) as admin:
            with pytest.raises(haret.Unavailable, match=words):
                await admin.config()
        nursery.cancel_scope.cancel()


async def test_an_admin_question_may_be_cancelled(world: World) -> None:
    async with world() as w, w.server.node.open_mailbox("mute") as mute:
        with trio.move_on_after(0.02) as scope:
            await w.admin.metrics(mute.pid)
        assert scope.cancelled_caught
        assert (await w.admin.config()).node == w.server.node.id


# --------------------------------------------------------------------------------------------------- server


async def test_a_port_that_is_taken(config: haret.ServerConfig) -> None:
    async with haret.open_server(config) as server:
        for key in ("cluster_host", "admin_host", "api_host"):
            hosts = {"cluster_host": "127.0.0.1:0", "admin_host": "127.0.0.1:0", "api_host": "127.0.0.1:0"}
            hosts[key] = server.api_address
            with pytest.raises(ListenFailed, match=server.api_address):
                async with haret.open_server(haret.ServerConfig("n2", **hosts)):
                    pytest.fail("the port is taken")


async def test_a_server_that_is_cancelled_leaves_nothing_behind(world: World) -> None:
    with trio.CancelScope() as scope:
        async with world() as w, w.client() as c:
            await c.create("/a", "blob")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    host, port = w.server.api_address.split(":")
    listeners = await trio.open_tcp_listeners(int(port), host=host)
    for listener in listeners:
        await listener.aclose()


async def test_the_ports_do_not_speak_each_others_protocol(world: World) -> None:
    async with world() as w:
        with pytest.raises(haret.Unavailable, match="subprotocol"):
            async with haret.open_admin(w.server.api_address):
                pytest.fail("this is no admin port")
        host, port = w.server.api_address.split(":")
        async with open_websocket_client(host, int(port), subprotocol=protocol.API) as connection:
            await connection.send(encode_batch([protocol.Hello(protocol.ADMIN, 1)]))
            (refused,) = decode_batch(await connection.receive())
            assert "haret-api" in refused.reason
