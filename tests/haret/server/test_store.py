"""Namespaces over a restart: what was saved comes back, and what is damaged is said to be."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from haret import ConfigError
from haret.protocol import Done
from haret.server.registry import Group
from haret.server.store import FILE_NAME, Kept, Store
from rabble_trio import NodeId, Pid, encode

NODE = NodeId.parse("n1@127.0.0.1:5000")
GROUPS = tuple(
    Group(name, bytes([number] * 16), 0, tuple(Pid(member, NODE, name) for member in ("r1", "r2", "r3")))
    for number, name in enumerate(("a", "b"))
)
REPLICAS = (Pid("r4", NODE, "a"), Pid("r5", NODE, "a"))


async def test_without_a_directory_nothing_is_kept() -> None:
    store = Store(None)
    await store.save(GROUPS)
    assert await store.load() == Kept()


async def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "data"))
    assert await store.load() == Kept()
    await store.save(GROUPS[:1])
    await store.save(GROUPS, REPLICAS)
    assert await Store(str(tmp_path / "data")).load() == Kept(GROUPS, REPLICAS)
    (file,) = (tmp_path / "data").iterdir()
    assert file.name == FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    body = b"".join(len(encode(group)).to_bytes(4, "big") + encode(group) for group in GROUPS)
    (tmp_path / FILE_NAME).write_bytes(b"haret namespaces 1\n" + sha256(body).digest() + body)
    assert await Store(str(tmp_path)).load() == Kept(GROUPS)


async def test_what_is_neither_a_group_nor_a_replica_is_refused(tmp_path: Path) -> None:
    body = len(encode(Done())).to_bytes(4, "big") + encode(Done())
    (tmp_path / FILE_NAME).write_bytes(b"haret namespaces 2\n" + sha256(body).digest() + body)
    with pytest.raises(ConfigError, match="it holds what is no group"):
        await Store(str(tmp_path)).load()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:20], lambda data: b"x" + data[1:], lambda _: b""]
)
async def test_damage_is_noticed(tmp_path: Path, damage: object) -> None:
    store = Store(str(tmp_path))
    await store.save(GROUPS)
    file = tmp_path / FILE_NAME
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"data_dir: .*namespaces\.record is damaged"):
        await store.load()


async def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match="can't read"):
        await Store(str(tmp_path)).load()
    with pytest.raises(OSError, match=r"namespaces\.record"):
        await Store(str(tmp_path)).save(GROUPS)
