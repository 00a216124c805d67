"""One connection of the client port, without sockets and without replicas."""

from __future__ import annotations

from typing import Any

import pytest

from haret.protocol import (
    ADMIN,
    API,
    VERSION,
    Enter,
    Entered,
    Expired,
    GetNamespaceNames,
    Hello,
    Leave,
    NamespaceNames,
    Ready,
    Redirect,
    Refused,
    Result,
    Retry,
    Submit,
    UnknownNamespace,
    Welcome,
)
from haret.server.api import MAX_BACKLOG, ApiConnection
from haret.server.directory import Directory, PrimaryChanged
from haret.server.registry import Group
from haret.vertree import BlobGet, InvalidPath
from haret.vr import messages as vr
from rabble_trio import ConnectionOutput, NodeId, Pid, decode, encode

NODE = NodeId.parse("n1@127.0.0.1:5000")
R1, R2, R3 = (Pid(name, NODE, "ns") for name in ("r1", "r2", "r3"))
N2 = NodeId.parse("n2@127.0.0.1:5000")
FAR = Pid("r4", N2, "ns")
GROUP = Group("ns", bytes(16), 0, (R1, R2, R3, FAR))
CLIENT = b"0123456789abcdef"
GET = encode(BlobGet("/a"))


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
        (Hello(API, VERSION + 1), "version 1"),
        (Submit(1, 1, GET), "first message must be Hello"),
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
    [Hello(API, VERSION), vr.GetReplicaState(), Submit(1, 1, GET), Enter("ns", b"short", 0), Enter("ns", CLIENT, -1)],
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
    assert driver.receive(Submit(1, 1, GET)) == []
    assert driver.sent() == [(R1, vr.Request(5, 1, 1, GET))]


def test_going_on_with_a_session_takes_no_round_trip() -> None:
    driver = Driver()
    assert driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 9)) == [Welcome(NODE), Entered(9)]
    driver.receive(Submit(4, 2, GET))
    assert driver.sent() == [(R1, vr.Request(9, 4, 2, GET))]


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
    driver.receive(Submit(1, 1, GET), Submit(2, 1, GET))
    assert driver.answer(vr.Reply(5, 1, 11, 0, 3, b"one")) == [Result(1, 11, 0, 3, b"one")]
    assert driver.answer(vr.Reply(5, 2, 12, 0, 3, b"two")) == [Result(2, 12, 0, 3, b"two")]


@pytest.mark.parametrize(
    "answer",
    [vr.NotPrimary(0, 1, None), vr.Overloaded(), vr.GetReplicaState()],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_no_result_means_try_again(answer: Any) -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET))
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
    driver.receive(Submit(1, 1, GET))
    (refused,) = driver.answer(vr.InvalidRequest("lowest is above number"))
    assert decode(refused.result).reason == "lowest is above number"


def test_an_expired_session_is_said_once_and_can_be_followed_by_another() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET), Submit(2, 1, GET))
    assert driver.answer(vr.SessionExpired(5)) == [Expired(5)]
    assert not driver.output.pending
    driver.sent()
    driver.receive(Enter("ns", CLIENT, 0))
    assert driver.sent() == [(R1, vr.OpenSession(CLIENT))]


def test_when_the_primary_is_down_everything_is_told_to_try_again_and_when_a_new_one_is_there() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET), Submit(2, 1, GET))
    assert [(type(one), one.number) for one in driver.change(None)] == [(Retry, 1), (Retry, 2)]
    (retry,) = driver.receive(Submit(3, 1, GET))
    assert retry.number == 3
    driver.sent()
    assert driver.change(R2) == [Ready()]
    driver.receive(Submit(1, 1, GET))
    assert driver.sent() == [(R2, vr.Request(5, 1, 1, GET))]


def test_entering_without_a_primary_waits_for_one() -> None:
    driver = Driver()
    driver.change(None)
    *_, retry = driver.receive(Hello(API, VERSION), Enter("ns", CLIENT, 0))
    assert (type(retry), retry.number) == (Retry, 0)
    assert driver.change(R2) == [Ready()]


def test_other_namespaces_are_no_news() -> None:
    driver = Driver().enter()
    driver.receive(Submit(1, 1, GET))
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
    assert driver.sent() == []
    assert driver.output.close_reason is None


def test_clients_are_redirected_when_the_primary_moves() -> None:
    driver = Driver().enter()
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    driver.receive(Submit(1, 1, GET))
    assert driver.change(FAR) == [
        Retry(1, "the primary of ns changed"),
        Redirect("127.0.0.1:5012"),
    ]
    # What was on its way is answered, and the client is not told twice.
    (retry,) = driver.receive(Submit(2, 1, GET))
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
    (retry,) = driver.receive(Submit(1, 1, GET))
    assert "not told yet" in retry.reason
    driver.directory.addresses[N2] = "127.0.0.1:5012"
    assert driver.receive(Submit(1, 1, GET))[0] == Redirect("127.0.0.1:5012")


def test_a_namespace_with_rivals_is_not_served() -> None:
    driver = Driver().enter()
    driver.directory.learn([Group("ns", bytes([1] * 16), 0, (R1, R2, R3))])
    driver.connection.notified(PrimaryChanged("ns", None), R1, driver.output)
    (retry,) = driver.receive(Submit(1, 1, GET))
    assert "created 2 times" in retry.reason


def test_results_do_not_pile_up_for_a_client_that_reads_slowly() -> None:
    driver = Driver().enter()
    driver.receive(*(Submit(number, 1, GET) for number in (1, 2, 3)))
    driver.output.backlog = MAX_BACKLOG
    assert type(driver.answer(vr.Reply(5, 1, 11, 0, 3, b"one"))[0]) is Result
    driver.output.backlog += 1
    assert driver.answer(vr.Reply(5, 2, 12, 0, 3, b"two")) == [Retry(2, "results wait to be read")]
    driver.output.backlog = 0
    assert type(driver.answer(vr.Reply(5, 3, 13, 0, 3, b"three"))[0]) is Result
