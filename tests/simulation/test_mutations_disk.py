"""The simulator finds each loss by itself once a rule about disks, images or epochs is switched off.

As in `test_mutations`, each switch replaces a method by what another implementation does, and whatever happens then happens
by chance: a run of a seed, under faults that make the loss likely. One rule, that of incarnations, takes too many
coincidences for that; `explore` finds what it is for (the last test here).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from haret.simulation import Group, InvariantBroken
from haret.simulation.small import IGNORE, fill
from haret.vr import ProtocolViolation, Replica, restore
from haret.vr.context import Context
from haret.vr.image import ImageReader
from haret.vr.messages import PrepareOK, StartView
from haret.vr.quorum import Votes
from haret.vr.records import Began, Lost
from haret.vr.states.backup import Backup
from haret.vr.states.primary import Primary
from haret.vr.transfer import Collection
from rabble_trio import Persist, decode
from rabble_trio.testing import Faults, NotConverged, Schedule, Simulation, explore, run_scenario, scenario
from tests.simulation.test_mutations import find, three

SEEDS = 1000
"""In so many runs at most the loss must show: 40 s. The first seed of each search was looked up; if others changed what
happens in a run, it may take longer, and then deserves a new one."""


@scenario
def changing(simulation: Simulation) -> None:
    """Three replicas of five."""
    Group(simulation, 3, 2, spares=2)


# --- Faults ---

SLOW_DISKS = Faults(
    latency_max=0.005, crash_rate=5.0, crash_in_step=0.2, restart_max=0.1, sync_max=0.3, partition_rate=3.0,
    partition_max=0.4,
)  # fmt: skip
"""Crashes, while much is not durable yet."""

LOST_DISKS = Faults(
    latency_max=0.005,
    crash_rate=12.0,
    restart_max=0.02,
    amnesia=0.5,
    sync_max=0.1,
    partition_rate=4.0,
    partition_max=0.5,
)
"""Replicas that lose everything, and crash again at once."""

LATE_VOTES = Faults(
    latency_max=0.02, reordering=True, straggling=0.3, straggle_max=0.5, duplication=0.3, crash_rate=10.0, crash_in_step=0.2,
    restart_max=0.02, sync_max=0.3, partition_rate=3.0, partition_max=0.5,
)  # fmt: skip
"""Votes that arrive again when their view has begun already."""

IMAGES = Faults(
    latency_max=0.02, crash_rate=3.0, restart_max=0.3, amnesia=1.0, reordering=True, duplication=0.3, straggling=0.2,
    straggle_max=0.3, sync_max=0.005,
)  # fmt: skip
"""Replicas that lose everything, and get images, whose parts come late and twice."""

CUT_SHORT = Faults(
    latency_max=0.005, crash_rate=6.0, restart_max=0.1, sync_max=0.05, partition_rate=4.0, partition_max=0.5
)
"""Crashes while logs are replaced."""


# --- The switches ---


def began_before_lost(monkeypatch):
    """A replica that lost its log writes who began before it writes that."""
    init = Replica.init

    def swapped(self, pid, output):
        init(self, pid, output)
        items = output.items
        written = [index for index, (to, _, _, _) in enumerate(items) if to is None]
        kinds = [type(decode(items[index][1].record)) for index in written if isinstance(items[index][1], Persist)]
        if kinds[0] is Lost:
            items.insert(written[kinds.index(Began)], items.pop(written[0]))

    monkeypatch.setattr(Replica, "init", swapped)


def own_copy_counts_at_once(monkeypatch):
    """A primary counts its own copy of an op before its disk has it."""
    monkeypatch.setattr(Context, "own_vote", property(lambda self: self.log.op))


def acknowledgements_do_not_wait(monkeypatch):
    """`PrepareOK` leaves before the entries are durable."""

    def acknowledge(self, output):
        ctx = self.ctx
        output.send(self._leader, PrepareOK(ctx.epoch, ctx.view, ctx.log.op, ctx.incarnation), held=False)

    monkeypatch.setattr(Backup, "_acknowledge", acknowledge)


def views_do_not_wait(monkeypatch):
    """`Prepare` and `StartView` leave before the view is durable, and the log that it began with."""

    def promise_all(self, message, output):
        for peer in self.peers:
            output.send(peer, message, held=type(message) is not StartView)

    def broadcast(self, message, output):
        for peer in self.peers:
            output.send(peer, message, held=False)

    monkeypatch.setattr(Context, "promise_all", promise_all)
    monkeypatch.setattr(Context, "broadcast", broadcast)


def primary_goes_on(monkeypatch):
    """A primary that was restarted goes on in its view."""
    resume = Replica._resume

    def go_on(self):
        ctx = self.context
        if ctx.view == ctx.last_normal_view and ctx.is_primary(ctx.view):
            return Primary(ctx, ctx.view, ctx.commit)
        return resume(self)

    monkeypatch.setattr(Replica, "_resume", go_on)


def requests_after_the_last_entry(monkeypatch):
    """A primary takes requests although the epoch is about to end (section 7.1)."""
    accept = Primary._accept

    def any_time(self, *arguments):
        self._closing = False
        accept(self, *arguments)

    monkeypatch.setattr(Primary, "_accept", any_time)


def staged_entries_stay(monkeypatch):
    """What an incarnation staged and did not install is installed by the next one, with its own."""
    take = restore._Replayer.take

    def keep(self, record, *, with_log):
        staged = self._staged, self._reader
        take(self, record, with_log=with_log)
        if isinstance(record, Began):
            self._staged, self._reader = staged

    monkeypatch.setattr(restore._Replayer, "take", keep)


def unchecked(monkeypatch):
    """Nobody looks whether an image is complete, or adds up. Parts are so small that each makes sense by itself."""
    monkeypatch.setattr("haret.vr.image.ENOUGH", 1)

    def finish(self):
        self._loader.finish()
        return self._head, tuple((*session, tuple(kept)) for *session, kept in self._sessions)

    monkeypatch.setattr(ImageReader, "finish", finish)


def parts_of_any_image(monkeypatch):
    """Parts are numbered, and it is not said of which image they are: who asks for one gets that of the newest."""
    unchecked(monkeypatch)
    part_of_image = Context.part_of_image

    def part_of_newest(self, op, part):
        made = part_of_image(self, self.images[0].op if self.images else op, part)
        return None if made is None else (op or made[0], *made[1:])

    monkeypatch.setattr(Context, "part_of_image", part_of_newest)


def half_an_image(monkeypatch):
    """An image is the state as soon as some of it is here."""
    unchecked(monkeypatch)
    accept_part = Collection._accept_part

    def accept(self, answer, question, output):
        enough = self.image is not None and self.image._in_machine
        return accept_part(self, replace(answer, last=answer.last or enough), question, output)

    monkeypatch.setattr(Collection, "_accept_part", accept)


def image_of_any_epoch(monkeypatch):
    """The state of an image is taken over, and the epoch that it belongs to is not."""
    finish = ImageReader.finish

    def load(self, reader):
        original(self, _InEpoch(reader, finish, self.configuration))

    original = Context.load
    monkeypatch.setattr(Context, "load", load)


class _InEpoch:
    """An image reader that says that its image is of this epoch."""

    def __init__(self, reader, finish, configuration):
        self._reader, self._finish, self._configuration = reader, finish, configuration

    def finish(self):
        head, sessions = self._finish(self._reader)
        return replace(head, epoch=self._configuration.epoch, replicas=self._configuration.replicas), sessions


# Where to look: scenario, faults, first seed.
SAFETY = {
    began_before_lost: (three, LOST_DISKS, 0),
    own_copy_counts_at_once: (three, SLOW_DISKS, 0),
    acknowledgements_do_not_wait: (three, SLOW_DISKS, 0),
    views_do_not_wait: (three, LATE_VOTES, 0),
    primary_goes_on: (three, None, 0),
    requests_after_the_last_entry: (changing, None, 0),
    staged_entries_stay: (three, CUT_SHORT, 430),
    parts_of_any_image: (three, IMAGES, 22),
    half_an_image: (three, IMAGES, 0),
}


@pytest.mark.parametrize("switch", SAFETY, ids=lambda switch: switch.__name__)
def test_safety_is_lost_without(monkeypatch, switch):
    made, faults, first = SAFETY[switch]
    switch(monkeypatch)
    schedule, cause = find(made, SEEDS, 700, first, faults=faults)
    # (A journal that contradicts itself is refused with a ValueError.)
    assert isinstance(cause, InvariantBroken | ProtocolViolation | ValueError), cause
    monkeypatch.undo()
    run_scenario(made, schedule.seed, 700, faults=faults)


SAVED = {
    began_before_lost: "lost-not-written-first",
    own_copy_counts_at_once: "own-copy-not-durable",
    acknowledgements_do_not_wait: "acknowledged-not-durable",
    views_do_not_wait: "view-not-durable",
    primary_goes_on: "restarted-primary",
    requests_after_the_last_entry: "after-the-last-entry",
}
"""What `find` found, minimised. `tests/schedules` sees to it that nothing goes wrong with the rule."""


@pytest.mark.parametrize("switch", SAVED, ids=lambda switch: switch.__name__)
def test_saved_schedule_still_shows_what_is_lost_without(monkeypatch, switch):
    switch(monkeypatch)
    file = Path(__file__).parents[1] / "schedules" / f"{SAVED[switch]}.schedule"
    assert isinstance(Schedule.load(file).failure(), InvariantBroken)


def test_group_stops_without_the_epoch_of_an_image(monkeypatch):
    image_of_any_epoch(monkeypatch)
    _, cause = find(changing, SEEDS, 700, 60)
    assert isinstance(cause, NotConverged | InvariantBroken | ProtocolViolation), cause


# --- D2: what an incarnation promised that has lost its memory since ---


def incarnations_do_not_count(monkeypatch):
    """Votes and acknowledgements count, whichever incarnation of their sender they are of."""
    counts = Replica._counts

    def any_incarnation(self, message, sender, output):
        newest = max(message.incarnation, self.context.known.get(sender, 0))
        return counts(self, replace(message, incarnation=newest), sender, output)

    monkeypatch.setattr(Replica, "_counts", any_incarnation)
    monkeypatch.setattr(Votes, "drop_older", lambda self, known: None)


@scenario
def voted(simulation: Simulation) -> None:
    """Replica 2 has voted for view 1, which nobody else has heard yet, and may lose its disk; a request is prepared."""
    fill(simulation, 1)
    r0, r1, r2 = simulation.pids
    simulation.may_damage([r2], at_once=1)
    for replica in (r1, r2):
        simulation.fire(simulation.find(f"{replica.name} timer 1"))
    simulation.deliver(simulation.find("client>r0 Request#1"))
    simulation.deliver(simulation.find("r1>r2 StartViewChange#1"))
    for replica in (r0, r2):
        simulation.sync(simulation.find(f"{replica.name} sync"))


def test_explorer_finds_a_vote_that_its_voter_has_forgotten(monkeypatch):
    """T2 from the vote on. Three rare things in a row make the whole of it: chance has not met it in 7,000 runs."""

    incarnations_do_not_count(monkeypatch)
    found = explore(voted, crashes=1, amnesia=1, duplicates=None, sync="eager", ignore=IGNORE)
    assert isinstance(found.failure, InvariantBroken | ProtocolViolation), found
    assert sum(choice.detail.get("amnesia", False) for choice in found.schedule.choices) == 1
    assert type(found.schedule.failure()) is type(found.failure), "it replays"
    monkeypatch.undo()
    assert found.schedule.failure() is None
