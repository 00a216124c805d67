"""Clusters of real processes whose network breaks: each node has a network namespace, and Linux routes between them.

The namespaces have no names: they belong to the processes in them, which end with their standard input, which ends with
this process. So nothing is left behind, however the tests end. The namespace in the middle is the router::

    n1  10.77.1.2 --- 10.77.1.1  router  10.77.2.1 --- 10.77.2.2  n2        and so on

A link is cut in one direction by a rule of the router: packets from this address to that one go into a black hole.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

NODES = (1, 2, 3)
PROGRAM = Path(__file__).with_name("network_node.py")

LOST_WITHIN = 15.0
"""Seconds: a heartbeat's timeout is 5, the other side may need as much again, and the machine is busy."""

HEALED_WITHIN = 25.0
"""Seconds: a dial into the black hole, 5, the longest pause between dials, 5, both once more, and the machine is busy."""


BOTTLENECK = "tbf rate 256kbit burst 4kb limit 1mb"
"""Lets 32,000 bytes through in a second; what is more waits."""


class Child:
    """A process in a namespace of its own."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._rest = b""

    async def write(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line.encode() + b"\n")

    async def read(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            data = await self.process.stdout.receive_some()
            if not data:
                raise EOFError(f"it ended, with {await self.process.wait()}")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()


class Lab:
    """Nodes n1, n2, ... and the router between them."""

    def __init__(self, router: Child, directory: Path) -> None:
        self._router = router
        self._directory = directory
        self._nodes: dict[int, Child] = {}
        self._established: dict[int, list[str]] = {number: [] for number in NODES}
        self.heard: dict[int, list[dict[str, Any]]] = {number: [] for number in NODES}

    async def prepare(self) -> None:
        """Start the nodes, which join the first."""
        await self._inside(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for number in NODES:
            arguments = [node_id(number)] + [node_id(1)] * (number > 1)
            command = [sys.executable, str(PROGRAM), *arguments]
            with (self._directory / f"n{number}.log").open("wb") as log:
                self._nodes[number] = child = Child(
                    await spawn(self._enter(self._router, "unshare", "--net", *command), log)
                )
            await child.read()
            link, there = f"r{number}", str(child.process.pid)
            for where, *words in (
                (self._router, "link", "add", link, "type", "veth", "peer", "name", "eth", "netns", there),
                (self._router, "address", "add", f"10.77.{number}.1/24", "dev", link),
                (self._router, "link", "set", link, "up"),
                (child, "address", "add", f"10.77.{number}.2/24", "dev", "eth"),
                (child, "link", "set", "eth", "up"),
                (child, "route", "add", "default", "via", f"10.77.{number}.1"),
            ):
                await self._inside(where, "ip", *words)
            await child.write("go")

    async def close(self) -> None:
        """End all."""
        for child in (*self._nodes.values(), self._router):
            child.process.kill()
            await child.process.wait()

    # What is done to the network --------------------------------------------------------------------------------------

    async def cut(self, source: int, target: int) -> None:
        """Let nothing pass in this direction."""
        await self._rule("add", source, target)

    async def heal(self, source: int, target: int) -> None:
        """Undo `cut`."""
        await self._rule("del", source, target)

    async def narrow(self, number: int) -> None:
        """Let what goes to this node through a bottleneck."""
        await self._inside(self._router, "tc", "qdisc", "add", "dev", f"r{number}", "root", *BOTTLENECK.split())

    async def _rule(self, action: str, source: int, target: int) -> None:
        addresses = ("from", f"10.77.{source}.2", "to", f"10.77.{target}.2")
        await self._inside(self._router, "ip", "rule", action, *addresses, "blackhole")

    def _enter(self, child: Child, *command: str) -> list[str]:
        user = ["--user", "--preserve-credentials"] if os.geteuid() != 0 else []
        return ["nsenter", "--target", str(child.process.pid), *user, "--net", *command]

    async def _inside(self, child: Child, *command: str) -> None:
        await trio.run_process(self._enter(child, *command))

    # What the nodes say -----------------------------------------------------------------------------------------------

    async def ask(self, number: int, peer: int, size: int) -> dict[str, Any]:
        """Let a node send so many bytes to another and back; returns how that ended."""
        await self._nodes[number].write(json.dumps({"to": node_id(peer), "size": size}))
        while True:
            said = await self._listen(number)
            if said["event"] in {"answered", "failed"}:
                return said

    async def until(self, links: dict[int, str]) -> None:
        """Wait until the nodes have exactly these links: {1: "n2 n3", ...}."""
        async with trio.open_nursery() as nursery:
            for number, peers in links.items():
                nursery.start_soon(self._until, number, peers.split())

    async def _until(self, number: int, peers: list[str]) -> None:
        while self._established[number] != peers:
            await self._listen(number)

    async def _listen(self, number: int) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(await self._nodes[number].read())
        if said["event"] in {"NodeUp", "NodeDown"}:
            self._established[number] = said["established"]
            self.heard[number].append(said)
        return said

    def events(self, number: int) -> list[str]:
        """What a node was known to have heard since the last call: "NodeDown n2", ...; it must know all members always."""
        heard, self.heard[number] = self.heard[number], []
        for said in heard:
            assert said["members"] == ["n1", "n2", "n3"], "unreachable is not removed"
        return [f"{said['event']} {said['node']}" for said in heard]


def node_id(number: int) -> str:
    return f"n{number}@10.77.{number}.2:5000"


async def spawn(command: list[str], log: Any = subprocess.DEVNULL) -> trio.Process:
    return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)


def new_namespace() -> list[str]:
    """What runs a command in a new network namespace; other users than root need a user namespace around it."""
    return ["unshare", *(["--user", "--map-root-user"] if os.geteuid() != 0 else []), "--net"]


def skip_unless_possible(script: str) -> None:
    """Skip the test unless this shell script succeeds in a network namespace. Skipping in Trio would lose the reason."""
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} on this machine: it comes with iproute2 or util-linux")
    done = subprocess.run([*new_namespace(), "sh", "-ec", script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"network namespaces are not permitted here, or lack something: {done.stderr.strip()}")


@pytest.fixture
def namespaces() -> None:
    """Skips the test if there can be no such network."""
    skip_unless_possible(
        "ip link add one type veth peer name two; ip rule add from 10.77.1.2 blackhole;"
        "echo 1 > /proc/sys/net/ipv4/ip_forward"
    )


@pytest.fixture
def bottleneck() -> None:
    """Skips the test if links can't be narrow."""
    skip_unless_possible(f"ip link add one type veth peer name two; tc qdisc add dev one root {BOTTLENECK}")


