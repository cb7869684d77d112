"""Denoising diffusion null-space model, for noisy measurements and with time travel."""

from __future__ import annotations

import math

from randomwalk.config.samplers import DDNMPlusSettings
from randomwalk.operators import Measurement
from randomwalk.samplers.posterior.steps import SingularStep
from randomwalk.samplers.sampler import Needs, Sigmas, decreasing
from randomwalk.samplers.walk import Plan
from randomwalk.samplers.walks import WalkSampler


class DDNMPlus(WalkSampler, DDNMPlusSettings):
    """The measurement replaces the measured part of the denoised image. From level s to p, with D = D(x, s):

        z  = D + L (A^+ y - A^+ A D)
        x' = z + E (x - D) / s + F n

    L, E and F are functions of ``A^T A``: G, E and F of `SingularStep`, with the stochasticity c and b = 1. For exact
    y, eta = 0, E and F are ``sqrt(1 - c^2) p`` and ``c p`` in every direction.

    Time travel: when x arrives at every l-th level from the last, it goes back l levels, by new noise, r - 1 times,
    with l = ``travel_length`` and r = ``travel_repeats``. One evaluation for each step, repeated ones included.

    For noisy measurements these are the equations of DDRM with b = 1, here from a start independent of y; the remarks
    there about many steps hold here. Time travel makes more steps of the same kind.

    Source: Wang et al. 2023, arXiv 2212.00490: section 3.3, and the appendix on the singular value decomposition for
    its form with DDIM; r and l as in the code released with it. That code starts the travel from D, which
    loses the spread of X given x; here, as in the paper's algorithm 2, it starts from x.
    """

    needs = Needs(linear=True, spectral=True, noise=("gaussian", "none"), copies=16)
    repeats_levels = False

    def num_steps(self, num_levels: int) -> int:
        return len(self.path(num_levels))

    def path(self, num_levels: int) -> list[tuple[int, int]]:
        """``(k, j)`` for each step: it goes from level k to level k + 1, and its result back to level j <= k + 1."""
        length = self.travel_length
        left = {num_levels - 1 - t: self.travel_repeats - 1 for t in range(0, num_levels - length, length)}
        steps, k = [], 0
        while k < num_levels:
            arrived = k + 1
            back = left.get(arrived, 0) > 0
            if back:
                left[arrived] -= 1
            steps.append((k, arrived - length if back else arrived))
            k = steps[-1][1]
        return steps

    def plan(self, sigmas: Sigmas, measurement: Measurement | None = None) -> Plan:
        self.check(measurement)
        assert measurement is not None
        operator, eta = measurement.operator, measurement.std
        z, levels = operator.pinv(measurement.y), [*decreasing(sigmas).tolist(), 0.0]
        steps = []
        for k, j in self.path(len(levels) - 1):
            s, p = levels[k], levels[k + 1]
            travel = math.sqrt(levels[j] ** 2 - p**2)
            steps.append(SingularStep(operator, z, s, p, eta, self.stochasticity, keeps_all=eta == 0, travel=travel))
        return Plan([step.sigma for step in steps], list(steps), [step.temperature for step in steps])
