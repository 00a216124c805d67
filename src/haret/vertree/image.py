"""A tree at one moment, for those who have little time at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from .tree import Tree


@final
class Image:
    """The picture of a tree. It never changes; taking one takes no time."""

    __slots__ = ("_tree",)

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def chunks(self) -> Iterator[bytes]:
        """`Tree.chunks`. In any thread."""
        return self._tree.chunks()

    def digest(self, budget: int) -> bytes | None:
        """`Tree.digest`, or None as long as that takes more calls. `budget`: about how many nodes to look at in one."""
        return self._tree.digest
