"""Tools for tests of posterior samplers: exact Gaussian posteriors, and the exact distribution of a sampler.

On a Gaussian prior, the result of most samplers is an affine function of their draws. ``dissect`` measures this
function by unit draws and gives the distribution of the samples without sampling error. Other samplers are sampled,
and ``check_draws`` or ``check_moments`` compares the moments within their standard errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from randomwalk import Denoiser, GaussianMixture, operators, samplers
from randomwalk.operators import Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, Noise
from randomwalk.rng import TorchDraws
from randomwalk.samplers import Problem, Sampler
from randomwalk.samplers.sampler import decreasing

SIZE = 8  # images of 1 x 2 x 4
SHAPE = (1, 2, 4)
EYE = torch.eye(SIZE, dtype=torch.float64)
ETA = 0.3


class Law(NamedTuple):
    """Mean and covariance of a Gaussian."""

    mean: Tensor  # [d]
    covariance: Tensor  # [d, d]

    def then(self, matrix: Tensor, offset: Tensor | float = 0.0, spread: Tensor | float = 0.0) -> Law:
        """Distribution of ``matrix x + offset + n``, with n of covariance ``spread``, if x has this one."""
        return Law(matrix @ self.mean + offset, matrix @ self.covariance @ matrix.T + spread)


def start(sigma: float) -> Law:
    """Distribution Normal(0, sigma^2 I) in which samplers start."""
    return Law(torch.zeros(SIZE, dtype=torch.float64), sigma**2 * EYE)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROTATION = torch.linalg.qr(normal(SIZE, SIZE, seed=0))[0]
PRIOR = Law(normal(SIZE, seed=1), (ROTATION * torch.linspace(0.2, 1.2, SIZE, dtype=torch.float64)) @ ROTATION.T)


def isotropic(variance: float = 0.5) -> Law:
    """Prior whose covariance commutes with every operator."""
    return Law(PRIOR.mean, variance * EYE)


# -------------------------------------------------------------------------------------------------------- Measurements


class Forward(Operator):
    """Operator as a user may write it: a dense matrix with only ``forward``."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(SHAPE)
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.get_buffer("matrix").to(x.dtype).T


class Dense(Forward):
    """Dense matrix with everything that its singular value decomposition gives."""

    def pinv(self, y: Tensor) -> Tensor:
        return (y @ torch.linalg.pinv(self.get_buffer("matrix")).to(y.dtype).T).reshape(-1, *SHAPE)

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        _, s, vt = torch.linalg.svd(self.get_buffer("matrix"))
        t = torch.cat([s**2, s.new_zeros(len(vt) - len(s))])
        function: Tensor = (vt.T * f(t)) @ vt
        return (x.flatten(1) @ function.to(x.dtype)).reshape(x.shape)


class Square(Operator):
    """Differentiable operator that is not linear."""

    linear = False

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


OPERATORS: dict[str, Callable[[], Operator]] = {
    "super_resolution": lambda: operators.make("super_resolution", image_shape=SHAPE, factor=2),
    "inpainting": lambda: operators.make("inpainting", image_shape=SHAPE, missing=0.5),
    "dense": lambda: Dense(normal(3, SIZE, seed=2)),
}


class Task(NamedTuple):
    """Measurement of a Gaussian image; ``task._replace(denoiser=...)`` makes a wrong one."""

    denoiser: Denoiser
    operator: Operator
    noise: Noise
    y: Tensor  # [1, *measurement_shape]
    prior: Law
    matrix: Tensor  # A, [m, d]
    posterior: Law

    @property
    def eta(self) -> float:
        return self.noise.std

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.operator, self.noise, self.y)

    def denoise(self, sigma: float) -> tuple[Tensor, Tensor]:
        """Coefficients ``J, b`` of ``D(x, sigma) = J x + b``."""
        J = self.prior.covariance @ torch.linalg.inv(self.prior.covariance + sigma**2 * EYE)
        return J, (EYE - J) @ self.prior.mean


def gaussian(law: Law) -> GaussianMixture:
    """Exact denoiser of a Gaussian prior."""
    return GaussianMixture([1.0], law.mean.reshape(1, *SHAPE), law.covariance[None])


SHARE, SMALL, LARGE = 0.8, 0.1, 1.0


