"""`haret demo`: what haret promises, tried in a few seconds on this machine.

It runs three nodes, each a process, with a replica of one namespace on each, and talks to them as any client does. It works
every type of node of the tree. Then, while several tasks write, it kills the primary's process and starts it again, and kills
all processes at once and starts them again. At last it looks for anything that was acknowledged and is lost, was done
twice, or is out of order. Each promise is a check, and each check can fail.
"""

from __future__ import annotations

import logging
import signal
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

import haret
from rabble_trio import Pid, RabbleError

from .evidence import counted_exactly, in_order, longest_gap, nothing_lost, nothing_twice
from .failures import CommandFailed, Exit, leaves
from .interrupt import SHUTDOWN, run_trio
from .output import Console, escape, json_line
from .processes import NodeProcess, Processes, open_processes

NAMESPACE: Final = "demo"
"""What the demonstration's namespace is called."""

LOAD_BEFORE: Final = 1.0
"""Seconds of load before the primary is killed."""

LOAD_BETWEEN: Final = 0.5
"""Seconds of load after the killed node is back, before all nodes are killed; and after all are back."""

LAST_WORDS: Final = 0.1
"""Seconds in which clients read what nodes wrote before they were killed."""

REJOINING: Final = 8.0
"""Seconds that a restarted node has to take part again."""

LOOK: Final = 0.02
"""Seconds between looks at what nobody tells of."""

PATIENCE: Final = 30.0
"""Seconds that the writers wait for an answer: three processes that start at once may take some on a busy machine."""

PUSHERS: Final = 6
"""Tasks that push elements on one queue."""

COUNTERS: Final = 2
"""Tasks that count one number up, by compare-and-set: few, because each success of one is a failure of the others."""

LIMIT: Final = 60.0
"""Seconds after which the demonstration has failed: a few times what it takes."""

POPPED_AT_ONCE: Final = 100
"""Elements that one multi-CAS pops, when everything is read back."""


def add_parser(place: Any, parents: Sequence[ArgumentParser]) -> None:
    """Add `haret demo` to the command line."""
    parser = place.add_parser(
        "demo",
        help="see and check what haret does, in a few seconds; start here",
        usage="%(prog)s [options]",
        description="Start three nodes, each a process, on free ports of this machine, work every type of node of the tree,\n"
        "kill the primary's process under load, and start it again; then kill all processes at once, and start them again.\n"
        "Check that nothing acknowledged was lost or done twice, and that all replicas agree. Nothing is left behind.\n"
        f"Exit code {Exit.OK:d} if every check holds, {Exit.FAILURE:d} if one does not.",
        epilog="example:\n  haret demo\n  haret demo -o json",
        parents=list(parents),
    )
    parser.set_defaults(start=start)


def start(options: Namespace, console: Console) -> int:
    """Run the demonstration."""
    # Connections that break are logged, as they always are. Here it is on purpose, and the report tells of it.
    logging.getLogger().addHandler(logging.NullHandler())
    report = Report(console)
    try:
        run_trio(lambda: _demonstrate(report), SHUTDOWN)
    except* (haret.HaretError, RabbleError, CommandFailed) as errors:
        report.check("the step succeeds", "; ".join(f"{type(one).__name__}: {one}" for one in leaves(errors)))
    return report.finish()


async def _demonstrate(report: Report) -> None:
    report.step(
        "Start three nodes, each a process, and a namespace: a group of three replicas that agree on every change"
    )
    with trio.move_on_after(LIMIT) as limit, tempfile.TemporaryDirectory(prefix="haret-demo-") as directory:
        async with open_processes(Path(directory), 3) as cluster:
            await create_namespace(report, cluster)
            async with haret.open_client(cluster.endpoints(), NAMESPACE) as client:
                await show_blobs(report, client)
                await show_queues(report, client)
                await show_sets(report, client)
                await show_directories(report, client)
                await show_multi_cas(report, client)
            load = await break_under_load(report, cluster)
            await verify(report, cluster, load)
    if limit.cancelled_caught:
        report.check(f"the demonstration ends within {LIMIT:g} s", "it did not; on an idle machine it takes about 10")


