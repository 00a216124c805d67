"""The world: what each choice does. `step` and `run` are in test_driver.py."""

from __future__ import annotations

import pytest

from rabble_trio import (
    CorrelationId,
    Down,
    GetMetrics,
    JournalError,
    Outbox,
    Persisted,
    Process,
    Shutdown,
    Snapshotted,
    Timeout,
)
from rabble_trio.testing import Choice, Crash, NotConverged, ScheduleError, Simulation
from tests.rabble_trio.testing.toys import CLIENT, A, Account, Add, Adder, B, C, Sum, Teller, in_order, pid


@pytest.fixture
def world():
    return Simulation()


def totals(world):
    return [e.message.total for e in world.received if isinstance(e.message, Sum)]


def ids(items):
    return [item.id for item in items]


def test_nothing_happens_until_it_is_chosen(world):
    world.spawn(A, Adder)
    item = world.send(A, Add(2), sender=CLIENT)
    assert ids(world.pending) == ["client>a Add#1"]
    assert world.process(A).numbers == []
    world.deliver(item)
    assert world.process(A).numbers == [2]
    assert totals(world) == [2]
    assert world.pending == []
    assert world.steps == 2  # it started, and handled a message


def test_messages_arrive_in_the_order_that_is_chosen_and_copies_are_messages_too(world):
    world.spawn(A, Adder)
    first, second = (world.send(A, Add(n), sender=CLIENT) for n in (1, 2))
    copy = world.duplicate(second)
    assert ids(world.pending) == ["client>a Add#1", "client>a Add#2", "client>a Add#2.1"]
    for item in (copy, second, first):
        world.deliver(item)
    assert world.process(A).numbers == [2, 2, 1]


def test_what_is_dropped_never_arrives(world):
    world.spawn(A, Adder)
    item = world.send(A, Add(1), sender=CLIENT)
    world.drop(item)
    assert world.pending == []
    with pytest.raises(ScheduleError, match="pending"):
        world.deliver(item)
    with pytest.raises(ScheduleError, match="doubled"):
        world.duplicate(item)


def test_reply_carries_the_correlation_id_to_pids_outside(world):
    world.spawn(A, Adder)
    cid = CorrelationId(CLIENT, 1, 2)
    world.deliver(world.send(A, Add(1), sender=CLIENT, cid=cid))
    [envelope] = world.received
    assert (envelope.to, envelope.sender, envelope.correlation_id) == (CLIENT, A, cid)


def test_timer_fires_when_it_is_chosen_and_is_replaced_by_its_own_restart(world):
    world.spawn(A, lambda: Adder(timer=0.5))
    [timer] = world.pending
    assert (timer.id, timer.kind, timer.seconds, timer.to) == ("a timer 1", "timer", 0.5, A)
    world.fire(timer)
    assert world.process(A).timeouts == 1
    assert ids(world.pending) == ["a timer 1"]
    with pytest.raises(ScheduleError, match="not a timer that is pending"):
        world.fire(timer)


def test_cancelled_timer_is_gone_and_a_stopped_process_has_none(world):
    class Canceller(Process):
        def init(self, pid, output):
            output.start_timer(1)
            output.start_timer(2, CorrelationId(pid, 1, 2))
            output.start_timer(3, CorrelationId(CLIENT, 1))

        def handle(self, message, sender, correlation_id, output):
            output.cancel_timer()
            if isinstance(message, Timeout):
                output.stop()

    world.spawn(A, Canceller)
    assert ids(world.pending) == ["a timer", "a timer 1/2", f"a timer 1 of {CLIENT}"]
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    assert ids(world.pending) == ["a timer 1/2", f"a timer 1 of {CLIENT}"]
    world.fire(world.pending[0])
    assert world.pending == []
    assert not world.up(A)


def test_crash_keeps_what_was_sent_and_a_restart_is_a_new_process(world):
    world.spawn(A, lambda: Adder(peer=B, timer=1.0))
    world.spawn(B, Adder)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    world.crash(A)
    assert (world.up(A), world.process(A), world.incarnation(A)) == (False, None, 1)
    assert ids(world.pending) == ["a>b Add#1"]  # its timer is gone, its message is not
    world.deliver(world.pending[0])
    world.restart(A)
    assert world.incarnation(A) == 2
    assert world.process(A).numbers == []
    # B's answer reaches the new incarnation: it was sent to the pid.
    world.deliver(world.find("b>a Sum#1"))


