"""Starts three nodes, does harm to them for so many minutes, and judges: `python -m soak cluster --minutes 10 --seed 1`.

The faults, one after the other, each after the cluster has healed from the one before:

    pause      SIGSTOP and SIGCONT, within the heartbeats' limit: links stay, and what was sent meanwhile arrives
    freeze     the same, beyond that limit: links are lost, by the other nodes first
    kill       SIGKILL, and a start from the same data directory
    restart    a stop in good order, and a start from the same data directory
    replace    SIGKILL, and a start without any data: it joins again by one of the others, its seed

The first node is only paused and frozen. A node that ends otherwise, or a cluster that does not heal, ends the soak.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import trio

from .report import Life, Results

NODES: Final = 3

HEAL: Final = 30.0
"""Seconds in which a cluster has to heal: a heartbeat's timeout, the longest pause between dials, a dial's timeout, twice."""

STOP: Final = 15.0
"""Seconds in which a node has to stop in good order."""

PROGRESS: Final = 10.0
"""Seconds between two lines that say how things are."""

FAULTS: Final = ("pause", "freeze", "kill", "restart", "replace")


class Broken(Exception):
    """The soak can't go on."""


class Running:
    """A node process."""

    def __init__(self, life: Life, process: trio.Process) -> None:
        self.life = life
        self.process = process
        self.may_end = False
        self.reports = 0
        self.changed = trio.Event()  # set at the next report, and at the end


class Soak:
    """Three nodes, and what is done to them."""

    def __init__(self, directory: Path, seed: int, nursery: trio.Nursery) -> None:
        self.lives: list[Life] = []
        self.faults: Counter[str] = Counter()
        self.heal_times: list[float] = []
        self.violations: list[str] = []
        self._directory = directory
        self._rng = random.Random(seed)
        self._nursery = nursery
        self._addresses = {f"n{number}": f"n{number}@{address}" for number, address in enumerate(_free_addresses(), 1)}
        self._running: dict[str, Running] = {}
        self._generations = 0
        self._quiet = False

    async def run(self, seconds: float) -> None:
        """Do harm for so many seconds, and end with the cluster as it was."""
        end = trio.current_time() + seconds
        names = list(self._addresses)
        try:
            for name in names:
                await self.start(name, None if name == names[0] else names[0])
            await self.healed()
            while trio.current_time() < end:
                await self.stay_quiet(self._rng.uniform(3, 6))
                kind = self._rng.choice(FAULTS)
                name = self._rng.choice(names if kind in {"pause", "freeze"} else names[1:])
                self.faults[kind] += 1
                await self.harm(kind, name)
                await self.healed()
            await self.stay_quiet(max(1.0, min(12.0, seconds / 10)))
            for name in names:
                await self.stop(name)
        except Broken as broken:
            self.violations.append(str(broken))
        finally:
            for running in self._running.values():
                running.may_end = True
                running.process.kill()  # a stopped process too

    async def stay_quiet(self, seconds: float) -> None:
        """Leave the cluster alone, and measure it after a second."""
        await trio.sleep(1)
        self._quiet = True
        await trio.sleep(seconds - 1)
        self._quiet = False

    async def harm(self, kind: str, name: str) -> None:
        """Do one of `FAULTS` to a node; afterwards it runs."""
        process = self._running[name].process
        if kind in {"pause", "freeze"}:
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(self._rng.uniform(1, 3) if kind == "pause" else self._rng.uniform(7, 12))
            process.send_signal(signal.SIGCONT)
        elif kind == "restart":
            await self.stop(name)
            await self.start(name, None)
        else:
            self._running[name].may_end = True
            process.kill()
            await process.wait()
            await trio.sleep(self._rng.uniform(0, 8))
            seed = None
            if kind == "replace":
                shutil.rmtree(self._data(name))
                seed = self._rng.choice([other for other in self._addresses if other != name])
            await self.start(name, seed)

    async def healed(self) -> None:
        """Wait until all nodes have said, from now on, that they have links to all others."""
        start = trio.current_time()
        before = {name: running.reports for name, running in self._running.items()}
        with trio.move_on_after(HEAL):
            for name, running in self._running.items():
                others = sorted(self._running.keys() - {name})
                while running.reports <= before[name] or running.life.last["established"] != others:
                    await running.changed.wait()
                    if running.process.returncode is not None:
                        raise Broken(f"{name} has ended, with {running.process.returncode}")
            self.heal_times.append(trio.current_time() - start)
            return
        seen = {name: running.life.last.get("established") for name, running in self._running.items()}
        raise Broken(f"the cluster did not heal within {HEAL:g} s; links: {seen}")

    # Processes --------------------------------------------------------------------------------------------------------

    async def start(self, name: str, seed: str | None) -> None:
        """Start a node; without data it joins by the seed."""
        self._generations += 1
        options = {
            "id": self._addresses[name],
            "peers": [address for other, address in self._addresses.items() if other != name],
            "generation": self._generations,
            "data_dir": str(self._data(name)),
            "seed": None if seed is None else self._addresses[seed],
        }
        life = Life(name, self._generations)
        with (self._directory / f"{name}.log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "soak.cluster.node", json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.lives.append(life)
        self._running[name] = running = Running(life, process)
        self._nursery.start_soon(self._read, running)

    async def stop(self, name: str) -> None:
        """Stop a node in good order."""
        running = self._running[name]
        running.may_end = True
        assert running.process.stdin is not None
        await running.process.stdin.aclose()
        with trio.move_on_after(STOP):
            code = await running.process.wait()
            if code != 0:
                raise Broken(f"{name} was stopped, and ended with {code}")
            return
        raise Broken(f"{name} did not stop within {STOP:g} s")

    async def _read(self, running: Running) -> None:
        """Take the reports of a process until it ends."""
        life, process = running.life, running.process
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                life.last = json.loads(line)
                running.reports += 1
                if self._quiet:
                    life.quiet.append(life.last)
            running.changed.set()
            running.changed = trio.Event()
        code = await process.wait()
        if not running.may_end:
            self.violations.append(f"{life.name} ended by itself, with {code}")
        running.changed.set()

    def _data(self, name: str) -> Path:
        return self._directory / f"{name}.data"

    async def say_progress(self) -> None:
        """Say how things are, until cancelled."""
        start = trio.current_time()
        while True:
            await trio.sleep(PROGRESS)
            nodes = (
                f"{name} {running.life.last.get('rss', 0) / 2**20:.1f} MiB {running.life.last.get('tasks', 0)} tasks"
                for name, running in sorted(self._running.items())
            )
            results = self.results(trio.current_time() - start, 0)
            print(
                f"{results.seconds:>6.0f} s  {results.counts()['received']:>9} received  {self.faults.total():>4} faults  "
                f"{len(results.all_violations())} violations  " + ", ".join(nodes),
                flush=True,
            )

    def results(self, seconds: float, seed: int) -> Results:
        """Up to now."""
        return Results(seconds, seed, self.lives, self.faults, self.heal_times, self.violations)


def _free_addresses() -> list[str]:
    """For the nodes, which have to keep theirs when they are started again."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(NODES)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


async def soak(directory: Path, seconds: float, seed: int) -> Results:
    """Run a soak."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        soak = Soak(directory, seed, nursery)
        async with trio.open_nursery() as progress:
            progress.start_soon(soak.say_progress)
            await soak.run(seconds)
            progress.cancel_scope.cancel()
    return soak.results(trio.current_time() - start, seed)
