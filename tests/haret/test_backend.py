"""The check before logging, and the tree as a state machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from haret.backend import MAX_CACHED, Backend, Refusal, admit
from haret.protocol import BadRequest, Ready
from haret.vertree import BlobGet, BlobPut, Create, DoesNotExist, InvalidPath, Result, UnknownOperation
from rabble_trio import decode, encode


def test_operations_are_admitted() -> None:
    for operation in (BlobPut("/a", b"x"), BlobPut("/a", bytes(2 * MAX_CACHED))):
        assert admit(encode(operation)) == operation


def test_what_could_never_succeed_is_refused() -> None:
    for data, kind in (
        (encode(BlobGet("no slash")), InvalidPath),
        (encode(Ready()), UnknownOperation),
        (b"", BadRequest),
        (b"\xc1" * (2 * MAX_CACHED), BadRequest),
    ):
        refused = admit(data)
        assert isinstance(refused, Refusal)
        assert type(refused.error) is kind
        assert decode(refused.encoded) == refused.error


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    backend = Backend()
    before = backend.digest()
    decode(backend.apply(1, data))
    assert backend.digest() == before


def test_the_commit_number_is_the_version() -> None:
    backend = Backend()
    assert decode(backend.apply(5, encode(Create("/a", "blob")))) == Result(None, 5)
    assert decode(backend.apply(9, encode(BlobPut("/a", b"x")))) == Result(None, 9)
    assert decode(backend.apply(10, encode(BlobGet("/a")))) == Result(b"x", 9)
    assert decode(backend.apply(11, encode(BlobGet("/b")))) == DoesNotExist("/b")


def test_equal_histories_give_equal_digests() -> None:
    one, other = Backend(), Backend()
    for op, operation in enumerate((Create("/a", "blob"), BlobPut("/a", b"x"), BlobPut("/a", b"y")), 1):
        assert one.apply(op, encode(operation)) == other.apply(op, encode(operation))
    assert one.digest() == other.digest()
    other.apply(4, encode(BlobPut("/a", b"z")))
    assert one.digest() != other.digest()
