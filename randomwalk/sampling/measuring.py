"""Noise, masks and residuals of measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.config import SampleConfig
from randomwalk.config.operators import parts_of
from randomwalk.errors import InputError
from randomwalk.images.noise_estimation import estimate_noise
from randomwalk.images.sources import ImageSource
from randomwalk.operators import Composition, Inpainting, Measurement, Operator
from randomwalk.sampling.batch import Batch, repeated

COPIES = 3
"""Number of equal channels in which a colour network receives a grey image."""

CAUTION = 1.1
"""Factor of the estimated noise of a blurred image: too little ruins a deblurring, a little too much does no harm."""


def stays_grey(config: SampleConfig, source: ImageSource, image: int) -> bool:
    """Whether an image is grey and the task is not to colour it.

    A given measurement is decoded to find out: a grey image that is stored as three equal channels has one noise, not
    three.
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
    """Mask ``[B, 1, H, W]``, 1 where entries of y are known; None if all are."""
    if isinstance(operator, Composition):
        return known_part(operator.second)
    return operator.mask if isinstance(operator, Inpainting) else None


def with_known(x: Tensor, measurement: Measurement, count: int) -> Tensor:
    """Samples ``[B, C, H, W]`` with the known pixels of their measurement in place of their own.

    Args:
        x: the samples, ``count`` of each measurement in a row.
        measurement: pictures with missing pixels.
        count: number of samples of each.
    """
    known = known_part(measurement.operator)
    assert known is not None
    y = repeated(measurement.y, count)
    return torch.where(repeated(known, count) > 0 if len(known) > 1 else known > 0, y, x)


def has_copies(y: Tensor) -> bool:
    """Whether measurements ``[B, ...]`` of grey images have `COPIES` equal channels."""
    return y.ndim == 4 and y.shape[1] == COPIES


def noise_level(operator: Operator, y: Tensor, name: str) -> float:
    """Estimate the standard deviation of the noise of a measurement.

    Args:
        operator: A.
        y: the measurement, ``[C, H, W]``.
        name: of the image, for the message.

    Raises:
        InputError: too few of its pixels are known.
    """
    known = known_part(operator)
    try:
        return estimate_noise(y, None if known is None else known[0, 0])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def residuals(operator: Operator, batch: Batch) -> list[float] | None:
    """Residual ``||y - A x|| / (std sqrt(n))`` of each sample over the n known entries of y: about 1 if x explains y.

    Args:
        operator: A, for all rows of the batch.
        batch: with x and y.

    Returns:
        None if the noise does not have a single standard deviation.
    """
    if batch.measurement is None or batch.noise_std is None:
        return None
    with torch.no_grad():
        error, known = batch.measurement - operator(batch.x), known_part(operator)
    share = torch.ones((1, 1)) if known is None else known  # in place, and no ones of the size of y: it may be large
    squares = error.mul_(share.to(error)).square_().flatten(1).sum(1)
    squares = squares / (share.to(error).flatten(1).mean(1) * error[0].numel())
    return [float(value) for value in squares.sqrt() / batch.noise_std]
