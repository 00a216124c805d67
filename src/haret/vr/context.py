"""What a replica keeps from state to state (Figure 2 of the paper), and the few ways in which it changes.

The rules that hold between any two messages, and are checked whenever a replica changes one of these numbers:

1. `log.start` <= op of the newest image <= `commit` <= `log.op`. Entries up to `commit` never change any more.
2. `last_normal_view` <= `view`. They are equal exactly while the status is normal.
3. `view` never decreases within an epoch.
4. `last_normal_view` changes only together with the log, in `install`: it says whose log this is. (A replica that took
   a new view's number without its log could outvote one that has it: trap D1 of state transfer as published.)
5. Two replicas of equal epoch and `last_normal_view` have logs of which one is a prefix of the other.
6. A log that is installed is complete: it holds everything that its view began with. Pieces are collected elsewhere.
7. Each change of the log, the view or the epoch is written into the journal by the method that makes it, so what a replica
   sends afterwards is held back until the change is durable. What promises nothing goes through `send`, and waits only
   until the view itself is durable: a slow disk delays votes and acknowledgements, and nothing else.
8. An image of the state is made at the same ops by all replicas, and the log before the last image but one is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rabble_trio import CorrelationId, Outbox, Pid, encode

from .client_table import ClientTable
from .configuration import Configuration, Settings, StateMachine
from .image import ImageHead, ImageReader, PartServer, StateImage
from .log import Log, entry_size, first_batch
from .messages import Entry, Reconfiguration, ViewChanged
from .quorum import Wishes
from .records import (
    Appended,
    Began,
    Configured,
    Entered,
    Installed,
    Lost,
    Record,
    StagedEntries,
    StagedImage,
    Stopped,
    join_records,
)
from .violation import check

if TYPE_CHECKING:
    from random import Random

MIN_JOURNAL = 8 * 1024 * 1024
"""Bytes of records that are worth a snapshot at least: reading them back takes a fraction of a second."""

SERVER_IDLE = 100
"""Ticks after which the parts of an image that nobody asked for are forgotten."""


class Context:
    """The memory of one replica. States read everything, and change it only through the methods below."""

    __slots__ = (
        "_begun_at",
        "_bytes_since_image",
        "_empty",
        "_journal_bytes",
        "_marks",
        "_parts",
        "_questions",
        "_snapshot_bytes",
        "_snapshot_due",
        "clients",
        "commit",
        "commit_timer",
        "configuration",
        "counters",
        "durable",
        "durable_count",
        "durable_op",
        "epoch",
        "epoch_start",
        "gather_timer",
        "images",
        "incarnation",
        "known",
        "last_normal_view",
        "log",
        "machine",
        "members",
        "observer",
        "peers",
        "persisted",
        "pid",
        "previous",
        "quorum",
        "random",
        "settings",
        "stalled",
        "started",
        "tick_timer",
        "undigested",
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
        durable: bool = True,
        incarnation: int = 1,
    ) -> None:
        self.machine = machine
        self._empty = machine.image()
        self.random = random
        self.settings = settings
        self.observer = observer
        self.durable = durable
        """Whether the log is in the journal, too, and not only what was promised."""
        self.incarnation = incarnation
        self.known: dict[Pid, int] = {}
        """The newest incarnation of each other replica that was heard of."""
        self.pid: Pid
        self.tick_timer: CorrelationId
        self.gather_timer: CorrelationId
        self.commit_timer: CorrelationId
        """Of the only timers that there are: the heartbeat's, and those of a primary that gathers what comes in
        (`Settings.gather`) and portions what goes out (`Settings.answer_batch`)."""
        self.started = False
        """Whether the replica knows who it is."""
        self.peers: tuple[Pid, ...] = ()
        self.members: frozenset[Pid] = frozenset()
        """The peers again."""
        self.previous: tuple[Pid, ...] = ()
        """The members of the epoch before; none if that is not known, or long ago."""
        self.configuration: Configuration
        self.epoch: int
        self.quorum: int
        self.epoch_start = 0
        """The last op of the epoch before."""
        self.configure(configuration)
        self.view = 0
        self.last_normal_view = 0
        self.log = Log()
        self.commit = 0
        self.clients = ClientTable(settings.max_sessions)
        self.wishes = Wishes()
        self.counters: dict[str, int] = {}
        self.images: tuple[StateImage, ...] = ()
        """The newest, and the one before."""
        self.undigested: StateImage | None = None
        """The newest image, until its digest is known."""
        self._bytes_since_image = 0
        self._parts: dict[int, PartServer] = {}
        # The journal: records written and durable, in this incarnation; which of them make how much of the log durable.
        self.persisted = 0
        self.durable_count = 0
        self.durable_op = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._begun_at = 0
        self.stalled = 0
        """For how many ticks the disk has done nothing, though there is something to do."""
        self._journal_bytes = 0
        self._snapshot_bytes = 0
        self._snapshot_due = False
        # Answers to questions of an earlier incarnation must not fit: start anywhere.
        self._questions = random.getrandbits(48)

    def start(self, pid: Pid) -> None:
        """The replica learns who it is."""
        self.pid = pid
        self.tick_timer, self.gather_timer, self.commit_timer = (CorrelationId(pid, number) for number in (1, 2, 3))
        self.started = True
        self.peers = tuple(member for member in self.configuration.replicas if member != pid)
        self.members = frozenset(self.peers)

    @property
    def member(self) -> bool:
        """Whether this replica is one of the group in its epoch."""
        return self.pid in self.configuration.replicas

    @property
    def knows_beginning(self) -> bool:
        """Whether this replica has executed the entry with which its epoch began; the first one began with none."""
        return self.epoch == 0 or 0 < self.epoch_start <= self.commit

    # --- Small things ---

    def count(self, what: str) -> None:
        """Add one to a counter of `Metrics`."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def next_question(self) -> int:
        """A number for a question that no other question of this replica has."""
        self._questions += 1
        return self._questions

    def is_primary(self, view: int) -> bool:
        """Whether this replica is the primary of a view."""
        return self.configuration.primary(view) == self.pid

    def patience(self) -> int:
        """After how many silent ticks to act: drawn anew each time."""
        settings = self.settings
        return settings.ticks(self.random.uniform(settings.primary_timeout_min, settings.primary_timeout_max))

    def learn_incarnations(self, known: tuple[int, ...], output: Outbox) -> None:
        """Another member told which incarnations it knows, in the order of the configuration."""
        news = False
        for member, number in zip(self.configuration.replicas, known, strict=False):
            if member != self.pid and number > self.known.get(member, 0):
                self.known[member] = number
                news = True
        if news:
            self.began(output)

    def known_incarnations(self) -> tuple[int, ...]:
        """The newest incarnations of all members, in the order of the configuration."""
        known = self.known
        return tuple(
            self.incarnation if member == self.pid else known.get(member, 0) for member in self.configuration.replicas
        )

    # --- Sending ---

    def send(self, to: Pid, message: Any, output: Outbox, cid: CorrelationId | None = None) -> None:
        """Send what promises nothing (rule 7)."""
        output.send(to, message, cid, held=self.durable_count < self._begun_at)

    def broadcast(self, message: Any, output: Outbox) -> None:
        """Send what promises nothing to all other replicas."""
        held = self.durable_count < self._begun_at
        for peer in self.peers:
            output.send(peer, message, held=held)

    def promise_all(self, message: Any, output: Outbox) -> None:
        """Send to all other replicas what must not be heard before the journal is durable."""
        for peer in self.peers:
            output.send(peer, message)

    def announce(self, output: Outbox) -> None:
        """Tell the observer that this replica is normal in its view."""
        check(self.last_normal_view == self.view, "a replica is normal only with the log of its view")
        if self.observer is not None:
            primary = self.configuration.primary(self.view)
            output.send(self.observer, ViewChanged(self.pid, self.epoch, self.view, primary))

    # --- The journal ---

    def persist(self, record: Record, output: Outbox) -> None:
        """Write a record."""
        data = encode(record)
        self.persisted += 1
        self._journal_bytes += len(data)
        output.persist(data)

    def began(self, output: Outbox) -> None:
        """Write down which incarnations are known; no message of an older one counts from here on."""
        self.persist(Began(self.incarnation, dict(self.known)), output)

    def begin(self, output: Outbox) -> None:
        """Write down that this incarnation begins. Nothing of it is heard before that is durable: one that leaves nothing
        behind is started as if it had never been.
        """
        self.began(output)
        self._begun_at = self.persisted

    def lose(self, output: Outbox) -> None:
        """Write down that the log is lost, and forget it."""
        self.count("lost")
        self.persist(Lost(), output)
        self.forget()

    def forget(self) -> None:
        """Begin with an empty log and an empty state, as if nothing had ever been executed."""
        if self.commit:
            loader = self.machine.loader()
            for chunk in self._empty.chunks():
                loader.feed(chunk)
            loader.finish()
        self.clients = ClientTable(self.settings.max_sessions)
        self.log = Log()
        self.commit = 0
        self.images = ()
        self.undigested = None
        self._bytes_since_image = 0
        self._marks.clear()
        self.durable_op = 0

    def stop(self, reason: str, output: Outbox) -> None:
        """Write down that this replica stands still."""
        self.persist(Stopped(reason), output)

    def on_persisted(self, count: int) -> None:
        """So many records of this incarnation are durable."""
        self.durable_count = count
        self.stalled = 0
        marks = self._marks
        while marks and marks[0][0] <= count:
            self.durable_op = marks.popleft()[1]

    @property
    def settled(self) -> bool:
        """Whether the view that this replica is in, and the log that it began with, are durable."""
        return self.durable_count >= self._begun_at

    @property
    def own_vote(self) -> int:
        """Up to which op this replica holds the log as durably as its mode wants."""
        return self.durable_op if self.durable else self.log.op

    @property
    def unsynced(self) -> int:
        """Records that are not durable yet."""
        return self.persisted - self.durable_count

    def tick(self) -> None:
        """Time passes."""
        if self.persisted > self.durable_count:
            self.stalled += 1
        for op, server in list(self._parts.items()):
            server.idle += 1
            if server.idle > SERVER_IDLE:
                del self._parts[op]

    # --- The ways in which log, view and epoch change ---

    def append(self, entries: tuple[Entry, ...], output: Outbox) -> None:
        """Add entries of this view to the log."""
        first = self.log.op + 1
        self.log.extend(first, entries)
        if self.durable:
            self.persist(Appended(first, self.commit, entries), output)
            self._marks.append((self.persisted, self.log.op))

    def enter_view_change(self, view: int, output: Outbox) -> None:
        """Promise to take part in no view before this one (section 4.2)."""
        check(view > self.view, "a replica only enters views later than its own")
        self.view = view
        self.wishes.entered(view)
        self.count("view_changes")
        self.persist(Entered(view), output)
        self._begun_at = self.persisted

    def stage(self, image: int, part: int, data: bytes, output: Outbox) -> None:
        """Keep a part of an image that `install` will need."""
        if self.durable:
            self.persist(StagedImage(image, part, data), output)

    def install(
        self, view: int | None, after: int, entries: Sequence[Entry], output: Outbox, image: ImageReader | None = None
    ) -> None:
        """Take over the log of a view, from `after` + 1 on, and with it the view, unless a later one was entered before.

        `image`: the state at `after`, if the log before it is not there. Raises `ValueError` if the image is bad; nothing
        has changed then. `view`: None for committed entries, which are the same in all views.
        """
        if image is None:
            check(after >= self.commit, "committed entries are never replaced")
            self.log.replace_after(after, entries)
        else:
            self.load(image)
            self.log.extend(after + 1, entries)
        if view is None:
            view = self.last_normal_view
        self.last_normal_view = view
        self.view = max(view, self.view)
        self.wishes.entered(self.view)
        if self.durable:
            self._stage_entries(entries, output)
        self.persist(Installed(view, after, image is not None), output)
        self._begun_at = self.persisted
        self._marks.clear()
        # Until the record is durable, nobody knows what of the log is.
        self.durable_op = min(self.durable_op, after)
        self._marks.append((self.persisted, self.log.op))
        if image is not None and self.durable:
            self._snapshot_due = True

    def _stage_entries(self, entries: Sequence[Entry], output: Outbox) -> None:
        done = 0
        while done < len(entries):
            batch = first_batch(entries[done : done + self.settings.batch_entries], self.settings.batch_bytes)
            self.persist(StagedEntries(batch), output)
            done += len(batch)

    def load(self, reader: ImageReader) -> None:
        """Make the state of an image that was read this replica's. Raises `ValueError` if it is not complete."""
        head, sessions = reader.finish()
        self.clients.restore(sessions)
        self.log = Log(head.op)
        self.commit = head.op
        if head.epoch != self.epoch:
            self._begin_epoch(Configuration(head.epoch, head.replicas))
        self.epoch_start = head.epoch_start
        self.images = (StateImage(head, sessions, self.machine.image()),)
        self.undigested = None
        self._bytes_since_image = 0

    # --- Executing ---

    def segment(self, commit: int) -> int:
        """Up to which op to execute next, on the way to `commit`: images are made at certain ops only."""
        step = self.settings.checkpoint_step
        return min(commit, self.commit - self.commit % step + step)

    def execute_to(self, commit: int, output: Outbox | None) -> None:
        """Execute entries up to `commit`, as far as the log reaches, without replying to anybody."""
        commit = min(commit, self.log.op)
        execute, apply = self.clients.execute, self.machine.apply
        while self.commit < commit:
            upto = self.segment(commit)
            entries = self.log.slice(self.commit, upto)
            for op, entry in enumerate(entries, self.commit + 1):
                execute(op, entry, apply)
                if type(entry) is Reconfiguration:
                    del entries[op - self.commit :]  # the rest belongs to the next epoch
                    break
            self.executed(entries, output)

    def executed(self, entries: Sequence[Entry], output: Outbox | None) -> None:
        """These entries, the next ones, were executed."""
        self.commit += len(entries)
        last = entries[-1]
        if type(last) is Reconfiguration and last.epoch == self.epoch:
            self._begin_epoch(Configuration(last.epoch + 1, last.replicas))
            self.epoch_start = self.commit
            if output is not None:
                self.persist(Configured(self.epoch, last.replicas, self.commit), output)
                self._begun_at = self.persisted
        elif type(last) is Reconfiguration and last.epoch + 1 == self.epoch:
            self.epoch_start = self.commit  # it was told of its epoch before it had the log
        self._bytes_since_image += sum(map(entry_size, entries))
        settings = self.settings
        if self.commit % settings.checkpoint_step == 0:
            ops = self.commit - (self.images[0].op if self.images else 0)
            if ops >= settings.checkpoint_ops or self._bytes_since_image >= settings.checkpoint_bytes:
                self._make_image()

    def _make_image(self) -> None:
        head = ImageHead(self.commit, self.epoch, self.configuration.replicas, self.epoch_start)
        image = StateImage(head, self.clients.image(), self.machine.image())
        self.images = (image, *self.images[:1])
        self.undigested = image
        self._bytes_since_image = 0
        if len(self.images) > 1:
            self.log.truncate(self.images[1].op)
        if self._journal_bytes >= max(MIN_JOURNAL, 2 * self._snapshot_bytes):
            self._snapshot_due = True
        self.count("images")

    # --- Epochs ---

    def configure(self, configuration: Configuration) -> None:
        """These are the members."""
        self.configuration = configuration
        self.epoch = configuration.epoch
        self.quorum = configuration.quorum

    def _begin_epoch(self, configuration: Configuration) -> None:
        """Executing the last entry of an epoch begins the next one, in view 0, with that very log (section 7.1)."""
        self.previous = self.configuration.replicas
        self.configure(configuration)
        self.view = self.last_normal_view = 0
        self.wishes = Wishes()
        if self.started:
            self.start(self.pid)

    # --- Images for others, snapshots for the journal ---

    def part_of_image(self, op: int, part: int) -> tuple[int, bytes, bool] | None:
        """Part of the image at this op, or the first of the newest, and whether it is the last. None: not now."""
        server = self._parts.get(op)
        if server is None:
            image = next((image for image in self.images if image.op == op), None)
            if image is None:
                if not self.images:
                    return None
                image, part = self.images[0], 0
            server = self._parts.get(image.op)
            if server is None:
                server = self._parts[image.op] = PartServer(image)
        made = server.part(part)
        return None if made is None else (server.image.op, *made)

    def maybe_snapshot(self, output: Outbox) -> None:
        """Let the journal be replaced by a shorter one, if that is worth it. To be called at the end of a step."""
        if not self._snapshot_due:
            return
        self._snapshot_due = False
        self._journal_bytes = 0
        image = self.images[0] if self.images and self.durable else None
        after = 0 if image is None else image.op
        began = Began(self.incarnation, dict(self.known))
        # After the entries, because executing the one that begins an epoch sets its views to 0.
        promises: list[Record] = [
            Configured(self.epoch, self.configuration.replicas, self.epoch_start),
            Installed(self.last_normal_view, self.log.op if self.durable else 0, False),
        ]
        if self.view > self.last_normal_view:
            promises.append(Entered(self.view))
        tail = tuple(self.log.slice(after, self.log.op)) if self.durable else ()
        commit, settings = self.commit, self.settings

        def encode_all() -> bytes:
            records: list[Record] = [began]
            if image is not None:
                records += [StagedImage(image.op, part, data) for part, data in enumerate(image.parts())]
                records.append(Installed(0, after, True))
            done = 0
            while done < len(tail):
                batch = first_batch(tail[done : done + settings.batch_entries], settings.batch_bytes)
                records.append(Appended(after + done + 1, commit, batch))
                done += len(batch)
            return join_records([*records, *promises])

        output.snapshot(encode_all)

    def on_snapshotted(self, size: int) -> None:
        """The snapshot is durable."""
        self._snapshot_bytes = size
        self.count("snapshots")
