"""The course: pages begin with their symbols and end with exercises, whose answers print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from randomwalk.config.files import load_sampling, load_training

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "course").glob("[1-9]-*.md"))
WITH_EQUATIONS = [
    *(ROOT / "docs" / "course").glob("*.md"),
    *(ROOT / "docs" / f"{name}.md" for name in ("extending", "likelihood", "posterior", "score_embedding", "training")),
]
LOST = re.compile(r"\\operatorname|\\[,;:!{}%\\|]|(?<![A-Za-z0-9'])_|^ *[-+*>#] ", flags=re.MULTILINE)
"""TeX that GitHub changes before it is typeset: macros that it forbids; escapes, emphasis and lists of Markdown."""


def by_name(path: Path) -> str:
    return path.stem


def equations(text: str) -> Iterator[str]:
    """Displayed and inline equations of a page, without those in code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from re.findall(r"^ *\$\$\n(.*?)\n *\$\$$", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *\$\$\n.*?\n *\$\$$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "", text)
    assert text.count("$") % 2 == 0, "an equation is not closed"
    yield from re.findall(r"\$([^$]*)\$", text)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_defines_its_symbols_and_ends_with_exercises(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert titles[0] == "Symbols" and titles[-2:] == ["Exercises", "Answers"]
    exercises, answers = text.split("\n## Exercises\n")[1].split("\n## Answers\n")
    kinds = re.findall(r"^\d\. \*\*(\w+)", exercises, flags=re.MULTILINE)
    assert kinds == ["Derive", "Compute", "Try"]
    assert re.findall(r"^\*\*(\d)\.\*\*", answers, flags=re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_snippets_print_what_the_page_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, flags=re.DOTALL)
    assert snippets and len(snippets) == text.count("```python\n")
    for code, says in snippets:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})  # the page's own code
        assert printed.getvalue() == says


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_commands_are_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files exist, and the settings of trainings and samplings are accepted."""
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    commands = [part for line in blocks.splitlines() for part in line.split("  #")[0].split("&&") if part.strip()]
    assert commands
    for command in commands:
        python, script, *rest = shlex.split(command)
        assert python == "python" and Path(script).is_file(), command
        if script in ("train.py", "sample.py"):
            file, changes = Path(rest[1]), rest[rest.index("--set") + 1 :] if "--set" in rest else []
            assert file.is_file(), command
            (load_training if script == "train.py" else load_sampling)(file, changes)


@pytest.mark.parametrize("page", WITH_EQUATIONS, ids=by_name)
def test_equations_survive_markdown(page: Path) -> None:
    lost = [equation for equation in equations(page.read_text(encoding="utf-8")) if LOST.search(equation)]
    assert not lost, "\n".join(lost)
