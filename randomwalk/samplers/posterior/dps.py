"""Diffusion posterior sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import ddim, pairs


@dataclass(frozen=True, kw_only=True)
class DPS(PosteriorSampler):
    """A step of DDIM, then one down the slope of the residual's norm. From level s to p, with D = D(x, s):

        x' = DDIM(x, D) - zeta sqrt((1 + s^2) (1 + p^2)) grad_x ||y - A(D(x, s))||

    The square root is what turns the paper's step, which is made in the coordinates ``x / sqrt(1 + s^2)``, into ours.
    The norm is that of one sample. One evaluation and one backward pass for each level; A may be nonlinear.

    Not a sampler of the posterior, and not a discretisation of anything: a step of guidance has the length zeta
    however many steps there are, and eta appears nowhere. With enough steps ``||y - A x||`` arrives at 0, whatever the
    noise, and the last steps throw it back and forth over it: where A has the singular value a, it ends at about half
    of ``zeta a^2``. That, and not eta, is the spread of A x, so that zeta is to be chosen for an operator, an eta and a
    number of steps.

    Source: Chung et al. 2023, arXiv 2209.14687, algorithm 1. There the step is ``zeta / ||r||`` times the gradient of
    ``||r||^2``, twice that; the code released with it, whose values of zeta people use, has the gradient of ``||r||``.

    Args:
        guidance: zeta.
        stochasticity: of the DDIM step: 1 is DDPM (the paper's), 0 deterministic.
    """

    needs: ClassVar[Needs] = Needs(gradient=True, noise=("gaussian", "none"))

    guidance: float = 1.0
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.guidance >= 0, "guidance", self.guidance, "a number of at least 0")
        require(0 <= self.stochasticity <= 1, "stochasticity", self.stochasticity, "a number from 0 to 1")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels = self.levels()
        x = levels[0] * problem.normal()
        for k, (s, p) in enumerate(pairs(levels)):
            denoised, product = problem.denoiser.linearized(x, s)
            slope = product(residual_slope(problem, denoised))
            scale = self.guidance * math.sqrt((1 + s**2) * (1 + p**2))
            x = ddim(problem, x, denoised, s, p, self.stochasticity) - scale * slope
            callback(k, x, s)
        return x


def residual_slope(problem: Problem, clean: Tensor) -> Tensor:
    """``grad ||y - A(clean)||``, of each sample by itself; 0 where the residual is."""
    with torch.enable_grad():
        clean = clean.detach().requires_grad_()
        norms = torch.linalg.vector_norm(problem.residual(clean).flatten(1), dim=1)
        return torch.autograd.grad(norms.sum(), clean)[0]
