"""The level at which a picture is best denoised, found from its statistics: for noise of any spectrum.

Noise that has been through a camera (demosaicking, JPEG, resizing) is no longer white, and what is best removed from a
compressed picture is not what was added. A small regression on statistics of the picture gives the level of best PSNR.
`data/noise_regression.py` simulates such pictures, and fits the coefficients in ``noise_regression.npz``.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.images.noise_estimation import ROUNDING, estimate_noise
from randomwalk.images.tensors import LUMA

COEFFICIENTS = {
    "photo": Path(__file__).with_suffix(".npz"),
    "photo_camera": Path(__file__).with_name("noise_regression_camera.npz"),
}
"""Files of the coefficients, by the network for which they were fitted."""
WINDOW, SMALLEST = 128, 96
"""Side of the windows that are looked at, and the least that will do, in pixels."""
MOST_WINDOWS = 9
QUIET = 0.25
"""Quantile of the levels of the windows: texture makes them higher, never lower."""
HIGHEST = 50 / 127.5
"""Highest level that the regression knows, in [-1, 1] units."""
WHITE = 1.3
"""Ratio to the estimate of white noise up to which the noise counts as white."""
BANDS = np.digitize(np.hypot(*np.mgrid[:8, :8]), [0.5, 1.6, 2.6, 3.8, 5.1, 6.5, 8.0])
"""Band of each coefficient of the cosine transform of 8 x 8 pixels, by its distance from the mean, which is 0."""
NUM_BANDS = 8


def estimate_level(
    y: Tensor,
    known: Tensor | None = None,
    least: float = ROUNDING,
    jpeg_steps: tuple[float, float] = (0.0, 0.0),
    network: str = "photo",
) -> float:
    """Estimate the noise level at which a picture is best denoised, in the units of its pixels.

    For white noise and ``photo`` it is its standard deviation, by `estimate_noise`. That also decides where there is no
    window of `SMALLEST` known pixels, and above `HIGHEST`. Otherwise the regression decides, in windows with less
    texture than most, since texture looks like noise.

    Args:
        y: ``[C, H, W]`` with pixels in [-1, 1].
        known: ``[H, W]``, 1 where y was measured.
        least: the least estimate.
        jpeg_steps: those of the file, see `pictures.jpeg_steps`; 0 for other files.
        network: that denoises, one of `COEFFICIENTS`.

    Raises:
        InputError: there are too few known pixels.
    """
    white = estimate_noise(y, known, least)
    y = y[:1] if all(bool((channel == y[0]).all()) for channel in y) else y
    found = [regression(window, jpeg_steps, network) for window in _windows(y, known)]
    if not found or white > HIGHEST:
        return white
    level = math.exp(float(np.quantile(found, QUIET))) / 127.5
    level = level / math.sqrt(3) if len(y) == 1 else level  # which is that of three equal channels
    is_white = network == "photo" and max(level / white, white / level) < WHITE
    return white if is_white else max(level, least)


def _windows(y: Tensor, known: Tensor | None) -> list[np.ndarray]:
    """Up to `MOST_WINDOWS` known windows ``[H, W, C]`` on [0, 255], evenly spaced, on the grid of a JPEG's blocks."""
    height, width = y.shape[1:]
    side = min(WINDOW, height // 8 * 8, width // 8 * 8)
    if side < SMALLEST:
        return []
    places = [
        (top, left)
        for top in range(0, height - side + 1, side // 16 * 8)
        for left in range(0, width - side + 1, side // 16 * 8)
        if known is None or bool((known[top : top + side, left : left + side] > 0).all())
    ]
    if not places:
        return []
    chosen = np.unique(np.linspace(0, len(places) - 1, MOST_WINDOWS).round().astype(int))
    cut = [y[:, top : top + side, left : left + side] for top, left in (places[k] for k in chosen)]
    return [((one.detach().float().cpu() + 1) * 127.5).permute(1, 2, 0).numpy() for one in cut]


def regression(pixels: np.ndarray, jpeg_steps: tuple[float, float], network: str = "photo") -> float:
    """Logarithm of the best level of a window ``[H, W, C]``, both on [0, 255]: a mean over three small networks."""
    of = _coefficients(network)
    z = np.clip((features(pixels, jpeg_steps) - of["mean"]) / of["std"], -4, 4)
    straight = of["l.weight"][:, 0] @ z + of["l.bias"][:, 0]
    hidden = np.tanh(of["a.weight"] @ z + of["a.bias"])
    hidden = np.tanh(np.einsum("noi,ni->no", of["b.weight"], hidden) + of["b.bias"])
    return float(np.mean(straight + (of["c.weight"][:, 0] * hidden).sum(1) + of["c.bias"][:, 0]))


@cache
def _coefficients(network: str) -> dict[str, np.ndarray]:
    with np.load(COEFFICIENTS[network]) as file:
        return {key: file[key].astype(np.float64) for key in file}


def features(pixels: np.ndarray, jpeg_steps: tuple[float, float]) -> np.ndarray:
    """Statistics of a picture ``[H, W, C]`` on [0, 255] that tell its noise: mostly logarithms of amplitudes.

    They are estimates of white noise, of the picture and of its 2 x 2 averages; amplitudes of luma and colours in bands
    of frequencies, in quiet and in middling blocks of 8 x 8, on and off the grid of JPEG; the steps of the file; and
    how bright the picture is.
    """
    y = pixels.astype(np.float64)
    grey = y.shape[2] == 1
    luma = y[..., 0] if grey else y @ np.array(LUMA)
    x = torch.from_numpy(y.transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1
    half = torch.nn.functional.avg_pool2d(x[None], 2)[0]
    of_luma = torch.tensor(LUMA)[:, None, None]
    half_luma = half if grey else (half * of_luma).sum(0, keepdim=True)
    single = torch.from_numpy(luma.astype(np.float32))[None] / 127.5
    white = [_white_noise(x), _white_noise(single - 1), _white_noise(half), _white_noise(half_luma)]
    differences = [np.zeros_like(luma)] * 2 if grey else [y[..., 2] - luma, y[..., 0] - luma]
    colours = np.mean([_amplitudes(one, 0, [0.1, 0.3]) for one in differences], 0)
    amplitudes = [np.array(white), _amplitudes(luma, 0, [0.1, 0.3, 0.6]), _amplitudes(luma, 4, [0.1, 0.3]), colours]
    coarse, fine = jpeg_steps
    others = [
        math.log(coarse + 0.5), math.log(fine + 0.5), float(coarse > 0), luma.mean() / 255, luma.std() / 64,
        float(grey), (y >= 254.5).mean(), (y <= 0.5).mean(),
    ]  # fmt: skip
    return np.concatenate([np.log(np.concatenate(amplitudes)), others])


def _white_noise(x: Tensor) -> float:
    """White noise of an image, of 255; from the mean of its channels, or 1, where it is too small."""
    for image in (x, x.mean(0, keepdim=True)):
        try:
            return estimate_noise(image) * 127.5
        except InputError:
            continue
    return 1.0


def _amplitudes(image: np.ndarray, offset: int, quantiles: list[float]) -> np.ndarray:
    """Root mean square of the coefficients in each band: at quantiles over the blocks, and in the flattest blocks.

    Args:
        image: ``[H, W]``.
        offset: of the first block, in pixels.
        quantiles: the quantiles, of each band by itself.
    """
    height, width = ((side - offset) // 8 * 8 for side in image.shape)
    cut = image[offset : offset + height, offset : offset + width]
    blocks = cut.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    from scipy.fft import dctn  # slow to import

    squares = dctn(blocks, axes=(1, 2), norm="ortho") ** 2
    energy = np.stack([squares[:, band == BANDS].mean(1) for band in range(1, NUM_BANDS)], 1)
    coarse = energy[:, :2].sum(1)
    flat = energy[coarse <= np.quantile(coarse, 0.15)]
    by_band = np.quantile(energy, quantiles, axis=0).ravel()
    return np.sqrt(np.concatenate([by_band, flat.mean(0), np.median(flat, 0)]) + 0.02)
