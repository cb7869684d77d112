"""Common base of the samplers that alternate between the prior and the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.config.samplers import SplittingSettings
from randomwalk.errors import InputError
from randomwalk.operators import Measurement, Operator
from randomwalk.samplers.posterior.steps import ddim, seen
from randomwalk.samplers.sampler import Needs, Problem, Sampler, pairs
from randomwalk.samplers.schedules import karras


class SplittingSampler(Sampler, SplittingSettings):
    """Base of the samplers that draw from ``q(x) ~ Normal(x; z, r^2 I) f(y | x)``, z an image without y.

    With a linear operator and Gaussian noise that is a Gaussian, drawn from exactly, as in `PreconditionedStep`:

        x = argmin ||A x - y||^2 / eta^2 + ||x - z||^2 / r^2 + (I / r^2 + A^T A / eta^2)^(-1/2) n
          ~ argmin ||A x - y - eta n2||^2 / eta^2 + ||x - z - r n1||^2 / r^2

    by the first line, functions of ``A^T A``, where there is a spectral decomposition, and otherwise by the second.

    With any other, it is approximated by Langevin steps from z, of a size in units of the curvature,

        x <- x + h (grad log f(y | x) + (z - x) / r^2) + sqrt(2 h) n,    h = c / (1 / r^2 + |A|^2 / eta^2)

    where c is ``langevin_step``, and the norm of an operator that is not linear is taken to be 1 if it does not define
    any. The usual number of steps is too small to travel the distance r where nothing is measured and r is far above
    eta: the draws are then too narrow.
    """

    needs = Needs()

    def num_evaluations(self, num_levels: int) -> int | None:
        return None

    def check(self, measurement: Measurement | None) -> None:
        super().check(measurement)
        assert measurement is not None
        operator, noise, name = measurement.operator, measurement.noise, type(self).__name__
        langevin_steps = self._takes_langevin_steps(measurement)
        if langevin_steps and self.inner == "exact":
            raise InputError(
                f"sampler {name} with inner: exact needs a linear operator and Gaussian noise (or none, and a spectral "
                f"decomposition); here are {type(operator).__name__} and {noise.name}: take inner: langevin"
            )
        if langevin_steps and noise.std == 0:
            raise InputError(
                f"sampler {name} follows the likelihood's score with {type(operator).__name__}: "
                "it needs noise with a positive std"
            )

    def conditional(self, problem: Problem) -> Callable[[Tensor, float], Tensor]:
        """``(z, r) -> x``, a draw of x for each row."""
        if not self._takes_langevin_steps(problem.measurement):
            return lambda z, r: gaussian_conditional(problem, z, r)
        norm = norm_or_one(problem.operator)
        return lambda z, r: langevin(
            problem, z, r, self.langevin_steps, self.langevin_step / (1 / r**2 + norm**2 / problem.eta**2)
        )

    def _takes_langevin_steps(self, measurement: Measurement) -> bool:
        operator, noise = measurement.operator, measurement.noise
        exact = noise.std == 0 and operator.has_spectral
        gaussian = operator.linear and (exact or (noise.name == "gaussian" and noise.std > 0))
        return self.inner == "langevin" or not gaussian


def norm_or_one(operator: Operator) -> float:
    """The operator's norm; 1 if it is not linear and does not define one."""
    return operator.norm() if operator.has_norm else 1.0


def gaussian_conditional(problem: Problem, z: Tensor, r: float) -> Tensor:
    """A draw of ``Normal(x; z, r^2 I) Normal(y; A x, eta^2 I)`` for each row."""
    eta, y = problem.eta, problem.measurement.y
    if not problem.operator.has_spectral:
        n = problem.draws.normal(y.shape[1:]).to(y)
        return problem.operator.proximal(z + r * problem.normal(), y + eta * n, eta, r)
    measured = seen(problem.operator) if eta == 0 else None

    def std(t: Tensor) -> Tensor:
        return r * eta * (eta**2 + r**2 * t).rsqrt() if measured is None else torch.where(measured(t), 0 * t, r)

    mean = problem.operator.proximal(z, y, eta, r)
    return mean + problem.operator.spectral(std, problem.normal())


def langevin(problem: Problem, z: Tensor, r: float, steps: int, step_size: float) -> Tensor:
    """``steps`` Langevin steps towards ``Normal(x; z, r^2 I) f(y | x)``, from z."""
    x = z
    for _ in range(steps):
        drift = problem.measurement.score(x) + (z - x) / r**2
        x = x + step_size * drift + math.sqrt(2 * step_size) * problem.normal()
    return x


def descent(sigma: float, lowest: float, steps: int) -> list[float]:
    """``steps`` noise levels of Karras et al. (2022) from ``sigma`` to ``lowest``; ``sigma`` alone if that is lower."""
    if steps == 1 or sigma <= lowest:
        return [sigma]
    levels = karras(torch.linspace(0, 1, steps, dtype=torch.float64), lowest, sigma).tolist()
    return [sigma, *levels[1:-1], lowest]


def denoise(problem: Problem, x: Tensor, levels: list[float], stochasticity: float) -> Tensor:
    """Reverse diffusion of the prior from X_s = x at the first level to the clean image, by steps of DDIM.

    One level alone gives D(x, s). With stochasticity 0 the result is a function of x; with 1 these are the ancestral
    steps of DDPM, and the result is a draw of X given X_s = x, for many steps and a lowest level near 0.
    """
    for sigma, sigma_next in pairs(levels):
        x = ddim(problem, x, problem.denoiser(x, sigma), sigma, sigma_next, stochasticity)
    return x
