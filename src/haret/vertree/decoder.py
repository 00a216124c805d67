"""The bytes of a tree to a tree, in pieces of any size. `snapshot.py` has the format.

Rules:

1. Nothing is trusted. What encoding can't have made is refused: children out of order, a child newer than its directory,
   names that are no names, whatever exceeds a limit, bytes behind the end, and a checksum that is wrong.
2. No more is held than the tree that is built, and one object. Room is not made for what is only announced.
3. The work for a piece is linear in its size, however large the tree is; the last one is no exception.
"""

from __future__ import annotations

from hashlib import blake2b
from operator import lt
from typing import Any, Final, cast, final

import msgpack

from .limits import (
    MAX_CHILDREN,
    MAX_COMPONENT_LENGTH,
    MAX_DEPTH,
    MAX_ELEMENT_SIZE,
    MAX_PATH_LENGTH,
    MAX_QUEUE_LENGTH,
    MAX_SET_SIZE,
    MAX_VALUE_SIZE,
)
from .nodes import Blob, Directory, Node, Queue, Set
from .paths import is_component, join, printable, utf8_length
from .snapshot import BLOB, CHECKSUM_SIZE, CHUNK_SIZE, DIRECTORY, FORMAT, QUEUE, SET
from .sortedmap import Builder

_MAX_VERSION: Final = 2**63 - 1
_BYTES: Final = {bytes}


class BadSnapshot(ValueError):
    """Bytes are not those of a tree: incomplete, damaged, or made by something else. The text says what is wrong."""


