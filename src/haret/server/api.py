"""One connection of the client port, as a pure state machine. The protocol is described in `haret.protocol.api`.

Rules:

1. A connection serves one namespace, and one session at a time.
2. An operation is decoded and checked before it is sent to the primary, for what reaches a log can't be refused any more.
   What only reads is sent as a read, which is not logged.
3. Every `Enter` and `Submit` is answered. When the primary is unknown, down, replaced, full or silent, the answer is
   `Retry`, at once; and `Ready` follows as soon as a primary is known again.
4. Results that the client does not read as fast as it asks for them do not pile up here: beyond `MAX_BACKLOG` it is to ask
   again. They are not lost, since the replicas keep them until the client has had them.
5. A client whose primary is on another node is redirected there: in answer to `Enter`, or as soon as it is so.
6. A stale read takes no session and no primary. It goes to a replica of this node, if there is one; to another one as soon as
   that one is behind or silent, and so on in turn.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from haret.backend import Refusal, admit, is_read
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
    Ping,
    Pong,
    Ready,
    Redirect,
    Result,
    Retry,
    StaleRead,
    Submit,
    UnknownNamespace,
    Visit,
)
from haret.vr import messages as vr
from rabble_trio import ConnectionOutput, NodeId, Pid, encode

from .directory import Directory, Entry, PrimaryChanged
from .greeting import GreetedConnection
from .registry import Group

MAX_BACKLOG: Final = 4 * 1024 * 1024
"""Bytes that may wait for a client to read them before results are held back: several of the largest, and half of what a
connection is cut off at."""

_ENTER = 0  # the context of OpenSession; a Submit's is its number, from 1; a stale read's is a `_Look`


class _Look(NamedTuple):
    """A stale read that a replica was asked."""

    number: int
    reader: Pid


class ApiConnection(GreetedConnection):
    """See the rules at the top of the file."""

    protocol = API

    def __init__(self, node: NodeId, directory: Directory) -> None:
        super().__init__(node)
        self._directory = directory
        self._entry: Entry | None = None
        self._session = 0
        self._primary: Pid | None = None  # if it is on this node
        self._entering = False  # whether it asked for a session, and so wants to be where the primary is
        self._sent_to: Pid | None = None  # the primary on another node that the client was told of last
        self._group: Group | None = None  # whose replicas `_readers` are
        self._readers: tuple[Pid, ...] = ()  # who is asked stale reads: the first one, until it is of no use

    def handle(self, message: Any, output: ConnectionOutput) -> None:
        """The client sent a message."""
        if type(message) is Submit:
            self._on_submit(message, output)
            return
        match message:
            case StaleRead():
                self._on_stale_read(message, output)
            case Ping():
                output.reply(Pong())
            case Enter():
                self._on_enter(message, output)
            case Visit(namespace=namespace):
                self._visit(namespace, output)
            case Leave():
                self._on_leave(output)
            case GetNamespaceNames():
                output.reply(NamespaceNames(tuple(entry.name for entry in self._directory)))
            case _:
                self.refuse(f"{type(message).__name__} is not a message for this port", output)

    # ---------------------------------------------------------------- sessions

    def _on_enter(self, enter: Enter, output: ConnectionOutput) -> None:
        if self._session or _ENTER in output.pending.values():
            self.refuse("Enter while a session is open: it is taken again after Retry, Expired or Leave only", output)
            return
        if len(enter.client) != CLIENT_ID_BYTES or enter.session < 0:
            self.refuse(f"Enter takes {CLIENT_ID_BYTES} random bytes and a session number, or 0", output)
            return
        entry = self._visit(enter.namespace, output)
        if entry is None:
            return
        self._entering = True
        self._sent_to = None
        self._look_up(entry)
        if self._primary is None and entry.group is not None:
            # The group may rest, and its primary be gone: then somebody has to notice.
            for pid in entry.group.on(self.node):
                output.send(pid, vr.Wake())
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

    def _visit(self, namespace: str, output: ConnectionOutput) -> Entry | None:
        if self._entry is not None and self._entry.name != namespace:
            self.refuse("a connection serves one namespace: open another connection", output)
            return None
        self._entry = self._directory.get(namespace)
        if self._entry is None:
            output.reply(UnknownNamespace(namespace))
        else:
            output.follow(namespace)
        return self._entry

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
        elif is_read(admitted):
            output.request(self._primary, vr.Read(operation), number)
        else:
            output.request(self._primary, vr.Request(session, number, submit.lowest, operation), number)

    def _on_stale_read(self, read: StaleRead, output: ConnectionOutput) -> None:
        number, entry = read.number, self._entry
        if number >= 0:
            self.refuse(f"stale reads have numbers below 0, not {number}", output)
            return
        if entry is None:
            output.reply(Retry(number, "no namespace that is known here was visited or entered"))
            return
        admitted = admit(read.operation)
        reader = self._reader(entry)
        if type(admitted) is Refusal:
            self._reply_refusal(number, admitted.encoded, output)
        elif not is_read(admitted):
            self._reply_refusal(number, encode(BadRequest("what can change the tree can't be a stale read")), output)
        elif reader is None:
            output.reply(Retry(number, entry.trouble()))
        else:
            output.request(reader, vr.StaleRead(read.operation, max(0, read.least)), _Look(number, reader))

    def _reader(self, entry: Entry) -> Pid | None:
        """Who is asked stale reads; None if there are rivals."""
        if entry.group is not self._group:
            self._group = entry.group
            everybody = () if entry.group is None else entry.group.replicas
            self._readers = tuple(sorted(everybody, key=lambda pid: pid.node != self.node))
        return self._readers[0] if self._readers else None

    def _try_another(self, look: _Look, reason: str, output: ConnectionOutput) -> None:
        first, *others = self._readers or (None,)
        if look.reader == first:  # or several that fail at once would come round to it again
            self._readers = (*others, look.reader)
        output.reply(Retry(look.number, reason))

    def _reply_refusal(self, number: int, error: bytes, output: ConnectionOutput) -> None:
        entry = self._entry
        assert entry is not None
        output.reply(Result(number, 0, entry.epoch, max(0, entry.view), error))

    # ----------------------------------------------------------------- answers

    def answered(self, context: Any, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """A replica answered."""
        if type(message) is vr.Reply or type(message) is vr.ReadReply:
            number = context.number if type(context) is _Look else context
            if output.backlog > MAX_BACKLOG:
                output.reply(Retry(number, "results wait to be read"))
                return
            output.reply(Result(number, message.op, message.epoch, message.view, message.result))
            return
        if type(context) is _Look:
            self._on_no_look(context, message, output)
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
                _forget_submitted(output)
                self._session = 0
                output.reply(Expired(session))
            case vr.InvalidRequest(reason=reason):
                self._reply_refusal(context, encode(BadRequest(reason)), output)
            case _:
                output.reply(Retry(context, f"{sender} answered {type(message).__name__}"))

    def _on_no_look(self, look: _Look, message: Any, output: ConnectionOutput) -> None:
        match message:
            case vr.Behind(commit=commit):
                self._try_another(look, f"{look.reader} has only come to {commit}", output)
            case vr.InvalidRequest(reason=reason):
                self._reply_refusal(look.number, encode(BadRequest(reason)), output)
            case _:
                self._try_another(look, f"{look.reader} answered {type(message).__name__}", output)

    def failed(self, context: Any, reason: str, output: ConnectionOutput) -> None:
        """No replica will answer."""
        if type(context) is _Look:
            self._try_another(context, reason, output)
        else:
            output.reply(Retry(context, reason))

    def notified(self, message: Any, sender: Pid, output: ConnectionOutput) -> None:
        """Some namespace has another primary, or none."""
        if self._entry is None or type(message) is not PrimaryChanged or message.namespace != self._entry.name:
            return
        self._look_up(self._entry)
        self._group = None  # whoever was of no use for stale reads may be well again
        if not self._entering:
            return
        for context in _forget_submitted(output):
            output.reply(Retry(context, f"the primary of {message.namespace} changed"))
        if self._primary is not None:
            output.reply(Ready())
        else:
            self._redirected(self._entry, output)


def _forget_submitted(output: ConnectionOutput) -> list[int]:
    """Expect no replies any more to what the primary was asked; returns the contexts. Stale reads are not its business."""
    pending = output.pending
    numbers = [number for number, context in pending.items() if type(context) is not _Look]
    return [pending.pop(number) for number in numbers]