class Sparse(Denoiser):
    """Independent entries ``0.8 Normal(0, 0.1^2) + 0.2 Normal(0, 1)``."""

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        small, large = SMALL**2 + sigma**2, LARGE**2 + sigma**2
        log_odds = math.log(SHARE / (1 - SHARE)) + math.log(large / small) / 2 - x**2 * (1 / small - 1 / large) / 2
        p = log_odds.sigmoid()
        return -x * (p / small + (1 - p) / large)


def make_task(name: str, prior: Law = PRIOR, eta: float = ETA) -> Task:
    """Task with this operator, and its exact posterior."""
    operator, denoiser = OPERATORS[name](), gaussian(prior)
    matrix = operator(EYE.reshape(SIZE, *SHAPE)).reshape(SIZE, -1).T
    y = operator((prior.mean + 1).reshape(1, *SHAPE))
    exact = denoiser.posterior(operator, y, eta)
    posterior = Law(exact.means[0], exact.covariances()[0])
    return Task(denoiser, operator, GaussianNoise(eta), y, prior, matrix, posterior)


EACH_OPERATOR = pytest.mark.parametrize("operator", OPERATORS)


class NextLevel(Denoiser):
    """Planted mistake: evaluates a denoiser at the level after the requested one (sigma' for sigma)."""

    def __init__(self, inner: Denoiser, sigmas: Sequence[float] | Tensor) -> None:
        super().__init__()
        levels = torch.as_tensor(sigmas).tolist()
        self.inner = inner
        self.following = dict(zip(levels, [*levels[1:], levels[-1] / 2], strict=True))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out: Tensor = self.inner(x, self.following[float(sigma)])
        return out

    def score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.inner.score(x, self.following[float(sigma)])


# ------------------------------------------------------------------------------------------------ Exact distributions


class Script:
    """Scripted draws: row b of all draws in turn is row b of ``script [B, total]``."""

    def __init__(self, script: Tensor) -> None:
        self.script = script
        self.used = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        self.used += size
        return self.script[:, self.used - size : self.used].reshape(-1, *shape)

    def noise(self, k: int, x: Tensor) -> Tensor:
        return self.normal(x.shape[1:])

    def uniform(self) -> Tensor:
        raise AssertionError("a sampler with uniform draws is not affine in them: draw from it")


@dataclass(frozen=True)
class Levelled:
    """A sampler, and the noise levels that it is run on."""

    sampler: Sampler
    sigmas: Sequence[float] | Tensor

    def levels(self) -> list[float]:
        return decreasing(self.sigmas).tolist()

    @property
    def num_steps(self) -> int:
        return self.sampler.num_steps(len(self.sigmas))

    @property
    def coupled_samples(self) -> bool:
        return self.sampler.coupled_samples

    def sample(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        num_samples: int = 1,
        draws: Any = None,
        callback: Any = None,
    ) -> Tensor:
        """``[M, num_samples, C, H, W]``."""
        x = self.sampler.sample(
            denoiser, self.sigmas, measurement, num_samples=num_samples, draws=draws, callback=callback
        )
        return x.reshape(-1, num_samples, *x.shape[1:])


def make_levelled(name: str, sigmas: Sequence[float] | Tensor, **settings: Any) -> Levelled:
    return Levelled(samplers.make(name, **settings), sigmas)


def problem_of(task: Task, y: Tensor, draws: Any, num_samples: int = 1, sigmas: Sequence[float] = (1.0,)) -> Problem:
    """The rows ``y`` of a task, as a sampler meets them."""
    blank = y.new_zeros((len(y), *task.operator.image_shape))
    given = Measurement(task.operator, task.noise, y)
    return Problem(task.denoiser, list(sigmas), draws, blank, given, num_samples)


def run(sampler: Levelled, task: Task, draws: Any, num: int) -> Tensor:
    """``num`` samples of the task's one measurement, ``[num, d]``."""
    x = sampler.sample(task.denoiser, task.measurement, num, draws)
    return x[0].flatten(1)


