"""Which groups there are, as every node of a cluster comes to know them. Pure.

Rules:

1. A `Group` is one configuration of one namespace. It never changes; a namespace gets another one, of a later epoch.
2. For each name, the newest epoch wins. What was learned earlier or later, from whom, and how often, makes no difference:
   `join` is commutative, associative and idempotent, so nodes that have heard the same know the same.
3. Two different groups of one name at the same epoch can only come from creations that did not know of each other, on
   two sides of a partition. They are rivals: both are kept and shown, and neither is served, because the clients of one
   would find the data of the other. A later epoch ends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from haret import protocol
from rabble_trio import NodeId, Pid, encode, message

MAX_RIVALS: Final = 4
"""Groups of one name and epoch that are kept: two tell the operator, and more should not fill the memory."""

CREATION_BYTES: Final = 16
"""Random bytes that name a creation: two are never the same."""

MAX_NAMESPACES: Final = 1000
"""In a cluster: each has at least three actors with timers, and a list of all names must fit into a frame."""

SUPERVISOR: Final = "supervisor"
"""The name, in the group, of the actor that keeps a node's replicas of it; no replica may be called so."""


@message(tag="haret.server.group")
class Group:
    """The members of one namespace in one epoch."""

    name: str
    """Of the namespace; the group in the pids of the replicas."""
    creation: bytes
    """`CREATION_BYTES` random bytes, drawn once when the namespace was created."""
    epoch: int
    """0, 1, 2, ...: counted up by each reconfiguration."""
    replicas: tuple[Pid, ...]
    """Sorted; primaries take turns in this order."""
    durability: str = protocol.DURABLE
    """One of `haret.protocol.DURABILITIES`, as the namespace was created; the same in all epochs."""

    def on(self, node: NodeId) -> tuple[Pid, ...]:
        """The replicas that belong on a node."""
        return tuple(pid for pid in self.replicas if pid.node == node)

    def nodes(self) -> tuple[NodeId, ...]:
        """The nodes that have a replica, sorted."""
        return tuple(sorted({pid.node for pid in self.replicas}))


Rivals = tuple[Group, ...]
"""All that is known under one name: one group, or rivals, of one epoch, sorted."""


def join(left: Rivals, right: Rivals) -> Rivals:
    """What is known under a name by those who know what `left` and `right` know."""
    both = {*left, *right}
    newest = max((group.epoch for group in both), default=0)
    return tuple(sorted((group for group in both if group.epoch == newest), key=_order)[:MAX_RIVALS])


def _order(group: Group) -> tuple[bytes, tuple[Pid, ...], str]:
    return group.creation, group.replicas, group.durability


def problem_with(group: Group) -> str | None:
    """Why this can't be a group of replicas, or None."""
    pids = group.replicas
    if len(group.creation) != CREATION_BYTES or group.epoch < 0:
        return "it has no proper creation or epoch"
    if list(pids) != sorted(set(pids)) or any(pid.group != group.name for pid in pids):
        return "its replicas are not sorted, or not of its name"
    if any(pid.name == SUPERVISOR for pid in pids):
        return f"the name {SUPERVISOR!r} is taken"
    if not protocol.MIN_REPLICAS <= len(pids) <= protocol.MAX_REPLICAS:
        return f"a group has {protocol.MIN_REPLICAS} to {protocol.MAX_REPLICAS} replicas, not {len(pids)}"
    if group.durability not in protocol.DURABILITIES:
        return f"its durability is {group.durability[:20]!r}"
    return None


class Registry:
    """What one node knows. `dropped` counts what it heard of and did not take in."""

    def __init__(self) -> None:
        self.dropped = 0
        self._known: dict[str, Rivals] = {}
        self._digest: bytes | None = None

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Group]:
        """All groups, by name."""
        for name in sorted(self._known):
            yield from self._known[name]

    def get(self, name: str) -> Rivals:
        """What is known under this name; nothing, one group, or rivals."""
        return self._known.get(name, ())

    def learn(self, groups: Iterable[Group]) -> tuple[str, ...]:
        """Take in what somebody else knows; returns the names under which something changed.

        What can't be a group is dropped and counted, and so are names beyond `MAX_NAMESPACES`.
        """
        changed: dict[str, None] = {}
        for group in groups:
            known = self._known.get(group.name)
            if problem_with(group) is not None or (known is None and len(self._known) >= MAX_NAMESPACES):
                self.dropped += 1
                continue
            joined = join(known or (), (group,))
            if joined != known:
                self._known[group.name] = joined
                changed[group.name] = None
        if changed:
            self._digest = None
        return tuple(changed)

    def forget(self, group: Group) -> None:
        """It was never started, and nobody else has heard of it."""
        rest = tuple(one for one in self.get(group.name) if one != group)
        if rest:
            self._known[group.name] = rest
        else:
            self._known.pop(group.name, None)
        self._digest = None

    def digest(self) -> bytes:
        """Equal on nodes that know the same."""
        if self._digest is None:
            whole = hashlib.blake2b(digest_size=16)
            for group in self:
                whole.update(encode(group))
            self._digest = whole.digest()
        return self._digest
