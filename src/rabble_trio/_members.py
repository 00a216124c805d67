"""Who belongs to the cluster: membership over an observed-remove set, as a pure machine.

Rules:

1. A node adds only itself, when it starts afresh and when it joins again after it left. Everybody may remove anybody.
   Two clusters become one when any two of their nodes are told to join, because both sets are joined: joins are
   transitive.
2. A member stays one until somebody says that it leaves. Unreachable is not removed: this machine knows nothing of time.
3. What a node learns or changes it tells all its links at once, as a delta; what it hears and did not know it passes on.
   When a link comes up both sides send all they know. From time to time (`tick`) a digest goes to all links; where it
   differs, both sides send the differing lines. So lost, doubled and overtaken messages do no harm.
4. A node that hears of its own removal has *left*: it is a cluster of its own, forgets the others, and takes part in no
   gossip, except to tell those who still believe in it that it left. Only an *invitation* brings it back: the user of
   either node asked for the join. It then adds itself anew, which the old removal does not touch.
5. The name of a node is unique, and each start of it has a higher incarnation. A newer incarnation that adds itself
   removes what older ones added, so a node may come back at another address. The older, if it still runs, has left and
   can't be invited.
6. A restarted node that kept its record does not add itself anew, so that it hears of it if it was removed meanwhile. One
   that lost its record starts as a cluster of its own; whoever counts it as a member and finds it takes it in again.
7. Adding wins: a node that joins again, or starts afresh, while another removes it, stays.

The shell keeps a link to each node that is `wanted`. It calls `link_up` and `link_down`, gives what arrives to `receive`,
and carries out an `Outcome` in this order: store `record()` if it changed, put the sends into the links' control lanes,
handle the events. A link to a node that has left or was removed is closed after its control lane is empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ._codec import message
from ._errors import MembershipError
from ._ids import NodeId
from ._orset import Delta, Digest, ORSet

MAX_MEMBERS: Final = 500
"""Nodes in a cluster: each keeps a link to every other, and changes reach all at once."""

MAX_NAMES: Final = 2_000
"""Names of nodes that ever were members: with ids of the greatest length all of it still fits into one message."""

MAX_CLOUD: Final = 64
"""Additions of one node that are known while earlier ones are not: some overtake others, but rarely, and not for long."""


@message(tag="rabble.gossip")
class Gossip:
    """Between the cluster servers of two nodes: what the sender knows about members."""

    delta: Delta
    """All of it, or what is news."""
    want: tuple[str, ...] = ()
    """Names whose lines the sender asks for in return."""
    intent: Literal["update", "invite", "welcome"] = "update"
    """"invite": the sender's user wants to join with the receiver's cluster; "welcome": the answer to that."""


@message(tag="rabble.members_record")
class MembersRecord:
    """What a node keeps in its data directory, so that it finds its cluster again."""

    node: NodeId
    """Its own id at that time."""
    delta: Delta
    """All that it knows of the members."""
    left: bool
    """Whether it left its cluster."""


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A node is a member now: keep a link to it."""

    node: NodeId
    """The member; never this node."""


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A node is no member any more: close the link to it, once its control lane is empty."""

    node: NodeId
    """The former member; never this node."""


@dataclass(frozen=True, slots=True)
class LeftCluster:
    """This node left, and is on its own now."""

    reason: str
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class JoinCompleted:
    """The node that was invited answered: both know the members of both clusters."""

    node: NodeId
    """Who was invited."""


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """An invitation came to nothing."""

    node: NodeId
    """Who was invited."""
    reason: str
    """Why, in words."""


Event = MemberJoined | MemberLeft | LeftCluster | JoinCompleted | JoinFailed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the shell has to do after an input, in the order of the fields."""

    changed: bool = False
    """Whether `Members.record()` is another than before."""
    sends: tuple[tuple[NodeId, Gossip | Digest], ...] = ()
    """To whom, of those whose link is up, and what."""
    events: tuple[Event, ...] = ()
    """What happened, in order."""


