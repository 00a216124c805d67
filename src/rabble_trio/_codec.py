"""Typed messages and their bytes.

`message` makes a class sendable. `encode` and `decode` turn its instances into bytes and back, by conversions that are
made from its annotations (`_convert`), never written by hand. A message is a msgpack array: its tag, then its fields in
order. A batch is an array of messages.

Both ways are strict. Bytes of any origin either decode to a message that its class allows or raise `DecodeError`, at a
cost in time and memory that is linear in their length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn, TypeVar, dataclass_transform, overload

import msgpack

from ._convert import (
    DECODERS,
    ENCODERS,
    MAX_DEPTH,
    Converter,
    Decoder,
    Encoder,
    Mismatch,
    converter_for,
    decode_message,
    wrong,
)
from ._errors import DecodeError, EncodeError, NotAMessage

_T = TypeVar("_T")

MAX_MESSAGE_SIZE: Final = 2**20
"""Bytes in an encoded message, or batch: what one websocket frame carries by default. Send larger data in chunks."""

MAX_TAG_LENGTH: Final = 128
"""Characters in a tag: it is part of every message."""

MESSAGE_TYPES: Final = ENCODERS
"""Every message class; what it maps to is the codec's own. `type(m) in MESSAGE_TYPES` tells whether `m` can be sent."""


@overload
def message(cls: type[_T], /) -> type[_T]: ...
@overload
def message(*, tag: str | None = None) -> Callable[[type[_T]], type[_T]]: ...


@dataclass_transform(frozen_default=True)
def message(cls: Any = None, /, *, tag: str | None = None) -> Any:
    """Make a class a message: a frozen dataclass with slots that can be sent to any actor on any node.

    `tag` names the class on the wire and on disk, up to 128 characters; without it that is "module.qualname". Give one
    to classes that may move or be renamed, and to those of a script's `__main__`. Fields may be annotated with::

        None bool int float str bytes      Any (or object): any of these, a message, an id, or a tuple of these
        tuple[T, ...] tuple[A, B]          frozenset[T]          dict[K, V] with plain keys, ids or enums as K
        A | B  Optional[A]  Literal[...]   Enum classes          NodeId Pid CorrelationId
        message classes, and base classes of messages; also of the class itself, and of classes defined later

    Values are checked when a message is encoded and when it is decoded, not when it is made. A `__post_init__` that
    raises makes such bytes a `DecodeError`.

    Raises `TypeError` if an annotation can't cross the wire, or the tag belongs to another class. An annotation that
    names a class that is not defined yet is checked at the first use.
    """
    if cls is None:
        return lambda decorated: _register(decorated, tag)
    return _register(cls, tag)


def encode(message: Any, *, max_size: int = MAX_MESSAGE_SIZE) -> bytes:
    """The bytes of a message. In which order a dict or a set in it was built makes no difference.

    Raises `NotAMessage` if its class is not decorated with `message`, and `EncodeError` if a field holds what its
    annotation does not allow, or the result exceeds `max_size` bytes.
    """
    encoder = ENCODERS.get(type(message))
    if encoder is None:
        raise NotAMessage.of(message)
    try:
        data: bytes = _pack(encoder(message, MAX_DEPTH - 1))
    except (Mismatch, ValueError, OverflowError, RecursionError) as error:
        _raise_encode_error(message, error)
    if len(data) > max_size:
        _forget_large_buffer()
        raise EncodeError(f"{type(message).__name__} takes {len(data)} bytes, more than the {max_size} allowed")
    return data


def decode(data: bytes, *, max_size: int = MAX_MESSAGE_SIZE) -> Any:
    """The message whose bytes these are.

    Raises `DecodeError`, and nothing else, if they are not exactly one message, or more than `max_size` bytes. The text
    says where: the tag, and the path to the field.
    """
    plain = _unpack(data, max_size)
    try:
        return decode_message(plain, MAX_DEPTH)
    except Mismatch as error:
        raise DecodeError(_placed(plain, error)) from None
    except RecursionError:
        raise DecodeError("nested too deeply for the stack that is left") from None


def encode_batch(messages: Iterable[Any], *, max_size: int = MAX_MESSAGE_SIZE) -> bytes:
    """The bytes of many messages in one frame; raises as `encode` does."""
    return join_batch([encode(message, max_size=max_size) for message in messages], max_size=max_size)


