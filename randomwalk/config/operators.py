"""Operators: what is measured of an image."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from randomwalk.config.base import WHOLE, Fraction, Number, Pair, PathText, Positive, Settings, Side, Text


class IdentitySettings(Settings):
    """A x = x: denoising."""

    name: Literal["denoising"]


class InpaintingSettings(Settings):
    """A x = mask * x."""

    name: Literal["inpainting"]
    mask: Literal["random", "box", "file", "beside"] = "random"
    """Drawn at random; a box; an image file; or `beside`: the mask of photo.png is photo_mask.png next to it."""
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """Share of missing pixels (mask: random)."""
    box_size: Side | Annotated[list[Side], Pair] | None = None
    """Side of the missing box in pixels, or [smallest, largest] to draw both sides (mask: box)."""
    margin: Annotated[int, Field(ge=0, le=32_768), WHOLE] = 0
    """Smallest distance of the box from the border, in pixels (mask: box)."""
    file: PathText | None = None
    """Image whose white pixels are observed (mask: file)."""
    grow: Annotated[int, Field(ge=0, le=1024), WHOLE] | Literal["auto"] = "auto"
    """Pixels by which the missing area of a painted mask is widened on all sides. auto: 1 for masks with the soft edge
    of a brush, 0 for those with hard edges (mask: file or beside)."""
    invert: bool = False
    """Black is observed and white is missing, as other programs have it (mask: file or beside)."""

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
        if self.mask not in ("file", "beside") and (self.invert or self.grow != "auto"):
            raise ValueError(
                f"{'invert' if self.invert else 'grow'}: is for painted masks (mask: file or beside), but mask is "
                f"{self.mask}; remove it"
            )
        if isinstance(self.box_size, list) and self.box_size[0] > self.box_size[1]:
            raise ValueError(f"box_size: found {self.box_size}; allowed: [smallest, largest]")
        return self


Downsampling = Literal["bicubic", "box", "nearest", "strided", "bicubic_mirrored"]


class SuperResolutionSettings(Settings):
    """A x = smaller image, by an integer factor."""

    name: Literal["super_resolution"]
    factor: Annotated[int, Field(ge=2, le=1024), WHOLE] = 4
    """Divides the height and the width of the images."""
    downsampling: Downsampling = "bicubic"
    """How the small image was made: bicubic, antialiased, as by Pillow's resize (other smooth filters are close to it);
    box, the mean of the pixels (Pillow's BOX, OpenCV's INTER_AREA); nearest, the middle pixel, without a filter
    (Pillow's NEAREST); strided, the first pixel, x[::factor] (the nearest of OpenCV and PyTorch). bicubic_mirrored is
    bicubic with a mirrored border, as by MATLAB's imresize and in the paper."""
    file: PathText | None = None
    """Kernel of a blur before `downsampling: strided`, as a point of light looks: an image (its grey values) or a
    two-dimensional .npy file; it is scaled to sum 1."""

    @model_validator(mode="after")
    def _strided_after_a_kernel(self) -> SuperResolutionSettings:
        if self.file is not None and self.downsampling != "strided":
            raise ValueError(
                f"file: the kernel of a blur is for downsampling: strided, but downsampling is {self.downsampling}; "
                "take strided, or remove it"
            )
        return self


KernelSide = Annotated[int, Field(ge=1, le=2047), WHOLE]
Boundary = Literal["reflect", "replicate", "zero", "circular", "unknown"]


class GaussianBlurSettings(Settings):
    """A x = blur with a Gaussian."""

    name: Literal["gaussian_blur"]
    std: Annotated[float, Field(gt=0, le=1000)] = 3.0
    """Standard deviation of the Gaussian, in pixels."""
    kernel_size: KernelSide | None = None
    """Side of the kernel in pixels, odd; it never extends beyond 4 standard deviations."""
    boundary: Boundary = "reflect"
    """Surroundings of the image: unknown (restored too, and cut off at the end; the default where `measurement.given`),
    or the image continued by this rule."""

    @model_validator(mode="after")
    def _odd(self) -> GaussianBlurSettings:
        _require_odd(self.kernel_size)
        return self


class DefocusBlurSettings(Settings):
    """A x = blur of a lens out of focus: with a disc."""

    name: Literal["defocus_blur"]
    radius: Annotated[float, Field(gt=0, le=1000)]
    """Radius of the disc, in pixels."""
    boundary: Boundary = "reflect"
    """See gaussian_blur."""
    dense: bool = False
    """Decompose the blur as a matrix, for samplers that need a decomposition; for small images."""


class MotionBlurSettings(Settings):
    """A x = blur of a camera that moves along a straight line (length), or along a path drawn for each image."""

    name: Literal["motion_blur"]
    length: Annotated[float, Field(ge=1, le=2000)] | None = None
    """Length of the straight line, in pixels. Without it the path is drawn."""
    angle: Annotated[float, Field(ge=-360, le=360)] = 0.0
    """Direction of the line in degrees, counter-clockwise from the horizontal."""
    kernel_size: KernelSide = 61
    """Side of the kernel of a path in pixels, odd; the path has between half and the whole length of it."""
    intensity: Fraction = 0.5
    """Form of a path: 0 is a straight line, 1 a tangled one."""
    boundary: Boundary = "circular"
    """See gaussian_blur. Only circular has a spectral decomposition at any size, which some samplers need."""
    dense: bool = False
    """Decompose the blur as a matrix, for samplers that need a decomposition; for small images."""

    @model_validator(mode="after")
    def _line_or_path(self) -> MotionBlurSettings:
        _require_odd(self.kernel_size)
        if self.length is None and self.angle != 0:
            raise ValueError("angle: is for a straight line; add its length, or remove it")
        for key, usual in (("kernel_size", 61), ("intensity", 0.5)):
            if self.length is not None and getattr(self, key) != usual:
                raise ValueError(f"{key}: is for a path that is drawn, but length gives a straight line; remove it")
        return self


class BlurSettings(Settings):
    """A x = blur with a kernel from a file."""

    name: Literal["blur"]
    file: PathText
    """The kernel as a point of light looks in the photograph: an image, or a two-dimensional .npy file."""
    flip: bool = False
    """Turn the kernel by 180 degrees: for files that are made for a correlation."""
    center: bool | None = None
    """Move the kernel's centre of mass into its middle; by default where the middle of the file is far from it."""
    normalize: bool = True
    """Scale the kernel to sum 1."""
    boundary: Boundary = "reflect"
    """See gaussian_blur. Kernels that are not the product of a row and a column have a spectral decomposition, which
    some samplers need, only with circular or `dense`."""
    dense: bool = False
    """Decompose the blur as a matrix, for samplers that need a decomposition; for small images."""


class RegionalBlurSettings(Settings):
    """A x = blur with a kernel for each region of the image, with a smooth passage from one to the next."""

    name: Literal["regional_blur"]
    files: Annotated[list[PathText], Field(min_length=1, max_length=1024)]
    """Kernels of the regions row by row, each as `file` of blur."""
    regions: Annotated[list[Annotated[int, Field(ge=1, le=1024), WHOLE]], Pair]
    """Numbers of rows and columns of regions, which are equally large."""
    flip: bool = False
    """See blur."""
    center: bool | None = None
    """See blur."""
    normalize: bool = True
    """Scale each kernel to sum 1."""
    boundary: Boundary = "reflect"
    """See gaussian_blur. There is no spectral decomposition."""

    @model_validator(mode="after")
    def _a_file_for_each_region(self) -> RegionalBlurSettings:
        if len(self.files) != math.prod(self.regions):
            raise ValueError(
                f"files: found {len(self.files)}, but regions: {self.regions} are {math.prod(self.regions)}; allowed: "
                "a kernel for each"
            )
        return self


OneBlurSettings = GaussianBlurSettings | DefocusBlurSettings | MotionBlurSettings | BlurSettings
AnyBlurSettings = OneBlurSettings | RegionalBlurSettings


class ColorizationSettings(Settings):
    """A x = 0.299 red + 0.587 green + 0.114 blue."""

    name: Literal["colorization"]


class CompressedSensingSettings(Settings):
    """A x = random orthonormal combinations of all pixels, drawn for each image."""

    name: Literal["compressed_sensing"]
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Number of measurements per entry of the image."""
    matrix: Literal["hartley", "dense"] = "hartley"
    """Random signs, a fast transform and a selection of its rows (hartley, at any size), or a dense matrix (small
    images)."""


class FourierSubsamplingSettings(Settings):
    """A x = some columns of the unitary Fourier transform, drawn for each image, as in magnetic resonance imaging."""

    name: Literal["fourier_subsampling"]
    acceleration: Annotated[float, Field(ge=1, le=32_768)] = 4.0
    """Factor by which the number of measured columns is reduced."""
    center_fraction: Fraction = 0.08
    """Share of the columns, at the lowest frequencies, that is always measured; the others are drawn, higher
    frequencies less often."""


class MRISettings(Settings):
    """y = mask * Fourier transform of a complex image (two channels: real, imaginary), weighted by each coil's
    sensitivity: Cartesian magnetic resonance imaging. Gaussian noise has its std in both parts."""

    name: Literal["mri"]
    mask: Literal["random", "equispaced", "variable_density", "file", "nonzero"] = "random"
    """Columns of k-space, drawn for each image: uniformly (random) or evenly spaced from a first one that is drawn
    (equispaced); single points, more of them at low frequencies (variable_density); those of a file; or those that are
    not 0 in the k-space of any coil (nonzero, with `measurement.given`)."""
    acceleration: Annotated[float, Field(ge=1, le=32_768)] = 4.0
    """Factor by which the number of measured columns or points is reduced (for masks that are drawn)."""
    center_fraction: Fraction | None = None
    """Share of the columns or points, at the lowest frequencies, that is always measured; 0.32 / acceleration by
    default, which is 0.08 at 4 and 0.04 at 8 (for masks that are drawn)."""
    file: PathText | None = None
    """Mask as a .npy file, [W] for columns or [H, W], with 1 where k-space is measured and the zero frequency in the
    middle (mask: file)."""
    coils: Annotated[int, Field(ge=1, le=256), WHOLE] = 1
    """Number of coils whose sensitivities are simulated; 1 is a coil that sees all of the image alike."""
    maps: PathText | None = None
    """Complex sensitivities [coils, H, W] as a .npy file, instead of simulated ones."""

    @model_validator(mode="after")
    def _has_what_its_mask_needs(self) -> MRISettings:
        read = self.mask == "file"
        if read != (self.file is not None):
            said = "missing; mask: file needs the path of the mask" if read else "is for mask: file; remove it"
            raise ValueError(f"file: {said}")
        for key, usual in (("acceleration", 4.0), ("center_fraction", None)):
            if self.mask in ("file", "nonzero") and getattr(self, key) != usual:
                raise ValueError(f"{key}: is for masks that are drawn, but mask is {self.mask}; remove it")
        if self.maps is not None and self.coils != 1:
            raise ValueError("coils: is for simulated sensitivities, but maps are given; remove it")
        return self


Window = Literal["none", "hann"]


class TomographySettings(Settings):
    """A x = line integrals of the image along parallel rays of many angles (Radon transform): computed tomography."""

    name: Literal["tomography"]
    views: (
        Annotated[int, Field(ge=1, le=100_000), WHOLE]
        | Annotated[list[Annotated[float, Field(ge=-360, le=360)]], Field(min_length=1, max_length=100_000)]
    ) = 60
    """Number of views, whose angles are even over `arc`, or a list of their angles in degrees, counter-clockwise; at 0
    the rays are vertical and the detector runs from left to right."""
    arc: Annotated[float, Field(gt=0, le=360)] = 180.0
    """Angle over which a number of views is spread, from 0, in degrees: usually 180 or 360."""
    detectors: Annotated[int, Field(ge=1, le=65_536), WHOLE] | None = None
    """Entries of the detector, whose middle is that of the image; by default those that the image's diagonal needs, or
    those of the given projections."""
    pixel_size: Positive = 1.0
    """Side of a pixel, in the unit of length in which integrals are taken."""
    detector_spacing: Positive | None = None
    """Distance of two entries of the detector, in the same unit; pixel_size by default."""
    window: Window = "hann"
    """Window of the ramp filter, for filtered back-projection (`start.mean: measurement`)."""

    @model_validator(mode="after")
    def _arc_of_a_number(self) -> TomographySettings:
        if isinstance(self.views, list) and self.arc != 180:
            raise ValueError("arc: is for a number of views, but views is a list of angles; remove it")
        return self


class DemosaicSettings(Settings):
    """A x = red, green or blue at each pixel, by the Bayer pattern of a camera's sensor: demosaicking."""

    name: Literal["demosaic"]
    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = "RGGB"
    """Colours of the first two pixels of the first row, then of the second."""


_Plain = bool | Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)] | Number | Text
_Row = Annotated[list[_Plain], Field(max_length=1_000_000)]
_Table = Annotated[list[_Row], Field(max_length=1_000_000)]
_Stack = Annotated[list[_Table], Field(max_length=1_000_000)]
_Batch = Annotated[list[_Stack], Field(max_length=1_000_000)]


