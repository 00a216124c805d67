"""One connection of the client port, as a pure state machine. The protocol is described in `haret.protocol.api`.

Rules:

1. A connection serves one namespace, and one session at a time.
2. An operation is decoded and checked before it is sent to the primary, for what reaches a log can't be refused any more.
3. Every `Enter` and `Submit` is answered. When the primary is unknown, down, replaced, full or silent, the answer is
   `Retry`, at once; and `Ready` follows as soon as a primary is known again.
4. Results that the client does not read as fast as it asks for them do not pile up here: beyond `MAX_BACKLOG` it is to ask
   again. They are not lost, since the replicas keep them until the client has had them.
5. A client whose primary is on another node is redirected there: in answer to `Enter`, or as soon as it is so.
"""

from __future__ import annotations

from typing import Any, Final

from haret.backend import Refusal, admit
from haret.protocol import (
    API,
    CLIENT_ID_BYTES,
    BadRequest,
    Enter,
    Entered,
    Expired,
    GetNamespaceNames,
    Leave,
    NamespaceNames,
    Ready,
    Redirect,
    Result,
    Retry,
    Submit,
    UnknownNamespace,
)
from haret.vr import messages as vr
from rabble_trio import ConnectionOutput, NodeId, Pid, encode

from .directory import Directory, Entry, PrimaryChanged
from .greeting import GreetedConnection

MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Bytes that may wait for a client to read them before results are held back: several of the largest, and half of what a
connection is cut off at."""

_ENTER = 0  # the context of OpenSession; a Submit's is its number, from 1


class ApiConnection(GreetedConnection):
    """See the rules at the top of the file."""

    protocol = API

    def __init__(self, node: NodeId, directory: Directory) -> None:
        super().__init__(node)
        self._directory = directory
        self._entry: Entry | None = None
        self._session = 0
        self._primary: Pid | None = None  # if it is on this node
        self._sent_to: Pid | None = None  # the primary on another node that the client was told of last

    def handle(self, message: Any, output: ConnectionOutput) -> None:
        """The client sent a message."""
        if type(message) is Submit:
            self._on_submit(message, output)
            return
        match message:
            case Enter():
                self._on_enter(message, output)
            case Leave():
                self._on_leave(output)
            case GetNamespaceNames():
                output.reply(NamespaceNames(tuple(entry.name for entry in self._directory)))
            case _:
                self.refuse(f"{type(message).__name__} is not a message for this port", output)

    # ---------------------------------------------------------------- sessions

    def _on_enter(self, enter: Enter, output: ConnectionOutput) -> None:
        if self._entry is not None and self._entry.name != enter.namespace:
            self.refuse("a connection serves one namespace: open another connection", output)
            return
        if self._session or _ENTER in output.pending.values():
            self.refuse("Enter while a session is open: it is taken again after Retry, Expired or Leave only", output)
            return
        if len(enter.client) != CLIENT_ID_BYTES or enter.session < 0:
            self.refuse(f"Enter takes {CLIENT_ID_BYTES} random bytes and a session number, or 0", output)
            return
        entry = self._directory.get(enter.namespace)
        if entry is None:
            output.reply(UnknownNamespace(enter.namespace))
            return
        self._entry = entry
        self._sent_to = None
        self._look_up(entry)
        if self._redirected(entry, output):
            return
        self._session = enter.session
        if enter.session:
            # Whether it still exists, the replicas know; they say so in answer to the first request.
            output.reply(Entered(enter.session))
        elif self._primary is None:
            output.reply(Retry(_ENTER, self._trouble(entry)))
        else:
            output.request(self._primary, vr.OpenSession(enter.client), _ENTER)

    def _look_up(self, entry: Entry) -> None:
        primary = entry.primary
        self._primary = primary if primary is not None and primary.node == self.node else None

    def _redirected(self, entry: Entry, output: ConnectionOutput) -> bool:
        """Tell the client once where the primary is, if it is on another node; tells whether it is there."""
        primary = entry.primary
        if primary is None or primary.node == self.node:
            return False
        address = self._directory.addresses.get(primary.node)
        if address is None:
            return False
        if self._sent_to != primary:
            self._sent_to = primary
            output.reply(Redirect(address))
        return True

    def _trouble(self, entry: Entry) -> str:
        primary = entry.primary
        if primary is None or primary.node == self.node:
            return entry.trouble()
        return f"{primary} leads, and its node has not told yet where clients find it"

    def _on_leave(self, output: ConnectionOutput) -> None:
        if self._session and self._primary is not None:
            output.send(self._primary, vr.CloseSession(self._session))
        self._session = 0

    # ---------------------------------------------------------------- requests

    def _on_submit(self, submit: Submit, output: ConnectionOutput) -> None:
        number, session = submit.number, self._session
        if not session or self._entry is None:
            self.refuse("Submit before Entered", output)
            return
        operation = submit.operation
        admitted = admit(operation)
        if number <= _ENTER:
            self._reply_refusal(number, encode(BadRequest(f"requests are numbered from 1, not {number}")), output)
        elif type(admitted) is Refusal:
            self._reply_refusal(number, admitted.encoded, output)
        elif self._primary is None:
            self._redirected(self._entry, output)
            output.reply(Retry(number, self._trouble(self._entry)))
        else:
            output.request(self._primary, vr.Request(session, number, submit.lowest, operation), number)

    def _reply_refusal(self, number: int, error: bytes, output: ConnectionOutput) -> None:
        entry = self._entry
        assert entry is not None
        output.reply(Result(number, 0, entry.epoch, max(0, entry.view), error))

    # ----------------------------------------------------------------- answers

    def answered(self, context: Any, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """A replica answered."""
        if type(message) is vr.Reply:
            if output.backlog > MAX_BACKLOG:
                output.reply(Retry(context, "results wait to be read"))
                return
            output.reply(Result(context, message.op, message.epoch, message.view, message.result))
            return
        match message:
            case vr.SessionOpened(session=session):
                self._session = session
                output.reply(Entered(session))
            case vr.NotPrimary():
                output.reply(Retry(context, f"{sender} is not primary"))
            case vr.Overloaded():
                output.reply(Retry(context, f"{sender} is overloaded"))
            case vr.SessionExpired(session=session):
                # The same is true of all that was submitted in it.
                output.forget_requests()
                self._session = 0
                output.reply(Expired(session))
            case vr.InvalidRequest(reason=reason):
                self._reply_refusal(context, encode(BadRequest(reason)), output)
            case _:
                output.reply(Retry(context, f"{sender} answered {type(message).__name__}"))

    def failed(self, context: Any, reason: str, output: ConnectionOutput) -> None:
        """No replica will answer."""
        output.reply(Retry(context, reason))

    def notified(self, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """Some namespace has another primary, or none."""
        if self._entry is None or type(message) is not PrimaryChanged or message.namespace != self._entry.name:
            return
        self._look_up(self._entry)
        for context in output.forget_requests():
            output.reply(Retry(context, f"the primary of {message.namespace} changed"))
        if self._primary is not None:
            output.reply(Ready())
        else:
            self._redirected(self._entry, output)
