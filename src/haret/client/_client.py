"""`open_client`: a session in a namespace, over whatever connection works at the moment."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

import outcome
import trio

from haret.errors import ConfigError, HaretError, Unavailable, error_from_value
from haret.protocol import API, PING_AFTER, GetNamespaceNames, NamespaceNames, Result
from haret.vertree import (
    BlobGet,
    BlobPut,
    BlobSize,
    Create,
    Delete,
    Guard,
    Keys,
    ListKeys,
    MultiCas,
    MultiResult,
    Operation,
    QueueBack,
    QueueFront,
    QueueLen,
    QueuePop,
    QueuePush,
    SetContains,
    SetDifference,
    SetInsert,
    SetIntersection,
    SetRemove,
    SetResult,
    SetSubset,
    SetSuperset,
    SetSymmetricDifference,
    SetUnion,
    Write,
    check,
    is_write,
)
from haret.vertree import Result as WriteResult
from rabble_trio import (
    ConnectFailed,
    Connection,
    ConnectionClosed,
    DecodeError,
    EncodeError,
    decode,
    decode_batch,
    encode,
)

from ._machine import Machine, ProtocolBroken
from ._transport import frames, greet, open_first, parse_endpoint

_T = TypeVar("_T")

GIVE_UP_AFTER: Final = 10.0
"""Seconds of patience by default: many times what a failover takes, and as long as a person will wait."""

MAX_NAME: Final = 128
"""Characters in the name of a namespace, which is a part of pids. What is longer, no server need be asked for."""

FAREWELL: Final = 0.5
"""Seconds that closing a client may take to say goodbye to its session."""

STREAM: Final = 50
"""Messages that don't wait for the end of the turn of the event loop in which they are made, so that the server has something
to do meanwhile; if more than four times as many are in flight, a quarter of those."""

_RESULTS: Final = frozenset({WriteResult, SetResult, Keys, MultiResult})
_INF: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Reply(Generic[_T]):
    """What came of an operation."""

    value: _T
    """See the method."""
    version: int
    """The version of the node that was written or read; it can be used as a guard."""
    op: int
    """The commit number: the operation's place in the history of its namespace, or, of a read, the place it was read at."""
    view: int
    """The view of the group in which it was answered."""
    epoch: int
    """The epoch of the group."""
    more: bool = False
    """Of `list_keys`: whether there is another page."""


class Key(NamedTuple):
    """One line of a listing."""

    path: str
    """Where."""
    version: int
    """Of the newest change, there or below."""
    type: str
    """"blob", "queue", "set" or "directory"."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client did so far, and how it stands."""

    endpoint: str | None
    """The one that it is connected to."""
    waiting: int
    """Calls that have no answer yet."""
    sent: int
    """Requests that were sent, each counted once."""
    resent: int
    """Copies of them that were sent again, after a reconnect or a failover."""
    completed: int
    """Calls that ended, with a result or an error."""
    retries: int
    """Answers that said to try again."""
    redirects: int
    """Answers that said to go elsewhere."""
    late: int
    """Results that nobody waited for any more."""
    connections: int
    """Connections that were established."""
    sessions: int
    """Sessions that were opened: more than one if one expired."""


