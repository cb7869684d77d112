"""Steps from one noise level to the next, shared by the samplers of the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.operators import Operator
from randomwalk.samplers.sampler import Problem

Mask = Callable[[Tensor], Tensor]

RCOND = 1e-4
"""Singular values below this share of the largest are 0."""


def fresh_noise(sigma: float, sigma_next: float, stochasticity: float) -> float:
    """Standard deviation v of the noise that DDIM adds from level s to p: ``v^2 = c^2 p^2 (s^2 - p^2) / s^2``.

    Source: Song et al. 2021, arXiv 2010.02502, eq. 16, in VE coordinates; c = 1 is DDPM.
    """
    return stochasticity * sigma_next * math.sqrt(sigma**2 - sigma_next**2) / sigma


def ddim(problem: Problem, x: Tensor, clean: Tensor, sigma: float, sigma_next: float, stochasticity: float) -> Tensor:
    """DDIM's step from level s to p, ``clean + sqrt(p^2 - v^2) (x - clean) / s + v n``.

    Args:
        problem: draws n.
        x: the state, ``[B, C, H, W]``.
        clean: estimate of the clean image, such as D(x, s).
        sigma, sigma_next: s and p.
        stochasticity: c; 0 is deterministic, 1 is DDPM.
    """
    v = fresh_noise(sigma, sigma_next, stochasticity)
    moved = clean + math.sqrt(sigma_next**2 - v**2) / sigma * (x - clean)
    return moved + v * problem.normal() if v > 0 else moved


def seen(operator: Operator) -> Mask:
    """Mask of the eigenvalues of ``A^T A`` that count as not 0, ``t -> mask``; pseudo-inverses use only these."""
    largest = operator.norm() ** 2
    return lambda t: t > max(RCOND**2, 10 * torch.finfo(t.dtype).eps) * largest
