"""Dials one node for as long as a link to it is wanted.

Rules:

1. It dials only while there is no link. Of two nodes that lost their link the one with the lesser name dials at once, and
   the other after `SECOND_DIALER`, in case that the first can't: so they seldom dial each other at the same time, and when
   they do, both keep the same of the two links (`rabble_trio._handshake.survivor`). Who is asked to join dials at once.
2. After a failure it waits, longer each time, up to `MAX_BACKOFF`, with jitter. A link that held starts that afresh.
3. It never gives up. What is wrong is logged once, and again when it is something else.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ._errors import ConnectFailed, LinkError
from ._ids import NodeId
from ._transport import Transport, Wire

logger = logging.getLogger("rabble_trio.cluster")

MIN_BACKOFF: Final = 0.1
"""Seconds to wait after the first failure."""

MAX_BACKOFF: Final = 5.0
"""Seconds to wait after many failures: a member that comes back is found within that time."""

SECOND_DIALER: Final = 1.0
"""Seconds by which the node with the greater name lets the other dial first: some round trips on a slow network."""

DIAL_TIMEOUT: Final = 5.0
"""Seconds to open a connection: a few lost packets, and a slow machine."""

STEADY: Final = 10.0
"""Seconds after which a link is one that held."""

Failed = Callable[[NodeId, Exception], None]
"""Is told why an attempt or a link ended: `ConnectFailed` or `LinkError`."""


class Dialer:
    """Keeps dialling `node`; `run` is the task.

    `run_link` runs a dialled link over a connection until it ends. `failed` is told of each failure.
    """

    def __init__(
        self,
        node: NodeId,
        transport: Transport,
        run_link: Callable[[NodeId, Wire], Awaitable[LinkError]],
        failed: Failed,
        rng: random.Random,
    ) -> None:
        self._node = node
        self._transport = transport
        self._run_link = run_link
        self._failed = failed
        self._rng = rng
        self._scope = trio.CancelScope()  # around what may be broken off: waiting and dialling, but no link
        self._waits = False
        self._unwanted = False
        self._may_dial = trio.Event()
        self._may_dial.set()
        self._hurry = False
        self._logged = ""
        self.in_handshake = False
        """Whether a dialled connection is on its way to become a link."""

    def link_up(self) -> None:
        """There is a link, whoever dialled: one that is not there yet is not needed any more."""
        self._logged = ""
        self.in_handshake = False
        if not self._waits:
            self._scope.cancel()
        if self._may_dial.is_set():
            self._may_dial = trio.Event()

    def link_down(self) -> None:
        """There is no link any more."""
        self._may_dial.set()

    def hurry(self) -> None:
        """Somebody waits for the link: dial now."""
        if self._waits:
            self._hurry = True
            self._scope.cancel()

    def end(self) -> None:
        """The link is not wanted any more. One that runs is left to end by itself."""
        self._unwanted = True
        self._scope.cancel()

    async def run(self, *, first: bool) -> None:
        """Dial until `end`. `first`: whether it is this node's part to dial first."""
        backoff = MIN_BACKOFF
        while not self._unwanted:
            await self._wait(0.0 if first else SECOND_DIALER)
            self._hurry = False
            if self._unwanted or not self._may_dial.is_set():
                continue
            started = trio.current_time()
            error = await self._attempt()
            if error is not None:
                self._report(error)
            backoff = MIN_BACKOFF if trio.current_time() - started > STEADY else min(2 * backoff, MAX_BACKOFF)
            await self._wait(backoff * self._rng.uniform(0.5, 1.0))

    async def _wait(self, seconds: float) -> None:
        """Wait until there is no link, and then so long, unless somebody is in a hurry."""
        if self._unwanted or self._hurry:
            return
        self._waits = True
        with trio.CancelScope() as self._scope:
            await self._may_dial.wait()
            await trio.sleep(seconds)
        self._waits = False

    async def _attempt(self) -> Exception | None:
        """Dial, and run the link until it ends; returns why it did, or why there was none."""
        self._scope = scope = trio.CancelScope(deadline=trio.current_time() + DIAL_TIMEOUT)
        try:
            with scope:
                async with self._transport.dial(self._node) as wire:
                    scope.deadline = float("inf")
                    # Another scope, which is around nothing: a link that is not wanted any more ends in good order.
                    self._scope = trio.CancelScope()
                    self.in_handshake = True
                    return await self._run_link(self._node, wire)
        except ConnectFailed as error:
            return error
        finally:
            self.in_handshake = False
        if trio.current_time() < scope.deadline:  # it was broken off
            return None
        return ConnectFailed(self._node.addr, f"no connection within {DIAL_TIMEOUT:g} s")

    def _report(self, error: Exception) -> None:
        if not (isinstance(error, LinkError) and error.fault == "nobody"):
            level = logging.DEBUG if str(error) == self._logged else logging.WARNING
            self._logged = str(error)
            logger.log(level, "no link to %s: %s", self._node, self._logged)  # the error itself would keep frames alive
        self._failed(self._node, error)
