"""benchmarks/support/levy_problem.py: the denoiser of a Levy process is exact, and its error is as stated."""

from __future__ import annotations

import itertools

import posterior_sparse
import pytest
import torch
from support.levy_problem import INCREMENTS, LevyPrior, make_line
from torch import Tensor

from randomwalk import InputError

SIGMAS = [0.03, 0.3, 3.0]


def noisy(prior: LevyPrior, sigma: float, num: int = 40) -> Tensor:
    """Noisy lines ``[num, 1, 1, d]``, in float64."""
    draws = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(prior.scales.weights, num * prior.shape[2], replacement=True, generator=draws)
    normal = [torch.randn(num, *prior.shape, generator=draws, dtype=torch.float64) for _ in range(2)]
    increments = prior.scales.variances.sqrt()[chosen].reshape(normal[0].shape) * normal[0]
    return prior.synthesise(increments) + sigma * normal[1]


def mixture_mean(prior: LevyPrior, v: Tensor, sigma: float) -> Tensor:
    """Posterior mean of lines of mixed Gaussian increments, as the mixture of the Gaussians of all combinations."""
    d = prior.shape[2]
    path = torch.ones(d, d, dtype=torch.float64).tril()
    logs, means = [], []
    for chosen in itertools.product(range(len(prior.scales.weights)), repeat=d):
        covariance = path * prior.scales.variances[list(chosen)] @ path.T
        seen = covariance + sigma**2 * torch.eye(d, dtype=torch.float64)
        log = prior.scales.weights.log()[list(chosen)].sum()
        logs.append(log + torch.distributions.MultivariateNormal(torch.zeros(d).double(), seen).log_prob(v.flatten(1)))
        means.append(torch.linalg.solve(seen, v.flatten(1).T).T @ covariance)
    weights = torch.stack(logs).softmax(0)
    return (weights[..., None] * torch.stack(means)).sum(0).reshape(v.shape)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("name", "length"), [("gaussian", 64), ("two scales", 6)])
def test_the_denoiser_is_the_closed_form(name: str, length: int, sigma: float) -> None:
    """To 1e-7 of the noise level, most of it from the ends of the grid."""
    prior = LevyPrior(name, length)
    v = noisy(prior, sigma)
    assert float((prior(v, sigma) - mixture_mean(prior, v, sigma)).abs().max()) < 1e-7 * sigma


@pytest.mark.parametrize("name", ["gaussian", "two scales"])
def test_neighbours_far_apart_do_not_underflow(name: str) -> None:
    """A jump of 20, whose density is 0 in float64 too; v is rounded to 1e-4 of the noise level."""
    prior = LevyPrior(name, 6)
    v = noisy(prior, 0.03, 4)
    v[..., 3:] += 20
    found = prior(v.float(), 0.03)
    assert found.dtype == torch.float32
    assert float((found - mixture_mean(prior, v, 0.03)).abs().max()) < 1e-3 * 0.03


@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_a_kink_leaves_an_error_of_second_order(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the spacing of the grid; root mean square over pixels. An error of first order would fall by 2.3."""
    prior = LevyPrior("laplace", 8)
    v = noisy(prior, sigma, 10)
    found = {}
    for spacing in (LevyPrior.SPACING, 0.4, 0.2, 0.05):
        monkeypatch.setattr(LevyPrior, "SPACING", spacing)
        found[spacing] = prior(v, sigma)
    usual, coarse, fine = (float((x - found[0.05]).square().mean().sqrt()) for x in list(found.values())[:3])
    assert usual < 1e-3 * sigma
    assert 2.8 < coarse / fine < 6  # 4.2 (the reference has an error too) for a kink at one place of the grid


def test_lines_have_the_increments_of_their_density() -> None:
    prior = LevyPrior("laplace", 16)
    z = torch.randn(3, 1, 1, 16, dtype=torch.float64)
    torch.testing.assert_close(prior.analyse(prior.synthesise(z)), z)
    total = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    for name, (log_density, _) in INCREMENTS.items():
        values = log_density(total).exp()
        assert float(torch.trapezoid(values, total)) == pytest.approx(1, abs=1e-6), name
        std = LevyPrior(name, 2).scales
        assert float(torch.trapezoid(values * total**2, total)) == pytest.approx(
            float(std.weights @ std.variances), rel=1e-5
        ), name
    with pytest.raises(InputError, match="increments 'student': expected one of two scales, gaussian, laplace"):
        LevyPrior("student", 4)


@pytest.mark.parametrize("operator", ["rows", "missing", "fourier", "blur"])
def test_lines_are_measured_by_every_operator(operator: str) -> None:
    problem = make_line("two scales", operator, 16, 16 if operator == "blur" else 8, 1e-9, 0)
    predicted = problem.matrix() @ problem.truth.flatten()
    torch.testing.assert_close(predicted, problem.y.flatten(), rtol=1e-6, atol=1e-6)


def test_the_benchmark_names_lines() -> None:
    given = ["--dimensions", "64", "--bases", "levy", "--parts", "2", "--etas", "0.1", "--priors", "laplace"]
    (case,) = posterior_sparse.cases(posterior_sparse.options().parse_args(given))
    assert str(case) == "d 64, m 32, eta 0.1, levy, laplace"
    assert posterior_sparse.problem_of(case, 1).prior.shape == (1, 1, 64)
