"""The flight recorder of a node: what fails is written, replays, and nothing else suffers."""

from __future__ import annotations

import gc
import json
import logging
from functools import partial
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rabble_trio import (
    ActorDown,
    ChildFailed,
    CorrelationId,
    Down,
    FlightRecorder,
    NodeId,
    Outbox,
    Persisted,
    Pid,
    Supervisor,
    Timeout,
    open_node,
)
from rabble_trio import _recorder as recorder_module
from rabble_trio._actor import Actor
from rabble_trio._flight import SEGMENTS, Ended, Flight
from rabble_trio._recorder import MAX_INPUTS, MAX_SIZE, MAX_WAITING, Tape, write
from rabble_trio.testing import NotReplayable, Schedule, ScheduleError, flight, minimize
from rabble_trio.testing._recording import Recording
from rabble_trio.testing.step import main as rabble_step
from tests.rabble_trio.flights import Lottery, Pay, Plain, Stateful, Till, Total, lottery

NODE = "n1@127.0.0.1:0"


def files(folder):
    return sorted(folder.glob("*.schedule"))


def only(folder):
    (path,) = files(folder)
    return path


async def fly(factory, folder, amounts, *, between=None, **options):
    """Let a process handle these payments, the last of which it does not survive; returns its flight's file."""
    recorder = FlightRecorder(folder, **options)
    async with open_node(NODE, recorder=recorder) as node, node.open_mailbox("me") as me:
        pid = await node.spawn("till", factory, restart="temporary")
        me.monitor(pid)
        for amount in amounts:
            await me.send(pid, Pay(amount))
            if between is not None:
                await between()
        while type((await me.receive()).message) is not Down:
            pass
    return only(folder)


async def test_process_that_fails_leaves_a_flight_that_fails_the_same_way(tmp_path, caplog):
    path = await fly(Till, tmp_path / "new" / "folder", [1, 2, 3, 13], between=wait_all_tasks_blocked)
    schedule = Schedule.load(path)
    failure = schedule.failure()
    assert repr(failure) == "ValueError('unlucky at 19, 3 durable')"
    assert schedule.parameters["failure"].startswith("ValueError: unlucky at 19, 3 durable (flights.py, line ")
    assert f"rabble-step {path}" in caplog.text
    recording = Recording(schedule)
    assert recording.shows(schedule.parameters["failure"])
    titles = [recording.frame(number).title for number in range(recording.end + 1)]
    assert titles[:2] == ["start", "restart till"]
    assert {"input till timer 1", "input till timer 2", "input till timer 3", "input executor>till Persisted"} < set(
        titles
    )
    assert sum(title.endswith(">till Pay") for title in titles) == 4
    assert recording.state("till", recording.end)["closings"] == "[1, 2, 3]"
    with pytest.raises(ValueError, match="unlucky"):
        schedule.replay()  # strictly: each choice can be made


async def test_file_is_private(tmp_path):
    path = await fly(Plain, tmp_path / "flights", [13])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


async def test_nothing_is_written_for_those_who_did_not_fail(tmp_path):
    async with open_node(NODE, recorder=FlightRecorder(tmp_path)) as node:
        stopped, killed, _ = [await node.spawn(name, Plain, restart="temporary") for name in "abc"]
        await node.ask(stopped, Pay(1))
        await node.stop(stopped)
        node.kill(killed)
        with pytest.raises(ActorDown):
            while True:
                await node.ask(killed, Pay(1))
    assert files(tmp_path) == []


async def test_failure_that_ends_the_node_is_written_before_it_is_gone(tmp_path):
    with pytest.raises(ChildFailed):
        async with open_node(NODE, supervisor=Supervisor(intensity=0), recorder=FlightRecorder(tmp_path)) as node:
            node.send_nowait(await node.spawn("till", Plain), Pay(13))
            await trio.sleep_forever()
    assert repr(Schedule.load(only(tmp_path)).failure()) == "ValueError('unlucky at 13')"


async def test_cancelled_node_writes_what_it_has(tmp_path):
    with trio.move_on_after(5) as scope:
        async with open_node(NODE, recorder=FlightRecorder(tmp_path)) as node:
            pid = await node.spawn("till", Plain)
            with pytest.raises(ActorDown):
                await node.ask(await node.spawn("x", lambda: Failing(scope)), Pay(13))
            node.send_nowait(pid, Pay(1))
    assert len(files(tmp_path)) == 1


class Failing(Plain):
    """Cancels the node with its last breath."""

    def __init__(self, scope):
        super().__init__()
        self.scope = scope

    def handle(self, *arguments):
        self.scope.cancel()
        super().handle(*arguments)


