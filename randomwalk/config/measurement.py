"""A measurement: operator and noise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from randomwalk.config.base import Count, Natural, Pair, Positive, Settings, Text, TwoOrMore


class IdentitySettings(Settings):
    """A x = x: denoising."""

    name: Literal["denoising"]


class InpaintingSettings(Settings):
    """A x = mask * x."""

    name: Literal["inpainting"]
    mask: Literal["random", "box", "file"] = "random"
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the pixels that is dropped (mask: random)."""
    box_size: Count | Annotated[list[Count], Pair] | None = None
    """Side of the missing box in pixels, or [smallest, largest] to draw both sides (mask: box)."""
    margin: Natural = 0
    """Least distance of the box from the border (mask: box)."""
    file: Text | None = None
    """Image whose bright pixels are kept (mask: file)."""

    @model_validator(mode="after")
    def _has_what_its_mask_needs(self) -> InpaintingSettings:
        for mask, key, what in (
            ("box", "box_size", "the side of the missing box in pixels"),
            ("file", "file", "the path of the mask image"),
        ):
            given = getattr(self, key) is not None
            if self.mask == mask and not given:
                raise ValueError(f"{key}: missing; mask: {mask} needs {what}")
            if self.mask != mask and given:
                raise ValueError(f"{key}: is for mask: {mask}, but mask is {self.mask}; remove it")
        if isinstance(self.box_size, list) and self.box_size[0] > self.box_size[1]:
            raise ValueError(f"box_size: found {self.box_size}; allowed: [smallest, largest]")
        return self


class SuperResolutionSettings(Settings):
    """A x = antialiased bicubic downsampling."""

    name: Literal["super_resolution"]
    factor: TwoOrMore = 4
    """Divides the height and the width of the images."""


OperatorSettings = Annotated[
    IdentitySettings | InpaintingSettings | SuperResolutionSettings, Field(discriminator="name")
]


class GaussianNoiseSettings(Settings):
    """Additive white Gaussian noise."""

    name: Literal["gaussian"] = "gaussian"
    std: Positive
    """Standard deviation, in the units of `pixel_range`."""
    pixel_range: Annotated[list[float], Pair] = Field(default=[-1.0, 1.0])
    """The range of the pixels that `std` refers to: 0.2 on [0, 1] is 0.4 on [-1, 1]."""

    @model_validator(mode="after")
    def _range(self) -> GaussianNoiseSettings:
        low, high = self.pixel_range
        if not low < high:
            raise ValueError(f"pixel_range: found {self.pixel_range}; allowed: [black, white], as in [-1, 1]")
        return self


class Measurement(Settings):
    """y = A x + e. Without this section the sampling is unconditional."""

    operator: OperatorSettings
    noise: GaussianNoiseSettings