def test_message_to_a_process_that_is_down_vanishes(world):
    world.spawn(A, Adder)
    world.crash(A)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    assert world.counts["dead letter"] == 1
    with pytest.raises(ScheduleError, match="does not run"):
        world.crash(A)


@pytest.mark.parametrize("effects", [0, 1, 2])
def test_crash_in_a_step_carries_out_the_first_effects_only(world, effects):
    world.spawn(A, lambda: Adder(peer=B))
    world.spawn(B, Adder)
    world.deliver(world.send(A, Add(1), sender=CLIENT), Crash(effects=effects))
    assert not world.up(A)
    assert ids(world.pending) == ["a>b Add#1"][:effects]
    assert totals(world) == [1][: max(0, effects - 1)]


def test_paused_process_gets_nothing_until_it_goes_on(world):
    world.spawn(A, lambda: Adder(timer=1.0))
    item = world.send(A, Add(1), sender=CLIENT)
    world.pause(A)
    assert world.pending == []
    assert ids(world.waiting) == ["a timer 1", "client>a Add#1"]
    with pytest.raises(ScheduleError, match="paused"):
        world.deliver(item)
    world.resume(A)
    world.deliver(item)
    assert totals(world) == [1]


@pytest.mark.parametrize("one_way", [True, False])
def test_partition_holds_messages_until_it_heals(world, one_way):
    for each in (A, B, C):
        world.spawn(each, Adder)
    world.partition([A], [B, C], one_way=one_way)
    there, back, beside = (world.send(to, Add(1), sender=sender) for sender, to in ((A, B), (B, A), (B, C)))
    assert world.waiting == ([there] if one_way else [there, back])
    assert beside in world.pending
    with pytest.raises(ScheduleError, match="cut"):
        world.deliver(there)
    world.heal()
    assert world.pending == [there, back, beside]


def test_partition_does_not_cut_actors_of_one_node(world):
    neighbour = pid("neighbour", 1)
    world.spawn(A, Adder)
    world.spawn(neighbour, Adder)
    world.partition([A], [neighbour])
    assert world.send(A, Add(1), sender=neighbour) in world.pending


def test_message_that_waits_on_a_cut_path_can_be_lost(world):
    world.spawn(A, Adder)
    world.partition([CLIENT], [A])
    world.drop(world.send(A, Add(1), sender=CLIENT))
    assert world.waiting == []


# --- Monitors and the end of processes ---


def test_monitor_hears_of_the_end_once_and_why(world):
    class Watcher(Adder):
        def init(self, pid, output):
            output.monitor(B)
            output.monitor(C)

    world.spawn(B, Adder)
    world.spawn(A, Watcher)
    world.deliver(world.pending[0])
    assert world.process(A).downs == [Down(C, "not running")]
    world.crash(B)
    world.deliver(world.pending[0])
    assert world.process(A).downs[1:] == [Down(B, "crashed: by choice")]
    world.restart(B)
    world.crash(B)
    assert world.pending == []


def test_watcher_that_crashed_or_lost_interest_hears_nothing(world):
    class Watcher(Adder):
        def init(self, pid, output):
            output.monitor(C)
            if pid == B:
                output.demonitor(C)

    world.spawn(C, Adder)
    for each in (A, B):
        world.spawn(each, Watcher)
    world.crash(A)
    world.crash(C)
    assert world.pending == []


def test_shutdown_is_the_last_message(world):
    world.spawn(A, Adder)
    process = world.process(A)
    world.deliver(world.send(A, Shutdown(), sender=CLIENT))
    assert process.shut
    assert not world.up(A)


def test_what_is_asked_of_the_executor_goes_outside(world):
    class Asker(Process):
        def init(self, pid, output):
            output.send(Outbox(pid)._executor, GetMetrics())

    world.spawn(A, Asker)
    assert [e.message for e in world.received] == [GetMetrics()]


# --- Journals ---


@pytest.fixture
def account(world):
    world.spawn(A, Teller, journal=True)
    return lambda number: world.deliver(world.send(A, Add(number), sender=CLIENT))


def test_effects_behind_a_record_leave_when_it_is_durable(world, account):
    account(5)
    # What stands before the record leaves at once, and what may pass it.
    assert totals(world) == [0, -1]
    account(6)
    world.received.clear()
    world.sync(world.find("a sync"), 1)
    assert totals(world) == [5, 0], "the second step's first message stands behind the first record"
    world.sync(world.find("a sync"))
    assert totals(world) == [5, 0, 11]
    # Of what the runtime tells a process about its journal the newest is enough.
    assert [item.message for item in world.pending] == [Persisted(2)]


