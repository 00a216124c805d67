import pytest

from haret.vr import ProtocolViolation
from haret.vr.log import ENTRY_OVERHEAD, Log, entry_size
from haret.vr.messages import OpenSession, Request


def entries(*numbers, size=1):
    return [Request(1, number, 1, b"x" * size) for number in numbers]


def numbers(found):
    return [entry.number for entry in found]


@pytest.mark.parametrize("start", [0, 100])
def test_ops_are_absolute(start):
    log = Log(start)
    log.extend(start + 1, entries(1, 2))
    assert log.op == start + 2
    log.extend(start + 3, entries(3, 4))
    assert log.op == start + 4
    assert numbers(log.slice(start + 1, start + 3)) == [2, 3]
    assert log.slice(start, start) == []
    assert [log.holds(after) for after in (start - 1, start, start + 4, start + 5)] == [False, True, True, False]


@pytest.mark.parametrize("start", [0, 100])
def test_replacing_cuts_first(start):
    """An older log that is longer leaves nothing behind (defects D15 and D16)."""
    log = Log(start)
    log.extend(start + 1, entries(1, 2, 3, 4))
    log.replace_after(start + 1, entries(9))
    assert log.op == start + 2
    assert numbers(log.slice(start, log.op)) == [1, 9]
    log.replace_after(start, [])
    assert log.op == start


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_gap_or_an_overlap_is_a_violation(first):
    log = Log()
    log.extend(1, entries(1))
    with pytest.raises(ProtocolViolation, match="gaps"):
        log.extend(first, entries(2))


@pytest.mark.parametrize("op", [9, 12])
def test_replacing_beyond_the_ends_is_a_violation(op):
    log = Log(10)
    log.extend(11, entries(1))
    with pytest.raises(ProtocolViolation):
        log.replace_after(op, [])


@pytest.mark.parametrize(("after", "last"), [(9, 11), (10, 12), (11, 10)])
def test_reading_what_is_not_there_is_a_violation(after, last):
    log = Log(10)
    log.extend(11, entries(1))
    with pytest.raises(ProtocolViolation):
        log.slice(after, last)


def test_batches_are_bounded_by_count_and_bytes():
    log = Log()
    log.extend(1, entries(1, 2, 3, size=100))
    two = 2 * (100 + ENTRY_OVERHEAD)
    assert numbers(log.batch(0, 3, 10, 10_000)) == [1, 2, 3]
    assert numbers(log.batch(1, 3, 1, 10_000)) == [2]
    assert numbers(log.batch(0, 3, 10, two)) == [1, 2]
    assert numbers(log.batch(0, 3, 10, two - 1)) == [1]
    assert numbers(log.batch(0, 2, 10, 10_000)) == [1, 2]
    assert log.batch(3, 3, 10, 10_000) == ()


def test_a_batch_holds_one_entry_however_large():
    log = Log()
    log.extend(1, entries(1, 2, size=1000))
    assert numbers(log.batch(0, 2, 10, 10)) == [1]


@pytest.mark.parametrize("start", [0, 100])
def test_cutting_off_in_front_moves_no_op(start):
    log = Log(start)
    log.extend(start + 1, entries(1, 2, 3))
    log.truncate(start + 2)
    assert (log.start, log.op) == (start + 2, start + 3)
    assert numbers(log.slice(start + 2, start + 3)) == [3]
    assert not log.holds(start + 1)
    log.truncate(start + 1)  # was cut off before
    assert log.start == start + 2
    log.extend(start + 4, entries(4))
    assert numbers(log.slice(start + 2, start + 4)) == [3, 4]
    with pytest.raises(ProtocolViolation):
        log.slice(start + 1, start + 3)


def test_more_than_there_is_is_not_cut_off():
    log = Log()
    log.extend(1, entries(1))
    with pytest.raises(ProtocolViolation):
        log.truncate(2)


def test_sizes():
    assert entry_size(entries(1, size=7)[0]) == ENTRY_OVERHEAD + 7
    assert entry_size(OpenSession(b"c" * 16)) == ENTRY_OVERHEAD
