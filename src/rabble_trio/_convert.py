"""From annotations to conversions: how a value of each type looks on the wire, and which values are refused.

A *plain value* is what msgpack carries for us: None, bool, int, float, str, bytes, and tuples of them. A `Converter`
turns a value of one annotation into a plain value and back. Both ways are strict: what the annotation does not allow
raises `Mismatch`, which collects the path to the culprit on its way out.

    annotation                          plain value
    None, bool, int, str, bytes         itself; a bool is not an int; an int is within -2**63 .. 2**64 - 1
    float                               a float; an int is taken too, and becomes one, if that is exact
    tuple[T, ...], tuple[A, B]          array
    frozenset[T]                        array, sorted
    dict[K, V]                          array K, V, K, V, ... sorted by key; K is one of str, int, bytes, bool, Pid,
                                        NodeId or an Enum
    an Enum class                       the member's name
    Literal[...]                        the value
    NodeId, Pid                         its text
    CorrelationId                       array of three
    a message class, or a base of some  array: the tag, then the fields in order; told apart by the tag
    A | B, Optional[A]                  as A or as B; refused unless their plain values have different types
    Any, object                         None, bool, int, float, str, bytes or a message as above, or an array that
                                        starts with a number: 0 a tuple, 1 Pid, 2 NodeId, 3 CorrelationId

Maps are arrays because msgpack would hash a map's keys before anybody checked them.
"""

from __future__ import annotations

import enum
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from ._errors import InvalidId
from ._ids import CorrelationId, NodeId, Pid

MAX_DEPTH: Final = 64
"""How deep messages, and tuples in fields annotated `Any`, may be nested in each other; each level costs stack."""

MAX_SAME_HASH: Final = 64
"""How many elements of a set may share one hash. Honest ones hardly ever do; crafted ones make a set quadratic."""

MAX_CACHED_IDS: Final = 10_000
"""Ids whose text was parsed lately. A cluster has few; a peer that sends ever new ones empties the cache, no more."""

Encoder = Callable[[Any, int], Any]
"""(value, levels left) -> plain value; raises `Mismatch`."""

Decoder = Callable[[Any, int], Any]
"""(plain value, levels left) -> value; raises `Mismatch`."""

ENCODERS: Final[dict[type[Any], Encoder]] = {}
"""Every message class, with the function that makes plain values of its instances."""

DECODERS: Final[dict[str, tuple[type[Any], Decoder]]] = {}
"""Every tag, with its message class and the function that makes instances from plain values."""

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})
_SCALARS: Final = frozenset({bool, int, str, bytes})
_PLAIN_ARRAY: Final = frozenset({tuple})
_PLAIN_TEXT: Final = frozenset({str})
_TUPLE, _PID, _NODE_ID, _CORRELATION_ID = range(4)  # the numbers that start an array in the place of Any


class Mismatch(Exception):
    """A value is not what its annotation says. `path` grows as the error climbs out of nested values."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def at(self, step: str) -> Mismatch:
        """Note that the culprit was found below `step`, for example ".name" or "[3]"."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        return f"{''.join(reversed(self.path))}: {self.problem}"


