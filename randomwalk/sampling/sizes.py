"""Sizes of images that keep their own (``data.fit: keep``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from randomwalk.config import SampleConfig
from randomwalk.config.measurement import CompositionSettings, SuperResolutionSettings
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.images.sources import ImageSource
from randomwalk.images.tensors import Size
from randomwalk.operators.operator import ImageShape


def own_sizes(config: SampleConfig, denoiser: Denoiser, source: ImageSource, count: int) -> list[Size | None] | None:
    """Sizes of the first ``count`` images if they keep them, from their headers alone.

    Returns:
        None for an image that cannot be read or measured, for want of pixels or of its mask; None if all are brought to
        one size.

    Raises:
        InputError: the network does not take any size, or no image can be used.
    """
    if config.data is None or config.data.fit != "keep":
        return None
    if not denoiser.any_size and not config.given:
        trained = "" if denoiser.image_size is None else f", {denoiser.image_size}x{denoiser.image_size} pixels"
        raise InputError(
            f"data.fit: keep is for networks that take images of any size, but that of {config.network.path} takes "
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
                    f"{config.network.path} takes {denoiser.image_size}x{denoiser.image_size} alone"
                )
            if config.masks_beside:
                source.mask(i)
            sizes.append(size)
        except InputError as error:
            sizes.append(None)
            reasons.append(str(error))
    if not any(sizes):
        raise InputError(reasons[0])
    return sizes


def image_shape(config: SampleConfig, denoiser: Denoiser, sizes: Sequence[Size | None] | None) -> ImageShape:
    """``(C, H, W)`` of the images of a run; of the largest if they have sizes of their own.

    Raises:
        InputError: neither the network nor the config says.
    """
    if denoiser.channels is None:
        raise InputError(f"{config.network.path}: does not say how many channels its images have")
    if sizes is not None:
        largest = max((size for size in sizes if size is not None), key=math.prod)
        return (denoiser.channels, *measured_size(config, largest, "the largest image"))
    size = config.image_size
    if size is None:
        if denoiser.image_size is None:
            raise InputError("image_size: is needed, since the network does not say what it was trained on")
        size = [denoiser.image_size] * 2
    return (denoiser.channels, size[0], size[1])


def factor_of(config: SampleConfig) -> int:
    """What must divide the height and the width of an image that is to be measured: the factor of super_resolution."""
    return 1 if config.measurement is None else _factor_of(config.measurement.operator)


def _factor_of(operator: Any) -> int:
    if isinstance(operator, CompositionSettings):
        return _factor_of(operator.first) * _factor_of(operator.second)
    return operator.factor if isinstance(operator, SuperResolutionSettings) else 1


def measured_size(config: SampleConfig, size: Size, name: str) -> Size:
    """Height and width of what is measured: what the factor divides of a picture, or what a given measurement is of.

    Raises:
        InputError: nothing.
    """
    factor = factor_of(config)
    return (size[0] * factor, size[1] * factor) if config.given else trimmed(size, factor, name)


def trimmed(size: Size, factor: int, name: str) -> Size:
    """What the factor divides of the size of the image called ``name``.

    Raises:
        InputError: nothing.
    """
    height, width = size
    if min(size) < factor:
        raise InputError(f"{name}: {height}x{width} pixels are too few for super_resolution by {factor}")
    return height - height % factor, width - width % factor


def trimming_notes(names: Sequence[str], sizes: Sequence[Size | None], factor: int) -> list[str]:
    """One line if images are cut, so that the factor divides their sides."""
    cut = [(name, size) for name, size in zip(names, sizes, strict=True) if size and any(s % factor for s in size)]
    if not cut:
        return []
    name, size = cut[0]
    was, kept = ("{}x{}".format(*sides) for sides in (size, trimmed(size, factor, name)))
    how = f"cut from {was} to {kept} pixels, right and bottom, which the factor {factor} divides"
    return [f"{name} is {how}{and_others(len(cut) - 1)}"]


def and_others(count: int) -> str:
    """The end of a note on one image, that holds for so many others."""
    return {0: "", 1: "; so is another image"}.get(count, f"; so are {count} other images")
