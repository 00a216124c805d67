"""Every order of events in a small group; and the explorer finds, by itself, what each missing rule loses."""

from __future__ import annotations

import pytest

from haret.simulation import InvariantBroken
from haret.simulation.small import IGNORE, Impatient, fill, small
from haret.vr import ProtocolViolation
from rabble_trio.testing import Simulation, explore, scenario
from tests.simulation.test_mutations import (
    Amnesiac,
    too_few_acknowledgements,
    truncating_state_transfer,
)


def search(made=small, requests=1, **bounds):
    return explore(
        made,
        parameters={"requests": requests},
        ignore=IGNORE,
        **{"restarts": False, "duplicates": None, "sync": "eager", **bounds},
    )


@pytest.mark.parametrize(
    ("requests", "bounds"),
    [
        (2, {"fires": 1, "crashes": 1}),
        (1, {"fires": 2}),
        (1, {"fires": 2, "crashes": 1}),
        (2, {"fires": 1, "duplicates": 1}),
    ],
)
def test_no_order_of_events_breaks_the_protocol(requests, bounds):
    found = search(requests=requests, **bounds)
    assert found.complete, found
    assert found.states > 500


def test_explored_group_gets_somewhere():
    """The bounds are wide enough that views change and requests commit: a search that sees nothing finds nothing."""

    @scenario
    def seen(simulation: Simulation, *, requests: int) -> None:
        fill(simulation, requests)
        views.clear()
        simulation.always(
            lambda processes: views.update(
                (one.context.view, one.status, one.context.commit) for one in processes.values()
            )
        )

    views: set = set()
    assert search(seen, fires=2).complete
    assert {view for view, _, _ in views} == {0, 1}
    assert {status for _, status, _ in views} == {"normal", "view-change", "state-transfer"}
    assert max(commit for view, _, commit in views if view == 1) == 2


class Forgetful(Impatient, Amnesiac):
    """Both, and its journal is of no use to it."""

    def restore(self, snapshot, records):
        pass


def test_amnesia_loses_what_was_committed():
    """A replica that acknowledged, forgot, and votes: the shortest way to it, from all that there are."""

    @scenario
    def amnesia(simulation: Simulation, *, requests: int) -> None:
        fill(simulation, requests, Forgetful)

    found = search(amnesia, fires=2, crashes=1, restarts=True)
    assert isinstance(found.failure, InvariantBroken | ProtocolViolation)
    choices = [choice.do for choice in found.schedule.choices]
    assert (choices.count("crash"), choices.count("restart")) == (1, 1)
    assert type(found.schedule.failure()) is type(found.failure), "it replays"


@pytest.mark.parametrize("switch", [truncating_state_transfer, too_few_acknowledgements], ids=lambda one: one.__name__)
def test_explorer_finds_what_is_lost_without(monkeypatch, switch):
    if switch is too_few_acknowledgements:
        # In a group of three, one less than one is none: the primary commits by itself.
        monkeypatch.setattr("haret.vr.states.primary.Primary._send_batch", commits_alone())
    else:
        switch(monkeypatch)
    found = search(fires=3)
    assert isinstance(found.failure, InvariantBroken | ProtocolViolation), found


def commits_alone():
    from haret.vr.states.primary import Primary

    send_batch = Primary._send_batch

    def send(self, output):
        send_batch(self, output)
        self._commit_to(self.ctx.log.op, output)

    return send


@pytest.mark.parametrize(
    "bounds",
    [
        {"fires": 1, "crashes": 1, "duplicates": 0},
        {"fires": 0, "crashes": 1, "duplicates": 0, "restarts": True},
        {"fires": 2},
    ],
)
def test_reduction_loses_no_state(bounds):
    full, reduced = (search(reduce=reduce, **bounds) for reduce in (False, True))
    assert (reduced.states, reduced.local_states, reduced.deepest) == (full.states, full.local_states, full.deepest)
    assert reduced.transitions < 0.8 * full.transitions
