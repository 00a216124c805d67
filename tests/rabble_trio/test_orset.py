"""`rabble_trio._orset`: the laws of the set, its bound, and what it refuses.

The laws are checked against the simplest observed-remove set there is: two sets that only grow, of dots that were added
and of dots that were removed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import DecodeError, InvalidId, NodeId, Pid, decode, encode
from rabble_trio._orset import Delta, Digest, Line, ORSet

ELEMENTS = "xyz"
NAMES = "abc"

Step = tuple[str, int, str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "remove", "sync", "restart", "lose"]),
        st.integers(0, 2),
        st.sampled_from(ELEMENTS),
        st.integers(0, 2),
    ),
    max_size=25,
)


@dataclass
class Model:
    """A set that never forgets: (dot, element) that were added, and dots that were removed."""

    added: dict[tuple[str, int, int], str] = field(default_factory=dict)
    removed: set[tuple[str, int, int]] = field(default_factory=set)

    def elements(self) -> list[str]:
        return sorted({element for dot, element in self.added.items() if dot not in self.removed})

    def remove(self, element: str) -> None:
        self.removed |= {dot for dot, other in self.added.items() if other == element}

    def join(self, other: Model) -> None:
        self.added |= other.added
        self.removed |= other.removed


@dataclass
class World:
    """Three replicas that are changed by steps, and every state and delta that ever was."""

    sets: list[ORSet[str]] = field(default_factory=lambda: [ORSet() for _ in NAMES])
    models: list[Model] = field(default_factory=lambda: [Model() for _ in NAMES])
    incarnations: list[int] = field(default_factory=lambda: [1 for _ in NAMES])
    numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    states: list[ORSet[str]] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    def run(self, program: list[Step]) -> World:
        for what, who, element, other in program:
            before = self.sets[who]
            getattr(self, what)(who, element, other)
            assert before == ORSet(before.state())  # a set is a value: nobody changed the old one
            self.states.append(self.sets[who])
        return self

    def add(self, who: int, element: str, other: int) -> None:
        replica = NAMES[who], self.incarnations[who]
        self.sets[who], delta = self.sets[who].add(replica, element)
        self.deltas.append(delta)
        self.models[who].remove(element)
        self.numbers[replica] = self.numbers.get(replica, 0) + 1
        self.models[who].added[(*replica, self.numbers[replica])] = element

    def remove(self, who: int, element: str, other: int) -> None:
        self.sets[who], delta = self.sets[who].remove(element)
        self.deltas.append(delta)
        self.models[who].remove(element)

    def sync(self, who: int, element: str, other: int) -> None:
        self.sets[who] = self.sets[who].join(self.sets[other])
        self.models[who].join(self.models[other])

    def restart(self, who: int, element: str, other: int) -> None:
        self.incarnations[who] += 1

    def lose(self, who: int, element: str, other: int) -> None:
        """Restart without any memory."""
        self.incarnations[who] += 1
        self.sets[who], self.models[who] = ORSet(), Model()


worlds = steps.map(lambda program: World().run(program))


@st.composite
def related(draw: st.DrawFn) -> tuple[ORSet[str], ORSet[str], ORSet[str]]:
    """Three sets out of one history: states of any age, deltas, and joins of some of those."""
    world = draw(worlds)
    known = [ORSet[str](), *world.states, *map(ORSet, world.deltas)]
    picked = st.lists(st.sampled_from(known), max_size=4)

    def joined() -> ORSet[str]:
        result: ORSet[str] = ORSet()
        for one in draw(picked):
            result = result.join(one)
        return result

    return joined(), joined(), joined()


# Laws -----------------------------------------------------------------------------------------------------------------


@given(worlds)
def test_it_has_the_elements_of_a_set_that_never_forgets(world: World) -> None:
    for one, model in zip(world.sets, world.models, strict=True):
        assert list(one) == model.elements()
        assert len(one) == len(model.elements())
        assert all((element in one) == (element in model.elements()) for element in ELEMENTS)


@given(related())
def test_join_is_commutative_associative_and_idempotent(sets: tuple[ORSet[str], ORSet[str], ORSet[str]]) -> None:
    a, b, c = sets
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) is a
    assert a.join(b).join(b) == a.join(b)
    assert a.join(ORSet()) is a


@given(worlds, st.data())
def test_deltas_in_any_order_with_loss_then_anti_entropy_equal_the_full_state(world: World, data: Any) -> None:
    everything = ORSet[str]()
    for one in world.sets:
        everything = everything.join(one)
    for delta in world.deltas:
        everything = everything.join(delta)
    arrived = data.draw(st.lists(st.sampled_from(world.deltas), max_size=30)) if world.deltas else []
    mine: ORSet[str] = ORSet()
    for delta in arrived:
        mine = mine.join(delta)
    missing = everything.delta_since(mine.digest())
    healed = mine.join(missing)
    assert healed == everything
    assert list(healed) == list(everything)
    assert everything.differing(healed.digest()) == ()
    assert not everything.delta_since(healed.digest())


@given(worlds)
def test_all_deltas_equal_the_join_of_all_states(world: World) -> None:
    by_state: ORSet[str] = ORSet()
    by_delta: ORSet[str] = ORSet()
    for state in world.states:
        by_state = by_state.join(state)
    for delta in reversed(world.deltas):
        by_delta = by_delta.join(delta)
    assert by_state == by_delta


@given(related())
def test_a_set_survives_the_wire(sets: tuple[ORSet[str], ORSet[str], ORSet[str]]) -> None:
    for one in sets:
        assert ORSet(decode(encode(one.state()))) == one
        assert encode(ORSet[str](one.state()).state()) == encode(one.state())
        assert decode(encode(one.digest())) == one.digest()


# Words of the contract ------------------------------------------------------------------------------------------------


def test_adding_wins_over_a_concurrent_removal() -> None:
    first, _ = ORSet[str]().add(("a", 1), "x")
    removed, removal = first.remove("x")
    added, addition = first.add(("b", 1), "x")
    assert "x" not in removed
    assert "x" in added.join(removal)
    assert "x" in removed.join(addition)


def test_a_removal_that_saw_the_addition_wins() -> None:
    first, _ = ORSet[str]().add(("a", 1), "x")
    removed, _ = first.remove("x")
    assert "x" not in first.join(removed)


def test_a_removed_element_can_be_added_again() -> None:
    one, old = ORSet[str]().add(("a", 1), "x")
    one, _ = one.remove("x")
    one, _ = one.add(("a", 1), "x")
    assert list(one) == ["x"]
    assert "x" in one.join(old)


def test_an_old_delta_never_brings_a_removed_element_back() -> None:
    one, old = ORSet[str]().add(("a", 1), "x")
    one, _ = one.remove("x")
    assert one.join(old) is one
    assert one.join(ORSet(old)) is one


def test_a_delta_that_is_overtaken_by_its_removal_adds_nothing() -> None:
    one, addition = ORSet[str]().add(("a", 1), "x")
    _, removal = one.remove("x")
    assert "x" not in ORSet[str]().join(removal).join(addition)


def test_a_mutation_that_changes_nothing_says_so() -> None:
    one, _ = ORSet[str]().add(("a", 1), "x")
    same, delta = one.remove("y")
    assert same is one
    assert not delta
    same, _ = one.retire("b", 0)
    assert same is one


def test_a_delta_is_small_however_large_the_set_is() -> None:
    one: ORSet[int] = ORSet()
    for number in range(500):
        one, _ = one.add(("a", 1), number)
    _, delta = one.add(("a", 1), 500)
    assert len(encode(delta)) < 100 < len(encode(one.state())) / 20


def test_digests_find_lines_that_either_side_lacks_and_removals() -> None:
    one, _ = ORSet[str]().add(("a", 1), "x")
    other, _ = one.add(("b", 1), "y")
    assert one.differing(other.digest()) == other.differing(one.digest()) == ("b",)
    removed, _ = one.remove("x")
    assert removed.differing(one.digest()) == ("a",)
    assert "x" not in one.join(removed.delta_since(one.digest()))
    assert one.names == ("a",)


def test_ids_are_elements_too_and_iteration_is_sorted() -> None:
    nodes = [NodeId(f"n{number}", "127.0.0.1:1") for number in (3, 1, 2)]
    one: ORSet[NodeId] = ORSet()
    for node in nodes:
        one, _ = one.add((node.name, 1), node)
    assert list(ORSet[NodeId](decode(encode(one.state())))) == sorted(nodes)
    assert repr(one).startswith("<ORSet [NodeId")
    pids, _ = ORSet[Pid]().add(("n1", 1), Pid("a", nodes[0]))
    assert ORSet[Pid](decode(encode(pids.state()))) == pids


def test_a_dot_that_was_used_twice_is_the_same_element_everywhere() -> None:
    one, _ = ORSet[str]().add(("a", 1), "x")
    other, _ = ORSet[str]().add(("a", 1), "y")
    assert one.join(other) == other.join(one)


def test_equality_is_about_sets_and_what_they_have_seen() -> None:
    one, _ = ORSet[str]().add(("a", 1), "x")
    removed, _ = one.remove("x")
    assert list(removed) == list(ORSet[str]())
    assert removed != ORSet()
    assert removed != []


# The bound ------------------------------------------------------------------------------------------------------------


def test_the_size_does_not_grow_with_what_was_added_and_removed() -> None:
    one: ORSet[str] = ORSet()
    for name in NAMES:
        one, _ = one.add((name, 1), f"of {name}")
    size = len(encode(one.state()))
    for _ in range(300):
        for name in NAMES:
            one, _ = one.add((name, 1), "x")
            one, _ = one.remove("x")
    assert len(encode(one.state())) <= size + 6  # the numbers have more digits now


def test_removing_and_adding_by_all_costs_one_dot_each() -> None:
    sets: list[ORSet[str]] = [ORSet() for _ in NAMES]
    for _ in range(20):
        sets = [one.add((name, 1), "x")[0] for one, name in zip(sets, NAMES, strict=True)]
        sets = [sets[0].join(sets[1]).join(sets[2])] * 3
    assert [len(line.live) for line in sets[0].state().lines] == [1, 1, 1]


@given(worlds)
def test_a_state_has_one_count_for_each_actor_ever_and_a_cloud_only_while_deltas_are_missing(world: World) -> None:
    everything = ORSet[str]()
    for state in world.states:
        everything = everything.join(state)
    lines = everything.state().lines
    assert len(lines) <= len(NAMES)
    assert sum(len(line.counts) for line in lines) <= sum(world.incarnations)
    assert not any(line.cloud for line in lines)


def test_the_cloud_goes_when_the_missing_deltas_come() -> None:
    one: ORSet[int] = ORSet()
    deltas = []
    for number in range(10):
        one, delta = one.add(("a", 1), number)
        deltas.append(delta)
    other: ORSet[int] = ORSet()
    for delta in deltas[:0:-1]:
        other = other.join(delta)
    assert len(other.state().lines[0].cloud) == 9
    assert other.join(deltas[0]).state().lines[0].cloud == ()
    assert other.join(one) == one


def test_a_replica_that_retires_its_past_keeps_one_count_however_often_it_restarts() -> None:
    one: ORSet[str] = ORSet()
    for incarnation in range(1, 200):
        one, _ = one.retire("a", incarnation)
        one, _ = one.add(("a", incarnation), "x")
    (line,) = one.state().lines
    assert line == Line("a", 199, ((199, 1),), (), ((199, 1, "x"),))
    assert one.incarnation("a") == 199
    assert one.incarnation("b") == -1


def test_retiring_removes_what_only_the_past_had_added() -> None:
    old, _ = ORSet[str]().add(("a", 1), "x")
    old, _ = old.add(("b", 1), "y")
    new, retired = ORSet[str]().retire("a", 2)
    assert list(old.join(retired)) == ["y"]
    assert list(new.join(old)) == ["y"]
    with pytest.raises(ValueError, match="incarnation 1 of a is retired: the lowest that may add is 2"):
        new.add(("a", 1), "x")


@given(worlds, st.integers(0, 2), st.integers(1, 4))
def test_retiring_is_a_change_like_any_other(world: World, who: int, before: int) -> None:
    a, delta = world.sets[0].retire(NAMES[who], before)
    b, c = world.sets[1:]
    assert world.sets[0].join(delta) == a
    assert a.join(b) == b.join(a) == b.join(world.sets[0]).join(delta)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert ORSet(decode(encode(a.state()))) == a


def test_forgetting_who_has_left_frees_the_line() -> None:
    one, _ = ORSet[str]().add(("a", 1), "x")
    one, _ = one.add(("b", 1), "y")
    with pytest.raises(ValueError, match="what a added is still in the set"):
        one.forget(["a"])
    with_removal, _ = one.remove("x")
    forgotten = with_removal.forget(["a", "unknown"])
    assert forgotten.names == ("b",)
    assert list(forgotten.join(with_removal)) == ["y"]  # one that did not forget yet does no harm
    assert list(forgotten.join(one)) == ["x", "y"]  # one that has not seen the removal does: hence the rule


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"floor": -1}, "floor -1 is out of range"),
        ({"floor": 2**63}, "floor 9223372036854775808 is out of range"),
        ({"counts": ((1, 0),)}, "out of range"),
        ({"counts": ((-1, 1),)}, "out of range"),
        ({"counts": ((1, 2**63),)}, "out of range"),
        ({"floor": 2, "counts": ((1, 1),)}, "below the floor 2"),
        ({"floor": 2, "counts": ((2, 1),), "live": ((1, 1, "x"),)}, "below the floor 2"),
        ({"counts": ((2, 1), (1, 1))}, "sorted"),
        ({"counts": ((1, 1), (1, 2))}, "two counts"),
        ({"counts": ((1, 1),), "cloud": ((1, 2),)}, "belongs into the counts"),
        ({"cloud": ((1, 1),)}, "belongs into the counts"),
        ({"cloud": ((1, 4), (1, 3))}, "sorted"),
        ({"counts": ((1, 1),), "live": ((1, 2, "x"),)}, "was not seen"),
        ({"counts": ((1, 1),), "live": ((1, 1, "x"), (1, 1, "y"))}, "sorted"),
    ],
)
def test_a_line_that_is_not_in_normal_form_is_refused(line: dict[str, Any], problem: str) -> None:
    fields = {"name": "a", "floor": 0, "counts": (), "cloud": (), "live": (), **line}
    with pytest.raises(ValueError, match=problem):
        Line(**fields)


def test_bad_names_and_numbers_are_refused() -> None:
    with pytest.raises(InvalidId):
        Line("a b", 0, (), (), ())
    with pytest.raises(InvalidId):
        ORSet[str]().add(("a::b", 1), "x")
    with pytest.raises(InvalidId):
        ORSet[str]().retire("", 1)
    with pytest.raises(ValueError, match="retired"):
        ORSet[str]().add(("a", -1), "x")
    with pytest.raises(ValueError, match="no incarnation"):
        ORSet[str]().retire("a", -1)


def test_lines_of_a_delta_are_sorted_by_name() -> None:
    line = Line("a", 0, ((1, 1),), (), ())
    for lines in [(line, line), (Line("b", 0, (), (), ()), line)]:
        with pytest.raises(ValueError, match="sorted by name"):
            Delta(lines)
    assert ORSet(Delta((Line("b", 0, (), (), ()),))) == ORSet()


def test_what_comes_from_the_wire_is_checked_there() -> None:
    good = encode(ORSet[str]().add(("a", 1), "x")[0].state())
    assert ORSet(decode(good))
    with pytest.raises(DecodeError, match="was not seen"):
        decode(good.replace(b"\x91\x92\x01\x01", b"\x91\x92\x02\x01"))


def test_an_element_that_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be hashed"):
        Line("a", 0, ((1, 1),), (), ((1, 1, Digest({})),))


def test_elements_made_to_collide_are_refused() -> None:
    # hash(-1) == hash(-2), so all of these have one hash. A set of many thousands would take minutes.
    elements = list(itertools.product((-1, -2), repeat=7))
    assert len(set(map(hash, elements))) == 1
    live = tuple((1, number, element) for number, element in enumerate(elements, 1))
    with pytest.raises(ValueError, match="more than 64 dots or elements have the same hash"):
        Line("a", 0, ((1, len(live)),), (), live)
