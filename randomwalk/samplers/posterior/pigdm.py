"""Pseudoinverse-guided diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import ddim, pairs


@dataclass(frozen=True, kw_only=True)
class PiGDM(PosteriorSampler):
    """DDIM with the conditional score, in which X given X_s = x is taken for ``Normal(D(x, s), r^2 I)``:

        r^2 = s^2 d^2 / (s^2 + d^2)
        g   = J^T A^T (r^2 A A^T + eta^2)^-1 (y - A D),    J = dD/dx: the gradient of log p(y | x), J held fixed in r
        x'  = DDIM(x, D + s^2 g)

    with d the standard deviation of the data. For exact measurements the inverse is ``A^+ (y - A D) / r^2``. One
    evaluation and one backward pass for each level.

    As the steps grow many its law becomes exact, at first order, if the prior is Normal(m, d^2 I), whose r this is.
    For any other prior a bias is left: the covariance of X given x is no multiple of I.

    At levels far above d, ``s^2 g`` multiplies the errors of a network's Jacobian by s^2, which can grow from step to
    step until nothing is finite: start at a few times d, or take the adaptive weight.

    With ``adaptive_weight``, as in the paper's algorithm 1, ``x' = DDIM(x, D) + r^2 g``: the score is weighted by r^2,
    and not by what it has in the step of DDIM, ``(1 - sqrt(p^2 - v^2) / s) s^2``. A step of guidance then does not
    shrink with the step. As the steps grow many, A x goes to y, with the noise in it, and its spread to 0.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems" (ICLR), section 3 and
    algorithm 1, where d = 1: ``r^2 = 1 - alpha_bar``.

    Args:
        stochasticity: of the DDIM step, from 0 (deterministic) to 1 (DDPM).
        data_std: d, in [-1, 1] pixel units.
        adaptive_weight: see above.
    """

    needs: ClassVar[Needs] = Needs(linear=True, gradient=True, noise=("gaussian", "none"))

    stochasticity: float = 1.0
    data_std: float = 1.0
    adaptive_weight: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")
        require(self.data_std > 0, "data_std", self.data_std, "a positive number")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        x = levels[0] * problem.normal()
        for k, (s, p) in enumerate(pairs(levels)):
            r2 = s**2 * self.data_std**2 / (s**2 + self.data_std**2)
            denoised, product = problem.denoiser.linearized(x, s)
            # The proximal map of 0 is r^2 A^T (r^2 A A^T + eta^2)^-1 times its measurement.
            explained = problem.operator.proximal(
                torch.zeros_like(x), problem.residual(denoised), problem.eta, math.sqrt(r2)
            )
            g = product(explained / r2)
            if self.adaptive_weight:
                x = ddim(problem, x, denoised, s, p, self.stochasticity) + r2 * g
            else:
                x = ddim(problem, x, denoised + s**2 * g, s, p, self.stochasticity)
            callback(k, x, s)
        return x
