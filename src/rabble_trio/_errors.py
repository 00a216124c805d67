"""Every error that rabble_trio raises on purpose, in one place.

The root is `RabbleError`. The class says whose fault it is: yours (`InvalidId`, `EncodeError`, `NotAMessage`,
`NameInUse`), the bytes' (`DecodeError`), or the world's (`ActorDown`, `JournalError`, `ChildFailed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._ids import NodeId, Pid


class RabbleError(Exception):
    """The root of all errors of this package."""


class InvalidId(RabbleError, ValueError):
    """A node id, pid or name breaks the grammar of `rabble_trio.NodeId` or `rabble_trio.Pid`."""


class CodecError(RabbleError):
    """The root of `EncodeError` and `DecodeError`."""


class NotAMessage(CodecError, TypeError):
    """An object whose class is not decorated with `@message` was sent or encoded."""

    @classmethod
    def of(cls, value: object) -> NotAMessage:
        """The error for this value."""
        kind = type(value)
        return cls(f"{kind.__module__}.{kind.__qualname__} is not a message: decorate the class with @message")


class EncodeError(CodecError, ValueError):
    """A message holds a value that its annotations don't allow, or that exceeds a limit of the wire."""


class DecodeError(CodecError, ValueError):
    """Bytes are not the encoding of a registered message: malformed, too large, too deep, or of the wrong type."""


class NameInUse(RabbleError):
    """An actor of this name already runs on the node."""

    @classmethod
    def of(cls, pid: Pid) -> NameInUse:
        """The error for this pid."""
        return cls(f"{pid} already runs: stop it first, or choose another name or group")


class ActorDown(RabbleError):
    """The actor that was asked, or sent to, is not running, or ended before it replied.

    Attributes: `pid`, the actor's; `reason`, a sentence in the words of `rabble_trio.Down`.
    """

    def __init__(self, pid: Pid, reason: str) -> None:
        super().__init__(f"{pid} is down: {reason}")
        self.pid = pid
        self.reason = reason


class ActorKilled(RabbleError):
    """The reason of an actor that was made to crash from outside, by `rabble_trio.Node.kill`."""


class NodeClosed(RabbleError):
    """The node was closed while, or before, it was asked to do something."""


class InsecureAddress(RabbleError):
    """A node was told to listen beyond this machine without encryption and authentication, and not that it may."""


class JournalError(RabbleError):
    """A journal can't promise durability any more. It is never retried: the journal and its processes stop."""


class ChildFailed(RabbleError):
    """A supervisor gave up: a child failed more often than its intensity allows, or could not be started.

    Attributes: `child`, the failing child's pid; `restarts`, how many restarts came within the period. The child's own
    exception is the `__cause__`.
    """

    def __init__(self, child: Pid, restarts: int, period: float) -> None:
        super().__init__(
            f"{child} failed and was restarted {restarts} times within {period:g} s; its supervisor gives up"
        )
        self.child = child
        self.restarts = restarts
        self.period = period


class ListenFailed(RabbleError):
    """A server can't listen on its address. The text names the address and says why."""


class ConnectFailed(RabbleError):
    """A websocket connection could not be opened. The text names the address and says why.

    Attributes: `reason`, the why alone; `fault`, "network" if trying again may help, or "configuration" if what answers
    is not what was expected: another protocol, or a certificate that is not trusted.
    """

    def __init__(self, address: str, reason: str, fault: str = "network") -> None:
        super().__init__(f"can't connect to {address}: {reason}")
        self.reason = reason
        self.fault = fault


class ConnectionClosed(RabbleError):
    """A websocket connection is closed: by the peer, by us, or because it broke.

    Attributes: `code`, the close code of RFC 6455 (1006 if the peer vanished without one); `reason`, a sentence or "".
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"connection closed with code {code}{': ' if reason else ''}{reason}")
        self.code = code
        self.reason = reason


class MembershipError(RabbleError):
    """A change of the cluster's membership that can't be: what the text says is wrong with it."""


class JoinFailed(MembershipError):
    """A node can't become one cluster with another, and trying again would not help.

    Attributes: `node`, whom it was to join; `reason`, why not, in words.
    """

    def __init__(self, node: NodeId, reason: str) -> None:
        super().__init__(f"can't join {node}: {reason}")
        self.node = node
        self.reason = reason


class RecordError(RabbleError):
    """The record of its cluster that a node keeps in its data directory can't be read, or is damaged."""


class LinkError(RabbleError):
    """A link between two nodes can't be, or can't go on. It is closed; others are not touched.

    Attributes: `fault`, whose it is: "peer" (broke the protocol), "configuration" (the two nodes don't fit together),
    "network" (silence), "us", or "nobody" (all is well, but the link is not needed); `code`, the close code for the
    transport, a `rabble_trio._handshake.CloseCode`; `reason`, a sentence.
    """

    def __init__(self, fault: str, code: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.code = code
        self.reason = reason

    @property
    def close_reason(self) -> str:
        """The reason, cut to the 123 bytes that a websocket's close frame has room for (RFC 6455, section 5.5)."""
        return self.reason.encode(errors="replace")[:123].decode(errors="ignore")


class WorkFailed(RabbleError):
    """A function that ran in a worker process raised an exception, or its result can't be sent back.

    Attributes: `function`, "module:qualname"; `kind`, the exception's class name; `text`, its text; `traceback`, as the
    worker would have printed it. The exception itself can't cross: that would take pickle.
    """

    def __init__(self, function: str, kind: str, text: str, traceback: str) -> None:
        super().__init__(f"{function} raised {kind}: {text}")
        self.function = function
        self.kind = kind
        self.text = text
        self.traceback = traceback


class WorkerDied(RabbleError):
    """A worker process ended before it returned a result.

    Attributes: `exit_code`, what it exited with, or minus the number of the signal that killed it.
    """

    def __init__(self, exit_code: int) -> None:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        super().__init__(f"a worker process {how} before it returned a result")
        self.exit_code = exit_code
