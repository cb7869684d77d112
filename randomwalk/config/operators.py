"""Operators: what is measured of an image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


PICTURES = ("denoising", "inpainting", "super_resolution", "gaussian_blur", "blur", "colorization", "hdr", "jpeg")
"""Operators that make pictures of pictures, and of every one in the same way."""


def parts_of(operator: OperatorSettings) -> list[SimpleOperatorSettings]:
    """The operators that one is made of, in the order in which they act."""
    return [operator.first, operator.second] if isinstance(operator, CompositionSettings) else [operator]


def _require_odd(kernel_size: int | None) -> None:
    if kernel_size is not None and kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: found {kernel_size}; allowed: an odd number, so that the kernel has a middle")
