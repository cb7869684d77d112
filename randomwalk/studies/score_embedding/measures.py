"""Quality of samples, and the training time at which it reaches a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from score_sde.devices import exact

WINDOW = 7
"""Side of SSIM's window."""


def mse(u: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each image ``[B, C, H, W]``, ``[B]``."""
    return (u - truth).square().flatten(1).mean(1)


def psnr(u: Tensor, truth: Tensor) -> Tensor:
    """``-10 log10 mse`` of images in [0, 1], in dB, ``[B]``; infinite for equal images."""
    return -10 * mse(u, truth).log10()


def ssim(u: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity as scikit-image has it, of images ``[B, C, H, W]`` in [0, 1], ``[B]``.

    With means, sample variances and covariance in windows of 7 x 7 pixels that lie in the image,

        (2 m_u m_v + c1) (2 cov + c2) / ((m_u^2 + m_v^2 + c1) (var_u + var_v + c2)),    c1 = 0.01^2, c2 = 0.03^2,

    averaged over windows and channels: what the paper's code reports. `images.metrics.ssim`, with a Gaussian window
    of 11 pixels, is another measure.
    """
    u, v = exact(u), exact(truth)

    def mean(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, WINDOW, stride=1)

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    m_u, m_v = mean(u), mean(v)
    var_u, var_v, cov = (unbiased * z for z in (mean(u * u) - m_u**2, mean(v * v) - m_v**2, mean(u * v) - m_u * m_v))
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * m_u * m_v + c1) * (2 * cov + c2) / ((m_u**2 + m_v**2 + c1) * (var_u + var_v + c2))
    return value.flatten(1).mean(1)


def stretch(u: Tensor) -> Tensor:
    """Each image ``[B, ...]`` brought to [0, 1] by its own extremes, as the published measurements have it."""
    low, high = u.flatten(1).amin(1), u.flatten(1).amax(1)
    shape = (-1, *[1] * (u.ndim - 1))
    return (u - low.reshape(shape)) / (high - low).clamp_min(1e-12).reshape(shape)


def sustained_crossing(x: Sequence[float], values: Sequence[float], level: float, hold: int = 5) -> float | None:
    """The first place at which ``values`` rises to ``level`` and then stays there for ``hold`` measurements.

    One measurement above the level does not count: curves of samples are noisy, and may fall back.

    Args:
        x: where the values were measured, ascending.
        values: the measurements.
        level: of the crossing; the place is interpolated linearly between the measurements around it.
        hold: how many measurements in a row must be at the level or above; 1 gives the first crossing.

    Returns:
        None if it is never reached, or not for so many measurements.
    """
    above = [value >= level for value in values]
    for k in range(len(above) - hold + 1):
        if all(above[k : k + hold]):
            if k == 0:
                return x[0]
            share = (level - values[k - 1]) / (values[k] - values[k - 1])
            return x[k - 1] + share * (x[k] - x[k - 1])
    return None


def interpolate(x: Sequence[float], values: Sequence[float], place: float) -> float:
    """``values`` at a place between measurements."""
    return float(np.interp(place, x, values))


def curve(
    rows: Sequence[Mapping[str, Any]], x: str, y: str, image: int | None = None
) -> tuple[list[float], list[float]]:
    """A column of a profile against another one, averaged over the samples of each measurement.

    Args:
        rows: of profile.csv.
        x, y: the columns.
        image: only its samples; those of all images if None.
    """
    found: dict[float, list[float]] = {}
    for row in rows:
        if image is None or int(row["image"]) == image:
            found.setdefault(float(row[x]), []).append(float(row[y]))
    return list(found), [sum(values) / len(values) for values in found.values()]
