import pytest

from haret.vr import Configuration, Settings
from rabble_trio import NodeId, Pid

NODE = NodeId("n", "127.0.0.1:5000")


def pids(count):
    return tuple(Pid(f"r{i}", NODE) for i in range(count))


def test_members_are_sorted_and_take_turns():
    """Section 4: the primary of view v is replica v modulo K, in the order of the configuration."""
    configuration = Configuration(0, pids(3)[::-1])
    assert configuration.replicas == pids(3)
    assert [configuration.primary(view) for view in range(4)] == [*pids(3), pids(3)[0]]


@pytest.mark.parametrize(("size", "quorum"), [(3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_any_two_quorums_meet(size, quorum):
    assert Configuration(0, pids(size)).quorum == quorum
    assert 2 * quorum > size


@pytest.mark.parametrize("members", [(), pids(2), pids(10), (*pids(3), pids(1)[0])])
def test_bad_groups_are_refused(members):
    with pytest.raises(ValueError, match=r"replicas|twice"):
        Configuration(0, members)


def test_a_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="epoch"):
        Configuration(-1, pids(3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat": 0},
        {"heartbeat": float("nan")},
        {"heartbeat": float("inf")},
        {"resend": -1.0},
        {"resend": "1"},
        {"pipeline": 0},
        {"window": 1.5},
        {"batch_entries": True},
        {"heartbeat": 0.2},
        {"primary_timeout_min": 1.0},
        {"max_operation": 2**30},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name if name != "heartbeat" else "heartbeat"):
        Settings(**wrong)


def test_times_are_counted_in_heartbeats():
    settings = Settings(heartbeat=0.05)
    assert [settings.ticks(seconds) for seconds in (0.01, 0.05, 0.1, 0.11, 0.25)] == [1, 1, 2, 3, 5]
