"""Digests and parts of images: the same however the work is cut, and never much of it at a time."""

from __future__ import annotations

import pytest

from haret.backend import Backend
from haret.vertree import Create, Result
from haret.vr.image import ENOUGH, ImageHead, ImageReader, StateImage
from haret.vr.messages import IMAGE_PART
from rabble_trio import NodeId, Pid, decode, encode

HEAD = ImageHead(7, 1, tuple(Pid(name, NodeId("n", "127.0.0.1:5000"), "g") for name in "abc"), 3)
SESSIONS = (
    (1, b"a" * 16, 1, ((1, (2, b"one")), (2, (3, b"two")))),
    (4, b"b" * 16, 5, ()),
    (5, b"c" * 16, 1, ((1, (6, b"x" * 5000)),)),
)

SUM = 32
"""Bytes of the sum at the end of an image."""


class Machine:
    """The picture of a state machine: chunks as given, and a digest that costs one."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def chunks(self):
        return iter(self._chunks)

    def digest(self, budget):
        return b"machine" if budget > 0 else None


def slices(image: StateImage, budget: int) -> tuple[int, bytes]:
    """How many calls it takes to compute the digest, and the digest."""
    for count in range(1, 100_000):
        digest = image.digest(budget)
        if digest is not None:
            return count, digest
    raise AssertionError("it never ends")


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 1000])
def test_the_digest_does_not_depend_on_how_the_work_is_cut(budget):
    whole = StateImage(HEAD, SESSIONS, Machine()).digest(10**6)
    assert whole is not None
    assert slices(StateImage(HEAD, SESSIONS, Machine()), budget)[1] == whole


def test_a_digest_that_is_known_costs_nothing_more():
    image = StateImage(HEAD, SESSIONS, Machine())
    _, digest = slices(image, 1)
    assert image.digest(1) == digest


@pytest.mark.parametrize(
    "sessions",
    [
        SESSIONS[:2],
        (SESSIONS[1], SESSIONS[0], SESSIONS[2]),
        ((2, *SESSIONS[0][1:]), *SESSIONS[1:]),
        ((1, b"z" * 16, *SESSIONS[0][2:]), *SESSIONS[1:]),
        ((1, b"a" * 16, 2, SESSIONS[0][3]), *SESSIONS[1:]),
        ((1, b"a" * 16, 1, SESSIONS[0][3][:1]), *SESSIONS[1:]),
        ((1, b"a" * 16, 1, SESSIONS[0][3][::-1]), *SESSIONS[1:]),
        ((1, b"a" * 16, 1, ((1, (2, b"one")), (2, (3, b"tw0")))), *SESSIONS[1:]),
        ((1, b"a" * 16, 1, ((1, (2, b"one")), (2, (4, b"two")))), *SESSIONS[1:]),
        # What belonged to one session belongs to the next.
        (
            (1, b"a" * 16, 1, SESSIONS[0][3][:1]),
            (4, b"b" * 16, 5, SESSIONS[0][3][1:]),
            SESSIONS[2],
        ),
    ],
)
def test_everything_about_sessions_is_in_the_digest(sessions):
    assert StateImage(HEAD, sessions, Machine()).digest(10**6) != StateImage(HEAD, SESSIONS, Machine()).digest(10**6)


def test_many_sessions_are_not_digested_at_once():
    many = tuple((number, b"c" * 16, 1, ((1, (number, b"r")),)) for number in range(1, 1001))
    count, _ = slices(StateImage(HEAD, many, Machine()), 100)
    assert count == 2000 // 100 + 1  # a session and a result cost one each, and the machine is looked at last


def test_the_results_of_one_session_are_not_digested_at_once():
    results = tuple((number, (number, b"r" * 10_240)) for number in range(1, 101))
    count, _ = slices(StateImage(HEAD, ((1, b"c" * 16, 1, results),), Machine()), 110)
    assert count == 11  # each result costs eleven


def test_parts_are_filled_but_not_for_long():
    small = StateImage(HEAD, (), Machine(*[b"s" * 100] * 1000))
    parts = list(small.parts())
    assert all(ENOUGH <= len(part) < ENOUGH + 100 for part in parts[1:-1])
    assert b"".join(parts)[:-SUM].endswith(b"s" * 100_000)


def test_no_part_is_longer_than_it_may_be():
    parts = list(StateImage(HEAD, SESSIONS, Machine(b"l" * 3 * IMAGE_PART, b"end")).parts())
    assert max(map(len, parts)) == IMAGE_PART
    assert parts[-1][:-SUM] == b"end"
    assert all(parts)


def test_a_part_of_the_smallest_nodes_has_few_of_them():
    """What takes long to read is the number of things."""
    backend = Backend()
    for number in range(1, 5001):
        assert isinstance(decode(backend.apply(number, encode(Create(f"/{number}", "blob")))), Result)
    image = StateImage(HEAD, SESSIONS, backend.image())
    parts = list(image.parts())
    assert sum(map(len, parts)) < IMAGE_PART  # by bytes alone they would all fit into one part
    assert len(parts) >= 3  # of at most two chunks, and those are bounded by the number of nodes, too
    copy = Backend()
    reader = ImageReader(HEAD.op, copy)
    for number, part in enumerate(parts, 1):
        reader.feed(part, number == len(parts))
    assert reader.finish() == (HEAD, SESSIONS)
    assert copy.digest() == backend.digest()
