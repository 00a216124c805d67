"""The receiver of a soak sees each way in which delivery can go wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from rabble_trio import CorrelationId, NodeDown, NodeId, NodeUp, Outbox, Pid
from soak.cluster.traffic import Number, Question, Sink

ME, PEER = NodeId("n1", "127.0.0.1:1"), NodeId("n2", "127.0.0.1:2")
UP, DOWN = NodeUp(PEER), NodeDown(PEER, "lost")


def number(generation: int, place: int) -> Number:
    return Number(generation, place, b"")


def receive(*messages: Any) -> list[str]:
    """What a sink finds wrong with these messages from the peer."""
    violations: list[str] = []
    sink = Sink(Counter(), violations)
    for message in messages:
        sink.handle(message, Pid("source", PEER), None, Outbox(Pid("sink", ME)))
    return violations


def test_what_is_right() -> None:
    assert receive(UP, number(1, 0), number(1, 1), DOWN, UP, number(1, 5), number(1, 6), DOWN, UP, number(3, 0)) == []


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((UP, number(1, 4), number(1, 4)), "(1, 4) of n2@127.0.0.1:2 came after (1, 4)"),
        ((UP, number(1, 4), number(1, 3)), "came after (1, 4)"),
        ((UP, number(1, 4), number(1, 6)), "the link was up all the time"),
        ((UP, number(2, 0), DOWN, UP, number(1, 9)), "(1, 9) of n2@127.0.0.1:2 came after (2, 0)"),
        ((number(1, 0),), "while that was down"),
        ((UP, DOWN, number(1, 0)), "while that was down"),
        ((UP, UP), "twice"),
        ((DOWN,), "without a NodeUp"),
        ((UP, DOWN, DOWN), "without a NodeUp"),
    ],
)
def test_what_is_wrong(messages: tuple[Any, ...], said: str) -> None:
    (violation,) = receive(*messages)
    assert said in violation


def test_questions_are_answered() -> None:
    output = Outbox(Pid("sink", ME))
    asker = Pid("asker", PEER)
    Sink(Counter(), []).handle(Question(7), asker, CorrelationId(asker), output)
    assert [(sent.to, sent.message) for sent in output.envelopes] == [(asker, Question(7))]