# --------------------------------------------------------------------- report


@dataclass
class Report:
    """Prints steps and checks as they come, or all of them as JSON at the end."""

    console: Console
    steps: list[dict[str, Any]] = field(default_factory=list)
    failover: dict[str, Any] = field(default_factory=dict)

    def step(self, title: str) -> None:
        """Something new begins."""
        self.steps.append({"title": title, "checks": []})
        self._print(f"\n{len(self.steps)}. {title}\n")

    def tell(self, text: str) -> None:
        """Something happened."""
        self._print(f"   {text}\n")

    def check(self, promise: str, problem: str | None) -> None:
        """Something was promised, and holds if there is no problem."""
        self.steps[-1]["checks"].append({"promise": promise, "ok": problem is None, "problem": problem})
        self._print(f"   {'ok   ' if problem is None else 'FAIL '} {promise}{f': {problem}' if problem else ''}\n")

    def equal(self, promise: str, found: object, expected: object) -> None:
        """Something was promised, and holds if what was found is what was expected."""
        self.check(promise, None if found == expected else f"found {found!r}, expected {expected!r}")

    def finish(self) -> Exit:
        """Print the summary; returns the exit code."""
        checks = [check for step in self.steps for check in step["checks"]]
        failed = sum(not check["ok"] for check in checks)
        if self.console.form == "json":
            report = {"ok": not failed, "checks": len(checks), "failed": failed, "failover": self.failover}
            self.console.write(json_line({**report, "steps": self.steps}))
        elif failed:
            self.console.write(f"\n{failed} of {len(checks)} checks FAILED.\n")
        else:
            self.console.write(
                f"\nAll {len(checks)} checks hold. The primary was killed, and clients waited for "
                f"{self.failover['pause_ms']} ms; all nodes were killed at once, and {self.failover['restart_ms']} ms after "
                "they ran again, clients were served. No acknowledged write was lost.\n"
            )
        return Exit.FAILURE if failed else Exit.OK

    def _print(self, text: str) -> None:
        if self.console.form != "json":
            self.console.write(escape(text, lines=True))


# ------------------------------------------------------------- every type once


async def create_namespace(report: Report, cluster: Processes) -> None:
    """The beginning of everything."""
    for node in cluster:
        report.tell(f"{node.id} is process {node.pid}; clients connect to {node.clients}")
    namespace = await cluster.create_namespace(NAMESPACE)
    report.tell(f"replicas: {', '.join(str(replica) for replica in namespace.replicas)}")
    report.check(
        f"the replicas have a primary: {_name(namespace.primary)}", None if namespace.primary else "they have none"
    )


async def show_blobs(report: Report, client: haret.Client) -> None:
    """Blobs."""
    report.step("Blobs hold bytes")
    created = await client.create("/site/motd", "blob")
    put = await client.blob_put("/site/motd", b"hello")
    got = await client.blob_get("/site/motd")
    report.equal("what was put into /site/motd is what comes out", got.value, b"hello")
    report.equal("its size is known", (await client.blob_size("/site/motd")).value, 5)
    report.check(
        f"its version grew with the change, from {created.version} to {put.version}",
        None if got.version == put.version > created.version else f"it is {got.version}",
    )


async def show_queues(report: Report, client: haret.Client) -> None:
    """Queues."""
    report.step("Queues keep the order of what was pushed")
    await client.create("/site/jobs", "queue")
    for job in (b"first", b"second", b"third"):
        await client.queue_push("/site/jobs", job)
    ends = (await client.queue_front("/site/jobs")).value, (await client.queue_back("/site/jobs")).value
    report.equal("three elements were pushed on /site/jobs", (await client.queue_len("/site/jobs")).value, 3)
    report.equal("both ends can be seen", ends, (b"first", b"third"))
    popped = [(await client.queue_pop("/site/jobs")).value for _ in range(4)]
    report.equal("they are popped in order, and then there is nothing", popped, [b"first", b"second", b"third", None])


