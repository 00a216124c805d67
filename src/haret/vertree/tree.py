"""The tree: what it promises. How each operation is done is in `apply.py`.

Rules:

1. `Tree.apply` never changes a tree; it returns a new one that shares what is unchanged, or the same object if nothing
   changed. It never raises because of an operation: errors are results, and leave the tree as it is.
2. A change has a revision, greater than that of any change before. Every node on the written path gets it as its
   version, the root included; so a directory's version is that of the newest change below it, and a version is never
   used again, not even by a node that is deleted and created anew.
3. An operation without effect is no change: inserting what is there, removing what is not, popping from an empty queue.
   Putting a blob is always a change, even with an equal value, as are creating and deleting.
4. A multi-CAS is one change. Where its guards hold and no operation fails, it gives the tree and the results that its
   operations give one by one with the same revision.
5. An `Editor` does the same to a tree that it keeps, with the same outcomes, in less than half the time: what it copied
   once, it changes in place from then on. Whoever gets a tree from it ends that: the editor copies again what it changes
   next, so that no tree ever changes that somebody has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from .apply import HANDLERS, find, walk
from .check import check
from .decoder import Decoder
from .nodes import Directory, Node
from .operations import Operation, Read
from .paths import join
from .results import Error, Outcome
from .snapshot import encode_tree


@final
class Tree:
    """A tree that never changes. `Tree.empty()` is where all begin; `apply` makes new ones."""

    __slots__ = ("_root",)

    def __init__(self, root: Directory) -> None:
        self._root = root

    @classmethod
    def empty(cls) -> Tree:
        """The tree with nothing but the root, at version 0."""
        return cls(Directory(0))

    @classmethod
    def restore(cls, chunks: Iterable[bytes]) -> Tree:
        """The tree that `chunks` was called on; the bytes may have been cut anew at other places.

        Takes time and memory linear in their number. Raises `BadSnapshot` if they are not what `chunks` makes.
        """
        decoder = Decoder()
        for chunk in chunks:
            decoder.feed(chunk)
        return cls(decoder.finish())

    @property
    def version(self) -> int:
        """The revision of the last change; 0 if there was none."""
        return self._root.version

    @property
    def digest(self) -> bytes:
        """32 bytes that are equal for trees with equal nodes and versions, whatever their history.

        Remembered in every node: the first time it takes time linear in the tree, after a write only as much as the
        path that was written.
        """
        return self._root.digest

    def digest_steps(self) -> Iterator[int]:
        """What `digest` has yet to do, in steps: yields before each how much work it is; that of a node is about 1."""
        return self._root.digest_steps()

    def chunks(self) -> Iterator[bytes]:
        """The whole tree as bytes, in chunks of at most `snapshot.CHUNK_SIZE` bytes that cost about the same to make.

        Equal trees, as with `digest`, give equal chunks. They are made one at a time, in any thread.
        """
        return encode_tree(self._root)

    def find(self, path: str) -> Node | Error:
        """The node at a path."""
        return find(self._root, path)

    def nodes(self) -> Iterator[tuple[str, Node]]:
        """All nodes with their paths, the root first, in the order of `ListKeys`."""
        for components, node in walk((), self._root):
            yield join(components), node

    def apply(self, operation: Operation, revision: int) -> tuple[Tree, Outcome]:
        """Do an operation: the tree afterwards, this very object if nothing changed, and the outcome.

        `revision` becomes the version of what is changed; reads take no notice of it. It is greater than the `version`
        of the tree, or equal to it if the operation belongs to the same change as the last one.
        Raises `ValueError` if it is less: a mistake of the caller, which would make versions meaningless.
        """
        root = self._root
        error = check(operation)
        if error is not None:
            return self, error
        new_root, outcome = _apply(root, operation, revision, object())
        return (self if new_root is root else Tree(new_root)), outcome

    def edit(self) -> Editor:
        """What does many operations in a row faster. This tree stays as it is."""
        return Editor(self._root)

    def __repr__(self) -> str:
        return f"<Tree at version {self.version}>"


@final
class Editor:
    """A tree that changes. `Tree.edit` makes one."""

    __slots__ = ("_owner", "_root")

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._owner = object()

    def apply(self, operation: Operation, revision: int) -> Outcome:
        """Do an operation that has passed `check`, as `Tree.apply` does, and keep the tree afterwards."""
        self._root, outcome = _apply(self._root, operation, revision, self._owner)
        return outcome

    def read(self, operation: Read) -> Outcome:
        """The outcome of an operation that has passed `check` and changes nothing."""
        _, outcome = _apply(self._root, operation, self._root.version, self._owner)
        return outcome

    def tree(self) -> Tree:
        """The tree as it is now, whatever is applied later. Takes no time, but makes the next changes slower."""
        self._owner = object()
        return Tree(self._root)


def _apply(root: Directory, operation: Operation, revision: int, owner: object) -> tuple[Directory, Outcome]:
    if revision < root.version:
        raise ValueError(f"revision {revision} is in the past: the tree is at {root.version}")
    return HANDLERS[type(operation)](root, operation, revision, owner)