def dissect(sampler: Levelled, task: Task) -> Law:
    """Distribution of a sampler's samples, measured on the sampler itself without sampling error.

    The rows of one batch measure the response of the result to each draw: all draws of row 0 are zero, and in each
    following row one of them is 1. Two more rows have random draws and must end where these responses predict.
    """
    assert not sampler.coupled_samples
    longest = 100 * SIZE * (sampler.num_steps + 1)
    counter = Script(torch.zeros(1, longest, dtype=torch.float64))
    run(sampler, task, counter, 1)
    total = counter.used
    unit, tests = torch.eye(total, dtype=torch.float64), normal(2, total, seed=5)
    script = torch.cat([torch.zeros(1, total, dtype=torch.float64), unit, tests])
    end = run(sampler, task, Script(script), len(script))
    response = end[1 : 1 + total] - end[0]
    predicted = end[0] + tests @ response
    assert torch.allclose(end[1 + total :], predicted, rtol=1e-8, atol=1e-8), "the end is not affine in the draws"
    return Law(end[0], response.T @ response)


def error(law: Law, target: Law) -> float:
    """Largest error of the mean, in standard deviations of the target, and of the relative variance."""
    whiten = torch.linalg.inv(torch.linalg.cholesky(target.covariance))
    mean = whiten @ (law.mean - target.mean)
    spread = whiten @ law.covariance @ whiten.T - torch.eye(len(mean), dtype=mean.dtype)
    return max(float(mean.abs().max()), float(torch.linalg.matrix_norm(spread, 2)))


def check_law(actual: Law, expected: Law) -> None:
    """Check that two computations of one distribution, which may be singular, differ only by rounding."""
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(actual.covariance, expected.covariance, rtol=1e-9, atol=1e-9)


def check_convergence(errors: list[float], last: float, order: float = 1.0) -> None:
    """Check that each doubling of the steps divides the error by nearly ``2^order``, to below ``last`` in the end."""
    assert all(after < 1.2 * before / 2**order for before, after in itertools.pairwise(errors)), errors
    assert errors[-1] < last, errors


def must_fail(check: Callable[..., None], actual: Any, expected: Any) -> None:
    """Check that a check notices a difference."""
    with pytest.raises(AssertionError):
        check(actual, expected)


# ---------------------------------------------------------------------------------------------------------------- Draws


def sampled(sampler: Levelled, task: Task, num: int, groups: int = 1, seed: int = 8) -> Tensor:
    """Samples ``[groups, num, d]``: the measurement ``groups`` times, with ``num`` samples (particles) each."""
    draws = TorchDraws(groups * num, torch.Generator().manual_seed(seed), dtype=torch.float64)
    given = Measurement(task.operator, task.noise, task.y.expand(groups, *task.y.shape[1:]))
    return sampler.sample(task.denoiser, given, num, draws).flatten(2)


def check_draws(x: Tensor, expected: Law) -> None:
    """Check that independent draws ``[..., d]`` have this Gaussian distribution: their mean, covariances and total
    variance are within five standard errors."""
    x = x.reshape(-1, x.shape[-1])
    num = len(x)
    whiten = torch.linalg.inv(torch.linalg.cholesky(expected.covariance))
    z = (x - expected.mean) @ whiten.T  # Normal(0, I) if so
    assert (z.mean(0).abs() < 5 / math.sqrt(num)).all()
    covariance = z.T @ z / num
    standard_error = torch.full_like(covariance, 1 / math.sqrt(num)).fill_diagonal_(math.sqrt(2 / num))
    assert ((covariance - EYE).abs() < 5 * standard_error).all()
    assert abs(float(covariance.trace()) / SIZE - 1) < 5 * math.sqrt(2 / (num * SIZE))


def check_moments(x: Tensor, expected: Law, bias: float = 0.0) -> None:
    """Check mean and covariance of draws from any distribution, ``[groups, particles, d]``, dependent within a group.

    Each moment of a group is an average over its particles; the groups are independent, so that their spread gives the
    standard error of the mean over all. The tolerance is five standard errors plus ``bias``, in standard deviations of
    the target and relative to its variances, for the effect of a finite number of steps or particles.
    """
    whiten = torch.linalg.inv(torch.linalg.cholesky(expected.covariance))
    z = (x - expected.mean) @ whiten.T
    second = torch.einsum("gpi,gpj->gij", z, z) / x.shape[1]
    for of_group, value in ((z.mean(1), torch.zeros_like(expected.mean)), (second, EYE)):
        standard_error = of_group.std(0) / math.sqrt(len(of_group))
        assert ((of_group.mean(0) - value).abs() < 5 * standard_error + bias).all()
