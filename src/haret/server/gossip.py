"""What the namespace managers of a cluster say to each other. Pure.

    creator                     every node of the group
    Reserve(group)         ->                                   nobody else may create the name for a while
                           <-   Granted | an error
    Start(group)           ->                                   start your replicas, fresh: they never ran before
                           <-   Started | an error
    Release(group)         ->                                   instead of Start, when somebody did not grant
    Learn(group, pid)      ->                                   start a replica that is to become a member
                           <-   Started | an error

    after a link came up, and every few seconds
    Here(address, digest, ...)  ->
                                <-   News(groups, leaders), when the digests differ

Whoever leads is told to all nodes as it changes (`News` of a `Leader`), and again after a link came up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from rabble_trio import NodeId, Pid, message

from .registry import Group

NEWS_PAGE: Final = 64
"""Groups in one `News`: with as many replicas, and names as long, as may be, they still fit into a frame."""


SHOWN_STOPPED: Final = 64
"""Stopped replicas of its own that a node tells others of: one is a reason to look, and more would fill the message."""


@message(tag="haret.server.reserve")
class Reserve:
    """May I create this group? Answer: `Granted`, or an error of `haret.protocol`."""

    group: Group
    """Its members and its creation."""


@message(tag="haret.server.granted")
class Granted:
    """Nobody else may create the name for now; and `Start` with the same group will be believed, once."""


@message(tag="haret.server.release")
class Release:
    """I shall not create this group after all. There is no answer."""

    group: Group
    """As in `Reserve`."""


@message(tag="haret.server.start")
class Start:
    """Everybody granted: start your replicas of this group, fresh. Answer: `Started`, or an error of `haret.protocol`."""

    group: Group
    """As in `Reserve`."""


@message(tag="haret.server.started")
class Started:
    """The replicas run, and the group is known here from now on."""


@message(tag="haret.server.learn")
class Learn:
    """Start this replica, which is to become a member of the group. Answer: `Started`, or an error of `haret.protocol`."""

    group: Group
    """As it is."""
    pid: Pid
    """On the receiver's node."""


@message(tag="haret.server.leader")
class Leader:
    """Who leads a group, as far as the sender knows."""

    creation: bytes
    """The group's."""
    name: str
    """The namespace's."""
    epoch: int
    """Of the view."""
    view: int
    """In which it leads."""
    primary: Pid
    """The primary of that view."""


@message(tag="haret.server.news")
class News:
    """What the sender knows, or a part of it."""

    groups: tuple[Group, ...]
    """At most `NEWS_PAGE`."""
    leaders: tuple[Leader, ...]
    """At most `NEWS_PAGE`."""


@message(tag="haret.server.here")
class Here:
    """How the sender can be reached, and a fingerprint of what it knows."""

    api_address: str
    """Where clients find the sender."""
    digest: bytes
    """`fingerprint` of what it knows."""
    first: bool
    """Whether the link has just come up, so that the receiver should say the same, and all that it knows."""
    stopped: tuple[Pid, ...] = ()
    """Replicas of the sender's node that stopped, because their state differs; at most `SHOWN_STOPPED`."""


def fingerprint(registry_digest: bytes, views: Iterable[tuple[str, int, int]]) -> bytes:
    """Equal on nodes that know the same groups and have heard of the same (name, epoch, view) of each."""
    whole = hashlib.blake2b(registry_digest, digest_size=16)
    for name, epoch, view in views:
        whole.update(f"{name}:{epoch}:{view};".encode())
    return whole.digest()


def manager_of(node: NodeId) -> Pid:
    """The namespace manager of a node."""
    return Pid("namespaces", node, "haret")


def operator_of(node: NodeId) -> Pid:
    """The actor that makes a node join and leave clusters."""
    return Pid("operator", node, "haret")