def join_batch(encoded: Sequence[bytes], *, max_size: int = MAX_MESSAGE_SIZE) -> bytes:
    """A batch of messages that are encoded already. It is up to 5 bytes larger than they are together.

    Raises `EncodeError` if it exceeds `max_size` bytes.
    """
    data = b"".join((_array_header(len(encoded)), *encoded))
    if len(data) > max_size:
        raise EncodeError(
            f"a batch of {len(encoded)} messages takes {len(data)} bytes, more than the {max_size} allowed"
        )
    return data


def decode_batch(data: bytes, *, max_size: int = MAX_MESSAGE_SIZE) -> list[Any]:
    """The messages of a batch, in order; raises `DecodeError`, and nothing else, if any of them is malformed."""
    plain = _unpack(data, max_size)
    if type(plain) is not tuple:
        raise DecodeError(f"expected a batch: an array of messages, got {type(plain).__name__}")
    done: list[Any] = []
    try:
        for one in plain:
            done.append(decode_message(one, MAX_DEPTH))
    except Mismatch as error:
        raise DecodeError(f"[{len(done)}] {_placed(plain[len(done)], error)}") from None
    except RecursionError:
        raise DecodeError(f"[{len(done)}] nested too deeply for the stack that is left") from None
    return done


# Bytes and plain values -----------------------------------------------------------------------------------------------

_pack = msgpack.Packer().pack  # one for all: making a Packer costs more than packing a message
_array_header = msgpack.Packer().pack_array_header
_idle_walkers: list[Any] = []  # taking one out of a list is safe in any thread, which sharing one is not


def _forget_large_buffer() -> None:
    """A Packer keeps its buffer, as large as the largest message ever was."""
    global _pack  # noqa: PLW0603
    _pack = msgpack.Packer().pack


def _unpack(data: bytes, max_size: int) -> Any:
    if type(data) is not bytes:
        raise TypeError(f"expected bytes, got {type(data).__name__}")
    if len(data) > max_size:
        raise DecodeError(f"{len(data)} bytes are more than the {max_size} allowed")
    try:
        # msgpack makes room for as many elements as an array claims to have, and arrays can be in each other.
        # Skipping makes room for nothing, and fails unless all that was claimed is there.
        try:
            walker = _idle_walkers.pop()
        except IndexError:
            walker = msgpack.Unpacker(max_buffer_size=0)
        walker.feed(data)
        walker.skip()
        plain = msgpack.unpackb(data, use_list=False, max_map_len=0, max_ext_len=0)
    except msgpack.OutOfData:
        raise DecodeError(f"incomplete: {len(data)} bytes end in the middle of a value") from None
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise DecodeError(f"not valid msgpack: {type(error).__name__} {error}".rstrip()) from None
    _idle_walkers.append(walker)  # one that failed may hold leftovers
    return plain


def _placed(plain: Any, error: Mismatch) -> str:
    tag = plain[0] if type(plain) is tuple and plain and type(plain[0]) is str and plain[0] in DECODERS else ""
    return f"{tag}{error}" if error.path or tag else error.problem


def _raise_encode_error(message: Any, error: Exception) -> NoReturn:
    name = type(message).__name__
    if isinstance(error, Mismatch):
        raise EncodeError(f"{name}{error}") from None
    if isinstance(error, RecursionError):
        raise EncodeError(f"{name}: nested too deeply for the stack that is left") from None
    plain = ENCODERS[type(message)](message, MAX_DEPTH - 1)
    field = next(
        (field.name for field, value in zip(dataclasses.fields(message), plain[1:], strict=True) if not _fits(value)),
        None,
    )
    raise EncodeError(f"{name}{'' if field is None else f'.{field}'}: {error}") from None


def _fits(plain: Any) -> bool:
    try:
        _pack(plain)
    except (ValueError, OverflowError):
        return False
    return True


# Classes --------------------------------------------------------------------------------------------------------------


