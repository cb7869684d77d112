"""Denoising diffusion null-space model, for noisy measurements and with time travel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.samplers.posterior.ddrm import remaining
from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import Mask, seen


@dataclass(frozen=True, kw_only=True)
class DDNMPlus(PosteriorSampler):
    """The measurement replaces what it sees of the denoised image. From level s to p, with D = D(x, s):

        z  = D + L (A^+ y - A^+ A D)
        x' = z + E (x - D) / s + F n

    L, E and F are functions of ``A^T A``; in a coordinate with the singular value a they are, c the stochasticity,

        a = 0           0                               sqrt(1 - c^2) p     c p
        p < eta / a     sqrt(1 - c^2) p / (eta / a)     0                   c p
        p >= eta / a    1                               0                   sqrt(p^2 - eta^2 / a^2)
        eta = 0 < a     1                               sqrt(1 - c^2) p     c p

    Time travel: when x arrives at every l-th level from the last, it goes back l levels, by new noise, r - 1 times.
    One evaluation for each step; a step is repeated for each time that it is travelled.

    For noisy measurements these are the equations of DDRM with b = 1, here from a start that knows nothing of y; all
    that is said there about many steps holds here. Travelling makes more steps of the same kind.

    Source: Wang et al. 2023, arXiv 2212.00490: section 3.3, and the appendix on the singular value decomposition for
    what it becomes with DDIM; r and l as in the code released with it. That code starts the travel from D, which
    loses the spread of X given x; here, as in the paper's algorithm 2, it starts from x.

    Args:
        stochasticity: c, from 0 to 1.
        travel_length: l, in levels.
        travel_repeats: r; 1 does not travel.
    """

    needs: ClassVar[Needs] = Needs(linear=True, spectral=True, noise=("gaussian", "none"))

    stochasticity: float = 0.85
    travel_length: int = 1
    travel_repeats: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")
        for name in ("travel_length", "travel_repeats"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "a positive integer")

    @property
    def num_steps(self) -> int:
        return len(self.path())

    def path(self) -> list[tuple[int, int]]:
        """``(k, j)`` for each step: it goes from level k to level k + 1, and its result back to level j <= k + 1."""
        num, length = len(self.levels()), self.travel_length
        left = {num - 1 - t: self.travel_repeats - 1 for t in range(0, num - length, length)}
        steps, k = [], 0
        while k < num:
            arrived = k + 1
            back = left.get(arrived, 0) > 0
            if back:
                left[arrived] -= 1
            steps.append((k, arrived - length if back else arrived))
            k = steps[-1][1]
        return steps

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = [*self.levels(), 0.0]
        z, measured = problem.operator.pinv(problem.y), seen(problem.operator)
        x = levels[0] * problem.normal()
        for step, (k, j) in enumerate(self.path()):
            x = self._step(problem, x, z, measured, levels[k], levels[k + 1])
            if j <= k:
                x = x + math.sqrt(levels[j] ** 2 - levels[k + 1] ** 2) * problem.normal()
            callback(step, x, levels[k])
        return x

    def _step(self, problem: Problem, x: Tensor, z: Tensor, measured: Mask, s: float, p: float) -> Tensor:
        spectral, eta, c = problem.operator.spectral, problem.eta, self.stochasticity
        keep = p * math.sqrt(1 - c**2)

        def above(t: Tensor) -> Tensor:
            return p * t.sqrt() >= eta

        def trust(t: Tensor) -> Tensor:
            return torch.where(measured(t), torch.where(above(t), 1, keep * t.sqrt() / (eta or 1)), 0)

        def noise(t: Tensor) -> Tensor:
            replaced = measured(t) & above(t) & (eta > 0)
            return torch.where(replaced, remaining(t, p, eta), c * p)

        denoised = problem.denoiser(x, s)
        move = keep / s * (x - denoised)
        if eta > 0:
            move = spectral(lambda t: (~measured(t)).to(t), move)
        x = denoised + spectral(trust, z - denoised) + move
        return x + spectral(noise, problem.normal()) if p > 0 else x
