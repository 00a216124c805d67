"""The eight traps of earlier versioned trees: what went wrong there, and does not here."""

from __future__ import annotations

import os
import subprocess
import sys

from haret.vertree import (
    BlobPut,
    CasFailed,
    Create,
    Delete,
    DoesNotExist,
    Guard,
    InvalidCas,
    InvalidPath,
    ListKeys,
    MultiCas,
    MultiResult,
    Operation,
    PathMustEndInDirectory,
    Tree,
    check,
)


def tree_of(*operations: Operation) -> Tree:
    tree = Tree.empty()
    for revision, operation in enumerate(operations, 1):
        tree, _ = tree.apply(operation, revision)
    return tree


def test_trap_1_a_guard_does_not_hold_for_a_node_that_was_deleted_and_created_anew() -> None:
    operations: list[Operation] = [Create("/a/b", "blob"), Delete("/a/b"), Create("/a/b", "blob")]
    seen = tree_of(*operations[:1]).find("/a/b")
    tree = tree_of(*operations)
    cas = MultiCas((Guard("/a/b", seen.version),), (BlobPut("/a/b", b"x"),))  # type: ignore[union-attr]
    assert tree.apply(cas, 4) == (tree, CasFailed("/a/b", 1, 3))
    # The same for the directory, deleted together with what was in it, and within one change.
    again = MultiCas((), (Delete("/a"), Create("/a/b", "blob")))
    tree, _ = tree.apply(again, 4)
    for path in ("/a", "/a/b"):
        assert tree.apply(MultiCas((Guard(path, 3),), ()), 5)[1] == CasFailed(path, 3, 4)


def test_trap_2_a_guard_on_the_root_works() -> None:
    tree = tree_of(Create("/a/b", "blob"))
    assert tree.apply(MultiCas((Guard("/", 1),), ()), 2)[1] == MultiResult((), 1)
    tree, _ = tree.apply(BlobPut("/a/b", b"x"), 2)
    assert tree.apply(MultiCas((Guard("/", 1),), ()), 3)[1] == CasFailed("/", 1, 2)


def test_trap_3_paths_are_compared_by_component_not_by_prefix() -> None:
    tree = tree_of(Create("/a/b/x", "blob"), Create("/a/bc/d", "blob"), BlobPut("/a/b/x", b"y"))
    assert tree.apply(MultiCas((Guard("/a/b", 3), Guard("/a/bc/d", 2), Guard("/a/bc", 2)), ()), 4)[1] == MultiResult(
        (), 3
    )
    keys = tree.apply(ListKeys("/a/b"), 4)[1].value  # type: ignore[union-attr]
    assert [path for path, _, _ in keys] == ["/a/b", "/a/b/x"]  # type: ignore[union-attr, misc]
    assert isinstance(check(ListKeys("/a/b", after="/a/bc/d")), InvalidPath)


def test_trap_4_two_versions_for_one_path_are_refused() -> None:
    cas = MultiCas((Guard("/a", 1), Guard("/b", 1), Guard("/a", 2)), ())
    assert check(cas) == InvalidCas("two guards want different versions of /a; give one guard for each path")


def test_trap_5_a_path_has_one_spelling_and_the_root_can_be_found() -> None:
    tree = tree_of(Create("/a/b", "blob"))
    for path in ("/a//b", "//a/b", "/a/b/", "a/b", "/a/./b", "/a/../a/b"):
        assert isinstance(tree.apply(Create(path, "blob"), 2)[1], InvalidPath)
        assert isinstance(tree.find(path), InvalidPath)
    assert tree.find("/").version == 1  # type: ignore[union-attr]


def test_trap_6_the_error_names_the_path_that_was_asked_for() -> None:
    tree = tree_of(Create("/a/b", "directory"))
    assert tree.apply(BlobPut("/a/b/c/d", b""), 2)[1] == DoesNotExist("/a/b/c/d")
    assert tree.apply(Delete("/a/x"), 2)[1] == DoesNotExist("/a/x")
    assert tree_of(Create("/a", "blob")).apply(Delete("/a/b/c"), 2)[1] == PathMustEndInDirectory("/a")


_MAKE_A_TREE = """
from haret.vertree import *
tree, operations = Tree.empty(), [Create("/s", "set")]
operations += [SetInsert("/s", b"%d" % number) for number in range(500)]
operations += [Create(f"/d/{number}", "queue") for number in range(100)]
for revision, operation in enumerate(operations, 1):
    tree, _ = tree.apply(operation, revision)
print(tree.digest.hex(), b"".join(tree.chunks()).hex())
"""


def test_trap_7_nothing_depends_on_the_order_of_hashes() -> None:
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", _MAKE_A_TREE]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_trap_8_the_tree_does_no_io_and_a_listing_begins_at_its_path() -> None:
    # That no operation reads or writes files is a matter of imports, which the lint session checks; here is the other
    # half of the trap.
    tree = tree_of(Create("/a/b", "blob"), Create("/c/d", "blob"))
    keys = tree.apply(ListKeys("/c"), 3)[1].value  # type: ignore[union-attr]
    assert [path for path, _, _ in keys] == ["/c", "/c/d"]  # type: ignore[union-attr, misc]
