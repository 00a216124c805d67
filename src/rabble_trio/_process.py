"""Pure processes: a message and a state in, effects out.

Rules:

1. A process changes only while it handles a message, and time reaches it as a message (`Timeout`).
2. What it wants done it appends to its `Outbox`, as data. The executor, or a test, carries the effects out in order.
3. `persist` is a barrier. What is appended after it, in this step or a later one, leaves the process only when the
   record is durable; what stands before it leaves at once. `send(..., held=False)` passes the barrier.
4. A process gets no clock, no randomness and no I/O but what its factory hands in, so a schedule of messages decides
   everything it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ._codec import MESSAGE_TYPES
from ._errors import JournalError, NotAMessage
from ._ids import CorrelationId, NodeId, Pid
from ._messages import CancelTimer, Demonitor, DemonitorNodes, Monitor, MonitorNodes, StartTimer, Stop

_CANCEL_TIMER = CancelTimer()
_STOP = Stop()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way: to whom, from whom, and what it answers."""

    to: Pid
    """The receiver."""
    sender: Pid
    """The actor that sent it."""
    message: Any
    """An instance of a class decorated with `rabble_trio.message`."""
    correlation_id: CorrelationId | None = None
    """Copied by the receiver into its reply, so that the sender knows what the reply answers."""


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: deliver an envelope."""

    envelope: Envelope
    """What to deliver. Timers and monitors are envelopes to the executor."""
    held: bool = True
    """Whether it waits behind records that are not yet durable."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Effect: append a record to the journal; what follows is held until it is durable."""

    record: bytes
    """Opaque to the runtime; `Process.restore` gets it back."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Effect: replace all records so far by a snapshot, once that is durable."""

    encode: Callable[[], bytes]
    """Makes the snapshot, in a worker thread: it must read immutable data only."""


Effect = Send | Persist | Snapshot


class Outbox:
    """Collects the effects of one step of a process. See the rules in `rabble_trio.Process`.

    The executor makes one per process and empties it after each step. A test makes its own: `Outbox(pid)`.
    """

    __slots__ = ("_append", "_executor", "_items", "pid", "uses_journal")

    def __init__(self, pid: Pid) -> None:
        self.pid = pid
        # One plain tuple per effect, (to, message, correlation_id, held), because this is the hottest path there is.
        # `to` is None for Persist and Snapshot, which stand in the place of the message.
        self._items: list[tuple[Pid | None, Any, CorrelationId | None, bool]] = []
        self._append = self._items.append
        self._executor = executor_pid(pid)
        self.uses_journal = False

    def send(self, to: Pid, message: Any, correlation_id: CorrelationId | None = None, *, held: bool = True) -> None:
        """Send a message; with `held=False` also past records that are not yet durable (it may overtake held ones).

        Raises `NotAMessage` unless the message's class is decorated with `@message`: what works on one node works on two.
        """
        if type(message) not in MESSAGE_TYPES:
            raise NotAMessage.of(message)
        self._append((to, message, correlation_id, held))

    def start_timer(self, seconds: float, correlation_id: CorrelationId | None = None) -> None:
        """Receive `Timeout` with this correlation id after so many seconds. A running timer of that id is replaced.

        It comes after the messages that wait by then: one of 0 seconds, when all that is in the mailbox has been handled. On
        a node with hundreds of running timers it may come up to 5 ms late.

        Raises `ValueError` if `seconds` is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"a timer runs for 0 seconds or more, not {seconds!r}")
        self._append((self._executor, StartTimer(float(seconds)), correlation_id, False))

    def cancel_timer(self, correlation_id: CorrelationId | None = None) -> None:
        """The `Timeout` of this correlation id never arrives, even if its time is up already."""
        self._append((self._executor, _CANCEL_TIMER, correlation_id, False))

    def monitor(self, pid: Pid) -> None:
        """Receive one `Down(pid, reason)` when the actor ends; at once if it does not run. Twice counts as once."""
        self._append((self._executor, Monitor(pid), None, False))

    def demonitor(self, pid: Pid) -> None:
        """No longer receive the `Down` of `pid`."""
        self._append((self._executor, Demonitor(pid), None, False))

    def monitor_nodes(self) -> None:
        """Receive `NodeUp` for each member of the cluster that is linked, now and later, and `NodeDown` for each lost."""
        self._append((cluster_pid(self.pid.node), MonitorNodes(), None, False))

    def demonitor_nodes(self) -> None:
        """No longer receive `NodeUp` and `NodeDown`."""
        self._append((cluster_pid(self.pid.node), DemonitorNodes(), None, False))

    def stop(self) -> None:
        """End this process after this step, by its own wish: the reason in `Down` is "finished"."""
        self._append((self._executor, _STOP, None, True))

    def persist(self, record: bytes) -> None:
        """Append a record to the journal. Later effects are held until it is durable; `Persisted` then arrives.

        Raises `TypeError` if the record is not bytes.
        """
        if not isinstance(record, bytes):
            raise TypeError(f"a record is bytes, not {type(record).__name__}: encode(message) makes them")
        self.uses_journal = True
        self._append((None, Persist(record), None, True))

    def snapshot(self, encode: Callable[[], bytes]) -> None:
        """Replace all records persisted so far by what `encode()` returns, once that is durable.

        `encode` runs in a worker thread, so it must read immutable data only.
        """
        self.uses_journal = True
        self._append((None, Snapshot(encode), None, True))

    @property
    def effects(self) -> list[Effect]:
        """All effects so far, in order, as data."""
        return [
            effect if to is None else Send(Envelope(to, self.pid, effect, correlation_id), held)
            for to, effect, correlation_id, held in self._items
        ]

    @property
    def envelopes(self) -> list[Envelope]:
        """The envelopes among the effects, in order, those to the executor (timers, monitors) included."""
        return [Envelope(to, self.pid, message, cid) for to, message, cid, _ in self._items if to is not None]

    def take(self) -> list[Effect]:
        """All effects so far; the outbox is empty afterwards."""
        effects = self.effects
        self._items.clear()
        return effects

    @property
    def items(self) -> list[tuple[Pid | None, Any, CorrelationId | None, bool]]:
        """For the executor: the live list of effects, which it empties itself after each step."""
        return self._items

    def clear(self) -> None:
        """Forget all effects."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)


