"""Clusters over real sockets, with and without TLS, and who attacks their ports."""

from __future__ import annotations

import datetime
import logging
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from rabble_trio import (
    ConnectionClosed,
    InsecureAddress,
    JoinFailed,
    Node,
    NodeId,
    Pid,
    Process,
    cluster_tls,
    encode,
    message,
    open_node,
    open_websocket_client,
)
from rabble_trio._frames import Tap
from rabble_trio._handshake import CloseCode, Hello
from rabble_trio._link import LinkStatistics, Ping
from rabble_trio._transport import SUBPROTOCOL

SECRET = b"0123456789abcdef"

Tls = tuple[ssl.SSLContext, ssl.SSLContext]


@message(tag="test.cluster_sockets.say")
class Say:
    text: str


class Echo(Process):
    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        if isinstance(message, Say):
            output.send(sender, message, correlation_id)


@asynccontextmanager
async def nodes(*options: dict[str, Any]) -> AsyncIterator[list[Node]]:
    """Nodes n1, n2, ..., each with its options."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_node(f"n{number}@127.0.0.1:0", **{"secret": SECRET, **some}))
            for number, some in enumerate(options, 1)
        ]


async def converge(nodes: Sequence[Node], *groups: set[int]) -> None:
    """Wait until each group of nodes, given by places, is a cluster with all its links, and nothing else."""
    with trio.fail_after(30):
        for group in groups:
            ids = {nodes[place].id for place in group}
            for place in group:
                node = nodes[place]
                while not set(node.members) == ids == {node.id, *node.cluster_status().established}:  # noqa: ASYNC110
                    await trio.sleep(0.01)


class Talker(Process):
    """Sends the numbers below that of a `Say` to its sender, all in one step."""

    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        if isinstance(message, Say):
            for number in range(int(message.text)):
                output.send(sender, Say(f"{number:07}"))


@pytest.mark.parametrize("taken", [3, 1000, 10**9])
async def test_what_is_sent_arrives_in_order_however_little_the_kernel_takes(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    write = Tap._write
    async with nodes({}, {}) as (one, two):
        await one.join(two.id)
        monkeypatch.setattr(Tap, "_write", lambda tap, data: write(tap, data[:taken]))
        talker = await two.spawn("talker", Talker)
        async with one.open_mailbox("me") as mailbox:
            # What stands alone is taken along by nothing but heartbeats, and 60 of those would take a minute.
            with trio.fail_after(30):
                for count in (*[1] * 60, 10, 1000, 1):
                    await mailbox.send(talker, Say(str(count)))
                    received = [(await mailbox.receive()).message for _ in range(count)]
                    assert received == [Say(f"{number:07}") for number in range(count)]
        assert one.cluster_status().established == (two.id,)


async def test_what_is_sent_in_one_turn_leaves_in_one_message() -> None:
    async with nodes({}, {}) as (one, two):
        await one.join(two.id)
        talkers = [await two.spawn(f"talker{number}", Talker) for number in range(20)]
        async with one.open_mailbox("me") as mailbox:
            before = link_of(two, one).messages_sent
            for talker in talkers:
                mailbox.send_nowait(talker, Say("10"))
            for _ in range(200):
                await mailbox.receive()
            # They hear it in one message, so they run in one turn. A ping may come in between.
            assert link_of(two, one).messages_sent - before <= 3


def link_of(node: Node, to: Node) -> LinkStatistics:
    """What went over a node's link to another one."""
    links: Any = node._cluster._routes
    statistics: LinkStatistics = links[to.id].link.statistics()
    return statistics


async def test_the_life_of_a_cluster() -> None:
    # The sequence of Rabble's own test of joins and leaves. In memory it is in test_cluster.py.
    async with nodes({}, {}, {}) as three_nodes:
        one, two, three = three_nodes
        await one.join(two.id)
        assert one.cluster_status().established == (two.id,)
        await one.join(str(three.id))
        await converge(three_nodes, {0, 1, 2})
        echo = await two.spawn("echo", Echo)
        assert await three.ask(echo, Say("hi")) == Say("hi")
        await one.leave(two.id)
        await converge(three_nodes, {0, 2}, {1})
        await one.leave(one.id)
        await converge(three_nodes, {0}, {1}, {2})


