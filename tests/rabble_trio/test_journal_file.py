"""The file of a journal: what was synced comes back as it was, or the process is told that it does not."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rabble_trio._journal_file as journal_file
import rabble_trio._journal_open as journal_open
from rabble_trio import JournalError, Pid, Stored
from rabble_trio._journal_file import JournalFile
from rabble_trio._journal_open import open_journal_file

A, B, C, NEW = (Pid.parse(f"{name}::n1@127.0.0.1:1") for name in ("a", "g::b", "c", "new"))

File = JournalFile[Any]


@pytest.fixture(autouse=True, scope="module")
def short_logs() -> Iterator[None]:
    """Write-ahead logs are as long as what stands in them, so that what damages one hits something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_open, "RESERVED", 0)
        yield


@contextmanager
def opened(directory: Path, expected: bytes = b"") -> Iterator[File]:
    """The journal in a directory; closed in good order."""
    file = open_journal_file(directory, "n1", expected)
    try:
        yield file
    finally:
        file.close()


def scratch() -> TemporaryDirectory[str]:
    """A directory in memory, if there are any: many journals are made here, and none has to survive."""
    return TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def work(file: File) -> list[Any]:
    """Let it do all its work between syncs; gives the snapshots that became durable."""
    done = []
    while file.has_work:
        done.append(file.step())
    return [token for token in done if token is not None]


def crashed(directory: Path, to: Path) -> Path:
    """What a program that dies now would leave."""
    shutil.copytree(directory, to, dirs_exist_ok=True)
    return to


def contents(directory: Path) -> dict[Pid, Stored | None]:
    """What a journal says about each process."""
    with opened(directory) as file:
        return {pid: file.load(pid) for pid in (A, B, C)}


def records(count: int, start: int = 0) -> list[bytes]:
    return [b"record %d" % number * (1 + number % 5) for number in range(start, start + count)]


def fill(file: File) -> dict[Pid, Stored | None]:
    """Three processes: with a snapshot and records, with records, with a snapshot; gives what is stored."""
    file.write({A: records(10), B: records(3)})
    file.write({A: records(10, 10)})
    file.write({B: records(1, 3), A: records(5, 20), C: records(2)})
    file.begin_snapshot(A, 15, b"snapshot of a" * 10, "a")
    file.begin_snapshot(C, 2, b"snapshot of c" * 50_000, "c")
    assert work(file) == ["a", "c"]
    file.write({A: records(1, 25)})
    file.write({B: records(2, 4)})
    return {
        A: Stored(b"snapshot of a" * 10, tuple(records(11, 15))),
        B: Stored(None, tuple(records(6))),
        C: Stored(b"snapshot of c" * 50_000, ()),
    }


def damaged(stored: Stored | None) -> str:
    """Why nothing can be given of a process."""
    assert stored is not None
    assert stored.damage is not None
    assert (stored.snapshot, stored.records) == (None, ())
    return stored.damage


# --- What is written comes back -----------------------------------------------------------------------------------------


def test_what_was_synced_is_there_after_an_end_and_after_a_crash(tmp_path: Path) -> None:
    with opened(tmp_path / "1") as file:
        expected = fill(file)
        assert {pid: file.load(pid) for pid in expected} == expected
        crashed(tmp_path / "1", tmp_path / "2")
    assert contents(tmp_path / "1") == expected
    assert contents(tmp_path / "2") == expected
    assert not (tmp_path / "1" / "journal.db-wal").exists()
    assert (tmp_path / "1" / "journal.db").stat().st_mode & 0o077 == 0


def test_histories_go_on_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        fill(file)
    with opened(tmp_path) as file:
        assert file.lasts() == {(None, "a"): 26, ("g", "b"): 6, (None, "c"): 2}
        file.write({A: [b"more"], NEW: [b"first"]})
        assert file.load(NEW) == Stored(None, (b"first",))
    stored = contents(tmp_path)[A]
    assert stored is not None
    assert stored.records[-1] == b"more"


