"""Image sizes of a sampling run, one for all or each image's own (``data.fit: keep``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from randomwalk.config import SampleConfig
from randomwalk.config.operators import AnyBlurSettings, SuperResolutionSettings, parts_of
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource
from randomwalk.images.tensors import Size
from randomwalk.operators.blur import size_of_kernel
from randomwalk.operators.operator import ImageShape


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
    sizes: list[Size | None] = []
    reasons: list[str] = []
    for i in range(count):
        try:
            size = source.size(i)
            measured = measured_size(config, size, source.names[i])
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


def image_shape(config: SampleConfig, denoiser: Denoiser, sizes: Sequence[Size | None] | None) -> ImageShape:
    """Shape ``(C, H, W)`` of the images of a run; that of the largest if images keep their own size.

    Raises:
        InputError: neither the network nor the config states it.
    """
    if denoiser.channels is None:
        raise InputError(f"{config.network.path}: does not say how many channels its images have")
    if sizes is not None:
        largest = max((size for size in sizes if size is not None), key=math.prod)
        return (denoiser.channels, *measured_size(config, largest, "the largest image"))
    size = config.image_size
    if size is None:
        if denoiser.image_size is None:
            raise InputError("image_size: is required, since the network does not say what size it was trained on")
        size = [denoiser.image_size] * 2
    return (denoiser.channels, size[0], size[1])


def measured_size(config: SampleConfig, size: Size, name: str) -> Size:
    """Height and width of the true image that belongs to a file.

    The factor of super_resolution multiplies the size of a given measurement, and unknown surroundings of a blur add to
    it; a true image is cropped to a multiple of the factor.

    Args:
        config: of the run.
        size: height and width of the file's image.
        name: of the image, for the message.

    Raises:
        InputError: the image is smaller than the factor.
    """
    height, width = size
    parts = [] if config.measurement is None else parts_of(config.measurement.operator)
    if config.given:
        for part in reversed(parts):
            if isinstance(part, SuperResolutionSettings):
                height, width = height * part.factor, width * part.factor
            elif isinstance(part, AnyBlurSettings) and part.boundary == "unknown":
                rows, columns = size_of_kernel(part)
                height, width = height + rows - 1, width + columns - 1
        return height, width
    factor = scale_factor(config)
    if min(size) < factor:
        raise InputError(f"{name}: {height}x{width} pixels are too few for super_resolution by {factor}")
    return height - height % factor, width - width % factor


def scale_factor(config: SampleConfig) -> int:
    """Factor of super_resolution, which divides the height and the width of a measured image; 1 without it."""
    parts = [] if config.measurement is None else parts_of(config.measurement.operator)
    return math.prod(part.factor for part in parts if isinstance(part, SuperResolutionSettings))
