"""Which namespaces there are, and who leads them."""

from __future__ import annotations

import pytest

from haret import protocol
from haret.server.directory import MAX_NAMESPACES, SUPERVISOR, Directory, PrimaryChanged
from rabble_trio import NodeId, Pid

NODE = NodeId.parse("n1@127.0.0.1:5000")
OTHER = NodeId.parse("n2@127.0.0.1:5000")


def pids(*names: str, group: str | None = None, node: NodeId = NODE) -> tuple[Pid, ...]:
    return tuple(Pid(name, node, group) for name in names)


def replicas(*names: str) -> tuple[Pid, ...]:
    return pids(*names, group="ns")


@pytest.fixture
def directory() -> Directory:
    directory = Directory()
    directory.add("ns", replicas("r1", "r2", "r3"))
    return directory


def test_pids_get_the_namespace_as_their_group_and_are_sorted() -> None:
    request = protocol.CreateNamespace("ns", (*pids("r3", "r1"), *replicas("r2")))
    assert Directory().plan(request, NODE) == replicas("r1", "r2", "r3")


def test_an_even_number_will_do() -> None:
    assert Directory().plan(protocol.CreateNamespace("ns", pids("a", "b", "c", "d")), NODE) == replicas(
        "a", "b", "c", "d"
    )


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("no spaces", pids("a", "b", "c"), "group name"),
        ("", pids("a", "b", "c"), "group name"),
        ("x" * 200, pids("a", "b", "c"), "group name"),
        ("ns", (*pids("a", "b"), *pids("c", node=OTHER)), "another node"),
        ("ns", (*pids("a", "b"), *pids("c", group="other")), "another group"),
        ("ns", pids("a", "b", "c", "a"), "named twice"),
        ("ns", pids("a", "b", SUPERVISOR), "taken"),
        ("ns", pids(*(f"r{number}" for number in range(20))), "at most"),
    ],
)
def test_what_can_not_be_created(name: str, members: tuple[Pid, ...], words: str) -> None:
    error = Directory().plan(protocol.CreateNamespace(name, members), NODE)
    assert isinstance(error, protocol.BadRequest)
    assert words in error.reason


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_replicas(count: int) -> None:
    request = protocol.CreateNamespace("ns", pids(*(f"r{number}" for number in range(count))))
    assert Directory().plan(request, NODE) == protocol.NotEnoughReplicas(count, 3)


def test_names_are_unique_and_their_number_is_bounded(directory: Directory) -> None:
    assert directory.plan(protocol.CreateNamespace("ns", pids("a", "b", "c")), NODE) == protocol.NamespaceExists("ns")
    for number in range(MAX_NAMESPACES):
        directory.add(f"ns{number}", ())
    error = directory.plan(protocol.CreateNamespace("more", pids("a", "b", "c")), NODE)
    assert isinstance(error, protocol.BadRequest)


def test_a_later_view_replaces_an_earlier_one(directory: Directory) -> None:
    r1, r2, r3 = replicas("r1", "r2", "r3")
    assert directory.view_changed(r1, 0, 0, r1) == PrimaryChanged("ns", r1)
    assert directory.view_changed(r2, 0, 0, r1) is None
    assert directory.view_changed(r3, 0, 2, r3) == PrimaryChanged("ns", r3)
    assert directory.view_changed(r2, 0, 1, r2) is None
    assert directory.view_changed(r2, 1, 0, r2) == PrimaryChanged("ns", r2)
    entry = directory.get("ns")
    assert entry is not None
    assert entry.describe() == protocol.Namespace("ns", replicas("r1", "r2", "r3"), r2, 1, 0)


def test_a_primary_that_is_down_does_not_come_back_by_old_news(directory: Directory) -> None:
    r1, r2, _ = replicas("r1", "r2", "r3")
    directory.view_changed(r1, 0, 0, r1)
    assert directory.replica_down(r2) is None
    assert directory.replica_down(r1) == PrimaryChanged("ns", None)
    assert directory.replica_down(r1) is None
    assert directory.view_changed(r2, 0, 0, r1) is None
    assert directory.view_changed(r2, 0, 1, r2) == PrimaryChanged("ns", r2)


def test_strangers_are_not_heard(directory: Directory) -> None:
    stranger = Pid("r9", NODE, "ns")
    assert directory.view_changed(stranger, 9, 9, stranger) is None
    assert directory.replica_down(Pid("r1", NODE)) is None
    assert directory.entry_of(stranger) is None


def test_namespaces_are_listed_by_name(directory: Directory) -> None:
    directory.add("a", ())
    assert [entry.name for entry in directory] == ["a", "ns"]
    directory.remove("a")
    assert [entry.name for entry in directory] == ["ns"]