async def test_restored_process_begins_with_what_was_restored(tmp_path, monkeypatch):
    async with open_node(NODE, recorder=FlightRecorder(tmp_path)) as node:
        pid = await node.spawn("till", Till, restart="permanent")
        assert await node.ask(pid, Pay(100)) == Total(100)
        with pytest.raises(ActorDown):
            await node.ask(pid, Pay(13))
        while True:
            try:
                await node.ask(pid, Pay(1))
                break
            except ActorDown:
                await wait_all_tasks_blocked()
        with pytest.raises(ActorDown):
            await node.ask(pid, Pay(13))
    first, second = files(tmp_path)
    assert json.loads(first.read_text().splitlines()[0])["parameters"].get("records") is None
    schedule = Schedule.load(second)
    assert schedule.parameters["records"][0] == {"bytes": "100"}
    assert str(schedule.failure()).startswith("unlucky at 11")


@pytest.mark.parametrize("restored", ["records", "damage"])
async def test_failure_while_it_starts_is_the_first_step(tmp_path, monkeypatch, restored):
    async def restore(self, actor, process):
        await trio.lowlevel.checkpoint()
        process.restore(None, (b"1300",)) if restored == "records" else process.damaged("rotten")

    monkeypatch.setattr("rabble_trio._persistence.Persistence.restore", restore)
    async with open_node(NODE, recorder=FlightRecorder(tmp_path)) as node:
        with pytest.raises(Exception, match=r"rotten|restored from"):
            await node.spawn("till", Till)
    recording = Recording(Schedule.load(only(tmp_path)))
    assert recording.end == 1
    assert ("rotten" if restored == "damage" else "restored from what can't be") in recording.frame(1).error


# --- How the process is made again ---


async def test_partial_is_called_again_with_its_arguments(tmp_path):
    path = await fly(partial(Till, tip=2), tmp_path, [1, 13])
    assert str(Schedule.load(path).failure()).startswith("unlucky at 18")


async def test_factory_that_draws_says_what_it_drew(tmp_path):
    drawn = Random(4)
    path = await fly(lambda: lottery(drawn), tmp_path, [1, 2, 13])
    schedule = Schedule.load(path)
    assert schedule.parameters["make"]["call"] == "tests.rabble_trio.flights:Lottery"
    assert schedule.parameters["failure"].startswith(f"ValueError: {schedule.failure()} (")
    other = Lottery(5)
    assert Recording(schedule).state("till", 3) != {"drawn": str(other.drawn)}


async def test_factory_without_a_name_leaves_a_flight_to_look_at(tmp_path, capsys):
    path = await fly(lambda: Plain(), tmp_path, [1, 2, 13])  # noqa: PLW0108
    schedule = Schedule.load(path)
    failure = schedule.failure()
    assert type(failure) is NotReplayable
    assert "ValueError: unlucky at 16" in str(failure)
    assert "spawn it with a class, a function of a module" in str(failure)
    assert rabble_step([str(path), "-c", "g end", "-c", "s"]) == 0
    shown = capsys.readouterr().out
    assert "which is not how the recording ended" not in shown
    assert "total = 16\n" in shown  # the state in which it really was
    assert "input me::n1@127.0.0.1:" in shown


async def test_own_scenario_may_say_how_the_process_is_made(tmp_path):
    path = await fly(lambda: Plain(), tmp_path, [1, 2, 13])  # noqa: PLW0108
    path.write_text(path.read_text().replace("rabble_trio.testing:flight", "tests.rabble_trio.flights:with_plain"))
    assert str(Schedule.load(path).failure()) == "unlucky at 16"


async def test_flight_whose_beginning_is_forgotten_needs_a_state(tmp_path):
    path = await fly(Plain, tmp_path, [*[1] * 100, 13], inputs=40)
    failure = Schedule.load(path).failure()
    assert type(failure) is NotReplayable
    assert "inputs are forgotten, and the process gives no flight_state()" in str(failure)
    assert 30 <= len(Schedule.load(path).choices) <= 40


@pytest.mark.parametrize("named", [True, False])
async def test_process_that_gives_its_state_replays_from_the_middle(tmp_path, named):
    path = await fly(
        Stateful if named else lambda: Stateful(),  # noqa: PLW0108
        tmp_path, [*range(20, 120), 13], inputs=40, between=trio.lowlevel.checkpoint,
    )  # fmt: skip
    schedule = Schedule.load(path)
    assert 30 <= len(schedule.choices) <= 40
    assert "resume" in schedule.parameters["make"]
    with pytest.raises(ValueError, match="unlucky at ") as caught:
        schedule.replay()
    assert schedule.parameters["failure"].startswith(f"ValueError: {caught.value} (")


