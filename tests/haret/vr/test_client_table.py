"""The executed layer of the client table (sections 4.1 and 4.5)."""

import pytest

from haret.vr.client_table import ClientTable, entry_key
from haret.vr.messages import CloseSession, OpenSession, Request


class Apply:
    def __init__(self):
        self.calls = []

    def __call__(self, op, operation):
        self.calls.append((op, operation))
        return b"done " + operation


@pytest.fixture
def apply():
    return Apply()


@pytest.fixture
def table():
    table = ClientTable(max_sessions=3)
    table.open(1, b"a")
    return table


def request(number, lowest=1, session=1):
    return Request(session, number, lowest, b"%d" % number)


def test_a_session_is_named_by_the_op_that_opened_it(table):
    assert table.open(2, b"b") == 2
    assert table.open(3, b"a") == 1
    assert table.of_client(b"b") == 2
    assert len(table) == 2


def test_a_request_is_executed_once(table, apply):
    assert table.request(2, request(1), apply) == (2, b"done 1")
    assert table.request(3, request(1), apply) == (2, b"done 1")
    assert apply.calls == [(2, b"1")]


def test_requests_may_come_in_any_order(table, apply):
    for op, number in enumerate((3, 1, 2), 2):
        assert table.request(op, request(number), apply) == (op, b"done %d" % number)


def test_an_unknown_session_executes_nothing(table, apply):
    assert table.request(2, request(1, session=7), apply) is None
    assert apply.calls == []


def test_acknowledged_results_are_forgotten_and_never_executed_again(table, apply):
    for number in (1, 2, 3):
        table.request(1 + number, request(number), apply)
    session = table.get(1)
    assert session.kept == 3 * len(b"done 1")
    table.request(5, request(4, lowest=3), apply)
    assert sorted(session.results) == [3, 4]
    assert session.kept == 2 * len(b"done 1")
    assert table.request(6, request(1), apply) is None
    assert [op for op, _ in apply.calls] == [2, 3, 4, 5]


def test_a_lowest_number_never_goes_back(table, apply):
    table.request(2, request(5, lowest=5), apply)
    table.request(3, request(6, lowest=2), apply)
    assert table.get(1).lowest == 5


def test_a_huge_lowest_number_costs_nothing(table, apply):
    """The number is the client's to choose; a loop up to it would stop the group for ever."""
    table.request(2, request(1), apply)
    table.request(3, request(2**62, lowest=2**62), apply)
    assert sorted(table.get(1).results) == [2**62]
    assert table.get(1).kept == len(b"done %d" % 2**62)


def test_the_session_that_committed_longest_ago_makes_room(table, apply):
    table.open(2, b"b")
    table.open(3, b"c")
    table.request(4, request(1), apply)
    assert table.open(5, b"d") == 5
    assert table.get(2) is None
    assert table.of_client(b"b") is None
    assert table.open(6, b"a") == 1
    table.open(7, b"e")
    assert table.get(3) is None
    assert table.get(1) is not None


def test_a_closed_session_is_gone(table, apply):
    table.close(1)
    table.close(1)
    assert table.get(1) is None
    assert table.request(2, request(1), apply) is None
    assert table.open(3, b"a") == 3


def test_entries_are_executed_by_kind(apply):
    table = ClientTable(3)
    table.execute(1, OpenSession(b"a"), apply)
    table.execute(2, request(1), apply)
    assert apply.calls == [(2, b"1")]
    table.execute(3, CloseSession(1), apply)
    assert len(table) == 0


def test_the_digest_covers_results_and_the_order_of_eviction(apply):
    def made(*entries):
        table = ClientTable(3)
        for op, entry in enumerate(entries, 1):
            table.execute(op, entry, apply)
        return table.digest()

    a, b = OpenSession(b"a"), OpenSession(b"b")
    assert made(a, b, request(1)) == made(a, b, request(1))
    assert len({made(a, b), made(a, b, a), made(a, b, request(1)), made(a, b, request(2)), made(b, a)}) == 5


def test_keys_of_different_entries_never_collide():
    entries = [request(1), request(2), request(1, session=2), CloseSession(1), CloseSession(2), OpenSession(b"1")]
    assert len({entry_key(entry) for entry in entries}) == len(entries)
    assert entry_key(request(1, lowest=1)) == entry_key(Request(1, 1, 1, b"other"))
