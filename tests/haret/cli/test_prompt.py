"""`haret shell` and `haret admin`: -e, a pipe, and a prompt."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

import haret
from haret.cli.admin import ADMIN
from haret.cli.prompt import SHELL, next_words

Run = Callable[..., Any]

QUICKSTART = """\
# The original's quickstart.
list namespaces
enter test-ns
create set /a
create set /b
set insert /a x

set insert /b "two words"
set union /a /b
"""


def test_the_quickstart_of_the_original(admin: Run, client: Run, place: Any) -> None:
    pids = ",".join(f"r{number}::{place.node}" for number in (1, 2, 3))
    done = admin(f"vr create namespace test-ns {pids}")
    assert (done.code, done.err) == (0, b"")
    assert done.out.startswith(b"namespace test-ns is ready; its primary is test-ns::r")
    done = admin("vr namespaces", f"vr replica test-ns::r1::{place.node}", "vr primary test-ns")
    assert done.code == 0
    assert b"demo\t" in done.out
    assert b"status\tnormal\n" in done.out
    assert done.out.splitlines()[-1].startswith(b"test-ns::r")
    done = client("shell", stdin=QUICKSTART.encode())
    assert (done.code, done.err) == (0, b"")
    assert done.out.startswith(b"demo\ntest-ns\nentered test-ns\n")
    assert done.out.endswith(b"two words\nx\n")


# ----------------------------------------------------------------------- shell


def test_a_script_stops_at_the_first_error_with_its_exit_code(client: Run) -> None:
    done = client("shell", "--namespace", "demo", stdin=b"put /p/1 x\nget /p/2\nput /p/2 x\n")
    assert (done.code, done.err) == (3, b"haret: line 2: /p/2 does not exist\n")
    assert client("get", "/p/1").code == 0
    assert client("get", "/p/2").code == 3


def test_exit_ends_a_script(client: Run) -> None:
    done = client("shell", "-e", "version", "-e", "exit", "-e", "nonsense")
    assert (done.code, done.err) == (0, b"")
    assert client("shell", stdin=b"quit\nnonsense\n").code == 0


def test_one_answer_in_another_form(client: Run) -> None:
    done = client("shell", "--namespace", "demo", "-e", "put /form x", "-e", "get /form -o raw", "-e", "get /form")
    assert done.out.endswith(b"\nxx\n")


def test_answers_and_errors_of_a_script_are_json_if_asked_for(client: Run) -> None:
    done = client("shell", "-o", "json", "-e", "namespaces", "-e", "get /a")
    assert json.loads(done.out)["namespaces"][0] == "demo"
    assert json.loads(done.err)["error"] == "Usage"


def test_values_may_be_any_bytes(client: Run) -> None:
    assert client("shell", "--namespace", "demo", stdin=b"put /bytes '\xff #\xc3\xa9'\n").code == 0
    assert client("get", "/bytes", "-o", "raw").out == b"\xff #\xc3\xa9"


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("put /a 'x", 2, "close every quote"),
        ("ls", 2, "no namespace is entered"),
        ("enter nowhere", 3, "there is no namespace 'nowhere'"),
        ("enterr demo", 2, "did you mean 'enter'?"),
        ("set unionn /a", 2, "there is no command 'set unionn'"),
        ("put /a -", 2, "- reads a value from stdin"),
        ("put /a", 2, "required: VALUE"),
        ("serve", 2, "there is no command 'serve'"),
    ],
)
def test_wrong_lines(client: Run, line: str, code: int, text: str) -> None:
    done = client("shell", "-e", line)
    assert (done.code, done.out, text in done.err.decode()) == (code, b"", True), done


def test_entering_another_namespace_leaves_the_one_before(client: Run, admin: Run, place: Any) -> None:
    pids = ",".join(f"r{number}::{place.node}" for number in (1, 2, 3))
    done = admin(f"vr create namespace other {pids} --durability fenced", "vr namespaces")
    assert b"\tdurable\tr1::node1 " in done.out
    assert b"\tfenced\tr1::node1 " in done.out
    assert b"durability\tfenced\n" in admin(f"vr replica other::r1::{place.node}").out
    lines = (
        "enter demo",
        "put /where demo",
        "enter other",
        "put /where other",
        "get /where",
        "enter demo",
        "get /where",
    )
    done = client("shell", *(part for line in lines for part in ("-e", line)))
    assert [line for line in done.out.split(b"\n") if b" " not in line] == [b"other", b"demo", b""]


def test_help_in_the_shell(client: Run) -> None:
    overview = client("shell", "-e", "help").out.decode()
    for command in SHELL.commands:
        assert f"  {command.name}" in overview
    one = client("shell", "-e", "help set union").out.decode()
    assert one.startswith("usage: set union PATH... [options]\n")
    assert "example:\n  set union /members /guests" in one
    assert client("shell", "-e", "help nonsense").code == 2


def test_completion_knows_the_words() -> None:
    assert next_words(SHELL, ["queue"]) == ["back", "front", "len", "pop", "push"]
    assert next_words(SHELL, ["get"]) == []
    assert next_words(ADMIN, ["vr", "create"]) == ["namespace"]
    assert "enter" in next_words(SHELL, [])


# ----------------------------------------------------------------------- admin


def test_every_question_of_operators_has_an_answer_in_every_form(admin: Run, place: Any) -> None:
    questions = {
        "config": {"node", "api_host", "insecure"},
        "cluster status": {"node", "members", "established"},
        "executor status": {"node", "processes", "services", "mailboxes", "timers", "dead_letters"},
        f"metrics rabble::executor::{place.node}": {"pid", "counters", "gauges"},
        f"metrics demo::r1::{place.node}": {"pid", "counters", "gauges"},
        "vr namespaces": {"namespaces"},
        f"vr replica demo::r2::{place.node}": {
            "pid",
            "status",
            "epoch",
            "view",
            "op",
            "commit",
            "digest",
            "durability",
        },
        "vr primary demo": {"namespace", "primary"},
    }
    for question, keys in questions.items():
        found = json.loads(admin(question, options=("-o", "json")).out)
        assert keys <= set(found), question
        for form in ("table", "raw"):
            done = admin(question, options=("-o", form))
            assert (done.code, bool(done.out)) == (0, True), (question, done)


def test_wrong_questions(admin: Run, place: Any) -> None:
    two = f"r1::{place.node},r2::{place.node}"
    for line, code, text in (
        ("vr", 2, "vr needs one of: create, reconfigure, namespaces, replica, primary, crash"),
        ("vr creat", 2, "did you mean 'create'?"),
        (f"vr create namespace x {two} --durability none", 2, "invalid choice"),
        ("vr create namespace x", 2, "required: PID"),
        (f"vr create namespace x {two}", 2, "at least 3"),
        (f"vr create namespace x {two},{two}", 2, "named twice"),
        ("vr create namespace x a,b,c", 2, "is not a pid"),
        (f"vr create namespace demo {two},r3::{place.node}", 4, "exists already"),
        (f"vr create namespace a/b {two},r3::{place.node}", 2, "name"),
        (f"vr create namespace x {two},r3::elsewhere@127.0.0.1:1", 2, "elsewhere"),
        (f"vr replica demo::r9::{place.node}", 3, "does not run here"),
        ("vr replica nonsense", 2, "is not a pid"),
        (f"vr reconfigure nowhere {two}", 3, "there is no namespace"),
        (f"vr reconfigure demo {two}", 2, "at least 3"),
        (f"vr reconfigure demo {two},{two}", 2, "named twice"),
        (f"vr reconfigure demo {two},r3::elsewhere@127.0.0.1:1", 2, "not on a member of this cluster"),
        (f"vr reconfigure demo {two},other::r3::{place.node}", 2, "can't be a replica of demo: write r3::"),
        (f"vr reconfigure demo {two},nonsense", 2, "is not a pid"),
        (f"vr reconfigure demo {','.join(f'x{number}::{place.node}' for number in range(10))}", 2, "at most 9"),
        ("vr primary nowhere", 3, "there is no namespace"),
        (f"vr crash demo::r9::{place.node}", 3, "does not run here"),
        (f"vr crash rabble::executor::{place.node}", 3, "does not run here"),
        ("metrics nonsense", 2, "is not a pid"),
        ("get /a", 2, "there is no command 'get'"),
    ):
        done = admin(line)
        assert (done.code, text in done.err.decode()) == (code, True), (line, done)
    assert admin("vr primary demo").code == 0


def test_the_first_admin_port_that_answers_is_used(run: Run, place: Any, unused_port: str) -> None:
    assert run("admin", "--endpoints", f"{unused_port},{place.admin}", "-e", "vr primary demo").code == 0


def test_members_are_replaced_after_a_look_at_the_plan(admin: Run, place: Any) -> None:
    before, after = (",".join(f"r{number}::{place.node}" for number in numbers) for numbers in ((1, 2, 3), (2, 3, 4)))
    admin(f"vr create namespace moving {before}")
    plan = admin(f"vr reconfigure moving {after}")
    assert (plan.code, b"nothing was done" in plan.err) == (0, True)
    assert f"1. start and let catch up: moving::r4::{place.node}\n".encode() in plan.out
    assert f"3. stop, when the others need them no longer: moving::r1::{place.node}\n".encode() in plan.out
    assert b"epoch\t0\n" in admin(f"vr replica moving::r2::{place.node}").out
    done = admin(f"vr reconfigure moving {after} --yes --wait")
    assert (done.code, done.out.splitlines()[-1]) == (0, b"done: epoch 1, and all members take part")
    assert b"epoch\t1\n" in admin(f"vr replica moving::r4::{place.node}").out
    # Who asked for it, and was killed before it was done, asks again.
    again = admin(f"vr reconfigure moving {after} --yes --wait")
    assert (again.code, again.out.splitlines()[-1]) == (0, b"done: epoch 1, and all members take part")
    assert b"these are its members" in again.out


async def test_members_on_nodes_that_left_are_told() -> None:
    def config(name: str) -> haret.ServerConfig:
        return haret.ServerConfig(name, *3 * ["127.0.0.1:0"])

    class Session:
        async def admin(self) -> haret.Admin:
            await trio.lowlevel.checkpoint()
            return admin

    async with (
        haret.open_server(config("n1")) as one,
        haret.open_server(config("n2")) as two,
        haret.open_admin(one.admin_address) as admin,
    ):
        await admin.join(two.node.id)
        await admin.create_namespace("demo", [f"r1::{one.node.id}", f"r2::{one.node.id}", f"r3::{two.node.id}"])
        command = next(command for command in ADMIN.commands if command.words == ("vr", "namespaces"))
        assert (await command.run(Session(), Namespace())).note == ""
        await admin.leave(two.node.id)
        answer = await command.run(Session(), Namespace())
        assert f"demo: the node of demo::r3::{two.node.id} is no member of this cluster" in answer.note


def test_crash(admin: Run, place: Any) -> None:
    pids = [f"r{number}::{place.node}" for number in (1, 2, 3)]
    admin("vr create namespace doomed " + ",".join(pids))
    assert admin(f"vr crash doomed::{pids[2]}").out.decode() == f"crashed doomed::{pids[2]}\n"


# ---------------------------------------------------------------------- prompt


class Terminal:
    """`haret shell` on a terminal."""

    def __init__(self, start: Callable[..., Any], *arguments: str) -> None:
        self._mine, theirs = pty.openpty()
        self._child = start(*arguments, stdin=theirs, stdout=theirs)
        os.close(theirs)
        self._seen = b""

    def type(self, text: bytes) -> None:
        os.write(self._mine, text)

    def wait_for(self, text: bytes) -> bytes:
        """Read until this appears; returns what was before it."""
        while text not in self._seen:
            self._seen += os.read(self._mine, 4096)
        before, _, self._seen = self._seen.partition(text)
        return before

    def interrupt(self) -> None:
        self._child.process.send_signal(signal.SIGINT)

    def interrupt_line(self) -> None:
        """Interrupt until something happens: a signal just before readline begins to wait shows with the next key only."""
        assert not self._seen
        for _ in range(50):
            self.interrupt()
            if select.select([self._mine], [], [], 0.2)[0]:
                return

    def finish(self) -> Any:
        try:
            while os.read(self._mine, 4096):
                pass
        except OSError:  # what a terminal says when nobody has it open any more
            pass
        return self._child.finish()

    def close(self) -> None:
        os.close(self._mine)


@pytest.fixture
def terminal(start: Callable[..., Any]) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def open_terminal(*arguments: str) -> Terminal:
        terminals.append(Terminal(start, *arguments))
        return terminals[-1]

    yield open_terminal
    for one in terminals:
        one.close()


def test_a_session_at_a_terminal(terminal: Callable[..., Terminal], place: Any) -> None:
    one = terminal("shell", "--endpoints", place.api)
    one.wait_for(b"haret> ")
    one.type(b"enter demo\n")
    one.wait_for(b"haret demo> ")
    one.type(b"nonsense\n")  # an error is not the end
    one.wait_for(b"haret demo> ")
    one.type(b"put /typed 1\n")
    one.wait_for(b"haret demo> ")
    one.type(b"\x04")
    done = one.finish()
    assert done.code == 0
    assert b"there is no command 'nonsense'" in done.err
    assert b"Traceback" not in done.err


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Callable[..., Terminal], place: Any) -> None:
    one = terminal("shell", "--endpoints", place.api, "--namespace", "demo")
    one.wait_for(b"haret demo> ")
    one.type(b"put /never 1")
    one.wait_for(b"put /never 1")
    one.interrupt_line()
    one.wait_for(b"haret demo> ")
    one.type(b"ls /never\n")
    one.wait_for(b"ls /never\r\n")
    one.type(b"exit\n")
    done = one.finish()
    assert done.code == 0
    assert b"/never does not exist" in done.err
    assert b"Traceback" not in done.err


def test_ctrl_c_during_a_command_cancels_the_command_alone(terminal: Callable[..., Terminal]) -> None:
    # Somebody who accepts connections and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        one = terminal("shell", "--endpoints", endpoint, "--namespace", "demo", "--timeout", "100")
        one.wait_for(b"haret demo> ")
        one.type(b"get /a\n")
        connection, _ = silent.accept()  # so the command is under way
        one.interrupt()
        one.wait_for(b"haret demo> ")
        one.type(b"exit\n")
        done = one.finish()
        connection.close()
    assert done.code == 0
    assert b"interrupted: what was asked may or may not have been done" in done.err
    assert b"Traceback" not in done.err
