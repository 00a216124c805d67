"""How two nodes introduce themselves and prove that they belong together, as a pure machine.

    dialer                                          acceptor
      ── Hello: who, of which cluster, nonce ──────►
      ◄────── Hello: who, of which cluster, nonce ──          each checks the other's
      ── Proof: MAC over both hellos, as dialer ───►          wrong: refused, before the acceptor has proved anything
      ◄─── Proof: MAC over both hellos, as acceptor ─

Rules:

1. A proof is HMAC-SHA256 with the cluster's secret over the role and the bytes of both hellos: nonces, node ids, cluster
   name, protocol version and all else they say. Nonces are fresh, so a recorded handshake is of no use; the role is in it,
   so an echo is not either. The secret is never sent. The dialer proves first: who can reach the port of a node, but does
   not know the secret, learns nothing to guess at.
2. Where TLS is on, the names in the peer's certificate must contain the name of its node.
3. Without a secret nothing is proved. That must be allowed on both sides (`LinkConfig.insecure`).
4. The dialer says whom it wants to reach, and takes nobody else. A node refuses its own name.
5. Whatever does not fit ends the handshake with a `LinkError` that says what to change. What the peer sends before it has
   proved itself is at most `MAX_HANDSHAKE_MESSAGE` bytes.
6. After the handshake messages are not signed: on a network that others can write to, use TLS, which a node that listens
   beyond loopback insists on.

The tag of `Hello` and the version behind it stay the first things in it for ever, so that two nodes of any versions can
tell what is wrong.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Literal

from ._codec import MAX_MESSAGE_SIZE, _unpack, decode, encode, message
from ._errors import DecodeError, LinkError
from ._ids import NodeId, check_name

PROTOCOL_VERSION: Final = 1
"""Of all that is said over links. Nodes of different versions refuse each other."""

NONCE_SIZE: Final = 32
"""Random bytes in a hello: as many as the MAC has."""

MIN_SECRET_SIZE: Final = 16
"""Bytes: a shorter secret could be guessed from one recorded handshake."""

MAX_HANDSHAKE_MESSAGE: Final = 2048
"""Bytes in a hello or proof: ids at their longest fill half of it."""

MAX_INCARNATION: Final = 2**63 - 1
"""Of nodes, as in `rabble_trio._orset`."""

_HELLO_TAG: Final = "rabble.link_hello"

Role = Literal["dialer", "acceptor"]


class CloseCode(IntEnum):
    """Why a link was closed, on the wire: from the range that RFC 6455 leaves to applications."""

    VERSION = 4001
    """The nodes speak different versions of the protocol."""
    CLUSTER = 4002
    """The nodes belong to clusters of different names."""
    NODE = 4003
    """The peer is not the node that it should be, or its certificate is not that node's."""
    AUTHENTICATION = 4004
    """The nodes don't have the same secret."""
    STALE = 4005
    """The peer is an incarnation of its node that was replaced by a newer one."""
    DUPLICATE = 4006
    """There is another link between the same nodes, and that one is kept."""
    TIMEOUT = 4007
    """Silence, or a handshake that took too long."""
    VIOLATION = 4008
    """The peer broke the protocol."""
    OVERFLOW = 4009
    """The peer does not read what it has to."""
    NOT_WANTED = 4010
    """The peer is no member of the cluster, and nobody invited it."""
    GOING_AWAY = 4011
    """The node stops."""
    RESTORED = 4012
    """The peer's data directory is an older copy: its node ran since, and did what it now knows nothing of."""


