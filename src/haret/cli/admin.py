"""The commands for operators, in the words of the original: `haret admin`, at its prompt or with -e.

The first argument of each is an `AdminSession`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from haret import protocol
from haret.errors import BadRequest, NotEnoughReplicas, Unanswered, UnknownActor, UnknownNamespace
from rabble_trio import NodeId, Pid

from .command import Argument, Command, Option, Table
from .output import Answer

if TYPE_CHECKING:
    from haret.client import Admin

    from .session import AdminSession

REPLICA: Final = Argument("pid", "a replica with its namespace: test-ns::r1::node1@127.0.0.1:5000")
NAME: Final = Argument("name", "of the namespace")
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at a replica that is waited for."""

NODE: Final = Argument("node", "a node: name@host:port, as `config` prints it")


def listed(data: Mapping[str, Any]) -> Answer:
    """Names and values, one pair a line."""
    rows = [(name, ", ".join(map(str, value)) if isinstance(value, tuple) else value) for name, value in data.items()]
    raw = "".join(f"{name}\t{'' if value is None else value}\n" for name, value in rows)
    return Answer(data, rows=rows, raw=raw.encode())


async def _config(session: AdminSession, arguments: Namespace) -> Answer:
    config = await (await session.admin()).config()
    return listed({"node": config.node, **dict(config.settings)})


async def _cluster_status(session: AdminSession, arguments: Namespace) -> Answer:
    status = await (await session.admin()).cluster_status()
    return listed({"node": status.node, "members": status.members, "established": status.established})


async def _cluster_join(session: AdminSession, arguments: Namespace) -> Answer:
    admin = await session.admin()
    await admin.join(arguments.node)
    members = (await admin.cluster_status()).members
    return Answer({"joined": arguments.node, "members": members}, rows=[(member,) for member in members])


async def _cluster_leave(session: AdminSession, arguments: Namespace) -> Answer:
    admin = await session.admin()
    await admin.leave(arguments.node)
    members = (await admin.cluster_status()).members
    return Answer({"left": arguments.node, "members": members}, rows=[(member,) for member in members])


async def _executor_status(session: AdminSession, arguments: Namespace) -> Answer:
    status = await (await session.admin()).executor_status()
    rows: list[tuple[str, Any, Any]] = []
    for kind, pids in (("process", status.processes), ("service", status.services)):
        rows += [(kind, pid, status.mailboxes.get(str(pid), 0)) for pid in pids]
    return Answer(
        {
            "node": status.node,
            "processes": status.processes,
            "services": status.services,
            "mailboxes": status.mailboxes,
            "timers": status.timers,
            "dead_letters": status.dead_letters,
        },
        headings=("KIND", "PID", "WAITING"),
        rows=rows,
        raw="".join(f"{pid}\n" for _, pid, _ in rows).encode(),
        note=f"timers running: {status.timers}, dead letters: {sum(status.dead_letters.values())}",
    )


async def _metrics(session: AdminSession, arguments: Namespace) -> Answer:
    metrics = await (await session.admin()).metrics(arguments.pid)
    both = sorted({**metrics.counters, **metrics.gauges}.items())
    return Answer(
        {"pid": arguments.pid, "counters": metrics.counters, "gauges": metrics.gauges},
        headings=("METRIC", "VALUE"),
        rows=both,
        raw="".join(f"{name}\t{value}\n" for name, value in both).encode(),
    )


def _describe(namespace: protocol.Namespace) -> dict[str, Any]:
    return {
        "namespace": namespace.name,
        "primary": namespace.primary,
        "replicas": namespace.replicas,
        "epoch": namespace.epoch,
        "view": namespace.view,
        "rivals": namespace.rivals,
        "durability": namespace.durability,
        "stopped": namespace.stopped,
    }


async def _create_namespace(session: AdminSession, arguments: Namespace) -> Answer:
    pids = [pid for part in arguments.pids for pid in part.split(",") if pid]
    admin = await session.admin()
    namespace = await admin.create_namespace(arguments.name, pids, durability=arguments.durability)
    return Answer(
        _describe(namespace),
        rows=[(f"namespace {namespace.name} is ready; its primary is {namespace.primary}",)],
        raw=f"{namespace.primary}\n".encode(),
    )


