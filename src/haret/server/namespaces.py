"""The namespace manager: the service that starts groups of replicas and follows who leads them.

Each group is a supervision tree of its own, outside of the node's: a group whose replicas crash too often ends, and no
other group notices. A replica that is restarted has lost its memory, and says so to itself (`fresh=False`): it must not
vote on what it no longer knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any, Final

import trio

from haret import vr
from haret.backend import Backend
from haret.protocol import BadRequest, Crash, CreateNamespace, Done, Unanswered, UnknownActor
from haret.vr.messages import ViewChanged
from rabble_trio import (
    ActorDown,
    ChildSpec,
    CorrelationId,
    Down,
    Envelope,
    GetMetrics,
    Mailbox,
    Metrics,
    Node,
    Pid,
    Service,
    Supervisor,
)

from .directory import SUPERVISOR, Directory, Entry, PrimaryChanged

logger = logging.getLogger("haret.namespaces")

FIRST_PRIMARY: Final = 3.0
"""Seconds that a new group has to find its first primary before its creator is told that it has none yet."""

CRASHES: Final = 10
"""Crashes of the replicas of one group within `CRASH_PERIOD` after which it ends: that is a defect, and not chance."""

CRASH_PERIOD: Final = 10.0
"""Seconds."""


class NamespaceManager(Service):
    """See the module. `followers` are the actors that hear of `PrimaryChanged`."""

    def __init__(self, node: Node, directory: Directory, settings: vr.Settings, followers: tuple[Pid, ...]) -> None:
        self._node = node
        self._directory = directory
        self._settings = settings
        self._followers = followers
        self._random = Random()
        self._mailbox: Mailbox
        self._have_primary: dict[str, trio.Event] = {}

    async def init(self, mailbox: Mailbox) -> None:
        """Take up what an earlier incarnation left."""
        self._mailbox = mailbox
        for entry in self._directory:
            if entry.primary is not None:
                mailbox.monitor(entry.primary)

    async def run(self, mailbox: Mailbox) -> None:
        """Handle requests of the admin port, and news from the replicas."""
        async with trio.open_nursery() as nursery:
            async for envelope in mailbox:
                match envelope.message:
                    case CreateNamespace():
                        # Waiting for a first primary must not keep us from hearing of it.
                        nursery.start_soon(self._create, envelope.message, envelope)
                    case Crash(pid=pid):
                        self._reply(envelope, self._crash(pid))
                    case ViewChanged(pid=pid, epoch=epoch, view=view, primary=primary):
                        self._publish(self._directory.view_changed(pid, epoch, view, primary))
                    case Down(pid=pid):
                        self._publish(self._directory.replica_down(pid))
                    case GetMetrics():
                        self._reply(envelope, self._metrics())
                    case _:
                        logger.warning("%s: unexpected %s", mailbox.pid, type(envelope.message).__name__)
            nursery.cancel_scope.cancel()

    def _metrics(self) -> Metrics:
        primaries = [entry.primary for entry in self._directory]
        return Metrics(
            {},
            {"namespaces": float(len(primaries)), "namespaces without a primary": float(primaries.count(None))},
        )

    # ------------------------------------------------------------------ groups

    async def _create(self, request: CreateNamespace, envelope: Envelope) -> None:
        replicas = self._directory.plan(request, self._node.id)
        if not isinstance(replicas, tuple):
            self._reply(envelope, replicas)
            return
        entry = self._directory.add(request.name, replicas)
        have_primary = self._have_primary[entry.name] = trio.Event()
        try:
            await self._start(entry)
        except trio.Cancelled:  # the manager ends; the next one must not believe in half a group
            self._directory.remove(entry.name)
            raise
        except Exception as error:
            logger.exception("the namespace %s could not be started", entry.name)
            self._directory.remove(entry.name)
            self._reply(envelope, BadRequest(f"{entry.name} could not be started: {error}"))
            return
        with trio.move_on_after(FIRST_PRIMARY):
            await have_primary.wait()
        if entry.primary is None:
            self._reply(envelope, Unanswered(f"{entry.name} was created and has no primary yet"))
        else:
            self._reply(envelope, entry.describe())

    async def _start(self, entry: Entry) -> None:
        configuration = vr.Configuration(0, entry.replicas)
        children = [
            ChildSpec(pid.name, self._replica_factory(configuration), group=pid.group) for pid in entry.replicas
        ]
        await self._node.spawn(
            SUPERVISOR,
            lambda: Supervisor(children=children, intensity=CRASHES, period=CRASH_PERIOD),
            group=entry.name,
            restart="temporary",
        )

    def _replica_factory(self, configuration: vr.Configuration) -> Callable[[], vr.Replica]:
        incarnations = 0

        def make() -> vr.Replica:
            nonlocal incarnations
            incarnations += 1
            return vr.Replica(
                configuration,
                Backend(),
                Random(self._random.getrandbits(64)),
                self._settings,
                fresh=incarnations == 1,
                observer=self._mailbox.pid,
            )

        return make

    def _crash(self, pid: Pid) -> Done | UnknownActor:
        try:
            self._node.kill(pid, "an operator wished it")
        except ActorDown:
            return UnknownActor(pid)
        return Done()

    # -------------------------------------------------------------------- news

    def _publish(self, news: PrimaryChanged | None) -> None:
        if news is None:
            return
        logger.info("%s: the primary is %s", news.namespace, news.primary or "unknown")
        if news.primary is not None:
            self._mailbox.monitor(news.primary)
            event = self._have_primary.pop(news.namespace, None)
            if event is not None:
                event.set()
        for follower in self._followers:
            self._send(follower, news)

    def _reply(self, envelope: Envelope, message: Any) -> None:
        self._send(envelope.sender, message, envelope.correlation_id)

    def _send(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None) -> None:
        try:
            self._mailbox.send_nowait(to, message, correlation_id)
        except (ActorDown, trio.WouldBlock) as error:
            logger.warning("%s was not told of %s: %s", to, type(message).__name__, error)
