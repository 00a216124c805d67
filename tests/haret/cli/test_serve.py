"""`haret serve`: what it says, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import haret
from haret.cli.serve import EXAMPLE

Run = Callable[..., Any]

CONFIG = """\
node_name = "node1"
cluster_host = "127.0.0.1:0"
admin_host = "127.0.0.1:0"
api_host = "127.0.0.1:0"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "haret.toml"
    path.write_text(CONFIG)
    return path


def test_the_example_is_a_valid_configuration(run: Run) -> None:
    done = run("serve", "--example-config")
    assert (done.code, done.out.decode()) == (0, EXAMPLE)
    assert haret.parse_config(EXAMPLE).api_host == "127.0.0.1:5002"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_serves_until_it_is_told_to_stop(
    start: Callable[..., Any], run: Run, config: Path, number: int, code: int
) -> None:
    server = start("serve", "--config", str(config), "-o", "json")
    server.wait_for(b"\n")
    where = json.loads(server.out)
    assert set(where) == {"node", "cluster", "admin", "clients", "security", "storage"}
    pids = ",".join(f"r{count}::{where['node']}" for count in (1, 2, 3))
    done = run("admin", "--endpoints", where["admin"], "-e", f"vr create namespace demo {pids}")
    assert done.code == 0, done
    assert run("put", "/a", "1", "--endpoints", where["clients"]).code == 0
    done = run("admin", "--endpoints", where["admin"], "-e", f"metrics haret::collector::{where['node']}")
    assert (done.code, b"longest_pause" in done.out) == (0, True), done
    done = server.finish(number)
    assert done.code == code
    assert b"Traceback" not in done.err
    assert b"haret.namespaces: demo: the primary is demo::r1" in done.err
    for name in ("cluster", "admin", "clients"):  # nothing was left that still listens
        host, _, port = where[name].rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node_name = ", "not valid TOML"),
        (CONFIG + "colour = 1", "colour: is not a setting"),
        (CONFIG.replace('"node1"', "1"), "node_name: must be a string"),
        (CONFIG.replace("node_name", "# node_name"), "node_name: is missing"),
        (CONFIG.replace("127.0.0.1", "0.0.0.0"), "can be reached from beyond this machine"),
        (CONFIG.replace(":0", ""), "is not a valid address"),
        (CONFIG + "[timeouts]\nrequest = -1", "timeouts.request"),
    ],
)
def test_a_wrong_configuration_is_named(run: Run, config: Path, text: str, message: str) -> None:
    config.write_text(text)
    done = run("serve", "--config", str(config))
    assert (done.code, done.out) == (2, b"")
    assert message in done.err.decode()
    assert str(config) in done.err.decode()


def test_a_configuration_that_can_not_be_read(run: Run, tmp_path: Path, config: Path) -> None:
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "directory")):
        done = run("serve", "--config", str(path))
        assert (done.code, reason in done.err.decode()) == (2, True), done
    config.write_bytes(b"\xff")
    assert b"not UTF-8" in run("serve", "--config", str(config)).err


def test_no_configuration_shows_one(run: Run) -> None:
    done = run("serve")
    assert (done.code, EXAMPLE in done.err.decode()) == (2, True)


@pytest.mark.parametrize("key", ["cluster_host", "admin_host", "api_host"])
def test_a_port_that_is_taken(run: Run, config: Path, place: Any, key: str) -> None:
    config.write_text(CONFIG.replace(f'{key} = "127.0.0.1:0"', f'{key} = "{place.api}"'))
    done = run("serve", "--config", str(config))
    assert (done.code, done.out) == (1, b"")
    assert place.api in done.err.decode()
    assert b"Traceback" not in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
def test_a_port_that_needs_more_rights(run: Run, config: Path) -> None:
    config.write_text(CONFIG.replace('api_host = "127.0.0.1:0"', 'api_host = "127.0.0.1:1"'))
    done = run("serve", "--config", str(config))
    assert (done.code, b"ermission" in done.err) == (1, True)
