"""Ids cross the wire and reach disks, so their grammar is strict and their text exact."""

from __future__ import annotations

import copy
import pickle
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio._errors import InvalidId
from rabble_trio._ids import MAX_ADDR_LENGTH, MAX_NAME_LENGTH, CorrelationId, NodeId, Pid, check_name

NAME_CHARACTERS = string.ascii_letters + string.digits + "_.-"

names = st.text(NAME_CHARACTERS, min_size=1, max_size=MAX_NAME_LENGTH)
hosts = st.one_of(
    st.from_regex(r"[A-Za-z0-9_.\-]{1,253}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map("[{}]".format),
)
nodes = st.builds(lambda name, host, port: NodeId(name, f"{host}:{port}"), names, hosts, st.integers(0, 65535))
pids = st.builds(Pid, names, nodes, st.none() | names)
numbers = st.none() | st.integers(0, 2**63 - 1)
correlation_ids = st.builds(CorrelationId, pids, numbers, numbers)
ids = st.one_of(nodes, pids, correlation_ids)

NODE = NodeId("n1", "127.0.0.1:5000")
PID = Pid("a", NODE, "g")
CID = CorrelationId(PID, 1, 2)


def test_text() -> None:
    assert str(NODE) == "n1@127.0.0.1:5000"
    assert str(Pid("a", NODE)) == "a::n1@127.0.0.1:5000"
    assert str(PID) == "g::a::n1@127.0.0.1:5000"
    assert repr(NODE) == "NodeId.parse('n1@127.0.0.1:5000')"
    assert eval(repr(PID), {"Pid": Pid}) == PID
    assert repr(CID) == "CorrelationId('g::a::n1@127.0.0.1:5000', connection=1, request=2)"


def test_parts() -> None:
    pid = Pid.parse("g::a::n1@[fe80::1%eth0]:65535")
    assert (pid.group, pid.name, pid.node.name) == ("g", "a", "n1")
    assert (pid.node.addr, pid.node.host, pid.node.port) == ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535)
    assert Pid.parse("a::n1@h:0").group is None


@given(nodes)
def test_a_node_id_parses_back(node: NodeId) -> None:
    assert NodeId.parse(str(node)) == node
    assert f"{node.name}@{node.addr}" == str(node)


@given(pids)
def test_a_pid_parses_back(pid: Pid) -> None:
    again = Pid.parse(str(pid))
    assert again == pid
    assert (again.name, again.node, again.group) == (pid.name, pid.node, pid.group)


@given(st.text(max_size=40) | st.text("ab:@.[]0", max_size=12))
def test_whatever_parses_has_exactly_this_text(text: str) -> None:
    for kind in (NodeId, Pid):
        try:
            parsed = kind.parse(text)
        except InvalidId:
            continue
        assert str(parsed) == text


@pytest.mark.parametrize(
    "name",
    ["", "a:b", "a@b", "a b", "a/b", "a\n", "\na", "a\x00", "a\x7f", "é", "\uff11", "x" * (MAX_NAME_LENGTH + 1)],
)
def test_invalid_names(name: str) -> None:
    with pytest.raises(InvalidId, match="is not a valid shelf name: use 1 to 128 characters"):
        check_name("shelf", name)
    for make in (
        lambda: NodeId(name, "h:1"),
        lambda: Pid(name, NODE),
        lambda: Pid("a", NODE, name),
        lambda: NodeId.parse(f"{name}@h:1"),
        lambda: Pid.parse(f"{name}::n1@h:1"),
        lambda: Pid.parse(f"{name}::a::n1@h:1"),
    ):
        with pytest.raises(InvalidId):
            make()


def test_a_name_cannot_pass_for_a_group() -> None:
    for make in (lambda: Pid("g::a", NODE), lambda: Pid("a", NODE, "f::g"), lambda: Pid.parse("f::g::a::n1@h:1")):
        with pytest.raises(InvalidId):
            make()


def test_the_longest_names() -> None:
    name = "x" * MAX_NAME_LENGTH
    addr = f"{'h' * 253}:65535"
    assert len(addr) <= MAX_ADDR_LENGTH
    pid = Pid(name, NodeId(name, addr), name)
    assert Pid.parse(str(pid)) == pid


