"""A group of replicas on a network that a test owns: it decides what is delivered, when, to whom, and how often.

Every step of every replica is checked against the invariants of the protocol, so a scripted scenario fails at the step
that goes wrong, and not only at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from random import Random
from typing import Any

import msgpack
import pytest

from haret.vr import Configuration, Replica, Settings
from haret.vr.messages import (
    Commit,
    DoViewChange,
    GetState,
    NewState,
    NotPrimary,
    OpenSession,
    Prepare,
    PrepareOK,
    ReplicaState,
    Reply,
    Request,
    SessionOpened,
    StartView,
    StartViewChange,
)
from rabble_trio import CorrelationId, Envelope, NodeId, Outbox, Persist, Persisted, Pid, Snapshot, StartTimer, Timeout

NODE = NodeId("n", "127.0.0.1:5000")
PEER = (Prepare, PrepareOK, Commit, StartViewChange, DoViewChange, StartView, NewState)


class Recorder:
    """A state machine that remembers what was applied, and insists on order."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self._digest = b""

    def apply(self, op: int, operation: bytes) -> bytes:
        assert not self.applied or op > self.applied[-1][0], "each op is applied once, in order"
        self.applied.append((op, operation))
        self._digest = sha256(self._digest + b"%d:" % op + operation).digest()
        return b"%d. %s" % (len(self.applied), operation)

    def read(self, operation: bytes) -> bytes:
        return b"%d: %s" % (len(self.applied), operation)

    def digest(self) -> bytes:
        return self._digest

    def image(self) -> Picture:
        return Picture(tuple(self.applied), self._digest)

    def loader(self) -> PictureLoader:
        return PictureLoader(self)


class Picture:
    """A `haret.vr.configuration.Image` of a recorder."""

    def __init__(self, applied: tuple[tuple[int, bytes], ...], digest: bytes) -> None:
        self.applied = applied
        self._digest = digest

    def chunks(self) -> Iterator[bytes]:
        for one in self.applied:
            yield msgpack.packb(one)

    def digest(self, budget: int) -> bytes | None:
        return self._digest


class PictureLoader:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._unpacker = msgpack.Unpacker(use_list=False)
        self._applied: list[tuple[int, bytes]] = []

    def feed(self, chunk: bytes) -> None:
        self._unpacker.feed(chunk)
        self._applied += self._unpacker

    def finish(self) -> None:
        recorder = self._recorder
        recorder.applied, recorder._digest = [], b""
        for op, operation in self._applied:
            recorder.apply(op, operation)


