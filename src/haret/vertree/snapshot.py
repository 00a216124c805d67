"""A whole tree to bytes and back, in chunks.

The bytes are a sequence of msgpack objects and a checksum:

    snapshot  = [FORMAT] node checksum
    node      = [type, name, version, count] content          the name of the root is ""
    content   = count nodes, sorted by name                   of a directory
              | count byte strings, in order                  of a queue
              | count byte strings, sorted                    of a set
              | one byte string                               of a blob, whose count is 1
    type      = 0 blob, 1 queue, 2 set, 3 directory
    checksum  = the 32 bytes of BLAKE2b over all bytes before

Equal trees give equal bytes, because nothing of their history is in them. Chunks are cut at fixed lengths, without
regard to the objects.

Decoding trusts nothing. It never holds more than the tree that it builds and one object, makes no room for what is only
announced, and refuses what encoding can't have made: children out of order, a child newer than its directory, names
that are no names, and whatever exceeds a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final

import msgpack

from .limits import (
    MAX_CHILDREN,
    MAX_COMPONENT_LENGTH,
    MAX_ELEMENT_SIZE,
    MAX_QUEUE_LENGTH,
    MAX_SET_SIZE,
    MAX_VALUE_SIZE,
)
from .nodes import Blob, Directory, Node, Queue, Set
from .paths import join, parse
from .sortedmap import build

FORMAT: Final = "haret.vertree 1"
"""Stands at the beginning. Whoever changes the bytes, or a limit, counts it up."""

CHUNK_SIZE: Final = 64 * 1024
"""Bytes in a chunk: many fit into a frame, and few are enough for a large tree."""

_CHECKSUM_SIZE: Final = 32
_TYPES: Final[tuple[type[Any], ...]] = (Blob, Queue, Set, Directory)
_NUMBERS: Final[dict[type[Any], int]] = {node: number for number, node in enumerate(_TYPES)}
_MOST: Final[dict[type[Any], int]] = {Blob: 1, Queue: MAX_QUEUE_LENGTH, Set: MAX_SET_SIZE, Directory: MAX_CHILDREN}
_MAX_VERSION: Final = 2**63 - 1


class BadSnapshot(ValueError):
    """Bytes are not those of a tree: incomplete, damaged, or made by something else. The text says what is wrong."""


def encode_tree(root: Directory) -> Iterator[bytes]:
    """The bytes of a tree in chunks of `CHUNK_SIZE`, of which the last may be shorter."""
    checksum = blake2b(digest_size=_CHECKSUM_SIZE)
    waiting = bytearray()
    for piece in _pieces(root):
        checksum.update(piece)
        waiting += piece
        while len(waiting) >= CHUNK_SIZE:
            yield bytes(waiting[:CHUNK_SIZE])
            del waiting[:CHUNK_SIZE]
    waiting += checksum.digest()
    for start in range(0, len(waiting), CHUNK_SIZE):
        yield bytes(waiting[start : start + CHUNK_SIZE])


def _pieces(root: Directory) -> Iterator[bytes]:
    pack = msgpack.Packer(use_bin_type=True).pack

    def pieces_of(name: str, node: Node) -> Iterator[bytes]:
        number = _NUMBERS[type(node)]
        if isinstance(node, Directory):
            yield pack((number, name, node.version, node.children.size))
            for child_name, child in node.children.items():
                yield from pieces_of(child_name, child)
        elif isinstance(node, Blob):
            yield pack((number, name, node.version, 1))
            yield pack(node.value)
        elif isinstance(node, Queue):
            yield pack((number, name, node.version, node.elements.size))
            yield from (pack(value) for _, value in node.elements.items())
        elif isinstance(node, Set):
            yield pack((number, name, node.version, node.elements.size))
            yield from (pack(element) for element, _ in node.elements.items())

    yield pack((FORMAT,))
    yield from pieces_of("", root)


def decode_tree(chunks: Iterable[bytes]) -> Directory:
    """The root of the tree whose bytes, cut at any places, these are. Raises `BadSnapshot`."""
    objects = _objects(chunks)
    if _next(objects) != [FORMAT]:
        raise BadSnapshot(f"this is not a snapshot of format {FORMAT!r}")
    number, name, version, count = _header(objects, _MAX_VERSION, ())
    if _TYPES[number] is not Directory or name != "":
        raise BadSnapshot("the first node is not a root")
    root = _directory(objects, version, count, ())
    if next(objects, None) is not None:
        raise BadSnapshot("there is something after the last node")
    return root


class Decoder:
    """A tree from its bytes, which come in pieces."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(chunk)

    def finish(self) -> Directory:
        """The root of the tree. Raises `BadSnapshot`."""
        return decode_tree(self._chunks)


