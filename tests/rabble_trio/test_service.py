"""Services: actors that are Trio code."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rabble_trio import Down, Mailbox, Service, message, open_node

NODE = "n1@127.0.0.1:0"


@message
class Word:
    """A message."""

    text: str


async def echo(mailbox: Mailbox) -> None:
    async for envelope in mailbox:
        await mailbox.send(envelope.sender, envelope.message, envelope.correlation_id)


class Counting(Service):
    """Echoes with a number, which `init` begins."""

    mailbox_size = 7

    def __init__(self, start: int) -> None:
        self.start = start
        self.count = -1

    async def init(self, mailbox: Mailbox) -> None:
        await trio.lowlevel.checkpoint()
        self.count = self.start

    async def run(self, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            self.count += 1
            reply = Word(f"{envelope.message.text} {self.count}")
            await mailbox.send(envelope.sender, reply, envelope.correlation_id)


async def test_a_function_and_a_class_are_services_alike() -> None:
    async with open_node(NODE) as node:
        function = await node.spawn("f", echo)
        service = await node.spawn("s", lambda: Counting(10))
        assert await node.ask(function, Word("hello")) == Word("hello")
        assert [await node.ask(service, Word("n")) for _ in range(2)] == [Word("n 11"), Word("n 12")]
        for pid in (function, service):
            await node.stop(pid)


async def test_init_is_done_when_spawn_returns_and_its_error_is_the_spawners() -> None:
    class Fails(Counting):
        async def init(self, mailbox: Mailbox) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError("port taken")

    made = Counting(5)
    async with open_node(NODE) as node:
        await node.spawn("s", lambda: made)
        assert made.count == 5
        with pytest.raises(OSError, match="port taken"):
            await node.spawn("fails", lambda: Fails(1))
        assert node.pid("fails") not in node.executor_status().services


async def test_mailbox_size_bounds_a_service_too() -> None:
    async with open_node(NODE) as node:

        class Deaf(Counting):
            async def run(self, mailbox: Mailbox) -> None:
                await trio.sleep_forever()

        pid = await node.spawn("s", lambda: Deaf(0), shutdown=0)
        for _ in range(7):
            node.send_nowait(pid, Word("x"))
        with pytest.raises(trio.WouldBlock):
            node.send_nowait(pid, Word("x"))


async def test_returning_and_raising_are_its_ends() -> None:
    async def once(mailbox: Mailbox) -> None:
        envelope = await mailbox.receive()
        if envelope.message.text == "raise":
            async with trio.open_nursery():
                raise ValueError("in a nursery")

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        for text, reason in (
            ("return", "finished"),
            ("raise", "crashed: ExceptionGroup: Exceptions from Trio nursery"),
        ):
            pid = await node.spawn("s", once, restart="temporary")
            a.monitor(pid)
            await node.send(pid, Word(text))
            down = (await a.receive()).message
            assert isinstance(down, Down)
            assert down.reason.startswith(reason)


async def test_a_shutdown_ends_the_loop_after_what_waits_and_no_flood_prolongs_it(autojump_clock: MockClock) -> None:
    received: list[str] = []

    async def slow(mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            received.append(envelope.message.text)
            node.send_nowait(mailbox.pid, Word("late"))
            await trio.sleep(0.1)

    async with open_node(NODE) as node:
        pid = await node.spawn("s", slow, shutdown=60)
        for n in range(5):
            node.send_nowait(pid, Word(str(n)))
        start = trio.current_time()
        await node.stop(pid)
        assert trio.current_time() - start < 1
    # The first may have been handled, and written its letter, before the request came.
    assert received in (["0", "1", "2", "3", "4"], ["0", "1", "2", "3", "4", "late"])
    assert node.executor_status().dead_letters == {"ended": 5}


@pytest.mark.parametrize("asked", [True, False])
async def test_the_end_of_its_mailbox_is_no_crash_if_it_was_asked_to_end(asked: bool) -> None:
    async def receiver(mailbox: Mailbox) -> None:
        while True:
            await mailbox.receive()
            if not asked:
                raise trio.EndOfChannel

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("s", receiver, restart="temporary")
        a.monitor(pid)
        await node.send(pid, Word("x"))
        if asked:
            await node.stop(pid)
        assert (await a.receive()).message.reason == ("stopped" if asked else "crashed: EndOfChannel: ")


async def test_one_that_waits_for_something_else_is_cancelled_and_cleans_up(autojump_clock: MockClock) -> None:
    cleaned = False

    async def stubborn(mailbox: Mailbox) -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            cleaned = True

    async with open_node(NODE) as node:
        await node.spawn("s", stubborn, shutdown=1)
    assert cleaned


async def test_an_error_while_cleaning_up_after_a_kill_is_a_crash_and_no_more() -> None:
    async def untidy(mailbox: Mailbox) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    async with open_node(NODE) as node, node.open_mailbox("a") as a:
        pid = await node.spawn("s", untidy, restart="temporary")
        a.monitor(pid)
        node.kill(pid)
        assert (await a.receive()).message.reason == "crashed: ValueError: while cleaning up"
        await wait_all_tasks_blocked()
        assert await node.ask(await node.spawn("s", echo), Word("well")) == Word("well")


async def test_a_restarted_service_is_made_afresh_and_keeps_its_address() -> None:
    numbers = iter(range(0, 100, 10))
    async with open_node(NODE) as node:
        pid = await node.spawn("s", lambda: Counting(next(numbers)))
        assert await node.ask(pid, Word("n")) == Word("n 1")
        node.kill(pid)
        await wait_all_tasks_blocked()
        assert await node.ask(pid, Word("n")) == Word("n 11")


async def test_services_talk_to_each_other() -> None:
    async def relay(to: Any, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            reply = await mailbox.ask(to, envelope.message)
            await mailbox.send(envelope.sender, reply, envelope.correlation_id)

    async with open_node(NODE) as node:
        last = await node.spawn("echo", echo)
        for n in range(5):
            last = await node.spawn(f"relay{n}", functools.partial(relay, last))
        assert await node.ask(last, Word("round")) == Word("round")