async def show_sets(report: Report, client: haret.Client) -> None:
    """Sets, and set algebra."""
    report.step("Sets hold each element once, and can be computed with")
    left, right = "/site/admins", "/site/users"
    for path, names in ((left, (b"ann", b"bob")), (right, (b"bob", b"cy", b"dee"))):
        await client.create(path, "set")
        for name in names:
            await client.set_insert(path, name)
    report.equal("an element is inserted once", (await client.set_insert(left, b"ann")).value, False)
    report.equal("removed once", [(await client.set_remove(right, b"dee")).value for _ in "12"], [True, False])
    contains = [(await client.set_contains(right, name)).value for name in (b"cy", b"dee")]
    report.equal("and found or not found", contains, [True, False])
    algebra = [
        (await client.set_union(left, right)).value,
        (await client.set_intersection(left, right)).value,
        (await client.set_difference(left, right)).value,
        (await client.set_symmetric_difference(left, right)).value,
    ]
    report.equal(
        "union, intersection, difference and symmetric difference are right",
        algebra,
        [{b"ann", b"bob", b"cy"}, {b"bob"}, {b"ann"}, {b"ann", b"cy"}],
    )
    subsets = (await client.set_subset({b"bob"}, left)).value, (await client.set_superset(left, right)).value
    report.equal("so are subset and superset", subsets, (True, False))


async def show_directories(report: Report, client: haret.Client) -> None:
    """Directories."""
    report.step("Directories make it a tree")
    await client.create("/tmp/a/b", "blob")
    paths = [key.path for key in (await client.list_keys("/")).value]
    expected = ["/", "/site", *(f"/site/{name}" for name in ("admins", "jobs", "motd", "users"))]
    report.equal("the tree is listed in order", paths, [*expected, "/tmp", "/tmp/a", "/tmp/a/b"])
    await client.delete("/tmp")
    report.equal(
        "a directory is deleted with all below it", [key.path for key in (await client.list_keys("/")).value], expected
    )


async def show_multi_cas(report: Report, client: haret.Client) -> None:
    """Multi-CAS, with a guard that holds and one that does not."""
    report.step("A multi-CAS changes several nodes at once, if what it was decided upon is still true")
    seen = (await client.blob_get("/site/motd")).version
    operations: list[Any] = [haret.BlobPut("/site/motd", b"bye"), haret.QueuePush("/site/jobs", b"tell everybody")]
    await client.multi_cas(guards=[("/site/motd", seen)], operations=operations)
    now = (await client.blob_get("/site/motd")).value, (await client.queue_len("/site/jobs")).value
    report.equal(f"guarded by version {seen} of /site/motd, a blob and a queue change together", now, (b"bye", 1))
    try:
        await client.multi_cas(guards=[("/site/motd", seen)], operations=operations)
        refused: str | None = "it was done"
    except haret.CasFailed:
        refused = None
    report.check("the same once more is refused, because the guard is stale", refused)
    again = (await client.blob_get("/site/motd")).value, (await client.queue_len("/site/jobs")).value
    report.equal("and changes nothing", again, now)


# --------------------------------------------------------- load, and the crash


@dataclass
class Load:
    """What the writers did. Times are seconds of Trio's clock."""

    pushed: list[bytes] = field(default_factory=list)
    """Elements whose push was acknowledged."""
    increments: int = 0
    """How often counting up was acknowledged."""
    errors: Counter[str] = field(default_factory=Counter)
    """What writers were told instead."""
    acknowledged_at: list[float] = field(default_factory=list)
    """When writes were acknowledged."""
    killed_at: float = 0.0
    """When the primary was killed."""
    all_killed_at: float = 0.0
    """When all nodes were."""
    stopping: bool = False
    """Writers end after the write that they are at."""
    progress: trio.Event = field(default_factory=trio.Event)
    """The next acknowledgement comes."""

    def acknowledged(self) -> None:
        """A write was acknowledged."""
        self.acknowledged_at.append(trio.current_time())
        self.progress.set()
        self.progress = trio.Event()