def wrong(expected: str, value: object) -> Mismatch:
    """The error for a value of the wrong type. It names the type only: the value may be large, or secret."""
    return Mismatch(f"expected {expected}, got {'None' if value is None else type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Converter:
    """How values of one annotation cross the wire."""

    name: str
    """The annotation, in words for errors."""
    python: tuple[type[Any], ...]
    """Exact types of its values; empty if only `encode` can tell."""
    plain: frozenset[type[Any]]
    """Exact types that its plain values may have."""
    encode: Encoder
    """To the plain value."""
    decode: Decoder
    """From the plain value."""
    identical: bool = False
    """Whether a value is its own plain value, so that checking its type is all there is to do."""
    bases: tuple[type[Any], ...] | None = None
    """For messages: the classes one of which each value must be an instance of."""
    members: tuple[Converter, ...] = ()
    """For unions."""
    inner: tuple[Converter, ...] = ()
    """For containers."""

    def all_bases(self) -> set[type[Any]]:
        """The classes that it names, at any depth, as messages or bases of messages."""
        return set(self.bases or ()).union(*(part.all_bases() for part in self.members + self.inner))


# Leaves ---------------------------------------------------------------------------------------------------------------


def _exactly(kind: type[Any], name: str) -> Converter:
    def check(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise wrong(name, value)
        return value

    return Converter(name, (kind,), frozenset({kind}), check, check, identical=True)


def _encode_float(value: Any, depth: int) -> float:
    if type(value) is float:
        return value
    # Python's type checkers take an int for a float, so we do as well, as long as the receiver gets an equal number.
    if type(value) is int and -(2**1023) < value < 2**1023 and float(value) == value:
        return float(value)
    if type(value) is int:
        raise Mismatch("expected float, got an int that no float equals")
    raise wrong("float", value)


def _decode_float(value: Any, depth: int) -> float:
    if type(value) is not float:
        raise wrong("float", value)
    return value


def _id_converter(kind: type[Pid] | type[NodeId]) -> Converter:
    parse = kind.parse
    name = kind.__name__
    cache: dict[str, Any] = {}

    def encode(value: Any, depth: int) -> str:
        if type(value) is not kind:
            raise wrong(name, value)
        return value._text

    def decode(value: Any, depth: int) -> Any:
        if type(value) is not str:
            raise wrong(f"the text of a {name}", value)
        found = cache.get(value)
        if found is None:
            try:
                found = parse(value)
            except InvalidId as error:
                raise Mismatch(str(error)) from None
            if len(cache) >= MAX_CACHED_IDS:
                cache.clear()
            cache[value] = found
        return found

    return Converter(name, (kind,), _PLAIN_TEXT, encode, decode)


_PID_CONVERTER = _id_converter(Pid)
_NODE_ID_CONVERTER = _id_converter(NodeId)
_decode_pid = _PID_CONVERTER.decode


def _encode_correlation_id(value: Any, depth: int) -> Any:
    if type(value) is not CorrelationId:
        raise wrong("CorrelationId", value)
    return value.pid._text, value.connection, value.request


def _decode_correlation_id(value: Any, depth: int) -> CorrelationId:
    if type(value) is not tuple or len(value) != 3:
        raise wrong("the three parts of a CorrelationId", value)
    try:
        return CorrelationId(_decode_pid(value[0], depth), value[1], value[2])
    except InvalidId as error:
        raise Mismatch(str(error)) from None


def _enum_converter(kind: type[enum.Enum]) -> Converter:
    if issubclass(kind, enum.Flag):
        raise TypeError(
            f"{kind.__name__} is a Flag, and combined flags have no name: use an int, or a frozenset of an Enum"
        )
    by_name = {member.name: member for member in kind}

    def encode(value: Any, depth: int) -> str:
        if not isinstance(value, kind):
            raise wrong(kind.__name__, value)
        return value.name

    def decode(value: Any, depth: int) -> Any:
        if type(value) is not str:
            raise wrong(f"the name of a {kind.__name__}", value)
        if value not in by_name:
            raise Mismatch(f"no {kind.__name__} has that name")
        return by_name[value]

    return Converter(kind.__name__, (kind,), _PLAIN_TEXT, encode, decode)


def _literal_converter(values: tuple[Any, ...]) -> Converter:
    if not all(type(value) in PLAIN_TYPES - {float} for value in values):
        raise TypeError("Literal may hold None, bool, int, str and bytes only")
    allowed = {(type(value), value) for value in values}
    name = f"one of {', '.join(map(repr, values))}"

    def check(value: Any, depth: int) -> Any:
        if type(value) not in PLAIN_TYPES or (type(value), value) not in allowed:
            raise wrong(name, value)
        return value

    kinds = tuple(dict.fromkeys(type(value) for value in values))
    return Converter(name, kinds, frozenset(kinds), check, check)


# Containers -----------------------------------------------------------------------------------------------------------


def _each(convert: Callable[[Any, int], Any], items: Iterable[Any], depth: int) -> list[Any]:
    """Convert all items; an error says at which index."""
    done: list[Any] = []
    try:
        for item in items:
            done.append(convert(item, depth))
    except Mismatch as error:
        raise error.at(f"[{len(done)}]") from None
    return done


def _sequence_converter(item: Converter) -> Converter:
    name = f"tuple[{item.name}, ...]"
    only = set(item.python)

    def way(convert: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
        def converted(value: Any, depth: int) -> Any:
            if type(value) is not tuple:
                raise wrong(name, value)
            if item.identical and only.issuperset(map(type, value)):
                return value
            return tuple(_each(convert, value, depth))

        return converted

    return Converter(name, (tuple,), _PLAIN_ARRAY, way(item.encode), way(item.decode), inner=(item,))


def _fixed_converter(items: tuple[Converter, ...]) -> Converter:
    name = f"tuple[{', '.join(item.name for item in items) or '()'}]"

    def way(converts: tuple[Callable[[Any, int], Any], ...]) -> Callable[[Any, int], Any]:
        def converted(value: Any, depth: int) -> Any:
            if type(value) is not tuple:
                raise wrong(name, value)
            if len(value) != len(converts):
                raise Mismatch(f"expected {name}, got a tuple of {len(value)}")
            done: list[Any] = []
            try:
                for convert, item in zip(converts, value, strict=True):
                    done.append(convert(item, depth))
            except Mismatch as error:
                raise error.at(f"[{len(done)}]") from None
            return tuple(done)

        return converted

    encode = way(tuple(item.encode for item in items))
    return Converter(name, (tuple,), _PLAIN_ARRAY, encode, way(tuple(item.decode for item in items)), inner=items)


def _refuse_crafted_hashes(items: list[Any], name: str) -> None:
    # Hashes of str and bytes are seeded, and 64-bit numbers have too few collisions to hurt, but tuples of numbers can
    # be made to collide without end.
    _, most = Counter(map(hash, items)).most_common(1)[0]
    if most > MAX_SAME_HASH:
        raise Mismatch(f"{most} elements of {name} have the same hash")


def _frozenset_converter(item: Converter) -> Converter:
    name = f"frozenset[{item.name}]"
    scalar = len(item.plain) == 1 and item.plain <= _SCALARS
    pack = msgpack.Packer().pack

    def encode(value: Any, depth: int) -> Any:
        if type(value) is not frozenset:
            raise wrong(name, value)
        # Equal sets give equal bytes: values that have no order of their own are sorted by their encoding.
        try:
            return tuple(sorted([item.encode(one, depth) for one in value], key=None if scalar else pack))
        except Mismatch as error:
            raise error.at("{}") from None
        except (OverflowError, ValueError) as error:
            raise Mismatch(f"an element of {name} does not fit the wire: {error}").at("{}") from None

    def decode(value: Any, depth: int) -> Any:
        if type(value) is not tuple:
            raise wrong(name, value)
        items = _each(item.decode, value, depth)
        try:
            if not scalar and len(items) > MAX_SAME_HASH:
                _refuse_crafted_hashes(items, name)
            result = frozenset(items)
        except TypeError:
            raise Mismatch(f"an element of {name} can't be hashed") from None
        if len(result) != len(items):
            raise Mismatch(f"two elements of {name} are equal")
        return result

    return Converter(name, (frozenset,), _PLAIN_ARRAY, encode, decode, inner=(item,))


def _dict_converter(key: Converter, item: Converter) -> Converter:
    name = f"dict[{key.name}, {item.name}]"
    if len(key.plain) != 1 or not key.plain <= _SCALARS or len(key.python) != 1:
        raise TypeError(f"the keys of {name} must be of one type out of str, int, bytes, bool, Pid, NodeId or an Enum")

    def encode(value: Any, depth: int) -> Any:
        if type(value) is not dict:
            raise wrong(name, value)
        flat: list[Any] = []
        try:
            pairs = [(key.encode(one, depth), other) for one, other in value.items()]
        except Mismatch as error:
            raise error.at("{key}") from None
        pairs.sort(key=_first)
        for plain_key, other in pairs:
            try:
                flat += (plain_key, item.encode(other, depth))
            except Mismatch as error:
                raise error.at(_shown_key(plain_key)) from None
        return tuple(flat)

    def decode(value: Any, depth: int) -> Any:
        if type(value) is not tuple:
            raise wrong(name, value)
        if len(value) % 2:
            raise Mismatch(f"the last key of {name} has no value")
        result: dict[Any, Any] = {}
        plain_key = None
        try:
            for plain_key, other in zip(value[::2], value[1::2], strict=True):
                result[key.decode(plain_key, depth)] = item.decode(other, depth)
        except Mismatch as error:
            raise error.at(_shown_key(plain_key)) from None
        if 2 * len(result) != len(value):
            raise Mismatch(f"two keys of {name} are equal")
        return result

    return Converter(name, (dict,), _PLAIN_ARRAY, encode, decode, inner=(item,))


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _shown_key(plain_key: Any) -> str:
    if type(plain_key) not in _SCALARS or (type(plain_key) in {str, bytes} and len(plain_key) > 40):
        return "{key}"
    return f"[{plain_key!r}]"


# Messages, unions, Any ------------------------------------------------------------------------------------------------


def encode_message(value: Any, depth: int) -> Any:
    """The plain value of any message; raises `Mismatch`."""
    encode = ENCODERS.get(type(value))
    if encode is None:
        raise wrong("a message", value)
    if depth <= 0:
        raise Mismatch(f"nested deeper than {MAX_DEPTH}")
    return encode(value, depth - 1)


def decode_message(value: Any, depth: int) -> Any:
    """The message, of any registered class, of a plain value; raises `Mismatch`."""
    return _find_decoder(value, depth)[1](value, depth - 1)


def _find_decoder(value: Any, depth: int) -> tuple[type[Any], Decoder]:
    if type(value) is not tuple or not value or type(value[0]) is not str:
        raise wrong("a message: an array that starts with a tag", value)
    found = DECODERS.get(value[0])
    if found is None:
        tag = value[0] if len(value[0]) <= 80 else f"{value[0][:80]}..."
        raise Mismatch(
            f"unknown tag {tag!r}: no class with this tag was defined in this process; is its module imported?"
        )
    if depth <= 0:
        raise Mismatch(f"nested deeper than {MAX_DEPTH}")
    return found


def _message_converter(bases: tuple[type[Any], ...]) -> Converter:
    name = " | ".join(base.__name__ for base in bases)
    allowed: set[type[Any]] = set()  # grows to the message classes that fit, so that the check is one look-up

    def allows(kind: type[Any]) -> bool:
        if kind not in allowed:
            if not issubclass(kind, bases) or kind not in ENCODERS:
                return False
            allowed.add(kind)
        return True

    def encode(value: Any, depth: int) -> Any:
        if not allows(type(value)):
            raise wrong(name, value)
        return encode_message(value, depth)

    def decode(value: Any, depth: int) -> Any:
        kind, decoder = _find_decoder(value, depth)
        if not allows(kind):
            raise Mismatch(f"expected {name}, got {kind.__name__}")
        return decoder(value, depth - 1)

    return Converter(name, (), _PLAIN_ARRAY, encode, decode, bases=bases)


def _union_converter(parts: tuple[Converter, ...]) -> Converter:
    members = tuple(member for part in parts for member in (part.members or (part,)))
    if ANY in members:
        return ANY
    bases = tuple(dict.fromkeys(base for member in members for base in member.bases or ()))
    others = tuple(dict.fromkeys(member for member in members if member.bases is None))
    messages = (_message_converter(bases),) if bases else ()
    members = others + messages
    if len(members) == 1:
        return members[0]
    name = " | ".join(member.name for member in members)
    encoders: dict[type[Any], Encoder] = {kind: member.encode for member in members for kind in member.python}
    if float in encoders:
        encoders.setdefault(int, encoders[float])
    decoders: dict[type[Any], Decoder] = {}
    for member in members:
        for kind in member.plain:
            if kind in decoders:
                raise TypeError(
                    f"{name} can't be told apart on the wire: "
                    f"two of them are {kind.__name__} there; wrap one in a message"
                )
            decoders[kind] = member.decode
    encode_other = messages[0].encode if messages else None

    def encode(value: Any, depth: int) -> Any:
        encoder = encoders.get(type(value), encode_other)
        if encoder is None or (encoder is encode_other and type(value) not in ENCODERS):
            raise wrong(name, value)
        return encoder(value, depth)

    def decode(value: Any, depth: int) -> Any:
        decoder = decoders.get(type(value))
        if decoder is None:
            raise wrong(name, value)
        return decoder(value, depth)

    return Converter(name, (), frozenset(decoders), encode, decode, members=members)


_ANY_IDS: Final[dict[type[Any], tuple[int, Encoder]]] = {
    Pid: (_PID, _PID_CONVERTER.encode),
    NodeId: (_NODE_ID, _NODE_ID_CONVERTER.encode),
    CorrelationId: (_CORRELATION_ID, _encode_correlation_id),
}
_ANY_DECODERS: Final[dict[int, Decoder]] = {
    _PID: _PID_CONVERTER.decode,
    _NODE_ID: _NODE_ID_CONVERTER.decode,
    _CORRELATION_ID: _decode_correlation_id,
}
_ANY_NAME: Final = "a message, an id, None, bool, int, float, str, bytes or a tuple of these"


def _encode_any(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in PLAIN_TYPES:
        return value
    if kind in ENCODERS:
        return encode_message(value, depth)
    if kind is tuple:
        if depth <= 0:
            raise Mismatch(f"nested deeper than {MAX_DEPTH}")
        return (_TUPLE, *_each(_encode_any, value, depth - 1))
    if kind in _ANY_IDS:
        number, encode = _ANY_IDS[kind]
        return number, encode(value, depth)
    raise wrong(_ANY_NAME, value)


def _decode_any(value: Any, depth: int) -> Any:
    if type(value) in PLAIN_TYPES:
        return value
    if type(value) is not tuple or not value:
        raise wrong(_ANY_NAME, value)
    number = value[0]
    if type(number) is not int:
        return decode_message(value, depth)
    if number == _TUPLE:
        if depth <= 0:
            raise Mismatch(f"nested deeper than {MAX_DEPTH}")
        return tuple(_each(_decode_any, value[1:], depth - 1))
    if number not in _ANY_DECODERS or len(value) != 2:
        raise wrong(_ANY_NAME, value)
    return _ANY_DECODERS[number](value[1], depth)


ANY: Final = Converter(_ANY_NAME, (), PLAIN_TYPES | _PLAIN_ARRAY, _encode_any, _decode_any)

_LEAVES: Final[dict[Any, Converter]] = {
    None: _exactly(type(None), "None"),
    type(None): _exactly(type(None), "None"),
    bool: _exactly(bool, "bool"),
    int: _exactly(int, "int"),
    str: _exactly(str, "str"),
    bytes: _exactly(bytes, "bytes"),
    float: Converter("float", (float,), frozenset({float}), _encode_float, _decode_float),
    Pid: _PID_CONVERTER,
    NodeId: _NODE_ID_CONVERTER,
    CorrelationId: Converter(
        "CorrelationId", (CorrelationId,), _PLAIN_ARRAY, _encode_correlation_id, _decode_correlation_id
    ),
    Any: ANY,
    object: ANY,
}

_INSTEAD: Final = {
    list: "tuple[T, ...], which can't change after it was sent",
    set: "frozenset[T], which can't change after it was sent",
    bytearray: "bytes",
    memoryview: "bytes",
    tuple: "tuple[T, ...]",
    dict: "dict[K, V]",
    frozenset: "frozenset[T]",
}


def converter_for(annotation: Any) -> Converter:
    """The converter for an annotation (a type, not a string). Raises `TypeError` if it can't cross the wire."""
    leaf = _LEAVES.get(annotation)
    if leaf is not None:
        return leaf
    if isinstance(annotation, typing.NewType):
        return converter_for(annotation.__supertype__)
    if hasattr(annotation, "__value__"):  # a `type X = ...` statement of Python 3.12
        return converter_for(annotation.__value__)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is not None:
        return _generic_converter(annotation, origin, arguments)
    if annotation in _INSTEAD:
        raise TypeError(f"{annotation.__name__} can't be a field of a message: use {_INSTEAD[annotation]}")
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enum_converter(annotation)
        if annotation.__module__ != "builtins":
            return _message_converter((annotation,))
    raise TypeError(f"{_shown(annotation)} can't be a field of a message: see the table in rabble_trio.message")


def _generic_converter(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Converter:
    if origin is typing.Annotated:
        return converter_for(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return _union_converter(tuple(converter_for(argument) for argument in arguments))
    if origin is typing.Literal:
        return _literal_converter(arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _sequence_converter(converter_for(arguments[0]))
        return _fixed_converter(tuple(converter_for(argument) for argument in arguments))
    if origin is frozenset:
        return _frozenset_converter(converter_for(arguments[0]))
    if origin is dict:
        return _dict_converter(converter_for(arguments[0]), converter_for(arguments[1]))
    instead = f": use {_INSTEAD[origin]}" if origin in _INSTEAD else ": see the table in rabble_trio.message"
    raise TypeError(f"{_shown(annotation)} can't be a field of a message{instead}")


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
