"""Every message of the two ports crosses the wire, under a tag that never changes."""

from __future__ import annotations

from typing import Any

import pytest

from haret import protocol
from rabble_trio import ClusterStatus, DecodeError, ExecutorStatus, Metrics, NodeId, Pid, decode, encode

NODE = NodeId.parse("n1@127.0.0.1:5000")
PID = Pid("r1", NODE, "ns")
NAMESPACE = protocol.Namespace("ns", (PID,), None, 1, 2)

MESSAGES = {
    "haret.hello": protocol.Hello(protocol.API, 1),
    "haret.welcome": protocol.Welcome(NODE),
    "haret.refused": protocol.Refused("because"),
    "haret.unknown_namespace": protocol.UnknownNamespace("ns"),
    "haret.namespace_exists": protocol.NamespaceExists("ns"),
    "haret.not_enough_replicas": protocol.NotEnoughReplicas(1, 3),
    "haret.unknown_actor": protocol.UnknownActor(PID),
    "haret.bad_request": protocol.BadRequest("because"),
    "haret.unanswered": protocol.Unanswered("because"),
    "haret.api.enter": protocol.Enter("ns", bytes(16), 0),
    "haret.api.entered": protocol.Entered(7),
    "haret.api.leave": protocol.Leave(),
    "haret.api.submit": protocol.Submit(2, 1, b"operation"),
    "haret.api.visit": protocol.Visit("ns"),
    "haret.api.stale_read": protocol.StaleRead(-1, b"operation", 9),
    "haret.api.ping": protocol.Ping(),
    "haret.api.pong": protocol.Pong(),
    "haret.api.result": protocol.Result(2, 9, 0, 1, b"result"),
    "haret.api.retry": protocol.Retry(2, "because"),
    "haret.api.ready": protocol.Ready(),
    "haret.api.expired": protocol.Expired(7),
    "haret.api.redirect": protocol.Redirect("127.0.0.1:5002"),
    "haret.api.get_namespace_names": protocol.GetNamespaceNames(),
    "haret.api.namespace_names": protocol.NamespaceNames(("a", "b")),
}

QUESTIONS = [
    protocol.GetConfig(),
    protocol.CreateNamespace("ns", (PID,), protocol.FENCED),
    protocol.Reconfigure("ns", 0, (PID,)),
    protocol.ListNamespaces(),
    protocol.GetReplica(PID),
    protocol.GetPrimary("ns"),
    protocol.Crash(PID),
    protocol.GetClusterStatus(),
    protocol.GetExecutorStatus(),
    protocol.GetMetricsOf(PID),
    protocol.JoinCluster(NODE),
    protocol.LeaveCluster(NODE),
]

ANSWERS = [
    protocol.Config(NODE, (("a", "b"),)),
    NAMESPACE,
    protocol.Namespaces((NAMESPACE,), True),
    protocol.Replica(PID, "normal", 0, 1, PID, 9, 8, 0, 1, (PID,), 2, b"digest"),
    protocol.Primary("ns", PID),
    protocol.Done(),
    ClusterStatus(NODE, (NODE,), ()),
    ExecutorStatus(NODE, (PID,), (), {}, 0, {}),
    Metrics({"a": 1}, {"b": 2.0}),
    protocol.BadRequest("because"),
    protocol.NamespaceExists("ns"),
    protocol.NotEnoughReplicas(1, 3),
    protocol.Unanswered("because"),
    protocol.UnknownActor(PID),
    protocol.UnknownNamespace("ns"),
]


@pytest.mark.parametrize(("tag", "message"), MESSAGES.items(), ids=MESSAGES)
def test_round_trip_and_tag(tag: str, message: Any) -> None:
    data = encode(message)
    assert decode(data) == message
    assert tag.encode() in data


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda one: type(one).__name__)
def test_questions(question: Any) -> None:
    assert decode(encode(protocol.Ask(1, question))) == protocol.Ask(1, question)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda one: type(one).__name__)
def test_answers(answer: Any) -> None:
    assert decode(encode(protocol.Answer(1, answer))) == protocol.Answer(1, answer)


def test_every_class_is_covered() -> None:
    covered = {type(one) for one in (*MESSAGES.values(), *QUESTIONS, *ANSWERS)} | {protocol.Ask, protocol.Answer}
    public = {one for one in vars(protocol).values() if isinstance(one, type)}
    assert public <= covered


def test_what_is_no_question_can_not_be_asked() -> None:
    forged = encode(protocol.Ask(1, protocol.GetConfig())).replace(b"haret.admin.get_config", b"haret.admin.done")
    with pytest.raises(DecodeError):
        decode(forged)
