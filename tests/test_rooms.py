"""Rooms of the library: imports run down, without circles, and none is hidden."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"errors", "rng", "lookup", "distributed", "progress"},
    {"config"},
    {"runs"},
    {"images"},
    {"operators"},
    {"denoisers"},
    {"samplers"},
    {"training", "sampling"},
    {"studies"},
    {"cli"},
    {"__main__"},
]
"""From the ground up; a room imports only itself and rooms of the floors below."""
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "randomwalk").rglob("*.py"))
}
DEFERRING = ("cli", "randomwalk")
"""Rooms that may import inside a function to defer PyTorch, and the package itself, whose names are lazy."""


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def floor_of(module: str) -> int:
    return next(k for k, rooms in enumerate(FLOORS) if room_of(module) in rooms)


def imports_of(tree: ast.Module) -> list[tuple[str, ast.stmt]]:
    """Modules of the library imported anywhere in a file, with the statements."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "randomwalk":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole if whole in MODULES else node.module, node))
        elif isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names if alias.name.split(".")[0] == "randomwalk"]
    return found


def test_few_modules_lie_on_the_ground() -> None:
    loose = [file.stem for file in (ROOT / "randomwalk").glob("*.py")]
    assert len(loose) <= 8, loose
    assert {room_of(module) for module in MODULES} - {"randomwalk"} == set().union(*FLOORS)


@pytest.mark.parametrize("module", [m for m in MODULES if m != "randomwalk"])
def test_no_import_runs_up_or_aside(module: str) -> None:
    for imported, node in imports_of(ast.parse(MODULES[module].read_text())):
        if imported == "randomwalk":  # the version
            continue
        below = floor_of(imported) < floor_of(module)
        same_room = room_of(imported) == room_of(module) or floor_of(module) == 0 == floor_of(imported)
        assert below or same_room, f"{module}:{node.lineno} imports {imported}"


def test_no_circle() -> None:
    graph = {m: {i for i, _ in imports_of(ast.parse(f.read_text())) if i != m} for m, f in MODULES.items()}
    graph["randomwalk"] = set()
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for imported in graph.get(module, ()):
            walk(imported, (*path, module))
        done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_no_import_is_hidden(module: str) -> None:
    """Imports are at the top of the file, and inside functions only to defer PyTorch."""
    tree = ast.parse(MODULES[module].read_text())
    hidden = [node.lineno for name, node in imports_of(tree) if node not in tree.body]
    assert not hidden or room_of(module) in DEFERRING, f"{module}: lines {hidden}"


@pytest.mark.parametrize("package", ["guided_diffusion", "score_sde"])
def test_network_packages_import_nothing_of_the_library(package: str) -> None:
    for file in (ROOT / package).glob("*.py"):
        assert not imports_of(ast.parse(file.read_text())), file
