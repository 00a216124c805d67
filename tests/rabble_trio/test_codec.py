"""What decodes is what was encoded; everything else is a typed error, at linear cost."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import itertools
import math
import operator
import pickle
import struct
import tracemalloc
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NewType, Optional, TypeVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabble_trio._codec import (
    MAX_MESSAGE_SIZE,
    MESSAGE_TYPES,
    decode,
    decode_batch,
    encode,
    encode_batch,
    join_batch,
    message,
)
from rabble_trio._convert import MAX_CACHED_IDS, MAX_DEPTH
from rabble_trio._errors import DecodeError, EncodeError, NotAMessage
from rabble_trio._ids import CorrelationId, NodeId, Pid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

NODE = NodeId("n1", "127.0.0.1:5000")
PID = Pid("a", NODE)


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Shape:
    """A base that is no message itself."""

    __slots__ = ()


@message(tag="t.circle")
class Circle(Shape):
    radius: float


@message(tag="t.square")
class Square(Shape):
    side: float


@message(tag="t.plain")
class Plain:
    number: int
    text: str
    data: bytes = b""
    real: float = 0.0
    flag: bool = False
    nothing: None = None


@message(tag="t.tree")
class Tree:
    label: str
    children: tuple[Tree, ...] = ()
    parent: Later | None = None


@message(tag="t.later")
class Later:
    tree: Tree


@message(tag="t.rich")
class Rich:
    pid: Pid
    node: NodeId
    cid: CorrelationId | None
    colour: Colour
    mode: Literal["r", "w", 7]
    pair: tuple[int, str]
    empty: tuple[()]
    many: tuple[float, ...]
    words: frozenset[str]
    pairs: frozenset[tuple[int, str | None]]
    counts: dict[str, int]
    by_pid: dict[Pid, tuple[Shape, ...]]
    shape: Shape
    either: Circle | Later | str | int | None
    anything: Any
    old: Optional[bytes]  # noqa: UP045
    noted: Annotated[int, "a note"]


@message(tag="t.any")
class Box:
    content: Any


RICH = Rich(
    pid=PID,
    node=NODE,
    cid=CorrelationId(PID, 1, 2),
    colour=Colour.GREEN,
    mode=7,
    pair=(1, "x"),
    empty=(),
    many=(1.5, math.inf),
    words=frozenset({"b", "a"}),
    pairs=frozenset({(1, None), (1, "x"), (-5, None)}),
    counts={"z": 1, "a": 2},
    by_pid={PID: (Circle(1.0), Square(2.0))},
    shape=Square(1.0),
    either=Circle(2.0),
    anything=(PID, (NODE, CorrelationId(PID)), Box(None), 1, 1.5, "s", b"b", None, True, ()),
    old=None,
    noted=3,
)


def pack(*plain: Any) -> bytes:
    data: bytes = msgpack.packb(list(plain))
    return data


# Round trips ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "original",
    [
        Plain(1, "x"),
        Plain(-(2**63), "\x00é🎉", b"\x00\xff", -1.5, True),
        Plain(2**64 - 1, "", b"", math.inf),
        Tree("a", (Tree("b"), Tree("c", (Tree("d"),))), Later(Tree("e"))),
        RICH,
        dataclasses.replace(RICH, either=None, old=b"x", cid=None),
        dataclasses.replace(RICH, either=Later(Tree("x"))),
        dataclasses.replace(RICH, either=5, anything=RICH),
        Box(Box(Box(None))),
    ],
    ids=str,
)
def test_round_trip(original: Any) -> None:
    again = decode(encode(original))
    assert again == original
    assert type(again) is type(original)
    assert encode(again) == encode(original)


def test_the_wire_form() -> None:
    # Bytes of this form are on disks: it must not change.
    assert msgpack.unpackb(encode(Plain(1, "x"))) == ["t.plain", 1, "x", b"", 0.0, False, None]
    assert msgpack.unpackb(encode(dataclasses.replace(RICH, anything=None))) == [
        "t.rich",
        "a::n1@127.0.0.1:5000",
        "n1@127.0.0.1:5000",
        ["a::n1@127.0.0.1:5000", 1, 2],
        "GREEN",
        7,
        [1, "x"],
        [],
        [1.5, math.inf],
        ["a", "b"],
        [[1, "x"], [1, None], [-5, None]],  # sorted as bytes
        ["a", 2, "z", 1],
        ["a::n1@127.0.0.1:5000", [["t.circle", 1.0], ["t.square", 2.0]]],
        ["t.square", 1.0],
        ["t.circle", 2.0],
        None,
        None,
        3,
    ]
    assert msgpack.unpackb(encode(Box((1, PID, NODE, CorrelationId(PID), Circle(1.0))))) == [
        "t.any",
        [0, 1, [1, str(PID)], [2, str(NODE)], [3, [str(PID), None, None]], ["t.circle", 1.0]],
    ]


def test_an_int_for_a_float_arrives_as_an_equal_float() -> None:
    again = decode(encode(Circle(2)))
    assert again == Circle(2)
    assert type(again.radius) is float
    for number in (2**53 + 1, 10**400):
        with pytest.raises(EncodeError, match=r"Circle\.radius: expected float, got an int that no float equals"):
            encode(Circle(number))

    @message
    class Maybe:
        real: float | None

    assert decode(encode(Maybe(1))) == Maybe(1.0)


def test_not_a_number() -> None:
    assert math.isnan(decode(encode(Circle(math.nan))).radius)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_INTS = st.integers(-(2**63), 2**64 - 1)
_NAMES = st.text("abz-_.09", min_size=1, max_size=5)
_NODES = st.builds(NodeId, _NAMES, st.just("h:1") | st.just("[::1]:65535"))
_PIDS = st.builds(Pid, _NAMES, _NODES, st.none() | _NAMES)
_NUMBERS = st.none() | st.integers(0, 2**63 - 1)
_CIDS = st.builds(CorrelationId, _PIDS, _NUMBERS, _NUMBERS)
_FLOATS = st.floats(allow_nan=False).filter(lambda real: real != 0) | st.just(0.0)
_SHAPES = st.builds(Circle, _FLOATS) | st.builds(Square, _FLOATS)
_HASHABLE: dict[Any, st.SearchStrategy[Any]] = {
    None: st.none(),
    bool: st.booleans(),
    int: _INTS,
    float: _FLOATS,
    str: _TEXT,
    bytes: st.binary(max_size=10),
    Pid: _PIDS,
    NodeId: _NODES,
    CorrelationId: _CIDS,
    Colour: st.sampled_from(Colour),
    Literal["a", 1, None]: st.sampled_from(["a", 1, None]),
    Shape: _SHAPES,
    Circle: st.builds(Circle, _FLOATS),
}
_ANYTHING = st.recursive(
    st.one_of(*(_HASHABLE[kind] for kind in (None, bool, int, float, str, bytes, Pid, NodeId, CorrelationId, Shape))),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.builds(Box, inner),
    max_leaves=8,
)
_KEYS = (str, int, bytes, bool, Pid, NodeId, Colour)


@st.composite
def annotations(draw: Any, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """An annotation, and values that it allows."""
    kinds = ["leaf", "leaf", "any"] + (["tuple", "fixed", "set", "dict", "union"] if depth else [])
    match draw(st.sampled_from(kinds)):
        case "leaf":
            return draw(st.sampled_from(list(_HASHABLE.items())))  # type: ignore[no-any-return]
        case "any":
            return draw(st.sampled_from([Any, object])), _ANYTHING
        case "tuple":
            inner, values = draw(annotations(depth - 1))
            return tuple[inner, ...], st.lists(values, max_size=4).map(tuple)
        case "fixed":
            items = draw(st.lists(annotations(depth - 1), max_size=3))
            return tuple[tuple(inner for inner, _ in items)], st.tuples(*(values for _, values in items))  # type: ignore[misc]
        case "set":
            inner, values = draw(st.sampled_from(list(_HASHABLE.items())))
            return frozenset[inner], st.frozensets(values, max_size=4)
        case "dict":
            key = draw(st.sampled_from(_KEYS))
            inner, values = draw(annotations(depth - 1))
            return dict[key, inner], st.dictionaries(_HASHABLE[key], values, max_size=4)  # type: ignore[valid-type]
        case _:
            # One of each type on the wire, so that it can be told apart.
            text = draw(st.sampled_from([str, Pid, Colour]))
            array = draw(st.sampled_from([Circle, Shape, CorrelationId]))
            chosen = draw(st.sets(st.sampled_from([bool, int, bytes, text, array]), min_size=2, max_size=4))
            chosen |= draw(st.sampled_from([set(), {None}]))
            return functools.reduce(operator.or_, chosen), st.one_of(*(_HASHABLE[kind] for kind in chosen))


_class_numbers = itertools.count()


@st.composite
def instances(draw: Any) -> Any:
    fields = draw(st.lists(annotations(), max_size=5))
    names = [f"field{number}" for number in range(len(fields))]
    name = f"Generated{next(_class_numbers)}"
    body = {
        "__annotations__": dict(zip(names, (annotation for annotation, _ in fields), strict=True)),
        "__module__": __name__,
        "__qualname__": name,
    }
    kind = message(tag=f"t.{name}")(type(name, (), body))
    return kind(*(draw(values) for _, values in fields))


@given(instances())
def test_what_was_encoded_is_what_decodes(original: Any) -> None:
    data = encode(original)
    again = decode(data)
    assert again == original
    assert repr(again) == repr(original) or any(isinstance(value, (frozenset, dict)) for value in _values(original))
    assert encode(again) == data
    assert decode_batch(encode_batch([original, original])) == [original, original]


def _values(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, (tuple, frozenset)):
        for item in value:
            yield from _values(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _values(getattr(value, field.name))


@given(st.permutations(["a", "b", "c", "d"]), st.permutations([(1, "x"), (1, None), (2, "x")]))
def test_the_order_of_building_makes_no_difference(words: list[str], pairs: list[tuple[int, str | None]]) -> None:
    built = dataclasses.replace(
        RICH, words=frozenset(words), pairs=frozenset(pairs), counts={word: len(word) for word in words}
    )
    other = dataclasses.replace(
        RICH,
        words=frozenset(sorted(words)),
        pairs=frozenset(pairs[::-1]),
        counts={word: len(word) for word in sorted(words)},
    )
    assert encode(built) == encode(other)


# Bytes from anywhere --------------------------------------------------------------------------------------------------

_ENCODED = [encode(one) for one in (Plain(1, "x"), RICH, Tree("a", (Tree("b"),)), Box((1, (2, PID))))]


def _decode_anyhow(data: bytes) -> None:
    """Decoding either works, and then encodes to as little, or raises `DecodeError`."""
    for function in (decode, decode_batch):
        try:
            result = function(data)
        except DecodeError as error:
            problem: str | None = str(error)
        else:
            problem = None
        if problem is not None:
            assert 0 < len(problem) < 1000
        else:
            assert encode_batch(result) if function is decode_batch else encode(result)


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    _decode_anyhow(data)


@given(st.sampled_from(_ENCODED), st.data())
def test_mutated_bytes(data: bytes, draw: Any) -> None:
    mutated = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        start = draw.draw(st.integers(0, len(mutated)))
        end = draw.draw(st.integers(start, min(len(mutated), start + 3)))
        mutated[start:end] = draw.draw(st.binary(max_size=3))
    _decode_anyhow(bytes(mutated))


_WIRE = st.recursive(
    st.none() | st.booleans() | _INTS | st.floats() | _TEXT | st.binary(max_size=5) | st.just({}),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=20,
)


@given(st.sampled_from(["t.plain", "t.rich", "t.tree", "t.any", "t.circle", "nobody"]), st.lists(_WIRE, max_size=18))
def test_arbitrary_fields(tag: str, fields: list[Any]) -> None:
    _decode_anyhow(pack(tag, *fields))


@given(st.integers(1, 17), _WIRE)
def test_one_arbitrary_field(number: int, field: Any) -> None:
    plain = msgpack.unpackb(encode(RICH))
    plain[number] = field
    _decode_anyhow(pack(*plain))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "incomplete: 0 bytes", id="empty"),
        pytest.param(encode(Plain(1, "x"))[:-1], "incomplete: 2", id="cut off"),
        pytest.param(encode(Plain(1, "x")) + b"\x00", "extra data", id="trailing byte"),
        pytest.param(b"\xc1", "not valid msgpack: FormatError", id="a byte that is never used"),
        pytest.param(b"\x92\xa5t.any\xa1\xff", "UnicodeDecodeError", id="invalid UTF-8"),
        pytest.param(b"\x92\xa5t.any\xc7\x01\x05x", "not valid msgpack", id="extension type"),
        pytest.param(b"\x92\xa5t.any\xd6\xff\x00\x00\x00\x00", "not valid msgpack", id="timestamp"),
        pytest.param(b"\x92\xa5t.any\x81\xa1a\x01", "not valid msgpack", id="map"),
        pytest.param(b"\x92\xa5t.any\x80", r"t\.any\.content: expected .*, got dict", id="empty map"),
        pytest.param(b"\x92\x80\x80", "array that starts with a tag", id="a map as tag"),
        pytest.param(b"\x90", "array that starts with a tag", id="no tag"),
        pytest.param(pack(1, 2), "array that starts with a tag", id="a number as tag"),
        pytest.param(pack("no.such"), r"unknown tag 'no\.such'", id="unknown tag"),
        pytest.param(pack("x" * 10_000), r"unknown tag 'x{80}\.\.\.'", id="long unknown tag"),
        pytest.param(pack("t.circle"), r"^t\.circle: expected 1 fields, got 0", id="missing field"),
        pytest.param(pack("t.circle", 1.0, 2.0), r"^t\.circle: expected 1 fields, got 2", id="extra field"),
        pytest.param(pack("t.circle", 1), r"^t\.circle\.radius: expected float, got int", id="int for float"),
        pytest.param(pack("t.any", [0, 1, [0, [9, 1]]]), r"^t\.any\.content\[1\]\[0\]: expected", id="unknown kind"),
        pytest.param(pack("t.any", [1, "a::n1@h:1", 3]), r"^t\.any\.content: expected", id="pid of three parts"),
        pytest.param(pack("t.any", [True, "a::n1@h:1"]), r"^t\.any\.content: expected", id="bool as kind"),
        pytest.param(pack("t.any", [1, "nonsense"]), r"^t\.any\.content: 'nonsense' is not a pid", id="bad pid"),
        pytest.param(pack("t.any", [3, ["a::n1@h:1", -1, 0]]), r"not a connection number", id="bad number"),
        pytest.param(pack("t.any", [3, ["a::n1@h:1", True, 0]]), r"not a connection number", id="bool as number"),
        pytest.param(
            pack("t.any", [3, ["a::n1@h:1", 0]]), r"three parts of a CorrelationId", id="short correlation id"
        ),
        pytest.param(
            pack("t.tree", "a", [["t.tree", "b", [], None], ["t.circle", 1.0]], None),
            r"^t\.tree\.children\[1\]: expected Tree, got Circle",
            id="another class, nested",
        ),
        pytest.param(
            pack("t.tree", "a", [], ["t.later", ["t.tree", 1, [], None]]),
            r"^t\.tree\.parent\.tree\.label: expected str, got int",
            id="deep path",
        ),
    ],
)
def test_malformed(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        decode(data)


@pytest.mark.parametrize(
    ("field", "plain", "text"),
    [
        ("pid", "n1@127.0.0.1:5000", "is not a pid"),
        ("node", 1, r"expected the text of a NodeId, got int"),
        ("colour", "BLUE", "no Colour has that name"),
        ("colour", 1, "expected the name of a Colour, got int"),
        ("mode", "x", "expected one of 'r', 'w', 7, got str"),
        ("mode", 7.0, "expected one of"),
        ("pair", [1], r"expected tuple\[int, str\], got a tuple of 1"),
        ("pair", [1, 2], r"\[1\]: expected str, got int"),
        ("empty", [1], r"expected tuple\[\(\)\], got a tuple of 1"),
        ("many", [1.0, 2], r"\[1\]: expected float, got int"),
        ("words", ["a", "a"], "two elements of .* are equal"),
        ("words", "ab", r"expected frozenset\[str\], got str"),
        ("counts", ["a", 1, "b"], "the last key of .* has no value"),
        ("counts", ["a", 1, "a", 1], "two keys of .* are equal"),
        ("counts", ["a", "x"], r"\['a'\]: expected int, got str"),
        ("counts", [1, 1], r"\[1\]: expected str, got int"),
        ("counts", {}, r"expected dict\[str, int\], got dict"),
        ("shape", ["t.plain", 1, "x", b"", 0.0, False, None], "expected Shape, got Plain"),
        ("either", 1.0, "got float"),
        ("either", ["t.square", 1.0], r"expected Circle \| Later, got Square"),
        ("old", "text", r"expected bytes \| None, got str"),
        ("noted", True, "expected int, got bool"),
    ],
)
def test_a_wrong_field_is_named(field: str, plain: Any, text: str) -> None:
    encoded = msgpack.unpackb(encode(RICH))
    encoded[1 + [one.name for one in dataclasses.fields(RICH)].index(field)] = plain
    with pytest.raises(DecodeError, match=rf"^t\.rich\.{field}.*{text}"):
        decode(pack(*encoded))


def test_a_message_that_refuses_its_values_does_not_decode() -> None:
    @message(tag="t.even")
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise LookupError(f"{self.number} is odd")

    assert decode(encode(Even(2))) == Even(2)
    with pytest.raises(LookupError):
        Even(1)
    with pytest.raises(DecodeError, match=r"^t\.even: Even refuses these values: LookupError: 1 is odd"):
        decode(pack("t.even", 1))


# Limits ---------------------------------------------------------------------------------------------------------------


def test_size() -> None:
    fits = Box(b"x" * (MAX_MESSAGE_SIZE - 12))
    assert len(encode(fits)) == MAX_MESSAGE_SIZE
    assert decode(encode(fits)) == fits
    larger = Box(b"x" * (MAX_MESSAGE_SIZE - 11))
    with pytest.raises(EncodeError, match=r"Box takes 1048577 bytes, more than the 1048576 allowed"):
        encode(larger)
    with pytest.raises(DecodeError, match=r"1048577 bytes are more than the 1048576 allowed"):
        decode(encode(larger, max_size=2 * MAX_MESSAGE_SIZE))
    assert decode(encode(larger, max_size=2**21), max_size=2**21) == larger
    with pytest.raises(EncodeError, match="a batch of 2 messages takes"):
        encode_batch([fits, fits])


def _nested(levels: int) -> Box:
    box = Box(None)
    for _ in range(levels - 1):
        box = Box(box)
    return box


def test_depth_is_the_same_limit_both_ways() -> None:
    deepest = _nested(MAX_DEPTH)
    assert decode(encode(deepest)) == deepest
    with pytest.raises(EncodeError, match=f"nested deeper than {MAX_DEPTH}"):
        encode(_nested(MAX_DEPTH + 1))
    plain: Any = ["t.any", None]
    for _ in range(MAX_DEPTH):
        plain = ["t.any", plain]
    with pytest.raises(DecodeError, match=f"nested deeper than {MAX_DEPTH}"):
        decode(pack(*plain))
    content: Any = ()
    for _ in range(MAX_DEPTH):
        content = (content,)
    with pytest.raises(EncodeError, match=f"nested deeper than {MAX_DEPTH}"):
        encode(Box(content))


@pytest.mark.parametrize("levels", [1_000, 1_000_000])
def test_deep_arrays(levels: int) -> None:
    with pytest.raises(DecodeError):
        decode(b"\x91" * levels + b"\xc0")
    with pytest.raises(DecodeError):
        decode(b"\x92\xa5t.any" + b"\x92\x00" * (levels // 4) + b"\xc0")


def test_a_cycle_does_not_encode() -> None:
    cycle: dict[str, Any] = {}

    @message
    class Holder:
        content: dict[str, Any]

    cycle["x"] = Holder(cycle)
    with pytest.raises(EncodeError, match=f"nested deeper than {MAX_DEPTH}"):
        encode(Holder(cycle))


def _peak_of_decoding(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "bomb",
    [
        # 1000 arrays in each other, each of which claims to have a million elements: 8 GB if they were believed.
        pytest.param(b"\xdd\x00\x0f\xff\xff" * 1000 + b"\xc0" * 1_000_000, id="claims in claims"),
        pytest.param(b"\xdd\xff\xff\xff\xff" * 200_000, id="claims only"),
        pytest.param(b"\xdb\xff\xff\xff\xff" + bytes(1000), id="a string of 4 GB"),
        pytest.param(b"\xdd\x00\x0f\xff\xf0" + b"\x90" * 0xFFFF0, id="a million empty arrays"),
        pytest.param(b"\xdd\x00\x05\x55\x50" + b"\x91\x91\x90" * 0x55550, id="arrays of arrays"),
        pytest.param(b"\xdd\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0, id="a million empty maps"),
    ],
)
def test_memory_is_linear(bomb: bytes) -> None:
    decode(encode(Plain(1, "x")))  # so that what is kept for reuse is there already
    assert _peak_of_decoding(bomb) < 100 * len(bomb) + 1_000_000


def test_crafted_hashes_are_refused() -> None:
    @message(tag="t.points")
    class Points:
        points: frozenset[tuple[int, int, int]]

    # Python's hash of a number is its remainder by 2**61 - 1, so these share one hash, and honest ones hardly ever do.
    same = [5 + factor * (2**61 - 1) for factor in range(8)]
    crafted = [list(point) for point in itertools.product(same, repeat=3)]
    assert len(decode(pack("t.points", crafted[:64])).points) == 64
    with pytest.raises(DecodeError, match=r"t\.points\.points: 512 elements of .* have the same hash"):
        decode(pack("t.points", crafted))
    honest = [list(point) for point in itertools.product(range(-10, 10), repeat=3)]
    assert len(decode(pack("t.points", honest)).points) == 8_000


def test_the_cache_of_ids_is_bounded() -> None:
    @message(tag="t.pids")
    class Pids:
        pids: tuple[Pid, ...]

    flood = Pids(tuple(Pid(f"p{number}", NODE) for number in range(MAX_CACHED_IDS + 10)))
    first = decode(encode(flood)).pids
    assert first == flood.pids
    second = decode(encode(Pids(flood.pids[-5:]))).pids
    assert all(one is other for one, other in zip(first[-5:], second, strict=True))  # cached
    assert decode(encode(Pids(flood.pids[:1]))).pids[0] is not first[0]  # forgotten


# What does not encode -------------------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (Plain("1", "x"), r"Plain\.number: expected int, got str"),
        (Plain(True, "x"), r"Plain\.number: expected int, got bool"),
        (Plain(2**64, "x"), r"Plain\.number: .*out of range"),
        (Plain(-(2**63) - 1, "x"), r"Plain\.number: "),
        (Plain(10**5000, "x"), r"Plain\.number: "),
        (Plain(1, None), r"Plain\.text: expected str, got None"),
        (Plain(1, Text("x")), r"Plain\.text: expected str, got Text"),
        (Plain(1, "\ud800"), r"Plain\.text: .*surrogates not allowed"),
        (Plain(1, "x", bytearray(b"x")), r"Plain\.data: expected bytes, got bytearray"),
        (Plain(1, "x", flag=1), r"Plain\.flag: expected bool, got int"),
        (Plain(1, "x", nothing=0), r"Plain\.nothing: expected None, got int"),
        (Circle("x"), r"Circle\.radius: expected float, got str"),
        (Tree("a", [Tree("b")]), r"Tree\.children: expected tuple\[Tree, \.\.\.\], got list"),
        (Tree("a", (Tree("b", (Tree(1),)),)), r"Tree\.children\[0\]\.children\[0\]\.label: expected str, got int"),
        (Tree("a", (Circle(1.0),)), r"Tree\.children\[0\]: expected Tree, got Circle"),
        (Box([1]), r"Box\.content: expected a message, an id, .*, got list"),
        (Box((1, (2, {}))), r"Box\.content\[1\]\[1\]: expected .*, got dict"),
        (Box(Box(2**70)), r"Box\.content: "),
        (dataclasses.replace(RICH, words=frozenset({1})), r"Rich\.words\{\}: expected str, got int"),
        (dataclasses.replace(RICH, words={"a"}), r"Rich\.words: expected frozenset\[str\], got set"),
        (dataclasses.replace(RICH, pairs=frozenset({(2**70, None)})), r"Rich\.pairs\{\}: .*does not fit"),
        (dataclasses.replace(RICH, counts={"a": "b"}), r"Rich\.counts\['a'\]: expected int, got str"),
        (dataclasses.replace(RICH, counts={1: 2}), r"Rich\.counts\{key\}: expected str, got int"),
        (dataclasses.replace(RICH, counts=[]), r"Rich\.counts: expected dict\[str, int\], got list"),
        (dataclasses.replace(RICH, either=1.5), r"Rich\.either: expected str \| int \| None \| Circle \| Later"),
        (dataclasses.replace(RICH, either=Square(1.0)), r"Rich\.either: expected Circle \| Later, got Square"),
        (dataclasses.replace(RICH, shape=Shape()), r"Rich\.shape: expected Shape, got Shape"),
        (dataclasses.replace(RICH, mode="x"), r"Rich\.mode: expected one of"),
        (dataclasses.replace(RICH, mode=[]), r"Rich\.mode: expected one of"),
        (dataclasses.replace(RICH, colour="RED"), r"Rich\.colour: expected Colour, got str"),
        (dataclasses.replace(RICH, pid=str(PID)), r"Rich\.pid: expected Pid, got str"),
        (dataclasses.replace(RICH, cid=PID), r"Rich\.cid: expected CorrelationId \| None, got Pid"),
        (dataclasses.replace(RICH, pair=(1, "x", 2)), r"Rich\.pair: .*got a tuple of 3"),
        (dataclasses.replace(RICH, pair=(1, 2)), r"Rich\.pair\[1\]: expected str, got int"),
    ],
)
def test_wrong_values_do_not_encode(bad: Any, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        encode(bad)
    assert decode(encode(RICH)) == RICH  # nothing is left behind


@pytest.mark.parametrize("thing", [None, 1, "x", (), Shape(), object(), Circle])
def test_not_a_message(thing: Any) -> None:
    with pytest.raises(NotAMessage, match="is not a message: decorate the class with @message"):
        encode(thing)


def test_bytes_must_be_bytes() -> None:
    for data in (bytearray(b"x"), "x", None):
        with pytest.raises(TypeError, match="expected bytes"):
            decode(data)  # type: ignore[arg-type]


# Batches --------------------------------------------------------------------------------------------------------------


def test_batches() -> None:
    messages = [Plain(number, "x") for number in range(1000)]
    assert decode_batch(encode_batch(messages)) == messages
    assert join_batch([encode(one) for one in messages]) == encode_batch(messages)
    assert decode_batch(encode_batch([])) == []
    with pytest.raises(DecodeError, match=r"^\[1\] t\.circle\.radius: expected float"):
        decode_batch(pack(["t.circle", 1.0], ["t.circle", "x"]))
    with pytest.raises(DecodeError, match=r"^\[0\] expected a message"):
        decode_batch(pack("t.circle", 1.0))
    with pytest.raises(DecodeError, match=r"expected a batch: an array of messages, got int"):
        decode_batch(b"\x01")
    with pytest.raises(NotAMessage):
        encode_batch([Plain(1, "x"), 5])


# Classes --------------------------------------------------------------------------------------------------------------


def test_a_message_is_a_frozen_value() -> None:
    plain = Plain(1, "x", real=2.0)
    assert plain == Plain(1, "x", b"", 2.0, False, None)
    assert plain != Plain(1, "y", real=2.0)
    assert hash(plain) == hash(Plain(1, "x", real=2.0))
    assert repr(plain) == "Plain(number=1, text='x', data=b'', real=2.0, flag=False, nothing=None)"
    for name in ("number", "other"):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(plain, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del plain.number
    assert not hasattr(plain, "__dict__")
    match plain:
        case Plain(number, text):
            assert (number, text) == (1, "x")
    for same in (copy.copy(plain), copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), dataclasses.replace(plain)):
        assert same == plain
    assert Plain.__init__.__qualname__ == "Plain.__init__"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'text'"):
        Plain(1)  # type: ignore[call-arg]
    assert Plain in MESSAGE_TYPES
    assert Shape not in MESSAGE_TYPES


def test_defaults_factories_keywords_and_inheritance() -> None:
    @message
    class Base:
        first: int
        second: str = "s"

    @message
    class Derived(Base):
        third: dict[str, int] = dataclasses.field(default_factory=dict)
        fourth: int = dataclasses.field(default=4, kw_only=True)
        constant: ClassVar[int] = 9

    derived = Derived(1, fourth=5)
    assert (derived.first, derived.second, derived.third, derived.fourth) == (1, "s", {}, 5)
    assert decode(encode(derived)) == derived
    assert Derived(1).third is not Derived(1).third

    @message
    class Holder:
        base: Base

    assert decode(encode(Holder(derived))) == Holder(derived)
    assert decode(encode(Holder(Base(1)))) == Holder(Base(1))

    @message
    class Keyword:
        last: int = dataclasses.field(kw_only=True)
        first: str

    assert decode(encode(Keyword("x", last=1))) == Keyword("x", last=1)


def test_a_base_with_a_dict_still_works() -> None:
    class Loose:
        def twice(self) -> int:
            return 2 * self.number  # type: ignore[attr-defined, no-any-return]

    @message
    class Tight(Loose):
        number: int

    assert decode(encode(Tight(2))).twice() == 4


def test_tags() -> None:
    assert msgpack.unpackb(encode(Later(Tree(""))))[0] == "t.later"

    @message
    class Untagged:
        pass

    assert msgpack.unpackb(encode(Untagged()))[0] == f"{__name__}.test_tags.<locals>.Untagged"
    with pytest.raises(
        TypeError, match=r"the tag 't\.plain' of .*Other belongs to .*\.Plain: give one of them another"
    ):

        @message(tag="t.plain")
        class Other:
            pass

    for tag in ("", "x" * 129, "a\nb", 5):
        with pytest.raises(TypeError, match="can't be a tag"):
            message(tag=tag)(type("Bad", (), {}))  # type: ignore[arg-type]


def test_a_module_may_run_twice() -> None:
    def define() -> Any:
        @message(tag="t.twice")
        class Twice:
            number: int

        return Twice

    first, second = define(), define()
    assert type(decode(encode(first(1)))) is second
    assert decode(encode(second(1))) == second(1)
    assert type(decode(encode(first(1)))) is second


class _Unexported(enum.Enum):
    ONE = 1


def test_a_class_may_be_exported_by_another_module() -> None:
    def define() -> Any:
        @message(tag="t.exported")
        class Exported:
            one: _Unexported
            next: Exported | None = None

        return Exported

    exported = define()
    exported.__module__ = "fractions"  # as packages do, to show the name that users import
    value = exported(_Unexported.ONE, exported(_Unexported.ONE))
    assert decode(encode(value)) == value
    define()  # still counts as the same class


def test_annotations_are_looked_up_where_each_class_was_defined() -> None:
    namespace: dict[str, Any] = {"__name__": "math"}  # any module but this one
    exec("import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Base:\n    base: 'int'", namespace)

    @message
    class Derived(namespace["Base"]):  # type: ignore[misc, name-defined]
        own: _Unexported

    assert decode(encode(Derived(1, _Unexported.ONE))) == Derived(1, _Unexported.ONE)


_T = TypeVar("_T")
UserId = NewType("UserId", int)


def test_other_names_for_types() -> None:
    @message
    class Named:
        user: UserId

    assert decode(encode(Named(UserId(5)))) == Named(UserId(5))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (list[int], r"list\[int\] can't be a field of a message: use tuple"),
        (list, "list can't be a field of a message: use tuple"),
        (set[int], "use frozenset"),
        (tuple, r"use tuple\[T, \.\.\.\]"),
        (dict, r"use dict\[K, V\]"),
        (frozenset, r"use frozenset\[T\]"),
        (bytearray, "use bytes"),
        (complex, "complex can't be a field"),
        (type[int], "can't be a field"),
        (_T, "can't be a field"),
        (5, "can't be a field"),
        (tuple[list[int], ...], "use tuple"),
        (dict[float, int], "keys of"),
        (dict[Any, int], "keys of"),
        (dict[int | str, int], "keys of"),
        (dict[tuple[int, int], int], "keys of"),
        (str | Pid, "can't be told apart on the wire"),
        (tuple[int, ...] | Circle, "can't be told apart on the wire"),
        (Literal[1.5], "can't be a field|Literal may hold"),
        (enum.Flag, "is a Flag"),
    ],
)
def test_what_cannot_cross_the_wire_is_refused_at_once(annotation: Any, text: str) -> None:
    with pytest.raises(TypeError, match=rf"Refused\.field: .*({text})"):
        message(type("Refused", (), {"__annotations__": {"field": annotation}}))


def test_any_swallows_a_union() -> None:
    @message
    class Wide:
        content: int | Any | tuple[int, ...]

    assert decode(encode(Wide("x"))) == Wide("x")


def test_fields_that_are_no_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"every field of .* must be an argument"):

        @message
        class Hidden:
            number: int = dataclasses.field(init=False)

    with pytest.raises(TypeError, match=r"every field of .* must be an argument"):

        @message
        class Extra:
            number: dataclasses.InitVar[int]


def test_names_that_do_not_exist_are_found_out_at_the_first_use() -> None:
    @message(tag="t.nowhere")
    class Nowhere:
        value: Fraction  # imported for type checkers only

    with pytest.raises(
        TypeError, match=r"names what does not exist at run time .*'Fraction'.* outside of TYPE_CHECKING"
    ):
        encode(Nowhere(1))  # type: ignore[arg-type]
    # Whoever sends such bytes is not to blame, but must not crash us either.
    with pytest.raises(DecodeError, match="names what does not exist at run time"):
        decode(pack("t.nowhere", 1))


class Root:
    pass


def test_classes_that_are_no_messages_are_found_out_at_the_first_use() -> None:
    @message(tag="t.early")
    class Early:
        values: tuple[Root | None, ...]

    with pytest.raises(TypeError, match=r"Early\.values: .*Root is neither a message nor the base of one"):
        encode(Early((Root(),)))
    with pytest.raises(DecodeError, match="neither a message nor the base of one"):
        decode(pack("t.early", []))

    @message(tag="t.leaf")
    class Leaf(Root):
        pass

    assert decode(encode(Early((Leaf(), None)))) == Early((Leaf(), None))


def test_generic_classes_are_refused() -> None:
    with pytest.raises(TypeError, match="can't be a field"):

        @message
        class Wrapper(Generic[_T]):
            value: _T


def test_floats_of_half_size_decode() -> None:
    # Other encoders may write them; they are floats all the same.
    assert decode(b"\x92\xa8t.circle\xca" + struct.pack(">f", 1.5)) == Circle(1.5)
