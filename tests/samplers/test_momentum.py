"""The walk with momentum: exact on Gaussians at any stable step, and right on a sparse prior with many measurements.

On Gaussians the law of the walk is taken from the walk itself, without sampling error. On a sparse prior of 8
coefficients, each of two scales, the posterior is a mixture of 256 Gaussians in closed form.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from operator_cases import random_kernel
from posterior_tools import (
    ETA,
    EYE,
    LARGE,
    PRIOR,
    SHAPE,
    SHARE,
    SIZE,
    SMALL,
    Law,
    Sparse,
    Task,
    check_law,
    error,
    isotropic,
    make_task,
    must_fail,
    normal,
)
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, GaussianNoise, InputError, Measurement, operators, samplers, walk
from randomwalk.operators import Dense, blur_with_kernel
from randomwalk.operators.noise import LaplaceNoise
from randomwalk.rng import ImageDraws, TorchDraws, sample_stream
from randomwalk.samplers import Plan, schedules
from randomwalk.samplers.walk import PosteriorFlow, PreconditionedStep, PriorStep, StepSize, glide

MISTAKES = {
    "no sqrt(2)": 0.5**0.5,
    "noise of 1 - a": None,
    "likelihood halved": 1.0,
    "sigma' for sigma": 1.0,
}


class Scaled:
    """A part of a likelihood."""

    def __init__(self, inner: Measurement, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def score(self, x: Tensor) -> Tensor:
        return self.factor * self.inner.score(x)


class AtOther(Denoiser):
    """Evaluates another denoiser at a lower level than that asked for."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner = inner

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.inner.score(x, 0.8 * sigma)


def momentum_law(plan: Plan, task: Task, start: Law, mistake: str | None = None) -> Law:
    """Law of the end of a walk, from its response to each entry of the start and of each draw, one to a row.

    The velocity takes a draw before the first step.
    """
    rows = 1 + SIZE * (2 + len(plan.sigmas))
    x = start.mean.expand(rows, SIZE).clone()
    x[1 : 1 + SIZE] += torch.linalg.cholesky(start.covariance).T
    used = 1 + SIZE
    momenta = plan.momenta or []

    def noise(k: int, state: Tensor) -> Tensor:
        nonlocal used
        draw = torch.zeros(rows, SIZE, dtype=torch.float64)
        draw[used : used + SIZE] = EYE
        factor = 1.0 if mistake is None else MISTAKES[mistake]
        if factor is None:  # a step draws sqrt(1 - a^2) n
            factor = 1.0 if used == 1 + SIZE else ((1 - momenta[k]) / (1 - momenta[k] ** 2)) ** 0.5
        used += SIZE
        return factor * draw.reshape(state.shape)

    end = walk(
        AtOther(task.denoiser) if mistake == "sigma' for sigma" else task.denoiser,
        x.reshape(rows, *SHAPE),
        plan.sigmas,
        plan.step_sizes,
        plan.temperatures,
        momenta=plan.momenta,
        measurement=Scaled(task.measurement, 0.5 if mistake == "likelihood halved" else 1.0),
        noise=noise,
    ).flatten(1)
    response = end[1:] - end[0]
    return Law(end[0], response.T @ response)


def target(task: Task, sigma: float, temperature: float = 1.0) -> Law:
    """``p_s(x) f(y | x)`` to the power 1 / T."""
    curvature = torch.linalg.inv(task.prior.covariance + sigma**2 * EYE)
    precision = curvature + task.matrix.T @ task.matrix / ETA**2
    covariance = torch.linalg.inv(precision)
    slope = curvature @ task.prior.mean + task.matrix.T @ task.y.flatten() / ETA**2
    return Law(covariance @ slope, temperature * covariance)


def one_level(task: Task, sigma: float, c: float, momentum: float, steps: int, temperature: float = 1.0) -> Plan:
    """Equal steps at one level."""
    step = PreconditionedStep(task.operator, sigma, ETA, c)
    return Plan([sigma] * steps, [step] * steps, [temperature] * steps, [momentum] * steps)


START = Law(torch.zeros(SIZE, dtype=torch.float64), EYE)


