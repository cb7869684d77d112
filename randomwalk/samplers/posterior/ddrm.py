"""Denoising diffusion restoration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from randomwalk.config.samplers import DDRMSettings
from randomwalk.samplers.posterior.steps import Mask, seen
from randomwalk.samplers.sampler import Callback, Needs, Problem, Sampler, pairs


class DDRM(Sampler, DDRMSettings):
    """Diffusion in the singular basis of A, in which each coordinate is measured alone, with noise eta / a.

    For a coordinate with the singular value a, ``z = (A^+ y)`` there and D = D(x, s), from level s to p:

        a = 0           x' = D + sqrt(1 - c^2) p (x - D) / s + c p n
        p < eta / a     x' = D + sqrt(1 - c^2) p (z - D) / (eta / a) + c p n
        p >= eta / a    x' = D + b (z - D) + sqrt(p^2 - b^2 eta^2 / a^2) n

    from a start ``z + sqrt(s^2 - eta^2 / a^2) n`` where ``s >= eta / a``, otherwise ``s n``. In terms of images each
    line is a function of ``A^T A``. One evaluation for each level.

    It is for few steps (20 in the paper): unlike DDIM's, each adds new noise in the proportion c however short it is.
    With many steps, coordinates with a = 0 lose spread, down to ``(1 + sqrt(1 - c^2)) / 2`` of the variance (0.76), and
    the measured ones go to z, including its noise, and their spread to 0, if c < 1; with c = 1 they forget y. Only
    c = 0 is right in the limit, for coordinates with a = 0 that are independent of the measured ones under the prior.

    Source: Kawar et al. 2022, arXiv 2201.11793, eq. 4, 7 and 8.
    """

    needs = Needs(linear=True, spectral=True, noise=("gaussian", "none"))

    def run(self, problem: Problem, x: Tensor, callback: Callback) -> Tensor:
        z, measured = problem.operator.pinv(problem.measurement.y), seen(problem.operator)
        for k, (sigma, sigma_next) in enumerate(pairs(problem.levels)):
            x = self._step(problem, x, z, measured, sigma, sigma_next)
            callback(k, x, sigma)
        return x

    def begin(self, problem: Problem) -> Tensor:
        """The state at the first level: z where it is more precise than that, with the noise that is missing."""
        spectral, sigma, eta = problem.operator.spectral, problem.levels[0], problem.eta
        z, measured = problem.operator.pinv(problem.measurement.y), seen(problem.operator)

        def known(t: Tensor) -> Tensor:
            return measured(t) & (sigma * t.sqrt() >= eta)

        n = spectral(lambda t: torch.where(known(t), remaining(t, sigma, eta), sigma), problem.normal())
        return n + spectral(lambda t: known(t).to(t), z)

    def _step(self, problem: Problem, x: Tensor, z: Tensor, measured: Mask, sigma: float, sigma_next: float) -> Tensor:
        spectral, eta, p = problem.operator.spectral, problem.eta, sigma_next
        c, b = self.stochasticity, self.stochasticity_measured
        keep = p * math.sqrt(1 - c**2)

        def above(t: Tensor) -> Tensor:
            return p * t.sqrt() >= eta

        def trust(t: Tensor) -> Tensor:
            return torch.where(measured(t), torch.where(above(t), b, keep * t.sqrt() / (eta or 1)), 0)

        def noise(t: Tensor) -> Tensor:
            return torch.where(measured(t) & above(t), remaining(t, p, b * eta), c * p)

        denoised = problem.denoiser(x, sigma)
        unmeasured = spectral(lambda t: (~measured(t)).to(t), x - denoised)
        x = denoised + spectral(trust, z - denoised) + keep / sigma * unmeasured
        return x + spectral(noise, problem.normal()) if p > 0 else x


def remaining(t: Tensor, sigma: float, eta: float) -> Tensor:
    """``sqrt(sigma^2 - eta^2 / t)``, 0 where that is not real: noise to add to a measurement to reach the level."""
    return (sigma**2 - eta**2 / t).clamp_min(0).sqrt() if eta > 0 else torch.full_like(t, sigma)
