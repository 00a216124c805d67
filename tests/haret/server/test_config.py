"""The configuration: what is accepted, and that every mistake names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from haret.errors import ConfigError
from haret.server import ServerConfig, load_config, parse_config
from haret.vertree.limits import MAX_OPERATION_SIZE
from rabble_trio import NodeId

GOOD = """
node_name = "node1"
cluster_host = "127.0.0.1:5000"
admin_host = "127.0.0.1:5001"
api_host = "127.0.0.1:5002"
"""


def test_four_settings_are_enough() -> None:
    config = parse_config(GOOD)
    assert config.node == NodeId.parse("node1@127.0.0.1:5000")
    assert config == ServerConfig("node1", "127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:5002")
    assert dict(config.settings())["insecure"] == "false"
    assert dict(config.settings())["timeouts.request"] == "5.0"
    assert dict(config.settings())["data_dir"] == "-"


def test_everything_can_be_set() -> None:
    config = parse_config(GOOD + 'data_dir = "/x"\ninsecure = true\n[timeouts]\nrequest = 1\nheartbeat = 0.02\n')
    assert config.data_dir == "/x"
    assert config.insecure
    assert config.timeouts.request == 1
    assert config.vr_settings().heartbeat == 0.02


def test_replicas_take_every_operation_that_the_tree_admits() -> None:
    assert parse_config(GOOD).vr_settings().max_operation > MAX_OPERATION_SIZE


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("colour = 1", "colour", "not a setting"),
        ("data_dir = 7", "data_dir", "a string, not 7"),
        ("insecure = 1", "insecure", "true or false"),
        ("timeouts = 3", "timeouts", "table"),
        ("[timeouts]\nrequest = true", "timeouts.request", "a number"),
        ("[timeouts]\nrequest = 0", "timeouts.request", "above 0"),
        ("[timeouts]\nrequest = nan", "timeouts.request", "above 0"),
        ("[timeouts]\nrequest = 7", "timeouts.request", "at most 6"),
        ("[timeouts]\nlunch = 3", "timeouts.lunch", "not a setting"),
        ("[timeouts]\nheartbeat = 3.0", "timeouts", "heartbeat"),
        ("x = [", "", "not valid TOML"),
    ],
)
def test_a_mistake_names_its_key(line: str, key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config(GOOD + line)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"node_name": "no spaces"}, "node_name", "node name"),
        ({"api_host": "127.0.0.1"}, "api_host", "host:port"),
        ({"api_host": "0.0.0.0:1"}, "api_host", "insecure = true"),
        ({"admin_host": "db.example.org:1"}, "admin_host", "insecure = true"),
        ({"cluster_host": "[::]:1"}, "cluster_host", "insecure = true"),
        ({"api_host": "127.0.0.1:5000"}, "api_host", "used for two"),
        ({"admin_host": "127.0.0.1:5002"}, "admin_host", "used for two"),
    ],
)
def test_addresses(changes: dict[str, Any], key: str, words: str) -> None:
    good = {
        "node_name": "node1",
        "cluster_host": "127.0.0.1:5000",
        "admin_host": "127.0.0.1:5001",
        "api_host": "127.0.0.1:5002",
    }
    with pytest.raises(ConfigError, match=words) as caught:
        ServerConfig(**(good | changes))
    assert caught.value.key == key


def test_beyond_this_machine_only_when_told_so() -> None:
    ServerConfig("node1", "0.0.0.0:5000", "localhost:5001", "[::1]:5002", insecure=True)
    ServerConfig("node1", "[::1]:0", "localhost:0", "127.0.0.2:0")


@pytest.mark.parametrize("key", ["node_name", "cluster_host", "admin_host", "api_host"])
def test_what_is_missing(key: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(key)]
    with pytest.raises(ConfigError, match="missing") as caught:
        parse_config("\n".join(lines))
    assert caught.value.key == key


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "haret.toml"
    with pytest.raises(ConfigError, match="No such file"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(path)
    path.write_text(GOOD)
    assert load_config(path).node_name == "node1"
