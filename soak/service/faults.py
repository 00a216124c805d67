"""Each kind of harm. Afterwards everything runs, and may need a while to heal.

    pause       SIGSTOP for at most two seconds
    freeze      SIGSTOP for so long that links are lost
    kill        SIGKILL, and a start a while later
    restart     a stop in good order, and a start
    stop        SIGKILL to all at once, and starts one after the other
    isolate     a node hears nobody, and nobody hears it
    one-way     a node hears nobody, or nobody hears it
    part        the link between two nodes is cut, and no other
    halve       the nodes are in two groups that don't hear each other
    full        there is no more room on the disk of a node, until it is killed
    read-only   a node is killed, and its disk is read-only when it starts again; that is refused, and then it is repaired
    storm       two of these at once

In half of the cases the harm is done to a node that leads. While a minority is harmed, clients must be served: within `BEAR`
seconds a write succeeds that began after the harm was done.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import trio

from .network import Link, Network
from .nodes import Broken, Server

LOOPBACK_KINDS: Final = ("pause", "freeze", "kill", "restart", "stop", "storm")
"""What can be done to any processes."""

KINDS: Final = (*LOOPBACK_KINDS, "isolate", "one-way", "part", "halve", "full", "read-only")
"""All."""

BEAR: Final = 20.0
"""Seconds until clients are served again, at most. A failover takes less than one; a client that waits for an answer of a
node that was frozen or cut off gives that up after 8, and may find the next one frozen, too."""

HARMLESS: Final = {"stop", "storm"}
"""Kinds during which clients need not be served."""


@dataclass
class Fault:
    """What was done."""

    kind: str
    victims: tuple[str, ...]
    leads: tuple[str, ...]
    """Namespaces that a victim led."""
    began: float
    """Seconds of `load.now`; so are the other times."""
    healed: float = 0.0


@dataclass
class Harm:
    """Does harm to servers. `leaders` tells who leads which namespace; `served(when)` waits until clients are served."""

    servers: Sequence[Server]
    network: Network
    random: Random
    nursery: trio.Nursery
    leaders: Callable[[], Awaitable[dict[str, str]]]
    served: Callable[[float], Awaitable[None]]
    faults: list[Fault] = field(default_factory=list)
    not_borne: list[str] = field(default_factory=list)
    """Faults during which clients were not served."""

    def __post_init__(self) -> None:
        self._kinds: dict[str, Callable[[Server], Awaitable[None]]] = {
            "pause": lambda server: self._sleeps(server, 0.1, 2),
            "freeze": lambda server: self._sleeps(server, 7, 12),
            "kill": self._kill,
            "restart": self._restart,
            "isolate": lambda server: self._cut(self._links(server, both=True)),
            "one-way": lambda server: self._cut(self._links(server, both=False)),
            "part": self._part,
            "halve": self._halve,
            "full": self._full,
            "read-only": self._read_only,
        }

    async def do(self, kind: str, kinds: Sequence[str]) -> None:
        """Do harm of this kind; `kinds` are those that a storm is made of."""
        if kind == "stop":
            await self._stop_all()
        elif kind == "storm":
            simple = [one for one in kinds if one not in HARMLESS] or ["pause"]
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(self._one, self.random.choice(simple), False)
                    await trio.sleep(self.random.uniform(0, 1))
        else:
            await self._one(kind, True)

    async def _one(self, kind: str, bear: bool) -> None:
        leaders = await self.leaders()
        server = self._victim(leaders)
        async with server.lock:
            fault = self._note(kind, [server], leaders)
            async with trio.open_nursery() as nursery:
                if bear:
                    nursery.start_soon(self._must_serve, fault)
                await self._kinds[kind](server)

    def _victim(self, leaders: dict[str, str]) -> Server:
        leading = [server for server in self.servers if server.name in leaders.values()]
        return self.random.choice(leading if leading and self.random.random() < 0.5 else list(self.servers))

    def _note(self, kind: str, servers: Sequence[Server], leaders: dict[str, str]) -> Fault:
        names = tuple(server.name for server in servers)
        leads = tuple(namespace for namespace, leader in leaders.items() if leader in names)
        fault = Fault(kind, names, leads, time.monotonic())
        self.faults.append(fault)
        return fault

    async def _must_serve(self, fault: Fault) -> None:
        with trio.move_on_after(BEAR) as patience:
            await self.served(fault.began)
        if patience.cancelled_caught:
            self.not_borne.append(f"clients were not served within {BEAR:g} s after {fault.kind} of {fault.victims[0]}")

    # Processes --------------------------------------------------------------------------------------------------------

    async def _sleeps(self, server: Server, least: float, most: float) -> None:
        server.signal(signal.SIGSTOP)
        try:
            await trio.sleep(self.random.uniform(least, most))
        finally:
            server.signal(signal.SIGCONT)

    async def _kill(self, server: Server) -> None:
        await server.kill()
        await trio.sleep(self.random.uniform(0, 6))
        await server.start(self.nursery)

    async def _restart(self, server: Server) -> None:
        await server.stop()
        await trio.sleep(self.random.uniform(0, 2))
        await server.start(self.nursery)

    async def _stop_all(self) -> None:
        self._note("stop", self.servers, await self.leaders())
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(server.kill)
        for server in self.random.sample(list(self.servers), len(self.servers)):
            await trio.sleep(self.random.uniform(0, 1))
            await server.start(self.nursery)

    # Network ----------------------------------------------------------------------------------------------------------

    async def _cut(self, links: Sequence[Link]) -> None:
        await self.network.cut(links)
        try:
            await trio.sleep(self.random.uniform(1, 12))
        finally:
            await self.network.mend(links)

    def _links(self, server: Server, *, both: bool) -> list[Link]:
        others = [other.number for other in self.servers if other is not server]
        inward = [(other, server.number) for other in others]
        outward = [(server.number, other) for other in others]
        return inward + outward if both else self.random.choice([inward, outward])

    async def _part(self, server: Server) -> None:
        other = self.random.choice([other for other in self.servers if other is not server])
        await self._cut([(server.number, other.number), (other.number, server.number)])

    async def _halve(self, server: Server) -> None:
        others = [other.number for other in self.servers if other is not server]
        few = [server.number, *self.random.sample(others, (len(self.servers) - 1) // 2 - 1)]
        many = [number for number in others if number not in few]
        await self._cut([link for one in few for other in many for link in ((one, other), (other, one))])

    # Disks ------------------------------------------------------------------------------------------------------------

    async def _full(self, server: Server) -> None:
        server.disk.fill()
        with trio.move_on_after(self.random.uniform(3, 8)):
            await server.end()
        await server.kill()
        server.disk.empty()
        await server.start(self.nursery)

    async def _read_only(self, server: Server) -> None:
        await server.kill()
        server.disk.refuse_writes(True)
        try:
            await server.start(self.nursery)
        except Broken:
            pass  # as it has to be
        else:
            raise Broken(f"{server.name} runs though it can't write to its disk")
        finally:
            await server.kill()
            server.disk.refuse_writes(False)
        await server.start(self.nursery)


def possible(kinds: Sequence[str], network: Network) -> tuple[str, ...]:
    """Those of these kinds that the network and the disks allow."""
    return tuple(kind for kind in kinds if network.can_cut or kind in LOOPBACK_KINDS)


def describe(fault: Fault) -> dict[str, Any]:
    """For machines."""
    return {"kind": fault.kind, "victims": list(fault.victims), "seconds_to_heal": round(fault.healed - fault.began, 2)}