@pytest.mark.parametrize("upto", range(13))
def test_a_snapshot_may_cover_any_number_of_records(tmp_path: Path, upto: int) -> None:
    # Records of one sync are one row, and rows are what is removed: four here, of 1 to 4, 5, 6 to 9, and 10 to 12.
    with opened(tmp_path) as file:
        for first, count in ((0, 4), (4, 1), (5, 4), (9, 3)):
            file.write({A: records(count, first)})
        for until in (upto // 2, upto):
            file.begin_snapshot(A, until, b"snapshot %d" % until, "")
            work(file)
        expected = Stored(b"snapshot %d" % upto, tuple(records(12 - upto, upto)))
        assert file.load(A) == expected
    assert contents(tmp_path)[A] == expected


def test_a_snapshot_counts_when_all_of_it_is_there_and_holds_up_no_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "CHUNK", 10)
    with opened(tmp_path / "1") as file:
        file.write({A: records(3)})
        file.begin_snapshot(A, 3, b"0123456789" * 5, "done")
        told = []
        for step in range(5):
            file.write({A: records(1, 3 + step)})
            image = crashed(tmp_path / "1", tmp_path / f"crash {step}")
            assert contents(image)[A] == Stored(None, tuple(records(4 + step)))
            told.append(file.step())
        assert told == [None, None, None, None, "done"]
        assert file.load(A) == Stored(b"0123456789" * 5, tuple(records(5, 3)))
        # What a crash left of a snapshot is in nobody's way.
        with opened(tmp_path / "crash 4") as other:
            other.begin_snapshot(A, 8, b"short", "done")
            assert work(other) == ["done"]
            assert other.load(A) == Stored(b"short", ())


def test_an_older_snapshot_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        expected = fill(file)
        file.begin_snapshot(A, 14, b"old", "done")
        assert work(file) == ["done"]
        assert file.load(A) == expected[A]


def test_a_snapshot_of_a_history_that_was_set_aside_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        fill(file)
        file.distrust("for a reason")
        for pid in (A, B):
            file.begin_snapshot(pid, 3, b"of before", "done")
            assert work(file) == ["done"]
            assert damaged(file.load(pid)) == "for a reason"
        file.write({A: [b"anew"]})
        file.begin_snapshot(A, 3, b"of before", "done")
        assert work(file) == ["done"]
        assert file.load(A) == Stored(None, (b"anew",))


def rows(directory: Path, table: str) -> int:
    with closing(sqlite3.connect(directory / "journal.db")) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_a_snapshot_covers_is_removed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "PURGE_ROWS", 10)
    with opened(tmp_path / "1") as file:
        for number in range(35):
            file.write({A: records(1, number)})
        for text in (b"1", b"2"):
            file.begin_snapshot(A, 30, text, "")
            assert file.step() == ""
        crashed(tmp_path / "1", tmp_path / "crash")
        steps = 0
        while file.has_work:
            file.step()
            steps += 1
        assert steps >= 4
    assert (rows(tmp_path / "1", "record"), rows(tmp_path / "1", "chunk")) == (5, 1)
    # After a crash it is found again when the process is restored.
    with opened(tmp_path / "crash") as file:
        file.load(A)
        work(file)
    assert (rows(tmp_path / "crash", "record"), rows(tmp_path / "crash", "chunk")) == (5, 1)


def test_pieces_are_also_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "PURGE_BYTES", 10_000)
    monkeypatch.setattr(journal_file, "_ROW_BYTES", 4000)
    with opened(tmp_path) as file:
        file.write({A: [bytes(1500)] * 100})
        file.begin_snapshot(A, 100, b"", "")
        steps = 0
        while file.has_work:
            file.step()
            steps += 1
        assert 15 <= steps <= 25
        assert file.load(A) == Stored(b"", ())
    assert rows(tmp_path, "record") == 0


def test_the_write_ahead_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "CHECKPOINT_BYTES", 100_000)
    with opened(tmp_path) as file:
        for number in range(200):
            file.write({A: records(1, number)})
            if file.has_work:
                file.step()
        assert (tmp_path / "journal.db-wal").stat().st_size < 500_000
        assert file.load(A) == Stored(None, tuple(records(200)))


def test_the_write_ahead_log_does_not_grow_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * 1024 * 1024 + 1
    monkeypatch.setattr(journal_open, "RESERVED", size)
    log = tmp_path / "journal.db-wal"
    with opened(tmp_path) as file:
        assert log.stat().st_size == size
        expected = fill(file)
        assert log.stat().st_size == size
        copy = crashed(tmp_path, tmp_path / "copy")
    # What is left over is no damage, nor is it if something else stands there.
    assert contents(crashed(copy, tmp_path / "1")) == expected
    change(copy / "journal.db-wal", -100, lambda _: 1)
    assert contents(copy) == expected


