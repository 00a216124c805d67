"""Endpoints, and batches of messages over a websocket: what the client and the admin client share.

Endpoints are not tried one after the other but staggered: when one has not answered for a moment, the next one is tried as
well, and the first that answers is taken. So a machine that is frozen, or swallows packets, costs that moment only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from haret.errors import ConfigError, Unavailable
from haret.protocol import MAX_BATCH_BYTES, MAX_FRAME, VERSION, Hello, Refused, Welcome
from rabble_trio import (
    ConnectFailed,
    Connection,
    ConnectionClosed,
    DecodeError,
    InvalidId,
    NodeId,
    decode_batch,
    encode,
    join_batch,
    open_websocket_client,
)

CONNECT_TIMEOUT: Final = 3.0
"""Seconds to connect and to shake hands: a machine that is there takes milliseconds."""

STAGGER: Final = 0.25
"""Seconds that an endpoint has to answer before another one is tried beside it: more than a far continent takes."""


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of "host:port". Raises `ConfigError`."""
    try:
        place = NodeId("endpoint", endpoint)
    except InvalidId as error:
        raise ConfigError("endpoint", str(error)) from None
    if place.port == 0:
        raise ConfigError("endpoint", f"{endpoint!r} has port 0: write the port that the server listens on")
    return place.host, place.port


@asynccontextmanager
async def open_connection(endpoint: str, protocol: str) -> AsyncIterator[Connection]:
    """Connect. Raises `ConnectFailed`, also when it takes longer than `CONNECT_TIMEOUT`."""
    host, port = parse_endpoint(endpoint)
    with trio.move_on_after(CONNECT_TIMEOUT) as patience:
        async with open_websocket_client(host, port, subprotocol=protocol, max_frame=MAX_FRAME) as connection:
            patience.deadline = float("inf")
            yield connection
            return
    raise ConnectFailed(endpoint, f"no connection within {CONNECT_TIMEOUT:g} s")


@asynccontextmanager
async def open_first(
    endpoints: Sequence[str], protocol: str, failed: Callable[[str, str], None]
) -> AsyncIterator[tuple[str, Connection]]:
    """Connect to the first of these endpoints that answers; gives which it is, and the connection.

    `failed` is called with each endpoint that can't be reached, and why. Raises `ConnectFailed` if none can. What the
    block raises leaves it as it is.
    """
    race = _Race(protocol, failed)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(race.run, endpoints)
        await race.decided.wait()
        if race.winner is not None:
            try:
                yield race.winner
            except BaseException as error:
                failure = error
            race.over.set()
            nursery.cancel_scope.shield = failure is not None  # a later cancellation must not take the failure's place
    if failure is not None:
        raise failure
    if race.winner is None:
        raise ConnectFailed(", ".join(endpoints), "no endpoint can be reached")


class _Race:
    """Attempts to connect, of which one wins."""

    def __init__(self, protocol: str, failed: Callable[[str, str], None]) -> None:
        self.winner: tuple[str, Connection] | None = None
        self.decided = trio.Event()
        self.over = trio.Event()  # the winner is not needed any more
        self._protocol = protocol
        self._failed = failed
        self._attempts: list[trio.CancelScope] = []

    async def run(self, endpoints: Sequence[str]) -> None:
        """Try these endpoints; it ends when all have failed, or the winner is not needed any more."""
        async with trio.open_nursery() as nursery:
            for endpoint in endpoints:
                ended = trio.Event()
                nursery.start_soon(self._attempt, endpoint, ended)
                with trio.move_on_after(STAGGER):
                    await ended.wait()
                if self.winner is not None:
                    break
        self.decided.set()

    async def _attempt(self, endpoint: str, ended: trio.Event) -> None:
        with trio.CancelScope() as scope:
            self._attempts.append(scope)
            try:
                async with open_connection(endpoint, self._protocol) as connection:
                    await self._use(endpoint, connection, scope)
            except (ConnectFailed, ConfigError) as error:
                self._failed(endpoint, error.reason)
        ended.set()

    async def _use(self, endpoint: str, connection: Connection, scope: trio.CancelScope) -> None:
        if self.winner is not None:  # another one answered at the same moment
            await connection.abort()
            return
        self.winner = endpoint, connection
        for attempt in self._attempts:
            if attempt is not scope:
                attempt.cancel()
        self.decided.set()
        await self.over.wait()


def frames(messages: Iterable[Any]) -> Iterator[bytes]:
    """Cut messages into frames of about `MAX_BATCH_BYTES` each."""
    batch: list[bytes] = []
    size = 0
    for message in messages:
        data = encode(message)
        if batch and size + len(data) > MAX_BATCH_BYTES:
            yield join_batch(batch)
            batch, size = [], 0
        batch.append(data)
        size += len(data)
    if batch:
        yield join_batch(batch)


async def greet(connection: Connection, protocol: str, endpoint: str, *first: Any) -> list[Any]:
    """Say `Hello`, and `first` behind it; returns what the server said after `Welcome`. Raises `Unavailable`."""
    try:
        for frame in frames((Hello(protocol, VERSION), *first)):
            await connection.send(frame)
        messages: list[Any] = []
        while not messages:
            messages = decode_batch(await connection.receive())
    except (ConnectionClosed, DecodeError) as error:
        raise Unavailable(f"{endpoint} does not answer as haret does", ((endpoint, str(error)),), False) from None
    match messages[0]:
        case Welcome():
            return messages[1:]
        case Refused(reason=reason):
            raise Unavailable(f"{endpoint} refused the connection", ((endpoint, reason),), False)
        case other:
            answer = f"it sent {type(other).__name__}"
            raise Unavailable(f"{endpoint} does not answer as haret does", ((endpoint, answer),), False)
