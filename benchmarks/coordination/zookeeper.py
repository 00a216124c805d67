"""ZooKeeper: three servers (Debian's zookeeper), and kazoo.

One KazooClient is one connection, to the leader. Requests are started with kazoo's `_async` methods, so that they go out in
a pipeline, and each that completes starts the next. A read of ZooKeeper may be stale; here a `sync` goes before it on the
same connection, which makes it see all that was committed when it began.
"""

from __future__ import annotations

import importlib.util
import pathlib
import shutil
import socket
import threading
import time
from itertools import count
from typing import Any

from .cluster import NODES, Cluster, Unfit, answer, free_ports, kill, questions
from .loads import KEYS, Load, Recorder, value_of

JARS = pathlib.Path("/usr/share/java")
"""Where Debian keeps them; the jar of ZooKeeper names those that it needs."""

MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


class ZookeeperCluster(Cluster):
    """Three ZooKeepers, which sync every write to disk (forceSync, by default)."""

    name = "ZooKeeper, kazoo"
    module = "zookeeper"
    remarks = ("ZooKeeper: a read is `sync` and `get`, which makes it as fresh as the others'",)

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        super().__init__(folder, mode)
        ports = free_ports(3 * NODES)
        self.clients, pairs = ports[:NODES], ports[NODES:]
        names = [
            f"server.{number + 1}=127.0.0.1:{pairs[2 * number]}:{pairs[2 * number + 1]}" for number in range(NODES)
        ]
        for number, port in enumerate(self.clients):
            data = folder / f"data{number}"
            data.mkdir()
            (data / "myid").write_text(f"{number + 1}\n")
            lines = [
                "tickTime=2000",
                "initLimit=10",
                "syncLimit=5",
                f"dataDir={data}",
                f"clientPort={port}",
                "clientPortAddress=127.0.0.1",
                "admin.enableServer=false",
                "4lw.commands.whitelist=srvr",
                "maxClientCnxns=0",
                *names,
            ]
            (folder / f"{number}.cfg").write_text("\n".join(lines) + "\n")

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("java") is None or not (JARS / "zookeeper.jar").exists():
            return "there is no java or no zookeeper (Debian's package)"
        if importlib.util.find_spec("kazoo") is None:
            return "Python has no kazoo"
        return None

    def command(self, number: int) -> list[str]:
        settings = ["-Dzookeeper.root.logger=ERROR,CONSOLE", "-Xmx512m"]
        return ["java", *settings, "-cp", str(JARS / "zookeeper.jar"), MAIN, f"{number}.cfg"]

    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.clients]

    def prepare(self) -> None:
        for number, port in enumerate(self.clients):
            self.wait_until_listening(number, port)


# The client -----------------------------------------------------------------------------------------------------------


def path_of(number: int) -> str:
    """Where a value is."""
    return f"/bench/k{number % KEYS:04}"


def mode_of(endpoint: str) -> str:
    """What a server says that it is: "leader", "follower", or nothing."""
    host, _, port = endpoint.partition(":")
    try:
        with socket.create_connection((host, int(port)), 1) as connection:
            connection.sendall(b"srvr")
            said = connection.makefile().read()
    except OSError:
        return ""
    return next((line.partition(": ")[2] for line in said.splitlines() if line.startswith("Mode")), "")


class KazooQuestions:
    """Answers questions."""

    def open(self, endpoints: list[str]) -> Any:
        """A session."""
        from kazoo.client import KazooClient

        client = KazooClient(hosts=",".join(endpoints), timeout=4.0, randomize_hosts=False)
        client.start(timeout=20)
        return client

    def leader(self, endpoints: list[str]) -> int:
        """Which one leads."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            modes = [mode_of(endpoint) for endpoint in endpoints]
            if "leader" in modes:
                return modes.index("leader")
            time.sleep(0.05)
        raise Unfit("ZooKeeper has no leader")

    def fill(self, size: int, endpoints: list[str]) -> None:
        """Give every node a value."""
        value = value_of(size)
        client = self.open(endpoints)
        client.ensure_path("/bench")
        if client.exists(path_of(0)):
            waiting = [client.set_async(path_of(number), value) for number in range(KEYS)]
        else:
            waiting = [client.create_async(path_of(number), value) for number in range(KEYS)]
        for one in waiting:
            one.get(timeout=30)
        client.stop()
        client.close()

    def load(self, load: dict[str, Any], endpoints: list[str], pids: list[int]) -> dict[str, Any]:
        """Run a load."""
        wanted = Load(**load)
        value = value_of(wanted.size)
        keys = count()
        clients = [self.open(endpoints) for _ in range(wanted.connections)]
        for client in clients:
            client.get(path_of(0))
        finished = threading.Semaphore(0)
        lock = threading.Lock()  # each client calls back in a thread of its own
        recorder = Recorder(wanted, pids)

        def begin(client: Any) -> None:
            path = path_of(next(keys))
            started = time.perf_counter()

            def done(result: Any) -> None:
                with lock:
                    recorder.failed += result.exception is not None
                    going = recorder.done(started)
                if going:
                    begin(client)
                else:
                    finished.release()

            if wanted.kind == "write":
                client.set_async(path, value).rawlink(done)
            else:
                client.sync_async(path)
                client.get_async(path).rawlink(done)

        for number in range(wanted.in_flight):
            begin(clients[number % len(clients)])
        for _ in range(wanted.in_flight):
            finished.acquire()
        done = recorder.report().plain()
        for client in clients:
            client.stop()
            client.close()
        return done

    def failover(self, kill_pid: int, endpoints: list[str]) -> float:
        """Kill the leader's process, and write with a client of the others, and one of its own: the first counts."""
        first = threading.Event()
        numbers = range(len(endpoints))
        clients = [self.open([*endpoints[number:], *endpoints[:number]]) for number in numbers]
        for client in clients:
            client.set(path_of(0), b"before")
        started = kill(kill_pid)

        def work(client: Any) -> None:
            from kazoo.exceptions import KazooException

            while not first.is_set():
                try:
                    client.set(path_of(0), b"after")
                except KazooException:
                    time.sleep(0.01)
                else:
                    first.set()

        for client in clients:
            threading.Thread(target=work, args=(client,), daemon=True).start()
        if not first.wait(60):
            raise Unfit("no write succeeded for a minute")
        seconds = time.perf_counter() - started
        for client in clients:
            client.stop()
            client.close()
        return seconds

    def settle(self, seconds: float, endpoints: list[str]) -> bool:
        """Wait until every server is leader or follower."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(mode_of(endpoint) in {"leader", "follower"} for endpoint in endpoints):
                return True
            time.sleep(0.05)
        return False


def main() -> None:
    """Answer questions until there are no more."""
    client = KazooQuestions()
    for question in questions():
        do = question.pop("do")
        if do == "failover":
            question["kill_pid"] = question.pop("kill")
        try:
            answer(getattr(client, do)(**question))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
