"""Endpoints, and batches of messages over a websocket: what the client and the admin client share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
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
