"""Pseudoinverse-guided diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from randomwalk.config.samplers import PiGDMSettings
from randomwalk.samplers.posterior.steps import ddim
from randomwalk.samplers.sampler import Needs, Problem, Sampler


class PiGDM(Sampler, PiGDMSettings):
    """DDIM with the conditional score, in which X given X_s = x is taken for ``Normal(D(x, s), r^2 I)``:

        r^2 = s^2 d^2 / (s^2 + d^2)
        g   = J^T A^T (r^2 A A^T + eta^2)^-1 (y - A D),    J = dD/dx: the gradient of log p(y | x), J held fixed in r
        x'  = DDIM(x, D + s^2 g)

    with d the standard deviation of the data. For exact measurements the inverse is ``A^+ (y - A D) / r^2``. One
    evaluation and one backward pass for each level.

    With many steps its distribution becomes exact, at first order, if the prior is Normal(m, d^2 I), whose r this is.
    For any other prior a bias remains: the covariance of X given x is not a multiple of I.

    At levels far above d, ``s^2 g`` multiplies the errors of a network's Jacobian by s^2, which can grow from step to
    step until the state overflows: start at a few times d, or take the adaptive weight.

    With ``adaptive_weight``, as in the paper's algorithm 1, ``x' = DDIM(x, D) + r^2 g``: the weight of the guidance is
    r^2, and not that of the score in the step of DDIM, ``(1 - sqrt(p^2 - v^2) / s) s^2``. A step of guidance then does
    not shrink with the step. With many steps A x goes to y, including its noise, and the spread of A x to 0.

    Source: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems" (ICLR), section 3 and
    algorithm 1, where d = 1: ``r^2 = 1 - alpha_bar``.
    """

    needs = Needs(linear=True, gradient=True, noise=("gaussian", "none"))

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        r2 = sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2)
        denoised, product = problem.denoiser.linearized(x, sigma)
        # The proximal map of 0 is r^2 A^T (r^2 A A^T + eta^2)^-1 times its measurement.
        residual = problem.residual(denoised)
        explained = problem.operator.proximal(torch.zeros_like(x), residual, problem.eta, math.sqrt(r2))
        g = product(explained / r2)
        if self.adaptive_weight:
            return ddim(problem, x, denoised, sigma, sigma_next, self.stochasticity) + r2 * g
        return ddim(problem, x, denoised + sigma**2 * g, sigma, sigma_next, self.stochasticity)
