"""The grammar of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haret.vertree.limits import MAX_COMPONENT_LENGTH, MAX_DEPTH, MAX_PATH_LENGTH
from haret.vertree.paths import _split_cached, join, parse, printable, split
from haret.vertree.results import InvalidPath


@pytest.mark.parametrize(
    ("path", "components"),
    [
        ("/", ()),
        ("/a", ("a",)),
        ("/a/b/c", ("a", "b", "c")),
        ("/ü/日本/a b", ("ü", "日本", "a b")),
        ("/.hidden/...", (".hidden", "...")),
        ("/" + "x" * MAX_COMPONENT_LENGTH, ("x" * MAX_COMPONENT_LENGTH,)),
        ("/a" * MAX_DEPTH, ("a",) * MAX_DEPTH),
    ],
)
def test_a_canonical_path_has_components(path: str, components: tuple[str, ...]) -> None:
    assert split(path) == components
    assert join(components) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "start with a slash"),
        ("a", "start with a slash"),
        ("a/b", "start with a slash"),
        (" /a", "start with a slash"),
        ("/a/", "ends in a slash; write /a"),
        ("//", "empty component; write /"),
        ("/a//b", "empty component; write /a/b"),
        ("//a", "empty component; write /a"),
        ("/a//", "empty component; write /a"),
        ("/.", ". is not a component"),
        ("/a/../b", ".. is not a component"),
        ("/a\0b", "control character"),
        ("/a\n", "control character"),
        ("/\x7f", "control character"),
        ("/\x85", "control character"),
        ("/\u2028", "control character"),
        ("/\u202e", "control character"),
        ("/\ud800", "control character"),
        ("/" + "x" * (MAX_COMPONENT_LENGTH + 1), "a component is longer"),
        ("/" + "é" * (MAX_COMPONENT_LENGTH // 2 + 1), "a component is longer"),
        ("/a" * (MAX_DEPTH + 1), f"{MAX_DEPTH + 1} components"),
        ("/a" * (MAX_PATH_LENGTH // 2) + "/", "longer than 1024 bytes"),
        (("/" + "é" * 100) * 6, "longer than 1024 bytes"),
    ],
)
def test_anything_else_is_refused_with_a_reason(path: str, reason: str) -> None:
    found = parse(path)
    assert isinstance(found, InvalidPath)
    assert reason in found.reason


@given(st.text(alphabet=st.sampled_from("/.aé\0\ud800\u202e "), max_size=30) | st.text())
def test_any_text_is_a_path_or_an_error_that_can_be_shown(text: str) -> None:
    found = parse(text)
    if isinstance(found, InvalidPath):
        for shown in (found.path, found.reason):
            shown.encode()  # would raise on a surrogate
            assert not any(character < " " for character in shown)
            assert len(shown) < 200
    else:
        assert join(found) == text


def test_long_paths_of_strangers_are_not_remembered() -> None:
    _split_cached.cache_clear()
    for _ in range(2):
        assert isinstance(split("/" * 100_000), InvalidPath)
        assert split("/a") == ("a",)
    assert _split_cached.cache_info().currsize == 1


def test_an_error_shows_a_strangers_text_short_and_harmless() -> None:
    assert printable("\x1b[2J") == "\ufffd[2J"
    assert printable("x" * 1000) == "x" * 80 + "..."