class DeepinvSettings(Settings):
    """A x = a linear physics of the library deepinv (`pip install deepinv`), without its noise."""

    name: Literal["deepinv"]
    physics: Text
    """Class in deepinv.physics, such as Tomography, SinglePixelCamera, CompressiveSpectralImaging, Pansharpen."""
    arguments: dict[Text, _Plain | _Row | _Table | _Stack | _Batch] = Field(default_factory=dict, max_length=100)
    """Keyword arguments of the class: numbers, texts, and lists. A list becomes a tuple, and lists of lists a tensor.
    `img_size` and `img_width` are those of the images unless they are given. What the class draws is always the
    same."""


class PhaseRetrievalSettings(Settings):
    """A(x) = modulus of the Fourier transform of the image with a border of zeros. Not linear."""

    name: Literal["phase_retrieval"]
    oversample: Annotated[float, Field(ge=0, le=64)] = 2.0
    """Width of the border on each side, in eighths of the image's height or width."""


class HDRSettings(Settings):
    """A(x) = clip(factor x, -1, 1). Not linear."""

    name: Literal["hdr"]
    factor: Positive = 2.0
    """Exposure factor."""


class JPEGSettings(Settings):
    """A(x) = JPEG compression, with the gradient of a codec that does not round. Not linear."""

    name: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=100), WHOLE] = 10
    """Quality of the codec: higher is better."""
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    """Subsampling of the chroma: 4:2:0 halves its size along both axes."""


