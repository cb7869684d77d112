"""Image sizes of a sampling run, one for all or each image's own (``data.fit: keep``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from randomwalk.config import SampleConfig
from randomwalk.config.operators import (
    AnyBlurSettings,
    RegionalBlurSettings,
    SuperResolutionSettings,
    TomographySettings,
    parts_of,
)
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource
from randomwalk.images.tensors import Size
from randomwalk.operators.blur import size_of_kernel
from randomwalk.operators.operator import ImageShape
from randomwalk.operators.regional_blur import size_of_kernels

Sizing = Callable[[Size, str], Size]
"""``sizing(size, name)`` is the size of the true image that belongs to a file with an image of this size and name."""


def own_sizes(config: SampleConfig, denoiser: Denoiser, source: ImageSource, count: int) -> list[Size | None] | None:
    """Read the sizes of the first ``count`` images from their headers, if images keep their own size.

    Returns:
        One size per image, None for an image that cannot be read or measured (too few pixels, no mask); or None if all
        images are brought to one size.

    Raises:
        InputError: the network takes only one size, or no image can be used.
    """
    if config.data is None or config.data.fit != "keep":
        return None
    if not denoiser.any_size and not config.given:
        trained = "" if denoiser.image_size is None else f", {denoiser.image_size}x{denoiser.image_size} pixels"
        raise InputError(
            f"data.fit: keep needs a network that takes images of any size, but that of {config.network.path} takes "
            f"only the size that it was trained on{trained}; choose resize, crop or pad"
        )
    measured_size = sizing_of(config)
    sizes: list[Size | None] = []
    reasons: list[str] = []
    for i in range(count):
        try:
            size = source.size(i)
            measured = measured_size(size, source.names[i])
            if not denoiser.any_size and denoiser.image_size is not None and set(measured) != {denoiser.image_size}:
                raise InputError(
                    f"{source.names[i]}: is a measurement of {measured[0]}x{measured[1]} pixels, but the network of "
                    f"{config.network.path} takes {denoiser.image_size}x{denoiser.image_size} only"
                    + (", and measurement.operator.boundary: unknown adds to the size" if measured != size else "")
                )
            if config.masks_beside and config.painted_mask is not None:
                source.mask(i, config.painted_mask.grow, config.painted_mask.invert)
            sizes.append(size)
        except InputError as error:
            sizes.append(None)
            reasons.append(str(error))
    if not any(sizes):
        raise InputError(reasons[0])
    return sizes


def with_image_size(config: SampleConfig, denoiser: Denoiser) -> SampleConfig:
    """The config with the size of the network, where it takes only that and the files do not tell the images'."""
    if not config.sizes_unknown or config.image_size is not None or denoiser.any_size or denoiser.image_size is None:
        return config
    return config.model_copy(update={"image_size": [denoiser.image_size] * 2})


def image_shape(config: SampleConfig, denoiser: Denoiser, sizes: Sequence[Size | None] | None) -> ImageShape:
    """Shape ``(C, H, W)`` of the images of a run; that of the largest if images keep their own size.

    Raises:
        InputError: neither the network nor the config states it.
    """
    if denoiser.channels is None:
        raise InputError(f"{config.network.path}: does not say how many channels its images have")
    if sizes is not None:
        largest = max((size for size in sizes if size is not None), key=math.prod)
        return (denoiser.channels, *sizing_of(config)(largest, "the largest image"))
    size = config.image_size
    if size is None:
        if denoiser.image_size is None:
            raise InputError("image_size: is required, since the network does not say what size it was trained on")
        size = [denoiser.image_size] * 2
    return (denoiser.channels, size[0], size[1])


def sizing_of(config: SampleConfig) -> Sizing:
    """Rule for the height and width of the true image that belongs to a file.

    The factor of super_resolution multiplies the size of a given measurement, and unknown surroundings of a blur add to
    it; a true image is cropped to a multiple of the factor. The rule raises InputError for an image that is smaller
    than the factor. Kernels of blurs are read here, once.

    Raises:
        InputError: the file of a kernel cannot be read.
    """
    if not config.given:
        return partial(_cropped, factor=scale_factor(config))
    if config.sizes_unknown:
        return partial(_stated, config=config)
    steps: list[tuple[int, Size]] = []  # factor and added pixels of each part, the last first
    for part in [] if config.measurement is None else reversed(parts_of(config.measurement.operator)):
        if isinstance(part, SuperResolutionSettings):
            steps.append((part.factor, (0, 0)))
        elif isinstance(part, AnyBlurSettings) and part.boundary == "unknown":
            rows, columns = size_of_kernels(part) if isinstance(part, RegionalBlurSettings) else size_of_kernel(part)
            steps.append((1, (rows - 1, columns - 1)))

    def enlarged(size: Size, name: str) -> Size:
        height, width = size
        for factor, (rows, columns) in steps:
            height, width = factor * height + rows, factor * width + columns
        return height, width

    return enlarged


def _stated(size: Size, name: str, config: SampleConfig) -> Size:
    """Size that the config states, or for projections a square as wide as the detector."""
    assert config.measurement is not None
    operator = config.measurement.operator
    if config.image_size is not None:
        return config.image_size[0], config.image_size[1]
    if not isinstance(operator, TomographySettings):
        raise InputError(f"image_size: missing; {name} does not tell the height and width of its image")
    spacing = 1.0 if operator.detector_spacing is None else operator.detector_spacing / operator.pixel_size
    side = max(1, round((operator.detectors or size[1]) * spacing))
    return side, side


def _cropped(size: Size, name: str, factor: int) -> Size:
    height, width = size
    if min(size) < factor:
        raise InputError(f"{name}: {height}x{width} pixels are too few for super_resolution by {factor}")
    return height - height % factor, width - width % factor


def scale_factor(config: SampleConfig) -> int:
    """Factor of super_resolution, which divides the height and the width of a measured image; 1 without it."""
    parts = [] if config.measurement is None else parts_of(config.measurement.operator)
    return math.prod(part.factor for part in parts if isinstance(part, SuperResolutionSettings))
