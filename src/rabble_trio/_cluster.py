"""The cluster server: who belongs to the cluster, and the port where other nodes would link to this one.

A node is a cluster of itself: links between nodes are not there yet. The port is open, with the limits and timeouts of
every port, and tells who connects that it takes no links.
"""

from __future__ import annotations

from typing import Any, Final

import trio

from ._executor import Executor
from ._ids import CorrelationId, NodeId, Pid
from ._messages import ClusterStatus, GetClusterStatus, GetMetrics, Metrics
from ._sockets import address_of, open_listeners
from ._websocket import Connection, ServerLimits, serve_websockets

SUBPROTOCOL: Final = "rabble.link.1"
"""What a websocket on the cluster port speaks, with the version of the protocol."""

LIMITS: Final = ServerLimits(max_connections=256, idle_timeout=30.0)
"""A cluster has tens of nodes, and one link between each two."""

_NO_LINKS: Final = 1008  # policy violation, RFC 6455 section 7.4.1


class ClusterServer:
    """Listens on the cluster port, and answers at "rabble::cluster_server::NODE"."""

    def __init__(self) -> None:
        self._executor: Executor
        self._refused = 0

    async def listen(self, node: NodeId, *, task_status: trio.TaskStatus[NodeId]) -> None:
        """Bind the cluster port, tell the node's id with the port that it got, and serve until cancelled.

        Raises `ListenFailed`.
        """
        listeners = await open_listeners(node.host, node.port)
        bound_port = int(address_of(listeners).rpartition(":")[2])
        task_status.started(NodeId(node.name, f"{node.addr.rpartition(':')[0]}:{bound_port}"))
        await serve_websockets(
            self._refuse, node.host, bound_port, subprotocol=SUBPROTOCOL, limits=LIMITS, listeners=listeners
        )

    async def _refuse(self, connection: Connection) -> None:
        self._refused += 1
        await connection.aclose(_NO_LINKS, f"{self._executor.node} takes no links from other nodes")

    def attach(self, executor: Executor) -> None:
        """Become reachable on this node."""
        self._executor = executor
        self.pid = Pid("cluster_server", executor.node, "rabble")
        executor.builtin[self.pid] = self._on_message

    def status(self) -> ClusterStatus:
        """Who belongs to the cluster."""
        node = self._executor.node
        return ClusterStatus(node=node, members=(node,), established=())

    def _on_message(self, message: Any, sender: Pid, correlation_id: CorrelationId | None) -> bool:
        if isinstance(message, GetClusterStatus):
            reply: Any = self.status()
        elif isinstance(message, GetMetrics):
            reply = Metrics({"connections_refused": self._refused}, {"members": 1.0})
        else:
            return False
        self._executor.route(sender, self.pid, reply, correlation_id)
        return True