async def test_wrong_secrets_and_clusters_are_refused_and_both_logs_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async with nodes({}, {"secret": b"fedcba9876543210"}, {"cluster": "other"}, {"secret": None}) as [one, *others]:
        for other, reason in zip(
            others, ("don't have the same cluster secret", "'other'", "give all nodes the same"), strict=True
        ):
            caplog.clear()
            with pytest.raises(JoinFailed, match=reason):
                await one.join(other.id)
            assert f"{other.id}: the link from 127.0.0.1" in caplog.text
            assert f"no link to {other.id}" in caplog.text
        assert one.members == (one.id,)


# TLS ------------------------------------------------------------------------------------------------------------------


def tls(directory: Path, authority: trustme.CA, name: str, **options: Any) -> Tls:
    """The contexts of a node, by way of files as an operator has them."""
    folder = directory / name
    folder.mkdir(exist_ok=True)
    authority.issue_cert(name, **options).private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return cluster_tls(folder / "node.pem", folder / "node.pem", folder / "ca.pem")


async def test_nodes_with_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    options = [{"tls": tls(tmp_path, authority, name), "secret": None} for name in ("n1", "n2")]
    async with nodes(*options) as [one, two]:
        await one.join(two.id)
        await converge([one, two], {0, 1})
        echo = await one.spawn("echo", Echo)
        assert await two.ask(echo, Say("x" * 100_000)) == Say("x" * 100_000)


async def test_certificates_of_others_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, foreign = trustme.CA(), trustme.CA()
    expired = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    before = expired - datetime.timedelta(days=30)
    (tmp_path / "foreign").mkdir()
    async with nodes(
        {"tls": tls(tmp_path, authority, "n1")},
        {"tls": tls(tmp_path, authority, "somebody")},
        {"tls": tls(tmp_path / "foreign", foreign, "n3")},
        {"tls": tls(tmp_path, authority, "n4", not_before=before, not_after=expired)},
        {},
    ) as [one, impostor, stranger, late, plain]:
        for other, reason in (
            (impostor, "shows a certificate of somebody: it must name n2"),
            (stranger, "CERTIFICATE_VERIFY_FAILED"),
            (late, "certificate has expired"),
        ):
            with pytest.raises(JoinFailed, match=reason):
                await one.join(other.id)
        with pytest.raises(JoinFailed, match="it must name n2"):
            await impostor.join(one.id)
        with pytest.raises(JoinFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.join(one.id)
        with pytest.raises(JoinFailed, match="TLS handshake failed"):
            await one.join(plain.id)
        caplog.clear()
        with trio.move_on_after(0.5):  # Trio sends no alert, so these can't tell a refusal from a broken network
            await late.join(one.id)
        assert "certificate has expired" in caplog.text
        assert "does not accept this side's certificate" in caplog.text
        with trio.move_on_after(0.5):
            await plain.join(one.id)
        assert all(len(node.members) == 1 for node in (one, impostor, stranger, late, plain))


async def test_a_node_that_is_open_to_the_world(tmp_path: Path) -> None:
    contexts = tls(tmp_path, trustme.CA(), "n1")
    one_sided = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), contexts[1]
    async with open_node("n1@0.0.0.0:0", tls=contexts):
        pass
    async with open_node("n1@0.0.0.0:0", tls=one_sided, secret=SECRET):
        pass
    async with open_node("n1@0.0.0.0:0", insecure=True):
        pass
    with pytest.raises(InsecureAddress, match="authenticated"):
        async with open_node("n1@0.0.0.0:0", tls=one_sided):
            pass


# Attacks --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of a cluster, of which the first is attacked; it has to come out of it as it was."""
    async with nodes({}, {}) as [one, two]:
        await one.join(two.id)
        await converge([one, two], {0, 1})
        echo = await one.spawn("echo", Echo)
        yield one, two
        assert await two.ask(echo, Say("still there?")) == Say("still there?")
        assert [link.reconnects for link in two.cluster_status().links] == [0]
        with trio.fail_after(5):
            while one.cluster_status().connections > 1:  # noqa: ASYNC110
                await trio.sleep(0.01)


def hello(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "protocol": 1,
        "role": "dialer",
        "cluster": "rabble",
        "node": NodeId("mallory", "127.0.0.1:1"),
        "incarnation": 1,
        "attempt": 1,
        "max_message": 2**20,
        "secured": True,
        "nonce": b"n" * 32,
    }
    return encode(Hello(**{**fields, **changes}))


