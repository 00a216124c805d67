"""The primary in normal operation (sections 4.1 and 6.2).

Rules:

1. A request enters the log once, however often it arrives: if it was executed, its cached reply goes out; if it is
   pending, the reply will go to whoever asked last.
2. At most `pipeline` batches are under way. While they are, requests gather beside the log; they enter it together, in
   one `Prepare`, when a batch is committed. Those that find fewer under way wait for whatever is in the mailbox behind
   them, and for what is likely to come (`haret.vr.gathering`). So an idle group answers at once, and a busy one works in
   large batches.
3. An op is committed when a quorum holds it in *this* view. Acknowledgements of other views never count. The primary's
   own counts when its disk has it; but `Prepare` leaves before that, so that the disks work at the same time, and if the
   others are quicker, nothing waits for this one.
4. Entries are executed in order, once; then their clients are answered. With `Settings.gather` that is done in portions of
   `answer_batch` entries (a timer of 0 seconds), so that clients work while it goes on; the next batch goes before that.
5. Nothing is ever lost for good: an idle primary tells its op in each heartbeat, a backup that lacks some of it asks for
   it, and repeats its acknowledgement while anything is uncommitted. Who has not acknowledged anything in this view is
   told again that the view has begun.
6. A wish for another view does not move a primary whose entries are committed; the fact that a replica has entered one
   does. A primary whose entries have not been committed for its patience, or whose reads have not been confirmed, may be
   one that is heard, but hears nobody. It stops its heartbeats and questions, which keep the others content, and wishes
   for another view like them. (Else a network that fails in one direction only would stop the group for as long as that
   lasts.) The same goes for one whose disk does nothing for that long: it takes no more requests, and lets the others go
   on without it.
7. A reconfiguration is the last entry of its epoch: from the moment that it is accepted, no request is (section 7.1).
8. A primary that was restarted never goes on in its view: it may have prepared entries that its journal does not have.

| message          | what it does                                                             |
|------------------|--------------------------------------------------------------------------|
| Request, OpenSession, CloseSession | rule 1                                                 |
| PrepareOK        | rule 3                                                                   |
| StartViewChange  | rule 6                                                                   |
| DoViewChange     | of a later view: join it; of this one: tell the sender that it has begun |
| Prepare, Commit, StartView | of a later view: state transfer; older: dropped                |
| Read             | answered when a quorum has confirmed the view: see `haret.vr.reads`      |
| Reconfigure      | rule 7                                                                   |
| Recovery         | answered                                                                 |
| nothing, for long | `Rest`, to all, if all have everything; then not even heartbeats        |
| GetState         | answered, if it is about this view, or from somebody new who catches up  |
| NewState         | dropped: nothing was asked                                               |
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from rabble_trio import CorrelationId, Outbox, Pid

from ..client_table import Key, entry_key
from ..configuration import Configuration
from ..context import Context
from ..gathering import Gathering
from ..log import entry_size, first_batch
from ..messages import (
    ANY_VIEW,
    CLIENT_ID_BYTES,
    CloseSession,
    Commit,
    ConfirmView,
    DoViewChange,
    Entry,
    Forgotten,
    GetState,
    InvalidRequest,
    NotPrimary,
    NotReady,
    OpenSession,
    Overloaded,
    Prepare,
    PrepareOK,
    Read,
    Reconfiguration,
    Reconfigure,
    Reconfigured,
    Recovery,
    Reply,
    Request,
    Rest,
    SessionClosed,
    SessionExpired,
    SessionOpened,
    StartView,
    ViewConfirmed,
)
from ..quorum import acknowledged
from ..reads import Reads
from .base import ToEpoch, Transition
from .waiting import Normal

Asker = tuple[Pid, CorrelationId | None]
"""Who gets the reply."""

NOTHING = -1
"""What a backup has acknowledged in this view before its first `PrepareOK`."""

MAX_NUMBER = 2**63 - 1
"""Session and request numbers stay below it, so that they fit the wire and sums of them don't grow."""


LAG = 1000
"""Entries that a new replica may lack when it becomes a member: they take it a fraction of a second."""

LEARNER_TICKS = 10
"""Heartbeats after which a new replica that has not asked for more is not counted as one that keeps up."""


class _Planned:
    """A reconfiguration that was asked for, until it is known who of the new members is there."""

    __slots__ = ("age", "alive", "cid", "configuration", "sender")

    def __init__(self, configuration: Configuration, sender: Pid, cid: CorrelationId | None) -> None:
        self.configuration = configuration
        self.sender = sender
        self.cid = cid
        self.age = 0
        self.alive: set[Pid] = set()


