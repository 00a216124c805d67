"""The cluster server: keeps links to all members, and routes between nodes.

Rules:

1. What the membership is, `_members` decides; who a peer is, and which of two links stays, `_handshake`; what goes over a
   link, `_link`. This file opens and closes links as they say, and tells the executor who can be reached.
2. Envelopes go to members with an established link, and are taken from members alone.
3. `NodeUp` is sent when a node becomes reachable, `NodeDown` when it does not stay so, by turns. At `NodeDown` all
   monitors and asks over that link end (`_remote`, rule 2), because what was on its way is lost.
4. When another link takes the place of one, that is a `NodeDown` and a `NodeUp`. Nothing that comes over the old one
   counts any more, so envelopes keep their order.
5. A link to a node that is no member, and does not become one within `STRANGER`, is closed.
6. A node whose data directory is an older copy is told so by whoever knows better (`Incarnations`), and then ends.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections import Counter
from typing import Any, Final

import trio

from ._actor import Actor
from ._dialer import Dialer
from ._errors import EncodeError, JoinFailed, LinkError, MembershipError, NodeClosed
from ._executor import Executor
from ._handshake import NONCE_SIZE, CloseCode, Incarnations, LinkConfig, Role, survivor
from ._ids import CorrelationId, NodeId, Pid
from ._link import LettersReceived, Link, MembershipReceived
from ._links import FAREWELL, LinkTask
from ._members import JoinCompleted, LeftCluster, MemberJoined, MemberLeft, Members, Outcome
from ._messages import (
    ClusterStatus,
    DemonitorNodes,
    GetClusterStatus,
    GetMetrics,
    LinkStatus,
    Metrics,
    MonitorNodes,
    NodeDown,
    NodeUp,
)
from ._process import cluster_pid
from ._record import ClusterRecord, RecordKeeper
from ._transport import Listener, Transport, Wire

logger = logging.getLogger("rabble_trio.cluster")

ANTI_ENTROPY: Final = 5.0
"""Seconds between comparisons of what two linked nodes know: the most that a lost piece of news is late."""

STRANGER: Final = 5.0
"""Seconds in which a linked node has to become a member: an invitation comes right after the handshake."""


class _Join:
    """A call of `join` that waits."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: JoinFailed | None = None


