"""Each replica starts fresh once at most: the rules at the top of `haret.server.grants`, one by one."""

from __future__ import annotations

import pytest

from haret.protocol import NamespaceExists, Unanswered
from haret.server.gossip import Granted
from haret.server.grants import LIFETIME, Grants
from haret.server.registry import MAX_NAMESPACES, Group, Registry
from rabble_trio import NodeId, Pid

N1, N2 = NodeId.parse("n1@127.0.0.1:5000"), NodeId.parse("n2@127.0.0.1:5000")


def group(name: str = "ns", creation: int = 0) -> Group:
    return Group(name, bytes([creation] * 16), 0, tuple(Pid(member, N1, name) for member in ("r1", "r2", "r3")))


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def grants(registry: Registry) -> Grants:
    return Grants(registry)


def test_what_was_reserved_starts_once(grants: Grants) -> None:
    assert grants.reserve(group(), N2, 0.0) == Granted()
    assert grants.holds(group())
    assert grants.take(group(), 1.0)
    assert not grants.holds(group())
    assert not grants.take(group(), 1.0)


def test_what_was_not_reserved_here_does_not_start(grants: Grants, registry: Registry) -> None:
    assert not grants.take(group(), 0.0)
    grants.reserve(group(), N2, 0.0)
    assert not grants.take(group(creation=1), 0.0)
    # A node that was restarted has no reservation any more, though everybody else believes so.
    assert not Grants(registry).take(group(), 0.0)


def test_two_creations_of_one_name_can_not_both_have_a_node(grants: Grants) -> None:
    grants.reserve(group(), N1, 0.0)
    assert isinstance(grants.reserve(group(creation=1), N2, 1.0), Unanswered)
    assert grants.reserve(group(), N1, 1.0) == Granted()  # the same, asked again
    assert grants.reserve(group("other"), N2, 1.0) == Granted()
    grants.release(group(creation=1))
    assert grants.holds(group())
    grants.release(group())
    assert grants.reserve(group(creation=1), N2, 2.0) == Granted()


def test_what_is_known_can_not_be_created_again(grants: Grants, registry: Registry) -> None:
    registry.learn([group()])
    assert grants.reserve(group(), N1, 0.0) == NamespaceExists("ns")
    assert grants.reserve(group(creation=1), N1, 0.0) == NamespaceExists("ns")


def test_a_reservation_lapses_with_time(grants: Grants) -> None:
    grants.reserve(group(), N1, 0.0)
    assert grants.expire(LIFETIME - 1) == ()
    assert not grants.take(group(), LIFETIME)  # nobody had looked at the clock yet
    grants.reserve(group(), N1, 0.0)
    assert grants.expire(LIFETIME) == ("ns",)
    assert not grants.take(group(), LIFETIME)


def test_a_late_reservation_gives_way_to_the_next(grants: Grants) -> None:
    grants.reserve(group(), N1, 0.0)
    assert grants.reserve(group(creation=1), N2, LIFETIME) == Granted()
    assert not grants.take(group(), LIFETIME)
    assert grants.take(group(creation=1), LIFETIME)


def test_a_reservation_ends_with_its_creators_node(grants: Grants) -> None:
    grants.reserve(group(), N1, 0.0)
    grants.reserve(group("other"), N2, 0.0)
    assert grants.node_lost(N1) == ("ns",)
    assert not grants.take(group(), 0.0)
    assert grants.take(group("other"), 0.0)


def test_reservations_are_bounded(grants: Grants) -> None:
    for number in range(MAX_NAMESPACES):
        assert grants.reserve(group(f"ns{number}"), N1, 0.0) == Granted()
    assert isinstance(grants.reserve(group("more"), N1, 0.0), Unanswered)
