"""The primary in normal operation (sections 4.1 and 6.2).

Rules:

1. A request enters the log once, however often it arrives: if it was executed, its cached reply goes out; if it is
   pending, the reply will go to whoever asked last.
2. At most `pipeline` batches are under way. While they are, requests gather; they leave together, in one `Prepare`, when
   a batch is committed. So an idle group answers at once, and a busy one works in large batches.
3. An op is committed when a quorum holds it in *this* view, myself included. Acknowledgements of other views never count.
4. Entries are executed in order, once; then their clients are answered.
5. Nothing is ever lost for good: an idle primary tells its op in each heartbeat, a backup that lacks some of it asks for
   it, and repeats its acknowledgement while anything is uncommitted. Who has not acknowledged anything in this view is
   told again that the view has begun.
6. A wish for another view does not move a primary whose entries are committed; the fact that a replica has entered one
   does. A primary whose entries have not been committed for its patience may be one that is heard, but hears nobody. It
   stops its heartbeats, which keep the others content, and wishes for another view like them. (Else a network that fails
   in one direction only would stop the group for as long as that lasts.)

| message          | what it does                                                             |
|------------------|--------------------------------------------------------------------------|
| Request, OpenSession, CloseSession | rule 1                                                 |
| PrepareOK        | rule 3                                                                   |
| StartViewChange  | rule 6                                                                   |
| DoViewChange     | of a later view: join it; of this one: tell the sender that it has begun |
| Prepare, Commit, StartView | of a later view: state transfer; older: dropped                |
| GetState         | answered, if it is about this view                                       |
| NewState         | dropped: nothing was asked                                               |
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..client_table import Key, entry_key
from ..context import Context
from ..log import entry_size
from ..messages import (
    CLIENT_ID_BYTES,
    CloseSession,
    Commit,
    DoViewChange,
    Entry,
    GetState,
    InvalidRequest,
    NotPrimary,
    OpenSession,
    Overloaded,
    Prepare,
    PrepareOK,
    Reply,
    Request,
    SessionClosed,
    SessionExpired,
    SessionOpened,
    StartView,
)
from ..quorum import acknowledged
from .base import Transition
from .waiting import Waiting

Asker = tuple[Pid, CorrelationId | None]
"""Who gets the reply."""

NOTHING = -1
"""What a backup has acknowledged in this view before its first `PrepareOK`."""

MAX_NUMBER = 2**63 - 1
"""Session and request numbers stay below it, so that they fit the wire and sums of them don't grow."""


