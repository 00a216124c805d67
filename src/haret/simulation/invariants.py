"""What must hold after every step of every replica. Numbers are those of the list that the tests share.

     1 agreement      replicas that committed op n have the same entry there, and equal states after it
     2 structure      log start <= op of the newest image <= commit <= op; what was cut off is in an image, so that any
                      question about the log can be answered (14)
     3 single apply   each replica applies operations in the order of their ops, each once
     4 views          a replica's numbers never decrease, and the log it has in a view is the one the view began with
     5 one primary    all that is said of a view's beginning agrees; one op of a view has one entry
     6 durability     what is committed is on the disks of a quorum, in its view: an acknowledgement that was heard says so
     7 completeness   a view begins with all that was committed in earlier views
     8 fence          a replica that voted for a view takes no part in earlier ones, whatever it remembers of itself
     9 truth          a vote covers all that the voter acknowledged in the view of its log
    10 silence        only normal replicas speak for a view; recovering ones say nothing, and whoever was started without its
                      memory recovers before it takes part, however often it is started again
    11 exactly once   an operation is executed once, and all replies to a request are equal
    12 linearizable   executed in one order that agrees with real time; every reply is what that order gives, reads included
    13 epochs         nothing is committed in an epoch after its last entry; each epoch begins with all before it; who leaves
                      stops only when a quorum of the next members has begun
    16 stamps         each message between replicas carries the incarnation that sent it
    17 bounds         the log is cut off in time; that groups converge is the scenario's to say

A view here is a pair, (epoch, view), because the views of each epoch begin at 0.

What is held back until it is durable may never leave, so what two incarnations of a replica say is compared only when it is
heard (`_hear`).

The checks are told which replica moved and what it sent (`rabble_trio.testing.Step`), so they look at nothing else but
for 6, which looks at all replicas, once for each commit. They use the replicas' insides; nothing there knows of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NoReturn

from haret.vr import Replica
from haret.vr.log import Log
from haret.vr.messages import (
    Commit,
    ConfirmView,
    DoViewChange,
    Entry,
    ImagePart,
    NewState,
    Prepare,
    PrepareOK,
    Read,
    ReadReply,
    Reconfiguration,
    RecoveryResponse,
    Reply,
    Request,
    SessionOpened,
    StaleRead,
    StartView,
    StartViewChange,
)
from haret.vr.replica import BETWEEN_REPLICAS
from rabble_trio import Pid
from rabble_trio.testing import Step

from .client import Client
from .machine import Ledger

PEER_MESSAGES = frozenset(
    {Prepare, PrepareOK, Commit, StartViewChange, DoViewChange, StartView, NewState, ImagePart, RecoveryResponse}
)
"""What a recovering replica must not send."""

View = tuple[int, int]
"""Epoch and view."""


class InvariantBroken(AssertionError):
    """An invariant does not hold. `number` is the one at the top of this file."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"invariant {number}: {text}")
        self.number = number


def _broken(number: int, text: str) -> NoReturn:
    raise InvariantBroken(number, text)


class _Last:
    """What a replica was like after its last step."""

    __slots__ = ("acked", "applied", "commit", "last_normal_view", "status", "view", "voted")

    def __init__(self) -> None:
        self.view = self.last_normal_view = (0, 0)
        self.commit = self.applied = 0
        self.status = "normal"
        self.voted = (0, 0)
        self.acked: dict[View, int] = {}  # view -> highest op acknowledged in it


class _Piece:
    """Entries of consecutive ops."""

    __slots__ = ("entries", "op", "start")

    def __init__(self, log: Log, upto: int) -> None:
        self.start = min(log.start, upto)
        self.op = upto
        self.entries = log.slice(self.start, upto) if upto >= log.start else []

    def in_log(self, log: Log) -> bool:
        """Whether a log has these entries, as far as it has not cut them off."""
        if log.op < self.op:
            return False
        start = max(self.start, log.start)
        return start >= self.op or log.slice(start, self.op) == self.entries[start - self.start :]

    def same(self, other: _Piece) -> bool:
        """Whether these are the same entries, as far as neither was cut off."""
        start = max(self.start, other.start)
        mine, theirs = self.entries[start - self.start :], other.entries[start - other.start :]
        return self.op == other.op and mine == theirs


