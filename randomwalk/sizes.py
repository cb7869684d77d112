"""Sizes of images that keep their own (``data.fit: keep``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from randomwalk.config import SampleConfig
from randomwalk.config.measurement import CompositionSettings, SuperResolutionSettings
from randomwalk.data import ImageSource, Size
from randomwalk.denoisers import Denoiser
from randomwalk.errors import InputError


def own_sizes(config: SampleConfig, denoiser: Denoiser, source: ImageSource, count: int) -> list[Size | None] | None:
    """Sizes of the first ``count`` images if they keep them, from their headers alone.

    Returns:
        None for an image that cannot be read, or is too small to be measured; None if all are brought to one size.

    Raises:
        InputError: the network does not take any size, or no image can be used.
    """
    if config.data is None or config.data.fit != "keep":
        return None
    if not denoiser.any_size:
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
            trimmed(size, factor_of(config), source.names[i])
            sizes.append(size)
        except InputError as error:
            sizes.append(None)
            reasons.append(str(error))
    if not any(sizes):
        raise InputError(reasons[0])
    return sizes


def factor_of(config: SampleConfig) -> int:
    """What must divide the height and the width of an image that is to be measured: the factor of super_resolution."""
    return 1 if config.measurement is None else _factor_of(config.measurement.operator)


def _factor_of(operator: Any) -> int:
    if isinstance(operator, CompositionSettings):
        return _factor_of(operator.first) * _factor_of(operator.second)
    return operator.factor if isinstance(operator, SuperResolutionSettings) else 1


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
    others = {1: "", 2: "; so is another image"}.get(len(cut), f"; so are {len(cut) - 1} other images")
    return [f"{name} is cut from {was} to {kept} pixels, right and bottom, which the factor {factor} divides{others}"]
