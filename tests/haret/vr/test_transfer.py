"""Asking for entries, piece by piece (section 5.2)."""

from dataclasses import replace
from random import Random

import pytest

from haret.vr import Configuration, Settings
from haret.vr.context import Context
from haret.vr.messages import GetState, NewState, Request
from haret.vr.transfer import Collection, Question, answer
from rabble_trio import NodeId, Outbox, Pid

A, B, C = (Pid(name, NodeId("n", "127.0.0.1:5000")) for name in "abc")


def entries(first, last):
    return tuple(Request(1, number, 1, b"x%d" % number) for number in range(first, last + 1))


@pytest.fixture
def ctx(recorder):
    made = Context(Configuration(0, (A, B, C)), recorder, Random(0), Settings(batch_entries=3), None)
    made.start(A)
    return made


@pytest.fixture
def output():
    return Outbox(A)


def sent(output):
    envelopes = output.envelopes
    output.clear()
    return [(e.to, e.message) for e in envelopes]


def answering(question, op, last, **changed):
    return replace(
        NewState(
            epoch=0,
            view=question.view,
            log_view=question.log_view,
            request=question.request,
            first=question.after + 1,
            op=op,
            commit=0,
            entries=entries(question.after + 1, last),
        ),
        **changed,
    )


@pytest.mark.parametrize("changed", [{"request": 0}, {"view": 2}, {"log_view": 2}, {"first": 3}, {"first": 1}])
def test_only_the_answer_to_the_outstanding_question_counts(ctx, output, changed):
    question = Question(ctx, 1, 1, 1, (B, C), output)
    right = answering(question.message, 4, 4)
    assert question.answered_by(right)
    assert not question.answered_by(replace(right, **changed))


def test_every_question_has_another_number_in_every_incarnation(ctx, recorder, output):
    def numbers(context):
        question = Question(context, 1, 1, 1, (B, C), output)
        first = question.message.request
        question.ask(1, 1, 1, output)
        return {first, question.message.request}

    other = Context(ctx.configuration, recorder, Random(1), Settings(), None)
    assert len(numbers(ctx) | numbers(other)) == 4


def test_a_question_is_repeated_to_the_next_one_under_the_same_number(ctx, output):
    question = Question(ctx, 1, 1, 0, (B, C), output)
    for _ in range(4):
        question.tick(output)
    asked = sent(output)
    assert [to for to, _ in asked] == [B, C, B]
    assert {message for _, message in asked} == {question.message}


def test_a_collection_asks_until_it_is_complete(ctx, output):
    collection = Collection(ctx, 1, 1, 2, None, (B, C), output)
    ((to, question),) = sent(output)
    assert (to, question.after) == (B, 2)
    assert collection.accept(answering(question, 7, 5), output)
    assert not collection.complete
    ((_, second),) = sent(output)
    assert second.after == 5
    assert second.request != question.request
    assert not collection.accept(answering(question, 7, 5), output)
    assert collection.accept(answering(second, 9, 8, commit=6), output)
    assert collection.complete
    assert collection.entries == list(entries(3, 8))
    assert collection.commit == 6
    assert sent(output) == []
    collection.tick(output)
    collection.tick(output)
    assert sent(output) == []


def test_the_first_answer_says_where_a_log_ends(ctx, output):
    """Entries that the primary adds later come as in normal operation."""
    collection = Collection(ctx, 1, 1, 0, None, (B, C), output)
    ((_, question),) = sent(output)
    collection.accept(answering(question, 4, 3), output)
    ((_, question),) = sent(output)
    collection.accept(answering(question, 100, 6), output)
    assert collection.complete


def test_an_empty_answer_completes_a_log_that_lacks_nothing(ctx, output):
    collection = Collection(ctx, 1, 1, 5, None, (B, C), output)
    ((_, question),) = sent(output)
    assert collection.accept(answering(question, 5, 5), output)
    assert collection.complete
    assert collection.entries == []


def test_an_answer_without_progress_is_not_enough(ctx, output):
    collection = Collection(ctx, 1, 1, 5, 9, (B, C), output)
    ((_, question),) = sent(output)
    assert not collection.accept(answering(question, 5, 5), output)
    assert not collection.complete
    assert sent(output) == []


def test_nothing_is_asked_if_nothing_is_missing(ctx, output):
    collection = Collection(ctx, 1, 0, 5, 5, (B, C), output)
    assert collection.complete
    assert sent(output) == []
    assert not collection.accept(NewState(0, 1, 0, 1, 6, 9, 9, entries(6, 9)), output)
    assert collection.entries == []


def test_answers_are_bounded_pieces(ctx, output):
    ctx.log.extend(1, entries(1, 8))
    answer(ctx, GetState(0, 2, 2, 3, 9), B, output)
    ((to, message),) = sent(output)
    assert to == B
    assert message == NewState(0, 2, 2, 9, 4, 8, 0, entries(4, 6))


@pytest.mark.parametrize(("after", "what"), [(-1, "image_part_not_ready"), (9, "dropped_get_state_out_of_range")])
def test_what_is_not_in_the_log_is_not_answered(ctx, output, after, what):
    """Who asks for what is not there must not harm the one that is asked (D11)."""
    ctx.log.extend(1, entries(1, 8))
    answer(ctx, GetState(0, 2, 2, after, 9), B, output)
    assert sent(output) == []
    assert ctx.counters == {what: 1}
