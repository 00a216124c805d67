"""What the demonstration looks for, each found where it was planted."""

from __future__ import annotations

from haret.cli.evidence import counted_exactly, in_order, longest_gap, nothing_lost, nothing_twice


def test_what_is_complete_has_no_problem() -> None:
    found = [b"0:1", b"1:1", b"0:2", b"1:2", b"0:10"]
    assert nothing_lost(found[:4], found) is None
    assert nothing_twice(found) is None
    assert in_order(found) is None
    assert counted_exactly(7, 7) is None


def test_a_lost_element_is_named() -> None:
    assert nothing_lost([b"0:1", b"0:2"], [b"0:1"]) == "1 lost, such as 0:2"


def test_an_element_that_is_there_twice_is_named() -> None:
    assert nothing_twice([b"0:1", b"0:2", b"0:1"]) == "1 there more than once, such as 0:1"


def test_numbers_of_one_writer_that_shrink_are_named() -> None:
    assert in_order([b"0:10", b"1:1", b"0:9"]) == "1 too late, such as 0:9"


def test_a_wrong_count_says_in_which_direction() -> None:
    assert counted_exactly(7, 5) == "it is 5: 2 lost"
    assert counted_exactly(7, 8) == "it is 8: 1 done twice"


def test_the_longest_gap_begins_at_the_crash_at_the_earliest() -> None:
    assert longest_gap([0.0, 5.0, 7.0, 10.0, 11.0], 6.0) == 3.0
    assert longest_gap([9.0, 8.0], 6.0) == 2.0
    assert longest_gap([1.0], 6.0) == 0.0
