"""The log density of an image on its pixel grid, at the noise levels of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Boundary = Literal["neumann", "dirichlet", "periodic"]


@dataclass(frozen=True)
class Solution:
    """Result of a solver of the Fokker-Planck equation; float64, on the CPU where the device of m0 has none.

    Attributes:
        times: ``[N]``, the first one that of the initial density.
        log_density: m, ``[N, n, C, H, W]``: levels, images, channels, pixels.
        score: the gradient of m, ``[N, n, C, 2, H, W]``: component 0 from row to row (H), 1 from column to column (W).
        iterations: of the fixed point in which the nonlinear term lags; 0 where there is none.
        residuals: for each iteration the relative change of m of each image, in the 2-norm over levels and pixels.
    """

    times: Tensor
    log_density: Tensor
    score: Tensor
    iterations: int = 0
    residuals: list[list[float]] = field(default_factory=list)


def gradient(m: Tensor, spacing: float = 1.0, boundary: Boundary = "neumann") -> Tensor:
    """Central differences ``(m[i+1] - m[i-1]) / (2 spacing)`` along H and W, ``[..., H, W] -> [..., 2, H, W]``.

    Beyond the border m is mirrored at the pixel's edge (neumann), 0 (dirichlet: the density is 1 there), or that of the
    other side (periodic).
    """
    return torch.stack([_central(m, axis, boundary) / (2 * spacing) for axis in (-2, -1)], dim=-3)


def _central(m: Tensor, axis: int, boundary: Boundary) -> Tensor:
    first, last = m.narrow(axis, 0, 1), m.narrow(axis, m.shape[axis] - 1, 1)
    if boundary == "dirichlet":
        first, last = torch.zeros_like(first), torch.zeros_like(last)
    elif boundary == "periodic":
        first, last = last, first
    wide = torch.cat([first, m, last], dim=axis)
    return wide.narrow(axis, 2, m.shape[axis]) - wide.narrow(axis, 0, m.shape[axis])
