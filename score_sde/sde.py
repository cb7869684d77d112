"""Base class of the stochastic differential equations in :mod:`score_sde.sdes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(z, t)``: gradient of the log density of z_t."""


def broadcast(value: Tensor, z: Tensor) -> Tensor:
    """Reshape a coefficient, 0-dim or one for each sample ``[B]``, to multiply ``z [B, ...]``."""
    value = value.to(z)
    return value.reshape(-1, *[1] * (z.ndim - 1)) if value.ndim else value


def float64(t: float | Tensor) -> Tensor:
    """Convert numbers to a float64 tensor."""
    return torch.as_tensor(t, dtype=torch.float64)


@dataclass(frozen=True)
class Level:
    """Times and the coefficients a and s at these; float64, 0-dim or ``[B]``."""

    t: Tensor
    a: Tensor
    s: Tensor

    @property
    def sigma(self) -> Tensor:
        """Noise level in variance-exploding coordinates, s / a."""
        return self.s / self.a

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, index: Any) -> Level:
        return Level(self.t[index], self.a[index], self.s[index])

    @classmethod
    def clean(cls) -> Level:
        """Level of the data: t = 0, a = 1, s = 0."""
        return cls(*torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@dataclass(frozen=True)
class SDE:
    """Linear SDE; a subclass defines ``rate``, ``diffusion``, ``log_mean_coefficient``, ``std`` and ``time``.

    Times are numbers or tensors, 0-dim or one for each sample ``[B]``.

    Attributes:
        preserves_variance: whether a^2 + s^2 = 1, so that data of variance 1 keep it.
    """

    preserves_variance: ClassVar[bool] = False

    @property
    def T(self) -> float:  # noqa: N802
        """Final time."""
        return 1.0

    def rate(self, t: Tensor) -> Tensor:
        """Rate b(t) of the drift -b(t) z / 2."""
        raise NotImplementedError

    def diffusion(self, t: float | Tensor) -> Tensor:
        """Diffusion coefficient g(t), float64."""
        raise NotImplementedError

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        """Logarithm of the mean coefficient, ln a(t)."""
        raise NotImplementedError

    def std(self, t: float | Tensor) -> Tensor:
        """Standard deviation s(t) of z_t given the data, float64."""
        raise NotImplementedError

    def time(self, sigma: float | Tensor) -> Tensor:
        """Time at which the noise level s / a is ``sigma``, float64."""
        raise NotImplementedError

    def drift(self, z: Tensor, t: float | Tensor) -> Tensor:
        """Drift f(z, t) = -b(t) z / 2."""
        return broadcast(-0.5 * self.rate(float64(t)), z) * z

    def mean_coefficient(self, t: float | Tensor) -> Tensor:
        """Mean coefficient a(t), float64."""
        return self.log_mean_coefficient(float64(t)).exp()

    def sigma(self, t: float | Tensor) -> Tensor:
        """Noise level s(t) / a(t) in variance-exploding coordinates, float64."""
        return self.std(t) / self.mean_coefficient(t)

    def marginal(self, x0: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``a(t) x0`` and standard deviation s(t) of z_t given the data ``x0 [B, ...]``."""
        return broadcast(self.mean_coefficient(t), x0) * x0, self.std(t)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the normal distribution from which sampling starts."""
        return 1.0

    def sample_prior(self, noise: Tensor) -> Tensor:
        """Draws of z_T, given standard normal ``noise``."""
        return self.prior_std * noise

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """Log density of Normal(0, prior_std^2 I) at ``z [B, ...]``, ``[B]``."""
        log_scale = z[0].numel() / 2 * math.log(2 * math.pi * self.prior_std**2)
        return -z.flatten(1).square().sum(1) / (2 * self.prior_std**2) - log_scale

    def level(self, t: float | Tensor) -> Level:
        """Coefficients at the time t."""
        t = float64(t)
        return Level(t, self.mean_coefficient(t), self.std(t))

    def levels(self, num: int) -> Level:
        """Levels of a discrete chain, ``[num]``, ascending, the first one above the data."""
        return self.level(torch.linspace(self.T / num, self.T, num, dtype=torch.float64))

    def discretize(self, z: Tensor, level: Level, below: Level) -> tuple[Tensor, Tensor]:
        """Coefficients f and G of the step ``z' = z + f + G n`` of a forward chain, from ``below`` to ``level``.

        The marginals of the chain are those of the levels: ``f = (a / a' - 1) z``, ``G^2 = s^2 - (a / a')^2 s'^2``,
        with a' and s' of ``below``. For VP, ``1 - (a / a')^2`` is DDPM's beta.
        """
        ratio, added = transition(level, below)
        return broadcast(ratio - 1, z) * z, added.sqrt()

    def reverse(self, score: Score) -> Reverse:
        """Reverse SDE, which takes z_T to the data: ``dz = (f - g^2 score) dt + g dw``, backwards in time."""
        return Reverse(self, score, 1.0)

    def probability_flow(self, score: Score) -> Reverse:
        """Probability-flow ODE, with the same marginals: ``dz = (f - g^2 score / 2) dt``."""
        return Reverse(self, score, 0.0)


def transition(level: Level, below: Level) -> tuple[Tensor, Tensor]:
    """Factor ``a / a'`` and added variance ``s^2 - (a / a')^2 s'^2`` of the exact step from ``below`` to ``level``."""
    ratio = level.a / below.a
    return ratio, (level.s - ratio * below.s) * (level.s + ratio * below.s)


@dataclass(frozen=True)
class Reverse:
    """Time reversal (``noise = 1``) or probability flow (``noise = 0``) of an SDE.

        drift = f - (1 + noise) / 2 g^2 score,    diffusion = noise g

    Source: Anderson 1982; Song et al. 2021, arXiv 2011.13456, eq. 6 and 13.
    """

    sde: SDE
    score: Score
    noise: float

    def drift(self, z: Tensor, t: float | Tensor) -> Tensor:
        """Drift f - (1 + noise) / 2 g^2 score at z and t."""
        g2 = broadcast(self.sde.diffusion(t) ** 2, z)
        return self.sde.drift(z, t) - 0.5 * (1 + self.noise) * g2 * self.score(z, float64(t))

    def diffusion(self, t: float | Tensor) -> Tensor:
        """Diffusion coefficient g(t), or 0 for the flow."""
        return self.noise * self.sde.diffusion(t)
