"""benchmarks/posterior_sparse.py: its priors, its reference, its settings, one small run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import posterior_sparse
import pytest
import torch
import yaml
from scipy.integrate import quad
from scipy.stats import laplace, norm, t
from support.sparse_problem import BASES, OPERATORS, PRIORS, SparsePrior, SparseProblem, make_problem
from support.sparse_reference import Chains, Reference, errors, reference
from torch import Tensor

from randomwalk import GaussianMixture, InputError

DENSITIES: dict[str, Callable[[float], float]] = {
    "two scales": lambda z: 0.8 * norm.pdf(z, scale=0.1) + 0.2 * norm.pdf(z),
    "laplace": lambda z: laplace.pdf(z, scale=0.45 / math.sqrt(2)),
    "student": lambda z: t.pdf(z, 3, scale=0.45 / math.sqrt(3)),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("sigma", [0.03, 1.0])
def test_the_denoiser_is_that_of_the_density(name: str, sigma: float) -> None:
    """The posterior mean by quadrature, to 1e-8."""
    prior, density = SparsePrior(PRIORS[name](), (1, 1, 1)), DENSITIES[name]
    for x in (0.0, 0.05, 0.5, 2.0):
        low, high, inside = x - 12 * sigma, x + 12 * sigma, sorted({0.0, x})
        moments = [
            quad(
                lambda z, k=k, x=x: z**k * density(z) * norm.pdf(x - z, scale=sigma),
                low,
                high,
                points=[p for p in inside if low < p < high],
                limit=400,
                epsabs=1e-14,
                epsrel=1e-12,
            )[0]
            for k in (0, 1)
        ]
        found = prior(torch.full((1, 1, 1, 1), x, dtype=torch.float64), sigma)
        assert float(found) == pytest.approx(moments[1] / moments[0], abs=1e-8)


@pytest.mark.parametrize("name", BASES)
def test_bases_are_orthonormal_and_noise_stays_white(name: str) -> None:
    prior = SparsePrior(PRIORS["two scales"](), (1, 8, 4), name)
    unit = torch.eye(32, dtype=torch.float64).reshape(32, 1, 8, 4)
    matrix = prior.synthesise(unit).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(32, dtype=torch.float64))
    torch.testing.assert_close(prior.analyse(prior.synthesise(unit)), unit)
    x = torch.randn(3, 1, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = SparsePrior(PRIORS["two scales"](), (1, 8, 4))
    torch.testing.assert_close(prior.analyse(prior(prior.synthesise(x), 0.3)), plain(x, 0.3))


def test_haar_has_a_mean_and_differences() -> None:
    basis = BASES["haar"](4)
    expected = torch.tensor([[1, 1, 2**0.5, 0], [1, 1, -(2**0.5), 0], [1, -1, 0, 2**0.5], [1, -1, 0, -(2**0.5)]])
    torch.testing.assert_close(basis, expected.double() / 2)


def exact_posterior(problem: SparseProblem) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the coefficients of a prior of two scales, by all combinations."""
    scales, d = problem.prior.scales, problem.truth.numel()
    combinations = torch.tensor(list(itertools.product([0, 1], repeat=d)))
    weights = scales.weights[combinations].prod(1)
    means = torch.zeros(len(weights), *problem.prior.shape, dtype=torch.float64)
    mixture = GaussianMixture(weights, means, scales.variances[combinations])
    posterior = mixture.posterior(problem.operator, problem.y, problem.noise.std)
    w = posterior.log_weights.exp()
    mean = w @ posterior.means
    second = w @ (posterior.covariances().diagonal(dim1=1, dim2=2) + posterior.means**2)
    return mean, (second - mean**2).sqrt()


