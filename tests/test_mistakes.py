"""The page of likely mistakes has what the program says: every command of it is run again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import mistakes  # noqa: E402

PAGE = mistakes.PAGE.read_text(encoding="utf-8")
SECTIONS = dict(section.split("\n\n", 1) for section in PAGE.split("\n## ")[1:])


def test_the_page_has_every_mistake_and_no_other() -> None:
    assert list(SECTIONS) == [mistake.title for mistake in mistakes.MISTAKES]
    assert len(SECTIONS) >= 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mistakes").resolve()
    mistakes.prepare(made)
    return made


@pytest.mark.parametrize("mistake", mistakes.MISTAKES, ids=lambda mistake: mistake.title)
def test_the_answer_is_still_that_of_the_page(mistake: mistakes.Mistake, folder: Path) -> None:
    assert f"```bash\n{mistake.command}\n```" in SECTIONS[mistake.title]
    assert f"```text\n{mistakes.said(mistake, folder)}\n```" in SECTIONS[mistake.title]
