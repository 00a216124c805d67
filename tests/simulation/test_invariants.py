"""Each check catches what it is for: a violation planted in a group that runs well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from haret.simulation import Group, InvariantBroken
from haret.simulation.invariants import _Piece
from haret.vr import Configuration
from haret.vr.messages import (
    Commit,
    DoViewChange,
    NewState,
    Prepare,
    PrepareOK,
    ReadReply,
    Reconfiguration,
    Reply,
    Request,
    SessionOpened,
    StartView,
)
from rabble_trio import CorrelationId
from rabble_trio.testing import Faults, Simulation


class World:
    """A group that has committed something, and a way to claim that a replica did a step."""

    def __init__(self):
        self.simulation = Simulation(3, Faults())
        self.group = Group(self.simulation, 3, 2)
        self.simulation.run(600)
        for pid in self.group.clients:
            client = self.simulation.process(pid)
            client._load = replace(client._load, appetite=0.0, reads=0.0)  # they fall silent
        while len(self.group.invariants.committed) < 20 or not self.idle():
            assert self.simulation.step()

    def idle(self):
        return all(self[i].log.op == self[i].commit == self[0].commit for i in range(3)) and not any(
            item.kind == "message" for item in self.simulation.pending
        )

    def __getitem__(self, i):
        """The memory of replica i."""
        return self.simulation.process(self.group.replicas[i]).context

    def sends(self, i, *messages, to=None, held=True):
        """Replica i took a step and sent this."""
        pid = self.group.replicas[i]
        slot = self.simulation._slots[pid]
        for message in messages:
            slot.output.send(to or self.group.replicas[(i + 1) % 3], message, held=held)
        self.simulation._finish_step(slot, slot.process, "message", None, None, None, None)

    def hears(self, i, message, sender):
        """Replica i took a step, for it received this."""
        slot = self.simulation._slots[self.group.replicas[i]]
        self.simulation._finish_step(slot, slot.process, "message", message, self.group.replicas[sender], None, None)

    step = sends


@pytest.fixture
def world():
    return World()


def breaks(number):
    return pytest.raises(InvariantBroken, match=f"^invariant {number}:")


def test_nothing_is_wrong_to_begin_with(world):
    for i in range(3):
        world.step(i)


def swapped(log, op):
    """Change the entry of an op, which nothing in production ever does."""
    log._entries[op - log.start - 1] = Request(1, 10_000 + op, 1, b"planted")


def extended(ctx, entry):
    """Put one entry more into the log, and on the disk."""
    ctx.log.extend(ctx.log.op + 1, [entry])
    ctx.durable_op = ctx.log.op


def test_1_replicas_that_disagree_on_an_op(world):
    ctx, commit = world[1], world[1].commit
    extended(ctx, Request(1, 9999, 1, b"one"))
    ctx.commit = commit + 1
    extended(world[0], Request(1, 9999, 1, b"another"))
    world.group.invariants._quorum[0] = 1
    world.step(1)
    world[0].commit = commit + 1
    with breaks(1):
        world.step(0)


def test_1_commit_that_goes_back(world):
    world[1].commit -= 1
    with breaks(1):
        world.step(1)


@pytest.mark.parametrize("what", ["machine", "clients"])
def test_1_states_that_differ_after_the_same_op(world, what):
    for i in (0, 1):
        extended(world[i], Request(1, 9999, 1, b"x"))
        world[i].commit += 1
    if what == "machine":
        world[1].machine._digest = b"other"
    else:
        world[1].clients.open(1000, b"x" * 16)
    world.group.invariants._quorum[0] = 1
    world.step(0)
    with breaks(1):
        world.step(1)


def test_1_journal_that_remembers_something_else(world):
    pid = world.group.replicas[1]
    log = world[1].log
    world.group.invariants.committed[log.start] = Request(1, 9999, 1, b"another")
    world.simulation.crash(pid)
    with breaks(1):
        world.simulation.restart(pid)


def test_2_commit_beyond_the_log(world):
    world[2].log.op -= 1
    with breaks(2):
        world.step(2)


def test_2_log_that_was_cut_off_in_front(world):
    world[2].images = ()
    world[2].log.start = 1
    with breaks(2):
        world.step(2)


def test_3_operation_applied_out_of_order(world):
    ctx = world[1]
    ctx.machine.history.append((1, b"again", b""))
    extended(ctx, Request(1, 9999, 1, b"x"))
    ctx.commit += 1
    world.group.invariants._quorum[0] = 0
    world.simulation._checks.remove(world.group.history)
    with breaks(3):
        world.step(1)


def test_4_view_that_goes_back(world):
    ctx = world[2]
    ctx.view = 2
    ctx.last_normal_view = 0
    with breaks(4):  # normal, with the log of another view
        world.step(2)
    ctx.view = -1
    with breaks(4):
        world.step(2)


def test_4_log_that_is_not_that_of_its_view(world):
    began = world.group.invariants._begun[0, 3] = _Piece(world[0].log, world[0].log.op)
    began.entries[-1] = Request(1, 1, 1, b"another")
    world[2].view = world[2].last_normal_view = 3
    with breaks(4):
        world.step(2)


def test_4_primary_may_crash_before_it_says_that_its_view_has_begun(world):
    world[0].view = world[0].last_normal_view = 3
    world.step(0)


def test_4_view_that_nobody_began(world):
    world[2].view = world[2].last_normal_view = 3
    with breaks(4):
        world.step(2)


def test_5_two_entries_for_one_op(world):
    prepare = Prepare(0, 0, world[0].log.op, 0, (Request(1, 9999, 1, b"another"),))
    world.sends(0, prepare)  # is held back, and may never leave
    with breaks(5):
        world.hears(1, prepare, 0)


def test_5_two_entries_for_one_op_that_nobody_has_heard_yet(world):
    slot = world.simulation._slots[world.group.replicas[0]]
    prepare = Prepare(0, 0, world[0].log.op, 0, (Request(1, 9999, 1, b"another"),))
    slot.output.send(world.group.replicas[1], prepare, held=False)
    with breaks(5):
        world.step(0)


def test_5_view_that_begins_twice(world):
    op = world[0].log.op + 1
    begins = StartView(0, 4, 0, op, 0)
    for i, operation in ((0, b"one"), (1, b"another")):
        extended(world[i], Request(1, 9999, 1, operation))
        world.sends(i, replace(begins))  # each may be the one that is never heard
    world.hears(2, begins, 0)
    with breaks(5):
        world.hears(2, begins, 1)


def test_5_view_whose_beginning_is_told_differently(world):
    with breaks(5):
        world.sends(0, StartView(0, 0, 0, 5, 0))


def test_6_commit_without_a_quorum(world):
    extended(world[0], Request(1, 9999, 1, b"x"))
    world[0].commit += 1
    with breaks(6):
        world.step(0)


def acknowledged(world):
    """Op by op 0 and 1 hold it, and 1 has acknowledged it and crashed; nobody has heard that yet."""
    ctx = world[0]
    extended(ctx, Request(1, 9999, 1, b"x"))
    extended(world[1], Request(1, 9999, 1, b"x"))
    world.sends(1, PrepareOK(0, 0, ctx.log.op))
    world.simulation.crash(world.group.replicas[1])
    return PrepareOK(0, 0, ctx.log.op)


def test_6_copy_of_one_that_crashed_counts(world):
    world.hears(0, acknowledged(world), 1)
    world[0].commit += 1
    world.step(0)


def test_6_acknowledgement_that_was_held_back_and_lost_does_not_count(world):
    acknowledged(world)
    world[0].commit += 1
    with breaks(6):
        world.step(0)


def test_6_copy_that_is_not_on_the_disk_does_not_count(world):
    world.hears(0, acknowledged(world), 1)
    world[0].commit += 1
    world[0].durable_op -= 1
    with breaks(6):
        world.step(0)


def test_6_saying_that_something_is_committed_counts_before_it_is_executed(world):
    extended(world[0], Request(1, 9999, 1, b"x"))
    extended(world[1], Request(1, 9999, 1, b"x"))
    op, entry = world[0].log.op, (Request(1, 9999, 2, b"y"),)
    world.sends(0, Prepare(0, 0, op + 1, op, entry), held=False)
    world.simulation.crash(world.group.replicas[0])
    world[1].commit += 1
    world.step(1)  # the first to execute it, and the only one that has it


def test_6_nobody_may_say_that_something_is_committed_which_is_not(world):
    extended(world[0], Request(1, 9999, 1, b"x"))
    op, entry = world[0].log.op, (Request(1, 9999, 2, b"y"),)
    with breaks(6):
        world.sends(0, Prepare(0, 0, op + 1, op, entry), held=False)


def test_7_view_that_begins_without_a_committed_op(world):
    with breaks(7):
        world.sends(1, StartView(0, 1, 0, world[1].commit - 1, 0))


def test_7_view_that_begins_with_another_op(world):
    swapped(world[1].log, world[1].commit)
    with breaks(7):
        world.sends(1, StartView(0, 1, 0, world[1].commit, 0))


@pytest.mark.parametrize("kind", ["prepare", "acknowledgement"])
def test_8_part_in_a_view_before_the_one_voted_for(world, kind):
    world.sends(0, DoViewChange(0, 5, 0, world[0].log.op, world[0].commit))
    entries = (Request(1, 9999, 1, b"x"),)
    late = Prepare(0, 4, 1000, 0, entries) if kind == "prepare" else PrepareOK(0, 4, 1)
    with breaks(8):
        world.sends(0, late)


def test_8_holds_over_incarnations(world):
    pid = world.group.replicas[1]
    vote = DoViewChange(0, 5, 0, world[1].log.op, world[1].commit)
    world.sends(1, vote)
    world.hears(2, vote, 1)
    world.simulation.crash(pid)
    with breaks(8):
        world.simulation.restart(pid)  # its journal knows nothing of the vote, so it acknowledges in view 0


def test_8_vote_that_nobody_heard_promises_nothing(world):
    pid = world.group.replicas[1]
    world.sends(1, DoViewChange(0, 5, 0, world[1].log.op, world[1].commit))
    world.simulation.crash(pid)
    world.simulation.restart(pid)


def test_9_vote_that_hides_what_was_acknowledged(world):
    world.sends(1, PrepareOK(0, 0, world[1].log.op))
    with breaks(9):
        world.sends(1, DoViewChange(0, 1, 0, world[1].log.op - 1, 0))


def test_9_holds_over_incarnations(world):
    op = world[1].log.op
    world.hears(0, PrepareOK(0, 0, op), 1)
    world.simulation.crash(world.group.replicas[1])
    world.simulation.restart(world.group.replicas[1])
    with breaks(9):
        world.sends(1, DoViewChange(0, 1, 0, op - 1, 0, world[1].incarnation))


def test_9_acknowledgement_of_what_is_not_there(world):
    with breaks(9):
        world.sends(1, PrepareOK(0, 0, world[1].log.op + 1))


@pytest.mark.parametrize("status", ["view-change", "state-transfer"])
@pytest.mark.parametrize("message", [Commit(0, 0, 0, 0), StartView(0, 0, 0, 0, 0), PrepareOK(0, 0, 0)])
def test_10_replica_that_is_not_normal_speaks_for_a_view(world, status, message):
    replica = world.simulation.process(world.group.replicas[1])
    replica._state = type("Odd", (), {"status": status})()
    world.step(1)
    with breaks(10):
        world.sends(1, message)


def test_10_replica_in_state_transfer_answers_about_its_log(world):
    replica = world.simulation.process(world.group.replicas[1])
    replica._state = type("Odd", (), {"status": "state-transfer"})()
    world.step(1)
    with breaks(10):
        world.sends(1, NewState(0, 0, 0, 1, 1, 1, 1, ()))


@pytest.mark.parametrize("kind", [DoViewChange, PrepareOK])
def test_10_recovering_replica_says_anything(world, kind):
    replica = world.simulation.process(world.group.replicas[1])
    replica._state = type("Odd", (), {"status": "recovering"})()
    world.step(1)
    with breaks(10):
        world.sends(1, DoViewChange(0, 1, 0, world[1].log.op, 0) if kind is DoViewChange else PrepareOK(0, 0, 0))


def test_10_replica_that_never_recovered_takes_part(world):
    pid = world.group.replicas[1]
    journal = world.simulation._slots[pid].journal
    good = journal.records
    journal.records, journal.snapshot = [], None
    world.simulation.crash(pid)
    world.simulation.restart(pid)
    assert world.simulation.process(pid).status == "recovering"
    world.simulation.crash(pid)
    journal.records = good[:1]
    with breaks(10):
        world.simulation.restart(pid)


def ends(world, i, epoch=0):
    """Replica i executes the last entry of an epoch."""
    ctx = world[i]
    ctx.view = ctx.last_normal_view = 0
    extended(ctx, Reconfiguration(epoch, world.group.replicas))
    ctx.commit += 1
    ctx._begin_epoch(Configuration(epoch + 1, world.group.replicas))
    ctx.epoch_start = ctx.commit


@pytest.fixture
def lax(world):
    """Copies are not counted."""
    world.group.invariants._quorum = dict.fromkeys(range(4), 0)
    return world


def test_13_epoch_that_ends_twice(lax):
    for i in (0, 1):
        ends(lax, i)
        lax.step(i)
    extended(lax[0], Reconfiguration(0, lax.group.replicas))
    lax[0].commit += 1
    with breaks(13):
        lax.step(0)


def test_13_epoch_that_goes_on_after_its_last_entry(lax):
    extended(lax[0], Reconfiguration(0, lax.group.replicas))
    lax[0].commit += 1
    with breaks(13):
        lax.step(0)


def test_13_epoch_that_begins_elsewhere(lax):
    ends(lax, 0)
    lax[0].epoch_start -= 1
    with breaks(13):
        lax.step(0)


@pytest.mark.parametrize("begun", [1, 2])
def test_13_replica_that_stops_before_the_others_have_begun(lax, begun):
    for i in range(begun + 1):
        ends(lax, i)
    replica = lax.simulation.process(lax.group.replicas[begun])
    for status in ("leaving", "learning"):
        for i in range(begun):
            lax.step(i)
        replica._state = type("Odd", (), {"status": status})()
        if status == "learning" and begun < 2:
            with breaks(13):
                lax.step(begun)
        else:
            lax.step(begun)


def test_13_last_entry_of_an_epoch_is_committed_in_a_view_of_that_epoch(lax):
    """Who executes it is in view 0 of the next epoch then, but a view before that one may begin without it."""
    began = lax.group.invariants._begun[0, 3] = _Piece(lax[0].log, lax[0].log.op)
    for view in (3, 0):
        lax[0].view = lax[0].last_normal_view = view
        if view == 0:
            ends(lax, 0)
        lax.step(0)
    lax.sends(1, StartView(0, 2, 0, began.op, 0))


def test_17_log_that_is_never_cut_off(world):
    ctx = world[0]
    ctx.settings = replace(ctx.settings, checkpoint_ops=1, checkpoint_step=1)
    extended(ctx, Request(1, 9999, 1, b"x"))
    world.hears(0, PrepareOK(0, 0, ctx.log.op), 1)
    ctx.commit += 1
    with breaks(17):
        world.step(0)


def test_16_stamp_of_another_incarnation(world):
    with breaks(16):
        world.sends(0, Commit(0, 0, 0, 0, incarnation=world[0].incarnation + 1))


def last_reply(world):
    return list(world.group.history._replies.values())[-1]


def test_11_unequal_replies(world):
    reply = last_reply(world)
    world.sends(0, reply)
    with breaks(11):
        world.sends(0, replace(reply, op=reply.op - 1))


def test_11_operation_that_is_executed_twice(world):
    machine = world[0].machine
    _, operation, _ = machine.history[-1]
    machine.apply(world[0].log.op + 1, operation)
    with breaks(11):
        world.step(0)


def test_11_session_that_is_not_committed(world):
    with breaks(11):
        world.sends(0, SessionOpened(world[0].commit + 1, 0, 0))


def test_12_result_that_no_single_machine_would_give(world):
    machine = world[0].machine
    machine.history.append((world[0].log.op + 1, b"new", b"wrong"))
    with breaks(12):
        world.step(0)


def test_12_reply_with_a_result_of_its_own(world):
    with breaks(12):
        world.sends(0, Reply(1, 12345, last_reply(world).op, 0, 0, b"made up"))


def answer(world, number, op):
    """Client 0 gets an answer to a request of this number, executed as this op."""
    history, client = world.group.history, world.simulation.process(world.group.clients[0])
    reply = Reply(client.session, number, op, 0, 0, b"")
    slot = world.simulation._slots[world.group.clients[0]]
    world.simulation._finish_step(slot, client, "message", reply, None, None, None)
    return history


def ask(world, number):
    slot = world.simulation._slots[world.group.clients[0]]
    client = slot.process
    slot.output.send(world.group.replicas[0], Request(client.session, number, 1, b"x"))
    world.simulation._finish_step(slot, client, "message", None, None, None, None)


def test_12_order_against_real_time(world):
    newest = world.group.history._newest
    ask(world, 8000)
    with breaks(12):
        answer(world, 8000, newest)


def test_12_requests_that_overlap_may_be_ordered_either_way(world):
    newest = world.group.history._newest
    ask(world, 8000)
    ask(world, 8001)
    answer(world, 8001, newest + 2)
    answer(world, 8000, newest + 1)
    assert world.group.history._newest == newest + 2


def test_12_reply_to_nobody(world):
    with breaks(12):
        answer(world, 8000, 10_000)


def read(world, number, op, result, asked):
    """Client 0 gets an answer to a read, before which op `asked` was answered to somebody."""
    history, pid = world.group.history, world.group.clients[0]
    history._asked["c0", number] = asked
    slot = world.simulation._slots[pid]
    cid = CorrelationId(pid, request=number)
    world.simulation._finish_step(
        slot, slot.process, "message", ReadReply(op, 0, 0, result), world.group.replicas[0], cid, None
    )


def test_12_read_of_a_state_that_is_too_old(world):
    history = world.group.history
    newest = history._ops[-1]
    read(world, 8000, newest, history._results[newest][1], newest)
    with breaks(12):
        read(world, 8001, history._ops[-2], history._results[history._ops[-2]][1], newest)


def test_12_read_of_what_never_was(world):
    newest = world.group.history._ops[-1]
    with breaks(12):
        read(world, 8000, newest, b"made up", newest)