def _register(cls: type[Any], tag: str | None) -> type[Any]:
    made = dataclasses.dataclass(frozen=True, slots=True)(cls)
    _homes[made] = _Home(f"{made.__module__}.{made.__qualname__}", _globals_of(made))
    tag = f"{made.__module__}.{made.__qualname__}" if tag is None else tag
    _check_tag(made, tag)
    if {field.name for field in dataclasses.fields(made)} != set(inspect.signature(made).parameters):
        raise TypeError(
            f"every field of {_full_name(made)} must be an argument, and every argument a field: "
            "without init=False and InitVar"
        )
    _use_cheap_init(made)
    # An annotation may name what is not defined yet, perhaps this class. Then the first use checks it.
    with contextlib.suppress(_NotDefinedYet):
        _converters(made)

    def first_encode(value: Any, depth: int) -> Any:
        encoder = ENCODERS[made] = _make_encoder(made, tag, _complete_converters(made))
        return encoder(value, depth)

    def first_decode(plain: Any, depth: int) -> Any:
        try:
            decoder = _make_decoder(made, _complete_converters(made))
        except TypeError as error:
            raise Mismatch(str(error)) from None  # the class is to blame, but whoever sent the bytes must not crash us
        if DECODERS[tag][0] is made:
            DECODERS[tag] = made, decoder
        return decoder(plain, depth)

    ENCODERS[made] = first_encode
    DECODERS[tag] = made, first_decode
    return made


