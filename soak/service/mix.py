"""What a client calls next: by chance, on few paths, so that calls meet; each value is written once, so that it tells its
call. Nothing grows without end: queues are popped as often as pushed, and sets have few different elements."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

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
    Operation,
    Outcome,
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
    SetSubset,
    SetSuperset,
    SetSymmetricDifference,
    SetUnion,
)

BLOBS: Final = ("/b/0", "/b/1", "/b/2")
QUEUES: Final = ("/q/0", "/q/1")
SETS: Final = ("/s/0", "/s/1")
SCRATCH: Final = ("/x/0", "/x/1", "/x/1/deep", "/x/2")
"""Come, go, and change their types."""

ELEMENTS: Final = tuple(b"%d" % number for number in range(12))
"""What may be in a set."""

SETUP: Final = tuple(
    Create(path, kind) for paths, kind in ((BLOBS, "blob"), (QUEUES, "queue"), (SETS, "set")) for path in paths
)
"""What makes a new namespace ready."""

EVERYTHING: Final = (
    ListKeys(),
    *(BlobGet(path) for path in BLOBS),
    *(SetUnion((path,)) for path in SETS),
    *(read(path) for path in QUEUES for read in (QueueLen, QueueFront, QueueBack)),
)
"""Reads the whole tree, but for the middles of queues."""


class Mix:
    """Chooses operations. `name`: bytes that no other client has."""

    def __init__(self, random: Random, name: bytes) -> None:
        self._random = random
        self._name = name
        self._number = 0
        self._versions: dict[str, int] = {}  # of paths, as last seen
        self._writes: list[tuple[int, Callable[[], Operation]]] = [
            (4, lambda: BlobPut(self._one(BLOBS), self._value())),
            (4, lambda: QueuePush(self._one(QUEUES), self._value())),
            (
                5,
                lambda: QueuePop(self._one(QUEUES)),
            ),  # more than are pushed: a short queue soon shows what happened to it
            (3, lambda: SetInsert(self._one(SETS), self._one(ELEMENTS))),
            (3, lambda: SetRemove(self._one(SETS), self._one(ELEMENTS))),
            (2, lambda: Create(self._one(SCRATCH), self._one(("blob", "queue", "set", "directory")))),
            (2, lambda: Delete(self._one(SCRATCH))),
            (1, lambda: BlobPut(self._one(SCRATCH), self._value())),
            (4, self._multi_cas),
        ]
        self._reads: list[tuple[int, Callable[[], Operation]]] = [
            (5, lambda: BlobGet(self._one(BLOBS))),
            (1, lambda: BlobGet(self._one(SCRATCH))),
            (1, lambda: BlobSize(self._one(BLOBS))),
            (1, lambda: self._one((QueueFront, QueueBack, QueueLen))(self._one(QUEUES))),
            (1, lambda: SetContains(self._one(SETS), self._one(ELEMENTS))),
            (1, self._algebra),
            (2, lambda: ListKeys(self._one(("/", "/b", "/x", "/b/0")), None, 10, self._random.random() < 0.5)),
        ]

    def write(self) -> Operation:
        """An operation that may change something."""
        return self._choose(self._writes)

    def read(self) -> Operation:
        """An operation that changes nothing."""
        return self._choose(self._reads)

    def learn(self, operation: Operation, outcome: Outcome) -> None:
        """An answer came; the versions in it make later guards that hold."""
        path = getattr(operation, "path", None)
        if isinstance(outcome, Keys):
            self._versions.update((path, version) for path, version, _ in outcome.value)
        elif path is not None and not isinstance(operation, Delete):
            self._versions[path] = getattr(outcome, "version", 0)

    def _multi_cas(self) -> MultiCas:
        """Several changes at once, mostly guarded by what was seen of a node, or of a directory."""
        guards = []
        if self._random.random() < 0.8:
            path = self._one((*BLOBS, *BLOBS, "/b", "/x", *SCRATCH))
            guards.append(Guard(path, self._versions.get(path, 0)))
        several: list[Any] = [BlobPut(self._one(BLOBS), self._value()), QueuePop(self._one(QUEUES))]
        several += [QueuePush(self._one(QUEUES), self._value()), SetInsert(self._one(SETS), self._one(ELEMENTS))]
        if self._random.random() < 0.3:
            several.append(Create(self._one(SCRATCH), "blob"))  # fails often, and all of it with it
        self._random.shuffle(several)
        return MultiCas(tuple(guards), tuple(several))

    def _algebra(self) -> Operation:
        pair = self._one(
            (SetIntersection, SetDifference, SetSymmetricDifference, SetSubset, SetSuperset),
        )
        literal = frozenset(self._random.sample(ELEMENTS, 4))
        chosen: Operation = self._one((pair(*SETS), pair(literal, SETS[0]), SetUnion(SETS, (literal,))))
        return chosen

    def _value(self) -> bytes:
        self._number += 1
        return b"%b:%d" % (self._name, self._number)

    def _one(self, several: tuple[Any, ...]) -> Any:
        return self._random.choice(several)

    def _choose(self, weighted: list[tuple[int, Callable[[], Operation]]]) -> Operation:
        [(_, make)] = self._random.choices(weighted, [weight for weight, _ in weighted])
        return make()
