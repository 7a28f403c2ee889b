"""Arrows point down: who imports whom, read from the sources, delayed imports included."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"dask", "distributed", "zarr", "torch", "cupy"}
PURE = ("engine.reductions", "engine.rank", "engine.spectrum")
# What stands on what: none of a line is imported by those before it.
FLOORS = (
    ("engine.rank", "engine.reductions", "engine.spectrum", "engine.backends", "engine.rows", "engine.runners"),
    ("engine.starts", "engine.delta", "engine.fitting"),
    ("engine.job", "engine.zoo_fit", "engine.kept"),
    ("engine.analysis",),
    ("engine.report",),
    ("engine.cli",),
)


def modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("ingest/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class Imports(ast.NodeVisitor):
    """Absolute imports of a module, those for type checkers left out; `delayed` are inside functions."""

    def __init__(self, known: Collection[str]) -> None:
        self.known = known
        self.at_once: set[str] = set()
        self.delayed: set[str] = set()
        self.depth = 0

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_Import(self, node: ast.Import) -> None:
        self.add({alias.name for alias in node.names})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0 and node.module
        inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        self.add({whole if whole in self.known else node.module for whole in inside.values()})

    def add(self, names: set[str]) -> None:
        (self.delayed if self.depth else self.at_once).update(names)


def graph() -> dict[str, Imports]:
    out, known = {}, modules()
    for name, path in known.items():
        out[name] = Imports(known)
        out[name].visit(ast.parse(path.read_text(encoding="utf-8")))
    return out


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_ingest_never_imports_engine() -> None:
    for name, found in graph().items():
        if within(name, "ingest"):
            assert not [i for i in found.at_once | found.delayed if within(i, "engine")], name


def test_the_numbers_import_no_library_of_arrays_or_clusters() -> None:
    for name, found in graph().items():
        if any(within(name, package) for package in PURE):
            assert not [i for i in found.at_once | found.delayed if i.split(".")[0] in FORBIDDEN], name


def test_floors() -> None:
    for name, found in graph().items():
        floor = next((i for i, line in enumerate(FLOORS) if any(within(name, p) for p in line)), None)
        if floor is None:
            continue
        above = [p for line in FLOORS[floor + 1 :] for p in line]
        upwards = {i for i in found.at_once | found.delayed if any(within(i, p) for p in above)}
        assert not upwards, f"{name} imports {sorted(upwards)}"


def test_no_cycles() -> None:
    known = modules()
    edges = {n: {i for i in f.at_once if i in known and i != n} for n, f in graph().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())