async def break_under_load(report: Report, cluster: Processes) -> Load:
    """Let tasks write, and kill the primary's process meanwhile, and then all."""
    report.step(
        f"Load: {PUSHERS} tasks push numbered elements on one queue, {COUNTERS} count one number up by compare-and-set"
    )
    load = Load()
    opened = [haret.open_client(cluster.endpoints(), NAMESPACE, give_up_after=PATIENCE) for _ in "12"]
    async with opened[0] as pusher, opened[1] as counter:
        await pusher.create("/load/queue", "queue")
        await counter.create("/load/count", "blob")
        async with trio.open_nursery() as nursery:
            for number in range(PUSHERS):
                nursery.start_soon(_push, load, pusher, number)
            for _ in range(COUNTERS):
                nursery.start_soon(_count, load, counter)
            await trio.sleep(LOAD_BEFORE)
            report.tell(f"{len(load.acknowledged_at)} writes acknowledged in {LOAD_BEFORE:g} s, over 2 connections")
            killed = await _kill_primary(report, load, cluster)
            if killed is not None:
                await _start_again(report, cluster, killed)
            await trio.sleep(LOAD_BETWEEN)
            await _kill_all(report, load, cluster)
            await trio.sleep(LOAD_BETWEEN)
            load.stopping = True
    after = sum(when > load.all_killed_at for when in load.acknowledged_at)
    report.tell(f"{after} writes acknowledged since then; the tasks stop")
    return load


async def _kill_primary(report: Report, load: Load, cluster: Processes) -> NodeProcess | None:
    node = await cluster.primary(NAMESPACE)
    if node is None:
        report.check("there is a primary to kill", "there is none")
        return None
    async with cluster.admin(but=node) as admin:
        primary = await admin.primary(NAMESPACE)
        view = next(one.view for one in await admin.namespaces() if one.name == NAMESPACE)
        report.step(f"Kill the primary, {_name(primary)}, in the middle of it: SIGKILL to process {node.pid}")
        load.killed_at = trio.current_time()
        node.signal(signal.SIGKILL)
        await node.ended()
        while await admin.primary(NAMESPACE) in {primary, None}:
            await load.progress.wait()
        namespace = next(one for one in await admin.namespaces() if one.name == NAMESPACE)
    report.failover = {"old_primary": primary, "new_primary": namespace.primary, "view": namespace.view}
    report.check(
        f"the others chose {_name(namespace.primary)}, in view {namespace.view}",
        None if namespace.view > view else f"the view was {view} before",
    )
    return node


async def _start_again(report: Report, cluster: Processes, node: NodeProcess) -> None:
    report.step(f"Start {node.name} again, while the tasks go on")
    await node.start()
    report.tell(f"{node.id} is process {node.pid} now")
    others = [other.id for other in cluster if other is not node]
    found: list[str] = []
    async with haret.open_admin(node.admin) as admin:
        with trio.move_on_after(REJOINING):
            while found != others:
                await trio.sleep(LOOK)
                found = [str(one) for one in (await admin.cluster_status()).established]
        report.equal(f"{node.name} found the others by itself, and is a member again", found, others)
        replica: Pid = report.failover["old_primary"]
        report.equal(
            f"its replica, {replica.name}, goes on with what is on its disk, catches up, and takes part",
            await _status(admin, replica),
            "normal",
        )


async def _status(admin: haret.Admin, replica: Pid) -> str:
    """The status of a replica, as soon as it is normal; or what it was when there was no more time."""
    status = "not running"
    with trio.move_on_after(REJOINING):
        while status != "normal":
            with suppress(haret.Unanswered):  # it is about to be started
                status = (await admin.replica(replica)).status
            await trio.sleep(LOOK)
    return status


async def _kill_all(report: Report, load: Load, cluster: Processes) -> None:
    pids = ", ".join(str(node.pid) for node in cluster)
    report.step(f"Kill all nodes at once, in the middle of it: SIGKILL to the processes {pids}. Then start them again")
    await cluster.kill_all()
    await trio.sleep(LAST_WORDS)
    before = len(load.acknowledged_at)
    load.all_killed_at = trio.current_time()
    report.tell(f"nothing runs any more; {before} writes were acknowledged so far")
    await cluster.start_all()
    running = trio.current_time()
    report.tell(f"all three run again, {running - load.all_killed_at:.1f} s later")
    with trio.move_on_after(REJOINING):
        while len(load.acknowledged_at) == before:
            await load.progress.wait()
    served = [when - running for when in load.acknowledged_at[before:]]
    waited = (
        round(1000 * max(0.0, served[0])) if served else None
    )  # two of three are enough, so it may be less than nothing
    report.failover["restart_ms"] = waited
    report.check(
        "the replicas found each other, chose a primary and go on, without anybody's help",
        f"nothing was acknowledged within {REJOINING:g} s" if waited is None else None,
    )
    if waited is not None:
        report.tell(f"the first write was acknowledged {waited} ms after all ran")


