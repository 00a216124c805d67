"""Operations on the tree: how they depend on the number of siblings, and what persistence costs beside a plain dict.

"haret.vertree" is a tree that never changes, "haret.vertree editor" one that changes what nobody has seen, as replicas
do, and "haret.backend" is that from the bytes of an operation to the bytes of its result.

The dict keeps a (revision, value) for each path: no errors, no old versions, no digest. `immutables.Map`, written in C,
does the same persistently. Both know nothing of directories and their versions.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice

import immutables

from haret.backend import Backend
from haret.vertree import (
    BlobGet,
    BlobPut,
    Create,
    Decoder,
    Delete,
    Guard,
    Image,
    ListKeys,
    MultiCas,
    Operation,
    QueuePop,
    QueuePush,
    SetInsert,
    SetRemove,
    Tree,
)
from rabble_trio import encode

from .harness import Row, Timed, rate, table

OURS = "haret.vertree"
EDITOR = "haret.vertree editor"
BACKEND = "haret.backend"
WHOLE = (1_000, 100_000, 1_000_000)
"""Nodes in a tree that is taken as a whole."""
SLICE = 500
"""Nodes that a slice of a digest may look at."""
SIZES = (10, 1_000, 100_000)
"""Children of the directory, or elements of the queue or set, that is written to."""
COUNT = 20_000
"""Operations in a run."""
VALUE = b"x" * 64
TARGET = 200_000.0
"""Writes a second to one of 10 children: 5 microseconds of the 25 that a replicated write has in all."""


def path(number: int) -> str:
    """The path of a child, three components deep."""
    return f"/app/config/key{number:06}"


def planted(operations: Iterable[Operation]) -> Tree:
    """The tree after these operations."""
    editor = Tree.empty().edit()
    for revision, operation in enumerate(operations, 1):
        editor.apply(operation, revision)
    return editor.tree()


def applied(tree: Tree, operations: list[Operation]) -> Callable[[], Timed]:
    """A run that applies `operations`, over and over, to a tree."""
    todo = list(islice(cycle(operations), COUNT))

    def body() -> Timed:
        now, revision = tree, tree.version
        start = time.perf_counter()
        for operation in todo:
            revision += 1
            now, _ = now.apply(operation, revision)
        return Timed(len(todo), time.perf_counter() - start)

    return body


def edited(tree: Tree, operations: list[Operation]) -> Callable[[], Timed]:
    """The same with an editor."""
    todo = list(islice(cycle(operations), COUNT))

    def body() -> Timed:
        editor, revision = tree.edit(), tree.version
        start = time.perf_counter()
        for operation in todo:
            revision += 1
            editor.apply(operation, revision)
        return Timed(len(todo), time.perf_counter() - start)

    return body


def replicated(planting: Iterable[Operation], operations: Iterable[Operation]) -> Callable[[], Timed]:
    """The same with a backend, which gets each operation as bytes that it has not seen before."""
    first = [encode(operation) for operation in planting]
    todo = [encode(operation) for operation in islice(operations, COUNT)]

    def body() -> Timed:
        backend = Backend()
        for op, data in enumerate(first, 1):
            backend.apply(op, data)
        op = len(first)
        start = time.perf_counter()
        for data in todo:
            op += 1
            backend.apply(op, data)
        return Timed(len(todo), time.perf_counter() - start)

    return body


def stepped(step: Callable[[int], object], count: int = COUNT, each: int = 1) -> Callable[[], Timed]:
    """A run that calls `step` with 0, 1, 2, ..., each call being `each` operations."""

    def body() -> Timed:
        start = time.perf_counter()
        for number in range(count):
            step(number)
        return Timed(count * each, time.perf_counter() - start)

    return body


def spread(size: int) -> list[int]:
    """Up to 5,000 numbers below `size`, far from each other, so that no cache flatters us."""
    return [number * 7919 % size for number in range(min(size, 5_000))]


def children(size: int) -> list[Row]:
    """Writes and reads in a directory of so many children."""
    tree = planted(Create(path(number), "blob") for number in range(size))
    chosen = [path(number) for number in spread(size)]
    plain = {path(number): (0, VALUE) for number in range(size)}
    persistent = immutables.Map(plain)
    endless = cycle(chosen)

    def dict_put(number: int) -> None:
        plain[next(endless)] = (number, VALUE)

    def map_put(number: int) -> None:
        nonlocal persistent
        persistent = persistent.set(next(endless), (number, VALUE))

    def dict_create_delete(number: int) -> None:
        plain["/app/config/new"] = (number, b"")
        del plain["/app/config/new"]

    puts: list[Operation] = [BlobPut(name, VALUE) for name in chosen]
    gets: list[Operation] = [BlobGet(name) for name in chosen]
    middle = path(size // 2) + "x"
    put = f"tree: put one of {size:,} blobs"
    create = f"tree: create, delete beside {size:,}"
    get = f"tree: get one of {size:,} blobs"
    return [
        rate(put, OURS, applied(tree, puts)),
        rate(put, EDITOR, edited(tree, puts), target=TARGET if size == 10 else None),
        rate(put, "dict", stepped(dict_put)),
        rate(put, "immutables.Map", stepped(map_put)),
        rate(create, OURS, applied(tree, [Create(middle, "blob"), Delete(middle)])),
        rate(create, "dict", stepped(dict_create_delete, each=2)),
        rate(get, OURS, applied(tree, gets)),
        rate(get, "dict", stepped(lambda _: plain[next(endless)])),
    ]


def leaves(size: int) -> list[Row]:
    """A queue and a set of so many elements."""
    elements = [b"%06d" % number for number in range(size)]
    tree = planted(
        [
            Create("/app/work/queue", "queue"),
            Create("/app/work/set", "set"),
            *(QueuePush("/app/work/queue", element) for element in elements),
            *(SetInsert("/app/work/set", element) for element in elements),
        ]
    )
    queue, members = deque(elements), set(elements)

    def deque_push_pop(_: int) -> None:
        queue.append(VALUE)
        queue.popleft()

    def set_insert_remove(_: int) -> None:
        members.add(VALUE)
        members.remove(VALUE)

    push = f"tree: push, pop in a queue of {size:,}"
    insert = f"tree: insert, remove in a set of {size:,}"
    chosen = [elements[number] + b"x" for number in spread(size)]
    changes = [change("/app/work/set", x) for x in chosen for change in (SetInsert, SetRemove)]
    return [
        rate(push, OURS, applied(tree, [QueuePush("/app/work/queue", VALUE), QueuePop("/app/work/queue")])),
        rate(push, EDITOR, edited(tree, [QueuePush("/app/work/queue", VALUE), QueuePop("/app/work/queue")])),
        rate(push, "deque", stepped(deque_push_pop, each=2)),
        rate(insert, OURS, applied(tree, list(changes))),
        rate(insert, EDITOR, edited(tree, list(changes))),
        rate(insert, "set", stepped(set_insert_remove, each=2)),
    ]


def backends() -> list[Row]:
    """What a replica does for an operation, beside the protocol: three of them do it for one write."""
    blobs = [Create(path(number), "blob") for number in range(1_000)]
    queue, members = Create("/app/queue", "queue"), Create("/app/set", "set")
    values = (b"%064d" % number for number in range(10 * COUNT))
    puts = (BlobPut(path(number * 7919 % 1_000), value) for number, value in enumerate(values))
    pushes = (change for value in values for change in (QueuePush("/app/queue", value), QueuePop("/app/queue")))
    inserts = (SetInsert("/app/set", value) for value in values)
    gets = (BlobGet(path(number * 7919 % 1_000)) for number in range(COUNT))
    filled: list[Operation] = [queue, *(QueuePush("/app/queue", VALUE) for _ in range(1_000))]
    return [
        rate("backend: put one of 1,000 blobs", BACKEND, replicated(blobs, puts)),
        rate("backend: push, pop in a queue of 1,000", BACKEND, replicated(filled, pushes)),
        rate("backend: insert into a growing set", BACKEND, replicated([members], inserts)),
        rate("backend: get one of 1,000 blobs", BACKEND, replicated(blobs, gets)),
    ]


def digests(size: int) -> list[Row]:
    """Digests after a change, many writes in one operation, and listings."""
    tree = planted(Create(path(number), "blob") for number in range(size))
    chosen = [path(number) for number in spread(size)]
    tree.digest  # noqa: B018  computed once, so that the runs measure what a write adds

    def digest(number: int) -> None:
        changed, _ = tree.apply(BlobPut(chosen[number % len(chosen)], VALUE), tree.version + 1)
        changed.digest  # noqa: B018

    cas: list[Operation] = [
        MultiCas((Guard("/app/lock", 0),), tuple(BlobPut(name, VALUE) for name in chosen[i : i + 10]))
        for i in range(0, 1_000, 10)
    ]

    def ten(body: Callable[[], Timed]) -> Callable[[], Timed]:
        def run() -> Timed:
            timed = body()
            return Timed(10 * timed.count, timed.seconds)

        return run

    return [
        rate("tree: puts in multi-CAS of 10", OURS, ten(applied(tree, cas[: COUNT // 100]))),
        rate(f"tree: put and digest of {size:,}", OURS, stepped(digest, 2_000)),
        rate(
            "tree: keys listed, 1,000 a page", OURS, stepped(lambda _: tree.apply(ListKeys(), tree.version), 20, 1_000)
        ),
    ]


def sliced(measure: str, size: int, begin: Callable[[], Iterator[object]]) -> list[Row]:
    """Work on so many nodes that is done a little at a time: how fast, and how long a single step takes at most.

    `begin` does what does not count, and returns the steps. Python's collector of cycles is off, because whenever it
    likes it walks through all objects that there are.
    """
    longest: list[float] = []

    def body() -> Timed:
        steps = begin()
        times: list[float] = []
        done = object()
        step: object = None
        gc.disable()
        while step is not done:
            start = time.perf_counter()
            step = next(steps, done)
            times.append(time.perf_counter() - start)
        gc.enable()
        longest.append(max(times))
        return Timed(size, sum(times))

    whole = rate(f"tree: {measure} of {size:,}", OURS, body)
    return [whole, Row(f"tree: {measure} of {size:,}, longest step", OURS, min(longest) * 1e6, "us")]


def whole(size: int) -> list[Row]:
    """A tree of so many blobs of 64 bytes: to bytes and back, its digest, and its memory."""
    names = [path(number) for number in range(size)]
    tree = planted(change for name in names for change in (Create(name, "blob"), BlobPut(name, VALUE)))
    chunks = list(tree.chunks())
    digest = tree.digest

    def decode() -> Iterator[None]:
        decoder = Decoder()
        for chunk in chunks:
            decoder.feed(chunk)
            yield
        decoder.finish()
        yield

    def digest_again() -> Iterator[object]:
        image = Image(Tree.restore(chunks))
        return iter(lambda: image.digest(SLICE), digest)

    rows = sliced("to bytes", size, tree.chunks) + sliced("from bytes", size, decode)
    rows += sliced("digest", size, digest_again)
    tracemalloc.start()
    again = Tree.restore(chunks)
    memory = tracemalloc.get_traced_memory()[0] / size
    rows.append(Row(f"tree: memory of a blob of 64 bytes, one of {size:,}", OURS, memory, "B"))
    tracemalloc.stop()
    assert again.digest == digest
    return rows


def run() -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    for size in SIZES:
        rows += children(size)
    for size in SIZES:
        rows += leaves(size)
    rows += backends()
    rows += digests(max(SIZES))
    for size in WHOLE:
        rows += whole(size)
    return rows


if __name__ == "__main__":
    print(table(run()))
