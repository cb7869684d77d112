"""Plug-and-play restoration by diffusion."""

from __future__ import annotations

from randomwalk.config.samplers import DiffPIRSettings
from randomwalk.operators import Measurement
from randomwalk.samplers.posterior.steps import renewed
from randomwalk.samplers.sampler import Needs, Sigmas, decreasing, pairs
from randomwalk.samplers.walk import Plan, PreconditionedStep, StepSize
from randomwalk.samplers.walks import WalkSampler


class DiffPIR(WalkSampler, DiffPIRSettings):
    """Denoise, pull the result toward the measurement, add the noise of the next level. From level s to p:

        z  = argmin_x ||A x - y||^2 / eta^2 + lambda ||x - D(x, s)||^2 / s^2
        x' = z + p (sqrt(1 - zeta) (x - z) / s + sqrt(zeta) n)

    That is the walk with the matrix step ``P = c (lambda I / s^2 + A^T A / eta^2)^-1``, where
    ``c = 1 - sqrt(1 - zeta) p / s``, and the noise ``sqrt(zeta) p n`` in every direction (`PreconditionedStep`,
    "white"); in terms of `RandomWalk`, kappa = 1. One evaluation for each level.

    The mean z is right at low levels only, where X given X_s = x is as wide as s. But with zeta > 0 every step adds new
    noise, and with many steps those at low levels are Langevin's, ``x + h (z - x) + sqrt(zeta) s n`` with
    ``h = 1 - sqrt(1 - zeta)``. They forget the high levels, and lead to the posterior for noise ``sqrt(lambda) eta`` at
    the temperature ``T = zeta / (2 h) = (1 + sqrt(1 - zeta)) / 2``: for a Gaussian prior the mean is right if
    lambda = 1, and the covariance is T times the exact one, from 1/2 for zeta = 1 to 1 as zeta goes to 0, which takes
    1 / zeta times as many steps. With zeta = 0 nothing is forgotten.

    Source: Zhu et al. 2023, arXiv 2305.08995, algorithm 1 with ``rho = lambda eta^2 / s^2``, eq. 11 to 13.
    """

    needs = Needs(linear=True, noise=("gaussian", "none"), copies=16)
    repeats_levels = False

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        self.check(measurement)
        assert measurement is not None
        levels = decreasing(sigmas).tolist()
        steps: list[StepSize] = []
        temperatures = []
        for s, p in pairs(levels):
            c, temperature = renewed(s, p, self.stochasticity)
            steps.append(
                PreconditionedStep(measurement.operator, s, measurement.std, c, self.strength, "white", rough=False)
            )
            temperatures.append(self.strength * temperature)
        return Plan(levels, steps, temperatures)
