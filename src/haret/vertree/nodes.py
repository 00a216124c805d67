"""The nodes of the tree. A write makes new ones from the leaf up to the root and shares the rest; they never change.

Except for directories, and the maps in the nodes, while they have an owner: see the rules of `sortedmap.py`. A digest is
never asked of a node that has one.

A node's version is the revision of the newest change to it or to anything below it. Its digest is 32 bytes that
identify its type, version and content, computed when first asked for and remembered where that is worth the memory; so
after a write a digest of the whole tree costs as much as the path that was written. It serves to find replicas that
went apart, not against forgers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from hashlib import blake2b
from typing import Any, ClassVar, Final, cast

from .sortedmap import SortedMap, empty

DIGEST_SIZE: Final = 32
"""Bytes in a digest."""

_BYTES_OF_WORK: Final = 1024
"""Bytes that are hashed in the time that an entry costs anyway. The digest of a blob with fewer is not remembered."""


class Node(ABC):
    """A blob, a queue, a set or a directory."""

    __slots__ = ("_digest", "version")

    type: ClassVar[str]
    """As `Create` names it."""
    version: int
    """The revision of the newest change to this node or below it."""
    _digest: bytes | None

    @property
    def digest(self) -> bytes:
        """32 bytes that identify type, version and content of this node and all below it."""
        for _ in self.digest_steps():
            pass
        return cast("bytes", self._digest)

    def digest_steps(self) -> Iterator[int]:
        """What `digest` has yet to do, in steps: yields before each how much work it is; that of a node is about 1.

        When it ends, the digest is remembered. What was remembered below is kept if nobody goes on.
        """
        if self._digest is None:
            content = yield from self._content_steps()
            self._digest = _hash(b"%s %d %s" % (self.type.encode(), self.version, content))

    @abstractmethod
    def _content_steps(self) -> Generator[int, None, bytes]:
        """Compute, in steps as above, what identifies the content."""


class Blob(Node):
    """A leaf that holds bytes."""

    __slots__ = ("value",)
    type = "blob"

    def __init__(self, version: int, value: bytes = b"") -> None:
        self.version = version
        self.value = value
        """The bytes."""
        self._digest = None

    def _content_steps(self) -> Generator[int, None, bytes]:
        yield _work(self.value)
        return self.value


class Queue(Node):
    """A leaf that holds a sequence of byte strings, pushed at the back and popped at the front."""

    __slots__ = ("elements",)
    type = "queue"

    def __init__(self, version: int, elements: SortedMap[int, bytes] | None = None) -> None:
        self.version = version
        self.elements = empty() if elements is None else elements
        """By a number that only counts up while the queue lives; the number itself can't be seen from outside."""
        self._digest = None

    def _content_steps(self) -> Generator[int, None, bytes]:
        for _, value in self.elements.fingerprint_steps(_hash_value):
            yield _work(value)
        return _identify(self.elements, _hash_value)


class Set(Node):
    """A leaf that holds a set of byte strings."""

    __slots__ = ("elements",)
    type = "set"

    def __init__(self, version: int, elements: SortedMap[bytes, None] | None = None) -> None:
        self.version = version
        self.elements = empty() if elements is None else elements
        """The elements are the keys."""
        self._digest = None

    def _content_steps(self) -> Generator[int, None, bytes]:
        for element, _ in self.elements.fingerprint_steps(_hash_key):
            yield _work(element)
        return _identify(self.elements, _hash_key)


class Directory(Node):
    """A node with named children."""

    __slots__ = ("children", "owner")
    type = "directory"

    def __init__(self, version: int, children: SortedMap[str, Node] | None = None, owner: object = None) -> None:
        self.version = version
        self.children = empty() if children is None else children
        """By name."""
        self.owner = owner
        """Who may change version and children in place; None for nobody."""
        self._digest = None

    def _content_steps(self) -> Generator[int, None, bytes]:
        for _, child in self.children.fingerprint_steps(_hash_child):
            if not _is_small(child):
                yield from child.digest_steps()
            yield 1
        return _identify(self.children, _hash_child)


def _work(hashed: bytes) -> int:
    return 1 + len(hashed) // _BYTES_OF_WORK


def _identify(entries: SortedMap[Any, Any], entry_hash: Callable[[Any, Any], bytes]) -> bytes:
    return b"%d %d" % (entries.size, entries.fingerprint(entry_hash))


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_SIZE).digest()


def _hash_value(_key: int, value: bytes) -> bytes:
    return _hash(value)


def _hash_key(key: bytes, _value: None) -> bytes:
    return _hash(key)


def _is_small(node: Node) -> bool:
    return type(node) is Blob and len(node.value) < _BYTES_OF_WORK


def _hash_child(name: str, child: Node) -> bytes:
    # Name and content can't run into each other: a digest has a fixed length, and that of a value is told.
    if _is_small(child):
        value = cast("Blob", child).value
        return _hash(b"value %d %d %s%s" % (child.version, len(value), value, name.encode()))
    return _hash(b"digest %s%s" % (child.digest, name.encode()))


NODE_TYPES: Final[dict[str, Callable[[int], Node]]] = {node.type: node for node in (Blob, Queue, Set, Directory)}
"""What makes an empty node of a version, by the name of its type."""
