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
   off from the others. If the next one is no better, it is left after twice as many times, and so on: when hundreds of
   groups look for a primary, those who connect again and again are what keeps them from it.
8. A namespace is unknown when one endpoint says so and no other, asked in turn, knows better: a node that has just been
   started may not have heard of it yet.
9. A call that is older than `patience` fails, with what every endpoint answered last.
10. While an answer is due, a silent server is asked for a sign of life, and left when it gives none.
11. Stale reads go their own way (`_stale.py`). Whoever makes no other calls opens no session, and stays where it is.
12. A connection that has forgotten a request is left, however lively it is (`_watch.py`). That holds for calls that nobody
    waits for any more, too, or the window would stand still; and for entering. It does not hold for calls that got a
    `Retry`, or wait in the queue: nothing is due there.

The owner feeds in connections, messages and the time (seconds, any clock that only grows), and after each input takes
what is in `outgoing` and `finished`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from haret import errors
from haret.protocol import (
    API,
    CLIENT_ID_BYTES,
    MAX_IN_FLIGHT,
    PING_AFTER,
    SILENCE,
    VERSION,
    Enter,
    Entered,
    Expired,
    Hello,
    Leave,
    Ping,
    Pong,
    Ready,
    Redirect,
    Refused,
    Result,
    Retry,
    Submit,
    UnknownNamespace,
    Visit,
    Welcome,
)

from ._calls import Backoff, Call, Random
from ._stale import StaleReads
from ._watch import ANSWERED_WITHIN, Watch

WINDOW: Final = 2 * MAX_IN_FLIGHT
"""How far above `lowest` a number may be: one call that is answered late must not let the replicas' tables grow."""

MAX_REDIRECTS: Final = 3
"""Redirects in a row that are followed without a pause: one is the rule, more mean that the primary moves, or a circle."""


MAX_FRUITLESS: Final = 6
"""Pauses in a row at one endpoint, about a second in all: longer than a failover takes."""

MAX_DOUBLINGS: Final = 3
"""How often that is doubled at most, while nothing succeeds."""


