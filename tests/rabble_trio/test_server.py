"""The websocket service, over real sockets. What goes wrong must stay at its connection: an honest client proves it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from rabble_trio import (
    Connection,
    ConnectionClosed,
    ConnectionHandler,
    ConnectionOutput,
    CorrelationId,
    GetMetrics,
    ListenFailed,
    Node,
    Outbox,
    Pid,
    Process,
    RequestLimits,
    WebsocketService,
    decode_batch,
    encode,
    encode_batch,
    message,
    open_node,
    open_websocket_client,
)
from rabble_trio._frames import Tap


@message(tag="test.server.say")
class Say:
    text: str


@message(tag="test.server.ask")
class Question:
    text: str


@message(tag="test.server.big")
class Big:
    bytes: int


@message(tag="test.server.news")
class News:
    topic: str
    text: str


class Oracle(Process):
    """Answers a question with its text; "silence" not at all, "twice" two times."""

    def __init__(self) -> None:
        self.kept: list[tuple[Pid, CorrelationId | None]] = []

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Question(text="silence"):
                pass
            case Question(text=text):
                for _ in range(2 if text == "twice" else 1):
                    output.send(sender, Say(text), correlation_id)


class Small(Oracle):
    mailbox_size = 0


class Handler(ConnectionHandler):
    """Asks the oracle what the peer asks; says "boom" by raising."""

    def __init__(self, oracle: Pid, closed: list[str]) -> None:
        self._oracle = oracle
        self._closed = closed

    def received(self, message: Any, output: ConnectionOutput) -> None:
        match message:
            case News(topic=topic):
                output.follow(topic)
                output.reply(Say(f"following {topic}"))
            case Say(text="boom"):
                raise RuntimeError("a defect of the handler")
            case Say(text="bye"):
                output.reply(Say("farewell"))
                output.close("you said so")
            case Say(text="forget"):
                output.reply(Say(f"forgot {output.forget_requests()}"))
            case Say(text="tell"):
                output.send(self._oracle, Question("nobody waits"))
            case Question(text=text):
                output.request(self._oracle, message, text)
            case Big(bytes=size):
                output.reply(Say("x" * size))
            case _:
                output.reply(message)

    def answered(self, context: Any, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        text = str(output.backlog) if context == "backlog" else message.text
        output.reply(Say(f"{context}: {text}"))

    def failed(self, context: Any, reason: str, output: ConnectionOutput) -> None:
        output.reply(Say(f"{context} failed: {reason}"))

    def notified(self, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        output.reply(message)

    def closed(self, output: ConnectionOutput) -> None:
        self._closed.append("closed")


class World:
    """A node with an oracle and a service, and what its connections left behind."""

    def __init__(self, node: Node, oracle: Pid, service: WebsocketService, pid: Pid, closed: list[str]) -> None:
        self.node = node
        self.oracle = oracle
        self.service = service
        self.pid = pid
        self.closed = closed

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        host, _, port = self.service.address.rpartition(":")
        async with open_websocket_client(host, int(port), subprotocol="test") as connection:
            yield Client(connection)


class Client:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._read: list[Any] = []

    async def send(self, *messages: Any) -> None:
        await self.connection.send(encode_batch(messages))

    async def receive(self) -> Any:
        while not self._read:
            self._read = decode_batch(await self.connection.receive())
        return self._read.pop(0)

    async def ask(self, message: Any) -> Any:
        await self.send(message)
        return await self.receive()


@asynccontextmanager
async def world(limits: RequestLimits | None = None, oracle: type[Oracle] = Oracle) -> AsyncIterator[World]:
    async with open_node("n1@127.0.0.1:0") as node:
        oracle_pid = await node.spawn("oracle", oracle)
        services: list[WebsocketService] = []
        closed: list[str] = []

        def make() -> WebsocketService:
            services.append(
                WebsocketService(
                    lambda _: Handler(oracle_pid, closed), "127.0.0.1", 0, subprotocol="test", limits=limits
                )
            )
            return services[-1]

        pid = await node.spawn("server", make)
        yield World(node, oracle_pid, services[0], pid, closed)


async def test_requests_of_one_connection_get_their_own_answers() -> None:
    async with world() as w, w.client() as client:
        await client.send(*(Question(str(number)) for number in range(300)))
        answers = [await client.receive() for _ in range(300)]
        assert answers == [Say(f"{number}: {number}") for number in range(300)]


async def test_answers_that_are_ready_together_share_a_frame() -> None:
    async with world() as w, w.client() as client:
        await client.send(*(Say(str(number)) for number in range(100)))
        for number in range(100):
            assert await client.receive() == Say(str(number))
        assert client.connection.statistics().messages_received == 1


async def test_replies_arrive_whole_and_in_order_when_the_kernel_takes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Tap._write
    monkeypatch.setattr(Tap, "_write", lambda tap, data: write(tap, data[:3]))
    async with world() as w, w.client() as client:
        for _ in range(20):
            # Some are answered by the reader's own task, some by the service's.
            await client.send(Say("at once"), *(Question(str(number)) for number in range(20)))
            assert await client.receive() == Say("at once")
            assert [await client.receive() for _ in range(20)] == [Say(f"{number}: {number}") for number in range(20)]
            with trio.fail_after(10):  # nothing comes behind it that would take it along
                assert await client.ask(Say("alone")) == Say("alone")
        assert await client.ask(Say("bye")) == Say("farewell")
        with pytest.raises(ConnectionClosed, match="you said so"):
            await client.receive()


async def test_connections_do_not_mix() -> None:
    async with world() as w, w.client() as one, w.client() as other:
        await one.send(Question("one"))
        await other.send(Question("other"))
        assert await other.receive() == Say("other: other")
        assert await one.receive() == Say("one: one")


async def test_a_defect_in_a_handler_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "rabble_trio.server"):
        async with world() as w, w.client() as honest, w.client() as unlucky:
            await unlucky.send(Say("boom"))
            with pytest.raises(ConnectionClosed, match="internal error"):
                await unlucky.receive()
            assert await honest.ask(Question("still there?")) == Say("still there?: still there?")
            assert w.service.metrics().counters["failed"] == 1


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x91\x91\xa5nobody", b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_ends_its_connection_with_a_reason(garbage: bytes) -> None:
    async with world() as w, w.client() as honest, w.client() as broken:
        await broken.connection.send(garbage)
        with pytest.raises(ConnectionClosed) as caught:
            await broken.receive()
        assert caught.value.code == 1008
        assert caught.value.reason
        assert await honest.ask(Say("hello")) == Say("hello")


async def test_a_handler_may_say_a_last_word() -> None:
    async with world() as w, w.client() as client:
        await client.send(Say("bye"), Say("this is not handled any more"))
        assert await client.receive() == Say("farewell")
        with pytest.raises(ConnectionClosed, match="you said so"):
            await client.receive()


async def test_a_request_without_a_reply_fails_after_its_time() -> None:
    async with world(RequestLimits(request_timeout=0.02)) as w, w.client() as client:
        assert await client.ask(Question("silence")) == Say("silence failed: no reply within 0.02 s")
        assert w.service.metrics().counters["timeouts"] == 1
        assert w.service.metrics().gauges["pending_requests"] == 0


async def test_a_second_reply_is_dropped_and_counted() -> None:
    async with world() as w, w.client() as client:
        assert await client.ask(Question("twice")) == Say("twice: twice")
        assert await client.ask(Question("next")) == Say("next: next")
        assert w.service.metrics().counters["late"] == 1


async def test_forgotten_requests_get_no_answer_any_more() -> None:
    async with world() as w, w.client() as client:
        await client.send(Question("silence"), Question("a"), Say("forget"))
        assert await client.receive() == Say("forgot ['silence', 'a']")
        assert await client.ask(Question("b")) == Say("b: b")


async def test_a_full_mailbox_fails_the_request_at_once() -> None:
    async with world(oracle=Small) as w, w.client() as client:
        answer = await client.ask(Question("anything"))
        assert answer.text.startswith("anything failed: ")


async def test_an_actor_that_is_down_fails_the_request_at_once() -> None:
    async with world() as w, w.client() as client:
        await w.node.stop(w.oracle)
        answer = await client.ask(Question("anybody?"))
        assert "not running" in answer.text


async def test_too_many_requests_fail_and_the_others_do_not() -> None:
    async with world(RequestLimits(max_requests=10)) as w, w.client() as client:
        await client.send(*(Question("silence") for _ in range(10)), Question("one too many"))
        answer = await client.receive()
        assert answer == Say("one too many failed: 10 requests are unanswered already")


async def test_an_answer_to_what_expects_none_is_dropped() -> None:
    async with world() as w, w.client() as client:
        await client.send(Say("tell"))
        assert await client.ask(Question("after")) == Say("after: after")
        assert "late" not in w.service.metrics().counters


async def test_what_answers_no_request_reaches_every_connection() -> None:
    async with world() as w, w.client() as one, w.client() as other:
        await one.ask(Say("ready"))
        await other.ask(Say("ready"))
        await w.node.send(w.pid, Say("news"))
        assert await one.receive() == Say("news")
        assert await other.receive() == Say("news")


async def test_news_of_a_topic_reach_those_who_follow_it() -> None:
    async with world() as w, w.client() as one, w.client() as two, w.client() as three:
        await one.ask(News("a", "please"))
        await two.ask(News("b", "please"))
        await three.ask(Say("here"))
        for topic in ("b", "a", "b"):
            await w.node.send(w.pid, News(topic, "for some"))
        await w.node.send(w.pid, Say("for all"))
        assert [await one.receive(), await one.receive()] == [News("a", "for some"), Say("for all")]
        assert [await two.receive() for _ in range(3)] == [News("b", "for some"), News("b", "for some"), Say("for all")]
        assert await three.receive() == Say("for all")


async def test_a_connection_follows_one_topic_as_long_as_it_lives() -> None:
    async with world() as w, w.client() as one:
        async with w.client() as two:
            await two.ask(News("a", "please"))
        await one.ask(News("a", "please"))
        await one.ask(News("b", "please"))
        await w.node.send(w.pid, News("a", "late"))
        await w.node.send(w.pid, News("b", "for some"))
        assert await one.receive() == News("b", "for some")
        while w.closed != ["closed"]:
            await trio.testing.wait_all_tasks_blocked()
        assert list(w.service._followers) == ["b"]


async def test_a_mute_connection_is_closed() -> None:
    async with world(RequestLimits(first_frame=0.02)) as w, w.client() as client:
        with pytest.raises(ConnectionClosed, match="nothing was said"):
            await client.receive()


async def test_a_slow_reader_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "rabble_trio.server"):
        async with world(RequestLimits(max_reply_bytes=4_000_000)) as w, w.client() as honest, w.client() as slow:
            with pytest.raises(ConnectionClosed):
                while True:  # no socket buffer holds all the answers
                    await slow.send(Big(500_000))
            assert w.service.metrics().counters["cut_off"] == 1
            assert await honest.ask(Say("hello")) == Say("hello")


async def test_a_connection_is_cut_off_once_however_much_comes_after(caplog: pytest.LogCaptureFixture) -> None:
    async with world(RequestLimits(max_reply_bytes=1000)) as w, w.client() as greedy:
        with pytest.raises(ConnectionClosed):
            await greedy.send(*(Question("x" * 400) for _ in range(20)))
            while True:
                await greedy.receive()
        assert w.service.metrics().counters["cut_off"] == 1
        assert [record.getMessage().endswith("reads too slowly and is cut off") for record in caplog.records] == [True]


async def test_a_handler_sees_what_waits_to_be_read() -> None:
    async with world() as w, w.client() as client:
        await client.send(Question("backlog"), Question("backlog"))
        first, second = [await client.receive() for _ in range(2)]
        assert first == Say("backlog: 0")
        assert second == Say(f"backlog: {len(encode(first))}")
        assert await client.ask(Question("backlog")) == first


async def test_replies_of_any_size_that_may_be_sent_arrive() -> None:
    async with world() as w, w.client() as client:
        sizes = [1_000_000, 200_000, 1_000_000, 10, 1_048_000]
        await client.send(*(Big(size) for size in sizes))
        assert [len((await client.receive()).text) for _ in sizes] == sizes


async def test_the_service_answers_what_it_counts() -> None:
    async with world() as w, w.client() as client:
        await client.ask(Say("hello"))
        metrics = await w.node.ask(w.pid, GetMetrics())
        assert metrics.counters["connections"] == 1
        assert metrics.counters["messages"] == 1
        assert metrics.gauges["open_connections"] == 1


async def test_handlers_hear_that_their_connection_is_gone() -> None:
    async with world() as w:
        async with w.client() as client:
            await client.ask(Say("hello"))
        while not w.closed:
            await trio.testing.wait_all_tasks_blocked()
        assert w.closed == ["closed"]


async def test_stopping_the_service_says_goodbye_to_its_connections() -> None:
    async with world() as w, w.client() as client:
        await client.ask(Say("hello"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.node.stop, w.pid)
            with pytest.raises(ConnectionClosed) as caught:
                await client.receive()
        assert caught.value.code == 1001


async def test_a_port_that_is_taken_is_said_at_the_start() -> None:
    async with world() as w:
        port = int(w.service.address.rpartition(":")[2])
        with pytest.raises(ListenFailed, match=str(port)):
            await w.node.spawn(
                "second", lambda: WebsocketService(lambda _: ConnectionHandler(), "127.0.0.1", port, subprotocol="x")
            )


@pytest.mark.parametrize("name", ["request_timeout", "first_frame", "max_requests", "max_reply_bytes"])
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RequestLimits(**{name: 0})
