"""A bare loop: what the hops of a replicated write cost in Python on this machine, and nothing else.

Three processes and a client. The first process leads, always. A write takes the way that it takes through haret: a task of
the client, a websocket message of all requests that wait there, the leader, a message of all that came to both followers, a
row in three SQLite files, synced to disk by a thread of each process, the answers of a majority, a message of all answers to
each connection. A read takes one round to the followers, in which a leader would learn that it was replaced, and is answered
from memory. All messages are msgpack, through the ordinary interface of trio_websocket.

It is no service, for all that makes one correct is left out: elections, views, sessions, retries, timeouts, checks of what
arrives, recovery from its own files, limits, a tree. If its leader dies, it is over. What haret takes longer than this is
what its promises cost.

`python -m benchmarks.coordination.bare serve FILE [URL ...]` is a server. It leads the followers at these URLs, if there are
any, and keeps its log in that file, or nowhere if the name is empty. It says its own URL as JSON, and ends with its standard
input. `python -m benchmarks.coordination.bare client` answers questions.
"""

from __future__ import annotations

import os
import pathlib
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import msgpack
import outcome
import trio
import trio_websocket

from .cluster import NODES, PATIENCE, Cluster, JsonProcess, Unfit, answer, questions
from .loads import KEYS, Load, Recorder, value_of

OPTIONS: dict[str, Any] = {"max_message_size": 2**26, "receive_buffer_size": None}
"""Of a connection: a thousand large values fit into one message, and Trio chooses how much to read at a time."""


class BareCluster(Cluster):
    """Three servers, of which the first leads."""

    name = "bare loop"
    modes = ("durable", "in memory")
    remarks = ("bare loop: the hops of haret without a protocol; it would lose data, and has no failover",)
    module = "bare"

    def __init__(self, folder: pathlib.Path, mode: str) -> None:
        super().__init__(folder, mode)
        self.members: list[JsonProcess] = []
        self._leader = ""

    def start(self) -> None:
        for number in range(1, NODES):
            self._member(number)
        followers = [member.hear(PATIENCE) for member in self.members]
        self._leader = self._member(0, *followers).hear(PATIENCE)
        self.fill(1)

    def _member(self, number: int, *followers: str) -> JsonProcess:
        file = str(self.folder / f"{number}.db") if self.mode == "durable" else ""
        command = [sys.executable, "-m", "benchmarks.coordination.bare", "serve", file, *followers]
        self.members.append(JsonProcess(command, self.folder / f"{number}.log"))
        return self.members[-1]

    def client_arguments(self) -> list[str]:
        return ["client"]

    def endpoints(self) -> list[str]:
        return [self._leader]

    def leader(self) -> int:
        return 0

    def pids(self) -> list[int]:
        return [member.pid for member in self.members]

    def fail_over(self) -> float:
        raise Unfit("nobody takes the place of its leader")

    def close(self) -> None:
        super().close()
        for member in self.members:
            member.close()
        self.members = []


# Both sides -----------------------------------------------------------------------------------------------------------


class Gathered:
    """What waits for a task that takes all of it at once."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._taker = trio.lowlevel.ParkingLot()

    def put(self, item: Any) -> None:
        """Let this wait."""
        self._items.append(item)
        if len(self._items) == 1:
            self._taker.unpark()

    async def take(self) -> list[Any]:
        """All that waits, as soon as there is something."""
        while not self._items:
            await self._taker.park()
        items, self._items = self._items, []
        return items


class Link(Gathered):
    """One end of a connection. What is put while a message is being sent goes into the next one, all of it.

    To be iterated over for the messages of the other end, lists of what was put there, until either end closes it.
    """

    def __init__(self, websocket: trio_websocket.WebSocketConnection) -> None:
        super().__init__()
        self._websocket = websocket

    async def send(self) -> None:
        """Send what is put, as long as the connection lasts."""
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                await self._websocket.send_message(msgpack.packb(await self.take()))

    def __aiter__(self) -> Link:
        return self

    async def __anext__(self) -> list[Any]:
        try:
            return msgpack.unpackb(await self._websocket.get_message())  # type: ignore[no-any-return]
        except trio_websocket.ConnectionClosed:
            raise StopAsyncIteration from None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Link]:
    """A connection to a server."""
    async with trio_websocket.open_websocket_url(url, **OPTIONS) as websocket, trio.open_nursery() as nursery:
        link = Link(websocket)
        nursery.start_soon(link.send)
        yield link
        nursery.cancel_scope.cancel()


# A server -------------------------------------------------------------------------------------------------------------


@contextmanager
def log(file: str, synced: Callable[[int], None]) -> Iterator[Callable[[int, bytes], None]]:
    """What appends numbered entries to a file, each with a transaction of its own. Without a name there is no file.

    `synced` is told the number of an entry that is on the disk.
    """
    if not file:
        yield lambda number, data: synced(number)
        return
    entries: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
    thread = threading.Thread(target=_write, args=(file, entries, synced, trio.lowlevel.current_trio_token()))
    thread.start()
    try:
        yield lambda number, data: entries.put((number, data))
    finally:
        entries.put(None)
        thread.join()  # it has a commit to finish, at most


def _write(
    file: str, entries: queue.SimpleQueue[Any], synced: Callable[[int], None], token: trio.lowlevel.TrioToken
) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("CREATE TABLE log (number INTEGER PRIMARY KEY, data BLOB)")
    for number, data in iter(entries.get, None):
        connection.execute("INSERT INTO log VALUES (?, ?)", (number, data))
        token.run_sync_soon(synced, number)
    connection.close()


async def follow(link: Link, file: str) -> None:
    """Append what the leader sends, and answer with its number when it is on the disk; a bare number at once."""
    with log(file, link.put) as append:
        async for items in link:
            for item in items:
                if isinstance(item, int):
                    link.put(item)
                else:
                    append(*item)


class Leader:
    """Has the values, and has its followers take part: in one round of writes and one of reads at a time."""

    def __init__(self, followers: list[Link]) -> None:
        self._followers = followers
        self._values: dict[str, bytes] = {}
        self._writes, self._reads = Gathered(), Gathered()
        self._synced, self._answered = Gathered(), Gathered()

    async def answer(self, client: Link) -> None:
        """Take the requests of a client: a number and a key, and a value to write."""
        async for requests in client:
            for request in requests:
                (self._writes if len(request) == 3 else self._reads).put((client, request))

    async def hear(self, follower: Link) -> None:
        """Take the answers of a follower: numbers of rounds."""
        async for numbers in follower:
            for number in numbers:
                (self._synced if number > 0 else self._answered).put(number)

    async def write(self, file: str) -> None:
        """Write what waits, all of it, then what has come meanwhile."""
        with log(file, self._synced.put) as append:
            for number in count(1):
                requests = await self._writes.take()
                data = msgpack.packb([request[1:] for _, request in requests])
                for follower in self._followers:
                    follower.put((number, data))
                append(number, data)
                missing = 2  # of three, this one among them
                while missing > 0:
                    missing -= (await self._synced.take()).count(number)
                for client, (request, key, value) in requests:
                    self._values[key] = value
                    client.put((request, None))

    async def read(self) -> None:
        """Read what waits, once a follower has said that we still lead."""
        for number in count(-1, -1):
            requests = await self._reads.take()
            for follower in self._followers:
                follower.put(number)
            while number not in await self._answered.take():
                pass  # that was the second answer to the round before
            for client, (request, key) in requests:
                client.put((request, self._values.get(key)))


async def serve(file: str, followers: list[str], task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Follow, or lead the followers at these URLs, if there are any. Starts with its own URL."""
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(connected(url)) for url in followers]
        leader = Leader(links)

        async def accept(request: trio_websocket.WebSocketRequest) -> None:
            link = Link(await request.accept())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.send)
                await (leader.answer(link) if links else follow(link, file))
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if links:
                nursery.start_soon(leader.write, file)
                nursery.start_soon(leader.read)
            for link in links:
                nursery.start_soon(leader.hear, link)
            listen = partial(trio_websocket.serve_websocket, accept, "127.0.0.1", 0, None, **OPTIONS)
            server = await nursery.start(listen)
            task_status.started(f"ws://127.0.0.1:{server.port}")


