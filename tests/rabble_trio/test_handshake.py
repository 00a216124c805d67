"""`rabble_trio._handshake`: who is let in, who is not, and what they are told. Attacks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import InvalidId, NodeId, Shutdown, decode, encode
from rabble_trio._errors import LinkError
from rabble_trio._handshake import (
    MAX_HANDSHAKE_MESSAGE,
    PROTOCOL_VERSION,
    CloseCode,
    Handshake,
    Hello,
    Hellos,
    Incarnations,
    LinkConfig,
    Proof,
    proof_of,
    survivor,
)

N1, N2, N3 = (NodeId(f"n{number}", f"127.0.0.1:500{number}") for number in (1, 2, 3))
SECRET = b"correct horse battery staple"


def config(node: NodeId, **changes: Any) -> LinkConfig:
    return LinkConfig(**{"node": node, "incarnation": 1, "cluster": "test", "secret": SECRET, **changes})


def dialer(nonce: bytes = b"d" * 32, expected: NodeId = N2, names: Any = None, **changes: Any) -> Handshake:
    return Handshake("dialer", config(N1, **changes), nonce, expected=expected, certificate_names=names)


def acceptor(nonce: bytes = b"a" * 32, names: Any = None, node: NodeId = N2, **changes: Any) -> Handshake:
    return Handshake("acceptor", config(node, **changes), nonce, certificate_names=names)


def shake(one: Handshake, other: Handshake, on_the_way: Callable[[bytes], bytes] = bytes) -> list[bytes]:
    """Let them talk until both fall silent; returns all that was said, in turns. Raises what they raise."""
    said = []
    side, data = one, one.start()
    while data:
        side = other if side is one else one
        said += data
        data = [reply for message in data for reply in side.receive(on_the_way(message))]
    return said


def refused(one: Handshake, other: Handshake, code: CloseCode, match: str) -> LinkError:
    with pytest.raises(LinkError, match=match) as caught:
        shake(one, other)
    assert caught.value.code == code
    assert not one.complete
    assert not other.complete
    return caught.value


# Those who belong together --------------------------------------------------------------------------------------------


def test_two_nodes_of_one_cluster_prove_themselves_in_four_messages() -> None:
    one, other = dialer(), acceptor()
    with pytest.raises(ValueError, match="not complete"):
        _ = one.hellos
    said = shake(one, other)
    assert [type(decode(data)) for data in said] == [Hello, Hello, Proof, Proof]
    assert one.complete
    assert other.complete
    assert one.hellos == other.hellos
    assert (one.peer, other.peer) == (one.hellos.acceptor, one.hellos.dialer)
    assert one.hellos.acceptor.node == N2
    assert not any(SECRET in data for data in said)
    assert all(len(data) < MAX_HANDSHAKE_MESSAGE for data in said)


def test_the_longest_ids_fit() -> None:
    long = NodeId("n" * 128, "h" * 253 + ":65535")
    one = Handshake("dialer", config(long, cluster="c" * 128), b"d" * 32, expected=N2, attempt=2**63 - 1)
    shake(one, acceptor(cluster="c" * 128))
    assert one.complete


def test_without_a_secret_both_sides_must_allow_it() -> None:
    one, other = dialer(secret=None, insecure=True), acceptor(secret=None, insecure=True)
    shake(one, other)
    assert one.complete
    with pytest.raises(ValueError, match="pass insecure=True"):
        config(N1, secret=None)


@pytest.mark.parametrize("side", ["dialer", "acceptor"])
def test_a_secret_is_never_dropped_to_please_the_peer(side: str) -> None:
    without = {"secret": None, "insecure": True}
    one = dialer(**(without if side == "dialer" else {"insecure": True}))
    other = acceptor(**(without if side == "acceptor" else {"insecure": True}))
    error = refused(
        one, other, CloseCode.AUTHENTICATION, "has a cluster secret and .* has none: give all nodes the same"
    )
    assert error.fault == "configuration"
    assert str(error).startswith(str(N2 if side == "dialer" else N1))


# Those who do not -----------------------------------------------------------------------------------------------------


def test_another_secret() -> None:
    one, other = dialer(), acceptor(secret=b"another secret!!")
    error = refused(one, other, CloseCode.AUTHENTICATION, "don't have the same cluster secret")
    assert error.fault == "configuration"


def test_the_acceptor_proves_nothing_to_who_has_not_proved_itself() -> None:
    other = acceptor()
    (hello,) = other.receive(dialer().start()[0])
    assert isinstance(decode(hello), Hello)
    with pytest.raises(LinkError, match="same cluster secret"):
        other.receive(encode(Proof(b"?" * 32)))


def test_an_acceptor_that_does_not_know_the_secret_is_found_out() -> None:
    one, liar = dialer(), acceptor(secret=b"what could it be")
    (hello,) = liar.receive(one.start()[0])
    one.receive(hello)
    for mac in (b"", b"?" * 32, b"?" * 31):
        with pytest.raises(LinkError, match="same cluster secret") as caught:
            one.receive(encode(Proof(mac)))
        assert caught.value.code == CloseCode.AUTHENTICATION
    assert not one.complete


def test_another_cluster() -> None:
    error = refused(
        dialer(cluster="mine"), acceptor(cluster="theirs"), CloseCode.CLUSTER, "'mine', and n2@.* to 'theirs'"
    )
    assert error.fault == "configuration"


def test_another_version_even_if_its_hello_looks_different() -> None:
    hello = dialer()._own
    newer = [encode(dataclasses.replace(hello, protocol=2)), b"\x93\xb1rabble.link_hello\x02\xc3"]
    for data in newer:
        with pytest.raises(
            LinkError, match="speaks version 2 of the link protocol, this node 1: upgrade the older"
        ) as caught:
            acceptor().receive(data)
        assert caught.value.code == CloseCode.VERSION
        assert caught.value.fault == "configuration"


def test_another_node_than_was_dialled() -> None:
    refused(dialer(expected=N3), acceptor(), CloseCode.NODE, "expected n3@.*, but n2@.* answered")
    moved = NodeId("n2", "127.0.0.1:9")
    refused(
        dialer(expected=moved), acceptor(), CloseCode.NODE, "expected n2@127.0.0.1:9, but n2@127.0.0.1:5002 answered"
    )


def test_the_own_name() -> None:
    refused(dialer(expected=N1), acceptor(node=N1), CloseCode.NODE, "names are unique")


def test_certificates_must_name_the_node() -> None:
    demands = {"certificates": True}
    one, other = dialer(names=["n2", "127.0.0.1"], **demands), acceptor(names={"n1"}, **demands)
    shake(one, other)
    assert one.complete
    assert other.complete
    refused(
        dialer(names=["n2"], **demands), acceptor(names=["n3", "n11"], **demands), CloseCode.NODE, "of n11, n3: it must"
    )
    refused(dialer(names=["N2"], **demands), acceptor(names=["n1"], **demands), CloseCode.NODE, "it must name n2")
    refused(dialer(names=[], **demands), acceptor(names=["n1"], **demands), CloseCode.NODE, "of nobody")
    refused(dialer(**demands), acceptor(names=["n1"], **demands), CloseCode.NODE, "shows no certificate")


# Attacks --------------------------------------------------------------------------------------------------------------


def test_attack_replay_of_a_recorded_handshake() -> None:
    recorded = shake(dialer(), acceptor())
    victim = acceptor(nonce=b"fresh" + b"a" * 27)
    victim.receive(recorded[0])
    with pytest.raises(LinkError, match="same cluster secret"):
        victim.receive(recorded[2])
    other_victim = dialer(nonce=b"fresh" + b"d" * 27)
    other_victim.receive(recorded[1])
    with pytest.raises(LinkError, match="same cluster secret"):
        other_victim.receive(recorded[3])


def test_attack_reflection_of_the_own_messages() -> None:
    one = dialer()
    with pytest.raises(LinkError, match="as the dialer, which is our part: is this an echo") as caught:
        one.receive(one.start()[0])
    assert caught.value.fault == "peer"


def test_attack_reflection_of_the_proof() -> None:
    # The attacker plays acceptor to a dialer, and gives it back its own proof as if it were the acceptor's.
    one, other = dialer(), acceptor()
    (hello,) = other.receive(one.start()[0])
    (proof,) = one.receive(hello)
    with pytest.raises(LinkError, match="same cluster secret"):
        one.receive(proof)


def test_attack_a_proof_for_another_transcript() -> None:
    # A true node proves itself to the attacker, who uses that with a victim, changing one field of a hello.
    for field, value in {"incarnation": 2, "attempt": 1, "max_message": 4096, "node": N3, "nonce": b"x" * 32}.items():
        one, victim = dialer(), acceptor()
        changed = encode(dataclasses.replace(one._own, **{field: value}))
        (hello,) = victim.receive(changed)
        (proof,) = one.receive(hello)
        with pytest.raises(LinkError, match="same cluster secret"):
            victim.receive(proof)


def test_attack_talking_before_the_proof() -> None:
    for early in (Proof(b""), Shutdown()):
        with pytest.raises(LinkError, match=f"sent {type(early).__name__} before its Hello") as caught:
            acceptor().receive(encode(early))
        assert (caught.value.fault, caught.value.code) == ("peer", CloseCode.VIOLATION)
    other = acceptor()
    other.receive(dialer().start()[0])
    with pytest.raises(LinkError, match="sent Hello before its Proof"):
        other.receive(dialer().start()[0])


def test_attack_too_much_before_the_proof() -> None:
    with pytest.raises(LinkError, match="2049 bytes before it has proved itself: 2048 are allowed"):
        acceptor().receive(b"x" * (MAX_HANDSHAKE_MESSAGE + 1))


@given(st.binary(max_size=100))
def test_attack_garbage(data: bytes) -> None:
    for victim in (acceptor(), dialer()):
        with pytest.raises(LinkError):
            victim.receive(data)
    later = acceptor()
    later.receive(dialer().start()[0])
    with pytest.raises(LinkError):
        later.receive(data)


def test_hello_of_http() -> None:
    with pytest.raises(LinkError, match="does not speak the link protocol"):
        acceptor().receive(b"GET / HTTP/1.1\r\nHost: n2\r\n\r\n")


@given(st.data())
def test_one_changed_byte_anywhere_is_noticed(data: Any) -> None:
    one, other = dialer(), acceptor()
    messages = iter(range(4))
    position = data.draw(st.integers(0, 3))

    def on_the_way(message: bytes) -> bytes:
        if next(messages) != position:
            return message
        place = data.draw(st.integers(0, len(message) - 1))
        return message[:place] + bytes([message[place] ^ data.draw(st.integers(1, 255))]) + message[place + 1 :]

    with pytest.raises(LinkError):
        shake(one, other, on_the_way)
    assert not one.complete


def test_macs_differ_by_role_hellos_and_secret() -> None:
    macs = {
        proof_of("dialer", SECRET, b"ab", b"c"),
        proof_of("acceptor", SECRET, b"ab", b"c"),
        proof_of("dialer", SECRET, b"a", b"bc"),
        proof_of("dialer", SECRET, b"c", b"ab"),
        proof_of("dialer", b"another secret!!", b"ab", b"c"),
    }
    assert len(macs) == 5


# Duplicates and incarnations ------------------------------------------------------------------------------------------


def hello(node: NodeId, incarnation: int = 1, attempt: int = 0, nonce: bytes = b"x" * 32) -> Hello:
    return Hello(PROTOCOL_VERSION, "dialer", "test", node, incarnation, attempt, 2**20, True, nonce)


def between(dialled_by: NodeId, other: NodeId, incarnations: tuple[int, int] = (1, 1), attempt: int = 0) -> Hellos:
    return Hellos(hello(dialled_by, incarnations[0], attempt), hello(other, incarnations[1]))


@pytest.mark.parametrize(
    ("kept", "closed"),
    [
        (between(N1, N2), between(N2, N1)),  # the lesser name dialled
        (between(N1, N2, attempt=2), between(N1, N2, attempt=1)),  # the later attempt
        (between(N2, N1, attempt=2), between(N2, N1, attempt=1)),
        (between(N1, N2, attempt=1), between(N2, N1, attempt=9)),  # attempts of different nodes say nothing
        (between(N2, N1, incarnations=(2, 1)), between(N1, N2)),  # the newer incarnation, whoever dialled
        (between(N2, N1, incarnations=(1, 2)), between(N1, N2)),
        (between(N1, N2, incarnations=(1, 2)), between(N1, N2, attempt=5)),
    ],
)
def test_two_links_resolve_to_one(kept: Hellos, closed: Hellos) -> None:
    assert survivor(kept, closed) is kept
    assert survivor(closed, kept) is kept


hellos = st.builds(
    lambda dials, incarnations, attempt, nonce: Hellos(
        hello((N1, N2)[dials], incarnations[0], attempt, nonce), hello((N2, N1)[dials], incarnations[1])
    ),
    st.integers(0, 1),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 2),
    st.sampled_from([b"x" * 32, b"y" * 32]),
)


@given(hellos, hellos, hellos)
def test_any_order_of_links_leaves_the_same(one: Hellos, two: Hellos, three: Hellos) -> None:
    assert survivor(one, two) == survivor(two, one)
    assert survivor(survivor(one, two), three) == survivor(one, survivor(two, three))


def test_links_to_different_nodes_are_no_duplicates() -> None:
    with pytest.raises(ValueError, match="are no duplicates"):
        survivor(between(N1, N2), between(N1, N3))


def test_an_old_incarnation_is_recognised() -> None:
    seen = Incarnations()
    seen.admit(hello(N1, 5))
    seen.admit(hello(N1, 5))
    with pytest.raises(
        LinkError, match=r"incarnation 4 of n1@127\.0\.0\.1:5001 is stale: 5 was here already"
    ) as caught:
        seen.admit(hello(N1, 4))
    assert (caught.value.fault, caught.value.code) == ("peer", CloseCode.STALE)
    seen.admit(hello(N2, 1))
    seen.admit(hello(N1, 6))
    seen.forget("n1")
    seen.forget("unknown")
    seen.admit(hello(N1, 1))


@pytest.mark.parametrize("previous", [3, 4])
def test_a_data_directory_that_does_not_know_of_the_newest_incarnation_is_an_older_copy(previous: int) -> None:
    seen = Incarnations()
    seen.admit(dataclasses.replace(hello(N1, 5), previous=4))
    seen.admit(dataclasses.replace(hello(N1, 5), previous=4))  # another link
    with pytest.raises(LinkError, match=r"of n1@127\.0\.0\.1:5001 is an older copy: .* as incarnation 5") as caught:
        seen.admit(dataclasses.replace(hello(N1, 6), previous=previous))
    assert (caught.value.fault, caught.value.code) == ("peer", CloseCode.RESTORED)
    seen.admit(dataclasses.replace(hello(N1, 7), previous=6))  # it was started once more, and knows now what it lost
    seen.admit(hello(N1, 8))  # it has no data directory
    seen.admit(dataclasses.replace(hello(N2, 2), previous=1))


# What is refused here -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"secret": b"short"}, "at least 16 bytes"),
        ({"secret": "a text of some length"}, "at least 16 bytes"),
        ({"incarnation": -1}, "is no incarnation"),
        ({"incarnation": 2**63}, "is no incarnation"),
        ({"heartbeat_interval": 0}, "must be positive"),
        ({"heartbeat_interval": 5.0}, "less than heartbeat_timeout"),
        ({"handshake_timeout": 0}, "handshake_timeout"),
        ({"max_message": 1000}, "max_message"),
        ({"max_message": 2**20 + 1}, "max_message"),
        ({"batch_bytes": 0}, "batch_bytes"),
        ({"data_queue_bytes": 0}, "data_queue_bytes"),
        ({"control_queue_bytes": 0}, "control_queue_bytes"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        config(N1, **changes)


def test_a_secret_is_not_shown() -> None:
    assert "horse" not in repr(config(N1))


def test_a_nonce_has_the_right_size_and_a_dialer_a_goal() -> None:
    with pytest.raises(ValueError, match="a nonce has 32 bytes"):
        dialer(nonce=b"7")
    with pytest.raises(ValueError, match="say which node it expects"):
        Handshake("dialer", config(N1), b"d" * 32)
    with pytest.raises(InvalidId):
        config(N1, cluster="two words")


@pytest.mark.parametrize(
    "changes", [{"incarnation": -1}, {"attempt": 2**63}, {"max_message": 10}, {"nonce": b""}, {"cluster": "a b"}]
)
def test_a_hello_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    good = hello(N1)
    with pytest.raises(ValueError, match=r"."):
        dataclasses.replace(good, **changes)


def test_a_close_reason_fits_into_a_close_frame() -> None:
    assert LinkError("us", 4001, "short").close_reason == "short"
    reason = LinkError("us", 4001, "ä" * 100).close_reason
    assert reason == "ä" * 61
