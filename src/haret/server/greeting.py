"""How every connection begins, on both ports: the client says `Hello`, the server `Welcome`, or `Refused` and closes."""

from __future__ import annotations

from typing import Any

from haret.protocol import VERSION, Hello, Refused, Welcome
from rabble_trio import ConnectionHandler, ConnectionOutput, NodeId


class GreetedConnection(ConnectionHandler):
    """A connection that was greeted properly gets its messages in `handle`."""

    protocol: str
    """The one that this port speaks."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self._greeted = False

    def received(self, message: Any, output: ConnectionOutput) -> None:
        """Check the greeting; hand on what follows it."""
        if self._greeted:
            self.handle(message, output)
        elif type(message) is not Hello:
            self.refuse(f"the first message must be Hello, not {type(message).__name__}", output)
        elif message.protocol != self.protocol:
            self.refuse(f"this port speaks {self.protocol}, not {message.protocol[:40]!r}", output)
        elif message.version != VERSION:
            self.refuse(
                f"this server speaks version {VERSION} of {self.protocol}, not {message.version}: use a haret of the "
                "same release on both sides",
                output,
            )
        else:
            self._greeted = True
            output.reply(Welcome(self.node))

    def handle(self, message: Any, output: ConnectionOutput) -> None:
        """The client sent a message."""
        raise NotImplementedError

    def garbled(self, reason: str, output: ConnectionOutput) -> None:
        """The client sent what nobody understands."""
        self.refuse(f"not a batch of messages: {reason}", output)

    def refuse(self, reason: str, output: ConnectionOutput) -> None:
        """Say what is wrong, and close the connection."""
        output.reply(Refused(reason))
        output.close(reason)
