"""What every transport does: websockets, with and without TLS, and the network in memory."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from rabble_trio import ConnectFailed, ConnectionClosed, ListenFailed, NodeId, Transport, Wire, cluster_tls
from rabble_trio._transport import WebsocketTransport
from rabble_trio.testing import MemoryNetwork


def tls(directory: Path, name: str, authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a node, by way of files as an operator has them."""
    certificate = authority.issue_cert(name)
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / f"{name}.pem")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return cluster_tls(directory / f"{name}.pem", directory / f"{name}.pem", directory / "ca.pem")


class World:
    """Two transports, of n1 and n2, and what n2 accepts."""

    def __init__(self, one: Transport, other: Transport, nursery: trio.Nursery) -> None:
        self.one = one
        self.other = other
        self.nursery = nursery
        self.server = trio.CancelScope()
        self.accepted, self._received = trio.open_memory_channel[Wire](100)

    async def listen(self) -> NodeId:
        listener = await self.other.listen("127.0.0.1", 0)
        self.nursery.start_soon(self._serve, listener)
        return NodeId("n2", f"127.0.0.1:{listener.port}")

    async def _serve(self, listener: Any) -> None:
        with self.server:
            await listener.serve(self._handle)

    async def _handle(self, wire: Wire) -> None:
        await self.accepted.send(wire)
        await trio.sleep_forever()

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[Wire, Wire]]:
        """Both ends of a connection: of who dialled, and of who accepted."""
        async with self.one.dial(await self.listen()) as wire:
            accepted = await self._received.receive()
            yield wire, accepted
            async with trio.open_nursery() as nursery:  # who closes waits a second for a peer that does not
                nursery.start_soon(wire.aclose, 1000, "")
                nursery.start_soon(accepted.aclose, 1000, "")


