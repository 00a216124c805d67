"""etcd: three `etcd` (Debian's etcd-server), and gRPC from Python.

One channel is one connection, to the leader; as many coroutines as there are requests in flight make unary calls. The few
messages are written by hand, for nothing more of etcd's interface is needed. A client in Python takes a good part of the
machine, so where there is an h2load (Debian's nghttp2-client, in C) it measures the same loads as well, as "etcd, h2load".
"""

from __future__ import annotations

import asyncio
import importlib.util
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from .cluster import NODES, Cluster, Unfit, answer, free_ports, kill, questions
from .loads import KEYS, Load, Recorder, Report, cpu_seconds, report, value_of


class EtcdCluster(Cluster):
    """Three `etcd`, which sync every write to disk."""

    name = "etcd"
    module = "etcd"

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        super().__init__(folder, mode)
        ports = free_ports(2 * NODES)
        self.clients, self.peers = ports[:NODES], ports[NODES:]

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("etcd") is None:
            return "there is no etcd (Debian's etcd-server)"
        if importlib.util.find_spec("grpc") is None:
            return "Python has no grpcio"
        return None

    def command(self, number: int) -> list[str]:
        client, peer = (f"http://127.0.0.1:{ports[number]}" for ports in (self.clients, self.peers))
        members = ",".join(f"e{other}=http://127.0.0.1:{port}" for other, port in enumerate(self.peers))
        own = ["--name", f"e{number}", "--data-dir", f"data{number}", "--logger", "zap"]
        ours = ["--listen-client-urls", client, "--advertise-client-urls", client]
        theirs = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        return ["etcd", *own, *ours, *theirs, "--initial-cluster", members, "--log-level", "error"]

    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.clients]

    def prepare(self) -> None:
        for number, port in enumerate(self.clients):
            self.wait_until_listening(number, port)


