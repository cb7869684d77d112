"""Denoising diffusion restoration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.posterior.steps import pairs, seen


@dataclass(frozen=True, kw_only=True)
class DDRM(PosteriorSampler):
    """Diffusion in the singular basis of A, in which each coordinate is measured by itself, with noise eta / a.

    For a coordinate with the singular value a, ``z = (A^+ y)`` there and D = D(x, s), from level s to p:

        a = 0           x' = D + sqrt(1 - c^2) p (x - D) / s + c p n
        p < eta / a     x' = D + sqrt(1 - c^2) p (z - D) / (eta / a) + c p n
        p >= eta / a    x' = D + b (z - D) + sqrt(p^2 - b^2 eta^2 / a^2) n

    from a start ``z + sqrt(s^2 - eta^2 / a^2) n`` where ``s >= eta / a``, otherwise ``s n``. In terms of images each
    line is a function of ``A^T A``. One evaluation for each level.

    For few steps (20 in the paper). The c of every step is new noise however short the step is, unlike that of DDIM.
    With more steps the coordinates with a = 0 lose spread, to ``(1 + sqrt(1 - c^2)) / 2`` of the variance where the
    prior is wide, and the measured ones go to z, with the noise in it, if c < 1 (to the prior's mean if c = 1). Only
    c = 0 is right in the limit, for coordinates with a = 0 that the prior makes independent of the measured ones.

    Source: Kawar et al. 2022, arXiv 2201.11793, eq. 4, 7 and 8.

    Args:
        stochasticity: c.
        stochasticity_measured: b.
    """

    needs: ClassVar[Needs] = Needs(linear=True, spectral=True, noise=("gaussian", "none"))

    stochasticity: float = 0.85
    stochasticity_measured: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stochasticity", "stochasticity_measured"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")

    def run(self, problem: Problem, callback: Callback) -> Tensor:
        levels, spectral = self.levels(), problem.operator.spectral
        z, measured, eta = problem.operator.pinv(problem.y), seen(problem.operator), problem.eta
        keep = math.sqrt(1 - self.stochasticity**2)

        def toward_z(t: Tensor, p: float) -> Tensor:
            above = torch.where(p * t.sqrt() >= eta, self.stochasticity_measured, keep * p * t.sqrt() / (eta or 1))
            return torch.where(measured(t), above, 0)

        def noise(t: Tensor, p: float) -> Tensor:
            left = remaining(t, p, self.stochasticity_measured * eta)
            return torch.where(measured(t) & (p * t.sqrt() >= eta), left, self.stochasticity * p)

        x = self._start(problem, z, levels[0])
        for k, (s, p) in enumerate(pairs(levels)):
            denoised = problem.denoiser(x, s)
            unmeasured = spectral(lambda t: (~measured(t)).to(t), x - denoised)
            x = denoised + spectral(lambda t, p=p: toward_z(t, p), z - denoised) + keep * p / s * unmeasured
            if p > 0:
                x = x + spectral(lambda t, p=p: noise(t, p), problem.normal())
            callback(k, x, s)
        return x

    def _start(self, problem: Problem, z: Tensor, s: float) -> Tensor:
        measured, eta = seen(problem.operator), problem.eta

        def known(t: Tensor) -> Tensor:
            return measured(t) & (s * t.sqrt() >= eta)

        n = problem.operator.spectral(lambda t: torch.where(known(t), remaining(t, s, eta), s), problem.normal())
        return n + problem.operator.spectral(lambda t: known(t).to(t), z)


def remaining(t: Tensor, p: float, eta: float) -> Tensor:
    """``sqrt(p^2 - eta^2 / t)``, 0 where that is not real: the noise that level p has and a measurement has not."""
    return (p**2 - eta**2 / t).clamp_min(0).sqrt() if eta > 0 else torch.full_like(t, p)
