"""Starts servers and clients, does harm to the servers for a while, and judges what the clients were told.

Faults come one after the other (a storm is two at once), each after the servers have healed from the one before: all have
links to all, every replica is normal, and clients are served. Servers that do not heal, and those that end by themselves,
are violations, too. The histories of the clients are kept if anything was wrong; `python -m soak check FILE` reads them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import trio

import haret

from .checker import check
from .faults import KINDS, Harm, possible
from .load import Load, Record, now
from .network import Network, enter, is_inside, open_network
from .nodes import Broken, Server, write_secret
from .report import Results

NAMESPACES: Final = ("apples", "pears")
"""Several, since the groups of a node share its links, its disk and its time."""

HEAL: Final = 45.0
"""Seconds in which everything has to be as it was: a node that comes back may have missed all that was done meanwhile."""

LOOK: Final = 0.25
"""Seconds between two looks whether it is."""

ASK: Final = 3.0
"""Seconds that a server has to answer a question."""

PROGRESS: Final = 10.0
"""Seconds between two lines that say how things are."""


def enter_network(arguments: Sequence[str]) -> None:
    """Run this command anew in namespaces of its own, if that is possible and it does not."""
    if not is_inside():
        Soak.skipped = enter([sys.executable, "-m", "soak", *arguments])


class Soak:
    """Servers, clients, and what is done to them."""

    skipped: str | None = None
    """Why the network can't be cut."""

    def __init__(self, directory: Path, network: Network, nodes: int, seed: int, nursery: trio.Nursery) -> None:
        self.others: list[str] = []
        self.records = [Record(name, directory / f"{name}.history") for name in NAMESPACES]
        secret = write_secret(directory)
        self.servers = [Server(number, directory, network, secret) for number in range(1, nodes + 1)]
        self._nursery = nursery
        self._random = Random(seed)
        self.harm = Harm(self.servers, network, Random(seed), nursery, self.leaders, self.served)

    async def run(self, seconds: float, kinds: Sequence[str]) -> None:
        """All of it."""
        new_number: Callable[[], int] = itertools.count(1).__next__
        try:
            await self._start()
            stopping = trio.Event()
            endpoints = [server.clients for server in self.servers]
            loads = [Load(record, endpoints, self._random, new_number) for record in self.records]
            for load in loads:
                await load.prepare()
            async with trio.open_nursery() as clients:
                for load in loads:
                    clients.start_soon(load.run, stopping)
                await self._harm(trio.current_time() + seconds, kinds)
                stopping.set()
                clients.cancel_scope.deadline = trio.current_time() + HEAL
            for load in loads:
                await load.read_everything()
            for server in self.servers:
                await server.stop()
        except* Broken as group:
            self.others += [str(broken) for broken in flat(group)]
        finally:
            for server in self.servers:
                server.abandon()
                self.others += server.ends
            for record in self.records:
                record.close()
            self.others += self.harm.not_borne

    async def _start(self) -> None:
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(server.start, self._nursery)
        first, *others = self.servers
        for server in others:
            async with haret.open_admin(server.admin) as admin:
                await admin.join(first.id)
        async with haret.open_admin(first.admin) as admin:
            for name in NAMESPACES:
                await admin.create_namespace(name, [f"r{server.number}::{server.id}" for server in self.servers])

    async def _harm(self, end: float, kinds: Sequence[str]) -> None:
        await self.healed()
        await trio.sleep(1)
        deck: list[str] = []  # each kind comes once before any comes again
        while trio.current_time() < end:
            deck = deck or self._random.sample(kinds, len(kinds))
            await self.harm.do(deck.pop(), kinds)
            await self.healed()
            for fault in self.harm.faults:
                fault.healed = fault.healed or now()
            await trio.sleep(self._random.uniform(1, 4))

    # How things are ---------------------------------------------------------------------------------------------------

    async def served(self, since: float) -> None:
        """Wait until each namespace has answered a write that began after this time."""
        for record in self.records:
            await record.written_after(since)

    async def healed(self) -> None:
        """Wait until everything is as it should be. Raises `Broken`."""
        with trio.move_on_after(HEAL) as patience:
            for server in self.servers:
                trouble = await self._trouble(server)
                while trouble is not None:
                    await trio.sleep(LOOK)
                    trouble = await self._trouble(server)
            trouble = "clients are not served"
            if self.records[0].written:  # not before there are clients
                await self.served(now())
        if patience.cancelled_caught:
            raise Broken(f"the servers did not heal within {HEAL:g} s: {trouble}")

    async def _trouble(self, server: Server) -> str | None:
        """What is wrong with a server."""
        others = {other.id for other in self.servers} - {server.id}
        trouble = "it does not answer"
        try:
            with trio.move_on_after(ASK):
                async with haret.open_admin(server.admin) as admin:
                    linked = {str(peer) for peer in (await admin.cluster_status()).established}
                    for name in NAMESPACES:
                        replica = await admin.replica(f"{name}::r{server.number}::{server.id}")
                        if replica.status != "normal":
                            return f"the replica of {name} on {server.name} is {replica.status}"
                return None if linked == others else f"{server.name} has links to {sorted(linked)}"
        except haret.HaretError as error:
            trouble = f"{type(error).__name__}: {error}"
        return f"{server.name}: {trouble}"

    async def leaders(self) -> dict[str, str]:
        """Who leads which namespace, as far as anybody says in time."""
        for server in self.servers:
            try:
                with trio.move_on_after(ASK):
                    async with haret.open_admin(server.admin) as admin:
                        found = await admin.namespaces()
                    return {one.name: one.primary.node.name for one in found if one.primary is not None}
            except haret.HaretError:
                continue
        return {}

    async def say_progress(self) -> None:
        """Say how things are, until cancelled."""
        start = trio.current_time()
        while True:
            await trio.sleep(PROGRESS)
            faults = self.harm.faults
            last = f", the last one {faults[-1].kind} of {' '.join(faults[-1].victims)}" if faults else ""
            calls = sum(len(record.calls) for record in self.records)
            print(f"{trio.current_time() - start:>6.0f} s  {calls:>9} calls  {len(faults):>4} faults{last}", flush=True)


def flat(group: BaseExceptionGroup[Broken]) -> Iterator[Broken]:
    """The exceptions in a group, and in groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flat(error)
        else:
            yield error


async def soak(directory: Path, seconds: float, seed: int, nodes: int = 3, kinds: Sequence[str] = KINDS) -> Results:
    """Run a soak, and judge it."""
    start = trio.current_time()
    async with open_network(nodes) as network, trio.open_nursery() as nursery:
        soak = Soak(directory, network, nodes, seed, nursery)
        nursery.start_soon(soak.say_progress)
        await soak.run(seconds, possible(kinds, network))
        nursery.cancel_scope.cancel()
    results = Results(trio.current_time() - start, seed, nodes, soak.harm.faults, soak.records, Soak.skipped)
    results.others += soak.others
    for record in soak.records:
        results.verdicts[record.namespace] = check(record.calls)
    for server in soak.servers:
        server.disk.close(keep=bool(results.all_violations()))
    return results