@pytest.mark.parametrize(
    "addr",
    [
        "",
        "h",
        "h:",
        ":1",
        "h:65536",
        "h:99999",
        "h:100000",
        "h:-1",
        "h:+1",
        "h:01",
        "h: 1",
        "h:1\n",
        "h:1 ",
        "h:\uff11",
        "h:x",
        "h h:1",
        "h/h:1",
        "h@h:1",
        "::1:5000",
        "[::1]",
        "[::1]5000",
        "[]:1",
        "[g::1]:1",
        "[:::]:1",
        "[....]:1",
        "[1.2.3.4]:1",
        "[fe80::1%é]:1",
        "[fe80::1%]:1",
        "[fe80::1%a\x00]:1",
        "[::1\n]:1",
        "[" + "1" * 61 + "]:1",
        "x" * 254 + ":1",
    ],
)
def test_invalid_addresses(addr: str) -> None:
    with pytest.raises(InvalidId, match="is not a valid address: write host:port, for example"):
        NodeId("n1", addr)
    with pytest.raises(InvalidId):
        NodeId.parse(f"n1@{addr}")
    with pytest.raises(InvalidId):
        Pid.parse(f"a::n1@{addr}")


@pytest.mark.parametrize(
    "text", ["", "n1", "a::b", "a@h:1", "a:n1@h:1", "x::y::z::n1@h:1", "::a::n1@h:1", "a::@h:1", None, 5]
)
def test_texts_that_are_no_pids(text: Any) -> None:
    with pytest.raises(InvalidId):
        Pid.parse(text)


@pytest.mark.parametrize("text", ["", "n1", "@h:1", "n1@", "n1@h:1@h:1", None, 5, b"n1@h:1"])
def test_texts_that_are_no_node_ids(text: Any) -> None:
    with pytest.raises(InvalidId):
        NodeId.parse(text)


def test_errors_teach_and_stay_short() -> None:
    with pytest.raises(InvalidId, match=r"'x' is not a pid: write name::node@host:port or group::name::node@host:port"):
        Pid.parse("x")
    with pytest.raises(
        InvalidId, match=r"'x' is not a node id: write name@host:port, for example n1@127\.0\.0\.1:5000"
    ):
        NodeId.parse("x")
    with pytest.raises(InvalidId, match="the node of a Pid must be a NodeId, not 'n1@h:1'"):
        Pid("a", "n1@h:1")  # type: ignore[arg-type]
    with pytest.raises(InvalidId, match="the pid of a CorrelationId must be a Pid, not 'a'"):
        CorrelationId("a")  # type: ignore[arg-type]
    with pytest.raises(InvalidId) as caught:
        Pid.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", [-1, 2**63, True, 1.0, "1"])
def test_invalid_numbers(number: Any) -> None:
    with pytest.raises(InvalidId, match="is not a connection number: use 0 to"):
        CorrelationId(PID, number, 1)
    with pytest.raises(InvalidId, match="is not a request number: use 0 to"):
        CorrelationId(PID, 1, number)


def test_next_request_counts_up() -> None:
    first = CorrelationId(PID, 7).next_request()
    assert first == CorrelationId(PID, 7, 0)
    assert first.next_request() == CorrelationId(PID, 7, 1)
    with pytest.raises(InvalidId):
        CorrelationId(PID, 7, 2**63 - 1).next_request()


@given(ids)
def test_ids_are_values(one: Any) -> None:
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert hash(again) == hash(one)
    assert not again != one  # noqa: SIM202  (this asks for __ne__)
    assert copy.copy(one) == copy.deepcopy(one) == one
    assert one not in (str(one), None, object())


@pytest.mark.parametrize("one", [NODE, PID, CID])
def test_ids_cannot_be_changed(one: Any) -> None:
    before = str(one), hash(one)
    for attribute in ("name", "pid", "_text", "new"):
        with pytest.raises(AttributeError, match="is immutable"):
            setattr(one, attribute, "x")
        with pytest.raises(AttributeError, match="is immutable"):
            delattr(one, attribute)
    assert not hasattr(one, "__dict__")
    assert (str(one), hash(one)) == before


@given(st.lists(nodes, max_size=5), st.lists(pids, max_size=5))
def test_ids_order_by_their_text(some_nodes: list[NodeId], some_pids: list[Pid]) -> None:
    assert [str(node) for node in sorted(some_nodes)] == sorted(map(str, some_nodes))
    assert [str(pid) for pid in sorted(some_pids)] == sorted(map(str, some_pids))
    assert all(
        one <= other and not other < one for one, other in zip(sorted(some_pids), sorted(some_pids)[1:], strict=False)
    )


def test_ids_of_different_kinds_are_different() -> None:
    assert NODE != PID
    assert Pid("a", NODE) != Pid("a", NODE, "a")
    assert CorrelationId(PID) != CorrelationId(PID, 0)
    assert CorrelationId(PID, 0, None) != CorrelationId(PID, None, 0)
    with pytest.raises(TypeError):
        sorted([NODE, PID])  # type: ignore[list-item]
