"""`open_admin`: questions to the admin port of one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from haret import protocol
from haret.errors import BadRequest, Unavailable, error_from_value
from haret.protocol import ADMIN, AdminReply, AdminRequest, Answer, Ask, Refused
from rabble_trio import (
    ClusterStatus,
    ConnectFailed,
    Connection,
    ConnectionClosed,
    DecodeError,
    EncodeError,
    ExecutorStatus,
    Metrics,
    NodeId,
    Pid,
    decode_batch,
)

from ._transport import frames, greet, open_first, parse_endpoint

_T = TypeVar("_T")


class _Question:
    """One question. Ended without a reply: the connection was lost."""

    __slots__ = ("ended", "reply")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.reply: AdminReply | None = None


class Admin:
    """A connection to the admin port of one node; `open_admin` makes it.

    Methods raise `HaretError`: what the node answered (`UnknownNamespace`, `NamespaceExists`, `NotEnoughReplicas`,
    `UnknownActor`, `BadRequest`, `Unanswered`), or `Unavailable` when the connection is lost. There is no reconnecting.
    """

    def __init__(self, connection: Connection, endpoint: str) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._waiting: dict[int, _Question] = {}
        self._number = 0
        self._lost: str | None = None

    async def config(self) -> protocol.Config:
        """How the node is configured."""
        return await self._ask(protocol.GetConfig(), protocol.Config)

    async def create_namespace(
        self, name: str, replicas: Iterable[str | Pid], *, durability: str | None = None
    ) -> protocol.Namespace:
        """Start a group of replicas, and wait until it has a primary.

        `replicas`: "r1::node1@127.0.0.1:5000", with or without the namespace as its group in front; at least three, on
        members of the cluster. `durability`: "durable" or "fenced", by default what the node is configured for. Raises
        `rabble_trio.InvalidId` for what is no pid.
        """
        pids = tuple(pid if isinstance(pid, Pid) else Pid.parse(pid) for pid in replicas)
        return await self._ask(protocol.CreateNamespace(name, pids, durability or ""), protocol.Namespace)

    async def reconfigure(self, name: str, replicas: Iterable[str | Pid], *, epoch: int) -> protocol.Namespace:
        """Replace the members of a namespace while it runs, and wait until that is committed.

        `replicas`: as in `create_namespace`. `epoch`: the one that `namespaces` showed; if it is over, nothing is done.
        What did not get done in time can be tried again: new members go on catching up meanwhile.
        """
        pids = tuple(pid if isinstance(pid, Pid) else Pid.parse(pid) for pid in replicas)
        return await self._ask(protocol.Reconfigure(name, epoch, pids), protocol.Namespace)

    async def namespaces(self) -> tuple[protocol.Namespace, ...]:
        """All namespaces, sorted by name."""
        found: list[protocol.Namespace] = []
        more = True
        while more:
            after = found[-1].name if found else ""
            page = await self._ask(protocol.ListNamespaces(after), protocol.Namespaces)
            found += page.namespaces
            more = page.more and bool(page.namespaces)
        return tuple(found)

    async def replica(self, pid: str | Pid) -> protocol.Replica:
        """The state of a replica, "namespace::name::node", from itself."""
        return await self._ask(protocol.GetReplica(_pid(pid)), protocol.Replica)

    async def primary(self, namespace: str) -> Pid | None:
        """Who leads a namespace; None while nobody does."""
        return (await self._ask(protocol.GetPrimary(namespace), protocol.Primary)).primary

    async def crash(self, pid: str | Pid) -> None:
        """Make a replica fail as if by a bug of its own; for tests and demonstrations."""
        await self._ask(protocol.Crash(_pid(pid)), protocol.Done)

    async def cluster_status(self) -> ClusterStatus:
        """Who is in the cluster."""
        return await self._ask(protocol.GetClusterStatus(), ClusterStatus)

    async def join(self, node: str | NodeId) -> None:
        """Make the node and "name@host:port" one cluster, with all that each belongs to with."""
        await self._ask(protocol.JoinCluster(node if isinstance(node, NodeId) else NodeId.parse(node)), protocol.Done)

    async def leave(self, node: str | NodeId) -> None:
        """Remove a member from the cluster, reachable or not; the node that is asked, or another."""
        await self._ask(protocol.LeaveCluster(node if isinstance(node, NodeId) else NodeId.parse(node)), protocol.Done)

    async def executor_status(self) -> ExecutorStatus:
        """What runs on the node."""
        return await self._ask(protocol.GetExecutorStatus(), ExecutorStatus)

    async def metrics(self, pid: str | Pid) -> Metrics:
        """What an actor counts: a replica, "rabble::executor::NODE", "haret::api::NODE", ..."""
        return await self._ask(protocol.GetMetricsOf(_pid(pid)), Metrics)

    async def _ask(self, request: AdminRequest, expected: type[_T]) -> _T:
        self._number += 1
        number = self._number
        try:
            [frame] = frames([Ask(number, request)])
        except EncodeError as error:
            raise BadRequest(str(error)) from None
        # Before it is sent: the answer may be here before `send` is back.
        question = self._waiting[number] = _Question()
        try:
            if self._lost is None:
                await self._connection.send(frame)
                await question.ended.wait()
        except ConnectionClosed as error:
            self._lose(str(error))
        finally:
            self._waiting.pop(number, None)
        reply = question.reply
        if reply is None:
            raise self._unavailable()
        if isinstance(reply, expected):
            return reply
        answer = f"{self._endpoint} answered with {type(reply).__name__}"
        raise error_from_value(reply) or Unavailable(answer, (), True)

    async def _receive(self) -> None:
        try:
            while True:
                for message in decode_batch(await self._connection.receive()):
                    match message:
                        case Answer(id=number, reply=reply):
                            question = self._waiting.get(number)
                            if question is not None:
                                question.reply = reply
                                question.ended.set()
                        case Refused(reason=reason):
                            self._lose(reason)
        except (ConnectionClosed, DecodeError) as error:
            self._lose(str(error))

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or reason
        for question in self._waiting.values():
            question.ended.set()

    def _unavailable(self) -> Unavailable:
        return Unavailable("the connection to the admin port is lost", ((self._endpoint, self._lost or ""),), True)


@asynccontextmanager
async def open_admin(endpoints: str | Sequence[str]) -> AsyncIterator[Admin]:
    """Connect to an admin port, "host:port", for the length of an `async with`; of several, to the first that answers.

    Raises `Unavailable` if nobody, or somebody else, is there, and `ConfigError` for what is no endpoint. What the block
    raises leaves it as it is.
    """
    chosen = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    for endpoint in chosen:
        parse_endpoint(endpoint)
    tried: list[tuple[str, str]] = []
    failure: BaseException | None = None
    try:
        async with open_first(chosen, ADMIN, lambda *failed: tried.append(failed)) as (endpoint, connection):
            await greet(connection, ADMIN, endpoint)
            admin = Admin(connection, endpoint)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(admin._receive)
                try:
                    yield admin
                except BaseException as error:
                    failure = error
                nursery.cancel_scope.cancel()
                nursery.cancel_scope.shield = failure is not None
    except ConnectFailed:
        raise Unavailable("no admin port answers", tuple(tried), False) from None
    if failure is not None:
        raise failure


def _pid(pid: str | Pid) -> Pid:
    return pid if isinstance(pid, Pid) else Pid.parse(pid)
