"""Counting: acknowledgements, wishes for a view, votes for a view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rabble_trio import Pid

from .messages import DoViewChange


def acknowledged(acked: Iterable[int], quorum: int) -> int:
    """The highest op that at least `quorum` of the replicas, the primary among them, hold (section 4.1).

    Acknowledgements are cumulative. The paper speaks of f of the others, which is the same only for K = 2f + 1: with
    K = 4 and f = 1 it would commit on two copies.
    """
    return sorted(acked, reverse=True)[quorum - 1]


class Wishes:
    """Who wishes for which view: the pre-vote. A wish promises nothing, so it may be withdrawn."""

    __slots__ = ("mine", "theirs")

    def __init__(self) -> None:
        self.mine = 0
        """The view that this replica wishes for; 0 when it is content."""
        self.theirs: dict[Pid, int] = {}
        """The newest wish of each other replica."""

    def note(self, sender: Pid, view: int) -> None:
        """Another replica wishes for `view`."""
        self.theirs[sender] = max(view, self.theirs.get(sender, 0))

    def join(self, view: int) -> bool:
        """Wish for `view`, or for a later one that somebody wishes for already. Returns whether my wish changed."""
        before = self.mine
        self.mine = max(view, before, *self.theirs.values()) if self.theirs else max(view, before)
        return self.mine != before

    def supporters(self) -> int:
        """How many replicas wish for exactly the view that I wish for, myself included."""
        return 1 + sum(view == self.mine for view in self.theirs.values())

    def entered(self, view: int) -> None:
        """The replica is in `view` now: wishes up to it are fulfilled."""
        self.mine = 0
        self.theirs = {pid: wish for pid, wish in self.theirs.items() if wish > view}

    def clear(self) -> None:
        """Content again, and the others' wishes are out of date: who still has one repeats it."""
        self.mine = 0
        self.theirs.clear()


class Votes:
    """The `DoViewChange` messages for one view (section 4.2)."""

    __slots__ = ("_votes",)

    def __init__(self) -> None:
        self._votes: dict[Pid, DoViewChange] = {}

    def add(self, sender: Pid, vote: DoViewChange) -> None:
        """Count a vote; a repeated one counts once, and one of a newer incarnation in place of the older one's."""
        known = self._votes.get(sender)
        if known is None or vote.incarnation > known.incarnation:
            self._votes[sender] = vote

    def drop_older(self, known: Mapping[Pid, int]) -> None:
        """Votes of incarnations that a newer one is known of don't count: it may not remember what they promised."""
        for pid in [pid for pid, vote in self._votes.items() if vote.incarnation < known.get(pid, 0)]:
            del self._votes[pid]

    def __len__(self) -> int:
        return len(self._votes)

    def best(self, own: Pid) -> tuple[Pid, DoViewChange]:
        """Who has the log to go on with: the newest `last_normal_view`, then the newest op; my own if it is as good."""
        return max(self._votes.items(), key=lambda item: (item[1].last_normal_view, item[1].op, item[0] == own))

    def commit(self) -> int:
        """The highest commit number among the voters."""
        return max(vote.commit for vote in self._votes.values())
