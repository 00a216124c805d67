"""Ctrl-C at any moment ends every command without a traceback, and so does a reader who goes away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

from haret.cli.interrupt import Interrupted, run_trio


# Each of these is printed by a different part of the demonstration.
@pytest.mark.parametrize("text", [b"1. Start", b"7. Load", b"9. Start", b"10. Kill", b"11. Read"])
def test_the_demonstration(start: Callable[..., Any], text: bytes) -> None:
    child = start("demo")
    child.wait_for(text)
    done = child.finish(signal.SIGINT)
    assert (done.code, done.err) == (130, b"")


@pytest.mark.parametrize(
    "words", [("get", "/a"), ("namespaces",), ("admin", "-e", "config"), ("shell", "-e", "namespaces")]
)
def test_a_command_that_waits_for_a_silent_server(start: Callable[..., Any], words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        child = start(*words, "--endpoints", f"127.0.0.1:{silent.getsockname()[1]}")
        connection, _ = silent.accept()
        done = child.finish(signal.SIGINT)
        connection.close()
    assert done.code == 130
    assert b"Traceback" not in done.err


def test_while_it_waits_for_stdin(start: Callable[..., Any]) -> None:
    child = start("shell", "-o", "json", stdin=subprocess.PIPE)
    child.process.stdin.write(b"version\n")
    child.process.stdin.flush()
    child.wait_for(b"version")  # so it has begun, and waits for the next line
    done = child.finish(signal.SIGINT)
    assert done.code == 130
    assert b"Traceback" not in done.err


def test_a_second_signal_does_not_wait_for_order() -> None:
    async def stubborn() -> None:
        signal.raise_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_trio(stubborn)


SIGNAL_WHILE_TRIO_WAITS = """
import signal, sys, trio
signal.signal(signal.SIGINT, signal.default_int_handler)
import haret_command, haret.cli
from haret.cli.interrupt import run_trio

async def stubborn():
    signal.raise_signal(signal.SIGINT)
    with trio.CancelScope(shield=True):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.1)  # by then, no task runs
        await trio.sleep_forever()

haret.cli.main = lambda: run_trio(stubborn)
sys.exit(haret_command.main())
"""


def test_a_second_signal_may_hit_trio_itself() -> None:
    command = [sys.executable, "-c", SIGNAL_WHILE_TRIO_WAITS]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_the_first_signal_cancels_in_order() -> None:
    cleaned_up = []

    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            cleaned_up.append(True)

    with pytest.raises(Interrupted) as caught:
        run_trio(work)
    assert caught.value.number == signal.SIGINT
    assert cleaned_up
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_before_the_beginning_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    trio_run = trio.run

    def late(main: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        trio_run(main)

    monkeypatch.setattr(trio, "run", late)
    with pytest.raises(Interrupted):
        run_trio(trio.sleep_forever)


def test_an_ignored_signal_stays_ignored() -> None:
    async def work() -> str:
        signal.raise_signal(signal.SIGINT)
        await trio.lowlevel.checkpoint()
        return "done"

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run_trio(work) == "done"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_goes_away_is_no_error(start: Callable[..., Any]) -> None:
    reading, writing = os.pipe()
    child = start("--help", stdout=writing)
    os.close(reading)
    os.close(writing)
    done = child.finish()
    assert (done.code, done.err) == (141, b"")


@pytest.mark.parametrize("words", [("version",), ("--version",), ("put", "--help"), ("serve", "--example-config")])
def test_a_full_disk_is_an_error(start: Callable[..., Any], words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        done = start(*words, stdout=full).finish()
    assert done.code == 1
    assert b"No space left" in done.err
    assert b"Traceback" not in done.err
