"""The training template: a law of the noise level, a weight, and a denoiser.

    L(theta) = E_{sigma, X, N} [ w(sigma) ||X - D_theta(X + sigma N, sigma)||^2 ]

(Park et al. 2024, arXiv 2411.18702). DDPM and VP: sigma of the table at a uniform timestep, w = sigma^-2, which is
the squared error of epsilon. VE: ln sigma uniform, w = sigma^-2. EDM: ln sigma normal, w = (sigma^2 + s^2)/(sigma s)^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.config import LogNormalLevels, LogUniformLevels, Objective, UniformTimestepLevels
from randomwalk.denoisers import Denoiser, EDMDenoiser, VPDenoiser, broadcast_sigma
from randomwalk.errors import InputError

Levels = Callable[[Tensor], Tensor]
Weight = Callable[[Tensor], Tensor]


def log_normal(mean: float, std: float) -> Levels:
    """Quantile function u -> sigma of ln sigma ~ Normal(mean, std^2)."""
    return lambda u: torch.exp(mean + std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))


def log_uniform(sigma_min: float, sigma_max: float) -> Levels:
    """Quantile function u -> sigma of ln sigma uniform on [ln sigma_min, ln sigma_max]."""
    return lambda u: sigma_min * torch.exp(u * math.log(sigma_max / sigma_min))


def uniform_timestep(table: Tensor) -> Levels:
    """Quantile function u -> table[t] of a uniform integer timestep t."""
    return lambda u: table.to(u.device)[(u * len(table)).long().clamp(max=len(table) - 1)]


def make_levels(objective: Objective, denoiser: Denoiser) -> Levels:
    """The law of sigma that the settings name, or the denoiser's own."""
    levels = objective.levels
    if levels is None:
        if isinstance(denoiser, VPDenoiser):
            return uniform_timestep(denoiser.table)
        if isinstance(denoiser, EDMDenoiser):
            return log_normal(-1.2, 1.2)
        return log_uniform(denoiser.sigma_min, denoiser.sigma_max)
    if isinstance(levels, LogNormalLevels):
        return log_normal(levels.mean, levels.std)
    if isinstance(levels, LogUniformLevels):
        return log_uniform(denoiser.sigma_min, denoiser.sigma_max)
    assert isinstance(levels, UniformTimestepLevels)
    if not isinstance(denoiser, VPDenoiser):
        raise InputError("objective.levels.name: uniform_timestep needs a DDPM table, that is denoiser.name: vp")
    return uniform_timestep(denoiser.table)


def make_weight(objective: Objective, denoiser: Denoiser) -> Weight:
    """The weight w(sigma) that the settings name, or the denoiser's own."""
    sigma_data = denoiser.sigma_data if isinstance(denoiser, EDMDenoiser) else 0.5
    name = objective.weight or ("edm" if isinstance(denoiser, EDMDenoiser) else "inverse_variance")
    weights: dict[str, Weight] = {
        "inverse_variance": lambda s: s**-2,
        "edm": lambda s: (s**2 + sigma_data**2) / (s * sigma_data) ** 2,
        "uniform": torch.ones_like,
        "snr_clipped": lambda s: (s**-2).clamp(max=objective.gamma),
    }
    return weights[name]


def denoising_loss(denoiser: torch.nn.Module, x: Tensor, noise: Tensor, sigma: Tensor, weight: Weight) -> Tensor:
    """w(sigma) * mean over pixels of (X - D(X + sigma N, sigma))^2, one value for each image.

    Args:
        denoiser: ``denoiser(x, sigma) -> D``.
        x, noise: clean images X and standard normal N, ``[B, C, H, W]``.
        sigma: ``[B]``.
        weight: w.
    """
    sigma = sigma.to(x.dtype)
    error = x - denoiser(x + broadcast_sigma(sigma, x) * noise, sigma)
    return weight(sigma) * error.square().flatten(1).mean(1)
