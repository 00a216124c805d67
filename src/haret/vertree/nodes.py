"""The nodes of the tree. They never change: a write makes new ones from the leaf up to the root and shares the rest.

A node's version is the revision of the newest change to it or to anything below it. Its digest is 32 bytes that
identify its type, version and content, computed when first asked for and remembered; so after a write a digest of the
whole tree costs as much as the path that was written. It serves to find replicas that went apart, not against forgers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from typing import ClassVar, Final

from .sortedmap import SortedMap, empty

DIGEST_SIZE: Final = 32
"""Bytes in a digest."""


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
        if self._digest is None:
            self._digest = blake2b(
                b"%s %d %s" % (self.type.encode(), self.version, self._identify_content()), digest_size=DIGEST_SIZE
            ).digest()
        return self._digest

    @abstractmethod
    def _identify_content(self) -> bytes: ...


class Blob(Node):
    """A leaf that holds bytes."""

    __slots__ = ("value",)
    type = "blob"

    def __init__(self, version: int, value: bytes = b"") -> None:
        self.version = version
        self.value = value
        """The bytes."""
        self._digest = None

    def _identify_content(self) -> bytes:
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

    def _identify_content(self) -> bytes:
        return b"%d %d" % (self.elements.size, self.elements.fingerprint(_hash_value))


class Set(Node):
    """A leaf that holds a set of byte strings."""

    __slots__ = ("elements",)
    type = "set"

    def __init__(self, version: int, elements: SortedMap[bytes, None] | None = None) -> None:
        self.version = version
        self.elements = empty() if elements is None else elements
        """The elements are the keys."""
        self._digest = None

    def _identify_content(self) -> bytes:
        return b"%d %d" % (self.elements.size, self.elements.fingerprint(_hash_key))


class Directory(Node):
    """A node with named children."""

    __slots__ = ("children",)
    type = "directory"

    def __init__(self, version: int, children: SortedMap[str, Node] | None = None) -> None:
        self.version = version
        self.children = empty() if children is None else children
        """By name."""
        self._digest = None

    def _identify_content(self) -> bytes:
        return b"%d %d" % (self.children.size, self.children.fingerprint(_hash_child))


def _hash_value(_key: int, value: bytes) -> bytes:
    return blake2b(value, digest_size=DIGEST_SIZE).digest()


def _hash_key(key: bytes, _value: None) -> bytes:
    return blake2b(key, digest_size=DIGEST_SIZE).digest()


def _hash_child(name: str, child: Node) -> bytes:
    # The digest has a fixed length, so name and digest can't run into each other.
    return blake2b(child.digest + name.encode(), digest_size=DIGEST_SIZE).digest()


NODE_TYPES: Final[dict[str, Callable[[int], Node]]] = {node.type: node for node in (Blob, Queue, Set, Directory)}
"""What makes an empty node of a version, by the name of its type."""
