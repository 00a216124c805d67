"""Work in threads and in worker processes: results, errors, limits, cancellation, and no process left behind."""

from __future__ import annotations

import contextlib
import importlib
import math
import operator
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from rabble_trio import (
    DecodeError,
    EncodeError,
    WorkerDied,
    WorkerProcesses,
    WorkerStatistics,
    WorkFailed,
    message,
    open_worker_processes,
    run_in_process,
    run_in_thread,
)
from rabble_trio._worker import HEADER, MAX_FRAME, answer, find, pack, unpack
from rabble_trio._workers import MAX_THREADS

# Threads --------------------------------------------------------------------------------------------------------------


async def test_a_thread_returns_and_raises_what_its_function_does() -> None:
    assert await run_in_thread(math.gcd, 12, 18) == 6
    assert await run_in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(operator.floordiv, 1, 0)


@pytest.mark.parametrize("limit", [None, 1])
async def test_only_so_many_threads_run_at_once(limit: int | None) -> None:
    limiter = None if limit is None else trio.CapacityLimiter(limit)
    allowed = limit or MAX_THREADS
    running, most = 0, 0
    lock, go = threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1

    async def in_thread() -> None:
        await run_in_thread(work, limiter=limiter)

    async with trio.open_nursery() as nursery:
        for _ in range(allowed + 5):
            nursery.start_soon(in_thread)
        while most < allowed:
            await trio.lowlevel.checkpoint()
        # One that waits for a place can be cancelled at once.
        with trio.CancelScope() as scope:
            scope.cancel()
            await in_thread()
        go.set()
    assert most == allowed


async def test_a_cancelled_thread_is_waited_for_and_may_ask_whether_it_is() -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        try:
            while True:
                trio.from_thread.check_cancelled()
        finally:
            ended.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_in_thread, work)
            await trio.to_thread.run_sync(started.wait)
            scope.cancel()
    assert ended.is_set()


# Values ---------------------------------------------------------------------------------------------------------------


@message
class Point:
    """Any message."""

    x: int
    y: int


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.builds(Point, st.integers(0, 9), st.integers(0, 9)),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text("ab") | st.integers(0, 9), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    frame = pack(value)
    assert HEADER.unpack_from(frame)[0] == len(frame) - HEADER.size
    assert unpack(frame[HEADER.size :]) == value


@given(st.binary(max_size=200))
def test_other_bytes_are_a_decode_error_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        unpack(body)


def deep(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 2**64, print, Point, deep(2000), "\ud800", OSError()],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_an_encode_error_that_says_what_goes(value: Any) -> None:
    with pytest.raises(EncodeError, match="worker process"):
        pack((1, value))


def test_values_are_bounded() -> None:
    with pytest.raises(EncodeError, match="bytes are more than the"):
        pack(bytes(MAX_FRAME))


def test_lists_arrive_as_tuples() -> None:
    assert unpack(pack([1, [2]])[HEADER.size :]) == (1, (2,))


def test_an_answer_is_the_result_or_what_was_raised() -> None:
    def ask(name: str, *args: Any) -> Any:
        request = pack((name, pack(args)[HEADER.size :]))[HEADER.size :]
        return unpack(answer(request)[HEADER.size :])

    assert ask("math:gcd", 12, 18) == (True, 6)
    for name, args, kind in (
        ("operator:floordiv", (1, 0), "ZeroDivisionError"),
        ("no_such_module:f", (), "ModuleNotFoundError"),
        ("math:no_such_function", (), "AttributeError"),
        ("builtins:object", (), "EncodeError"),  # a result that can't be sent
    ):
        done, shown_kind, text, shown = ask(name, *args)
        assert (done, shown_kind) == (False, kind)
        assert isinstance(text, str)
        assert shown.startswith("Traceback")
    assert unpack(answer(b"\xc1")[HEADER.size :])[:2] == (False, "DecodeError")


def test_names_are_found() -> None:
    assert find("pathlib:Path.cwd") == pathlib.Path.cwd


# Processes ------------------------------------------------------------------------------------------------------------


