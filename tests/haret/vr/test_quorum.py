import pytest

from haret.vr.messages import DoViewChange
from haret.vr.quorum import Votes, Wishes, acknowledged
from rabble_trio import NodeId, Pid

A, B, C = (Pid(name, NodeId("n", "127.0.0.1:5000")) for name in "abc")


@pytest.mark.parametrize(
    ("acked", "others", "op"),
    [([3, 5], 1, 5), ([3, -1], 1, 3), ([9, 4, 7], 2, 7), ([9, 4, 7, 1], 2, 7), ([-1, -1], 1, -1)],
)
def test_what_enough_backups_hold(acked, others, op):
    """Section 4.1, step 4. The third case is a group of four: two others must hold an op, not one."""
    assert acknowledged(acked, others) == op


def test_wishes_meet_at_the_highest():
    wishes = Wishes()
    wishes.note(A, 3)
    wishes.note(A, 2)
    wishes.note(B, 5)
    assert wishes.join(1)
    assert wishes.mine == 5
    assert wishes.supporters() == 2
    assert not wishes.join(4)
    wishes.note(A, 5)
    assert wishes.supporters() == 3


def test_an_entered_view_fulfils_wishes_up_to_it():
    wishes = Wishes()
    wishes.note(A, 5)
    wishes.note(B, 6)
    wishes.join(5)
    wishes.entered(5)
    assert (wishes.mine, wishes.theirs) == (0, {B: 6})
    wishes.clear()
    assert (wishes.mine, wishes.theirs) == (0, {})


def votes(**described):
    made = Votes()
    for name, (last_normal_view, op, commit) in described.items():
        sender = {"a": A, "b": B, "c": C}[name]
        made.add(sender, DoViewChange(0, 9, last_normal_view, op, commit))
    return made


def test_the_newest_view_wins_over_the_longer_log():
    """Section 4.2, step 3."""
    made = votes(a=(0, 30, 2), b=(1, 10, 1), c=(1, 12, 0))
    owner, best = made.best(A)
    assert (owner, best.op) == (C, 12)
    assert made.commit() == 2


def test_the_own_log_wins_if_it_is_as_good():
    assert votes(a=(1, 5, 0), b=(1, 5, 0)).best(A)[0] == A
    assert votes(a=(1, 5, 0), b=(1, 5, 0)).best(B)[0] == B


def test_a_vote_counts_once():
    made = votes(a=(0, 1, 0))
    made.add(A, DoViewChange(0, 9, 0, 7, 0))
    assert len(made) == 1
    assert made.best(B)[1].op == 1
