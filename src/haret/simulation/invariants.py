"""What must hold after every step of every replica. Numbers are those of the list that the tests share.

     1 agreement      replicas that committed op n have the same entry there, and equal states after it
     2 structure      log start <= commit <= op; nothing was cut off, so that any question about the log can be answered
     3 single apply   each replica applies operations in the order of their ops, each once
     4 views          a replica's numbers never decrease, and the log it has in a view is the one the view began with
     5 one primary    all that is said of a view's beginning agrees; one op of a view has one entry
     6 durability     what is committed is held by a quorum, or was acknowledged in its view by those that crashed since
     7 completeness   a view begins with all that was committed in earlier views
     8 fence          a replica that voted for a view takes no part in earlier ones
     9 truth          a vote covers all that the voter acknowledged in the view of its log
    10 silence        only normal replicas speak for a view; recovering ones say nothing
    11 exactly once   an operation is executed once, and all replies to a request are equal
    12 linearizable   executed in one order that agrees with real time; every reply is what that order gives

The checks are told which replica moved and what it sent (`rabble_trio.testing.Step`), so they look at nothing else but
for 6, which looks at all replicas, once for each commit. They use the replicas' insides; nothing there knows of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from haret.vr import Replica
from haret.vr.messages import (
    Commit,
    DoViewChange,
    Entry,
    GetState,
    NewState,
    Prepare,
    PrepareOK,
    Reply,
    Request,
    SessionOpened,
    StartView,
    StartViewChange,
)
from rabble_trio import Pid
from rabble_trio.testing import Step

from .client import Client
from .machine import Ledger

PEER_MESSAGES = frozenset({Prepare, PrepareOK, Commit, StartViewChange, DoViewChange, StartView, GetState, NewState})
"""What a recovering replica must not send."""


class InvariantBroken(AssertionError):
    """An invariant does not hold. `number` is the one at the top of this file."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"invariant {number}: {text}")
        self.number = number


def _broken(number: int, text: str) -> NoReturn:
    raise InvariantBroken(number, text)


class _Last:
    """What a replica was like after its last step."""

    __slots__ = ("acked", "applied", "commit", "last_normal_view", "status", "view")

    def __init__(self) -> None:
        self.view = self.last_normal_view = self.commit = self.applied = 0
        self.status = "normal"
        self.acked: dict[int, int] = {}  # view -> highest op acknowledged in it


