"""A group of replicas on a network that a test owns: it decides what is delivered, when, to whom, and how often.

Every step of every replica is checked against the invariants of the protocol, those of the simulator, so a scripted
scenario fails at the step that goes wrong, and not only at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from random import Random
from typing import Any

import msgpack
import pytest

from haret.simulation import ReplicaInvariants
from haret.vr import Configuration, Replica, Settings
from haret.vr.messages import NotPrimary, OpenSession, ReplicaState, Reply, Request, SessionOpened
from haret.vr.records import read_records
from rabble_trio import (
    CorrelationId,
    Envelope,
    NodeId,
    Outbox,
    Persist,
    Persisted,
    Pid,
    Send,
    Snapshot,
    Snapshotted,
    StartTimer,
    Timeout,
)
from rabble_trio.testing import Step

NODE = NodeId("n", "127.0.0.1:5000")


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
    """The invariants of the protocol (`haret.simulation.invariants`), and exactly once as this state machine shows it."""

    def __init__(self, quorum: int) -> None:
        self._invariants = ReplicaInvariants(quorum)
        self._replies: dict[tuple[int, int], tuple[int, bytes]] = {}

    def after_step(self, replica: Replica, step: Step) -> None:
        self._invariants(step)
        if step.event == "crash":
            return
        ctx = replica.context
        for _, message, _, _ in step.output:
            if isinstance(message, Reply):
                done = (message.op, message.result)
                known = self._replies.setdefault((message.session, message.number), done)
                assert known == done, "11: unequal replies"
            elif isinstance(message, SessionOpened):
                assert message.session <= ctx.commit, "a session was opened by an uncommitted op"
        operations = [operation for _, operation in ctx.machine.applied]  # type: ignore[attr-defined]
        assert len(set(operations)) == len(operations), "11: an operation was applied twice"


class Network:
    """A group and the envelopes under way. Replicas are called 0, 1, 2: replica v % K is primary of view v."""

    replica_class = Replica
    machine = Recorder

    def __init__(self, size: int = 3, seed: int = 0, durable: bool = True, **settings: Any) -> None:
        self.durable = durable
        self.random = Random(seed)
        self.pids = tuple(Pid(f"r{i}", NODE) for i in range(size))
        self.client = Pid("client", NODE)
        self.observer = Pid("observer", NODE)
        self.configuration = Configuration(0, self.pids)
        self.settings = Settings(**{"gather": False, **settings})
        self.flying: list[Envelope] = []
        """Under way, in the order of sending."""
        self.inbox: list[Envelope] = []
        """What clients and observers received."""
        self.cut: set[tuple[int, int]] = set()
        """(sender, receiver): links that lose everything sent over them."""
        self.down: set[int] = set()
        """Replicas that are not running at all."""
        self.replicas: dict[Pid, Replica] = {}
        self.checker = Checker(self.configuration.quorum)
        self.forged = False
        """Whether the test writes messages of replicas itself, so that the invariants of a group need not hold."""
        self.journals: dict[Pid, tuple[bytes | None, list[bytes]]] = {}
        """What is durable of each replica."""
        self.timers: list[tuple[Pid, StartTimer, CorrelationId | None]] = []
        """That were started; the test lets them fire."""
        self.slow: set[int] = set()
        """Replicas whose disk does nothing until `sync`. All others are as quick as the step."""
        self._waiting: dict[Pid, deque[Send | Persist | Snapshot]] = {}
        self._persisted: dict[Pid, int] = {}
        self._incarnations: dict[Pid, int] = {}
        for i in range(size):
            self._start(i, fresh=True)

    def _start(self, i: int, fresh: bool) -> None:
        pid = self.pids[i]
        self._persisted[pid] = 0
        self._waiting[pid] = deque()
        self._incarnations[pid] = self._incarnations.get(pid, 0) + 1
        replica = self.replica_class(
            self.configuration,
            self.machine(),
            Random(self.random.getrandbits(32)),
            self.settings,
            fresh=fresh,
            incarnation=self._incarnations[pid],
            observer=self.observer,
            durable=self.durable,
        )
        self.replicas[pid] = replica
        if pid in self.journals:
            replica.restore(*self.journals[pid])
        self._run(replica, lambda output: replica.init(pid, output), pid, "start")

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

    def _run(
        self, replica: Replica, do: Callable[[Outbox], None], pid: Pid, event: str, heard: Envelope | None = None
    ) -> None:
        output = Outbox(pid)
        do(output)
        if not self.forged:
            sender, message = (None, None) if heard is None else (heard.sender, heard.message)
            self.checker.after_step(
                replica, Step(pid, pid.name, replica, event, sender, message, None, list(output.items))
            )
        waiting = self._waiting[pid]
        for effect in output.effects:
            if isinstance(effect, Send) and (not effect.held or not waiting):
                self._send(effect.envelope)
            else:
                waiting.append(effect)
        if self.pids.index(pid) not in self.slow:
            self._sync(pid)

    def _send(self, envelope: Envelope) -> None:
        if isinstance(envelope.message, StartTimer):
            self.timers.append((envelope.sender, envelope.message, envelope.correlation_id))
            return
        if envelope.to not in self.replicas:
            self.inbox.append(envelope)
            return
        i, j = self.pids.index(envelope.sender), self.pids.index(envelope.to)
        if (i, j) not in self.cut and j not in self.down:
            self.flying.append(envelope)

    def _sync(self, pid: Pid) -> None:
        replica, waiting = self.replicas.get(pid), self._waiting[pid]
        snapshot, records = self.journals.get(pid, (None, []))
        news: list[Any] = []
        before = self._persisted[pid]
        while waiting:
            effect = waiting.popleft()
            if isinstance(effect, Persist):
                records.append(effect.record)
                self._persisted[pid] += 1
            elif isinstance(effect, Snapshot):
                snapshot, records = effect.encode(), []
                news.append(Snapshotted(len(snapshot)))
            else:
                self._send(effect.envelope)
            if not isinstance(effect, Send):
                self.journals[pid] = (snapshot, records)
        if self._persisted[pid] > before:
            news.append(Persisted(self._persisted[pid]))
        for message in news:
            if replica is not None:
                self._handle(replica, pid, message, pid, None)

    def sync(self, i: int) -> None:
        """All that replica i wrote becomes durable, and what waited for that is sent."""
        self._sync(self.pids[i])

    def held(self, i: int, kind: Any = object) -> list[Any]:
        """What replica i sent, and its disk holds back."""
        return [
            effect.envelope.message
            for effect in self._waiting[self.pids[i]]
            if isinstance(effect, Send) and isinstance(effect.envelope.message, kind)
        ]

    def unsynced(self, i: int) -> list[Any]:
        """Records of replica i that are not durable yet, decoded."""
        return read_records(None, [e.record for e in self._waiting[self.pids[i]] if isinstance(e, Persist)])

    def records(self, i: int) -> list[Any]:
        """What the journal of replica i has, decoded; a snapshot first."""
        return read_records(*self.journals[self.pids[i]])

    def _handle(self, replica: Replica, pid: Pid, message: Any, sender: Pid, cid: CorrelationId | None) -> None:
        self._run(
            replica,
            lambda output: replica.handle(message, sender, cid, output),
            pid,
            "message",
            Envelope(pid, sender, message, cid),
        )

    def give(self, i: int, message: Any, sender: Pid | None = None, cid: CorrelationId | None = None) -> None:
        """Replica i receives a message now."""
        if i not in self.down:
            self._handle(self[i], self.pids[i], message, sender or self.client, cid)

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
            if self[i]._resting:
                return  # it has no timer
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
        """Replica i ends, and isn't started again until `restart` or `crash`."""
        self.down.add(i)
        self.lose(to=i)

    def crash(self, i: int) -> None:
        """Replica i loses its memory and its disk, and is started again by its supervisor."""
        self.journals.pop(self.pids[i], None)
        self.restart(i)

    def restart(self, i: int, *, fresh: bool = False) -> None:
        """Replica i crashes, and is started again with what is durable; `fresh` if nothing of it ever was."""
        pid = self.pids[i]
        self.down.discard(i)
        replica = self.replicas[pid]
        self.checker.after_step(replica, Step(pid, pid.name, replica, "crash", None, None, None, []))
        self._start(i, fresh=fresh)

    def stop_all(self) -> None:
        """All replicas end at once, and what was under way is gone."""
        for i in range(len(self.pids)):
            self.stop(i)
        self.flying.clear()

    def add(self) -> int:
        """One more replica, which is no member. Returns its number."""
        self.pids = (*self.pids, Pid(f"r{len(self.pids)}", NODE))
        self._start(len(self.pids) - 1, fresh=True)
        return len(self.pids) - 1

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