def _check_tag(cls: type[Any], tag: object) -> None:
    if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG_LENGTH or not tag.isprintable():
        raise TypeError(f"{tag!r} can't be a tag: use 1 to {MAX_TAG_LENGTH} printable characters")
    other = DECODERS[tag][0] if tag in DECODERS else cls
    # The same class again is a module that runs a second time.
    if _full_name(other) != _full_name(cls):
        raise TypeError(
            f"the tag {tag!r} of {_full_name(cls)} belongs to {_full_name(other)}: give one of them another"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Home:
    """Where a message class was defined. Its `__module__` may say otherwise later, if a package exports it."""

    name: str
    globals: dict[str, Any]


_homes: Final[dict[type[Any], _Home]] = {}


def _globals_of(dataclass: type[Any]) -> dict[str, Any]:
    # dataclasses gives the __init__ that it makes the globals of the class's module.
    return getattr(vars(dataclass).get("__init__"), "__globals__", {})


def _full_name(cls: type[Any]) -> str:
    return _homes[cls].name if cls in _homes else f"{cls.__module__}.{cls.__qualname__}"


def _resolved_annotations(cls: type[Any]) -> dict[str, Any]:
    """By field. Raises `NameError` and the like if one names what does not exist."""
    # A class inside a function can name itself and the messages beside it, though they are no globals.
    place = _full_name(cls).rpartition(".")[0]
    beside = {other.__name__: other for other in ENCODERS if _full_name(other).rpartition(".")[0] == place}
    names = {field.name for field in dataclasses.fields(cls)}
    resolved: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = {name: value for name, value in inspect.get_annotations(base).items() if name in names}
        if own:
            known = _homes[base].globals if base in _homes else _globals_of(base)
            holder = types.SimpleNamespace(__annotations__=own)
            resolved |= typing.get_type_hints(holder, known, {**beside, cls.__name__: cls})
    return resolved


class _NotDefinedYet(TypeError):
    """An annotation names something that does not exist."""


def _converters(cls: type[Any]) -> dict[str, Converter]:
    """By field, in order. Raises `TypeError`."""
    try:
        annotations = _resolved_annotations(cls)
    except (NameError, AttributeError) as error:
        raise _NotDefinedYet(
            f"an annotation of {_full_name(cls)} names what does not exist at run time ({error}): "
            "define it in, or import it into, its module, outside of TYPE_CHECKING"
        ) from None
    converters: dict[str, Converter] = {}
    for field in dataclasses.fields(cls):
        try:
            converters[field.name] = converter_for(annotations[field.name])
        except TypeError as error:
            raise TypeError(f"{_full_name(cls)}.{field.name}: {error}") from None
    return converters


def _complete_converters(cls: type[Any]) -> dict[str, Converter]:
    """As `_converters`, and all classes that they name must be messages or bases of messages by now."""
    converters = _converters(cls)
    for name, converter in converters.items():
        for base in converter.all_bases():
            if not any(issubclass(known, base) for known in ENCODERS):
                raise TypeError(
                    f"{_full_name(cls)}.{name}: {_full_name(base)} is neither a message nor the base of one: "
                    "decorate it with @rabble_trio.message, or use one of the types in the table there"
                )
    return converters


# Generated functions --------------------------------------------------------------------------------------------------
# Like dataclasses, we write the source of a few functions per class: a loop over fields would cost three times as much.
# Nothing but names of fields gets into the source, and Python has checked that they are identifiers.


def _define(name: str, arguments: str, body: list[str], names: dict[str, Any]) -> Any:
    exec(f"def {name}({arguments}):\n" + "\n".join(f"    {line}" for line in body), names)
    return names[name]


def _use_cheap_init(cls: type[Any]) -> None:
    """Replace the `__init__` of a frozen dataclass by one that does the same in little more than half the time."""
    slots = {field.name: getattr(cls, field.name, None) for field in dataclasses.fields(cls)}
    simple = all(field.default_factory is dataclasses.MISSING for field in dataclasses.fields(cls))
    if not slots or not simple or not all(isinstance(slot, types.MemberDescriptorType) for slot in slots.values()):
        return
    old = cls.__init__
    code = old.__code__
    ordinary = code.co_varnames[1 : code.co_argcount]
    by_keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    body = [f"__set_{name}(__self, {name})" for name in slots]
    if hasattr(cls, "__post_init__"):
        body.append("__self.__post_init__()")
    arguments = ", ".join(("__self", *ordinary, *(("*", *by_keyword) if by_keyword else ())))
    # The slots' own setters pass by the __setattr__ that makes the class immutable.
    setters = {f"__set_{name}": slot.__set__ for name, slot in slots.items() if slot is not None}
    new = _define("__init__", arguments, body, {"__name__": cls.__module__, **setters})
    new.__defaults__, new.__kwdefaults__, new.__annotations__ = (
        old.__defaults__,
        old.__kwdefaults__,
        old.__annotations__,
    )
    new.__qualname__ = old.__qualname__
    cls.__init__ = new


def _type_test(converter: Converter, variable: str, kind: str) -> str | None:
    """An expression that is true if a value that would be its own plain value has the wrong type."""
    if converter.identical:
        return f"type({variable}) is not {kind}"
    others = [member for member in converter.members if member.python != (type(None),)]
    if len(others) == 1 and others[0].identical:
        return f"{variable} is not None and type({variable}) is not {kind}"
    return None


def _conversion_lines(
    number: int, name: str, converter: Converter, value: str, names: dict[str, Any], way: str
) -> list[str]:
    variable = f"v{number}"
    kind = next(
        (kind for one in (converter, *converter.members) for kind in one.python if kind is not type(None)), type(None)
    )
    test = _type_test(converter, variable, f"t{number}")
    convert = converter.encode if way == "encode" else converter.decode
    names |= {f"t{number}": kind, f"c{number}": convert, f"n{number}": converter.name}
    if test is not None:
        start = [] if value == variable else [f"{variable} = {value}"]
        return [*start, f"if {test}: raise wrong(n{number}, {variable}).at('.{name}')"]
    return [
        "try:",
        f"    {variable} = c{number}({value}, depth)",
        "except Mismatch as error:",
        f"    raise error.at('.{name}')",
    ]


def _make_encoder(cls: type[Any], tag: str, converters: dict[str, Converter]) -> Encoder:
    names: dict[str, Any] = {"tag": tag, "wrong": wrong, "Mismatch": Mismatch}
    body: list[str] = []
    for number, (name, converter) in enumerate(converters.items()):
        body += _conversion_lines(number, name, converter, f"m.{name}", names, "encode")
    body.append(f"return (tag, {''.join(f'v{number}, ' for number in range(len(converters)))})")
    return _define("encode", "m, depth", body, names)  # type: ignore[no-any-return]


def _make_decoder(cls: type[Any], converters: dict[str, Converter]) -> Decoder:
    names: dict[str, Any] = {"cls": cls, "wrong": wrong, "Mismatch": Mismatch}
    count = len(converters)
    body = [f"if len(plain) != {count + 1}: raise Mismatch(f'expected {count} fields, got {{len(plain) - 1}}')"]
    body.append(f"_, {''.join(f'v{number}, ' for number in range(count))} = plain")
    for number, (name, converter) in enumerate(converters.items()):
        body += _conversion_lines(number, name, converter, f"v{number}", names, "decode")
    by_keyword = {field.name for field in dataclasses.fields(cls) if field.kw_only}
    arguments = [f"{name}=v{number}" if name in by_keyword else f"v{number}" for number, name in enumerate(converters)]
    # Ordinary arguments come first in a call, as they do in __init__.
    make = f"return cls({', '.join(sorted(arguments, key=lambda argument: '=' in argument))})"
    if hasattr(cls, "__post_init__"):
        names["Exception"] = Exception
        refused = "raise Mismatch(f'{cls.__name__} refuses these values: {type(error).__name__}: {error!s:.200}')"
        body += ["try:", f"    {make}", "except Exception as error:", f"    {refused}"]
    else:
        body.append(make)
    return _define("decode", "plain, depth", body, names)  # type: ignore[no-any-return]
