"""Who may show others the way to a later epoch: only those that can give them what led to it."""

from __future__ import annotations

from random import Random

import pytest

from haret.simulation.machine import Ledger
from haret.vr import Configuration, Replica
from haret.vr.messages import Commit, NewEpoch, OpenSession, Reconfiguration, Recovery
from rabble_trio import NodeId, Outbox, Pid

PIDS = tuple(Pid(f"r{number}", NodeId(f"n{number}", "127.0.0.1:5000")) for number in range(4))
OLD, NEW = PIDS[:3], PIDS[1:]


def make(pid, epoch, replicas, *, fresh):
    replica, output = Replica(Configuration(epoch, replicas), Ledger(), Random(1), fresh=fresh), Outbox(pid)
    replica.init(pid, output)
    output.clear()
    return replica, output


def answers(replica, output, message, sender):
    replica.handle(message, sender, None, output)
    return [envelope.message for envelope in output.envelopes if envelope.to == sender]


@pytest.mark.parametrize(
    ("pid", "status"), [(PIDS[1], "recovering"), (PIDS[0], "learning")], ids=["a member", "no member any more"]
)
def test_one_that_lost_its_log_shows_nobody_the_way(pid, status):
    replica, output = make(pid, 1, NEW, fresh=False)
    assert replica.status == status
    assert answers(replica, output, Commit(0, 0, 0, 0), PIDS[2]) == []
    # As soon as it has what led to the epoch, it does.
    replica.context.append((OpenSession(bytes(16)), Reconfiguration(0, NEW)), output)
    replica.context.execute_to(2, output)
    assert replica.context.epoch_start == 2
    output.clear()
    assert answers(replica, output, Commit(0, 0, 0, 0), PIDS[2]) == [NewEpoch(1, NEW)]


def test_nobody_follows_one_that_lost_its_log():
    replica, output = make(PIDS[1], 0, OLD, fresh=True)
    replica.handle(Recovery(1, 7), PIDS[3], None, output)
    assert replica.status == "normal"
    replica.handle(Commit(1, 0, 1, 1), PIDS[2], None, output)
    assert replica.status == "learning"
