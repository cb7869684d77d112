"""Denoising diffusion restoration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.samplers.posterior.sampler import Callback, Needs, PosteriorSampler, Problem, require
from randomwalk.samplers.posterior.steps import Mask, pairs, seen


@dataclass(frozen=True, kw_only=True)
class DDRM(PosteriorSampler):
    """Diffusion in the singular basis of A, in which each coordinate is measured by itself, with noise eta / a.

    For a coordinate with the singular value a, ``z = (A^+ y)`` there and D = D(x, s), from level s to p:

        a = 0           x' = D + sqrt(1 - c^2) p (x - D) / s + c p n
        p < eta / a     x' = D + sqrt(1 - c^2) p (z - D) / (eta / a) + c p n
        p >= eta / a    x' = D + b (z - D) + sqrt(p^2 - b^2 eta^2 / a^2) n

    from a start ``z + sqrt(s^2 - eta^2 / a^2) n`` where ``s >= eta / a``, otherwise ``s n``. In terms of images each
    line is a function of ``A^T A``. One evaluation for each level.

    For few steps (20 in the paper): each adds new noise in the proportion c however short it is, unlike DDIM's. As the
    steps grow many, coordinates with a = 0 lose spread, down to ``(1 + sqrt(1 - c^2)) / 2`` of the variance (0.76),
    and the measured ones go to z, with the noise in it, and their spread to 0, if c < 1; with c = 1 they forget y. Only
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
        levels, z, measured = self.levels(), problem.operator.pinv(problem.y), seen(problem.operator)
        x = self._start(problem, z, measured, levels[0])
        for k, (s, p) in enumerate(pairs(levels)):
            x = self._step(problem, x, z, measured, s, p)
            callback(k, x, s)
        return x

    def _start(self, problem: Problem, z: Tensor, measured: Mask, s: float) -> Tensor:
        spectral, eta = problem.operator.spectral, problem.eta

        def known(t: Tensor) -> Tensor:
            return measured(t) & (s * t.sqrt() >= eta)

        n = spectral(lambda t: torch.where(known(t), remaining(t, s, eta), s), problem.normal())
        return n + spectral(lambda t: known(t).to(t), z)

    def _step(self, problem: Problem, x: Tensor, z: Tensor, measured: Mask, s: float, p: float) -> Tensor:
        spectral, eta = problem.operator.spectral, problem.eta
        c, b = self.stochasticity, self.stochasticity_measured
        keep = p * math.sqrt(1 - c**2)

        def above(t: Tensor) -> Tensor:
            return p * t.sqrt() >= eta

        def trust(t: Tensor) -> Tensor:
            return torch.where(measured(t), torch.where(above(t), b, keep * t.sqrt() / (eta or 1)), 0)

        def noise(t: Tensor) -> Tensor:
            return torch.where(measured(t) & above(t), remaining(t, p, b * eta), c * p)

        denoised = problem.denoiser(x, s)
        unmeasured = spectral(lambda t: (~measured(t)).to(t), x - denoised)
        x = denoised + spectral(trust, z - denoised) + keep / s * unmeasured
        return x + spectral(noise, problem.normal()) if p > 0 else x


def remaining(t: Tensor, p: float, eta: float) -> Tensor:
    """``sqrt(p^2 - eta^2 / t)``, 0 where that is not real: the noise that level p has and a measurement has not."""
    return (p**2 - eta**2 / t).clamp_min(0).sqrt() if eta > 0 else torch.full_like(t, p)
