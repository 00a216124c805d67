"""Nodes in processes of their own, which are killed and paused as the world does it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rabble_trio import ActorDown, Down, Mailbox, NodeDown, NodeId, NodeUp, Pid, Process, message, open_node

SECRET = b"0123456789abcdef"


@message(tag="test.cluster_processes.say")
class Say:
    text: str


class Echo(Process):
    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        if isinstance(message, Say) and message.text != "silence":
            output.send(sender, message, correlation_id)


async def run_node(address: str, data_dir: str) -> None:
    """What another process does."""
    async with open_node(address, secret=SECRET, data_dir=data_dir) as node:
        await node.spawn("echo", Echo)
        print(node.id, flush=True)
        await trio.sleep_forever()


@asynccontextmanager
async def process(address: str, data_dir: Path) -> AsyncIterator[tuple[trio.Process, NodeId]]:
    """A node in a process; it is killed in the end."""
    command = [sys.executable, __file__, address, str(data_dir)]
    other = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        line = b""
        while not line.endswith(b"\n"):
            line += await other.stdout.receive_some()
        yield other, NodeId.parse(line.decode().strip())
    finally:
        with trio.CancelScope(shield=True):
            other.kill()
            await other.wait()
            await other.stdout.aclose()


async def heard(mailbox: Mailbox, kind: type[Any]) -> Any:
    """The next message of a class, within the time that the heartbeats allow."""
    with trio.fail_after(20):
        async for envelope in mailbox:
            if isinstance(envelope.message, kind):
                return envelope.message
    raise AssertionError("the mailbox was closed")


async def test_a_killed_process_is_noticed_at_once_and_found_again_after_its_restart(tmp_path: Path) -> None:
    async with open_node("here@127.0.0.1:0", secret=SECRET) as node, node.open_mailbox("m") as mailbox:
        async with process("there@127.0.0.1:0", tmp_path) as (other, there):
            echo = Pid("echo", there)
            with trio.fail_after(20):
                await node.join(there)
                assert await node.ask(echo, Say("hi")) == Say("hi")
            mailbox.monitor(echo)
            mailbox.monitor_nodes()
            assert await heard(mailbox, NodeUp) == NodeUp(there)
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    with pytest.raises(ActorDown, match="node lost"):
                        await node.ask(echo, Say("silence"))

                nursery.start_soon(ask)
                await node.ask(echo, Say("the other has arrived, too"))
                other.send_signal(signal.SIGKILL)
                with trio.fail_after(4):  # the sockets tell; no heartbeat has to be missed
                    assert await heard(mailbox, Down) == Down(echo, "node lost")
                    assert (await heard(mailbox, NodeDown)).node == there
        async with process(str(there), tmp_path):  # nobody tells it to join: it has its record
            assert await heard(mailbox, NodeUp) == NodeUp(there)
            with trio.fail_after(20):
                assert await node.ask(echo, Say("welcome back")) == Say("welcome back")


async def test_a_paused_process_is_lost_and_comes_back(tmp_path: Path) -> None:
    async with (
        open_node("here@127.0.0.1:0", secret=SECRET) as node,
        node.open_mailbox("m") as mailbox,
        process("there@127.0.0.1:0", tmp_path) as (other, there),
    ):
        with trio.fail_after(20):
            await node.join(there)
        mailbox.monitor_nodes()
        assert await heard(mailbox, NodeUp) == NodeUp(there)
        other.send_signal(signal.SIGSTOP)
        assert "no sign of life" in (await heard(mailbox, NodeDown)).reason
        assert there in node.members
        other.send_signal(signal.SIGCONT)
        assert await heard(mailbox, NodeUp) == NodeUp(there)


if __name__ == "__main__":
    trio.run(run_node, *sys.argv[1:])
