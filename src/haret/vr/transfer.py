"""State transfer (section 5.2): asking for entries, piece by piece.

Rules:

1. Only the answer to the outstanding question counts (same question number, views and position), so a late answer to an
   earlier one changes nothing (defects D5 and D14).
2. A question is asked again until it is answered, of another replica each time if any may answer. It keeps its number:
   all who may answer have the same entries at that position, and a slow answer is as good as a quick one.
3. A log that replaces another one is collected completely before it is installed. A prefix of it would not hold
   everything that this replica acknowledged before, and must not go by the new view's name.
"""

from __future__ import annotations

from rabble_trio import Outbox, Pid

from .context import Context
from .messages import Entry, GetState, NewState


class Question:
    """One `GetState` under way."""

    __slots__ = ("_age", "_ctx", "_responders", "_turn", "message")

    def __init__(
        self, ctx: Context, view: int, log_view: int, after: int, responders: tuple[Pid, ...], output: Outbox
    ) -> None:
        self._ctx = ctx
        self._responders = responders
        self._turn = 0
        self.message: GetState
        self.ask(view, log_view, after, output)

    def ask(self, view: int, log_view: int, after: int, output: Outbox) -> None:
        """Ask for the entries after `after`."""
        self.message = GetState(self._ctx.epoch, view, log_view, after, self._ctx.next_question())
        self._send(output)

    def _send(self, output: Outbox) -> None:
        self._age = 0
        output.send(self._responders[self._turn % len(self._responders)], self.message)

    def tick(self, output: Outbox) -> None:
        """Ask again, and the next one, if the answer has been awaited for long enough."""
        self._age += 1
        if self._age >= self._ctx.settings.ticks(self._ctx.settings.resend):
            self._turn += 1
            self._send(output)

    def answered_by(self, answer: NewState) -> bool:
        """Whether this is the answer."""
        asked = self.message
        return (
            answer.request == asked.request
            and answer.view == asked.view
            and answer.log_view == asked.log_view
            and answer.first == asked.after + 1
        )


class Collection:
    """A log being collected, to be installed as that of `view` when it is complete."""

    __slots__ = ("_ctx", "_question", "after", "commit", "entries", "log_view", "target", "view")

    def __init__(
        self,
        ctx: Context,
        view: int,
        log_view: int,
        after: int,
        target: int | None,
        responders: tuple[Pid, ...],
        output: Outbox,
    ) -> None:
        self._ctx = ctx
        self.view = view
        self.log_view = log_view
        self.after = after
        """The own log is good up to here."""
        self.target = target
        """The op that makes it complete. If it is None, the first answer tells: whoever is normal in a view has at
        least what the view began with."""
        self.entries: list[Entry] = []
        self.commit = 0
        """The highest commit number heard with the pieces."""
        self._question = None if self.complete else Question(ctx, view, log_view, after, responders, output)

    @property
    def complete(self) -> bool:
        """Whether it can be installed."""
        return self.target is not None and self.after + len(self.entries) >= self.target

    def accept(self, answer: NewState, output: Outbox) -> bool:
        """Take a piece, and ask for the next. Returns whether it was the one that was awaited."""
        question = self._question
        if question is None or not question.answered_by(answer):
            self._ctx.count("dropped_stale_new_state")
            return False
        if self.target is None:
            self.target = max(answer.op, self.after)
        self.entries.extend(answer.entries)
        self.commit = max(self.commit, answer.commit)
        if self.complete:
            self._question = None
        elif answer.entries:
            question.ask(self.view, self.log_view, self.after + len(self.entries), output)
        return bool(answer.entries) or self.complete

    def tick(self, output: Outbox) -> None:
        """Ask again if need be."""
        if self._question is not None:
            self._question.tick(output)


def answer(ctx: Context, question: GetState, sender: Pid, output: Outbox) -> None:
    """Answer a `GetState` that this replica may answer, with a bounded piece of its log."""
    if not ctx.log.holds(question.after):
        # Nothing to give: it was cut off, or the other replica is ahead. It will ask somebody else (defect D11).
        ctx.count("dropped_get_state_out_of_range")
        return
    entries = ctx.log.batch(question.after, ctx.settings.batch_entries, ctx.settings.batch_bytes)
    output.send(
        sender,
        NewState(
            epoch=question.epoch,
            view=question.view,
            log_view=question.log_view,
            request=question.request,
            first=question.after + 1,
            op=ctx.log.op,
            commit=ctx.commit,
            entries=entries,
        ),
    )
