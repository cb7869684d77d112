"""Whether the noise of a picture is white, or that of a camera: told by the spectrum of its colours.

Demosaicking, smoothing and JPEG all take from colours their high frequencies, which white noise has like all others.
In the quiet parts of a picture colours have few details that could be mistaken for noise.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from randomwalk.images.tensors import LUMA

CAMERA = 1 / 4
"""Ratio of `colour_ratio` below which noise counts as that of a camera: chosen on 60 photographs of BSDS500."""
QUIET = 0.1
"""Share of the blocks that are looked at: those whose luma has the weakest low frequencies."""
FEWEST, MOST = 200, 20_000
"""Fewest and most blocks of 8 x 8 pixels of a picture."""
KEPT = 0.25
"""Least share of the blocks that are kept, where others are left out since pixels in them are clipped."""
_FREQUENCY = np.hypot(*np.mgrid[:8, :8])
_BAND = np.digitize(_FREQUENCY, [0.5, 2.5, 4.5, 6.5])
_LOW, _MIDDLE, _HIGH = (band == _BAND for band in (1, 2, 4))
"""Bands of the coefficients of the cosine transform of 8 x 8 pixels; 0 is the mean."""


def is_camera_noise(y: Tensor) -> bool:
    """Whether the noise of a picture is that of a camera, by `CAMERA`.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1].
    """
    ratio = colour_ratio(y)
    return ratio is not None and ratio < CAMERA


def colour_ratio(y: Tensor) -> float | None:
    """Power of red and blue less luma at high frequencies over that at middle ones; 1 for white noise.

    It is the geometric mean of two ratios, in blocks on the grid of JPEG and half a block off it.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1].

    Returns:
        None if there is nothing to tell by: the picture is grey or too small, or its quiet parts have no noise.
    """
    pixels = y.detach().float().cpu().numpy()
    if len(pixels) != 3 or (pixels == pixels[:1]).all():
        return None
    luma = np.tensordot(np.array(LUMA, np.float32), pixels, 1)
    colours = pixels[[0, 2]] - luma
    ratios = []
    for offset in (0, 4):
        blocks = _blocks(np.concatenate([luma[None], colours, pixels]), offset)
        if len(blocks) < FEWEST:
            return None
        clipped = (np.abs(blocks[:, 3:]) >= 1).sum((1, 2, 3))  # a file cuts noise off at black and white
        blocks = blocks[clipped <= np.quantile(clipped, KEPT)]
        from scipy.fft import dctn  # slow to import

        power = dctn(blocks[:, :3], axes=(2, 3), norm="ortho") ** 2
        low = power[:, 0, _LOW].sum(1)
        quiet = power[low <= np.quantile(low, QUIET), 1:]
        middle, high = (float(quiet[:, :, band].mean()) for band in (_MIDDLE, _HIGH))
        if middle <= 0:
            return None
        ratios.append(high / middle)
    return float(np.sqrt(ratios[0] * ratios[1]))


def _blocks(images: np.ndarray, offset: int) -> np.ndarray:
    """Cut ``[C, H, W]`` into at most about `MOST` evenly spaced blocks ``[N, C, 8, 8]``, from row and column offset."""
    rows, columns = ((side - offset) // 8 for side in images.shape[1:])
    if rows < 1 or columns < 1:
        return images[:0, None, :1, :1].reshape(0, len(images), 1, 1)
    step = max(1, round((rows * columns / MOST) ** 0.5))
    cut = images[:, offset : offset + 8 * rows, offset : offset + 8 * columns]
    grid = cut.reshape(len(images), rows, 8, columns, 8)[:, ::step, :, ::step]
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, len(images), 8, 8)
