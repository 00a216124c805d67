"""One connection of the admin port, as a pure state machine. The protocol is described in `haret.protocol.admin`."""

from __future__ import annotations

from typing import Any

from haret.protocol import (
    ADMIN,
    DURABLE,
    NAMESPACES_PAGE,
    AdminReply,
    Answer,
    Ask,
    Config,
    Crash,
    CreateNamespace,
    GetClusterStatus,
    GetConfig,
    GetExecutorStatus,
    GetMetricsOf,
    GetPrimary,
    GetReplica,
    JoinCluster,
    LeaveCluster,
    ListNamespaces,
    Namespaces,
    Primary,
    Reconfigure,
    Replica,
    Unanswered,
    UnknownActor,
    UnknownNamespace,
)
from haret.vr import messages as vr
from rabble_trio import ConnectionOutput, GetMetrics, NodeId, Pid
from rabble_trio import GetClusterStatus as AskClusterStatus
from rabble_trio import GetExecutorStatus as AskExecutorStatus

from .directory import Directory
from .gossip import manager_of, operator_of
from .greeting import GreetedConnection


class AdminConnection(GreetedConnection):
    """Answers from the directory what it can, and asks actors for the rest."""

    protocol = ADMIN

    def __init__(self, node: NodeId, directory: Directory, settings: tuple[tuple[str, str], ...]) -> None:
        super().__init__(node)
        self._directory = directory
        self._settings = settings

    def handle(self, message: Any, output: ConnectionOutput) -> None:
        """The client sent a message."""
        if type(message) is not Ask:
            self.refuse(f"{type(message).__name__} is not a message for this port: wrap it in Ask", output)
            return
        reply = self._answer_or_ask(message.id, message.request, output)
        if reply is not None:
            output.reply(Answer(message.id, reply))

    def _answer_or_ask(self, number: int, request: Any, output: ConnectionOutput) -> AdminReply | None:
        match request:
            case GetConfig():
                return Config(self.node, self._settings)
            case ListNamespaces(after=after):
                later = [entry for entry in self._directory if entry.name > after]
                page = tuple(entry.describe() for entry in later[:NAMESPACES_PAGE])
                return Namespaces(page, len(later) > len(page))
            case GetPrimary(namespace=name):
                entry = self._directory.get(name)
                return UnknownNamespace(name) if entry is None else Primary(name, entry.primary)
            case GetReplica(pid=pid):
                if self._directory.entry_of(pid) is None:
                    return UnknownActor(pid)
                output.request(pid, vr.GetReplicaState(), number)
            case CreateNamespace() | Reconfigure():
                output.request(manager_of(self.node), request, number)
            case Crash(pid=pid):
                if self._directory.entry_of(pid) is None:
                    return UnknownActor(pid)
                output.request(manager_of(pid.node), request, number)
            case JoinCluster() | LeaveCluster():
                output.request(operator_of(self.node), request, number)
            case GetClusterStatus():
                output.request(Pid("cluster_server", self.node, "rabble"), AskClusterStatus(), number)
            case GetExecutorStatus():
                output.request(Pid("executor", self.node, "rabble"), AskExecutorStatus(), number)
            case GetMetricsOf(pid=pid):
                output.request(pid, GetMetrics(), number)
        return None

    def answered(self, context: Any, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """An actor answered."""
        if type(message) is vr.ReplicaState:
            entry = self._directory.entry_of(message.pid)
            message = _described(message, DURABLE if entry is None else entry.durability)
        output.reply(Answer(context, message))

    def failed(self, context: Any, reason: str, output: ConnectionOutput) -> None:
        """No actor will answer."""
        output.reply(Answer(context, Unanswered(reason)))


def _described(state: vr.ReplicaState, durability: str) -> Replica:
    return Replica(
        state.pid,
        state.status,
        state.epoch,
        state.view,
        state.primary,
        state.op,
        state.commit,
        state.log_start,
        state.last_normal_view,
        state.replicas,
        state.sessions,
        state.digest,
        durability,
    )
