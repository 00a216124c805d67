import pytest
from echo import Echo, Said, Say, Trip

from rabble_trio import CorrelationId, NodeId, Outbox, Pid

NODE = NodeId("n1", "127.0.0.1:5000")
ECHO = Pid("echo", NODE)
ANN = Pid("ann", NODE)


def test_says_it_to_whoever_asked():
    output = Outbox(ECHO)
    question = CorrelationId(ANN, request=7)
    Echo().handle(Say("hello"), ANN, question, output)
    [reply] = output.envelopes
    assert reply.to == ANN
    assert reply.message == Said("hello", 1)
    assert reply.correlation_id == question


def test_falls_over_when_told_to():
    with pytest.raises(RuntimeError, match="fell over"):
        Echo().handle(Trip(), ANN, None, Outbox(ECHO))