class Primary(Waiting):
    """Status normal, and primary of the view."""

    status: ClassVar[str] = "normal"

    __slots__ = ("_acked", "_bytes", "_ends", "_log_view", "_pending", "_quiet", "_sent", "_start")

    def __init__(self, ctx: Context, log_view: int, commit: int) -> None:
        super().__init__(ctx)
        self._log_view = log_view
        self._start = ctx.log.op
        self._acked: dict[Pid, int] = dict.fromkeys(ctx.peers, NOTHING)
        # The last ops of the batches under way, and the last op of the newest one.
        self._ends: deque[int] = deque()
        self._sent = ctx.log.op
        self._quiet = True
        ctx.execute_to(commit)
        # The pending layer of the client table, made from the log and from nothing else (defect D8).
        suffix = ctx.log.slice(ctx.commit, ctx.log.op)
        self._pending: dict[Key, Asker | None] = dict.fromkeys(map(entry_key, suffix))
        self._bytes = sum(map(entry_size, suffix))
        self.handlers |= {
            Request: self.on_request,
            OpenSession: self.on_open_session,
            CloseSession: self.on_close_session,
            PrepareOK: self.on_prepare_ok,
            Prepare: self.on_later_view,
            Commit: self.on_later_view,
            StartView: self.on_later_view,
            DoViewChange: self.on_do_view_change,
            GetState: self.on_get_state,
        }

    def enter(self, output: Outbox) -> Transition | None:
        self.ctx.announce(output)
        self.ctx.broadcast(self._start_view(), output)
        return None

    def leave(self, output: Outbox) -> None:
        # The new primary may or may not have these entries. The clients ask it, and it executes what it has not.
        refusal = NotPrimary(self.ctx.epoch, self.ctx.view, None)
        for asker in self._pending.values():
            if asker is not None:
                output.send(asker[0], refusal, asker[1])

    def tick(self, output: Outbox) -> Transition | None:
        ctx = self.ctx
        if ctx.log.op > ctx.commit:
            transition = self.wait(output)
            if self.restless():
                return transition
        else:
            self.heard()
        commit = Commit(ctx.epoch, ctx.view, ctx.commit, ctx.log.op)
        for peer, op in self._acked.items():
            if op == NOTHING:
                output.send(peer, self._start_view())
            elif self._quiet:
                output.send(peer, commit)
        self._quiet = True
        return None

    def restless(self) -> bool:
        # Not after half the patience, as a backup: one replica that hears nobody, and therefore always has a wish, must
        # not gain a supporter whenever acknowledgements are a little slow.
        return self.silence >= self.patience

    def _start_view(self) -> StartView:
        ctx = self.ctx
        return StartView(ctx.epoch, ctx.view, self._log_view, self._start, ctx.commit)

    # --- Requests ---

    def on_request(self, message: Request, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Section 4.1, step 2; exactly once by session and number."""
        ctx, settings = self.ctx, self.ctx.settings
        number, lowest = message.number, message.lowest
        if not 1 <= lowest <= number < lowest + settings.window or number > MAX_NUMBER:
            self._refuse(
                f"a request's number is at least its lowest, which is at least 1, and less than {settings.window} "
                f"above it; these are {number} and {lowest}",
                sender,
                cid,
                output,
            )
            return
        if len(message.operation) > settings.max_operation:
            size = len(message.operation)
            self._refuse(f"an operation has at most {settings.max_operation} bytes, not {size}", sender, cid, output)
            return
        session = ctx.clients.get(message.session)
        if session is None:
            # A session that opened at a committed op and is not there is gone. Any other may be opened by an entry that
            # this primary has not executed, or does not even know of if it was deposed: the log decides.
            if message.session <= ctx.commit:
                output.send(sender, SessionExpired(message.session), cid)
                return
        else:
            done = session.results.get(number)
            if done is not None:
                reply = Reply(message.session, number, done[0], ctx.epoch, ctx.view, done[1])
                output.send(sender, reply, cid)
                return
            if number < session.lowest:
                self._given_up(message, sender, cid, output)
                return
            if session.kept > settings.max_kept_results and lowest <= session.lowest:
                ctx.count("overloaded")
                output.send(sender, Overloaded(), cid)
                return
        self._accept((message.session, number), message, sender, cid, output)

    def on_open_session(self, message: OpenSession, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Opening is an operation of the group, so that all replicas know the session."""
        if len(message.client) != CLIENT_ID_BYTES:
            self._refuse(
                f"a client names itself with {CLIENT_ID_BYTES} random bytes, not {len(message.client)}",
                sender,
                cid,
                output,
            )
            return
        session = self.ctx.clients.of_client(message.client)
        if session is not None:
            output.send(sender, SessionOpened(session, self.ctx.epoch, self.ctx.view), cid)
            return
        self._accept(message.client, message, sender, cid, output)

    def on_close_session(self, message: CloseSession, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Closing is an operation of the group as well. Closing what is gone succeeds."""
        if message.session <= self.ctx.commit and self.ctx.clients.get(message.session) is None:
            output.send(sender, SessionClosed(message.session), cid)
            return
        self._accept(message.session, message, sender, cid, output)

    def _accept(self, key: Key, entry: Entry, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        pending = self._pending
        if key in pending:
            pending[key] = (sender, cid)
            return
        ctx, settings = self.ctx, self.ctx.settings
        log = ctx.log
        if log.op - ctx.commit >= settings.max_uncommitted or self._bytes > settings.max_uncommitted_bytes:
            ctx.count("overloaded")
            output.send(sender, Overloaded(), cid)
            return
        log.append(entry)
        self._bytes += entry_size(entry)
        pending[key] = (sender, cid)
        if len(self._ends) < settings.pipeline:
            self._send_batch(output)

    def _refuse(self, reason: str, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        self.ctx.count("invalid_requests")
        output.send(sender, InvalidRequest(reason), cid)

    def _given_up(self, request: Request, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        self._refuse(
            f"request {request.number} of session {request.session} is below the lowest number that the client said "
            "it still wants",
            sender,
            cid,
            output,
        )

    # --- Agreement ---

    def _send_batch(self, output: Outbox) -> None:
        ctx = self.ctx
        entries = ctx.log.batch(self._sent, ctx.settings.batch_entries, ctx.settings.batch_bytes)
        prepare = Prepare(ctx.epoch, ctx.view, self._sent + 1, ctx.commit, entries)
        self._sent += len(entries)
        self._ends.append(self._sent)
        self._quiet = False
        ctx.count("prepares")
        ctx.broadcast(prepare, output)

    def on_prepare_ok(self, message: PrepareOK, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Section 4.1, step 4. Acks are cumulative, so a late one changes nothing."""
        ctx = self.ctx
        if message.view != ctx.view or not 0 <= message.op <= ctx.log.op:
            ctx.count("dropped_prepare_ok")
            return
        if message.op <= self._acked[sender]:
            return
        self._acked[sender] = message.op
        commit = acknowledged(self._acked.values(), ctx.quorum - 1)
        if commit > ctx.commit:
            self._commit_to(commit, output)

    def _commit_to(self, commit: int, output: Outbox) -> None:
        """Section 4.1, step 5: execute, reply."""
        ctx, pending, ends = self.ctx, self._pending, self._ends
        clients, apply, epoch, view = ctx.clients, ctx.machine.apply, ctx.epoch, ctx.view
        send = output.send
        for op, entry in enumerate(ctx.log.slice(ctx.commit, commit), ctx.commit + 1):
            if isinstance(entry, Request):
                self._bytes -= entry_size(entry)
                done = clients.request(op, entry, apply)
                session, number = entry.session, entry.number
                asker = pending.pop((session, number), None)
                if asker is None:
                    continue
                if done is not None:
                    send(asker[0], Reply(session, number, done[0], epoch, view, done[1]), asker[1])
                elif clients.get(session) is None:
                    send(asker[0], SessionExpired(session), asker[1])
                else:
                    self._given_up(entry, asker[0], asker[1], output)
            else:
                self._commit_session(op, entry, output)
        ctx.commit = commit
        self.heard()
        while ends and ends[0] <= commit:
            ends.popleft()
        while self._sent < ctx.log.op and len(ends) < ctx.settings.pipeline:
            self._send_batch(output)

    def _commit_session(self, op: int, entry: OpenSession | CloseSession, output: Outbox) -> None:
        ctx = self.ctx
        self._bytes -= entry_size(entry)
        asker = self._pending.pop(entry_key(entry), None)
        answer: SessionOpened | SessionClosed
        if isinstance(entry, OpenSession):
            answer = SessionOpened(ctx.clients.open(op, entry.client), ctx.epoch, ctx.view)
        else:
            ctx.clients.close(entry.session)
            answer = SessionClosed(entry.session)
        if asker is not None:
            output.send(asker[0], answer, asker[1])

    # --- Other views ---

    def on_do_view_change(
        self, message: DoViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A vote. If it is for this view, it comes too late to count, from one that does not know yet."""
        if message.view == self.ctx.view:
            output.send(sender, self._start_view())
            return None
        return self.on_later_vote(message, sender, cid, output)
