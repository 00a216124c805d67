"""The cluster server: who belongs to the cluster, and the port where other nodes link to this one."""

from __future__ import annotations

from typing import Any

import trio

from ._executor import Executor
from ._ids import CorrelationId, Pid
from ._messages import ClusterStatus, GetClusterStatus, GetMetrics, Metrics


class ClusterServer:
    """Listens on the cluster port, and answers at "rabble::cluster_server::NODE"."""

    def __init__(self) -> None:
        self._executor: Executor
        self._refused = 0

    async def listen(self, host: str, port: int, *, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        """Bind the cluster port, tell its address, and serve it until cancelled. Raises `ListenFailed`."""
        listeners = await trio.open_tcp_listeners(port, host=host)
        address = listeners[0].socket.getsockname()
        task_status.started((address[0], address[1]))
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._refused += 1
        await stream.aclose()

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
