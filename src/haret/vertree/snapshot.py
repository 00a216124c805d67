"""A whole tree to bytes, in chunks. `decoder.py` is the way back.

The bytes are a sequence of msgpack objects and a checksum:

    snapshot  = [FORMAT] node checksum
    node      = [BLOB, name, version, value]              the name of the root is ""
              | [QUEUE, name, version, count]             then count byte strings, in order
              | [SET, name, version, count]               then count byte strings, sorted
              | [DIRECTORY, name, version, count]         then count nodes, sorted by name
    checksum  = the 32 bytes of BLAKE2b over all bytes before

Equal trees give equal bytes, because nothing of their history is in them. Whoever reads them may cut them as he likes;
the chunks in which they are made cost about the same, to make as to read, whether few large objects are in them or many
small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, Final

import msgpack

from .nodes import Blob, Directory, Node, Queue, Set

FORMAT: Final = "haret.vertree 2"
"""Stands at the beginning. Whoever changes the bytes, or a limit, counts it up."""

CHUNK_SIZE: Final = 64 * 1024
"""Bytes in a chunk, at most: many fit into a frame, and few are enough for a large tree."""

CHUNK_OBJECTS: Final = 1024
"""Objects in a chunk, at most: a millisecond of work, during which others wait."""

CHECKSUM_SIZE: Final = 32
"""Bytes of the checksum."""

BLOB, QUEUE, SET, DIRECTORY = range(4)


def encode_tree(root: Directory) -> Iterator[bytes]:
    """The bytes of a tree, in chunks of `CHUNK_SIZE` bytes and `CHUNK_OBJECTS` objects at most."""
    checksum = blake2b(digest_size=CHECKSUM_SIZE)
    waiting: list[bytes] = []
    size = 0
    for packed in _objects(root):
        size += len(packed)
        if size > CHUNK_SIZE or len(waiting) == CHUNK_OBJECTS:
            data = b"".join(waiting)
            checksum.update(data)
            yield from _cut(data)
            waiting.clear()
            size = len(packed)
        waiting.append(packed)
    data = b"".join(waiting)
    checksum.update(data)
    yield from _cut(data + checksum.digest())


def _cut(data: bytes) -> Iterator[bytes]:
    """Pieces of `CHUNK_SIZE`, because a single value may be larger."""
    return (data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE))


def _objects(root: Directory) -> Iterator[bytes]:
    pack = msgpack.Packer().pack
    yield pack((FORMAT,))
    yield from _node("", root, pack)


def _node(name: str, node: Node, pack: Callable[[Any], bytes]) -> Iterator[bytes]:
    if isinstance(node, Directory):
        yield pack((DIRECTORY, name, node.version, node.children.size))
        for leaf in node.children.leaves():
            for child_name, child in zip(leaf.keys, leaf.values, strict=True):
                if type(child) is Blob:
                    yield pack((BLOB, child_name, child.version, child.value))
                else:
                    yield from _node(child_name, child, pack)
    elif isinstance(node, Queue):
        yield pack((QUEUE, name, node.version, node.elements.size))
        for elements in node.elements.leaves():
            yield from map(pack, elements.values)
    elif isinstance(node, Set):
        yield pack((SET, name, node.version, node.elements.size))
        for members in node.elements.leaves():
            yield from map(pack, members.keys)
