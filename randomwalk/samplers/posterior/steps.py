"""What the diffusion samplers of a posterior share: the step from one noise level to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from randomwalk.operators import Operator
from randomwalk.samplers.posterior.sampler import Problem

Mask = Callable[[Tensor], Tensor]

RCOND = 1e-4
"""Singular values below this share of the largest are 0."""


def pairs(levels: Sequence[float]) -> list[tuple[float, float]]:
    """``(s, p)`` of each step: the noise level, and the next one, 0 after the last."""
    return list(zip(levels, [*levels[1:], 0.0], strict=True))


def fresh_noise(s: float, p: float, stochasticity: float) -> float:
    """Standard deviation v of the noise that DDIM adds on the way from s to p: ``v^2 = c^2 p^2 (s^2 - p^2) / s^2``.

    Source: Song et al. 2021, arXiv 2010.02502, eq. 16, in VE coordinates; c = 1 is DDPM.
    """
    return stochasticity * p * math.sqrt(s**2 - p**2) / s


def ddim(problem: Problem, x: Tensor, clean: Tensor, s: float, p: float, stochasticity: float) -> Tensor:
    """DDIM's step from level s to p, ``clean + sqrt(p^2 - v^2) (x - clean) / s + v n``.

    Args:
        problem: where n comes from.
        x: the state, ``[B, C, H, W]``.
        clean: the image that is thought to be under the noise in x.
        stochasticity: 0 deterministic, 1 DDPM.
    """
    v = fresh_noise(s, p, stochasticity)
    moved = clean + math.sqrt(p**2 - v**2) / s * (x - clean)
    return moved + v * problem.normal() if v > 0 else moved


def seen(operator: Operator) -> Mask:
    """Which eigenvalues of ``A^T A`` count as not 0, ``t -> mask``: those of which pseudo-inverses make use."""
    largest = operator.norm() ** 2
    return lambda t: t > max(RCOND**2, 10 * torch.finfo(t.dtype).eps) * largest
