"""Measurement noise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from randomwalk.config.base import Number, Pair, Positive, Settings


class _AdditiveNoise(Settings):
    std: Positive
    """Standard deviation, in the units of `pixel_range`."""
    pixel_range: Annotated[list[Number], Pair] = Field(default=[-1.0, 1.0])
    """Black and white in the units of `std`: 0.2 on [0, 1] is 0.4 on [-1, 1]."""

    @model_validator(mode="after")
    def _range(self) -> _AdditiveNoise:
        low, high = self.pixel_range
        if not low < high:
            raise ValueError(f"pixel_range: found {self.pixel_range}; allowed: [black, white], as in [-1, 1]")
        return self


class GaussianNoiseSettings(_AdditiveNoise):
    """Additive white Gaussian noise."""

    name: Literal["gaussian"] = "gaussian"
    std: Positive | Literal["auto"]  # type: ignore[assignment]
    """Standard deviation, in the units of `pixel_range`; auto estimates it from each given measurement
    (`measurement.given`)."""


class LaplaceNoiseSettings(_AdditiveNoise):
    """Additive white Laplace noise: noise with outliers."""

    name: Literal["laplace"]


class PoissonNoiseSettings(Settings):
    """Photon counts, for measurements that are pixels."""

    name: Literal["poisson"]
    peak: Positive
    """Mean number of photons at white; black gives none. A rate of 1 for pixels in [0, 255] is 255."""


class NoNoiseSettings(Settings):
    """Exact measurements, for samplers that do not need the score of the likelihood."""

    name: Literal["none"]


def _gaussian_if_unnamed(value: Any) -> Any:
    return {"name": "gaussian", **value} if isinstance(value, dict) and "name" not in value else value


NoiseSettings = Annotated[
    GaussianNoiseSettings | LaplaceNoiseSettings | PoissonNoiseSettings | NoNoiseSettings,
    Field(discriminator="name"),
    BeforeValidator(_gaussian_if_unnamed),
]