def test_a_write_ahead_log_that_can_not_be_given_its_size_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path):  # a file that is made must reach the disk
        pass
    monkeypatch.setattr(journal_open, "RESERVED", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with opened(tmp_path) as file:
            expected = fill(file)
    assert "No space left" in caplog.text
    assert contents(tmp_path) == expected


STEPS = st.lists(st.tuples(st.sampled_from("wwwscr"), st.sampled_from([A, B]), st.integers(1, 5)), max_size=20)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_against_a_model(steps: list[tuple[str, Pid, int]]) -> None:
    model: dict[Pid, tuple[bytes | None, int, list[bytes]]] = {A: (None, 0, []), B: (None, 0, [])}

    def check(file: File) -> None:
        for pid, (snapshot, upto, kept) in model.items():
            there = None if not kept and snapshot is None else Stored(snapshot, tuple(kept[upto:]))
            assert file.load(pid) == there

    with scratch() as name:
        directory = Path(name, "0")
        file = open_journal_file(directory, "n1", b"")
        for number, (step, pid, amount) in enumerate(steps):
            snapshot, upto, kept = model[pid]
            match step:
                case "w":
                    added = records(amount, len(kept))
                    file.write({pid: added})
                    model[pid] = (snapshot, upto, kept + added)
                case "s":
                    covered = max(upto, len(kept) - amount)
                    file.begin_snapshot(pid, covered, b"%d" % number, "")
                    work(file)
                    model[pid] = (b"%d" % number, covered, kept)
                case "c":
                    crashed(directory, Path(name, str(number + 1)))
                    file.close()
                    directory = Path(name, str(number + 1))
                    file = open_journal_file(directory, "n1", b"")
                case "r":
                    file.close()
                    file = open_journal_file(directory, "n1", b"")
            check(file)
        file.close()


# --- Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Pid, Stored | None]]:
    """What a crash leaves: a part of it in the main file, a part in the write-ahead log; and what was synced."""
    directory = tmp_path_factory.mktemp("journal")
    with opened(directory / "live") as file:
        fill(file)
    with opened(directory / "live") as file:
        file.write({A: records(4, 26)})
        file.write({B: records(1, 6)})
        file.write({A: records(1, 30), B: records(1, 7)})
        expected = {pid: file.load(pid) for pid in (A, B, C)}
        crashed(directory / "live", directory / "image")
    return directory / "image", expected


FILES = st.sampled_from(["journal.db", "journal.db-wal"])
PLACES = st.integers(0, 2**32)  # modulo the size of the file


@given(name=FILES, place=PLACES, bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_anywhere_gives_the_truth_or_tells_of_damage(
    image: tuple[Path, dict[Pid, Stored | None]], name: str, place: int, bit: int
) -> None:
    original, expected = image
    with scratch() as copy:
        directory = crashed(original, Path(copy))
        change(directory / name, place % (original / name).stat().st_size, lambda old: old ^ 1 << bit)
        for _ in range(2):  # and once more, as nobody has persisted anything since
            for pid, stored in contents(directory).items():
                assert stored == expected[pid] or damaged(stored)


@given(name=FILES, page=PLACES, other=st.none() | PLACES)
@settings(max_examples=60, deadline=None)
def test_a_page_that_is_zero_or_old_gives_the_truth_or_tells_of_damage(
    image: tuple[Path, dict[Pid, Stored | None]], name: str, page: int, other: int | None
) -> None:
    original, expected = image
    with scratch() as copy:
        directory = crashed(original, Path(copy))
        content = (original / name).read_bytes()
        pages = [content[place : place + 4096] for place in range(0, len(content), 4096)]
        pages[page % len(pages)] = bytes(4096) if other is None else pages[other % len(pages)]
        (directory / name).write_bytes(b"".join(pages))
        for pid, stored in contents(directory).items():
            assert stored == expected[pid] or damaged(stored)


@given(name=FILES, size=PLACES)
@settings(max_examples=40, deadline=None)
def test_a_file_that_is_cut_off_gives_the_truth_or_tells_of_damage(
    image: tuple[Path, dict[Pid, Stored | None]], name: str, size: int
) -> None:
    original, expected = image
    with scratch() as copy:
        directory = crashed(original, Path(copy))
        os.truncate(directory / name, size % (original / name).stat().st_size)
        for pid, stored in contents(directory).items():
            assert stored == expected[pid] or damaged(stored)


def change(path: Path, place: int, how: Callable[[int], int]) -> None:
    content = bytearray(path.read_bytes())
    content[place] = how(content[place])
    path.write_bytes(content)


DAMAGES = {
    "a record in the middle is missing": "DELETE FROM record WHERE process = 2 AND place = 4",
    "the first record is missing": "DELETE FROM record WHERE process = 2 AND place = 1",
    "the last record is missing": "DELETE FROM record WHERE process = 2 AND place = 8",
    "all records are missing": "DELETE FROM record WHERE process = 2",
    "a record is changed": "UPDATE record SET data = CAST('?' || substr(data, 2) AS BLOB) WHERE process = 2 AND place = 4",
    "lengths are changed": "UPDATE record SET sizes = x'00000001' WHERE process = 2 AND place = 4",
    "a record is another's": "UPDATE record SET data = (SELECT data FROM record WHERE process = 1 LIMIT 1) "
    "WHERE process = 2 AND place = 4",
    "a record is at another place": "UPDATE record SET place = 6 WHERE process = 2 AND place = 5",
    "two records are exchanged": "UPDATE record SET place = 100 - place WHERE process = 2 AND place IN (4, 5)",
    "a record too many": "INSERT INTO record SELECT process, 9, sizes, data, sum FROM record WHERE process = 2 AND place = 8",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_of_one_process_is_told_to_it_and_is_no_matter_of_others(
    image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path, what: str
) -> None:
    original, expected = image
    directory = crashed(original, tmp_path)
    with closing(sqlite3.connect(directory / "journal.db")) as connection, connection:
        assert connection.execute(DAMAGES[what]).rowcount >= 1
    stored = contents(directory)
    assert "record" in damaged(stored[B])
    assert (stored[A], stored[C]) == (expected[A], expected[C])


def test_records_that_are_as_they_were_at_another_time_are_not_those_that_were_synced(tmp_path: Path) -> None:
    # Two lives of one journal that part: the rows of one with the head of the other, which agree in all but the last.
    with opened(tmp_path / "1") as file:
        file.write({A: records(3)})
    crashed(tmp_path / "1", tmp_path / "2")
    for name, last in (("1", b"one"), ("2", b"two")):
        with opened(tmp_path / name) as file:
            file.write({A: [last]})
    with closing(sqlite3.connect(tmp_path / "1" / "journal.db")) as connection, connection:
        connection.execute("ATTACH ? AS other", (str(tmp_path / "2" / "journal.db"),))
        connection.execute("INSERT OR REPLACE INTO main.record SELECT * FROM other.record WHERE place = 4")
    assert "the last records, up to 4, are not the ones that were synced" in damaged(contents(tmp_path / "1")[A])


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM chunk WHERE process = 3",
        "DELETE FROM chunk WHERE process = 3 AND place = (SELECT max(place) FROM chunk WHERE process = 3)",
        "UPDATE chunk SET data = zeroblob(length(data)) WHERE process = 3",
    ],
)
def test_damage_of_a_snapshot(image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path, damage: str) -> None:
    original, expected = image
    directory = crashed(original, tmp_path)
    with closing(sqlite3.connect(directory / "journal.db")) as connection, connection:
        connection.execute(damage)
    stored = contents(directory)
    assert "the snapshot that stands for the records up to 2 is damaged or missing" in damaged(stored[C])
    assert (stored[A], stored[B]) == (expected[A], expected[B])


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM process WHERE id = 2",
        "UPDATE process SET last = 7 WHERE id = 2",
        "UPDATE process SET name = 'x' WHERE id = 2",
        "UPDATE process SET name = CAST(x'ff' AS TEXT), upto = 'many', damage = 'who knows' WHERE id = 2",
        "UPDATE process SET id = 77 WHERE id = 2",
    ],
)
def test_who_is_not_known_any_more_is_told(
    image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path, damage: str
) -> None:
    original, expected = image
    directory = crashed(original, tmp_path)
    with closing(sqlite3.connect(directory / "journal.db")) as connection, connection:
        connection.execute(damage)
    for _ in range(2):
        with opened(directory) as file:
            assert "where it says who has records here" in damaged(file.load(B))
            assert damaged(file.load(NEW))  # it might be the one whose name is lost
            assert (file.load(A), file.load(C)) == (expected[A], expected[C])
    with opened(directory) as file:
        file.write({B: [b"anew"], NEW: [b"first"]})
        work(file)
    with opened(directory) as file:
        assert file.load(B) == Stored(None, (b"anew",))
        assert file.load(NEW) == Stored(None, (b"first",))


