"""`open_server`: a node, its namespace manager, and its two ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from haret.protocol import ADMIN, API, MAX_IN_FLIGHT
from rabble_trio import ConnectionHandler, Node, NodeId, Pid, RequestLimits, Supervisor, WebsocketService, open_node

from .admin import AdminConnection
from .api import ApiConnection
from .config import ServerConfig
from .directory import Directory
from .namespaces import NamespaceManager


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


@asynccontextmanager
async def open_server(config: ServerConfig) -> AsyncIterator[Server]:
    """Run a server for the length of an `async with`; at its end, everything is stopped in order.

    Raises `rabble_trio.ListenFailed` if a port is taken, and `rabble_trio.ChildFailed` if a part of the server keeps
    failing.
    """
    async with open_node(config.node, insecure=config.insecure, supervisor=Supervisor(intensity=10, period=10)) as node:
        directory = Directory()
        manager = node.pid("namespaces", "haret")
        api = _Port(config.api_host, API, node.pid("api", "haret"), config.timeouts.request)
        admin = _Port(config.admin_host, ADMIN, node.pid("admin", "haret"), config.timeouts.request)
        settings = config.vr_settings()
        await node.spawn(
            "namespaces",
            lambda: NamespaceManager(node, directory, settings, (api.pid,)),
            group="haret",
            restart="permanent",
        )
        await api.open(node, lambda: ApiConnection(node.id, directory))
        await admin.open(node, lambda: AdminConnection(node.id, directory, manager, config.settings()))
        yield Server(config, node, api.address, admin.address)


class _Port:
    """One of the two ports over all incarnations of its service: a restarted one listens where the first one did."""

    def __init__(self, address: str, protocol: str, pid: Pid, request_timeout: float) -> None:
        self.address = address
        self.pid = pid
        self._protocol = protocol
        self._limits = RequestLimits(request_timeout=request_timeout, max_requests=MAX_IN_FLIGHT)
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