def settle_disk(world):
    """Let all that waits become durable, and tell the process."""
    while pending := [item for item in world.pending if item.kind != "timer"]:
        (world.deliver if pending[0].kind == "message" else world.sync)(pending[0])


def test_what_the_runtime_told_an_incarnation_is_nothing_to_the_next(world, account):
    account(1)
    world.sync(world.find("a sync"))
    assert ids(world.pending) == ["executor>a Persisted#1"]
    world.crash(A)
    assert world.pending == []


def test_snapshot_is_durable_by_a_choice_of_its_own_and_the_process_hears_of_it(world, account):
    for number in (1, 2, 3, 4):
        account(number)
    assert ids(world.pending) == ["a sync", "a snapshot"]
    world.sync(world.find("a sync"))
    world.sync(world.find("a snapshot"))
    settle_disk(world)
    assert world.process(A).told == [Persisted(4), Snapshotted(5)]
    assert world.durable(A) == 5
    world.crash(A)
    world.restart(A)
    assert (world.process(A).restored, world.process(A).numbers) == ([b"4"], [1, 2, 3, 4])


def test_snapshot_makes_durable_what_it_covers(world, account):
    for number in (1, 2, 3, 4):
        account(number)
    world.sync(world.find("a snapshot"))
    assert [total for total in totals(world) if total > 0] == [1, 3, 6]
    settle_disk(world)
    assert set(world.process(A).told) == {Persisted(4), Snapshotted(5)}, "the newer count stands for the older"


def test_crash_loses_a_snapshot_that_is_not_durable_but_not_the_records(world, account):
    for number in (1, 2, 3, 4):
        account(number)
    world.sync(world.find("a sync"))
    world.crash(A)
    world.restart(A)
    assert world.process(A).restored == [b"1", b"2", b"3", b"4"]
    with pytest.raises(ScheduleError, match="a snapshot"):
        world.find("a snapshot")


def test_newer_snapshot_makes_an_older_one_needless(world, account):
    for number in range(1, 7):
        account(number)
    assert ids(world.pending) == ["a sync", "a snapshot"]
    world.sync(world.find("a snapshot"))
    world.crash(A)
    world.restart(A)
    assert (world.process(A).restored, world.process(A).numbers) == ([], [1, 2, 3, 4, 5, 6])


CRASHES = [
    # What the crash does, what is restored with and without checksums (None: nothing is), and what is noticed.
    (Crash(), [b"1"], [b"1"], ""),
    (Crash(keep=1), [b"1", b"22"], [b"1", b"22"], ""),
    (Crash(keep=2), [b"1", b"22", b"33"], [b"1", b"22", b"33"], ""),
    (Crash(keep=1, torn=True), [b"1", b"22"], [b"1", b"22", b"3"], ""),
    (Crash(keep=2, lose=1), None, [b"1", b"22"], "last 1 of its durable records"),
    (Crash(keep=2, lose=9), None, None, "last 3 of its durable records"),
    (Crash(keep=2, rot=2), None, [b"1", b"23", b"33"], "record 2 of 3"),
    (Crash(rot=9), None, [b"0"], "record 1 of 1"),
    (Crash(stale=1), None, None, ""),
    (Crash(keep=2, stale=1), [b"1"], [b"1"], ""),
    (Crash(keep=2, stale=99), None, None, ""),
    (Crash(keep=2, amnesia=True), None, None, ""),
    (Crash(keep=2, rot=1, amnesia=True), None, None, ""),
]


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(("crash", "checked", "unchecked", "reason"), CRASHES, ids=lambda value: str(value)[:60])
def test_crash_decides_what_the_journal_keeps(world, crash, checked, unchecked, reason, checksums):
    world.spawn(A, Teller, journal=True, checksums=checksums)

    def account(number):
        world.deliver(world.send(A, Add(number), sender=CLIENT))

    account(1)
    world.sync(world.find("a sync"))
    account(22)
    world.process(A).numbers.append(0)  # no snapshot yet
    account(33)
    world.crash(A, crash)
    assert [total for total in totals(world) if total > 0] == [1], "what was held is gone"
    world.restart(A)
    process = world.process(A)
    assert process.restored == (checked if checksums else unchecked)
    assert (reason if checksums else "") in process.damage
    assert bool(process.damage) == (checksums and bool(reason))
    assert world.damages(A) == crash.damages
    assert world.durable(A) == 1 + crash.keep
    # After damage a new history begins.
    world.crash(A, Crash())
    world.restart(A)
    assert (world.process(A).restored, world.process(A).damage) == (process.restored, "")