@pytest.mark.parametrize(
    ("messages", "code", "reason"),
    [
        ([b"\xc1"], CloseCode.VIOLATION, "does not speak the link protocol"),
        ([b""], CloseCode.VIOLATION, "does not speak the link protocol"),
        ([b"x" * 3000], CloseCode.VIOLATION, "before it has proved itself"),
        ([encode(Ping(1))], CloseCode.VIOLATION, "before its Hello"),
        ([hello(protocol=2)], CloseCode.VERSION, "speaks version 2"),
        ([hello(cluster="other")], CloseCode.CLUSTER, "belongs to the cluster 'other'"),
        ([hello(node=NodeId("n1", "127.0.0.1:1"))], CloseCode.NODE, "names are unique"),
        ([hello(secured=False)], CloseCode.AUTHENTICATION, "has none"),
        ([hello(), encode(Ping(1))], CloseCode.VIOLATION, "before its Proof"),
        ([hello(), hello()], CloseCode.VIOLATION, "before its Proof"),
    ],
    ids=lambda value: value.name if isinstance(value, CloseCode) else None,
)
async def test_liars_are_told_why_they_are_refused(
    messages: list[bytes], code: CloseCode, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked() as (one, _):
        async with open_websocket_client("127.0.0.1", one.id.port, subprotocol=SUBPROTOCOL) as connection:
            with pytest.raises(ConnectionClosed) as caught:
                for data in messages:
                    await connection.send(data)
                while True:
                    await connection.receive()
        assert caught.value.code == code
        assert reason in caplog.text
        assert f"{one.id}: the link from 127.0.0.1" in caplog.text


async def test_who_speaks_http_gets_an_http_answer() -> None:
    async with attacked() as (one, _):
        stream = await trio.open_tcp_stream("127.0.0.1", one.id.port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 4")


async def test_who_hesitates_or_goes_away_hurts_nobody() -> None:
    # How long a silence may be is tested in virtual time, in test_cluster.py and test_websocket.py.
    async with attacked() as (one, _):
        async with await trio.open_tcp_stream("127.0.0.1", one.id.port) as stream:
            for byte in b"GET /":
                await stream.send_all(bytes([byte]))
        async with open_websocket_client("127.0.0.1", one.id.port, subprotocol=SUBPROTOCOL):
            pass


async def test_flooders_do_not_keep_others_out() -> None:
    async with attacked() as (one, two), trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", one.id.port)
                    async with stream:
                        await stream.send_all(b"\x00" * 100_000)
                except (OSError, trio.BrokenResourceError):
                    await trio.lowlevel.checkpoint()

        for _ in range(5):
            nursery.start_soon(flood)
        echo = Pid("echo", one.id)
        for number in range(50):
            assert await two.ask(echo, Say(str(number))) == Say(str(number))
        async with nodes({}, {}, {}) as [_, _, three]:
            await three.join(one.id)
            await converge([one, two, three], {0, 1, 2})
            await three.leave()
        nursery.cancel_scope.cancel()


async def test_the_log_of_a_node_has_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with nodes({}, {}) as [one, two]:
        await one.join(two.id)
        assert SECRET.decode() not in caplog.text + repr(one._cluster._config) + repr(one)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count open files")
async def test_two_hundred_cuts_leave_no_socket_and_no_task_behind() -> None:
    async with nodes({}, {}) as [one, two]:
        await one.join(two.id)
        await converge([one, two], {0, 1})

        def open_things() -> tuple[int, int]:
            return len(os.listdir("/proc/self/fd")), trio.lowlevel.current_statistics().tasks_living

        before = open_things()
        for number in range(200):
            node, other = (one, two) if number % 2 else (two, one)
            task = node._cluster._links[other.id]
            if number % 4 < 2:
                task.end("network", CloseCode.TIMEOUT, "cut by the test")
            else:
                await trio.aclose_forcefully(task.wire._stream)  # type: ignore[attr-defined]
            await task.ended.wait()
            for dialer in (one._cluster._dialers[two.id], two._cluster._dialers[one.id]):
                dialer.hurry()
            await converge([one, two], {0, 1})
        with trio.fail_after(10):
            while open_things() != before:  # noqa: ASYNC110
                await trio.sleep(0.01)