def stationary(task: Task, sigma: float, c: float, momentum: float, temperature: float) -> Law:
    """Law of the positions after 2^40 steps: the affine map of one, on state and velocity, squared 40 times."""
    step = PreconditionedStep(task.operator, sigma, ETA, c)
    unit = torch.eye(3 * SIZE, dtype=torch.float64)
    x, v, n = torch.cat([torch.zeros(1, 3 * SIZE, dtype=torch.float64), unit]).reshape(-1, 3, *SHAPE).unbind(1)
    drift = step.drift(x, task.denoiser.score(x, sigma), task.measurement)
    after = torch.cat(
        [part.flatten(1) for part in glide(x, v, drift, step.sqrt, temperature, momentum, lambda _: n)], 1
    )
    offset, response = after[0], (after[1:] - after[0]).T
    matrix, spread = response[:, : 2 * SIZE], response[:, 2 * SIZE :] @ response[:, 2 * SIZE :].T
    for _ in range(40):
        offset, spread = matrix @ offset + offset, matrix @ spread @ matrix.T + spread
        matrix = matrix @ matrix
    assert matrix.abs().max() < 1e-12  # the start is forgotten
    return Law(offset[:SIZE], spread[:SIZE, :SIZE])


@pytest.mark.parametrize("momentum", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("c", [0.3, 1.28, 1.9])
@pytest.mark.parametrize("name", ["super_resolution", "dense"])
def test_on_gaussians_any_stable_step_is_exact(name: str, c: float, momentum: float) -> None:
    task = make_task(name)
    check_law(stationary(task, 0.5, c, momentum, 0.7), target(task, 0.5, 0.7))


def test_steps_beyond_the_limit_are_not_stable() -> None:
    """Where the prior says nothing k is c."""
    flat = make_task("super_resolution", Law(PRIOR.mean, 1e-6 * EYE))
    check_law(stationary(flat, 1.0, 1.99, 0.6, 1.0), target(flat, 1.0))
    with pytest.raises(AssertionError):
        stationary(flat, 1.0, 2.01, 0.6, 1.0)


def test_without_momentum_the_variance_is_that_of_the_docstring() -> None:
    """``T / (k (1 - k / 2))`` in the directions of ``P^(1/2) H P^(1/2)``: the check tells the two walks apart."""
    task = make_task("dense")
    found, exact = momentum_law(one_level(task, 1.0, 1.28, 0.0, steps=60), task, START), target(task, 1.0)
    root = torch.linalg.cholesky(1.28 * torch.linalg.inv(EYE + task.matrix.T @ task.matrix / ETA**2))
    k, vectors = torch.linalg.eigh(root.T @ torch.linalg.inv(exact.covariance) @ root)
    wider = root @ vectors
    check_law(found, Law(exact.mean, (wider / (k * (1 - k / 2))) @ wider.T))
    must_fail(check_law, found, exact)


def test_steps_at_one_level_end_at_the_exact_law() -> None:
    task = make_task("dense")
    check_law(momentum_law(one_level(task, 1.0, 1.28, 0.6, steps=120), task, START), target(task, 1.0))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_another_law(mistake: str) -> None:
    task = make_task("dense")
    plan = one_level(task, 1.0, 1.28, 0.6, steps=120)
    found, expected = momentum_law(plan, task, START, mistake), target(task, 1.0)
    must_fail(check_law, found, expected)
    assert error(found, expected) > 0.1


# --- the whole walk --------------------------------------------------------------------------------------------------


def annealed(task: Task, steps: int, preconditioned: bool = True, **settings: Any) -> Plan:
    made: dict[str, Any] = {"step_scale": 1.0, "initial_temperature": 1.0, "momentum": "auto", **settings}
    sigmas = schedules.make("geometric", steps, sigma_min=0.02, sigma_max=3.0)
    plan = samplers.make("random_walk", preconditioned=preconditioned, **made).plan(sigmas, task.measurement)
    assert plan is not None
    return plan


def affine(step: PosteriorFlow, task: Task) -> tuple[Tensor, Tensor]:
    """``M, b`` of the step ``x -> M x + b``, with matrices."""
    s, A = step.sigma, task.matrix
    K = torch.linalg.inv(EYE + (s / 0.3) ** 2 * A.T @ A / ETA**2)
    H = torch.linalg.inv(task.prior.covariance + s**2 * EYE)
    exact = target(task, s)
    G = torch.linalg.inv(exact.covariance)
    return EYE - s**2 * K @ (H - K @ G / 2), s**2 * K @ (H @ task.prior.mean - K @ G @ exact.mean / 2)


@pytest.mark.parametrize("name", ["super_resolution", "inpainting", "dense"])
@pytest.mark.parametrize("eta", [0.03, 0.3])
def test_the_last_step_makes_the_posterior_of_its_target(name: str, eta: float) -> None:
    """Of details w = s / 0.3, up to the fourth power of s / w; a step along the prior alone misses it."""
    s = 0.1
    task = make_task(name, isotropic((s / 0.3) ** 2), eta)
    score, likelihood = task.denoiser.score, task.measurement

    def law(step: PosteriorFlow | PriorStep) -> Law:
        rows = torch.cat([0 * EYE[:1], EYE]).reshape(-1, *SHAPE)
        moved = step.move(rows, score(rows, s), likelihood, 0.0, torch.zeros_like).flatten(1)
        H = torch.linalg.inv(task.prior.covariance + s**2 * EYE)
        precision = H + task.matrix.T @ task.matrix / eta**2
        slope = H @ task.prior.mean + task.matrix.T @ task.y.flatten() / eta**2
        covariance = torch.linalg.inv(precision)
        return Law(covariance @ slope, covariance).then((moved[1:] - moved[0]).T, moved[0])

    distance = float(torch.linalg.vector_norm(task.posterior.mean - task.prior.mean)) / (s / 0.3)
    found = error(law(PosteriorFlow(task.operator, s, eta)), task.posterior)
    assert found < 2 * 0.3**4 * max(1, distance)
    assert error(law(PriorStep(task.operator, s, 0.5)), task.posterior) > 3 * found


def recursion(plan: Plan, task: Task, start: Law) -> Law:
    """Law of state and velocity together, step by step, with matrices."""
    z = torch.zeros_like(EYE)
    mean = torch.cat([start.mean, 0 * start.mean])
    covariance = torch.block_diag(start.covariance, plan.temperatures[0] * EYE)
    momenta = plan.momenta or []
    for sigma, tau, temperature, a in zip(plan.sigmas, plan.step_sizes, plan.temperatures, momenta, strict=True):
        exact = target(task, sigma)
        if isinstance(tau, PosteriorFlow):
            x = Law(mean[:SIZE], covariance[:SIZE, :SIZE])
            return x.then(*affine(tau, task))
        if isinstance(tau, PriorStep):
            H = torch.linalg.inv(task.prior.covariance + sigma**2 * EYE)
            exact = Law(task.prior.mean, torch.linalg.inv(H))
            tau = sigma**2 / 2
        H, P = torch.linalg.inv(exact.covariance), tau_matrix(tau, task)
        values, vectors = torch.linalg.eigh(P)
        root = (vectors * values.sqrt()) @ vectors.T
        if a == 0:
            step = torch.block_diag(EYE - P @ H, EYE)
            spread, offset = torch.block_diag(2 * temperature * P, z), torch.cat([P @ H @ exact.mean, 0 * exact.mean])
        else:
            drift = torch.cat([torch.cat([EYE, root / 2**0.5], 1), torch.cat([z, EYE], 1)])
            kick = torch.cat([torch.cat([EYE, z], 1), torch.cat([-(2**0.5) * root @ H, EYE], 1)])
            fade = torch.block_diag(EYE, a * EYE)
            step = drift @ fade @ drift @ kick
            spread = drift @ torch.block_diag(z, temperature * (1 - a**2) * EYE) @ drift.T
            pushed = torch.cat([0 * exact.mean, 2**0.5 * root @ H @ exact.mean])
            offset = drift @ fade @ drift @ pushed
        mean = step @ mean + offset
        covariance = step @ covariance @ step.T + spread
    return Law(mean[:SIZE], covariance[:SIZE, :SIZE])


def test_the_first_velocity_has_the_first_temperature() -> None:
    task = make_task("dense")
    plan = annealed(task, 4, momentum=0.8, initial_temperature=0.3)
    check_law(momentum_law(plan, task, START), recursion(plan, task, START))


def tau_matrix(tau: StepSize, task: Task) -> Tensor:
    if isinstance(tau, float):
        return tau * EYE
    assert isinstance(tau, PreconditionedStep)
    return tau.scale * torch.linalg.inv(EYE / tau.sigma**2 + task.matrix.T @ task.matrix / tau.eta**2)


@pytest.mark.parametrize("preconditioned", [True, False], ids=["matrix", "capped"])
def test_the_annealed_walk_is_its_recursion_and_ends_at_the_posterior(preconditioned: bool) -> None:
    task = make_task("super_resolution")
    plan = annealed(task, 60, preconditioned)
    assert plan.momenta == [math.exp(-40 / 60)] * 59 + [0.0]
    assert isinstance(plan.step_sizes[-1], PosteriorFlow if preconditioned else PriorStep)
    check_law(momentum_law(plan, task, START), recursion(plan, task, START))
    if preconditioned:
        errors = [error(recursion(annealed(task, n), task, START), task.posterior) for n in (50, 100, 200)]
        plan = annealed(task, 200, momentum=0.0)
        plan = Plan(plan.sigmas, plan.step_sizes, plan.temperatures, [0.0] * 200)
        without = error(recursion(plan, task, START), task.posterior)
        assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2 and errors[2] < without / 2, (errors, without)


# --- a sparse prior ---------------------------------------------------------------------------------------------------


class Sparsely(NamedTuple):
    """A measurement of a sparse image, and its exact posterior."""

    measurement: Measurement
    mean: Tensor
    variance: Tensor
    large: Tensor  # probability that |x_i| > 0.3

    def statistics(self, x: Tensor) -> Tensor:
        """Of draws ``[N, 8]``: three for each entry, whose means are given."""
        z = (x - self.mean) / self.variance.sqrt()
        return torch.cat([z, z**2, (x.abs() > 0.3).to(x)], 1)

    @property
    def expected(self) -> Tensor:
        return torch.cat([0 * self.mean, 0 * self.mean + 1, self.large])


@functools.cache
def sparsely() -> Sparsely:
    operator = Dense(SHAPE, normal(4, SIZE, seed=5) / 2)
    x = torch.tensor([0.9, 0.05, -0.1, 0.02, -1.2, 0.1, 0.0, -0.05], dtype=torch.float64)
    y = operator(x.reshape(1, *SHAPE)) + 0.1 * normal(1, 4, seed=6)
    of_all = torch.tensor(list(itertools.product([0, 1], repeat=SIZE)), dtype=torch.float64)
    weights = (SHARE ** (1 - of_all) * (1 - SHARE) ** of_all).prod(1)
    variances = torch.where(of_all > 0, LARGE**2, SMALL**2)
    prior = GaussianMixture(weights, torch.zeros(len(weights), *SHAPE, dtype=torch.float64), variances)
    posterior = prior.posterior(operator, y, 0.1)
    w, means = posterior.log_weights.exp(), posterior.means
    spread = posterior.covariances().diagonal(dim1=1, dim2=2)
    mean = w @ means
    below, above = (torch.special.ndtr((edge - means) / spread.sqrt()) for edge in (-0.3, 0.3))
    measurement = Measurement(operator, GaussianNoise(0.1), y)
    return Sparsely(measurement, mean, w @ (spread + means**2) - mean**2, w @ (below + 1 - above))


def sparse_draws(num: int, steps: int, c: float = 1.28, mistake: str | None = None, **settings: Any) -> Tensor:
    """Draws of the walk with momentum ``[num, 8]``."""
    given: Any = sparsely().measurement.repeated(num)
    sigmas = schedules.make("geometric", steps, sigma_min=0.01, sigma_max=1.5)
    sampler = samplers.make(
        "random_walk", preconditioned=True, step_scale=c, initial_temperature=1.0, momentum="auto", **settings
    )
    plan = sampler.plan(sigmas, given)
    assert plan is not None and plan.momenta is not None
    a = plan.momenta[0]
    factor = {"no sqrt(2)": 0.5**0.5, "noise of 1 - a": ((1 - a) / (1 - a**2)) ** 0.5}.get(mistake or "", 1.0)
    draws = TorchDraws(num, torch.Generator().manual_seed(9), dtype=torch.float64)
    return walk(
        AtOther(Sparse()) if mistake == "sigma' for sigma" else Sparse(),
        1.5 * draws.normal(SHAPE),
        plan.sigmas,
        plan.step_sizes,
        plan.temperatures,
        momenta=plan.momenta,
        measurement=Scaled(given, 0.5) if mistake == "likelihood halved" else given,
        noise=lambda k, x: factor * draws.noise(k, x),
    ).flatten(1)


def sparse_errors(x: Tensor) -> Tensor:
    """Errors of the statistics, in standard errors."""
    found = sparsely().statistics(x)
    return (found.mean(0) - sparsely().expected) / (found.std(0) / math.sqrt(len(x)))


def check_sparse(x: Tensor) -> None:
    assert (sparse_errors(x).abs() < 5).all()


def test_the_posterior_of_a_sparse_prior() -> None:
    """Means, variances and probabilities of large entries are within five standard errors; no bias is allowed for."""
    check_sparse(sparse_draws(5000, 400))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_misses_the_posterior_of_a_sparse_prior(mistake: str) -> None:
    with pytest.raises(AssertionError):
        check_sparse(sparse_draws(2000, 400, mistake=mistake))


def test_the_walk_without_momentum_needs_more_steps() -> None:
    """With as many steps it is far outside of the standard errors of as many draws."""
    given = sparsely().measurement
    sampler = samplers.make("random_walk", preconditioned=True, step_scale=1.0, initial_temperature=1.0)
    draws = TorchDraws(5000, torch.Generator().manual_seed(9), dtype=torch.float64)
    sigmas = schedules.make("geometric", 400, sigma_min=0.01, sigma_max=1.5)
    x = sampler.sample(Sparse(), sigmas, given, num_samples=5000, draws=draws).flatten(1)
    assert sparse_errors(x).abs().max() > 10


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_momentum_it_is_the_walk_to_the_bit() -> None:
    task = make_task("dense")
    sigmas = schedules.make("geometric", 20, sigma_min=0.02, sigma_max=3.0)
    found = []
    for settings in ({}, {"momentum": 0.0}):
        sampler = samplers.make("random_walk", preconditioned=True, step_scale=0.7, **settings)
        plan = sampler.plan(sigmas, task.measurement)
        assert plan is not None and plan.momenta is None
        draws = TorchDraws(3, torch.Generator().manual_seed(1), dtype=torch.float64)
        found.append(sampler.sample(task.denoiser, sigmas, task.measurement, num_samples=3, draws=draws))
    draws = TorchDraws(3, torch.Generator().manual_seed(1), dtype=torch.float64)
    start = 3.0 * draws.normal(SHAPE)
    steps = (plan.sigmas, plan.step_sizes, plan.temperatures)
    given = task.measurement.repeated(3)
    found.append(walk(task.denoiser, start, *steps, measurement=given, momenta=[0.0] * 20, noise=draws.noise))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_sample_does_not_depend_on_the_batch() -> None:
    task, sigmas = make_task("dense"), [1.0, 0.5, 0.2]
    sampler = samplers.make("random_walk", preconditioned=True, step_scale=1.0, momentum=0.5, initial_temperature=1.0)

    def draws(first: int, last: int) -> ImageDraws:
        return ImageDraws([sample_stream(0, 0, i) for i in range(first, last)])

    both = sampler.sample(task.denoiser, sigmas, task.measurement, num_samples=2, draws=draws(0, 2))
    second = sampler.sample(task.denoiser, sigmas, task.measurement, num_samples=1, draws=draws(1, 2))
    torch.testing.assert_close(both[1:], second, rtol=1e-12, atol=1e-12)


def test_the_prior_alone_and_other_noise_take_momentum_too() -> None:
    """The step is a number there: c s^2, or the scale of the noise squared."""
    settings = {"step_scale": 1.0, "momentum": 0.5, "initial_temperature": 1.0}
    prior = samplers.make("random_walk", **settings).plan([1.0, 0.5])
    assert prior.step_sizes == [1.0, 0.125] and prior.momenta == [0.5, 0.0]
    operator = operators.make("inpainting", image_shape=SHAPE, missing=0.5)
    given = Measurement(operator, LaplaceNoise(0.1), torch.zeros(1, *operator.measurement_shape))
    capped = samplers.make("random_walk", **settings).plan([1.0, 0.5], given)
    assert capped.momenta == [0.5, 0.0]
    assert capped.step_sizes == [pytest.approx(given.noise.stable_std**2), PriorStep(operator, 0.5, 0.5)]


def test_what_momentum_cannot_do_is_one_message() -> None:
    with pytest.raises(InputError, match="momentum: found beside kappa"):
        samplers.make("random_walk", step_scale=1.0, kappa=0.5, momentum=0.5)
    for wrong in (1.0, -0.1, "much"):
        with pytest.raises(InputError, match="momentum"):
            samplers.make("random_walk", step_scale=1.0, momentum=wrong)
    blur = blur_with_kernel(SHAPE, random_kernel(2, 2), "unknown")
    given = Measurement(blur, GaussianNoise(0.1), torch.zeros(1, *blur.measurement_shape))
    sampler = samplers.make("random_walk", step_scale=1.0, preconditioned=True, momentum=0.5)
    with pytest.raises(InputError, match=r"momentum needs the spectral decomposition.*dense: true"):
        sampler.check(given)
    step = PreconditionedStep(blur, 1.0, 0.1, 1.0)
    with pytest.raises(InputError, match=r"step 0 has momentum 0.5, which needs the root"):
        walk(Sparse(), torch.zeros(1, *SHAPE), [1.0], [step], [1.0], momenta=[0.5], measurement=given)
    with pytest.raises(InputError, match=r"momentum 1.0; expected it in \[0, 1\)"):
        walk(Sparse(), torch.zeros(1, *SHAPE), [1.0], [0.1], [1.0], momenta=[1.0])
    with pytest.raises(InputError, match="2 momenta for 1 steps"):
        walk(Sparse(), torch.zeros(1, *SHAPE), [1.0], [0.1], [1.0], momenta=[0.5, 0.5])
