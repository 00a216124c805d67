"""What a replica keeps from state to state (Figure 2 of the paper), and the few ways in which it changes.

The rules that hold between any two messages, and are checked whenever a replica changes one of these numbers:

1. `log.start` <= `commit` <= `log.op`. Entries up to `commit` never change any more.
2. `last_normal_view` <= `view`. They are equal exactly while the status is normal.
3. `view` never decreases.
4. `last_normal_view` changes only together with the log, in `install`: it says whose log this is. (A replica that took
   a new view's number without its log could outvote one that has it: trap D1 of state transfer as published.)
5. Two replicas of equal `last_normal_view` have logs of which one is a prefix of the other.
6. A log that is installed is complete: it holds everything that its view began with. Pieces are collected elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rabble_trio import Outbox, Pid

from .client_table import ClientTable
from .configuration import Configuration, Settings, StateMachine
from .log import Log
from .messages import Entry, ViewChanged
from .quorum import Wishes
from .violation import check

if TYPE_CHECKING:
    from random import Random


class Context:
    """The memory of one replica. States read everything, and change it only through the methods below."""

    __slots__ = (
        "_questions",
        "clients",
        "commit",
        "configuration",
        "counters",
        "epoch",
        "last_normal_view",
        "log",
        "machine",
        "observer",
        "peers",
        "pid",
        "quorum",
        "random",
        "settings",
        "view",
        "wishes",
    )

    def __init__(
        self,
        configuration: Configuration,
        machine: StateMachine,
        random: Random,
        settings: Settings,
        observer: Pid | None,
    ) -> None:
        self.configuration = configuration
        self.machine = machine
        self.random = random
        self.settings = settings
        self.observer = observer
        self.epoch = configuration.epoch
        self.quorum = configuration.quorum
        self.view = 0
        self.last_normal_view = 0
        self.log = Log()
        self.commit = 0
        self.clients = ClientTable(settings.max_sessions)
        self.wishes = Wishes()
        self.counters: dict[str, int] = {}
        self.pid: Pid
        self.peers: tuple[Pid, ...]
        # Answers to questions of an earlier incarnation must not fit: start anywhere.
        self._questions = random.getrandbits(48)

    def start(self, pid: Pid) -> None:
        """The replica learns who it is. Raises `ValueError` unless it is a member of its configuration."""
        if pid not in self.configuration.replicas:
            members = ", ".join(map(str, self.configuration.replicas))
            raise ValueError(f"{pid} can't be a replica of this group: its members are {members}")
        self.pid = pid
        self.peers = tuple(member for member in self.configuration.replicas if member != pid)

    def count(self, what: str) -> None:
        """Add one to a counter of `Metrics`."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def next_question(self) -> int:
        """A number for a `GetState` that no other question of this replica has."""
        self._questions += 1
        return self._questions

    def broadcast(self, message: Any, output: Outbox) -> None:
        """Send to all other replicas."""
        for peer in self.peers:
            output.send(peer, message)

    def is_primary(self, view: int) -> bool:
        """Whether this replica is the primary of a view."""
        return self.configuration.primary(view) == self.pid

    def patience(self) -> int:
        """After how many silent ticks to act: drawn anew each time."""
        settings = self.settings
        return settings.ticks(self.random.uniform(settings.primary_timeout_min, settings.primary_timeout_max))

    def enter_view_change(self, view: int) -> None:
        """Promise to take part in no view before this one (section 4.2)."""
        check(view > self.view, "a replica only enters views later than its own")
        self.view = view
        self.wishes.entered(view)
        self.count("view_changes")

    def install(self, view: int, after: int, entries: list[Entry]) -> None:
        """Take over the log of a view, from `after` + 1 on, and with it the view."""
        check(after >= self.commit, "committed entries are never replaced")
        check(view >= self.view, "the view never decreases")
        self.log.replace_after(after, entries)
        self.view = self.last_normal_view = view
        self.wishes.entered(view)

    def execute_to(self, commit: int) -> None:
        """Execute entries up to `commit`, as far as the log reaches, without replying to anybody."""
        commit = min(commit, self.log.op)
        if commit <= self.commit:
            return
        execute, apply = self.clients.execute, self.machine.apply
        for op, entry in enumerate(self.log.slice(self.commit, commit), self.commit + 1):
            execute(op, entry, apply)
        self.commit = commit

    def announce(self, output: Outbox) -> None:
        """Tell the observer that this replica is normal in its view."""
        check(self.last_normal_view == self.view, "a replica is normal only with the log of its view")
        if self.observer is not None:
            primary = self.configuration.primary(self.view)
            output.send(self.observer, ViewChanged(self.pid, self.epoch, self.view, primary))
