"""What is written into a journal, and reading it back: the same records, or a clear error."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret.simulation import Ledger
from haret.vr import Configuration, Replica
from haret.vr.image import StateImage
from haret.vr.log import Log
from haret.vr.messages import CloseSession, Commit, OpenSession, Reconfiguration, Request
from haret.vr.records import (
    Appended,
    Began,
    Configured,
    Entered,
    Installed,
    Lost,
    Record,
    StagedEntries,
    StagedImage,
    Stopped,
    join_records,
    read_records,
    split_records,
)
from rabble_trio import NodeId, Outbox, Pid, encode

PIDS = tuple(Pid(name, NodeId("n", "127.0.0.1:5000"), "g") for name in "abcd")
number = st.integers(0, 2**63 - 1)
small = st.integers(0, 5)
data = st.binary(max_size=20)
groups = st.lists(st.sampled_from(PIDS), max_size=5).map(tuple)
entry = st.one_of(
    st.builds(Request, small, number, number, data),
    st.builds(OpenSession, data),
    st.builds(CloseSession, small),
    st.builds(Reconfiguration, small, groups),
)
entries = st.lists(entry, min_size=1, max_size=3).map(tuple)
record = st.one_of(
    st.builds(Began, small, st.dictionaries(st.sampled_from(PIDS), small)),
    st.builds(Configured, small, groups, small),
    st.builds(Appended, small, small, entries),
    st.builds(Entered, small),
    st.builds(StagedImage, small, small, data),
    st.builds(StagedEntries, entries),
    st.builds(Installed, small, small, st.booleans()),
    st.just(Lost()),
    st.builds(Stopped, st.text(max_size=20)),
)
records = st.lists(record, max_size=8)


def test_all_kinds_are_tried():
    kinds = {Began, Configured, Appended, Entered, StagedImage, StagedEntries, Installed, Lost, Stopped}
    assert set(Record.__args__) == kinds


@given(records, st.integers(0, 8))
def test_round_trip(written, covered):
    """In a snapshot, after it, or some here and some there."""
    snapshot = join_records(written[:covered])
    assert read_records(snapshot, map(encode, written[covered:])) == written
    assert list(split_records(snapshot)) == list(map(encode, written[:covered]))


def test_no_snapshot_is_an_empty_one():
    assert read_records(None, []) == read_records(b"", []) == []


@given(records, st.integers(1, 10_000))
def test_beginning_of_a_snapshot(written, missing):
    """Whatever is cut off: fewer whole records, or an error; never others."""
    snapshot = join_records(written)
    kept = snapshot[: max(0, len(snapshot) - missing)]
    try:
        found = read_records(kept, [])
    except ValueError as error:
        assert str(error).startswith("the snapshot ends within")  # noqa: PT017  # it need not fail
    else:
        assert found == written[: len(found)]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record(found):
    with pytest.raises(ValueError, match=r"."):
        read_records(None, [found])


@given(st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_snapshot(found):
    with pytest.raises(ValueError, match=r"."):
        read_records(found, [])


def test_message_that_is_no_record():
    with pytest.raises(ValueError, match="Commit is no record"):
        read_records(None, [encode(Commit(0, 0, 0, 0))])


# --- Replaying ---


def replica() -> Replica:
    return Replica(Configuration(0, PIDS[:3]), Ledger(), Random(0), fresh=False)


def small_image() -> list[bytes]:
    """The parts of an image of op 3."""
    made = Replica(Configuration(0, PIDS[:3]), Ledger(), Random(0)).context
    made.settings = type(made.settings)(checkpoint_ops=3, checkpoint_step=3)
    made.log = Log()
    made.log.extend(1, [OpenSession(b"c" * 16), Request(1, 1, 1, b"x"), Request(1, 2, 1, b"y")])
    made.execute_to(3, None)
    (image,) = made.images
    assert isinstance(image, StateImage)
    return list(image.parts())


IMAGE = [StagedImage(3, part, found) for part, found in enumerate(small_image())]


@given(st.lists(st.one_of(record, st.sampled_from(IMAGE), st.just(Installed(0, 3, True))), max_size=12))
def test_records_in_any_order_are_replayed_or_refused(written):
    """Checksums keep such journals away, but who reads one that slipped through must not break in some other way."""
    one = replica()
    try:
        one.restore(None, [encode(record) for record in written])
    except ValueError:
        return
    ctx = one.context
    assert ctx.log.start <= ctx.commit <= ctx.log.op


BAD = {
    "no record": ([b"\xc1"], "can't be read"),
    "something else": ([encode(Commit(0, 0, 0, 0))], "no record"),
    "a gap": ([encode(Appended(5, 0, (OpenSession(b"c"),)))], "no gaps"),
    "an image that is not there": ([encode(Installed(0, 3, True))], "image at op 3 is not there"),
    "an image that is none": (
        [encode(StagedImage(3, 0, b"\xff" * 99)), encode(Installed(0, 3, True))],
        "no message of",
    ),
    "part of an image": ([encode(StagedImage(3, 0, IMAGE[0].data[:-1])), encode(Installed(0, 3, True))], "sum"),
    "an image of another op": ([encode(StagedImage(4, 0, IMAGE[0].data)), encode(Installed(0, 4, True))], "of op 3"),
    "a log that ends before": ([encode(Installed(0, 3, False))], "an op that it holds"),
    "no group": ([encode(Configured(1, PIDS[:2], 0))], "3 to 9"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_journal_is_refused_with_what_is_wrong(what):
    written, text = BAD[what]
    with pytest.raises(ValueError, match=text):
        replica().restore(None, written)


def test_good_image_is_restored():
    one = replica()
    one.restore(None, [encode(record) for record in (*IMAGE, Installed(0, 3, True))])
    assert (one.context.commit, one.context.log.start) == (3, 3)
    assert [operation for _, operation, _ in one.context.machine.history] == [b"x", b"y"]


# --- What was staged and not installed ---

OPENED = (OpenSession(b"c" * 16),)
STALE = (Request(1, 1, 1, b"stale"),)
GOOD = (Request(1, 2, 1, b"good"),)


@pytest.mark.parametrize("staged", [[StagedEntries(STALE)], [*IMAGE], [*IMAGE, StagedEntries(STALE)]])
@pytest.mark.parametrize("lost", [True, False])
def test_what_an_earlier_incarnation_staged_is_never_installed(staged, lost):
    """It crashed before it installed that; the next one stages something else."""
    one = replica()
    if lost:
        written = [Lost(), Began(2, {}), *staged, Began(3, {}), StagedEntries((*OPENED, *GOOD)), Installed(1, 0, False)]
    else:
        written = [
            Began(1, {}),
            Appended(1, 0, OPENED),
            *staged,
            Began(2, {}),
            StagedEntries(GOOD),
            Installed(1, 1, False),
        ]
    one.restore(None, [encode(record) for record in written])
    ctx = one.context
    assert ctx.log.slice(0, ctx.log.op) == [*OPENED, *GOOD]
    assert ctx.last_normal_view == 1


def test_what_the_same_incarnation_staged_is_installed_though_it_heard_of_others_meanwhile():
    one = replica()
    written = [
        Began(1, {}),
        Appended(1, 0, OPENED),
        StagedEntries(GOOD),
        Began(1, {PIDS[1]: 7}),
        Installed(1, 1, False),
    ]
    one.restore(None, [encode(record) for record in written])
    assert one.context.log.slice(0, 2) == [*OPENED, *GOOD]
    assert one.context.known == {PIDS[1]: 7}


def test_image_of_an_earlier_incarnation_does_not_count_as_there():
    one = replica()
    written = [Lost(), Began(2, {}), *IMAGE, Began(3, {}), Installed(1, 3, True)]
    with pytest.raises(ValueError, match="not there"):
        one.restore(None, [encode(record) for record in written])


def test_part_0_begins_an_image_anew():
    one = replica()
    written = [Lost(), Began(2, {}), StagedImage(3, 0, IMAGE[0].data[:20]), *IMAGE, Installed(1, 3, True)]
    one.restore(None, [encode(record) for record in written])
    assert one.context.commit == 3


def test_restored_replica_starts():
    """What is restored is enough to go on."""
    one = replica()
    one.restore(None, [encode(record) for record in (Began(4, {}), *IMAGE, Installed(0, 3, True))])
    output = Outbox(PIDS[1])
    one.init(PIDS[1], output)
    assert one.status == "normal"
    assert one.context.incarnation == 5
