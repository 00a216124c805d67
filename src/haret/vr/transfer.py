"""State transfer (section 5.2): asking for entries, piece by piece, or for an image where they were cut off.

Rules:

1. Only the answer to the outstanding question counts (same question number, views and position), so a late answer to an
   earlier one changes nothing (defects D5 and D14).
2. A question is asked again until it is answered, of another replica each time if any may answer. It keeps its number:
   all who may answer have the same entries at that position, and the same images, and a slow answer is as good as a
   quick one.
3. A log that replaces another one is collected completely before it is installed. A prefix of it would not hold
   everything that this replica acknowledged before, and must not go by the new view's name.
4. Who has cut off the entries that are wanted answers with the first part of its newest image. The others are asked for
   one at a time; if another replica, which has a newer image, must go on, it begins with that one.
"""

from __future__ import annotations

from rabble_trio import Outbox, Pid

from .context import Context
from .image import ImageReader
from .messages import ANY_VIEW, Entry, GetState, ImagePart, NewState


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

    def ask(self, view: int, log_view: int, after: int, output: Outbox, image: int = 0, part: int = 0) -> None:
        """Ask for the entries after `after`, or for a part of an image."""
        ctx = self._ctx
        number = ctx.next_question()
        self.message = GetState(ctx.epoch, view, log_view, after, number, image, part, ctx.incarnation)
        self._send(output)

    def _send(self, output: Outbox) -> None:
        self._age = 0
        self._ctx.send(self._responders[self._turn % len(self._responders)], self.message, output)

    def tick(self, output: Outbox) -> None:
        """Ask again, and the next one, if the answer has been awaited for long enough."""
        self._age += 1
        if self._age >= self._ctx.settings.ticks(self._ctx.settings.resend):
            self._turn += 1
            self._send(output)

    def answered_by(self, answer: NewState | ImagePart) -> bool:
        """Whether this is the answer."""
        asked = self.message
        if answer.request != asked.request or answer.view != asked.view or answer.log_view != asked.log_view:
            return False
        return isinstance(answer, ImagePart) or (answer.first == asked.after + 1 and asked.image == 0)


class Collection:
    """A log being collected, to be installed as that of `view` when it is complete."""

    __slots__ = ("_ctx", "_question", "after", "commit", "entries", "image", "log_view", "target", "view")

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
        """The own log is good up to here; or the image, if there is one."""
        self.target = target
        """The op that makes it complete. If it is None, the first answer tells: whoever is normal in a view has at
        least what the view began with."""
        self.entries: list[Entry] = []
        self.image: ImageReader | None = None
        """The state at `after`, if the entries before it were cut off elsewhere."""
        self.commit = 0
        """The highest commit number heard with the pieces."""
        self._question = None if self.complete else Question(ctx, view, log_view, after, responders, output)

    @property
    def complete(self) -> bool:
        """Whether it can be installed."""
        whole = self.image is None or self.image.whole
        return whole and self.target is not None and self.after + len(self.entries) >= self.target

    def accept(self, answer: NewState | ImagePart, output: Outbox) -> bool:
        """Take a piece, and ask for the next. Returns whether it was the one that was awaited."""
        question = self._question
        if question is None or not question.answered_by(answer):
            self._ctx.count("dropped_stale_new_state")
            return False
        if isinstance(answer, ImagePart):
            return self._accept_part(answer, question, output)
        if self.target is None:
            self.target = max(answer.op, self.after)
        self.entries.extend(answer.entries)
        self.commit = max(self.commit, answer.commit)
        if self.complete:
            self._question = None
        elif answer.entries:
            question.ask(self.view, self.log_view, self.after + len(self.entries), output)
        return bool(answer.entries) or self.complete

    def _accept_part(self, answer: ImagePart, question: Question, output: Outbox) -> bool:
        ctx = self._ctx
        image = self.image
        if answer.part == 0 and answer.image > self.after and (image is None or image.op != answer.image):
            image = self.image = ImageReader(answer.image, ctx.machine)
        if image is None or image.op != answer.image or image.next != answer.part or image.whole:
            ctx.count("dropped_image_part")
            return False
        try:
            image.feed(answer.data, answer.last)
        except ValueError:
            # Whoever sent it is broken. Begin again, with the next one.
            ctx.count("bad_images")
            self.image = None
            return False
        ctx.stage(image.op, answer.part, answer.data, output)
        if answer.last:
            self.after = image.op
            self.entries.clear()
            self.commit = max(self.commit, image.op)
            if self.target is not None and self.after >= self.target:
                self._question = None
            else:
                question.ask(self.view, self.log_view, self.after, output)
        else:
            question.ask(self.view, self.log_view, self.after, output, image.op, image.next)
        return True

    def install(self, view: int | None, output: Outbox) -> bool:
        """Make what was collected the log of this replica. False if the image was bad: then nothing has changed."""
        try:
            self._ctx.install(view, self.after, self.entries, output, self.image)
        except ValueError:
            self._ctx.count("bad_images")
            return False
        return True

    def tick(self, output: Outbox) -> None:
        """Ask again if need be."""
        if self._question is not None:
            self._question.tick(output)


def answer(ctx: Context, question: GetState, sender: Pid, output: Outbox) -> None:
    """Answer a `GetState` that this replica may answer: with a bounded piece of its log, or a part of an image."""
    if question.image or question.after < ctx.log.start:
        _answer_with_image(ctx, question, sender, output)
        return
    last = ctx.commit if question.view == ANY_VIEW else ctx.log.op
    if question.after > last:
        # Nothing to give: the other replica is ahead. It will ask somebody else.
        ctx.count("dropped_get_state_out_of_range")
        return
    entries = ctx.log.batch(question.after, last, ctx.settings.batch_entries, ctx.settings.batch_bytes)
    state = NewState(
        epoch=ctx.epoch,
        view=question.view,
        log_view=question.log_view,
        request=question.request,
        first=question.after + 1,
        op=last,
        commit=ctx.commit,
        entries=entries,
        incarnation=ctx.incarnation,
    )
    ctx.send(sender, state, output)


def _answer_with_image(ctx: Context, question: GetState, sender: Pid, output: Outbox) -> None:
    made = ctx.part_of_image(question.image, question.part)
    if made is None:
        # A part that takes another moment to make, or no such image: it asks again, this replica or another.
        ctx.count("image_part_not_ready")
        return
    image, data, last = made
    part = question.part if image == question.image else 0
    ctx.send(
        sender,
        ImagePart(
            epoch=ctx.epoch,
            view=question.view,
            log_view=question.log_view,
            request=question.request,
            image=image,
            part=part,
            last=last,
            data=data,
            incarnation=ctx.incarnation,
        ),
        output,
    )