class ReplicaInvariants:
    """Invariants 1 to 10 over a group. `quorum`: how many replicas decide."""

    def __init__(self, quorum: int) -> None:
        self._quorum = quorum
        self.committed: list[Entry] = []
        """The entries of all committed ops, from op 1."""
        self._views: list[int] = []  # in which view each was committed first; never decreases
        self._states: dict[int, bytes] = {}  # commit -> digest of state machine and client table
        self._prepared: dict[tuple[int, int], Entry] = {}  # (view, op) -> entry
        self._begun: dict[int, list[Entry]] = {0: []}  # view -> the log that it began with
        self._acked: dict[str, dict[int, int]] = {}  # by replica: view -> highest op ever acknowledged in it
        self._voted: dict[Pid, int] = {}  # the latest view voted for, over all incarnations
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
        }

    def __call__(self, step: Step) -> None:
        """A step was taken."""
        replica = step.process
        if not isinstance(replica, Replica):
            return
        if step.event == "crash":
            self._replicas.pop(step.name, None)
            return
        if step.event == "start":
            self._last[step.name] = _Last()
            self._acked.setdefault(step.name, {})
            self._replicas[step.name] = replica
        last = self._last[step.name]
        ctx = replica.context
        status = replica.status
        for to, message, _, _ in step.output:
            check = self._on_sent.get(type(message))
            if check is not None:
                check(step, replica, last, message)
            if status == "recovering" and type(message) in PEER_MESSAGES:
                _broken(10, f"{step.name} is recovering and sends {message} to {to}")
        if ctx.view != last.view or ctx.last_normal_view != last.last_normal_view or status != last.status:
            self._view_changed(step.name, replica, last)
        commit, log = ctx.commit, ctx.log
        if not 0 == log.start <= commit <= log.op:
            _broken(2, f"{step.name} has log start {log.start}, commit {commit}, op {log.op}")
        if commit != last.commit:
            self._commit_moved(step.name, replica, last)

    # --- What changed ---

    def _view_changed(self, name: str, replica: Replica, last: _Last) -> None:
        ctx, status = replica.context, replica.status
        if ctx.view < last.view or ctx.last_normal_view < last.last_normal_view:
            _broken(4, f"{name} went back from view {last.view}/{last.last_normal_view} to {ctx.view}")
        if ctx.last_normal_view > ctx.view or (status == "normal" and ctx.last_normal_view != ctx.view):
            _broken(4, f"{name} is {status} in view {ctx.view} with the log of view {ctx.last_normal_view}")
        if ctx.last_normal_view != last.last_normal_view:
            if ctx.is_primary(ctx.last_normal_view):
                # It may crash before it says that the view has begun.
                self._begun.setdefault(ctx.last_normal_view, ctx.log.slice(0, ctx.log.op))
            begun = self._begun.get(ctx.last_normal_view)
            if begun is None or ctx.log.op < len(begun) or ctx.log.slice(0, len(begun)) != begun:
                _broken(4, f"{name} has not the log that view {ctx.last_normal_view} began with")
        last.view, last.last_normal_view, last.status = ctx.view, ctx.last_normal_view, status

    def _commit_moved(self, name: str, replica: Replica, last: _Last) -> None:
        ctx = replica.context
        before, commit = last.commit, ctx.commit
        if commit < before:
            _broken(1, f"{name} went back from commit {before} to {commit}")
        entries = ctx.log.slice(before, commit)
        known = self.committed[before:commit]
        if entries[: len(known)] != known:
            _broken(1, f"{name} disagrees about an op between {before + 1} and {commit}")
        if len(known) < len(entries):
            self.committed += entries[len(known) :]
            self._views += [ctx.view] * (len(entries) - len(known))
            self._durable(commit, entries[-1], ctx.view)
        state = ctx.machine.digest() + ctx.clients.digest()
        if self._states.setdefault(commit, state) != state:
            _broken(1, f"{name} has another state after op {commit} than others had")
        self._applied(name, ctx.machine, last)
        last.commit = commit

    def _applied(self, name: str, machine: Any, last: _Last) -> None:
        if isinstance(machine, Ledger):
            history = machine.history
            for index in range(last.applied, len(history)):
                if index and history[index][0] <= history[index - 1][0]:
                    _broken(3, f"{name} applied op {history[index][0]} after op {history[index - 1][0]}")
            last.applied = len(history)

    def _durable(self, op: int, entry: Entry, view: int) -> None:
        holders = 0
        for name, acked in self._acked.items():
            replica = self._replicas.get(name)
            ctx = None if replica is None else replica.context
            # Whoever acknowledged the op and lost its memory since is one of the crashes that the group can bear.
            holders += acked.get(view, 0) >= op or (
                ctx is not None
                and ctx.last_normal_view >= view
                and ctx.log.op >= op
                and ctx.log.slice(op - 1, op)[0] == entry
            )
        if holders < self._quorum:
            _broken(6, f"op {op} was committed in view {view} with {holders} copies")

    # --- What was sent ---

    def _speaks(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        if "normal" not in (last.status, replica.status):
            _broken(10, f"{step.name} is {replica.status} and sends {message}")

    def _speaks_or_votes(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        if not {last.status, replica.status} & {"normal", "view-change"}:
            _broken(10, f"{step.name} is {replica.status} and sends {message}")

    def _takes_part(self, step: Step, replica: Replica, last: _Last, message: Any) -> None:
        self._speaks(step, replica, last, message)
        if message.view < self._voted.get(step.pid, 0):
            _broken(8, f"{step.name} voted for view {self._voted[step.pid]} and sends {message}")

    def _prepare(self, step: Step, replica: Replica, last: _Last, message: Prepare) -> None:
        if message is self._said:
            return
        self._said = message
        self._takes_part(step, replica, last, message)
        for op, entry in enumerate(message.entries, message.first):
            known = self._prepared.setdefault((message.view, op), entry)
            if known is not entry and known != entry:
                _broken(5, f"{step.name} prepares another op {op} in view {message.view} than was prepared before")

    def _prepare_ok(self, step: Step, replica: Replica, last: _Last, message: PrepareOK) -> None:
        self._takes_part(step, replica, last, message)
        if message.op > replica.context.log.op:
            _broken(9, f"{step.name} acknowledges op {message.op} and has {replica.context.log.op}")
        for acked in (last.acked, self._acked[step.name]):
            acked[message.view] = max(message.op, acked.get(message.view, 0))

    def _vote(self, step: Step, replica: Replica, last: _Last, message: DoViewChange) -> None:
        self._voted[step.pid] = max(message.view, self._voted.get(step.pid, 0))
        acked = last.acked.get(message.last_normal_view, 0)
        if message.op < acked:
            _broken(9, f"{step.name} votes with op {message.op} and acknowledged {acked} in that view")

    def _start_view(self, step: Step, replica: Replica, last: _Last, message: StartView) -> None:
        if message is self._said:
            return
        self._said = message
        self._speaks(step, replica, last, message)
        view, start = message.view, message.start
        begun = self._begun.get(view)
        if begun is not None and replica.context.view == last.view == view and last.status == "normal":
            # Said again: the log of a view only grows, so what it began with can't have changed.
            if len(begun) != start:
                _broken(5, f"view {view} began with {len(begun)} entries, {step.name} says {start}")
            return
        log = replica.context.log.slice(0, start)
        if self._begun.setdefault(view, log) != log:
            _broken(5, f"{step.name} begins view {view}, which had begun with another log")
        earlier = len(self._views)
        while earlier and self._views[earlier - 1] >= view:
            earlier -= 1
        if log[:earlier] != self.committed[:earlier]:
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
        for _, message, _, _ in step.output:
            if type(message) is Request and (message.session, message.number) not in self._sent:
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
