"""Measurement noise: how it is drawn, and the density of a measurement given the exact one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk.config import validate
from randomwalk.config.noise import NoiseSettings
from randomwalk.errors import InputError
from randomwalk.rng import Draws, TorchDraws


class Noise:
    """Distribution of the measurement given ``A(x)``. Subclasses define ``apply`` and ``log_prob``.

    Attributes:
        name: in YAML.
        std: standard deviation in [-1, 1] pixel units, or a typical one where it varies; 0 for no noise.
    """

    name: str
    std: float

    @property
    def stable_std(self) -> float:
        """``1 / stable_std^2`` bounds the curvature of the log-likelihood, so that steps of its square are stable."""
        return self.std

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        """Noisy measurements ``[B, ...]`` of the exact ones.

        Args:
            y: exact measurements ``[B, ...]``.
            draws: row b of the noise comes from row b of these; by default from PyTorch's generator.
        """
        raise NotImplementedError

    def of_copies(self, count: int) -> Noise:
        """Noise of each of ``count`` copies of one measurement, such that their log-likelihoods add up to its own.

        A network for colours sees a grey picture as three equal channels. As three measurements with independent
        noise they would get too much weight.
        """
        raise NotImplementedError

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``log f(y | A(x))`` for each image, ``[B]``.

        Args:
            y: measurements ``[B, ...]``.
            clean: ``A(x)``, of the same shape.
        """
        raise NotImplementedError


class GaussianNoise(Noise):
    """``y + std n`` with ``n ~ Normal(0, I)``, in masked pixels too.

    Args:
        std: standard deviation, positive, in [-1, 1] pixel units. `make` takes other units too.
    """

    name = "gaussian"

    def __init__(self, std: float) -> None:
        self.std = std

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        return y + self.std * _normal(y, draws).to(y)

    def of_copies(self, count: int) -> GaussianNoise:
        return GaussianNoise(self.std * math.sqrt(count))

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``-||y - A(x)||^2 / (2 std^2) - (m/2) log(2 pi std^2)``."""
        residual = (y - clean).flatten(1)
        constant = residual.shape[1] / 2 * math.log(2 * math.pi * self.std**2)
        return -residual.square().sum(1) / (2 * self.std**2) - constant


class LaplaceNoise(Noise):
    """``y + e`` with the density ``exp(-|e| / b) / (2 b)`` in every entry of the measurement: noise with outliers.

    Args:
        std: standard deviation ``sqrt(2) b``, positive, in [-1, 1] pixel units. `make` takes other units too.
    """

    name = "laplace"

    def __init__(self, std: float) -> None:
        self.std = std
        self.scale = std / math.sqrt(2)

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        # |e| / b = -log P(|n| is larger) has the exponential distribution, n being normal.
        n = _normal(y, draws).double()
        size = -(math.log(2) + torch.special.log_ndtr(-n.abs()))
        return y + (self.scale * n.sign() * size).to(y)

    def of_copies(self, count: int) -> LaplaceNoise:
        return LaplaceNoise(self.std * count)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``-||y - A(x)||_1 / b - m log(2 b)``."""
        residual = (y - clean).flatten(1)
        return -residual.abs().sum(1) / self.scale - residual.shape[1] * math.log(2 * self.scale)


