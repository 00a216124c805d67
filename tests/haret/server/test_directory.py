"""Which namespaces there are, and who leads them."""

from __future__ import annotations

from typing import Any

import pytest

from haret import protocol
from haret.server.directory import Directory, PrimaryChanged
from haret.server.gossip import Leader
from haret.server.registry import MAX_NAMESPACES, SUPERVISOR, Group
from rabble_trio import NodeId, Pid

NODE = NodeId.parse("n1@127.0.0.1:5000")
OTHER = NodeId.parse("n2@127.0.0.1:5000")
MEMBERS = (NODE, OTHER)
CREATION = bytes(16)


def pids(*names: str, group: str | None = None, node: NodeId = NODE) -> tuple[Pid, ...]:
    return tuple(Pid(name, node, group) for name in names)


def replicas(*names: str) -> tuple[Pid, ...]:
    return pids(*names, group="ns")


def group(name: str = "ns", creation: int = 0, epoch: int = 0) -> Group:
    return Group(name, bytes([creation] * 16), epoch, pids("r1", "r2", "r3", group=name))


def plan(directory: Directory, name: str, members: tuple[Pid, ...]) -> Any:
    return directory.plan(protocol.CreateNamespace(name, members), CREATION, MEMBERS)


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    assert directory.learn([group()]) == ["ns"]
    return directory


def test_pids_get_the_namespace_as_their_group_and_are_sorted() -> None:
    planned = plan(Directory(), "ns", (*pids("r3", "r1"), *replicas("r2")))
    assert planned == Group("ns", CREATION, 0, replicas("r1", "r2", "r3"))


def test_replicas_may_be_on_any_member() -> None:
    planned = plan(Directory(), "ns", (*pids("r1", "r2"), *pids("r1", node=OTHER)))
    assert planned.nodes() == MEMBERS
    assert planned.on(OTHER) == pids("r1", group="ns", node=OTHER)


def test_an_even_number_will_do() -> None:
    assert plan(Directory(), "ns", pids("a", "b", "c", "d")).replicas == replicas("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("no spaces", pids("a", "b", "c"), "group name"),
        ("", pids("a", "b", "c"), "group name"),
        ("x" * 200, pids("a", "b", "c"), "group name"),
        ("ns", (*pids("a", "b"), *pids("c", node=NodeId.parse("n9@127.0.0.1:1"))), "cluster join n9@127.0.0.1:1"),
        ("ns", (*pids("a", "b"), *pids("c", group="other")), "another group"),
        ("ns", pids("a", "b", "c", "a"), "named twice"),
        ("ns", pids("a", "b", SUPERVISOR), "taken"),
        ("ns", pids(*(f"r{number}" for number in range(20))), "at most"),
    ],
)
def test_what_can_not_be_created(name: str, members: tuple[Pid, ...], words: str) -> None:
    error = plan(Directory(), name, members)
    assert isinstance(error, protocol.BadRequest)
    assert words in error.reason


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_replicas(count: int) -> None:
    members = pids(*(f"r{number}" for number in range(count)))
    assert plan(Directory(), "ns", members) == protocol.NotEnoughReplicas(count, 3)


def test_names_are_unique_and_their_number_is_bounded(directory: Directory) -> None:
    assert plan(directory, "ns", pids("a", "b", "c")) == protocol.NamespaceExists("ns")
    directory.learn(group(f"ns{number}") for number in range(MAX_NAMESPACES))
    assert isinstance(plan(directory, "more", pids("a", "b", "c")), protocol.BadRequest)


# ---------------------------------------------------------------------------------------------------- primaries


def leader(primary: Pid, view: int, creation: int = 0) -> Leader:
    return Leader(bytes([creation] * 16), "ns", 0, view, primary)


def primary_of(directory: Directory) -> Pid | None:
    entry = directory.get("ns")
    assert entry is not None
    return entry.primary


def test_a_later_view_replaces_an_earlier_one(directory: Directory) -> None:
    r1, r2, r3 = replicas("r1", "r2", "r3")
    assert directory.view_changed(r2, 0, 0, r1) == leader(r1, 0)
    assert directory.view_changed(r3, 0, 0, r1) is None
    assert directory.view_changed(r3, 0, 2, r3) == leader(r3, 2)
    assert directory.view_changed(r2, 0, 1, r2) is None
    entry = directory.get("ns")
    assert entry is not None
    assert entry.describe() == protocol.Namespace("ns", replicas("r1", "r2", "r3"), r3, 0, 2)


def test_a_primary_that_is_down_does_not_come_back_by_old_news(directory: Directory) -> None:
    r1, r2, _ = replicas("r1", "r2", "r3")
    directory.view_changed(r1, 0, 0, r1)
    assert directory.replica_down(r2) is None
    assert directory.replica_down(r1) == PrimaryChanged("ns", None)
    assert directory.replica_down(r1) is None
    assert not directory.heard(leader(r1, 0), OTHER)
    assert primary_of(directory) is None
    assert directory.heard(leader(r2, 1), OTHER)
    assert primary_of(directory) == r2


