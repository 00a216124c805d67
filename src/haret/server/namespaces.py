"""The namespace manager: the service that creates namespaces, spreads them over the cluster, and follows who leads them.

Rules:

1. A namespace is created in two steps, so that a replica is started fresh once at most, and two creations of one name can't
   share a node: all nodes of the group reserve it, and then start their replicas (`haret.server.grants`).
2. What one manager knows, all learn: news goes to every node at once. After a link came up, and every `COMPARE` seconds,
   nodes compare what they know, so that lost news is late and not missing.
3. Replicas tell their own manager when they become normal in a view; it tells the others. Each manager watches the
   primaries that it knows.
4. Groups are started and stopped one by one within a namespace, and several namespaces at a time: one that has much to read
   from the disk, or can't be started, does not hold up the others. Clients and operators are answered meanwhile.
5. A replica that stops, because its state differs from that of the others, is shown on all nodes until it runs again.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from haret.protocol import (
    DURABLE,
    BadRequest,
    Crash,
    CreateNamespace,
    Done,
    Namespace,
    NamespaceExists,
    Reconfigure,
    Unanswered,
    UnknownActor,
)
from haret.vr.messages import GetReplicaState, Halted, ReplicaState, Retired, ViewChanged, Wake
from rabble_trio import (
    ActorDown,
    CorrelationId,
    Down,
    Envelope,
    GetMetrics,
    Mailbox,
    Metrics,
    MonitorNodes,
    Node,
    NodeDown,
    NodeId,
    NodeUp,
    Pid,
    Service,
)

from .directory import Directory, PrimaryChanged
from .gossip import (
    NEWS_PAGE,
    SHOWN_STOPPED,
    Granted,
    Here,
    Leader,
    Learn,
    News,
    Release,
    Reserve,
    Start,
    Started,
    manager_of,
)
from .groups import LocalGroups
from .reconfiguration import Reconfigurations
from .registry import CREATION_BYTES, Group, problem_with
from .store import Store

logger = logging.getLogger("haret.namespaces")

RESERVING: Final = 1.5
"""Seconds that a node has to say whether a namespace may be created: one that is well takes a millisecond."""

STARTING: Final = 3.0
"""Seconds that a node has to start its replicas of a new namespace and to write down that there is one."""

FIRST_PRIMARY: Final = 3.0
"""Seconds that a new group has to find its first primary before its creator is told that it has none yet."""

COMPARE: Final = 2.0
"""Seconds between comparisons of what two nodes know: the most that a lost piece of news is late."""

STARTED_AT_ONCE: Final = 16
"""Namespaces whose replicas are started at the same time: enough to keep a disk busy, and few enough that what is read from
it does not fill the memory."""


class NamespaceManager(Service):
    """See the module.

    `followers` are the actors on this node that hear of `PrimaryChanged`. `durability` is that of namespaces which are
    created through this node and don't say what they want.
    """

    def __init__(
        self,
        node: Node,
        directory: Directory,
        groups: LocalGroups,
        store: Store,
        followers: tuple[Pid, ...],
        durability: str = DURABLE,
    ) -> None:
        self._node = node
        self._directory = directory
        self._groups = groups
        self._store = store
        self._followers = followers
        self._durability = durability
        self._reconfigurations = Reconfigurations(node, directory, groups, self._learn_epoch, self._alone)
        self._reachable: set[NodeId] = set()
        self._more_reachable = trio.Event()
        self._settling: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._starting = trio.Semaphore(STARTED_AT_ONCE)
        self._saving = trio.Lock()
        self._have_primary: dict[str, trio.Event] = {}
        self._mailbox: Mailbox
        self._nursery: trio.Nursery

    async def init(self, mailbox: Mailbox) -> None:
        """Take up what an earlier incarnation left, or the disk kept."""
        self._mailbox = mailbox
        for entry in self._directory:
            if entry.primary is not None:
                mailbox.monitor(entry.primary)
        mailbox.send_nowait(Pid("cluster_server", self._node.id, "rabble"), MonitorNodes())

    async def run(self, mailbox: Mailbox) -> None:
        """Handle requests, and news from replicas and other nodes. What takes time runs beside it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._take_up, [entry.name for entry in self._directory])
            nursery.start_soon(self._compare)
            nursery.start_soon(self._stop_outsiders)
            async for envelope in mailbox:
                self._handle(envelope)
            nursery.cancel_scope.cancel()

    def _handle(self, envelope: Envelope) -> None:
        sender = envelope.sender
        match envelope.message:
            case CreateNamespace() as request:
                self._nursery.start_soon(self._create, request, envelope)
            case Reserve(group=group):
                self._reply(envelope, self._reserve(group, sender.node))
            case Start(group=group):
                self._nursery.start_soon(self._start, group, envelope)
            case Release(group=group):
                self._directory.grants.release(group)
            case News(groups=groups, leaders=leaders):
                self._on_news(groups, leaders, sender.node)
            case Here() as here:
                self._on_here(here, sender)
            case Crash(pid=pid):
                self._reply(envelope, self._crash(pid))
            case Reconfigure() as request:
                self._nursery.start_soon(self._reconfigure, request, envelope)
            case Learn(group=group, pid=pid):
                self._nursery.start_soon(self._start_learner, group, pid, envelope)
            case Retired(pid=pid, epoch=epoch):
                logger.info("%s is no member any more, since epoch %d", pid, epoch)
            case ViewChanged(pid=pid, epoch=epoch) if self._later_epoch(pid, epoch):
                self._nursery.start_soon(self._reconfigurations.epoch_began, pid, self._mailbox)
            case ViewChanged() as change:
                self._view_changed(change)
            case Halted(pid=pid, reason=reason):
                logger.error("%s stopped: %s", pid, reason)
                self._mailbox.monitor(pid)  # it may be started again
                self._on_stopped(self._node.id, {*self._directory.stopped_on(self._node.id), pid})
                self._spread(self._here(first=False))
            case Down(pid=pid):
                self._publish(self._directory.replica_down(pid))
                self._wake(pid.group)
                self._on_stopped(pid.node, set(self._directory.stopped_on(pid.node)) - {pid})
            case NodeUp(node=node):
                self._reachable.add(node)
                self._more_reachable.set()
                self._more_reachable = trio.Event()
                self._send(manager_of(node), self._here(first=True))
            case NodeDown(node=node):
                self._reachable.discard(node)
                self._directory.addresses.pop(node, None)
                self._on_stopped(node, ())
                self._take_up_soon(self._directory.grants.node_lost(node))
            case GetMetrics():
                self._reply(envelope, self._metrics())
            case _:
                logger.warning("%s: unexpected %s", self._mailbox.pid, type(envelope.message).__name__)

    def _metrics(self) -> Metrics:
        entries = list(self._directory)
        return Metrics(
            {"groups_dropped": self._directory.registry.dropped},
            {
                "namespaces": float(len(entries)),
                "namespaces_without_primary": float(sum(entry.primary is None for entry in entries)),
                "namespaces_with_rivals": float(sum(entry.group is None for entry in entries)),
                "replicas_stopped": float(sum(len(entry.stopped) for entry in entries)),
                "other_nodes": float(len(self._reachable)),
            },
        )

    # ---------------------------------------------------------------- creating

    async def _create(self, request: CreateNamespace, envelope: Envelope) -> None:
        creation, members = secrets.token_bytes(CREATION_BYTES), self._node.members
        planned = self._directory.plan(request, creation, members, self._durability)
        self._reply(envelope, await self._create_group(planned) if isinstance(planned, Group) else planned)

    async def _create_group(self, group: Group) -> Any:
        refusal = await self._reserve_everywhere(group)
        if refusal is not None:
            return refusal
        have_primary = self._have_primary[group.name] = trio.Event()
        answers = await self._ask_all(group.nodes(), Start(group), STARTING)
        failures = {node: answer for node, answer in answers.items() if not isinstance(answer, Started)}
        if len(failures) == len(answers):
            self._have_primary.pop(group.name, None)
            return next(iter(failures.values()))
        for node, failure in failures.items():
            logger.warning("%s: no replica was started on %s: %s", group.name, node, failure)
        if not group.on(self._node.id):
            self._learn((group,))
        with trio.move_on_after(FIRST_PRIMARY):
            await have_primary.wait()
        return self._created(group, tuple(failures))

    async def _reserve_everywhere(self, group: Group) -> Any:
        """Returns why the group can't be created; None if all agree."""
        nodes = sorted({self._node.id, *group.nodes()})
        # One after the other, in the same order for all creators: so of several at once, one succeeds.
        for asked, node in enumerate(nodes, 1):
            answer = (await self._ask_all((node,), Reserve(group), RESERVING))[node]
            if not isinstance(answer, Granted):
                for one in nodes[:asked]:
                    self._send(manager_of(one), Release(group))
                return answer
        if not group.on(self._node.id):
            self._directory.grants.release(group)  # it was only to keep others from creating it here meanwhile
        return None

    def _created(self, group: Group, missing: tuple[NodeId, ...]) -> Namespace | Unanswered:
        entry = self._directory.get(group.name)
        if entry is not None and entry.primary is not None:
            return entry.describe()
        text = f"{group.name} was created and has no primary yet"
        if missing:
            text += f": no replica was started on {', '.join(map(str, missing))}"
        return Unanswered(text)

    async def _ask_all(self, nodes: Iterable[NodeId], message: Any, patience: float) -> dict[NodeId, Any]:
        answers: dict[NodeId, Any] = {}

        async def ask(node: NodeId) -> None:
            answers[node] = Unanswered(f"{node} did not answer within {patience:g} s")
            with trio.move_on_after(patience):
                while node != self._node.id and node not in self._reachable:
                    await self._more_reachable.wait()  # after a join, links to the others take a moment
                try:
                    answers[node] = await self._mailbox.ask(manager_of(node), message)
                except ActorDown as error:
                    answers[node] = Unanswered(f"{node} can't be reached: {error.reason}")

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return answers

    def _reserve(self, group: Group, creator: NodeId) -> Any:
        problem = problem_with(group)
        if problem is not None:
            return BadRequest(f"{group.name} can't be created: {problem}")
        return self._directory.grants.reserve(group, creator, trio.current_time())

    async def _start(self, group: Group, envelope: Envelope) -> None:
        async with self._alone(group.name):
            reply = await self._start_fresh(group)
        self._reply(envelope, reply)

    async def _start_fresh(self, group: Group) -> Started | NamespaceExists | Unanswered | BadRequest:
        directory = self._directory
        if not directory.grants.take(group, trio.current_time()):
            self._take_up_soon((group.name,))
            return Unanswered(f"{self._node.id} has no reservation of {group.name}: it was restarted, or was too slow")
        before = directory.registry.get(group.name)
        if before not in {(), (group,)}:
            return NamespaceExists(group.name)
        directory.learn((group,))
        entry = directory.get(group.name)
        assert entry is not None
        try:
            await self._groups.settle(entry, fresh=True)
        except trio.Cancelled:  # the manager ends; the next one must not believe in half a group
            directory.forget(group)
            raise
        except Exception as error:
            logger.exception("the replicas of %s could not be started", group.name)
            directory.forget(group)
            return BadRequest(f"{group.name} could not be started: {error}")
        await self._save()
        self._spread(News((group,), ()))
        return Started()

    # ---------------------------------------------------------- reconfiguring

    async def _reconfigure(self, request: Reconfigure, envelope: Envelope) -> None:
        self._reply(envelope, await self._reconfigurations.change(request, self._mailbox))

    async def _start_learner(self, group: Group, pid: Pid, envelope: Envelope) -> None:
        self._reply(envelope, await self._reconfigurations.start_learner(group, pid, self._mailbox))

    async def _stop_outsiders(self) -> None:
        while True:
            await trio.sleep(COMPARE)
            if await self._reconfigurations.stop_outsiders(self._mailbox):
                await self._save()

    def _later_epoch(self, pid: Pid, epoch: int) -> bool:
        entry = self._directory.get(pid.group or "")
        return entry is not None and entry.group is not None and epoch > entry.group.epoch

    def _learn_epoch(self, group: Group) -> None:
        """An epoch has begun. Its primary was heard of before, perhaps, when nobody knew what that was."""
        self._learn((group,))
        self._spread(News((group,), ()))
        for pid in group.on(self._node.id):
            self._nursery.start_soon(self._ask_for_view, pid)

    async def _ask_for_view(self, pid: Pid) -> None:
        try:
            state = await self._mailbox.ask(pid, GetReplicaState())
        except ActorDown:
            return
        if isinstance(state, ReplicaState) and state.primary is not None and pid.group is not None:
            self._view_changed(ViewChanged(pid, state.epoch, state.view, state.primary))

    def _view_changed(self, change: ViewChanged) -> None:
        leader = self._directory.view_changed(change.pid, change.epoch, change.view, change.primary)
        if leader is not None:
            self._follow(leader)
            self._spread(News(self._directory.registry.get(leader.name), (leader,)))

    # ---------------------------------------------------------------- learning

    def _on_news(self, groups: tuple[Group, ...], leaders: tuple[Leader, ...], node: NodeId) -> None:
        self._learn(groups)
        for leader in leaders:
            if self._directory.heard(leader, node):
                self._follow(leader)

    def _learn(self, groups: tuple[Group, ...]) -> None:
        before = {group.name: self._directory.registry.get(group.name) for group in groups}
        changed = self._directory.learn(groups)
        for name in changed:
            entry = self._directory.get(name)
            assert entry is not None
            # Who was a member may be the only one that knows how its epoch ended.
            self._groups.keep(pid for group in before[name] for pid in group.on(self._node.id))
            if entry.group is None:
                logger.error("%s", entry.trouble())
                self._publish(PrimaryChanged(name, None))
        self._take_up_soon(changed)

    def _take_up_soon(self, names: Iterable[str]) -> None:
        known = [name for name in names if self._directory.get(name) is not None]
        if known:
            self._nursery.start_soon(self._take_up, known)

    async def _take_up(self, names: list[str]) -> None:
        """Groups are known otherwise than by their creation: their replicas, if any belong here, ran before, or may have."""
        if names:
            await self._save()
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self._take_up_one, name)

    async def _take_up_one(self, name: str) -> None:
        async with self._starting, self._alone(name):
            entry = self._directory.get(name)
            if entry is None or (entry.group is not None and self._directory.grants.holds(entry.group)):
                return
            try:
                await self._groups.settle(entry, fresh=False)
            except Exception:
                logger.exception("the replicas of %s could not be started", name)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else starts or stops replicas of this namespace meanwhile."""
        lock = self._settling[name]
        async with lock:
            yield
        if not lock.locked():
            self._settling.pop(name, None)  # names may come from anywhere, so none is kept for longer than it is of use

    async def _save(self) -> None:
        async with self._saving:
            try:
                groups = tuple(self._directory.registry)
                kept = [pid for group in groups for pid in self._groups.outsiders(group)]
                await self._store.save(groups, kept)
            except OSError as error:
                # No promise depends on it; after a restart, the other nodes tell what is missing.
                logger.error("the namespaces can't be written to the data directory: %s", error)

    # ------------------------------------------------------- comparing with others

    async def _compare(self) -> None:
        while True:
            await trio.sleep(COMPARE)
            self._take_up_soon(self._directory.grants.expire(trio.current_time()))
            self._spread(self._here(first=False))

    def _here(self, *, first: bool) -> Here:
        address = self._directory.addresses.get(self._node.id, "")
        stopped = self._directory.stopped_on(self._node.id)[:SHOWN_STOPPED]
        return Here(address, self._directory.fingerprint(), first, stopped)

    def _on_here(self, here: Here, sender: Pid) -> None:
        directory = self._directory
        if here.api_address:
            directory.addresses[sender.node] = here.api_address
        self._on_stopped(sender.node, here.stopped)
        if here.first:
            self._send(sender, self._here(first=False))
        if here.first or here.digest != directory.fingerprint():
            self._send_all_to(sender)

    def _send_all_to(self, manager: Pid) -> None:
        groups, leaders = list(self._directory.registry), self._directory.leaders()
        for start in range(0, max(len(groups), len(leaders)), NEWS_PAGE):
            page = slice(start, start + NEWS_PAGE)
            self._send(manager, News(tuple(groups[page]), tuple(leaders[page])))

    # ----------------------------------------------------------------- leaders

    def _follow(self, leader: Leader) -> None:
        self._mailbox.monitor(leader.primary)
        event = self._have_primary.pop(leader.name, None)
        if event is not None:
            event.set()
        self._publish(PrimaryChanged(leader.name, leader.primary))

    def _publish(self, news: PrimaryChanged | None) -> None:
        if news is None:
            return
        logger.info("%s: the primary is %s", news.namespace, news.primary or "unknown")
        for follower in self._followers:
            self._send(follower, news)

    def _on_stopped(self, node: NodeId, pids: Collection[Pid]) -> None:
        for pid in self._directory.replicas_stopped(node, pids):
            logger.error("%s stopped, because its state is not that of the others: it counts as down", pid)

    def _wake(self, name: str | None) -> None:
        """The replicas of a group that rests don't notice by themselves that one of them is gone."""
        entry = self._directory.get(name or "")
        group = None if entry is None else entry.group
        for pid in () if group is None else group.on(self._node.id):
            # One that does not run begins awake, and who has a full mailbox is.
            with contextlib.suppress(ActorDown, trio.WouldBlock):
                self._mailbox.send_nowait(pid, Wake())

    def _crash(self, pid: Pid) -> Done | UnknownActor:
        try:
            self._node.kill(pid, "an operator wished it")
        except ActorDown:
            return UnknownActor(pid)
        return Done()

    # ----------------------------------------------------------------- sending

    def _spread(self, message: Any) -> None:
        for node in sorted(self._reachable):
            self._send(manager_of(node), message)

    def _reply(self, envelope: Envelope, message: Any) -> None:
        self._send(envelope.sender, message, envelope.correlation_id)

    def _send(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        try:
            self._mailbox.send_nowait(to, message, correlation_id)
        except (ActorDown, trio.WouldBlock) as error:
            logger.warning("%s was not told of %s: %s", to, type(message).__name__, error)
