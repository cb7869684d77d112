"""Denoising diffusion null-space model, for noisy measurements and with time travel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from randomwalk.config.samplers import DDNMPlusSettings
from randomwalk.samplers.posterior.ddrm import remaining
from randomwalk.samplers.posterior.steps import Mask, seen
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler


class DDNMPlus(Sampler, DDNMPlusSettings):
    """The measurement replaces the measured part of the denoised image. From level s to p, with D = D(x, s):

        z  = D + L (A^+ y - A^+ A D)
        x' = z + E (x - D) / s + F n

    L, E and F are functions of ``A^T A``; in a coordinate with the singular value a they are, c the stochasticity,

        a = 0           0                               sqrt(1 - c^2) p     c p
        p < eta / a     sqrt(1 - c^2) p / (eta / a)     0                   c p
        p >= eta / a    1                               0                   sqrt(p^2 - eta^2 / a^2)
        eta = 0 < a     1                               sqrt(1 - c^2) p     c p

    Time travel: when x arrives at every l-th level from the last, it goes back l levels, by new noise, r - 1 times,
    with l = ``travel_length`` and r = ``travel_repeats``. One evaluation for each step, repeated ones included.

    For noisy measurements these are the equations of DDRM with b = 1, here from a start independent of y; the remarks
    there about many steps hold here. Time travel makes more steps of the same kind.

    Source: Wang et al. 2023, arXiv 2212.00490: section 3.3, and the appendix on the singular value decomposition for
    its form with DDIM; r and l as in the code released with it. That code starts the travel from D, which
    loses the spread of X given x; here, as in the paper's algorithm 2, it starts from x.
    """

    needs = Needs(linear=True, spectral=True, noise=("gaussian", "none"), copies=16)

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

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        levels = [*problem.levels, 0.0]
        z, measured = problem.operator.pinv(problem.measurement.y), seen(problem.operator)
        for step, (k, j) in enumerate(self.path(len(problem.levels))):
            x = self._step(problem, x, z, measured, levels[k], levels[k + 1])
            if j <= k:
                x = x + math.sqrt(levels[j] ** 2 - levels[k + 1] ** 2) * problem.normal()
            callback(step, x, levels[k])
        return x

    def _step(self, problem: Problem, x: Tensor, z: Tensor, measured: Mask, sigma: float, sigma_next: float) -> Tensor:
        spectral, eta, c, p = problem.operator.spectral, problem.eta, self.stochasticity, sigma_next
        keep = p * math.sqrt(1 - c**2)

        def above(t: Tensor) -> Tensor:
            return p * t.sqrt() >= eta

        def trust(t: Tensor) -> Tensor:
            return torch.where(measured(t), torch.where(above(t), 1, keep * t.sqrt() / (eta or 1)), 0)

        def noise(t: Tensor) -> Tensor:
            replaced = measured(t) & above(t) & (eta > 0)
            return torch.where(replaced, remaining(t, p, eta), c * p)

        denoised = problem.denoiser(x, sigma)
        move = (x - denoised).mul_(keep / sigma)
        del x
        if eta > 0:
            move = spectral(lambda t: (~measured(t)).to(t), move)
        x = (denoised + spectral(trust, z - denoised)).add_(move)
        del denoised, move
        return x + spectral(noise, problem.normal()) if p > 0 else x
