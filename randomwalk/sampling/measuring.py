"""Noise, masks and residuals of measurements."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from randomwalk.config import SampleConfig
from randomwalk.config.measurement import Measurement as MeasurementSettings
from randomwalk.config.noise import PoissonNoiseSettings
from randomwalk.config.operators import blurs_of, parts_of
from randomwalk.errors import InputError
from randomwalk.images.noise_estimation import estimate_noise, estimate_photons
from randomwalk.images.noise_regression import estimate_level
from randomwalk.images.sources import ImageSource
from randomwalk.operators import Composition, Inpainting, Measurement, Operator
from randomwalk.operators.noise import GaussianNoise, Noise, PoissonNoise
from randomwalk.sampling.batch import Batch, repeated

AROUND = 5
"""Side of the squares over which photons are averaged to tell their variance."""
COPIES = 3
"""Number of equal channels in which a colour network receives a grey image."""

CAUTION = 1.1
"""Factor of the estimated noise of a blurred image: too little ruins a deblurring, a little too much does no harm."""
MIX_CHANNELS = ("colorization", "demosaic", "mri", "deepinv")
"""Operators whose measurements are not one for each channel."""
KEEP_BRIGHTNESS = (
    "denoising", "inpainting", "super_resolution", "gaussian_blur", "defocus_blur", "motion_blur", "blur",
)  # fmt: skip
"""Operators that leave even areas as bright as they are."""
MOST_VALUES = 2**20
"""Values of a picture that are looked at."""
WINDOW, EVEN = 4, 24
"""Side of the windows in which y is looked at for even areas, and how many there must be."""
DIM = 0.999
"""Share of the pixels that are dark in a dim picture."""


def stays_grey(config: SampleConfig, source: ImageSource, image: int) -> bool:
    """Whether an image is grey and the task is not to colour it.

    A given measurement is decoded to find out: a grey image that is stored as three equal channels has one noise, not
    three.
    """
    if not config.given or config.measurement is None:
        return source.header(image).grey
    if not keeps_channels(config):
        return False
    try:
        return source.colourless(image)
    except InputError:  # it will be skipped, with a message
        return source.header(image).grey


def keeps_channels(config: SampleConfig) -> bool:
    """Whether each channel of an image is measured for itself, so that a grey image has a grey measurement."""
    parts = [] if config.measurement is None else parts_of(config.measurement.operator)
    return not any(part.name in MIX_CHANNELS for part in parts)


def known_part(operator: Operator) -> Tensor | None:
    """Mask ``[B, 1, H, W]``, 1 where entries of y are known; None if all are."""
    if isinstance(operator, Composition):
        return known_part(operator.second)
    return operator.mask if isinstance(operator, Inpainting) else None


def counted_part(operator: Operator) -> Tensor | None:
    """Mask of the entries of y that count in a residual: the known pixels, or the sampled points of k-space."""
    known = known_part(operator)
    return operator.sampled if known is None else known


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


def photon_weights(noise: PoissonNoise, y: Tensor) -> Tensor:
    """Weights of the pixels of a blurred picture: its mean standard deviation over that of each, ``[1, C, H, W]``.

    The blurred picture without noise is taken to be the mean of `AROUND` x `AROUND` pixels.

    Args:
        noise: the photons.
        y: the picture, ``[1, C, H, W]``.
    """
    smooth = avg_pool2d(y, AROUND, stride=1, padding=AROUND // 2, count_include_pad=False)
    return (noise.variance(y.mean()) / noise.variance(smooth)).sqrt()


def has_copies(y: Tensor) -> bool:
    """Whether measurements ``[B, ...]`` of grey images have `COPIES` equal channels."""
    return y.ndim == 4 and y.shape[1] == COPIES


def estimated_noise(
    settings: MeasurementSettings,
    operator: Operator,
    y: Tensor,
    name: str,
    jpeg: tuple[float, float],
    of_cameras: bool = False,
) -> Noise:
    """Estimate the noise of a picture: Gaussian, or the photons if the settings name them.

    Args:
        settings: the kind of the noise, and the operator.
        operator: A.
        y: the picture, ``[C, H, W]``.
        name: of the image, for the message.
        jpeg: steps of its file, see `ImageSource.jpeg_steps`.
        of_cameras: whether the network that denoises was trained on the noise of cameras.

    Raises:
        InputError: too few of its pixels are known.
    """
    known = known_part(operator)
    mask = None if known is None else known[0, 0]
    gain = brightening(settings, operator, y)
    bright, least = y if gain == 1 else gain * (y + 1) - 1, gain * step_of(y) / math.sqrt(12)
    try:
        if isinstance(settings.noise, PoissonNoiseSettings):
            return PoissonNoise(*estimate_photons(bright, mask)).brightened(1 / gain)
        if settings.estimate_noise or getattr(settings.noise, "white", False):
            std = estimate_noise(bright, mask, least)
        else:
            network = "photo_camera" if of_cameras else "photo"
            std = estimate_level(bright, mask, least, (gain * jpeg[0], gain * jpeg[1]), network)
        return GaussianNoise(std / gain * (CAUTION if blurs_of(settings.operator) else 1))
    except InputError as error:
        key, option = ("peak", "photons") if isinstance(settings.noise, PoissonNoiseSettings) else ("std", "noise")
        advice = f"give measurement.noise.{key} a number (restore: --{option})"
        raise InputError(f"{name}: {error}: {advice}") from error


def step_of(y: Tensor) -> float:
    """Distance of neighbouring values of a picture in [-1, 1] that was read from a file: of 8 bits, else of 16."""
    values = (y.flatten()[:: max(1, y.numel() // MOST_VALUES)] + 1) * 127.5
    return 2 / 255 if float((values - values.round()).abs().max()) < 1e-3 else 2 / 65535


def brightening(settings: MeasurementSettings, operator: Operator, y: Tensor) -> float:
    """Factor that makes a dim picture ``[C, H, W]`` as bright as those that networks are trained on, black staying -1.

    It is 1 unless `DIM` of the known pixels are below a quarter of white, or if the operator changes even areas.
    """
    if not all(part.name in KEEP_BRIGHTNESS for part in parts_of(settings.operator)):
        return 1.0
    known = known_part(operator)
    values = y.flatten(1) if known is None else y.flatten(1)[:, known[0, 0].flatten() > 0]
    if values.numel() == 0:
        return 1.0
    white = (float(np.quantile(values[:, :: max(1, values.shape[1] // MOST_VALUES)].cpu().numpy(), DIM)) + 1) / 2
    return 1.0 if white > 1 / 4 or white <= 0 else 0.9 / white


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
        error, known = batch.measurement - operator(batch.x), counted_part(operator)
    if known is not None:
        error.mul_(known.to(error))
    squares = error.square_().flatten(1).sum(1) / known_entries(operator, batch.measurement)
    return [float(value) for value in squares.sqrt() / batch.noise_std]


def known_entries(operator: Operator, y: Tensor) -> Tensor:
    """Number of known entries of each row of y, ``[B]`` or ``[1]``."""
    known = counted_part(operator)
    share = y.new_ones(1) if known is None else known.to(y).flatten(1).mean(1)
    return share * y[0].numel()


def even_residuals(operator: Operator, batch: Batch) -> list[float | None] | None:
    """`residuals` in the most even areas alone: the quarter of the windows of y in which ``A x`` varies least.

    There a restoration has no details to lose, so that what is left out of y is noise. Windows in which y may have been
    clipped at black or white are left out.

    Returns:
        None for a sample that has fewer than `EVEN` such windows, or for all if y is no picture, or its noise has no
        single standard deviation.
    """
    y = batch.measurement
    if y is None or batch.noise_std is None or y.ndim != 4 or min(y.shape[-2:]) < WINDOW:
        return None
    with torch.no_grad():
        seen, known = operator(batch.x), known_part(operator)
        shown = seen if known is None else batch.x
        mean = avg_pool2d(shown, WINDOW)
        spread = (avg_pool2d(shown.square(), WINDOW) - mean.square()).mean(1).flatten(1)
        inside = (mean.abs().amax(1) < 1 - 2 * batch.noise_std).flatten(1)
        weight = torch.ones_like(y[:1, :1]) if known is None else known.to(y)
        count = y.shape[1] * avg_pool2d(weight, WINDOW).flatten(1).expand(len(y), -1)
        squares = avg_pool2d((y - seen).square_().mul_(weight), WINDOW).sum(1).flatten(1)
    found: list[float | None] = []
    for row in range(len(y)):
        use = inside[row] & (count[row] > 0)
        if int(use.sum()) < EVEN:
            found.append(None)
            continue
        chosen = spread[row][use].argsort()[: int(use.sum()) // 4]
        share = squares[row][use][chosen].sum() / count[row][use][chosen].sum()
        found.append(float(share.sqrt()) / batch.noise_std)
    return found


def crowding(known: Tensor) -> list[float]:
    """Mean share of a known pixel's four neighbours that are known, for each mask of ``[B, 1, H, W]``."""
    k = (known > 0).float()
    height, width = k.shape[-2:]
    edged = pad(k, (1, 1, 1, 1), mode="replicate")
    beside = [edged[..., i : i + height, j : j + width] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))]
    around = torch.stack(beside).mean(0)
    shares: list[float] = ((k * around).flatten(1).sum(1) / k.flatten(1).sum(1).clamp_min(1)).tolist()
    return shares
