"""A node for `test_network_namespaces.py`: runs as a program of its own, in a network namespace of its own.

Its arguments are its id and, to join a cluster, the id of a member. It says "ready", waits for a line, because it has no
network yet, and then tells in a line of JSON each event that it hears, and how the cluster looks after it. Each further
line that it reads is a question of its test: JSON with the id of a node and how many bytes to send there and back. It ends
with its standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from rabble_trio import ActorDown, Mailbox, Node, NodeDown, NodeId, Pid, Process, message, open_node


@message(tag="test.network_node.blob")
class Blob:
    data: bytes


class Echo(Process):
    mailbox_size = 10

    def handle(self, message: Any, sender: Any, correlation_id: Any, output: Any) -> None:
        if isinstance(message, Blob):
            output.send(sender, message, correlation_id)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def tell_events(node: Node, mailbox: Mailbox) -> None:
    mailbox.monitor_nodes()
    async for envelope in mailbox:
        status = node.cluster_status()
        say(
            event=type(envelope.message).__name__,
            node=envelope.message.node.name,
            reason=envelope.message.reason if isinstance(envelope.message, NodeDown) else None,
            established=[peer.name for peer in status.established],
            members=[peer.name for peer in status.members],
        )


async def ask(node: Node, peer: NodeId, size: int) -> None:
    try:
        reply = await node.ask(Pid("echo", peer), Blob(b"x" * size))
    except ActorDown as error:
        say(event="failed", reason=str(error))
    else:
        reconnects = {link.node.name: link.reconnects for link in node.cluster_status().links}
        say(event="answered", size=len(reply.data), reconnects=reconnects)


async def main(own: str, *seeds: str) -> None:
    say(event="ready")
    await trio.to_thread.run_sync(sys.stdin.readline)
    async with (
        open_node(own, secret=b"nobody is to guess this", insecure=True) as node,
        node.open_mailbox("events") as mailbox,
        trio.open_nursery() as nursery,
    ):
        await node.spawn("echo", Echo)
        nursery.start_soon(tell_events, node, mailbox)
        for seed in seeds:
            nursery.start_soon(node.join, seed)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            question = json.loads(line)
            nursery.start_soon(ask, node, NodeId.parse(question["to"]), question["size"])
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
