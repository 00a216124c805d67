"""The program of one node. Its argument is JSON: id, peers, generation, data_dir, and seed, the node to join by, or null.

Prints a line of JSON every second, and ends in good order with its standard input.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trio

from rabble_trio import Node, NodeId, open_node

from .traffic import Sink, ask_questions, send_numbers

SECRET = b"known to all three of us"

REPORT = 1.0
"""Seconds between two reports."""


async def main(options: dict[str, Any]) -> None:
    """Run the node."""
    counts: Counter[str] = Counter()
    violations: list[str] = []
    async with (
        open_node(options["id"], secret=SECRET, data_dir=options["data_dir"]) as node,
        node.open_mailbox("source") as mailbox,
        trio.open_nursery() as nursery,
    ):
        await node.spawn("sink", lambda: Sink(counts, violations))
        for peer in options["peers"]:
            name = NodeId.parse(peer).name
            nursery.start_soon(send_numbers, node, mailbox, name, options["generation"], counts)
            nursery.start_soon(ask_questions, node, name, counts, violations)
        nursery.start_soon(report, node, counts, violations)
        if options["seed"] is not None and len(node.members) == 1:
            nursery.start_soon(node.join, options["seed"])
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


async def report(node: Node, counts: Counter[str], violations: list[str]) -> None:
    """Say how things are."""
    while True:
        status = node.cluster_status()
        statistics = node.statistics()
        gc.collect()  # or what is measured is when the collector last ran
        line = {
            "time": time.monotonic(),
            "rss": resident(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "files": len(os.listdir("/proc/self/fd")),
            "established": [peer.name for peer in status.established],
            "members": len(status.members),
            "reconnects": sum(link.reconnects for link in status.links),
            "asks_pending": statistics.asks_pending,
            "messages_waiting": statistics.messages_waiting,
            "dead_letters": dict(node.executor_status().dead_letters),
            "counts": dict(counts),
            "violations": violations,
        }
        print(json.dumps(line), flush=True)
        await trio.sleep(REPORT)


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
