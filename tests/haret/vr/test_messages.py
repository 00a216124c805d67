"""Every message crosses the wire, and the largest ones fit a frame."""

from inspect import getmembers, isclass

import pytest

from haret.vr import Settings, messages
from haret.vr.log import Log
from rabble_trio import NodeId, Pid, decode, encode

PID = Pid("r1", NodeId("n", "127.0.0.1:5000"), "group")
FRAME = 1024 * 1024
ENTRIES = (
    messages.OpenSession(b"c" * 16),
    messages.Request(1, 2, 1, b"operation"),
    messages.CloseSession(1),
    messages.Reconfiguration(3, (PID,)),
)
SPECIAL = {
    "entries": ENTRIES,
    "pid": PID,
    "primary": PID,
    "replicas": (PID,),
    "client": b"c" * 16,
    "operation": b"op",
    "result": b"r",
    "digest": b"d",
    "status": "normal",
    "reason": "because",
    "known": (1, 0, 2**62),
    "last": True,
    "data": b"part",
}
CLASSES = [cls for _, cls in getmembers(messages, isclass) if cls.__module__ == messages.__name__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_round_trip(cls):
    message = cls(**{name: SPECIAL.get(name, number) for number, name in enumerate(cls.__dataclass_fields__)})
    assert decode(encode(message)) == message


def test_a_primary_may_be_unknown():
    message = messages.NotPrimary(0, 1, None)
    assert decode(encode(message)) == message


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, Settings().max_operation])
def test_the_largest_batch_fits_a_frame(size):
    settings = Settings()
    log = Log()
    number = 2**62
    log.extend(1, [messages.Request(number, number, number, bytes(size))] * 3000)
    batch = log.batch(0, 3000, settings.batch_entries, settings.batch_bytes)
    for message in (messages.Prepare(0, number, 1, number, batch), messages.NewState(0, 1, 1, 1, 1, 1, 1, batch)):
        assert len(encode(message)) < FRAME - 1000


def test_a_part_of_an_image_fits_a_frame():
    number = 2**62
    part = messages.ImagePart(number, number, number, number, number, number, False, bytes(messages.IMAGE_PART), number)
    assert len(encode(part)) < messages.IMAGE_PART + 1000


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_message_and_field_is_explained(cls):
    assert cls.__doc__
    assert not cls.__doc__.startswith(cls.__name__ + "(")
