"""The configuration: what is accepted, and that every mistake names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from haret.errors import ConfigError
from haret.server import ServerConfig, load_config, parse_config
from haret.server.config import Tls
from haret.vertree.limits import MAX_OPERATION_SIZE
from rabble_trio import NodeId

TLS = Tls("cert.pem", "key.pem", "authority.pem")

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
    config = parse_config(
        GOOD + 'data_dir = "/x"\ndurability = "fenced"\ninsecure = true\n[timeouts]\nrequest = 1\nheartbeat = 0.02\n'
    )
    assert (config.data_dir, config.durability) == ("/x", "fenced")
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
        ('durability = "none"', "durability", "neither 'durable' nor 'fenced'"),
        ("timeouts = 3", "timeouts", "table"),
        ("tls = true", "tls", "table"),
        ('[tls]\ncertificate = "c"\nkey = "k"', "tls.authority", "missing"),
        ("[tls]\ncertificate = 1", "tls.certificate", "a string"),
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
        ({"cluster_host": "10.0.0.1:1"}, "cluster_host", r"set secret_file and \[tls\]"),
        ({"cluster_host": "10.0.0.1:1", "secret_file": "s"}, "cluster_host", r"set secret_file and \[tls\]"),
        ({"cluster_host": "10.0.0.1:1", "tls": TLS}, "cluster_host", r"set secret_file and \[tls\]"),
        ({"api_host": "10.0.0.1:1", "secret_file": "s", "tls": TLS}, "api_host", "clients are neither"),
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
    ServerConfig("node1", "10.0.0.1:1", "localhost:0", "127.0.0.2:0", secret_file="s", tls=TLS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "this machine alone; links neither encrypted nor authenticated; clients neither"),
        ({"secret_file": "s"}, "this machine alone; links authenticated by the secret"),
        (
            {"cluster_host": "10.0.0.1:1", "secret_file": "s", "tls": TLS},
            "beyond this machine: cluster_host; links encrypted and authenticated",
        ),
        ({"cluster_host": "10.0.0.1:1", "insecure": True}, "INSECURE: beyond this machine: cluster_host"),
        (
            {"api_host": "10.0.0.1:1", "insecure": True, "secret_file": "s", "tls": TLS},
            "INSECURE: beyond this machine: api_host; links encrypted",
        ),
    ],
)
def test_the_security_posture_in_words(changes: dict[str, Any], words: str) -> None:
    good = {"node_name": "n", "cluster_host": "localhost:1", "admin_host": "localhost:2", "api_host": "localhost:3"}
    assert ServerConfig(**(good | changes)).security().startswith(words)


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


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "haret.toml"
    tls = '[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\nauthority = "a.pem"'
    path.write_text(GOOD + f'data_dir = "data"\nrecorder_dir = "flights"\nsecret_file = "/etc/secret"\n{tls}')
    config = load_config(path)
    assert (config.data_dir, config.secret_file) == (str(tmp_path / "data"), "/etc/secret")
    assert config.recorder_dir == str(tmp_path / "flights")
    assert config.tls == Tls(str(tmp_path / "c.pem"), "/k.pem", str(tmp_path / "a.pem"))
    assert dict(config.settings())["tls.key"] == "/k.pem"


def secret_config(path: Path) -> ServerConfig:
    return ServerConfig("n", "localhost:1", "localhost:2", "localhost:3", secret_file=str(path))


def test_the_secret_is_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"0123456789abcdef\n")
    path.chmod(0o600)
    assert secret_config(path).secret() == b"0123456789abcdef"
    assert parse_config(GOOD).secret() is None


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [(b"0123456789abcdef", 0o640, "chmod 600"), (b"short \n", 0o600, "16 to 1024"), (b"x" * 2000, 0o600, "16 to 1024")],
)
def test_what_is_no_secret(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=words) as caught:
        secret_config(path).secret()
    assert caught.value.key == "secret_file"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        secret_config(tmp_path / "none").secret()
    config = ServerConfig("n", "localhost:1", "localhost:2", "localhost:3", tls=TLS)
    with pytest.raises(ConfigError, match="files can't be used") as caught:
        config.tls_contexts()
    assert caught.value.key == "tls"