class ClusterServer:
    """Membership and links of one node; answers at "rabble::cluster_server::NODE"."""

    def __init__(
        self,
        config: LinkConfig,
        members: Members,
        executor: Executor,
        transport: Transport,
        keeper: RecordKeeper,
        rng: random.Random,
    ) -> None:
        self.pid = cluster_pid(config.node)
        self._config = config
        self._members = members
        self._executor = executor
        self._transport = transport
        self._keeper = keeper
        self._rng = rng
        self._incarnations = Incarnations()
        self._nursery: trio.Nursery
        self._stopping = False
        self._tasks: set[LinkTask] = set()  # all of them, in handshakes and farewells too
        self._links: dict[NodeId, LinkTask] = {}  # established, and in use
        self._since: dict[LinkTask, float] = {}  # when they were
        self._routes: dict[NodeId, LinkTask] = {}  # those to members
        self._dialers: dict[NodeId, Dialer] = {}
        self._joins: dict[NodeId, list[_Join]] = {}
        self._watchers: dict[Pid, Actor] = {}  # who wants NodeUp and NodeDown
        self._links_before: Counter[NodeId] = Counter()
        self._attempts = 0
        self._counts: Counter[str] = Counter()
        self._older_copy: str | None = None  # who says that the data directory is one, and why
        self._is_older_copy = trio.Event()
        executor.builtin[self.pid] = self._on_message
        executor.remote = self._route
        executor.remote_room = self._wait_for_room
        executor.far.send_signal = self._send_signal
        executor.incarnation = config.incarnation

    # Running ----------------------------------------------------------------------------------------------------------

    async def run(self, listener: Listener, *, task_status: trio.TaskStatus[None]) -> None:
        """Accept and keep links until cancelled; `stop` first, for a good end."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(listener.serve, self._accept, name=f"cluster port of {self._config.node}")
            nursery.start_soon(self._keeper.run, ANTI_ENTROPY, name=f"cluster record of {self._config.node}")
            nursery.start_soon(self._compare, name=f"anti-entropy of {self._config.node}")
            self._adjust()
            task_status.started()

    async def stop(self) -> None:
        """Say goodbye to all, within `FAREWELL`; what waits is sent, and joins that wait fail with `NodeClosed`."""
        self._stopping = True
        for dialer in self._dialers.values():
            dialer.end()
        for waiting in self._joins.values():
            for join in waiting:
                join.done.set()
        for task in list(self._tasks):
            task.finish("nobody", CloseCode.GOING_AWAY, f"{self._config.node} stops")
        with trio.move_on_after(FAREWELL):
            for task in list(self._tasks):
                await task.ended.wait()

    async def older_copy(self) -> str:
        """Wait until a node says that this one's data directory is an older copy; tells its words."""
        await self._is_older_copy.wait()
        assert self._older_copy is not None
        return self._older_copy

    async def _compare(self) -> None:
        while True:
            await trio.sleep(ANTI_ENTROPY * self._rng.uniform(0.8, 1.0))
            self._carry_out(self._members.tick())
            now = trio.current_time()
            wanted = set(self._members.wanted)
            for node, task in list(self._links.items()):
                if node not in wanted and now > self._since[task] + STRANGER:
                    self._let_go(task, f"{node} is no member of this cluster")

    # Membership -------------------------------------------------------------------------------------------------------

    async def join(self, peer: NodeId) -> None:
        """Become one cluster with `peer`. Returns when the link is up, both know all members, and the record is durable.

        Tries until it succeeds or is cancelled. Raises `JoinFailed` if trying again would not help, and `NodeClosed`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        join = _Join()
        try:
            outcome = self._members.invite(peer)
        except MembershipError as error:
            raise JoinFailed(peer, str(error)) from None
        self._joins.setdefault(peer, []).append(join)
        try:
            self._carry_out(outcome)
            if peer not in self._links and peer in self._dialers:
                self._dialers[peer].hurry()
            await join.done.wait()
        finally:
            self._joins[peer].remove(join)
            if not self._joins[peer]:
                del self._joins[peer]
                self._members.cancel_invite(peer)
                self._adjust()
        if join.error is not None:
            raise join.error
        self._check_open()
        await self._keeper.settled()

    async def leave(self, node: NodeId) -> None:
        """Remove a member, or leave the cluster. Returns when those who are linked were told. Raises `MembershipError`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        told = list(self._links.values())
        self._carry_out(self._members.leave(node))
        await self._keeper.settled()
        if node == self._config.node:  # or the program might end before the others know
            for task in told:
                await task.ended.wait()
        else:
            await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._stopping:
            raise NodeClosed(f"{self._config.node} is closed, or closing: it joins and leaves no more")

    def _carry_out(self, outcome: Outcome) -> None:
        if outcome.changed:
            self._save()
        for node, news in outcome.sends:
            task = self._links.get(node)
            if task is not None:
                self._send_membership(task, news)
        for event in outcome.events:
            if isinstance(event, JoinCompleted):
                self._end_joins(event.node, None)
            elif isinstance(event, MemberJoined):
                logger.info("%s: %s is a member now", self._config.node, event.node)
            elif isinstance(event, MemberLeft):
                logger.info("%s: %s is no member any more", self._config.node, event.node)
            elif isinstance(event, LeftCluster):
                logger.info("%s: this node left its cluster: %s", self._config.node, event.reason)
            else:
                self._end_joins(event.node, event.reason)
        self._adjust()

    def _send_membership(self, task: LinkTask, news: Any) -> None:
        try:
            task.do(lambda link: link.send_membership(news))
        except EncodeError as error:  # the peer takes smaller messages than we do
            task.end("configuration", CloseCode.OVERFLOW, f"what the members are does not fit into a message: {error}")

    def _save(self) -> None:
        self._keeper.save(record_of(self._config, self._members))

    def _end_joins(self, node: NodeId, reason: str | None) -> None:
        for join in self._joins.get(node, []):
            join.error = None if reason is None else JoinFailed(node, reason)
            join.done.set()

    def _adjust(self) -> None:
        """Make dialers, routes and links what the membership wants them to be."""
        if self._stopping:
            return
        wanted = set(self._members.wanted)
        for node in wanted - self._dialers.keys():
            self._start_dialer(node)
        for node in self._dialers.keys() - wanted:
            self._dialers.pop(node).end()
        members = set(self._members.members)
        for node in self._routes.keys() - members:
            self._let_go(self._routes[node], f"{node} is no member of this cluster any more")
        for node in self._links.keys() & members - self._routes.keys():
            self._routes[node] = self._links[node]
            self._tell_watchers(NodeUp(node))

    def _start_dialer(self, node: NodeId) -> None:
        dialer = Dialer(node, self._transport, self._dialled, self._dial_failed, self._rng)
        self._dialers[node] = dialer
        if node in self._links:
            dialer.link_up()
        first = node in self._joins or self._config.node.name < node.name

        async def run() -> None:
            await dialer.run(first=first)

        self._nursery.start_soon(run, name=f"dialer of {node}")

    # Links ------------------------------------------------------------------------------------------------------------

    async def _accept(self, wire: Wire) -> None:
        error = await self._run_link("acceptor", wire, None)
        if error.fault not in {"nobody", "network"}:
            logger.warning("%s: the link from %s is closed: %s", self._config.node, wire.remote, str(error))

    async def _dialled(self, node: NodeId, wire: Wire) -> LinkError:
        self._attempts += 1
        return await self._run_link("dialer", wire, node)

    async def _run_link(self, role: Role, wire: Wire, expected: NodeId | None) -> LinkError:
        link = Link(
            role,
            self._config,
            trio.current_time(),
            secrets.token_bytes(NONCE_SIZE),
            expected=expected,
            attempt=self._attempts,
            certificate_names=wire.certificate_names,
        )
        task = LinkTask(link, wire, self, self._config.heartbeat_timeout, self._executor.outlets)
        self._tasks.add(task)
        if self._stopping:
            task.finish("nobody", CloseCode.GOING_AWAY, f"{self._config.node} stops")
        try:
            return await task.run()
        finally:
            self._tasks.discard(task)

    def link_ended(self, task: LinkTask, error: LinkError) -> None:
        """A link is over; its connection is about to be closed."""
        if task.link.peer is not None:
            if error.code == CloseCode.RESTORED and error.fault == "us":
                self._older_copy = f"{task.link.peer.node} says: {error.reason}"
                self._is_older_copy.set()
            self._counts["links_lost"] += 1
            self._drop(task, str(error))
            if error.fault not in {"nobody"}:
                logger.warning("%s: lost the link to %s: %s", self._config.node, task.peer, str(error))
        else:
            self._counts["handshakes_failed"] += 1
        for to, sender, message, correlation_id in task.link.undelivered():
            self._executor.dead_letter(to, sender, message, correlation_id, "no link")

    def link_up(self, task: LinkTask) -> None:
        """The peer has proved itself: take the link into use, unless another one is better."""
        hello = task.link.peer
        assert hello is not None
        try:
            self._incarnations.admit(hello)
        except LinkError as error:
            if error.code != CloseCode.RESTORED:
                raise
            # After our proof, or the peer would have no reason to believe it.
            self._counts["older_copies_refused"] += 1
            task.finish(error.fault, CloseCode.RESTORED, error.reason)
            return
        self._prefer_own_dial(task)
        for other in [other for node, other in self._links.items() if node.name == task.peer.name]:
            if survivor(other.hellos, task.hellos) is other.hellos:
                raise LinkError(
                    "nobody", CloseCode.DUPLICATE, f"there is another link to {task.peer}, and that one is kept"
                )
            reason = "another link took its place"
            self._drop(other, reason)
            other.end("nobody", CloseCode.DUPLICATE, reason)
        node = task.peer
        self._links[node] = task
        self._since[task] = trio.current_time()
        self._counts["links_established"] += 1
        self._links_before[node] += 1
        if node in self._dialers:
            self._dialers[node].link_up()
        logger.info("%s: link to %s is up, with %s", self._config.node, node, task.wire.remote)
        self._carry_out(self._members.link_up(node))

    def _prefer_own_dial(self, task: LinkTask) -> None:
        """Refuse a link that would soon be replaced by the one that this node is dialling; see `survivor`."""
        dialer = self._dialers.get(task.peer)
        accepted = task.hellos.dialer.node == task.peer
        if accepted and dialer is not None and dialer.in_handshake and self._config.node.name < task.peer.name:
            raise LinkError("nobody", CloseCode.DUPLICATE, f"{self._config.node} is dialling {task.peer} itself")

    def _drop(self, task: LinkTask, reason: str) -> None:
        """Use a link no more."""
        node = task.peer
        if self._links.get(node) is not task:
            return
        del self._links[node], self._since[task]
        self._members.link_down(node)
        if node in self._dialers:
            self._dialers[node].link_down()
        else:  # neither a member nor invited
            self._incarnations.forget(node.name)
            del self._links_before[node]
        if self._routes.pop(node, None) is not None:
            self._executor.far.node_lost(node)
            self._tell_watchers(NodeDown(node, reason))

    def _let_go(self, task: LinkTask, reason: str) -> None:
        """Use a link no more, and close it when what waits is sent."""
        self._drop(task, reason)
        task.finish("nobody", CloseCode.NOT_WANTED, reason)

    def _dial_failed(self, node: NodeId, error: Any) -> None:
        self._counts["dials_failed"] += 1
        if error.fault not in {"network", "nobody"}:
            self._end_joins(node, error.reason)

    def membership_received(self, task: LinkTask, event: MembershipReceived) -> None:
        """The peer's cluster server has news."""
        if self._links.get(task.peer) is not task:
            return
        try:
            outcome = self._members.receive(task.peer, event.news)
        except MembershipError as error:
            raise LinkError("peer", CloseCode.VIOLATION, str(error)) from None
        self._carry_out(outcome)

    # Envelopes --------------------------------------------------------------------------------------------------------

    def letters_received(self, task: LinkTask, event: LettersReceived) -> None:
        """Envelopes came."""
        if self._routes.get(task.peer) is not task:
            for to, sender, message, correlation_id in event.letters:
                self._executor.dead_letter(to, sender, message, correlation_id, "no link")
            return
        self._executor.deliver(event.letters)
        for to, sender, cid, reason in event.lost:
            self._executor.not_decodable(to, sender, cid, reason)

    def _route(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> str | None:
        task = self._routes.get(to.node)
        return "no link" if task is None else task.send(to, sender, message, correlation_id)

    async def _wait_for_room(self, node: NodeId) -> None:
        task = self._routes.get(node)
        if task is None:
            await trio.lowlevel.checkpoint()
        else:
            await task.wait_for_room()

    def _send_signal(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> bool:
        task = self._routes.get(to.node)
        if task is None:
            return False
        try:
            task.do(lambda link: link.send(to, sender, message, correlation_id, signal=True))
        except EncodeError as error:  # a peer that takes smaller messages than we do
            task.end(
                "configuration", CloseCode.OVERFLOW, f"a signal of the runtime does not fit into a message: {error}"
            )
        return True  # or the link ends, and everybody will hear of that

    # Status -----------------------------------------------------------------------------------------------------------

    def status(self) -> ClusterStatus:
        """Who belongs to the cluster, and who of them is reachable."""
        established = tuple(sorted(self._routes))
        return ClusterStatus(
            node=self._config.node,
            members=self._members.members,
            established=established,
            connections=len(self._tasks),
            links=tuple(self._link_status(node) for node in established),
        )

    def _link_status(self, node: NodeId) -> LinkStatus:
        statistics = self._routes[node].link.statistics()
        return LinkStatus(
            node=node,
            round_trip=statistics.round_trip,
            queued_envelopes=statistics.queued_letters,
            queued_bytes=statistics.queued_bytes,
            envelopes_sent=statistics.letters_sent,
            envelopes_received=statistics.letters_received,
            envelopes_dropped=statistics.letters_dropped,
            bytes_sent=statistics.bytes_sent,
            bytes_received=statistics.bytes_received,
            reconnects=self._links_before[node] - 1,
        )

    def metrics(self) -> Metrics:
        """Counters since the node started, and gauges of this moment."""
        links = [self._link_status(node) for node in self._routes]
        gauges = {
            "members": len(self._members.members),
            "links": len(links),
            "connections": len(self._tasks),
            "envelopes_waiting": sum(link.queued_envelopes for link in links),
            "bytes_waiting": sum(link.queued_bytes for link in links),
            "slowest_round_trip": max((link.round_trip or 0.0 for link in links), default=0.0),
        }
        return Metrics(dict(self._counts), {name: float(value) for name, value in gauges.items()})

    def _on_message(self, message: Any, sender: Pid, correlation_id: CorrelationId | None) -> bool:
        actor = self._executor.actors.get(sender)
        if isinstance(message, GetClusterStatus):
            self._executor.route(sender, self.pid, self.status(), correlation_id)
        elif isinstance(message, GetMetrics):
            self._executor.route(sender, self.pid, self.metrics(), correlation_id)
        elif isinstance(message, MonitorNodes) and actor is not None:
            self._watchers[sender] = actor
            for node in sorted(self._routes):
                actor.put((NodeUp(node), self.pid, None))
        elif isinstance(message, DemonitorNodes) and actor is not None:
            self._watchers.pop(sender, None)
        else:
            return False
        return True

    def _tell_watchers(self, message: NodeUp | NodeDown) -> None:
        for pid, actor in list(self._watchers.items()):
            if self._executor.actors.get(pid) is actor:
                actor.put((message, self.pid, None))
            else:  # it ended; a new incarnation says itself that it wants to know
                del self._watchers[pid]


def record_of(config: LinkConfig, members: Members) -> ClusterRecord:
    """What to keep for the next start."""
    return ClusterRecord(config.incarnation, config.cluster, members.record())
