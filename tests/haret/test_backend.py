"""The check before logging, and the tree as a state machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret.backend import MAX_ADMITTED, MAX_REMEMBERED, Backend, Loader, Refusal, admit, is_read
from haret.protocol import BadRequest, Ready
from haret.vertree import (
    BlobGet,
    BlobPut,
    Create,
    DoesNotExist,
    InvalidPath,
    ListKeys,
    MultiCas,
    Result,
    SetUnion,
    UnknownOperation,
)
from rabble_trio import decode, encode


def test_operations_are_admitted() -> None:
    for operation in (BlobPut("/a", b"x"), BlobPut("/a", bytes(2 * MAX_REMEMBERED))):
        assert admit(encode(operation)) == operation


def test_what_could_never_succeed_is_refused() -> None:
    for data, kind in (
        (encode(BlobGet("no slash")), InvalidPath),
        (encode(Ready()), UnknownOperation),
        (b"", BadRequest),
        (b"\xc1" * (2 * MAX_REMEMBERED), BadRequest),
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


@given(st.integers(0, 2**63 - 1))
def test_the_result_of_a_write_is_encoded_as_any_message(op: int) -> None:
    backend = Backend()
    assert backend.apply(op, encode(Create("/a", "blob"))) == encode(Result(None, op))


def test_only_so_many_operations_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0

    def counting(data: bytes) -> object:
        nonlocal decoded
        decoded += 1
        return decode(data)

    monkeypatch.setattr("haret.backend.decode", counting)
    first, *others = (encode(BlobGet(f"/remembered/{number}")) for number in range(MAX_ADMITTED + 1))
    for data in (first, first):
        admit(data)
    assert decoded == 1
    for data in others:
        admit(data)
    admit(others[-1])
    assert decoded == len(others) + 1
    Backend().apply(1, others[-1])  # it was admitted a moment ago
    assert decoded == len(others) + 1
    Backend().apply(1, others[-1])  # by another replica, or once more
    Backend().apply(1, first)
    assert decoded == len(others) + 3


def test_equal_histories_give_equal_digests() -> None:
    one, other = Backend(), Backend()
    for op, operation in enumerate((Create("/a", "blob"), BlobPut("/a", b"x"), BlobPut("/a", b"y")), 1):
        assert one.apply(op, encode(operation)) == other.apply(op, encode(operation))
    assert one.digest() == other.digest()
    other.apply(4, encode(BlobPut("/a", b"z")))
    assert one.digest() != other.digest()


def test_reads_are_told_from_writes() -> None:
    for operation in (BlobGet("/a"), ListKeys(), SetUnion(("/a",))):
        assert is_read(admit(encode(operation)))
    write = BlobPut("/a", b"x")
    for other in (write, MultiCas((), ()), MultiCas((), (write,)), Ready()):
        assert not is_read(admit(encode(other)))
    assert not is_read(admit(b""))


def test_a_read_changes_nothing_and_a_write_is_no_read() -> None:
    backend = Backend()
    backend.apply(5, encode(Create("/a", "blob")))
    backend.apply(6, encode(BlobPut("/a", b"x")))
    before = backend.digest()
    assert decode(backend.read(encode(BlobGet("/a")))) == Result(b"x", 6)
    assert decode(backend.read(encode(BlobGet("/b")))) == DoesNotExist("/b")
    assert type(decode(backend.read(encode(BlobGet("no slash"))))) is InvalidPath
    for operation in (BlobPut("/a", b"y"), MultiCas((), ())):
        assert type(decode(backend.read(encode(operation)))) is BadRequest
    assert backend.digest() == before


@given(st.binary(max_size=200))
def test_no_bytes_make_a_read_raise(data: bytes) -> None:
    decode(Backend().read(data))


def test_an_image_is_loaded_into_another_backend() -> None:
    one, other = Backend(), Backend()
    one.apply(5, encode(Create("/a", "blob")))
    other.apply(1, encode(Create("/b", "set")))
    image, then = one.image(), one.digest()
    one.apply(6, encode(BlobPut("/a", b"later")))
    loader = other.loader()
    for chunk in image.chunks():
        assert other.digest() != then
        loader.feed(chunk)
    loader.finish()
    assert other.digest() == then
    assert decode(other.read(encode(BlobGet("/a")))) == Result(b"", 5)


def test_bad_bytes_leave_a_backend_as_it_was() -> None:
    backend = Backend()
    backend.apply(5, encode(Create("/a", "blob")))
    before = backend.digest()
    chunks = list(backend.image().chunks())
    for bad in ([], [chunks[0][:-1]], [b"\xc1"]):
        loader = backend.loader()
        with pytest.raises(ValueError, match="snapshot"):
            feed(loader, bad)
        assert backend.digest() == before


def feed(loader: Loader, chunks: list[bytes]) -> None:
    for chunk in chunks:
        loader.feed(chunk)
    loader.finish()