async def test_timers_that_ran_when_the_state_was_given_fire_in_the_replay(tmp_path):
    # The state is asked for before the sixth message (an eighth of 40), when two timers run; one fires as that message.
    async with open_node(NODE, recorder=FlightRecorder(tmp_path, inputs=4)) as node:
        pid = await node.spawn("till", Stateful, restart="temporary")
        for amount in (1, 10, 20, 2):
            node.send_nowait(pid, Pay(amount))
        await wait_all_tasks_blocked()
        with pytest.raises(ActorDown):
            await node.ask(pid, Pay(13))
    schedule = Schedule.load(only(tmp_path))
    assert schedule.parameters["timers"]
    with pytest.raises(ValueError, match="unlucky at 2046"):
        schedule.replay()


async def test_picture_has_the_timers_and_records_of_that_moment(autojump_clock):
    pid = Pid("till", NodeId("n", "127.0.0.1:1"))
    actor = Actor(pid, "process", 10)
    tape = Tape(FlightRecorder("folder", inputs=SEGMENTS), actor, Stateful(), Stateful, [].append)
    cancelled, running, firing = (CorrelationId(pid, number) for number in range(3))
    for cid, seconds in ((cancelled, 1.0), (running, 7.0), (firing, 2.0)):
        actor.start_timer(trio.current_time(), seconds, cid)
    actor.persisted = 3
    tape.handle(Pay(1), pid, None, Outbox(pid))
    actor.cancel_timer(cancelled)
    await trio.sleep(2.0)
    del actor.timers[firing]
    tape.handle(Timeout(), pid, firing, Outbox(pid))
    picture = tape.flight.last.begin
    assert list(picture.timers) == [(firing, 0.0), (running, 5.0)]
    assert picture.persisted == 3
    assert picture.encode() == b"1"


async def test_process_holds_back_in_the_replay_what_it_held_back(tmp_path):
    made = {"resume": "tests.rabble_trio.flights:Stateful", "state": {"bytes": "0"}}
    pid = "till::n@127.0.0.1:1"
    world = Schedule(flight, 0, {"pid": pid, "make": made, "persisted": 3, "runs": True}).world()
    till = Pid.parse(pid)
    world.input(till, Pay(7, b"keep"), sender=Pid.parse("ann::n@127.0.0.1:1"))
    world.input(till, Persisted(3))
    assert not world.received
    world.input(till, Persisted(4))
    assert [envelope.message for envelope in world.received] == [Total(7)]


class Stateless(Plain):
    def flight_state(self):
        raise KeyError("no state")


async def test_state_that_can_not_be_given_harms_nobody(tmp_path, caplog):
    async with open_node(NODE, recorder=FlightRecorder(tmp_path, inputs=4)) as node:
        pid = await node.spawn("till", Stateless)
        for _ in range(10):
            await node.ask(pid, Pay(1))
        assert await node.ask(pid, Pay(1)) == Total(11)
    assert caplog.text.count("flight_state() failed") == 1


async def test_too_much_to_restore_is_not_kept(tmp_path, monkeypatch):
    async def restore(self, actor, process):
        await trio.lowlevel.checkpoint()
        process.restore(None, (b"1" * 900,) * 2)

    monkeypatch.setattr("rabble_trio._persistence.Persistence.restore", restore)
    path = await fly(Till, tmp_path, [13], size=1000)
    assert "restored from 2100 bytes, and FlightRecorder keeps 1000" in str(Schedule.load(path).failure())


async def test_flight_of_a_program_says_what_to_do(tmp_path):
    path = await fly(Plain, tmp_path, [13])
    path.write_text(path.read_text().replace("tests.rabble_trio.flights:Plain", "__main__:Plain"))
    assert type(Schedule.load(path).failure()) is ScheduleError
    assert "move it to a module" in str(Schedule.load(path).failure())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("flights:Plain", "flights:Gone", "is not there any more"),
        ("flights:Plain", "flights:Pay", "missing 1 required|makes no process"),
        ("tests.rabble_trio.flights:Plain", "no.such:Plain", "can't be imported"),
        ('"tests.rabble_trio.flights"]', '"no.such"]', "can't be imported"),
        ('"arguments": []', '"arguments": [{"pid": "x"}]', "x"),
        ('"arguments": []', '"arguments": [{"what": 1}]', "a JSON object in a message"),
        ('"make": {', '"unknown": {"inputs": 1, "state": {}}, "nothing": {', "unexpected keyword"),
    ],
)
async def test_file_that_was_changed_gives_an_error(tmp_path, old, new, says):
    path = await fly(Plain, tmp_path, [13])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(Exception, match=says):
        Schedule.load(path).replay()


