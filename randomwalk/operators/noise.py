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
from randomwalk.operators.instrument_noise import BeerLambertNoise, GammaNoise, QuantizedNoise, RicianNoise
from randomwalk.operators.noise_base import Noise, normal, require_pixels
from randomwalk.rng import Draws, TorchDraws
from score_sde.devices import exact

__all__ = [
    "NOISES",
    "BeerLambertNoise",
    "GammaNoise",
    "GaussianNoise",
    "LaplaceNoise",
    "NoNoise",
    "Noise",
    "PoissonNoise",
    "QuantizedNoise",
    "RicianNoise",
    "make",
]


class GaussianNoise(Noise):
    """``y + std n`` with ``n ~ Normal(0, I)``, in masked pixels too.

    Args:
        std: standard deviation, positive, in [-1, 1] pixel units. `make` takes other units too.
    """

    name = "gaussian"

    def __init__(self, std: float) -> None:
        self.std = std

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        return y + self.std * normal(y, draws).to(y)

    def brightened(self, gain: float) -> GaussianNoise:
        return GaussianNoise(self.std * gain)

    def of_copies(self, count: int) -> GaussianNoise:
        noise = GaussianNoise(self.std * math.sqrt(count))
        noise.copies = count
        return noise

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
        n = exact(normal(y, draws))
        size = -(math.log(2) + torch.special.log_ndtr(-n.abs()))
        return y + (self.scale * n.sign() * size).to(y)

    def brightened(self, gain: float) -> LaplaceNoise:
        return LaplaceNoise(self.std * gain)

    def of_copies(self, count: int) -> LaplaceNoise:
        return LaplaceNoise(self.std * count)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``-||y - A(x)||_1 / b - m log(2 b)``."""
        residual = (y - clean).flatten(1)
        return -residual.abs().sum(1) / self.scale - residual.shape[1] * math.log(2 * self.scale)


class PoissonNoise(Noise):
    """Counts of photons, ``y = 2 k / peak - 1 + read_std n`` with ``k ~ Poisson(peak (A(x) + 1) / 2)``.

    Black (-1) gives none and white (+1) ``peak`` photons on average, so ``Var[y] = 2 (A(x) + 1) / peak + read_std^2``,
    for operators whose measurements are pixels. A sampler's image x may be darker than black, where the distribution is
    not defined, and just above black the log-likelihood is too curved for any step. Below half a photon it is therefore
    continued along its tangent (exact where nothing was counted), and below black it never rises as x gets darker.

    With read noise, of variance ``v`` in photons, ``k + v`` is taken to be ``Poisson(lambda + v)``, which has the right
    mean and variance (Snyder, Hammoud and White 1993), and the tangent begins where ``lambda`` is 0 if v is larger.

    Args:
        peak: photons at white, positive. The rate 1 on [0, 255], as in diffusion posterior sampling, is 255.
        read_std: standard deviation of the read noise n, in [-1, 1] pixel units; `make` takes other units too.

    Attributes:
        std: at mid-grey, ``sqrt(2 / peak + read_std^2)``.
    """

    name = "poisson"
    lowest = 0.5
    """Intensity, in photons, below which the log-likelihood is linear where there is no read noise."""

    def __init__(self, peak: float, read_std: float = 0.0) -> None:
        self.peak, self.read_std = peak, read_std
        self.std = math.sqrt(2 / peak + read_std**2)

    @property
    def photons(self) -> float:
        """Photons at white of the measurement itself, of which there may be ``copies``."""
        return self.peak * self.copies

    def variance(self, clean: Tensor) -> Tensor:
        """``2 (A(x) + 1) / peak + read_std^2`` of each entry; black counts as 0.5% of white."""
        return 2 * (clean + 1).clamp_min(0.01) / self.peak + self.read_std**2

    @property
    def read_photons(self) -> float:
        """Standard deviation of the read noise in photons."""
        return self.read_std * self.peak / 2 * math.sqrt(self.copies)

    @property
    def stable_std(self) -> float:
        """For one photon counted where ``lowest`` are expected: ``2 lowest / peak``."""
        variance = self._shift
        return 2 * max(self.lowest, variance) / (self.peak * math.sqrt(max(1.0, variance)))

    @property
    def _shift(self) -> float:
        """v, the variance of the read noise in photons, of one of the copies."""
        return self.read_photons**2 / self.copies

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        """See :meth:`Noise.apply`.

        Raises:
            InputError: the measurement is far darker than black, hence not an image.
        """
        from scipy.stats import poisson

        require_pixels(y, "poisson", "no photons")
        draws = TorchDraws(len(y), device=y.device, dtype=y.dtype) if draws is None else draws
        intensity = (self.peak * (exact(y.detach()) + 1) / 2).clamp(min=0).cpu().numpy()
        uniform = torch.special.ndtr(exact(normal(y, draws))).cpu().numpy()
        counts = np.where(intensity > 0, poisson.ppf(uniform, np.maximum(intensity, 1e-300)), 0.0)
        counted = torch.from_numpy(2 * counts / self.peak - 1).to(y)
        return counted if self.read_std == 0 else counted + self.read_std * normal(y, draws).to(y)

    def brightened(self, gain: float) -> PoissonNoise:
        return PoissonNoise(self.peak / gain, self.read_std * gain)

    def of_copies(self, count: int) -> PoissonNoise:
        noise = PoissonNoise(self.peak / count, self.read_std * math.sqrt(count))
        noise.copies = count
        return noise

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``sum k log(lambda) - lambda - log(k!)`` with ``lambda = peak (A(x) + 1) / 2``."""
        shift = self._shift
        lowest = max(self.lowest, shift)
        counts, intensity = (self.peak * (y + 1) / 2 + shift).clamp(min=0), self.peak * (clean + 1) / 2 + shift
        bright, slope = intensity.clamp(min=lowest), counts / lowest - 1
        exact = counts * bright.log() - bright - torch.lgamma(counts + 1)
        tangent = torch.where(intensity < shift, slope.relu(), slope) * (intensity - shift) - slope * (lowest - shift)
        return (exact.where(intensity >= lowest, exact.detach() + tangent)).flatten(1).sum(1)


class NoNoise(Noise):
    """``y = A(x)`` exactly; it has no density, so samplers that follow the score of the likelihood cannot use it."""

    name = "none"
    std = 0.0

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        return y

    def brightened(self, gain: float) -> NoNoise:
        return self

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
    "rician": RicianNoise,
    "gamma": GammaNoise,
    "quantized": QuantizedNoise,
    "beer_lambert": BeerLambertNoise,
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
    for key in ("std", "peak"):
        if complete.get(key) == "auto":
            raise InputError(f"noise {name}: {key}: found auto, which only a sampling task can estimate; give a number")
    if "pixel_range" in complete:
        low, high = complete.pop("pixel_range")
        if name == "beer_lambert":
            complete |= {"low": low, "high": high}
        complete |= {key: complete[key] * 2 / (high - low) for key in ("std", "read_std") if key in complete}
        if gain := complete.pop("gain", None):
            complete["peak"] = (high - low) / gain
    complete.pop("white", None)  # of estimates
    return NOISES[complete.pop("name")](**complete)
