"""Docstrings of the library: every public name has one, and it begins with a verb or a noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    str(file.relative_to(ROOT))
    for package in ("randomwalk", "guided_diffusion", "score_sde")
    for file in (ROOT / package).rglob("*.py")
)
FIRST_WORDS = {"As", "Of", "So", "That", "Those", "What", "Whose"}
"""First words that leave the reader to guess the subject."""


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and texts of all docstrings, including those of constants and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value.strip()


@pytest.mark.parametrize("file", FILES)
def test_docstrings_begin_with_a_verb_or_a_noun(file: str) -> None:
    found = docstrings(ast.parse((ROOT / file).read_text()))
    wrong = [f"{file}:{line}: {text.splitlines()[0]}" for line, text in found if text.split()[0] in FIRST_WORDS]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", FILES)
def test_public_functions_and_classes_have_docstrings(file: str) -> None:
    missing = [
        f"{file}:{node.lineno}: {node.name}"
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not missing, "\n".join(missing)
