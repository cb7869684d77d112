"""Diffusion posterior sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from randomwalk.config.samplers import DPSSettings
from randomwalk.samplers.posterior.steps import ddim
from randomwalk.samplers.sampler import Needs, Problem, Sampler


class DPS(Sampler, DPSSettings):
    """A step of DDIM, then one down the slope of the residual's norm. From level s to p, with D = D(x, s):

        x' = DDIM(x, D) - zeta sqrt((1 + s^2) (1 + p^2)) grad_x ||y - A(D(x, s))||

    The square root is what turns the paper's step, which is made in the coordinates ``x / sqrt(1 + s^2)``, into ours.
    The norm is that of one sample. One evaluation and one backward pass for each level; A may be nonlinear.

    This is not a sampler of the posterior, and not a discretisation of an equation: a step of guidance has the length
    zeta whatever the number of steps, and eta does not appear. With enough steps ``||y - A x||`` reaches 0, whatever
    the noise, and the last steps oscillate around zero residual: where A has the singular value a, it ends at about
    half of ``zeta a^2``. That, and not eta, is the spread of A x, so zeta must be chosen for the operator, eta and the
    number of steps.

    Source: Chung et al. 2023, arXiv 2209.14687, algorithm 1. There the step is ``zeta / ||r||`` times the gradient of
    ``||r||^2``, twice that; the code released with it, whose values of zeta people use, has the gradient of ``||r||``.
    """

    needs = Needs(gradient=True, noise=("gaussian", "none"))

    def step(self, problem: Problem, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        denoised, product = problem.denoiser.linearized(x, sigma)
        slope = product(residual_slope(problem, denoised))
        scale = self.guidance * math.sqrt((1 + sigma**2) * (1 + sigma_next**2))
        return ddim(problem, x, denoised, sigma, sigma_next, self.stochasticity) - scale * slope


def residual_slope(problem: Problem, clean: Tensor) -> Tensor:
    """``grad ||y - A(clean)||``, of each sample by itself; 0 where the residual is."""
    with torch.enable_grad():
        clean = clean.detach().requires_grad_()
        norms = torch.linalg.vector_norm(problem.residual(clean).flatten(1), dim=1)
        return torch.autograd.grad(norms.sum(), clean)[0]
