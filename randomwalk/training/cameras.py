"""Noise as it is in the files of cameras: photons behind a Bayer filter, demosaicking, a gamma curve, JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

GAMMA = 2.2
CROSS = np.outer([1, 2, 1], [1, 2, 1]) / 4
"""Weights of linear demosaicking."""
STRONGEST = 75 / 127.5
"""Above this noise level, in the units of pixels in [-1, 1], noise is always white."""
WEAKEST = 0.5 / 127.5
"""Smallest level that a network is told."""
SPREAD = 0.15
"""Standard deviation of ln(noise level of the photograph / level that the network is told)."""


def photographed(x: np.ndarray, sigma: float, draws: np.random.Generator) -> tuple[np.ndarray, float]:
    """Photograph x: return the error of the photograph, and the level of it that a network is told.

    The noise enters linear light, as shot and read noise, or the pixels themselves, as white noise; or there is none.
    Then come, each with a probability, linear demosaicking of a Bayer pattern, smoothing, and JPEG; and always 8 bits.
    The level is the root mean square of the error times a random factor (`SPREAD`), so that a network learns not to
    rely on it.

    Args:
        x: a clean image ``[3, H, W]`` in [-1, 1].
        sigma: standard deviation of the noise that enters, in the units of x; of shot noise, that at white.
        draws: random numbers.

    Returns:
        error: ``[3, H, W]``.
        level: in the units of x.
    """
    height, width = x.shape[1:]
    top, left = (int(margin) for margin in draws.integers(8, 16, 2))  # the grids of sensor and JPEG begin anywhere
    pixels = (x.transpose(1, 2, 0).astype(np.float64).clip(-1, 1) + 1) / 2
    clean = np.pad(pixels, [(top, 16), (left, 16), (0, 0)], mode="symmetric")
    noisy, photons, bayer, smooth, compressed = draws.random(5) < [0.85, 0.6, 0.5, 0.25, 0.75]
    read, radius = draws.uniform(0, 0.05), draws.uniform(0.4, 1.2)
    quality, subsampling = int(draws.integers(20, 99)), int(draws.choice([0, 1, 2, 2]))  # 2 is 4:2:0
    noise, factor = sigma / 2 * draws.standard_normal(clean.shape), float(np.exp(SPREAD * draws.standard_normal()))
    y = clean**GAMMA if photons else clean
    if noisy:
        y = y + noise * (GAMMA * np.sqrt(y + read) if photons else 1)  # at white, the gamma curve divides by GAMMA
    y = demosaicked(y).clip(0, 1) if bayer else y.clip(0, 1)
    y = y ** (1 / GAMMA) if photons else y
    y = ndimage.gaussian_filter(y, (radius, radius, 0)) if smooth and noisy else y
    file = np.rint(255 * y).astype(np.uint8)
    y = (jpeg(file, quality, subsampling) if compressed or not noisy else file) / 255
    error = (2 * (y - clean)[top : top + height, left : left + width]).transpose(2, 0, 1)
    return error, max(float(np.sqrt(np.mean(error**2))) * factor, WEAKEST)


def demosaicked(pixels: np.ndarray) -> np.ndarray:
    """Keep what a Bayer sensor sees of ``[H, W, 3]``, red first, and interpolate the rest linearly."""
    seen = np.zeros(pixels.shape)
    seen[::2, ::2, 0] = seen[::2, 1::2, 1] = seen[1::2, ::2, 1] = seen[1::2, 1::2, 2] = 1
    sums, counts = (
        np.stack([ndimage.convolve(v[..., c], CROSS, mode="mirror") for c in range(3)], -1)
        for v in (seen * pixels, seen)
    )
    return np.where(seen > 0, pixels, sums / counts)


def jpeg(pixels: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    """Write ``[H, W, 3]`` as JPEG, in Pillow's numbers for the subsampling of colours, and read it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file), np.uint8)
