"""Warnings before a training starts: settings and data that are likely to spoil it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from randomwalk.config import TrainConfig
from randomwalk.config.training import Optimizer, TrainData
from randomwalk.errors import InputError
from randomwalk.images.kinds import left_out_notes
from randomwalk.images.pictures import Header
from randomwalk.images.sources import ImageSource

LOOKED_AT = 32
"""Largest number of images whose headers are read."""
DECODED = 4
"""Largest number of images that are decoded, to tell colours from grey in three channels."""
COLOURED = 8.0
"""Mean range of the channels of a pixel, out of 255, above which an image is in colour."""


def warn(lines: Iterable[str]) -> None:
    """Print warnings to the standard error, one line each."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr, flush=True)


def warnings_of(config: TrainConfig, sources: Sequence[ImageSource] = (), num_training: int | None = None) -> list[str]:
    """Warnings for a training, one line each.

    Args:
        config: of the training.
        sources: its images, as they are in their files.
        num_training: number of images that are trained on; None for points.
    """
    steps = math.ceil(config.num_images / config.batch_size)
    found = short_of_warmup(config.optimizer, steps * config.batch_size)
    if num_training is not None and num_training < config.batch_size:
        found.append(
            f"there are {num_training} images to train on, fewer than batch_size, {config.batch_size}: each is in "
            "every batch, and the network will know little else"
        )
    data = config.data
    if not isinstance(data, TrainData):
        return found
    for source in sources:
        found += left_out_notes(source.where, source.left_out)
    sample = _evenly(sources, LOOKED_AT)
    headers = [header for source, i in sample if (header := _header(source, i)) is not None]
    where = ", ".join(source.where for source in sources)
    unfit = sum(h.height != h.width or h.height > data.image_size for h in headers)
    if data.fit == "pad" and 2 * unfit > len(headers):
        found.append(
            f"data.fit is pad, but images of {where} are not square or larger than {data.image_size} x "
            f"{data.image_size}: padding adds black bars, which the network learns too; use resize or crop"
        )
    if (
        data.range is None
        and data.channels == 1
        and any(_has_colours(source, i) for source, i in _evenly(sources, DECODED))
    ):
        found.append(
            f"data.channels is 1, but images of {where} are in colour: the network will learn grey ones only; "
            "configs/folder_train.yaml is for colour"
        )
    return found


def short_of_warmup(settings: Optimizer, images: int, what: str = "training") -> list[str]:
    """Warning that a training on so many examples ends before the learning rate has risen, if it does."""
    if images >= settings.warmup_images:
        return []
    return [
        f"the {what} has {images} images, less than optimizer.warmup_images, {settings.warmup_images}: the learning "
        f"rate only reaches {images / settings.warmup_images:.0%} of its value; a tenth of them is a usual warm-up"
    ]


def _evenly(sources: Sequence[ImageSource], num: int) -> list[tuple[ImageSource, int]]:
    """Choose at most ``num`` images, evenly spread."""
    places = [(source, i) for source in sources for i in range(len(source))]
    return [places[k] for k in np.unique(np.linspace(0, len(places) - 1, num).round().astype(int))] if places else []


def _header(source: ImageSource, i: int) -> Header | None:
    try:
        return source.header(i)
    except InputError:  # reported where the image is used
        return None


def _has_colours(source: ImageSource, i: int) -> bool:
    header = _header(source, i)
    if header is None or header.grey:
        return False
    try:
        pixels = source.pixels(i, 3).astype(np.int16)
    except InputError:  # reported where the image is used
        return False
    return float((pixels.max(-1) - pixels.min(-1)).mean()) > COLOURED
