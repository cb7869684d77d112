"""Denoising diffusion restoration."""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.config.samplers import DDRMSettings
from randomwalk.operators import Measurement
from randomwalk.samplers.posterior.steps import SingularStep, remaining, seen
from randomwalk.samplers.sampler import Needs, Problem, Sigmas, decreasing, pairs
from randomwalk.samplers.walk import Plan
from randomwalk.samplers.walks import WalkSampler


class DDRM(WalkSampler, DDRMSettings):
    """Diffusion in the singular basis of A, in which each coordinate is measured alone, with noise eta / a.

    A walk by `SingularStep`, with the stochasticity c, and b = ``stochasticity_measured``; ``z = A^+ y``. In a
    coordinate with the singular value a, from level s to p:

        a = 0           x' = D + sqrt(1 - c^2) p (x - D) / s + c p n
        p < eta / a     x' = D + sqrt(1 - c^2) p (z - D) / (eta / a) + c p n
        p >= eta / a    x' = D + b (z - D) + sqrt(p^2 - b^2 eta^2 / a^2) n

    from a start ``z + sqrt(s^2 - eta^2 / a^2) n`` where ``s >= eta / a``, otherwise ``s n``. One evaluation for each
    level.

    It is for few steps (20 in the paper): unlike DDIM's, each adds new noise in the proportion c however short it is.
    With many steps, coordinates with a = 0 lose spread, down to ``(1 + sqrt(1 - c^2)) / 2`` of the variance (0.76), and
    the measured ones go to z, including its noise, and their spread to 0, if c < 1; with c = 1 they forget y. Only
    c = 0 is right in the limit, for coordinates with a = 0 that are independent of the measured ones under the prior.

    Source: Kawar et al. 2022, arXiv 2201.11793, eq. 4, 7 and 8.
    """

    needs = Needs(linear=True, spectral=True, noise=("gaussian", "none"))
    repeats_levels = False

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        self.check(measurement)
        assert measurement is not None
        levels, z = decreasing(sigmas).tolist(), measurement.operator.pinv(measurement.y)
        c, b = self.stochasticity, self.stochasticity_measured
        steps = [SingularStep(measurement.operator, z, s, p, measurement.std, c, b) for s, p in pairs(levels)]
        return Plan(levels, list(steps), [step.temperature for step in steps])

    def begin(self, problem: Problem) -> Tensor:
        """The state at the first level: z where it is more precise than that, with the noise that is missing."""
        spectral, sigma, eta = problem.operator.spectral, problem.levels[0], problem.eta
        z, measured = problem.operator.pinv(problem.measurement.y), seen(problem.operator)

        def known(t: Tensor) -> Tensor:
            return measured(t) & (sigma * t.sqrt() >= eta)

        n = spectral(lambda t: torch.where(known(t), remaining(t, sigma, eta), sigma), problem.normal())
        return n + spectral(lambda t: known(t).to(t), z)
