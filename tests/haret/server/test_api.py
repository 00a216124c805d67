"""One connection of the client port, without sockets and without replicas."""

from __future__ import annotations

from typing import Any

import pytest

from haret.protocol import (
    ADMIN,
    API,
    VERSION,
    BadRequest,
    Enter,
    Entered,
    Expired,
    GetNamespaceNames,
    Hello,
    Leave,
    NamespaceNames,
    Ping,
    Pong,
    Ready,
    Redirect,
    Refused,
    Result,
    Retry,
    StaleRead,
    Submit,
    UnknownNamespace,
    Visit,
    Welcome,
)
from haret.server.api import MAX_BACKLOG, ApiConnection
from haret.server.directory import Directory, PrimaryChanged
from haret.server.registry import Group
from haret.vertree import BlobGet, BlobPut, InvalidPath
from haret.vr import messages as vr
from rabble_trio import ConnectionOutput, NodeId, Pid, decode, encode

NODE = NodeId.parse("n1@127.0.0.1:5000")
R1, R2, R3 = (Pid(name, NODE, "ns") for name in ("r1", "r2", "r3"))
N2 = NodeId.parse("n2@127.0.0.1:5000")
FAR = Pid("r4", N2, "ns")
GROUP = Group("ns", bytes(16), 0, (R1, R2, R3, FAR))
CLIENT = b"0123456789abcdef"
GET = encode(BlobGet("/a"))
PUT = encode(BlobPut("/a", b"x"))


