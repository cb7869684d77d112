"""The benchmark of the Fokker-Planck solvers: its tables on tiny sizes, what it measures, and what it refuses."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import fokker_planck
import pytest
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.studies.score_embedding.solution import Solution


def test_every_solver_is_timed_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fokker_planck, "QUICK_BUDGET", 0.0)
    options = ["--quick", "--sizes", "12", "16", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert fokker_planck.main(fokker_planck.options().parse_args(options)) == 0
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        found = {(row["case"], row["method"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    for size in ("12 pixels", "16 pixels"):
        for name in (*fokker_planck.EXACT, *fokker_planck.DIFFERENCES, fokker_planck.LEGACY):
            assert found[size, name, "seconds"] > 0
        # Sums of 16 numbers in a few products, next to a density of at least 0.5 of the largest.
        assert all(found[size, name, "error_of_cosine"] < 1e-13 for name in fokker_planck.EXACT)
        spread = found[size, "spread", "error"]
        errors = [found[size, name, "error"] for name in fokker_planck.DIFFERENCES]
        assert errors == pytest.approx([errors[0]] * len(errors), rel=1e-3)  # tolerance 1e-6
        assert errors[0] < 0.15 * spread < 0.5 * found[size, fokker_planck.LEGACY, "error"]
        assert found[size, fokker_planck.LEGACY, "iterations"] > 3
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("target at least 500") == 6 and text.count("target at most 2") == 3


def test_a_slow_call_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def solver(m0: Tensor) -> Solution:
        calls.append(m0)
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return Solution(m0, m0, m0)

    m0 = torch.zeros(1)
    seconds, solution = fokker_planck.timed(solver, m0, 0.05)
    num = len(calls)  # one to warm up, and until 0.05 seconds are over
    assert 3 <= num <= 4 and 0.02 <= seconds < 0.03 and solution.times is m0
    monkeypatch.setattr(fokker_planck, "REPEATED", 0.01)
    fokker_planck.timed(solver, m0, 0.05)
    assert len(calls) == num + 1


def test_the_error_is_without_the_mean() -> None:
    m = torch.randn(3, 1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = m + torch.tensor([9.0, 2.0, 3.0]).reshape(3, 1, 1, 1, 1)
    moved[1:, ..., 0, 0] += 1.0
    apart = fokker_planck.difference(Solution(m, moved, m), Solution(m, m, m))
    assert apart == pytest.approx((1 / 25 - 1 / 625) ** 0.5)


def test_verdicts_say_what_is_met() -> None:
    assert fokker_planck.judged(499.0, 500, True) == "target at least 500: MISSED"
    assert fokker_planck.judged(1.9, 2.0, False) == "target at most 2: met"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sizes", "1"], "--sizes 1"), (["--index", "9"], "--index 9"), (["--images", "no/such"], "no/such")],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fokker_planck.main(fokker_planck.options().parse_args([*arguments, "--out", str(tmp_path)]))
