"""The commands for clients: what `haret` does in one shot and `haret shell` does at its prompt.

The first argument of each is a `ClientSession`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import haret
from haret import Client, Key, Reply

from .command import Argument, Command, Option, Table
from .failures import CommandFailed, Exit
from .output import Answer

if TYPE_CHECKING:
    from .session import ClientSession

PATH: Final = Argument("path", "where in the tree, from the root on: /a/b")
VALUE: Final = Argument("value", "the bytes to store; - reads them from stdin", value=True)
ELEMENT: Final = Argument("value", "the element; - reads it from stdin", value=True)
STALE: Final = (
    Option("stale", "let any replica answer, at once, perhaps from an older state; also while there is no primary"),
)
Run = Callable[[Any, Namespace], Awaitable[Answer]]
OPERANDS: Final = (Argument("left", "the path of a set"), Argument("right", "the path of another set"))

PUT_ATTEMPTS: Final = 5
"""How often `put` tries to replace a blob, or else to create it, while somebody else deletes and creates it."""


# -------------------------------------------------------------------- answers


def place(reply: Reply[Any]) -> dict[str, Any]:
    """Where in the history of its namespace an answer belongs; the end of every answer's JSON."""
    return {"version": reply.version, "op": reply.op, "view": reply.view, "epoch": reply.epoch}


def done(path: str, reply: Reply[Any], what: str, **more: Any) -> Answer:
    """A write was done; `what` says so in words, "" keeps silent about it."""
    return Answer({"path": path, **more, **place(reply)}, rows=[(f"{what} (version {reply.version})",)])


def fact(reply: Reply[Any], **about: Any) -> Answer:
    """A number, or yes or no."""
    text = str(reply.value).lower()
    return Answer({**about, "value": reply.value, **place(reply)}, rows=[(reply.value,)], raw=f"{text}\n".encode())


def content(path: str, reply: Reply[Any], *, empty: str = "") -> Answer:
    """Bytes that were stored; `empty` is what to say if there were none to be had."""
    data = {"path": path, "value": reply.value, **place(reply)}
    if reply.value is None:
        return Answer(data, note=empty, exit=Exit.NOT_FOUND)
    return Answer(data, text=reply.value, raw=reply.value)


def elements(reply: Reply[Any], paths: list[str]) -> Answer:
    """A set."""
    found = sorted(reply.value)
    data = {"paths": paths, "value": found, **place(reply)}
    return Answer(data, rows=[(element,) for element in found], raw=b"".join(element + b"\n" for element in found))


# ------------------------------------------------------------------- commands


async def _namespaces(session: ClientSession, arguments: Namespace) -> Answer:
    names = await session.namespaces()
    return Answer(
        {"namespaces": list(names)},
        rows=[(name,) for name in names],
        raw="".join(f"{name}\n" for name in names).encode(),
        note="" if names else "there are no namespaces yet: `haret admin` creates one, see `haret admin -e help`",
    )


