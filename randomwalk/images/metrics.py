"""Quality metrics of restored images, and their summary over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SSIM_SIDE = 11
"""Side of SSIM's window; smaller images have no SSIM."""

SSIM_PIXELS = 2**18
"""Pixels for which SSIM is computed at a time: it takes about 700 bytes for each."""

QUALITIES = ("psnr", "ssim", "psnr_minmax")


def load() -> None:
    """Import torchmetrics, which takes seconds, before the first batch is timed."""
    import torchmetrics.functional.image  # noqa: F401


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, ``10 log10(2^2 / mean (x - truth)^2)`` in dB, ``[B]``.

    Args:
        x: images ``[B, C, H, W]``; values outside [-1, 1] are clipped, as in the image files.
        truth: the true images in [-1, 1].
    """
    return _psnr(x.clamp(-1, 1), truth, 2.0)


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), data range 2, ``[B]``; NaN below 11 x 11 pixels.

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
    from torchmetrics.functional.image import structural_similarity_index_measure

    reach = SSIM_SIDE // 2
    first = max(0, top - reach)
    rows = slice(first, bottom + reach)
    _, found = structural_similarity_index_measure(
        x[..., rows, :].clamp(-1, 1), truth[..., rows, :], data_range=2.0, reduction="none", return_full_image=True
    )
    return torch.as_tensor(found)[..., top - first : bottom - first, :].mean((1, 3)).sum(1)


def psnr_minmax(x: Tensor, truth: Tensor) -> Tensor:
    """PSNR after stretching both images to [0, 1], each by its own extremes, in dB, ``[B]``.

    It ignores errors of brightness and contrast, so it does not measure fidelity. The code of Park et al. 2025
    (doi 10.1109/MSP.2025.3590608) reports it, and it is here for comparison with that.
    """
    return _psnr(_stretch(x), _stretch(truth), 1.0)


def _psnr(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    value = peak_signal_noise_ratio(x, truth, data_range=data_range, reduction="none", dim=tuple(range(1, x.ndim)))
    return torch.as_tensor(value)


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
