"""The evidence of a measurement, against its closed form on a Gaussian prior and on a mixture of 256 Gaussians."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from posterior_tools import LARGE, SHAPE, SHARE, SIZE, SMALL, Sparse, Task, make_task, must_fail, normal
from torch import Tensor
from torch.distributions import MultivariateNormal

from randomwalk import GaussianNoise, InputError, Measurement, samplers
from randomwalk.operators import Dense
from randomwalk.operators.noise import LaplaceNoise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import schedules
from randomwalk.samplers.evidence import log_evidence

SIGMAS, MORE = (schedules.make("geometric", n, sigma_min=0.03, sigma_max=1.0) for n in (100, 300))
UPPER_END = 0.01
"""Bound of the error at the upper end: 1/800 of a relative variance, which is below 3 here, and less of the sum."""


def walk(**settings: Any) -> Any:
    given = {"preconditioned": True, "step_scale": 1.6, "momentum": "auto", "initial_temperature": 1.0, **settings}
    return samplers.make("random_walk", **given)


def estimate(prior: Any, measurement: Measurement, sigmas: Tensor = SIGMAS) -> tuple[Tensor, Tensor]:
    num = 1000
    draws = TorchDraws(num * len(measurement.y), torch.Generator().manual_seed(4), dtype=torch.float64)
    return log_evidence(walk(), prior, measurement, sigmas, num_samples=num, draws=draws)


def closed_form(weights: Tensor, means: Tensor, covariances: Tensor, A: Tensor, y: Tensor, eta: float) -> Tensor:
    """Of measurements ``y [M, m]``, by the Gaussians of y."""
    spread = A @ covariances @ A.T + eta**2 * torch.eye(len(A), dtype=torch.float64)
    joint = MultivariateNormal(means @ A.T, spread).log_prob(y[:, None])
    return (joint + weights.log()).logsumexp(1)


def check(found: tuple[Tensor, Tensor], exact: Tensor) -> None:
    """Within five standard errors, which are below 0.15."""
    value, error = found
    assert (error < 0.15).all() and ((value - exact).abs() < 5 * error + UPPER_END).all(), (value, error, exact)


@pytest.mark.parametrize("name", ["dense", "super_resolution"])
@pytest.mark.parametrize("eta", [0.1, 0.3])
def test_on_a_gaussian_prior(name: str, eta: float) -> None:
    task: Task = make_task(name, eta=eta)
    y = task.y + torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, *[1] * (task.y.ndim - 1))
    one = torch.ones(1, dtype=torch.float64)
    exact = closed_form(one, task.prior.mean[None], task.prior.covariance[None], task.matrix, y.flatten(1), eta)
    assert abs(float(exact[1] - exact[0])) > 1
    found = estimate(task.denoiser, Measurement(task.operator, task.noise, y))
    check(found, exact)
    for wrong in (exact + 1, exact.flip(0)):
        must_fail(check, found, wrong)


def test_on_a_sparse_prior_it_finds_the_noise_level() -> None:
    """The evidence of half and of twice the noise level is lower, as it should be."""
    of_all = torch.tensor(list(itertools.product([0, 1], repeat=SIZE)), dtype=torch.float64)
    weights = (SHARE ** (1 - of_all) * (1 - SHARE) ** of_all).prod(1)
    variances = torch.where(of_all > 0, LARGE**2, SMALL**2).double()
    matrix = normal(6, SIZE, seed=5) / math.sqrt(6)
    operator = Dense(SHAPE, matrix)
    x = torch.tensor([0.9, 0.05, -0.1, 0.02, -1.2, 0.1, 0.0, -0.05], dtype=torch.float64).reshape(1, *SHAPE)
    y = operator(x) + 0.1 * normal(1, 6, seed=6)
    exacts, values = [], []
    for eta in (0.05, 0.1, 0.2):
        found = estimate(Sparse(), Measurement(operator, GaussianNoise(eta), y), MORE)
        exact = closed_form(weights, 0 * of_all, variances.diag_embed(), matrix, y, eta)
        check(found, exact)
        exacts.append(float(exact))
        values.append(float(found[0]))
    assert sorted(range(3), key=exacts.__getitem__) == sorted(range(3), key=values.__getitem__)


def test_what_it_cannot_do_is_one_message() -> None:
    task = make_task("dense")
    other = Measurement(task.operator, LaplaceNoise(0.1), task.y)
    with pytest.raises(InputError, match="log_evidence: noise laplace"):
        log_evidence(walk(preconditioned=False, momentum=0.0), task.denoiser, other, SIGMAS)
    with pytest.raises(InputError, match="100 samples by TweedieSMC; expected Gaussian"):
        log_evidence(samplers.make("tweedie_smc"), task.denoiser, task.measurement, SIGMAS)
    loud = Measurement(task.operator, GaussianNoise(1e4), task.y)
    with pytest.raises(InputError, match="the noise, 10000, is too large"):
        log_evidence(walk(), task.denoiser, loud, SIGMAS, num_samples=2)