async def _push(load: Load, client: haret.Client, writer: int) -> None:
    number = 0
    while not load.stopping:
        number += 1
        element = b"%d:%d" % (writer, number)
        try:
            await client.queue_push("/load/queue", element)
        except haret.HaretError as error:
            load.errors[type(error).__name__] += 1
            return  # in doubt: another attempt could push it twice
        load.pushed.append(element)
        load.acknowledged()


async def _count(load: Load, client: haret.Client) -> None:
    while not load.stopping:
        try:
            seen = await client.blob_get("/load/count")
            put = haret.BlobPut("/load/count", b"%d" % (int(seen.value or b"0") + 1))
            await client.multi_cas(guards=[("/load/count", seen.version)], operations=[put])
        except haret.CasFailed:
            continue  # the other one was faster
        except haret.HaretError as error:
            load.errors[type(error).__name__] += 1
            return
        load.increments += 1
        load.acknowledged()


# ----------------------------------------------------------------- afterwards


async def verify(report: Report, cluster: Processes, load: Load) -> None:
    """Read everything back, as somebody who had no part in it."""
    pause = longest_gap([when for when in load.acknowledged_at if when <= load.all_killed_at], load.killed_at)
    report.failover |= {"pause_ms": round(pause * 1000), "acknowledged": len(load.acknowledged_at)}
    report.step("Read everything back over a new connection, and compare it with what was acknowledged")
    report.tell(f"while one node was down, the longest time without an acknowledged write was {pause * 1000:.0f} ms")
    async with haret.open_client(cluster.endpoints(), NAMESPACE) as reader:
        found = await drain(reader, "/load/queue")
        count = int((await reader.blob_get("/load/count")).value or b"0")
    errors = ", ".join(f"{number} times {name}" for name, number in load.errors.items())
    report.check("no writer saw an error, only a pause", errors or None)
    report.check(f"none of {len(load.pushed)} acknowledged elements is lost", nothing_lost(load.pushed, found))
    report.check("none was pushed twice", nothing_twice(found))
    report.check("each writer's elements are in the order in which it wrote them", in_order(found))
    report.check(f"the number is {load.increments}, once for each success", counted_exactly(load.increments, count))
    async with cluster.admin() as admin:
        await _check_replicas(report, admin)


async def drain(client: haret.Client, path: str) -> list[bytes]:
    """Pop all elements of a queue."""
    found: list[bytes] = []
    while True:
        reply = await client.multi_cas(operations=[haret.QueuePop(path)] * POPPED_AT_ONCE)
        values = [result.value for result in reply.value if isinstance(result.value, bytes)]
        found += values
        if len(values) < POPPED_AT_ONCE:
            return found


async def _check_replicas(report: Report, admin: haret.Admin) -> None:
    """All replicas agree, down to the last byte, as soon as all have heard of the last commit."""
    (namespace,) = await admin.namespaces()
    states: list[haret.Replica] = []
    with trio.move_on_after(REJOINING):
        while True:
            with suppress(haret.Unanswered):  # two of three are enough to go on: the third may not be linked yet
                states = [await admin.replica(pid) for pid in namespace.replicas]
                if len({state.commit for state in states}) == 1:
                    break
            await trio.sleep(LOOK)
    trees = {(state.commit, state.digest) for state in states}
    names = " and ".join(map(_name, namespace.replicas))
    report.check(f"{names} hold the same tree", None if len(trees) == 1 else f"they differ: {sorted(trees)}")


def _name(pid: Pid | None) -> str:
    return "nobody" if pid is None else pid.name
