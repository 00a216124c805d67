"""What stands in a write-ahead log of SQLite, read before SQLite opens it.

SQLite drops, without a word, the first frame whose checksum is wrong and all that come after it. After a loss of power
that is right for the last transaction, whose sync had not returned. But a transaction is begun only when the one before it
is synced, so more than one that is dropped means that synced ones are lost. This module finds the transactions that are in
the file; how many of its frames SQLite accepted, it tells itself (`PRAGMA wal_checkpoint`).

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">8I")  # magic, version, page size, checkpoints, salt 1, salt 2, checksum 1, checksum 2
_FRAME: Final = struct.Struct(">6I")  # page, pages of the file after a commit (else 0), salt 1, salt 2, checksums
_MAGIC: Final = 0x377F0682  # + 1: words of checksums are big-endian
_MASK: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Wal:
    """The transactions in a write-ahead log."""

    sound: bool
    """Whether its header is. If not, SQLite ignores the whole file."""
    commits: tuple[int, ...]
    """Numbers of the frames that end a transaction, from 1. Frames left from before the last checkpoint don't count."""

    def lost(self, accepted: int) -> int:
        """How many synced transactions are lost if SQLite accepted so many frames; at least, and 0 if none must be."""
        dropped = sum(number > accepted for number in self.commits)
        # The header is synced before the first frame is written, so with a bad one even a single commit is a loss.
        return dropped if not self.sound else max(0, dropped - 1)


def read_wal(path: Path, page_size: int) -> Wal:
    """Read the log of a database with pages of this size. One that is not there is sound and empty. Raises `OSError`."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return Wal(True, ())
    with file:
        header = file.read(_HEADER.size)
        salts = _salts(header, page_size)
        commits = []
        number = 0
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            number += 1
            _, pages, salt_1, salt_2, *_ = _FRAME.unpack(frame)
            # A frame of an earlier generation has both salts different, so one word that fits tells a damaged one of this.
            # Without a sound header nothing is known of the salts, and any frame may count.
            if pages and (salts is None or salt_1 == salts[0] or salt_2 == salts[1]):
                commits.append(number)
            file.seek(page_size, 1)
    return Wal(salts is not None or len(header) < _HEADER.size, tuple(commits))


def _salts(header: bytes, page_size: int) -> tuple[int, int] | None:
    """The salts of this generation of frames; None if the header is not sound."""
    if len(header) < _HEADER.size:
        return None
    magic, _, size, _, salt_1, salt_2, *checksum = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC or size != page_size:
        return None
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    s0 = s1 = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + first + s1) & _MASK
        s1 = (s1 + second + s0) & _MASK
    return (salt_1, salt_2) if [s0, s1] == checksum else None