class Client:
    """A session in a namespace; `open_client` makes it. Many tasks may use it at once: their calls share its connection.

    Every operation is executed exactly once, however often it has to be sent. A call that is cancelled may or may not be
    executed. Calls of one task happen in their order; calls that are under way at the same time, in any order.

    Reads are linearizable: they see whatever was acknowledged to anybody before they began. With `stale=True` any replica
    may answer, at once, also while the namespace has no primary: perhaps from an older state, but never from one older than
    what this client has seen in any answer before. A client that does nothing else stays at the endpoint that it found.

    Every method raises `HaretError`: what the tree says (`DoesNotExist`, `AlreadyExists`, `WrongType`, `InvalidPath`,
    `PathMustEndInDirectory`, `LimitExceeded`, ...), `UnknownNamespace`, `Unavailable` when nobody answered for
    `give_up_after` seconds, and `SessionExpired`. Values are bytes; anything else is a `TypeError`.
    """

    def __init__(self, endpoints: Sequence[str], namespace: str, give_up_after: float) -> None:
        self.namespace = namespace
        self._machine = Machine(namespace, endpoints, random.SystemRandom(), give_up_after)
        self._work = trio.Event()
        self._alarm = trio.Event()
        self._flushed = trio.Event()
        self._connection: Connection | None = None
        self._connection_scope: trio.CancelScope | None = None
        self._endpoint: str | None = None
        self._connections = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client of {self.namespace!r} at {self._endpoint or 'no endpoint'}>"

    # -------------------------------------------------------------- any operation

    async def execute(self, operation: Operation, *, stale: bool = False) -> Reply[Any]:
        """Execute an operation, given as data: `haret.BlobPut("/a", b"x")` and the like.

        `stale`: see the class; a `ValueError` unless the operation only reads.
        """
        read = not is_write(operation)
        if stale and not read:
            raise ValueError(f"{type(operation).__name__} can change the tree, so it can't be a stale read")
        try:
            data = encode(operation)
        except EncodeError as error:
            raise _not_encodable(operation, error) from None
        refused = check(operation)
        if refused is not None:
            raise _error(refused)
        result = await self._submit(data, read, stale)
        value = _decode(result.result)
        return Reply(value.value, value.version, result.op, result.view, result.epoch, getattr(value, "more", False))

    async def _submit(self, operation: bytes, read: bool, stale: bool) -> Result:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise Unavailable("this client is closed", (), False)
        machine = self._machine
        call = machine.call(operation, trio.current_time(), read=read, stale=stale)
        call.waiter = trio.lowlevel.current_task()
        self._pump()

        def abort(_: Any) -> trio.lowlevel.Abort:
            machine.abandon(call)
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)  # type: ignore[no-any-return]

    # ----------------------------------------------------------------- operations

    async def create(self, path: str, type: str) -> Reply[None]:
        """Make an empty "blob", "queue", "set" or "directory", and the directories that are missing above it."""
        return await self.execute(Create(path, type))

    async def delete(self, path: str) -> Reply[None]:
        """Remove a node, with everything below it."""
        return await self.execute(Delete(path))

    async def list_keys(
        self,
        path: str = "/",
        *,
        after: str | None = None,
        limit: int = 1000,
        recursive: bool = True,
        stale: bool = False,
    ) -> Reply[tuple[Key, ...]]:
        """A page of the keys at and below a path, in order. If `more`, ask again with `after` the last path of it."""
        reply = await self.execute(ListKeys(path, after, limit, recursive), stale=stale)
        keys = tuple(Key(*key) for key in reply.value)
        return Reply(keys, reply.version, reply.op, reply.view, reply.epoch, reply.more)

    async def blob_put(self, path: str, value: bytes) -> Reply[None]:
        """Replace the value of a blob."""
        return await self.execute(BlobPut(path, value))

    async def blob_get(self, path: str, *, stale: bool = False) -> Reply[bytes]:
        """The value of a blob."""
        return await self.execute(BlobGet(path), stale=stale)

    async def blob_size(self, path: str, *, stale: bool = False) -> Reply[int]:
        """How many bytes a blob holds."""
        return await self.execute(BlobSize(path), stale=stale)

    async def queue_push(self, path: str, value: bytes) -> Reply[None]:
        """Append an element at the back of a queue."""
        return await self.execute(QueuePush(path, value))

    async def queue_pop(self, path: str) -> Reply[bytes | None]:
        """Remove the element at the front of a queue and return it; None if there is none."""
        return await self.execute(QueuePop(path))

    async def queue_front(self, path: str, *, stale: bool = False) -> Reply[bytes | None]:
        """The element at the front of a queue, which was pushed first; None if there is none."""
        return await self.execute(QueueFront(path), stale=stale)

    async def queue_back(self, path: str, *, stale: bool = False) -> Reply[bytes | None]:
        """The element at the back of a queue, which was pushed last; None if there is none."""
        return await self.execute(QueueBack(path), stale=stale)

    async def queue_len(self, path: str, *, stale: bool = False) -> Reply[int]:
        """How many elements a queue holds."""
        return await self.execute(QueueLen(path), stale=stale)

    async def set_insert(self, path: str, value: bytes) -> Reply[bool]:
        """Add an element to a set; False if it was there already."""
        return await self.execute(SetInsert(path, value))

    async def set_remove(self, path: str, value: bytes) -> Reply[bool]:
        """Remove an element from a set; False if it was not there."""
        return await self.execute(SetRemove(path, value))

    async def set_contains(self, path: str, value: bytes, *, stale: bool = False) -> Reply[bool]:
        """Whether an element is in a set."""
        return await self.execute(SetContains(path, value), stale=stale)

    async def set_union(
        self, *paths: str, literals: Iterable[Iterable[bytes]] = (), stale: bool = False
    ) -> Reply[frozenset[bytes]]:
        """What is in any of the sets at these paths, or in any of the literal sets. One path alone reads that set."""
        return await self.execute(SetUnion(paths, tuple(_literal(one) for one in literals)), stale=stale)

    async def set_intersection(
        self, left: SetOrPath, right: SetOrPath, *, stale: bool = False
    ) -> Reply[frozenset[bytes]]:
        """What is in both sets. Here and below, each is a path or a literal set."""
        return await self.execute(SetIntersection(_operand(left), _operand(right)), stale=stale)

    async def set_difference(
        self, left: SetOrPath, right: SetOrPath, *, stale: bool = False
    ) -> Reply[frozenset[bytes]]:
        """What is in the left set only."""
        return await self.execute(SetDifference(_operand(left), _operand(right)), stale=stale)

    async def set_symmetric_difference(
        self, left: SetOrPath, right: SetOrPath, *, stale: bool = False
    ) -> Reply[frozenset[bytes]]:
        """What is in one of the sets only."""
        return await self.execute(SetSymmetricDifference(_operand(left), _operand(right)), stale=stale)

    async def set_subset(self, left: SetOrPath, right: SetOrPath, *, stale: bool = False) -> Reply[bool]:
        """Whether everything in the left set is in the right one."""
        return await self.execute(SetSubset(_operand(left), _operand(right)), stale=stale)

    async def set_superset(self, left: SetOrPath, right: SetOrPath, *, stale: bool = False) -> Reply[bool]:
        """Whether everything in the right set is in the left one."""
        return await self.execute(SetSuperset(_operand(left), _operand(right)), stale=stale)

    async def multi_cas(
        self, *, guards: Iterable[tuple[str, int] | Guard] = (), operations: Iterable[Write]
    ) -> Reply[tuple[WriteResult, ...]]:
        """If every guard, (path, version), holds, do all operations as one change; otherwise nothing.

        Returns one result (`value`, `version`) for each operation. Raises `CasFailed` for the first guard that does not
        hold, or the error of the first operation that fails.
        """
        wanted = tuple(guard if isinstance(guard, Guard) else Guard(*guard) for guard in guards)
        return await self.execute(MultiCas(wanted, tuple(operations)))

    # -------------------------------------------------------------------- status

    def statistics(self) -> ClientStatistics:
        """What this client did so far, and how it stands."""
        machine = self._machine
        waiting = len(machine.queue) + sum(not call.abandoned for call in machine.in_flight.values())
        return ClientStatistics(
            endpoint=self._endpoint, waiting=waiting, connections=self._connections, **machine.counts
        )

    # ---------------------------------------------------------------- the machine

    def _pump(self) -> None:
        """Carry out what the machine wants after an input."""
        machine = self._machine
        if machine.finished:
            finished, machine.finished = machine.finished, []
            for call, result in finished:
                ending = outcome.Error(result) if isinstance(result, HaretError) else outcome.Value(result)
                trio.lowlevel.reschedule(call.waiter, ending)
        if machine.outgoing:
            if len(machine.outgoing) >= STREAM:
                self._stream()
            self._work.set()
        if machine.alarm:
            machine.alarm = False
            self._alarm.set()
        if machine.broken is not None and self._connection_scope is not None:
            self._connection_scope.cancel()

    def _stream(self) -> None:
        """Send what there is, if it is enough, and needs no waiting."""
        machine, connection = self._machine, self._connection
        if connection is None or not connection.clear or 4 * len(machine.outgoing) < len(machine.in_flight):
            return
        messages, machine.outgoing = machine.outgoing, []
        for frame in frames(messages):
            connection.send_nowait(frame)

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._machine.next_time()):
                await self._alarm.wait()
            self._alarm = trio.Event()
            if self._connection is not None:
                self._machine.heard(self._connection.heard_at)
            self._machine.tick(trio.current_time())
            self._pump()

    async def _keep_connected(self) -> None:
        machine = self._machine
        while True:
            try:
                async with open_first(machine.next_endpoints(), API, self._connect_failed) as (endpoint, connection):
                    self._connections += 1
                    self._endpoint = endpoint
                    await self._use(connection, endpoint)
            except ConnectFailed:
                pass  # each endpoint's reason has been told
            self._endpoint = None
            await trio.sleep(machine.pause_before_connect())

    def _connect_failed(self, endpoint: str, reason: str) -> None:
        self._machine.connect_failed(endpoint, reason)
        self._pump()

    async def _use(self, connection: Connection, endpoint: str) -> None:
        """Work over a connection until it is of no use any more."""
        machine = self._machine
        reason = "closed"
        try:
            async with trio.open_nursery() as nursery:
                self._connection_scope = nursery.cancel_scope
                self._connection = connection
                machine.connected(endpoint, trio.current_time())
                self._pump()
                nursery.start_soon(self._send, connection)
                try:
                    while True:
                        messages = decode_batch(await connection.receive())
                        machine.receive(messages, trio.current_time())
                        self._pump()
                except (ConnectionClosed, DecodeError, ProtocolBroken) as error:
                    reason = str(error)
                nursery.cancel_scope.cancel()
        finally:
            self._connection_scope = self._connection = None
            machine.disconnected(reason)
        if trio.current_time() > connection.heard_at + PING_AFTER and machine.waiting:
            await connection.abort()  # nobody is there to answer a goodbye

    async def _send(self, connection: Connection) -> None:
        machine = self._machine
        while True:
            if not machine.outgoing:
                self._flushed.set()
                self._work = trio.Event()
                await self._work.wait()
            messages, machine.outgoing = machine.outgoing, []
            try:
                if connection.unsent:
                    await connection.drain()
                for frame in frames(messages):
                    await connection.send(frame)
            except ConnectionClosed:
                return  # the receiver hears of it, too

    async def _close(self) -> None:
        """Say goodbye, if that is quickly done, and let nobody wait any longer."""
        self._closed = True
        machine = self._machine
        cancelled = trio.current_effective_deadline() == -_INF  # then nothing can be sent any more
        if not cancelled and machine.leave():
            self._flushed = trio.Event()
            self._pump()
            with trio.move_on_after(FAREWELL, shield=True):
                await self._flushed.wait()
        machine.close(Unavailable("the client was closed", (), True))
        self._pump()


