"""Reading an image: the state that it was made of, or a `ValueError` and nothing has changed; never anything else."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from haret.backend import Backend
from haret.vertree import BlobPut, Create, QueuePush, SetInsert
from haret.vr import Configuration, Settings
from haret.vr.context import Context
from haret.vr.image import ImageHead, ImageMachine, ImageReader, ImageResult, ImageSession, StateImage
from haret.vr.messages import Commit
from rabble_trio import NodeId, Outbox, Pid, encode

PIDS = tuple(Pid(name, NodeId("n", "127.0.0.1:5000"), "g") for name in "abc")
HEAD = ImageHead(9, 1, PIDS, 3)
SESSIONS = (
    (1, b"a" * 16, 1, ((1, (2, b"one")), (2, (3, b"two")))),
    (4, b"b" * 16, 5, ()),
    (5, b"c" * 16, 1, ((1, (6, b"x" * 50)),)),
)
SUM = 32


def backend(*values: bytes) -> Backend:
    """A tree with something of each kind, and these values in it."""
    made = Backend()
    operations = [Create("/d/blob", "blob"), Create("/queue", "queue"), Create("/set", "set"), SetInsert("/set", b"x")]
    operations += [BlobPut("/d/blob", value) for value in values] + [QueuePush("/queue", value) for value in values]
    for op, operation in enumerate(operations, 1):
        made.apply(op, encode(operation))
    return made


TREE = backend(b"value", b"another")
IMAGE = b"".join(StateImage(HEAD, SESSIONS, TREE.image()).parts())
OTHER = b"".join(StateImage(HEAD, SESSIONS, backend(b"valve", b"another").image()).parts())


def read(parts: list[bytes]) -> bool:
    """Whether these parts are the image. If they are not, nothing has changed."""
    machine = backend(b"before")
    before = machine.digest()
    reader = ImageReader(HEAD.op, machine)
    try:
        for number, part in enumerate(parts, 1):
            reader.feed(part, number == len(parts))
        found = reader.finish()
    except ValueError:
        assert machine.digest() == before
        return False
    assert found == (HEAD, SESSIONS)
    assert machine.digest() == TREE.digest()
    return True


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Data in pieces, which may be empty."""
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


places = st.lists(st.integers(0, 10_000), max_size=12)


@given(places)
def test_it_may_be_cut_anywhere(where):
    assert read(cut(IMAGE, where))


def test_it_may_come_byte_by_byte():
    assert read([bytes([byte]) for byte in IMAGE])


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_bytes_that_are_none(parts):
    assert not read(parts)


@given(st.integers(0, len(IMAGE) - 1))
def test_beginning_of_one(length):
    assert not read([IMAGE[:length]])


def test_every_bit_matters():
    for place in range(len(IMAGE)):
        assert not read([IMAGE[:place], bytes([IMAGE[place] ^ 1 << place % 8]), IMAGE[place + 1 :]])


EDITS = {
    "lost": lambda parts, i, j: parts[:i] + parts[i + 1 :],
    "twice": lambda parts, i, j: [*parts[: i + 1], *parts[i:]],
    "moved": lambda parts, i, j: [*(rest := parts[:i] + parts[i + 1 :])[:j], parts[i], *rest[j:]],
    "of another image": lambda parts, i, j: [*parts[:i], OTHER[1 : 1 + len(parts[i])], *parts[i + 1 :]],
    "something more": lambda parts, i, j: [*parts[:i], b"x", *parts[i:]],
}


@given(places, st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 99), st.integers(0, 99)), max_size=3))
def test_parts_that_are_not_what_was_sent(where, edits):
    parts = cut(IMAGE, where)
    for name, i, j in edits:
        if parts:
            parts = EDITS[name](parts, i % len(parts), j % len(parts))
    assume(b"".join(parts) != OTHER)  # which is as good
    assert read(parts) == (b"".join(parts) == IMAGE)


FIRST = next(place for place in range(len(IMAGE)) if IMAGE[place] != OTHER[place])


