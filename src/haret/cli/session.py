"""What commands run on: connections that are opened when the first command needs them, and kept for the next ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

import trio

import haret

from .command import Command
from .failures import EXPECTED, CommandFailed, Exit, UsageError
from .output import Answer

T = TypeVar("T")
S = TypeVar("S", bound="Session")

GRACE: Final = 1.0
"""Seconds beyond its timeout that a command gets, in which the client says itself what it waited for."""


class _Kept(Generic[T]):
    """What an async context manager gives, kept open by a task of its own.

    A command runs under a cancel scope, and what it opens there could not outlive it.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._close = trio.Event()
        self._closed = trio.Event()
        self.thing: T | None = None

    async def open(self, manager: AbstractAsyncContextManager[T]) -> T:
        """Enter the context manager, and return what it gives."""
        self._close, self._closed = trio.Event(), trio.Event()
        self.thing = await self._nursery.start(self._keep, manager)
        assert self.thing is not None
        return self.thing

    async def _keep(self, manager: AbstractAsyncContextManager[T], task_status: trio.TaskStatus[T]) -> None:
        try:
            async with manager as thing:
                task_status.started(thing)
                await self._close.wait()
        finally:
            self.thing = None
            self._closed.set()

    async def close(self) -> None:
        """Leave the context manager, if it was entered."""
        if self.thing is not None:
            self._close.set()
            await self._closed.wait()


class Session:
    """What the sessions for clients and for operators have in common. `timeout`: seconds for one command."""

    prompt: str

    def __init__(self, nursery: trio.Nursery, endpoints: Sequence[str], timeout: float) -> None:
        self._nursery = nursery
        self._endpoints = endpoints
        self.timeout = timeout

    async def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError


class ClientSession(Session):
    """For the commands of clients. `namespace`: the one to work in, or None until `enter`."""

    def __init__(self, nursery: trio.Nursery, endpoints: Sequence[str], timeout: float, namespace: str | None) -> None:
        super().__init__(nursery, endpoints, timeout)
        self.namespace = namespace
        self._kept: _Kept[haret.Client] = _Kept(nursery)

    @property
    def prompt(self) -> str:  # type: ignore[override]
        """What to show before a line."""
        return f"haret {self.namespace}> " if self.namespace else "haret> "

    async def client(self) -> haret.Client:
        """A client in the current namespace."""
        if self.namespace is None:
            raise UsageError("no namespace is entered", "`list namespaces` shows those there are; then: enter NAME")
        if self._kept.thing is not None:
            return self._kept.thing
        # A client goes on trying for as long as it is told to, as an application wants it. A person wants to hear at once
        # that nobody is there.
        try:
            await self.namespaces()
        except haret.Unavailable as error:
            raise haret.Unavailable("no server answers", error.tried, False) from None
        return await self._kept.open(haret.open_client(self._endpoints, self.namespace, give_up_after=self.timeout))

    async def namespaces(self) -> tuple[str, ...]:
        """The names of all namespaces."""
        return await haret.list_namespaces(self._endpoints)

    async def enter(self, name: str) -> None:
        """Work in another namespace from now on. Raises `UnknownNamespace`."""
        if name not in await self.namespaces():
            raise haret.UnknownNamespace(name)
        await self.close()
        self.namespace = name

    async def close(self) -> None:
        """Leave the namespace."""
        await self._kept.close()


class AdminSession(Session):
    """For the commands of operators."""

    prompt = "haret admin> "

    def __init__(self, nursery: trio.Nursery, endpoints: Sequence[str], timeout: float) -> None:
        super().__init__(nursery, endpoints, timeout)
        self._kept: _Kept[haret.Admin] = _Kept(nursery)

    async def admin(self) -> haret.Admin:
        """A connection to the first endpoint that answers."""
        if self._kept.thing is not None:
            return self._kept.thing
        return await self._kept.open(haret.open_admin(self._endpoints))

    async def close(self) -> None:
        """Close the connection; the next command opens another."""
        await self._kept.close()


async def use_session(make: Callable[[trio.Nursery], S], body: Callable[[S], Awaitable[T]]) -> T:
    """Call `body` with a session that lives as long as the call. Raises what `body` raises, without a group around it."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        session = make(nursery)
        try:
            result = await body(session)
        except EXPECTED as error:
            failure = error
        await session.close()
    if failure is not None:
        raise failure
    return result


async def run_command(session: Session, command: Command, arguments: Namespace) -> Answer:
    """Run one command within the session's timeout."""
    with trio.move_on_after(session.timeout + GRACE):
        try:
            return await command.run(session, arguments)
        except (haret.Unavailable, haret.Unanswered):
            # Whatever is wrong with the connection, the next command gets a new one.
            await session.close()
            raise
    await session.close()
    raise CommandFailed(f"no answer within {session.timeout:g} s", code=Exit.UNAVAILABLE)