HEARD = frozenset({DoViewChange, StartView, Prepare, PrepareOK, Commit, NewState, ConfirmView, RecoveryResponse})
"""What tells that somebody voted or acknowledged, or that a view has begun."""


class ReplicaInvariants:
    """Invariants 1 to 10, 13 and 16 over a group. `quorum`: how many replicas decide in its first epoch."""

    def __init__(self, quorum: int) -> None:
        self._quorum = {0: quorum}
        self.committed: list[Entry] = []
        """The entries of all committed ops, from op 1."""
        self._views: list[View] = []  # in which view each was committed first; never decreases
        self._ends: dict[int, int] = {}  # epoch -> its last op
        self._states: dict[int, bytes] = {}  # commit -> digest of state machine and client table
        self._prepared: dict[int, dict[View, Entry]] = {}  # op -> view -> entry
        self._begun: dict[View, _Piece] = {(0, 0): _Piece(Log(), 0)}  # view -> the log that it began with
        self._claims: dict[tuple[View, Pid, int], _Piece] = {}  # the same, of a primary that nobody has heard yet
        # By replica: view -> highest op that it was ever heard to acknowledge in it, in whichever incarnation.
        self._acked: dict[Pid, dict[View, int]] = {}
        # The latest view voted for, over all incarnations, as far as the vote was heard: the promise counts from then on.
        self._voted: dict[Pid, View] = {}
        self._wiped: dict[Pid, int] = {}  # the first incarnation that knew nothing of earlier promises
        self._forgot: set[Pid] = set()  # started without their memory, and have not recovered since
        self._begun_epochs: dict[Pid, int] = {}  # the latest epoch that each took part in
        self._last: dict[str, _Last] = {}
        self._replicas: dict[str, Replica] = {}
        self._said: Any = None  # the Prepare or StartView that was checked last: it is broadcast
        self._on_sent: dict[type, Callable[[Step, Replica, _Last, Any], None]] = {
            Prepare: self._prepare,
            PrepareOK: self._prepare_ok,
            Commit: self._speaks,
            DoViewChange: self._vote,
            StartView: self._start_view,
            NewState: self._speaks_or_votes,
            RecoveryResponse: self._speaks,
        }

    def __call__(self, step: Step) -> None:
        """A step was taken."""
        replica = step.process
        if not isinstance(replica, Replica):
            return
        if step.event == "crash":
            self._replicas.pop(step.name, None)
            return
        ctx = replica.context
        status = replica.status
        if step.event == "start":
            last = self._last[step.name] = _Last()
            self._replicas[step.name] = replica
            self._memory(step, status)
            last.commit, last.applied = ctx.commit, len(getattr(ctx.machine, "history", ()))
            if status == "recovering" and ctx.view == 0:
                # Its disk is gone, and with it what it promised. The others see to it that the old promises hold.
                self._voted.pop(step.pid, None)
                self._wiped[step.pid] = ctx.incarnation
            self._restored(step.name, replica)
        last = self._last[step.name]
        if step.sender is not None and type(step.message) in HEARD:
            self._hear(step.message, step.sender)
        for to, message, _, held in step.output:
            kind = type(message)
            if kind is Prepare and not held:
                self._same_entries(message, step.name)
                self._said_committed(message.commit, ctx, last.view)
            check = self._on_sent.get(kind)
            if check is not None:
                check(step, replica, last, message)
            if kind in BETWEEN_REPLICAS and message.incarnation != ctx.incarnation:
                _broken(16, f"{step.name} sends {message}, in incarnation {ctx.incarnation}")
            if last.status == status == "recovering" and kind in PEER_MESSAGES and message.epoch == ctx.epoch:
                _broken(10, f"{step.name} is recovering and sends {message} to {to}")
        view, normal = (ctx.epoch, ctx.view), (ctx.epoch, ctx.last_normal_view)
        before, status_before = last.view, last.status
        if view != last.view or normal != last.last_normal_view or status != last.status:
            self._view_changed(step.name, replica, last)
        commit, log = ctx.commit, ctx.log
        image = ctx.images[0].op if ctx.images else 0
        if not log.start <= image <= commit <= log.op:
            _broken(2, f"{step.name} has log start {log.start}, image {image}, commit {commit}, op {log.op}")
        if commit != last.commit:
            self._commit_moved(step.name, replica, last, before)
        if status != status_before or ctx.epoch != before[0]:
            self._part_changed(step.name, replica, status_before)

    def _memory(self, step: Step, status: str) -> None:
        """A replica starts: does it know whether it remembers?"""
        if status == "recovering":
            self._forgot.add(step.pid)
        elif step.pid in self._forgot and status in {"normal", "view-change"}:
            _broken(10, f"{step.name} lost its memory, did not recover, and is {status} when it is started again")

    def _part_changed(self, name: str, replica: Replica, before: str) -> None:
        """A replica begins to take part, perhaps in another epoch, or does so no more."""
        ctx, status = replica.context, replica.status
        if status in {"normal", "view-change"}:
            self._forgot.discard(ctx.pid)
            self._begun_epochs[ctx.pid] = ctx.epoch
            if ctx.epoch and ctx.epoch_start != self._ends.get(ctx.epoch - 1):
                ended = self._ends.get(ctx.epoch - 1)
                _broken(
                    13, f"{name} begins epoch {ctx.epoch} after op {ctx.epoch_start}; the one before ended at {ended}"
                )
        elif (before, status) == ("leaving", "learning"):
            begun = sum(self._begun_epochs.get(pid, 0) >= ctx.epoch for pid in ctx.configuration.replicas)
            if begun < ctx.quorum:
                _broken(13, f"{name} stops, and {begun} members of epoch {ctx.epoch} have begun it")

    def _hear(self, message: Any, sender: Pid) -> None:
        view = (message.epoch, message.view)
        if type(message) is PrepareOK:
            acked = self._acked.setdefault(sender, {})
            acked[view] = max(message.op, acked.get(view, 0))
            return
        if type(message) is DoViewChange:
            if message.incarnation >= self._wiped.get(sender, 0):
                self._voted[sender] = max(view, self._voted.get(sender, (0, 0)))
            return
        if type(message) is Prepare:
            self._same_entries(message, sender.name)
        claim = self._claims.pop((view, sender, message.incarnation), None)
        if claim is not None:
            known = self._begun.setdefault(view, claim)
            if not known.same(claim):
                _broken(5, f"{sender.name} begins view {view}, which had begun with another log")

    def _same_entries(self, message: Prepare, name: str) -> None:
        view = (message.epoch, message.view)
        for op, entry in enumerate(message.entries, message.first):
            known = self._prepared.setdefault(op, {}).setdefault(view, entry)
            if known is not entry and known != entry:
                _broken(5, f"{name} prepares another op {op} in view {view} than was prepared before")

    def _restored(self, name: str, replica: Replica) -> None:
        ctx = replica.context
        if _Piece(ctx.log, ctx.commit).entries != self.committed[ctx.log.start : ctx.commit]:
            _broken(1, f"{name} remembers other committed entries than there were")

    # --- What changed ---

    def _view_changed(self, name: str, replica: Replica, last: _Last) -> None:
        ctx, status = replica.context, replica.status
        view, normal = (ctx.epoch, ctx.view), (ctx.epoch, ctx.last_normal_view)
        forgot = status == "recovering" and last.status != status
        if (view < last.view or normal < last.last_normal_view) and not forgot:
            _broken(4, f"{name} went back from view {last.view}/{last.last_normal_view} to {view}")
        if normal > view or (status == "normal" and normal != view):
            _broken(4, f"{name} is {status} in view {view} with the log of view {normal}")
        if status == "normal" and (normal != last.last_normal_view or last.status != status):
            if ctx.last_normal_view == 0 and ctx.epoch:
                self._begun.setdefault(normal, _Piece(ctx.log, ctx.epoch_start))
            elif ctx.is_primary(ctx.last_normal_view) and normal != last.last_normal_view:
                self._claims[normal, ctx.pid, ctx.incarnation] = _Piece(ctx.log, ctx.log.op)
            begun = self._begun.get(normal) or self._claims.get((normal, ctx.pid, ctx.incarnation))
            if begun is None or not begun.in_log(ctx.log):
                _broken(4, f"{name} has not the log that view {normal} began with")
        last.view, last.last_normal_view, last.status = view, normal, status

    def _commit_moved(self, name: str, replica: Replica, last: _Last, view: View) -> None:
        """`view`: the replica's before the step."""
        ctx = replica.context
        before, commit = last.commit, ctx.commit
        if commit < before:
            # Only one that has found its memory to be incomplete begins anew.
            if not ctx.counters.get("lost"):
                _broken(1, f"{name} went back from commit {before} to {commit}")
            last.commit, last.applied = commit, 0
            if commit == 0:
                return
            before = 0
        settings = ctx.settings
        if commit - ctx.log.start >= 2 * (settings.checkpoint_ops + settings.checkpoint_step):
            _broken(
                17, f"{name} has not cut off its log, which begins at op {ctx.log.start}; it has committed {commit}"
            )
        self._cut_off_at_once(ctx, view)
        before = max(before, ctx.log.start)
        entries = ctx.log.slice(before, commit)
        known = self.committed[before:commit]
        if entries[: len(known)] != known:
            _broken(1, f"{name} disagrees about an op between {before + 1} and {commit}")
        if len(known) < len(entries):
            self._new_committed(entries[len(known) :], ctx, view)
        if commit > len(self.committed):
            _broken(1, f"{name} has an image of op {commit}, which nobody committed")
        state = ctx.machine.digest() + ctx.clients.digest()
        if self._states.setdefault(commit, state) != state:
            _broken(1, f"{name} has another state after op {commit} than others had")
        self._applied(name, ctx.machine, last)
        last.commit = commit

    def _said_committed(self, commit: int, ctx: Any, before: View) -> None:
        """A primary may say so before it executes, and others may do so first."""
        known = len(self.committed)
        if commit > known >= ctx.log.start:
            self._new_committed(ctx.log.slice(known, commit), ctx, before)

    def _cut_off_at_once(self, ctx: Any, before: View) -> None:
        """Entries may be committed and cut off in one step; then they are what was prepared last."""
        view = (ctx.epoch, ctx.view)
        while len(self.committed) < ctx.log.start:
            prepared = self._prepared.get(len(self.committed) + 1, {})
            views = [one for one in prepared if one <= view]
            if not views:
                return
            self._new_committed([prepared[max(views)]], ctx, before)

    def _new_committed(self, entries: list[Entry], ctx: Any, before: View) -> None:
        last = entries[-1]
        ended = any(isinstance(entry, Reconfiguration) for entry in entries)
        epoch = len(self._ends)
        view = (epoch, ctx.view if ctx.epoch == epoch else 0)
        if before[0] == epoch:
            # Executing the last entry of an epoch begins the next one, in view 0; the entry was committed before that.
            view = max(view, before)
        for entry in entries:
            op = len(self.committed) + 1
            if isinstance(entry, Reconfiguration) and entry.epoch != len(self._ends):
                _broken(13, f"op {op} ends epoch {entry.epoch}, in epoch {len(self._ends)}")
            self.committed.append(entry)
            self._views.append(max(view, self._views[-1]) if self._views else view)
            if isinstance(entry, Reconfiguration):
                self._ends[entry.epoch] = op
                size = len(entry.replicas)
                self._quorum[entry.epoch + 1] = size - (size - 1) // 2
        if len(self._ends) > ctx.epoch:
            _broken(13, f"{ctx.pid.name} executed the last entry of epoch {ctx.epoch}, and is still in it")
        if not ended:
            self._durable(len(self.committed), last, view)

    def _applied(self, name: str, machine: Any, last: _Last) -> None:
        if isinstance(machine, Ledger):
            history = machine.history
            for index in range(last.applied, len(history)):
                if index and history[index][0] <= history[index - 1][0]:
                    _broken(3, f"{name} applied op {history[index][0]} after op {history[index - 1][0]}")
            last.applied = len(history)

    def _durable(self, op: int, entry: Entry, view: View) -> None:
        # An acknowledgement leaves when it is durable; and whoever lost its memory since is one of the losses that the
        # group can bear. The one that commits knows what of its own log is durable.
        holders = {pid for pid, acked in self._acked.items() if acked.get(view, 0) >= op}
        for replica in self._replicas.values():
            ctx = replica.context
            durable = ctx.durable_op if ctx.durable else ctx.log.op
            if (ctx.epoch, ctx.last_normal_view) < view or durable < op:
                continue
            if ctx.log.start >= op or ctx.log.slice(op - 1, op)[0] == entry:
                holders.add(ctx.pid)
        if len(holders) < self._quorum[view[0]]:
            _broken(6, f"op {op} was committed in view {view} with {len(holders)} durable copies")

    # --- What was sent ---

    def _speaks(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        if "normal" not in (last.status, replica.status):
            _broken(10, f"{step.name} is {replica.status} and sends {message}")

    def _speaks_or_votes(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        allowed = {"normal", "view-change", "learning", "leaving"} if message.view < 0 else {"normal", "view-change"}
        if not {last.status, replica.status} & allowed:
            _broken(10, f"{step.name} is {replica.status} and sends {message}")

    def _takes_part(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        self._speaks(step, replica, last, message)
        voted = max(last.voted, self._voted.get(step.pid, (0, 0)))
        if (message.epoch, message.view) < voted:
            _broken(8, f"{step.name} voted for view {voted} and sends {message}")

    def _prepare(self, step: Step, replica: Replica, last: _Last, message: Prepare) -> None:
        if message is self._said:
            return
        self._said = message
        self._takes_part(step, replica, last, message)

    def _prepare_ok(self, step: Step, replica: Replica, last: _Last, message: PrepareOK) -> None:
        self._takes_part(step, replica, last, message)
        if message.op > replica.context.log.op:
            _broken(9, f"{step.name} acknowledges op {message.op} and has {replica.context.log.op}")
        # (That it leaves only when it is durable, the simulated journal sees to.)
        view = (message.epoch, message.view)
        last.acked[view] = max(message.op, last.acked.get(view, 0))

    def _vote(self, step: Step, replica: Replica, last: _Last, message: DoViewChange) -> None:
        view = (message.epoch, message.view)
        last.voted = max(view, last.voted)
        normal = (message.epoch, message.last_normal_view)
        # What an earlier incarnation acknowledged counts, too: if its log was lost, the one that it recovered has it.
        acked = max(last.acked.get(normal, 0), self._acked.get(step.pid, {}).get(normal, 0))
        if message.op < acked:
            _broken(9, f"{step.name} votes with op {message.op} and acknowledged {acked} in that view")

    def _start_view(self, step: Step, replica: Replica, last: _Last, message: StartView) -> None:
        if message is self._said:
            return
        self._said = message
        self._speaks(step, replica, last, message)
        view, start = (message.epoch, message.view), message.start
        ctx = replica.context
        begun = self._begun.get(view)
        if begun is not None and (ctx.epoch, ctx.view) == last.view == view and last.status == "normal":
            # Said again: the log of a view only grows, so what it began with can't have changed.
            if begun.op != start:
                _broken(5, f"view {view} began with {begun.op} entries, {step.name} says {start}")
            return
        log = _Piece(ctx.log, start)
        known = self._claims.setdefault((view, step.pid, message.incarnation), log)
        if not known.same(log):
            _broken(5, f"{step.name} begins view {view}, which had begun with another log")
        earlier = len(self._views)
        while earlier and self._views[earlier - 1] >= view:
            earlier -= 1
        if start < earlier or log.entries[: max(0, earlier - log.start)] != self.committed[log.start : earlier]:
            _broken(7, f"{step.name} begins view {view} without an op up to {earlier} that was committed before")


class ClientInvariants:
    """Invariants 11 and 12: what clients see is what one machine would do that executes one operation after the other."""

    def __init__(self) -> None:
        self._model = Ledger()
        self._results: dict[int, tuple[bytes, bytes]] = {}  # op -> operation, result
        self._executed: set[bytes] = set()
        self._seen: dict[str, int] = {}  # how much of each replica's history was looked at
        self._replies: dict[tuple[int, int], Reply] = {}
        self._sent: dict[tuple[int, int], int] = {}  # request -> newest op that was answered before it was sent first
        self._newest = 0
        self._ops: list[int] = []  # the ops of what was executed
        self._asked: dict[tuple[str, int], int] = {}  # reads: newest op that was answered before each, or its token
        self.requests = 0
        """Requests made."""
        self.answers = 0
        """Requests answered."""

    def __call__(self, step: Step) -> None:
        """A step was taken."""
        process = step.process
        if isinstance(process, Replica):
            self._replica(step, process)
        elif isinstance(process, Client):
            self._client(step)

    def _replica(self, step: Step, replica: Replica) -> None:
        if step.event == "start":
            self._seen[step.name] = 0
        machine = replica.context.machine
        if isinstance(machine, Ledger) and len(machine.history) < self._seen[step.name]:
            self._seen[step.name] = 0
        if isinstance(machine, Ledger) and len(machine.history) > self._seen[step.name]:
            self._executes(step.name, machine)
        for _, message, _, _ in step.output:
            if type(message) is Reply:
                self._reply(step.name, message)
            elif type(message) is SessionOpened and message.session > replica.context.commit:
                _broken(11, f"{step.name} opens a session by op {message.session}, which is not committed")

    def _executes(self, name: str, machine: Ledger) -> None:
        for op, operation, result in machine.history[self._seen[name] :]:
            if op not in self._results:
                if operation in self._executed:
                    _broken(11, f"{name} executes {operation!r} a second time, as op {op}")
                self._executed.add(operation)
                self._ops.append(op)
                self._results[op] = (operation, self._model.apply(op, operation))
            if self._results[op] != (operation, result):
                _broken(12, f"{name} executes op {op}, {operation!r}, with another result than one machine alone has")
        self._seen[name] = len(machine.history)

    def _reply(self, name: str, reply: Reply) -> None:
        key = (reply.session, reply.number)
        known = self._replies.setdefault(key, reply)
        if (known.op, known.result) != (reply.op, reply.result):
            _broken(11, f"{name} answers request {key} with {reply}, after {known}")
        if self._results.get(reply.op, (b"", b""))[1] != reply.result:
            _broken(12, f"{name} answers request {key} with a result that op {reply.op} did not have")

    def _client(self, step: Step) -> None:
        if type(step.message) is Reply:
            self._answered(step.message)
        elif type(step.message) is ReadReply and step.correlation_id is not None:
            self._read(step.name, step.correlation_id.request or 0, step.message)
        for _, message, cid, _ in step.output:
            if type(message) is Read and cid is not None:
                self._asked[step.name, cid.request or 0] = self._newest
            elif type(message) is StaleRead and cid is not None:
                self._asked[step.name, cid.request or 0] = message.least
            elif type(message) is Request and (message.session, message.number) not in self._sent:
                self._sent[message.session, message.number] = self._newest
                self.requests += 1

    def _answered(self, reply: Reply) -> None:
        known = self._sent.get((reply.session, reply.number))
        if known is None:
            _broken(12, f"a reply to a request that nobody made: {reply}")
        if known < 0:
            return
        if reply.op <= known:
            _broken(12, f"op {known} was answered before the request was made that is op {reply.op}")
        self._sent[reply.session, reply.number] = -1
        self._newest = max(self._newest, reply.op)
        self.answers += 1

    def _read(self, name: str, number: int, reply: ReadReply) -> None:
        known = self._asked.get((name, number))
        if known is None:
            return
        if reply.op < known:
            _broken(12, f"{name} read the state of op {reply.op}, and op {known} was answered before it asked")
        before = bisect_right(self._ops, reply.op)
        expected = self._results[self._ops[before - 1]][1] if before else b"0 "
        if reply.result != expected:
            _broken(12, f"{name} read {reply.result!r} at op {reply.op}, and the state was {expected!r}")
        self.answers += 1
