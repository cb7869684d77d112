"""Quality metrics of restored images, and their summary over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_SIDE, SSIM_WIDTH = 11, 1.5
"""Side of SSIM's window, smaller images have no SSIM; and the standard deviation of its weights."""
SSIM_PIXELS = 2**18
"""Pixels for which SSIM is computed at a time."""

QUALITIES = ("psnr", "ssim", "psnr_minmax")


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, ``10 log10(2^2 / mean (x - truth)^2)`` in dB, ``[B]``.

    Args:
        x: images ``[B, C, H, W]``; values outside [-1, 1] are clipped, as in the image files.
        truth: the true images in [-1, 1].
    """
    return _psnr(x.clamp(-1, 1), truth, 2.0)


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, ``[B]``; NaN below 11 x 11 pixels.

    The mean over pixels and channels of

        (2 m_x m_t + c_1) (2 v_xt + c_2) / ((m_x^2 + m_t^2 + c_1) (v_x + v_t + c_2))

    with means, variances and covariance under Gaussian weights around each pixel (the image mirrored at its edges),
    ``c_1 = (0.01 L)^2``, ``c_2 = (0.03 L)^2`` and L = 2. It is ours because importing torchmetrics for it took two
    fifths of the processor time of a short run. Source: Wang, Bovik, Sheikh, Simoncelli 2004, doi
    10.1109/TIP.2003.819861.

    Args:
        x: images ``[B, C, H, W]``; values outside [-1, 1] are clipped.
        truth: the true images in [-1, 1].
    """
    height, width = x.shape[-2:]
    if min(height, width) < SSIM_SIDE:
        return torch.full((len(x),), math.nan, device=x.device)
    band = max(SSIM_SIDE, SSIM_PIXELS // (len(x) * width))
    sums = [_ssim_rows(x, truth, top, min(top + band, height)) for top in range(0, height, band)]
    return torch.stack(sums).sum(0) / height


def _ssim_rows(x: Tensor, truth: Tensor, top: int, bottom: int) -> Tensor:
    """Sum over some rows of the row means of SSIM's map, ``[B]``, computed from these rows and those around them."""
    reach = SSIM_SIDE // 2
    first = max(0, top - reach)
    a, b = x[..., first : bottom + reach, :].clamp(-1, 1), truth[..., first : bottom + reach, :]
    mean_a, mean_b, aa, bb, ab = (_window_mean(v) for v in (a, b, a * a, b * b, a * b))
    between = ab - mean_a * mean_b
    both = (aa - mean_a**2).clamp_min(0) + (bb - mean_b**2).clamp_min(0)
    c_1, c_2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    found = (2 * mean_a * mean_b + c_1) * (2 * between + c_2) / ((mean_a**2 + mean_b**2 + c_1) * (both + c_2))
    return found[..., top - first : bottom - first, :].mean((1, 3)).sum(1)


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian mean around each pixel of ``[B, C, H, W]``, mirrored at the edges."""
    reach = SSIM_SIDE // 2
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) / SSIM_WIDTH) ** 2)
    weights = weights / weights.sum()
    maps = F.pad(x, (reach,) * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(maps, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1)).reshape(x.shape)


def psnr_minmax(x: Tensor, truth: Tensor) -> Tensor:
    """PSNR after stretching both images to [0, 1], each by its own extremes, in dB, ``[B]``.

    It ignores errors of brightness and contrast, so it does not measure fidelity. The code of Park et al. 2025
    (doi 10.1109/MSP.2025.3590608) reports it, and it is here for comparison with that.
    """
    return _psnr(_stretch(x), _stretch(truth), 1.0)


def _psnr(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    return 10 * torch.log10(data_range**2 / (x - truth).square().flatten(1).mean(1))


def _stretch(x: Tensor) -> Tensor:
    low = x.amin(dim=tuple(range(1, x.ndim)), keepdim=True)
    high = x.amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)


def qualities(x: Tensor, truth: Tensor) -> list[dict[str, float | None]]:
    """PSNR, SSIM and min-max PSNR of each image, rounded for a table; None where undefined."""
    values = {"psnr": psnr(x, truth), "ssim": ssim(x, truth), "psnr_minmax": psnr_minmax(x, truth)}
    columns = {name: [None if math.isnan(v) else round(v, 4) for v in value.tolist()] for name, value in values.items()}
    return [{name: column[b] for name, column in columns.items()} for b in range(len(x))]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, ``std / sqrt(n)``; the latter is NaN for fewer than two values."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def over_images(rows: Iterable[Mapping[str, Any]], key: str) -> tuple[float, float] | None:
    """Mean and standard error of a column over images, averaging the samples of each image first.

    The samples of one image are not independent tests, so they do not count as such.
    """
    images: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(key) is not None:
            images[row["image"]].append(float(row[key]))
    return mean_and_error([sum(v) / len(v) for v in images.values()]) if images else None
