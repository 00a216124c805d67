"""`open_server`: a node, its namespace manager, and its two ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from haret.protocol import ADMIN, API, MAX_IN_FLIGHT, MAX_STALE_READS
from rabble_trio import ConnectionHandler, Node, NodeId, Pid, RequestLimits, Supervisor, WebsocketService, open_node

from .admin import AdminConnection
from .api import ApiConnection
from .config import ServerConfig
from .directory import Directory
from .gossip import manager_of, operator_of
from .groups import LocalGroups
from .namespaces import NamespaceManager
from .operator import Operator
from .store import Store


class Server:
    """A running server; `open_server` makes it.

    `config`: what it was told. `node`: its node. `api_address`, `admin_address`: "host:port" where clients and `haret
    admin` find it.
    """

    def __init__(self, config: ServerConfig, node: Node, api_address: str, admin_address: str) -> None:
        self.config = config
        self.node = node
        self.api_address = api_address
        self.admin_address = admin_address

    def __repr__(self) -> str:
        return f"<Server {self.node.id}, clients {self.api_address}, admin {self.admin_address}>"


ADMIN_PATIENCE: Final = 12.0
"""Seconds that an operator waits for an answer: to create a namespace, or to join a cluster, may take most of it."""


@asynccontextmanager
async def open_server(config: ServerConfig) -> AsyncIterator[Server]:
    """Run a server for the length of an `async with`; at its end, everything is stopped in order.

    The ports are open when it begins. The replicas that belong on this node are started behind that, several at a time.

    Raises `ConfigError` if a file that the configuration names can't be used, `rabble_trio.ListenFailed` if a port is taken,
    `rabble_trio.RecordError` for what is wrong with the data directory, and `rabble_trio.ChildFailed` if a part of the
    server keeps failing.
    """
    store = Store(config.data_dir)
    directory = Directory()
    kept = await store.load()
    directory.learn(kept.groups)
    async with open_node(
        config.node,
        cluster=config.cluster_name,
        secret=config.secret(),
        tls=config.tls_contexts(),
        insecure=config.insecure,
        data_dir=config.data_dir,
        supervisor=Supervisor(intensity=10, period=10),
        recorder=config.recorder(directory.names),
    ) as node:
        groups = LocalGroups(node, config.vr_settings(), kept.replicas)
        api = _Port(config.api_host, API, node.pid("api", "haret"), config.timeouts.request)
        admin = _Port(config.admin_host, ADMIN, node.pid("admin", "haret"), ADMIN_PATIENCE)
        # The manager tells other nodes where clients find this one, so the client port comes first.
        await api.open(node, lambda: ApiConnection(node.id, directory))
        directory.addresses[node.id] = _advertised(api.address, node.id)
        manager = manager_of(node.id)
        await node.spawn(
            manager.name,
            lambda: NamespaceManager(node, directory, groups, store, (api.pid,), config.durability),
            group=manager.group,
            restart="permanent",
        )
        operator = operator_of(node.id)
        await node.spawn(operator.name, lambda: Operator(node), group=operator.group, restart="permanent")
        await admin.open(node, lambda: AdminConnection(node.id, directory, config.settings()))
        yield Server(config, node, api.address, admin.address)


def _advertised(address: str, node: NodeId) -> str:
    """Where clients elsewhere find a port: one that listens on all addresses is at that of the node."""
    listening = NodeId("port", address)
    if listening.host not in {"0.0.0.0", "::"}:
        return address
    return f"{node.addr.rpartition(':')[0]}:{listening.port}"


class _Port:
    """One of the two ports over all incarnations of its service: a restarted one listens where the first one did."""

    def __init__(self, address: str, protocol: str, pid: Pid, request_timeout: float) -> None:
        self.address = address
        self.pid = pid
        self._protocol = protocol
        self._limits = RequestLimits(request_timeout=request_timeout, max_requests=MAX_IN_FLIGHT + MAX_STALE_READS)
        self._server: WebsocketService

    async def open(self, node: Node, make_handler: Callable[[], ConnectionHandler]) -> None:
        def make() -> WebsocketService:
            place = NodeId("port", self.address)
            self._server = WebsocketService(
                lambda _: make_handler(), place.host, place.port, subprotocol=self._protocol, limits=self._limits
            )
            return self._server

        await node.spawn(self.pid.name, make, group=self.pid.group, restart="permanent")
        self.address = self._server.address
