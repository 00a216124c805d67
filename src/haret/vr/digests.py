"""Comparing the states of replicas at the ops at which all of them make an image.

Rules:

1. Each replica computes the digest of its newest image, a slice at each heartbeat, and sends it to all.
2. A replica whose digest differs from one that a quorum of replicas agree on is wrong, and stops. If there is no such
   quorum (one of the others is down), nobody can tell who is wrong: that is counted, and shown in the metrics.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from rabble_trio import Outbox, Pid

from .context import Context
from .messages import Checkpoint

SLICE = 2000
"""Nodes whose digests are computed at one heartbeat: a few milliseconds."""

SHOWN = 20_000
"""Nodes whose digests are computed for somebody who asks about a replica: twenty or thirty milliseconds."""

REMEMBERED = 4
"""Ops whose digests are kept: the replicas are rarely further apart, and who is, catches up by an image anyway."""


class Digests:
    """The digests that this replica knows."""

    __slots__ = ("_by_op", "_ctx")

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._by_op: OrderedDict[int, dict[Pid, bytes]] = OrderedDict()

    def tick(self, output: Outbox) -> str | None:
        """Go on with the digest of the newest image. Returns why this replica must stop, if it must."""
        ctx = self._ctx
        image = ctx.undigested
        if image is None:
            return None
        digest = image.digest(SLICE)
        if digest is None:
            return None
        ctx.undigested = None
        ctx.broadcast(Checkpoint(ctx.epoch, image.op, digest, ctx.incarnation), output)
        return self._note(ctx.pid, image.op, digest)

    def heard(self, checkpoint: Checkpoint, sender: Pid) -> str | None:
        """Another replica told its digest. Returns why this replica must stop, if it must."""
        return self._note(sender, checkpoint.op, checkpoint.digest)

    def _note(self, pid: Pid, op: int, digest: bytes) -> str | None:
        ctx = self._ctx
        known = self._by_op.setdefault(op, {})
        known[pid] = digest
        while len(self._by_op) > REMEMBERED:
            self._by_op.popitem(last=False)
        own = known.get(ctx.pid)
        if own is None or all(other == own for other in known.values()):
            return None
        ctx.count("digests_differ")
        ((common, count),) = Counter(known.values()).most_common(1)
        if common != own and count >= ctx.quorum:
            return f"after op {op} its state differs from that of {count} other replicas, which agree"
        return None
