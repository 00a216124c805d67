"""Which namespaces a node knows, and who leads them. Pure.

Rules:

1. A primary is known by what replicas say when they become normal in a view. A later (epoch, view) replaces an earlier one.
2. When the primary is down there is none, until a replica speaks of a later view.
3. Whatever changes is told to the followers as `PrimaryChanged`.
"""

from __future__ import annotations

from collections.abc import Iterator

from haret import protocol
from rabble_trio import InvalidId, NodeId, Pid, message

MAX_NAMESPACES = 1000
"""On one node: each has at least three actors with timers, and a list of all names must fit into a frame."""

SUPERVISOR = "supervisor"
"""The name, in the group, of the actor that starts its replicas; no replica may be called so."""


@message(tag="haret.server.primary_changed")
class PrimaryChanged:
    """To the servers of both ports, after the directory has changed."""

    namespace: str
    """The namespace's name."""
    primary: Pid | None
    """None while there is none."""


class Entry:
    """One namespace."""

    __slots__ = ("epoch", "name", "primary", "replicas", "view")

    def __init__(self, name: str, replicas: tuple[Pid, ...]) -> None:
        self.name = name
        self.replicas = replicas
        self.primary: Pid | None = None
        self.epoch = 0
        self.view = -1  # nothing heard yet

    def describe(self) -> protocol.Namespace:
        """As the admin port shows it."""
        return protocol.Namespace(self.name, self.replicas, self.primary, self.epoch, max(0, self.view))


class Directory:
    """The namespaces of a node. The namespace manager changes it; the connections look things up in it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def get(self, namespace: str) -> Entry | None:
        """The namespace of this name."""
        return self._entries.get(namespace)

    def entry_of(self, replica: Pid) -> Entry | None:
        """The namespace that a pid is a replica of."""
        entry = self._entries.get(replica.group or "")
        return entry if entry is not None and replica in entry.replicas else None

    def add(self, name: str, replicas: tuple[Pid, ...]) -> Entry:
        """A namespace was planned; see `plan`."""
        entry = self._entries[name] = Entry(name, replicas)
        return entry

    def remove(self, name: str) -> None:
        """A namespace could not be started after all."""
        self._entries.pop(name, None)

    def plan(
        self, request: protocol.CreateNamespace, node: NodeId
    ) -> tuple[Pid, ...] | protocol.NamespaceExists | protocol.NotEnoughReplicas | protocol.BadRequest:
        """The pids, sorted, of the replicas that a new namespace gets, or why it can't be."""
        name = request.name
        try:
            replicas = sorted({Pid(pid.name, pid.node, name) for pid in request.replicas})
        except InvalidId as error:
            return protocol.BadRequest(f"{error} (of the namespace)")
        if name in self._entries:
            return protocol.NamespaceExists(name)
        if len(self._entries) >= MAX_NAMESPACES:
            return protocol.BadRequest(f"a node has at most {MAX_NAMESPACES} namespaces")
        for pid in request.replicas:
            if pid.group not in {None, name}:
                return protocol.BadRequest(f"{pid} names another group: write {pid.name}::{pid.node}")
            if pid.node != node:
                return protocol.BadRequest(
                    f"{pid} is on another node: this node, {node}, can start only replicas on itself"
                )
            if pid.name == SUPERVISOR:
                return protocol.BadRequest(f"{pid}: the name {SUPERVISOR!r} is taken, choose another")
        if len(replicas) != len(request.replicas):
            return protocol.BadRequest("a replica is named twice")
        if len(replicas) < protocol.MIN_REPLICAS:
            return protocol.NotEnoughReplicas(len(replicas), protocol.MIN_REPLICAS)
        if len(replicas) > protocol.MAX_REPLICAS:
            return protocol.BadRequest(f"a namespace has at most {protocol.MAX_REPLICAS} replicas, not {len(replicas)}")
        return tuple(replicas)

    def view_changed(self, replica: Pid, epoch: int, view: int, primary: Pid) -> PrimaryChanged | None:
        """A replica became normal in a view. Returns what is new, if anything is."""
        entry = self.entry_of(replica)
        if entry is None or (epoch, view) <= (entry.epoch, entry.view):
            return None
        entry.epoch, entry.view, entry.primary = epoch, view, primary
        return PrimaryChanged(entry.name, primary)

    def replica_down(self, replica: Pid) -> PrimaryChanged | None:
        """A replica ended. Returns what is new, if anything is."""
        entry = self.entry_of(replica)
        if entry is None or entry.primary != replica:
            return None
        entry.primary = None
        return PrimaryChanged(entry.name, None)
