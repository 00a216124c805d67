"""PySyncObj: three processes with one object each, which it replicates by Raft.

It is a library, and the application is a part of the group: there is no client and no connection. The load runs in the
process that leads, which sees a latency that no client of a service can have. Reads go through the log like writes, since
PySyncObj has no other that is sure to see the newest value. Its journal is a file in memory-mapped pages that it never syncs
to disk.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from .cluster import NODES, PATIENCE, Cluster, JsonProcess, Unfit, answer, free_ports, kill, questions
from .loads import KEYS, Load, Recorder, Report, value_of


class PysyncobjCluster(Cluster):
    """Three members, of which one is the client too."""

    name = "PySyncObj"
    modes = ("not fsynced",)
    remarks = (
        "PySyncObj: its journal is never synced to disk; the load runs inside of its leader, without any connection",
    )

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        super().__init__(folder, mode)
        self.members: list[JsonProcess] = []
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports(NODES)]

    @classmethod
    def missing(cls) -> str | None:
        return None if importlib.util.find_spec("pysyncobj") else "Python has no pysyncobj"

    def start(self) -> None:
        self.members = [self._member(number) for number in range(NODES)]
        self.fill(1)

    def _member(self, number: int) -> JsonProcess:
        others = [*self._addresses[:number], *self._addresses[number + 1 :]]
        arguments = [str(self.folder / f"journal{number}"), self._addresses[number], *others]
        command = [sys.executable, "-m", "benchmarks.coordination.pysyncobj", *arguments]
        return JsonProcess(command, self.folder / f"{number}.log")

    def pids(self) -> list[int]:
        return [member.pid for member in self.members]

    def leader(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            said = [member.ask(do="leads") for member in self.members]
            if any(said):
                return said.index(True)
            time.sleep(0.05)
        raise Unfit("PySyncObj has no leader")

    def fill(self, size: int) -> None:
        self.members[self.leader()].ask(do="fill", size=size)

    def can(self, load: Load) -> bool:
        return load.connections == 1  # of which it has none

    def load(self, load: Load) -> Report:
        content = {name: getattr(load, name) for name in Load.__slots__}
        return Report(**self.members[self.leader()].ask(do="load", load=content, pids=self.pids()))

    def fail_over(self) -> float:
        number = self.leader()
        survivor = self.members[(number + 1) % NODES]
        seconds = survivor.ask(do="failover", kill=self.members[number].pid)
        self.members[number].close()
        self.members[number] = self._member(number)
        return float(seconds)

    def settle(self, seconds: float = 15.0) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(member.ask(do="ready") for member in self.members):
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        for member in self.members:
            os.kill(member.pid, signal.SIGKILL)  # it takes seconds to end by itself
        for member in self.members:
            member.close()
        self.members = []


# A member -------------------------------------------------------------------------------------------------------------


def make_member(journal: str, own: str, others: list[str]) -> Any:
    """The replicated object."""
    from pysyncobj import SyncObj, SyncObjConf, replicated

    class Store(SyncObj):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            conf = SyncObjConf(journalFile=journal, fullDumpFile=f"{journal}.dump", commandsQueueSize=1_000_000)
            super().__init__(own, others, conf=conf)
            self.values: dict[str, bytes] = {}

        @replicated  # type: ignore[misc]
        def put(self, key: str, value: bytes) -> None:
            self.values[key] = value

        @replicated  # type: ignore[misc]
        def get(self, key: str) -> bytes | None:
            return self.values.get(key)

    return Store()


def key_of(number: int) -> str:
    """Of a value."""
    return f"bench/k{number % KEYS:04}"


class Member:
    """Answers questions."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def leads(self) -> bool:
        """Whether this one leads, and can work."""
        return bool(self._store._isLeader() and self._store.isReady())

    def ready(self) -> bool:
        """Whether this one takes part."""
        return bool(self._store.isReady())

    def fill(self, size: int) -> None:
        """Give every key a value."""
        value = value_of(size)
        results: queue.Queue[Any] = queue.Queue()
        for number in range(KEYS):
            self._store.put(key_of(number), value, callback=lambda _, error: results.put(error))
        errors = [error for error in (results.get(timeout=30) for _ in range(KEYS)) if error]
        if errors:
            raise Unfit(f"PySyncObj answered {errors[0]}")

    def load(self, load: dict[str, Any], pids: list[int]) -> dict[str, Any]:
        """Run a load. It calls back in its own thread, from which the next request starts."""
        wanted = Load(**load)
        value = value_of(wanted.size)
        keys = count()
        finished = threading.Semaphore(0)
        recorder = Recorder(wanted, pids)

        def begin() -> None:
            key = key_of(next(keys))
            started = time.perf_counter()

            def done(_: Any, error: Any) -> None:
                recorder.failed += bool(error)
                if recorder.done(started):
                    begin()
                else:
                    finished.release()

            if wanted.kind == "write":
                self._store.put(key, value, callback=done)
            else:
                self._store.get(key, callback=done)

        for _ in range(wanted.in_flight):
            begin()
        for _ in range(wanted.in_flight):
            if not finished.acquire(timeout=PATIENCE):
                raise Unfit("PySyncObj lost a request")
        return recorder.report().plain()

    def failover(self, kill_pid: int) -> float:
        """Kill the leader's process, and write."""
        self._write(b"before", lambda _: True)
        started = kill(kill_pid)
        self._write(b"after", lambda error: not error)
        return time.perf_counter() - started

    def _write(self, value: bytes, well: Callable[[Any], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answered: queue.Queue[Any] = queue.Queue()
            self._store.put(key_of(0), value, callback=lambda _, error, to=answered: to.put(error))
            try:
                if well(answered.get(timeout=0.5)):
                    return
            except queue.Empty:
                continue
            time.sleep(0.01)
        raise Unfit("no write succeeded for a minute")


def main() -> None:
    """Answer questions until there are no more."""
    journal, own, *others = sys.argv[1:]
    member = Member(make_member(journal, own, others))
    for question in questions():
        do = question.pop("do")
        if do == "failover":
            question["kill_pid"] = question.pop("kill")
        try:
            answer(getattr(member, do)(**question))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
