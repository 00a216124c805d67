"""Services: actors that are Trio code, for I/O and for work that blocks or takes long.

A service is either an async function that takes its mailbox, or a subclass of `Service`. It ends by returning, by an
exception (a crash), or when it is asked to shut down: then its mailbox ends the `async for`, or raises
`trio.EndOfChannel`, which it need not catch, and what has not returned by the shutdown deadline of its child spec is
cancelled.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from ._mailbox import Mailbox


class Service(ABC):
    """An actor as Trio code: subclass it and write `run`."""

    mailbox_size: ClassVar[int] = 10_000
    """Messages that may wait; see `rabble_trio.Process.mailbox_size`."""

    async def init(self, mailbox: Mailbox) -> None:  # noqa: B027  (optional, not abstract)
        """Called before `run`, in the same task; `spawn` returns after it. The place to bind ports and open files.

        While an actor that crashed is initialised again, its supervisor does nothing else, unless it is asked to stop: what
        may take long belongs in `run`.
        """

    @abstractmethod
    async def run(self, mailbox: Mailbox) -> None:
        """Do the work: `async for envelope in mailbox`, or anything else."""


class _FunctionService(Service):
    def __init__(self, function: Callable[[Mailbox], Awaitable[None]]) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"<service {getattr(self._function, '__qualname__', self._function)}>"

    async def run(self, mailbox: Mailbox) -> None:
        await self._function(mailbox)


def is_async_factory(factory: object) -> bool:
    """Whether a factory is an async function, and so a service by itself."""
    return inspect.iscoroutinefunction(factory)


def service_of(function: Callable[[Mailbox], Awaitable[None]]) -> Service:
    """A service that runs an async function."""
    return _FunctionService(function)
