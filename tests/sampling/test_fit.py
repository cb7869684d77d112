"""The test whether y fits, on a Gaussian prior whose posterior and evidence are known, and in runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling_tools import make_config, read_metrics
from scipy import stats

from randomwalk import samplers
from randomwalk.sampling import fit
from randomwalk.sampling import run as sampling

PIXELS, ENTRIES, ETA = 24, 16, 0.3
DISTANCE = np.abs(np.subtract.outer(np.arange(PIXELS), np.arange(PIXELS)))
PRIOR = np.exp(-((DISTANCE / 6) ** 2) / 2) + 1e-4 * np.eye(PIXELS)
A = np.random.default_rng(0).standard_normal((ENTRIES, PIXELS)) / math.sqrt(ENTRIES)


def measurements(count: int, eta: float = ETA, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((count, PIXELS)) @ np.linalg.cholesky(PRIOR).T
    return np.asarray(truth @ A.T + eta * rng.standard_normal((count, ENTRIES)))


def gaussian_posterior(y: np.ndarray, eta: float = ETA) -> tuple[np.ndarray, np.ndarray]:
    """Means of the posterior of measurements ``[M, m]``, and its covariance."""
    gain = PRIOR @ A.T @ np.linalg.inv(A @ PRIOR @ A.T + eta**2 * np.eye(ENTRIES))
    return y @ gain.T, PRIOR - gain @ A @ PRIOR


def residuals_of(y: np.ndarray, eta: float = ETA, spread: float = 1.0) -> list[float]:
    """``|y - A x| / (eta sqrt(n))`` of one sample each, of which ``spread`` is 1 if it is of the posterior."""
    mean, covariance = gaussian_posterior(y, eta)
    draws = np.random.default_rng(2).standard_normal(mean.shape) @ np.linalg.cholesky(covariance).T
    r = y - (mean + spread * draws) @ A.T
    return (np.sqrt((r**2).sum(1) / ENTRIES) / eta).tolist()


def p_values(residuals: list[float]) -> list[float]:
    return [fit.p_value(one, ENTRIES) for one in residuals]


def rejected(residuals: list[float], level: float = 0.05) -> float:
    return float(np.mean(np.array(p_values(residuals)) < level))


def test_the_p_value_is_that_of_the_chi_square_distribution() -> None:
    for residual, entries in ((1.2, 30), (0.7, 30), (1.0, 1000)):
        square = residual**2 * entries
        exact = 2 * min(stats.chi2.cdf(square, entries), stats.chi2.sf(square, entries))
        assert fit.p_value(residual, entries) == pytest.approx(exact, rel=1e-9)
    assert fit.p_value(math.sqrt(stats.chi2.median(8) / 8), 8) == pytest.approx(1.0)
    assert fit.p_value(50.0, 1000) == 0.0


def test_samples_of_the_posterior_have_uniform_p_values() -> None:
    """Of 2000 measurements; the posterior mean, or samples with half the spread, have not."""
    y = measurements(2000)
    assert stats.kstest(p_values(residuals_of(y)), "uniform").pvalue > 0.01
    assert abs(rejected(residuals_of(y)) - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 2000)
    for spread in (0.0, 0.5):
        assert stats.kstest(p_values(residuals_of(y, spread=spread)), "uniform").pvalue < 1e-6


@pytest.mark.parametrize("stated", [ETA / 2, 2 * ETA])
def test_a_wrong_noise_level_is_rejected(stated: float) -> None:
    found = residuals_of(measurements(200), stated)
    assert rejected(found) > 0.5
    factor = fit.noise_factor(found)
    assert (factor > 1) == (stated < ETA) and abs(math.log(stated * factor / ETA)) < abs(math.log(stated / ETA))


@pytest.mark.parametrize("stated", [ETA / 2, ETA, 2 * ETA])
def test_the_residual_is_the_slope_of_the_evidence(stated: float) -> None:
    """By differences of the Gaussian evidence; the factor's step does not lower it."""
    y = measurements(50)

    def evidence(eta: float) -> float:
        law = stats.multivariate_normal(np.zeros(ENTRIES), A @ PRIOR @ A.T + eta**2 * np.eye(ENTRIES))
        return float(law.logpdf(y).sum())

    slope = (evidence(stated * 1.001) - evidence(stated / 1.001)) / (2 * math.log(1.001))
    many = residuals_of(np.repeat(y, 400, 0), stated)
    assert 50 * ENTRIES * (fit.noise_factor(many) ** 2 - 1) == pytest.approx(slope, abs=0.02 * 50 * ENTRIES)
    assert evidence(stated * fit.noise_factor(many)) >= evidence(stated) - 0.1


