"""The tap reads whole binary frames itself and leaves everything else to the library, in order and without a loss.

wsproto, which the library is built on, is the oracle for frames. The library itself is played by `tap.receive_some`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from rabble_trio._frames import SENDS_IN_A_ROW, Tap, binary_frame, mask

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
SIZES = [0, 1, 125, 126, 127, 999, 1000, 1001, 65535, 65536, 100_003]


def protocol(*, client: bool) -> Protocol:
    return Protocol(ConnectionType.CLIENT if client else ConnectionType.SERVER)


async def opened(
    *, client: bool = True, early: bytes = b"", max_frame: int = 2**20
) -> tuple[Tap, trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]:
    """A tap behind its handshake, and the peer's ends of the stream."""
    ours, theirs = trio.testing.memory_stream_pair()
    tap = Tap(ours, client=client, max_frame=max_frame)
    await theirs.send_all(HEAD + early)
    head = b""
    while len(head) < len(HEAD):
        head += await tap.receive_some(7)
    assert head == HEAD  # not a byte more
    tap.handshake_done()
    return tap, theirs.send_stream, theirs.receive_stream


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_frames_are_what_the_oracle_reads(size: int, masked: bool) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    oracle = protocol(client=not masked)
    oracle.receive_data(binary_frame(data, masked=masked))
    events = list(oracle.events())
    assert all(isinstance(event, BytesMessage) for event in events)
    assert b"".join(event.data for event in events) == data  # type: ignore[attr-defined]
    assert events[-1].message_finished  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", SIZES)
def test_frames_where_nobody_is_in_between_are_masked_with_zeros(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = binary_frame(data, masked=True, secluded=True)
    assert frame.endswith(bytes(4) + data)
    oracle = protocol(client=False)
    oracle.receive_data(frame)
    assert b"".join(event.data for event in oracle.events()) == data  # type: ignore[attr-defined]
    assert not binary_frame(bytes(100), masked=True).endswith(bytes(100))


@given(st.binary(max_size=3000), st.binary(min_size=4, max_size=4))
def test_masking(data: bytes, key: bytes) -> None:
    assert mask(data, key) == bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    assert mask(mask(data, key), key) == data


@pytest.mark.parametrize("client", [False, True])
async def test_what_the_oracle_sends_is_read_whatever_the_pieces(client: bool) -> None:
    oracle = protocol(client=not client)
    messages = [bytes([number]) * size for number, size in enumerate(SIZES)]
    wire = b"".join(oracle.send(BytesMessage(data=message)) for message in messages)
    for step in (1_000_000, 1009, 60_000):
        tap, sender, _ = await opened(client=client)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send(step: int = step, sender: trio.testing.MemorySendStream = sender) -> None:
                for start in range(0, len(wire), step):
                    await sender.send_all(wire[start : start + step])
                    await trio.testing.wait_all_tasks_blocked()

            assert [await tap.receive_message() for _ in messages] == messages


async def test_single_bytes() -> None:
    tap, sender, _ = await opened()
    message = bytes(200)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for byte in binary_frame(message, masked=False):
                await sender.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()

        assert await tap.receive_message() == message


async def test_the_time_of_every_byte_is_noted(autojump_clock: trio.testing.MockClock) -> None:
    tap, sender, _ = await opened()
    start = trio.current_time()

    async def trickle() -> None:
        for byte in binary_frame(b"ten bytes.", masked=False):
            await trio.sleep(1)
            await sender.send_all(bytes([byte]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with trio.move_on_after(5.5):
            await tap.receive_message()
        assert tap.heard_at == pytest.approx(start + 5)
        assert await tap.receive_message() == b"ten bytes."
        assert tap.heard_at == pytest.approx(start + 12)


async def test_messages_right_behind_the_handshake_are_not_lost() -> None:
    for cut in (0, 1, 5):
        early = binary_frame(b"first", masked=False) + binary_frame(b"second", masked=False)
        tap, sender, _ = await opened(early=early[:cut])
        await sender.send_all(early[cut:])
        assert [await tap.receive_message(), await tap.receive_message()] == [b"first", b"second"]


PONG = b"\x8a\x00"
OTHERS: dict[str, Callable[[], bytes]] = {
    "ping": lambda: protocol(client=False).send(Ping(payload=b"x")),
    "pong": lambda: PONG,
    "close": lambda: protocol(client=False).send(CloseConnection(code=1000)),
    "text": lambda: protocol(client=False).send(TextMessage(data="x")),
    "fragment": lambda: protocol(client=False).send(BytesMessage(data=b"x", message_finished=False)),
    "masked": lambda: binary_frame(b"x", masked=True),
    "reserved bit": lambda: b"\xc2\x01x",
    "too large": lambda: binary_frame(bytes(1001), masked=False),
    "far too large": lambda: b"\x82\x7f" + b"\xff" * 8,
    "half a byte's worth": lambda: b"\x89",
}


@pytest.mark.parametrize("name", OTHERS)
async def test_from_anything_else_on_the_library_reads(name: str) -> None:
    other = OTHERS[name]()
    mine, behind = binary_frame(b"mine", masked=False), binary_frame(b"behind", masked=False)
    tap, sender, _ = await opened(max_frame=1000)
    await sender.send_all(mine + other + behind)
    assert await tap.receive_message() == b"mine"
    assert await tap.receive_message() is None
    assert await tap.receive_message() is None  # and stays so
    assert await tap.receive_some() == other + behind
    await sender.send_all(b"more")
    assert await tap.receive_some() == b"more"


async def test_the_library_waits_while_it_is_not_its_turn() -> None:
    tap, sender, _ = await opened()
    got: list[bytes | None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def library() -> None:
            got.append(bytes(await tap.receive_some()))

        @nursery.start_soon
        async def reader() -> None:
            got.append(await tap.receive_message())
            got.append(await tap.receive_message())

        await trio.testing.wait_all_tasks_blocked()
        await sender.send_all(binary_frame(b"one", masked=False))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"one"]
        # The reader waits for the socket. It must not lose what it gets, and the library must not read at the same time.
        tap.hand_over()
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"one"]
        await sender.send_all(b"farewell")
    assert sorted(got, key=str) == sorted([b"one", None, b"farewell"], key=str)


async def test_a_cancelled_reader_makes_way_and_loses_nothing() -> None:
    tap, sender, _ = await opened()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tap.receive_message)
            await sender.send_all(binary_frame(b"0123456789", masked=False)[:5])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await sender.send_all(binary_frame(b"0123456789", masked=False)[5:])
    assert await tap.receive_message() == b"0123456789"

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            @nursery.start_soon
            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                tap.hand_over()
                scope.cancel()

            await tap.receive_message()
        await sender.send_all(b"for the library")
        assert await tap.receive_some() == b"for the library"


async def test_the_library_does_not_read_beside_a_reader() -> None:
    tap, sender, _ = await opened()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tap.receive_message)
        await trio.testing.wait_all_tasks_blocked()
        tap.hand_over()
        nursery.start_soon(tap.receive_some)  # two readers of one stream would be an error
        await trio.testing.wait_all_tasks_blocked()
        await sender.send_all(b"x")