class PoissonNoise(Noise):
    """Counts of photons: ``k ~ Poisson(peak (A(x) + 1) / 2)``, given as ``y = 2 k / peak - 1`` in [-1, 1] pixel units.

    Black (-1) gives none and white (+1) ``peak`` photons on average, so ``Var[y] = 2 (A(x) + 1) / peak``, for operators
    whose measurements are pixels. A sampler's image x may be darker than black, where the distribution is not defined,
    and just above black the log-likelihood is too curved for any step. Below half a photon it is therefore continued
    along its tangent (exact where nothing was counted), and below black it never rises as x gets darker.

    Args:
        peak: photons at white, positive. The rate 1 on [0, 255], as in diffusion posterior sampling, is 255.

    Attributes:
        std: at mid-grey, ``sqrt(2 / peak)``.
    """

    name = "poisson"
    lowest = 0.5
    """Intensity, in photons, below which the log-likelihood is linear."""

    def __init__(self, peak: float) -> None:
        self.peak = peak
        self.std = math.sqrt(2 / peak)

    @property
    def stable_std(self) -> float:
        """For one photon counted where ``lowest`` are expected: ``2 lowest / peak``."""
        return 2 * self.lowest / self.peak

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        """See :meth:`Noise.apply`.

        Raises:
            InputError: the measurement is far darker than black, hence not an image.
        """
        from scipy.stats import poisson

        if y.min() < -1.5:  # a sharpening operator may overshoot a little, which counts as dark
            raise InputError(
                f"noise: poisson is for measurements that are pixels, from -1 (no photons) on, but this operator gives "
                f"{float(y.min()):.2f}; use gaussian noise, or another operator"
            )
        intensity = (self.peak * (y.detach().double() + 1) / 2).clamp(min=0).cpu().numpy()
        uniform = torch.special.ndtr(_normal(y, draws).double()).cpu().numpy()
        counts = np.where(intensity > 0, poisson.ppf(uniform, np.maximum(intensity, 1e-300)), 0.0)
        return torch.from_numpy(2 * counts / self.peak - 1).to(y)

    def of_copies(self, count: int) -> PoissonNoise:
        return PoissonNoise(self.peak / count)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``sum k log(lambda) - lambda - log(k!)`` with ``lambda = peak (A(x) + 1) / 2``."""
        counts, intensity = self.peak * (y + 1) / 2, self.peak * (clean + 1) / 2
        bright, slope = intensity.clamp(min=self.lowest), counts / self.lowest - 1
        exact = counts * bright.log() - bright - torch.lgamma(counts + 1)
        tangent = torch.where(intensity < 0, slope.relu(), slope) * intensity - slope * self.lowest
        return (exact.where(intensity >= self.lowest, exact.detach() + tangent)).flatten(1).sum(1)


class NoNoise(Noise):
    """``y = A(x)`` exactly; it has no density, so samplers that follow the score of the likelihood cannot use it."""

    name = "none"
    std = 0.0

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        return y

    def of_copies(self, count: int) -> NoNoise:
        return self

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """0 where the two agree to rounding, and minus infinity elsewhere."""
        same = torch.isclose(y, clean, rtol=1e-5, atol=1e-6).flatten(1).all(1)
        return torch.where(same, 0.0, -math.inf).to(y.dtype)


NOISES: dict[str, Callable[..., Noise]] = {
    "gaussian": GaussianNoise,
    "laplace": LaplaceNoise,
    "poisson": PoissonNoise,
    "none": NoNoise,
}


def make(name: str, **settings: Any) -> Noise:
    """The noise called ``name``, one of ``NOISES``.

    Args:
        name: of the noise.
        settings: as in YAML, with the same defaults and bounds; see ``docs/settings.md`` or
            :mod:`randomwalk.config.noise`. ``std`` is in the units of ``pixel_range``: 0.2 on [0, 1] is 0.4 on [-1, 1].

    Raises:
        InputError: an unknown name or setting, or an impossible value.
    """
    complete = validate.complete("noise", NoiseSettings, {"name": name, **settings})
    if complete.get("std") == "auto":
        raise InputError(f"noise {name}: std: found auto, which only a sampling task can estimate; allowed: a number")
    if "pixel_range" in complete:
        low, high = complete.pop("pixel_range")
        complete["std"] = complete["std"] * 2 / (high - low)
    return NOISES[complete.pop("name")](**complete)


def _normal(y: Tensor, draws: Draws | None) -> Tensor:
    """Draws of Normal(0, 1) of the shape of y."""
    draws = TorchDraws(len(y), device=y.device, dtype=y.dtype) if draws is None else draws
    return draws.normal(y.shape[1:])
