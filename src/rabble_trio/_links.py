"""A link at work: a pure `Link` over a connection, with one task that reads, one that writes, and a clock.

Rules:

1. The reader hands on what arrives and never waits for an actor. What waits is sent at the end of a turn (`_outlets`), as
   the link packs it, as long as that needs no waiting; the writer sends the rest, and sleeps until somebody wakes it. The
   clock wakes it when the link is due, and ends the link when a message takes too long to send; it gives it more time as
   long as the peer is heard. It is a task of its own because most messages are sent long before anything is due: they
   should not have to pay for a timeout each.
2. Whatever ends the link, `error` says it first, and the connection is closed with that code and reason.
3. `finish` sends what waits, for `FAREWELL` seconds at most, and then ends the link. Nothing that arrives meanwhile counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from ._errors import ConnectionClosed, LinkError
from ._handshake import CloseCode, Hellos
from ._ids import CorrelationId, NodeId, Pid
from ._link import LettersReceived, Link, LinkUp, MembershipReceived
from ._outlets import Outlets
from ._transport import Wire

FAREWELL: Final = 1.0
"""Seconds in which a link that is no longer needed sends what waits."""

SEND_TIMEOUT: Final = 30.0
"""Seconds for one message, as long as the peer is heard: the largest still passes at 300 kbit/s."""


CLOCK_TICK: Final = 0.01
"""Seconds from one look at the link to the next, at least: the writer may be busy with the end when the link is due."""


class LinkOwner(Protocol):
    """Who is told what happens on a link: the cluster server. What it is told first may raise `LinkError`: the link ends."""

    def link_up(self, task: LinkTask) -> None:
        """The peer has proved itself."""

    def membership_received(self, task: LinkTask, event: MembershipReceived) -> None:
        """For the peer's cluster server."""

    def letters_received(self, task: LinkTask, event: LettersReceived) -> None:
        """Envelopes for actors of this node."""

    def link_ended(self, task: LinkTask, error: LinkError) -> None:
        """The link is over, and its connection about to be closed. Comes once, whatever happens."""


