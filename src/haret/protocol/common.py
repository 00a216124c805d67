"""The greeting, the errors and the limits that the client port and the admin port share."""

from __future__ import annotations

from typing import Final

from rabble_trio import NodeId, Pid, message

API: Final = "haret-api"
"""The protocol of the client port, and its websocket subprotocol."""

ADMIN: Final = "haret-admin"
"""The protocol of the admin port, and its websocket subprotocol."""

VERSION: Final = 2
"""Of both protocols. It changes whenever an old peer could misread a new one."""

MAX_FRAME: Final = 1024 * 1024
"""Bytes in one websocket message, both ways: what the runtime takes by default, above the largest single operation."""

MAX_BATCH_BYTES: Final = 256 * 1024
"""Bytes after which a batch of messages is sent and a new one begun: a larger frame only delays those behind it."""

MAX_IN_FLIGHT: Final = 1024
"""Requests of one connection that may be unanswered: ten times what keeps a group busy. The client waits beyond it; the
server answers `Retry` to a client that does not."""

MAX_STALE_READS: Final = 256
"""Stale reads of one connection that may be unanswered, on top of its requests: each is answered by the node itself, as a
rule, so more would wait in its mailboxes only."""

PING_AFTER: Final = 1.0
"""Seconds without a byte from the server, while an answer is due, after which a client asks for a sign of life."""

SILENCE: Final = 3.0
"""Seconds without a byte, while an answer is due, after which a client takes the connection for dead. A server that is
well answers a `Ping` in milliseconds, however long the rest may take."""

DURABLE: Final = "durable"
"""A group that persists its whole log: what it acknowledged survives even a crash of all its nodes at once."""

FENCED: Final = "fenced"
"""A group that keeps its log in memory, and on disk only what keeps a restarted replica from doing harm."""

DURABILITIES: Final = (DURABLE, FENCED)
"""What a namespace may be."""

CLIENT_ID_BYTES: Final = 16
"""Random bytes that name the opening of a session, so that an opening that is sent twice opens one session."""

MIN_REPLICAS: Final = 3
"""Replicas of a namespace: fewer could not lose one and go on (VRR, section 7.1)."""

MAX_REPLICAS: Final = 9
"""Replicas of a namespace: every write goes to all of them, and four may fail; more only cost time."""


NAMESPACES_PAGE: Final = 32
"""Namespaces in one answer: with as many replicas, rivals, and names as long, as may be, they still fit into a frame."""


@message(tag="haret.hello")
class Hello:
    """The first message on every connection, from the client."""

    protocol: str
    """`API` or `ADMIN`."""
    version: int
    """`VERSION` of the client."""


@message(tag="haret.welcome")
class Welcome:
    """The server speaks this version, too."""

    node: NodeId
    """Who answers."""


@message(tag="haret.refused")
class Refused:
    """The server closes this connection because of what the client sent."""

    reason: str
    """What was wrong, and what would be right."""


@message(tag="haret.unknown_namespace")
class UnknownNamespace:
    """Error: no namespace of this name exists."""

    namespace: str
    """The name that was asked for."""


@message(tag="haret.namespace_exists")
class NamespaceExists:
    """Error: a namespace of this name exists already."""

    namespace: str
    """The name."""


@message(tag="haret.not_enough_replicas")
class NotEnoughReplicas:
    """Error: a namespace needs more replicas."""

    given: int
    """How many different replicas were named."""
    needed: int
    """How many it takes at least."""


@message(tag="haret.unknown_actor")
class UnknownActor:
    """Error: no such actor, or replica, runs on its node, or is known there."""

    pid: Pid
    """Who was asked for."""


@message(tag="haret.bad_request")
class BadRequest:
    """Error: the request makes no sense; nothing was done."""

    reason: str
    """Why, and what would."""


@message(tag="haret.unanswered")
class Unanswered:
    """Error: the server gave up waiting for somebody else's answer. What was asked may or may not have happened."""

    reason: str
    """Whose answer, and why."""
