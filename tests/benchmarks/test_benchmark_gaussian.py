"""The benchmark of posterior samplers on a Gaussian prior: the prior, the exact posteriors, and the errors."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import posterior_gaussian
import pytest
import torch
import yaml
from support import engine, gaussian_problem

from randomwalk.config.samplers import POSTERIOR_NAMES
from randomwalk.errors import InputError


def _gaussian_problem(name: str, measurements: int = 2) -> gaussian_problem.GaussianProblem:
    return gaussian_problem.make_problem(gaussian_problem.GaussianPrior.load(), name, 0.1, measurements, seed=5)


def test_the_gaussian_prior_has_the_moments_of_images() -> None:
    images = torch.randn(40, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    blocks = images[:, 0, 4:28, 4:28].double().numpy().reshape(40, 8, 3, 8, 3).mean((2, 4)).reshape(40, 64)
    mean, covariance = gaussian_problem.moments(images)
    np.testing.assert_allclose(mean.numpy().reshape(64), blocks.mean(0), atol=1e-7)
    np.testing.assert_allclose(covariance.numpy(), np.cov(blocks.T, bias=True), atol=1e-7)
    bundled = gaussian_problem.GaussianPrior.load()
    assert float(bundled.exact.eigenvalues.min()) > 1e-3
    assert (bundled.mean.abs() < 1).all()


def test_the_fast_gaussian_denoiser_is_the_mixture_of_one() -> None:
    prior, x = gaussian_problem.GaussianPrior.load(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        prior(x, 0.3)  # what it keeps must not come in the way of gradients
    for sigma in (1e-2, 0.3, 40.0):
        (ours, product), (exact, expected) = (d.linearized(x, sigma) for d in (prior, prior.exact))
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(product(x), expected(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", gaussian_problem.OPERATORS)
def test_the_gaussian_posterior_solves_the_normal_equations(name: str) -> None:
    """Its precision is ``S^-1 + A^T A / eta^2``, and at its mean the gradient of the log density vanishes."""
    problem = _gaussian_problem(name)
    assert problem.rank == {"gaussian_blur": 64, "inpainting": 32, "fourier_subsampling": 56}.get(name, 16)
    S, m = problem.prior.exact.covariances()[0], problem.prior.mean.flatten()
    A = problem.operator(torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)).reshape(64, -1).T
    precision = torch.linalg.inv(S) + A.T @ A / problem.noise.std**2
    torch.testing.assert_close(problem.covariance @ precision, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-7)
    right = torch.linalg.solve(S, m) + problem.y.flatten(1) @ A / problem.noise.std**2
    torch.testing.assert_close(problem.means @ precision, right, rtol=1e-7, atol=1e-7)


def test_the_judge_finds_the_errors_of_a_wrong_posterior() -> None:
    """Samples off by 0.3 standard deviations, or 1.2 times too wide; 2 x 4,999 of them leave errors of a percent."""
    problem = _gaussian_problem("super_resolution")
    exact = problem.exact(4999, seed=1)
    wide = problem.means[:, None] + 1.2 * (exact - problem.means[:, None])
    for x, mean, std, spread, reach in (
        (exact, 0.0, 0.0, 1.0, (1.645, 1.645)),
        (exact + 0.3 * problem.std, 0.3, 0.0, 1.0, (1.345, 1.945)),
        (wide, 0.0, 0.2, 1.2, (1.974, 1.974)),
    ):
        found = gaussian_problem.judge(problem, x)
        assert gaussian_problem.corrected(found, "mean") == pytest.approx(mean, abs=0.015)
        assert gaussian_problem.corrected(found, "std") == pytest.approx(std, abs=0.015)
        assert found["spread"] == pytest.approx(spread, abs=0.015)
        covered = sum(math.erf(r / math.sqrt(2)) for r in reach) / 2
        assert found["coverage"] == pytest.approx(covered, abs=0.005)


def test_the_judge_subtracts_what_few_samples_have_by_chance() -> None:
    problem = _gaussian_problem("inpainting", measurements=1)
    found = [gaussian_problem.judge(problem, problem.exact(19, seed)) for seed in range(200)]
    for moment in ("mean", "std"):
        squares = [f[f"{moment}_sq"] / f[f"{moment}_floor_sq"] for f in found]
        assert np.mean(squares) == pytest.approx(1, abs=0.05)
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(0.9, abs=0.01)


def test_every_row_of_the_gaussian_benchmark_has_settings_that_are_understood() -> None:
    settings = yaml.safe_load(posterior_gaussian.SETTINGS.read_text("utf-8"))
    for budget in posterior_gaussian.BUDGETS:
        assert set(settings[budget]) == set(posterior_gaussian.CANDIDATES)
        for row, candidates in posterior_gaussian.CANDIDATES.items():
            assert settings[budget][row] in candidates
            engine.make_sampler(row, posterior_gaussian.with_levels(settings[budget][row], 30, rank=16))
    assert {row.split(",")[0] for row in posterior_gaussian.CANDIDATES} == set(POSTERIOR_NAMES) - {"posterior_mean"}


def test_the_gaussian_benchmark_from_end_to_end(tmp_path: Path) -> None:
    arguments = ["--quick", "--samplers", "mmps", "tweedie_smc", "--operators", "gaussian_blur", "--num-samples", "19"]
    chosen = posterior_gaussian.options().parse_args([*arguments, "--out", str(tmp_path)])
    assert posterior_gaussian.main(chosen) == 0
    with (tmp_path / "results.csv").open(newline="") as file:
        found = {(r["case"], r["method"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}
    assert found["gaussian_blur, noise 0.1, few", "mmps", "evaluations"] == 15
    assert found["gaussian_blur, noise 0.1, few", "mmps", "vjps"] > 15
    assert not any(method == "tweedie_smc" for _, method, _ in found)  # 64 numbers in y are left out
    assert "| mmps " in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samplers", "dpss"], "dpss"),
        (["--num-samples", "9"], "expected 19"),
        (["--write-prior", "no/such"], "no/such"),
    ],
)
def test_the_gaussian_benchmark_refuses_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        posterior_gaussian.main(posterior_gaussian.options().parse_args(arguments))
