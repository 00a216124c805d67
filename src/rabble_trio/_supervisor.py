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
7. A child that is being started is cancelled, not asked: when whoever spawns it is cancelled, when it is stopped, and
   when its supervisor stops. So an `init` that hangs keeps nobody from stopping.
8. A child's name is taken from its first start until it is gone for good, also between two incarnations.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import trio

from ._actor import INF, Actor
from ._errors import ActorDown, ActorKilled, ChildFailed
from ._executor import Executor
from ._ids import Pid, check_name
from ._mailbox import Mailbox
from ._process import Process
from ._service import Service, is_async_factory, service_of
from ._steps import shorten

logger = logging.getLogger("rabble_trio.supervisor")

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who is restarted with a child: nobody, all children, or those that were started after it."""

Restart = Literal["permanent", "transient", "temporary"]
"""When a child is restarted: always, after a crash ("transient"), or never ("temporary")."""

Factory = Callable[[], "Process | Service | Supervisor"] | Callable[[Mailbox], Awaitable[None]]
"""Makes an actor, afresh for every start: a callable that returns a `Process`, a `Service` or a `Supervisor`. Or an async
function that takes a `Mailbox`, which is a service by itself."""

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
        self.stopping = False  # the end of this incarnation is our doing
        self.unwanted = False  # it is to be stopped for good
        self.failure: Exception | None = None  # how the last incarnation ended; None: it finished
        self.ended = trio.Event()  # this incarnation
        self.gone = trio.Event()  # all of it


class SupervisorTask:
    """A running supervisor. It restarts and stops its children, one thing after the other, in a task of its own.

    A child that is spawned is started in the task of whoever spawns it, under that task's cancel scopes; from then on the
    supervisor has it. So one that starts slowly keeps nobody else waiting.
    """

    def __init__(self, supervisor: Supervisor, actor: Actor, executor: Executor, rng: random.Random) -> None:
        self._plan = supervisor
        self._actor = actor
        self._executor = executor
        self._rng = rng
        self._children: dict[Pid, _Child] = {}  # in the order of their start
        self._starting: dict[_Child, trio.CancelScope] = {}  # first starts and restarts
        self._ended: deque[_Child] = deque()
        self._unwanted: deque[_Child] = deque()
        self._restarts: deque[float] = deque()
        self._to_restart: dict[_Child, float] = {}  # who waits to be restarted, and until when, in Trio's clock
        self._closed = False
        self._nursery: trio.Nursery

    # ------------------------------------------------------------ from outside

    @property
    def stopping(self) -> bool:
        """Whether it starts no more children."""
        return self._closed or self._actor.shutdown_requested

    async def start_child(self, spec: ChildSpec) -> Pid:
        """Start one more child, after all others. Raises what its factory or `init` raises, `NameInUse` or `ActorDown`.

        If cancelled, the child does not run.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.stopping:
            raise ActorDown(self._actor.pid, "it is stopping")
        child = _Child(spec, Pid(spec.name, self._executor.node, spec.group))
        await self._start_first(child)
        return child.pid

    async def stop_child(self, pid: Pid) -> None:
        """Stop a child for good; returns when it has ended. Raises `ActorDown` if it is no child.

        If cancelled, the child ends all the same.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        starting = next((child for child in self._starting if child.pid == pid), None)
        child = starting or self._children.get(pid)
        if child is None:
            raise ActorDown(pid, "not running")
        child.unwanted = True
        if starting is not None:
            self._starting[starting].cancel()
        self._unwanted.append(child)
        self._actor.wake()
        await child.gone.wait()

    def give_up_starts(self) -> None:
        """Cancel the children that are being started: the supervisor is to stop."""
        for scope in self._starting.values():
            scope.cancel()

    # ------------------------------------------------------------------- loop

    async def run(self, started: Callable[[], None]) -> None:
        """Start the children, then keep them until asked to shut down; raises `ChildFailed` when giving up."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    for spec in self._plan.children:
                        await self._start_first(_Child(spec, Pid(spec.name, self._executor.node, spec.group)))
                    started()
                    while not self._actor.shutdown_requested:
                        await self._next_event()
                finally:
                    self._closed = True
                    self.give_up_starts()
                    await self._stop_children(list(self._children.values()))
        except BaseExceptionGroup as group:
            failure = leaf(group)
        finally:
            for child in list(self._children.values()):
                self._forget(child)
        if failure is not None:
            raise failure

    async def _next_event(self) -> None:
        if self._ended:
            await self._on_end(self._ended.popleft())
        elif self._unwanted:
            child = self._unwanted.popleft()
            if self._children.get(child.pid) is child:
                await self._stop_children([child])
                self._forget(child)  # it may not have run
        else:
            next_restart = min(self._to_restart.values(), default=INF)
            if trio.current_time() >= next_restart:
                await self._restart()
            else:
                await self._actor.park(next_restart)

    async def _on_end(self, child: _Child) -> None:
        """A child ended: restart it, unless its end was our doing or it is gone for good."""
        if child.stopping or self._children.get(child.pid) is not child:
            return
        now = trio.current_time()
        restarts = self._restarts
        restarts.append(now)
        while restarts[0] <= now - self._plan.period:
            restarts.popleft()
        if len(restarts) > self._plan.intensity:
            raise ChildFailed(child.pid, len(restarts) - 1, self._plan.period) from child.failure
        group = self._affected(child)
        await self._stop_children([other for other in group if other is not child])
        delay = self._backoff(len(restarts))
        for other in group:
            if not other.gone.is_set():
                self._to_restart[other] = now + delay
        logger.warning("%s: restarting %s%s", self._actor.pid, child.pid, f" in {delay:.2f} s" if delay else "")

    def _backoff(self, restarts: int) -> float:
        """Seconds to wait before the last of so many restarts within a period."""
        if restarts <= 1:
            return 0.0
        # The exponent is bounded because floats end at 2**1024; the delay is, by far sooner.
        delay = min(self._plan.max_backoff, self._plan.backoff * 2.0 ** min(restarts - 2, 60))
        return delay * (0.5 + self._rng.random() / 2)

    def _affected(self, child: _Child) -> list[_Child]:
        """Who is restarted with a child, itself included, in the order of their start."""
        children = list(self._children.values())
        if self._plan.strategy == "one_for_one":
            return [child]
        if self._plan.strategy == "one_for_all":
            return children
        return children[children.index(child) :]

    async def _restart(self) -> None:
        """Restart the children whose time has come."""
        now = trio.current_time()
        # In the order of the children, which is not the order in which they failed.
        for child in [child for child in self._children.values() if self._to_restart.get(child, INF) <= now]:
            if self._actor.shutdown_requested:
                return
            del self._to_restart[child]
            if child.unwanted:
                continue
            self._executor.restarts += 1
            try:
                await self._start(child)
            except Exception as error:
                if child.unwanted or self.stopping:
                    continue  # it was we who cancelled its start
                child.failure = error
                logger.exception("%s: %s could not be restarted", self._actor.pid, child.pid)
                await self._on_end(child)
                return

    def _is_over(self, child: _Child) -> bool:
        """Whether the incarnation that ends is the last one."""
        restart = child.spec.restart
        if restart == "transient" and child.failure is None and not child.stopping:
            return True
        return child.unwanted or restart == "temporary"

    def _forget(self, child: _Child) -> None:
        """A child is gone for good."""
        if self._children.get(child.pid) is child:
            del self._children[child.pid]
        self._to_restart.pop(child, None)
        if self._executor.owners.get(child.pid) is self and not child.gone.is_set():
            del self._executor.owners[child.pid]
        child.gone.set()

    # --------------------------------------------------------------- children

    async def _start_first(self, child: _Child) -> None:
        """Start a new child. It is one of the children from the moment it is initialised, and otherwise gone."""
        self._executor.claim(child.pid, self)
        try:
            await self._start(child)
        finally:
            if self._children.get(child.pid) is not child:
                self._forget(child)

    async def _start(self, child: _Child) -> None:
        """Start an incarnation of a child; returns when it is initialised, raises what kept it from that."""
        child.ended = trio.Event()
        child.failure = None
        child.stopping = False
        scope = self._starting[child] = trio.CancelScope()
        try:
            with scope:
                await self._nursery.start(self._run_child, child)
        finally:
            del self._starting[child]
        if scope.cancelled_caught:
            raise ActorDown(child.pid, "it was stopped before it was initialised")

    async def _run_child(self, child: _Child, task_status: trio.TaskStatus[None]) -> None:
        """One incarnation, from its factory to its end. Only cancellation, and what keeps it from starting, leave it."""
        factory = child.spec.factory
        made = service_of(cast(Any, factory)) if is_async_factory(factory) else cast(Any, factory)()
        actor = self._make_actor(child, made)
        executor = self._executor
        if executor.recorder is not None and isinstance(made, Process):
            made = executor.recorder.watch(actor, made, factory)
        executor.register(actor, self)
        child.actor = actor
        reached_start = False

        def started() -> None:
            nonlocal reached_start
            reached_start = True
            # Now, and not when the task that starts it runs again: until then it may have crashed already.
            self._children.setdefault(child.pid, child)
            task_status.started()

        reason = "stopped"
        trio.lowlevel.current_task().name = f"{actor.kind} {actor.pid}"
        try:
            with actor.scope:
                await self._run_actor(actor, made, started)
            if actor.failure is not None and actor.scope.cancelled_caught:
                raise actor.failure
            if not child.stopping:
                reason = "finished"
        except Exception as error:
            child.failure = error
            reason = f"crashed: {shorten(error, _describe)}"
            if not reached_start:
                raise
            if type(error) is ActorKilled:
                # Somebody wished it: a traceback would lead nowhere.
                logger.error("%s was killed: %s", actor.pid, error)
            else:
                logger.error("%s crashed", actor.pid, exc_info=error)
        except BaseException:
            # The whole tree is cancelled, or whoever spawned this child was before it had it. Either way it is not ours to
            # restart. (A Ctrl-C that hit the actor's own code comes here too.)
            child.unwanted = True
            raise
        finally:
            child.actor = None
            if self._is_over(child):
                self._forget(child)  # before anybody hears that it ended, and wants to use its name
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
        if not actor.capacity >= 0:
            raise ValueError(f"mailbox_size of {type(made).__name__} must be 0 or more, not {actor.capacity!r}")
        return actor

    async def _run_actor(self, actor: Actor, made: Any, started: Callable[[], None]) -> None:
        if isinstance(made, Process):
            await self._executor.steps.run(actor, made, started)
        elif isinstance(made, Service):
            mailbox = Mailbox(self._executor, actor)
            await made.init(mailbox)
            started()
            try:
                await made.run(mailbox)
            except trio.EndOfChannel:
                # A service that calls receive() and nothing else learns by this that it is to end, which is no crash.
                if not actor.shutdown_requested:
                    raise
        else:
            task = SupervisorTask(made, actor, self._executor, self._rng)
            actor.children = task
            await task.run(started)

    async def _stop_children(self, children: list[_Child]) -> None:
        """Stop children in reverse order, each with its deadline; returns when the last has ended."""
        for child in reversed(children):
            actor = child.actor
            child.stopping = True
            self._to_restart.pop(child, None)
            if actor is None:
                continue
            actor.request_shutdown()
            with trio.move_on_after(INF if child.is_supervisor else child.spec.shutdown):
                await child.ended.wait()
            if not child.ended.is_set():
                logger.warning("%s did not end within %g s, so it is cancelled", actor.pid, child.spec.shutdown)
                actor.scope.cancel()
                await child.ended.wait()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that a nursery wrapped, which may be a group of the user's; the nursery's where there are several."""
    return group.exceptions[0] if len(group.exceptions) == 1 else group
