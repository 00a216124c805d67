"""The inside of a worker process, and the frames that it shares with its parent (`_workers`).

Rules:

1. A request is the name of a function, "module:qualname", and its arguments; a reply is its result, or what it raised, as
   text. Both are frames: four bytes of length, then msgpack. There is no pickle: the parent names a function, and the
   worker imports it.
2. A worker belongs to its parent. When the pipe from it closes, the worker is gone at once, whatever it does: so a parent
   that is killed leaves no orphans.
3. What the function prints goes to standard error; standard output is the pipe, and standard input is empty.
"""

from __future__ import annotations

import importlib
import os
import struct
import threading
import traceback
from queue import SimpleQueue
from typing import Any, Final

import msgpack

from ._codec import MESSAGE_TYPES, decode, encode
from ._errors import DecodeError, EncodeError

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of arguments, or of a result: each is held in memory a few times over on both sides."""

HEADER: Final = struct.Struct(">I")
_MESSAGE: Final = 1  # the msgpack extension type of a message, encoded
_SCALARS: Final = (type(None), bool, int, float, str, bytes)


def pack(value: Any) -> bytes:
    """A frame with a plain value: None, bool, int, float, str, bytes, a message, or tuples, lists and dicts of those.

    Raises `EncodeError` for anything else, for integers beyond 64 bits, and beyond `MAX_FRAME`.
    """
    try:
        body: bytes = msgpack.packb(value, default=_pack_other, strict_types=True)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        if isinstance(error, EncodeError):
            raise
        raise EncodeError(f"a worker process can't be sent this value: {error}") from error
    if len(body) > MAX_FRAME:
        raise EncodeError(
            f"{len(body)} bytes are more than the {MAX_FRAME} that go to or from a worker process at once"
        )
    return HEADER.pack(len(body)) + body


def _pack_other(value: Any) -> Any:
    if type(value) is tuple:
        return list(value)
    if type(value) in MESSAGE_TYPES:
        return msgpack.ExtType(_MESSAGE, encode(value))
    raise EncodeError(
        f"{type(value).__qualname__} can't be sent to or from a worker process: use None, bool, int, float, str, bytes, "
        "tuples, lists and dicts of those, and classes decorated with @message"
    )


def unpack(body: bytes) -> Any:
    """The value in a frame, without its header; lists come back as tuples. Raises `DecodeError`."""
    try:
        return msgpack.unpackb(body, use_list=False, strict_map_key=False, ext_hook=_unpack_other)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a frame of a worker process is malformed: {error}") from error


def _unpack_other(code: int, data: bytes) -> Any:
    if code != _MESSAGE:
        raise DecodeError(f"unknown extension type {code}")
    return decode(data)


def find(name: str) -> Any:
    """Import what "module:qualname" names. Raises `ImportError`, `AttributeError`, and what the module raises."""
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def answer(request: bytes) -> bytes:
    """Do what a request asks for; gives the frame of the reply, (True, result) or (False, exception, text, traceback)."""
    try:
        # Two steps, because the classes of messages among the arguments may be made by the import.
        name, packed = unpack(request)
        function = find(name)
        return pack((True, function(*unpack(packed))))
    except Exception as error:
        try:
            text = str(error)
        except Exception:
            text = "(its text can't be shown)"
        shown = "".join(traceback.format_exception(error))
        return pack((False, type(error).__qualname__, text[:10_000], shown[-50_000:]))


def main() -> None:
    """Answer requests from standard input at standard output, until the parent closes it."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    queue: SimpleQueue[bytes] = SimpleQueue()
    # The main thread is kept for the functions: some libraries work in no other.
    threading.Thread(target=_read_requests, args=(requests, queue), daemon=True).start()
    while True:
        reply = memoryview(answer(queue.get()))
        while reply:
            reply = reply[os.write(replies, reply) :]


def _read_requests(requests: int, queue: SimpleQueue[bytes]) -> None:
    with open(requests, "rb") as pipe:
        while True:
            header = pipe.read(HEADER.size)
            length = HEADER.unpack(header)[0] if len(header) == HEADER.size else -1
            body = pipe.read(length) if length >= 0 else b""
            if len(body) != length:
                os._exit(0)  # and not sys.exit(): the function that may be running is not asked
            queue.put(body)
