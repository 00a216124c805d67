"""Supervisors: they start children in order, restart those that fail, and stop them in reverse order.

Rules, which are OTP's:

1. A child runs until it finishes, crashes, or is stopped by its supervisor. `restart` says what follows: "permanent"
   children are restarted however they ended, "transient" ones after a crash, "temporary" ones never.
2. The strategy says who is restarted with it: "one_for_one" nobody, "one_for_all" all children, "rest_for_one" those
   started after it. They are stopped in reverse order and started in order.
3. More than `intensity` restarts within `period` seconds: the supervisor stops its children and fails with
   `ChildFailed`. That is a crash of the supervisor, which its own supervisor handles; the root's leaves `open_node`.
4. The first restart within a period comes at once, later ones after a back-off that doubles, with jitter.
5. A child that can't start is not retried when it starts for the first time: the error goes to who asked for it.
6. To stop a child is to ask it (`Shutdown`), and to cancel it if it has not ended after `shutdown` seconds. A child that
   is a supervisor gets all the time its own children are allowed.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import trio

from ._errors import ActorDown, ChildFailed, NameInUse
from ._executor import Actor, Executor
from ._ids import Pid, check_name
from ._mailbox import Mailbox
from ._process import Process
from ._service import Service, is_async_factory, service_of

logger = logging.getLogger("rabble_trio.supervisor")

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
Restart = Literal["permanent", "transient", "temporary"]
Factory = Callable[[], "Process | Service | Supervisor"] | Callable[[Mailbox], Awaitable[None]]
"""Makes an actor, afresh for every start; or an async function that takes a mailbox, which is a service by itself."""

_STRATEGIES: Final = ("one_for_one", "one_for_all", "rest_for_one")
_RESTARTS: Final = ("permanent", "transient", "temporary")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, restart and stop a child. Raises `InvalidId` and `ValueError` for what can't be."""

    name: str
    """The name in the child's pid."""
    factory: Factory
    """Makes the child."""
    restart: Restart = "permanent"
    """When to restart it: always, after a crash ("transient"), or never ("temporary")."""
    shutdown: float = 5.0
    """Seconds it has to end by itself before it is cancelled. Supervisors take as long as their children need."""
    group: str | None = None
    """The group in the child's pid."""

    def __post_init__(self) -> None:
        check_name("actor", self.name)
        if self.group is not None:
            check_name("group", self.group)
        if self.restart not in _RESTARTS:
            raise ValueError(f"restart is one of {', '.join(_RESTARTS)}, not {self.restart!r}")
        if not self.shutdown >= 0:
            raise ValueError(f"shutdown is a number of seconds, 0 or more, not {self.shutdown!r}")
        if not callable(self.factory):
            raise TypeError(f"factory makes the child, so it must be callable; {self.factory!r} is not")


class Supervisor:
    """A node of the supervision tree. A factory that returns one makes a child that is itself a supervisor.

    `strategy`: who is restarted with a failing child. `children`: started in this order. `intensity`, `period`: at most
    so many restarts within so many seconds. `backoff`, `max_backoff`: seconds before the second restart within a period,
    doubled for each further one up to the maximum. Raises `ValueError` for what can't be.
    """

    def __init__(
        self,
        strategy: Strategy = "one_for_one",
        children: Iterable[ChildSpec] = (),
        *,
        intensity: int = 3,
        period: float = 5.0,
        backoff: float = 0.1,
        max_backoff: float = 10.0,
    ) -> None:
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy is one of {', '.join(_STRATEGIES)}, not {strategy!r}")
        if intensity < 0 or not period > 0 or not 0 <= backoff <= max_backoff:
            raise ValueError("intensity must be >= 0, period > 0, and 0 <= backoff <= max_backoff")
        self.strategy: Strategy = strategy
        self.children = tuple(children)
        self.intensity = intensity
        self.period = period
        self.backoff = backoff
        self.max_backoff = max_backoff


class _Child:
    """One child over all its incarnations."""

    def __init__(self, spec: ChildSpec, pid: Pid) -> None:
        self.spec = spec
        self.pid = pid
        self.actor: Actor | None = None  # the running incarnation
        self.is_supervisor = False
        self.stopping = False  # its end is our doing
        self.failure: Exception | None = None  # how the last incarnation ended; None: it finished
        self.ended = trio.Event()


@dataclass(slots=True, eq=False)
class _Request:
    """What a supervisor is asked from outside; the outcome is in the fields once `done` is set."""

    kind: Literal["start", "stop"]
    spec: ChildSpec | None
    pid: Pid
    done: trio.Event
    failure: BaseException | None = None


