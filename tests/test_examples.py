"""The executed examples of the site: each has a title, uses public names alone, and has its place in the navigation.

That they run is shown by the build of the site, which a cell that raises ends.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import randomwalk

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def by_name(path: Path) -> str:
    return path.stem


def test_there_are_six() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_an_example_has_a_title_and_a_place(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert re.match(r"# %% \[markdown\]\n# # [A-Z][\w ]+\n#\n# \w", text)
    assert f"      - examples/{example.stem}.md\n" in NAVIGATION
    assert "$$" in text and "plt.show()" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_an_example_is_short(example: Path) -> None:
    code = [line for line in example.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(code) < 100


@pytest.mark.parametrize("example", EXAMPLES, ids=by_name)
def test_an_example_uses_public_names_alone(example: Path) -> None:
    tree = ast.parse(example.read_text(encoding="utf-8"))
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    ]
    assert not private
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "randomwalk":
            assert node.attr in randomwalk.__all__
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("randomwalk"):
            assert node.module is not None
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) and not name.startswith("_")
                assert name in getattr(module, "__all__", [name])