async def serve_until_stdin_closes(file: str, followers: list[str]) -> None:
    """Serve, for the harness."""
    async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        answer(await nursery.start(serve, file, followers))
        while await stream.receive_some():
            pass  # it has nothing to say
        nursery.cancel_scope.cancel()


# The client -----------------------------------------------------------------------------------------------------------


def key_of(number: int) -> str:
    """Where a value is."""
    return f"/bench/k{number % KEYS:04}"


class Client:
    """One connection, for any number of tasks."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = count()
        self._callers: dict[int, trio.lowlevel.Task] = {}

    async def ask(self, key: str, *value: bytes) -> bytes | None:
        """Write a value, or read the newest one: None if there is none."""
        number = next(self._numbers)
        self._callers[number] = trio.lowlevel.current_task()
        self._link.put((number, key, *value))

        def cancelled(_: Any) -> trio.lowlevel.Abort:
            del self._callers[number]
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(cancelled)  # type: ignore[no-any-return]

    async def hear(self) -> None:
        """Hand out the answers. Raises `ConnectionError` when the leader has closed the connection."""
        async for answers in self._link:
            for number, value in answers:
                caller = self._callers.pop(number, None)
                if caller is not None:
                    trio.lowlevel.reschedule(caller, outcome.Value(value))
        raise ConnectionError("the leader has closed the connection")


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Client]:
    """A client of the leader at this URL."""
    async with connected(url) as link, trio.open_nursery() as nursery:
        client = Client(link)
        nursery.start_soon(client.hear)
        yield client
        nursery.cancel_scope.cancel()


async def fill(size: int, endpoints: list[str]) -> None:
    """Give every key a value."""
    async with open_client(endpoints[0]) as client, trio.open_nursery() as nursery:
        for number in range(KEYS):
            nursery.start_soon(client.ask, key_of(number), value_of(size))


async def load(load: dict[str, Any], endpoints: list[str], pids: list[int]) -> dict[str, Any]:
    """Run a load."""
    wanted = Load(**load)
    values = [value_of(wanted.size)] if wanted.kind == "write" else []
    keys = count()

    async def work(client: Client) -> None:
        going = True
        while going:
            key = key_of(next(keys))
            started = time.perf_counter()
            await client.ask(key, *values)
            going = recorder.done(started)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(endpoints[0])) for _ in range(wanted.connections)]
        recorder = Recorder(wanted, pids)
        async with trio.open_nursery() as nursery:
            for number in range(wanted.in_flight):
                nursery.start_soon(work, clients[number % len(clients)])
    return recorder.report().plain()


async def answer_questions() -> None:
    """Answer questions until there are no more."""
    do: dict[str, Callable[..., Any]] = {"fill": fill, "load": load}
    source = questions()
    while (question := await trio.to_thread.run_sync(next, source, None)) is not None:
        answer(await do[question.pop("do")](**question))


def main() -> None:
    """Be a server, or a client."""
    kind, *arguments = sys.argv[1:]
    if kind == "serve":
        file, *followers = arguments
        trio.run(serve_until_stdin_closes, file, followers)
    else:
        trio.run(answer_questions)


if __name__ == "__main__":
    main()
