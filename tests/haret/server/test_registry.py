"""What nodes know of groups: whatever order they hear it in, they know the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret import protocol
from haret.server.registry import MAX_NAMESPACES, MAX_RIVALS, SUPERVISOR, Group, Registry, join, problem_with
from haret.vr import configuration
from rabble_trio import NodeId, Pid

NODE = NodeId.parse("n1@127.0.0.1:5000")


def group(name: str = "ns", creation: int = 0, epoch: int = 0, members: str = "abc") -> Group:
    return Group(name, bytes([creation] * 16), epoch, tuple(Pid(member, NODE, name) for member in members))


GROUPS = st.builds(
    group,
    name=st.just("ns"),
    creation=st.integers(0, 6),
    epoch=st.integers(0, 2),
    members=st.sampled_from(["abc", "abcd", "bcd"]),
)
RIVALS = st.lists(GROUPS, max_size=8).map(lambda groups: join((), tuple(groups)))


@given(RIVALS, RIVALS, RIVALS)
def test_join_is_commutative_associative_and_idempotent(
    a: tuple[Group, ...], b: tuple[Group, ...], c: tuple[Group, ...]
) -> None:
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(a, a) == a
    assert join(join(a, b), b) == join(a, b)


@given(st.lists(GROUPS, max_size=20), st.randoms())
def test_nodes_that_heard_the_same_know_the_same(groups: list[Group], random: object) -> None:
    one, other = Registry(), Registry()
    one.learn(groups)
    shuffled = groups * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for each in shuffled:
        other.learn([each])
    assert list(one) == list(other)
    assert one.digest() == other.digest()


def test_the_newest_epoch_wins() -> None:
    registry = Registry()
    registry.learn([group(epoch=1, members="abcd"), group(epoch=0)])
    assert registry.get("ns") == (group(epoch=1, members="abcd"),)


def test_rivals_are_kept_and_shown_up_to_a_limit() -> None:
    registry = Registry()
    assert registry.learn([group()]) == ("ns",)
    assert registry.learn([group()]) == ()
    assert registry.learn([group(creation=1)]) == ("ns",)
    assert registry.get("ns") == (group(), group(creation=1))
    registry.learn(group(creation=number) for number in range(20))
    assert len(registry.get("ns")) == MAX_RIVALS


def test_the_digest_tells_what_is_known() -> None:
    registry = Registry()
    seen = {registry.digest()}
    for one in (group(), group(creation=1), group("other"), group(epoch=1)):
        registry.learn([one])
        seen.add(registry.digest())
    assert len(seen) == 5
    registry.forget(group("other"))
    assert registry.digest() not in seen
    assert len(registry) == 1


@pytest.mark.parametrize(
    "bad",
    [
        Group("ns", b"short", 0, group().replicas),
        group(epoch=-1),
        Group("ns", bytes(16), 0, group().replicas[::-1]),
        Group("ns", bytes(16), 0, group().replicas * 2),
        Group("ns", bytes(16), 0, group("other").replicas),
        Group("ns", bytes(16), 0, group().replicas, "eternal"),
        group(members="ab"),
        group(members="abcdefghijk"),
        Group("ns", bytes(16), 0, (*group().replicas, Pid(SUPERVISOR, NODE, "ns"))),
    ],
)
def test_what_can_be_no_group_is_not_learned(bad: Group) -> None:
    registry = Registry()
    assert problem_with(bad) is not None
    assert registry.learn([bad]) == ()
    assert registry.dropped == 1
    assert problem_with(group()) is None


def test_what_a_namespace_may_have_is_what_a_group_may_have() -> None:
    assert protocol.MIN_REPLICAS == configuration.MIN_REPLICAS
    assert protocol.MAX_REPLICAS == configuration.MAX_REPLICAS


def test_names_are_bounded() -> None:
    registry = Registry()
    registry.learn(group(f"n{number}") for number in range(MAX_NAMESPACES))
    assert registry.learn([group("one-more")]) == ()
    assert registry.learn([group("n0", epoch=1)]) == ("n0",)
