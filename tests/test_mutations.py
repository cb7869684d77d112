"""The table of edits for `mutate.py` fits the code."""

from __future__ import annotations

from pathlib import Path

from mutations import EDITS

ROOT = Path(__file__).resolve().parents[1]


def test_the_text_of_every_edit_occurs_once_in_its_file() -> None:
    wrong = [str(edit) for edit in EDITS if (ROOT / edit.file).read_text().count(edit.old) != 1]
    assert not wrong, "\n".join(wrong)


def test_there_are_at_least_150_different_edits() -> None:
    assert len({str(edit) for edit in EDITS}) == len(EDITS) >= 150
    assert all(edit.old != edit.new for edit in EDITS)
