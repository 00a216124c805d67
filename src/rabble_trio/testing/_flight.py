"""The world of a flight: one process, made again as it was when the recording begins.

`rabble_trio.FlightRecorder` writes a schedule whose scenario is `flight`. Its first choice starts the process, unless the
recording begins later, in a state that the process gave of itself; each other choice is a message that it received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, cast

from .._ids import CorrelationId, NodeId, Pid
from .._process import Process
from ._choices import ScheduleError, _from_json, message_from_json
from ._schedule import scenario
from ._simulation import Simulation, StandIn, _correlation


class NotReplayable(Exception):
    """A flight whose beginning is not known: its steps can be looked at, and nothing can be run again."""


class _Text(str):
    """Text that was made by a printer, and is shown as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@scenario
def flight(
    simulation: Simulation,
    *,
    pid: str,
    failure: str = "",
    modules: Sequence[str] = (),
    make: dict[str, Any] | Callable[[], Process] | None = None,
    snapshot: Any = None,
    records: Sequence[Any] = (),
    damaged: str | None = None,
    timers: Sequence[Any] = (),
    persisted: int = 0,
    runs: bool = False,
    unknown: dict[str, Any] | None = None,
) -> None:
    """The process that a flight recorder recorded; the parameters are in the first line of its file.

    A scenario of your own may call it with ``make=factory``, for a process that can't be made again from what was recorded.
    """
    for module in modules:
        _import(module)  # so that the messages are known
    own = Pid.parse(pid)
    known = make if callable(make) or make is None else _maker(make)
    if known is None:
        said = unknown or {}
        why = f"the recording ended with {failure}; it can't be run again: {said.get('why')}"
        known = partial(_stand_in, int(said.get("inputs", 0)), dict(said.get("state", {})), why)

    def start() -> Process:
        process = known()
        if damaged is not None:
            process.damaged(damaged)
        elif snapshot is not None or records:
            stored = None if snapshot is None else _bytes(snapshot)
            process.restore(stored, tuple(map(_bytes, records)))
        return process

    slot = simulation._place(own, start, journal=True)
    if runs:  # it was initialised long ago
        slot.process = known()
        slot.incarnation = 1
        slot.persisted = slot.durable = persisted
        for cid, seconds in timers:
            simulation._start_timer(slot, float(seconds), _correlation(cid))


def _stand_in(inputs: int, state: dict[str, str], end: str) -> Process:
    """Stands for a process that nobody knows how to make. Its state is known after its last message, as text."""
    left = inputs

    class Unknown(StandIn):
        def handle(self, message: Any, sender: Pid, correlation_id: CorrelationId | None, output: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.__dict__.update((name, _Text(text)) for name, text in state.items())
                raise NotReplayable(end)

    return Unknown()


def _bytes(value: Any) -> bytes:
    found = _from_json(value)
    if not isinstance(found, bytes):
        raise ScheduleError(f'bytes are {{"bytes"}} or {{"hex"}}, not {str(value)[:80]}')
    return found


def _maker(make: dict[str, Any]) -> Callable[[], Process]:
    """What makes the process as the recording says. Raises `ScheduleError`."""
    if "resume" in make:
        process_class = _find(make["resume"])
        if not (isinstance(process_class, type) and issubclass(process_class, Process)):
            raise ScheduleError(f"{make['resume']} is no class of processes")
        return partial(process_class.from_flight_state, _bytes(make["state"]))
    keywords = {name: _value(argument) for name, argument in make["keywords"].items()}
    return partial(_find(make["call"]), *map(_value, make["arguments"]), **keywords)


def _find(name: str) -> Callable[..., Any]:
    """What is called "module:name". Raises `ScheduleError`."""
    module, _, path = name.partition(":")
    found: Any = _import(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ScheduleError(f"{name}, which makes the process, is not there any more")
    return cast(Callable[..., Any], found)


def _import(module: str) -> Any:
    if module == "__main__":
        raise ScheduleError(
            "the process, or a message, was in the program that recorded the flight: move it to a module"
        )
    try:
        return import_module(module)
    except (ImportError, ValueError, TypeError) as error:
        raise ScheduleError(f"{module!r}, where the process or its messages are, can't be imported: {error}") from error


def _value(value: Any) -> Any:
    """The reverse of `value_to_json`. Raises `ScheduleError`."""
    match value:
        case {"tuple": [*items]}:
            return tuple(map(_value, items))
        case {"map": [*pairs]} if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return {_value(key): _value(item) for key, item in pairs}
        case {"pid": str(text)}:
            return Pid.parse(text)
        case {"node": str(text)}:
            return NodeId.parse(text)
        case {"cid": parts}:
            return _correlation(parts)
        case {"message": message}:
            return message_from_json(message)
        case dict():
            return _bytes(value)
        case list():
            return [_value(item) for item in value]
    return value


flight.name = "rabble_trio.testing:flight"  # what files say; this module is private
