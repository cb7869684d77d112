"""The walk with momentum: exact on Gaussians at any stable step, and right on a sparse prior with many measurements.

On Gaussians the law of the walk is taken from the walk itself, without sampling error. On a sparse prior of 8
coefficients, each of two scales, the posterior is a mixture of 256 Gaussians in closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operator_cases import random_kernel
from posterior_tools import ETA, EYE, PRIOR, SHAPE, SIZE, Law, Task, check_law, error, make_task, must_fail, normal
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, GaussianNoise, InputError, Measurement, operators, samplers, walk
from randomwalk.operators import Dense, blur_with_kernel
from randomwalk.operators.noise import LaplaceNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Plan, schedules
from randomwalk.samplers.walk import PreconditionedStep, StepSize, glide

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
    after = torch.cat([part.flatten(1) for part in glide(x, v, drift, step.sqrt, temperature, momentum, lambda _: n)], 1)
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


def recursion(plan: Plan, task: Task, start: Law) -> Law:
    """Law of state and velocity together, step by step, with matrices."""
    z = torch.zeros_like(EYE)
    mean = torch.cat([start.mean, 0 * start.mean])
    covariance = torch.block_diag(start.covariance, plan.temperatures[0] * EYE)
    momenta = plan.momenta or []
    for sigma, tau, temperature, a in zip(plan.sigmas, plan.step_sizes, plan.temperatures, momenta, strict=True):
        exact = target(task, sigma)
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


def tau_matrix(tau: StepSize, task: Task) -> Tensor:
    if isinstance(tau, float):
        return tau * EYE
    assert isinstance(tau, PreconditionedStep)
    return tau.scale * torch.linalg.inv(EYE / tau.sigma**2 + task.matrix.T @ task.matrix / tau.eta**2)


@pytest.mark.parametrize("preconditioned", [True, False], ids=["matrix", "capped"])
def test_the_annealed_walk_is_its_recursion_and_ends_at_the_posterior(preconditioned: bool) -> None:
    task = make_task("super_resolution")
    plan = annealed(task, 60, preconditioned)
    assert plan.momenta is not None and plan.momenta[-1] == 0 and len(set(plan.momenta[:-1])) == 1
    check_law(momentum_law(plan, task, START), recursion(plan, task, START))
    if preconditioned:
        errors = [error(recursion(annealed(task, n), task, START), task.posterior) for n in (50, 100, 200)]
        plan = annealed(task, 200, momentum=0.0)
        plan = Plan(plan.sigmas, plan.step_sizes, plan.temperatures, [0.0] * 200)
        without = error(recursion(plan, task, START), task.posterior)
        print(errors, without)

