"""A node: the actors of one process, and its place in the cluster."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ._actor import Actor
from ._cluster import ClusterServer
from ._errors import ActorDown, ActorKilled, InsecureAddress, NodeClosed
from ._executor import DeadLetter, Executor
from ._ids import CorrelationId, NodeId, Pid
from ._journal import Journal, MemoryJournal
from ._mailbox import Mailbox
from ._messages import ClusterStatus, ExecutorStatus, Metrics
from ._supervisor import ChildSpec, Factory, Restart, Supervisor, SupervisorTask, leaf


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
        """Send a message, waiting while the receiver's mailbox is full.

        Raises `ActorDown` if the receiver does not run on this node, `NotAMessage` if the message can't be sent.
        """
        await self._executor.send(to, self._executor.ask_pid, message, correlation_id)

    def send_nowait(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        """Like `send`, but raises `trio.WouldBlock` while the receiver's mailbox is full."""
        self._executor.send_nowait(to, self._executor.ask_pid, message, correlation_id)

    async def ask(self, to: Pid, message: Any) -> Any:
        """Send a message and return the reply: what the receiver sends back to the sender with the same correlation id.

        It ends in exactly one of three ways: the reply; `ActorDown`, when the receiver does not run or ends before it
        replied; or the caller's own cancellation (`with trio.fail_after(5)`), after which a late reply is dropped and
        counted, and harms nobody. Raises `NotAMessage` if the message can't be sent.
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

    # ----------------------------------------------------------------- status

    def executor_status(self) -> ExecutorStatus:
        """What runs on this node."""
        return self._executor.status()

    def cluster_status(self) -> ClusterStatus:
        """Who belongs to the cluster."""
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
    insecure: bool = False,
    rng: random.Random | None = None,
) -> AsyncIterator[Node]:
    """Run a node for the length of an `async with`.

    `node`: "name@host:port", where the node listens for others; port 0 picks a free one, and `Node.id` tells it.
    `supervisor`: the root of the supervision tree, with children of its own if you like; by default one-for-one, three
    restarts in five seconds. `journal`: where persisted records go; by default memory, which lasts as long as the node.
    `insecure`: listen beyond this machine although links are neither encrypted nor authenticated. `rng`: the source of
    jitter, for tests.

    At the end of the block all actors are stopped in order; if the block is cancelled, they are cancelled. Raises
    `InvalidId`, `InsecureAddress`, `ListenFailed`, and `ChildFailed` when the root supervisor gives up. An exception of
    the block leaves as it is, never in a group.
    """
    node_id = NodeId.parse(node) if isinstance(node, str) else node
    if not insecure and not is_loopback(node_id.host):
        raise InsecureAddress(
            f"{node_id} would listen beyond this machine, and links are neither encrypted nor authenticated: use a loopback "
            "address such as 127.0.0.1, or pass insecure=True if the network is yours alone"
        )
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            cluster = ClusterServer()
            node_id = await nursery.start(cluster.listen, node_id)
            executor = Executor(node_id, MemoryJournal() if journal is None else journal)
            cluster.attach(executor)
            actor = Actor(Pid("supervisor", node_id, "rabble"), "supervisor", 0)
            executor.register(actor)
            root = SupervisorTask(supervisor or Supervisor(), actor, executor, random.Random() if rng is None else rng)
            actor.children = root
            nursery.start_soon(executor.run_journal, name=f"journal of {node_id}")
            root_ended = trio.Event()
            await nursery.start(_run_root, root, root_ended)
            try:
                yield Node(executor, cluster, root)
            except BaseException as error:
                # What was cancelled goes back into the nursery, whose scope it may belong to; the rest is the user's.
                cancelled, failure = _split(error)
                if cancelled is not None:
                    raise cancelled from None
            actor.request_shutdown()
            await root_ended.wait()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        own = leaf(group)
        if failure is None:
            failure = own
        elif failure.__context__ is None:
            # The user's error goes first. What the node had to say, for example why it gave up, is shown above it.
            failure.__context__ = _split(own)[1]
    if failure is not None:
        raise failure


async def _run_root(root: SupervisorTask, ended: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    try:
        await root.run(task_status.started)
    finally:
        ended.set()


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
