"""The client table: each request of a session is executed exactly once (sections 4.1 and 4.5).

It has two layers, because an entry of the log may yet be lost in a view change:

* `ClientTable` is what *committed* entries did: which sessions exist, and the results of their requests. It is part of
  the replicated state, so it changes only by executing entries, in order, and the same way on every replica.
* What is *pending* (in the log, not committed) matters to a primary only. It is a plain dict in the primary's state,
  made anew from the log whenever a view begins. Were it kept, a request whose entry was lost could never run again.

Rules of execution, the same on every replica:

1. A session's number is the op that opened it. Opening again with the same client bytes gives the same session.
2. A request whose session does not exist is not applied, nor one below the session's lowest wanted number, nor one whose
   result is known.
3. When there are too many sessions, the one whose last entry is oldest makes room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256

from .messages import CloseSession, Entry, OpenSession, Request

Done = tuple[int, bytes]
"""The op at which a request was executed, and its result."""

Key = tuple[int, int] | bytes | int
"""What makes two log entries the same request: see `entry_key`."""


SessionImage = tuple[int, bytes, int, tuple[tuple[int, Done], ...]]
"""A session at one moment: its number, client, lowest wanted number, and results by number."""


def entry_key(entry: Entry) -> Key:
    """What a retry has in common with its original. Keys of different kinds of entries never collide."""
    if isinstance(entry, Request):
        return (entry.session, entry.number)
    if isinstance(entry, OpenSession):
        return entry.client
    # A session's number is at least 1, so 0 can stand for what belongs to none.
    return entry.session if isinstance(entry, CloseSession) else (0, entry.epoch)


class Session:
    """What is known about one client session."""

    __slots__ = ("client", "kept", "lowest", "results")

    def __init__(self, client: bytes) -> None:
        self.client = client
        """The client's random bytes."""
        self.lowest = 1
        """The lowest number whose result is kept; requests below it are never executed."""
        self.results: dict[int, Done] = {}
        """By number."""
        self.kept = 0
        """Bytes of results."""

    def forget_below(self, lowest: int) -> None:
        """Drop the results that the client has received."""
        results = self.results
        # A client acknowledges few at a time, mostly one. But the number is the client's to choose, so a loop over the
        # difference could be made to run for ever.
        few = lowest - self.lowest <= len(results)
        for number in range(self.lowest, lowest) if few else [number for number in results if number < lowest]:
            done = results.pop(number, None)
            if done is not None:
                self.kept -= len(done[1])
        self.lowest = lowest


class ClientTable:
    """The executed layer of the client table. `max_sessions` must be the same on all replicas."""

    __slots__ = ("_by_client", "_max_sessions", "_sessions")

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        # In the order of their last executed entry, so the first one is the one to make room.
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._by_client: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session: int) -> Session | None:
        """The session of this number, if it exists."""
        return self._sessions.get(session)

    def of_client(self, client: bytes) -> int | None:
        """The number of the session that was opened with these bytes, if it exists."""
        return self._by_client.get(client)

    def open(self, op: int, client: bytes) -> int:
        """Execute `OpenSession`; returns the session's number."""
        number = self._by_client.get(client)
        if number is None:
            while len(self._sessions) >= self._max_sessions:
                _, evicted = self._sessions.popitem(last=False)
                del self._by_client[evicted.client]
            number = self._by_client[client] = op
            self._sessions[op] = Session(client)
        else:
            self._sessions.move_to_end(number)
        return number

    def close(self, number: int) -> None:
        """Execute `CloseSession`."""
        session = self._sessions.pop(number, None)
        if session is not None:
            del self._by_client[session.client]

    def request(self, op: int, request: Request, apply: Callable[[int, bytes], bytes]) -> Done | None:
        """Execute `Request`, unless that was done before. None if its session is gone, or it was given up."""
        session = self._sessions.get(request.session)
        if session is None:
            return None
        self._sessions.move_to_end(request.session)
        if request.lowest > session.lowest:
            session.forget_below(request.lowest)
        number = request.number
        done = session.results.get(number)
        if done is None and number >= session.lowest:
            result = apply(op, request.operation)
            done = session.results[number] = (op, result)
            session.kept += len(result)
        return done

    def execute(self, op: int, entry: Entry, apply: Callable[[int, bytes], bytes]) -> None:
        """Execute any entry, for its effect only."""
        if isinstance(entry, Request):
            self.request(op, entry, apply)
        elif isinstance(entry, OpenSession):
            self.open(op, entry.client)
        elif isinstance(entry, CloseSession):
            self.close(entry.session)

    def image(self) -> tuple[SessionImage, ...]:
        """All sessions as they are now, eviction order included."""
        return tuple(
            (number, session.client, session.lowest, tuple(session.results.items()))
            for number, session in self._sessions.items()
        )

    def restore(self, image: Iterable[SessionImage]) -> None:
        """Become the table that an image was made of."""
        self._sessions.clear()
        self._by_client.clear()
        for number, client, lowest, results in image:
            session = self._sessions[number] = Session(client)
            session.lowest = lowest
            session.results = dict(results)
            session.kept = sum(len(result) for _, (_, result) in results)
            self._by_client[client] = number

    def digest(self) -> bytes:
        """A digest of everything here, eviction order included."""
        made = sha256()
        for number, session in self._sessions.items():
            made.update(repr((number, session.client, session.lowest, sorted(session.results.items()))).encode())
        return made.digest()
