"""TDS: its samples have the posterior of the chain that it walks on, and its weights estimate p(y) without bias."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from posterior_tools import (
    EYE,
    PRIOR,
    SHAPE,
    SIZE,
    Forward,
    Law,
    Levelled,
    NextLevel,
    Square,
    Task,
    check_convergence,
    check_moments,
    error,
    isotropic,
    make_task,
    must_fail,
    normal,
    problem_of,
    sampled,
    start,
)
from torch import Tensor

from randomwalk import GaussianMixture, InputError
from randomwalk.operators import Identity, Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, Noise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import schedules
from randomwalk.samplers.posterior import particles, tds
from randomwalk.samplers.posterior.tds import TDS

STEPS = 12


def levels(steps: int = STEPS) -> Tensor:
    return schedules.make("karras", steps, sigma_min=0.03, sigma_max=20.0)


def sampler(steps: int = STEPS, **settings: Any) -> Levelled:
    return Levelled(TDS(**settings), levels(steps))


def chain(task: Task, sigmas: list[float]) -> Law:
    """Law of the ancestral chain without y: what TDS takes for the prior."""
    law = start(sigmas[0])
    for s, p in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        J, b = task.denoise(s)
        keep = p**2 / s**2
        law = law.then((1 - keep) * J + keep * EYE, (1 - keep) * b, p**2 * (1 - keep) * EYE)
    return law


def posterior_of(prior: Law, task: Task) -> Law:
    A = task.matrix
    spread = A @ prior.covariance @ A.T + task.eta**2 * torch.eye(len(A), dtype=torch.float64)
    gain = prior.covariance @ A.T @ torch.linalg.inv(spread)
    innovation = task.y.flatten() - A @ prior.mean
    return Law(prior.mean + gain @ innovation, prior.covariance - gain @ A @ prior.covariance)


def log_evidence(prior: Law, task: Task) -> float:
    A = task.matrix
    spread = A @ prior.covariance @ A.T + task.eta**2 * torch.eye(len(A), dtype=torch.float64)
    return float(torch.distributions.MultivariateNormal(A @ prior.mean, spread).log_prob(task.y.flatten()))


def estimates(made: Levelled, task: Task | OnALine, num: int, groups: int, seed: int = 3) -> Tensor:
    """Estimates of log p(y) by ``groups`` independent sets of ``num`` particles."""
    draws = TorchDraws(groups * num, torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = task.y.expand(groups * num, *task.y.shape[1:])
    problem, tds = problem_of(task, y, draws, num, made.levels()), made.sampler
    assert isinstance(tds, TDS)
    with torch.no_grad():
        _, log_weights = tds.weighted(problem, tds.begin(problem), lambda k, x, sigma: None)
    return particles.log_mean(log_weights)


def check_evidence(log_estimates: Tensor, expected: float) -> None:
    """Their mean is p(y), within five standard errors that are small enough to tell."""
    ratio = (log_estimates - expected).exp()
    standard_error = float(ratio.std()) / math.sqrt(len(ratio))
    assert standard_error < 0.08
    assert abs(float(ratio.mean()) - 1) < 5 * standard_error


def without_spectral(task: Task) -> Task:
    return task._replace(operator=Forward(task.matrix), y=task.y.flatten(1))


WAYS: dict[str, tuple[Callable[[Task], Task], dict[str, Any]]] = {
    "as it is": (lambda task: task, {"data_std": 0.8}),
    "small data_std": (lambda task: task, {"data_std": 0.4}),
    "resampled at every step": (lambda task: task, {"data_std": 0.8, "ess_threshold": 1.0}),
    "never resampled": (lambda task: task, {"data_std": 0.8, "ess_threshold": 0.0}),
    "without spectral": (without_spectral, {"data_std": 0.8}),
}


@pytest.mark.parametrize("operator", ["inpainting", "dense"])
@pytest.mark.parametrize("way", WAYS)
def test_evidence_is_unbiased(way: str, operator: str) -> None:
    """For any number of particles, whatever the twists: here 20."""
    change, settings = WAYS[way]
    task = make_task(operator, eta=0.5)
    expected = log_evidence(chain(task, levels().tolist()), task)
    check_evidence(estimates(sampler(**settings), change(task), 20, 1000), expected)


@pytest.mark.parametrize("operator", ["super_resolution", "dense"])
@pytest.mark.parametrize("way", ["as it is", "resampled at every step", "without spectral"])
def test_samples_have_the_posterior_of_the_chain(way: str, operator: str) -> None:
    """1,000 particles, whose bias of the order of 1 / 1,000 is below the standard errors."""
    change, settings = WAYS[way]
    task = make_task(operator, eta=0.5)
    expected = posterior_of(chain(task, levels().tolist()), task)
    check_moments(sampled(sampler(**settings), change(task), 1000, groups=20), expected)


def test_the_chain_converges_to_the_prior() -> None:
    """The posterior of the chain then converges to that of the prior."""
    task, errors = make_task("super_resolution"), []
    for steps in (100, 200, 400):
        sigmas = schedules.make("karras", steps, sigma_min=0.5 / steps, sigma_max=1000.0).tolist()
        errors.append(error(posterior_of(chain(task, sigmas), task), task.posterior))
    check_convergence(errors, last=0.06)


def test_weights_become_even_where_the_twist_is_right() -> None:
    """On white images r^2 is the variance of X given X_s: what is left is of the steps, and falls with them."""
    task = make_task("super_resolution", prior=isotropic(0.5))
    spreads = [float(estimates(sampler(n, data_std=math.sqrt(0.5)), task, 50, 100).std()) for n in (10, 20, 40)]
    assert spreads[0] > 1.5 * spreads[1] > 1.5**2 * spreads[2], spreads


def correlated(variance: float) -> Law:
    """A prior with a direction of a variance far above that of the other pixels' noise, as brightness is in images."""
    return Law(PRIOR.mean, PRIOR.covariance + variance * torch.ones_like(EYE) / SIZE)


