"""Mutated configurations are accepted, or refused by one message that names the file and the key: see tests/fuzz.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fuzz
from hypothesis import given, seed, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fuzz.warm_up()
    return tmp_path_factory.mktemp("fuzz")


def test_mutated_configs_are_accepted_or_refused_by_one_message(folder: Path) -> None:
    @seed(18)
    @settings(max_examples=300, **fuzz.UNHURRIED)
    @given(fuzz.cases())
    def attempt(case: fuzz.Case) -> None:
        outcome, what = fuzz.run_case(case, folder)
        assert outcome in fuzz.GOOD, f"{outcome}: {what}"

    attempt()


@pytest.mark.parametrize("number", range(len(fuzz.BOMBS)))
def test_texts_that_stand_for_too_much(number: int, folder: Path) -> None:
    program, file = fuzz.sources()[-1]
    content = file.read_text(encoding="utf-8") + fuzz.BOMBS[number]
    outcome, message = fuzz.run_case(fuzz.Case(program, content.encode()), folder)
    assert outcome == "refused", message


def test_every_config_is_accepted_as_it_is(folder: Path) -> None:
    """The engine would also count as refused what it does not understand itself."""
    for program, file in fuzz.sources():
        load = fuzz.load_sampling if program == "sample" else fuzz.load_training
        assert load(file).model_dump(), file


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: 1 / 0, "traceback"),
        (lambda: Path("made").mkdir(), "forbidden"),
        (lambda: Path("made").write_text("x"), "forbidden"),
        (lambda: __import__("os").system("true"), "forbidden"),
        (lambda: [None for _ in iter(int, 1)], "hang"),
        (lambda: None, "accepted"),
    ],
    ids=["traceback", "folder", "file", "program", "hang", "accepted"],
)
def test_the_engine_sees(work: object, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    outcome, what = fuzz.outcome_of(work, fuzz.unclear)  # type: ignore[arg-type]
    assert outcome == expected
    assert "test_fuzz.py" in what or expected != "traceback"
    assert not list(tmp_path.iterdir())


def test_the_engine_sees_a_message_that_names_nothing() -> None:
    case = fuzz.Case("sample", b"", (), ("sampler.step_scale",))
    assert fuzz.unnamed("a.yaml: sampler.step_scale: found 3", case, "a.yaml") is None
    assert fuzz.unnamed("sampler.step_scale: found 3", case, "a.yaml") == "no file"
    assert fuzz.unnamed("a.yaml: found 3", case, "a.yaml") == "no key"
    assert fuzz.unclear("a.yaml: \x1b[31m: unknown key") == "control characters"