@message(tag=_HELLO_TAG)
class Hello:
    """The first message of each side. Raises `ValueError` or `InvalidId` if a field is out of range."""

    protocol: int
    """`PROTOCOL_VERSION` of the sender."""
    role: Role
    """Of the sender."""
    cluster: str
    """The name of its cluster."""
    node: NodeId
    """Its id."""
    incarnation: int
    """Higher than at each earlier start of that node."""
    attempt: int
    """Of a dialer: how many links this incarnation has dialled before, so that the latest of them can be told."""
    max_message: int
    """The largest message it takes, in bytes."""
    secured: bool
    """Whether it has a secret, and demands a proof."""
    nonce: bytes
    """`NONCE_SIZE` fresh random bytes."""
    previous: int = 0
    """The newest incarnation that its data directory knew of when it started; 0 if it knew of none."""

    def __post_init__(self) -> None:
        check_name("cluster", self.cluster)
        if not all(0 <= number <= MAX_INCARNATION for number in (self.incarnation, self.attempt, self.previous)):
            raise ValueError("incarnations and attempt are numbers from 0 to 2**63 - 1")
        if self.max_message < MAX_HANDSHAKE_MESSAGE:
            raise ValueError(f"max_message must be at least {MAX_HANDSHAKE_MESSAGE} bytes")
        if len(self.nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes")


@message(tag="rabble.link_proof")
class Proof:
    """The second message of each side."""

    mac: bytes
    """`proof_of` the sender's role; empty if there is no secret."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What all links of a node have in common. Units: seconds and bytes.

    Raises `ValueError` for a secret that is too short, for no secret without `insecure`, and for limits that can't work.
    """

    node: NodeId
    """This node."""
    incarnation: int
    """Higher than at each earlier start of this node."""
    cluster: str
    """The name of the cluster; nodes of other clusters are refused."""
    secret: bytes | None = field(default=None, repr=False)
    """Known to all nodes of the cluster, and to nobody else."""
    insecure: bool = False
    """Whether links without a secret are allowed."""
    certificates: bool = False
    """Whether a peer needs a certificate with the name of its node."""
    handshake_timeout: float = 5.0
    """For the whole handshake: some round trips, and a slow machine."""
    heartbeat_interval: float = 1.0
    """Between pings."""
    heartbeat_timeout: float = 5.0
    """Silence after which a link counts as dead: some pings, so that a short pause of a process does not cut it."""
    message_timeout: float = 30.0
    """For one message to arrive, while its bytes trickle in: the largest still passes at 300 kbit/s."""
    max_message: int = MAX_MESSAGE_SIZE
    """In a message to or from a peer, of which the websocket makes a frame."""
    previous: int = 0
    """The newest incarnation that the node's data directory knew of when it started; 0 if it knew of none."""
    batch_bytes: int = 64 * 1024
    """Of envelopes in one message, unless a single one is larger: a heartbeat waits for one message at most."""
    data_queue_bytes: int = 16 * 2**20
    """Of envelopes that wait for the peer to read; further ones are dropped. About a second of a busy link."""
    control_queue_bytes: int = 8 * 2**20
    """Of membership messages that wait for the peer to read; more of them end the link."""

    def __post_init__(self) -> None:
        check_name("cluster", self.cluster)
        if self.secret is None and not self.insecure:
            raise ValueError("a link needs a secret; pass insecure=True if everybody who can reach the port is trusted")
        if self.secret is not None and not (isinstance(self.secret, bytes) and len(self.secret) >= MIN_SECRET_SIZE):
            raise ValueError(f"the secret must be at least {MIN_SECRET_SIZE} bytes, and should be random ones")
        if not 0 <= self.incarnation <= MAX_INCARNATION:
            raise ValueError(f"{self.incarnation} is no incarnation: use 0 to 2**63 - 1")
        if not 0 < self.heartbeat_interval < self.heartbeat_timeout:
            raise ValueError("heartbeat_interval must be positive, and less than heartbeat_timeout")
        if not self.message_timeout >= self.heartbeat_timeout:
            raise ValueError("message_timeout must not be less than heartbeat_timeout")
        if not self.handshake_timeout > 0:
            raise ValueError("handshake_timeout must be positive")
        if not MAX_HANDSHAKE_MESSAGE <= self.max_message <= MAX_MESSAGE_SIZE:
            raise ValueError(f"max_message must be {MAX_HANDSHAKE_MESSAGE} to {MAX_MESSAGE_SIZE} bytes")
        if not (self.batch_bytes > 0 and self.data_queue_bytes > 0 and self.control_queue_bytes > 0):
            raise ValueError("batch_bytes, data_queue_bytes and control_queue_bytes must be positive")


@dataclass(frozen=True, slots=True)
class Hellos:
    """The two hellos of a link whose handshake is complete."""

    dialer: Hello
    """Of the side that dialled."""
    acceptor: Hello
    """Of the side that listened."""


def proof_of(role: Role, secret: bytes, dialer_hello: bytes, acceptor_hello: bytes) -> bytes:
    """The MAC that proves, to who knows the secret too, that the side in this role knows it; rule 1."""
    mac = hmac.new(secret, digestmod="sha256")
    for part in (b"rabble link proof", role.encode(), dialer_hello, acceptor_hello):
        mac.update(len(part).to_bytes(4, "big"))  # so that no two transcripts have the same bytes
        mac.update(part)
    return mac.digest()


class Handshake:
    """One side of a handshake; see the rules at the top of the module.

    `nonce`: `NONCE_SIZE` random bytes, never used before. `expected`: whom a dialer wants to reach. `certificate_names`:
    the names in the peer's verified certificate, None without TLS. Raises `ValueError` for a nonce of the wrong size, and
    for a dialer that expects nobody.
    """

    def __init__(
        self,
        role: Role,
        config: LinkConfig,
        nonce: bytes,
        *,
        expected: NodeId | None = None,
        attempt: int = 0,
        certificate_names: Collection[str] | None = None,
    ) -> None:
        if role == "dialer" and expected is None:
            raise ValueError("a dialer has to say which node it expects")
        self._config = config
        self._role = role
        self._expected = expected
        self._certificate_names = certificate_names
        self._own = Hello(
            protocol=PROTOCOL_VERSION,
            role=role,
            cluster=config.cluster,
            node=config.node,
            incarnation=config.incarnation,
            attempt=attempt,
            max_message=config.max_message,
            secured=config.secret is not None,
            nonce=nonce,
            previous=config.previous,
        )
        self._own_bytes = encode(self._own)
        self._peer_bytes = b""
        self.peer: Hello | None = None
        """The peer's hello, once it was checked; it is proved once `complete`."""
        self.complete = False
        """Whether both sides have proved themselves."""

    @property
    def hellos(self) -> Hellos:
        """Of a complete handshake; raises `ValueError` before."""
        if self.peer is None or not self.complete:
            raise ValueError("the handshake is not complete")
        return Hellos(self._own, self.peer) if self._role == "dialer" else Hellos(self.peer, self._own)

    def start(self) -> list[bytes]:
        """What to send at once."""
        return [self._own_bytes] if self._role == "dialer" else []

    def receive(self, data: bytes) -> list[bytes]:
        """Take in a message of the peer; returns what to send. Raises `LinkError`; the handshake is over then."""
        if len(data) > MAX_HANDSHAKE_MESSAGE:
            raise violation(
                f"it sent {len(data)} bytes before it has proved itself: {MAX_HANDSHAKE_MESSAGE} are allowed"
            )
        if self.peer is None:
            self.peer = self._check_hello(_read_hello(data))
            self._peer_bytes = data
            return [self._own_bytes] if self._role == "acceptor" else [encode(Proof(self._mac_of(self._role)))]
        self._check_proof(data, self.peer.node)
        self.complete = True
        return [encode(Proof(self._mac_of(self._role)))] if self._role == "acceptor" else []

    def _mac_of(self, role: Role) -> bytes:
        if self._config.secret is None:
            return b""
        hellos = (self._own_bytes, self._peer_bytes)
        return proof_of(role, self._config.secret, *(hellos if self._role == "dialer" else reversed(hellos)))

    def _check_hello(self, hello: Hello) -> Hello:
        config = self._config
        if hello.role == self._role:
            raise violation(
                f"it said hello as the {hello.role}, which is our part: is this an echo of our own messages?"
            )
        if hello.cluster != config.cluster:
            raise _misfit(
                CloseCode.CLUSTER,
                f"{hello.node} belongs to the cluster {hello.cluster!r}, and {config.node} to {config.cluster!r}",
            )
        if hello.node.name == config.node.name:
            raise _misfit(
                CloseCode.NODE,
                f"{hello.node} has the name of {config.node}: names are unique, and a node has no link to itself",
            )
        if self._expected not in {None, hello.node}:
            raise _misfit(
                CloseCode.NODE, f"expected {self._expected}, but {hello.node} answered: use the id it listens by"
            )
        self._check_certificate(hello.node)
        if hello.secured != self._own.secured:
            with_secret, without = (hello.node, config.node) if hello.secured else (config.node, hello.node)
            raise _misfit(
                CloseCode.AUTHENTICATION,
                f"{with_secret} has a cluster secret and {without} has none: give all nodes the same",
            )
        return hello

    def _check_certificate(self, node: NodeId) -> None:
        if not self._config.certificates:
            return
        if self._certificate_names is None:
            raise _misfit(CloseCode.NODE, f"{node} shows no certificate, and this cluster demands one")
        if node.name not in self._certificate_names:
            names = ", ".join(sorted(self._certificate_names)) or "nobody"
            raise _misfit(CloseCode.NODE, f"{node} shows a certificate of {names}: it must name {node.name}")

    def _check_proof(self, data: bytes, node: NodeId) -> None:
        proof = _decode(data)
        if type(proof) is not Proof:
            raise violation(f"it sent {type(proof).__name__} before its Proof")
        other: Role = "acceptor" if self._role == "dialer" else "dialer"
        if not hmac.compare_digest(proof.mac, self._mac_of(other)):
            raise _misfit(
                CloseCode.AUTHENTICATION,
                f"{node} and {self._config.node} don't have the same cluster secret: give all nodes the same",
            )


def _read_hello(data: bytes) -> Hello:
    # The version comes first: a hello of another one may be no Hello that we can decode.
    try:
        plain: Any = _unpack(data, MAX_HANDSHAKE_MESSAGE)
    except DecodeError as error:
        raise _garbage(error) from None
    version = plain[1] if type(plain) is tuple and len(plain) > 1 and plain[0] == _HELLO_TAG else PROTOCOL_VERSION
    if version != PROTOCOL_VERSION and type(version) is int:
        raise _misfit(
            CloseCode.VERSION,
            f"the peer speaks version {version} of the link protocol, this node {PROTOCOL_VERSION}: upgrade the older",
        )
    hello = _decode(data)
    if type(hello) is not Hello:
        raise violation(f"it sent {type(hello).__name__} before its Hello")
    return hello


def _decode(data: bytes) -> Any:
    try:
        return decode(data, max_size=MAX_HANDSHAKE_MESSAGE)
    except DecodeError as error:
        raise _garbage(error) from None


def _garbage(error: DecodeError) -> LinkError:
    return violation(f"it does not speak the link protocol: {error}")


def violation(problem: str) -> LinkError:
    """The error for a peer that does what no honest node does."""
    return LinkError("peer", CloseCode.VIOLATION, f"the peer broke the link protocol: {problem}")


def _misfit(code: CloseCode, problem: str) -> LinkError:
    return LinkError("configuration", code, problem)


# Several links between two nodes --------------------------------------------------------------------------------------


def survivor(one: Hellos, other: Hellos) -> Hellos:
    """Which of two complete links between the same two nodes is kept; the other is closed with `CloseCode.DUPLICATE`.

    Both nodes come to the same result, whichever order they ask in: the link with the newer incarnation of either node;
    else the one that was dialled by the node with the lesser name; else the dialer's latest attempt, because a node dials
    again only when it has given up the link before. Raises `ValueError` if they are not between the same two names.
    """
    if _names(one) != _names(other):
        raise ValueError(f"links between {_names(one)} and {_names(other)} are no duplicates")
    return max(one, other, key=_precedence)


def _names(hellos: Hellos) -> tuple[str, ...]:
    return tuple(sorted((hellos.dialer.node.name, hellos.acceptor.node.name)))


def _precedence(hellos: Hellos) -> tuple[Any, ...]:
    dialer, acceptor = hellos.dialer, hellos.acceptor
    dialled_by_lesser = dialer.node.name < acceptor.node.name
    lesser, greater = (dialer, acceptor) if dialled_by_lesser else (acceptor, dialer)
    return lesser.incarnation, greater.incarnation, dialled_by_lesser, dialer.attempt, dialer.nonce, acceptor.nonce


class Incarnations:
    """The newest incarnation of each node that has proved itself to this node."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def admit(self, hello: Hello) -> None:
        """Note the hello of a complete handshake.

        Raises `LinkError` if a newer incarnation of that node was seen, or one that its data directory does not know of.
        """
        newest = self._newest.get(hello.node.name, 0)
        if hello.incarnation < newest:
            raise LinkError(
                "peer",
                CloseCode.STALE,
                f"incarnation {hello.incarnation} of {hello.node} is stale: {newest} was here already; is it running twice?",
            )
        if 0 < hello.previous < newest < hello.incarnation:
            raise LinkError(
                "peer",
                CloseCode.RESTORED,
                f"the data directory of {hello.node} is an older copy: that node ran since, as incarnation {newest}",
            )
        self._newest[hello.node.name] = hello.incarnation

    def forget(self, name: str) -> None:
        """The node has left for good, or came and went without being a member."""
        self._newest.pop(name, None)
