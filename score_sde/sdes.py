"""The stochastic differential equations that turn data into noise: OU, VP, sub-VP, VE, and EDM's.

    dz = f(z, t) dt + g(t) dw,    0 <= t <= T,    f(z, t) = -b(t) z / 2

All of them are linear, so what has become of the data x0 by the time t is known in closed form:

    z_t = a(t) x0 + s(t) n,    n ~ Normal(0, I)

``sigma = s / a`` is the noise level of ``z / a = x0 + sigma n``: in these variance-exploding coordinates all SDEs are
one walk at different speeds, and ``sigma`` and ``time`` convert between them. Coefficients are computed in float64 and
without cancellation, so that they are right at any t; whoever multiplies with them chooses the type.

Source: Song et al. 2021, arXiv 2011.13456, section 3 and appendices B to D; Karras et al. 2022, arXiv 2206.00364 (EDM).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""``score(z, t)``, the gradient of the log density of z_t."""


def broadcast(value: Tensor, z: Tensor) -> Tensor:
    """A coefficient, one for all (0-dim) or one for each sample ``[B]``, as a factor of ``z [B, ...]``."""
    value = value.to(z)
    return value.reshape(-1, *[1] * (z.ndim - 1)) if value.ndim else value


@dataclass(frozen=True)
class Level:
    """Times, and the coefficients a and s there; float64, 0-dim or ``[B]``."""

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
        """The data themselves: t = 0, a = 1, s = 0."""
        return cls(*torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@dataclass(frozen=True)
class SDE:
    """Base: a subclass gives ``rate``, ``diffusion``, ``log_mean_coefficient``, ``std`` and ``time``.

    Times are numbers or tensors, one for all (0-dim) or one for each sample ``[B]``.

    Attributes:
        preserves_variance: a^2 + s^2 = 1, so that data of variance 1 keep it.
    """

    preserves_variance: ClassVar[bool] = False

    @property
    def T(self) -> float:  # noqa: N802
        """The end of time."""
        return 1.0

    def rate(self, t: Tensor) -> Tensor:
        """b(t) of the drift -b(t) z / 2."""
        raise NotImplementedError

    def diffusion(self, t: float | Tensor) -> Tensor:
        """g(t), float64."""
        raise NotImplementedError

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        """ln a(t)."""
        raise NotImplementedError

    def std(self, t: float | Tensor) -> Tensor:
        """s(t), float64."""
        raise NotImplementedError

    def time(self, sigma: float | Tensor) -> Tensor:
        """The time at which the noise level s / a is ``sigma``, float64."""
        raise NotImplementedError

    # --- what follows from it ------------------------------------------------------------------------------------

    def drift(self, z: Tensor, t: float | Tensor) -> Tensor:
        """f(z, t) = -b(t) z / 2."""
        return broadcast(-0.5 * self.rate(_float64(t)), z) * z

    def mean_coefficient(self, t: float | Tensor) -> Tensor:
        """a(t), float64."""
        return self.log_mean_coefficient(_float64(t)).exp()

    def sigma(self, t: float | Tensor) -> Tensor:
        """Noise level s(t) / a(t) in variance-exploding coordinates, float64."""
        return self.std(t) / self.mean_coefficient(t)

    def marginal(self, x0: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``a(t) x0`` and standard deviation s(t) of z_t given the data ``x0 [B, ...]``."""
        return broadcast(self.mean_coefficient(t), x0) * x0, self.std(t)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the normal law from which sampling starts."""
        return 1.0

    def sample_prior(self, noise: Tensor) -> Tensor:
        """Draws of z_T from unit draws."""
        return self.prior_std * noise

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """Log density of Normal(0, prior_std^2 I) at ``z [B, ...]``, ``[B]``."""
        log_scale = z[0].numel() / 2 * math.log(2 * math.pi * self.prior_std**2)
        return -z.flatten(1).square().sum(1) / (2 * self.prior_std**2) - log_scale

    def level(self, t: float | Tensor) -> Level:
        """The coefficients at the time t."""
        t = _float64(t)
        return Level(t, self.mean_coefficient(t), self.std(t))

    def levels(self, num: int) -> Level:
        """The table of a discrete chain of ``num`` levels, ``[num]``, ascending, the first one above the data."""
        return self.level(torch.linspace(self.T / num, self.T, num, dtype=torch.float64))

    def discretize(self, z: Tensor, level: Level, below: Level) -> tuple[Tensor, Tensor]:
        """f and G of the step ``z' = z + f + G n`` of a forward chain, from the level ``below`` to ``level``.

        The chain's marginals are those of the table: ``f = (a / a' - 1) z``, ``G^2 = s^2 - (a / a')^2 s'^2``, a' and s'
        those of ``below``. For VP ``1 - (a / a')^2`` is DDPM's beta.
        """
        ratio, added = transition(level, below)
        return broadcast(ratio - 1, z) * z, added.sqrt()

    def reverse(self, score: Score) -> Reverse:
        """The SDE that takes z_T back to the data: ``dz = (f - g^2 score) dt + g dw``, time running backwards."""
        return Reverse(self, score, 1.0)

    def probability_flow(self, score: Score) -> Reverse:
        """The ODE with the same marginals: ``dz = (f - g^2 score / 2) dt``."""
        return Reverse(self, score, 0.0)


def transition(level: Level, below: Level) -> tuple[Tensor, Tensor]:
    """Of the exact Gaussian step from ``below`` to ``level``: the factor ``a / a'`` and the variance that it adds,
    ``s^2 - (a / a')^2 s'^2``."""
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
        """What ``dz / dt`` is on average."""
        g2 = broadcast(self.sde.diffusion(t) ** 2, z)
        return self.sde.drift(z, t) - 0.5 * (1 + self.noise) * g2 * self.score(z, _float64(t))

    def diffusion(self, t: float | Tensor) -> Tensor:
        """g(t), or 0 of the flow."""
        return self.noise * self.sde.diffusion(t)


@dataclass(frozen=True)
class VP(SDE):
    """Variance preserving: ``b = g^2 = beta_min + t (beta_max - beta_min)``, ``a^2 + s^2 = 1``.

    With ``B(t) = int_0^t b``: ``a = exp(-B / 2)``, ``s^2 = 1 - exp(-B)``, ``sigma^2 = exp(B) - 1``. Its discrete table
    of N levels is DDPM's: ``beta_i`` evenly spaced from ``beta_min / N`` to ``beta_max / N``.
    """

    preserves_variance: ClassVar[bool] = True
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"beta_min={self.beta_min}, beta_max={self.beta_max}: expected 0 < beta_min <= beta_max")

    def rate(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of the rate."""
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return self.rate(_float64(t)).sqrt()

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.integral(t)

    def std(self, t: float | Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(_float64(t)))).sqrt()

    def time(self, sigma: float | Tensor) -> Tensor:
        return self._time_of_integral(torch.log1p(_float64(sigma) ** 2))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def levels(self, num: int) -> Level:
        if not num > self.beta_max:  # or the last beta would be 1 or more
            raise ValueError(f"{num} levels: a discrete VP chain needs more than {self.beta_max:g} (beta_max)")
        beta = torch.linspace(self.beta_min / num, self.beta_max / num, num, dtype=torch.float64)
        log_alpha_bar = torch.log1p(-beta).cumsum(0)
        t = torch.linspace(0, self.T, num, dtype=torch.float64)
        return Level(t, (0.5 * log_alpha_bar).exp(), (-torch.expm1(log_alpha_bar)).sqrt())


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: the drift of VP, ``g^2 = b (1 - exp(-2B))``, and so ``s = 1 - exp(-B)``: less noise than VP.

    ``sigma = 2 sinh(B / 2)``. Its forward chain is Euler's: ``f = drift dt``, ``G = g sqrt(dt)``.
    """

    preserves_variance: ClassVar[bool] = False

    def diffusion(self, t: float | Tensor) -> Tensor:
        t = _float64(t)
        return (self.rate(t) * -torch.expm1(-2 * self.integral(t))).sqrt()

    def std(self, t: float | Tensor) -> Tensor:
        return -torch.expm1(-self.integral(_float64(t)))

    def time(self, sigma: float | Tensor) -> Tensor:
        return self._time_of_integral(2 * torch.asinh(_float64(sigma) / 2))

    def levels(self, num: int) -> Level:
        return SDE.levels(self, num)

    def discretize(self, z: Tensor, level: Level, below: Level) -> tuple[Tensor, Tensor]:
        dt = level.t - below.t
        return broadcast(dt, z) * self.drift(z, level.t), self.diffusion(level.t) * dt.sqrt()


@dataclass(frozen=True)
class OU(SDE):
    """Ornstein-Uhlenbeck: ``f = -z / 2``, ``g = 1``; VP with the constant rate 1 until the time T.

    At T = 1 a third of the data is still there (a = 0.61): choose T of about 10 for a law that has forgotten them.
    """

    preserves_variance: ClassVar[bool] = True
    end_time: float = 10.0

    def __post_init__(self) -> None:
        if not self.end_time > 0:
            raise ValueError(f"end_time={self.end_time}: expected a positive number")

    @property
    def T(self) -> float:  # noqa: N802
        return self.end_time

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return torch.ones_like(_float64(t))

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * t

    def std(self, t: float | Tensor) -> Tensor:
        return (-torch.expm1(-_float64(t))).sqrt()

    def time(self, sigma: float | Tensor) -> Tensor:
        return torch.log1p(_float64(sigma) ** 2)


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: ``f = 0``, ``sigma(t) = sigma_min r^t`` with ``r = sigma_max / sigma_min``.

    ``g = sigma sqrt(2 ln r)``. As in its source, s(t) = sigma(t): the noise ``sigma_min`` that is there at t = 0
    counts as part of the data's.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            found = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            raise ValueError(f"{found}: expected 0 < sigma_min < sigma_max")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return self.std(t) * math.sqrt(2 * self._log_ratio)

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def std(self, t: float | Tensor) -> Tensor:
        return self.sigma_min * (self._log_ratio * _float64(t)).exp()

    def time(self, sigma: float | Tensor) -> Tensor:
        return (_float64(sigma) / self.sigma_min).log() / self._log_ratio

    def levels(self, num: int) -> Level:
        return self.level(torch.linspace(0, self.T, num, dtype=torch.float64))

    @property
    def prior_std(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class EDM(SDE):
    """EDM's: ``f = 0``, ``sigma(t) = t`` until ``T = sigma_max``, ``g = sqrt(2 t)``.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError(f"sigma_max={self.sigma_max}: expected a positive number")

    @property
    def T(self) -> float:  # noqa: N802
        return self.sigma_max

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return (2 * _float64(t)).sqrt()

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def std(self, t: float | Tensor) -> Tensor:
        return _float64(t)

    def time(self, sigma: float | Tensor) -> Tensor:
        return _float64(sigma)

    @property
    def prior_std(self) -> float:
        return self.sigma_max


SDES: dict[str, type[SDE]] = {"ou": OU, "vp": VP, "sub_vp": SubVP, "ve": VE, "edm": EDM}


def make(name: str, **settings: float) -> SDE:
    """The SDE called ``name``, with the settings of its class.

    Raises:
        ValueError: an unknown name or setting, or an impossible value.
    """
    if name not in SDES:
        raise ValueError(f"SDE {name!r} is unknown; known are {', '.join(SDES)}")
    allowed = [field.name for field in fields(SDES[name])]
    if unknown := sorted(set(settings) - set(allowed)):
        raise ValueError(f"SDE {name!r}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return SDES[name](**settings)


def _float64(t: float | Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)
