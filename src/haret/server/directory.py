"""Which namespaces a node knows, who leads them, and where clients find the other nodes. Pure.

Rules:

1. A primary is known by what replicas say when they become normal in a view. A later (epoch, view) replaces an earlier one,
   whoever tells of it: the replica, or a node that heard it.
2. When the primary is down, or can't be reached, there is none, until somebody speaks of a later view; or until the
   primary's own node, which knows best, says that it leads the same view still.
3. A namespace with rivals (see `haret.server.registry`) has no primary.
4. Whatever changes is told to the followers as `PrimaryChanged`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from haret import protocol
from rabble_trio import InvalidId, NodeId, Pid, message

from .gossip import Leader, fingerprint
from .grants import Grants
from .registry import MAX_NAMESPACES, SUPERVISOR, Group, Registry, Rivals


@message(tag="haret.server.primary_changed")
class PrimaryChanged:
    """To the server of the client port, after the directory has changed."""

    namespace: str
    """The namespace's name."""
    primary: Pid | None
    """None while there is none."""

    @property
    def topic(self) -> str:
        """Only connections to the namespace are told: see `rabble_trio.ConnectionOutput.follow`."""
        return self.namespace


class Entry:
    """One namespace."""

    __slots__ = ("epoch", "name", "primary", "rivals", "stopped", "view")

    def __init__(self, name: str, rivals: Rivals) -> None:
        self.name = name
        self.rivals = rivals
        self.primary: Pid | None = None
        self.epoch = 0
        self.view = -1  # nothing heard yet
        self.stopped: set[Pid] = set()  # replicas whose state differed from that of the others

    @property
    def group(self) -> Group | None:
        """The one that counts; None if there are rivals."""
        return self.rivals[0] if len(self.rivals) == 1 else None

    def describe(self) -> protocol.Namespace:
        """As the admin port shows it."""
        first, *others = (group.replicas for group in self.rivals)
        return protocol.Namespace(
            self.name,
            first,
            self.primary,
            max(self.epoch, self.rivals[0].epoch),
            max(0, self.view),
            tuple(others),
            self.durability,
            tuple(sorted(self.stopped)),
        )

    @property
    def durability(self) -> str:
        """As the namespace was created."""
        return self.rivals[0].durability

    def trouble(self) -> str:
        """Why there is no primary."""
        if len(self.rivals) > 1:
            return (
                f"{self.name} was created {len(self.rivals)} times, on nodes that could not see each other, so nobody is "
                "served: `vr namespaces` shows its replicas"
            )
        return f"{self.name} has no primary at the moment"


