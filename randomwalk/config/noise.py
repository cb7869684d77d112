"""Measurement noise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from randomwalk.config.base import WHOLE, NonNegative, Number, Pair, Positive, Settings


class NoiseInUnits(Settings):
    """Common part of the noise whose settings are in the units of a range of pixels."""

    pixel_range: Annotated[list[Number], Pair] = Field(default=[-1.0, 1.0])
    """Black and white in the units of the noise: 0.2 on [0, 1] is 0.4 on [-1, 1]."""

    @model_validator(mode="after")
    def _range(self) -> NoiseInUnits:
        low, high = self.pixel_range
        if not low < high:
            raise ValueError(f"pixel_range: found {self.pixel_range}; allowed: [black, white], as in [-1, 1]")
        return self


class _AdditiveNoise(NoiseInUnits):
    std: Positive
    """Standard deviation, in the units of `pixel_range`."""


class GaussianNoiseSettings(_AdditiveNoise):
    """Additive white Gaussian noise."""

    name: Literal["gaussian"] = "gaussian"
    std: Positive | Literal["auto"]  # type: ignore[assignment]
    """Standard deviation, in the units of `pixel_range`; auto estimates it from each given measurement
    (`measurement.given`)."""
    white: bool = False
    """With auto: take the noise for white. false also finds noise that has been through demosaicking, resizing or
    compression, and counts the blocks and rings of JPEG files as noise; true leaves a clean JPEG file as it is."""


class LaplaceNoiseSettings(_AdditiveNoise):
    """Additive white Laplace noise: noise with outliers."""

    name: Literal["laplace"]


class PoissonNoiseSettings(NoiseInUnits):
    """Counts of photons, and read noise, for measurements that are pixels."""

    name: Literal["poisson"]
    peak: Positive | Literal["auto"] | None = None
    """Mean number of photons at white; black gives none. A rate of 1 for pixels in [0, 255] is 255. auto estimates it,
    and the read noise, from each given picture."""
    gain: Positive | None = None
    """Instead of `peak`: what one photon adds to a pixel, in the units of `pixel_range`."""
    read_std: NonNegative = 0.0
    """Standard deviation of Gaussian noise that is added to the photons, in the units of `pixel_range`."""

    @model_validator(mode="after")
    def _one_scale(self) -> PoissonNoiseSettings:
        if self.peak is None and self.gain is None:
            raise ValueError("peak: missing; expected the photons at white, or auto, or the gain in its place")
        if self.peak is not None and self.gain is not None:
            raise ValueError(f"gain: found beside peak: {self.peak}; allowed: one of them")
        if self.peak == "auto" and self.read_std > 0:
            raise ValueError(f"read_std: found {self.read_std} beside peak: auto, which estimates it too; remove it")
        return self


class RicianNoiseSettings(_AdditiveNoise):
    """Magnitudes of complex numbers with Gaussian noise in both parts, such as those of magnetic resonance. Black is
    the magnitude 0."""

    name: Literal["rician"]
    std: Positive
    """Standard deviation of each part, in the units of `pixel_range`."""


class GammaNoiseSettings(Settings):
    """Multiplicative speckle of intensities, such as those of a radar. Black is the intensity 0; below 5% of white all
    are taken to be that dark."""

    name: Literal["gamma"]
    looks: Positive
    """Number of looks L: the speckle has the mean 1 and the variance 1 / L."""


class QuantizedNoiseSettings(_AdditiveNoise):
    """Rounding to 2^bits even values from black to white, after Gaussian noise."""

    name: Literal["quantized"]
    bits: Annotated[int, Field(ge=1, le=16), WHOLE]
    """Bits of each value."""
    std: Positive
    """Standard deviation of the noise before rounding, in the units of `pixel_range`."""


class BeerLambertNoiseSettings(NoiseInUnits):
    """Counts of photons behind an absorber, for the projections of tomography. Given measurements are counts."""

    name: Literal["beer_lambert"]
    photons: Positive
    """Mean number of photons of a ray through nothing."""
    pixel_range: Annotated[list[Number], Pair] = Field(default=[0.0, 0.02])
    """Attenuation of black and white per unit of length (of `pixel_size`). Water has about 0.02 per millimetre."""


class NoNoiseSettings(Settings):
    """Exact measurements, for samplers that do not need the score of the likelihood."""

    name: Literal["none"]


def _gaussian_if_unnamed(value: Any) -> Any:
    return {"name": "gaussian", **value} if isinstance(value, dict) and "name" not in value else value


OF_PIXELS = ("poisson", "rician", "gamma", "quantized")
"""Noise of measurements that are pixels, from black to white."""
NoiseSettings = Annotated[
    GaussianNoiseSettings
    | LaplaceNoiseSettings
    | PoissonNoiseSettings
    | RicianNoiseSettings
    | GammaNoiseSettings
    | QuantizedNoiseSettings
    | BeerLambertNoiseSettings
    | NoNoiseSettings,
    Field(discriminator="name"),
    BeforeValidator(_gaussian_if_unnamed),
]