def replace_by(content: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / "journal.db").write_bytes(content)


WHOLE = {
    "the file is gone": lambda directory: (directory / "journal.db").unlink(),
    "the file is empty": replace_by(b""),
    "the file is something else": replace_by(b"something else" * 1000),
    "the file is another database": lambda path: another_database(path),  # noqa: PLW0108  (it is defined below)
    "the write-ahead log is gone": lambda directory: (directory / "journal.db-wal").unlink(),
    "the write-ahead log has a bad header": lambda directory: change(
        directory / "journal.db-wal", 17, lambda old: old ^ 1
    ),
    "it says something wrong about itself": lambda directory: statement(directory, "UPDATE journal SET generation = 0"),
    "it says nothing about itself": lambda directory: statement(directory, "DELETE FROM journal"),
}


def statement(directory: Path, sql: str) -> None:
    with closing(sqlite3.connect(directory / "journal.db")) as connection, connection:
        connection.execute(sql)


def another_database(directory: Path) -> None:
    for file in directory.glob("journal.db*"):
        file.unlink()
    statement(directory, "CREATE TABLE x (y)")


@pytest.mark.parametrize("what", WHOLE)
def test_when_what_was_synced_is_missing_everybody_is_told_until_they_began_anew(
    image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path, what: str
) -> None:
    directory = crashed(image[0], tmp_path)
    WHOLE[what](directory)
    for _ in range(2):
        assert all(damaged(stored) for stored in contents(directory).values())
    with opened(directory) as file:
        assert damaged(file.load(NEW))
        file.write({A: [b"anew"]})
        file.begin_snapshot(B, 0, b"anew", "")
        work(file)
    stored = contents(directory)
    assert stored[A] == Stored(None, (b"anew",))
    assert stored[B] == Stored(b"anew", ())
    assert damaged(stored[C])


