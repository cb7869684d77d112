"""Plug-and-play restoration by diffusion."""

from __future__ import annotations

import math

from torch import Tensor

from randomwalk.config.samplers import DiffPIRSettings
from randomwalk.samplers.sampler import Needs, Problem, Sampler


class DiffPIR(Sampler, DiffPIRSettings):
    """Denoise, pull the result toward the measurement, add the noise of the next level. From level s to p:

        z  = argmin_x ||A x - y||^2 / eta^2 + lambda ||x - D(x, s)||^2 / s^2
        x' = z + p (sqrt(1 - zeta) (x - z) / s + sqrt(zeta) n)

    One evaluation for each level.

    The mean z is right at low levels only, where X given X_s = x is as wide as s. But with zeta > 0 every step adds new
    noise, and with many steps those at low levels are Langevin's, ``x + h (z - x) + sqrt(zeta) s n`` with
    ``h = 1 - sqrt(1 - zeta)``. They forget the high levels, and lead to the posterior for noise ``sqrt(lambda) eta`` at
    the temperature ``T = zeta / (2 h) = (1 + sqrt(1 - zeta)) / 2``: for a Gaussian prior the mean is right if
    lambda = 1, and the covariance is T times the exact one, from 1/2 for zeta = 1 to 1 as zeta goes to 0, which takes
    1 / zeta times as many steps. With zeta = 0 nothing is forgotten.

    Source: Zhu et al. 2023, arXiv 2305.08995, algorithm 1 with ``rho = lambda eta^2 / s^2``, eq. 11 to 13.
    """

    needs = Needs(linear=True, noise=("gaussian", "none"), copies=16)

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        zeta, y = self.stochasticity, problem.measurement.y
        denoised = problem.denoiser(x, sigma)
        z = problem.operator.proximal(denoised, y, problem.eta, sigma / math.sqrt(self.strength))
        x = z + sigma_next * math.sqrt(1 - zeta) / sigma * (x - z)
        return x + sigma_next * math.sqrt(zeta) * problem.normal() if sigma_next > 0 and zeta > 0 else x
