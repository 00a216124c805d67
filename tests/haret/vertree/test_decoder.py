"""A tree from pieces of its bytes: what is done when. What is refused is in test_snapshot.py."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from types import FrameType
from typing import Any

import msgpack
import pytest

from haret.vertree import BadSnapshot, Create, Decoder, QueuePush, SetInsert, Tree
from haret.vertree.snapshot import CHUNK_SIZE, DIRECTORY, FORMAT, SET


def planted(count: int) -> Tree:
    """A tree of so many blobs in one directory, elements in one set, and elements in one queue."""
    editor = Tree.empty().edit()
    editor.apply(Create("/z/queue", "queue"), 1)
    editor.apply(Create("/z/set", "set"), 1)
    for number in range(count):
        editor.apply(Create(f"/a/{number:06}", "blob"), 2)
        editor.apply(QueuePush("/z/queue", b"%d" % number), 2)
        editor.apply(SetInsert("/z/set", b"%d" % number), 2)
    return editor.tree()


def calls_in(function: Callable[[], object]) -> int:
    """How many Python functions a call enters: a measure of its work that is the same on every machine."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_for_a_chunk_does_not_grow_with_the_tree() -> None:
    most = []
    for count in (2000, 20_000):
        decoder = Decoder()
        feeds = [partial(decoder.feed, chunk) for chunk in planted(count).chunks()]
        most.append(max(map(calls_in, feeds)))
        assert calls_in(decoder.finish) < 10
    assert most[1] <= most[0] * 1.1


def test_it_holds_little_more_than_the_tree() -> None:
    chunks = list(planted(6000).chunks())
    tracemalloc.start()
    try:
        decoder = Decoder()
        for chunk in chunks:
            decoder.feed(chunk)
        root = decoder.finish()
        held, peak = tracemalloc.get_traced_memory()
        assert root.children.size == 2
        assert peak < held + 8 * CHUNK_SIZE < 2 * held
    finally:
        tracemalloc.stop()


def test_it_is_not_finished_before_the_end() -> None:
    tree = planted(2000)
    chunks = list(tree.chunks())
    assert len(chunks) > 3
    for fed in range(len(chunks)):
        decoder = Decoder()
        for chunk in chunks[:fed]:
            decoder.feed(chunk)
        with pytest.raises(BadSnapshot, match="incomplete"):
            decoder.finish()


def snapshot_of(*objects: Any, more: bytes = b"") -> bytes:
    body = b"".join(msgpack.packb(thing) for thing in objects) + more
    return body + blake2b(body, digest_size=32).digest()


def test_half_a_node_with_a_right_checksum_is_refused() -> None:
    decoder = Decoder()
    decoder.feed(snapshot_of([FORMAT], [DIRECTORY, "", 9, 1]))
    with pytest.raises(BadSnapshot, match="in the middle of a node"):
        decoder.finish()
    decoder = Decoder()
    decoder.feed(snapshot_of([FORMAT], [DIRECTORY, "", 9, 0], more=b"\x94\x00"))
    with pytest.raises(BadSnapshot, match="in the middle of a node"):
        decoder.finish()


def test_what_was_bad_stays_bad() -> None:
    good = b"".join(planted(10).chunks())
    decoder = Decoder()
    with pytest.raises(BadSnapshot, match="not a snapshot"):
        decoder.feed(snapshot_of(["something else"]))
    for _ in range(2):
        with pytest.raises(BadSnapshot, match="not a snapshot"):
            decoder.feed(good)
        with pytest.raises(BadSnapshot, match="not a snapshot"):
            decoder.finish()


def test_an_error_tells_the_place_and_is_safe_to_print() -> None:
    bad = [
        ([DIRECTORY, "b", 9, 1], [SET, "\x1b[2J", 9, 0]),
        ([DIRECTORY, "b", 9, 1], ["\x1b[2J"]),
    ]
    for objects in bad:
        with pytest.raises(BadSnapshot, match=r"^in /a/b: ") as caught:
            Tree.restore([snapshot_of([FORMAT], [DIRECTORY, "", 9, 1], [DIRECTORY, "a", 9, 1], *objects)])
        assert str(caught.value).isprintable()


def byte_by_byte(data: bytes) -> Tree:
    return Tree.restore(bytes([byte]) for byte in data)


def test_elements_are_sorted_across_pieces() -> None:
    before = ([FORMAT], [DIRECTORY, "", 9, 1], [SET, "s", 9, 3], b"a", b"b")
    byte_by_byte(snapshot_of(*before, b"c"))
    for last in (b"b", b"a"):
        with pytest.raises(BadSnapshot, match="not sorted"):
            byte_by_byte(snapshot_of(*before, last))
