"""What a server is told: a TOML file, or `ServerConfig` itself. Every mistake is a `ConfigError` that names the key.

node_name = "node1"
cluster_host = "127.0.0.1:5000"     # other nodes; with the name it is the node's id, node1@127.0.0.1:5000
admin_host = "127.0.0.1:5001"       # haret admin
api_host = "127.0.0.1:5002"         # clients

# optional; paths are relative to the directory of the file
data_dir = "/var/lib/haret"         # members, namespaces and the replicas' logs: kept over restarts
durability = "durable"              # of namespaces that are created here and don't say; or "fenced"
recorder_dir = "/var/lib/haret/flights"   # what replicas received before they failed is written here, to be replayed
cluster_name = "haret"              # nodes join only those of the same cluster name
secret_file = "cluster.secret"      # at least 16 random bytes, the same on all nodes, readable by their owner alone
insecure = false                    # true: listen beyond this machine, though not all is encrypted and authenticated

[tls]                               # for links between nodes; PEM files
certificate = "node1.pem"           # with the node's name among its DNS names
key = "node1.key"
authority = "authority.pem"         # who signed the certificates of all nodes

[timeouts]                          # in seconds
request = 5.0
heartbeat = 0.05
primary_min = 0.25
primary_max = 0.4
"""

from __future__ import annotations

import ipaddress
import math
import os
import ssl
import stat
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from haret.errors import ConfigError
from haret.protocol import DURABILITIES, DURABLE
from haret.vr import Settings
from rabble_trio import FlightRecorder, InvalidId, NodeId, cluster_tls

MAX_OPERATION: Final = 832 * 1024
"""Bytes of an encoded operation: the most that `haret.vertree` admits, and its tags and lengths, below a frame."""


REST_AFTER: Final = 2.0
"""Seconds without work after which a group falls silent: a thousand idle namespaces cost nothing then. The namespace
managers wake its replicas when the node of their primary is lost, and the client port when somebody looks for it."""


MAX_REQUEST_TIMEOUT: Final = 6.0
"""Seconds. A client that is patient for ten must have time to ask again, and the clock may be a quarter late."""


