"""What the two packages export: names, where they say they live, and that each explains itself."""

from __future__ import annotations

import inspect
import pathlib
import tomllib
import types

import pytest

import haret
import rabble_trio
import rabble_trio.testing

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = [rabble_trio, rabble_trio.testing, haret]

package_wise = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


def public(package: types.ModuleType) -> dict[str, object]:
    """What `from package import *` would give; test_reference.py compares the names with those in the reference."""
    return {
        name: value
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


@package_wise
def test_public_names_say_that_they_live_in_the_package(package: types.ModuleType) -> None:
    # Tracebacks, pickles and the documentation then show the name that users import.
    wrong = {name: value.__module__ for name, value in public(package).items() if is_code(value)}
    assert {name: module for name, module in wrong.items() if module != package.__name__} == {}


@package_wise
def test_public_names_explain_themselves(package: types.ModuleType) -> None:
    silent = []
    for name, value in public(package).items():
        if is_code(value) and not (value.__doc__ or "").strip():
            silent.append(name)
        if isinstance(value, type):
            silent += [f"{name}.{method}" for method in undocumented_methods(value)]
    assert silent == []


def is_code(value: object) -> bool:
    return isinstance(value, type) or inspect.isfunction(value)


def undocumented_methods(cls: type) -> list[str]:
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod))
        and not (inspect.getdoc(getattr(cls, name)) or "").strip()
    ]


def test_whole_core_of_rabble_trio_is_held_to_purity() -> None:
    # The layers place every module, or lint fails; here the lowest layer and the contract of purity are kept in step.
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["rabble_trio"]]
    core = {f"rabble_trio.{name.strip(' ()')}" for name in layers[-1].split(":")}
    there = {f"rabble_trio.{path.stem}" for path in (ROOT / "src" / "rabble_trio").glob("*.py")}
    [pure] = [contract["source_modules"] for contract in contracts if contract["name"].startswith("Pure parts")]
    listed = {name for name in pure if name.startswith("rabble_trio.")}
    assert listed == core & there, "pyproject.toml: list each module of the core in the contract of purity as well"