def test_correlated_pixels_are_not_pulled_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the full pull of the source, they are."""
    task = make_task("super_resolution", prior=correlated(50.0), eta=0.5)
    sigmas = schedules.make("karras", 20, sigma_min=0.03, sigma_max=40.0)
    check_moments(
        sampled(Levelled(TDS(), sigmas), task, 500, groups=20), posterior_of(chain(task, sigmas.tolist()), task)
    )
    task = make_task("super_resolution", prior=correlated(500.0), eta=0.5)
    made = Levelled(TDS(), schedules.make("karras", 10, sigma_min=0.03, sigma_max=100.0))
    assert sampled(made, task, 500, groups=1).abs().max() < 100
    monkeypatch.setattr(tds.Twist, "reach", lambda self, denoised, score, move: 1.0)
    assert sampled(made, task, 500, groups=1).abs().min() > 1e3


def test_reach_is_the_most_likely_image_on_the_line() -> None:
    """On a Gaussian of covariance C; where C = r^2 I it is all of the way."""
    task, variance = make_task("dense", prior=correlated(50.0)), 0.3
    y = task.y.expand(20, *task.y.shape[1:])
    twist = tds.Twist(problem_of(task, y, TorchDraws(20), 20))
    x = normal(20, *SHAPE, seed=9)
    _, score = twist(x, variance)
    torch.testing.assert_close(twist.reach(x, score, variance * score).flatten(), torch.ones(20, dtype=torch.float64))
    move = (score.flatten(1) @ task.prior.covariance).reshape(x.shape)
    found = twist.reach(x, score, move)
    assert 0 < found.min() <= found.max() < 1

    def log_density(a: Tensor) -> Tensor:
        prior = -(a.flatten() ** 2) * (score * move).flatten(1).sum(1) / 2
        return prior + twist.problem.measurement.log_prob(x + a * move)

    for other in (0.99 * found, 1.01 * found):
        assert (log_density(found) > log_density(other)).all()
    assert (twist.reach(x, score, -move) == 0).all()


# ------------------------------------------------------------------------------------------------------------ Mistakes


def upside_down(log_weights: Tensor, u: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Resampling by the inverse of the weights."""
    rows, _ = particles.resampled(-log_weights, u, threshold)
    return rows, particles.resampled(log_weights, u, threshold)[1]


