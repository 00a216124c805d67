"""What goes wrong in a simulated run, and how often. Every run draws its own mixture: swarm testing.

A run in which everything goes wrong a little finds less than many runs in each of which a few things go wrong a lot,
because one fault hides another: where half of all messages are lost, no two replicas ever get far enough apart to
disagree. So `Faults.draw` first decides which kinds of faults a run has at all.

Chance comes from `random.Random.random()` only, whose numbers Python promises to keep for all versions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from random import Random
from typing import Any, Final

PROBABILITIES: Final = (
    "loss", "duplication", "straggling", "cut_loses", "crash_in_step", "torn_record", "amnesia", "corrupt_tail",
    "rotten_record", "lying_fsync", "stale_copy",
)  # fmt: skip
"""The fields of `Faults` that are probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How a simulated world misbehaves. Times in seconds of virtual time, rates per second of it.

    The defaults are a world without faults: each message takes a millisecond, timers are exact. Faults of the network
    happen between nodes only; actors of one node always reach each other, in order. Raises `ValueError` for values that
    can't be.
    """

    latency_min: float = 0.001
    """How long a message takes at least."""
    latency_max: float = 0.001
    """And at most, unless it straggles."""
    reordering: bool = False
    """Whether a message may overtake an earlier one of the same sender and receiver."""
    loss: float = 0.0
    """The probability that a message is lost."""
    duplication: float = 0.0
    """The probability that a message arrives once more, later."""
    straggling: float = 0.0
    """The probability that a message is late by up to `straggle_max`, perhaps beyond its sender's death."""
    straggle_max: float = 10.0
    """See `straggling`."""
    clog_rate: float = 0.0
    """How often a path from one node to another stops moving for a while; what is sent arrives later."""
    clog_max: float = 1.0
    """How long at most."""
    partition_rate: float = 0.0
    """How often paths are cut: between two halves, around one node, or a single one; both ways or one way."""
    partition_max: float = 2.0
    """How long at most until all is healed."""
    cut_loses: float = 1.0
    """The probability that a message on a cut path is lost; otherwise it arrives after the path is healed."""
    crash_rate: float = 0.0
    """How often a process crashes. Which ones may, and how many, `Simulation.may_crash` says."""
    crash_in_step: float = 0.5
    """The probability that it crashes in the middle of carrying out the effects of a step, and not between two steps."""
    restart_max: float = 1.0
    """How long a process that crashed is down at most."""
    stop_all_rate: float = 0.0
    """How often all processes that may crash do so at the same moment."""
    torn_record: float = 0.0
    """The probability that a crash leaves a piece of the first record that it loses."""
    amnesia: float = 0.0
    """The probability that a crash loses the whole journal of the process. This and the next four happen only as far as
    `Simulation.may_damage` allows it."""
    corrupt_tail: float = 0.0
    """The probability that durable records are gone after a crash, the newest ones."""
    rotten_record: float = 0.0
    """The probability that a durable record is not what was written, after a crash."""
    lying_fsync: float = 0.0
    """The probability that the last few syncs before a crash never were any."""
    stale_copy: float = 0.0
    """The probability that the journal is an older copy of itself after a crash, by any number of syncs."""
    sync_max: float = 0.0
    """How long it takes at most until a record is durable."""
    snapshot_max: float = 0.0
    """How long it takes at most until a snapshot is durable."""
    slow_disk_rate: float = 0.0
    """How often a disk stops for a while; what is to be synced on it becomes durable later."""
    slow_disk_max: float = 1.0
    """How long at most."""
    full_disk_rate: float = 0.0
    """How often a disk is full for a while: a process that needs it crashes, and again when it has been restarted, as far
    as it may crash at all."""
    full_disk_max: float = 1.0
    """How long at most."""
    pause_rate: float = 0.0
    """How often a process stands still, as in a long garbage collection; its messages wait."""
    pause_max: float = 1.0
    """How long at most."""
    timer_min: float = 1.0
    """A timer runs for at least this multiple of its time. Below 1, clocks are fast."""
    timer_max: float = 1.0
    """And at most for this multiple. Above 1, clocks are slow."""
    timer_grid: float = 0.0
    """If it is not 0, timers fire together, at multiples of this."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in PROBABILITIES and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is a probability, from 0 to 1, not {value!r}")
            if not value >= 0:
                raise ValueError(f"{field.name} is a number of at least 0, not {value!r}")
        if self.latency_min > self.latency_max or self.timer_min > self.timer_max:
            raise ValueError("a minimum must not be above its maximum: look at latency_* and timer_*")
        if self.timer_max == 0:
            raise ValueError("timer_max must be above 0, or time stands still")

    @classmethod
    def draw(cls, random: Random) -> Faults:
        """A mixture for one run, for processes whose times are between milliseconds and seconds."""
        chance = random.random

        def sometimes(probability: float, value: Callable[[], float], otherwise: float = 0.0) -> float:
            drawn = value()  # in any case, so that one decision does not shift all later ones
            return drawn if chance() < probability else otherwise

        def between(low: float, high: float) -> Callable[[], float]:
            return lambda: low + (high - low) * chance()

        def skewed(high: float) -> Callable[[], float]:
            return lambda: high * chance() * chance()  # mostly small

        latency = 0.0005 + 0.01 * chance() * chance()
        drawn: dict[str, Any] = {
            "latency_min": latency * chance(),
            "latency_max": latency + sometimes(0.5, skewed(0.3)),
            "reordering": chance() < 0.6,
            "loss": sometimes(0.5, skewed(0.3)),
            "duplication": sometimes(0.5, skewed(0.3)),
            "straggling": sometimes(0.4, skewed(0.2)),
            "straggle_max": between(0.5, 10.0)(),
            "clog_rate": sometimes(0.4, skewed(4.0)),
            "clog_max": between(0.05, 2.0)(),
            "partition_rate": sometimes(0.6, skewed(4.0)),
            "partition_max": between(0.1, 3.0)(),
            "cut_loses": sometimes(0.7, lambda: 1.0, chance()),
            "crash_rate": sometimes(0.6, skewed(4.0)),
            "crash_in_step": chance(),
            "restart_max": between(0.01, 2.0)(),
            "stop_all_rate": sometimes(0.2, skewed(1.0)),
            "torn_record": chance(),
            "sync_max": sometimes(0.7, skewed(0.2)),
            "pause_rate": sometimes(0.4, skewed(3.0)),
            "pause_max": between(0.05, 2.0)(),
            "timer_min": sometimes(0.4, between(0.2, 1.0), 1.0),
            "timer_max": sometimes(0.4, between(1.0, 3.0), 1.0),
            "timer_grid": sometimes(0.2, between(0.01, 0.1)),
            # How much a disk may do is the scenario's to say, so what does happen may happen often.
            "snapshot_max": sometimes(0.7, skewed(1.0)),
            "amnesia": sometimes(0.4, between(0.0, 0.5)),
            "corrupt_tail": sometimes(0.4, between(0.0, 0.5)),
            "rotten_record": sometimes(0.4, between(0.0, 0.5)),
            "lying_fsync": sometimes(0.3, between(0.0, 0.5)),
            "stale_copy": sometimes(0.3, between(0.0, 0.5)),
            "slow_disk_rate": sometimes(0.4, skewed(3.0)),
            "slow_disk_max": between(0.05, 2.0)(),
            "full_disk_rate": sometimes(0.3, skewed(1.0)),
            "full_disk_max": between(0.05, 2.0)(),
        }
        return cls(**drawn)