@given(st.integers(FIRST + 1, len(IMAGE) - SUM))
def test_parts_of_two_images_of_one_op(place):
    """As if replicas differed, and one went on where the other had stopped: that is the state of neither."""
    assert not read([IMAGE[:place], OTHER[place:]])
    assert not read([OTHER[:place], IMAGE[place:]])


# --- Bytes that add up, and make no sense ---

number = st.integers(-(2**63), 2**63 - 1)
pieces = st.one_of(
    st.just(encode(HEAD)),
    st.builds(lambda replicas: encode(replace(HEAD, replicas=replicas)), st.lists(st.sampled_from(PIDS)).map(tuple)),
    st.builds(lambda n, c, low: encode(ImageSession(n, c, low)), number, st.binary(max_size=2), number),
    st.builds(lambda n, op, result: encode(ImageResult(n, op, result)), number, number, st.binary(max_size=5)),
    st.just(encode(ImageMachine())),
    st.just(encode(Commit(0, 0, 0, 0))),
    st.binary(max_size=20),
)


def summed(*pieces: bytes, machine: bytes = b"") -> bytes:
    """An image of these pieces."""
    data = b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces) + machine
    return data + sha256(data).digest()


@given(st.lists(pieces, max_size=6), st.sampled_from([b"", b"".join(TREE.image().chunks())]))
def test_pieces_in_any_order(found, machine):
    data = summed(encode(HEAD), *found, encode(ImageMachine()), machine=machine)
    reader = ImageReader(HEAD.op, Backend())
    try:
        reader.feed(data, True)
        _, sessions = reader.finish()
    except ValueError:
        return
    assert machine
    assert len({session for session, *_ in sessions}) == len({client for _, client, *_ in sessions}) == len(sessions)


def bad(*pieces: Any, op: int = HEAD.op) -> list[bytes]:
    return [summed(*map(encode, pieces), encode(ImageMachine()), machine=b"".join(TREE.image().chunks()))]


BAD = {
    "no head": bad(ImageSession(1, b"c", 1)),
    "two heads": bad(HEAD, HEAD),
    "another op": bad(replace(HEAD, op=8)),
    "too few members": bad(replace(HEAD, replicas=PIDS[:2])),
    "a member twice": bad(replace(HEAD, replicas=(*PIDS[:2], PIDS[0]))),
    "no epoch": bad(replace(HEAD, epoch=-1)),
    "result of no session": bad(HEAD, ImageResult(1, 1, b"")),
    "session twice": bad(HEAD, ImageSession(1, b"c", 1), ImageSession(1, b"d", 1)),
    "client twice": bad(HEAD, ImageSession(1, b"c", 1), ImageSession(2, b"c", 1)),
    "something else": bad(HEAD, Commit(0, 0, 0, 0)),
    "too long": [b"\xff" * 100],
    "not the end": [IMAGE[:-SUM]],
    "more than the end": [IMAGE + sha256(IMAGE).digest()],
}


WRONG = {
    "no head": "begins with its head",
    "two heads": "begins with its head",
    "another op": "of op 8, not 9",
    "too few members": "3 to 9 replicas",
    "a member twice": "twice",
    "no epoch": "0 or more",
    "result of no session": "no ImageResult there",
    "session twice": "same number",
    "client twice": "same client",
    "something else": "no Commit there",
    "too long": "no message of",
    "not the end": "sum",
    "more than the end": "no snapshot",
}


@pytest.mark.parametrize("what", BAD)
def test_bad_image_is_not_installed(what):
    """Whatever is wrong is found before anything has changed: a replica can ask somebody else."""
    machine = backend(b"before")
    ctx = Context(Configuration(0, PIDS), machine, Random(0), Settings(), None)
    ctx.start(PIDS[0])
    before = machine.digest()
    reader = ImageReader(HEAD.op, machine)
    output = Outbox(PIDS[0])
    with pytest.raises(ValueError, match=WRONG[what]):
        reader.feed(BAD[what][0], True)
        ctx.install(0, HEAD.op, [], output, reader)
    assert (machine.digest(), ctx.epoch, ctx.commit, ctx.log.op, len(ctx.clients)) == (before, 0, 0, 0, 0)
    assert output.items == []
