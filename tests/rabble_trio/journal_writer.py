"""A program that persists, and says what is durable, until it is killed: `python journal_writer.py DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from rabble_trio import Pid
from rabble_trio._sqlite_journal import SqliteJournal

PIDS = [Pid.parse(f"p{number}::n1@127.0.0.1:1") for number in range(3)]


async def write(journal: SqliteJournal, pid: Pid, last: int) -> None:
    """Records that count on, some of them synced together, and now and then a snapshot, which is their count."""
    while True:
        for _ in range(1 + last % 4):
            last += 1
            journal.append(pid, b"%d" % last)
        await journal.sync()
        print(pid.name, last, flush=True)
        if last % 10 == 0:
            await journal.replace(pid, last, b"%d " % last * 30_000)


async def main() -> None:
    """Go on where the program before left off."""
    journal = await SqliteJournal.open(Path(sys.argv[1]), PIDS[0].node)
    async with trio.open_nursery() as nursery:
        for pid in PIDS:
            await journal.load(pid)
            nursery.start_soon(write, journal, pid, journal.last_index(pid))


if __name__ == "__main__":
    trio.run(main)
