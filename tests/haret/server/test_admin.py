"""One connection of the admin port, without sockets and without actors."""

from __future__ import annotations

from typing import Any

import pytest

from haret import protocol
from haret.protocol import ADMIN, VERSION, Answer, Ask, Hello, Refused
from haret.server.admin import AdminConnection
from haret.server.directory import Directory
from haret.server.registry import MAX_RIVALS, Group
from haret.vr import messages as vr
from rabble_trio import (
    ConnectionOutput,
    GetClusterStatus,
    GetExecutorStatus,
    GetMetrics,
    Metrics,
    NodeId,
    Pid,
    encode_batch,
)

NODE = NodeId.parse("n1@127.0.0.1:5000")
N2 = NodeId.parse("n2@127.0.0.1:5000")
R1, R2 = (Pid(name, NODE, "ns") for name in ("r1", "r2"))
R3 = Pid("r3", N2, "ns")
STRANGER = Pid("stranger", NODE, "ns")
MANAGER = Pid("namespaces", NODE, "haret")
OPERATOR = Pid("operator", NODE, "haret")


@pytest.fixture
def output() -> ConnectionOutput:
    return ConnectionOutput()


@pytest.fixture
def connection(output: ConnectionOutput) -> AdminConnection:
    directory = Directory()
    directory.learn([Group("ns", bytes(16), 0, (R1, R2, R3))])
    directory.view_changed(R1, 0, 4, R1)
    connection = AdminConnection(NODE, directory, (("node_name", "n1"),))
    connection.received(Hello(ADMIN, VERSION), output)
    output.replies.clear()
    return connection


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (protocol.GetConfig(), protocol.Config(NODE, (("node_name", "n1"),))),
        (protocol.ListNamespaces(), protocol.Namespaces((protocol.Namespace("ns", (R1, R2, R3), R1, 0, 4),), False)),
        (protocol.ListNamespaces("ns"), protocol.Namespaces((), False)),
        (protocol.GetPrimary("ns"), protocol.Primary("ns", R1)),
        (protocol.GetPrimary("no"), protocol.UnknownNamespace("no")),
        (protocol.GetReplica(STRANGER), protocol.UnknownActor(STRANGER)),
        (protocol.Crash(STRANGER), protocol.UnknownActor(STRANGER)),
        (protocol.Crash(MANAGER), protocol.UnknownActor(MANAGER)),
    ],
)
def test_what_the_directory_knows(
    connection: AdminConnection, output: ConnectionOutput, question: Any, answer: Any
) -> None:
    connection.received(Ask(3, question), output)
    assert output.replies == [Answer(3, answer)]
    assert output.envelopes == []


@pytest.mark.parametrize(
    ("question", "to", "message"),
    [
        (protocol.GetReplica(R1), R1, vr.GetReplicaState()),
        (protocol.CreateNamespace("x", ()), MANAGER, protocol.CreateNamespace("x", ())),
        (protocol.GetReplica(R3), R3, vr.GetReplicaState()),
        (protocol.Crash(R1), MANAGER, protocol.Crash(R1)),
        (protocol.Crash(R3), Pid("namespaces", N2, "haret"), protocol.Crash(R3)),
        (protocol.JoinCluster(N2), OPERATOR, protocol.JoinCluster(N2)),
        (protocol.LeaveCluster(NODE), OPERATOR, protocol.LeaveCluster(NODE)),
        (protocol.GetClusterStatus(), Pid("cluster_server", NODE, "rabble"), GetClusterStatus()),
        (protocol.GetExecutorStatus(), Pid("executor", NODE, "rabble"), GetExecutorStatus()),
        (protocol.GetMetricsOf(STRANGER), STRANGER, GetMetrics()),
    ],
)
def test_what_actors_know(
    connection: AdminConnection, output: ConnectionOutput, question: Any, to: Pid, message: Any
) -> None:
    connection.received(Ask(3, question), output)
    assert output.replies == []
    assert [envelope[:2] for envelope in output.envelopes] == [(to, message)]
    assert list(output.pending.values()) == [3]


def test_answers_of_actors(connection: AdminConnection, output: ConnectionOutput) -> None:
    connection.answered(3, Metrics({"a": 1}, {}), R1, output)
    state = vr.ReplicaState(R1, "normal", 0, 4, R1, 9, 8, 0, 4, (R1, R2, R3), 1, b"digest")
    connection.answered(4, state, R1, output)
    connection.failed(5, "it is down", output)
    metrics, replica, failed = output.replies
    assert metrics == Answer(3, Metrics({"a": 1}, {}))
    assert replica == Answer(4, protocol.Replica(R1, "normal", 0, 4, R1, 9, 8, 0, 4, (R1, R2, R3), 1, b"digest"))
    assert failed == Answer(5, protocol.Unanswered("it is down"))


def test_many_namespaces_take_several_pages_that_fit_into_frames(output: ConnectionOutput) -> None:
    directory = Directory()
    node = NodeId("n" * 128, "h" * 253 + ":65535")
    for number in range(protocol.NAMESPACES_PAGE + 1):
        name = f"{number:0128}"
        replicas = tuple(Pid(f"{n:0128}", node, name) for n in range(protocol.MAX_REPLICAS))
        directory.learn(Group(name, bytes([rival] * 16), 0, replicas) for rival in range(MAX_RIVALS))
    connection = AdminConnection(NODE, directory, ())
    connection.received(Hello(ADMIN, VERSION), output)
    connection.received(Ask(1, protocol.ListNamespaces()), output)
    first = output.replies[-1]
    assert len(encode_batch([first])) <= protocol.MAX_FRAME
    assert first.reply.more
    connection.received(Ask(1, protocol.ListNamespaces(first.reply.namespaces[-1].name)), output)
    assert [one.name for one in output.replies[-1].reply.namespaces] == [f"{protocol.NAMESPACES_PAGE:0128}"]


def test_what_is_no_question_is_refused(connection: AdminConnection, output: ConnectionOutput) -> None:
    connection.received(protocol.GetConfig(), output)
    (refused,) = output.replies
    assert isinstance(refused, Refused)
    assert "Ask" in refused.reason
    assert output.close_reason is not None