class Primary(Normal):
    """Status normal, and primary of the view."""

    status: ClassVar[str] = "normal"

    __slots__ = (
        "_acked",
        "_bytes",
        "_closing",
        "_commit",
        "_ends",
        "_gathering",
        "_goal",
        "_idle",
        "_incarnations",
        "_learners",
        "_log_view",
        "_pending",
        "_planned",
        "_queue",
        "_quiet",
        "_reads",
        "_start",
    )

    def __init__(self, ctx: Context, log_view: int, commit: int) -> None:
        super().__init__(ctx)
        self._log_view = log_view
        self._start = ctx.log.op
        self._commit = commit
        self._acked: dict[Pid, int] = dict.fromkeys(ctx.peers, NOTHING)
        self._incarnations: dict[Pid, int] = {}  # which incarnation of each acknowledged that
        # Entries that were accepted, and wait for their turn; the last ops of the batches under way.
        self._queue: list[Entry] = []
        self._ends: deque[int] = deque()
        self._gathering = Gathering(ctx)
        self._goal = max(commit, ctx.commit)  # up to which op entries are committed, though maybe not executed yet
        self._quiet = True
        self._closing = False  # a reconfiguration was accepted
        self._planned: _Planned | None = None
        self._learners: dict[Pid, tuple[int, int]] = {}  # replicas to be: what they have, and how long ago they said so
        self._pending: dict[Key, Asker | None] = {}
        self._bytes = 0
        self._idle = 0  # ticks for which there was nothing to do
        self._reads = Reads(ctx, self._start, self._gathering)
        self.handlers |= {
            Request: self.on_request,
            OpenSession: self.on_open_session,
            CloseSession: self.on_close_session,
            Read: self.on_read,
            Reconfigure: self.on_reconfigure,
            PrepareOK: self.on_prepare_ok,
            ViewConfirmed: self.on_view_confirmed,
            Prepare: self.on_later_view,
            Commit: self.on_later_view,
            StartView: self.on_later_view,
            DoViewChange: self.on_do_view_change,
            GetState: self.on_get_state,
            Recovery: self.on_recovery,
        }

    def enter(self, output: Outbox) -> Transition | None:
        ctx = self.ctx
        ctx.announce(output)
        epoch = ctx.epoch
        ctx.execute_to(self._commit, output)
        if ctx.epoch != epoch:
            return ToEpoch()
        # The pending layer of the client table, made from the log and from nothing else (defect D8).
        suffix = ctx.log.slice(ctx.commit, ctx.log.op)
        self._pending = dict.fromkeys(map(entry_key, suffix))
        self._bytes = sum(map(entry_size, suffix))
        self._closing = bool(suffix) and isinstance(suffix[-1], Reconfiguration)
        ctx.promise_all(self._start_view(), output)
        return None

    def leave(self, output: Outbox) -> None:
        # The new primary may or may not have these entries. The clients ask it, and it executes what it has not.
        # (Those that have not even entered the log are gone: nobody ever saw them.)
        ctx = self.ctx
        refusal = NotPrimary(ctx.epoch, ctx.view, None)
        for asker in self._pending.values():
            if asker is not None:
                ctx.send(asker[0], refusal, output, asker[1])
        if self._planned is not None:
            ctx.send(self._planned.sender, refusal, output, self._planned.cid)
        self._reads.leave(output)

    def tick(self, output: Outbox) -> Transition | None:
        ctx = self.ctx
        if ctx.stalled >= self.patience:
            self.silence = max(self.silence, self.patience)
        if self._planned is not None:
            self._planned.age += 1
            self._decide(self._planned, output)
        self._learners = {pid: (after, age + 1) for pid, (after, age) in self._learners.items() if age < LEARNER_TICKS}
        if not self._nothing_open() or self._reads.waiting or self.restless():
            transition = self.wait(output)
            if self.restless():
                return transition
        else:
            self.heard()
        # Not by one that is restless: asking keeps the others as content as a heartbeat does.
        self._reads.tick(output)
        self._idle = self._idle + 1 if self._all_done() else 0
        rest_after = ctx.settings.rest_after
        if rest_after and self._idle > ctx.settings.ticks(rest_after):
            ctx.broadcast(Rest(ctx.epoch, ctx.view, ctx.log.op, ctx.incarnation), output)
            return None
        commit = Commit(ctx.epoch, ctx.view, ctx.commit, ctx.log.op, ctx.incarnation)
        for peer, op in self._acked.items():
            if op == NOTHING:
                output.send(peer, self._start_view())
            elif self._quiet:
                ctx.send(peer, commit, output)
        self._quiet = True
        self._gathering.expected = 0
        return None

    def _nothing_open(self) -> bool:
        """Whether all that was accepted is committed."""
        return self.ctx.log.op == self.ctx.commit and not self._queue

    def _all_done(self) -> bool:
        """Whether all replicas have everything, and nobody waits for anything."""
        ctx = self.ctx
        return (
            ctx.log.op == ctx.commit == min(self._acked.values())
            and ctx.unsynced == 0
            and ctx.undigested is None
            and not self._queue
            and not self._learners
            and self._planned is None
            and not self._reads.waiting
        )

    def may_rest(self) -> bool:
        rest_after = self.ctx.settings.rest_after
        return bool(rest_after) and self._idle > self.ctx.settings.ticks(rest_after)

    def wake(self) -> None:
        """Somebody spoke."""
        self._idle = 0

    def restless(self) -> bool:
        # Not after half the patience, as a backup: one replica that hears nobody, and therefore always has a wish, must
        # not gain a supporter whenever acknowledgements are a little slow.
        return self.silence >= self.patience

    def heard(self) -> None:
        # A primary whose disk does nothing is not content because the others work.
        if self.ctx.stalled < self.patience:
            super().heard()

    def _start_view(self) -> StartView:
        ctx = self.ctx
        return StartView(ctx.epoch, ctx.view, self._log_view, self._start, ctx.commit, ctx.incarnation)

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
                ctx.send(sender, SessionExpired(message.session), output, cid)
                return
        else:
            done = session.results.get(number)
            if done is not None:
                reply = Reply(message.session, number, done[0], ctx.epoch, ctx.view, done[1])
                ctx.send(sender, reply, output, cid)
                return
            if number < session.lowest:
                self._given_up(message, sender, cid, output)
                return
            if session.kept > settings.max_kept_results and lowest <= session.lowest:
                ctx.count("overloaded")
                ctx.send(sender, Overloaded(), output, cid)
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
        ctx = self.ctx
        session = ctx.clients.of_client(message.client)
        if session is not None:
            ctx.send(sender, SessionOpened(session, ctx.epoch, ctx.view), output, cid)
            return
        self._accept(message.client, message, sender, cid, output)

    def on_close_session(self, message: CloseSession, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Closing is an operation of the group as well. Closing what is gone succeeds."""
        ctx = self.ctx
        if message.session <= ctx.commit and ctx.clients.get(message.session) is None:
            ctx.send(sender, SessionClosed(message.session), output, cid)
            return
        self._accept(message.session, message, sender, cid, output)

    def _accept(self, key: Key, entry: Entry, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        pending = self._pending
        if key in pending:
            pending[key] = (sender, cid)
            return
        ctx, settings = self.ctx, self.ctx.settings
        if (
            self._closing
            or len(pending) >= settings.max_uncommitted
            or self._bytes > settings.max_uncommitted_bytes
            or ctx.unsynced > settings.max_unsynced
        ):
            ctx.count("overloaded")
            ctx.send(sender, Overloaded(), output, cid)
            return
        self._queue.append(entry)
        self._bytes += entry_size(entry)
        pending[key] = (sender, cid)
        self._gathering.came()
        if self._may_send():
            self._gather(output)

    def _may_send(self) -> bool:
        """Whether what waits may enter the log now."""
        return bool(self._queue) and len(self._ends) < self.ctx.settings.pipeline and not self.restless()

    def _gather(self, output: Outbox) -> None:
        """Something may go, and what is in the mailbox behind it may go with it."""
        if not self.ctx.settings.gather:
            self.gathered(output)
        else:
            self._gathering.begin(len(self._queue) + self._reads.asked, output)

    def gathered(self, output: Outbox) -> None:
        if self.ctx.settings.gather and not self._gathering.over(len(self._queue) + self._reads.asked, output):
            return
        if self._may_send():
            self._send_batch(output)
        if self._reads.may_begin:
            self._reads.begin(output)

    def _refuse(self, reason: str, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        self.ctx.count("invalid_requests")
        self.ctx.send(sender, InvalidRequest(reason), output, cid)

    def _given_up(self, request: Request, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        self._refuse(
            f"request {request.number} of session {request.session} is below the lowest number that the client said "
            "it still wants",
            sender,
            cid,
            output,
        )

    def on_read(self, message: Read, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """A question that changes nothing."""
        self._reads.ask(message, sender, cid, output)
        self._gathering.came()
        if self._reads.may_begin:
            self._gather(output)

    def on_view_confirmed(self, message: ViewConfirmed, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """A backup is still in this view."""
        if message.view != self.ctx.view:
            return
        if message.round:
            if self._reads.confirmed(message.round, sender, output) and self._nothing_open():
                self.heard()
        elif self._planned is not None:
            self._planned.alive.add(sender)
            self._decide(self._planned, output)

    # --- Agreement ---

    def _send_batch(self, output: Outbox) -> None:
        ctx, queue = self.ctx, self._queue
        entries = first_batch(queue[: ctx.settings.batch_entries], ctx.settings.batch_bytes)
        del queue[: len(entries)]
        prepare = Prepare(ctx.epoch, ctx.view, ctx.log.op + 1, self._goal, entries, ctx.incarnation)
        ctx.append(entries, output)
        self._ends.append(ctx.log.op)
        self._quiet = False
        ctx.count("prepares")
        ctx.broadcast(prepare, output)

    def on_prepare_ok(
        self, message: PrepareOK, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """Section 4.1, step 4. Acks are cumulative, so a late one changes nothing."""
        ctx = self.ctx
        if message.view != ctx.view or not 0 <= message.op <= ctx.log.op:
            ctx.count("dropped_prepare_ok")
            return None
        before = self._acked[sender]
        if message.op <= before:
            if message.op < before and message.incarnation > self._incarnations[sender]:
                # A restarted replica has less than it acknowledged: its disk has lost something.
                ctx.send(sender, Forgotten(ctx.epoch, ctx.view, before, ctx.incarnation), output)
            return None
        self._acked[sender] = message.op
        self._incarnations[sender] = message.incarnation
        return self._count_votes(output)

    def on_persisted(self, output: Outbox) -> Transition | None:
        """The primary's own vote (rule 3)."""
        return self._count_votes(output)

    def _count_votes(self, output: Outbox) -> Transition | None:
        ctx = self.ctx
        votes = self._acked.values()
        own = ctx.own_vote if ctx.settled else NOTHING
        # The last of them all is the slowest, so its vote is only needed if there is no quorum without it.
        commit = acknowledged((*votes, own), ctx.quorum)
        return self._commit_to(commit, output) if commit > self._goal else None

    def _commit_to(self, commit: int, output: Outbox) -> Transition | None:
        """Section 4.1, step 5: what waits for this may go on its way, and then entries are executed and answered."""
        ends = self._ends
        self._goal = commit
        self.heard()
        while ends and ends[0] <= commit:
            ends.popleft()
        while self._may_send():
            self._send_batch(output)
        return self.go_on(output)

    def go_on(self, output: Outbox) -> Transition | None:
        """Execute what is committed, a bit at a time (rule 4)."""
        ctx = self.ctx
        epoch, view = ctx.epoch, ctx.view
        gather, batch = ctx.settings.gather, ctx.settings.answer_batch
        portion = max(batch, (self._goal - ctx.commit) // 4) if gather else self._goal
        upto = min(self._goal, ctx.commit + portion)
        while ctx.commit < upto:
            entries = ctx.log.slice(ctx.commit, ctx.segment(upto))
            self._execute(entries, output)
            ctx.executed(entries, output)
        if ctx.epoch != epoch:
            return self._end_epoch(epoch, view, output)
        self._reads.committed(output)
        if ctx.commit < self._goal:
            output.start_timer(0, ctx.commit_timer)
        return None

    def _execute(self, entries: list[Entry], output: Outbox) -> None:
        ctx, pending = self.ctx, self._pending
        clients, apply, epoch, view = ctx.clients, ctx.machine.apply, ctx.epoch, ctx.view
        send = output.send
        answered = 0
        for op, entry in enumerate(entries, ctx.commit + 1):
            if isinstance(entry, Request):
                self._bytes -= entry_size(entry)
                done = clients.request(op, entry, apply)
                session, number = entry.session, entry.number
                asker = pending.pop((session, number), None)
                if asker is None:
                    continue
                answered += 1
                if done is not None:
                    # What is committed is known to a quorum, so the answer need not wait for this replica's disk.
                    send(asker[0], Reply(session, number, done[0], epoch, view, done[1]), asker[1], held=False)
                elif clients.get(session) is None:
                    send(asker[0], SessionExpired(session), asker[1], held=False)
                else:
                    self._given_up(entry, asker[0], asker[1], output)
            else:
                self._commit_session(op, entry, output)
        self._gathering.expected += answered

    def _commit_session(self, op: int, entry: Entry, output: Outbox) -> None:
        ctx = self.ctx
        self._bytes -= entry_size(entry)
        asker = self._pending.pop(entry_key(entry), None)
        answer: SessionOpened | SessionClosed | Reconfigured
        if isinstance(entry, OpenSession):
            answer = SessionOpened(ctx.clients.open(op, entry.client), ctx.epoch, ctx.view)
        elif isinstance(entry, CloseSession):
            ctx.clients.close(entry.session)
            answer = SessionClosed(entry.session)
        elif isinstance(entry, Reconfiguration):
            answer = Reconfigured(entry.epoch + 1, entry.replicas)
        if asker is not None:
            output.send(asker[0], answer, asker[1], held=False)

    # --- Reconfiguration (section 7) ---

    def on_get_state(self, message: GetState, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Somebody catches up."""
        if message.view == ANY_VIEW and sender not in self._acked:
            self._learners[sender] = (message.after, 0)
        super().on_get_state(message, sender, cid, output)

    def on_reconfigure(self, message: Reconfigure, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Section 7.1. First find out who is there: it is refused if the group could not go on with the new members."""
        ctx = self.ctx
        if message.epoch != ctx.epoch:
            self._refuse(f"the group is in epoch {ctx.epoch}, not {message.epoch}", sender, cid, output)
            return
        try:
            new = Configuration(ctx.epoch + 1, message.replicas)
        except ValueError as error:
            self._refuse(str(error), sender, cid, output)
            return
        if new.replicas == ctx.configuration.replicas:
            self._refuse("these are the members already", sender, cid, output)
        elif self._closing or self._planned is not None:
            ctx.send(sender, NotReady("another reconfiguration is under way"), output, cid)
        else:
            self._planned = _Planned(new, sender, cid)
            ctx.broadcast(ConfirmView(ctx.epoch, ctx.view, 0, ctx.incarnation), output)

    def _decide(self, planned: _Planned, output: Outbox) -> None:
        """Some have said that they are there, or have had the time to do so."""
        ctx, new = self.ctx, planned.configuration
        slow = [pid for pid in new.replicas if not self._keeps_up(pid, planned.alive)]
        if slow and planned.age < ctx.settings.ticks(ctx.settings.resend):
            return
        self._planned = None
        if len(new.replicas) - len(slow) < new.quorum:
            text = (
                f"{new.quorum} of the {len(new.replicas)} new members must be up and have caught up; these have not: "
                + ", ".join(map(str, slow))
            )
            ctx.send(planned.sender, NotReady(text), output, planned.cid)
            return
        entry = Reconfiguration(ctx.epoch, new.replicas)
        key = entry_key(entry)
        self._accept(key, entry, planned.sender, planned.cid, output)
        self._closing = key in self._pending

    def _keeps_up(self, pid: Pid, alive: set[Pid]) -> bool:
        least = max(0, self.ctx.commit - LAG)
        if pid in self._learners:
            return self._learners[pid][0] >= least
        return pid == self.ctx.pid or (pid in alive and self._acked.get(pid, NOTHING) >= least)

    def _end_epoch(self, epoch: int, view: int, output: Outbox) -> Transition:
        """Tell the others of the old epoch that its last entry is committed, by its own name for it (defect D19)."""
        ctx = self.ctx
        commit = Commit(epoch, view, ctx.commit, ctx.commit, ctx.incarnation)
        for peer in self._acked:
            ctx.send(peer, commit, output)
        return ToEpoch()

    # --- Other views ---

    def on_do_view_change(
        self, message: DoViewChange, sender: Pid, cid: CorrelationId | None, output: Outbox
    ) -> Transition | None:
        """A vote. If it is for this view, it comes too late to count, from one that does not know yet."""
        if message.view == self.ctx.view:
            output.send(sender, self._start_view())
            return None
        return self.on_later_vote(message, sender, cid, output)

    def on_recovery(self, message: Recovery, sender: Pid, cid: CorrelationId | None, output: Outbox) -> None:
        """Section 4.3. What it acknowledged before, it does not hold any more."""
        self._acked[sender] = NOTHING
        self.respond(message, sender, output)