def unweighted(log_weights: Tensor, u: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """No resampling at all, also at the end."""
    return torch.arange(log_weights.numel()), log_weights


def half_pull(log_ratio: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda shift, n: log_ratio(shift / 2, n)


@pytest.mark.parametrize(
    "mistake", ["ratio dropped", "half the ratio", "sigma' for sigma", "eta squared", "upside down"]
)
def test_a_wrong_tds_is_biased(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("super_resolution", eta=0.5)
    prior = chain(task, levels().tolist())
    wrong = task
    if mistake == "ratio dropped":
        monkeypatch.setattr(tds, "log_ratio", lambda shift, n: torch.zeros(len(n), dtype=torch.float64))
    if mistake == "half the ratio":
        monkeypatch.setattr(tds, "log_ratio", half_pull(tds.log_ratio))
    if mistake == "sigma' for sigma":
        wrong = task._replace(denoiser=NextLevel(task.denoiser, levels()))
    if mistake == "eta squared":
        wrong = task._replace(noise=GaussianNoise(task.eta**2))
    if mistake == "upside down":
        monkeypatch.setattr(tds, "resampled", upside_down)
    settings = {"data_std": 0.8, "ess_threshold": 1.0}
    must_fail(check_evidence, estimates(sampler(**settings), wrong, 20, 1000), log_evidence(prior, task))
    samples = sampled(sampler(**settings), wrong, 500, groups=20)
    must_fail(check_moments, samples, posterior_of(prior, task))


def test_samples_without_the_last_resampling_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the weights are dropped."""
    task = make_task("super_resolution", eta=0.5)
    monkeypatch.setattr(tds, "resampled", unweighted)
    samples = sampled(sampler(data_std=0.8), task, 1000, groups=20)
    must_fail(check_moments, samples, posterior_of(chain(task, levels().tolist()), task))


# ------------------------------------------------------------------------------------------------------- Two modes

MODES, SHARES, WIDTH = [-1.5, 1.0], [0.3, 0.7], 0.3
START, BETWEEN = 10.0, -0.25
LINE = (1, 1, 1)
TWO_MODES = GaussianMixture(SHARES, torch.tensor(MODES, dtype=torch.float64).reshape(2, *LINE), WIDTH**2)


class Laplace(Noise):
    """``f(y | a) = exp(-|y - a| / b) / (2 b)``, b = std / sqrt(2)."""

    name = "laplace"

    def __init__(self, std: float) -> None:
        self.std = std

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        b = self.std / math.sqrt(2)
        return -((y - clean).abs() / b + math.log(2 * b)).flatten(1).sum(1)


class OnALine(NamedTuple):
    """A measurement of a number with two modes that excludes neither."""

    operator: Operator
    noise: Noise
    y: Tensor
    denoiser: GaussianMixture = TWO_MODES

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.operator, self.noise, self.y)


MEASUREMENTS = {
    "gaussian": OnALine(Identity(LINE), GaussianNoise(0.8), torch.full((1, *LINE), -0.4, dtype=torch.float64)),
    "laplace": OnALine(Identity(LINE), Laplace(1.0), torch.full((1, *LINE), -0.4, dtype=torch.float64)),
    "square": OnALine(Square(LINE), GaussianNoise(0.5), torch.full((1, *LINE), 1.6, dtype=torch.float64)),
}
LEVELS_ON_A_LINE = schedules.make("karras", STEPS, sigma_min=0.1, sigma_max=START)


def chain_on_a_line(sigmas: list[float]) -> tuple[Tensor, Tensor]:
    """Nodes, and probabilities of X there, if it is made by the ancestral chain: by the trapezoidal rule.

    Every step with noise spreads the nodes over an even grid, on which the rule is exact to rounding for densities as
    smooth as these; the last step moves the nodes.
    """

    def denoise(nodes: Tensor, s: float) -> Tensor:
        return TWO_MODES(nodes.reshape(-1, *LINE), s).flatten()

    nodes = torch.linspace(-7 * START, 7 * START, 1001, dtype=torch.float64)
    weights = (-(nodes**2) / (2 * START**2)).softmax(0)
    for s, p in itertools.pairwise(sigmas):
        clean, v = denoise(nodes, s), p * math.sqrt(1 - p**2 / s**2)
        moved = clean + p**2 / s**2 * (nodes - clean)
        mean = float(weights @ moved)
        reach = 7 * math.sqrt(float(weights @ (moved - mean) ** 2) + v**2)
        nodes = torch.linspace(mean - reach, mean + reach, 1001, dtype=torch.float64)
        assert nodes[1] - nodes[0] < 1.2 * v  # or the rule is not exact
        weights = torch.exp(-((nodes[:, None] - moved) ** 2) / (2 * v**2)) @ weights
        weights = weights / weights.sum()
    return denoise(nodes, sigmas[-1]), weights


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_two_modes_have_their_weights(name: str) -> None:
    """Mean, mean square and the weight of the left mode over independent sets of particles, and p(y)."""
    measurement = MEASUREMENTS[name]
    nodes, weights = chain_on_a_line(LEVELS_ON_A_LINE.tolist())
    log_f = measurement.noise.log_prob(measurement.y, measurement.operator(nodes.reshape(-1, *LINE)))
    posterior_weights = (weights.log() + log_f).softmax(0)
    left = float(posterior_weights[nodes < BETWEEN].sum())
    assert 0.1 < left < 0.9
    made = Levelled(TDS(data_std=1.2), LEVELS_ON_A_LINE)
    check_evidence(estimates(made, measurement, 1500, 30), math.log(float(weights @ log_f.exp())))
    x = sampled(made, measurement, 1500, groups=30)[..., 0]  # type: ignore[arg-type]
    for f in (lambda t: t, lambda t: t**2, lambda t: (t < BETWEEN).double()):
        of_set = f(x).mean(1)
        standard_error = float(of_set.std()) / math.sqrt(len(of_set))
        assert abs(float(of_set.mean() - posterior_weights @ f(nodes))) < 5 * standard_error


# ------------------------------------------------------------------------------------------------------------ Twists


@pytest.mark.parametrize("variance", [0.0, 0.3, 50.0])
@pytest.mark.parametrize("operator", ["super_resolution", "inpainting", "dense"])
def test_gaussian_twist(operator: str, variance: float) -> None:
    """Log density and gradient, against dense matrices and automatic differentiation; the constant does not matter."""
    task = make_task(operator, eta=0.05)
    y = task.y.expand(6, *task.y.shape[1:])
    twist = tds.Twist(problem_of(task, y, TorchDraws(6), 6))
    x = normal(6, SIZE, seed=9).requires_grad_()
    spread = variance * task.matrix @ task.matrix.T + task.eta**2 * torch.eye(len(task.matrix), dtype=torch.float64)
    log_density = torch.distributions.MultivariateNormal(x @ task.matrix.T, spread).log_prob(task.y.flatten())
    gradient = torch.autograd.grad(log_density.sum(), x)[0]
    found, score = twist(x.detach().reshape(-1, *SHAPE), variance)
    torch.testing.assert_close(found - found[0], (log_density - log_density[0]).detach(), rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(score.flatten(1), gradient, rtol=1e-9, atol=1e-9)


def test_twist_keeps_its_digits_in_single_precision() -> None:
    """Where r |A| is a thousand times eta."""
    task = make_task("dense", eta=0.01)
    x = normal(50, *SHAPE, seed=9)
    values = []
    for dtype in (torch.float32, torch.float64):
        y = task.y.to(dtype).expand(50, *task.y.shape[1:])
        problem = problem_of(task, y, TorchDraws(50), 50)
        values.append(tds.Twist(problem)(x.to(dtype), 10.0)[0])
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)


def test_ratio_of_densities() -> None:
    shift, n = normal(5, *SHAPE, seed=1), normal(5, *SHAPE, seed=2)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = (standard.log_prob(shift + n) - standard.log_prob(n)).flatten(1).sum(1)
    torch.testing.assert_close(tds.log_ratio(shift, n), expected)


def test_impossible_tasks_and_settings_are_refused() -> None:
    noiseless = GaussianNoise(0.1)
    noiseless.std = 0.0
    with pytest.raises(InputError, match="noise with a positive std"):
        TDS().check(Measurement(Identity(SHAPE), noiseless, torch.zeros(1, *SHAPE)))
    for setting, value in (("data_std", 0.0), ("ess_threshold", 1.1), ("ess_threshold", -0.1)):
        with pytest.raises(InputError, match=setting):
            sampler(**{setting: value})


def test_the_pull_of_a_denoised_image_ends_at_the_measurement() -> None:
    """A = I and a move of c times the score: ``min(1, (r^2 + eta^2) / (eta^2 + c))`` of the way."""
    eta, variance = 0.5, 0.4
    task = Task(*make_task("inpainting"))._replace(operator=Identity(SHAPE), noise=GaussianNoise(eta))
    y = normal(1, *SHAPE, seed=3)
    twist = tds.Twist(problem_of(task, y, TorchDraws(1)))
    x = normal(1, *SHAPE, seed=4)
    _, score = twist(x, variance)
    for c in (0.1, 0.4, 2.0, 50.0):
        expected = min(1.0, (variance + eta**2) / (eta**2 + c))
        assert float(twist.reach(x, score, c * score)) == pytest.approx(expected, rel=1e-9)
