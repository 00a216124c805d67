"""Namespaces over a restart: what was saved comes back, and what is damaged is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from haret import ConfigError
from haret.server.registry import Group
from haret.server.store import FILE_NAME, Store
from rabble_trio import NodeId, Pid

NODE = NodeId.parse("n1@127.0.0.1:5000")
GROUPS = [
    Group(name, bytes([number] * 16), 0, tuple(Pid(member, NODE, name) for member in ("r1", "r2", "r3")))
    for number, name in enumerate(("a", "b"))
]


async def test_without_a_directory_nothing_is_kept() -> None:
    store = Store(None)
    await store.save(GROUPS)
    assert await store.load() == []


async def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "data"))
    assert await store.load() == []
    await store.save(GROUPS[:1])
    await store.save(GROUPS)
    assert await Store(str(tmp_path / "data")).load() == GROUPS
    (file,) = (tmp_path / "data").iterdir()
    assert file.name == FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600


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
