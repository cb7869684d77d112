"""Conversions between image tensors in [-1, 1] and 8-bit pixels, and fitting to a size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from randomwalk.config.base import Fit

Size = tuple[int, int]
"""Height and width."""
STRIP = 2**22
"""Values in a strip of rows of a large picture."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R BT.601, which JPEG files and Pillow use too."""


def strips(height: int, row: int) -> Iterator[slice]:
    """Rows of an image in strips of about `STRIP` values, so that what is computed from them takes little memory.

    Args:
        height: number of rows.
        row: values in a row.
    """
    count = max(1, STRIP // max(row, 1))
    for top in range(0, height, count):
        yield slice(top, min(top + count, height))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 ``[H, W, C]`` -> float32 ``[C, H, W]`` in [-1, 1]; floating-point numbers are in [-1, 1] already."""
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))
    return planes if np.issubdtype(pixels.dtype, np.floating) else planes / 127.5 - 1


def to_bytes(x: Tensor) -> np.ndarray:
    """``[B, C, H, W]`` in [-1, 1] -> uint8 ``[B, H, W]`` or ``[B, H, W, 3]``: clipped and rounded, never stretched.

    Two channels are the parts of complex numbers, shown by their magnitude; of more than three, the mean is shown.
    """
    if x.shape[1] == 2:
        x = 2 * x.detach().float().square().sum(1, keepdim=True).sqrt() - 1
    elif x.shape[1] > 3:
        x = x.detach().float().mean(1, keepdim=True)
    batch, channels, height, width = x.shape
    pixels = np.empty((batch, height, width, channels), np.uint8)
    for rows in strips(height, batch * channels * width):
        values = x[..., rows, :].detach().float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
        pixels[:, rows] = values.permute(0, 2, 3, 1).cpu().numpy()
    return pixels[..., 0] if channels == 1 else pixels


def to_pixels(x: Tensor) -> np.ndarray:
    """One image ``[C, H, W]`` in [-1, 1] -> uint8 ``[H, W]`` or ``[H, W, 3]``, as by `to_bytes`."""
    return to_bytes(x[None])[0]


def fit_to(
    pixels: np.ndarray, size: Sequence[int], fit: Fit, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Fit ``pixels [h, w, C]`` to ``size = (H, W)``.

    Args:
        pixels: uint8 image, or float32 in [-1, 1].
        size: height and width of the result.
        fit: "resize" scales the image until it covers the size, then crops. "crop" crops without scaling, unless the
            image is too small. "pad" surrounds it with black, scaled down first if it is too large.
        generator: draws the place of the crop; without it, the crop is at the centre.
    """
    height, width = size
    h, w = pixels.shape[:2]
    cover, contain = max(height / h, width / w), min(height / h, width / w)
    scale = {"resize": cover, "crop": max(1.0, cover), "pad": min(1.0, contain)}[fit]
    if scale != 1:
        new = (max(1, round(w * scale)), max(1, round(h * scale)))
        pixels = resized(pixels, new, Image.Resampling.LANCZOS)
        h, w = pixels.shape[:2]
    if fit == "pad":
        top, left = (height - h) // 2, (width - w) // 2
        black = -1 if np.issubdtype(pixels.dtype, np.floating) else 0
        sides = ((top, height - h - top), (left, width - w - left), (0, 0))
        return np.pad(pixels, sides, constant_values=black)
    if generator is None:
        top, left = (h - height) // 2, (w - width) // 2
    else:
        top, left = generator.integers(h - height + 1), generator.integers(w - width + 1)
    return pixels[top : top + height, left : left + width]


def resized(pixels: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    """Resize ``pixels [h, w, C]``, uint8 or float32, to ``size``: width and height, as Pillow has them."""
    if np.issubdtype(pixels.dtype, np.floating):  # Pillow takes one channel of these at a time
        planes = [np.asarray(Image.fromarray(plane).resize(size, filter)) for plane in pixels.transpose(2, 0, 1)]
        return np.stack(planes, axis=2)
    made = np.asarray(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).resize(size, filter))
    return made[..., None] if made.ndim == 2 else made