def test_several_samples_of_a_measurement_are_one_test() -> None:
    assert fit.of_samples([0.03]) == 0.03
    assert fit.of_samples([0.01, 0.03]) == pytest.approx(0.04)
    assert fit.of_samples([0.9, 0.8]) == 1.0


def row(image: int, p: float | None, residual: float) -> dict[str, Any]:
    return {"image": image, "name": f"{image}.png", "fit": p, "residual": residual}


def test_the_words() -> None:
    assert fit.remark([row(0, None, 1.0)]) == ""
    assert fit.remark([row(0, 0.3, 1.0), row(1, 0.002, 1.1)]).startswith("fit: the measurements are as the network")
    more = fit.remark([row(0, 0.3, 1.0), row(1, 1e-9, 2.0), row(1, 1e-9, 2.0), row(2, 0.0, 2.1)])
    assert "2 of 3 measurements do not fit" in more and "2.png 2.10, 1.png 2.00)" in more
    assert "more noise than stated, another operator" in more and "std 2.05 times as large" in more
    less = fit.remark([row(k, 1e-5, 0.5) for k in range(5)])
    assert "5 of 5" in less and ", ...): less noise than stated; measurement.noise.std 0.50 times" in less
    assert "do not fit" not in fit.remark([row(0, 1e-4, 1.2), row(0, 0.9, 1.0)])  # twice the mean is 0.9


# --- runs ------------------------------------------------------------------------------------------------------------

MOMENTUM = {
    "name": "random_walk", "step_scale": 1.2, "preconditioned": True, "momentum": "auto", "initial_temperature": 1.0,
    "schedule": {"name": "geometric", "num_steps": 6, "sigma_max": 20.0},
}  # fmt: skip


def test_a_run_says_whether_its_measurements_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The p-value of each sample is that of its residual over the known half of the pixels."""
    config = make_config(tmp_path, 3, sampler=MOMENTUM, num_samples=2)
    assert sampling.run(config) == 0
    rows = [row for row in read_metrics(tmp_path / "run") if row["sample"] != "mean"]
    known = [np.load(path) for path in sorted((tmp_path / "run" / "arrays").glob("*_measurement.npy"))]
    assert len(rows) == 6 and len(known) == 3
    for one in rows:
        expected = fit.p_value(float(one["residual"]), 72)
        assert float(one["fit"]) == pytest.approx(expected, rel=0.2, abs=1e-12)  # the residual has four decimals
    assert "fit: " in capsys.readouterr().out
    assert "fit: " in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {},  # the paper's walk
        {"sampler": {**MOMENTUM, "initial_temperature": 0.0}},
        {"sampler": {**MOMENTUM, "preconditioned": False}, "measurement": {"operator": {"name": "denoising"}, "noise":
         {"name": "laplace", "std": 0.2}}},
    ],
)  # fmt: skip
def test_other_runs_are_not_tested(changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sampling.run(make_config(tmp_path, 1, **changes)) == 0
    assert {row["fit"] for row in read_metrics(tmp_path / "run")} == {""}
    assert "fit: " not in capsys.readouterr().out


def test_samplers_of_the_posterior() -> None:
    def says(**changes: Any) -> bool:
        settings = {"step_scale": 1.2, "preconditioned": True, "momentum": "auto", "initial_temperature": 1.0}
        return samplers.make("random_walk", **{**settings, **changes}).samples_posterior

    assert says()
    assert not says(momentum=0) and not says(initial_temperature=0.5) and not says(final_temperature=0.5)
    assert not samplers.make("ddrm").samples_posterior