_Simple = (
    IdentitySettings
    | InpaintingSettings
    | SuperResolutionSettings
    | GaussianBlurSettings
    | DefocusBlurSettings
    | MotionBlurSettings
    | BlurSettings
    | RegionalBlurSettings
    | ColorizationSettings
    | CompressedSensingSettings
    | FourierSubsamplingSettings
    | MRISettings
    | TomographySettings
    | DemosaicSettings
    | DeepinvSettings
    | PhaseRetrievalSettings
    | HDRSettings
    | JPEGSettings
)
SimpleOperatorSettings = Annotated[_Simple, Field(discriminator="name")]


class CompositionSettings(Settings):
    """A x = second(first(x)), each a section like `operator`."""

    name: Literal["composition"]
    first: SimpleOperatorSettings
    """First operator; its measurement must be an image."""
    second: SimpleOperatorSettings
    """Operator on the measurement of the first."""
    dense: bool = False
    """Decompose the composition as a matrix, for samplers that need a decomposition; for linear operators and small
    images."""


OperatorSettings = Annotated[_Simple | CompositionSettings, Field(discriminator="name")]


PICTURES = (
    "denoising", "inpainting", "super_resolution", "gaussian_blur", "defocus_blur", "motion_blur", "blur",
    "regional_blur", "colorization", "demosaic", "hdr", "jpeg",
)  # fmt: skip
"""Operators whose measurements are pictures; motion_blur is deterministic if it has a length."""
ARRAYS = ("mri", "tomography", "demosaic", "deepinv")
"""Operators whose measurements have axes of their own in files of arrays."""


def blurs_of(operator: OperatorSettings) -> list[AnyBlurSettings]:
    """The parts of an operator that are blurs."""
    return [part for part in parts_of(operator) if isinstance(part, AnyBlurSettings)]


def parts_of(operator: OperatorSettings) -> list[SimpleOperatorSettings]:
    """The parts of an operator, in the order in which they act."""
    return [operator.first, operator.second] if isinstance(operator, CompositionSettings) else [operator]


def _require_odd(kernel_size: int | None) -> None:
    if kernel_size is not None and kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: found {kernel_size}; allowed: an odd number, for a kernel with a middle")
