"""Measurements, made of true images or given as pictures, and what samplers are told of their noise."""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.config.measurement import Measurement
from randomwalk.config.operators import parts_of
from randomwalk.errors import InputError
from randomwalk.images.noise_estimation import estimate_noise
from randomwalk.images.sources import ImageSource
from randomwalk.operators import Composition, Inpainting, Operator
from randomwalk.operators import noise as noises
from randomwalk.operators.noise import GaussianNoise, Noise
from randomwalk.operators.operator import ImageShape
from randomwalk.sampling.batch import Batch

ASSUMED_STD = 2 * 10 / 255
"""Stands for a standard deviation that is still to be estimated, where settings are tried and schedules drawn."""
COPIES = 3
"""Equal channels as which a network for colours is given a grey picture."""


def make_noise(measurement: Measurement) -> Noise:
    """The noise that a config states; of `ASSUMED_STD` if it is to be estimated."""
    settings = measurement.noise.model_dump()
    if settings.get("std") == "auto":
        return GaussianNoise(ASSUMED_STD)
    return noises.make(**settings)


def mask_of(config: SampleConfig, source: ImageSource, image: int, shape: ImageShape) -> Tensor:
    """The mask next to an image, ``[H, W]``; of the pixels that are left of a true image of ``shape``.

    Raises:
        InputError: see `ImageSource.mask`.
    """
    mask = source.mask(image)
    return mask if config.given else mask[: shape[1], : shape[2]]


def stays_grey(config: SampleConfig, source: ImageSource, image: int) -> bool:
    """Whether an image is a grey picture, and is not there to be coloured.

    A given one is decoded to know: the noise of a grey picture that a file keeps as three equal channels is one, and
    not three.
    """
    if not config.given or config.measurement is None:
        return source.header(image).grey
    if any(part.name == "colorization" for part in parts_of(config.measurement.operator)):
        return False
    try:
        return source.picture(image).colourless
    except InputError:  # it will be skipped, with a message
        return source.header(image).grey


def known_part(operator: Operator) -> Tensor | None:
    """``[B, 1, H, W]``, 1 where numbers of the measurement are known; None if all are."""
    if isinstance(operator, Composition):
        return known_part(operator.second)
    return operator.mask if isinstance(operator, Inpainting) else None


def same_in_all_channels(y: Tensor) -> Tensor:
    """Measurements of grey pictures: those of the first channel in all, so that the noise is grey as they are."""
    return y[:, :1].expand_as(y).contiguous() if has_copies(y) else y


def has_copies(y: Tensor) -> bool:
    """Whether measurements ``[B, ...]`` of grey pictures have equal channels."""
    return y.ndim == 4 and y.shape[1] == COPIES


def noise_level(operator: Operator, y: Tensor, name: str) -> float:
    """Standard deviation of the noise of a measurement ``[C, H, W]`` of the image called ``name``, as estimated.

    Raises:
        InputError: too little of it is known.
    """
    known = known_part(operator)
    try:
        return estimate_noise(y, None if known is None else known[0, 0])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def residuals(operator: Operator, batch: Batch) -> list[float] | None:
    """``||y - A x|| / (std sqrt(n))`` of each sample, over the n numbers that are known: about 1 if x explains y.

    None if the noise is not of one standard deviation.

    Args:
        operator: A, for all rows of the batch.
        batch: with x and y.
    """
    if batch.measurement is None or batch.noise_std is None:
        return None
    with torch.no_grad():
        error, known = batch.measurement - operator(batch.x), known_part(operator)
    share = torch.ones_like(error[:1]) if known is None else known.to(error.device)
    squares = (error * share).flatten(1).square().sum(1) / (share.flatten(1).mean(1) * error[0].numel())
    return [float(value) for value in squares.sqrt() / batch.noise_std]
