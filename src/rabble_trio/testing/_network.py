"""A network in memory, for real nodes in one process, and under virtual time: see `MemoryNetwork`.

Rules:

1. A *path* leads from one node to another, and has a delay, a bandwidth, and a chance of losing a message. The way back is
   another path.
2. A connection delivers all messages in order, or breaks: what a network loses, TCP repeats, until it gives up. So a lost
   message breaks its connection.
3. What is sent into a partition waits, as TCP would repeat it, and arrives when the partition is healed, if the connection
   was not given up by then. Who dials into a partition hears nothing.
4. A sender waits while `WINDOW` bytes are on their way.
"""

from __future__ import annotations

import math
import random
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import trio

from .._codec import MAX_MESSAGE_SIZE
from .._errors import ConnectFailed, ConnectionClosed, ListenFailed
from .._ids import NodeId
from .._transport import Handler, Listener, Transport, Wire

WINDOW: Final = 256 * 1024
"""Bytes on their way over one connection in one direction: about what the buffers of TCP hold."""

_FIRST_PORT: Final = 5000

# Close codes: RFC 6455, section 7.4.1.
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_ABNORMAL: Final = 1006
_TOO_BIG: Final = 1009


class MemoryNetwork:
    """Carries links between nodes of one process. `seed` decides which messages are lost.

    Nodes are named by their names. `delay` is in seconds, `bandwidth` in bytes per second, and `loss` the chance that a
    message breaks its connection. All of that may be changed at any time; messages under way keep their delay.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self._paths: dict[tuple[str, str], _Path] = {}
        self._listeners: dict[str, _MemoryListener] = {}

    def transport(self, name: str) -> Transport:
        """The transport of the node of this name, for `rabble_trio.open_node`."""
        return _MemoryTransport(self, name)

    def set_path(
        self,
        a: str,
        b: str,
        *,
        delay: float = 0.0,
        bandwidth: float = math.inf,
        loss: float = 0.0,
        one_way: bool = False,
    ) -> None:
        """Say how messages get from `a` to `b`, and back unless `one_way`.

        Raises `ValueError` if that can't be.
        """
        if not (delay >= 0 and bandwidth > 0 and 0 <= loss <= 1):
            raise ValueError("delay must not be negative, bandwidth must be positive, and loss from 0 to 1")
        for path in self._between(a, b, one_way):
            path.delay, path.bandwidth, path.loss = delay, bandwidth, loss

    def partition(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Let nothing pass from `a` to `b`, and back unless `one_way`."""
        for path in self._between(a, b, one_way):
            path.set_open(False)

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """Undo `partition` between these two, or between `a` and everybody, or everywhere."""
        for (one, other), path in self._paths.items():
            if {a, b} - {None} <= {one, other}:
                path.set_open(True)

    def cut(self, a: str | None = None, b: str | None = None) -> int:
        """Break the open connections between these two, or between `a` and everybody, or all; returns how many."""
        pipes = {
            pipe
            for (one, other), path in self._paths.items()
            if {a, b} - {None} <= {one, other}
            for pipe in path.pipes
            if not pipe.over
        }
        for pipe in pipes:
            pipe.break_off("the connection was cut")
        return len(pipes) // 2

    def _between(self, a: str, b: str, one_way: bool) -> list[_Path]:
        return [self._path(a, b)] if one_way else [self._path(a, b), self._path(b, a)]

    def _path(self, a: str, b: str) -> _Path:
        return self._paths.setdefault((a, b), _Path(self._rng))

    def _bind(self, name: str, host: str, port: int) -> _MemoryListener:
        if port == 0:
            port = next(free for free in range(_FIRST_PORT, 65536) if f"{host}:{free}" not in self._listeners)
        address = f"{host}:{port}"
        if address in self._listeners:
            raise ListenFailed(f"can't listen on {address}: Address already in use")
        self._listeners[address] = listener = _MemoryListener(self, name, address, port)
        return listener

    async def _connect(self, name: str, node: NodeId) -> _MemoryWire:
        there, back = self._path(name, node.name), self._path(node.name, name)
        await there.pass_through()
        await back.pass_through()
        listener = self._listeners.get(f"{node.host}:{node.port}")
        if listener is None:
            raise ConnectFailed(node.addr, "Connection refused")
        out, home = _Pipe(there), _Pipe(back)
        out.other, home.other = home, out
        listener.arrived(_MemoryWire(name, home, out))
        return _MemoryWire(node.addr, out, home)


class _Path:
    """From one node to another."""

    def __init__(self, rng: random.Random) -> None:
        self.delay = 0.0
        self.bandwidth = math.inf
        self.loss = 0.0
        self.is_open = True
        self.pipes: weakref.WeakSet[_Pipe] = weakref.WeakSet()
        self._rng = rng
        self._changed = trio.Event()

    def set_open(self, is_open: bool) -> None:
        if is_open != self.is_open:
            self.is_open = is_open
            self._changed.set()
            self._changed = trio.Event()
            for pipe in list(self.pipes):
                pipe.notify()

    def loses(self) -> bool:
        return self.loss > 0 and self._rng.random() < self.loss

    async def pass_through(self) -> None:
        """Take as long as the first message would."""
        while not self.is_open:
            await self._changed.wait()
        await trio.sleep(self.delay)


