"""Placeholder while it is written."""

from __future__ import annotations

from typing import Any


def add_parser(place: Any, parents: Any) -> None:
    """Nothing yet."""