async def _reconfigure(session: AdminSession, arguments: Namespace) -> Answer:
    admin = await session.admin()
    known = {one.name: one for one in await admin.namespaces()}
    if arguments.name not in known:
        raise UnknownNamespace(arguments.name)
    before = known[arguments.name]
    after = _members([pid for part in arguments.pids for pid in part.split(",") if pid], before.name)
    strangers = _on_other_nodes(after, (await admin.cluster_status()).members)
    if strangers:
        raise BadRequest(f"{', '.join(strangers)}: not on a member of this cluster, see `cluster status`")
    new = [pid for pid in after if pid not in before.replicas]
    gone = [pid for pid in before.replicas if pid not in after]
    quorum = len(after) - (len(after) - 1) // 2
    plan = [
        f"{before.name} is in epoch {before.epoch}; its members are {', '.join(map(str, before.replicas))}",
        f"1. start and let catch up: {', '.join(map(str, new)) or 'nobody, no member is new'}",
        f"2. epoch {before.epoch + 1} begins, once {quorum} of {len(after)} are ready: {', '.join(map(str, after))}",
        f"3. stop, when the others need them no longer: {', '.join(map(str, gone)) or 'nobody'}",
    ]
    data: dict[str, Any] = {
        "namespace": before.name,
        "epoch": before.epoch,
        "added": new,
        "removed": gone,
        "done": False,
    }
    if not new and not gone:
        # Whoever asked for it before, and did not live to see it done, may ask again.
        plan = [f"{before.name} is in epoch {before.epoch}, and these are its members"]
        changed = before
    elif not arguments.yes:
        return Answer(data, rows=[(line,) for line in plan], note="nothing was done: --yes carries it out")
    else:
        changed = await admin.reconfigure(before.name, after, epoch=before.epoch)
    if arguments.wait:
        await _until_all_take_part(admin, changed)
    rows = [*plan, f"done: epoch {changed.epoch}" + (", and all members take part" if arguments.wait else "")]
    return Answer(
        {**data, "epoch": changed.epoch, "done": True},
        rows=[(line,) for line in rows],
        raw=f"{changed.epoch}\n".encode(),
    )


def _members(texts: list[str], name: str) -> list[Pid]:
    """The members that a namespace shall have, sorted. Raises `BadRequest` or `NotEnoughReplicas` if they can't be."""
    pids = [Pid.parse(text) for text in texts]
    for pid in pids:
        if pid.group not in {None, name}:
            raise BadRequest(f"{pid} can't be a replica of {name}: write {pid.name}::{pid.node}")
    after = sorted({Pid(pid.name, pid.node, name) for pid in pids})
    if len(after) < len(pids):
        raise BadRequest("a replica is named twice")
    if len(after) < protocol.MIN_REPLICAS:
        raise NotEnoughReplicas(len(after), protocol.MIN_REPLICAS)
    if len(after) > protocol.MAX_REPLICAS:
        raise BadRequest(f"a namespace has at most {protocol.MAX_REPLICAS} replicas, not {len(after)}")
    return after


def _on_other_nodes(pids: Iterable[Pid], members: Collection[NodeId]) -> list[str]:
    return [str(pid) for pid in pids if pid.node not in members]


async def _until_all_take_part(admin: Admin, namespace: protocol.Namespace) -> None:
    for pid in namespace.replicas:
        while True:
            try:
                state = await admin.replica(pid)
            except (Unanswered, UnknownActor):
                state = None
            if state is not None and state.status == "normal" and state.epoch >= namespace.epoch:
                break
            await trio.sleep(LOOK_AGAIN)


async def _namespaces(session: AdminSession, arguments: Namespace) -> Answer:
    admin = await session.admin()
    namespaces, members = await admin.namespaces(), (await admin.cluster_status()).members
    notes = [_rivalry(one) for one in namespaces if one.rivals] + [_halt(one) for one in namespaces if one.stopped]
    notes += [_stray(one, lost) for one in namespaces if (lost := _on_other_nodes(one.replicas, members))]
    return Answer(
        {"namespaces": [_describe(one) for one in namespaces]},
        headings=("NAMESPACE", "PRIMARY", "EPOCH", "VIEW", "DURABILITY", "REPLICAS"),
        rows=[
            (
                one.name,
                one.primary,
                one.epoch,
                one.view,
                one.durability,
                " ".join(_short(pid, one) for pid in one.replicas),
            )
            for one in namespaces
        ],
        raw="".join(f"{one.name}\n" for one in namespaces).encode(),
        note="; ".join(notes) or ("" if namespaces else "there are no namespaces yet: `vr create namespace` makes one"),
    )


def _rivalry(namespace: protocol.Namespace) -> str:
    groups = " and ".join(", ".join(map(str, group)) for group in (namespace.replicas, *namespace.rivals))
    return f"{namespace.name} was created more than once, on nodes that could not see each other; it is not served: {groups}"


def _short(pid: Pid, namespace: protocol.Namespace) -> str:
    return f"{pid.name}::{pid.node.name}" + (" (stopped)" if pid in namespace.stopped else "")


def _halt(namespace: protocol.Namespace) -> str:
    stopped = ", ".join(map(str, namespace.stopped))
    return (
        f"{namespace.name}: the state of {stopped} differs from that of the others, so it stopped, and counts as down; see "
        "the log of its node"
    )


