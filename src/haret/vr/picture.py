"""Pictures of a replica between two messages, for the flight recorder (`rabble_trio.FlightRecorder`), and the way back.

Rules:

1. A replica is a graph of objects of the classes in `KINDS`, of collections and of plain values. A picture is the same
   graph made of tuples: what changes is copied, and what never changes (messages, pids, the image of the state machine)
   is shared. So it takes little time, and bytes are made of it only when they are wanted, in any thread.
2. What changes is in a picture once; what mentions it again names its number, in the order of appearance.
3. There is no picture while an image is received, sent or digested: that has no form here, and is over soon.
4. Nothing in the bytes chooses what code runs: names are looked up in `KINDS`.
5. Of the images that a replica keeps for others, only the heads are in a picture. What it sends of them is lost; what it
   does is not, because it never looks at them again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rabble_trio import CorrelationId, DecodeError, Pid, decode, encode, message

from . import messages
from .client_table import ClientTable
from .configuration import Configuration, Image, Settings, StateMachine
from .context import Context
from .digests import Digests
from .gathering import Gathering
from .image import StateImage
from .log import Log
from .quorum import Votes, Wishes
from .reads import Reads
from .replica import Replica
from .states.backup import Backup
from .states.base import State
from .states.catch_up import CatchUp
from .states.leaving import Leaving, Stopped
from .states.primary import Primary, _Planned
from .states.recovering import Recovering
from .states.state_transfer import StateTransfer
from .states.view_change import ViewChange
from .transfer import Collection, Question

if TYPE_CHECKING:
    from random import Random

_Replica = TypeVar("_Replica", bound=Replica)

MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a picture: a flight with a larger state makes a file that nobody steps through."""

_STATES: Final = (Primary, Backup, ViewChange, StateTransfer, Recovering, CatchUp, Leaving, Stopped)
_OBJECTS: Final = (*_STATES, Replica, Context, Digests, Wishes, Votes, Gathering, Reads, _Planned, Question, Collection)
_FROZEN: Final = (Settings, Configuration)

KINDS: Final[dict[str, type[Any]]] = {kind.__name__: kind for kind in (*_OBJECTS, *_FROZEN)}
"""The classes of the objects in a picture, by name."""

_MESSAGES: Final = {name: kind for name, kind in vars(messages).items() if isinstance(kind, type)}

_LEFT_OUT: Final = frozenset({"random", "machine", "_empty", "_memory", "flight_recipe"})
"""Attributes that are handed in, or of no use after the start."""

_PLAIN: Final = frozenset({int, float, str, bytes, bool, type(None), Pid, CorrelationId})


class _NotNow(Exception):
    """Something has no form in a picture at this moment."""


@message(tag="vr.picture")
class Picture:
    """The bytes of a picture."""

    replica: Any
    """The graph."""
    random: Any
    """The state of its source of jitter."""
    machine: tuple[bytes, ...]
    """The image of its state machine, in chunks."""


def take(replica: Replica) -> Callable[[], bytes] | None:
    """A picture of a replica, as `Process.flight_state` returns it; None if it can't be taken now.

    The function raises `ValueError` or `EncodeError` if the picture is larger than `MAX_BYTES`.
    """
    context = replica.context
    try:
        graph = _Taker().take(replica)
    except _NotNow:
        return None
    chance, image = context.random.getstate(), context.machine.image()

    def make() -> bytes:
        room, chunks = MAX_BYTES, []
        for chunk in image.chunks():
            room -= len(chunk)
            if room < 0:
                raise ValueError(f"the state machine is larger than {MAX_BYTES} bytes, so it is not written")
            chunks.append(chunk)
        return encode(Picture(graph, chance, tuple(chunks)), max_size=MAX_BYTES)

    return make


def restore(cls: type[_Replica], data: bytes, machine: StateMachine, random: Random) -> _Replica:
    """The replica that a picture was taken of, with a new state machine and source of randomness.

    Raises `ValueError` if the bytes are no picture.
    """
    try:
        picture = decode(data, max_size=MAX_BYTES)
        if not isinstance(picture, Picture):
            raise ValueError(f"a {type(picture).__name__} is no picture of a replica")  # noqa: TRY004  # wrong bytes
        replica = _Giver(cls).give(picture.replica)
        context = replica.context
    except (DecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"this is no picture of a replica: {error}") from error
    if type(replica) is not cls or type(context) is not Context:
        raise ValueError("this is no picture of a replica, but of something else")
    context._empty = machine.image()
    loader = machine.loader()
    for chunk in picture.machine:
        loader.feed(chunk)
    loader.finish()
    machine.digest()  # the one that was here had done so, too, so that the next image takes as few ticks
    random.setstate(picture.random)
    context.machine, context.random = machine, random
    replica._memory = None
    return replica