class Directory:
    """The namespaces that a node knows. The namespace manager changes it; the connections look things up in it.

    It outlives incarnations of the manager. `addresses`: of the client ports of the nodes that can be reached.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        self.grants = Grants(self.registry)
        self.addresses: dict[NodeId, str] = {}
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    @property
    def names(self) -> Collection[str]:
        """Of all namespaces: not a copy, it changes with the directory."""
        return self._entries.keys()

    def get(self, namespace: str) -> Entry | None:
        """The namespace of this name."""
        return self._entries.get(namespace)

    def entry_of(self, replica: Pid) -> Entry | None:
        """The namespace that a pid is a replica of."""
        entry = self._entries.get(replica.group or "")
        return entry if entry is not None and any(replica in group.replicas for group in entry.rivals) else None

    # ------------------------------------------------------------------ groups

    def learn(self, groups: Iterable[Group]) -> list[str]:
        """Take in what somebody knows; returns the names under which something changed."""
        changed = self.registry.learn(groups)
        for name in changed:
            rivals = self.registry.get(name)
            entry = self._entries.setdefault(name, Entry(name, rivals))
            entry.rivals = rivals
            if entry.primary is not None and (entry.group is None or entry.primary not in entry.group.replicas):
                entry.primary = None
        return list(changed)

    def forget(self, group: Group) -> None:
        """It could not be started after all, and nobody else has heard of it."""
        self.registry.forget(group)
        rivals = self.registry.get(group.name)
        if rivals:
            self._entries[group.name].rivals = rivals
        else:
            self._entries.pop(group.name, None)

    def plan(
        self,
        request: protocol.CreateNamespace,
        creation: bytes,
        members: Collection[NodeId],
        durability: str = protocol.DURABLE,
    ) -> Group | protocol.NamespaceExists | protocol.NotEnoughReplicas | protocol.BadRequest:
        """The group that a new namespace gets, or why it can't be.

        `members`: of the cluster. `durability`: what a request gets that does not say.
        """
        name = request.name
        durability = request.durability or durability
        if durability not in protocol.DURABILITIES:
            return protocol.BadRequest(f"a namespace is {' or '.join(protocol.DURABILITIES)}, not {durability[:20]!r}")
        try:
            replicas = tuple(sorted({Pid(pid.name, pid.node, name) for pid in request.replicas}))
        except InvalidId as error:
            return protocol.BadRequest(f"{error} (of the namespace)")
        if name in self._entries:
            return protocol.NamespaceExists(name)
        if len(self._entries) >= MAX_NAMESPACES:
            return protocol.BadRequest(f"a cluster has at most {MAX_NAMESPACES} namespaces")
        for pid in request.replicas:
            if pid.group not in {None, name}:
                return protocol.BadRequest(f"{pid} names another group: write {pid.name}::{pid.node}")
            if pid.name == SUPERVISOR:
                return protocol.BadRequest(f"{pid}: the name {SUPERVISOR!r} is taken, choose another")
        strangers = sorted({pid.node for pid in replicas} - set(members))
        if strangers:
            return protocol.BadRequest(
                f"{', '.join(map(str, strangers))}: not a member of this cluster, which is {', '.join(map(str, members))}; "
                f"`cluster join {strangers[0]}` makes it one"
            )
        if len(replicas) != len(request.replicas):
            return protocol.BadRequest("a replica is named twice")
        if len(replicas) < protocol.MIN_REPLICAS:
            return protocol.NotEnoughReplicas(len(replicas), protocol.MIN_REPLICAS)
        if len(replicas) > protocol.MAX_REPLICAS:
            return protocol.BadRequest(f"a namespace has at most {protocol.MAX_REPLICAS} replicas, not {len(replicas)}")
        return Group(name, creation, 0, replicas, durability)

    # --------------------------------------------------------------- primaries

    def view_changed(self, replica: Pid, epoch: int, view: int, primary: Pid) -> Leader | None:
        """A replica of this node became normal in a view. Returns what all should hear, if it is new or from the primary.

        Others may have told of the view before its primary was there, and it was taken for down.
        """
        entry = self.entry_of(replica)
        if entry is None or entry.group is None:
            return None
        leader = Leader(entry.group.creation, entry.name, epoch, view, primary)
        new = self.heard(leader, replica.node)
        return leader if new or (replica == primary == entry.primary) else None

    def heard(self, leader: Leader, node: NodeId) -> bool:
        """A node told who leads; tells whether that is new."""
        entry = self._entries.get(leader.name)
        group = None if entry is None else entry.group
        if entry is None or group is None or (group.creation, group.epoch) != (leader.creation, leader.epoch):
            return False
        if leader.primary not in group.replicas:
            return False
        same = (leader.epoch, leader.view) == (entry.epoch, entry.view)
        again = same and entry.primary is None and leader.primary.node == node
        if not again and (leader.epoch, leader.view) <= (entry.epoch, entry.view):
            return False
        entry.epoch, entry.view, entry.primary = leader.epoch, leader.view, leader.primary
        return True

    def replica_down(self, replica: Pid) -> PrimaryChanged | None:
        """A replica ended, or its node was lost. Returns what is new, if anything is."""
        entry = self.entry_of(replica)
        if entry is None or entry.primary != replica:
            return None
        entry.primary = None
        return PrimaryChanged(entry.name, None)

    def stopped_on(self, node: NodeId) -> tuple[Pid, ...]:
        """The replicas of a node that stopped, sorted."""
        return tuple(sorted(pid for entry in self._entries.values() for pid in entry.stopped if pid.node == node))

    def replicas_stopped(self, node: NodeId, pids: Collection[Pid]) -> list[Pid]:
        """A node told which of its replicas stopped: these, and no others. Returns those that are new."""
        before = set(self.stopped_on(node))
        now = {pid for pid in pids if pid.node == node and self.entry_of(pid) is not None}
        for pid in before ^ now:
            self._entries[pid.group or ""].stopped ^= {pid}
        return sorted(now - before)

    def leaders(self) -> list[Leader]:
        """All primaries that are known, by namespace."""
        return [
            Leader(entry.group.creation, entry.name, entry.epoch, entry.view, entry.primary)
            for entry in self
            if entry.group is not None and entry.primary is not None
        ]

    def fingerprint(self) -> bytes:
        """Equal on nodes that know the same groups and views."""
        views = ((entry.name, entry.epoch, entry.view) for entry in self if entry.group is not None)
        return fingerprint(self.registry.digest(), views)