class SupervisorTask:
    """A running supervisor: the only one that starts and stops its children, one thing after the other."""

    def __init__(self, supervisor: Supervisor, actor: Actor, executor: Executor, rng: random.Random) -> None:
        self._plan = supervisor
        self._actor = actor
        self._executor = executor
        self._rng = rng
        self._children: dict[Pid, _Child] = {}  # in the order of their start
        self._ended: deque[_Child] = deque()
        self._requests: deque[_Request] = deque()
        self._restarts: deque[float] = deque()
        self._restart_at = float("inf")
        self._to_restart: dict[_Child, None] = {}
        self._closed = False
        self._nursery: trio.Nursery

    # ------------------------------------------------------------ from outside

    async def start_child(self, spec: ChildSpec) -> Pid:
        """Start one more child, after all others. Raises what its factory or `init` raises, or `NameInUse`."""
        pid = Pid(spec.name, self._executor.node, spec.group)
        await self._request(_Request("start", spec, pid, trio.Event()))
        return pid

    async def stop_child(self, pid: Pid) -> None:
        """Stop a child for good; returns when it has ended. Raises `ActorDown` if it is no child."""
        await self._request(_Request("stop", None, pid, trio.Event()))

    async def _request(self, request: _Request) -> None:
        if self._closed:
            raise ActorDown(self._actor.pid, "its supervisor is stopping")
        self._requests.append(request)
        self._actor.wake()
        try:
            await request.done.wait()
        except trio.Cancelled:
            if request in self._requests:  # not begun, so it need not happen
                self._requests.remove(request)
            raise
        if request.failure is not None:
            raise request.failure

    # ------------------------------------------------------------------- loop

    async def run(self, started: Callable[[], None]) -> None:
        """Start the children, then keep them until asked to shut down; raises `ChildFailed` when giving up."""
        actor = self._actor
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    for spec in self._plan.children:
                        await self._start(_Child(spec, Pid(spec.name, self._executor.node, spec.group)))
                    started()
                    while not actor.shutdown_requested:
                        await self._next_event()
                finally:
                    self._closed = True
                    self._refuse_requests()
                    await self._stop_children(list(self._children.values()))
        except BaseExceptionGroup as group:
            failure = leaf(group)
        if failure is not None:
            raise failure

    async def _next_event(self) -> None:
        if self._ended:
            await self._on_end(self._ended.popleft())
        elif self._requests:
            await self._on_request(self._requests.popleft())
        elif trio.current_time() >= self._restart_at:
            await self._restart()
        else:
            await self._actor.park(self._restart_at)

    def _refuse_requests(self) -> None:
        while self._requests:
            request = self._requests.popleft()
            request.failure = ActorDown(request.pid, "its supervisor is stopping")
            request.done.set()

    async def _on_request(self, request: _Request) -> None:
        try:
            if request.spec is not None:
                if request.pid in self._children:
                    raise NameInUse.of(request.pid)
                await self._start(_Child(request.spec, request.pid))
            else:
                child = self._children.get(request.pid)
                if child is None:
                    raise ActorDown(request.pid, "not running")
                await self._stop_children([child])
                self._forget(child)
        except Exception as error:
            request.failure = error
        except BaseException:
            request.failure = ActorDown(request.pid, "its supervisor is stopping")
            raise
        finally:
            request.done.set()

    async def _on_end(self, child: _Child) -> None:
        """A child ended that nobody stopped: restart it, or let it go."""
        if child.stopping or self._children.get(child.pid) is not child:
            return
        restart = child.spec.restart
        if restart == "temporary" or (restart == "transient" and child.failure is None):
            self._forget(child)
            return
        now = trio.current_time()
        restarts = self._restarts
        restarts.append(now)
        while restarts[0] <= now - self._plan.period:
            restarts.popleft()
        if len(restarts) > self._plan.intensity:
            raise ChildFailed(child.pid, len(restarts) - 1, self._plan.period) from child.failure
        group = self._affected(child)
        self._to_restart.update(dict.fromkeys(group))
        await self._stop_children([other for other in group if other is not child])
        delay = 0.0
        if len(restarts) > 1:
            delay = min(self._plan.max_backoff, self._plan.backoff * 2.0 ** (len(restarts) - 2))
            delay *= 0.5 + self._rng.random() / 2
        self._restart_at = now + delay
        logger.warning("%s: restarting %s%s", self._actor.pid, child.pid, f" in {delay:.2f} s" if delay else "")

    def _affected(self, child: _Child) -> list[_Child]:
        """Who is restarted with a child, itself included, in the order of their start."""
        children = list(self._children.values())
        if self._plan.strategy == "one_for_one":
            return [child]
        if self._plan.strategy == "one_for_all":
            return children
        return children[children.index(child) :]

    async def _restart(self) -> None:
        self._restart_at = float("inf")
        # In the order of the children, which is not the order in which they failed.
        for child in [child for child in self._children.values() if child in self._to_restart]:
            del self._to_restart[child]
            self._executor.restarts += 1
            try:
                await self._start(child)
            except Exception as error:
                child.failure = error
                logger.exception("%s: %s could not be restarted", self._actor.pid, child.pid)
                await self._on_end(child)
                return

    def _forget(self, child: _Child) -> None:
        if self._children.get(child.pid) is child:
            del self._children[child.pid]
        self._to_restart.pop(child, None)

    # --------------------------------------------------------------- children

    async def _start(self, child: _Child) -> None:
        """Start an incarnation of a child; returns when it is initialised, raises what kept it from that."""
        child.ended = trio.Event()
        child.failure = None
        child.stopping = False
        failure: BaseException | None = None
        try:
            await self._nursery.start(self._run_child, child)
        except BaseExceptionGroup as group:
            failure = leaf(group)
        if failure is not None:
            raise failure
        self._children.setdefault(child.pid, child)

    async def _run_child(self, child: _Child, task_status: trio.TaskStatus[None]) -> None:
        """One incarnation, from its factory to its end. Nothing but cancellation of the whole tree leaves it."""
        factory = child.spec.factory
        made = service_of(cast(Any, factory)) if is_async_factory(factory) else cast(Any, factory)()
        actor = self._make_actor(child, made)
        executor = self._executor
        executor.register(actor)
        child.actor = actor
        reached_start = False

        def started() -> None:
            nonlocal reached_start
            reached_start = True
            task_status.started()

        reason = "stopped"
        trio.lowlevel.current_task().name = f"{actor.kind} {actor.pid}"
        try:
            with actor.scope:
                await self._run_actor(actor, made, started)
            if actor.failure is not None and actor.scope.cancelled_caught:
                raise actor.failure
            if not reached_start:
                raise ActorDown(actor.pid, "it ended before it was initialised")
            if not child.stopping:
                reason = "finished"
        except Exception as error:
            child.failure = error
            reason = f"crashed: {type(error).__name__}: {error}"[:500]
            if not reached_start:
                raise
            logger.error("%s crashed", actor.pid, exc_info=error)
        finally:
            child.actor = None
            executor.unregister(actor, reason)
            child.ended.set()
            if reached_start:
                self._ended.append(child)
                self._actor.wake()

    def _make_actor(self, child: _Child, made: object) -> Actor:
        if isinstance(made, Process | Service):
            kind = "process" if isinstance(made, Process) else "service"
            actor = Actor(child.pid, kind, made.mailbox_size)
        elif isinstance(made, Supervisor):
            child.is_supervisor = True
            actor = Actor(child.pid, "supervisor", 0)
        else:
            raise TypeError(
                f"the factory of {child.pid} made {made!r}: it must make a Process, a Service or a Supervisor, or be an "
                "async function that takes a mailbox"
            )
        actor.supervisor = self
        return actor

    async def _run_actor(self, actor: Actor, made: Any, started: Callable[[], None]) -> None:
        if isinstance(made, Process):
            await self._executor.run_process(actor, made, started)
        elif isinstance(made, Service):
            mailbox = Mailbox(self._executor, actor)
            await made.init(mailbox)
            started()
            await made.run(mailbox)
        else:
            task = SupervisorTask(made, actor, self._executor, self._rng)
            actor.children = task
            await task.run(started)

    async def _stop_children(self, children: list[_Child]) -> None:
        """Stop children in reverse order, each with its deadline; returns when the last has ended."""
        for child in reversed(children):
            actor = child.actor
            child.stopping = True
            if actor is None:
                continue
            actor.request_shutdown()
            with trio.move_on_after(float("inf") if child.is_supervisor else child.spec.shutdown):
                await child.ended.wait()
            if not child.ended.is_set():
                logger.warning("%s did not end within %g s, so it is cancelled", actor.pid, child.spec.shutdown)
                actor.scope.cancel()
                await child.ended.wait()


def leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that a nursery wrapped; the group itself where there are several."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
