"""The reference names all that is public, and nothing else."""

from __future__ import annotations

import pathlib
import re
import types

import pytest

import haret
import rabble_trio
import rabble_trio.testing

REFERENCE = pathlib.Path(__file__).parents[2] / "docs" / "reference"
DIRECTIVE = re.compile(r"^ *\.\. auto(?:class|exception|function|data|method|decorator):: ([\w.]+)", re.MULTILINE)


def documented() -> list[str]:
    """Full names of all that the pages of the reference describe."""
    names = []
    for page in REFERENCE.glob("*.rst"):
        names += DIRECTIVE.findall(page.read_text(encoding="utf-8"))
    return names


@pytest.mark.parametrize("package", [rabble_trio, rabble_trio.testing, haret], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_reference_once(package: types.ModuleType) -> None:
    public = sorted(
        f"{package.__name__}.{name}"
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    )
    # Names of submodules are described where a public function returns one; they come on top.
    described = [name for name in documented() if name.rpartition(".")[0] == package.__name__]
    assert sorted(described) == public