@pytest.fixture(params=["websockets", "tls", "memory"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    make: dict[str, Callable[[], tuple[Transport, Transport]]] = {
        "websockets": lambda: (WebsocketTransport(), WebsocketTransport()),
        "tls": lambda: encrypted(tmp_path),
        "memory": in_memory,
    }
    async with trio.open_nursery() as nursery:
        yield World(*make[request.param](), nursery)
        nursery.cancel_scope.cancel()


def encrypted(directory: Path) -> tuple[Transport, Transport]:
    authority = trustme.CA()
    return WebsocketTransport(tls(directory, "n1", authority)), WebsocketTransport(tls(directory, "n2", authority))


def in_memory() -> tuple[Transport, Transport]:
    network = MemoryNetwork()
    return network.transport("n1"), network.transport("n2")


async def test_messages_arrive_whole_and_in_order_in_both_directions(world: World) -> None:
    async with world.pair() as (one, other):
        for size in (0, 1, 125, 126, 65_536, 2**20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send, b"a" * size)
                assert await other.receive() == b"a" * size
        for number in range(100):
            await other.send(b"%d" % number)
        assert [await one.receive() for _ in range(100)] == [b"%d" % number for number in range(100)]


async def test_both_directions_at_once(world: World) -> None:
    async with world.pair() as (one, other), trio.open_nursery() as nursery:

        async def talk(wire: Wire) -> None:
            for _ in range(20):
                await wire.send(b"x" * 50_000)

        nursery.start_soon(talk, one)
        nursery.start_soon(talk, other)
        for _ in range(20):
            assert len(await one.receive()) == len(await other.receive()) == 50_000


async def test_the_close_code_and_its_reason_arrive_after_all_messages(world: World) -> None:
    async with world.pair() as (one, other):
        await one.send(b"last words")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.aclose, 4010, "not wanted")
            assert await other.receive() == b"last words"
            with pytest.raises(ConnectionClosed) as caught:
                await other.receive()
        assert (caught.value.code, caught.value.reason) == (4010, "not wanted")
        for action in (lambda: other.send(b""), other.receive, lambda: one.send(b""), one.receive):
            with pytest.raises(ConnectionClosed):
                await action()
        await one.aclose(1000, "twice")
        await other.aclose(1000, "")


async def test_the_acceptor_may_close_too(world: World) -> None:
    async with world.pair() as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(other.aclose, 4004, "who are you?")
        with pytest.raises(ConnectionClosed) as caught:
            await one.receive()
        assert (caught.value.code, caught.value.reason) == (4004, "who are you?")


async def test_a_sender_waits_for_a_peer_that_does_not_read(world: World) -> None:
    async with world.pair() as (one, other), trio.open_nursery() as nursery:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await one.send(b"x" * 2**18)
                sent += 1

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 100
        for _ in range(100):
            assert len(await other.receive()) == 2**18


async def test_a_message_that_is_too_large_closes_the_connection(world: World) -> None:
    async with world.pair() as (one, other), trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(ConnectionClosed):
                await one.send(b"x" * (2**20 + 1))

        nursery.start_soon(send)
        with pytest.raises(ConnectionClosed):
            await other.receive()
        nursery.start_soon(other.aclose, 1000, "")
        with pytest.raises(ConnectionClosed) as caught:
            await one.receive()
        assert caught.value.code == 1009


async def test_nobody_listens(world: World) -> None:
    with pytest.raises(ConnectFailed, match="refused") as caught:
        async with world.one.dial(NodeId("n2", "127.0.0.1:1")):
            pass  # pragma: no cover
    assert caught.value.fault == "network"


async def test_a_port_is_bound_once_until_it_is_released(world: World) -> None:
    listener = await world.one.listen("127.0.0.1", 0)
    with pytest.raises(ListenFailed, match="in use"):
        await world.one.listen("127.0.0.1", listener.port)
    await listener.aclose()
    again = await world.one.listen("127.0.0.1", listener.port)
    await again.aclose()


async def test_a_server_that_stops_says_so(world: World) -> None:
    async with world.pair() as (one, _):
        world.server.cancel()
        with pytest.raises(ConnectionClosed) as caught:
            await one.receive()
        assert caught.value.code == 1001


async def test_certificates_tell_their_names(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        async with World(*encrypted(tmp_path), nursery).pair() as (one, other):
            assert (one.certificate_names, other.certificate_names) == (frozenset({"n2"}), frozenset({"n1"}))
        async with World(*in_memory(), nursery).pair() as (one, other):
            assert one.certificate_names is other.certificate_names is None
        nursery.cancel_scope.cancel()


async def test_a_certificate_of_another_authority_is_the_configurations_fault(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    one, other = tls(tmp_path / "a", "n1", trustme.CA()), tls(tmp_path, "n2", trustme.CA())
    async with trio.open_nursery() as nursery:
        world = World(WebsocketTransport(one), WebsocketTransport(other), nursery)
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED") as caught:
            async with world.one.dial(await world.listen()):
                pass  # pragma: no cover
        assert caught.value.fault == "configuration"
        nursery.cancel_scope.cancel()


async def test_a_server_that_refuses_a_certificate_says_so_in_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # With TLS 1.3 the client's handshake is complete by then, and Trio sends no alert: the client sees a closed connection.
    (tmp_path / "a").mkdir()
    (_, careless), other = tls(tmp_path / "a", "n1", trustme.CA()), tls(tmp_path, "n2", trustme.CA())
    careless.verify_mode = ssl.CERT_NONE
    async with trio.open_nursery() as nursery:
        world = World(WebsocketTransport((careless, careless)), WebsocketTransport(other), nursery)
        with pytest.raises(ConnectFailed, match="does not accept this side's certificate") as caught:
            async with world.one.dial(await world.listen()):
                pass  # pragma: no cover
        assert caught.value.fault == "network"
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


# The network in memory has moods of its own --------------------------------------------------------------------------


@asynccontextmanager
async def in_memory_pair(network: MemoryNetwork) -> AsyncIterator[tuple[Wire, Wire]]:
    async with trio.open_nursery() as nursery:
        async with World(network.transport("n1"), network.transport("n2"), nursery).pair() as pair:
            yield pair
        nursery.cancel_scope.cancel()


async def test_delay_and_bandwidth(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    network.set_path("n1", "n2", delay=1.0)
    network.set_path("n1", "n2", delay=2.0, bandwidth=100.0, one_way=True)
    async with in_memory_pair(network) as (one, other):
        assert trio.current_time() == 3.0  # there and back
        await one.send(b"x" * 100)
        await one.send(b"x" * 100)
        await other.send(b"y")
        assert await one.receive() == b"y"
        assert trio.current_time() == 4.0
        await other.receive()
        assert trio.current_time() == 6.0
        await other.receive()
        assert trio.current_time() == 7.0


async def test_what_is_sent_into_a_partition_arrives_when_it_is_healed(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    async with in_memory_pair(network) as (one, other):
        network.partition("n1", "n2", one_way=True)
        await one.send(b"a")
        await other.send(b"b")
        assert await one.receive() == b"b"
        with trio.move_on_after(100) as scope:
            await other.receive()
        assert scope.cancelled_caught
        with trio.move_on_after(100) as scope:
            async with network.transport("n1").dial(NodeId("n2", "127.0.0.1:5000")):
                pass  # pragma: no cover
        assert scope.cancelled_caught
        network.heal("n1", "n2")
        assert await other.receive() == b"a"


async def test_a_lost_message_breaks_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork(seed=1)
    async with in_memory_pair(network) as (one, other):
        network.set_path("n1", "n2", loss=0.1)
        sent = 0
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await one.send(b"x")
                assert await other.receive() == b"x"
                sent += 1
        assert caught.value.code == 1006
        assert sent > 0
        with pytest.raises(ConnectionClosed):
            await one.receive()


async def test_a_cut_is_seen_by_both(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork()
    async with in_memory_pair(network) as (one, other):
        assert network.cut("n3") == 0
        assert network.cut("n2", "n1") == 1
        for wire in (one, other):
            with pytest.raises(ConnectionClosed, match="1006"):
                await wire.receive()
        assert network.cut() == 0


def test_paths_that_cannot_be() -> None:
    network = MemoryNetwork()
    for wrong in ({"delay": -1.0}, {"bandwidth": 0.0}, {"loss": 1.5}):
        with pytest.raises(ValueError, match="must"):
            network.set_path("a", "b", **wrong)
