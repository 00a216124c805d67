"""Looks at an installed copy: `nox -s package` runs this where only the wheel is on the path.

The tests run on an editable install, which would not notice a file that the wheel forgot.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import pathlib
import sys

DISTRIBUTION = "rabble-trio"
PACKAGES = ["rabble_trio", "haret"]


def main() -> None:
    """Exit with a message if anything is missing."""
    source = pathlib.Path(__file__).parents[1] / "src"
    for name in PACKAGES:
        where = pathlib.Path(importlib.import_module(name).__file__ or "").parent
        if where.is_relative_to(source):
            sys.exit(f"{name} was imported from the source tree, {where}: install the project first, then run me")
        expected = {path.relative_to(source / name) for path in (source / name).rglob("*") if _belongs_in_wheel(path)}
        missing = sorted(str(path) for path in expected if not (where / path).is_file())
        if missing:
            sys.exit(f"the wheel lacks these files of {name}: {', '.join(missing)}")
        if not importlib.resources.files(name).joinpath("py.typed").is_file():
            sys.exit(f"{name} has no py.typed: type checkers would ignore its annotations")
    scripts = importlib.metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts")
    for script in scripts:
        if not callable(script.load()):
            sys.exit(f"the command {script.name} points at {script.value}, which can't be called")
    print(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}: {', '.join(PACKAGES)} arrived whole")


def _belongs_in_wheel(path: pathlib.Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


if __name__ == "__main__":
    main()
