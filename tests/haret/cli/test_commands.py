"""The commands for clients, in this process, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import haret
from haret.cli.commands import CLIENT
from haret.vertree.limits import MAX_VALUE_SIZE

Run = Callable[..., Any]


def data(done: Any) -> Any:
    """The JSON that a command printed."""
    assert done.code == 0, done
    return json.loads(done.out)


def test_put_creates_what_is_missing_and_get_prints_it(client: Run) -> None:
    assert client("put", "/put/a", "hello").out.startswith(b"put 5 bytes into a new blob (version ")
    assert client("put", "/put/a", "bye").out.startswith(b"put 3 bytes (version ")
    assert client("get", "/put/a").out == b"bye\n"
    assert client("get", "/put/a", "-o", "raw").out == b"bye"
    assert client("blob", "get", "/put/a").out == b"bye\n"


def test_put_gives_up_on_a_blob_that_comes_and_goes(client: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(self: haret.Client, path: str, value: bytes) -> None:
        raise haret.DoesNotExist(path)

    async def there(self: haret.Client, **_: object) -> None:
        raise haret.AlreadyExists("/x")

    monkeypatch.setattr(haret.Client, "blob_put", gone)
    monkeypatch.setattr(haret.Client, "multi_cas", there)
    done = client("put", "/x", "y")
    assert (done.code, done.err) == (4, b"haret: /x is deleted and created again all the time\n")


def test_values_are_bytes_from_stdin_too(client: Run) -> None:
    binary = bytes(range(256))
    assert client("put", "/stdin", "-", stdin=binary).code == 0
    assert client("get", "/stdin", "-o", "raw").out == binary
    assert client("get", "/stdin", "-o", "table").out.startswith(rb"\x00\x01")
    assert set(data(client("get", "/stdin", "-o", "json"))["value"]) == {"base64"}


def test_a_value_may_begin_with_a_dash_behind_two_of_them(client: Run) -> None:
    assert client("put", "/dash", "--", "-o").code == 0
    assert client("get", "/dash", "-o", "raw").out == b"-o"
    assert client("blob", "put", "/dash", "-5").code == 0
    assert client("get", "/dash", "-o", "raw").out == b"-5"


def test_a_value_that_is_too_large_is_refused(client: Run) -> None:
    done = client("put", "/large", "-", stdin=bytes(MAX_VALUE_SIZE + 1))
    assert done.code == 1
    assert str(MAX_VALUE_SIZE).encode() in done.err


def test_an_argument_that_is_no_text_is_stored_as_its_bytes(client: Run) -> None:
    assert client("put", "/latin", "\udce9").code == 0
    assert client("get", "/latin", "-o", "raw").out == b"\xe9"


def test_global_options_work_before_and_behind_every_word(run: Run, place: Any) -> None:
    for words in (
        ("--endpoints", place.api, "-o", "raw", "blob", "size", "/"),
        ("blob", "--endpoints", place.api, "-o", "raw", "size", "/"),
        ("blob", "size", "--endpoints", place.api, "/", "-o", "raw"),
        ("blob", "size", "/", "--endpoints", place.api, "--timeout=5", "--namespace", "demo"),
    ):
        done = run(*words)
        assert done.code == 4, done  # the root is no blob: the server was asked
        assert b"/ is a directory" in done.err


def test_the_environment_says_where_and_options_say_otherwise(
    run: Run, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARET_ENDPOINTS", place.api)
    monkeypatch.setenv("HARET_NAMESPACE", "nowhere")
    assert b"demo\n" in run("namespaces").out
    assert run("ls").code == 3
    assert run("ls", "--namespace", "demo").code == 0


def test_queues(client: Run) -> None:
    assert client("create", "queue", "/q").out.startswith(b"created queue /q")
    assert [client("queue", "push", "/q", value).code for value in ("a", "b", "c")] == [0, 0, 0]
    assert client("queue", "len", "/q").out == b"3\n"
    assert client("queue", "front", "/q").out == b"a\n"
    assert client("queue", "back", "/q").out == b"c\n"
    assert [client("queue", "pop", "/q", "-o", "raw").out for _ in "abc"] == [b"a", b"b", b"c"]
    for what in ("pop", "front", "back"):
        done = client("queue", what, "/q")
        assert (done.code, done.out, done.err) == (3, b"", b"/q is empty\n")
    done = client("queue", "pop", "/q", "-o", "json")
    assert (done.code, json.loads(done.out)["value"], done.err) == (3, None, b"")


def test_an_empty_element_is_not_an_empty_queue(client: Run) -> None:
    client("create", "queue", "/q0")
    client("queue", "push", "/q0", "")
    assert (client("queue", "pop", "/q0").code, client("queue", "pop", "/q0").code) == (0, 3)


def test_sets(client: Run) -> None:
    for path, values in (("/s/a", "xy"), ("/s/b", "yz")):
        client("create", "set", path)
        for value in values:
            assert client("set", "insert", path, value).out.startswith(b"inserted (version ")
    assert client("set", "insert", "/s/a", "x").out.startswith(b"it was there already")
    assert client("set", "remove", "/s/a", "-", stdin=b"nobody").out.startswith(b"it was not there")
    assert client("set", "contains", "/s/a", "x").out == b"true\n"
    assert client("set", "contains", "/s/a", "z", "-o", "raw").out == b"false\n"
    assert client("set", "union", "/s/a", "/s/b").out == b"x\ny\nz\n"
    assert client("set", "union", "/s/a", "-o", "raw").out == b"x\ny\n"
    assert client("set", "intersection", "/s/a", "/s/b").out == b"y\n"
    assert client("set", "difference", "/s/a", "/s/b").out == b"x\n"
    assert client("set", "symmetric-difference", "/s/a", "/s/b").out == b"x\nz\n"
    assert client("set", "subset", "/s/a", "/s/b").out == b"false\n"
    assert client("set", "superset", "/s/a", "/s/a").out == b"true\n"


def test_ls_lists_all_pages(client: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        client("create", "directory", f"/ls/{name}")
    whole = client("ls", "/ls", "-o", "raw").out
    assert whole == b"/ls\n/ls/a\n/ls/b\n/ls/c\n"
    original = haret.Client.list_keys

    async def in_small_pages(self: haret.Client, path: str, **options: Any) -> Any:
        return await original(self, path, limit=1, **options)

    monkeypatch.setattr(haret.Client, "list_keys", in_small_pages)
    assert client("ls", "/ls", "-o", "raw").out == whole


def test_delete(client: Run) -> None:
    client("put", "/gone/x", "1")
    assert client("delete", "/gone").out.startswith(b"deleted /gone (version ")
    assert client("get", "/gone/x").code == 3


# ---------------------------------------------------------------- JSON schemas

# Keys and their types, in order. These never change; more may be added.
PLACE = {"version": int, "op": int, "view": int, "epoch": int}
SCHEMAS: list[tuple[tuple[str, ...], dict[str, type]]] = [
    (("put", "/json/blob", "x"), {"path": str, **PLACE}),
    (("blob", "put", "/json/blob", "y"), {"path": str, **PLACE}),
    (("get", "/json/blob"), {"path": str, "value": str, **PLACE}),
    (("blob", "size", "/json/blob"), {"path": str, "value": int, **PLACE}),
    (("create", "queue", "/json/queue"), {"path": str, "type": str, **PLACE}),
    (("queue", "push", "/json/queue", "x"), {"path": str, **PLACE}),
    (("queue", "front", "/json/queue"), {"path": str, "value": str, **PLACE}),
    (("queue", "len", "/json/queue"), {"path": str, "value": int, **PLACE}),
    (("queue", "pop", "/json/queue"), {"path": str, "value": str, **PLACE}),
    (("create", "set", "/json/set"), {"path": str, "type": str, **PLACE}),
    (("set", "insert", "/json/set", "x"), {"path": str, "value": bool, **PLACE}),
    (("set", "contains", "/json/set", "x"), {"path": str, "value": bool, **PLACE}),
    (("set", "remove", "/json/set", "x"), {"path": str, "value": bool, **PLACE}),
    (("set", "union", "/json/set"), {"paths": list, "value": list, **PLACE}),
    (("set", "difference", "/json/set", "/json/set"), {"paths": list, "value": list, **PLACE}),
    (("set", "subset", "/json/set", "/json/set"), {"paths": list, "value": bool, **PLACE}),
    (("ls", "/json"), {"path": str, "keys": list, **PLACE}),
    (("delete", "/json"), {"path": str, **PLACE}),
    (("namespaces",), {"namespaces": list}),
    (("version",), {"version": str}),
]


def test_json_schemas(client: Run) -> None:
    for words, schema in SCHEMAS:
        found = data(client(*words, "-o", "json"))
        assert {key: type(value) for key, value in found.items()} == schema, words
    keys = data(client("ls", "-o", "json"))["keys"]
    assert {tuple(key) for key in keys} == {("path", "version", "type")}


# ----------------------------------------------------------------- wrong input

WRONG: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "what should it do?"),
    (("gett", "/a"), 2, "did you mean 'get'?"),
    (("blob", "putt"), 2, "there is no command 'blob putt'"),
    (("blob",), 2, "haret blob needs one of: put, get, size"),
    (("put", "/a"), 2, "required: VALUE"),
    (("get", "/a", "/b"), 2, "unrecognized arguments: /b"),
    (("get", "/a", "-o", "yaml"), 2, "invalid choice: 'yaml'"),
    (("get", "/a", "--timeout", "0"), 2, "'0' is not a number of seconds above 0"),
    (("get", "/a", "--timeout", "nan"), 2, "is not a number of seconds"),
    (("get", "/a", "--time", "1"), 2, "unrecognized arguments"),
    (("get", "/a", "--endpoints", ","), 2, "there is no endpoint in ','"),
    (("get", "/a", "--endpoints", "127.0.0.1"), 2, "write host:port"),
    (("namespaces", "--endpoints", "127.0.0.1:99999"), 2, "write host:port"),
    (("get", "a"), 2, "does not start with a slash"),
    (("get", "/a/"), 2, "ends in a slash"),
    (("get", "/\x1b[2J"), 2, "control character"),
    (("create", "tree", "/a"), 2, "use blob, queue, set or directory"),
    (("delete", "/"), 2, "the root can't be deleted"),
    (("get", "/missing"), 3, "/missing does not exist"),
    (("blob", "put", "/missing", "x"), 3, "/missing does not exist"),
    (("ls", "--namespace", "nowhere"), 3, "there is no namespace 'nowhere'"),
    (("ls", "--namespace", "no\x1bwhere"), 3, "there is no namespace"),
    (("create", "set", "/w/leaf"), 0, ""),
    (("create", "set", "/w/leaf"), 4, "/w/leaf exists already"),
    (("get", "/w/leaf"), 4, "/w/leaf is a set"),
    (("put", "/w/leaf/below", "x"), 4, "/w/leaf is a leaf"),
    (("serve",), 2, "--config FILE"),
]


def test_wrong_input_is_named_on_stderr_with_the_right_exit_code(client: Run, run: Run) -> None:
    for words, code, text in WRONG:
        done = client(*words) if words and "--endpoints" not in words else run(*words)
        assert (done.code, text in done.err.decode()) == (code, True), (words, done)
        assert b"Traceback" not in done.err
        assert b"\x1b" not in done.err
        assert done.err == b"" or done.out == b""


def test_errors_are_json_where_answers_would_be_even_for_wrong_arguments(client: Run) -> None:
    for words, error, code in ((("gett",), "Usage", 2), (("get", "/missing"), "DoesNotExist", 3)):
        done = client("-o", "json", *words)
        found = json.loads(done.err)
        assert (found["error"], found["exit_code"], done.code, done.out) == (error, code, code, b"")


def test_nobody_there(run: Run, unused_port: str) -> None:
    for words in (("get", "/a"), ("namespaces",), ("admin", "-e", "config"), ("shell", "-e", "namespaces")):
        done = run(*words, "--endpoints", unused_port, "--timeout", "0.3")
        assert done.code == 5, done
        assert unused_port.encode() in done.err
        assert b"haret dev" in done.err


def test_an_endpoint_that_is_no_haret(run: Run, place: Any) -> None:
    for words, port in ((("namespaces",), place.admin), (("admin", "-e", "config"), place.api)):
        done = run(*words, "--endpoints", port, "--timeout", "2")
        assert done.code == 5, done
        assert b"Traceback" not in done.err


def test_stale_reads(client: Run) -> None:
    client("put", "/stale/a", "hello")
    client("create", "queue", "/stale/q")
    client("create", "set", "/stale/s")
    client("set", "insert", "/stale/s", "x")
    for words in (
        ("get", "/stale/a"),
        ("blob", "size", "/stale/a"),
        ("queue", "len", "/stale/q"),
        ("queue", "front", "/stale/q"),
        ("set", "contains", "/stale/s", "x"),
        ("set", "union", "/stale/s"),
        ("set", "intersection", "/stale/s", "/stale/s"),
        ("set", "subset", "/stale/s", "/stale/s"),
        ("ls", "/stale"),
    ):
        # This client has seen nothing yet, so it may be told what was before all that; but not for ever.
        usual = client(*words)
        while client(*words, "--stale") != usual:
            pass
    done = client("shell", "--namespace", "demo", "-e", "put /stale/a bye", "-e", "get /stale/a --stale")
    assert done.out.endswith(b"\nbye\n")  # but this one has seen what it wrote


def test_one_of_several_endpoints_is_enough(run: Run, place: Any, unused_port: str) -> None:
    for words, port in ((("namespaces",), place.api), (("admin", "-e", "vr namespaces"), place.admin)):
        done = run(*words, "--endpoints", f"{unused_port},{port}")
        assert (done.code, b"demo" in done.out) == (0, True), done


# ------------------------------------------------------------------------ help


def test_help_of_every_command_has_an_example_that_parses(run: Run) -> None:
    from haret.cli.parser import make_parser

    for command in CLIENT.commands:
        done = run(*command.words, "--help")
        assert all(f"--{option.name}".encode() in done.out for option in command.options)
        assert done.code == 0
        assert f"haret {command.example}".encode() in done.out
        assert make_parser().parse_args(command.example.split()).command is command


def test_help_tells_of_everything(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for word in (
        *{command.words[0] for command in CLIENT.commands},
        "serve",
        "demo",
        "shell",
        "admin",
        "HARET_NAMESPACE",
    ):
        assert word.encode() in done.out


def test_version(run: Run) -> None:
    assert run("--version").out == run("version").out
