"""A write-ahead log of SQLite is read as SQLite does."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rabble_trio._wal import Wal, read_wal

PAGE = 4096
FRAME = PAGE + 24


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with a checkpoint in its past: three transactions in use, and behind them what is left of earlier ones."""
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE t (x)")
        for number in range(8):
            if number == 5:
                connection.execute("PRAGMA wal_checkpoint").fetchall()
            connection.execute("INSERT INTO t VALUES (zeroblob(?))", [10 if number != 6 else 9000])
        shutil.copy(tmp_path / "live.db", tmp_path / "x.db")
        shutil.copy(tmp_path / "live.db-wal", tmp_path / "x.db-wal")
    return tmp_path / "x.db-wal"


def accepted(log: Path) -> int:
    """How many frames SQLite takes."""
    with closing(sqlite3.connect(log.with_name("x.db"), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        return int(connection.execute("PRAGMA wal_checkpoint").fetchone()[1])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_transactions_since_the_last_checkpoint_are_found(log: Path) -> None:
    wal = read_wal(log, PAGE)
    assert log.stat().st_size > 32 + wal.commits[-1] * FRAME  # there is more behind them, which does not count
    assert len(wal.commits) == 3
    assert accepted(log) == wal.commits[-1]
    assert wal == Wal(True, wal.commits)
    assert wal.lost(wal.commits[-1]) == 0


def test_transactions_behind_a_damage_are_lost_but_for_one_that_may_not_have_been_synced(log: Path) -> None:
    wal = read_wal(log, PAGE)
    for number, lost in ((1, 2), (wal.commits[0] + 1, 1), (wal.commits[2], 0)):
        copy = log.with_name("copy")
        shutil.copy(log, copy)
        flip(log, 32 + (number - 1) * FRAME + 100)
        assert read_wal(log, PAGE) == wal
        assert wal.lost(accepted(log)) == lost
        shutil.copy(copy, log)


def test_a_salt_that_is_damaged_hides_no_transaction(log: Path) -> None:
    wal = read_wal(log, PAGE)
    for salt in (8, 12):
        flip(log, 32 + (wal.commits[1] - 1) * FRAME + salt)
        assert read_wal(log, PAGE) == wal
        flip(log, 32 + (wal.commits[1] - 1) * FRAME + salt)


@pytest.mark.parametrize("place", range(0, 32, 3))
def test_behind_a_damaged_header_all_is_lost(log: Path, place: int) -> None:
    flip(log, place)
    wal = read_wal(log, PAGE)
    assert not wal.sound
    assert wal.lost(accepted(log)) >= 3


def test_a_log_that_is_not_there_or_was_only_begun_is_in_order(tmp_path: Path) -> None:
    assert read_wal(tmp_path / "none", PAGE) == Wal(True, ())
    (tmp_path / "begun").write_bytes(b"\x37\x7f\x06\x82")
    assert read_wal(tmp_path / "begun", PAGE) == Wal(True, ())