async def test_one_receiver_at_a_time() -> None:
    tap, sender, _ = await opened()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tap.receive_message)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
            await tap.receive_message()
        await sender.send_all(binary_frame(b"", masked=False))


async def test_the_end_is_the_librarys_to_see() -> None:
    tap, sender, _ = await opened()
    await sender.send_all(binary_frame(b"last", masked=False))
    await sender.aclose()
    assert await tap.receive_message() == b"last"
    assert await tap.receive_message() is None
    assert [await tap.receive_some(), await tap.receive_some()] == [b"", b""]

    tap, sender, _ = await opened()
    await tap.aclose()
    assert await tap.receive_message() is None
    with pytest.raises(trio.ClosedResourceError):
        await tap.receive_some()


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno", b"\x00" * 70_000, b"HTTP/1.1 101\n\n"]
)
async def test_peculiar_handshakes_are_the_librarys(head: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    tap = Tap(ours, client=True, max_frame=1000)
    await theirs.send_all(head)
    assert await tap.receive_some() == head
    tap.handshake_done()
    assert await tap.receive_message() is None
    await theirs.send_all(b"a\r\n\r\nb")
    assert await tap.receive_some() == b"a\r\n\r\nb"


async def test_senders_take_turns() -> None:
    tap, _, receiver = await opened(client=False)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(tap.send_message, b"%d" % number)
        nursery.start_soon(tap.send_all, PONG)
    received = bytes(await receiver.receive_some())
    oracle = protocol(client=True)
    oracle.receive_data(received)
    messages = [event.data for event in oracle.events() if isinstance(event, BytesMessage)]
    assert sorted(messages) == [b"%d" % number for number in range(10)]
    assert PONG in received


async def test_checkpoints() -> None:
    tap, sender, _ = await opened()
    frames: Any = itertools.repeat(binary_frame(b"x", masked=False), 3)
    await sender.send_all(b"".join(frames))
    with trio.testing.assert_checkpoints():
        await tap.receive_message()
    await tap.receive_message()  # together with the first: it may do without
    with trio.CancelScope() as scope:
        scope.cancel()
        await tap.receive_message()
    assert scope.cancelled_caught
    assert await tap.receive_message() == b"x"  # ... but is never lost to a cancellation
    with trio.testing.assert_checkpoints():
        await tap.send_message(b"x")


# Over a socket, where the tap reads and writes by itself -------------------------------------------------------------


async def socket_pair() -> tuple[Tap, trio.SocketStream]:
    """A tap behind its handshake, and the peer's end of its socket."""
    left, right = (trio.SocketStream(sock) for sock in trio.socket.socketpair())
    tap = Tap(left, client=False, max_frame=2**22)
    await right.send_all(b"GET / HTTP/1.1\r\n\r\n")
    await tap.receive_some(1000)
    tap.handshake_done()
    return tap, right


async def test_a_message_larger_than_the_kernel_takes_arrives_whole_behind_the_ones_before() -> None:
    tap, peer = await socket_pair()
    messages = [b"first", bytes(3_000_000), b"last"]
    received = b""
    async with tap, peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for message in messages:
                await tap.send_message(message)
            await tap.aclose()

        async for data in peer:
            received += data
    oracle = protocol(client=True)
    oracle.receive_data(received)
    assert b"".join(event.data for event in oracle.events()) == b"".join(messages)  # type: ignore[attr-defined]


async def test_messages_of_many_tasks_do_not_mix() -> None:
    tap, peer = await socket_pair()
    received = b""
    async with tap, peer:

        async def send(number: int) -> None:
            await tap.send_message(bytes([number]) * 500_000)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)
            while len(received) < 8 * 500_010:
                received += await peer.receive_some()
    oracle = protocol(client=True)
    oracle.receive_data(received)
    whole = b"".join(event.data for event in oracle.events())  # type: ignore[attr-defined]
    pieces = [whole[start : start + 500_000] for start in range(0, len(whole), 500_000)]
    assert sorted(pieces) == [bytes([number]) * 500_000 for number in range(8)]