def _stray(namespace: protocol.Namespace, pids: list[str]) -> str:
    return (
        f"{namespace.name}: the node of {', '.join(pids)} is no member of this cluster, so it counts as down: "
        "`vr reconfigure` replaces it"
    )


async def _replica(session: AdminSession, arguments: Namespace) -> Answer:
    state = await (await session.admin()).replica(arguments.pid)
    return listed(
        {
            "pid": state.pid,
            "status": state.status,
            "epoch": state.epoch,
            "view": state.view,
            "primary": state.primary,
            "op": state.op,
            "commit": state.commit,
            "log_start": state.log_start,
            "last_normal_view": state.last_normal_view,
            "replicas": state.replicas,
            "sessions": state.sessions,
            "durability": state.durability,
            "digest": state.digest.hex(),
        }
    )


async def _primary(session: AdminSession, arguments: Namespace) -> Answer:
    primary = await (await session.admin()).primary(arguments.name)
    return Answer(
        {"namespace": arguments.name, "primary": primary},
        rows=[(primary,)],
        raw=f"{primary}\n".encode() if primary else b"",
        note="" if primary else f"{arguments.name} has no primary at the moment",
    )


async def _crash(session: AdminSession, arguments: Namespace) -> Answer:
    await (await session.admin()).crash(arguments.pid)
    return Answer({"crashed": arguments.pid}, rows=[(f"crashed {arguments.pid}",)])


ADMIN: Final = Table(
    commands=(
        Command(("config",), "print the configuration of the node", _config, example="config"),
        Command(("cluster", "status"), "print who is in the cluster", _cluster_status, example="cluster status"),
        Command(
            ("cluster", "join"),
            "make this node and another one cluster, with all that each belongs to with",
            _cluster_join,
            (NODE,),
            example="cluster join node2@127.0.0.1:5010",
            detail="It returns when both know all members, and prints them.",
        ),
        Command(
            ("cluster", "leave"),
            "remove a member from the cluster, reachable or not",
            _cluster_leave,
            (NODE,),
            example="cluster leave node2@127.0.0.1:5010",
            detail="The member may be this node, or another. Replicas on it count as down from then on. Prints who is left.",
        ),
        Command(("executor", "status"), "print what runs on the node", _executor_status, example="executor status"),
        Command(
            ("metrics",),
            "print what an actor counts",
            _metrics,
            (Argument("pid", "any actor that `executor status` shows"),),
            example="metrics rabble::executor::node1@127.0.0.1:5000",
        ),
        Command(
            ("vr", "create", "namespace"),
            "start a namespace with these replicas, and wait until it has a primary",
            _create_namespace,
            (NAME, Argument("pids", "replicas, with commas between them: r1::node1@127.0.0.1:5000,...", nargs="+")),
            example="vr create namespace test-ns "
            "r1::node1@127.0.0.1:5000,r2::node1@127.0.0.1:5000,r3::node1@127.0.0.1:5000",
            detail="A replica is name::node. There must be at least three, and a namespace with 2f+1 replicas goes on\n"
            "while any f of them are down.",
            options=(
                Option(
                    "durability",
                    "whether its log is on disk, or in memory with what is needed to be safe on disk; by default what the "
                    "node is configured for",
                    protocol.DURABILITIES,
                ),
            ),
        ),
        Command(
            ("vr", "reconfigure"),
            "show how the members of a namespace would be replaced, or replace them",
            _reconfigure,
            (NAME, Argument("pids", "all members that it shall have, with commas between them", nargs="+")),
            example="vr reconfigure test-ns r1::node1@127.0.0.1:5000,r2::node1@127.0.0.1:5000,r4::node1@127.0.0.1:5000",
            detail="The namespace goes on meanwhile. New members catch up before they count, and nothing is done unless\n"
            "enough of all members are up to go on; what was not done in time can be tried again.",
            options=(
                Option("yes", "do it; otherwise the plan is shown"),
                Option("wait", "after that, wait until every new member takes part"),
            ),
        ),
        Command(("vr", "namespaces"), "list the namespaces and who leads them", _namespaces, example="vr namespaces"),
        Command(
            ("vr", "replica"),
            "print the state of a replica",
            _replica,
            (REPLICA,),
            example="vr replica test-ns::r1::node1@127.0.0.1:5000",
        ),
        Command(("vr", "primary"), "print who leads a namespace", _primary, (NAME,), example="vr primary test-ns"),
        Command(
            ("vr", "crash"),
            "make a replica fail as if by a bug of its own, to see what happens",
            _crash,
            (REPLICA,),
            example="vr crash test-ns::r1::node1@127.0.0.1:5000",
        ),
    ),
    groups={
        "cluster": "the nodes",
        "executor": "the actors of a node",
        "vr": "namespaces and their replicas",
        "vr create": "make something",
    },
)
"""All of them."""