@pytest.mark.parametrize(
    ("crash", "left"),
    [
        (Crash(rot=1), "the snapshot is not"),
        (Crash(lose=1), [1, 2, 3]),  # there is no record to lose
        (Crash(stale=1), [1, 2, 3]),  # as it was before the snapshot
        (Crash(stale=2), []),
    ],
)
def test_bad_disk_and_a_snapshot(world, account, crash, left):
    for number in (1, 2, 3):
        account(number)
    world.sync(world.find("a sync"))
    world.sync(world.find("a snapshot"))
    world.crash(A, crash)
    world.restart(A)
    assert (left in world.process(A).damage) if isinstance(left, str) else (world.process(A).numbers == left)


def test_process_that_cannot_live_with_damage_does_not_start(world):
    class Strict(Account):
        damaged = Process.damaged

    world.spawn(A, Strict, journal=True)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    world.crash(A, Crash(keep=1, rot=1))
    with pytest.raises(JournalError, match=r"Strict is damaged: record 1 of 1"):
        world.restart(A)


def test_damage_is_limited_until_the_process_has_recovered(world):
    well = set()
    for each in (A, B, C):
        world.spawn(each, Teller, journal=True)
        world.deliver(world.send(each, Add(1), sender=CLIENT))
    world.may_damage((A, B), at_once=1, total=3, recovered=lambda pid: pid in well)
    assert world.damageable() == [A, B]
    assert world.damageable(silent=True) == []
    world.crash(A, Crash(keep=1, amnesia=True))
    assert world.damageable() == [A], "what is lost can be lost again, but nobody else may lose anything"
    well.add(A)
    assert world.damaged(A), "it does not run"
    world.restart(A)
    assert not world.damaged(A)
    assert world.damageable() == [A, B]
    for _ in range(2):
        world.deliver(world.send(B, Add(1), sender=CLIENT))
        world.crash(B, Crash(keep=1, amnesia=True))
        world.restart(B)
    assert (world.damages(A), world.damages(B)) == (1, 2)
    assert world.damageable() == []


def test_damage_of_nothing_is_none(world):
    world.spawn(A, Teller, journal=True)
    world.crash(A, Crash(amnesia=True, stale=3, rot=1, lose=1))
    world.restart(A)
    assert (world.damages(A), world.damaged(A), world.durable(A)) == (0, False, 0)
    assert world.process(A).restored is None


def test_process_that_stops_handles_nothing_more_and_keeps_its_records(world):
    class Last(Account):
        def handle(self, message, sender, correlation_id, output):
            super().handle(message, sender, correlation_id, output)
            output.stop()
            output.send(sender, Sum(-2))

    world.spawn(A, Last, journal=True)
    world.deliver(world.send(A, Add(5), sender=CLIENT))
    assert not world.up(A)
    assert totals(world) == [0, -1, 5, -2]
    assert world.pending == []
    assert world.durable(A) == 1


def test_process_that_ends_by_itself_keeps_its_records(world, account):
    account(1)
    world.deliver(world.send(A, Shutdown(), sender=CLIENT))
    assert totals(world) == [0, -1, 1], "what waited for its records leaves"
    world.restart(A)
    assert world.process(A).restored == [b"1"]


def test_process_without_a_journal_must_not_persist(world):
    world.spawn(A, Account)
    with pytest.raises(TypeError, match="journal=True"):
        world.deliver(world.send(A, Add(1), sender=CLIENT))


# --- Checks ---


def test_check_is_told_what_each_step_did(world):
    seen = []
    world.check(lambda step: seen.append((step.name, step.event, step.message, [e[1] for e in step.output])))
    world.spawn(A, Adder)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    world.crash(A)
    assert seen == [("a", "start", None, []), ("a", "message", Add(1), [Sum(1)]), ("a", "crash", None, [])]


