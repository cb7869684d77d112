"""Stochastic differential equations that turn data into noise: OU, VP, sub-VP, two VE, and EDM's.

    dz = f(z, t) dt + g(t) dw,    0 <= t <= T,    f(z, t) = -b(t) z / 2

All of them are linear, so the distribution of z_t given the data x0 is known in closed form:

    z_t = a(t) x0 + s(t) n,    n ~ Normal(0, I)

``sigma = s / a`` is the noise level of ``z / a = x0 + sigma n``: in these variance-exploding coordinates, all SDEs are
the same random walk at different speeds, and ``sigma`` and ``time`` convert between them. Coefficients are computed in
float64 and without cancellation, so that they are accurate at any t; the caller converts them to its own type.

Source: Song et al. 2021, arXiv 2011.13456, section 3 and appendices B to D; Karras et al. 2022, arXiv 2206.00364 (EDM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from score_sde.sde import SDE, Level, Reverse, Score, broadcast, float64, transition

__all__ = [
    "EDM",
    "OU",
    "SDE",
    "SDES",
    "VE",
    "VP",
    "Level",
    "PowerVE",
    "Reverse",
    "Score",
    "SubVP",
    "broadcast",
    "make",
    "transition",
]


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
        return self.rate(float64(t)).sqrt()

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * self.integral(t)

    def std(self, t: float | Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(float64(t)))).sqrt()

    def time(self, sigma: float | Tensor) -> Tensor:
        return self._time_of_integral(torch.log1p(float64(sigma) ** 2))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def levels(self, num: int) -> Level:
        if not num > self.beta_max:  # otherwise the last beta would be 1 or more
            raise ValueError(f"{num} levels: a discrete VP chain needs more than {self.beta_max:g} (beta_max)")
        beta = torch.linspace(self.beta_min / num, self.beta_max / num, num, dtype=torch.float64)
        log_alpha_bar = torch.log1p(-beta).cumsum(0)
        t = torch.linspace(0, self.T, num, dtype=torch.float64)
        return Level(t, (0.5 * log_alpha_bar).exp(), (-torch.expm1(log_alpha_bar)).sqrt())


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: the drift of VP with ``g^2 = b (1 - exp(-2B))``, hence ``s = 1 - exp(-B)``, less noise than VP.

    ``sigma = 2 sinh(B / 2)``. Its forward chain is Euler's: ``f = drift dt``, ``G = g sqrt(dt)``.
    """

    preserves_variance: ClassVar[bool] = False

    def diffusion(self, t: float | Tensor) -> Tensor:
        t = float64(t)
        return (self.rate(t) * -torch.expm1(-2 * self.integral(t))).sqrt()

    def std(self, t: float | Tensor) -> Tensor:
        return -torch.expm1(-self.integral(float64(t)))

    def time(self, sigma: float | Tensor) -> Tensor:
        return self._time_of_integral(2 * torch.asinh(float64(sigma) / 2))

    def levels(self, num: int) -> Level:
        return SDE.levels(self, num)

    def discretize(self, z: Tensor, level: Level, below: Level) -> tuple[Tensor, Tensor]:
        dt = level.t - below.t
        return broadcast(dt, z) * self.drift(z, level.t), self.diffusion(level.t) * dt.sqrt()


@dataclass(frozen=True)
class OU(SDE):
    """Ornstein-Uhlenbeck: ``f = -z / 2``, ``g = 1``; VP with the constant rate 1 until the time T.

    At T = 1, z still depends on the data (a = 0.61); with T of about 10 it is practically independent of them.
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
        return torch.ones_like(float64(t))

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return -0.5 * t

    def std(self, t: float | Tensor) -> Tensor:
        return (-torch.expm1(-float64(t))).sqrt()

    def time(self, sigma: float | Tensor) -> Tensor:
        return torch.log1p(float64(sigma) ** 2)


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: ``f = 0``, ``sigma(t) = sigma_min r^t`` with ``r = sigma_max / sigma_min``.

    ``g = sigma sqrt(2 ln r)``. As in its source, s(t) = sigma(t): the noise ``sigma_min`` at t = 0 counts as part of
    the data.
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
        return self.sigma_min * (self._log_ratio * float64(t)).exp()

    def time(self, sigma: float | Tensor) -> Tensor:
        return (float64(sigma) / self.sigma_min).log() / self._log_ratio

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
        return (2 * float64(t)).sqrt()

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def std(self, t: float | Tensor) -> Tensor:
        return float64(t)

    def time(self, sigma: float | Tensor) -> Tensor:
        return float64(sigma)

    @property
    def prior_std(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class PowerVE(SDE):
    """Variance exploding with ``g = base^t``: ``f = 0``, ``s^2 = (base^(2t) - 1) / (2 ln base)``, and t for base 1.

    Unlike `VE`, it starts without noise, s(0) = 0, and ends at a level that depends on the base: s(1) = 1.47, 2.73 and
    9.85 for the bases 2, 5 and 25. For the low ones, the noise at T does not hide the data, so sampling cannot start
    from Normal(0, s(T)^2 I).

    Source: the tutorial of Song et al. 2021, arXiv 2011.13456 (base 25); Na, Gao and Wan 2024, arXiv 2404.06661 (2, 5).
    """

    base: float = 25.0

    def __post_init__(self) -> None:
        if not 1 <= self.base < math.inf:
            raise ValueError(f"base={self.base}: expected a number of at least 1")

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: float | Tensor) -> Tensor:
        return (math.log(self.base) * float64(t)).exp()

    def log_mean_coefficient(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def variance(self, t: float | Tensor) -> Tensor:
        """Variance s(t)^2, the integral of g^2: ``t (e^u - 1) / u`` with ``u = 2 t ln base``, accurate at any t and
        base."""
        t = float64(t)
        u = 2 * math.log(self.base) * t
        flat = u == 0  # t = 0, or base 1
        return t * torch.where(flat, 1.0, torch.expm1(u) / torch.where(flat, 1.0, u))

    def std(self, t: float | Tensor) -> Tensor:
        return self.variance(t).sqrt()

    def time(self, sigma: float | Tensor) -> Tensor:
        variance = float64(sigma) ** 2
        u = 2 * math.log(self.base) * variance
        flat = u == 0
        return variance * torch.where(flat, 1.0, torch.log1p(u) / torch.where(flat, 1.0, u))

    @property
    def prior_std(self) -> float:
        return float(self.std(self.T))


SDES: dict[str, type[SDE]] = {"ou": OU, "vp": VP, "sub_vp": SubVP, "ve": VE, "power_ve": PowerVE, "edm": EDM}


def make(name: str, **settings: float) -> SDE:
    """Make the SDE called ``name`` with the settings of its class.

    Raises:
        ValueError: an unknown name or setting, or an impossible value.
    """
    if name not in SDES:
        raise ValueError(f"SDE {name!r} is unknown; known are {', '.join(SDES)}")
    allowed = [field.name for field in fields(SDES[name])]
    if unknown := sorted(set(settings) - set(allowed)):
        raise ValueError(f"SDE {name!r}: unknown setting {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return SDES[name](**settings)
