"""A measurement: operator and noise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from randomwalk.config.base import Count, Fraction, Natural, NonNegative, Pair, PathText, Positive, Settings, TwoOrMore


class IdentitySettings(Settings):
    """A x = x: denoising."""

    name: Literal["denoising"]


class InpaintingSettings(Settings):
    """A x = mask * x."""

    name: Literal["inpainting"]
    mask: Literal["random", "box", "file", "beside"] = "random"
    """beside: that of photo.png is the image photo_mask.png next to it, whose bright pixels are kept."""
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of the pixels that is dropped (mask: random)."""
    box_size: Count | Annotated[list[Count], Pair] | None = None
    """Side of the missing box in pixels, or [smallest, largest] to draw both sides (mask: box)."""
    margin: Natural = 0
    """Least distance of the box from the border (mask: box)."""
    file: PathText | None = None
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


Boundary = Literal["reflect", "replicate", "zero", "circular"]


class GaussianBlurSettings(Settings):
    """A x = blur with a Gaussian."""

    name: Literal["gaussian_blur"]
    std: Positive = 3.0
    """Of the Gaussian, in pixels."""
    kernel_size: Count | None = None
    """Odd; cuts the kernel off, which without it happens at 4 standard deviations."""
    boundary: Boundary = "reflect"
    """How the image goes on beyond its border."""

    @model_validator(mode="after")
    def _odd(self) -> GaussianBlurSettings:
        _require_odd(self.kernel_size)
        return self


class MotionBlurSettings(Settings):
    """A x = blur with the path of a shaking camera, drawn for each image."""

    name: Literal["motion_blur"]
    kernel_size: Count = 61
    """Odd, in pixels; the path is between half of it and all of it long."""
    intensity: Fraction = 0.5
    """0 is a straight line, 1 a tangled one."""
    boundary: Boundary = "circular"
    """How the image goes on beyond its border; only circular has a decomposition at any size, which samplers need."""
    dense: bool = False
    """Decompose the blur as a matrix, for samplers that need it; for small images."""

    @model_validator(mode="after")
    def _odd(self) -> MotionBlurSettings:
        _require_odd(self.kernel_size)
        return self


class BlurSettings(Settings):
    """A x = correlation with a kernel from a file."""

    name: Literal["blur"]
    file: PathText
    """The kernel: an image (its grey values) or a two-dimensional .npy file."""
    normalize: bool = True
    """Scale the kernel to sum 1."""
    boundary: Boundary = "reflect"
    """How the image goes on beyond its border. Kernels that are no product of a row and a column have a decomposition,
    which some samplers need, with circular alone, or with `dense`."""
    dense: bool = False
    """Decompose the blur as a matrix, for samplers that need it; for small images."""


class ColorizationSettings(Settings):
    """A x = 0.299 red + 0.587 green + 0.114 blue."""

    name: Literal["colorization"]


class CompressedSensingSettings(Settings):
    """A x = random orthonormal combinations of all pixels, drawn for each image."""

    name: Literal["compressed_sensing"]
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Measurements for each number in the image."""
    matrix: Literal["hartley", "dense"] = "hartley"
    """hartley: random signs, a fast transform, random rows of it, at any size; dense: a matrix, for small images."""


class FourierSubsamplingSettings(Settings):
    """A x = some columns of the unitary Fourier transform, drawn for each image, as in magnetic resonance imaging."""

    name: Literal["fourier_subsampling"]
    acceleration: Annotated[float, Field(ge=1)] = 4.0
    """One column in so many is measured."""
    center_fraction: Fraction = 0.08
    """Share of the columns, at the lowest frequencies, that always is; the others get rarer with the frequency."""


class PhaseRetrievalSettings(Settings):
    """A(x) = modulus of the Fourier transform of the image with a border of zeros. Not linear."""

    name: Literal["phase_retrieval"]
    oversample: NonNegative = 2.0
    """The border on each side is oversample / 8 of the image's height or width."""


class HDRSettings(Settings):
    """A(x) = clip(factor x, -1, 1). Not linear."""

    name: Literal["hdr"]
    factor: Positive = 2.0


class JPEGSettings(Settings):
    """A(x) = JPEG compression, its gradient that of a codec which does not round. Not linear."""

    name: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=100)] = 10
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    """Of the chroma: 4:2:0 halves its size along both axes."""


_Simple = (
    IdentitySettings
    | InpaintingSettings
    | SuperResolutionSettings
    | GaussianBlurSettings
    | MotionBlurSettings
    | BlurSettings
    | ColorizationSettings
    | CompressedSensingSettings
    | FourierSubsamplingSettings
    | PhaseRetrievalSettings
    | HDRSettings
    | JPEGSettings
)
SimpleOperatorSettings = Annotated[_Simple, Field(discriminator="name")]


class CompositionSettings(Settings):
    """A x = second(first(x)), each a section like `operator`."""

    name: Literal["composition"]
    first: SimpleOperatorSettings
    """Its measurement must be an image."""
    second: SimpleOperatorSettings
    """Acts on the measurement of the first."""
    dense: bool = False
    """Decompose the composition as a matrix, for samplers that need it; for linear operators and small images."""