def test_what_sqlite_drops_is_noticed_without_a_mark_too_unless_it_may_not_have_been_synced(
    image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path
) -> None:
    # After a loss of power the mark may be old. Frames are 24 bytes and a page; the damage is at the log's begin and end.
    for place, lost in ((100, True), (-100, False)):
        directory = crashed(image[0], tmp_path / str(place))
        (directory / "journal.mark").unlink()
        change(directory / "journal.db-wal", place, lambda old: old ^ 1)
        for pid, stored in contents(directory).items():
            assert stored is not None
            if lost:
                assert "at least 2 transactions that were synced are lost" in damaged(stored)
            else:
                assert stored.damage is None
                assert (stored == image[1][pid]) is (pid is C)  # the others lost the end, which nobody was told


def test_an_older_copy_of_the_file_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        fill(file)
    copy = (tmp_path / "journal.db").read_bytes()
    with opened(tmp_path) as file:
        file.write({A: [b"more"]})
    (tmp_path / "journal.db").write_bytes(copy)
    assert "an older copy" in damaged(contents(tmp_path)[B])


def test_another_journal_of_the_same_node_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "1") as file:
        identity = file.identity
        fill(file)
    with opened(tmp_path / "2") as file:
        fill(file)
    shutil.copy(tmp_path / "2" / "journal.db", tmp_path / "1" / "journal.db")
    (tmp_path / "1" / "journal.mark").unlink()
    with opened(tmp_path / "1", identity) as file:
        assert "not the journal that this node had before" in damaged(file.load(A))


def test_a_journal_that_is_gone_with_all_its_files_is_missed(tmp_path: Path) -> None:
    with opened(tmp_path, b"identity of old") as file:
        assert "is gone" in damaged(file.load(A))
    with opened(tmp_path / "new") as file:
        assert file.load(A) is None
        assert not file.suspect