class Members:
    """The membership as one node sees it; see the rules at the top of the module.

    `incarnation`: higher than at every earlier start of a node of this name. `record`: what this node kept from earlier;
    store the new one at once. The members that it names are no events: keep links to those `wanted` from the start.
    Raises `ValueError` if the record is another node's, or of this incarnation or a later one.
    """

    def __init__(self, node: NodeId, incarnation: int, record: MembersRecord | None = None) -> None:
        self.node = node
        self.incarnation = incarnation
        self._set: ORSet[NodeId] = ORSet(record.delta if record is not None else None)
        self._left = record is not None and record.left
        self._links: set[NodeId] = set()
        self._invited: set[NodeId] = set()
        if record is not None and record.node.name != node.name:
            raise ValueError(
                f"this is the record of {record.node}, not of {node}: each node has its own data directory"
            )
        known = self._set.incarnation(node.name)
        if known >= incarnation:
            raise ValueError(f"incarnation {incarnation} of {node.name} is not new: its record knows of {known}")
        # A node at another address adds itself anew: nobody could find it at the old one.
        if not self._left and node not in self._set:
            self._add_self()
        self._reported = self._others()

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[NodeId, ...]:
        """All members, this node included, sorted. A node that left is a cluster of its own."""
        return tuple(sorted({self.node, *self._others()}))

    @property
    def left(self) -> bool:
        """Whether this node left its cluster, or was removed from it, and was not invited since."""
        return self._left

    @property
    def wanted(self) -> tuple[NodeId, ...]:
        """Whom this node should have a link to: all other members, and who is invited, sorted."""
        return tuple(sorted(self._others() | self._invited))

    def record(self) -> MembersRecord:
        """What to keep for the next start."""
        return MembersRecord(self.node, self._set.state(), self._left)

    def _others(self) -> frozenset[NodeId]:
        return frozenset() if self._left else frozenset(self._set) - {self.node}

    # What the user wants ----------------------------------------------------------------------------------------------

    def invite(self, peer: NodeId) -> Outcome:
        """Become one cluster with `peer`: the shell dials it. Ends in `JoinCompleted`, or `JoinFailed`, or `cancel_invite`.

        Raises `MembershipError` if that can't be.
        """
        if peer.name == self.node.name:
            raise MembershipError(f"{self.node} can't join {peer}: they have the same name, and names are unique")
        before = self._set
        if self._left:
            if self._replaced():
                raise MembershipError(f"{self.node} can't join: {self._why_left()}")
            self._add_self()
        self._invited.add(peer)
        sends = [(peer, Gossip(self._set.state(), intent="invite"))] if peer in self._links else []
        return self._outcome(before, sends)

    def cancel_invite(self, peer: NodeId) -> None:
        """The user gave up: `peer` is invited no longer. If it heard of the invitation already, it is a member."""
        self._invited.discard(peer)

    def leave(self, node: NodeId) -> Outcome:
        """Remove a member, reachable or not, or let this node itself leave.

        Raises `MembershipError` if `node` is no member.
        """
        if node not in self.members:
            known = ", ".join(map(str, self.members))
            raise MembershipError(f"{node} is no member: the members are {known}")
        before = self._set
        self._set, delta = self._set.remove(node)
        sends = [(link, Gossip(delta)) for link in sorted(self._links)] if delta else []
        return self._outcome(before, sends, reason="it was asked to leave")

    # What the links bring ---------------------------------------------------------------------------------------------

    def link_up(self, peer: NodeId) -> Outcome:
        """A link to an authenticated node of this cluster's name is up, whoever dialled, member or not."""
        self._links.add(peer)
        intent: Literal["invite", "update"] = "invite" if peer in self._invited else "update"
        return Outcome(sends=((peer, Gossip(self._set.state(), intent=intent)),))

    def link_down(self, peer: NodeId) -> None:
        """The link is gone. Its node stays a member, and an invitation of it stays open for the next link."""
        self._links.discard(peer)

    def tick(self) -> Outcome:
        """Time for anti-entropy, every few seconds: lets all linked nodes find out what they or we have missed."""
        if self._left:
            return Outcome()
        invitation, digest = Gossip(self._set.state(), intent="invite"), self._set.digest()
        return Outcome(
            sends=tuple((link, invitation if link in self._invited else digest) for link in sorted(self._links))
        )

    def receive(self, peer: NodeId, news: Gossip | Digest) -> Outcome:
        """Take in what a linked node sent.

        Raises `MembershipError`, and changes nothing, if it breaks the rules or exceeds a limit: close that link.
        """
        if isinstance(news, Gossip):
            self._check(peer, news.delta)
            return self._gossip(peer, news)
        if self._left:
            own = self._set.digest().fingerprints.get(self.node.name)
            believes = news.fingerprints.get(self.node.name, own) != own
            return self._farewell(peer) if believes else Outcome()
        names = self._set.differing(news)
        if not names:
            return Outcome()
        return Outcome(sends=((peer, Gossip(self._set.only(names).state(), want=names[:MAX_NAMES])),))

    def _gossip(self, peer: NodeId, news: Gossip) -> Outcome:
        before = self._set
        if self._left and news.intent == "invite" and not self._replaced():
            self._add_self()
        if self._left:
            return self._gossip_after_leaving(peer, news)
        self._set = self._set.join(news.delta)
        sends: list[tuple[NodeId, Gossip | Digest]] = []
        if self._set is not before:
            passed_on = Gossip(self._set.delta_since(before.digest()))
            sends += [(link, passed_on) for link in sorted(self._links) if link != peer]
        if news.intent == "invite":
            sends.append((peer, Gossip(self._set.state(), intent="welcome")))
        elif news.want:
            sends.append((peer, Gossip(self._set.only(news.want).state())))
        outcome = self._outcome(before, sends)
        return self._welcomed(peer, outcome) if news.intent == "welcome" else outcome

    def _gossip_after_leaving(self, peer: NodeId, news: Gossip) -> Outcome:
        # Only what concerns this node matters: whether a newer incarnation has its name.
        before = self._set
        own = ORSet[NodeId](news.delta).only({self.node.name})
        self._set = self._set.join(own)
        if news.intent == "invite":
            return Outcome(self._set is not before, ((peer, Gossip(self._set.state(), intent="welcome")),))
        believes = bool(own.names) and own != self._set
        outcome = self._farewell(peer) if believes else Outcome()
        return Outcome(self._set is not before, outcome.sends)

    def _welcomed(self, peer: NodeId, outcome: Outcome) -> Outcome:
        if peer not in self._invited:
            return outcome
        self._invited.discard(peer)
        failed = "it has been replaced by a newer incarnation of its name, or was removed at the same time"
        event = JoinCompleted(peer) if peer in self.members else JoinFailed(peer, failed)
        return Outcome(outcome.changed, outcome.sends, (*outcome.events, event))

    def _farewell(self, peer: NodeId) -> Outcome:
        return Outcome(sends=((peer, Gossip(self._set.state())),))

    def _check(self, peer: NodeId, delta: Delta) -> None:
        for line in delta.lines:
            for _, _, element in line.live:
                if type(element) is not NodeId or element.name != line.name:
                    raise MembershipError(f"{peer} says that {line.name} added something else than itself")
            if len(line.live) > 1:
                raise MembershipError(f"{peer} says that {line.name} is a member twice")
        mine = self._set.only({self.node.name}).join(Delta(tuple(x for x in delta.lines if x.name == self.node.name)))
        for line in mine.state().lines:
            count = dict(line.counts).get(self.incarnation, 0)
            if count > self._additions() or any(one == self.incarnation for one, _ in line.cloud):
                raise MembershipError(f"{peer} has seen additions of this incarnation of {self.node} that never were")
        joined = self._set.join(delta)
        if len(joined.names) > MAX_NAMES or len(joined) > MAX_MEMBERS:
            raise MembershipError(
                f"with what {peer} knows, this would be a cluster of {len(joined)} members and {len(joined.names)} names "
                f"that ever were members, more than the {MAX_MEMBERS} and {MAX_NAMES} allowed"
            )
        if any(len(line.cloud) > MAX_CLOUD for line in joined.state().lines):
            raise MembershipError(f"{peer} knows of more than {MAX_CLOUD} additions of a node, but not of earlier ones")

    def _additions(self) -> int:
        lines = self._set.only({self.node.name}).state().lines
        return dict(lines[0].counts).get(self.incarnation, 0) if lines else 0

    # Changing ---------------------------------------------------------------------------------------------------------

    def _add_self(self) -> None:
        # The floor makes others drop the additions of earlier incarnations, and keeps the set small.
        self._set, _ = self._set.retire(self.node.name, self.incarnation)
        self._set, _ = self._set.add((self.node.name, self.incarnation), self.node)
        self._left = False

    def _replaced(self) -> bool:
        return self._set.incarnation(self.node.name) > self.incarnation

    def _why_left(self) -> str:
        if not self._replaced():
            return "another node said that it leaves"
        newer = self._set.incarnation(self.node.name)
        return (
            f"the cluster knows incarnation {newer} of {self.node.name}, and this is {self.incarnation}: "
            "another node has the same name, or this one was started with an incarnation that is not the highest"
        )

    def _outcome(
        self, before: ORSet[NodeId], sends: Iterable[tuple[NodeId, Gossip | Digest]], reason: str | None = None
    ) -> Outcome:
        """Compare with what was last reported, and leave the cluster if this node is in the set no more."""
        events: list[Event] = []
        if not self._left and self.node not in self._set:
            self._left = True
            events.append(LeftCluster(reason or self._why_left()))
            events += [JoinFailed(peer, "this node left meanwhile") for peer in sorted(self._invited)]
            self._invited.clear()
            self._set = self._set.only({self.node.name})
        others = self._others()
        events += [MemberLeft(node) for node in sorted(self._reported - others)]
        events += [MemberJoined(node) for node in sorted(others - self._reported)]
        self._reported = others
        return Outcome(self._set is not before, tuple(sends), tuple(events))


MEMBERSHIP_MESSAGES: Final[frozenset[type[Any]]] = frozenset({Gossip, Digest})
"""What the cluster servers of two nodes send each other through the control lane of their link."""
