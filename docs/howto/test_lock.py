from lock import Acquire, Busy, Granted, Lock, Release

from rabble_trio import Down, NodeId, Outbox, Pid, Timeout

NODE = NodeId("n1", "127.0.0.1:5000")
LOCK, ANN, BOB = (Pid(name, NODE) for name in ("lock", "ann", "bob"))
EXECUTOR = Pid("executor", NODE, "rabble")


def step(lock, message, sender):
    """One step: what the process sent to other actors, and what it asked of the executor."""
    output = Outbox(LOCK)
    lock.handle(message, sender, None, output)
    sent = [(e.to, e.message) for e in output.envelopes if e.to != EXECUTOR]
    asked = [type(e.message).__name__ for e in output.envelopes if e.to == EXECUTOR]
    return sent, asked


def test_first_comes_first():
    lock = Lock(lease=30.0)
    assert step(lock, Acquire(), ANN) == ([(ANN, Granted())], ["Monitor", "StartTimer"])
    assert step(lock, Acquire(), BOB) == ([(BOB, Busy(ANN))], [])
    step(lock, Release(), ANN)
    assert step(lock, Acquire(), BOB)[0] == [(BOB, Granted())]


def test_only_the_holder_can_release():
    lock = Lock(lease=30.0)
    step(lock, Acquire(), ANN)
    assert step(lock, Release(), BOB) == ([], [])
    assert lock.holder == ANN


def test_lease_runs_out_in_no_time():
    lock = Lock(lease=30.0)
    step(lock, Acquire(), ANN)
    step(lock, Timeout(), EXECUTOR)
    assert lock.holder is None


def test_late_word_of_a_death_takes_nothing_from_the_next_holder():
    lock = Lock(lease=30.0)
    step(lock, Acquire(), ANN)
    step(lock, Release(), ANN)
    step(lock, Acquire(), BOB)
    step(lock, Down(ANN, "finished"), EXECUTOR)
    assert lock.holder == BOB
