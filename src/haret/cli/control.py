"""How `haret dev kill n1` in one terminal reaches `haret dev` in another: a Unix socket that only this user may use.

One line of JSON each way: {"action": ..., "node": ...}, and {"ok": true, ...} or {"ok": false, "message": ..., ...}.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from .failures import EXPECTED, CommandFailed, Exit, UsageError, explain

MAX_LINE: Final = 64 * 1024
"""Bytes of a question or an answer: a few hundred is the rule."""

PATIENCE: Final = 40.0
"""Seconds that an answer may take: a node that restarts takes most of a second, on a busy machine more."""

Answerer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Does what a question asks for; raises one of `EXPECTED` if it can't."""


def socket_path(base_port: int) -> Path:
    """Where the cluster with this base port listens. Raises `CommandFailed` if somebody else made the directory."""
    directory = Path(tempfile.gettempdir()) / f"haret-dev-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise CommandFailed(f"{directory} is not a directory of yours alone", hint="remove it, or set TMPDIR")
    return directory / f"{base_port}.socket"


async def ask(base_port: int, question: dict[str, Any]) -> dict[str, Any]:
    """Ask the cluster with this base port. Raises `CommandFailed`."""
    try:
        stream = await trio.open_unix_socket(socket_path(base_port))
    except OSError:
        raise CommandFailed(
            f"no development cluster with base port {base_port} runs",
            code=Exit.UNAVAILABLE,
            hint="`haret dev` starts one",
        ) from None
    async with stream:
        line = b""
        with trio.move_on_after(PATIENCE):
            await stream.send_all(json.dumps(question).encode() + b"\n")
            line = await _line(stream)
    if not line:
        raise CommandFailed("the development cluster gave no answer", code=Exit.UNAVAILABLE)
    answer: dict[str, Any] = json.loads(line)
    if not answer["ok"]:
        raise CommandFailed(answer["message"], code=Exit(answer["exit_code"]), hint=answer.get("hint", ""))
    return answer


@asynccontextmanager
async def open_control(base_port: int) -> AsyncIterator[trio.SocketListener]:
    """Listen for questions, for `serve`. Raises `CommandFailed` if a cluster with this base port runs already."""
    path = socket_path(base_port)
    with suppress(OSError):
        async with await trio.open_unix_socket(path):
            raise CommandFailed(
                f"a development cluster with base port {base_port} runs already", hint="see --base-port"
            )
    path.unlink(missing_ok=True)  # of one that was killed
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        await socket.bind(str(path))
        path.chmod(0o600)
        socket.listen()
        async with trio.SocketListener(socket) as listener:
            yield listener
    finally:
        socket.close()
        path.unlink(missing_ok=True)


async def serve(listener: trio.SocketListener, answerer: Answerer) -> None:
    """Answer questions, one at a time, until cancelled."""
    lock = trio.Lock()

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with lock:
                reply = await _answer(await _line(stream), answerer)
                await stream.send_all(json.dumps(reply).encode() + b"\n")

    await trio.serve_listeners(handle, [listener])


async def _answer(line: bytes, answerer: Answerer) -> dict[str, Any]:
    try:
        question = json.loads(line)
        if not isinstance(question, dict):
            raise UsageError("a question is an object")
        return {"ok": True, **await answerer(question)}
    except EXPECTED as error:
        return {"ok": False, **explain(error).data()}
    except ValueError as error:
        return {"ok": False, "message": f"not a question: {error}", "exit_code": int(Exit.USAGE)}


async def _line(stream: trio.SocketStream) -> bytes:
    received = b""
    while b"\n" not in received and len(received) < MAX_LINE:
        data = await stream.receive_some()
        if not data:
            break
        received += data
    return received.partition(b"\n")[0]
