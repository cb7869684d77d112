"""Damaged and hostile files of every kind: taken, skipped or refused by one message, never a traceback; nothing runs.

A part of fuzz_files.py, with a fixed seed.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from file_damage import Material, Trial, nothing_drawn
from fuzz_files import GOOD, outcomes, run_case

SEED = 18
CASES = {"weights": 60, "images": 35, "masks": 20, "arrays": 25, "sets": 10}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Material]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that child processes can be forked
    with contextlib.redirect_stdout(io.StringIO()):
        yield Material(tmp_path_factory.mktemp("material"), runs=False)
    torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("kind", CASES)
def test_a_damaged_file_is_taken_skipped_or_refused_by_one_message(kind: str, material: Material) -> None:
    found = list(outcomes(material, SEED, range(CASES[kind]), [kind]))
    assert len(found) == CASES[kind]
    failures = [f"{one.result}: {one.number}: {one.what}" for one in found if one.result not in GOOD]
    assert not failures, "\n\n".join(failures)
    assert {one.result for one in found} >= {"accepted", "refused"} or kind == "arrays"


def test_the_judge_sees_what_must_not_happen(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, a message that names no file, and executed code."""
    import fuzz_files
    from file_damage import Kind

    from randomwalk.errors import InputError

    def outcome(run: object) -> str:
        def make(draws: np.random.Generator, made: Material, folder: Path) -> Trial:
            return Trial("nothing", ["a.png"], lambda: run(folder), folder / "canary")  # type: ignore[operator]

        monkeypatch.setitem(fuzz_files.KINDS, "trial", Kind(make))
        with nothing_drawn():
            return run_case(material, 0, 0, ["trial"]).result

    def refuses(text: str) -> object:
        def run(folder: Path) -> int:
            raise InputError(text)

        return run

    def touches(folder: Path) -> int:
        (folder / "canary").touch()
        raise InputError("a.png is refused")

    assert outcome(lambda folder: 0) == "accepted"
    assert outcome(refuses("a.png is damaged")) == "refused"
    assert outcome(refuses("damaged")) == "unnamed"
    assert outcome(refuses("a.png " + "x" * 10_000)) == "too long"
    assert outcome(lambda folder: {}["key"]) == "traceback"  # type: ignore[index]
    assert outcome(touches) == "executed"
