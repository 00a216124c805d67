"""A node: the actors of one process, and its place in the cluster."""

from __future__ import annotations

import ipaddress
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from ._actor import Actor
from ._cluster import ClusterServer, record_of
from ._errors import ActorDown, ActorKilled, InsecureAddress, NodeClosed, RecordError
from ._executor import DeadLetter, Executor
from ._handshake import LinkConfig
from ._ids import CorrelationId, NodeId, Pid
from ._journal import Journal, MemoryJournal
from ._mailbox import Mailbox
from ._members import Members
from ._messages import ClusterStatus, ExecutorStatus, Metrics
from ._record import FILE_NAME, ClusterRecord, RecordKeeper
from ._recorder import FlightRecorder, NodeRecorder
from ._sqlite_journal import SqliteJournal
from ._supervisor import ChildSpec, Factory, Restart, Supervisor, SupervisorTask, leaf
from ._transport import TlsContexts, Transport, WebsocketTransport


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """A node at this moment."""

    actors: int
    """Running actors of all kinds, the node's own included."""
    processes: int
    """Running processes."""
    messages_waiting: int
    """Messages in all mailboxes."""
    asks_pending: int
    """Calls of `ask` that wait for their reply."""
    timers: int
    """Running timers of all processes."""
    dead_letters: int
    """Envelopes that could not be delivered since the node started."""


