"""How Sphinx builds these pages: `nox -s docs`."""

from __future__ import annotations

import importlib
import importlib.metadata
import pathlib
import sys

import sphinx.application
from sphinx.pycode import ModuleAnalyzer

# Extensions of these docs alone.
sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))

project = "rabble_trio and haret"
author = "the rabble-trio developers"
copyright = author
version = release = importlib.metadata.version("rabble-trio")

extensions = ["sphinx.ext.autodoc", "sphinxcontrib_trio", "haret_command"]
html_theme = "furo"
html_title = f"rabble_trio and haret {release}"
exclude_patterns = ["_build"]
templates_path: list[str] = []

# Docstrings write `Name` for whatever is code: a link where the name is known, plain code where it is not.
default_role = "obj"
smartquotes = False  # it would make dashes of the -- in commands
highlight_language = "python"
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

# -n makes every reference that leads nowhere an error. Excused are names that other projects document: looking those up
# would need their inventories, hence the network, at every build.
nitpick_ignore_regex = [
    (r"py:obj", r"(?s).*"),
    (r"py:.*", r"(?!rabble_trio\.|haret\.)\w+(\..+)"),
    (r"py:class", r"bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type"),
    (r"py:class", r"(\w+\.)*_Ts?"),
    # Aliases of types; the docstring where one is used says what it stands for.
    (r"py:class", r"Factory|Restart|Strategy"),
]

NOT_CONSTRUCTED = {
    "rabble_trio.Node",
    "rabble_trio.Mailbox",
    "rabble_trio.Connection",
    "rabble_trio.WorkerProcesses",
    "haret.Client",
    "haret.Admin",
    "haret.Server",
}
"""Classes whose instances users are given, so that the arguments of the constructor are nobody's business."""


def collect_field_docs(app: sphinx.application.Sphinx) -> None:
    """Let autodoc find the docstrings below the fields of public classes.

    Public names say that they live in `rabble_trio`, but those docstrings stand in the private file that defines the
    class, so what the private files say is added to what is known of their package.
    """
    for package in ("rabble_trio", "haret"):
        importlib.import_module(package)
        public = ModuleAnalyzer.for_module(package)
        public.analyze()
        for name in sorted(name for name in sys.modules if name.startswith(f"{package}.")):
            private = ModuleAnalyzer.for_module(name)
            private.analyze()
            for key, lines in private.attr_docs.items():
                public.attr_docs.setdefault(key, lines)
            for key, order in private.tagorder.items():
                public.tagorder.setdefault(key, order)


def hide_constructor(
    app: sphinx.application.Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """Show no arguments for what users don't construct."""
    return ("", "") if name in NOT_CONSTRUCTED else None


def setup(app: sphinx.application.Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", collect_field_docs)
    app.connect("autodoc-process-signature", hide_constructor)
