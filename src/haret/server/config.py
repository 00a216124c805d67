"""What a server is told: a TOML file, or `ServerConfig` itself. Every mistake is a `ConfigError` that names the key.

node_name = "node1"
cluster_host = "127.0.0.1:5000"     # other nodes; with the name it is the node's id, node1@127.0.0.1:5000
admin_host = "127.0.0.1:5001"       # haret admin
api_host = "127.0.0.1:5002"         # clients

# optional
data_dir = "/var/lib/haret"
insecure = false                    # true: listen beyond this machine, though nothing is encrypted

[timeouts]                          # in seconds
request = 5.0
heartbeat = 0.05
primary_min = 0.25
primary_max = 0.4
"""

from __future__ import annotations

import ipaddress
import math
import tomllib
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

from haret.errors import ConfigError
from haret.protocol import SILENCE
from haret.vr import Settings
from rabble_trio import InvalidId, NodeId

MAX_OPERATION: Final = 832 * 1024
"""Bytes of an encoded operation: the most that `haret.vertree` admits, and its tags and lengths, below a frame."""


MAX_REQUEST_TIMEOUT: Final = 0.75 * SILENCE
"""Seconds. The clock of the websocket service may be a quarter late."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Times in seconds."""

    request: float = 5.0
    """How long a client's request may stay without an answer from its group before the client is told to try again."""
    heartbeat: float = Settings().heartbeat
    """How often an idle primary speaks."""
    primary_min: float = Settings().primary_timeout_min
    """A silent primary is replaced after at least this."""
    primary_max: float = Settings().primary_timeout_max
    """And at most about this."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The configuration of one node. Raises `ConfigError`."""

    node_name: str
    """The node's name, unique in its cluster."""
    cluster_host: str
    """"host:port" for other nodes. Port 0, here and below, takes a free one."""
    admin_host: str
    """"host:port" for `haret admin`."""
    api_host: str
    """"host:port" for clients."""
    data_dir: str | None = None
    """A directory for what outlives the process. Nothing is written there yet: all state is in memory."""
    insecure: bool = False
    """Listen beyond this machine although nothing is encrypted or authenticated."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    """See `Timeouts`."""

    def __post_init__(self) -> None:
        for key in ("cluster_host", "admin_host", "api_host"):
            host = _check_address(key, self.node_name, getattr(self, key)).host
            if not self.insecure and not _is_loopback(host):
                raise ConfigError(
                    key,
                    f"{getattr(self, key)} can be reached from beyond this machine, and nothing is encrypted or "
                    "authenticated: use 127.0.0.1, or set insecure = true if the network is yours alone",
                )
        addresses = [self.cluster_host, self.admin_host, self.api_host]
        for key, address in (("admin_host", self.admin_host), ("api_host", self.api_host)):
            if not address.endswith(":0") and addresses.count(address) > 1:
                raise ConfigError(key, f"{address} is used for two ports: give each its own")
        for one in fields(self.timeouts):
            seconds = getattr(self.timeouts, one.name)
            if not 0 < seconds < math.inf:
                raise ConfigError(f"timeouts.{one.name}", f"{seconds!r} is not a number of seconds above 0")
        if self.timeouts.request > MAX_REQUEST_TIMEOUT:
            raise ConfigError(
                "timeouts.request",
                f"must be at most {MAX_REQUEST_TIMEOUT:g}: a client that hears nothing for {SILENCE:g} s connects anew",
            )
        self.vr_settings()

    @property
    def node(self) -> NodeId:
        """The node's identity."""
        return NodeId(self.node_name, self.cluster_host)

    def vr_settings(self) -> Settings:
        """The settings of its replicas. Raises `ConfigError` for timeouts that don't fit together."""
        timeouts = self.timeouts
        try:
            return Settings(
                heartbeat=timeouts.heartbeat,
                primary_timeout_min=timeouts.primary_min,
                primary_timeout_max=timeouts.primary_max,
                max_operation=MAX_OPERATION,
            )
        except ValueError as error:
            raise ConfigError("timeouts", str(error)) from None

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Names and values as text, defaults included."""
        plain = [(one.name, getattr(self, one.name)) for one in fields(self) if one.name != "timeouts"]
        times = [(f"timeouts.{one.name}", getattr(self.timeouts, one.name)) for one in fields(self.timeouts)]
        return tuple((name, _shown(value)) for name, value in (*plain, *times))


def load_config(path: str | PathLike[str]) -> ServerConfig:
    """Read a configuration file. Raises `ConfigError`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError("", f"can't read {path}: {error.strerror}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError("", f"{path} is not UTF-8 text") from None
    return parse_config(text)


def parse_config(text: str) -> ServerConfig:
    """Read the text of a configuration file. Raises `ConfigError`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"not valid TOML: {error}") from None
    timeouts = table.pop("timeouts", {})
    if not isinstance(timeouts, dict):
        raise ConfigError("timeouts", "is a table: write [timeouts] on a line of its own, and the times below it")
    times = _check_table(Timeouts, timeouts, "timeouts.")
    return ServerConfig(**_check_table(ServerConfig, table, ""), timeouts=Timeouts(**times))


_KINDS: Final[dict[str, tuple[type[Any], ...]]] = {
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "float": (float, int),
}


def _check_table(cls: Any, table: dict[str, Any], prefix: str) -> dict[str, Any]:
    known = {one.name: str(one.type) for one in fields(cls) if one.name != "timeouts"}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                prefix + key, f"is not a setting; there are: {', '.join(prefix + name for name in known)}"
            )
        kinds = _KINDS[known[key]]
        if type(value) not in kinds:
            raise ConfigError(prefix + key, f"must be {_kind_name(kinds[0])}, not {value!r}")
    required = ("node_name", "cluster_host", "admin_host", "api_host") if cls is ServerConfig else ()
    for key in required:
        if key not in table:
            raise ConfigError(key, "is missing")
    return table


def _kind_name(kind: type[Any]) -> str:
    return {str: "a string", bool: "true or false", float: "a number"}[kind]


def _check_address(key: str, name: str, address: str) -> NodeId:
    try:
        return NodeId(name, address)
    except InvalidId as error:
        raise ConfigError(key if "address" in str(error) else "node_name", str(error)) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
