"""`rabble_trio._link` against peers that misbehave: every violation, every state with every input, and bytes at random."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import CorrelationId, NodeId, Pid, Shutdown, encode, message
from rabble_trio._codec import _pack
from rabble_trio._errors import LinkError
from rabble_trio._handshake import MAX_HANDSHAKE_MESSAGE, CloseCode, LinkConfig, Proof
from rabble_trio._link import MAX_PIDS, Link, Ping, Pong
from rabble_trio._members import Gossip
from rabble_trio._orset import Delta, Digest

N1, N2, N3 = (NodeId(f"n{number}", f"127.0.0.1:500{number}") for number in (1, 2, 3))
A, B = Pid("a", N1), Pid("b", N2)
NOW = 100.0


@message(tag="test.attack.text")
class Text:
    text: str


def meet(messages: int = 4, **changes: Any) -> tuple[Link, Link, list[bytes]]:
    """A dialer of N1 and an acceptor of N2 after so many messages of their handshake, and those."""
    settings: dict[str, Any] = {
        "incarnation": 1,
        "cluster": "test",
        "secret": b"correct horse battery staple",
        **changes,
    }
    dialer = Link("dialer", LinkConfig(node=N1, **settings), NOW, b"d" * 32, expected=N2)
    acceptor = Link("acceptor", LinkConfig(node=N2, **settings), NOW, b"a" * 32)
    said: list[bytes] = []
    for one, other in [(dialer, acceptor), (acceptor, dialer), (dialer, acceptor), (acceptor, dialer)][:messages]:
        said += drained(one)
        other.receive(said[-1], NOW)
    return dialer, acceptor, said


def drained(link: Link) -> list[bytes]:
    return list(iter(lambda: link.next_message(NOW), None))


def letters_of(*items: Any) -> bytes:
    return bytes(_pack((1, *items)))


GOOD = (str(A), str(B), ("test.attack.text", "x"))  # what N2 may send to N1, in the eyes of the dialer

VIOLATIONS = {
    "garbage": (b"\xc1", "not valid msgpack"),
    "nothing": (b"", "incomplete"),
    "half a message": (encode(Text("xxx"))[:-1], "incomplete"),
    "two messages": (encode(Ping(1)) * 2, "not valid msgpack"),
    "a number": (b"\x01", "neither a message nor a batch"),
    "an empty array": (b"\x90", "neither a message nor a batch"),
    "another kind of batch": (_pack((2, GOOD)), "array that starts with a tag"),
    "a bool for the kind": (_pack((True, GOOD)), "array that starts with a tag"),
    "an array that claims to be huge": (b"\xdd\xff\xff\xff\xff\x01", "incomplete"),
    "an unknown tag": (_pack(("no.such.tag",)), "unknown tag"),
    "a message outside of an envelope": (encode(Text("x")), "Text, which has no place on an established link"),
    "a hello again": (meet()[2][0], "Hello, which has no place on an established link"),
    "a proof again": (encode(Proof(b"")), "Proof, which has no place on an established link"),
    "gossip of the wrong type": (
        _pack(("rabble.gossip", 1, (), "update")),
        r"rabble\.gossip\.delta: expected a message",
    ),
    "gossip out of form": (
        _pack(("rabble.gossip", ("rabble.set_delta", (("rabble.set_line", "a b", 0, (), (), ()),)), (), "update")),
        "not a valid replica name",
    ),
    "ping 0": (encode(Ping(0)), "its ping has the number 0"),
    "ping of a bool": (_pack(("rabble.link_ping", True)), "expected int"),
    "a pong for no ping": (encode(Pong(1)), "answered ping 1, which is not under way"),
    "an envelope that is a text": (letters_of("x"), "str in the place of an envelope"),
    "an envelope that is empty": (letters_of(()), "or one of the wrong length"),
    "an envelope of four": (letters_of((*GOOD, 1)), "or one of the wrong length"),
    "an unknown number": (letters_of((0, *GOOD[1:])), "a receiver by number 0, which stands for no pid"),
    "a negative number": (letters_of(GOOD, (-1, 0, GOOD[2])), "a receiver by number -1"),
    "a number that is a bool": (letters_of(GOOD, (False, 0, GOOD[2])), "a receiver by bool"),
    "a number that is a float": (letters_of(GOOD, (0, 0.0, GOOD[2])), "a sender by float"),
    "a number that is an array": (letters_of((GOOD[0], (), GOOD[2])), "a sender by tuple"),
    "a number from before the tables were emptied": (letters_of(GOOD, None, (0, *GOOD[1:])), "receiver by number 0"),
    "a pid out of grammar": (letters_of(("a::n1", *GOOD[1:])), "a receiver wrongly"),
    "a receiver on another node": (
        letters_of((str(Pid("x", N3)), *GOOD[1:])),
        r"x::n3@127\.0\.0\.1:5003, which is not on n1",
    ),
    "a receiver on the peer itself": (letters_of((str(B), *GOOD[1:])), "which is not on n1"),
    "a sender that it can't speak for": (
        letters_of((str(A), str(Pid("x", N3)), GOOD[2])),
        "whose sender is .* not on n2",
    ),
    "a correlation id by an unknown number": (letters_of((*GOOD, 0, 1, 1)), "a pid of a correlation id by number 0"),
    "a correlation id that is negative": (letters_of((*GOOD, str(A), -1, 1)), "is not a connection number"),
    "a correlation id of texts": (letters_of((*GOOD, str(A), 1, "1")), "is not a request number"),
}


@pytest.mark.parametrize(("data", "problem"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_ends_the_link_and_names_the_peer(data: bytes, problem: str) -> None:
    link, _, _ = meet()
    with pytest.raises(LinkError, match=problem) as caught:
        link.receive(data, NOW)
    error = caught.value
    assert (error.fault, error.code) == ("peer", CloseCode.VIOLATION)
    assert str(error).startswith("the peer broke the link protocol: ")
    assert link.state == "closed"
    for call in (lambda: link.receive(encode(Ping(1)), NOW), lambda: link.tick(NOW)):
        with pytest.raises(LinkError) as again:
            call()
        assert again.value is error


def test_attack_more_pids_than_a_table_holds() -> None:
    link, _, _ = meet()
    many = [(f"a{number}::{N1}", *GOOD[1:]) for number in range(MAX_PIDS + 1)]
    for start in range(0, MAX_PIDS, 1024):
        link.receive(letters_of(*many[start : start + 1024]), NOW)
    with pytest.raises(LinkError, match=f"more than {MAX_PIDS} pids of receivers without emptying the table"):
        link.receive(letters_of(many[-1]), NOW)


def test_attack_a_flood_of_pings_is_not_stored() -> None:
    link, _, _ = meet()
    link.receive(encode(Ping(1)), NOW)
    with pytest.raises(LinkError, match="a ping before the last one was answered"):
        link.receive(encode(Ping(2)), NOW)


def test_attack_a_pong_twice_or_for_another_ping() -> None:
    dialer, acceptor, _ = meet()
    for link in (dialer, acceptor):
        link.tick(NOW)
        drained(link)
    dialer.receive(encode(Pong(1)), NOW)
    with pytest.raises(LinkError, match="answered ping 1, which is not under way"):
        dialer.receive(encode(Pong(1)), NOW)
    with pytest.raises(LinkError, match="answered ping 2, which is not under way"):
        acceptor.receive(encode(Pong(2)), NOW)


def test_attack_a_message_beyond_the_limit() -> None:
    link, _, _ = meet(max_message=4096)
    with pytest.raises(LinkError, match="4097 bytes are more than the 4096 allowed"):
        link.receive(b"\x00" * 4097, NOW)
    _, early, _ = meet(0)
    with pytest.raises(LinkError, match="before it has proved itself"):
        early.receive(b"\x00" * (MAX_HANDSHAKE_MESSAGE + 1), NOW)


@pytest.mark.parametrize("messages", [0, 1])
def test_attack_envelopes_before_the_proof(messages: int) -> None:
    _, link, _ = meet(messages)
    with pytest.raises(LinkError):
        link.receive(letters_of(GOOD), NOW)
    assert link.peer is None


def test_attack_replay_of_the_whole_recorded_link() -> None:
    _, _, said = meet()
    config = LinkConfig(N2, 1, "test", b"correct horse battery staple")
    victim = Link("acceptor", config, NOW, b"fresh" + b"a" * 27)
    victim.receive(said[0], NOW)
    with pytest.raises(LinkError, match="same cluster secret"):
        victim.receive(said[2], NOW)


# Anything at all ------------------------------------------------------------------------------------------------------

HELLO, OTHER_HELLO, PROOF, OTHER_PROOF = meet()[2]
KINDS = {
    "hello of a dialer": HELLO,
    "hello of an acceptor": OTHER_HELLO,
    "proof of the dialer": PROOF,
    "proof of the acceptor": OTHER_PROOF,
    "ping": encode(Ping(1)),
    "pong": encode(Pong(1)),
    "gossip": encode(Gossip(Delta())),
    "digest": encode(Digest({})),
    "letters": letters_of(),
    "another message": encode(Shutdown()),
    "garbage": b"\xff",
}
STATES = {
    "dialer said hello": (0, 1),
    "dialer said proof": (0, 2),
    "acceptor waits": (1, 0),
    "acceptor said hello": (1, 1),
    "dialer is up": (0, 4),
    "acceptor is up": (1, 4),
}
ACCEPTED = {
    ("dialer said hello", "hello of an acceptor"),
    ("dialer said proof", "proof of the acceptor"),
    ("acceptor waits", "hello of a dialer"),
    ("acceptor said hello", "proof of the dialer"),
    *itertools.product(["dialer is up", "acceptor is up"], ["ping", "gossip", "digest", "letters"]),
}


def link_in(state: str) -> Link:
    side, messages = STATES[state]
    link = meet(messages)[side]
    drained(link)
    return link


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_state_with_every_input(state: str, kind: str) -> None:
    link = link_in(state)
    try:
        link.receive(KINDS[kind], NOW)
    except LinkError:
        assert (state, kind) not in ACCEPTED
        assert link.state == "closed"
    else:
        assert (state, kind) in ACCEPTED
        assert link.state != "closed"


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(allow_nan=False)
    | st.binary(max_size=3)
    | st.sampled_from(
        ["", str(A), str(B), "test.attack.text", "rabble.gossip", "rabble.link_ping", "rabble.set_delta"]
    ),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=20,
)


@given(
    st.lists(st.one_of(st.binary(max_size=60), plain.map(_pack), plain.map(letters_of)), max_size=4),
    st.sampled_from(list(STATES)),
)
def test_arbitrary_bytes_raise_link_errors_and_nothing_else(messages: list[bytes], state: str) -> None:
    link = link_in(state)
    for data in messages:
        try:
            link.receive(bytes(data), NOW)
        except LinkError:
            assert link.state == "closed"
        drained(link)


@given(st.data())
def test_one_changed_byte_in_a_batch_raises_link_errors_and_nothing_else(data: Any) -> None:
    dialer, acceptor, _ = meet()
    dialer.send(B, A, Text("hello"), CorrelationId(A, 1, 2))
    dialer.send(B, A, Text("x" * 20))
    (batch,) = drained(dialer)
    place = data.draw(st.integers(0, len(batch) - 1))
    changed = batch[:place] + bytes([data.draw(st.integers(0, 255))]) + batch[place + 1 :]
    try:
        acceptor.receive(changed, NOW)
    except LinkError:
        assert acceptor.state == "closed"
