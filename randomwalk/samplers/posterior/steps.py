"""Steps from one noise level to the next, shared by the samplers of the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from randomwalk.operators import Operator
from randomwalk.samplers.sampler import Problem
from randomwalk.samplers.walk import Draw, HasScore

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


def renewed(sigma: float, sigma_next: float, share: float) -> tuple[float, float]:
    """Scale c and temperature T of steps that renew a share zeta of the variance of the noise, and keep the rest.

    x' = D + sqrt(1 - zeta) p (x - D) / s + sqrt(zeta) p n:    c = 1 - sqrt(1 - zeta) p / s,  2 T c s^2 = zeta p^2
    """
    scale = 1 - math.sqrt(1 - share) * sigma_next / sigma
    return scale, share * sigma_next**2 / (2 * scale * sigma**2)


@dataclass(frozen=True)
class SingularStep:
    """A step in the singular basis of A, in which each coordinate is measured alone, with noise eta / a.

        x' = D + G (z - D) + E (x - D) / s + F n,    z = A^+ y

    D is the denoised image, and G, E and F are functions of ``A^T A``; in a coordinate of the singular value a they
    are, from level s to p, with the stochasticity c and the trust b,

        a = 0           0                               sqrt(1 - c^2) p     c p
        p < eta / a     sqrt(1 - c^2) p / (eta / a)     0                   c p
        p >= eta / a    b                               0                   sqrt(p^2 - b^2 eta^2 / a^2)

    The first line is the step of `renewed` with zeta = c^2.

    Args:
        operator: A, with a spectral decomposition.
        z: ``A^+ y``, one for each row of the state, or one.
        sigma, sigma_next: s and p.
        eta: standard deviation of the measurement noise.
        stochasticity: c.
        trust: b.
        keeps_all: E and F are those of the first line in every coordinate.
        travel: standard deviation of more noise, by which the state goes back to a higher level.
    """

    operator: Operator
    z: Tensor
    sigma: float
    sigma_next: float
    eta: float
    stochasticity: float
    trust: float = 1.0
    keeps_all: bool = False
    travel: float = 0.0
    prior_weight: ClassVar[float] = 1.0

    @property
    def scale(self) -> float:
        """c of the walk, where nothing is measured."""
        return renewed(self.sigma, self.sigma_next, self.stochasticity**2)[0]

    @property
    def temperature(self) -> float:
        """T of the walk, where nothing is measured; `move` has its noise from the step itself."""
        own = renewed(self.sigma, self.sigma_next, self.stochasticity**2)[1]
        return own + self.travel**2 / (2 * self.scale * self.sigma**2)

    def move(self, x: Tensor, score: Tensor, measurement: HasScore | None, temperature: float, draw: Draw) -> Tensor:
        """The state after the step, see :class:`randomwalk.samplers.walk.MatrixStep`."""
        spectral, measured, eta, b, p = (
            self.operator.spectral,
            seen(self.operator),
            self.eta,
            self.trust,
            self.sigma_next,
        )
        keep, fresh = p * math.sqrt(1 - self.stochasticity**2), self.stochasticity * p

        def above(t: Tensor) -> Tensor:
            return p * t.sqrt() >= eta

        def pull(t: Tensor) -> Tensor:
            return torch.where(measured(t), torch.where(above(t), b, keep * t.sqrt() / (eta or 1)), 0)

        def noise(t: Tensor) -> Tensor:
            replaced = measured(t) & above(t) & (not self.keeps_all)
            return torch.where(replaced, remaining(t, p, b * eta), fresh)

        denoised = x + self.sigma**2 * score
        del score
        kept = keep / self.sigma * (x - denoised)
        if not self.keeps_all:
            kept = spectral(lambda t: (~measured(t)).to(t), kept)
        x = (denoised + spectral(pull, self.z - denoised)).add_(kept)
        del denoised, kept  # large pictures: no tensor is kept longer than needed
        x = x + spectral(noise, draw(x)) if p > 0 else x
        return x + self.travel * draw(x) if self.travel > 0 else x


def remaining(t: Tensor, sigma: float, eta: float) -> Tensor:
    """``sqrt(sigma^2 - eta^2 / t)``, 0 where that is not real: noise to add to a measurement to reach the level."""
    return (sigma**2 - eta**2 / t).clamp_min(0).sqrt() if eta > 0 else torch.full_like(t, sigma)


def seen(operator: Operator) -> Mask:
    """Mask of the eigenvalues of ``A^T A`` that count as not 0, ``t -> mask``; pseudo-inverses use only these."""
    largest = operator.norm() ** 2
    return lambda t: t > max(RCOND**2, 10 * torch.finfo(t.dtype).eps) * largest
