"""Plug-and-play restoration by diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import pairs


@dataclass(frozen=True, kw_only=True)
class DiffPIR(PosteriorSampler):
    """Denoise, pull the result toward the measurement, add the noise of the next level. From level s to p:

        z  = argmin_x ||A x - y||^2 / eta^2 + lambda ||x - D(x, s)||^2 / s^2
        x' = z + p (sqrt(1 - zeta) (x - z) / s + sqrt(zeta) n)

    One evaluation for each level.

    The mean z is right at low levels only, where X given X_s = x is as wide as s. But with zeta > 0 every step adds new
    noise, and among many steps those at low levels are Langevin's, ``x + h (z - x) + sqrt(zeta) s n`` with
    ``h = 1 - sqrt(1 - zeta)``. They forget what the high levels did, and lead to the posterior for noise
    ``sqrt(lambda) eta`` at the temperature ``T = zeta / (2 h) = (1 + sqrt(1 - zeta)) / 2``: for a Gaussian prior the
    mean is right if lambda = 1, and the covariance is T times what it should be, from 1/2 for zeta = 1 to all of it
    as zeta falls to 0, which takes 1 / zeta times as many steps. With zeta = 0 nothing is forgotten.

    Source: Zhu et al. 2023, arXiv 2305.08995, algorithm 1 with ``rho = lambda eta^2 / s^2``, eq. 11 to 13.

    Args:
        strength: lambda, weight of the prior: the larger, the less y counts.
        stochasticity: zeta, from 0 (deterministic) to 1.
    """

    needs: ClassVar[Needs] = Needs(linear=True, noise=("gaussian", "none"))

    strength: float = 1.0
    stochasticity: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.strength > 0, "strength", self.strength, "a positive number")
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels, zeta = self.levels(), self.stochasticity
        x = levels[0] * problem.normal()
        for k, (s, p) in enumerate(pairs(levels)):
            denoised = problem.denoiser(x, s)
            z = problem.operator.proximal(denoised, problem.y, problem.eta, s / math.sqrt(self.strength))
            x = z + p * math.sqrt(1 - zeta) / s * (x - z)
            if p > 0 and zeta > 0:
                x = x + p * math.sqrt(zeta) * problem.normal()
            callback(k, x, s)
        return x
