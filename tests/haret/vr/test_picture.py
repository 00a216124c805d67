"""Pictures of replicas: what is made of one does what the replica would have done."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from haret.simulation import group as simulated_group
from haret.simulation.group import Group, draw_settings
from haret.simulation.machine import Ledger
from haret.vr import Replica, picture
from haret.vr.messages import GetReplicaState, Request
from haret.vr.picture import Picture, restore, take
from rabble_trio import EncodeError, encode
from rabble_trio.testing import Faults, Simulation, run_scenario, scenario

STATES = Counter()


class Photographed(Replica):
    """Every few messages it goes on as what is made of its picture."""

    received = 0

    def handle(self, message, sender, correlation_id, output):
        self.received += 1
        make = take(self) if self.received % 5 == 0 else None
        if make is not None:
            STATES[self.status] += 1
            twin = restore(Photographed, make(), Ledger(), Random())
            assert take(twin)() == make()
            self.__dict__ = twin.__dict__
        super().handle(message, sender, correlation_id, output)


@scenario
def group(simulation, *, kind, **options):
    Group(simulation, 3, 2, kind=KINDS[kind], **options)


KINDS = {"plain": Replica, "photographed": Photographed}


def run(seed, kind, **options):
    made = run_scenario(group, seed, 500, parameters={"kind": kind, **options})
    return [choice.to_line() for choice in made.choices]


def images_every(ops, monkeypatch):
    def settings(*arguments):
        return replace(draw_settings(*arguments), checkpoint_ops=ops)

    monkeypatch.setattr(sys.modules[Group.__module__], "draw_settings", settings)


@pytest.mark.parametrize("options", [{}, {"durable": False}, {"spares": 2}, {"gather": True}], ids=str)
def test_nothing_is_different(monkeypatch, options):
    images_every(100_000, monkeypatch)  # for those that are kept for others are not in a picture
    STATES.clear()
    for seed in range(2, 5):
        assert run(seed, "photographed", **options) == run(seed, "plain", **options)
    assert STATES["normal"] > 500
    assert len(STATES) > 1  # there were other states, too


@pytest.fixture
def replicas(monkeypatch):
    """Those of a group that has made images."""
    images_every(10, monkeypatch)
    simulation = Simulation(3, Faults())
    simulated_group(simulation)
    simulation.run(3000)
    found = [simulation.process(pid) for pid in simulation.pids[:3]]
    assert all(replica.context.images for replica in found)
    return found


def test_images_are_known_by_their_heads(replicas):
    for replica in replicas:
        replica.context.undigested = None
        twin = restore(Replica, take(replica)(), Ledger(), Random())
        assert twin.replica_state() == replica.replica_state()
        mine, its = replica.context, twin.context
        assert [image.head for image in its.images] == [image.head for image in mine.images]
        assert its.log.slice(its.log.start, its.log.op) == mine.log.slice(mine.log.start, mine.log.op)
        assert its.clients.image() == mine.clients.image()
        assert its.random.getstate() == mine.random.getstate()
        assert type(its._empty.digest(1)) is bytes


def test_a_picture_stays_as_it_was(replicas):
    replica = replicas[0]
    replica.context.undigested = None
    make = take(replica)
    before, state = make(), replica.replica_state()
    replica.context.forget()
    replica.context.counters["lost"] = 1
    assert make() == before
    assert restore(Replica, before, Ledger(), Random()).replica_state() == state


def test_there_is_none_while_an_image_is_digested_or_sent(replicas):
    context = replicas[0].context
    context.undigested = context.images[0]
    assert take(replicas[0]) is None
    context.undigested = None
    assert take(replicas[0]) is not None
    context.part_of_image(context.images[0].op, 0)
    assert take(replicas[0]) is None


def test_one_that_is_too_large_is_not_made(replicas, monkeypatch):
    replicas[0].context.undigested = None
    for limit in (10, 5000):  # for the state machine, and for the rest
        monkeypatch.setattr(picture, "MAX_BYTES", limit)
        with pytest.raises((ValueError, EncodeError), match=rf"(larger|more) than (the )?{limit}"):
            take(replicas[0])()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(GetReplicaState()),
        encode(Picture(("Unknown",), (), ())),
        encode(Picture(("Wishes",), (), ())),
        encode(Picture((7,), (), ())),
        encode(Picture(("again", 3), (), ())),
        encode(Picture(("dict", 1), (), ())),
        encode(Picture(("Replica", "context"), (), ())),
        encode(Picture(("Replica",), (), ())),
        encode(Picture(("Backup", "handlers", ("Popen", "run")), (), ())),
        encode(Picture(("Configuration", 0), (), ())),
    ],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ValueError, match="no picture"):
        restore(Replica, data, Ledger(), Random())


def test_one_may_be_larger_than_a_message(replicas):
    replica = replicas[0]
    replica.context.undigested = None
    log = replica.context.log
    log.extend(log.op + 1, [Request(1, 1, 1, bytes(2**20))] * 3)
    twin = restore(Replica, take(replica)(), Ledger(), Random())
    assert twin.context.log.slice(log.op - 3, log.op) == log.slice(log.op - 3, log.op)
