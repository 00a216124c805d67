"""The admin port: after the greeting, each `Ask` gets one `Answer` of the same id, in any order.

The answer to a request is the message that its docstring names, or one of the error values of `common`.
"""

from __future__ import annotations

from rabble_trio import ClusterStatus, ExecutorStatus, Metrics, NodeId, Pid, message

from .common import (
    DURABLE,
    BadRequest,
    NamespaceExists,
    NotEnoughReplicas,
    Unanswered,
    UnknownActor,
    UnknownNamespace,
)


@message(tag="haret.admin.get_config")
class GetConfig:
    """How is the node configured? Answer: `Config`."""


@message(tag="haret.admin.config")
class Config:
    """The node's configuration, defaults included."""

    node: NodeId
    """Its identity."""
    settings: tuple[tuple[str, str], ...]
    """Name and value, as the configuration file would say them."""


@message(tag="haret.admin.create_namespace")
class CreateNamespace:
    """Start a group of replicas. Answer: `Namespace`, once it has a primary; or an error."""

    name: str
    """Of the namespace; it becomes the group of its replicas' pids."""
    replicas: tuple[Pid, ...]
    """At least `MIN_REPLICAS`, on members of the cluster, with or without the group."""
    durability: str = ""
    """`DURABLE` or `FENCED`; "" for what the node that is asked has as its default."""


@message(tag="haret.admin.list_namespaces")
class ListNamespaces:
    """Which namespaces are there? Answer: `Namespaces`, a page of at most `NAMESPACES_PAGE`."""

    after: str = ""
    """The last name of the page before."""


@message(tag="haret.admin.namespace")
class Namespace:
    """A namespace, as the node that answers sees it."""

    name: str
    """Its name."""
    replicas: tuple[Pid, ...]
    """Sorted; primaries take turns in this order."""
    primary: Pid | None
    """None while the group is without one."""
    epoch: int
    """Of the configuration."""
    view: int
    """The newest that the node has heard of."""
    rivals: tuple[tuple[Pid, ...], ...] = ()
    """The replicas of other groups that were created under the same name, on nodes that could not see each other. If there
    are any, the namespace is not served."""
    durability: str = DURABLE
    """`DURABLE` or `FENCED`."""
    stopped: tuple[Pid, ...] = ()
    """Replicas that stopped, because their state differs from that of the others. They count as down."""


@message(tag="haret.admin.namespaces")
class Namespaces:
    """A page of the namespaces that the node knows."""

    namespaces: tuple[Namespace, ...]
    """Sorted by name."""
    more: bool
    """Whether another page follows."""


@message(tag="haret.admin.get_replica")
class GetReplica:
    """What is the state of this replica? Answer: `Replica`."""

    pid: Pid
    """With its group: "namespace::name::node"."""


@message(tag="haret.admin.replica")
class Replica:
    """The state of one replica, from itself."""

    pid: Pid
    """Its pid."""
    status: str
    """"normal"; "view-change", "state-transfer", "recovering" (from the others, after a loss of memory) or "learning" (what
    it missed, as a new member), which end by themselves; "leaving", when it is no member any more; or "stopped", because its
    state differed from that of the others."""
    epoch: int
    """Number of its configuration."""
    view: int
    """Its view."""
    primary: Pid | None
    """Who is primary in its view; None unless its status is normal."""
    op: int
    """The newest operation in its log."""
    commit: int
    """The newest operation that it knows to be committed; it has executed all up to it."""
    log_start: int
    """The operation before the first one in its log."""
    last_normal_view: int
    """The last view in which its status was normal."""
    replicas: tuple[Pid, ...]
    """The group, in the order in which its members become primary."""
    sessions: int
    """Client sessions that are open."""
    digest: bytes
    """Of its tree; equal on all replicas with an equal `commit`. Empty if it takes too long to compute at once, as after the
    restart of a replica with a large tree; asking again gets further."""
    durability: str = DURABLE
    """`DURABLE` or `FENCED`, as the namespace was created."""


@message(tag="haret.admin.get_primary")
class GetPrimary:
    """Who is primary of this namespace? Answer: `Primary`."""

    namespace: str
    """Its name."""


@message(tag="haret.admin.primary")
class Primary:
    """Who leads a namespace."""

    namespace: str
    """Its name."""
    primary: Pid | None
    """None while the group is without one."""


@message(tag="haret.admin.crash")
class Crash:
    """For tests and demonstrations: make this replica fail as if by a bug of its own. Answer: `Done`."""

    pid: Pid
    """A replica, with its group."""


@message(tag="haret.admin.done")
class Done:
    """It was done."""


@message(tag="haret.admin.reconfigure")
class Reconfigure:
    """Replace the members of a namespace while it runs. Answer: its `Namespace`, when that is committed; `Unanswered` with
    the reason if it was not done in time, for example because new members have not caught up yet."""

    name: str
    """Of the namespace."""
    epoch: int
    """The one that the operator has seen: if it is over, somebody else was quicker, and nothing is done."""
    replicas: tuple[Pid, ...]
    """Who shall be the members: those that stay, and new ones."""


@message(tag="haret.admin.get_cluster_status")
class GetClusterStatus:
    """Who is in the cluster? Answer: `rabble_trio.ClusterStatus`."""


@message(tag="haret.admin.join_cluster")
class JoinCluster:
    """Become one cluster with this node, and with all that it belongs to with. Answer: `Done`, once it is so."""

    node: NodeId
    """A member of the other cluster, or a node of its own."""


@message(tag="haret.admin.leave_cluster")
class LeaveCluster:
    """Remove a member from the cluster, reachable or not. Answer: `Done`."""

    node: NodeId
    """The one that is asked, or another."""


@message(tag="haret.admin.get_executor_status")
class GetExecutorStatus:
    """What runs on the node? Answer: `rabble_trio.ExecutorStatus`."""


@message(tag="haret.admin.get_metrics")
class GetMetricsOf:
    """What does this actor count? Answer: `rabble_trio.Metrics`."""

    pid: Pid
    """Any actor that supports it: a replica, the executor, the servers."""


AdminRequest = (
    GetConfig
    | CreateNamespace
    | ListNamespaces
    | GetReplica
    | GetPrimary
    | Crash
    | Reconfigure
    | GetClusterStatus
    | JoinCluster
    | LeaveCluster
    | GetExecutorStatus
    | GetMetricsOf
)
"""What may be asked."""

AdminReply = (
    Config
    | Namespace
    | Namespaces
    | Replica
    | Primary
    | Done
    | ClusterStatus
    | ExecutorStatus
    | Metrics
    | BadRequest
    | NamespaceExists
    | NotEnoughReplicas
    | Unanswered
    | UnknownActor
    | UnknownNamespace
)
"""What may be answered."""


@message(tag="haret.admin.ask")
class Ask:
    """To the server: a question."""

    id: int
    """Of the client's choosing; the answer carries it."""
    request: AdminRequest
    """The question."""


@message(tag="haret.admin.answer")
class Answer:
    """To the client: the answer to one question."""

    id: int
    """The question's."""
    reply: AdminReply
    """The answer, or an error."""