class EtcdH2loadCluster(EtcdCluster):
    """The same servers, and a client in C. It writes and reads one key."""

    name = "etcd, h2load"
    remarks = ("h2load: a client in C, which puts together no requests and reads no answers",)

    @classmethod
    def missing(cls) -> str | None:
        without = None if shutil.which("h2load") else "there is no h2load (Debian's nghttp2-client)"
        return super().missing() or without

    def can(self, load: Load) -> bool:
        return load.size < 1024  # the small ones show what there is to see

    def load(self, load: Load) -> Report:
        method, body = (
            ("Put", put(key_of(0), value_of(load.size))) if load.kind == "write" else ("Range", get(key_of(0)))
        )
        request, log = self.folder / "request", self.folder / "latencies"
        request.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        log.unlink(missing_ok=True)
        streams = max(1, load.in_flight // load.connections)
        times = [f"-D{load.seconds * 1000:.0f}ms", f"--warm-up-time={load.warm_up * 1000:.0f}ms"]
        sizes = [f"-c{load.connections}", f"-m{streams}", *times]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        url = f"http://{self._leader_first()[0]}/etcdserverpb.KV/{method}"
        command = ["h2load", "-t1", *sizes, "-d", str(request), *headers, f"--log-file={log}", url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(load.warm_up)
        opened = time.perf_counter(), cpu_seconds([process.pid, *self.pids()])
        time.sleep(load.seconds)
        closed = time.perf_counter(), cpu_seconds([process.pid, *self.pids()])
        process.wait()
        if not log.exists():
            raise Unfit(f"h2load ended with {process.returncode}")
        lines = [line.split() for line in log.read_text().splitlines()]
        latencies = [int(microseconds) / 1e6 for _, status, microseconds in lines if status == "200"]
        return report(latencies, closed[0] - opened[0], closed[1] - opened[1], len(lines) - len(latencies))


# The client -----------------------------------------------------------------------------------------------------------


def key_of(number: int) -> bytes:
    """Of a value."""
    return b"bench/k%04d" % (number % KEYS)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's format."""
    return bytes((number << 3 | 2,)) + varint(len(content)) + content


def varint(number: int) -> bytes:
    """A whole number in protobuf's format."""
    done = bytearray()
    while number > 127:
        done.append(number & 127 | 128)
        number >>= 7
    return bytes((*done, number))


def put(key: bytes, value: bytes) -> bytes:
    """PutRequest."""
    return field(1, key) + field(2, value)


def get(key: bytes) -> bytes:
    """RangeRequest for one key. It is linearizable unless it says otherwise."""
    return field(1, key)


def numbers(data: bytes) -> Iterator[tuple[int, int]]:
    """The fields of a message that are whole numbers."""
    place = 0

    def whole() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = data[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while place < len(data):
        tag = whole()
        if tag & 7 == 0:
            yield tag >> 3, whole()
        else:
            length = whole()
            place += length


class EtcdClient:
    """Answers questions."""

    def __init__(self) -> None:
        import grpc.aio

        self._grpc = grpc

    def channel(self, endpoint: str) -> Any:
        """A connection of its own: gRPC would share one."""
        patience = ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)
        return self._grpc.aio.insecure_channel(endpoint, options=[("grpc.use_local_subchannel_pool", 1), *patience])

    async def leader(self, endpoints: list[str]) -> int:
        """Which one leads, by its own words."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for number, endpoint in enumerate(endpoints):
                async with self.channel(endpoint) as channel:
                    status = channel.unary_unary("/etcdserverpb.Maintenance/Status")
                    try:
                        said = await status(b"", timeout=1)
                    except self._grpc.aio.AioRpcError:
                        continue
                found = dict(numbers(said))
                if found.get(4) and found.get(4) == self._member(said):
                    return number
            await asyncio.sleep(0.05)
        raise Unfit("etcd has no leader")

    @staticmethod
    def _member(status: bytes) -> int:
        """Who answered: the header is the first field of the answer, and the member the second of the header."""
        header = status[2 : 2 + status[1]]
        return dict(numbers(header))[2]

    async def fill(self, size: int, endpoints: list[str]) -> None:
        """Give every key a value."""
        value = value_of(size)
        async with self.channel(endpoints[0]) as channel:
            write = channel.unary_unary("/etcdserverpb.KV/Put")
            await asyncio.gather(*(write(put(key_of(number), value)) for number in range(KEYS)))

    async def load(self, load: dict[str, Any], endpoints: list[str], pids: list[int]) -> dict[str, Any]:
        """Run a load."""
        wanted = Load(**load)
        value = value_of(wanted.size)
        keys = count()
        channels = [self.channel(endpoints[0]) for _ in range(wanted.connections)]
        writes = [channel.unary_unary("/etcdserverpb.KV/Put") for channel in channels]
        reads = [channel.unary_unary("/etcdserverpb.KV/Range") for channel in channels]
        for read in reads:
            await read(get(key_of(0)))  # so that it is connected
        recorder = Recorder(wanted, pids)

        async def work(number: int) -> None:
            write, read = writes[number % len(writes)], reads[number % len(reads)]
            going = True
            while going:
                key = key_of(next(keys))
                started = time.perf_counter()
                try:
                    if wanted.kind == "write":
                        await write(put(key, value))
                    else:
                        await read(get(key))
                except self._grpc.aio.AioRpcError:
                    recorder.failed += 1
                going = recorder.done(started)

        await asyncio.gather(*(work(number) for number in range(wanted.in_flight)))
        done = recorder.report().plain()
        for channel in channels:
            await channel.close()
        return done

    async def failover(self, kill_pid: int, endpoints: list[str]) -> float:
        """Kill the leader's process, and write to whichever server takes it first: all are asked at once."""
        channels = [self.channel(endpoint) for endpoint in endpoints]
        writes = [channel.unary_unary("/etcdserverpb.KV/Put") for channel in channels]
        for write in writes:
            await write(put(key_of(0), b"before"))
        started = kill(kill_pid)

        async def work(write: Any) -> None:
            while True:
                try:
                    await write(put(key_of(0), b"after"), timeout=0.2)  # one that came too early is lost
                except self._grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
                else:
                    return

        tasks = [asyncio.create_task(work(write)) for write in writes]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - started
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for channel in channels:
            await channel.close()
        return seconds

    async def settle(self, seconds: float, endpoints: list[str]) -> bool:
        """Wait until every server answers a linearizable read."""
        for endpoint in endpoints:
            async with self.channel(endpoint) as channel:
                read = channel.unary_unary("/etcdserverpb.KV/Range")
                try:
                    await read(get(key_of(0)), timeout=seconds, wait_for_ready=True)
                except self._grpc.aio.AioRpcError:
                    return False
        return True


async def main() -> None:
    """Answer questions until there are no more."""
    client = EtcdClient()
    source = questions()
    while (question := await asyncio.to_thread(next, source, None)) is not None:
        do = question.pop("do")
        if do == "failover":
            question["kill_pid"] = question.pop("kill")
        try:
            answer(await getattr(client, do)(**question))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    asyncio.run(main())
