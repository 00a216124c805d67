"""The tree against a model that is too simple to be wrong: one dict from paths to (type, version, content).

The model copies itself for every operation, looks at whole paths as text, and shares no code with the tree. Hypothesis
makes up histories and compares each outcome, each tree, and at the end all trees that there were.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from haret.vertree import (
    AlreadyExists,
    BlobGet,
    BlobPut,
    BlobSize,
    CannotDeleteRoot,
    CasFailed,
    Create,
    Delete,
    DoesNotExist,
    Guard,
    Keys,
    ListKeys,
    MultiCas,
    MultiResult,
    PathMustEndInDirectory,
    QueueBack,
    QueueFront,
    QueueLen,
    QueuePop,
    QueuePush,
    Result,
    SetContains,
    SetDifference,
    SetInsert,
    SetIntersection,
    SetRemove,
    SetResult,
    SetSubset,
    SetSuperset,
    SetSymmetricDifference,
    SetUnion,
    Tree,
    WrongType,
    check,
    is_error,
)


@dataclass
class Entry:
    """A node of the model."""

    type: str
    version: int
    content: Any


class Failure(Exception):
    """Carries the error that an operation must answer."""

    def __init__(self, error: Any) -> None:
        self.error = error


def above(path: str) -> list[str]:
    """All paths above a path, the root first."""
    return ["/", *(path[:i] for i in range(1, len(path)) if path[i] == "/")] if path != "/" else []


@dataclass
class Model:
    """All nodes by path."""

    nodes: dict[str, Entry] = field(default_factory=lambda: {"/": Entry("directory", 0, None)})

    def apply(self, operation: Any, revision: int) -> tuple[Model, Any]:
        """As `Tree.apply`."""
        new = copy.deepcopy(self)
        try:
            return new, getattr(new, type(operation).__name__)(operation, revision)
        except Failure as failure:
            return self, failure.error

    def get(self, path: str, type_: str | None = None) -> Entry:
        for parent in above(path):
            if parent in self.nodes and self.nodes[parent].type != "directory":
                raise Failure(PathMustEndInDirectory(parent))
        if path not in self.nodes:
            raise Failure(DoesNotExist(path))
        node = self.nodes[path]
        if type_ is not None and node.type != type_:
            raise Failure(WrongType(path, type_, node.type))
        return node

    def touch(self, path: str, revision: int) -> None:
        for touched in [*above(path), path]:
            self.nodes.setdefault(touched, Entry("directory", revision, None)).version = revision

    def Create(self, operation: Create, revision: int) -> Result:
        try:
            self.get(operation.path)
        except Failure as failure:
            if not isinstance(failure.error, DoesNotExist):
                raise
        else:
            raise Failure(AlreadyExists(operation.path))
        content: Any = {"blob": b"", "queue": [], "set": set(), "directory": None}[operation.type]
        self.nodes[operation.path] = Entry(operation.type, revision, content)
        self.touch(operation.path, revision)
        return Result(None, revision)

    def Delete(self, operation: Delete, revision: int) -> Result:
        if operation.path == "/":
            raise Failure(CannotDeleteRoot())
        self.get(operation.path)
        for path in list(self.nodes):
            if path == operation.path or path.startswith(operation.path + "/"):
                del self.nodes[path]
        self.touch(above(operation.path)[-1], revision)
        return Result(None, revision)

    def BlobPut(self, operation: BlobPut, revision: int) -> Result:
        self.get(operation.path, "blob").content = operation.value
        self.touch(operation.path, revision)
        return Result(None, revision)

    def BlobGet(self, operation: BlobGet, _: int) -> Result:
        node = self.get(operation.path, "blob")
        return Result(node.content, node.version)

    def BlobSize(self, operation: BlobSize, _: int) -> Result:
        node = self.get(operation.path, "blob")
        return Result(len(node.content), node.version)

    def QueuePush(self, operation: QueuePush, revision: int) -> Result:
        self.get(operation.path, "queue").content.append(operation.value)
        self.touch(operation.path, revision)
        return Result(None, revision)

    def QueuePop(self, operation: QueuePop, revision: int) -> Result:
        node = self.get(operation.path, "queue")
        if not node.content:
            return Result(None, node.version)
        self.touch(operation.path, revision)
        return Result(node.content.pop(0), revision)

    def QueueFront(self, operation: QueueFront, _: int) -> Result:
        node = self.get(operation.path, "queue")
        return Result(node.content[0] if node.content else None, node.version)

    def QueueBack(self, operation: QueueBack, _: int) -> Result:
        node = self.get(operation.path, "queue")
        return Result(node.content[-1] if node.content else None, node.version)

    def QueueLen(self, operation: QueueLen, _: int) -> Result:
        node = self.get(operation.path, "queue")
        return Result(len(node.content), node.version)

    def SetInsert(self, operation: SetInsert, revision: int) -> Result:
        node = self.get(operation.path, "set")
        if operation.value in node.content:
            return Result(False, node.version)
        node.content.add(operation.value)
        self.touch(operation.path, revision)
        return Result(True, revision)

    def SetRemove(self, operation: SetRemove, revision: int) -> Result:
        node = self.get(operation.path, "set")
        if operation.value not in node.content:
            return Result(False, node.version)
        node.content.remove(operation.value)
        self.touch(operation.path, revision)
        return Result(True, revision)

    def SetContains(self, operation: SetContains, _: int) -> Result:
        node = self.get(operation.path, "set")
        return Result(operation.value in node.content, node.version)

    def sets(self, operands: tuple[Any, ...]) -> tuple[list[set[bytes]], int]:
        found = [Entry("set", 0, set(x)) if isinstance(x, frozenset) else self.get(x, "set") for x in operands]
        return [entry.content for entry in found], max([0, *(entry.version for entry in found)])

    def SetUnion(self, operation: SetUnion, _: int) -> SetResult:
        sets, version = self.sets(operation.paths + operation.literals)
        return SetResult(frozenset(element for elements in sets for element in elements), version)

    def SetIntersection(self, operation: SetIntersection, _: int) -> SetResult:
        (left, right), version = self.sets((operation.left, operation.right))
        return SetResult(frozenset(element for element in left if element in right), version)

    def SetDifference(self, operation: SetDifference, _: int) -> SetResult:
        (left, right), version = self.sets((operation.left, operation.right))
        return SetResult(frozenset(element for element in left if element not in right), version)

    def SetSymmetricDifference(self, operation: SetSymmetricDifference, _: int) -> SetResult:
        (left, right), version = self.sets((operation.left, operation.right))
        return SetResult(frozenset(e for e in [*left, *right] if (e in left) + (e in right) == 1), version)

    def SetSubset(self, operation: SetSubset, _: int) -> Result:
        (left, right), version = self.sets((operation.left, operation.right))
        return Result(all(element in right for element in left), version)

    def SetSuperset(self, operation: SetSuperset, _: int) -> Result:
        (left, right), version = self.sets((operation.left, operation.right))
        return Result(all(element in left for element in right), version)

    def ListKeys(self, operation: ListKeys, _: int) -> Keys:
        node = self.get(operation.path)
        start = operation.path.rstrip("/") + "/"
        found = [path for path in self.nodes if path == operation.path or path.startswith(start)]
        if not operation.recursive:
            found = [path for path in found if "/" not in path[len(start) :]]
        # A slash sorts before all that may stand in a component once it is replaced by what may not.
        found.sort(key=lambda path: path.rstrip("/").replace("/", "\0"))
        if operation.after is not None:
            seen = operation.after.rstrip("/").replace("/", "\0")
            found = [path for path in found if path.rstrip("/").replace("/", "\0") > seen]
        page = tuple((path, self.nodes[path].version, self.nodes[path].type) for path in found[: operation.limit])
        return Keys(page, node.version, len(found) > operation.limit)

    def MultiCas(self, operation: MultiCas, revision: int) -> MultiResult:
        if any(write == Delete("/") for write in operation.operations):
            raise Failure(CannotDeleteRoot())
        for guard in operation.guards:
            try:
                actual = self.get(guard.path).version
            except Failure:
                actual = 0
            if actual != guard.version:
                raise Failure(CasFailed(guard.path, guard.version, actual))
        results = [getattr(self, type(write).__name__)(write, revision) for write in operation.operations]
        return MultiResult(tuple(results), self.nodes["/"].version)


# Few and short names, some the beginnings of others, so that histories meet the same nodes again and again.
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "a-"]), max_size=3).map(lambda names: "/" + "/".join(names))
VALUES = st.sampled_from([b"", b"0", b"1", b"2"])
LITERALS = st.frozensets(VALUES)
OPERANDS = PATHS | LITERALS

WRITES = st.one_of(
    st.builds(Create, PATHS, st.sampled_from(["blob", "queue", "set", "directory"])),
    st.builds(Delete, PATHS),
    *(st.builds(write, PATHS, VALUES) for write in (BlobPut, QueuePush, SetInsert, SetRemove)),
    st.builds(QueuePop, PATHS),
)
READS = st.one_of(
    *(st.builds(read, PATHS) for read in (BlobGet, BlobSize, QueueFront, QueueBack, QueueLen)),
    st.builds(SetContains, PATHS, VALUES),
    st.builds(SetUnion, st.lists(PATHS, max_size=3).map(tuple), st.lists(LITERALS, max_size=2).map(tuple)),
    *(
        st.builds(read, OPERANDS, OPERANDS)
        for read in (SetIntersection, SetDifference, SetSymmetricDifference, SetSubset, SetSuperset)
    ),
    st.builds(ListKeys, PATHS, st.none(), st.integers(1, 5), st.booleans()),
    st.builds(ListKeys, st.just("/"), PATHS, st.integers(1, 5), st.booleans()),
)


class TreeMachine(RuleBasedStateMachine):
    """Does the same to a tree, to an editor, and to a model."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree.empty()
        self.editor = self.tree.edit()
        self.model = Model()
        self.revision = 0
        self.history: list[tuple[Tree, bytes, Model]] = []

    def step(self, operation: Any) -> Any:
        before = self.tree
        self.history.append((before, b"".join(before.chunks()), self.model))
        self.revision += 1
        self.tree, outcome = before.apply(operation, self.revision)
        self.model, expected = self.model.apply(operation, self.revision)
        assert outcome == expected
        assert type(getattr(outcome, "value", None)) is type(getattr(expected, "value", None))
        assert check(operation) is not None or self.editor.apply(operation, self.revision) == outcome
        changed = self.tree is not before
        assert changed == (self.tree.version == self.revision)
        assert not (changed and is_error(outcome))
        return outcome

    @initialize()
    def plant(self) -> None:
        """Something of every type, so that not all histories are about missing nodes."""
        for path, type_ in (("/a/b", "blob"), ("/a/a", "queue"), ("/ab", "set"), ("/b/a", "set")):
            self.step(Create(path, type_))

    @rule(operation=WRITES)
    def write(self, operation: Any) -> None:
        self.step(operation)

    @rule(operation=READS)
    def read(self, operation: Any) -> None:
        before = self.tree
        outcome = self.step(operation)
        assert self.tree is before
        assert check(operation) is not None or self.editor.read(operation) == outcome

    @rule(data=st.data(), operations=st.lists(WRITES, max_size=5))
    def multi_cas(self, data: st.DataObject, operations: list[Any]) -> None:
        versions = {path: entry.version for path, entry in self.model.nodes.items()}
        paths = data.draw(st.lists(PATHS, max_size=3, unique=True))
        off = data.draw(st.sampled_from([0, 0, 0, 1]))
        guards = tuple(Guard(path, versions.get(path, 0) + off) for path in paths)
        before = self.tree
        outcome = self.step(MultiCas(guards, tuple(operations)))
        one_by_one, results = before, []
        for operation in operations:
            one_by_one, result = one_by_one.apply(operation, self.revision)
            results.append(result)
        if isinstance(outcome, MultiResult):
            assert outcome.value == tuple(results)
            assert self.tree.digest == one_by_one.digest
        elif not isinstance(outcome, CasFailed):
            assert outcome in results

    @rule()
    def restore(self) -> None:
        restored = Tree.restore(self.tree.chunks())
        assert restored.digest == self.tree.digest
        self.tree = restored

    @rule()
    def look_at_what_is_edited(self) -> None:
        seen = self.editor.tree()
        assert seen.digest == self.tree.digest
        self.history.append((seen, b"".join(seen.chunks()), self.model))

    @invariant()
    def tree_is_model(self) -> None:
        self.compare(self.tree, self.model)

    @invariant()
    def a_directory_is_as_new_as_what_is_below(self) -> None:
        nodes = dict(self.tree.nodes())
        for path, node in nodes.items():
            assert all(nodes[parent].version >= node.version for parent in above(path))

    @staticmethod
    def compare(tree: Tree, model: Model) -> None:
        found = {}
        for path, node in tree.nodes():
            content: Any = getattr(node, "value", None)
            if node.type == "queue":
                content = [value for _, value in node.elements.items()]  # type: ignore[attr-defined]
            elif node.type == "set":
                content = {key for key, _ in node.elements.items()}  # type: ignore[attr-defined]
            found[path] = Entry(node.type, node.version, content)
        assert found == model.nodes

    def teardown(self) -> None:
        self.compare(self.editor.tree(), self.model)
        for tree, data, model in self.history:
            self.compare(tree, model)
            assert b"".join(tree.chunks()) == data


TestTree = TreeMachine.TestCase
TestTree.settings = settings(stateful_step_count=40)
