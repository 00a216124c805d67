"""What a replica is given when it is made: the group, the limits and times, and the state machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol

from rabble_trio import Pid

MIN_REPLICAS = 3
"""A group survives (K-1)//2 crashes, so fewer than three replicas survive none (section 7.1)."""

MAX_REPLICAS = 9
"""Larger groups only get slower: the primary sends everything to everybody."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members of a group in one epoch. Raises `ValueError` if there are too few, too many, or one twice."""

    epoch: int
    """0, 1, 2, ...: counted up by each reconfiguration (section 7)."""
    replicas: tuple[Pid, ...]
    """The members. They are kept sorted, so that all agree who is primary in which view."""

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ValueError(f"an epoch is 0 or more, not {self.epoch}")
        members = tuple(sorted(self.replicas))
        if not MIN_REPLICAS <= len(members) <= MAX_REPLICAS:
            raise ValueError(f"a group has {MIN_REPLICAS} to {MAX_REPLICAS} replicas, not {len(members)}")
        if len(set(members)) != len(members):
            raise ValueError("a group names each replica once; one of these is there twice")
        object.__setattr__(self, "replicas", members)

    def primary(self, view: int) -> Pid:
        """Who is primary in a view (section 4: round robin)."""
        return self.replicas[view % len(self.replicas)]

    @property
    def quorum(self) -> int:
        """How many replicas decide. Any two quorums share a member; for even K that takes more than K - K//2."""
        return len(self.replicas) - (len(self.replicas) - 1) // 2


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds, sizes in bytes. Raises `ValueError` for values that can't work together.

    The defaults give a failover of well under a second on a local network, and messages that fit a frame of 1 MiB.
    """

    heartbeat: float = 0.05
    """How often a replica looks at its clock, and an idle primary speaks. The other times are multiples of it."""
    primary_timeout_min: float = 0.25
    """A backup gives its primary up after a silence of at least this. Several heartbeats, so that one may be lost."""
    primary_timeout_max: float = 0.4
    """And at most this. Each silence draws its own limit in between, so that replicas don't act in lockstep."""
    rest_after: float = 0.0
    """A group in which nothing has happened for so long falls silent, until somebody speaks to it or `Wake` comes; 0: never.
    Whoever sets it must see to it that replicas are woken when the node of their primary is lost."""
    resend: float = 0.1
    """How long a replica waits for an answer before it asks again."""
    pipeline: int = 2
    """How many `Prepare` batches may be under way. More shorten the wait, fewer make larger, cheaper batches."""
    gather: bool = True
    """Whether a request or a read waits for those that are in the mailbox behind it, to go together, and for those that are
    likely to come: see `haret.vr.gathering`. Without it, a batch is answered in one step, too."""
    gather_wait: float = 0.001
    """How long it waits for the next of those that are likely to come: what a client needs to ask again a hundred times."""
    gather_least: int = 8
    """How many must be likely to come, and come in that time: a batch costs about as much as this many requests."""
    answer_batch: int = 50
    """Entries that a primary executes before their answers leave, so that clients don't wait for the last one of a batch; if
    more than four times as many are committed, a quarter of those."""
    batch_entries: int = 1024
    """Entries in one `Prepare` or `NewState`: bounds the time that a receiver needs for one message."""
    batch_bytes: int = 256 * 1024
    """Bytes of operations in one `Prepare` or `NewState`, unless a single operation is larger."""
    max_operation: int = 512 * 1024
    """Bytes of one operation: with its envelope it fits a frame of 1 MiB."""
    max_uncommitted: int = 8192
    """Entries that the primary accepts beyond its commit number; then clients hear `Overloaded`."""
    max_uncommitted_bytes: int = 32 * 1024 * 1024
    """Bytes of operations in them."""
    max_sessions: int = 10_000
    """Open sessions in a group; the one that committed longest ago makes room. Must be the same on all replicas."""
    window: int = 4096
    """How far a request's number may lie above the lowest one that its client still wants: bounds kept results."""
    max_kept_results: int = 8 * 1024 * 1024
    """Bytes of results kept for one session; beyond it the client must acknowledge some before it is served again."""
    checkpoint_ops: int = 10_000
    """After so many ops an image of the state is made, and the log before the last image but one is cut off. This and the
    next two must be the same on all replicas."""
    checkpoint_bytes: int = 16 * 1024 * 1024
    """Or after so many bytes of entries."""
    checkpoint_step: int = 100
    """Images are made at multiples of this op only, so that all replicas make the same ones, whatever their batches."""
    max_unsynced: int = 1000
    """Records that may wait for a slow disk; then a backup takes no more entries, and a primary no more requests."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} is a whole number of at least 1, not {value!r}")
            least = 0 if field.name == "rest_after" else math.ulp(0.0)
            if field.type == "float" and not (isinstance(value, int | float) and least <= value < math.inf):
                raise ValueError(f"{field.name} is a number of seconds above 0, not {value!r}")
        if not 2 * self.heartbeat <= self.primary_timeout_min <= self.primary_timeout_max:
            raise ValueError(
                "primary_timeout_min must be at least two heartbeats (one may be lost) and at most primary_timeout_max"
            )
        if self.max_operation > self.max_uncommitted_bytes:
            raise ValueError("max_operation must not exceed max_uncommitted_bytes, or a large one is never accepted")

    def ticks(self, seconds: float) -> int:
        """How many heartbeats make up a time: at least one."""
        return max(1, math.ceil(seconds / self.heartbeat - 1e-9))


class Image(Protocol):
    """A picture of a state machine's state. It never changes, and can be used in any thread."""

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in pieces of bounded size. Equal states give equal bytes."""
        ...

    def digest(self, budget: int) -> bytes | None:
        """A digest: equal states give equal ones. Does work for about `budget` nodes, and returns None if that is not all;
        the next call goes on from there."""
        ...


class Loader(Protocol):
    """Takes the bytes of an `Image`, cut anywhere. Raises `ValueError` if they are none."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; the work is bounded by their number."""
        ...

    def finish(self) -> None:
        """That was all: from now on the state machine has that state."""
        ...


class StateMachine(Protocol):
    """What a group replicates. All replicas start with equal ones."""

    def apply(self, op: int, operation: bytes) -> bytes:
        """Execute an operation and return its result.

        It must depend on nothing but the operations applied before, and never raise: errors are results too. `op`
        grows from call to call, but not always by one, because sessions use up numbers of their own.
        """
        ...

    def read(self, operation: bytes) -> bytes:
        """Answer a question about the state without changing it. It never raises, either."""
        ...

    def digest(self) -> bytes:
        """A digest of the whole state: equal states give equal digests."""
        ...

    def image(self) -> Image:
        """A picture of the state as it is now, made at once, whatever its size."""
        ...

    def loader(self) -> Loader:
        """What replaces the state by that of an image, when it is finished."""
        ...
