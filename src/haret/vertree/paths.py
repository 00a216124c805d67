r"""The grammar of paths, and the cache that makes parsing cheap.

    path      = "/" | ("/" component)+           at most 1024 bytes and 32 components
    component = 1 to 255 bytes of UTF-8, without "/", not "." or "..", and without the characters of `_FORBIDDEN`

There is one spelling of each path, so equal nodes have equal paths: no trailing or doubled slash, no "." or "..". Paths
are compared by code point; no Unicode normalisation is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import cast

from .limits import MAX_COMPONENT_LENGTH, MAX_DEPTH, MAX_PATH_LENGTH
from .results import InvalidPath

# Control characters, line separators and direction marks (which make a terminal or a log lie), and lone surrogates
# (which have no UTF-8). The ranges are written out because Python's own character classes change with its Unicode
# version, and replicas must agree.
_FORBIDDEN = "\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_FORBIDDEN_CHARACTER = re.compile(f"[{_FORBIDDEN}]")
_WELL_FORMED_COMPONENT = re.compile(f"[^/{_FORBIDDEN}]+")
_WELL_FORMED = re.compile(f"(?:/[^/{_FORBIDDEN}]+)+")
_SHOWN = 80
_CACHED_PATHS = 4096  # a few megabytes, tens if all are as long as they can be


def utf8_length(text: str) -> int:
    """How many bytes of UTF-8 a text is."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def printable(text: str) -> str:
    """Text of a stranger's for an error, which may go to a terminal and must cross the wire: short and harmless."""
    return _FORBIDDEN_CHARACTER.sub("\ufffd", text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _invalid(path: str, reason: str) -> InvalidPath:
    return InvalidPath(printable(path), reason)


def _canonical(path: str) -> str:
    """What the user may have meant by a path with a wrong slash."""
    return "/" + "/".join(part for part in path.split("/") if part)


def is_component(name: str) -> bool:
    """Whether a path may have this component; how deep and how long the whole path gets is another question."""
    return (
        _WELL_FORMED_COMPONENT.fullmatch(name) is not None
        and name not in {".", ".."}
        and utf8_length(name) <= MAX_COMPONENT_LENGTH
    )


def parse(path: str) -> tuple[str, ...] | InvalidPath:
    """The components of a path, none for "/"; or what is wrong with it."""
    if path == "/":
        return ()
    if len(path) > MAX_PATH_LENGTH or utf8_length(path) > MAX_PATH_LENGTH:
        return _invalid(path, f"it is longer than {MAX_PATH_LENGTH} bytes; use a shorter path")
    if not path.startswith("/"):
        return _invalid(path, "it does not start with a slash; write it from the root on, for example /a/b")
    if not _WELL_FORMED.fullmatch(path):
        if _FORBIDDEN_CHARACTER.search(path):
            return _invalid(path, "it holds a control character; use printable characters only")
        kind = "ends in a slash" if path.endswith("/") and "//" not in path else "has an empty component"
        return _invalid(path, f"it {kind}; write {printable(_canonical(path))}")
    components = tuple(path[1:].split("/"))
    if len(components) > MAX_DEPTH:
        return _invalid(path, f"it has {len(components)} components; use at most {MAX_DEPTH}")
    for component in components:
        if component in {".", ".."}:
            return _invalid(path, f"{component} is not a component; write the path out from the root on")
        if utf8_length(component) > MAX_COMPONENT_LENGTH:
            return _invalid(path, f"a component is longer than {MAX_COMPONENT_LENGTH} bytes; use shorter names")
    return components


_split_cached = lru_cache(maxsize=_CACHED_PATHS)(parse)

split_checked = cast("Callable[[str], tuple[str, ...]]", _split_cached)
"""The components of a path that is known to be valid."""


def split(path: str) -> tuple[str, ...] | InvalidPath:
    """`parse`, remembering the results of the paths that were used last."""
    # Strangers' paths may be as long as a frame, and thousands of those are not worth remembering.
    return _split_cached(path) if len(path) <= MAX_PATH_LENGTH else parse(path)


def join(components: tuple[str, ...]) -> str:
    """The path of some components: the inverse of `split`."""
    return "/" + "/".join(components)