SetOrPath = str | frozenset[bytes] | set[bytes]
"""An operand of set algebra: the path of a set, or a literal set."""


@asynccontextmanager
async def open_client(
    endpoints: str | Sequence[str], namespace: str, *, give_up_after: float = GIVE_UP_AFTER
) -> AsyncIterator[Client]:
    """Be a client of a namespace for the length of an `async with`.

    `endpoints`: "host:port" of the client ports of one or more nodes. `give_up_after`: seconds after which a call that
    nobody answers raises `Unavailable`; `math.inf` to wait for as long as the caller's cancel scope lets it.

    It connects in the background, and again whenever the connection is lost, so it is no error if nobody is there yet:
    calls wait. Raises `ConfigError` for what is no endpoint and for what can't be the name of a namespace. What the block
    raises leaves it as it is.
    """
    chosen = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not chosen:
        raise ConfigError("endpoints", "there must be at least one, such as 127.0.0.1:5002")
    for endpoint in chosen:
        parse_endpoint(endpoint)
    if not (isinstance(namespace, str) and namespace.isascii() and 0 < len(namespace) <= MAX_NAME):
        raise ConfigError("namespace", f"{namespace!r:.200} is no name: it takes 1 to {MAX_NAME} ASCII characters")
    if not give_up_after > 0:
        raise ConfigError("give_up_after", f"is a number of seconds above 0, not {give_up_after!r}")
    client = Client(chosen, namespace, give_up_after)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client._keep_connected)
        nursery.start_soon(client._keep_time)
        try:
            yield client
        except BaseException as error:
            failure = error
        await client._close()
        nursery.cancel_scope.cancel()
        nursery.cancel_scope.shield = failure is not None  # a later cancellation must not take the failure's place
    if failure is not None:
        raise failure