async def _create(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    reply = await client.create(arguments.path, arguments.type)
    return done(arguments.path, reply, f"created {arguments.type} {arguments.path}", type=arguments.type)


async def _delete(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return done(arguments.path, await client.delete(arguments.path), f"deleted {arguments.path}")


async def _ls(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    reply = await client.list_keys(arguments.path, stale=arguments.stale)
    keys: list[Key] = list(reply.value)
    while reply.more:
        reply = await client.list_keys(arguments.path, after=keys[-1].path, stale=arguments.stale)
        keys += reply.value
    return Answer(
        {"path": arguments.path, "keys": [key._asdict() for key in keys], **place(reply)},
        headings=("PATH", "TYPE", "VERSION"),
        rows=[(key.path, key.type, key.version) for key in keys],
        raw="".join(f"{key.path}\n" for key in keys).encode(),
    )


async def _put(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    path, value = arguments.path, arguments.value
    for _ in range(PUT_ATTEMPTS):
        try:
            return done(path, await client.blob_put(path, value), f"put {len(value)} bytes")
        except haret.DoesNotExist:
            pass
        try:
            # Both at once, so that nobody can read the blob while it is still empty.
            reply = await client.multi_cas(operations=[haret.Create(path, "blob"), haret.BlobPut(path, value)])
            return done(path, reply, f"put {len(value)} bytes into a new blob")
        except haret.AlreadyExists:
            pass
    raise CommandFailed(f"{path} is deleted and created again all the time", code=Exit.CONFLICT)


async def _get(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return content(arguments.path, await client.blob_get(arguments.path, stale=arguments.stale))


async def _blob_put(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    value = arguments.value
    return done(arguments.path, await client.blob_put(arguments.path, value), f"put {len(value)} bytes")


async def _blob_size(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return fact(await client.blob_size(arguments.path, stale=arguments.stale), path=arguments.path)


async def _queue_push(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return done(arguments.path, await client.queue_push(arguments.path, arguments.value), "pushed")


async def _queue_len(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return fact(await client.queue_len(arguments.path, stale=arguments.stale), path=arguments.path)


async def _set_insert(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    reply = await client.set_insert(arguments.path, arguments.value)
    return done(arguments.path, reply, "inserted" if reply.value else "it was there already", value=reply.value)


async def _set_remove(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    reply = await client.set_remove(arguments.path, arguments.value)
    return done(arguments.path, reply, "removed" if reply.value else "it was not there", value=reply.value)


async def _set_contains(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    found = await client.set_contains(arguments.path, arguments.value, stale=arguments.stale)
    return fact(found, path=arguments.path)


async def _set_union(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    return elements(await client.set_union(*arguments.paths, stale=arguments.stale), arguments.paths)


def _algebra(operation: Callable[..., Awaitable[Reply[frozenset[bytes]]]]) -> Run:
    async def run(session: ClientSession, arguments: Namespace) -> Answer:
        paths = [arguments.left, arguments.right]
        return elements(await operation(await session.client(), *paths, stale=arguments.stale), paths)

    return run


def _comparison(operation: Callable[..., Awaitable[Reply[bool]]]) -> Run:
    async def run(session: ClientSession, arguments: Namespace) -> Answer:
        paths = [arguments.left, arguments.right]
        return fact(await operation(await session.client(), *paths, stale=arguments.stale), paths=paths)

    return run


async def _queue_pop(session: ClientSession, arguments: Namespace) -> Answer:
    client = await session.client()
    path: str = arguments.path
    return content(path, await client.queue_pop(path), empty=f"{path} is empty")


def _end(look: Callable[..., Awaitable[Reply[bytes | None]]]) -> Run:
    async def run(session: ClientSession, arguments: Namespace) -> Answer:
        path: str = arguments.path
        return content(path, await look(await session.client(), path, stale=arguments.stale), empty=f"{path} is empty")

    return run


async def _version(session: ClientSession, arguments: Namespace) -> Answer:
    release = version("rabble-trio")
    return Answer({"version": release}, rows=[(f"haret {release}",)], raw=f"{release}\n".encode())


CLIENT: Final = Table(
    commands=(
        Command(("namespaces",), "list the namespaces of a server", _namespaces, example="namespaces"),
        Command(
            ("put",),
            "store bytes in a blob, which is created if it is missing",
            _put,
            (PATH, VALUE),
            example="put /motd hello",
            detail="A value that begins with a dash comes after --, for example: put /a -- -x",
        ),
        Command(
            ("get",),
            "print what a blob holds",
            _get,
            (PATH,),
            example="get /motd",
            detail="With -o raw it prints the bytes alone, without a line end.",
            options=STALE,
        ),
        Command(
            ("ls",),
            "list a node and everything below it",
            _ls,
            (Argument("path", "where to begin; / if left out", nargs="?", default="/"),),
            example="ls /",
            options=STALE,
        ),
        Command(
            ("create",),
            "make an empty blob, queue, set or directory, and the directories above it",
            _create,
            (Argument("type", "blob, queue, set or directory"), PATH),
            example="create queue /jobs",
        ),
        Command(("delete",), "remove a node with everything below it", _delete, (PATH,), example="delete /jobs"),
        Command(("blob", "put"), "replace what a blob holds", _blob_put, (PATH, VALUE), example="blob put /motd hello"),
        Command(("blob", "get"), "print what a blob holds", _get, (PATH,), example="blob get /motd", options=STALE),
        Command(
            ("blob", "size"),
            "print how many bytes a blob holds",
            _blob_size,
            (PATH,),
            example="blob size /motd",
            options=STALE,
        ),
        Command(
            ("queue", "push"),
            "append an element at the back of a queue",
            _queue_push,
            (PATH, ELEMENT),
            example="queue push /jobs first",
        ),
        Command(
            ("queue", "pop"),
            "remove the element at the front of a queue and print it",
            _queue_pop,
            (PATH,),
            example="queue pop /jobs",
            detail="Exit code 3 if the queue is empty.",
        ),
        Command(
            ("queue", "front"),
            "print the element at the front of a queue",
            _end(Client.queue_front),
            (PATH,),
            example="queue front /jobs",
            detail="Exit code 3 if the queue is empty.",
            options=STALE,
        ),
        Command(
            ("queue", "back"),
            "print the element at the back of a queue",
            _end(Client.queue_back),
            (PATH,),
            example="queue back /jobs",
            detail="Exit code 3 if the queue is empty.",
            options=STALE,
        ),
        Command(
            ("queue", "len"),
            "print how many elements a queue holds",
            _queue_len,
            (PATH,),
            example="queue len /jobs",
            options=STALE,
        ),
        Command(
            ("set", "insert"),
            "add an element to a set",
            _set_insert,
            (PATH, ELEMENT),
            example="set insert /members ann",
        ),
        Command(
            ("set", "remove"),
            "remove an element from a set",
            _set_remove,
            (PATH, ELEMENT),
            example="set remove /members ann",
        ),
        Command(
            ("set", "contains"),
            "print whether an element is in a set",
            _set_contains,
            (PATH, ELEMENT),
            example="set contains /members ann",
            options=STALE,
        ),
        Command(
            ("set", "union"),
            "print what is in any of some sets; of one set, all elements",
            _set_union,
            (Argument("paths", "the path of a set", nargs="+"),),
            example="set union /members /guests",
            options=STALE,
        ),
        Command(
            ("set", "intersection"),
            "print what is in both of two sets",
            _algebra(Client.set_intersection),
            OPERANDS,
            example="set intersection /members /guests",
            options=STALE,
        ),
        Command(
            ("set", "difference"),
            "print what is in the left set only",
            _algebra(Client.set_difference),
            OPERANDS,
            example="set difference /members /guests",
            options=STALE,
        ),
        Command(
            ("set", "symmetric-difference"),
            "print what is in one of two sets, but not in both",
            _algebra(Client.set_symmetric_difference),
            OPERANDS,
            example="set symmetric-difference /members /guests",
            options=STALE,
        ),
        Command(
            ("set", "subset"),
            "print whether the right set holds all elements of the left one",
            _comparison(Client.set_subset),
            OPERANDS,
            example="set subset /guests /members",
            options=STALE,
        ),
        Command(
            ("set", "superset"),
            "print whether the left set holds all elements of the right one",
            _comparison(Client.set_superset),
            OPERANDS,
            example="set superset /members /guests",
            options=STALE,
        ),
        Command(("version",), "print the release of this command", _version, example="version"),
    ),
    groups={
        "blob": "blobs: bytes under a path",
        "queue": "queues: elements in the order they were pushed",
        "set": "sets: elements without order, and set algebra",
    },
)
"""All of them."""