def executor_pid(pid: Pid) -> Pid:
    """The executor of the node that `pid` lives on: "rabble::executor::NODE"."""
    return Pid("executor", pid.node, "rabble")


def cluster_pid(node: NodeId) -> Pid:
    """The cluster server of a node: "rabble::cluster_server::NODE"."""
    return Pid("cluster_server", node, "rabble")


class Process:
    """An actor as a pure state machine: subclass it and write `handle`.

    A process is made by a factory, so that a supervisor can make a fresh one after a crash. An exception out of `init`,
    `restore` or `handle` is a crash; effects of that step are discarded.
    """

    mailbox_size: ClassVar[int] = 10_000
    """Messages that may wait. Beyond it Trio code waits, and envelopes of processes become dead letters."""

    flight_recipe: Callable[[], Process] | None = None
    """For the flight recorder (`rabble_trio.FlightRecorder`): makes this very process again, where calling the factory once
    more would not. A factory that draws a seed sets it, for example, to ``functools.partial(make_client, seed)``: a function
    of a module, and arguments that are numbers, text, bytes, ids, messages, or collections of them."""

    def restore(self, snapshot: bytes | None, records: Sequence[bytes]) -> None:
        """Take up what earlier incarnations persisted; called before `init` if there is any, and if much, in a worker thread.

        A process that persists must override it.
        """
        raise NotImplementedError(f"{type(self).__name__} has persisted records, but no restore()")

    def damaged(self, reason: str) -> None:
        """Called instead of `restore` if the journal knows that it lost records of this process, or can't trust them.

        They are set aside. A new history begins with what the process persists next, and each start until then is told
        the same. A process that the journal does not know is told as well, if it has lost whom it knew. The default raises
        `JournalError`, so the process does not start; one that can go on although it forgot what it promised overrides it.
        """
        raise JournalError(f"the journal of {type(self).__name__} is damaged: {reason}")

    def init(self, pid: Pid, output: Outbox) -> None:
        """Called once before the first message; the place for first timers and monitors."""

    def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        """Handle one message: change the state, append effects."""
        raise NotImplementedError(f"{type(self).__name__} must define handle()")

    def flight_state(self) -> Callable[[], bytes] | None:
        """For the flight recorder: the state of now, as a function that makes bytes of it, perhaps later, in a thread.

        Whoever runs for long overrides it, together with `from_flight_state`: then a flight can be replayed although its
        beginning is forgotten. It is asked every few thousand messages, between two of them, so it must take little time,
        and the function must read immutable data only. None, as by default: it can't be given, or not now.
        """
        return None

    @classmethod
    def from_flight_state(cls, state: bytes) -> Self:
        """The reverse of `flight_state`: a process in that state, which is neither restored nor initialised.

        Its source of randomness has to be in the same state, too. Its timers run already.
        """
        raise NotImplementedError(f"{cls.__name__} has flight_state(), but no from_flight_state()")
