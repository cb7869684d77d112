"""What the samplers that take the prior and the measurement in turn have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.operators.noise import Likelihood, Noise
from randomwalk.samplers.posterior.sampler import PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import ddim, pairs, seen
from randomwalk.samplers.schedules import karras

INNER = ("auto", "exact", "langevin")


@dataclass(frozen=True, kw_only=True)
class SplittingSampler(PosteriorSampler):
    """Base of the samplers that draw from ``q(x) ~ Normal(x; z, r^2 I) f(y | x)``, z an image without y.

    With a linear operator and Gaussian noise that is a Gaussian, drawn from exactly by functions of ``A^T A``:

        x = argmin ||A x - y||^2 / eta^2 + ||x - z||^2 / r^2 + (I / r^2 + A^T A / eta^2)^(-1/2) n

    With any other, it is approached by Langevin steps from z, of a size in units of the curvature,

        x <- x + h (grad log f(y | x) + (z - x) / r^2) + sqrt(2 h) n,    h = c / (1 / r^2 + |A|^2 / eta^2)

    where the norm of an operator that is not linear is taken to be 1 if it does not define any. So few of them as are
    usual do not travel the distance r where y says nothing and r is far above eta: what they leave out is spread.

    Args:
        inner: "exact", "langevin", or "auto": exact where that is possible.
        langevin_steps: how many.
        langevin_step: c; Langevin steps are stable below 2 if the operator is linear, and exact as c falls to 0.
    """

    inner: str = "auto"
    langevin_steps: int = 100
    langevin_step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.inner in INNER, "inner", self.inner, f"one of {', '.join(INNER)}")
        require(self.langevin_steps >= 1, "langevin_steps", self.langevin_steps, "1 or more")
        require(0 < self.langevin_step < 2, "langevin_step", self.langevin_step, "a number above 0 and below 2")

    def check(self, operator: Operator, noise: Noise) -> None:
        super().check(operator, noise)
        name = type(self).__name__
        if self.inner == "exact" and not _is_gaussian(operator, noise):
            raise InputError(
                f"sampler {name} with inner: exact needs a linear operator with a spectral decomposition and Gaussian "
                f"noise; here are {type(operator).__name__} and {noise.name}: take inner: langevin"
            )
        if self._takes_langevin_steps(operator, noise) and noise.std == 0:
            raise InputError(
                f"sampler {name} follows the likelihood's score with {type(operator).__name__}: "
                "it needs noise with a positive std"
            )

    def conditional(self, problem: Problem) -> Callable[[Tensor, float], Tensor]:
        """``(z, r) -> x``, a draw of x for each row."""
        if not self._takes_langevin_steps(problem.operator, problem.noise):
            return lambda z, r: gaussian_conditional(problem, z, r)
        norm = norm_or_one(problem.operator)
        return lambda z, r: langevin(
            problem, z, r, self.langevin_steps, self.langevin_step / (1 / r**2 + norm**2 / problem.eta**2)
        )

    def _takes_langevin_steps(self, operator: Operator, noise: Noise) -> bool:
        return self.inner == "langevin" or not _is_gaussian(operator, noise)


def _is_gaussian(operator: Operator, noise: Noise) -> bool:
    return operator.linear and operator.has_spectral and (noise.name == "gaussian" or noise.std == 0)


def norm_or_one(operator: Operator) -> float:
    """The operator's norm; 1 if it is not linear and does not define one."""
    return operator.norm() if operator.has_norm else 1.0


def gaussian_conditional(problem: Problem, z: Tensor, r: float) -> Tensor:
    """A draw of ``Normal(x; z, r^2 I) Normal(y; A x, eta^2 I)`` for each row, by functions of ``A^T A``."""
    eta, measured = problem.eta, seen(problem.operator) if problem.eta == 0 else None

    def std(t: Tensor) -> Tensor:
        return r * eta * (eta**2 + r**2 * t).rsqrt() if measured is None else torch.where(measured(t), 0 * t, r)

    mean = problem.operator.proximal(z, problem.y, eta, r)
    return mean + problem.operator.spectral(std, problem.normal())


def langevin(problem: Problem, z: Tensor, r: float, steps: int, step_size: float) -> Tensor:
    """``steps`` Langevin steps towards ``Normal(x; z, r^2 I) f(y | x)``, from z."""
    likelihood = Likelihood(problem.operator, problem.y, problem.noise)
    x = z
    for _ in range(steps):
        drift = likelihood.score(x) + (z - x) / r**2
        x = x + step_size * drift + math.sqrt(2 * step_size) * problem.normal()
    return x


def descent(sigma: float, lowest: float, steps: int) -> list[float]:
    """``steps`` noise levels of Karras et al. (2022) from ``sigma`` to ``lowest``; ``sigma`` alone if that is lower."""
    if steps == 1 or sigma <= lowest:
        return [sigma]
    levels = karras(torch.linspace(0, 1, steps, dtype=torch.float64), lowest, sigma).tolist()
    return [sigma, *levels[1:-1], lowest]


def denoise(problem: Problem, x: Tensor, levels: list[float], stochasticity: float) -> Tensor:
    """Reverse diffusion from X_s = x at the first level to the clean image, without regard to y.

    DDIM's steps to the next level each, and to 0 from the last; one level alone gives D(x, s). With stochasticity 0 the
    end is a function of x; with 1 these are the ancestral steps of DDPM, and the end is a draw of X given X_s = x, as
    the steps grow many and the lowest level falls to 0.
    """
    for s, p in pairs(levels):
        x = ddim(problem, x, problem.denoiser(x, s), s, p, stochasticity)
    return x