class ProtocolBroken(Exception):
    """The server sent what makes no sense. The connection is of no use any more."""


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
        self.stale = StaleReads(random)
        self._watch = Watch()
        self._enter_sent = 0  # the position of the last `Enter`
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
        self._left = 0  # endpoints in a row that were of no use
        self._resume_at: float | None = None  # paused until then
        self._heard_at = 0.0
        self._pinged = False  # since then
        self._visited = False  # the server knows which namespace this connection is for
        self._next = 1
        self._lowest = 1

    # ----------------------------------------------------------- connections

    def next_endpoints(self) -> list[str]:
        """Where to connect to, in the order of preference: where a redirect pointed, and the endpoints in turn."""
        turn = self._turn % len(self.endpoints)
        found = [*self.endpoints[turn:], *self.endpoints[:turn]]
        if self._redirect is not None:
            found, self._redirect = [self._redirect, *found], None
        return list(dict.fromkeys(found))

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
        if endpoint in self.endpoints:
            self._turn = self.endpoints.index(endpoint) + 1
        self._heard_at = now
        self._pinged = self._visited = False
        self._watch.begin()
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
        self.stale.connection_lost()
        for call in [*self.in_flight.values()]:
            call.parked = True
            if call.abandoned:
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

    def call(self, operation: bytes, now: float, *, read: bool = False, stale: bool = False) -> Call:
        """Somebody wants this operation executed. `read`: it changes nothing. `stale`: any replica may answer it."""
        call = Call(operation, now, read=read, stale=stale)
        if not self.waiting:
            self._heard_at = now  # nothing was due before
            self._watch.rest()
            self.alarm = True
        if stale:
            self.stale.waiting[call] = None
        else:
            self.queue[call] = None
        self._advance(now)
        return call

    def abandon(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        call.abandoned = True
        if call.stale:
            self.stale.abandon(call)
        elif not call.number:
            del self.queue[call]

    @property
    def waiting(self) -> bool:
        """Whether any call is not answered."""
        return bool(self.queue or self.in_flight or self.stale)

    # ------------------------------------------------------------------- time

    def heard(self, at: float) -> None:
        """A byte of the server arrived then, be its message whole or not."""
        self._heard_at = max(self._heard_at, at)

    def next_time(self) -> float:
        """When `tick` should be called, at the latest; infinity if there is nothing to wait for."""
        times = [float("inf")]
        times += [when for when in (self._resume_at, self.stale.resume_at) if when is not None]
        oldest = self._oldest()
        if oldest is not None:
            times.append(oldest.since + self.patience)
        if self._phase != "down" and self.waiting:
            times.append(self._heard_at + (SILENCE if self._pinged else PING_AFTER))
            times.append(self._watch.next_time())  # a new mark needs no alarm: the line above is earlier
        return min(times)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume(now)
        if self.stale.resume_at is not None and now >= self.stale.resume_at:
            self.stale.resume_at = None
            self._advance(now)
        while (oldest := self._oldest()) is not None and now >= oldest.since + self.patience:
            self._give_up(oldest)
        if self._phase != "down" and self.waiting:
            self._listen(now)
            self._look_for_overdue(now)

    def _listen(self, now: float) -> None:
        """Is the server alive?"""
        silence = now - self._heard_at
        if silence >= SILENCE:
            self.broken = f"no sign of life for {SILENCE:g} s"
        elif silence >= PING_AFTER and not self._pinged:
            self._pinged = True
            self._watch.ping()
            self.outgoing.append(Ping())

    def _look_for_overdue(self, now: float) -> None:
        """Is the server late with an answer?"""
        position = self._watch.overdue(now)
        if position and self._is_missing(position):
            self._watch.last_ping(position)
            self.outgoing.append(Ping())

    def _is_missing(self, position: int) -> bool:
        """Whether anything that was sent over this connection, up to this position, has no answer."""
        if self._phase == "entering" and self._enter_sent <= position:
            return True
        sent = (*self.in_flight.values(), *self.stale.in_flight.values())
        return any(call.sent <= position for call in sent if not call.parked)

    def _oldest(self) -> Call | None:
        found = self.stale.oldest()
        oldest = next((call for call in self.in_flight.values() if not call.abandoned), None)
        oldest = oldest or next(iter(self.queue), None)
        if found is None or (oldest is not None and oldest.since <= found.since):
            return oldest
        return found

    def _give_up(self, call: Call) -> None:
        reason = f"no answer from the namespace {self.namespace!r} within {self.patience:g} s"
        self._finish(call, errors.Unavailable(reason, tuple(self.answers.items()), _in_doubt(call)))
        self.abandon(call)

    # --------------------------------------------------------------- messages

    def receive(self, messages: Sequence[Any], now: float) -> None:
        """The server sent these. Raises `ProtocolBroken`."""
        self._heard_at = now
        self._pinged = False
        for message in messages:
            if type(message) is Result:
                self._on_result(message)
            else:
                self._on_other(message, now)
        position = self._watch.came(now)
        if position and self.broken is None and self._is_missing(position):
            self.broken = f"it answers, but not every request within {ANSWERED_WITHIN:g} s"
        self._advance(now)

    def _on_result(self, result: Result) -> None:
        self.stale.seen = max(self.stale.seen, result.op)
        if result.number < 0:
            call = self.stale.answered(result.number)
        else:
            call = self.in_flight.pop(result.number, None)
            self._backoff.reset()
            self._fruitless = self._left = 0
        if call is not None and call.sent > self._watch.read:
            self._watch.read = call.sent
        if call is None or call.abandoned:
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
            case Pong():
                self._watch.pong()
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
        if self._resume_at is None:
            self._resubmit()

    def _on_retry(self, number: int, reason: str, now: float) -> None:
        self.counts["retries"] += 1
        self._note(self._endpoint, reason)
        if number < 0:
            if self.stale.retry(number, now):
                self.alarm = True
                self._leave_if_fruitless(self.stale.fruitless, reason)
            return
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
            self._leave_if_fruitless(self._fruitless, reason)

    def _leave_if_fruitless(self, pauses: int, reason: str) -> None:
        most = MAX_FRUITLESS << min(self._left, MAX_DOUBLINGS)
        if pauses > most and len(self.endpoints) > 1 and self.broken is None:
            self._left += 1
            self.broken = reason

    def _on_expired(self, session: int) -> None:
        if session == self.session:
            self._end_session()

    def _end_session(self) -> None:
        calls, self.in_flight = [call for call in self.in_flight.values() if not call.abandoned], {}
        for call in calls:
            if not call.read:
                self._finish(call, errors.SessionExpired(self.session))
        for call in reversed(calls):
            if call.read:  # there is no harm in executing it again
                call.number, call.parked = 0, False
                self.queue[call] = None
                self.queue.move_to_end(call, last=False)
        self._forget_session()

    def _on_unknown_namespace(self, error: UnknownNamespace) -> None:
        self.broken = f"it knows no namespace {error.namespace!r}"
        self._phase = "connected"  # and not entering any more
        self._visited = False
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
        for call in (*self.in_flight.values(), *self.queue, *self.stale):
            if not call.abandoned:
                # One exception for each: tracebacks of several tasks would pile up on a shared one.
                self._finish(call, type(error)(*error.args))
        self.in_flight.clear()
        self.queue.clear()
        self.stale.clear()

    def _forget_session(self) -> None:
        self.session = 0
        self._client = self._random.randbytes(CLIENT_ID_BYTES)
        self._next = self._lowest = 1
        if self._phase != "down":
            self._phase = "connected"

    # ---------------------------------------------------------------- sending

    def _advance(self, now: float) -> None:
        """Send what may be sent."""
        if self._phase == "down" or self.broken:
            return
        if self._resume_at is None:
            self._advance_session()
        if self.stale.waiting:
            self._advance_stale()

    def _advance_stale(self) -> None:
        reads = self.stale.take(self.counts, self._watch)
        if reads and not self._visited:
            self._visited = True
            self.outgoing.append(Visit(self.namespace))
        self.outgoing += reads

    def _advance_session(self) -> None:
        if self._phase == "connected" and (self.queue or self.in_flight):
            self._phase = "entering"
            self._visited = True
            self._enter_sent = self._watch.send()
            self.outgoing.append(Enter(self.namespace, self._client, self.session))
        if self._phase != "entered":
            return
        queue, in_flight = self.queue, self.in_flight
        while queue and len(in_flight) < MAX_IN_FLIGHT:
            lowest = self._advance_lowest()
            if self._next - lowest >= WINDOW:
                break
            call, _ = queue.popitem(last=False)
            call.number = self._next
            self._next += 1
            call.sent = self._watch.send()
            in_flight[call.number] = call
            self.counts["sent"] += 1
            self.outgoing.append(Submit(call.number, lowest, call.operation))

    def _resubmit(self) -> None:
        lowest = self._advance_lowest()
        for call in self.in_flight.values():
            if call.parked:
                call.parked = False
                call.sent = self._watch.send()
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


def _in_doubt(call: Call) -> bool:
    """Whether it may have been executed, and whether that matters."""
    return call.number > 0 and not call.read