OperatorSettings = Annotated[_Simple | CompositionSettings, Field(discriminator="name")]


class _AdditiveNoise(Settings):
    std: Positive
    """Standard deviation, in the units of `pixel_range`."""
    pixel_range: Annotated[list[float], Pair] = Field(default=[-1.0, 1.0])
    """The range of the pixels that `std` refers to: 0.2 on [0, 1] is 0.4 on [-1, 1]."""

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
    """Standard deviation, in the units of `pixel_range`; auto estimates it from each measurement, if these are given
    (`measurement.given`)."""


class LaplaceNoiseSettings(_AdditiveNoise):
    """Additive white Laplace noise, which has outliers."""

    name: Literal["laplace"]


class PoissonNoiseSettings(Settings):
    """Counts of photons, for measurements that are pixels."""

    name: Literal["poisson"]
    peak: Positive
    """Photons at white, in the mean; black gives none. A rate of 1 for pixels in [0, 255] is 255."""


class NoNoiseSettings(Settings):
    """Exact measurements, for samplers that do without the likelihood's score."""

    name: Literal["none"]


def _gaussian_if_unnamed(value: Any) -> Any:
    return {"name": "gaussian", **value} if isinstance(value, dict) and "name" not in value else value


NoiseSettings = Annotated[
    GaussianNoiseSettings | LaplaceNoiseSettings | PoissonNoiseSettings | NoNoiseSettings,
    Field(discriminator="name"),
    BeforeValidator(_gaussian_if_unnamed),
]


PICTURES = ("denoising", "inpainting", "super_resolution", "gaussian_blur", "blur", "colorization", "hdr", "jpeg")
"""Operators that make pictures of pictures, and of every one in the same way."""


def parts_of(operator: OperatorSettings) -> list[SimpleOperatorSettings]:
    """The operators that one is made of, in the order in which they act."""
    return [operator.first, operator.second] if isinstance(operator, CompositionSettings) else [operator]


class Measurement(Settings):
    """y = A x + e. Without this section the sampling is unconditional."""

    operator: OperatorSettings
    noise: NoiseSettings
    """Gaussian if it has no name."""
    given: bool = False
    """The images in `data.path` are the measurements themselves, as pictures, and nothing is known of the true ones."""
    estimate_noise: bool = False
    """The noise is as `noise` says, but the sampler is told what is estimated from each measurement: a test of
    `std: auto`."""

    @property
    def noise_is_estimated(self) -> bool:
        """Whether the sampler is told an estimate."""
        return self.estimate_noise or getattr(self.noise, "std", None) == "auto"

    @model_validator(mode="after")
    def _pictures_can_be_given(self) -> Measurement:
        for operator in parts_of(self.operator) if self.given else ():
            if operator.name == "motion_blur":
                raise ValueError("given: motion_blur draws its kernel; take blur, with a file of the kernel")
            if operator.name not in PICTURES:
                raise ValueError(
                    f"given: {operator.name} measures no picture that could be given; allowed: "
                    f"{', '.join(PICTURES)}, or a composition of these"
                )
            if isinstance(operator, InpaintingSettings) and operator.mask not in ("file", "beside"):
                raise ValueError(f"given: found mask: {operator.mask}, which is drawn; allowed: file or beside")
        return self

    @model_validator(mode="after")
    def _noise_can_be_estimated(self) -> Measurement:
        if not self.noise_is_estimated:
            return self
        what = "estimate_noise: this" if self.estimate_noise else "noise.std: found auto, which"
        if not isinstance(self.noise, GaussianNoiseSettings):
            raise ValueError(f"{what} is for gaussian noise, but the noise is {self.noise.name}; remove it")
        if self.noise.std == "auto" and not self.given:
            raise ValueError(
                "noise.std: found auto, which is for measurements that are given (given: true); allowed: how much "
                "noise is to be added, with estimate_noise: true if the sampler is not to be told"
            )
        if self.noise.std != "auto" and self.given:
            raise ValueError(f"estimate_noise: noise.std is known, {self.noise.std:g}; remove it, or take std: auto")
        for operator in parts_of(self.operator):
            if operator.name not in (*PICTURES, "motion_blur") or operator.name in ("hdr", "jpeg"):
                raise ValueError(
                    f"{what} is for measurements that are pictures with independent noise, but the operator is "
                    f"{operator.name}; allowed with it: noise whose std is a number that is known"
                )
        return self

    @model_validator(mode="after")
    def _photons_come_from_pixels(self) -> Measurement:
        last = self.operator.second if isinstance(self.operator, CompositionSettings) else self.operator
        if self.noise.name == "poisson" and last.name in (
            "compressed_sensing",
            "fourier_subsampling",
            "phase_retrieval",
        ):
            raise ValueError(
                f"noise.name: found poisson, which counts the photons of pixels, but {last.name} measures no pixels; "
                "allowed with it: gaussian, laplace, none"
            )
        return self


def _require_odd(kernel_size: int | None) -> None:
    if kernel_size is not None and kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: found {kernel_size}; allowed: an odd number, so that the kernel has a middle")