@final
class Decoder:
    """Makes a tree of its bytes, which are fed to it piece by piece."""

    __slots__ = ("_begun", "_checksum", "_open", "_root", "_tail", "_unpacker", "_wrong")

    def __init__(self) -> None:
        self._checksum = blake2b(digest_size=CHECKSUM_SIZE)
        # The limits are for the C code, which makes room for what a length announces.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=2 * MAX_VALUE_SIZE + CHUNK_SIZE,
            max_str_len=MAX_COMPONENT_LENGTH,
            max_bin_len=MAX_VALUE_SIZE,
            max_array_len=4,
            max_map_len=0,
            max_ext_len=0,
        )
        self._tail = b""  # what may be the checksum
        self._begun = False
        self._open: list[_Open] = []  # the nodes that are not complete, from the root to the innermost
        self._root: Directory | None = None
        self._wrong: str | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; they may have been cut anywhere. Raises `BadSnapshot`, and then ever after."""
        if self._wrong is not None:
            raise BadSnapshot(self._wrong)
        try:
            for start in range(0, len(chunk), CHUNK_SIZE):
                self._feed(chunk[start : start + CHUNK_SIZE])
        except BadSnapshot as error:
            self._wrong = str(error)
            self._open = []
            raise

    def finish(self) -> Directory:
        """The root of the tree, if that was all. Raises `BadSnapshot` if it was not, or its checksum is wrong."""
        if self._wrong is None and self._tail != self._checksum.digest():
            self._wrong = "the checksum is wrong: the snapshot is incomplete or damaged"
        if self._wrong is not None:
            raise BadSnapshot(self._wrong)
        if self._root is None or self._in_an_object():
            raise BadSnapshot("the snapshot ends too early, in the middle of a node")
        return self._root

    def _in_an_object(self) -> bool:
        """Whether the unpacker waits for the rest of an object: only if not, a nil is a nil to it."""
        self._unpacker.feed(msgpack.packb(None))
        return list(self._unpacker) != [None]

    def _feed(self, piece: bytes) -> None:
        data = self._tail + piece
        data, self._tail = data[:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
        self._checksum.update(data)
        try:
            self._unpacker.feed(data)
            objects = list(self._unpacker)
        except (ValueError, msgpack.UnpackException) as error:
            raise BadSnapshot(f"the bytes are no snapshot: {type(error).__name__} {error}".rstrip()) from None
        try:
            self._take(objects)
        except _Wrong as error:
            place = join(tuple(node.name for node in self._open[1:]))
            raise BadSnapshot(f"in {place}: {error}") from None

    def _take(self, objects: list[Any]) -> None:
        start = 0
        if objects and not self._begun:
            self._begun = True
            start = 1
            if objects[0] != [FORMAT]:
                raise BadSnapshot(f"this is not a snapshot of format {FORMAT!r}")
        while start < len(objects):
            if self._open:
                start, child = self._open[-1].take(objects, start)
            elif self._root is None:
                child = _root(objects[start])
                start += 1
            else:
                raise BadSnapshot("there is something after the last node")
            if child is not None:
                self._open.append(child)
            while self._open and not self._open[-1].content.missing:
                complete = self._open.pop()
                if self._open:
                    self._open[-1].content.extend([complete.name], [complete.node()])
                else:
                    self._root = cast("Directory", complete.node())


class _Wrong(Exception):
    """What is wrong in the innermost node."""


class _Elements:
    """A queue or a set whose elements are coming."""

    __slots__ = ("_last", "_limit", "_taken", "content", "name", "number", "version")

    def __init__(self, number: int, name: str, version: int, count: int) -> None:
        self.number = number
        self.name = name
        self.version = version
        self.content: Builder[Any, Any] = Builder(count)
        self._limit = MAX_ELEMENT_SIZE if number == SET else MAX_VALUE_SIZE
        self._taken = 0
        self._last: bytes | None = None

    def take(self, objects: list[Any], start: int) -> tuple[int, None]:
        """Take what belongs here; returns where the rest starts."""
        end = min(len(objects), start + self.content.missing)
        values = objects[start:end]
        if set(map(type, values)) != _BYTES or max(map(len, values)) > self._limit:
            wrong = next(value for value in values if type(value) is not bytes or len(value) > self._limit)
            raise _Wrong(f"{_show(wrong)} is no value of at most {self._limit} bytes")
        if self.number == QUEUE:
            self.content.extend(range(self._taken, self._taken + len(values)), values)
        else:
            if not all(map(lt, values, values[1:])) or not (self._last is None or self._last < values[0]):
                raise _Wrong("elements are not sorted and distinct")
            self._last = values[-1]
            self.content.extend(values, [None] * len(values))
        self._taken += len(values)
        return end, None

    def node(self) -> Node:
        """The node, when nothing is missing."""
        return (Queue if self.number == QUEUE else Set)(self.version, self.content.finish())


class _Children:
    """A directory whose children are coming."""

    __slots__ = ("_depth", "_last", "_length", "content", "name", "version")

    def __init__(self, name: str, version: int, count: int, depth: int, length: int) -> None:
        self.name = name
        self.version = version
        self.content: Builder[str, Node] = Builder(count)
        self._depth = depth
        self._length = length  # of its path, in bytes
        self._last = ""

    def take(self, objects: list[Any], start: int) -> tuple[int, _Open | None]:
        """Take children; returns where the rest starts, and the child that has content of its own, if one comes."""
        names: list[str] = []
        blobs: list[Node] = []
        end = min(len(objects), start + self.content.missing)
        child: _Open | None = None
        while start < end and child is None:
            header = objects[start]
            start += 1
            number, name, version, content = _checked(header, self.version)
            self._check_name(name)
            if number == BLOB:
                names.append(name)
                blobs.append(Blob(version, content))
            elif number == DIRECTORY:
                length = self._length + 1 + utf8_length(name)
                child = _Children(name, version, content, self._depth + 1, length)
            else:
                child = _Elements(number, name, version, content)
        self.content.extend(names, blobs)
        return start, child

    def _check_name(self, name: str) -> None:
        length = self._length + 1 + utf8_length(name)
        if not is_component(name) or length > MAX_PATH_LENGTH or self._depth == MAX_DEPTH:
            raise _Wrong(f"{_show(name)} is no name for a node")
        if name <= self._last:
            raise _Wrong("names are not sorted and distinct")
        self._last = name

    def node(self) -> Directory:
        """The node, when nothing is missing."""
        return Directory(self.version, self.content.finish())


_Open = _Elements | _Children


def _root(header: object) -> _Children:
    try:
        number, name, version, count = _checked(header, _MAX_VERSION)
    except _Wrong as error:
        raise BadSnapshot(f"at the root: {error}") from None
    if number != DIRECTORY or name:
        raise BadSnapshot("the first node is not a root")
    return _Children(name, version, count, 0, 0)


_MOST: Final = {QUEUE: MAX_QUEUE_LENGTH, SET: MAX_SET_SIZE, DIRECTORY: MAX_CHILDREN}


def _checked(header: Any, newest: int) -> tuple[int, str, int, Any]:
    """The fields of a node; `newest` is the version of its directory."""
    if type(header) is not list or len(header) != 4:
        raise _Wrong(f"{_show(header)} is no node")
    number, name, version, content = header
    if type(number) is not int or type(name) is not str or type(version) is not int:
        raise _Wrong(f"{_show(header)} is no node")
    if not 0 <= version <= newest:
        raise _Wrong(f"a node has version {version}, its directory {newest}")
    if number == BLOB:
        if type(content) is not bytes:
            raise _Wrong(f"{_show(content)} is no value of a blob")
    elif number not in _MOST:
        raise _Wrong(f"there is no type {number}")
    elif type(content) is not int or not 0 <= content <= _MOST[number]:
        raise _Wrong(f"{_show(content)} is no size of a node")
    return number, name, version, content


def _show(thing: object) -> str:
    return printable(f"{thing!r:.80}")
