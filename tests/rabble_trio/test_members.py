"""`rabble_trio._members`: joining, leaving and coming back, over a network that loses, doubles and reorders.

`Network` is the smallest shell there is: it keeps links between nodes as the machine's events say, and carries messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import NodeId, decode, encode
from rabble_trio._errors import MembershipError
from rabble_trio._members import (
    MAX_CLOUD,
    MAX_MEMBERS,
    MAX_NAMES,
    Gossip,
    JoinCompleted,
    JoinFailed,
    LeftCluster,
    MemberJoined,
    MemberLeft,
    Members,
    MembersRecord,
    Outcome,
)
from rabble_trio._orset import Delta, Digest, Line, ORSet

IDS = [NodeId(f"n{number}", f"127.0.0.1:{5000 + number}") for number in range(6)]


class Network:
    """Simulated nodes, the links between them, and the messages on their way."""

    def __init__(self, count: int = 0) -> None:
        self.nodes: dict[NodeId, Members] = {}
        self.records: dict[NodeId, MembersRecord] = {}
        self.starts: dict[str, int] = {}
        self.links: set[frozenset[NodeId]] = set()
        self.flying: list[tuple[NodeId, NodeId, bytes]] = []
        self.events: dict[NodeId, list[Any]] = {}
        for node in IDS[1 : count + 1]:
            self.start(node)

    def start(self, node: NodeId, *, keep_record: bool = False) -> Members:
        self.starts[node.name] = self.starts.get(node.name, 0) + 1
        record = self.records.get(node) if keep_record else None
        self.nodes[node] = members = Members(node, self.starts[node.name], record)
        self.events[node] = []
        return members

    def stop(self, node: NodeId) -> None:
        del self.nodes[node]
        for link in [link for link in self.links if node in link]:
            self.cut(*link)

    # The shell ----------------------------------------------------------------

    def carry_out(self, node: NodeId, outcome: Outcome) -> None:
        if outcome.changed:
            self.records[node] = decode(encode(self.nodes[node].record()))
        self.flying += [(node, to, encode(message)) for to, message in outcome.sends]
        self.events[node] += outcome.events

    def connect(self, one: NodeId, other: NodeId) -> None:
        link = frozenset({one, other})
        if link not in self.links and link <= self.nodes.keys():
            self.links.add(link)
            self.carry_out(one, self.nodes[one].link_up(other))
            self.carry_out(other, self.nodes[other].link_up(one))

    def cut(self, one: NodeId, other: NodeId) -> None:
        self.links.remove(frozenset({one, other}))
        self.flying = [(a, b, data) for a, b, data in self.flying if {a, b} != {one, other}]
        for node, peer in ((one, other), (other, one)):
            if node in self.nodes:
                self.nodes[node].link_down(peer)

    def deliver(self, index: int) -> None:
        sender, to, data = self.flying.pop(index)
        if frozenset({sender, to}) in self.links:
            self.carry_out(to, self.nodes[to].receive(sender, decode(data)))

    def settle(self) -> None:
        """Deliver all there is; then links as members want them, and anti-entropy; until nothing changes."""
        for _ in range(20):
            before = self.view()
            while self.flying:
                self.deliver(0)
            for link in sorted(self.links, key=sorted):
                one, other = link
                if other not in self.nodes[one].wanted and one not in self.nodes[other].wanted:
                    self.cut(one, other)
            for node in sorted(self.nodes):
                for peer in self.nodes[node].wanted:
                    self.connect(node, peer)
                self.carry_out(node, self.nodes[node].tick())
            if not self.flying and self.view() == before:
                return
            while self.flying:
                self.deliver(0)
            if self.view() == before:
                return
        raise AssertionError("it does not settle")

    def view(self) -> Any:
        return {node: members.record() for node, members in self.nodes.items()}

    # The user -----------------------------------------------------------------

    def join(self, one: NodeId, other: NodeId) -> None:
        self.carry_out(one, self.nodes[one].invite(other))
        self.connect(one, other)

    def leave(self, asked: NodeId, node: NodeId) -> None:
        self.carry_out(asked, self.nodes[asked].leave(node))

    def members(self, number: int) -> list[int]:
        return [IDS.index(node) for node in self.nodes[IDS[number]].members]


def all_members(network: Network) -> list[list[int]]:
    return [network.members(IDS.index(node)) for node in sorted(network.nodes)]


# The sequence of Rabble's own test ------------------------------------------------------------------------------------


def test_join_and_leave_step_by_step() -> None:
    network = Network(3)
    n1, n2, n3 = IDS[1:4]
    network.join(n1, n2)
    network.settle()
    assert all_members(network) == [[1, 2], [1, 2], [3]]
    network.join(n1, n3)
    network.settle()
    assert all_members(network) == [[1, 2, 3]] * 3
    assert frozenset({n2, n3}) in network.links  # joins are transitive: 2 and 3 never heard of each other before
    network.leave(n1, n2)
    network.settle()
    assert all_members(network) == [[1, 3], [2], [1, 3]]
    network.leave(n1, n1)
    network.settle()
    assert all_members(network) == [[1], [2], [3]]
    assert [network.nodes[node].left for node in (n1, n2, n3)] == [True, True, False]
    assert network.links == set()
    assert network.events[n1] == [
        MemberJoined(n2),
        JoinCompleted(n2),
        MemberJoined(n3),
        JoinCompleted(n3),
        MemberLeft(n2),
        LeftCluster("it was asked to leave"),
        MemberLeft(n3),
    ]
    assert network.events[n2] == [
        MemberJoined(n1),
        MemberJoined(n3),
        LeftCluster("another node said that it leaves"),
        MemberLeft(n1),
        MemberLeft(n3),
    ]


chaos = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "deliver", "lose", "double", "cut", "dial", "tick"]),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    max_size=30,
)


def disturb(network: Network, program: Iterable[tuple[str, int, int]]) -> None:
    """What a network does between two wishes of the user."""
    for what, one, other in program:
        links = sorted(network.links, key=sorted)
        nodes = sorted(network.nodes)
        if what in {"deliver", "lose", "double"} and network.flying:
            index = one % len(network.flying)
            if what == "deliver":
                network.deliver(index)
            elif what == "lose":
                network.flying.pop(index)
            else:
                network.flying.append(network.flying[index])
        elif what == "cut" and links:
            network.cut(*links[one % len(links)])
        elif what == "dial" and nodes:
            node = nodes[one % len(nodes)]
            members = network.nodes[node].members
            if members[other % len(members)] != node:
                network.connect(node, members[other % len(members)])
        elif what == "tick" and nodes:
            node = nodes[one % len(nodes)]
            network.carry_out(node, network.nodes[node].tick())


@given(st.lists(chaos, min_size=4, max_size=4))
def test_join_and_leave_converge_whatever_the_network_does(programs: list[list[tuple[str, int, int]]]) -> None:
    network = Network(3)
    n1, n2, n3 = IDS[1:4]
    steps = [
        (lambda: network.join(n1, n2), [[1, 2], [1, 2], [3]]),
        (lambda: network.join(n1, n3), [[1, 2, 3]] * 3),
        (lambda: network.leave(n1, n2), [[1, 3], [2], [1, 3]]),
        (lambda: network.leave(n1, n1), [[1], [2], [3]]),
    ]
    for (step, expected), program in zip(steps, programs, strict=True):
        step()
        disturb(network, program)
        network.settle()
        assert all_members(network) == expected


wishes = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "leave", "restart", "lose memory", "stop", "network"]),
        st.integers(0, 4),
        st.integers(0, 4),
        chaos,
    ),
    max_size=15,
)


@given(wishes)
def test_any_history_converges_to_clusters_that_agree(program: list[tuple[str, int, int, Any]]) -> None:
    network = Network(5)
    for what, one, other, weather in program:
        node, peer = IDS[1 + one], IDS[1 + other]
        if what in {"restart", "lose memory"}:
            if node in network.nodes:
                network.stop(node)
            network.start(node, keep_record=what == "restart")
        elif node not in network.nodes:
            pass
        elif what == "stop":
            network.stop(node)
        elif what == "join" and node != peer:
            network.join(node, peer)
        elif what == "leave" and peer in network.nodes[node].members:
            network.leave(node, peer)
        disturb(network, weather)
    network.settle()
    for node, members in network.nodes.items():
        assert node in members.members
        for other_node in members.members:
            if other_node in network.nodes:
                assert network.nodes[other_node].members == members.members
        told = {event.node: isinstance(event, MemberJoined) for event in network.events[node] if is_news(event)}
        now = {other for other, joined in told.items() if joined}
        assert now - set(members.members) == set()
        assert all(len(line.counts) <= 1 and not line.cloud for line in members.record().delta.lines)


def is_news(event: Any) -> bool:
    return isinstance(event, (MemberJoined, MemberLeft))


# Joining --------------------------------------------------------------------------------------------------------------


def cluster(*numbers: int) -> Network:
    """A settled cluster."""
    network = Network()
    for number in numbers:
        network.start(IDS[number])
    for number in numbers[1:]:
        network.join(IDS[numbers[0]], IDS[number])
    network.settle()
    return network


def test_a_node_starts_as_a_cluster_of_its_own() -> None:
    members = Members(IDS[1], 1)
    assert members.members == (IDS[1],)
    assert not members.left
    assert members.tick() == Outcome()


def test_two_clusters_become_one() -> None:
    network = cluster(1, 2)
    for number in (3, 4):
        network.start(IDS[number])
    network.join(IDS[3], IDS[4])
    network.settle()
    network.join(IDS[2], IDS[4])
    network.settle()
    assert all_members(network) == [[1, 2, 3, 4]] * 4
    assert len(network.links) == 6


def test_news_is_passed_on_at_once_to_those_who_have_no_link_to_its_origin() -> None:
    network = cluster(1, 2, 3)
    network.cut(IDS[1], IDS[3])
    network.leave(IDS[1], IDS[1])
    while network.flying:
        network.deliver(0)
    assert network.members(3) == [2, 3]


def test_what_is_no_news_is_not_passed_on() -> None:
    network = cluster(1, 2, 3)
    news = Gossip(network.nodes[IDS[1]].record().delta)
    assert network.nodes[IDS[2]].receive(IDS[1], news) == Outcome()


def test_joining_again_is_answered_again() -> None:
    network = cluster(1, 2)
    network.events[IDS[1]].clear()
    network.join(IDS[1], IDS[2])
    network.settle()
    assert network.events[IDS[1]] == [JoinCompleted(IDS[2])]


def test_an_invitation_waits_for_the_link_and_survives_its_loss() -> None:
    network = Network(2)
    n1, n2 = IDS[1:3]
    assert network.nodes[n1].invite(n2) == Outcome()
    network.connect(n1, n2)
    network.cut(n1, n2)
    assert network.events[n1] == []
    network.connect(n1, n2)
    network.settle()
    assert network.events[n1] == [MemberJoined(n2), JoinCompleted(n2)]


def test_a_user_who_gave_up_is_not_answered() -> None:
    network = Network(2)
    n1, n2 = IDS[1:3]
    network.nodes[n1].invite(n2)
    network.nodes[n1].cancel_invite(n2)
    network.connect(n1, n2)
    network.settle()
    assert JoinCompleted(n2) not in network.events[n1]


def test_a_node_cannot_join_its_own_name() -> None:
    members = Members(IDS[1], 1)
    for peer in (IDS[1], NodeId("n1", "127.0.0.1:9")):
        with pytest.raises(MembershipError, match="names are unique"):
            members.invite(peer)


# Leaving --------------------------------------------------------------------------------------------------------------


def test_a_dead_member_can_be_removed_and_hears_of_it_when_it_is_back() -> None:
    network = cluster(1, 2, 3)
    n2 = IDS[2]
    network.stop(n2)
    network.settle()
    assert all_members(network) == [[1, 2, 3]] * 2  # unreachable is not removed
    network.leave(IDS[1], n2)
    network.settle()
    assert all_members(network) == [[1, 3]] * 2
    network.start(n2, keep_record=True)
    assert network.members(2) == [1, 2, 3]
    network.settle()
    assert all_members(network) == [[1, 3], [2], [1, 3]]
    assert network.nodes[n2].left
    network.stop(n2)
    network.start(n2, keep_record=True)  # it remembers that it left
    network.settle()
    assert network.nodes[n2].left
    assert all_members(network) == [[1, 3], [2], [1, 3]]


def test_the_last_of_two_may_leave_while_the_other_is_unreachable() -> None:
    network = cluster(1, 2)
    network.cut(IDS[1], IDS[2])
    network.leave(IDS[1], IDS[1])
    assert network.members(1) == [1]
    assert network.members(2) == [1, 2]
    network.settle()  # 2 dials 1, which tells it
    assert all_members(network) == [[1], [2]]


def test_leaving_twice_does_nothing_and_a_stranger_cannot_leave() -> None:
    network = cluster(1, 2)
    members = network.nodes[IDS[1]]
    with pytest.raises(MembershipError, match=r"n3@127\.0\.0\.1:5003 is no member: the members are n1@.*, n2@"):
        members.leave(IDS[3])
    members.leave(IDS[1])
    assert members.leave(IDS[1]) == Outcome()


def test_a_node_that_left_comes_back_when_it_joins() -> None:
    network = cluster(1, 2, 3)
    network.leave(IDS[1], IDS[2])
    network.settle()
    network.join(IDS[2], IDS[3])
    network.settle()
    assert all_members(network) == [[1, 2, 3]] * 3


def test_a_node_that_left_comes_back_when_it_is_invited() -> None:
    network = cluster(1, 2, 3)
    network.leave(IDS[2], IDS[2])
    network.settle()
    network.join(IDS[1], IDS[2])
    network.settle()
    assert all_members(network) == [[1, 2, 3]] * 3
    assert not network.nodes[IDS[2]].left


def test_who_left_does_not_bring_its_old_cluster_into_a_new_one() -> None:
    network = cluster(1, 2, 3)
    network.leave(IDS[3], IDS[3])
    network.settle()
    network.start(IDS[4])
    network.join(IDS[4], IDS[3])
    network.settle()
    assert all_members(network) == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_who_left_takes_no_gossip_and_two_who_left_fall_silent() -> None:
    network = cluster(1, 2)
    n1, n2 = IDS[1:3]
    for node in (n1, n2):
        network.cut(*link) if (link := frozenset({n1, n2})) in network.links else None
        network.leave(node, node)
    network.connect(n1, n2)
    while network.flying:
        network.deliver(0)  # it ends
    assert all_members(network) == [[1], [2]]
    other = Members(IDS[3], 1)
    outcome = network.nodes[n1].receive(IDS[3], Gossip(other.record().delta))
    assert outcome == Outcome()
    assert network.nodes[n1].receive(IDS[3], other.record().delta and Digest({"n3": b""})) == Outcome()


def test_who_left_tells_everybody_who_still_believes_in_it() -> None:
    network = cluster(1, 2)
    n1, n2 = IDS[1:3]
    believer = network.nodes[n2].record().delta
    digest = ORSet[NodeId](believer).digest()
    network.nodes[n1].leave(n1)
    for belief in (Gossip(believer), digest):
        ((to, farewell),) = network.nodes[n1].receive(n2, belief).sends
        assert to == n2
        assert isinstance(farewell, Gossip)
        assert n1 not in ORSet[NodeId](believer).join(farewell.delta)


def test_leaving_ends_the_own_invitations() -> None:
    members = Members(IDS[1], 1)
    members.invite(IDS[2])
    assert members.leave(IDS[1]).events == (
        LeftCluster("it was asked to leave"),
        JoinFailed(IDS[2], "this node left meanwhile"),
    )


# Incarnations and records ---------------------------------------------------------------------------------------------


def test_a_restart_with_the_record_changes_nothing() -> None:
    network = cluster(1, 2, 3)
    record = network.nodes[IDS[1]].record()
    network.stop(IDS[2])
    network.start(IDS[2], keep_record=True)
    network.settle()
    assert network.nodes[IDS[1]].record() == record


def test_a_restart_without_the_record_is_taken_in_again_and_costs_no_room() -> None:
    network = cluster(1, 2)
    size = len(encode(network.nodes[IDS[1]].record()))
    for _ in range(20):
        network.stop(IDS[2])
        network.start(IDS[2])
        assert network.members(2) == [2]
        network.settle()
        assert all_members(network) == [[1, 2]] * 2
    assert len(encode(network.nodes[IDS[1]].record())) == size


def test_a_restart_at_another_address_replaces_the_member() -> None:
    network = cluster(1, 2, 3)
    moved = NodeId("n2", "127.0.0.1:7777")
    network.stop(IDS[2])
    network.records[moved] = network.records[IDS[2]]
    network.start(moved, keep_record=True)
    network.settle()
    assert network.nodes[IDS[1]].members == (IDS[1], moved, IDS[3])
    assert network.events[IDS[1]][-2:] == [MemberLeft(IDS[2]), MemberJoined(moved)]


def test_of_two_nodes_with_one_name_the_older_leaves_and_is_told_why() -> None:
    network = cluster(1, 2)
    n1, n2 = IDS[1:3]
    impostor = NodeId("n2", "127.0.0.1:7777")
    network.start(impostor)
    network.join(impostor, n1)
    network.settle()
    assert network.nodes[n1].members == (n1, impostor)
    assert network.nodes[n2].left
    (left,) = [event for event in network.events[n2] if isinstance(event, LeftCluster)]
    assert left.reason.startswith(
        "the cluster knows incarnation 2 of n2, and this is 1: another node has the same name"
    )
    with pytest.raises(MembershipError, match=r"n2@127\.0\.0\.1:5002 can't join: the cluster knows incarnation 2"):
        network.nodes[n2].invite(n1)
    network.join(n1, n2)
    network.settle()
    assert isinstance(network.events[n1][-1], JoinFailed)
    assert network.nodes[n1].members == (n1, impostor)


def test_a_record_belongs_to_one_node_and_the_past() -> None:
    record = Members(IDS[1], 5).record()
    assert decode(encode(record)) == record
    with pytest.raises(ValueError, match="each node has its own data directory"):
        Members(IDS[2], 6, record)
    for incarnation in (4, 5):
        with pytest.raises(ValueError, match="is not new: its record knows of 5"):
            Members(IDS[1], incarnation, record)


# What is refused ------------------------------------------------------------------------------------------------------


def live(name: str, node: Any, incarnation: int = 1, number: int = 1) -> Line:
    return Line(name, 0, ((incarnation, number),), (), ((incarnation, number, node),))


LIES = {
    "something else than itself": [
        (live("n2", IDS[3]),),
        (live("n2", "n2"),),
        (live("n2", 7),),
    ],
    "is a member twice": [
        (Line("n2", 0, ((1, 2),), (), ((1, 1, IDS[2]), (1, 2, NodeId("n2", "127.0.0.1:1")))),),
    ],
    "additions of this incarnation of n1@127.0.0.1:5001 that never were": [
        (live("n1", IDS[1], incarnation=7, number=2),),
        (Line("n1", 0, ((7, 2**63 - 1),), (), ()),),
        (Line("n1", 0, (), ((7, 5),), ()),),
    ],
    "more than the 500 and 2000 allowed": [
        tuple(Line(f"m{number:05}", 1, (), (), ()) for number in range(MAX_NAMES)),
        tuple(live(f"m{number:05}", NodeId(f"m{number:05}", "127.0.0.1:1")) for number in range(MAX_MEMBERS)),
    ],
    "but not of earlier ones": [
        (Line("n2", 0, (), tuple((1, 3 + 2 * number) for number in range(MAX_CLOUD + 1)), ()),),
    ],
}


@pytest.mark.parametrize(("problem", "lines"), [(problem, lie) for problem, lies in LIES.items() for lie in lies])
def test_a_liar_is_refused_and_changes_nothing(problem: str, lines: tuple[Line, ...]) -> None:
    members = Members(IDS[1], 7)
    members.link_up(IDS[2])
    before = members.record()
    with pytest.raises(MembershipError, match=problem) as caught:
        members.receive(IDS[2], Gossip(Delta(lines)))
    assert str(IDS[2]) in str(caught.value) or "n2" in str(caught.value)
    assert members.record() == before


def test_a_digest_and_a_wish_of_any_size_are_answered_within_the_limits() -> None:
    members = Members(IDS[1], 1)
    members.link_up(IDS[2])
    ((_, answer),) = members.receive(IDS[2], Digest({f"x{number}": b"" for number in range(10_000)})).sends
    assert isinstance(answer, Gossip)
    assert len(answer.want) == MAX_NAMES
    assert len(answer.delta.lines) == 1
    ((_, answer),) = members.receive(IDS[2], Gossip(Delta(), want=tuple(map(str, range(50_000))))).sends
    assert answer == Gossip(Delta())


def test_the_largest_cluster_fits_into_one_message() -> None:
    def long(number: int) -> str:
        return f"{number:05}".ljust(128, "x")

    members = [live(long(n), NodeId(long(n), "h" * 250 + ":65535"), 2**62, 2**62) for n in range(MAX_MEMBERS)]
    gone = [Line(long(n), 2**62, ((2**62, 2**62),), (), ()) for n in range(MAX_MEMBERS, MAX_NAMES)]
    assert encode(Gossip(Delta((*members, *gone))))
