"""A tree at one moment, for those who have little time at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from .tree import Tree


@final
class Image:
    """The picture of a tree. It never changes; taking one takes no time."""

    __slots__ = ("_steps", "_tree")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._steps = tree.digest_steps()

    def chunks(self) -> Iterator[bytes]:
        """`Tree.chunks`. In any thread."""
        return self._tree.chunks()

    def digest(self, budget: int) -> bytes | None:
        """`Tree.digest`, or None if it takes another call. `budget`: about how many nodes and elements to look at.

        What was found out in one call is remembered, by this image and by the trees that share nodes with it.
        """
        for work in self._steps:
            budget -= work
            if budget <= 0:
                return None
        return self._tree.digest