@pytest.mark.parametrize("what", ["gone", "empty", "damaged"])
def test_without_its_mark_a_journal_is_believed(
    image: tuple[Path, dict[Pid, Stored | None]], tmp_path: Path, what: str
) -> None:
    original, expected = image
    mark = crashed(original, tmp_path) / "journal.mark"
    match what:
        case "gone":
            mark.unlink()
        case "empty":
            mark.write_bytes(b"")
        case "damaged":
            change(mark, 30, lambda old: old ^ 1)
    assert contents(tmp_path) == expected


def test_the_journal_of_another_node_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        fill(file)
    with pytest.raises(JournalError, match="is the journal of n1, not of n2: each node has a directory of its own"):
        open_journal_file(tmp_path, "n2", b"")


def test_the_format_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_open, "FORMAT", 2)
    with opened(tmp_path):
        pass
    monkeypatch.undo()
    with pytest.raises(JournalError, match="has format 2, and this version reads 1 only"):
        open_journal_file(tmp_path, "n1", b"")


def test_a_round_of_many_processes_takes_few_statements(tmp_path: Path) -> None:
    """Each of them is a turn that the thread gives away: see ROWS."""
    pids = [Pid.parse(f"p{number}::n1@127.0.0.1:1") for number in range(2 * journal_file.ROWS + 1)]
    statements: list[str] = []
    with opened(tmp_path) as file:
        file.write({pid: [b"first"] for pid in pids})
        file._connection.set_trace_callback(statements.append)
        file.write({pid: [b"second", b"third"] for pid in pids})
        assert [statement.split()[0] for statement in statements] == ["BEGIN", *["INSERT"] * 6, "COMMIT"]
    with opened(tmp_path) as file:
        for pid in pids:
            stored = file.load(pid)
            assert stored is not None
            assert (stored.damage, stored.records) == (None, (b"first", b"second", b"third"))


def test_what_is_damaged_is_kept_but_not_for_ever(tmp_path: Path) -> None:
    for turn in range(1, 4):
        with opened(tmp_path) as file:
            file.load(A)
            file.write({A: [b"record of turn %d" % turn, b"another"]})
            work(file)
        with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
            kept = [data for (data,) in connection.execute("SELECT data FROM record ORDER BY process")]
            connection.execute("UPDATE record SET sum = x'00' WHERE process = ?", (turn,))
        # The newest that was set aside, and the one that is in use.
        assert kept == [b"record of turn %danother" % number for number in range(max(1, turn - 1), turn + 1)]


def test_unreadable_files_are_kept_but_not_for_ever(tmp_path: Path) -> None:
    for turn in range(5):
        (tmp_path / "journal.db").write_bytes(b"turn %d" % turn * 1000)
        with opened(tmp_path) as file:
            assert damaged(file.load(A))
    kept = sorted(path.name for path in tmp_path.glob("*damaged*"))
    assert kept == ["journal.db.damaged-1", "journal.db.damaged-2", "journal.db.damaged-3"]
    assert (tmp_path / "journal.db.damaged-3").read_bytes().startswith(b"turn 4")


def test_a_crash_while_a_journal_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "journal.new").write_bytes(b"half of it")
    (tmp_path / "journal.new-journal").write_bytes(b"half of it")
    with opened(tmp_path) as file:
        assert file.load(A) is None


def test_damage_in_what_is_garbage_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if "length(data)" in sql:
                error = sqlite3.DatabaseError("database disk image is malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error
            return super().execute(sql, *values)

    monkeypatch.setattr(journal_open, "connect", lambda *args, **more: sqlite3.connect(*args, **more, factory=Broken))
    with opened(tmp_path) as file, nullcontext():
        expected = fill(file)
        assert not file.has_work
        assert file.load(A) == expected[A]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_file_that_can_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        fill(file)
    (tmp_path / "journal.db").chmod(0o400)
    with pytest.raises(JournalError, match="writable for the user that the node runs as"):
        open_journal_file(tmp_path, "n1", b"")


def test_a_directory_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalError, match=r"file/journal.db: .*(Not a directory|File exists)"):
        open_journal_file(tmp_path / "file", "n1", b"")
