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
from support import sparse_reference
from support.sparse_problem import BASES, OPERATORS, PRIORS, SparsePrior, SparseProblem, make_problem
from support.sparse_reference import Chains, Reference, blocks, errors, reference
from torch import Tensor

from randomwalk import GaussianMixture, InputError

DENSITIES: dict[str, Callable[[float], float]] = {
    "two scales": lambda z: 0.8 * norm.pdf(z, scale=0.1) + 0.2 * norm.pdf(z),
    "laplace": lambda z: laplace.pdf(z, scale=0.45 / math.sqrt(2)),
    "gaussian": lambda z: norm.pdf(z, scale=0.45),
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


@pytest.mark.parametrize("operator", ["rows", "missing", "fourier"])
def test_the_reference_is_the_posterior(operator: str) -> None:
    """Within five of its standard errors, by the differences between its chains; 4 coefficients, 16 Gaussians."""
    problem = make_problem("two scales", "identity", operator, 4, 2, 0.1, 3)
    mean, std = exact_posterior(problem)
    found = reference(problem, 16, 1000, 20, 0, wanted=1.0)
    assert found.error < 0.02 and found.sweeps == 1000
    assert (
        float(((found.mean - mean) / std).abs().max()) < 5 * 2 * found.error
    )  # of 4 coefficients, one has at most twice
    assert float((found.std / std - 1).abs().max()) < 10 * found.error
    z = found.draws(20_000, 1)
    low, high = torch.quantile(z, torch.tensor([0.05, 0.95], dtype=z.dtype), dim=0)
    assert (found.probability(low, high) - 0.9).abs().max() < 5 * math.sqrt(2 * 0.05 * 0.95 / len(z))


def test_chains_are_continued_until_their_mean_is_as_certain_as_wanted() -> None:
    problem = make_problem("two scales", "identity", "rows", 16, 8, 0.1, 0)
    first, more, most = (reference(problem, 8, 10, 5, 0, wanted) for wanted in (10.0, 0.04, 0.0))
    assert first.sweeps == 10 and most.sweeps == 10 * sparse_reference.LONGEST
    assert 10 < more.sweeps < most.sweeps and more.error <= 0.04 < first.error


@pytest.mark.parametrize("held", [2, 32])
def test_updates_are_those_of_a_new_decomposition(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_reference, "HELD", held)
    problem = make_problem("laplace", "dct", "rows", 16, 8, 0.1, 0)
    B, y = problem.matrix().numpy(), problem.y.flatten().numpy()
    chains = Chains((B.T @ B / 0.01)[None], (B.T @ y / 0.01)[None], problem.prior.scales, 2, np.random.default_rng(0))
    for _ in range(20):
        chains.sweep()
    assert len(np.unique(chains.D)) > 5
    for c, D in enumerate(chains.D):
        S = (B * D) @ B.T + 0.01 * np.eye(len(B))
        M, u = B.T @ np.linalg.solve(S, B), B.T @ np.linalg.solve(S, y)
        np.testing.assert_allclose(chains.u[c], u, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(chains.diagonals[c], M.diagonal(), rtol=1e-8, atol=1e-8)
        n = chains.held[c]
        taken = (chains.changes[c, :n].T * chains.shares[c, :n]) @ chains.changes[c, :n]
        np.testing.assert_allclose(chains.M[c] - taken, M, rtol=1e-8, atol=1e-8)


def test_blocks_are_what_a_matrix_couples() -> None:
    gram = np.zeros((6, 6))
    gram[[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]] = 1
    gram[[1, 4], [4, 1]] = gram[[3, 0], [0, 3]] = 0.5
    single, pairs = blocks(gram)
    assert single.tolist() == [[2], [5]] and sorted(pairs.tolist()) == [[0, 3], [1, 4]]
    sizes = {name: [len(s) * [s.shape[1]] for s in blocks(gram_of(name))] for name in OPERATORS}
    assert sizes == {"rows": [[64]], "missing": [64 * [1]], "blur": [[64]], "fourier": [8 * [8]]}


def gram_of(operator: str) -> np.ndarray:
    B = make_problem("two scales", "identity", operator, 64, 32, 0.1, 0).matrix().numpy()
    return B.T @ B


def test_rows_have_the_condition_asked_for() -> None:
    problem = make_problem("two scales", "identity", "rows", 64, 32, 0.1, 0, condition=100.0)
    values = torch.linalg.svdvals(problem.matrix())
    torch.testing.assert_close(values.log10(), torch.linspace(0, -2, 32, dtype=torch.float64))
    with pytest.raises(InputError, match="condition 100 of the operator 'blur': expected 1 or more"):
        make_problem("two scales", "identity", "blur", 64, 64, 0.1, 0, condition=100.0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_is_its_matrix(operator: str) -> None:
    problem = make_problem("two scales", "haar", operator, 64, 32, 1e-9, 0)
    predicted = problem.matrix() @ problem.truth.flatten()
    torch.testing.assert_close(predicted, problem.y.flatten(), rtol=1e-6, atol=1e-6)


def test_errors_of_exact_draws_are_small_and_of_others_are_not() -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    exact = Reference(2 * one, 0.5 * one, 2 * one[0], 0.5 * one[0], 0.0, 1)
    good, n = exact.draws(4000, 1), 4000
    found = errors(good, exact)
    assert found["mean_error"] < 5 / math.sqrt(n) and found["std_error"] < 5 / math.sqrt(2 * n)
    assert found["coverage_90"] == pytest.approx(0.9, abs=5 * math.sqrt(0.1 / n)) and found["w1"] < 0.1
    assert found["mmse_gap"] < 10 * math.log10(1 + 25 / n)
    shifted, wide = errors(good + 0.25, exact), errors(2 + 2 * (good - 2), exact)
    assert shifted["mean_error"] == pytest.approx(0.5, abs=0.1) and shifted["w1"] == pytest.approx(0.5, abs=0.1)
    assert shifted["mmse_gap"] == pytest.approx(10 * math.log10(1.25), abs=0.1)
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
    case = posterior_sparse.Case("two scales", "identity", "rows", 64, 32, 0.1)
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


def test_the_evaluations_needed() -> None:
    good, bad = {"mean_error": 0.09, "std_ratio": 1.0, "coverage_90": 0.9}, {"std_ratio": 1.1}
    means = {
        f"{name}, {n}": {**good, **(bad if n < first else {}), "evaluations": n}
        for name, first in (("a", 250), ("b", 500))
        for n in (100, 250, 400)
    }
    assert posterior_sparse.needed(means, "a") == 250 and posterior_sparse.needed(means, "b") == math.inf


def test_cases_are_named_by_what_is_not_usual() -> None:
    given = ["--dimensions", "64", "--operators", "rows", "blur", "--bases", "haar", "--etas", "0.1"]
    names = [str(case) for case in posterior_sparse.cases(posterior_sparse.options().parse_args(given))]
    assert names == [
        *(f"d 64, m {m}, eta 0.1, haar" for m in (16, 32, 48)),
        "d 64, m 64, eta 0.1, blur, haar",
    ]