class Driver:
    """A connection, and what it wants done."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.directory.learn([GROUP])
        self.directory.view_changed(R1, 0, 0, R1)
        self.connection = ApiConnection(NODE, self.directory)
        self.output = ConnectionOutput()

    def receive(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.connection.received(message, self.output)
        return self.replies()

    def replies(self) -> list[Any]:
        replies, self.output.replies = self.output.replies, []
        return replies

    def sent(self) -> list[tuple[Pid, Any]]:
        envelopes, self.output.envelopes = self.output.envelopes, []
        return [(to, message) for to, message, _ in envelopes]

    def answer(self, message: Any, sender: Pid = R1) -> list[Any]:
        """The oldest pending request is answered."""
        context = self.output.pending.pop(next(iter(self.output.pending)))
        self.connection.answered(context, message, sender, self.output)
        return self.replies()

    def change(self, primary: Pid | None, view: int = 1) -> list[Any]:
        if primary is None:
            self.directory.replica_down(R1)
        else:
            self.directory.view_changed(primary, 0, view, primary)
        self.connection.notified(PrimaryChanged("ns", primary), R1, self.output)
        return self.replies()

    def enter(self) -> Driver:
        self.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0))
        assert self.answer(vr.SessionOpened(5, 0, 0)) == [Entered(5)]
        self.sent()
        return self


def test_it_begins_with_a_greeting() -> None:
    assert Driver().receive(Hello(API, VERSION)) == [Welcome(NODE)]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (Hello(ADMIN, VERSION), "speaks haret-api, not 'haret-admin'"),
        (Hello(API, VERSION + 1), f"version {VERSION}"),
        (Submit(1, 1, PUT), "first message must be Hello"),
        (vr.GetReplicaState(), "first message must be Hello"),
    ],
)
def test_any_other_beginning_is_refused(first: Any, words: str) -> None:
    driver = Driver()
    (refused,) = driver.receive(first)
    assert isinstance(refused, Refused)
    assert words in refused.reason
    assert driver.output.close_reason == refused.reason


@pytest.mark.parametrize(
    "message",
    [Hello(API, VERSION), vr.GetReplicaState(), Submit(1, 1, PUT), Enter("ns", b"short", 0), Enter("ns", CLIENT, -1)],
)
def test_what_has_no_place_here_is_refused(message: Any) -> None:
    driver = Driver()
    *_, refused = driver.receive(Hello(API, VERSION), message)
    assert isinstance(refused, Refused)
    assert driver.sent() == []


def test_garbage_is_refused() -> None:
    driver = Driver()
    driver.connection.garbled("byte 7", driver.output)
    (refused,) = driver.replies()
    assert "byte 7" in refused.reason
    assert driver.output.close_reason is not None


def test_opening_a_session() -> None:
    driver = Driver()
    driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0))
    assert driver.sent() == [(R1, vr.OpenSession(CLIENT))]
    assert driver.answer(vr.SessionOpened(5, 0, 0)) == [Entered(5)]
    assert driver.receive(Submit(1, 1, PUT)) == []
    assert driver.sent() == [(R1, vr.Request(5, 1, 1, PUT))]


def test_going_on_with_a_session_takes_no_round_trip() -> None:
    driver = Driver()
    assert driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 9)) == [Welcome(NODE), Entered(9)]
    driver.receive(Submit(4, 2, PUT))
    assert driver.sent() == [(R1, vr.Request(9, 4, 2, PUT))]


def test_an_unknown_namespace() -> None:
    assert Driver().receive(Hello(API, VERSION), Enter("no", CLIENT, 0))[1:] == [UnknownNamespace("no")]


def test_one_connection_serves_one_namespace() -> None:
    driver = Driver().enter()
    others = tuple(Pid(name, NODE, "other") for name in ("r1", "r2", "r3"))
    driver.directory.learn([Group("other", bytes(16), 0, others)])
    (refused,) = driver.receive(Enter("other", CLIENT, 0))
    assert isinstance(refused, Refused)


def test_one_session_at_a_time() -> None:
    driver = Driver()
    *_, refused = driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0), Enter("ns", CLIENT, 0))
    assert isinstance(refused, Refused)
    (refused,) = Driver().enter().receive(Enter("ns", CLIENT, 0))
    assert isinstance(refused, Refused)


def test_names_of_namespaces_can_be_asked_for_without_entering() -> None:
    assert Driver().receive(Hello(API, VERSION), GetNamespaceNames())[1:] == [NamespaceNames(("ns",))]


def test_answers_carry_the_number_of_their_request() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT), Submit(2, 1, PUT))
    assert driver.answer(vr.Reply(5, 1, 11, 0, 3, b"one")) == [Result(1, 11, 0, 3, b"one")]
    assert driver.answer(vr.Reply(5, 2, 12, 0, 3, b"two")) == [Result(2, 12, 0, 3, b"two")]


@pytest.mark.parametrize(
    "answer",
    [vr.NotPrimary(0, 1, None), vr.Overloaded(), vr.GetReplicaState()],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_no_result_means_try_again(answer: Any) -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT))
    (retry,) = driver.answer(answer)
    assert (type(retry), retry.number) == (Retry, 1)


def test_a_request_that_fails_means_try_again() -> None:
    driver = Driver().enter()
    driver.connection.failed(7, "too late", driver.output)
    assert driver.replies() == [Retry(7, "too late")]


def test_operations_are_checked_before_they_are_sent() -> None:
    driver = Driver().enter()
    (refused,) = driver.receive(Submit(1, 1, encode(BlobGet("no slash"))))
    assert (refused.number, refused.op) == (1, 0)
    assert isinstance(decode(refused.result), InvalidPath)
    for data in (b"", b"\xc1", encode(Ready()), encode(vr.Overloaded())):
        (refused,) = driver.receive(Submit(2, 1, data))
        assert (refused.number, refused.op) == (2, 0)
    assert driver.sent() == []


def test_a_request_that_breaks_a_rule_is_answered_with_what_is_wrong() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT))
    (refused,) = driver.answer(vr.InvalidRequest("lowest is above number"))
    assert decode(refused.result).reason == "lowest is above number"


def test_an_expired_session_is_said_once_and_can_be_followed_by_another() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT), Submit(2, 1, PUT))
    assert driver.answer(vr.SessionExpired(5)) == [Expired(5)]
    assert not driver.output.pending
    driver.sent()
    driver.receive(Enter("ns", CLIENT, 0))
    assert driver.sent() == [(R1, vr.OpenSession(CLIENT))]


def test_when_the_primary_is_down_everything_is_told_to_try_again_and_when_a_new_one_is_there() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT), Submit(2, 1, PUT))
    assert [(type(one), one.number) for one in driver.change(None)] == [(Retry, 1), (Retry, 2)]
    (retry,) = driver.receive(Submit(3, 1, PUT))
    assert retry.number == 3
    driver.sent()
    assert driver.change(R2) == [Ready()]
    driver.receive(Submit(1, 1, PUT))
    assert driver.sent() == [(R2, vr.Request(5, 1, 1, PUT))]


def test_entering_without_a_primary_waits_for_one() -> None:
    driver = Driver()
    driver.change(None)
    *_, retry = driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0))
    assert (type(retry), retry.number) == (Retry, 0)
    assert driver.change(R2) == [Ready()]


def test_other_namespaces_are_no_news() -> None:
    driver = Driver().enter()
    assert driver.output.topic == PrimaryChanged("ns", None).topic != PrimaryChanged("other", None).topic
    driver.receive(Submit(1, 1, PUT))
    driver.connection.notified(PrimaryChanged("other", None), R1, driver.output)
    assert driver.replies() == []
    assert driver.output.pending


def test_leaving_closes_the_session() -> None:
    driver = Driver().enter()
    driver.receive(Leave())
    assert driver.sent() == [(R1, vr.CloseSession(5))]
    driver.receive(Leave())
    assert driver.sent() == []


# ------------------------------------------------------------------------------------- a primary on another node


def far_driver(address: str | None = "127.0.0.1:5012") -> Driver:
    driver = Driver()
    if address is not None:
        driver.directory.addresses[N2] = address
    driver.receive(Hello(API, VERSION))
    return driver


@pytest.mark.parametrize("session", [0, 5])
def test_who_enters_is_redirected_to_the_node_of_the_primary(session: int) -> None:
    driver = far_driver()
    driver.change(FAR)
    assert driver.receive(Enter("ns", CLIENT, session)) == [Redirect("127.0.0.1:5012")]
    # The group may rest, and its primary be gone: the replica here finds out.
    assert {type(message) for _, message in driver.sent()} <= {vr.Wake}
    assert driver.output.close_reason is None


def test_clients_are_redirected_when_the_primary_moves() -> None:
    driver = Driver().enter()
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    driver.receive(Submit(1, 1, PUT))
    assert driver.change(FAR) == [
        Retry(1, "the primary of ns changed"),
        Redirect("127.0.0.1:5012"),
    ]
    # What was on its way is answered, and the client is not told twice.
    (retry,) = driver.receive(Submit(2, 1, PUT))
    assert isinstance(retry, Retry)


def test_a_client_that_stays_is_served_when_the_primary_comes_back() -> None:
    driver = Driver().enter()
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    driver.change(FAR)
    assert driver.change(R2, 2) == [Ready()]
    assert driver.change(FAR, 3) == []  # it was told already, and is on its way


def test_without_the_address_of_that_node_clients_wait_until_it_is_known() -> None:
    driver = far_driver(None)
    assert driver.change(FAR) == []
    (retry,) = driver.receive(Enter("ns", CLIENT, 5))[:1]
    assert retry == Entered(5)
    (retry,) = driver.receive(Submit(1, 1, PUT))
    assert "not told yet" in retry.reason
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    assert driver.receive(Submit(1, 1, PUT))[0] == Redirect("127.0.0.1:5012")


def test_a_namespace_with_rivals_is_not_served() -> None:
    driver = Driver().enter()
    driver.directory.learn([Group("ns", bytes([1] * 16), 0, (R1, R2, R3))])
    driver.connection.notified(PrimaryChanged("ns", None), R1, driver.output)
    (retry,) = driver.receive(Submit(1, 1, PUT))
    assert "created 2 times" in retry.reason


def test_results_do_not_pile_up_for_a_client_that_reads_slowly() -> None:
    driver = Driver().enter()
    driver.receive(*(Submit(number, 1, PUT) for number in (1, 2, 3)))
    driver.output.backlog = MAX_BACKLOG
    assert type(driver.answer(vr.Reply(5, 1, 11, 0, 3, b"one"))[0]) is Result
    driver.output.backlog += 1
    assert driver.answer(vr.Reply(5, 2, 12, 0, 3, b"two")) == [Retry(2, "results wait to be read")]
    driver.output.backlog = 0
    assert type(driver.answer(vr.Reply(5, 3, 13, 0, 3, b"three"))[0]) is Result


# ----------------------------------------------------------------------------------------------------------- reads


def test_what_only_reads_is_not_logged() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET), Submit(2, 1, PUT))
    assert driver.sent() == [(R1, vr.Read(GET)), (R1, vr.Request(5, 2, 1, PUT))]
    assert driver.answer(vr.ReadReply(10, 0, 3, b"one")) == [Result(1, 10, 0, 3, b"one")]


def test_the_results_of_reads_do_not_pile_up_either() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET), StaleRead(-1, GET, 0))
    driver.output.backlog = MAX_BACKLOG + 1
    reply = vr.ReadReply(10, 0, 3, b"one")
    assert [driver.answer(reply), driver.answer(reply)] == [
        [Retry(1, "results wait to be read")],
        [Retry(-1, "results wait to be read")],
    ]


def visited(driver: Driver) -> Driver:
    driver.receive(Hello(API, VERSION), Visit("ns"))
    return driver


def test_a_stale_read_takes_no_session_and_no_primary() -> None:
    driver = Driver()
    driver.change(None)
    assert visited(driver).receive(StaleRead(-1, GET, 9)) == []
    assert driver.sent() == [(R1, vr.StaleRead(GET, 9))]
    assert driver.answer(vr.ReadReply(9, 0, 3, b"one")) == [Result(-1, 9, 0, 3, b"one")]


def test_a_stale_read_on_a_session_that_waits_for_a_primary() -> None:
    driver = Driver()
    driver.change(None)
    driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0), StaleRead(-1, GET, 0))
    assert (R1, vr.StaleRead(GET, 0)) in driver.sent()


def test_a_change_of_primary_is_no_business_of_stale_reads() -> None:
    driver = Driver().enter()
    driver.receive(StaleRead(-1, GET, 0), Submit(1, 1, GET))
    assert [type(one) for one in driver.change(None)] == [Retry]
    assert driver.answer(vr.ReadReply(9, 0, 3, b"one")) == [Result(-1, 9, 0, 3, b"one")]
    driver = visited(Driver())
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    assert driver.change(FAR) == []  # who only looks may stay where it is


def test_an_expired_session_leaves_stale_reads_alone() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, PUT), StaleRead(-1, GET, 0))
    assert driver.answer(vr.SessionExpired(5)) == [Expired(5)]
    assert driver.answer(vr.ReadReply(9, 0, 3, b"one")) == [Result(-1, 9, 0, 3, b"one")]


def test_a_replica_that_is_of_no_use_is_asked_again_after_all_others() -> None:
    driver = visited(Driver())
    asked = []
    for answer in (vr.Behind(4), vr.NotPrimary(0, 0, None), "down", vr.Behind(4), vr.Behind(4)):
        driver.receive(StaleRead(-1, GET, 9), StaleRead(-2, GET, 9))
        asked += [pid for pid, _ in driver.sent()]
        for number in (-1, -2):
            if isinstance(answer, str):
                context = driver.output.pending.pop(next(iter(driver.output.pending)))
                driver.connection.failed(context, answer, driver.output)
                (retry,) = driver.replies()
            else:
                (retry,) = driver.answer(answer)
            assert (type(retry), retry.number) == (Retry, number)
    assert asked == [R1, R1, R2, R2, R3, R3, FAR, FAR, R1, R1]
    driver.change(R2)  # something changed: near ones first again
    driver.receive(StaleRead(-1, GET, 9))
    assert driver.sent() == [(R1, vr.StaleRead(GET, 9))]


def test_replicas_of_this_node_are_asked_first() -> None:
    driver = Driver()
    driver.connection = ApiConnection(N2, driver.directory)
    visited(driver).receive(StaleRead(-1, GET, 0))
    assert driver.sent() == [(FAR, vr.StaleRead(GET, 0))]


def test_stale_reads_are_checked_like_others() -> None:
    driver = visited(Driver())
    replies = driver.receive(StaleRead(-1, PUT, 0), StaleRead(-2, b"\xc1", 0), StaleRead(-3, encode(BlobGet("a")), 0))
    assert [(one.number, one.op) for one in replies] == [(-1, 0), (-2, 0), (-3, 0)]
    assert [type(decode(one.result)) for one in replies] == [BadRequest, BadRequest, InvalidPath]
    assert driver.sent() == []
    driver.receive(StaleRead(-4, GET, 0))
    (refused,) = driver.answer(vr.InvalidRequest("too large"))
    assert decode(refused.result).reason == "too large"


def test_stale_reads_of_what_is_not_known_or_not_served_are_tried_again() -> None:
    driver = Driver()
    _, unknown, retry = driver.receive(Hello(API, VERSION), Visit("no"), StaleRead(-1, GET, 0))
    assert (unknown, type(retry)) == (UnknownNamespace("no"), Retry)
    driver = visited(Driver())
    driver.directory.learn([Group("ns", bytes([1] * 16), 0, (R1, R2, R3))])
    (retry,) = driver.receive(StaleRead(-1, GET, 0))
    assert "created 2 times" in retry.reason


@pytest.mark.parametrize("message", [StaleRead(1, GET, 0), StaleRead(0, GET, 0), Visit("other")])
def test_what_a_visitor_may_not_say(message: Any) -> None:
    driver = visited(Driver())
    (refused,) = driver.receive(message)
    assert isinstance(refused, Refused)


def test_a_ping_is_answered_at_once() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET))
    assert driver.receive(Ping()) == [Pong()]
