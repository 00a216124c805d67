"""The simulator finds each loss by itself once the rule that prevents it is switched off.

The switches are here, not in production: each replaces a method of the replica by what the paper, or another
implementation, does instead.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from haret.simulation import Group, InvariantBroken
from haret.vr import ProtocolViolation, Replica
from haret.vr.client_table import ClientTable
from haret.vr.context import Context
from haret.vr.quorum import Wishes
from haret.vr.states import primary
from haret.vr.states.base import State
from haret.vr.states.primary import Primary
from haret.vr.transfer import Question
from rabble_trio.testing import Faults, NotConverged, ScenarioFailed, Simulation, minimize, run_scenario, scenario

SEEDS = 400
"""In so many runs at most the loss must show; most show within ten."""


class Amnesiac(Replica):
    """Takes part again after a crash, as if it had never promised anything (DISC 2017: unstable quorums)."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "fresh": True})


@scenario
def amnesia(simulation: Simulation, *, replicas: int = 3) -> None:
    """Replicas that restart with an empty memory, and vote."""
    Group(simulation, replicas, 2, Amnesiac)


@scenario
def three(simulation: Simulation) -> None:
    """Three replicas, two clients."""
    Group(simulation, 3, 2)


@scenario
def five(simulation: Simulation) -> None:
    """Five replicas, two clients."""
    Group(simulation, 5, 2)


def find(made, seeds=SEEDS, steps=800, first=0, **options):
    """The first failing run, and what was wrong."""
    for seed in range(first, first + seeds):
        try:
            run_scenario(made, seed, steps, **options)
        except ScenarioFailed as error:
            return error.schedule, error.__cause__
    raise AssertionError(f"{seeds} runs did not find it")


# --- The switches ---


def truncating_state_transfer(monkeypatch):
    """Section 5.2 as published: cut the log to the commit number and take the view's number, then ask (D1)."""
    fetch_view = State.fetch_view

    def fetch(self, message, sender):
        ctx = self.ctx
        ctx.log.replace_after(ctx.commit, [])
        ctx.view = ctx.last_normal_view = message.view
        return fetch_view(self, message, sender)

    monkeypatch.setattr(State, "fetch_view", fetch)


def stale_last_normal_view(monkeypatch):
    """State transfer installs a log, but it goes by the name of the old view (D9)."""

    install = Context.install

    def keep(self, view, *arguments):
        before = self.last_normal_view
        install(self, view, *arguments)
        self.last_normal_view = before

    monkeypatch.setattr(Context, "install", keep)
    monkeypatch.setattr(Replica, "_check", lambda self: None)  # it would notice at once
    monkeypatch.setattr(Context, "announce", lambda self, output: None)


def too_few_acknowledgements(monkeypatch):
    """One acknowledgement less than a quorum needs."""
    monkeypatch.setattr(primary, "acknowledged", lambda acked, others: sorted(acked, reverse=True)[others - 2])


def acknowledgements_of_any_view(monkeypatch):
    """Acknowledgements that were given in another view are counted."""
    on_prepare_ok = Primary.on_prepare_ok

    def count(self, message, sender, cid, output):
        return on_prepare_ok(
            self, replace(message, view=self.ctx.view, op=min(message.op, self.ctx.log.op)), sender, cid, output
        )

    monkeypatch.setattr(Primary, "on_prepare_ok", count)


def any_answer_will_do(monkeypatch):
    """`NewState` is taken for the answer whatever was asked (D14)."""
    monkeypatch.setattr(Question, "answered_by", lambda self, answer: True)


def no_client_table(monkeypatch):
    """Whatever arrives is logged, and whatever is logged is executed, however often."""
    accept = Primary._accept

    def forget(self, key, *arguments):
        self._pending.pop(key, None)
        accept(self, key, *arguments)

    monkeypatch.setattr(Primary, "_accept", forget)

    def request(self, op, request, apply):
        session = self._sessions.get(request.session)
        if session is None:
            return None
        done = session.results[request.number] = (op, apply(op, request.operation))
        return done

    monkeypatch.setattr(ClientTable, "request", request)


LATE = Faults(
    latency_max=0.05,
    reordering=True,
    straggling=0.3,
    straggle_max=3.0,
    clog_rate=4.0,
    clog_max=2.0,
    partition_rate=2.0,
    partition_max=1.0,
)
"""Messages so late that they meet another view with the same primary."""

RARE = 190
"""The loss that takes this many runs to show is looked for from here on, to keep the tests quick."""

# (Since replicas come back with their logs, chance hardly ever meets a truncating state transfer; `explore` does.)
SAFETY = {
    stale_last_normal_view: (three, None),
    too_few_acknowledgements: (five, None),
    acknowledgements_of_any_view: (three, LATE),
    any_answer_will_do: (three, None),
    no_client_table: (three, None),
}


@pytest.mark.parametrize("switch", SAFETY, ids=lambda switch: switch.__name__)
def test_safety_is_lost_without(monkeypatch, switch):
    switch(monkeypatch)
    made, faults = SAFETY[switch]
    schedule, cause = find(made, faults=faults, first=RARE if faults is LATE else 0, steps=1000 if faults else 800)
    assert isinstance(cause, InvariantBroken | ProtocolViolation), cause
    monkeypatch.undo()
    assert not isinstance(schedule.failure(), InvariantBroken | ProtocolViolation), "with the rule, nothing goes wrong"


def test_safety_is_lost_by_amnesia():
    schedule, cause = find(amnesia)
    assert isinstance(cause, InvariantBroken | ProtocolViolation)
    short = minimize(schedule, max_replays=600)
    assert len(short.choices) < len(schedule.choices) / 2
    assert type(short.failure()) is type(cause)


# --- Liveness ---


def no_pre_vote(monkeypatch):
    """Who is out of patience enters the next view at once, and drags all others along (4.2 as published; D6)."""
    monkeypatch.setattr(Wishes, "supporters", lambda self: 99)


def test_deaf_replica_stops_the_group_without_a_pre_vote(monkeypatch):
    def disturbances():
        world = Simulation(1, Faults())
        group = Group(world, 3, 2)
        world.run(200)
        # Replica 2 is heard, and hears nobody (T9).
        world.partition([*group.replicas[:2], *group.clients], group.replicas[2:], one_way=True)
        world.run(4000)
        return group.replica(group.replicas[0]).context.view

    assert disturbances() == 0
    no_pre_vote(monkeypatch)
    assert disturbances() > 10


def pending_for_ever(monkeypatch):
    """The pending layer of the client table outlives the entries that it was made from (D8)."""
    known: dict[int, set] = {}
    enter, accept = Primary.enter, Primary._accept

    def remember(self, output):
        transition = enter(self, output)
        for key in known.setdefault(id(self.ctx), set()):
            self._pending.setdefault(key, None)
        return transition

    def note(self, key, *arguments):
        known.setdefault(id(self.ctx), set()).add(key)
        accept(self, key, *arguments)

    monkeypatch.setattr(Primary, "enter", remember)
    monkeypatch.setattr(Primary, "_accept", note)


CUTS = Faults(partition_rate=3.0, partition_max=300.0)
"""Paths that stay cut when the other faults stop, in one direction or both."""


@pytest.mark.parametrize(("switch", "faults"), [(pending_for_ever, None), (no_pre_vote, CUTS)])
def test_liveness_is_lost_without(monkeypatch, switch, faults):
    switch(monkeypatch)
    _, cause = find(three, faults=faults, steps=300 if faults is CUTS else 800)
    assert isinstance(cause, NotConverged)
