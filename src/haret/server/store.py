"""What a server keeps of its namespaces in its data directory, so that they are known after a restart.

One file, `namespaces.record`, readable by its owner alone: a line that says what it is, the SHA-256 of the rest, and the
groups and kept replicas, each with its length before it. It is replaced as a whole, by renaming a synced file over it, so a
crash leaves the old one or the new one. No promise of the replication depends on it: a node that lost it hears of its groups
from others.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from haret.errors import ConfigError
from rabble_trio import DecodeError, Pid, decode, encode, message

from .registry import MAX_NAMESPACES, MAX_RIVALS, Group, problem_with

FILE_NAME: Final = "namespaces.record"

_HEADS: Final = (b"haret namespaces 2\n", b"haret namespaces 1\n")  # what is written, and what is read, too
_HEAD_BYTES: Final = len(_HEADS[0])
_SUM_BYTES: Final = 32
_LENGTH: Final = struct.Struct(">I")
_MAX_BYTES: Final = MAX_NAMESPACES * MAX_RIVALS * 4096  # a group takes less, and a longer file is not ours


@message(tag="haret.server.kept")
class KeptReplica:
    """A replica of this node that is no member any more, and may be needed by those that are."""

    pid: Pid
    """Its namespace is its group."""


class Kept(NamedTuple):
    """What is in the file."""

    groups: tuple[Group, ...] = ()
    """All that were known."""
    replicas: tuple[Pid, ...] = ()
    """Those of this node that are no members any more, and may be needed by those that are."""


class Store:
    """Reads and writes the groups of one node; without a directory it keeps nothing."""

    def __init__(self, directory: str | None) -> None:
        self._path = None if directory is None else Path(directory) / FILE_NAME

    async def load(self) -> Kept:
        """What was kept. Raises `ConfigError` if there is something, but not a sound record."""
        return Kept() if self._path is None else await trio.to_thread.run_sync(_read, self._path)

    async def save(self, groups: Iterable[Group], replicas: Iterable[Pid] = ()) -> None:
        """Replace what was kept, durably. Raises `OSError`."""
        if self._path is not None:
            await trio.to_thread.run_sync(_write, self._path, _encode(Kept(tuple(groups), tuple(replicas))))


def _encode(kept: Kept) -> bytes:
    parts = [encode(one) for one in (*kept.groups, *map(KeptReplica, kept.replicas))]
    body = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    return _HEADS[0] + hashlib.sha256(body).digest() + body


def _decode(data: bytes) -> Kept:
    start = _HEAD_BYTES + _SUM_BYTES
    body = data[start:]
    if not data.startswith(_HEADS) or hashlib.sha256(body).digest() != data[_HEAD_BYTES:start]:
        raise ValueError("its head or its checksum is wrong")
    groups: list[Group] = []
    replicas: list[Pid] = []
    position = 0
    while position < len(body):
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size + length
        one = decode(body[position - length : position])
        if isinstance(one, KeptReplica):
            replicas.append(one.pid)
        elif isinstance(one, Group) and problem_with(one) is None:
            groups.append(one)
        else:
            raise ValueError("it holds what is no group")
    return Kept(tuple(groups), tuple(replicas))


def _read(path: Path) -> Kept:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("it is too long")
        return _decode(data)
    except FileNotFoundError:
        return Kept()
    except OSError as error:
        raise ConfigError("data_dir", f"can't read {path}: {error.strerror}") from None
    except (ValueError, struct.error, DecodeError) as error:
        raise ConfigError(
            "data_dir",
            f"{path} is damaged: {error}. Put it aside: the node hears of its namespaces again from the others",
        ) from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # or the renaming may not survive a loss of power
    finally:
        os.close(directory)
