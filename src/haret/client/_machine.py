"""The client's side of a session, without I/O: what to send, what to re-send, and what became of each call.

Rules:

1. A call waits in `queue` until it is submitted. Then it has a number and stands in `in_flight` until its result comes,
   through however many connections. A number is submitted again only with the same operation.
2. Calls are numbered and submitted in the order they were made. After a reconnect those in flight are submitted again,
   in their order, before new ones.
3. `lowest` is the lowest number in flight, or the next one if none is. Every `Submit` carries it.
4. After a `Retry` nothing is submitted until a pause is over, or the server says `Ready`. Pauses grow, with jitter, as
   long as nothing succeeds.
5. A call that nobody waits for any more (its caller was cancelled) is forgotten at once if it was never submitted.
   Otherwise it keeps its number until it is answered, or the connection ends; then `lowest` moves past it and the
   replicas refuse late copies.
6. When the session has expired, or its namespace is not known any more, calls in flight fail: they may or may not have
   been executed. Calls in the queue go on in a new session.
7. An endpoint that only says to try again, `MAX_FRUITLESS` times in a row, is left for the next one: its node may be cut
   off from the others.
8. A namespace is unknown when one endpoint says so and no other, asked in turn, knows better: a node that has just been
   started may not have heard of it yet.
9. A call that is older than `patience` fails, with what every endpoint answered last.

The owner feeds in connections, messages and the time (seconds, any clock that only grows), and after each input takes
what is in `outgoing` and `finished`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

from haret import errors
from haret.protocol import (
    API,
    CLIENT_ID_BYTES,
    MAX_IN_FLIGHT,
    SILENCE,
    VERSION,
    Enter,
    Entered,
    Expired,
    Hello,
    Leave,
    Ready,
    Redirect,
    Refused,
    Result,
    Retry,
    Submit,
    UnknownNamespace,
    Welcome,
)

WINDOW: Final = 2 * MAX_IN_FLIGHT
"""How far above `lowest` a number may be: one call that is answered late must not let the replicas' tables grow."""

FIRST_PAUSE: Final = 0.02
"""Seconds before the first retry: a view change takes a few times as long."""

LONGEST_PAUSE: Final = 1.0
"""Seconds between retries at most: what a user waits after a repair, at most."""

MAX_REDIRECTS: Final = 3
"""Redirects in a row that are followed without a pause: one is the rule, more mean that the primary moves, or a circle."""


MAX_FRUITLESS: Final = 6
"""Pauses in a row at one endpoint, about a second in all: longer than a failover takes."""


class Random(Protocol):
    """What the machine needs of `random.Random`."""

    def random(self) -> float:
        """A number from 0 to 1."""

    def randbytes(self, n: int, /) -> bytes:
        """So many random bytes."""


