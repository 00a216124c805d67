"""`haret dev`: a cluster on this machine, one process for each node, to try things with and to break."""

from __future__ import annotations

import math
import shlex
import signal
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final

import trio

from haret.protocol import MIN_REPLICAS

from .control import ask, open_control, serve
from .failures import EXPECTED, CommandFailed, Exit, UsageError, leaves
from .interrupt import SHUTDOWN, Interrupted, run_trio
from .output import Answer, Console
from .processes import MAX_NODES, PORTS, NodeProcess, Processes, find_cluster, open_processes

BASE_PORT: Final = 5000
"""The first port of the first node, unless told."""

NODES: Final = 3
"""How many nodes there are, unless told: the fewest of which one can be lost."""

ALL: Final = "all"
"""Instead of a node: all at once."""

NAMESPACE: Final = "demo"
"""The namespace that is made, unless told."""

ACTIONS: Final = ("kill", "restart", "pause", "resume", "status")
"""What can be done to a cluster that runs."""

WATCH: Final = 0.5
"""Seconds between looks whether a node has ended by itself."""


def add_parser(place: Any, parents: Sequence[ArgumentParser]) -> None:
    """Add `haret dev` to the command line."""
    parser = place.add_parser(
        "dev",
        help="run a cluster on this machine, one process for each node, to try and to break",
        usage="%(prog)s [options]\n       %(prog)s kill|restart|pause|resume NODE|primary|all\n       %(prog)s status",
        description="Run a cluster on this machine until Ctrl-C, with a namespace that has a replica on each node.\n"
        "From another terminal, `haret dev kill primary` and the like do to its nodes what happens in life:\n"
        "kill is SIGKILL, pause is SIGSTOP. What was acknowledged is on the disks of a majority of the nodes: even\n"
        "`haret dev kill all` loses nothing, and `haret dev restart all` brings it back. With --data-dir it outlives the\n"
        "cluster as well. Without --base-port, all other commands find the cluster by themselves.",
        epilog="example:\n  haret dev\n  haret dev --nodes 5 --base-port 7000\n  haret dev kill primary",
        parents=list(parents),
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, help="what to do to the cluster that runs already")
    parser.add_argument("node", nargs="?", metavar="NODE", help="n1, n2, ..., `primary`: whose replica leads; or `all`")
    parser.add_argument("--nodes", type=_count, metavar="N", help=f"how many nodes (default {NODES})")
    parser.add_argument(
        "--base-port",
        type=_port,
        metavar="PORT",
        help=f"the first port; a node takes three, and the next one begins {PORTS} later (default {BASE_PORT})",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="for configurations, logs and data of the nodes, to go on with another time; by default one that is removed",
    )
    parser.set_defaults(start=start)


def start(options: Namespace, console: Console) -> int:
    """Run a cluster, or do something to the one that runs."""
    if options.action is not None:
        return _act(options, console)
    try:
        run_trio(lambda: _run(options, console), SHUTDOWN)
    except Interrupted as end:
        return Exit.OK if end.number == SIGTERM else Exit.INTERRUPTED
    except ExceptionGroup as group:
        expected = group.subgroup(EXPECTED)
        if expected is None:
            raise
        raise leaves(expected)[0] from None
    return Exit.OK


def _act(options: Namespace, console: Console) -> int:
    if options.action != "status" and options.node is None:
        raise UsageError(f"which node? haret dev {options.action} NODE", f"n1, n2, ..., `primary` or `{ALL}`")
    question = {"action": options.action, "node": options.node}
    answer = run_trio(lambda: ask(options.base_port or BASE_PORT, question))
    del answer["ok"]
    if "nodes" in answer:
        console.print(_table(answer))
    else:
        text = answer["text"]
        console.print(Answer(answer, rows=[(text,)], raw=f"{text}\n".encode()))
    return Exit.OK


# ------------------------------------------------------------------ the cluster


async def _run(options: Namespace, console: Console) -> None:
    namespace = getattr(options, "namespace", None) or NAMESPACE
    with ExitStack() as stack:
        directory, count, base_port = _layout(options, stack)
        async with (
            open_control(base_port) as listener,
            open_processes(directory, count, base_port) as processes,
            trio.open_nursery() as nursery,
        ):
            await processes.provide_namespace(namespace)
            cluster = _Cluster(processes, namespace)
            _show(await cluster.status(), base_port, console)
            nursery.start_soon(serve, listener, cluster.answer)
            nursery.start_soon(_watch, processes, console)


def _layout(options: Namespace, stack: ExitStack) -> tuple[Path, int, int]:
    """Where the files of the nodes are, how many nodes there are, and their first port: as an earlier run had it."""
    if options.data_dir is None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haret-dev-")))
        return directory, options.nodes or NODES, options.base_port or BASE_PORT
    directory = Path(options.data_dir)
    count, base_port = find_cluster(directory) or (options.nodes or NODES, options.base_port or BASE_PORT)
    if options.nodes not in {None, count} or options.base_port not in {None, base_port}:
        raise CommandFailed(
            f"{directory} holds a cluster of {count} nodes from port {base_port} on, and it can't be another one",
            code=Exit.USAGE,
            hint=f"leave out --nodes and --base-port, or start anew after: rm -r {shlex.quote(str(directory))}",
        )
    return directory, count, base_port


