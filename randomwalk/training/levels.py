"""Distributions of the noise level in training, as quantile functions ``sigma = Q(u)``, u uniform on [0, 1].

`Levels.rate` is the derivative ``d ln sigma^2 / du``. It gives the weight that turns an average over any distribution
into the integral that bounds the likelihood (see `randomwalk.training.objectives`). Importance sampling for that weight
(Song et al. 2021, arXiv 2101.09258: times of a density proportional to g^2 / s^2) is the distribution with a constant
rate, since ``g^2 / s^2 dt = d ln sigma^2``: log_uniform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from randomwalk.config.objective import (
    EvenTimeLevels,
    LogitNormalLevels,
    LogNormalLevels,
    Objective,
    UniformTimestepLevels,
)
from randomwalk.denoisers.adapters import EDMDenoiser, SDEDenoiser
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from score_sde.devices import exact
from score_sde.times import DiscreteTime


class Levels(Protocol):
    """Distribution of the noise level."""

    def __call__(self, u: Tensor) -> Tensor:
        """sigma at the quantile ``u [B]``."""

    def rate(self, u: Tensor) -> Tensor:
        """``d ln sigma^2 / du`` at ``u [B]``, float64."""


@dataclass(frozen=True)
class ContinuousLevels:
    """Distribution with a density; its rate is found by differentiating the quantile function.

    Args:
        quantile: Q, differentiable.
    """

    quantile: Callable[[Tensor], Tensor]

    def __call__(self, u: Tensor) -> Tensor:
        return self.quantile(u)

    def rate(self, u: Tensor) -> Tensor:
        with torch.enable_grad():
            u = exact(u.detach()).requires_grad_()
            return torch.autograd.grad(2 * self.quantile(u).log().sum(), u)[0]


@dataclass(frozen=True)
class TableLevels:
    """Uniform distribution over the entries of a table of noise levels.

    The rate is a finite difference: N times half the distance in ln sigma^2 between the two neighbours; at the ends, N
    times half the distance to the only one. An average with this rate is the trapezoidal rule in ln sigma^2.

    Args:
        table: ``[N]``, ascending.
    """

    table: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        return self.table[self._index(u)]

    def rate(self, u: Tensor) -> Tensor:
        half = self.table.double().log().diff()
        ends = half.new_zeros(1)
        rates = len(self.table) * (torch.cat([ends, half]) + torch.cat([half, ends]))
        return rates[self._index(u)]

    def _index(self, u: Tensor) -> Tensor:
        return (u * len(self.table)).long().clamp(max=len(self.table) - 1).to(self.table.device)


def log_normal(mean: float, std: float) -> ContinuousLevels:
    """ln sigma ~ Normal(mean, std^2)."""
    return ContinuousLevels(lambda u: torch.exp(mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))))


def log_uniform(sigma_min: float, sigma_max: float) -> ContinuousLevels:
    """ln sigma uniform on [ln sigma_min, ln sigma_max]."""
    return ContinuousLevels(lambda u: sigma_min * torch.exp(u * math.log(sigma_max / sigma_min)))


def even_time(denoiser: SDEDenoiser) -> Levels:
    """Distribution of sigma at a uniform time of the SDE, or at a uniform index if its time is discrete."""
    times = denoiser.times
    return TableLevels(times.table) if isinstance(times, DiscreteTime) else ContinuousLevels(times.levels)


def make_levels(objective: Objective, denoiser: Denoiser) -> Levels:
    """Make the distribution of sigma that the settings name, or else the default of the denoiser.

    The default is even_time for networks conditioned on the time of an SDE (VP among them) or of a flow, EDM's
    log_normal for EDM, and log_uniform for the others.

    Raises:
        InputError: the distribution does not fit the denoiser.
    """
    levels = objective.levels
    if isinstance(levels, LogNormalLevels | LogitNormalLevels):  # logit t = ln sigma
        return log_normal(levels.mean, levels.std)
    if isinstance(levels, EvenTimeLevels | UniformTimestepLevels):
        if not isinstance(denoiser, SDEDenoiser):
            raise InputError(f"objective.levels.name: {levels.name} needs a denoiser with a time: vp, sde or flow")
        if isinstance(levels, UniformTimestepLevels) and not isinstance(denoiser.times, DiscreteTime):
            raise InputError("objective.levels.name: uniform_timestep needs a table; allowed: even_time, log_uniform")
        return even_time(denoiser)
    if levels is None and isinstance(denoiser, SDEDenoiser):
        return even_time(denoiser)
    if levels is None and isinstance(denoiser, EDMDenoiser):
        return log_normal(-1.2, 1.2)
    if not 0 < denoiser.sigma_min < denoiser.sigma_max < math.inf:
        raise InputError(
            f"objective.levels.name: log_uniform needs a range of sigma; found {denoiser.sigma_min} to "
            f"{denoiser.sigma_max}"
        )
    return log_uniform(denoiser.sigma_min, denoiser.sigma_max)