def test_failures_of_checks_and_processes_come_out_as_they_are(world):
    world.spawn(A, Adder)
    world.check(lambda step: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.deliver(world.send(A, Add(1), sender=CLIENT))
    assert [choice.do for choice in world.choices] == ["send", "deliver"], "the failing choice is in the history"


# --- Settling ---


def test_settle_heals_restarts_and_waits_for_convergence(world):
    in_order(world)
    world.partition([A], [B])
    world.crash(A)
    world.pause(B)
    world.settle()
    assert world.process(B).numbers == [1, 2, 3]
    assert [choice.do for choice in world.choices] == ["cut", "cut", "crash", "pause", "settle"]


def test_settle_tells_when_the_world_does_not_converge(world):
    in_order(world)
    world.converges(lambda: False)
    with pytest.raises(NotConverged, match="2 s after the faults stopped"):
        world.settle(seconds=2)


def test_settle_leaves_alone_what_is_not_in_the_core(world):
    world.spawn(A, Adder)
    world.spawn(B, Adder)
    world.crash(B)
    world.partition([A], [B])
    world.settle([A])
    assert not world.up(B)
    assert world.send(B, Add(1), sender=A) in world.waiting


# --- Names ---


def test_two_processes_of_one_name_are_told_apart(world):
    other = pid("a", 7)
    world.spawn(A, Adder)
    world.spawn(other, Adder)
    assert [world.name(each) for each in world.pids] == ["a", str(other)]
    assert world.pid("a") == A
    with pytest.raises(ScheduleError, match="there is no 'x' here"):
        world.pid("x")
    with pytest.raises(ValueError, match="already"):
        world.spawn(A, Adder)


@pytest.mark.parametrize(
    "choice",
    [
        Choice("deliver", "a>b Add#9"),
        Choice("crash", "nobody"),
        Choice("restart", "a"),
        Choice("pause", "client"),
        Choice("cut", "", {"from": ["a"]}),
        Choice("cut", "", {"from": 3, "to": []}),
        Choice("settle", "", {"core": ["a"], "seconds": "x"}),
        Choice("settle", "", {"core": ["client"], "seconds": 1}),
        Choice("send", "a", {"from": "client", "message": ["no.such.tag"]}),
        Choice("send", "a", {"from": "client", "message": [{"hex": "x"}]}),
        Choice("send", "a", {"from": "not a pid", "message": ["toys.add", 1]}),
        Choice("send", "a", {"from": "client", "message": ["toys.add", 1], "cid": ["a"]}),
        Choice("crash", "a", {"keep": -1}),
        Choice("crash", "a", {"what": 1}),
        Choice("sync", "a sync"),
    ],
)
def test_choice_that_cannot_be_made_is_refused_and_changes_nothing(world, choice):
    world.spawn(A, Adder)
    world.name(CLIENT)
    with pytest.raises(ScheduleError):
        world.perform(choice)
    assert world.history == []
    assert world.up(A)


def test_every_choice_can_be_repeated_from_its_line(world):
    def make():
        made = Simulation()
        made.spawn(A, lambda: Adder(peer=B, timer=1.0))
        made.spawn(B, Teller, journal=True)
        return made

    world = make()
    world.deliver(world.send(A, Add(1), sender=CLIENT, cid=CorrelationId(CLIENT, None, 3)))
    item = world.find("a>b Add#1")
    world.deliver(world.duplicate(item))
    world.sync(world.find("b sync"), 1)
    world.deliver(item, Crash(effects=2, keep=1))
    world.restart(B)
    world.fire(world.find("a timer 1"), Crash(effects=0))
    world.partition([A], [B], one_way=True)
    world.heal()
    world.pause(B)
    world.resume(B)
    for number in (1, 2, 3):
        world.deliver(world.send(B, Add(number), sender=CLIENT))
    world.sync(world.find("b sync"))
    world.sync(world.find("b snapshot"))
    world.crash(B, Crash(rot=1, lose=1, stale=1, torn=True))
    world.restart(B)
    world.crash(B, Crash(amnesia=True))
    world.drop(world.pending[0])
    world.settle(seconds=1)
    lines = [choice.to_line() for choice in world.choices]
    again = make()
    for line in lines:
        again.perform(Choice.from_line(line))
    assert [choice.to_line() for choice in again.choices] == lines
    assert list(again.received) == list(world.received)


def test_what_always_holds_sees_all_processes_the_last_state_of_dead_ones_too(world):
    seen = []
    world.spawn(A, Adder)
    world.always(lambda processes: seen.append({pid: list(one.numbers) for pid, one in processes.items()}))
    world.spawn(B, Adder)
    world.deliver(world.send(A, Add(1), sender=CLIENT))
    world.crash(A)
    world.deliver(world.send(B, Add(2), sender=CLIENT))
    world.restart(A)
    assert seen == [{A: [], B: []}, {A: [1], B: []}, {A: [1], B: [2]}, {A: [], B: [2]}]
