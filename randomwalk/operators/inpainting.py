"""Inpainting: some pixels are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from randomwalk.errors import InputError
from randomwalk.images.masks import Grow, read_mask, read_mask_file
from randomwalk.operators.operator import Operator

_RELAXATIONS = 8
"""Times that missing pixels move to the mean of their neighbours, on each scale."""


class Inpainting(Operator):
    """``A x = mask * x``. Missing pixels stay in the measurement, as zeros before the noise.

    Args:
        image_shape: ``(C, H, W)``.
        mask: 1 = observed, 0 = missing; ``[H, W]`` for all images, or ``[B, 1, H, W]`` with one for each image of
            the batch. Channels share it.
    """

    per_image = ("mask",)
    mask: Tensor

    def __init__(self, image_shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(image_shape)
        mask = mask.to(torch.float32)
        mask = mask[None, None] if mask.ndim == 2 else mask
        if mask.ndim != 4 or mask.shape[1:] != (1, *self.image_shape[1:]):
            raise InputError(
                f"inpainting: the mask has shape {tuple(mask.shape)}; expected [H, W] or [B, 1, H, W] "
                f"with H, W = {self.image_shape[1:]}"
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise InputError("inpainting: a mask holds only 0 (missing) and 1 (observed)")
        self.register_buffer("mask", mask)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y

    def pinv(self, y: Tensor) -> Tensor:
        return self.mask * y

    def interpolated(self, y: Tensor) -> Tensor:
        return filled(y, self.mask.to(y))

    def norm(self) -> float:
        return float(self.mask.max())

    def spectral(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return f(self.mask.to(x.dtype)) * x


def filled(y: Tensor, known: Tensor) -> Tensor:
    """Pictures whose missing pixels are smoothly interpolated: nearly the solution of Laplace's equation in each hole.

    Averages of known pixels fill the holes from coarse to fine, and on each scale a missing pixel moves to the mean of
    its neighbours a few times.

    Args:
        y: ``[B, C, H, W]``.
        known: ``[B, 1, H, W]`` or ``[1, 1, H, W]``, 1 where y is known, 0 where it is not.
    """
    if known.all():
        return y
    if max(y.shape[-2:]) == 1:
        return y * known
    weight = avg_pool2d(known, 2, ceil_mode=True)
    coarse = avg_pool2d(known * y, 2, ceil_mode=True) / weight.clamp_min(1e-9)
    guess = interpolate(filled(coarse, (weight > 0).to(y)), size=y.shape[-2:], mode="bilinear", align_corners=False)
    x = torch.where(known > 0, y, guess)
    for _ in range(_RELAXATIONS):
        around = pad(x, (1, 1, 1, 1), mode="replicate")
        mean = around[..., 2:, 1:-1] + around[..., :-2, 1:-1] + around[..., 1:-1, 2:] + around[..., 1:-1, :-2]
        x = torch.where(known > 0, y, mean / 4)
    return x


def random_mask(height: int, width: int, missing: float, draws: np.random.Generator) -> Tensor:
    """Mask ``[H, W]`` in which exactly ``int(missing * H * W)`` pixels, drawn uniformly, are 0."""
    mask = np.ones(height * width, dtype=np.float32)
    mask[draws.choice(mask.size, int(missing * mask.size), replace=False)] = 0
    return torch.from_numpy(mask.reshape(height, width))


def box_mask(height: int, width: int, box_size: int | Sequence[int], margin: int, draws: np.random.Generator) -> Tensor:
    """Mask ``[H, W]`` with a rectangle of zeros.

    Its sides are ``box_size``, or drawn independently from ``box_size[0] .. box_size[1]``, ends included; its
    first row and column are drawn from ``margin .. size - margin - side``, the upper end excluded.
    """
    low, high = (box_size, box_size) if isinstance(box_size, int) else box_size
    if high + 2 * margin > min(height, width):
        raise InputError(
            f"inpainting: a box of size {box_size} with margin {margin} does not fit {height}x{width}; "
            "expected box_size + 2 margin within the image"
        )
    sides = [int(side) for side in draws.integers(low, high + 1, size=2)]
    limits = [size - margin - side for size, side in zip((height, width), sides, strict=True)]
    top, left = (int(draws.integers(margin, max(limit, margin + 1))) for limit in limits)
    mask = torch.ones(height, width)
    mask[top : top + sides[0], left : left + sides[1]] = 0
    return mask


def make_inpainting(
    image_shape: Sequence[int],
    generators: Sequence[np.random.Generator],
    masks: Sequence[Tensor] | None,
    mask: str,
    missing: float,
    box_size: int | Sequence[int] | None,
    margin: int,
    file: str | None,
    grow: Grow,
    invert: bool,
) -> Inpainting:
    """Inpainting, see :class:`randomwalk.config.operators.InpaintingSettings`.

    Args:
        image_shape: ``(C, H, W)``.
        generators: one for each image, for masks that are drawn.
        masks: ``[H, W]`` of each image, for ``mask="beside"``; for ``mask="file"`` they replace that of the file.
        mask, missing, box_size, margin, file, grow, invert: settings.
    """
    _, height, width = image_shape
    if mask == "random":
        found = [random_mask(height, width, missing, draws) for draws in generators]
    elif mask == "box":
        assert box_size is not None
        found = [box_mask(height, width, box_size, margin, draws) for draws in generators]
    elif mask == "file" and masks is None:
        assert file is not None
        read, name = read_mask_file(file)
        found = [read_mask(read, name, (height, width), "the image", grow=grow, invert=invert).known]
    elif masks is None:
        raise InputError("inpainting: mask 'beside' needs images from files, with their masks next to them")
    else:
        found = list(masks)
    return Inpainting(image_shape, torch.stack(found)[:, None])
