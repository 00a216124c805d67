"""`rabble_trio._link`: pairs of links connected by lists; peers that misbehave are in `test_link_attacks.py`."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio import CorrelationId, EncodeError, NodeId, NotAMessage, Pid, decode, encode, message
from rabble_trio._codec import MAX_MESSAGE_SIZE, _pack
from rabble_trio._convert import DECODERS
from rabble_trio._errors import LinkError
from rabble_trio._handshake import CloseCode, Hello, LinkConfig
from rabble_trio._link import (
    MAX_PIDS,
    LettersReceived,
    Link,
    LinkUp,
    MembershipReceived,
    Ping,
    Pong,
)
from rabble_trio._members import Gossip, Members
from rabble_trio._orset import Delta, Digest

N1, N2, N3 = (NodeId(f"n{number}", f"127.0.0.1:500{number}") for number in (1, 2, 3))
A, B, C = Pid("a", N1), Pid("b", N2), Pid("c", N2, "group")
SECRET = b"correct horse battery staple"
HEADER = 16


@message(tag="test.link.text")
class Text:
    text: str


@message(tag="test.link.blob")
class Blob:
    data: bytes


@message(tag="test.link.nested")
class Nested:
    inner: Any = None


def config(node: NodeId, **changes: Any) -> LinkConfig:
    return LinkConfig(**{"node": node, "incarnation": 1, "cluster": "test", "secret": SECRET, **changes})


class Pair:
    """Two links, the dialer `one` of N1 and the acceptor `other` of N2, with a wire in between that takes no time."""

    def __init__(self, *, handshake: bool = True, now: float = 100.0, one: Any = None, other: Any = None) -> None:
        self.now = now
        self.one = Link("dialer", config(N1, **(one or {})), now, b"d" * 32, expected=N2)
        self.other = Link("acceptor", config(N2, **(other or {})), now, b"a" * 32)
        self.events: dict[Link, list[Any]] = {self.one: [], self.other: []}
        self.said: list[bytes] = []
        if handshake:
            self.run()
            assert self.one.state == self.other.state == "established"
            for events in self.events.values():
                events.clear()

    def peer_of(self, link: Link) -> Link:
        return self.other if link is self.one else self.one

    def run(self) -> None:
        """Carry messages until there are none."""
        while any([self.carry(self.one), self.carry(self.other)]):
            pass

    def carry(self, link: Link) -> bool:
        """Carry one message from this link to its peer, if one waits."""
        data = link.next_message(self.now)
        if data is not None:
            self.said.append(data)
            self.events[self.peer_of(link)] += self.peer_of(link).receive(data, self.now)
        return data is not None

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.one.tick(self.now)
        self.other.tick(self.now)

    def letters(self, link: Link) -> list[Any]:
        return [letter for event in self.events[link] for letter in event.letters]


def drained(link: Link, now: float = 100.0) -> list[bytes]:
    return list(iter(lambda: link.next_message(now), None))


# The life of a link ---------------------------------------------------------------------------------------------------


def test_a_link_comes_up_on_both_sides() -> None:
    pair = Pair(handshake=False)
    assert (pair.one.state, pair.one.peer) == ("handshake", None)
    pair.run()
    (up,), (other_up,) = pair.events[pair.one], pair.events[pair.other]
    assert isinstance(up, LinkUp)
    assert up.peer == pair.one.peer == up.hellos.acceptor
    assert up.peer.node == N2
    assert other_up.peer.node == N1
    assert up.hellos == other_up.hellos


def test_nothing_overtakes_the_proof() -> None:
    pair = Pair(handshake=False)
    for link in (pair.one, pair.other, pair.one):
        assert pair.carry(link)  # hello, hello, proof
    assert pair.other.state == "established"
    pair.other.send_membership(Gossip(Delta()))
    pair.other.send(A, B, Text("early"))
    pair.other.tick(pair.now)
    pair.run()
    assert [type(event) for event in pair.events[pair.one]] == [LinkUp, MembershipReceived, LettersReceived]


def test_membership_goes_through_the_link() -> None:
    pair = Pair()
    gossip = Gossip(Members(N1, 1).record().delta, want=("x",), intent="invite")
    digest = Digest({"n1": b"?" * 16})
    pair.one.send_membership(gossip)
    pair.one.send_membership(digest)
    pair.run()
    assert pair.events[pair.other] == [MembershipReceived(gossip), MembershipReceived(digest)]


def test_closing_keeps_the_first_reason_and_ends_everything() -> None:
    pair = Pair()
    pair.one.send(B, A, Text("1"))
    pair.one.send(C, A, Text("2"), CorrelationId(A, 1, 2))
    with pytest.raises(ValueError, match="not closed yet"):
        pair.one.undelivered()
    error = pair.one.close("nobody", CloseCode.DUPLICATE, "another link is kept")
    assert (error.fault, error.code, str(error)) == ("nobody", CloseCode.DUPLICATE, "another link is kept")
    assert pair.one.close("us", CloseCode.GOING_AWAY, "later") is error
    assert pair.one.state == "closed"
    assert pair.one.deadline == math.inf
    assert pair.one.next_message(pair.now) is None
    assert pair.one.send(B, A, Text("3")) == "no link"
    pair.one.send_membership(Gossip(Delta()))
    assert pair.one.undelivered() == [(B, A, Text("1"), None), (C, A, Text("2"), CorrelationId(A, 1, 2))]
    assert pair.one.undelivered() == []
    assert pair.one.statistics().queued_bytes == 0


def test_what_was_handed_to_the_transport_is_not_undelivered() -> None:
    pair = Pair()
    pair.one.send(B, A, Text("1"))
    drained(pair.one)
    pair.one.send(B, A, Text("2"))
    pair.one.close("us", CloseCode.GOING_AWAY, "bye")
    assert pair.one.undelivered() == [(B, A, Text("2"), None)]


@pytest.mark.parametrize(
    ("code", "words", "fault", "shown"),
    [
        (
            CloseCode.AUTHENTICATION,
            "not the same secret",
            "configuration",
            "the peer closed the link: not the same secret",
        ),
        (CloseCode.VERSION, "", "configuration", "the peer closed the link: VERSION"),
        (CloseCode.VIOLATION, "ping 0", "us", "the peer closed the link: ping 0"),
        (CloseCode.DUPLICATE, "other kept", "nobody", "the peer closed the link: other kept"),
        (CloseCode.TIMEOUT, "silence", "network", "the peer closed the link: silence"),
        (1006, "", "network", "the link broke (code 1006)"),
        (1011, "oh\x1b[31m no\n" + "x" * 200, "network", "the link broke (code 1011): oh[31m no" + "x" * 112),
    ],
)
def test_a_close_by_the_peer_is_explained(code: int, words: str, fault: str, shown: str) -> None:
    link = Pair().one
    error = link.closed_by_peer(code, words)
    assert (error.fault, str(error)) == (fault, shown)
    assert link.state == "closed"


# Envelopes ------------------------------------------------------------------------------------------------------------


def test_many_envelopes_go_in_one_message_in_order() -> None:
    pair = Pair()
    sent = [
        (B, A, Text("1"), None),
        (C, A, Blob(b"2"), CorrelationId(A)),
        (B, Pid("other", N1), Text("3"), CorrelationId(Pid("far", N3), 4, 5)),
        (B, A, Nested(Text("4")), CorrelationId(A, None, 7)),
        (C, A, Text("5"), CorrelationId(A, 8, None)),
    ]
    for letter in sent:
        assert pair.one.send(*letter) is None
    assert pair.one.statistics().queued_letters == 5
    assert pair.carry(pair.one)
    assert pair.events[pair.other] == [LettersReceived(sent, [])]
    assert not pair.carry(pair.one)
    statistics = pair.one.statistics()
    assert (statistics.letters_sent, statistics.queued_letters, statistics.queued_bytes) == (5, 0, 0)
    assert pair.other.statistics().letters_received == 5


def test_a_pid_goes_in_full_once_and_as_a_number_after_that() -> None:
    pair = Pair()
    sizes = []
    for _ in range(3):
        pair.one.send(C, A, Text(""), CorrelationId(A, 1, 1))
        (data,) = drained(pair.one)
        sizes.append(len(data))
        assert (str(C).encode() in data) == (len(sizes) == 1)
        pair.events[pair.other] += pair.other.receive(data, pair.now)
    assert sizes[0] > sizes[1] == sizes[2] < 35
    assert pair.letters(pair.other) == [(C, A, Text(""), CorrelationId(A, 1, 1))] * 3


def test_both_directions_have_their_own_numbers() -> None:
    pair = Pair()
    pair.one.send(B, A, Text("there"))
    pair.other.send(A, C, Text("back"), CorrelationId(A, 1))
    pair.run()
    assert pair.letters(pair.other) == [(B, A, Text("there"), None)]
    assert pair.letters(pair.one) == [(A, C, Text("back"), CorrelationId(A, 1))]


def test_full_tables_of_pids_are_emptied_on_both_sides_at_once() -> None:
    pair = Pair(one={"data_queue_bytes": 2**30})
    receivers = [Pid(f"b{number}", N2) for number in range(MAX_PIDS + 2)]
    for receiver in (*receivers, *receivers[:2], *receivers[-2:]):
        assert pair.one.send(receiver, A, Text("x"), CorrelationId(A)) is None
    assert pair.one.statistics().queued_letters == MAX_PIDS + 6
    pair.run()
    arrived = [to for to, *_ in pair.letters(pair.other)]
    assert arrived == [*receivers, *receivers[:2], *receivers[-2:]]
    assert pair.one.statistics().letters_sent == pair.other.statistics().letters_received == MAX_PIDS + 6
    pair.one.close("us", CloseCode.GOING_AWAY, "bye")
    assert pair.one.undelivered() == []


letters = st.lists(
    st.tuples(
        st.sampled_from([B, C]),
        st.sampled_from([A, Pid("a2", N1)]),
        st.one_of(st.builds(Text, st.text(max_size=5)), st.builds(Blob, st.binary(max_size=300))),
        st.one_of(
            st.none(),
            st.builds(
                CorrelationId,
                st.sampled_from([A, B, Pid("x", N3)]),
                st.none() | st.integers(0, 2**63 - 1),
                st.none() | st.integers(0, 2**63 - 1),
            ),
        ),
    ),
    max_size=20,
)


@given(st.lists(letters, max_size=4), st.integers(1, 2000), st.integers(400, 4000))
def test_what_is_not_dropped_arrives_in_order_once(rounds: list[list[Any]], batch: int, queue: int) -> None:
    pair = Pair(one={"batch_bytes": batch, "data_queue_bytes": queue})
    accepted = []
    for sent in rounds:
        for letter in sent:
            reason = pair.one.send(*letter)
            assert reason in {None, "link queue full"}
            if reason is None:
                accepted.append(letter)
        pair.run()
    assert pair.letters(pair.other) == accepted
    statistics = pair.one.statistics()
    assert statistics.letters_sent == len(accepted)
    assert statistics.letters_dropped == sum(map(len, rounds)) - len(accepted)


def test_a_full_lane_drops_and_says_so() -> None:
    pair = Pair(one={"data_queue_bytes": 1000})
    results = [pair.one.send(B, A, Blob(b"x" * 200)) for _ in range(6)]
    assert results == [None] * 4 + ["link queue full"] * 2
    assert pair.one.statistics().letters_dropped == 2
    # A pid that was to be introduced by a dropped envelope is introduced by the next one.
    assert pair.one.send(C, A, Blob(b"x" * 200)) == "link queue full"
    pair.run()
    assert pair.one.send(C, A, Text("now")) is None
    pair.run()
    assert pair.letters(pair.other)[-1] == (C, A, Text("now"), None)


def test_a_message_of_the_transport_is_bounded_unless_one_envelope_is_larger() -> None:
    pair = Pair(one={"batch_bytes": 1000})
    for size in (300, 300, 300, 300, 5000, 300):
        pair.one.send(B, A, Blob(b"x" * size))
    sizes = [len(data) for data in drained(pair.one)]
    assert len(sizes) == 4
    assert [size > 1000 + HEADER for size in sizes] == [False, False, True, False]


@pytest.mark.parametrize("limited", ["one", "other"])
def test_an_envelope_that_is_too_large_for_either_side_is_refused_at_the_sender(limited: str) -> None:
    pair = Pair(**{limited: {"max_message": 4096}})
    pair.one.send(B, A, Blob(b""))
    fits = 4096 - HEADER - len(_pack((0, 0, ("test.link.blob", b"")))) - 1
    assert pair.one.send(B, A, Blob(b"x" * fits)) is None
    with pytest.raises(
        EncodeError, match=r"Blob takes 4081 bytes on its way, more than the 4080 .*: send it in chunks"
    ):
        pair.one.send(B, A, Blob(b"x" * (fits + 1)))
    with pytest.raises(EncodeError, match=r"Blob takes \d+ bytes"):  # with pids in full
        pair.one.send(C, Pid("new", N1), Blob(b"x" * fits), CorrelationId(A))
    assert pair.one.send(C, Pid("new", N1), Text("still works"), CorrelationId(A)) is None
    pair.run()
    assert len(pair.letters(pair.other)) == 3
    assert pair.one.state == pair.other.state == "established"


def test_the_largest_envelope_fits_into_a_message() -> None:
    pair = Pair()
    room = MAX_MESSAGE_SIZE - HEADER - 100
    pair.one.send(B, A, Blob(b"x" * room))
    pair.run()
    assert len(pair.letters(pair.other)[0][2].data) == room


def test_what_cannot_cross_is_refused_where_it_is_sent() -> None:
    link = Pair().one
    with pytest.raises(NotAMessage, match="decorate the class"):
        link.send(B, A, object())
    with pytest.raises(EncodeError, match=r"Text\.text: expected str, got int"):
        link.send(B, A, Text(7))  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match=r"Text\.text"):
        link.send(B, A, Text("\ud800"))
    deep = Nested()
    for _ in range(100):
        deep = Nested(deep)
    with pytest.raises(EncodeError, match="nested"):
        link.send(B, A, deep)
    for to, sender in ((A, A), (Pid("c", N3), A), (B, B), (B, Pid("a", N3))):
        with pytest.raises(ValueError, match=r"is not from n1@.* to n2@"):
            link.send(to, sender, Text(""))
    assert link.statistics().queued_letters == 0


def test_before_the_handshake_there_is_no_link() -> None:
    link = Pair(handshake=False).one
    assert link.send(B, A, Text("")) == "no link"
    link.send_membership(Gossip(Delta()))
    assert [type(one) for one in map(decode, drained(link))] == [Hello]


def test_a_message_that_cannot_be_decoded_is_lost_alone() -> None:
    pair = Pair()
    pair.one.send(B, A, Text("1"))
    pair.one.send(C, A, Blob(b"2"))
    pair.one.send(B, A, Text("3"))
    (data,) = drained(pair.one)
    (event,) = pair.other.receive(data.replace(b"test.link.blob", b"test.link.what"), pair.now)
    assert isinstance(event, LettersReceived)
    assert [letter[2] for letter in event.letters] == [Text("1"), Text("3")]
    ((to, sender, _, reason),) = event.lost
    assert (to, sender) == (C, A)
    assert reason.startswith("can't be decoded: unknown tag 'test.link.what'")
    assert "test.link.what" not in DECODERS
    statistics = pair.other.statistics()
    assert (statistics.letters_received, statistics.letters_lost) == (3, 1)
    pair.one.send(C, A, Text("4"))  # the pids of a lost envelope count
    pair.run()
    assert pair.letters(pair.other) == [(C, A, Text("4"), None)]


def test_a_message_that_is_nested_too_deeply_for_the_stack_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.one.send(B, A, Text("1"))

    def overflow(plain: Any, depth: int) -> Any:
        raise RecursionError

    (data,) = drained(pair.one)
    monkeypatch.setitem(DECODERS, "test.link.text", (Text, overflow))
    (event,) = pair.other.receive(data, pair.now)
    assert isinstance(event, LettersReceived)
    assert event.lost == [(B, A, None, "can't be decoded: nested too deeply for the stack that is left")]


# Control before data, and heartbeats ----------------------------------------------------------------------------------


def test_control_never_waits_behind_data() -> None:
    pair = Pair(one={"batch_bytes": 1000})
    for _ in range(10):
        pair.one.send(B, A, Blob(b"x" * 900))
    pair.one.send_membership(Gossip(Delta()))
    pair.one.tick(pair.now)
    pair.one.receive(encode(Ping(1)), pair.now)
    assert [type(decode(pair.one.next_message(pair.now))) for _ in range(3)] == [Gossip, Pong, Ping]
    assert len(drained(pair.one)) == 10


def test_round_trip_time_and_the_next_ping() -> None:
    pair = Pair()
    assert pair.one.statistics().round_trip is None
    assert pair.one.deadline == pair.now  # the first ping, at once
    pair.tick(0)
    assert pair.one.deadline == pair.now + 5.0
    ping = pair.one.next_message(100.0)
    assert ping == encode(Ping(1))
    pair.other.receive(ping, 100.1)
    pong = pair.other.next_message(100.15)
    assert pong == encode(Pong(1))
    assert pair.one.receive(pong, 100.25) == []
    assert pair.one.statistics().round_trip == pytest.approx(0.25)
    assert pair.one.deadline == pytest.approx(101.0)
    pair.one.tick(100.9)
    assert pair.one.next_message(100.9) is None
    pair.one.tick(101.0)
    assert pair.one.next_message(101.0) == encode(Ping(2))


def test_a_ping_that_waits_for_the_transport_is_timed_from_when_it_leaves() -> None:
    pair = Pair()
    pair.one.tick(100.0)
    pair.one.next_message(103.0)
    pair.one.receive(encode(Pong(1)), 103.5)
    assert pair.one.statistics().round_trip == pytest.approx(0.5)


def test_two_links_keep_each_other_alive_and_quiet() -> None:
    pair = Pair()
    pair.said.clear()
    for _ in range(100):
        pair.tick(0.1)
        pair.run()
    assert pair.one.state == "established"
    assert 36 <= len(pair.said) <= 44  # each side: one ping a second, and its pong


def test_silence_ends_the_link() -> None:
    pair = Pair()
    pair.one.tick(104.9)
    with pytest.raises(LinkError, match=r"no sign of life from n2@127\.0\.0\.1:5002 for 5\.0 s") as caught:
        pair.one.tick(105.0)
    assert (caught.value.fault, caught.value.code) == ("network", CloseCode.TIMEOUT)
    assert pair.one.state == "closed"


def test_any_message_is_a_sign_of_life() -> None:
    pair = Pair()
    for second in range(1, 30):
        pair.other.send(A, B, Text("no ping, no pong"))
        pair.now = 100.0 + second
        for data in drained(pair.other, pair.now):
            pair.one.receive(data, pair.now)
        pair.one.tick(pair.now)
    assert pair.one.statistics().heard == 129.0
    assert pair.one.state == "established"


def test_any_byte_is_a_sign_of_life_but_a_peer_that_stutters_is_given_up() -> None:
    pair = Pair()
    link, start = pair.one, pair.now
    for second in range(1, 30):
        link.heard(start + second)
        link.tick(start + second)
        link.next_message(start + second)
        assert start + second < link.deadline <= start + 30
    link.heard(start + 30)
    with pytest.raises(LinkError, match=r"sent no whole message for 30\.0 s") as caught:
        link.tick(start + 30)
    assert caught.value.fault == "peer"
    assert caught.value.code == CloseCode.TIMEOUT


def test_a_sign_of_life_goes_out_while_an_answer_takes_its_time() -> None:
    pair = Pair()
    link, now = pair.one, pair.now
    link.tick(now)
    assert type(decode(drained(link, now)[0])) is Ping
    for _ in range(3):
        assert link.deadline == now + 1.0
        now = link.deadline
        link.tick(now)
        (sign,) = drained(link, now)
        assert pair.other.receive(sign, now) == [LettersReceived([], [])]
    assert pair.other.statistics().heard == now


def test_deadlines_are_always_ahead_after_a_tick() -> None:
    # A shell that sleeps until the deadline and then calls tick must not spin.
    pair = Pair()
    for link in (pair.one, pair.other):
        for _ in range(3):
            now = link.deadline
            if now >= 105.0:
                break
            link.tick(now)
            assert link.deadline > now
            drained(link, now)
            assert link.deadline > now


def test_a_handshake_that_takes_too_long() -> None:
    pair = Pair(handshake=False)
    assert pair.one.deadline == 105.0
    pair.one.tick(104.9)
    pair.carry(pair.one)
    pair.carry(pair.other)
    for link in (pair.one, pair.other):
        with pytest.raises(LinkError, match="no handshake within 5 s") as caught:
            link.tick(105.0)
        assert (caught.value.fault, caught.value.code) == ("network", CloseCode.TIMEOUT)


def test_a_peer_that_does_not_read_membership_is_given_up() -> None:
    pair = Pair(one={"control_queue_bytes": 200})
    size = len(encode(Gossip(Delta())))
    for _ in range(200 // size):
        pair.one.send_membership(Gossip(Delta()))
    with pytest.raises(LinkError, match=r"n2@127\.0\.0\.1:5002 does not read: \d+ bytes wait") as caught:
        pair.one.send_membership(Gossip(Delta()))
    assert (caught.value.fault, caught.value.code) == ("peer", CloseCode.OVERFLOW)
    assert pair.one.state == "closed"


def test_membership_too_large_for_the_peer_is_refused() -> None:
    pair = Pair(other={"max_message": 4096})
    with pytest.raises(EncodeError, match="more than the 4096 allowed"):
        pair.one.send_membership(Digest({f"n{number}": b"?" * 16 for number in range(500)}))
    assert pair.one.state == "established"


def test_a_wrong_secret_ends_both_sides_with_the_same_code() -> None:
    pair = Pair(handshake=False, other={"secret": b"another secret!!"})
    with pytest.raises(LinkError) as caught:
        pair.run()
    error = pair.one.closed_by_peer(caught.value.code, caught.value.close_reason)
    assert error.code == caught.value.code == CloseCode.AUTHENTICATION
    assert error.fault == "configuration"
    assert pair.one.state == pair.other.state == "closed"


def test_signals_are_not_dropped_but_end_a_link_whose_peer_does_not_read() -> None:
    # What the runtime sends (a Down) somebody may wait for: it exceeds the limit, by as much as the control lane holds.
    pair = Pair(one={"data_queue_bytes": 1000, "control_queue_bytes": 1000})
    while pair.one.send(C, A, Blob(b"x" * 200)) is None:
        pass
    assert pair.one.send(C, A, Blob(b"x" * 400), signal=True) is None
    assert pair.one.send(C, A, Blob(b"x" * 400), signal=True) is None
    with pytest.raises(LinkError, match="does not read") as caught:
        pair.one.send(C, A, Blob(b"x" * 400), signal=True)
    assert caught.value.code == CloseCode.OVERFLOW
    assert pair.one.error is caught.value
    assert len(pair.one.undelivered()) == 6