def test_the_primarys_own_node_knows_best_that_it_leads_still(directory: Directory) -> None:
    r1 = replicas("r1")[0]
    directory.heard(leader(r1, 0), OTHER)
    directory.replica_down(r1)  # the link to its node was lost, and came back
    assert directory.heard(leader(r1, 0), NODE)
    assert primary_of(directory) == r1


def test_a_primary_tells_of_itself_though_others_were_faster(directory: Directory) -> None:
    r1 = replicas("r1")[0]
    assert directory.heard(leader(r1, 0), OTHER)
    assert directory.view_changed(r1, 0, 0, r1) == leader(r1, 0)


def test_strangers_are_not_heard(directory: Directory) -> None:
    stranger = Pid("r9", NODE, "ns")
    assert directory.view_changed(stranger, 9, 9, stranger) is None
    assert directory.replica_down(Pid("r1", NODE)) is None
    assert directory.entry_of(stranger) is None
    assert not directory.heard(leader(stranger, 5), NODE)
    assert not directory.heard(leader(replicas("r1")[0], 5, creation=7), NODE)


def test_what_is_known_can_be_told(directory: Directory) -> None:
    other = Directory()
    other.learn(directory.registry)
    assert other.fingerprint() == directory.fingerprint()
    directory.view_changed(replicas("r2")[0], 0, 4, replicas("r2")[0])
    assert other.fingerprint() != directory.fingerprint()
    for one in directory.leaders():
        other.heard(one, NODE)
    assert other.fingerprint() == directory.fingerprint()


# ----------------------------------------------------------------------------------------------------- rivals


def test_a_namespace_with_rivals_has_no_primary_until_a_later_epoch(directory: Directory) -> None:
    r1 = replicas("r1")[0]
    directory.view_changed(r1, 0, 0, r1)
    rival = Group("ns", bytes([9] * 16), 0, pids("q1", "q2", "q3", group="ns", node=OTHER))
    assert directory.learn([rival]) == ["ns"]
    entry = directory.get("ns")
    assert entry is not None
    assert (entry.group, entry.primary) == (None, None)
    assert entry.describe().rivals == (rival.replicas,)
    assert "created 2 times" in entry.trouble()
    assert directory.view_changed(r1, 0, 5, r1) is None
    assert directory.entry_of(r1) is directory.entry_of(rival.replicas[0]) is entry
    directory.learn([group(epoch=1)])
    assert entry.group == group(epoch=1)


def test_a_primary_that_is_no_member_any_more_is_none(directory: Directory) -> None:
    r1 = replicas("r1")[0]
    directory.view_changed(r1, 0, 0, r1)
    directory.learn([Group("ns", bytes(16), 1, replicas("r2", "r3", "r4"))])
    assert primary_of(directory) is None


def test_what_could_not_be_started_is_forgotten(directory: Directory) -> None:
    directory.learn([group("a")])
    assert [entry.name for entry in directory] == ["a", "ns"]
    directory.forget(group("a"))
    assert [entry.name for entry in directory] == ["ns"]
    directory.learn([group(creation=9)])
    directory.forget(group(creation=9))
    entry = directory.get("ns")
    assert entry is not None
    assert entry.group == group()


# --------------------------------------------------------------------------------------- durability, and replicas that stop


def test_a_namespace_is_as_durable_as_its_creator_says_or_else_as_the_node_does() -> None:
    members = pids("r1", "r2", "r3")
    for wanted, default, found in (
        ("", "durable", "durable"),
        ("", "fenced", "fenced"),
        ("durable", "fenced", "durable"),
    ):
        planned = Directory().plan(protocol.CreateNamespace("ns", members, wanted), CREATION, MEMBERS, default)
        assert isinstance(planned, Group)
        assert planned.durability == found
    refused = Directory().plan(protocol.CreateNamespace("ns", members, "eternal"), CREATION, MEMBERS)
    assert refused == protocol.BadRequest("a namespace is durable or fenced, not 'eternal'")


def test_a_node_tells_which_of_its_replicas_stopped() -> None:
    directory = Directory()
    directory.learn([group()])
    entry = directory.get("ns")
    assert entry is not None
    one, two, _ = replicas("r1", "r2", "r3")
    assert directory.replicas_stopped(NODE, [one, two]) == [one, two]
    assert directory.replicas_stopped(NODE, [one, two]) == []  # no news
    assert entry.describe().stopped == directory.stopped_on(NODE) == (one, two)
    assert directory.replicas_stopped(OTHER, [one]) == []  # not its own
    assert directory.replicas_stopped(NODE, [two, Pid("r9", NODE, "ns"), Pid("r1", NODE, "no")]) == []
    assert directory.stopped_on(NODE) == (two,)
    directory.replicas_stopped(NODE, ())
    assert entry.describe().stopped == ()
