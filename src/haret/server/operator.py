"""The operator's hand: the service that makes its node join another cluster, or a member leave its own."""

from __future__ import annotations

import logging
from typing import Any, Final

import trio

from haret.protocol import BadRequest, Done, JoinCluster, LeaveCluster, Unanswered
from rabble_trio import ActorDown, Envelope, JoinFailed, Mailbox, MembershipError, Node, Service

logger = logging.getLogger("haret.cluster")

JOINING: Final = 8.0
"""Seconds to reach the other node: a link takes milliseconds, and a person who asked should not wait for long."""


class Operator(Service):
    """Carries out `JoinCluster` and `LeaveCluster`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self, mailbox: Mailbox) -> None:
        """Handle requests, each beside the others."""
        async with trio.open_nursery() as nursery:
            async for envelope in mailbox:
                nursery.start_soon(self._handle, mailbox, envelope)
            nursery.cancel_scope.cancel()

    async def _handle(self, mailbox: Mailbox, envelope: Envelope) -> None:
        match envelope.message:
            case JoinCluster() as request:
                reply: Any = await self._join(request)
            case LeaveCluster() as request:
                reply = await self._leave(request)
            case other:
                logger.warning("%s: unexpected %s", mailbox.pid, type(other).__name__)
                return
        try:
            mailbox.send_nowait(envelope.sender, reply, envelope.correlation_id)
        except (ActorDown, trio.WouldBlock) as error:
            logger.warning("%s was not told of %s: %s", envelope.sender, type(reply).__name__, error)

    async def _join(self, request: JoinCluster) -> Done | BadRequest | Unanswered:
        if request.node == self._node.id:
            return BadRequest(f"{request.node} is this node: name another one")
        with trio.move_on_after(JOINING):
            try:
                await self._node.join(request.node)
            except JoinFailed as error:
                return BadRequest(str(error))
            return Done()
        return Unanswered(f"{request.node} can't be reached within {JOINING:g} s: does it run, and listen there?")

    async def _leave(self, request: LeaveCluster) -> Done | BadRequest:
        try:
            await self._node.leave(request.node)
        except MembershipError as error:
            return BadRequest(str(error))
        return Done()