async def test_who_sends_without_waiting_lets_others_run_now_and_then() -> None:
    tap, peer = await socket_pair()
    sent = 0
    async with tap, peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            nonlocal sent
            for _ in range(10 * SENDS_IN_A_ROW):
                await tap.send_message(b"x")
                sent += 1

        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert 0 < sent <= 2 * SENDS_IN_A_ROW


async def test_what_is_sent_without_waiting_is_sent_as_far_as_the_kernel_takes_it() -> None:
    tap, peer = await socket_pair()
    messages = [b"first"]
    received = bytearray()
    async with tap, peer:
        assert tap.clear
        tap.send_message_nowait(messages[0])
        assert not tap.unsent
        while tap.clear:
            messages.append(bytes([len(messages)]) * 100_000)
            tap.send_message_nowait(messages[-1])
        messages.append(b"with it")
        tap.send_message_nowait(messages[-1])
        assert tap.unsent
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                messages.append(b"behind it")
                await tap.send_message(messages[-1])  # sends what is left over before
                await tap.drain()  # there is nothing
                assert tap.clear
                assert not tap.unsent
                await tap.aclose()

            async for data in peer:
                received += data
    oracle = protocol(client=True)
    oracle.receive_data(bytes(received))
    assert b"".join(event.data for event in oracle.events()) == b"".join(messages)  # type: ignore[attr-defined]


async def test_draining_sends_the_rest() -> None:
    tap, peer = await socket_pair()
    async with tap, peer:
        tap.send_message_nowait(bytes(3_000_000))
        assert tap.unsent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tap.drain)
            received = 0
            while received < 3_000_010:
                received += len(await peer.receive_some())
        assert tap.clear


async def test_the_way_is_not_clear_while_somebody_sends() -> None:
    tap, peer = await socket_pair()
    async with tap, peer, trio.open_nursery() as nursery:
        nursery.start_soon(tap.send_message, bytes(3_000_000))
        await trio.testing.wait_all_tasks_blocked()
        assert not tap.clear
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_no_socket_is_never_clear() -> None:
    tap, _, _ = await opened()
    assert not tap.clear


async def test_each_message_received_is_a_checkpoint() -> None:
    tap, peer = await socket_pair()
    oracle = protocol(client=True)
    async with tap, peer:
        await peer.send_all(b"".join(oracle.send(BytesMessage(data=b"x")) for _ in range(3)))
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                assert await tap.receive_message() == b"x"


async def test_a_cancelled_receive_loses_nothing() -> None:
    tap, peer = await socket_pair()
    oracle = protocol(client=True)
    async with tap, peer:
        await peer.send_all(b"".join(oracle.send(BytesMessage(data=data)) for data in (b"one", b"two")))
        assert await tap.receive_message() == b"one"
        with trio.CancelScope() as scope:
            scope.cancel()
            await tap.receive_message()
        assert scope.cancelled_caught
        assert await tap.receive_message() == b"two"


async def test_an_end_under_way_is_noticed_by_who_receives_and_who_sends() -> None:
    tap, peer = await socket_pair()
    async with peer:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                assert await tap.receive_message() is None  # the library finds out why

            await trio.testing.wait_all_tasks_blocked()
            await tap.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await tap.send_message(b"x")


async def test_a_broken_connection_is_an_error_of_who_sends() -> None:
    tap, peer = await socket_pair()
    await peer.aclose()
    async with tap:
        with pytest.raises(trio.BrokenResourceError):
            await tap.send_message(b"x")