class Checker:
    """Invariants of the protocol, over all replicas, checked after each step. Numbers: section 5.3 of the reference."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.entries: dict[int, tuple[Any, int]] = {}  # committed op -> entry, view of the first commit
        self.states: dict[int, bytes] = {}  # commit number -> digest of machine and client table
        self.prepared: dict[tuple[int, int], Any] = {}  # (view, op) -> entry
        self.begun: dict[int, list[Any]] = {}  # view -> log in its StartView
        self.acks: dict[tuple[Pid, int], int] = {}  # (replica, view) -> highest op acknowledged
        self.voted: dict[Pid, int] = {}  # replica -> highest view it voted for
        self.last: dict[Pid, tuple[int, int, int]] = {}  # replica -> view, last_normal_view, commit
        self.replies: dict[tuple[int, int], tuple[int, bytes]] = {}

    def forget(self, pid: Pid) -> None:
        """The replica crashed: a new incarnation begins."""
        self.last.pop(pid, None)

    def after_step(self, replica: Replica, sent: list[Envelope], before: str) -> None:
        ctx = replica.context
        pid, log, status = ctx.pid, ctx.log, replica.status
        assert log.start <= ctx.commit <= log.op, "2: structure"
        assert ctx.last_normal_view <= ctx.view, "4: view"
        assert status != "normal" or ctx.last_normal_view == ctx.view, "4: normal"
        view, normal_view, commit = self.last.get(pid, (0, 0, 0))
        assert ctx.view >= view, "4: the view decreased"
        assert ctx.last_normal_view >= normal_view, "4: the last normal view decreased"
        assert ctx.commit >= commit, "1: the commit number decreased"
        for envelope in sent:
            self._sent(replica, envelope.message, {before, status})
        if ctx.commit > commit:
            self._committed(replica, commit)
        self.last[pid] = (ctx.view, ctx.last_normal_view, ctx.commit)

    def _sent(self, replica: Replica, message: Any, statuses: set[str]) -> None:
        ctx = replica.context
        pid = ctx.pid
        if replica.status == "recovering":
            assert not isinstance(message, PEER), "10: a recovering replica is silent"
        if isinstance(message, Prepare | PrepareOK):
            assert message.view >= self.voted.get(pid, 0), "8: nothing of a view older than one voted for"
        if isinstance(message, Prepare | PrepareOK | StartView | Commit):
            assert "normal" in statuses, "10: only normal replicas speak for a view"
        if isinstance(message, Prepare):
            for op, entry in enumerate(message.entries, message.first):
                assert self.prepared.setdefault((message.view, op), entry) == entry, "5: two entries for one op"
        elif isinstance(message, PrepareOK):
            assert message.op <= ctx.log.op, "9: only what the log holds is acknowledged"
            self.acks[pid, message.view] = max(message.op, self.acks.get((pid, message.view), 0))
        elif isinstance(message, DoViewChange):
            self.voted[pid] = max(message.view, self.voted.get(pid, 0))
            assert message.op >= self.acks.get((pid, message.last_normal_view), 0), "9: votes cover all acks"
        elif isinstance(message, StartView):
            log = ctx.log.slice(0, message.start)
            assert self.begun.setdefault(message.view, log) == log, "5: a view began twice"
            for op, (entry, view) in self.entries.items():
                if view < message.view:
                    assert op <= len(log), f"7: view {message.view} began without committed op {op}"
                    assert log[op - 1] == entry, f"7: view {message.view} began with another op {op}"
        elif isinstance(message, Reply):
            done = (message.op, message.result)
            assert self.replies.setdefault((message.session, message.number), done) == done, "11: unequal replies"
        elif isinstance(message, SessionOpened):
            assert message.session <= ctx.commit, "a session was opened by an uncommitted op"

    def _committed(self, replica: Replica, before: int) -> None:
        ctx = replica.context
        for op, entry in enumerate(ctx.log.slice(before, ctx.commit), before + 1):
            if op not in self.entries:
                self.entries[op] = (entry, ctx.view)
                self._durable(op, entry, ctx.view)
            assert self.entries[op][0] == entry, f"1: replicas disagree on op {op}"
        operations = [operation for _, operation in ctx.machine.applied]  # type: ignore[attr-defined]
        assert len(set(operations)) == len(operations), "11: an operation was applied twice"
        digest = ctx.machine.digest() + ctx.clients.digest()
        assert self.states.setdefault(ctx.commit, digest) == digest, f"1: states differ after op {ctx.commit}"

    def _durable(self, op: int, entry: Any, view: int) -> None:
        holders = {pid for (pid, v), acked in self.acks.items() if v == view and acked >= op}
        for pid, replica in self.network.replicas.items():
            ctx = replica.context
            if ctx.last_normal_view >= view and ctx.log.op >= op and ctx.log.slice(op - 1, op) == [entry]:
                holders.add(pid)
        assert len(holders) >= ctx.quorum, f"6: op {op} was committed with {len(holders)} copies"


class Network:
    """A group and the envelopes under way. Replicas are called 0, 1, 2: replica v % K is primary of view v."""

    def __init__(self, size: int = 3, seed: int = 0, durable: bool = True, **settings: Any) -> None:
        self.durable = durable
        self.random = Random(seed)
        self.pids = tuple(Pid(f"r{i}", NODE) for i in range(size))
        self.client = Pid("client", NODE)
        self.observer = Pid("observer", NODE)
        self.configuration = Configuration(0, self.pids)
        self.settings = Settings(**settings)
        self.flying: list[Envelope] = []
        """Under way, in the order of sending."""
        self.inbox: list[Envelope] = []
        """What clients and observers received."""
        self.cut: set[tuple[int, int]] = set()
        """(sender, receiver): links that lose everything sent over them."""
        self.down: set[int] = set()
        """Replicas that are not running at all."""
        self.replicas: dict[Pid, Replica] = {}
        self.checker = Checker(self)
        self.forged = False
        """Whether the test writes messages of replicas itself, so that the invariants of a group need not hold."""
        self.journals: dict[Pid, tuple[bytes | None, list[bytes]]] = {}
        """What is durable of each replica: the disk is as quick as the step."""
        self.persisted: dict[Pid, int] = {}
        self.incarnations: dict[Pid, int] = {}
        for i in range(size):
            self._start(i, fresh=True)

    def _start(self, i: int, fresh: bool) -> None:
        pid = self.pids[i]
        self.persisted[pid] = 0
        self.incarnations[pid] = self.incarnations.get(pid, 0) + 1
        replica = Replica(
            self.configuration,
            Recorder(),
            Random(self.random.getrandbits(32)),
            self.settings,
            fresh=fresh,
            incarnation=self.incarnations[pid],
            observer=self.observer,
            durable=self.durable,
        )
        self.replicas[pid] = replica
        if pid in self.journals:
            replica.restore(*self.journals[pid])
        self._run(replica, lambda output: replica.init(pid, output), pid)

    # --- Looking ---

    def __getitem__(self, i: int) -> Replica:
        return self.replicas[self.pids[i]]

    def state(self, i: int) -> ReplicaState:
        return self[i].replica_state()

    def applied(self, i: int) -> list[bytes]:
        """The operations that replica i has executed."""
        return [operation for _, operation in self[i].context.machine.applied]  # type: ignore[attr-defined]

    def log(self, i: int) -> list[bytes]:
        """The operations in the log of replica i, sessions left out."""
        log = self[i].context.log
        return [entry.operation for entry in log.slice(log.start, log.op) if isinstance(entry, Request)]

    def primaries(self) -> list[int]:
        return [i for i in range(len(self.pids)) if i not in self.down and self.state(i).primary == self.pids[i]]

    def find(self, kind: Any = object, to: int | None = None, frm: int | None = None) -> list[Envelope]:
        """Envelopes under way, by kind, receiver and sender."""
        return [
            e
            for e in self.flying
            if isinstance(e.message, kind)
            and (to is None or e.to == self.pids[to])
            and (frm is None or e.sender == self.pids[frm])
        ]

    def received(self, kind: Any = object) -> list[Any]:
        """Messages of this kind that clients and observers received."""
        return [e.message for e in self.inbox if isinstance(e.message, kind)]

    # --- Acting ---

    def _run(self, replica: Replica, step: Callable[[Outbox], None], pid: Pid) -> None:
        before, output = replica.status, Outbox(pid)
        step(output)
        sent = [e for e in output.envelopes if not isinstance(e.message, StartTimer)]
        if not self.forged:
            self.checker.after_step(replica, sent, before)
        for envelope in sent:
            if envelope.to in self.replicas:
                i, j = self.pids.index(pid), self.pids.index(envelope.to)
                if (i, j) not in self.cut and j not in self.down:
                    self.flying.append(envelope)
            else:
                self.inbox.append(envelope)
        self._sync(replica, output, pid)

    def _sync(self, replica: Replica, output: Outbox, pid: Pid) -> None:
        snapshot, records = self.journals.get(pid, (None, []))
        count = self.persisted[pid]
        for effect in output.effects:
            if isinstance(effect, Persist):
                records.append(effect.record)
                self.persisted[pid] += 1
            elif isinstance(effect, Snapshot):
                snapshot, records = effect.encode(), []
        if len(output.effects) > len(output.envelopes):
            self.journals[pid] = (snapshot, records)
        if self.persisted[pid] > count and self.replicas.get(pid) is replica:
            done = Persisted(self.persisted[pid])
            self._run(replica, lambda output: replica.handle(done, pid, None, output), pid)

    def give(self, i: int, message: Any, sender: Pid | None = None, cid: CorrelationId | None = None) -> None:
        """Replica i receives a message now."""
        if i not in self.down:
            replica = self[i]
            self._run(replica, lambda output: replica.handle(message, sender or self.client, cid, output), self.pids[i])

    def deliver(self, kind: Any = object, to: int | None = None, frm: int | None = None) -> list[Envelope]:
        """Deliver those under way that match; what they cause stays under way."""
        found = self.hold(kind, to, frm)
        self.release(found)
        return found

    def hold(self, kind: Any = object, to: int | None = None, frm: int | None = None) -> list[Envelope]:
        """Take matching envelopes off the network. Forget them to lose them, or `release` them later."""
        found = self.find(kind, to, frm)
        self.flying = [e for e in self.flying if all(e is not f for f in found)]
        return found

    lose = hold

    def release(self, envelopes: Iterable[Envelope]) -> None:
        """Deliver these now."""
        for envelope in envelopes:
            self.give(self.pids.index(envelope.to), envelope.message, envelope.sender, envelope.correlation_id)

    def settle(self) -> None:
        """Deliver everything, and what that causes, in order."""
        for _ in range(100_000):
            if not self.flying:
                return
            self.release([self.flying.pop(0)])
        raise AssertionError("the replicas never stop talking")

    def tick(self, i: int, times: int = 1) -> None:
        """The heartbeat timer of replica i runs out so often."""
        for _ in range(times):
            self.give(i, Timeout(), self.pids[i], CorrelationId(self.pids[i], 1))

    def run(self, ticks: int) -> None:
        """Time passes for all, and everything is delivered."""
        for _ in range(ticks):
            for i in range(len(self.pids)):
                self.tick(i)
                self.settle()

    def isolate(self, i: int, *, heal: bool = False) -> None:
        """Cut, or heal, all links of replica i."""
        links = {(i, j) for j in range(len(self.pids))} | {(j, i) for j in range(len(self.pids))}
        self.cut = self.cut - links if heal else self.cut | links
        if not heal:
            self.lose(to=i)
            self.lose(frm=i)

    def stop(self, i: int) -> None:
        """Replica i ends, and isn't started again."""
        self.down.add(i)
        self.lose(to=i)

    def crash(self, i: int) -> None:
        """Replica i loses its memory and its disk, and is started again by its supervisor."""
        self.journals.pop(self.pids[i], None)
        self.restart(i)

    def restart(self, i: int) -> None:
        """Replica i crashes, and is started again with its journal."""
        self.checker.forget(self.pids[i])
        self._start(i, fresh=False)

    def change_view(self, *members: int) -> None:
        """These replicas hear nothing for long; what they say to each other arrives, nothing else does."""
        for _ in range(20):
            for i in members:
                self.tick(i)
        for _ in range(50):
            wanted = [self.pids[i] for i in members]
            found = [e for e in self.flying if e.to in wanted and e.sender in wanted]
            if not found:
                return
            self.flying = [e for e in self.flying if all(e is not f for f in found)]
            self.release(found)
        raise AssertionError("the replicas never stop talking")

    # --- Clients ---

    def open(self, i: int = 0, client: bytes = b"c" * 16) -> int:
        """Open a session at replica i, and settle."""
        self.give(i, OpenSession(client))
        self.settle()
        return int(self.received(SessionOpened)[-1].session)

    def request(
        self, i: int, session: int, number: int, operation: bytes | None = None, lowest: int = 1, tag: int | None = None
    ) -> None:
        """A request reaches replica i; its operation is "x<number>" unless given. `tag` goes into the correlation id."""
        operation = b"x%d" % number if operation is None else operation
        cid = None if tag is None else CorrelationId(self.client, request=tag)
        self.give(i, Request(session, number, lowest, operation), cid=cid)

    def replies(self, number: int | None = None) -> list[Reply]:
        return [r for r in self.received(Reply) if number is None or r.number == number]

    def refusals(self) -> list[NotPrimary]:
        return self.received(NotPrimary)

    # --- Ends ---

    def assert_converged(self, *members: int) -> None:
        """These replicas are normal in one view, have everything committed, and equal states (17)."""
        states = [self.state(i) for i in members]
        assert {s.status for s in states} == {"normal"}
        assert len({(s.view, s.op, s.commit, s.digest, s.sessions) for s in states}) == 1, states
        assert states[0].op == states[0].commit


@pytest.fixture
def network() -> Network:
    """Three replicas in view 0."""
    return Network()


@pytest.fixture
def make_network() -> type[Network]:
    """Makes groups of any size, with any settings."""
    return Network


@pytest.fixture
def recorder() -> Recorder:
    """A state machine that remembers what was applied."""
    return Recorder()