class Node:
    """A running node; `open_node` makes it."""

    def __init__(self, executor: Executor, cluster: ClusterServer, root: SupervisorTask) -> None:
        self._executor = executor
        self._cluster = cluster
        self._root = root

    def __repr__(self) -> str:
        return f"<Node {self.id}>"

    @property
    def id(self) -> NodeId:
        """The node's name and the address it listens on."""
        return self._executor.node

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The members of the cluster, this node included, sorted."""
        return self._cluster.status().members

    def pid(self, name: str, group: str | None = None) -> Pid:
        """The pid of an actor of this name on this node, whether it runs or not. Raises `InvalidId`."""
        return Pid(name, self.id, group)

    # ----------------------------------------------------------------- actors

    async def spawn(
        self,
        name: str,
        factory: Factory,
        *,
        group: str | None = None,
        restart: Restart = "transient",
        shutdown: float = 5.0,
        supervisor: Pid | None = None,
    ) -> Pid:
        """Start an actor and return its pid, once it is initialised.

        `factory` makes a `Process`, a `Service` or a `Supervisor`, afresh for every restart, or is itself an async function
        that takes its `Mailbox`. `restart`: "permanent", "transient" (after crashes only) or "temporary". `shutdown`:
        seconds it has to end by itself when it is stopped. `supervisor`: the pid of the supervisor to start it under, by
        default the node's own.

        If cancelled, the actor does not run. Raises what the factory or `init` raises, `NameInUse`, `InvalidId`,
        `NodeClosed`, or `ActorDown` if there is no such supervisor, or it stops meanwhile.
        """
        spec = ChildSpec(name, factory, restart, shutdown, group)
        self._check_open()
        if supervisor is None:
            return await self._root.start_child(spec)
        parent = self._actor(supervisor).children
        if parent is None:
            raise ActorDown(supervisor, "it is no supervisor")
        return await parent.start_child(spec)

    async def stop(self, pid: Pid) -> None:
        """Ask an actor to end, cancel it when its time is up, and return when it has ended. It is not restarted.

        An actor that waits to be restarted is not restarted any more. If `stop` is cancelled, the actor ends all the same.
        Raises `ActorDown` if there is no such actor.
        """
        owner = self._executor.owners.get(pid)
        if owner is None:
            raise self._no_child(pid)
        await owner.stop_child(pid)

    def kill(self, pid: Pid, reason: str = "killed") -> None:
        """Make an actor crash at its next checkpoint, as if it had raised `ActorKilled(reason)`; for tests and operators.

        Its supervisor treats that as any crash. Raises `ActorDown` if it does not run.
        """
        if pid not in self._executor.owners:
            raise self._no_child(pid)
        self._actor(pid).kill(ActorKilled(reason))

    def _no_child(self, pid: Pid) -> ActorDown:
        self._actor(pid)
        return ActorDown(pid, "it belongs to the Trio code that opened it, or to the node itself")

    def _check_open(self) -> None:
        if self._root.stopping:
            raise NodeClosed(f"{self.id} is closed, or closing: it starts no more actors")

    def _actor(self, pid: Pid) -> Actor:
        actor = self._executor.actors.get(pid)
        if actor is None:
            raise ActorDown(pid, "not running" if pid.node == self.id else "it runs on another node")
        return actor

    # --------------------------------------------------------------- messages

    async def send(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Send a message, waiting while the receiver's mailbox is full, or the queue of the link to its node.

        Raises `ActorDown` if the receiver does not run on this node, or there is no link to its node; `NotAMessage` or
        `EncodeError` if the message can't be sent. Whether the receiver runs on another node is not known here: a message
        to one that does not is a dead letter over there.
        """
        await self._executor.send(to, self._executor.ask_pid, message, correlation_id)

    def send_nowait(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Like `send`, but raises `trio.WouldBlock` instead of waiting."""
        self._executor.send_nowait(to, self._executor.ask_pid, message, correlation_id)

    async def ask(self, to: Pid, message: Any) -> Any:
        """Send a message and return the reply: what the receiver sends back to the sender with the same correlation id.

        It ends in exactly one of three ways: the reply; `ActorDown`, when the receiver does not run or ends before it
        replied, when its node is lost, or, on another node, when its mailbox is full; or the caller's own cancellation
        (`with trio.fail_after(5)`), after which a late reply is dropped and counted, and harms nobody. Raises `NotAMessage`
        or `EncodeError` if the message can't be sent.
        """
        return await self._executor.ask(to, message)

    @asynccontextmanager
    async def open_mailbox(self, name: str, *, group: str | None = None, size: int = 10_000) -> AsyncIterator[Mailbox]:
        """Be an actor in Trio code: an address to send from and to receive at, for the length of an `async with`.

        `size`: messages that may wait; 0 for one that only sends. Raises `NameInUse`, `InvalidId`, `NodeClosed`, and
        `ValueError` if `size` is negative.
        """
        if not size >= 0:
            raise ValueError(f"the size of a mailbox is 0 or more, not {size!r}")
        self._check_open()
        actor = Actor(self.pid(name, group), "mailbox", size)
        self._executor.register(actor)
        try:
            await trio.lowlevel.checkpoint()
            yield Mailbox(self._executor, actor)
        finally:
            self._executor.unregister(actor, "finished")

    @asynccontextmanager
    async def open_dead_letters(self, size: int = 1000) -> AsyncIterator[trio.MemoryReceiveChannel[DeadLetter]]:
        """Watch the envelopes that can't be delivered from now on; what exceeds `size` unread ones is not shown."""
        send, receive = trio.open_memory_channel[DeadLetter](size)
        end = self._executor.observe_dead_letters(send)
        try:
            with send, receive:
                await trio.lowlevel.checkpoint()
                yield receive
        finally:
            end()

    # ---------------------------------------------------------------- cluster

    async def join(self, node: NodeId | str) -> None:
        """Become one cluster with another node, and with all that it belongs to with.

        Returns when there is a link to it and both know all members. A node that can't be reached is tried again and again,
        with growing pauses, until the caller's cancel scope ends that (`with trio.fail_after(30)`). Raises `JoinFailed`
        when trying again would not help: another secret, cluster name, protocol or certificate, or a name that is taken.
        Also raises `InvalidId` and `NodeClosed`.
        """
        await self._cluster.join(NodeId.parse(node) if isinstance(node, str) else node)

    async def leave(self, node: NodeId | str | None = None) -> None:
        """Remove a member from the cluster, reachable or not; by default this node itself.

        A node that left is a cluster of its own, and may join again. Raises `MembershipError` if it is no member,
        `InvalidId`, and `NodeClosed`.
        """
        if node is None:
            node = self.id
        await self._cluster.leave(NodeId.parse(node) if isinstance(node, str) else node)

    # ----------------------------------------------------------------- status

    def executor_status(self) -> ExecutorStatus:
        """What runs on this node."""
        return self._executor.status()

    def cluster_status(self) -> ClusterStatus:
        """Who belongs to the cluster, who of them is reachable, and by what links."""
        return self._cluster.status()

    def metrics(self) -> Metrics:
        """Counters and gauges of the executor; see the reference for their names."""
        return self._executor.metrics()

    def statistics(self) -> NodeStatistics:
        """The most important figures."""
        gauges = self._executor.metrics().gauges
        return NodeStatistics(
            actors=int(gauges["actors"]),
            processes=int(gauges["processes"]),
            messages_waiting=int(gauges["mailbox_messages"]),
            asks_pending=int(gauges["asks_pending"]),
            timers=int(gauges["timers"]),
            dead_letters=sum(self._executor.status().dead_letters.values()),
        )


@asynccontextmanager
async def open_node(
    node: str | NodeId,
    *,
    supervisor: Supervisor | None = None,
    journal: Journal | None = None,
    cluster: str = "rabble",
    secret: bytes | None = None,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    insecure: bool = False,
    data_dir: str | Path | None = None,
    transport: Transport | None = None,
    recorder: FlightRecorder | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Node]:
    """Run a node for the length of an `async with`.

    `node`: "name@host:port", where the node listens for others; port 0 picks a free one, and `Node.id` tells it.
    `supervisor`: the root of the supervision tree, with children of its own if you like; by default one-for-one, three
    restarts in five seconds. `journal`: where persisted records go; by default the data directory, or without one memory,
    which lasts as long as the node.

    `cluster`: nodes join only those whose cluster has the same name. `secret`: at least 16 random bytes, the same for all
    nodes of a cluster; who does not know them is refused. `tls`: contexts for links that come in and for those that go out,
    as `cluster_tls` makes them. `insecure`: listen beyond this machine without both, because the network is yours alone.
    `data_dir`: a directory of this node's own, in which it keeps what processes persist and who belongs to its cluster.
    `transport`: what carries links, by default websockets. `recorder`: notes what processes receive, and writes it down when
    one fails. `rng`: the source of jitter, for tests.

    At the end of the block all actors are stopped in order; if the block is cancelled, they are cancelled. Raises
    `InvalidId`, `InsecureAddress`, `ListenFailed`, `RecordError`, `JournalError`, `ValueError` for a bad secret, and
    `ChildFailed` when the root supervisor gives up. An exception of the block leaves as it is, never in a group.
    """
    node_id = NodeId.parse(node) if isinstance(node, str) else node
    mutual = tls is not None and tls[0].verify_mode is ssl.CERT_REQUIRED
    _check_security(node_id, secret, tls, mutual, insecure)
    keeper = RecordKeeper(None if data_dir is None else Path(data_dir))
    if transport is None:
        transport = WebsocketTransport(tls)
    try:
        record = await keeper.load()
        listener = await transport.listen(node_id.host, node_id.port)
    except BaseException:
        keeper.close()
        raise
    failure: BaseException | None = None
    own_journal: SqliteJournal | None = None
    try:
        async with trio.open_nursery() as nursery:
            node_id = NodeId(node_id.name, f"{node_id.addr.rpartition(':')[0]}:{listener.port}")
            config = LinkConfig(
                node=node_id,
                incarnation=_next_incarnation(record),
                cluster=cluster,
                secret=secret,
                insecure=secret is None,  # which was checked above
                certificates=mutual,
                previous=0 if record is None else record.incarnation,
            )
            members = _restored(config, record)
            if data_dir is not None and journal is None:
                journal = own_journal = await SqliteJournal.open(Path(data_dir), node_id, keeper.journal)
                keeper.journal = own_journal.identity
            await keeper.store(record_of(config, members))
            executor = Executor(node_id, MemoryJournal() if journal is None else journal)
            rng = random.Random() if rng is None else rng
            server = ClusterServer(config, members, executor, transport, keeper, rng)
            actor = Actor(Pid("supervisor", node_id, "rabble"), "supervisor", 0)
            executor.register(actor)
            root = SupervisorTask(supervisor or Supervisor(), actor, executor, rng)
            actor.children = root
            if recorder is not None:
                executor.recorder = NodeRecorder(recorder)
                nursery.start_soon(executor.recorder.run, name=f"flight recorder of {node_id}")
            nursery.start_soon(executor.alarms.run, name=f"alarms of {node_id}")
            nursery.start_soon(executor.outlets.run, name=f"outlets of {node_id}")
            nursery.start_soon(executor.persistence.run, name=f"journal of {node_id}")
            nursery.start_soon(_refuse_older_copy, server, own_journal, name=f"older copy of {node_id}")
            root_ended = trio.Event()
            await nursery.start(_run_root, root, root_ended)
            await nursery.start(server.run, listener)
            try:
                yield Node(executor, server, root)
            except BaseException as error:
                # What was cancelled goes back into the nursery, whose scope it may belong to; the rest is the user's.
                cancelled, failure = _split(error)
                if cancelled is not None:
                    raise cancelled from None
            actor.request_shutdown()
            await root_ended.wait()
            await server.stop()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        own = leaf(group)
        if failure is None:
            failure = own
        elif failure.__context__ is None:
            # The user's error goes first. What the node had to say, for example why it gave up, is shown above it.
            failure.__context__ = _split(own)[1]
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()
            if own_journal is not None:
                await own_journal.aclose()
            keeper.close()
    if failure is not None:
        raise failure


async def _refuse_older_copy(server: ClusterServer, journal: SqliteJournal | None) -> None:
    """End the node if others know that it ran since its data directory was copied: it may have promised more than it knows.

    Its processes are told of that when it is started again, so that they don't act on what they know.
    """
    reason = await server.older_copy()
    if journal is not None:
        await journal.distrust(reason)
    raise RecordError(
        f"{reason}. Start the node again: its processes are told that they can't trust what they persisted, and recover from "
        "other nodes if they can"
    )


async def _run_root(root: SupervisorTask, ended: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    try:
        await root.run(task_status.started)
    finally:
        ended.set()


def _check_security(node: NodeId, secret: bytes | None, tls: TlsContexts | None, mutual: bool, insecure: bool) -> None:
    """Raise `InsecureAddress` for a node beyond this machine without encryption or without authentication."""
    if insecure or is_loopback(node.host) or (tls is not None and (secret is not None or mutual)):
        return
    missing = "encrypted: pass tls=cluster_tls(...)" if tls is None else "authenticated: pass a secret"
    raise InsecureAddress(
        f"{node} would listen beyond this machine, and links are not {missing}, use a loopback address such as 127.0.0.1, "
        "or pass insecure=True if the network is yours alone"
    )


def _next_incarnation(record: ClusterRecord | None) -> int:
    """Higher than at each earlier start, if the record is there or the clock was not set back."""
    return max(time.time_ns(), 0 if record is None else record.incarnation + 1)


def _restored(config: LinkConfig, record: ClusterRecord | None) -> Members:
    if record is None:
        return Members(config.node, config.incarnation)
    if record.cluster != config.cluster:
        raise RecordError(
            f"the data directory of {config.node} is that of a node of the cluster {record.cluster!r}, not "
            f"{config.cluster!r}: use another directory, or remove {FILE_NAME} in it"
        )
    try:
        return Members(config.node, config.incarnation, record.members)
    except ValueError as error:
        raise RecordError(f"{error}; {FILE_NAME} in the data directory keeps that") from error


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone; names other than "localhost" count as not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Part an exception into its cancellations and the rest."""
    if isinstance(error, trio.Cancelled):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        cancelled, rest = error.split(trio.Cancelled)
        if cancelled is not None:
            return cancelled, rest
    return None, error
