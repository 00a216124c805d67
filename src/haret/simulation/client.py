"""A client for simulations: a process that opens a session, keeps requests under way, and sends them again to anybody.

Rules:

1. One timer drives it. At each tick it may make new requests, and repeats those that have waited for a while.
2. It believes a replica that says who is primary, and asks somebody at random if it has heard nothing for long.
3. A session that is gone is replaced by a new one; requests of the old one may or may not have been executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haret.vr.messages import (
    NotPrimary,
    OpenSession,
    Read,
    ReadReply,
    Reconfigure,
    Reconfigured,
    Reply,
    Request,
    SessionExpired,
    SessionOpened,
    StaleRead,
)
from rabble_trio import CorrelationId, Outbox, Pid, Process, Timeout

if TYPE_CHECKING:
    from random import Random


MAX_EPOCHS = 40
"""How often an administrator tries to change the members: then it must be possible for the group to settle down."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client does. Times in seconds."""

    tick: float = 0.03
    """Between two ticks."""
    appetite: float = 0.7
    """The probability that it makes a new request at a tick, and another one after each."""
    window: int = 4
    """How many requests are under way at most."""
    patience: int = 5
    """After how many ticks without an answer a request is sent again."""
    chatter: float = 0.0
    """The probability that a request is sent to a second replica as well."""
    reads: float = 0.0
    """The probability that it reads at a tick, and that it takes a stale answer."""


class Client(Process):
    """See the rules at the top of this file. `name`: bytes of its own that are part of each of its operations."""

    def __init__(self, name: bytes, replicas: tuple[Pid, ...], random: Random, load: Load) -> None:
        self._name = name
        self._replicas = replicas
        self._chance = random.random
        self._load = load
        self._leader = self._anybody()
        self._sessions = 0
        self._reads = 0
        self._seen = 0  # the newest op whose effects it knows of
        self.answered = 0
        """How many requests have been answered so far."""
        self._reopen()

    def _reopen(self) -> None:
        self._sessions += 1
        self._opening = b"%s/%d" % (self._name, self._sessions)
        self._opening = self._opening.ljust(16, b".")[:16]
        self.session: int | None = None
        """The session's number; None while there is none."""
        self._number = 0
        self._age = self._load.patience
        self.waiting: dict[int, Request] = {}
        """Requests that are not answered yet, by number."""
        self._ages: dict[int, int] = {}

    def init(self, pid: Pid, output: Outbox) -> None:
        """Start ticking."""
        self._timer = CorrelationId(pid, 1)
        output.start_timer(self._load.tick, self._timer)

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """See the rules."""
        match message:
            case Timeout():
                self._tick(output)
            case Reply(session=session, number=number) if session == self.session and number in self.waiting:
                del self.waiting[number], self._ages[number]
                self.answered += 1
                self._leader = sender
                self._seen = max(self._seen, message.op)
            case ReadReply(op=op):
                self._seen = max(self._seen, op)
            case SessionOpened(session=session) if self.session is None and correlation_id == self._opening_id():
                self.session = session
                self._leader = sender
            case SessionExpired(session=session) if session == self.session:
                self._reopen()
            case NotPrimary(primary=primary) if primary is not None:
                self._leader = primary

    def _opening_id(self) -> CorrelationId:
        return CorrelationId(self._timer.pid, self._sessions)

    def _tick(self, output: Outbox) -> None:
        load, chance = self._load, self._chance
        output.start_timer(load.tick * (0.8 + 0.4 * chance()), self._timer)
        if load.reads and chance() < load.reads:
            self._reads += 1
            cid = CorrelationId(self._timer.pid, 0, self._reads)
            if chance() < load.reads:
                output.send(self._anybody(), StaleRead(b"", self._seen), cid)
            else:
                output.send(self._leader, Read(b""), cid)
        if self.session is None:
            self._age += 1
            if self._age >= load.patience:
                self._age = 0
                self._leader = self._anybody()
                output.send(self._leader, OpenSession(self._opening), self._opening_id())
            return
        self._repeat(output)
        while len(self.waiting) < load.window and chance() < load.appetite:
            self._number += 1
            operation = b"%s/%d" % (self._opening, self._number)
            self.waiting[self._number] = Request(self.session, self._number, self._lowest(), operation)
            self._ages[self._number] = 0
            self._send(self._number, output)

    def _repeat(self, output: Outbox) -> None:
        if any(age >= 2 * self._load.patience for age in self._ages.values()):
            self._leader = self._anybody()
        for number, age in self._ages.items():
            self._ages[number] = age + 1
            if (age + 1) % self._load.patience == 0:
                self._send(number, output)

    def _send(self, number: int, output: Outbox) -> None:
        request = self.waiting[number]
        output.send(self._leader, request)
        if self._load.chatter and self._chance() < self._load.chatter:
            output.send(self._anybody(), request)

    def _lowest(self) -> int:
        return min(self.waiting, default=self._number)

    def _anybody(self) -> Pid:
        return self._replicas[int(self._chance() * len(self._replicas))]


class Administrator(Process):
    """Changes the members of a group again and again. `size`: how many it has."""

    def __init__(self, replicas: tuple[Pid, ...], size: int, random: Random) -> None:
        self._replicas = replicas
        self._size = size
        self._chance = random.random
        self._leader = replicas[0]
        self._asked = 0
        self.epoch = 0
        """The newest that it has heard of."""

    def init(self, pid: Pid, output: Outbox) -> None:
        """Start ticking."""
        self._timer = CorrelationId(pid, 1)
        output.start_timer(0.3, self._timer)

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """At each tick, wish for other members."""
        match message:
            case Timeout():
                self._asked += 1
                if self._asked > MAX_EPOCHS:
                    return
                output.start_timer(0.2 + 0.6 * self._chance(), self._timer)
                drawn = sorted((self._chance(), pid) for pid in self._replicas)[: self._size]
                output.send(self._leader, Reconfigure(self.epoch, tuple(sorted(pid for _, pid in drawn))))
                if self._chance() < 0.5:
                    self._leader = self._replicas[int(self._chance() * len(self._replicas))]
            case Reconfigured(epoch=epoch):
                self.epoch = max(epoch, self.epoch)
            case NotPrimary(epoch=epoch, primary=primary):
                self.epoch = max(epoch, self.epoch)
                if primary is not None:
                    self._leader = primary
