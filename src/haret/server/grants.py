"""Who may create which namespace on this node, and when replicas may start as if they had never run. Pure.

A replica that starts *fresh* takes an empty journal for the truth. That is right exactly once: if it ran before, it may have
acknowledged what it no longer knows, and a group of such replicas would lose it. So:

Rules:

1. A replica is started fresh only by the `Start` of the creation that reserved it here, in this incarnation of the node
   and of no other. The reservation is used up by that; a second `Start` finds none.
2. Reservations are kept in memory only. A node that was restarted, with its data directory or without, has none: whatever
   it reads from its disk or hears from others, the replica goes on with its journal, or recovers from the others if there is
   nothing in it. So does one whose `Start` was lost.
3. A name is reserved for one creation at a time, and not at all if a group of that name is known here. So two creations
   that share a node can't both succeed.
4. A reservation lapses when its creator's node is lost, and after `LIFETIME` seconds. A `Start` that comes later is
   refused. Nothing is undone by that: the replica recovers from the others.
5. While a group is reserved here, hearing of it from others starts nothing: the creator's `Start` is on its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from haret.protocol import NamespaceExists, Unanswered
from rabble_trio import NodeId

from .gossip import Granted
from .registry import MAX_NAMESPACES, Group, Registry

LIFETIME: Final = 30.0
"""Seconds: several times what a creation may take."""


class _Grant(NamedTuple):
    group: Group
    creator: NodeId
    since: float


class Grants:
    """The reservations of one node. Times are seconds of any clock that only grows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_name: dict[str, _Grant] = {}

    def reserve(self, group: Group, creator: NodeId, now: float) -> Granted | NamespaceExists | Unanswered:
        """Somebody wants to create a group."""
        if self._registry.get(group.name):
            return NamespaceExists(group.name)
        held = self._by_name.get(group.name)
        if held is not None and held.group != group and now < held.since + LIFETIME:
            return Unanswered(f"{group.name} is being created already, by {held.creator}: try again, or look for it")
        if held is None and len(self._registry) + len(self._by_name) >= MAX_NAMESPACES:
            return Unanswered(f"there are {MAX_NAMESPACES} namespaces, or about to be, and a cluster holds no more")
        self._by_name[group.name] = _Grant(group, creator, now)
        return Granted()

    def holds(self, group: Group) -> bool:
        """Whether this very group is reserved."""
        held = self._by_name.get(group.name)
        return held is not None and held.group == group

    def take(self, group: Group, now: float) -> bool:
        """Use up the reservation of a group; tells whether there was one."""
        if not self.holds(group):
            return False
        return now < self._by_name.pop(group.name).since + LIFETIME

    def release(self, group: Group) -> None:
        """The creator changed its mind."""
        if self.holds(group):
            del self._by_name[group.name]

    def node_lost(self, creator: NodeId) -> tuple[str, ...]:
        """Nothing will come from this creator any more; returns the names that are free again."""
        return self._drop(grant.group.name for grant in list(self._by_name.values()) if grant.creator == creator)

    def expire(self, now: float) -> tuple[str, ...]:
        """Time has passed; returns the names that are free again."""
        return self._drop(grant.group.name for grant in list(self._by_name.values()) if now >= grant.since + LIFETIME)

    def _drop(self, names: Iterable[str]) -> tuple[str, ...]:
        lapsed = tuple(names)
        for name in lapsed:
            del self._by_name[name]
        return lapsed
