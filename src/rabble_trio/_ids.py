"""Names of nodes and actors, and the thread that ties a reply to its request.

The grammar, which never changes between versions because ids cross the wire and reach disks:

    name     = 1 to 128 characters out of A-Z a-z 0-9 _ . -
    addr     = host ":" port          host: 1 to 253 characters of a name, or "[IPv6]"; port: 0..65535
    node     = name "@" addr
    pid      = [ group "::" ] name "::" node

Ids are immutable and hashable, and order by their text. Their hash is computed once: routing a message looks its
receiver up in a dict.
"""

from __future__ import annotations

import re
from functools import total_ordering
from ipaddress import IPv6Address
from typing import Any, Final

from ._errors import InvalidId

MAX_NAME_LENGTH: Final = 128
"""Characters in the name of a node, an actor or a group: enough for a UUID and a word, small in every message."""

MAX_ADDR_LENGTH: Final = 261
"""Characters in "host:port": a DNS name is at most 253 long."""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}\Z")
_ADDR = re.compile(r"(?P<host>[A-Za-z0-9_.\-]{1,253}|\[(?P<v6>[^\]\s@/]{2,60})\]):(?P<port>0|[1-9][0-9]{0,4})\Z")
_SHOWN = 80
_MAX_NUMBER = 2**63 - 1


def _shorten(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable()


def check_name(kind: str, name: object) -> None:
    """Raise `InvalidId` unless `name` is a valid name; `kind` says in the error what it would have named."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidId(
            f"{_shorten(name)} is not a valid {kind} name: "
            f"use 1 to {MAX_NAME_LENGTH} characters out of A-Z a-z 0-9 _ . -"
        )


@total_ordering
class _Id:
    """What `NodeId` and `Pid` share: immutable, compared and hashed by text."""

    __slots__ = ("_hash", "_text")
    _text: str
    _hash: int

    def _freeze(self, text: str, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_hash", hash(text))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({self._text!r})"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and other._text == self._text)

    def __lt__(self, other: Any) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._text < other._text)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


class NodeId(_Id):
    """The identity of a node: a name, unique in its cluster, and the address its cluster port listens on.

    `name`: 1 to 128 characters. `addr`: "host:port", host a DNS name, an IPv4 address or a bracketed IPv6 address.
    `str()` gives "name@host:port", which `parse` reads. Raises `InvalidId` on anything else.
    """

    __slots__ = ("addr", "name")
    name: str
    addr: str

    def __init__(self, name: str, addr: str) -> None:
        check_name("node", name)
        match = _ADDR.match(addr) if isinstance(addr, str) else None
        if match is None or int(match["port"]) > 65535 or not (match["v6"] is None or _is_ipv6(match["v6"])):
            raise InvalidId(f"{_shorten(addr)} is not a valid address: write host:port, for example 127.0.0.1:5000")
        self._freeze(f"{name}@{addr}", name=name, addr=addr)

    @property
    def host(self) -> str:
        """The host part of the address, without the brackets of IPv6."""
        return self.addr.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of the address."""
        return int(self.addr.rpartition(":")[2])

    @classmethod
    def parse(cls, text: str) -> NodeId:
        """Read "name@host:port"; raises `InvalidId`."""
        name, at, addr = text.partition("@") if isinstance(text, str) else ("", "", "")
        if not at:
            raise InvalidId(f"{_shorten(text)} is not a node id: write name@host:port, for example n1@127.0.0.1:5000")
        return cls(name, addr)

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeId, (self.name, self.addr)


class Pid(_Id):
    """The address of an actor: a name, unique in its group on its node, the node, and optionally the group.

    A pid outlives restarts of its actor. `str()` gives "name::node" or "group::name::node", which `parse` reads. Raises
    `InvalidId` on anything else.
    """

    __slots__ = ("group", "name", "node")
    name: str
    node: NodeId
    group: str | None

    def __init__(self, name: str, node: NodeId, group: str | None = None) -> None:
        check_name("actor", name)
        if group is not None:
            check_name("group", group)
        if not isinstance(node, NodeId):
            raise InvalidId(f"the node of a Pid must be a NodeId, not {_shorten(node)}")
        text = f"{name}::{node}" if group is None else f"{group}::{name}::{node}"
        self._freeze(text, name=name, node=node, group=group)

    @classmethod
    def parse(cls, text: str) -> Pid:
        """Read "name::node" or "group::name::node"; raises `InvalidId`."""
        # Split at the "@" first: an IPv6 host behind it may itself hold "::".
        left, at, addr = text.partition("@") if isinstance(text, str) else ("", "", "")
        before, separator, node_name = left.rpartition("::")
        if not at or not separator:
            raise InvalidId(f"{_shorten(text)} is not a pid: write name::node@host:port or group::name::node@host:port")
        group, in_group, name = before.rpartition("::")
        return cls(name, NodeId(node_name, addr), group if in_group else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pid, (self.name, self.node, self.group)


class CorrelationId:
    """Ties replies and timeouts to what caused them: whose it is, and which connection and request of theirs.

    `pid`: the actor that made it. `connection` and `request`: numbers of that actor's choosing, from 0 to 2**63 - 1.
    Immutable, hashable, compared by value.
    """

    __slots__ = ("connection", "pid", "request")
    pid: Pid
    connection: int | None
    request: int | None

    def __init__(self, pid: Pid, connection: int | None = None, request: int | None = None) -> None:
        if not isinstance(pid, Pid):
            raise InvalidId(f"the pid of a CorrelationId must be a Pid, not {_shorten(pid)}")
        if connection is not None and not (type(connection) is int and 0 <= connection <= _MAX_NUMBER):
            raise InvalidId(f"{_shorten(connection)} is not a connection number: use 0 to 2**63 - 1")
        if request is not None and not (type(request) is int and 0 <= request <= _MAX_NUMBER):
            raise InvalidId(f"{_shorten(request)} is not a request number: use 0 to 2**63 - 1")
        _set_pid(self, pid)
        _set_connection(self, connection)
        _set_request(self, request)

    def next_request(self) -> CorrelationId:
        """The id of this connection's next request: the number counted up by one, from 0 when there was none."""
        return CorrelationId(self.pid, self.connection, 0 if self.request is None else self.request + 1)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("CorrelationId is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("CorrelationId is immutable")

    def __hash__(self) -> int:
        return hash((self.pid, self.connection, self.request))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            type(other) is CorrelationId
            and self.request == other.request
            and self.connection == other.connection
            and self.pid == other.pid
        )

    def __repr__(self) -> str:
        return f"CorrelationId({str(self.pid)!r}, connection={self.connection}, request={self.request})"

    def __reduce__(self) -> tuple[Any, ...]:
        return CorrelationId, (self.pid, self.connection, self.request)


# The slots' own setters pass by __setattr__; they are cheaper than object.__setattr__, and one is made per request.
_set_pid, _set_connection, _set_request = (
    vars(CorrelationId)[name].__set__ for name in ("pid", "connection", "request")
)
