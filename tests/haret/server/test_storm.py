"""Members that change again and again while nodes crash, all at once too, and one loses its disk: nothing is lost."""

from __future__ import annotations

import logging
from random import Random

import pytest
import trio
from trio.testing import MockClock

from haret.protocol import Namespace, Reconfigure
from haret.vr.messages import GetReplicaState, OpenSession, SessionOpened
from rabble_trio import ActorDown, Pid
from tests.haret.server.worlds import Machines, open_machines

NODES = 5


class Storm:
    """What happens to a namespace; the seed decides."""

    def __init__(self, m: Machines, seed: int) -> None:
        self.m = m
        self.random = Random(seed)
        self.changes = 0
        self.opened: dict[bytes, int] = {}  # sessions that were acknowledged, by client
        self._down: set[int] = set()
        self._wiped = False

    async def crash(self, seconds: float) -> None:
        """Nodes crash and come back; in the end all run."""
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await trio.sleep(self.random.uniform(0.05, 1.5))
            number = self.random.randint(1, NODES)
            if self.random.random() < 0.1:
                await self._stop(*(set(range(1, NODES + 1)) - self._down))
                await self._start(*self.random.sample(range(1, NODES + 1), NODES))
            elif number in self._down:
                await self._start(number)
            elif len(self._down) < NODES - 1:
                await self._stop(number)
                if not self._wiped and self.random.random() < 0.2:
                    self._wiped = True
                    self.m.wipe(number)
        await self._start(*self._down)

    async def _stop(self, *numbers: int) -> None:
        self._down |= {*numbers}
        await self.m.crash(*numbers)

    async def _start(self, *numbers: int) -> None:
        await self.m.start(*numbers)
        self._down -= {*numbers}

    async def change(self) -> None:
        """Operators change the members, one after the other, each asking some node."""
        while True:
            await trio.sleep(self.random.uniform(0.1, 1.0))
            chosen = self.random.sample(range(1, NODES + 1), self.random.choice((3, 3, 4, 5)))
            pids = tuple(Pid.parse(f"r{number}::n{number}@n{number}:5000") for number in chosen)
            for number in self._some():
                entry = self.m[number].directory.get("ns")
                if entry is not None and entry.group is not None:
                    answer = await self._ask(number, self.m[number].manager, Reconfigure("ns", entry.group.epoch, pids))
                    self.changes += isinstance(answer, Namespace)

    async def write(self) -> None:
        """Clients open sessions."""
        while True:
            await trio.sleep(self.random.uniform(0.02, 0.2))
            client = self.random.randbytes(16)
            for number in self._some():
                answer = await self.open(number, client)
                if answer is not None:
                    self.opened[client] = answer

    async def open(self, number: int, client: bytes) -> int | None:
        """The session of a client, if the primary that this node knows says so."""
        entry = self.m[number].directory.get("ns")
        if entry is None or entry.primary is None:
            return None
        answer = await self._ask(number, entry.primary, OpenSession(client))
        return answer.session if isinstance(answer, SessionOpened) else None

    def _some(self) -> list[int]:
        """A node that runs, if one does."""
        running = sorted(set(range(1, NODES + 1)) - self._down)
        return self.random.sample(running, min(1, len(running)))

    async def _ask(self, number: int, to: Pid, message: object) -> object:
        with trio.move_on_after(15):
            try:
                return await self.m[number].node.ask(to, message)
            except ActorDown:
                return None
        return None

    async def calm(self) -> None:
        """Wait until all nodes know the same, all members have the same, and nobody else is kept."""
        while not await self._is_calm():  # noqa: ASYNC110  # no event tells
            await trio.sleep(0.5)

    async def _is_calm(self) -> bool:
        known = [self.m[number].directory.registry.get("ns") for number in range(1, NODES + 1)]
        group = known[0][0]
        if known.count((group,)) < NODES or any(store.kept.replicas for store in self.m.stores.values()):
            return False
        states = [await self._ask(int(pid.node.name[1:]), pid, GetReplicaState()) for pid in group.replicas]
        kinds = {(getattr(state, "status", ""), getattr(state, "digest", b"")) for state in states}
        return len(kinds) == 1 and next(iter(kinds))[0] == "normal"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_lost(autojump_clock: MockClock, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    async with open_machines(NODES) as m:
        assert isinstance(await m[1].ask(m.request()), Namespace)
        storm = Storm(m, seed)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storm.change)
            nursery.start_soon(storm.write)
            await storm.crash(20)
            nursery.cancel_scope.cancel()
        await storm.calm()
        assert storm.changes > 2
        assert len(storm.opened) > 20
        # Who opens a session again gets the same one, if it is there.
        assert [await storm.open(1, client) for client in storm.opened] == list(storm.opened.values())