def _objects(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The msgpack objects in the chunks; raises `BadSnapshot` when they end, unless the checksum is right."""
    checksum = blake2b(digest_size=_CHECKSUM_SIZE)
    # The limits are for the C code, which makes room for what a length announces.
    unpacker = msgpack.Unpacker(
        max_buffer_size=2 * MAX_VALUE_SIZE + CHUNK_SIZE,
        max_str_len=MAX_COMPONENT_LENGTH,
        max_bin_len=MAX_VALUE_SIZE,
        max_array_len=4,
        max_map_len=0,
        max_ext_len=0,
    )
    tail = b""  # what may be the checksum
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_SIZE):
            tail += chunk[start : start + CHUNK_SIZE]
            piece, tail = tail[:-_CHECKSUM_SIZE], tail[-_CHECKSUM_SIZE:]
            checksum.update(piece)
            try:
                unpacker.feed(piece)
                objects = list(unpacker)
            except (ValueError, msgpack.UnpackException) as error:
                raise BadSnapshot(f"the bytes are no snapshot: {type(error).__name__} {error}".rstrip()) from error
            yield from objects
    if tail != checksum.digest():
        raise BadSnapshot("the checksum is wrong: the snapshot is incomplete or damaged")


def _next(objects: Iterator[Any]) -> Any:
    try:
        return next(objects)
    except StopIteration:
        raise BadSnapshot("the snapshot ends too early") from None


def _header(objects: Iterator[Any], newest: int, components: tuple[str, ...]) -> tuple[int, str, int, int]:
    """Read what stands before the content of a node. `newest` and `components` are its directory's."""
    header = _next(objects)
    if type(header) is not list or [type(field) for field in header] != [int, str, int, int]:
        raise BadSnapshot(f"in {join(components)}: {_show(header)} does not begin a node")
    number, name, version, count = header
    if not 0 <= number < len(_TYPES):
        raise BadSnapshot(f"in {join(components)}: there is no type {number}")
    if not 0 <= version <= newest:
        raise BadSnapshot(f"in {join(components)}: a node has version {version}, its directory {newest}")
    if not 0 <= count <= _MOST[_TYPES[number]]:
        raise BadSnapshot(f"in {join(components)}: {count} is no size of a {_TYPES[number].type}")
    return number, name, version, count


def _directory(objects: Iterator[Any], version: int, count: int, components: tuple[str, ...]) -> Directory:
    names: list[str] = []
    children: list[Node] = []
    for _ in range(count):
        number, name, child_version, child_count = _header(objects, version, components)
        # This refuses "" and "a/b" as well, and whatever is too deep or too long.
        child_components = (*components, name)
        if parse(join(child_components)) != child_components:
            raise BadSnapshot(f"in {join(components)}: {_show(name)} is no name for a node")
        names.append(name)
        if _TYPES[number] is Directory:
            children.append(_directory(objects, child_version, child_count, child_components))
        else:
            children.append(_leaf(objects, _TYPES[number], child_version, child_count))
    _require_order(names)
    return Directory(version, build(names, children))


def _leaf(objects: Iterator[Any], node_type: type[Any], version: int, count: int) -> Node:
    values = [_bytes(objects, MAX_ELEMENT_SIZE if node_type is Set else MAX_VALUE_SIZE) for _ in range(count)]
    if node_type is Queue:
        return Queue(version, build(range(count), values))
    if node_type is Set:
        _require_order(values)
        return Set(version, build(values, [None] * count))
    if count != 1:
        raise BadSnapshot(f"a blob has one value, not {count}")
    return Blob(version, values[0])


def _bytes(objects: Iterator[Any], limit: int) -> bytes:
    value = _next(objects)
    if type(value) is not bytes or len(value) > limit:
        raise BadSnapshot(f"{_show(value)} is no value of at most {limit} bytes")
    return value


def _require_order(keys: list[Any]) -> None:
    if any(left >= right for left, right in pairwise(keys)):
        raise BadSnapshot("names or elements are not sorted and distinct")


def _show(thing: object) -> str:
    return f"{thing!r:.80}"