TASKS = """
import os, sys, time
from rabble_trio import message

@message(tag="test_workers.pair")
class Pair:
    left: int
    right: int

def swap(pair):
    print("not a frame")  # goes to standard error, and breaks nothing
    assert sys.stdin.read() == ""
    return Pair(pair.right, pair.left)

def hang(path):
    with open(path, "w") as pipe:
        print(os.getpid(), file=pipe, flush=True)
        while True:
            time.sleep(100)

def fail():
    raise ValueError("as told")

async def wait():
    pass

class Group:
    @staticmethod
    def double(n):
        return 2 * n

    def method(self):
        pass
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module that a worker can import."""
    directory = tmp_path_factory.mktemp("modules")
    (directory / "worker_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(directory))
    try:
        yield importlib.import_module("worker_tasks")
    finally:
        sys.path.remove(str(directory))
        del sys.modules["worker_tasks"]


@pytest.fixture
def pipe(tmp_path: pathlib.Path) -> str:
    """The path of a pipe into which `hang` writes its process id, and which it keeps open as long as it lives."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    return path


async def written(pipe: str) -> int:
    """Wait until a worker wrote its process id."""

    def read() -> int:
        with open(pipe) as opened:
            return int(opened.readline())

    return await trio.to_thread.run_sync(read)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_workers_run_functions_and_are_used_again(tasks: Any) -> None:
    async with open_worker_processes(2) as workers:
        assert workers.statistics() == WorkerStatistics(running=0, busy=0, waiting=0)
        assert await workers.run(tasks.swap, tasks.Pair(1, 2)) == tasks.Pair(2, 1)
        pid = await workers.run(os.getpid)
        assert pid != os.getpid()
        assert await workers.run(os.getpid) == pid
        assert await workers.run(tasks.Group.double, 4) == 8
        with pytest.raises(WorkFailed, match="worker_tasks:fail raised ValueError: as told") as caught:
            await workers.run(tasks.fail)
        assert (caught.value.function, caught.value.kind, caught.value.text) == (
            "worker_tasks:fail",
            "ValueError",
            "as told",
        )
        assert "in fail" in caught.value.traceback
        with pytest.raises(WorkFailed, match="EncodeError"):
            await workers.run(object)
        assert await workers.run(os.getpid) == pid  # an exception is no reason to begin anew
        big = b"x" * 3_000_000
        assert await workers.run(bytes, big) == big
        assert workers.statistics() == WorkerStatistics(running=1, busy=0, waiting=0)
    assert is_gone(pid)
    with pytest.raises(trio.ClosedResourceError):
        await workers.run(os.getpid)


async def test_what_a_worker_can_not_import_is_refused_before_it_starts(tasks: Any) -> None:
    async with open_worker_processes() as workers:
        for function in (lambda: None, test_lists_arrive_as_tuples.__get__(1), tasks.Group().method):
            with pytest.raises(ValueError, match="can't import"):
                await workers.run(function)
        with pytest.raises(TypeError, match="is async"):
            await workers.run(tasks.wait)
        with pytest.raises(EncodeError):
            await workers.run(math.gcd, object())
        assert workers.statistics().running == 0
    with pytest.raises(ValueError, match="max_workers is 1 or more, not 0"):
        async with open_worker_processes(0):
            pytest.fail("no such number")


async def test_a_cancelled_call_kills_its_process_and_the_next_gets_another(tasks: Any, pipe: str) -> None:
    async with open_worker_processes(1) as workers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.run, tasks.hang, pipe)
                pid = await written(pipe)
                nursery.start_soon(workers.run, os.getpid)
                await wait_all_tasks_blocked()
                assert workers.statistics() == WorkerStatistics(running=1, busy=1, waiting=1)
                scope.cancel()
        assert is_gone(pid)
        assert workers.statistics() == WorkerStatistics(running=0, busy=0, waiting=0)
        assert await workers.run(os.getpid) != pid


async def test_a_worker_that_dies_says_how(tasks: Any, pipe: str) -> None:
    async with open_worker_processes(1) as workers:
        with pytest.raises(WorkerDied, match="ended with exit code 3") as caught:
            await workers.run(sys.exit, 3)
        assert caught.value.exit_code == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_killed, workers, tasks.hang, pipe)
            os.kill(await written(pipe), signal.SIGKILL)
        # One that dies while it is idle fails nobody.
        pid = await workers.run(os.getpid)
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(30):
            (idle,) = workers._workers
            await idle.wait()
        assert await workers.run(os.getpid) != pid


async def _killed(workers: WorkerProcesses, function: Any, pipe: str) -> None:
    with pytest.raises(WorkerDied, match="was killed by signal 9"):
        await workers.run(function, pipe)


async def test_calls_under_way_learn_that_the_block_ended(tasks: Any, pipe: str) -> None:
    async def call() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await workers.run(tasks.hang, pipe)

    async with trio.open_nursery() as nursery, open_worker_processes(1) as workers:
        nursery.start_soon(call)
        pid = await written(pipe)
    assert is_gone(pid)


async def test_one_call_in_a_process_of_its_own() -> None:
    pid = await run_in_process(os.getpid)
    assert pid != os.getpid()
    assert is_gone(pid)


def test_a_parent_that_is_killed_leaves_no_orphan(tasks: Any, pipe: str) -> None:
    program = f"import trio, rabble_trio, worker_tasks as w; trio.run(rabble_trio.run_in_process, w.hang, {pipe!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as parent, open(pipe) as opened:
        assert int(opened.readline()) != parent.pid
        parent.kill()
        # The end of the pipe is the end of the worker, which alone has it open.
        assert opened.read() == ""