@pytest.mark.parametrize("operator", ["rows", "missing"])
def test_the_reference_is_the_posterior(operator: str) -> None:
    """Within five of its standard errors, by the differences between its chains; 4 coefficients, 16 Gaussians."""
    problem = make_problem("two scales", "identity", operator, 4, 2, 0.1, 3)
    mean, std = exact_posterior(problem)
    found = reference(problem, 16, 1000, 20, 0)
    assert found.error < 0.02
    assert (
        float(((found.mean - mean) / std).abs().max()) < 5 * 2 * found.error
    )  # of 4 coefficients, one has at most twice
    assert float((found.std / std - 1).abs().max()) < 10 * found.error
    z = found.draws(20_000, 1)
    low, high = torch.quantile(z, torch.tensor([0.05, 0.95], dtype=z.dtype), dim=0)
    assert (found.probability(low, high) - 0.9).abs().max() < 5 * math.sqrt(2 * 0.05 * 0.95 / len(z))


def test_updates_are_those_of_a_new_decomposition() -> None:
    chains = Chains(make_problem("laplace", "dct", "rows", 16, 8, 0.1, 0), 2, 0)
    for _ in range(20):
        chains.sweep()
    M, u, D = chains.M.copy(), chains.u.copy(), chains.D.copy()
    chains.refresh()
    np.testing.assert_allclose(M, chains.M, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(u, chains.u, rtol=1e-8, atol=1e-8)
    assert len(np.unique(D)) > 5


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_is_its_matrix(operator: str) -> None:
    problem = make_problem("two scales", "haar", operator, 64, 32, 1e-9, 0)
    predicted = problem.matrix() @ problem.truth.flatten()
    torch.testing.assert_close(predicted, problem.y.flatten(), rtol=1e-6, atol=1e-6)


def test_errors_of_exact_draws_are_small_and_of_others_are_not() -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    exact = Reference(2 * one, 0.5 * one, 2 * one[0], 0.5 * one[0], 0.0)
    good, n = exact.draws(4000, 1), 4000
    found = errors(good, exact)
    assert found["mean_error"] < 5 / math.sqrt(n) and found["std_error"] < 5 / math.sqrt(2 * n)
    assert found["coverage_90"] == pytest.approx(0.9, abs=5 * math.sqrt(0.1 / n)) and found["w1"] < 0.1
    shifted, wide = errors(good + 0.25, exact), errors(2 + 2 * (good - 2), exact)
    assert shifted["mean_error"] == pytest.approx(0.5, abs=0.1) and shifted["w1"] == pytest.approx(0.5, abs=0.1)
    assert wide["std_ratio"] == pytest.approx(2, abs=0.1) and wide["coverage_90"] > 0.99


def test_every_sampler_is_tuned_with_the_same_care() -> None:
    assert {len(candidates) for candidates in posterior_sparse.CANDIDATES.values()} == {6}
    chosen = yaml.safe_load(posterior_sparse.SETTINGS.read_text("utf-8"))
    assert chosen.keys() == posterior_sparse.CANDIDATES.keys()
    for name, settings in chosen.items():
        assert settings in posterior_sparse.CANDIDATES[name]


def test_a_small_run() -> None:
    """A hundred evaluations with momentum are nearer than as many without."""
    options = posterior_sparse.options().parse_args(["--num-samples", "200", "--sweeps", "50"])
    settings = yaml.safe_load(posterior_sparse.SETTINGS.read_text("utf-8"))
    options.samplers, options.evaluations = list(posterior_sparse.WALKS), [100]
    rows = posterior_sparse.rows_of(options, settings)
    case = (64, 32, 0.1)
    found = {
        row: posterior_sparse.do(posterior_sparse.job_of(row, own, case, [3], options))[0] for row, own in rows.items()
    }
    exact, ours, without = found.values()
    assert ours["evaluations"] == without["evaluations"] == 100
    assert exact["w1"] < ours["w1"] < without["w1"]
    with pytest.raises(InputError, match="--samplers: nobody"):
        posterior_sparse.main(posterior_sparse.options().parse_args(["--samplers", "nobody"]))
    with pytest.raises(InputError, match="--dimensions 100: expected powers of 4"):
        posterior_sparse.main(posterior_sparse.options().parse_args(["--dimensions", "100"]))