class _Taker:
    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def take(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN or _MESSAGES.get(kind.__name__) is kind:
            return value
        if kind is tuple:
            return ("tuple", *map(self.take, value))
        if kind is frozenset:
            return ("frozenset", *sorted(value))  # of pids, as all sets of a replica are
        if kind in _FROZEN:
            return (kind.__name__, *(self.take(getattr(value, field.name)) for field in fields(value)))
        if kind is StateImage:
            return ("image", value.head)
        if id(value) in self._numbers:
            return ("again", self._numbers[id(value)])
        self._numbers[id(value)] = len(self._numbers)
        if kind is Log:
            return ("log", value.start, tuple(value.slice(value.start, value.op)))
        if kind is ClientTable:
            return ("clients", value._max_sessions, value.image())
        if kind is set:
            return ("set", *sorted(value))
        if kind in (list, deque):
            return (kind.__name__, *map(self.take, value))
        if kind in (dict, OrderedDict):
            return (kind.__name__, *(self.take(part) for item in value.items() for part in item))
        if kind in _OBJECTS or isinstance(value, Replica):
            return self._object(value)
        raise _NotNow

    def _object(self, value: Any) -> Any:
        name = "Replica" if isinstance(value, Replica) else type(value).__name__
        parts: list[Any] = [name]
        for attribute in _attributes(value):
            if attribute == "handlers":
                continue
            parts += (attribute, self.take(getattr(value, attribute)))
        if isinstance(value, State):
            pairs = [(kind.__name__, handler.__name__) for kind, handler in value.handlers.items()]
            parts += ("handlers", tuple(part for pair in pairs for part in pair))
        if name == "Context" and value.undigested is not None:
            raise _NotNow
        return tuple(parts)


def _attributes(value: Any) -> Iterator[str]:
    """The names of the attributes that an object has; slots first."""
    for kind in type(value).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if name not in _LEFT_OUT and hasattr(value, name):
                yield name
    yield from (name for name in getattr(value, "__dict__", ()) if name not in _LEFT_OUT)


class _Lost:
    """The state machine's part of an image that is not in a picture."""

    def chunks(self) -> Iterator[bytes]:
        return iter(())

    def digest(self, budget: int) -> bytes | None:
        return b""


class _Giver:
    """The way back. Raises `LookupError` or `TypeError` for what `_Taker` never makes."""

    def __init__(self, replica: type[Replica]) -> None:
        self._replica = replica
        self._made: list[Any] = []

    def give(self, value: Any) -> Any:
        if type(value) is not tuple:
            return value
        match value:
            case ("tuple", *parts):
                return tuple(map(self.give, parts))
            case ("frozenset", *parts):
                return frozenset(parts)
            case ("Settings" | "Configuration" as name, *parts):
                return KINDS[name](*map(self.give, parts))
            case ("image", head):
                machine: Image = _Lost()
                return StateImage(head, (), machine)
            case ("again", int(number)):
                return self._made[number]
            case ("log", int(start), entries):
                log = self._note(Log(start))
                log.extend(start + 1, entries)
                return log
            case ("clients", int(most), sessions):
                clients = self._note(ClientTable(most))
                clients.restore(sessions)
                return clients
            case ("list", *parts):
                return self._fill(list[Any](), list.extend, parts)
            case ("set", *parts):
                return self._note(set(parts))
            case ("deque", *parts):
                return self._fill(deque[Any](), deque.extend, parts)
            case ("dict", *parts):
                return self._fill_map({}, parts)
            case ("OrderedDict", *parts):
                return self._fill_map(OrderedDict[Any, Any](), parts)
            case (str(name), *parts):
                return self._object(name, parts)
        raise TypeError(f"{str(value)[:80]} stands for nothing")

    def _note(self, made: Any) -> Any:
        self._made.append(made)
        return made

    def _fill(self, made: Any, add: Callable[[Any, Any], None], parts: list[Any]) -> Any:
        self._note(made)
        add(made, map(self.give, parts))
        return made

    def _fill_map(self, made: Any, parts: list[Any]) -> Any:
        self._note(made)
        given = map(self.give, parts)
        made.update(zip(given, given, strict=True))
        return made

    def _object(self, name: str, parts: list[Any]) -> Any:
        kind = self._replica if name == "Replica" else KINDS[name]
        made = self._note(object.__new__(kind))
        for attribute, part in zip(parts[::2], parts[1::2], strict=True):
            if attribute == "handlers":
                made.handlers = {
                    _MESSAGES[message]: getattr(made, handler)
                    for message, handler in zip(part[::2], part[1::2], strict=True)
                }
            else:
                setattr(made, attribute, self.give(part))
        return made