async def list_namespaces(endpoints: str | Sequence[str]) -> tuple[str, ...]:
    """The names of all namespaces, sorted, from the first endpoint that answers. Raises `Unavailable`, `ConfigError`."""
    left = [endpoints] if isinstance(endpoints, str) else list(dict.fromkeys(endpoints))
    for endpoint in left:
        parse_endpoint(endpoint)
    tried: dict[str, str] = {}
    while left:
        try:
            async with open_first(left, API, tried.__setitem__) as (endpoint, connection):
                answer = await _namespaces_at(connection, endpoint)
        except ConnectFailed:
            break
        if isinstance(answer, NamespaceNames):
            return answer.names
        tried[endpoint] = answer
        left = [one for one in left if one not in tried]
    raise Unavailable("no endpoint said which namespaces there are", tuple(tried.items()), False)


async def _namespaces_at(connection: Connection, endpoint: str) -> NamespaceNames | str:
    """The answer of one server, or what is wrong with it."""
    try:
        messages = await greet(connection, API, endpoint, GetNamespaceNames())
        while not messages:
            messages = decode_batch(await connection.receive())
    except Unavailable as error:
        return "; ".join(answer for _, answer in error.tried)
    except (ConnectionClosed, DecodeError) as error:
        return str(error)
    answer = messages[0]
    return answer if isinstance(answer, NamespaceNames) else f"it sent {type(answer).__name__}"


def _decode(result: bytes) -> Any:
    """The result of an operation, or raise the error that it is."""
    try:
        value = decode(result)
    except DecodeError as error:
        raise Unavailable(f"the answer can't be read; is the server a newer release? {error}", (), True) from None
    if type(value) in _RESULTS:
        return value
    raise error_from_value(value) or Unavailable(f"{type(value).__name__} is no result", (), True)


def _not_encodable(operation: Operation, error: EncodeError) -> Exception:
    """What is too large, or a path that has no UTF-8, is refused like any other operation; a wrong type is a `TypeError`."""
    try:
        refused = check(operation)
    except Exception:  # `check` relies on the types that the encoder has found wrong
        refused = None
    return TypeError(str(error)) if refused is None else _error(refused)


def _error(value: Any) -> HaretError:
    error = error_from_value(value)
    assert error is not None
    return error


def _literal(elements: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(elements)


def _operand(operand: SetOrPath) -> str | frozenset[bytes]:
    return operand if isinstance(operand, str) else frozenset(operand)