@pytest.fixture
async def lab(namespaces: None, tmp_path: Path) -> AsyncIterator[Lab]:
    """Three nodes that have joined."""
    router = Child(await spawn([*new_namespace(), "cat"]))
    lab = Lab(router, tmp_path)
    try:
        await router.write("are you there?")  # it is, and so is its namespace, as soon as it answers
        await router.read()
        await lab.prepare()
        with trio.fail_after(HEALED_WITHIN):
            await lab.until(ALL_LINKS)
        for heard in lab.heard.values():
            heard.clear()
        yield lab
    finally:
        with trio.CancelScope(shield=True):
            await lab.close()


ALL_LINKS = {1: "n2 n3", 2: "n1 n3", 3: "n1 n2"}


async def test_a_partition_is_noticed_by_all_and_heals_by_itself(lab: Lab) -> None:
    for other in (1, 3):
        await lab.cut(2, other)
        await lab.cut(other, 2)
    with trio.fail_after(LOST_WITHIN):
        await lab.until({1: "n3", 2: "", 3: "n1"})
    assert lab.events(1) == lab.events(3) == ["NodeDown n2"]
    assert sorted(lab.events(2)) == ["NodeDown n1", "NodeDown n3"]
    assert "no link" in (await lab.ask(1, 2, 10))["reason"]
    for other in (1, 3):
        await lab.heal(2, other)
        await lab.heal(other, 2)
    with trio.fail_after(HEALED_WITHIN):
        await lab.until(ALL_LINKS)
    assert lab.events(1) == lab.events(3) == ["NodeUp n2"]
    assert (await lab.ask(1, 2, 10))["size"] == 10


async def test_a_link_that_is_cut_in_one_direction_is_lost_in_both_and_the_others_stay(lab: Lab) -> None:
    await lab.cut(2, 1)
    with trio.fail_after(LOST_WITHIN):
        await lab.until({1: "n3", 2: "n3", 3: "n1 n2"})
    assert lab.events(1) == ["NodeDown n2"]
    assert lab.events(2) == ["NodeDown n1"]
    await lab.heal(2, 1)
    with trio.fail_after(HEALED_WITHIN):
        await lab.until(ALL_LINKS)
    assert lab.events(1) == ["NodeUp n2"]
    assert lab.events(2) == ["NodeUp n1"]
    assert (await lab.ask(3, 1, 10))["reconnects"] == {"n1": 0, "n2": 0}


async def test_a_slow_link_stays_while_one_message_takes_longer_than_heartbeats_may(bottleneck: None, lab: Lab) -> None:
    # Both sides have to give a sign of life meanwhile: one sends nothing else, and the other waits for its pong.
    await lab.narrow(2)
    with trio.fail_after(60):
        answer = await lab.ask(1, 2, 9 * 32_000)
    assert answer["event"] == "answered", answer
    assert answer["reconnects"] == {"n2": 0, "n3": 0}
    assert lab.events(1) == lab.events(2) == lab.events(3) == []
