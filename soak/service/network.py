"""Where servers live: in network namespaces of Linux with a router between them, or all on the loopback.

`enter` puts this process into a network and a mount namespace of its own; this process is the router. Each node has an
*anchor*, a process that does nothing but keep the node's network namespace while the node itself comes and goes::

    n1  10.77.1.2 --- 10.77.1.1  here  10.77.2.1 --- 10.77.2.2  n2        and so on

A link is cut in one direction by a rule of the router: packets from this address to that one go into a black hole. The
clients are here, so what they say to nodes is never cut. All of it is gone with the processes.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

INSIDE: Final = "SOAK_NETWORK"
"""The environment variable that tells a process that it is in the namespaces."""

_TRIAL: Final = (
    "ip link add one type veth peer name two; ip rule add from 10.77.1.2 blackhole; echo 1 > /proc/sys/net/ipv4/ip_forward;"
    'mount -t tmpfs -o size=1m tmpfs "$1"; mount -o remount,ro "$1"'
)
"""What will be needed, as a shell script. `$1` is a directory."""

Link = tuple[int, int]
"""From one node, by number, to another."""


class Network(Protocol):
    """What a network can do."""

    can_cut: bool
    """Whether links can be cut; then there are disks that can be harmed, too."""

    def addresses(self, number: int) -> tuple[str, str, str]:
        """Where a node listens: for nodes, for operators, for clients."""

    def inside(self, number: int) -> list[str]:
        """What to put before a command so that it runs where the node is."""

    async def cut(self, links: Iterable[Link]) -> None:
        """Let nothing pass, until as many calls of `mend` undo it."""

    async def mend(self, links: Iterable[Link]) -> None:
        """Undo `cut`."""


def enter(command: Sequence[str]) -> str:
    """Run a command in place of this process, in namespaces of its own. Returns why that is not possible."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if missing:
        return f"there is no {', '.join(missing)} on this machine"
    unshare = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() != 0 else []), "--net", "--mount"]
    tried = subprocess.run([*unshare, "sh", "-ec", _TRIAL, "sh", "/mnt"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"namespaces are not permitted here, or lack something: {tried.stderr.strip()}"
    os.execvpe(unshare[0], [*unshare, *command], {**os.environ, INSIDE: "1"})
    raise AssertionError("this process is another one now")


def is_inside() -> bool:
    """Whether this process is in namespaces of its own."""
    return INSIDE in os.environ


@asynccontextmanager
async def open_network(count: int) -> AsyncIterator[Network]:
    """The network for so many nodes: one that can be cut if `enter` succeeded."""
    if not is_inside():
        yield Loopback(count)
        return
    namespaces = Namespaces()
    try:
        await namespaces.prepare(count)
        yield namespaces
    finally:
        with trio.CancelScope(shield=True):
            await namespaces.close()


class Loopback:
    """All nodes on 127.0.0.1, each on three ports that were free."""

    can_cut = False

    def __init__(self, count: int) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3 * count)]
        self._ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()

    def addresses(self, number: int) -> tuple[str, str, str]:
        """See `Network`."""
        nodes, operators, clients = (f"127.0.0.1:{port}" for port in self._ports[3 * number - 3 : 3 * number])
        return nodes, operators, clients

    def inside(self, number: int) -> list[str]:
        """See `Network`."""
        return []

    async def cut(self, links: Iterable[Link]) -> None:
        """See `Network`."""
        raise NotImplementedError("the loopback can't be cut")

    mend = cut


class Namespaces:
    """See the top of the file."""

    can_cut = True

    def __init__(self) -> None:
        self._anchors: dict[int, trio.Process] = {}
        self._cuts: Counter[Link] = Counter()

    async def prepare(self, count: int) -> None:
        """Make the namespaces and the links."""
        await trio.run_process(["sh", "-ec", "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward"])
        for number in range(1, count + 1):
            anchor = self._anchors[number] = await trio.lowlevel.open_process(
                ["unshare", "--net", "sh", "-c", "echo; exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            )
            assert anchor.stdout is not None
            await anchor.stdout.receive_some()  # it is in its namespace now
            link = f"r{number}"
            for prefix, words in (
                ([], f"link add {link} type veth peer name eth netns {anchor.pid}"),
                ([], f"address add 10.77.{number}.1/24 dev {link}"),
                ([], f"link set {link} up"),
                (self.inside(number), "link set lo up"),
                (self.inside(number), f"address add 10.77.{number}.2/24 dev eth"),
                (self.inside(number), "link set eth up"),
                (self.inside(number), f"route add default via 10.77.{number}.1"),
            ):
                await trio.run_process([*prefix, "ip", *words.split()])

    async def close(self) -> None:
        """End the anchors."""
        for anchor in self._anchors.values():
            anchor.kill()
            await anchor.wait()

    def addresses(self, number: int) -> tuple[str, str, str]:
        """See `Network`."""
        host = f"10.77.{number}.2"
        return f"{host}:5000", f"{host}:5001", f"{host}:5002"

    def inside(self, number: int) -> list[str]:
        """See `Network`."""
        return ["nsenter", "--target", str(self._anchors[number].pid), "--net"]

    async def cut(self, links: Iterable[Link]) -> None:
        """See `Network`."""
        for link in links:
            self._cuts[link] += 1
            if self._cuts[link] == 1:
                await self._rule("add", link)

    async def mend(self, links: Iterable[Link]) -> None:
        """See `Network`."""
        for link in links:
            self._cuts[link] -= 1
            if self._cuts[link] == 0:
                await self._rule("del", link)

    async def _rule(self, action: str, link: Link) -> None:
        source, target = link
        words = f"rule {action} from 10.77.{source}.2 to 10.77.{target}.2 blackhole"
        with trio.CancelScope(shield=True):  # what was counted is done
            await trio.run_process(["ip", *words.split()])