async def test_flight_is_minimised(tmp_path):
    path = await fly(Plain, tmp_path, [*range(10), 13])
    short = minimize(Schedule.load(path))
    assert [choice.do for choice in short.choices] == ["restart", "input"]
    assert str(short.failure()).startswith("unlucky at 13")


# --- Bounds ---


def ended(name, number, group=None):
    pid = Pid(name, NodeId("n", "127.0.0.1:1"), group)
    return Ended(pid, Flight(1, 1, None), "", f"2026-01-01 00:00:{number:09.6f} UTC", "failure", dict)


def test_process_with_the_most_files_loses_its_oldest(tmp_path):
    plan = FlightRecorder(tmp_path, files=4)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "kept.schedule").write_text("mine, too")
    write(plan, ended("rare", 0))
    for number in range(1, 9):
        write(plan, ended("often", number, group="a.b"))
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == [
        "a.b-often-2026-01-01T00-00-06.000000.schedule",
        "a.b-often-2026-01-01T00-00-07.000000.schedule",
        "a.b-often-2026-01-01T00-00-08.000000.schedule",
        "kept.schedule",
        "notes.txt",
        "rare-2026-01-01T00-00-00.000000.schedule",
    ]


async def test_only_some_are_recorded(tmp_path):
    recorder = FlightRecorder(tmp_path, only=["a", "g"])
    async with open_node(NODE, recorder=recorder) as node:
        for name, group in (("a", None), ("b", None), ("c", "g"), ("d", "h")):
            pid = await node.spawn(name, Plain, group=group, restart="temporary")
            with pytest.raises(ActorDown):
                await node.ask(pid, Pay(13))
    assert [path.name.partition("-2")[0] for path in files(tmp_path)] == ["a", "g-c"]


async def test_so_many_processes_are_recorded_at_once(tmp_path, caplog):
    async with open_node(NODE, recorder=FlightRecorder(tmp_path, processes=2)) as node:
        pids = [await node.spawn(f"p{number}", Plain) for number in range(4)]
        await node.ask(pids[0], Pay(1))
        gauges = node.metrics().gauges
        assert gauges["flights_recording"] == 2
        assert gauges["flights_bytes"] > 0
        assert caplog.text.count("p2::n1@") == 1
        await node.stop(pids[0])
        gc.collect()
        await node.spawn("p5", Plain)
        assert node.metrics().gauges["flights_recording"] == 2


async def test_flights_that_can_not_be_written_are_counted(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    async with open_node(NODE, recorder=FlightRecorder(tmp_path / "file")) as node:
        pid = await node.spawn("till", Plain, restart="temporary")
        with pytest.raises(ActorDown):
            await node.ask(pid, Pay(13))
        assert await node.ask(await node.spawn("till", Plain), Pay(1)) == Total(1)
    counters = node.metrics().counters
    assert (counters["flights_saved"], counters["flights_lost"]) == (0, 1)
    assert "the flight of till::n1@" in caplog.text
    assert "is lost: FileExistsError" in caplog.text


async def test_flights_beyond_those_that_wait_are_lost(tmp_path, monkeypatch):
    began, go_on = trio.Event(), trio.Event()

    async def slow(function, *arguments, **options):
        began.set()
        await go_on.wait()
        return function(*arguments)

    monkeypatch.setattr(recorder_module.trio.to_thread, "run_sync", slow)
    async with open_node(NODE, recorder=FlightRecorder(tmp_path)) as node:
        for number in range(MAX_WAITING + 3):
            pid = await node.spawn(f"p{number}", Plain, restart="temporary")
            with pytest.raises(ActorDown):
                await node.ask(pid, Pay(13))
        await began.wait()
        assert node.metrics().counters["flights_lost"] == 3
        go_on.set()
    assert len(files(tmp_path)) == MAX_WAITING


@pytest.mark.parametrize(
    "wrong",
    [{"inputs": 0}, {"inputs": MAX_INPUTS + 1}, {"size": 0}, {"size": MAX_SIZE + 1}, {"processes": 0}, {"files": 0},
     {"only": "till"}],
)  # fmt: skip
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r" is | are "):
        FlightRecorder("folder", **wrong)


async def test_without_a_recorder_nothing_stands_before_a_process(tmp_path):
    seen = []

    class Spy(Plain):
        def handle(self, message, sender, correlation_id, output):
            seen.append(self)

    async with open_node(NODE) as node:
        pid = await node.spawn("till", Spy)
        assert node._executor.recorder is None
        assert "flights_saved" not in node.metrics().counters
        await node.send(pid, Pay(1))
        await wait_all_tasks_blocked()
    assert type(seen[0]) is Spy


async def test_note_of_a_crash_names_the_process_itself(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    await fly(Plain, tmp_path, [13])
    assert "in state <tests.rabble_trio.flights.Plain object" in caplog.text
