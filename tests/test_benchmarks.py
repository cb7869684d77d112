"""The frame of the benchmarks, the Frechet distance, and the arguments of the scripts."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import baselines  # noqa: E402
import bundled_weights  # noqa: E402
import common  # noqa: E402
import frechet  # noqa: E402
import step_cost  # noqa: E402

from randomwalk.errors import InputError  # noqa: E402


def test_a_report_leaves_its_table_results_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(quick=True, out=str(tmp_path / "out"), device="cpu", vp=Path("a.safetensors"))
    report = common.Report("made_up", options, "cpu", ["numpy", "no-such-package"])
    report.add("case", "method, with a comma", "psnr", 12.5, "dB")
    report.table("Title", ["method", "PSNR"], [["ours", "12.50"], ["theirs", "9.00"]], ["a note"])
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[-6:] == [
        "| method |  PSNR |",
        "|--------|------:|",
        "| ours   | 12.50 |",
        "| theirs |  9.00 |",
        "",
        "* a note",
    ]
    assert (tmp_path / "out" / "table.md").read_text() == capsys.readouterr().out
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {"case": "case", "method": "method, with a comma", "metric": "psnr", "value": "12.5", "unit": "dB"}
    assert rows == [expected]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["options"]["vp"] == "a.safetensors"
    assert settings["versions"]["numpy"] == np.__version__
    assert settings["versions"]["no-such-package"] == "not installed"


def test_a_verdict_compares_with_the_target() -> None:
    assert common.verdict(3.0, 3) == "+3.00 dB, target +3 dB: met"
    assert common.verdict(2.999, 3).endswith("MISSED")


def test_frechet_distance_of_two_normal_distributions() -> None:
    """In two dimensions tr((C_a C_b)^(1/2)) = sqrt(tr(C_a C_b) + 2 sqrt(det(C_a C_b)))."""
    draws = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 2, 2, generator=draws, dtype=torch.float64)
    a, b = (
        frechet.Moments(torch.randn(50, 2, generator=draws, dtype=torch.float64) @ m + shift)
        for m, shift in zip(maps, (0.0, 1.5), strict=True)
    )
    product = a.covariance @ b.covariance
    cross = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()) - 2 * cross
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_the_search_finds_the_best_setting_and_its_quality() -> None:
    truth = torch.zeros(3, 1, 4, 4)
    noisy = truth + 0.5
    tries = [{"shift": shift} for shift in (0.0, 0.4, 0.9)]
    for finalists in (0, 1):
        best = baselines.search(lambda image, shift: image - shift, noisy, truth, tries, finalists=finalists, first=2)
        assert best.settings == {"shift": 0.4}
        assert best.psnr == pytest.approx([10 * math.log10(4 / 0.1**2)] * 3, rel=1e-5)


def test_biharmonic_inpainting_keeps_what_is_observed() -> None:
    rows = torch.linspace(-0.8, 0.8, 12)[:, None].expand(12, 12)[None, None]
    mask = torch.ones(1, 1, 12, 12)
    mask[..., 4:7, 5] = 0
    filled = baselines.biharmonic(rows * mask, mask)
    assert torch.equal(filled[mask > 0], rows[mask > 0])
    torch.testing.assert_close(filled, rows.contiguous(), atol=1e-4, rtol=0)  # a plane solves the equation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "65"], "data/fashion_mnist has 64"),
        (["--batch-size", "0"], "expected 1 or more"),
        (["--fashion-mnist", "no/such/folder", "--parts", "unconditional"], "no/such/folder"),
        (["--parts", "denoising", "--vp", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_bad_arguments_are_told_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = bundled_weights.options().parse_args([*arguments, "--device", "cpu", "--out", str(out)])
    with pytest.raises(InputError, match=message):
        bundled_weights.main(chosen)
    assert not out.exists()


def test_step_cost_refuses_no_turns() -> None:
    with pytest.raises(InputError, match="--turns"):
        step_cost.main(step_cost.options().parse_args(["--turns", "0"]))


def test_the_interval_of_a_median_and_what_it_says() -> None:
    values = [1 + n / 1000 for n in range(25)]
    assert step_cost.interval(values) == (values[7], values[17])  # P(Bin(25, 1/2) <= 7) = 0.0216
    assert step_cost.interval(values[:5]) == (values[0], values[4])
    assert step_cost.judge([1.01, 1.02, 1.03]) == "met"
    assert step_cost.judge([1.04, 1.05]) == "MISSED"
    for ratios in ([1.01, 1.04], [0.97, 0.98]):
        assert step_cost.judge(ratios).startswith("inconclusive")


def test_the_second_pass_sees_what_the_first_one_does() -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor, condition: float) -> torch.Tensor:
            seen.append((x, condition))
            return 2 * x

    seen: list[tuple[torch.Tensor, float]] = []
    network, x = Double(), torch.ones(2)
    shadow = step_cost.Shadow(network, torch.device("cpu"))
    for condition in (0.25, 0.5):
        assert torch.equal(network(x, condition), 2 * x)
    assert [condition for _, condition in seen] == [0.25, 0.25, 0.5, 0.5]
    assert all(given is x for given, _ in seen)
    assert shadow.own.wall > 0 and shadow.bare.wall > 0
    shadow.remove()
    network(x, 1.0)
    assert len(seen) == 5