SECRET_BYTES: Final = (16, 1024)
"""Of a cluster secret, at least and at most: fewer can be guessed, and more is another file."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM format, for the links between nodes; see `rabble_trio.cluster_tls`."""

    certificate: str
    """This node's certificate, with the node's name among its DNS names."""
    key: str
    """Its private key."""
    authority: str
    """The certificate of whoever signs the certificates of all nodes."""


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
    """A directory of this node's own, in which it keeps who belongs to its cluster, which namespaces there are, and what its
    replicas must not forget. Without one, nothing outlives the process, whatever the durability of a namespace: replicas
    of a node that is started again recover from the others."""
    durability: str = DURABLE
    """Of namespaces that are created through this node and don't say what they want: "durable" (the log is on disk, so that
    what was acknowledged outlives a crash of all nodes at once) or "fenced" (the log is in memory; faster where disks are
    slow, and lost when a majority of the replicas crashes at once)."""
    recorder_dir: str | None = None
    """A directory for the flights of replicas that fail: of each one the last messages are kept in memory, and are written
    here when it raises an error, to be replayed with `rabble-step`. They hold what clients wrote. See
    `rabble_trio.FlightRecorder` for what it costs; by default nothing is recorded."""
    cluster_name: str = "haret"
    """Nodes join only those of the same cluster name."""
    secret_file: str | None = None
    """A file with at least 16 random bytes, the same on all nodes of the cluster: links prove that both sides know it."""
    insecure: bool = False
    """Listen beyond this machine although not everything is encrypted and authenticated."""
    tls: Tls | None = None
    """What encrypts the links between nodes."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    """See `Timeouts`."""

    def __post_init__(self) -> None:
        for key in ("cluster_host", "admin_host", "api_host"):
            host = _check_address(key, self.node_name, getattr(self, key)).host
            if not self.insecure and not _is_loopback(host):
                self._check_exposed(key)
        if self.durability not in DURABILITIES:
            raise ConfigError("durability", f"{self.durability!r} is neither {' nor '.join(map(repr, DURABILITIES))}")
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
                f"must be at most {MAX_REQUEST_TIMEOUT:g}: clients give up after about ten, and must be able to ask again",
            )
        self.vr_settings()

    def _check_exposed(self, key: str) -> None:
        """Something beyond this machine can reach one of the ports."""
        if key != "cluster_host":
            raise ConfigError(
                key,
                f"{getattr(self, key)} can be reached from beyond this machine, and clients are neither encrypted nor "
                "authenticated: use 127.0.0.1, or set insecure = true if the network is yours alone",
            )
        if self.tls is None or self.secret_file is None:
            raise ConfigError(
                key,
                f"{self.cluster_host} can be reached from beyond this machine: set secret_file and [tls], use 127.0.0.1, or "
                "set insecure = true if the network is yours alone",
            )

    def security(self) -> str:
        """In words: who can reach the node, and how links and clients are protected."""
        exposed = [key for key in ("cluster_host", "admin_host", "api_host") if not _is_loopback(self._host_of(key))]
        links = "links " + (
            "encrypted and authenticated"
            if self.tls is not None
            else "authenticated by the secret"
            if self.secret_file is not None
            else "neither encrypted nor authenticated"
        )
        rest = f"{links}; clients neither encrypted nor authenticated"
        if not exposed:
            return f"this machine alone; {rest}"
        insecure = "INSECURE: " if set(exposed) != {"cluster_host"} or self.tls is None else ""
        return f"{insecure}beyond this machine: {', '.join(exposed)}; {rest}"

    def _host_of(self, key: str) -> str:
        return NodeId(self.node_name, getattr(self, key)).host

    def secret(self) -> bytes | None:
        """The content of `secret_file`, without white space around it. Raises `ConfigError`."""
        return None if self.secret_file is None else _read_secret(Path(self.secret_file))

    def tls_contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
        """What `rabble_trio.open_node` takes. Raises `ConfigError`."""
        if self.tls is None:
            return None
        try:
            return cluster_tls(self.tls.certificate, self.tls.key, self.tls.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError("tls", f"the files can't be used: {error}") from None

    def recorder(self, names: Collection[str]) -> FlightRecorder | None:
        """What records the replicas of namespaces of these names. Raises `ConfigError` if the directory can't be used."""
        if self.recorder_dir is None:
            return None
        folder = Path(self.recorder_dir)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("recorder_dir", f"can't make {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError("recorder_dir", f"can't write to {folder}")
        return FlightRecorder(folder, only=names)

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
                rest_after=REST_AFTER,
            )
        except ValueError as error:
            raise ConfigError("timeouts", str(error)) from None

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Names and values as text, defaults included."""
        plain = [(one.name, getattr(self, one.name)) for one in fields(self) if one.name not in _TABLES]
        files = [(f"tls.{one.name}", getattr(self.tls, one.name, None)) for one in fields(Tls)]
        times = [(f"timeouts.{one.name}", getattr(self.timeouts, one.name)) for one in fields(self.timeouts)]
        return tuple((name, _shown(value)) for name, value in (*plain, *files, *times))


def load_config(path: str | PathLike[str]) -> ServerConfig:
    """Read a configuration file; paths in it are relative to its directory. Raises `ConfigError`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError("", f"can't read {path}: {error.strerror}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError("", f"{path} is not UTF-8 text") from None
    config = parse_config(text)
    base = Path(path).parent

    def found(name: str | None) -> str | None:
        return None if name is None else str(base / name)

    tls = config.tls and Tls(*(str(base / getattr(config.tls, one.name)) for one in fields(Tls)))
    return replace(
        config,
        data_dir=found(config.data_dir),
        recorder_dir=found(config.recorder_dir),
        secret_file=found(config.secret_file),
        tls=tls,
    )


def parse_config(text: str) -> ServerConfig:
    """Read the text of a configuration file, with paths as they stand there. Raises `ConfigError`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"not valid TOML: {error}") from None
    times = _check_table(Timeouts, _take_table(table, "timeouts") or {}, "timeouts.")
    files = _take_table(table, "tls")
    tls = None if files is None else Tls(**_check_table(Tls, files, "tls."))
    return ServerConfig(**_check_table(ServerConfig, table, ""), timeouts=Timeouts(**times), tls=tls)


def _take_table(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    inner = table.pop(name, None)
    if inner is not None and not isinstance(inner, dict):
        raise ConfigError(name, f"is a table: write [{name}] on a line of its own, and its settings below it")
    return inner


_KINDS: Final[dict[str, tuple[type[Any], ...]]] = {
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "float": (float, int),
}


_TABLES: Final = frozenset({"timeouts", "tls"})

_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "ServerConfig": ("node_name", "cluster_host", "admin_host", "api_host"),
    "Tls": ("certificate", "key", "authority"),
}


def _check_table(cls: Any, table: dict[str, Any], prefix: str) -> dict[str, Any]:
    known = {one.name: str(one.type) for one in fields(cls) if one.name not in _TABLES}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                prefix + key, f"is not a setting; there are: {', '.join(prefix + name for name in known)}"
            )
        kinds = _KINDS[known[key]]
        if type(value) not in kinds:
            raise ConfigError(prefix + key, f"must be {_kind_name(kinds[0])}, not {value!r}")
    for key in _REQUIRED.get(cls.__name__, ()):
        if key not in table:
            raise ConfigError(prefix + key, "is missing")
    return table


def _read_secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError("secret_file", f"{path} can be read by others: chmod 600 {path}")
            secret = file.read(SECRET_BYTES[1] + 1).strip()
    except OSError as error:
        raise ConfigError("secret_file", f"can't read {path}: {error.strerror}") from None
    if not SECRET_BYTES[0] <= len(secret) <= SECRET_BYTES[1]:
        raise ConfigError(
            "secret_file",
            f"{path} must hold {SECRET_BYTES[0]} to {SECRET_BYTES[1]} bytes, not {len(secret)}: for example, "
            "`openssl rand -hex 32` prints 64 good ones",
        )
    return secret


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
