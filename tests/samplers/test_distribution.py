"""The walk ends in the right distribution, and a walk with a small mistake does not.

Every check has two halves. The law of the walk *with its finite steps* is computed here independently: on a Gaussian
prior by its linear recursion, on a mixture by quadrature. First, the walk must have that law: exactly, where it is
linear in its draws and can be taken apart, or within five standard errors of the number of draws. Second, that law
must approach the exact answer as the steps shrink, at first order, the rate of all of these samplers.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, GaussianNoise, Measurement, operators, samplers, walk
from randomwalk.rng import generator
from randomwalk.samplers import Plan, schedules
from randomwalk.samplers.walk import PreconditionedStep

WALKS = [
    name
    for name, made in samplers.SAMPLERS.items()
    if issubclass(made, samplers.WalkSampler) and made.needs.measurement != "required"
]
"""Walks that sample the prior; those of the posterior alone have tests of their own."""
SIZE = 8  # images of 1 x 2 x 4
SHAPE = (1, 2, 4)
EYE = torch.eye(SIZE, dtype=torch.float64)
ETA = 0.3

# Mistakes that a walk could make. Each is a wrong argument of the one loop, so that the loop itself is what runs.
MUTATIONS = ("no sqrt(2)", "temperature squared", "sigma' for sigma")
CONDITIONAL_MUTATIONS = (*MUTATIONS, "likelihood halved")


class NextLevel(Denoiser):
    """Evaluates another denoiser at the level after the one asked for."""

    def __init__(self, inner: Denoiser, sigmas: list[float]) -> None:
        super().__init__()
        self.inner = inner
        self.following = dict(zip(sigmas, [*sigmas[1:], sigmas[-1] / 2], strict=True))

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        assert not isinstance(sigma, Tensor)
        return self.inner.score(x, self.following[sigma])


class Halved:
    """Half a likelihood."""

    def __init__(self, inner: Measurement) -> None:
        self.inner = inner

    def score(self, x: Tensor) -> Tensor:
        return self.inner.score(x) / 2


def run(
    plan: Plan,
    denoiser: Denoiser,
    x: Tensor,
    noise: Callable[[int, Tensor], Tensor],
    likelihood: Measurement | None = None,
    mutation: str | None = None,
) -> Tensor:
    """The walk, with one of the mistakes if asked for."""
    temperatures = [t**2 for t in plan.temperatures] if mutation == "temperature squared" else plan.temperatures
    shrink = math.sqrt(0.5) if mutation == "no sqrt(2)" else 1.0
    measured: Any = Halved(likelihood) if likelihood and mutation == "likelihood halved" else likelihood
    return walk(
        NextLevel(denoiser, plan.sigmas) if mutation == "sigma' for sigma" else denoiser,
        x,
        plan.sigmas,
        plan.step_sizes,
        temperatures,
        measurement=measured,
        noise=lambda k, state: shrink * noise(k, state),
    )


# ---------------------------------------------------------------------------------------------------- Gaussian prior


class Law(NamedTuple):
    mean: Tensor  # [d]
    covariance: Tensor  # [d, d]


def error(law: Law, target: Law) -> float:
    """Largest error of the law in units of the target: in standard deviations, and relative in variance."""
    whiten = torch.linalg.inv(torch.linalg.cholesky(target.covariance))
    mean = whiten @ (law.mean - target.mean)
    spread = whiten @ law.covariance @ whiten.T - torch.eye(len(mean), dtype=mean.dtype)
    return max(float(mean.abs().max()), float(torch.linalg.matrix_norm(spread, 2)))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROTATION = torch.linalg.qr(normal(SIZE, SIZE, seed=0))[0]
PRIOR = Law(normal(SIZE, seed=1), (ROTATION * torch.linspace(0.2, 1.2, SIZE, dtype=torch.float64)) @ ROTATION.T)


def prior() -> GaussianMixture:
    return GaussianMixture([1.0], PRIOR.mean.reshape(1, *SHAPE), PRIOR.covariance[None])


MEASUREMENTS: dict[str, dict[str, Any]] = {"super_resolution": {"factor": 2}, "inpainting": {"missing": 0.5}}


def measured(name: str) -> tuple[Measurement, Tensor, Law]:
    """A likelihood, its matrix, and the exact posterior."""
    operator = operators.make(name, image_shape=SHAPE, **MEASUREMENTS[name])
    matrix = operator(EYE.reshape(SIZE, *SHAPE)).reshape(SIZE, -1).T
    y = operator((PRIOR.mean + 1).reshape(1, *SHAPE))
    posterior = prior().posterior(operator, y, ETA)
    return Measurement(operator, GaussianNoise(ETA), y), matrix, Law(posterior.means[0], posterior.covariances()[0])


def recursion(plan: Plan, start: Law, matrix: Tensor | None = None, y: Tensor | None = None) -> Law:
    """Law of the walk on the Gaussian prior: ``x <- x + P (b - H x) + sqrt(2 T P) n`` is linear in x."""
    mean, covariance = start
    for sigma, tau, temperature in zip(plan.sigmas, plan.step_sizes, plan.temperatures, strict=True):
        H = torch.linalg.inv(PRIOR.covariance + sigma**2 * EYE)
        b = H @ PRIOR.mean
        P = EYE * tau if isinstance(tau, float) else EYE
        if matrix is not None and y is not None:
            H = H + matrix.T @ matrix / ETA**2
            b = b + matrix.T @ y.flatten() / ETA**2
            if isinstance(tau, PreconditionedStep):
                P = tau.scale * torch.linalg.inv(EYE / sigma**2 + matrix.T @ matrix / ETA**2)
        M = EYE - P @ H
        mean = M @ mean + P @ b
        covariance = M @ covariance @ M.T + 2 * temperature * P
    return Law(mean, covariance)


def dissect(plan: Plan, start: Law, likelihood: Measurement | None = None, mutation: str | None = None) -> Law:
    """Law of the walk on the Gaussian prior, from the walk itself and without sampling error.

    The end is affine in the start and in every draw. Rows of one batch measure its response to each: row 0 has
    none, the next ones a unit start, the rest a unit draw at one step in one pixel.
    """
    steps = len(plan.sigmas)
    rows = 1 + SIZE + steps * SIZE
    root = torch.linalg.cholesky(start.covariance)
    x = start.mean.expand(rows, SIZE).clone()
    x[1 : 1 + SIZE] += root.T

    def noise(k: int, state: Tensor) -> Tensor:
        draw = torch.zeros(rows, SIZE, dtype=torch.float64)
        first = 1 + SIZE + k * SIZE
        draw[first : first + SIZE] = EYE
        return draw.reshape(state.shape)

    end = run(plan, prior(), x.reshape(rows, *SHAPE), noise, likelihood, mutation).flatten(1)
    response = end[1:] - end[0]
    return Law(end[0], response.T @ response)


SIGMA_MAX = 20.0
STARTS = {
    "unconditional": Law(PRIOR.mean, PRIOR.covariance + SIGMA_MAX**2 * EYE),  # the exact law of X_sigma
    "conditional": Law(torch.zeros(SIZE, dtype=torch.float64), EYE),  # any: it is forgotten
}
# Langevin forgets its start, so that its steps can be small; the others must come from the exact one.
GENTLE: dict[str, dict[str, Any]] = {
    "random_walk": {"step_scale": 0.2, "initial_temperature": 1.0},
    "annealed_langevin": {"step_scale": 0.1, "steps_per_level": 2},
}


def unconditional(name: str, steps: int, **settings: Any) -> Plan:
    return samplers.make(name, **settings).plan(schedules.make("karras", steps, sigma_min=0.01, sigma_max=SIGMA_MAX))


def conditional(steps: int, likelihood: Measurement, preconditioned: bool, temperature: float) -> Plan:
    sigmas = schedules.make("geometric", steps, sigma_min=0.03, sigma_max=5.0)
    settings = {"step_scale": 0.5, "initial_temperature": temperature, "preconditioned": preconditioned}
    return samplers.make("random_walk", **settings).plan(sigmas, likelihood)


def check_law(actual: Law, expected: Law) -> None:
    """The walk is the recursion: nothing but rounding is between them."""
    assert error(actual, expected) < 1e-9


def check_draws(x: Tensor, expected: Law) -> None:
    """Draws have this law: their mean, every covariance and the total variance, within five standard errors."""
    num = len(x)
    whiten = torch.linalg.inv(torch.linalg.cholesky(expected.covariance))
    z = (x.flatten(1) - expected.mean) @ whiten.T  # Normal(0, I) if so
    assert (z.mean(0).abs() < 5 / math.sqrt(num)).all()
    covariance = z.T @ z / num
    standard_error = torch.full_like(covariance, 1 / math.sqrt(num)).fill_diagonal_(math.sqrt(2 / num))
    assert ((covariance - EYE).abs() < 5 * standard_error).all()
    assert abs(float(covariance.trace()) / SIZE - 1) < 5 * math.sqrt(2 / (num * SIZE))


def check_convergence(errors: list[float], last: float) -> None:
    """First order: each doubling of the number of steps at least comes near to halving the error."""
    assert all(after < 0.6 * before for before, after in itertools.pairwise(errors))
    assert errors[-1] < last


def draws_of(seed: int) -> Callable[[int, Tensor], Tensor]:
    source = torch.Generator().manual_seed(seed)
    return lambda k, x: torch.randn(x.shape, generator=source, dtype=x.dtype)


def sampled(plan: Plan, start: Law, likelihood: Measurement | None = None, mutation: str | None = None) -> Tensor:
    """10,000 walks."""
    x = start.mean + normal(10_000, SIZE, seed=7) @ torch.linalg.cholesky(start.covariance).T
    return run(plan, prior(), x.reshape(-1, *SHAPE), draws_of(8), likelihood, mutation)


def must_fail(check: Callable[..., None], actual: Any, expected: Any) -> None:
    with pytest.raises(AssertionError):
        check(actual, expected)


@pytest.mark.parametrize("name", WALKS)
def test_gaussian_prior_is_reached(name: str) -> None:
    start, settings = STARTS["unconditional"], GENTLE.get(name, {})
    plan = unconditional(name, 25, **settings)
    check_law(dissect(plan, start), recursion(plan, start))
    plans = [unconditional(name, steps, **settings) for steps in (100, 200, 400)]
    check_convergence([error(recursion(plan, start), PRIOR) for plan in plans], last=0.15)


@pytest.mark.parametrize("name", ["ve_reverse_diffusion", "ddpm_small", "random_walk"])
def test_draws_from_a_gaussian_prior(name: str) -> None:
    settings = {"random_walk": {"step_scale": 0.7, "initial_temperature": 0.1}}
    start, plan = STARTS["unconditional"], unconditional(name, 25, **settings.get(name, {}))
    check_draws(sampled(plan, start), recursion(plan, start))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_walk_misses_the_gaussian_prior(mutation: str) -> None:
    start, plan = STARTS["unconditional"], unconditional("ve_reverse_diffusion", 25)
    expected = recursion(plan, start)
    must_fail(check_law, dissect(plan, start, mutation=mutation), expected)
    must_fail(check_draws, sampled(plan, start, mutation=mutation), expected)


CONDITIONAL = pytest.mark.parametrize("preconditioned", [False, True], ids=["capped", "preconditioned"])


@CONDITIONAL
@pytest.mark.parametrize("operator", MEASUREMENTS)
def test_posterior_is_reached(operator: str, preconditioned: bool) -> None:
    likelihood, matrix, posterior = measured(operator)
    start, y = STARTS["conditional"], likelihood.y
    plan = conditional(25, likelihood, preconditioned, temperature=0.5)
    check_law(dissect(plan, start, likelihood), recursion(plan, start, matrix, y))
    plans = [conditional(steps, likelihood, preconditioned, temperature=1.0) for steps in (100, 200, 400)]
    check_convergence([error(recursion(plan, start, matrix, y), posterior) for plan in plans], last=0.05)


@CONDITIONAL
def test_draws_from_a_posterior(preconditioned: bool) -> None:
    likelihood, matrix, _ = measured("super_resolution")
    plan = conditional(25, likelihood, preconditioned, temperature=0.5)
    expected = recursion(plan, STARTS["conditional"], matrix, likelihood.y)
    check_draws(sampled(plan, STARTS["conditional"], likelihood), expected)


@CONDITIONAL
@pytest.mark.parametrize("mutation", CONDITIONAL_MUTATIONS)
def test_a_wrong_walk_misses_the_posterior(mutation: str, preconditioned: bool) -> None:
    likelihood, matrix, _ = measured("super_resolution")
    start, plan = STARTS["conditional"], conditional(25, likelihood, preconditioned, temperature=0.5)
    expected = recursion(plan, start, matrix, likelihood.y)
    must_fail(check_law, dissect(plan, start, likelihood, mutation), expected)
    must_fail(check_draws, sampled(plan, start, likelihood, mutation), expected)


# ------------------------------------------------------------------------------------------------------- Two modes

# Along one direction of the plane there are two modes, across it one: the walk acts on the two separately, and its
# law along each is that of a walk on a line.
ANGLE = 0.6
AXES = torch.tensor([[math.cos(ANGLE), math.sin(ANGLE)], [-math.sin(ANGLE), math.cos(ANGLE)]], dtype=torch.float64)
MODES, SHARES, WIDTH = torch.tensor([[-1.5], [1.0]], dtype=torch.float64), [0.3, 0.7], 0.3
BETWEEN = -0.25
ALONG = GaussianMixture(SHARES, MODES, WIDTH**2)
TWO_MODES = GaussianMixture(SHARES, MODES @ AXES[:1], WIDTH**2)
SPREAD = 10.0


class Moments(NamedTuple):
    """Moments of the positions along the modes, and across them (of mean 0)."""

    mean: float
    along: float  # variance
    across: float  # variance
    left: float  # probability of the left mode

    def error(self, target: Moments) -> float:
        """Largest difference: in widths, relative in variance, and in standard deviations of the mode."""
        return max(
            abs(self.mean - target.mean) / math.sqrt(target.along),
            abs(self.along / target.along - 1),
            abs(self.across / target.across - 1),
            abs(self.left - target.left) / math.sqrt(target.left * (1 - target.left)),
        )


def two_modes(steps: int, name: str) -> Plan:
    settings = {"random_walk": {"step_scale": 0.4, "initial_temperature": 1.0}}
    sigmas = schedules.make("karras", steps, sigma_min=0.03, sigma_max=SPREAD)
    return samplers.make(name, **settings.get(name, {})).plan(sigmas)


def along_modes(plan: Plan) -> tuple[Tensor, Tensor]:
    """Law of the walk along the modes, started from X_sigma: nodes on a line and their probabilities.

    A noisy step spreads every node over an even grid, on which the trapezoidal rule is exact to rounding for densities
    as smooth as these; a step without noise moves the nodes.
    """
    points = 700 if any(plan.temperatures) else 4001
    nodes = torch.linspace(-5.5 * SPREAD, 5.5 * SPREAD, points, dtype=torch.float64)
    weights = ALONG.log_prob(nodes[:, None], plan.sigmas[0]).exp() * (nodes[1] - nodes[0])
    for sigma, tau, temperature in zip(plan.sigmas, plan.step_sizes, plan.temperatures, strict=True):
        assert isinstance(tau, float)
        moved = nodes + tau * ALONG.score(nodes[:, None], sigma)[:, 0]
        if temperature == 0:
            nodes = moved
            continue
        std = math.sqrt(2 * tau * temperature)
        mean = float(weights @ moved)
        reach = 5.5 * math.sqrt(float(weights @ (moved - mean) ** 2) + std**2)
        nodes = torch.linspace(mean - reach, mean + reach, points, dtype=torch.float64)
        spacing = nodes[1] - nodes[0]
        assert spacing < 1.2 * std  # or the rule is not exact
        kernel = torch.exp(-((nodes[:, None] - moved) ** 2) / (2 * std**2)) / math.sqrt(2 * math.pi * std**2)
        weights = spacing * (kernel @ weights)
    assert abs(float(weights.sum()) - 1) < 1e-6
    return nodes, weights


def variance_across(plan: Plan) -> float:
    """Variance of the walk across the modes, by its recursion."""
    variance = WIDTH**2 + plan.sigmas[0] ** 2
    for sigma, tau, temperature in zip(plan.sigmas, plan.step_sizes, plan.temperatures, strict=True):
        assert isinstance(tau, float)
        variance = (1 - tau / (WIDTH**2 + sigma**2)) ** 2 * variance + 2 * tau * temperature
    return variance


def moments(nodes: Tensor, weights: Tensor, across: float) -> Moments:
    mean = float(weights @ nodes)
    return Moments(mean, float(weights @ nodes**2) - mean**2, across, float(weights[nodes < BETWEEN].sum()))


@functools.cache
def law_of_two_modes(name: str, steps: int) -> Moments:
    plan = two_modes(steps, name)
    return moments(*along_modes(plan), variance_across(plan))


def exact_two_modes() -> Moments:
    nodes = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    return moments(nodes, ALONG.log_prob(nodes[:, None]).exp() * (nodes[1] - nodes[0]), WIDTH**2)


def check_two_modes(x: Tensor, expected: Moments) -> None:
    """Draws have these moments within five standard errors."""
    position = x @ AXES.T
    along, across = position.T
    statistics = [
        (along, expected.mean),
        (across, 0.0),
        ((along - expected.mean) ** 2, expected.along),
        (across**2, expected.across),
        ((along - expected.mean) * across, 0.0),
        ((along < BETWEEN).double(), expected.left),
    ]
    for drawn, value in statistics:
        assert abs(float(drawn.mean()) - value) < 5 * float(drawn.std()) / math.sqrt(len(x))


def sampled_two_modes(name: str, steps: int, mutation: str | None = None) -> Tensor:
    """20,000 walks, from the exact law of X_sigma."""
    start = TWO_MODES.sample(20_000, generator(1)) + SPREAD * normal(20_000, 2, seed=3)
    return run(two_modes(steps, name), TWO_MODES, start, draws_of(4), mutation=mutation)


@pytest.mark.parametrize(
    ("name", "steps", "last"),
    [
        ("ve_reverse_diffusion", (20, 40), 0.2),
        ("ddpm_small", (20, 40), 0.2),
        ("ddpm_large", (20, 40), 0.2),
        ("ddim", (20, 40), 0.1),
        ("probability_flow", (25, 50, 100, 200), 0.1),
        ("random_walk", (40, 80), 0.4),
    ],
)
def test_two_modes_are_reached(name: str, steps: tuple[int, ...], last: float) -> None:
    check_two_modes(sampled_two_modes(name, steps[0]), law_of_two_modes(name, steps[0]))
    check_convergence([law_of_two_modes(name, number).error(exact_two_modes()) for number in steps], last)


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", ["ve_reverse_diffusion", "ddpm_small"])
def test_a_wrong_walk_misses_two_modes(name: str, mutation: str) -> None:
    must_fail(check_two_modes, sampled_two_modes(name, 20, mutation), law_of_two_modes(name, 20))