class _Pipe:
    """One direction of a connection."""

    def __init__(self, path: _Path) -> None:
        self.other: _Pipe
        self.over = False
        self._path = path
        self._messages: deque[tuple[float, bytes | tuple[int, str]]] = deque()  # (when due, message or farewell)
        self._bytes = 0
        self._sent_at = 0.0  # when the last message has left the sender, at the path's bandwidth
        self._broken: str | None = None
        self._heard_at = trio.current_time()
        self._changed = trio.Event()
        path.pipes.add(self)

    def notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def break_off(self, reason: str) -> None:
        """Both directions are over, and nothing that is on its way arrives."""
        for pipe in (self, self.other):
            if pipe._broken is None:
                pipe._broken = reason
                pipe.over = True
                pipe.notify()

    @property
    def has_room(self) -> bool:
        return self._bytes < WINDOW and not self.over

    async def put(self, data: bytes) -> None:
        while self._bytes >= WINDOW and not self.over:
            await self._changed.wait()
        if self._broken is not None:
            raise ConnectionClosed(_ABNORMAL, self._broken)
        self.put_nowait(data)

    def put_nowait(self, data: bytes) -> None:
        if self._path.loses():
            self.break_off("a message was lost, and so was its repetition")
        elif not self.over:  # or nobody reads it any more
            self._append(data, len(data))

    def say_goodbye(self, code: int, reason: str) -> None:
        """The last thing in this direction; what still comes in the other does not count any more."""
        if not self.over:
            self._append((code, reason), 0)
        self.over = True
        self.other.over = True
        self.other.notify()

    def _append(self, message: bytes | tuple[int, str], size: int) -> None:
        self._sent_at = max(self._sent_at, trio.current_time()) + size / self._path.bandwidth
        self._messages.append((self._sent_at + self._path.delay, message))
        self._bytes += size
        self.notify()

    def heard_at(self) -> float:
        """When the last byte arrived: now, while a message is arriving at the path's bandwidth."""
        if self._messages and self._path.is_open:
            due, message = self._messages[0]
            size = len(message) if isinstance(message, bytes) else 0
            if due - size / self._path.bandwidth <= trio.current_time():
                self._heard_at = trio.current_time()
        return self._heard_at

    async def get(self) -> bytes | tuple[int, str]:
        while True:
            if self._broken is not None:
                return _ABNORMAL, self._broken
            due = self._messages[0][0] if self._messages and self._path.is_open else math.inf
            if due <= trio.current_time():
                _, message = self._messages.popleft()
                self._heard_at = trio.current_time()
                if isinstance(message, bytes):
                    self._bytes -= len(message)
                    self.notify()
                return message
            changed = self._changed
            with trio.move_on_at(due):
                await changed.wait()


class _MemoryWire:
    """One end of a connection."""

    certificate_names = None

    def __init__(self, remote: str, out: _Pipe, home: _Pipe) -> None:
        self.remote = remote
        self._out = out
        self._home = home
        self._closed: tuple[int, str] | None = None
        self._closing = trio.Event()

    @property
    def heard_at(self) -> float:
        return self._home.heard_at()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        await self._out.put(data)
        self._check_open()

    @property
    def clear(self) -> bool:
        return self._closed is None and self._out.has_room

    unsent = False

    def send_nowait(self, data: bytes) -> None:
        self._out.put_nowait(data)

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self._check_open()
        message = await self._home.get()
        self._check_open()
        if isinstance(message, tuple):
            self._closed = message
            self._out.over = True
        elif len(message) > MAX_MESSAGE_SIZE:
            await self.aclose(_TOO_BIG, f"a message of more than {MAX_MESSAGE_SIZE} bytes")
        else:
            return message
        self._check_open()
        raise AssertionError("it is closed")

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ConnectionClosed(*self._closed)

    async def aclose(self, code: int = _NORMAL, reason: str = "") -> None:
        if self._closed is None:
            self._closed = code, reason
            self._out.say_goodbye(code, reason)
            self._home.notify()
        await trio.lowlevel.checkpoint()


class _MemoryListener:
    """A bound address."""

    def __init__(self, network: MemoryNetwork, name: str, address: str, port: int) -> None:
        self.port = port
        self._network = network
        self._name = name
        self._address = address
        self._send, self._receive = trio.open_memory_channel[_MemoryWire](math.inf)

    def arrived(self, wire: _MemoryWire) -> None:
        self._send.send_nowait(wire)

    async def serve(self, handler: Handler) -> None:
        try:
            async with trio.open_nursery() as nursery:
                async for wire in self._receive:
                    nursery.start_soon(self._handle, handler, wire)
        finally:
            await self.aclose()

    async def _handle(self, handler: Handler, wire: _MemoryWire) -> None:
        code, reason = _GOING_AWAY, "the server is shutting down"
        try:
            await handler(wire)
            code, reason = _NORMAL, ""
        finally:
            with trio.CancelScope(shield=True):
                await wire.aclose(code, reason)

    async def aclose(self) -> None:
        """Release the address."""
        if self._network._listeners.get(self._address) is self:
            del self._network._listeners[self._address]
        with trio.CancelScope(shield=True):
            while True:
                try:
                    wire = self._receive.receive_nowait()
                except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    break
                await wire.aclose(_GOING_AWAY, "the server is shutting down")
        self._send.close()
        self._receive.close()


class _MemoryTransport:
    """How one node reaches the others."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network = network
        self._name = name

    async def listen(self, host: str, port: int) -> Listener:
        await trio.lowlevel.checkpoint()
        return self._network._bind(self._name, host, port)

    @asynccontextmanager
    async def dial(self, node: NodeId) -> AsyncGenerator[Wire, None]:
        wire = await self._network._connect(self._name, node)
        try:
            yield wire
        finally:
            with trio.CancelScope(shield=True):
                await wire.aclose(_NORMAL, "")