class LinkTask:
    """One link, from the handshake to the end. `run` is the task; the rest may be called while it runs.

    `peer` and `hellos` are there once the link is up.
    """

    def __init__(self, link: Link, wire: Wire, owner: LinkOwner, heartbeat_timeout: float, outlets: Outlets) -> None:
        self.link = link
        self.wire = wire
        self.peer: NodeId
        self.hellos: Hellos
        self._owner = owner
        self._outlets = outlets
        self._opening = False  # whether the outlets are to send what waits
        self._heartbeat_timeout = heartbeat_timeout
        self._scope = trio.CancelScope()
        self._finishing: LinkError | None = None
        self._writer: trio.lowlevel.Task | None = None  # while it sleeps
        self._sending_since: float | None = None  # while a message is being sent
        self._alarm = trio.CancelScope(deadline=-math.inf)  # around the clock's sleep
        self._room = trio.Event()  # set when something left the queue, or the link ended
        self.ended = trio.Event()

    def __repr__(self) -> str:
        return f"<LinkTask with {self.wire.remote}, {self.link.state}>"

    async def run(self) -> LinkError:
        """Run the link until it ends; returns why it did. Raises nothing but the caller's cancellation."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, name=f"link writer of {self.wire.remote}")
                    nursery.start_soon(self._keep_time, name=f"link clock of {self.wire.remote}")
                    await self._read()
        finally:
            last = self._finishing or LinkError("nobody", CloseCode.GOING_AWAY, "the node stops")
            error = self.link.close(last.fault, CloseCode(last.code), last.reason)
            self._room.set()
            self._owner.link_ended(self, error)
            self.ended.set()
            with trio.CancelScope(shield=True):
                await self.wire.aclose(error.code, error.close_reason)
        return error

    # To the peer ------------------------------------------------------------------------------------------------------

    def send(self, to: Pid, sender: Pid, message: Any, correlation_id: CorrelationId | None) -> str | None:
        """Queue an envelope; see `Link.send`."""
        refused = self.link.send(to, sender, message, correlation_id)
        if self._writer is not None and not self._opening:
            if self.wire.clear:
                self._opening = True
                self._outlets.open_soon(self._send_now)
            else:
                self.wake()
        return refused

    def _send_now(self) -> None:
        """Send what waits, if that needs no waiting; else it is the writer's."""
        self._opening = False
        link, wire = self.link, self.wire
        now = trio.current_time()
        while self._writer is not None and wire.clear and now < link.deadline:
            data = link.next_message(now)
            if data is None:
                return
            self._make_room()
            wire.send_nowait(data)
            self._set_alarm(link.deadline)
        self.wake()

    def _make_room(self) -> None:
        if not self._room.is_set():
            self._room.set()
            self._room = trio.Event()

    def do(self, step: Callable[[Link], object]) -> None:
        """Let something happen to the link that may end it."""
        try:
            step(self.link)
        except LinkError:
            self._wind_up()
        else:
            self.wake()

    async def wait_for_room(self) -> None:
        """Wait until something left the queue, or the link ended."""
        await self._room.wait()

    def wake(self) -> None:
        """Let the writer look at what there is to send."""
        task = self._writer
        if task is not None:
            self._writer = None
            trio.lowlevel.reschedule(task)

    def end(self, fault: str, code: CloseCode, reason: str) -> None:
        """End the link now."""
        self.link.close(fault, code, reason)
        self._wind_up()

    def _wind_up(self) -> None:
        """The link is closed. A message that is being sent goes out, or the peer would not learn why it was closed."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + FAREWELL)
        self.wake()

    def finish(self, fault: str, code: CloseCode, reason: str) -> None:
        """End the link after what waits was sent."""
        if self._finishing is None:
            self._finishing = LinkError(fault, code, reason)
            self._scope.deadline = trio.current_time() + FAREWELL
            self.wake()

    # The two tasks ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        link, wire = self.link, self.wire
        try:
            while True:
                data = await wire.receive()
                now = trio.current_time()
                if self._finishing is None and link.error is None:
                    events = link.receive(data, now)
                    for event in events:
                        self._on_event(event)
                    if len(events) != 1 or type(events[0]) is not LettersReceived:
                        self.wake()  # what the link takes for itself, it may answer
        except ConnectionClosed as closed:
            link.closed_by_peer(closed.code, closed.reason)
            self._scope.cancel()
        except LinkError as error:
            self.end(error.fault, CloseCode(error.code), error.reason)

    def _on_event(self, event: LinkUp | MembershipReceived | LettersReceived) -> None:
        if isinstance(event, LettersReceived):
            self._owner.letters_received(self, event)
        elif isinstance(event, MembershipReceived):
            self._owner.membership_received(self, event)
        else:
            self.peer, self.hellos = event.peer.node, event.hellos
            self._owner.link_up(self)

    async def _write(self) -> None:
        link = self.link
        try:
            while True:
                if self.wire.unsent:
                    await self._send(None)
                now = trio.current_time()
                link.heard(self.wire.heard_at)
                link.tick(now)
                data = link.next_message(now)
                if data is not None:
                    await self._send(data)
                elif self._finishing is not None:
                    finished = self._finishing
                    raise link.close(finished.fault, CloseCode(finished.code), finished.reason)
                else:
                    await self._sleep()
        except ConnectionClosed as closed:
            # The reader may still find the peer's farewell, which says more than that the peer is gone, and cancel us.
            await trio.sleep(FAREWELL)
            link.closed_by_peer(closed.code, closed.reason)
        except LinkError:
            pass  # the link keeps it
        self._scope.cancel()

    async def _send(self, data: bytes | None) -> None:
        """Send a message, or what is left of one."""
        self._sending_since = trio.current_time()
        self._set_alarm(self._patience(self._sending_since))
        try:
            if data is None:
                await self.wire.drain()
            else:
                self._make_room()
                await self.wire.send(data)
        finally:
            self._sending_since = None

    async def _sleep(self) -> None:
        def abort(_: Any) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        self._set_alarm(self.link.deadline)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _keep_time(self) -> None:
        while True:
            since = self._sending_since
            now = trio.current_time()
            due = self.link.deadline if since is None else self._patience(since)
            if now < due:
                with trio.CancelScope(deadline=due) as self._alarm:
                    await trio.sleep_forever()
            elif since is None:
                self.wake()  # the writer lets the link note the time, which sets another deadline
                await trio.sleep(CLOCK_TICK)
            else:
                reason = f"{self.wire.remote} took no message for {now - since:.1f} s"
                self.link.close("network", CloseCode.TIMEOUT, reason)
                self._scope.cancel()
                await trio.sleep_forever()

    def _patience(self, since: float) -> float:
        """Until when a message may be under way that has been since then."""
        return min(since + SEND_TIMEOUT, max(since, self.wire.heard_at) + self._heartbeat_timeout)

    def _set_alarm(self, deadline: float) -> None:
        """The clock has to look at this time or before. That it often looks too early costs little, once a second."""
        if deadline < self._alarm.deadline:  # noqa: PLR1730, to set it to what it is takes time
            self._alarm.deadline = deadline
