"""The messages that the runtime itself sends and understands. Units: seconds and bytes."""

from __future__ import annotations

from ._codec import message
from ._ids import NodeId, Pid


@message(tag="rabble.timeout")
class Timeout:
    """A timer of the receiving process ran out. Its correlation id is the one the timer was started with."""


@message(tag="rabble.persisted")
class Persisted:
    """Records of the receiving process became durable."""

    count: int
    """How many of the records that this incarnation persisted are durable now: 1, 2, ..., never less than before."""


@message(tag="rabble.snapshotted")
class Snapshotted:
    """A snapshot of the receiving process became durable, and stands for the records that were persisted before it."""

    size: int
    """Its length in bytes."""


@message(tag="rabble.shutdown")
class Shutdown:
    """The receiver is asked to end. It is the last message that a process handles."""


@message(tag="rabble.down")
class Down:
    """A monitored actor ended, or never ran."""

    pid: Pid
    """The actor's."""
    reason: str
    """"stopped" (asked to), "finished" (by itself), "crashed: ..." with the exception, "not running", or "node lost"."""


@message(tag="rabble.node_up")
class NodeUp:
    """A link to a member of the cluster was established."""

    node: NodeId
    """The member."""


@message(tag="rabble.node_down")
class NodeDown:
    """The link to a member of the cluster was lost, or the member left."""

    node: NodeId
    """The member."""
    reason: str
    """Why, in words."""


@message(tag="rabble.start_timer")
class StartTimer:
    """To the executor: send me `Timeout` with this envelope's correlation id; a running timer of that id is replaced."""

    seconds: float
    """From now, at least 0."""


@message(tag="rabble.cancel_timer")
class CancelTimer:
    """To the executor: the timer of this envelope's correlation id, if it runs, never fires."""


@message(tag="rabble.monitor")
class Monitor:
    """To the executor: send me `Down` once when `pid` ends; at once if it does not run."""

    pid: Pid
    """Whom to watch."""


@message(tag="rabble.demonitor")
class Demonitor:
    """To the executor: I no longer want the `Down` of `pid`."""

    pid: Pid
    """Whom not to watch any more."""


@message(tag="rabble.stop")
class Stop:
    """To the executor: the sending process is finished; it handles no further message."""


@message(tag="rabble.get_executor_status")
class GetExecutorStatus:
    """To the executor: answer with `ExecutorStatus`."""


@message(tag="rabble.executor_status")
class ExecutorStatus:
    """What runs on a node at this moment."""

    node: NodeId
    """The node."""
    processes: tuple[Pid, ...]
    """Running processes, sorted."""
    services: tuple[Pid, ...]
    """Running services, open mailboxes and supervisors, sorted."""
    mailboxes: dict[str, int]
    """Messages waiting, by pid, of every actor that has any."""
    timers: int
    """Timers running, over all processes."""
    dead_letters: dict[str, int]
    """Envelopes that could not be delivered since the node started, by reason."""


@message(tag="rabble.get_cluster_status")
class GetClusterStatus:
    """To the cluster server: answer with `ClusterStatus`."""


@message(tag="rabble.link_status")
class LinkStatus:
    """The link to a member of the cluster, and what went over it since it was established."""

    node: NodeId
    """The member at the other end."""
    round_trip: float | None
    """Seconds that the last heartbeat took there and back; None before the first."""
    queued_envelopes: int
    """Envelopes that wait to be sent."""
    queued_bytes: int
    """Bytes that wait to be sent."""
    envelopes_sent: int
    """Envelopes."""
    envelopes_received: int
    """Envelopes."""
    envelopes_dropped: int
    """Envelopes that found the link's queue full."""
    bytes_sent: int
    """Bytes, heartbeats and membership included."""
    bytes_received: int
    """Bytes, heartbeats and membership included."""
    reconnects: int
    """How many links to this member there were before, since this node started."""


@message(tag="rabble.cluster_status")
class ClusterStatus:
    """Who belongs to the cluster, and who of them is reachable from this node."""

    node: NodeId
    """The node that answers."""
    members: tuple[NodeId, ...]
    """All members, this node included, sorted."""
    established: tuple[NodeId, ...]
    """Members with an established link, sorted."""
    connections: int = 0
    """Connections with other nodes, those included whose handshake is not complete."""
    links: tuple[LinkStatus, ...] = ()
    """The established links, in the order of `established`."""


@message(tag="rabble.monitor_nodes")
class MonitorNodes:
    """To the cluster server: send me `NodeUp` for each member with an established link, and what changes from now on."""


@message(tag="rabble.demonitor_nodes")
class DemonitorNodes:
    """To the cluster server: no more `NodeUp` and `NodeDown`."""


@message(tag="rabble.get_metrics")
class GetMetrics:
    """To the executor, the cluster server, or any actor that supports it: answer with `Metrics`."""


@message(tag="rabble.metrics")
class Metrics:
    """Counters and gauges of the actor that answers."""

    counters: dict[str, int]
    """By name: what only grows while the actor lives."""
    gauges: dict[str, float]
    """By name: what goes up and down."""