async def _watch(processes: Processes, console: Console) -> None:
    """Tell of nodes that ended though nobody asked them to."""
    while True:
        await trio.sleep(WATCH)
        for node in processes:
            if node.state == "runs" and node.process is not None and node.process.returncode is not None:
                await node.ended()
                console.complain(f"{node.name} ended by itself: see {node.directory / 'log'}")


class _Cluster:
    """What can be done to the nodes."""

    def __init__(self, processes: Processes, namespace: str) -> None:
        self._processes = processes
        self._namespace = namespace

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Do what was asked for."""
        action = question.get("action")
        if action == "status":
            return await self.status()
        doings: dict[str, Callable[[NodeProcess], Any]] = {
            "kill": self._kill,
            "restart": self._restart,
            "pause": self._pause,
            "resume": self._resume,
        }
        if action not in doings:
            raise UsageError(f"{action!r} is nothing that can be done to a node", f"there are: {', '.join(ACTIONS)}")
        if question.get("node") == ALL:
            return {"node": ALL, "action": action, "text": await self._do_to_all(action, doings[action])}
        node = await self._find(str(question.get("node")))
        text = await doings[action](node)
        return {"node": node.name, "action": action, "pid": node.pid, "state": node.state, "text": text}

    async def status(self) -> dict[str, Any]:
        """The nodes, and who leads."""
        primary = None
        if any(node.state == "runs" for node in self._processes):
            primary = await self._processes.primary(self._namespace)
        nodes = [
            {
                "node": node.id,
                "pid": node.pid,
                "state": node.state,
                "admin": node.admin,
                "clients": node.clients,
                "primary": node is primary,
            }
            for node in self._processes
        ]
        security = next(iter(self._processes)).posture
        return {"namespace": self._namespace, "nodes": nodes, "security": security}

    async def _do_to_all(self, action: str, do: Callable[[NodeProcess], Any]) -> str:
        if action == "kill":
            await self._processes.kill_all()
        elif action == "restart":
            for node in self._processes:
                await node.stop()
            await self._processes.start_all()
        else:
            for node in self._processes:
                if node.state == {"pause": "runs", "resume": "paused"}[action]:
                    await do(node)
        return f"{action}: {', '.join(node.name for node in self._processes)}"

    async def _find(self, name: str) -> NodeProcess:
        if name != "primary":
            return self._processes.get(name)
        primary = await self._processes.primary(self._namespace)
        if primary is None:
            raise CommandFailed(f"{self._namespace} has no primary at the moment", code=Exit.UNAVAILABLE)
        return primary

    async def _kill(self, node: NodeProcess) -> str:
        _check(node, "runs", "paused")
        node.signal(signal.SIGKILL)
        await node.ended()
        return f"killed {node.name}"

    async def _restart(self, node: NodeProcess) -> str:
        await node.stop()
        await node.start()
        return f"{node.name} runs again, as process {node.pid}; its replica goes on with what is on its disk"

    async def _pause(self, node: NodeProcess) -> str:
        _check(node, "runs")
        node.signal(signal.SIGSTOP)
        return f"paused {node.name}"

    async def _resume(self, node: NodeProcess) -> str:
        _check(node, "paused")
        node.signal(signal.SIGCONT)
        return f"resumed {node.name}"


def _check(node: NodeProcess, *states: str) -> None:
    if node.state not in states:
        way = {"dead": "restart", "paused": "resume", "runs": "pause"}[node.state]
        raise CommandFailed(
            f"{node.name} is {node.state if node.state != 'runs' else 'running'}", hint=f"`haret dev {way} {node.name}`"
        )


# ------------------------------------------------------------------- what is shown


def _table(status: dict[str, Any]) -> Answer:
    rows = [
        (
            one["node"].partition("@")[0],
            one["pid"],
            one["state"] + (", primary" if one["primary"] else ""),
            one["node"].partition("@")[2],
            one["admin"],
            one["clients"],
        )
        for one in status["nodes"]
    ]
    headings = ("NODE", "PROCESS", "STATE", "CLUSTER", "ADMIN", "CLIENTS")
    return Answer(status, headings=headings, rows=rows, raw="".join(f"{row[-1]}\n" for row in rows).encode())


def _show(status: dict[str, Any], base_port: int, console: Console) -> None:
    console.print(_table(status))
    if console.form in {"json", "raw"}:
        return
    nodes = status["nodes"]
    lines = [f"namespace {status['namespace']}; {status['security']}", "", "In another terminal:"]
    option = "" if base_port == BASE_PORT else f" --base-port {base_port}"
    if base_port != BASE_PORT:
        lines.append(f"  export HARET_ENDPOINTS={','.join(one['clients'] for one in nodes)}")
        lines.append(f"  export HARET_ADMIN_ENDPOINTS={','.join(one['admin'] for one in nodes)}")
    if status["namespace"] != NAMESPACE:
        lines.append(f"  export HARET_NAMESPACE={status['namespace']}")
    lines += [
        "  haret put /motd hello",
        f"  haret dev kill primary{option}",
        "  haret get /motd",
        f"  haret dev status{option}",
        '  haret admin -e "vr namespaces"',
        "Ctrl-C here ends it all.",
    ]
    console.write("\n" + "".join(f"{line}\n" for line in lines))


# ------------------------------------------------------------------------ arguments


def _whole_number(text: str, low: int, high: float) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high:g}")
    return int(text)


def _count(text: str) -> int:
    return _whole_number(text, MIN_REPLICAS, MAX_NODES)


def _port(text: str) -> int:
    return _whole_number(text, 1, math.floor(65535 - PORTS * MAX_NODES))