class Backoff:
    """Growing pauses with jitter: half of it is random, so that many clients do not come back at once."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = FIRST_PAUSE

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._next * (0.5 + 0.5 * self._random.random())
        self._next = min(LONGEST_PAUSE, self._next * 2)
        return pause

    def reset(self) -> None:
        """Something succeeded."""
        self._next = FIRST_PAUSE


class ProtocolBroken(Exception):
    """The server sent what makes no sense. The connection is of no use any more."""


class Call:
    """One operation that somebody waits for."""

    __slots__ = ("abandoned", "number", "operation", "parked", "since", "waiter")

    def __init__(self, operation: bytes, since: float) -> None:
        self.operation = operation
        self.since = since
        self.number = 0  # 0: never submitted
        self.parked = False  # answered with Retry, to be submitted again
        self.abandoned = False
        self.waiter: Any = None  # the owner's; the machine never looks at it


class Machine:
    """See the rules at the top of the file. `patience` is in seconds."""

    def __init__(self, namespace: str, endpoints: Sequence[str], random: Random, patience: float) -> None:
        self.namespace = namespace
        self.endpoints = tuple(endpoints)
        self.patience = patience
        self.outgoing: list[Any] = []
        self.finished: list[tuple[Call, Result | errors.HaretError]] = []
        self.broken: str | None = None  # why the owner should drop the connection
        self.alarm = False  # set when `next_time` may have become earlier
        self.answers: dict[str, str] = {}  # what each endpoint answered last, when it did not help
        self.session = 0
        self.in_flight: dict[int, Call] = {}
        # As a dict, because thousands of calls may be cancelled at once, each of them anywhere in it.
        self.queue: OrderedDict[Call, None] = OrderedDict()
        self.counts = {"sent": 0, "resent": 0, "completed": 0, "retries": 0, "redirects": 0, "late": 0, "sessions": 0}
        self.node: Any = None  # who answered last
        self._random = random
        self._backoff = Backoff(random)
        self._client = random.randbytes(CLIENT_ID_BYTES)
        self._phase = "down"  # -> "connected" -> "entering" -> "entered"
        self._endpoint = ""
        self._turn = 0
        self._redirect: str | None = None
        self._redirects = 0  # in a row
        self._denials = (
            0  # endpoints in a row that did not know the namespace, or could not be reached since one did not
        )
        self._fruitless = 0  # pauses since anything succeeded at this endpoint
        self._resume_at: float | None = None  # paused until then
        self._heard_at = 0.0
        self._next = 1
        self._lowest = 1

    # ----------------------------------------------------------- connections

    def next_endpoint(self) -> str:
        """Where to connect to: where a redirect pointed, else one endpoint after the other."""
        if self._redirect is not None:
            endpoint, self._redirect = self._redirect, None
            return endpoint
        endpoint = self.endpoints[self._turn % len(self.endpoints)]
        self._turn += 1
        return endpoint

    def connect_failed(self, endpoint: str, reason: str) -> None:
        """An endpoint could not be reached."""
        self._note(endpoint, reason)
        if self._denials:
            self._deny()

    def pause_before_connect(self) -> float:
        """Seconds to wait before the next attempt to connect; none after a redirect, unless they go in circles."""
        if self._redirect is not None and self._redirects <= MAX_REDIRECTS:
            return 0.0
        return self._backoff.pause()

    def connected(self, endpoint: str, now: float) -> None:
        """A connection stands."""
        self._phase = "connected"
        self._endpoint = endpoint
        self._heard_at = now
        self._resume_at = None
        self._fruitless = 0
        self.broken = None
        self.alarm = True
        self.outgoing = [Hello(API, VERSION)]
        self._advance(now)

    def disconnected(self, reason: str) -> None:
        """The connection is gone, and with it whatever was sent and not answered."""
        if self._phase != "down":
            self._note(self._endpoint, self.broken or reason)
        self._phase = "down"
        self._resume_at = None
        self.broken = None
        self.outgoing = []
        for call in [call for call in self.in_flight.values() if call.abandoned]:
            del self.in_flight[call.number]

    def leave(self) -> bool:
        """No more calls will come: say goodbye, if there is anybody to say it to. Tells whether there was."""
        entered = self._phase == "entered"
        if entered:
            self.outgoing.append(Leave())
        return entered

    def close(self, error: errors.HaretError) -> None:
        """Nothing will happen any more: all calls fail."""
        self._fail_all(error)

    # ------------------------------------------------------------------ calls

    def call(self, operation: bytes, now: float) -> Call:
        """Somebody wants this operation executed."""
        call = Call(operation, now)
        if not self.queue and not self.in_flight:
            self.alarm = True
        self.queue[call] = None
        self._advance(now)
        return call

    def abandon(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        call.abandoned = True
        if not call.number:
            del self.queue[call]

    @property
    def waiting(self) -> bool:
        """Whether any call is not answered."""
        return bool(self.queue or self.in_flight)

    # ------------------------------------------------------------------- time

    def next_time(self) -> float:
        """When `tick` should be called, at the latest; infinity if there is nothing to wait for."""
        times = [float("inf")]
        if self._resume_at is not None:
            times.append(self._resume_at)
        oldest = self._oldest()
        if oldest is not None:
            times.append(oldest.since + self.patience)
            if self._phase != "down":
                times.append(self._heard_at + SILENCE)
        return min(times)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume(now)
        while (oldest := self._oldest()) is not None and now >= oldest.since + self.patience:
            self._give_up(oldest)
        if self._phase != "down" and self.waiting and now >= self._heard_at + SILENCE:
            self.broken = f"no answer for {SILENCE:g} s"

    def _oldest(self) -> Call | None:
        for call in self.in_flight.values():
            if not call.abandoned:
                return call
        return next(iter(self.queue), None)

    def _give_up(self, call: Call) -> None:
        reason = f"no answer from the namespace {self.namespace!r} within {self.patience:g} s"
        self._finish(call, errors.Unavailable(reason, tuple(self.answers.items()), call.number > 0))
        self.abandon(call)

    # --------------------------------------------------------------- messages

    def receive(self, messages: Sequence[Any], now: float) -> None:
        """The server sent these. Raises `ProtocolBroken`."""
        self._heard_at = now
        for message in messages:
            if type(message) is Result:
                self._on_result(message)
            else:
                self._on_other(message, now)
        self._advance(now)

    def _on_result(self, result: Result) -> None:
        call = self.in_flight.pop(result.number, None)
        if call is None:
            self.counts["late"] += 1
            return
        self._backoff.reset()
        self._fruitless = 0
        if call.abandoned:
            self.counts["late"] += 1
        else:
            self._finish(call, result)

    def _on_other(self, message: Any, now: float) -> None:
        match message:
            case Retry(number=number, reason=reason):
                self._on_retry(number, reason, now)
            case Ready():
                if self._resume_at is not None:
                    self._resume(now)
            case Welcome(node=node):
                self.node = node
            case Entered(session=session):
                self._on_entered(session)
            case Expired(session=session):
                self._on_expired(session)
            case UnknownNamespace():
                self._on_unknown_namespace(message)
            case Redirect(address=address):
                self.counts["redirects"] += 1
                self._redirects += 1
                self._redirect = address
                self.broken = f"the primary is at {address}"
            case Refused(reason=reason):
                self.broken = f"refused: {reason}"
            case _:
                raise ProtocolBroken(f"the server sent {type(message).__name__}, which no client expects")

    def _on_entered(self, session: int) -> None:
        if self._phase != "entering" or (self.session and session != self.session):
            raise ProtocolBroken(f"the server entered session {session}, which was not asked for")
        if not self.session:
            self.counts["sessions"] += 1
        self.session = session
        self._phase = "entered"
        self._denials = 0
        self._redirects = 0
        self._backoff.reset()
        for call in self.in_flight.values():
            call.parked = True
        if self._resume_at is None:
            self._resubmit()

    def _on_retry(self, number: int, reason: str, now: float) -> None:
        self.counts["retries"] += 1
        self._note(self._endpoint, reason)
        if number == 0 and self._phase == "entering":
            self._phase = "connected"
        call = self.in_flight.get(number)
        if call is not None:
            call.parked = True
            if call.abandoned:
                del self.in_flight[number]
        if self._resume_at is None:
            self._resume_at = now + self._backoff.pause()
            self.alarm = True
            self._fruitless += 1
            if self._fruitless > MAX_FRUITLESS and len(self.endpoints) > 1 and self.broken is None:
                self.broken = reason

    def _on_expired(self, session: int) -> None:
        if session == self.session:
            self._end_session()

    def _end_session(self) -> None:
        for call in self.in_flight.values():
            if not call.abandoned:
                self._finish(call, errors.SessionExpired(self.session))
        self.in_flight.clear()
        self._forget_session()

    def _on_unknown_namespace(self, error: UnknownNamespace) -> None:
        self.broken = f"it knows no namespace {error.namespace!r}"
        self._phase = "connected"  # and not entering any more
        self._note(self._endpoint, self.broken)
        self._deny()

    def _deny(self) -> None:
        """One more endpoint does not know the namespace, or can't be asked."""
        self._denials += 1
        if self._denials >= len(self.endpoints):
            self._denials = 0
            self.broken = None
            self._end_session()  # what was submitted may have been executed, and must not be denied
            self._fail_all(errors.UnknownNamespace(self.namespace))

    def _fail_all(self, error: errors.HaretError) -> None:
        for call in (*self.in_flight.values(), *self.queue):
            if not call.abandoned:
                # One exception for each: tracebacks of several tasks would pile up on a shared one.
                self._finish(call, type(error)(*error.args))
        self.in_flight.clear()
        self.queue.clear()

    def _forget_session(self) -> None:
        self.session = 0
        self._client = self._random.randbytes(CLIENT_ID_BYTES)
        self._next = self._lowest = 1
        if self._phase != "down":
            self._phase = "connected"

    # ---------------------------------------------------------------- sending

    def _advance(self, now: float) -> None:
        """Send what may be sent."""
        if self._resume_at is not None or self._phase == "down" or self.broken:
            return
        if self._phase == "connected" and self.waiting:
            self._phase = "entering"
            self._heard_at = now
            self.outgoing.append(Enter(self.namespace, self._client, self.session))
        if self._phase != "entered":
            return
        if self.queue and not self.in_flight:
            self._heard_at = now
        queue, in_flight = self.queue, self.in_flight
        while queue and len(in_flight) < MAX_IN_FLIGHT:
            lowest = self._advance_lowest()
            if self._next - lowest >= WINDOW:
                break
            call, _ = queue.popitem(last=False)
            call.number = self._next
            self._next += 1
            in_flight[call.number] = call
            self.counts["sent"] += 1
            self.outgoing.append(Submit(call.number, lowest, call.operation))

    def _resubmit(self) -> None:
        lowest = self._advance_lowest()
        for call in self.in_flight.values():
            if call.parked:
                call.parked = False
                self.counts["resent"] += 1
                self.outgoing.append(Submit(call.number, lowest, call.operation))

    def _resume(self, now: float) -> None:
        self._resume_at = None
        if self._phase == "entered":
            self._resubmit()
        self._advance(now)

    def _advance_lowest(self) -> int:
        lowest, in_flight, following = self._lowest, self.in_flight, self._next
        while lowest < following and lowest not in in_flight:
            lowest += 1
        self._lowest = lowest
        return lowest

    def _finish(self, call: Call, outcome: Result | errors.HaretError) -> None:
        self.counts["completed"] += 1
        self.finished.append((call, outcome))

    def _note(self, endpoint: str, answer: str) -> None:
        # A redirect may add endpoints; forget the oldest of them before they become many.
        self.answers.pop(endpoint, None)
        self.answers[endpoint] = answer
        while len(self.answers) > 2 * len(self.endpoints) + 8:
            del self.answers[next(iter(self.answers))]
