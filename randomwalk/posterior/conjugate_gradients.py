"""Conjugate gradients on a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Approximate solutions u of ``V u = b``, from u = 0: exact after as many iterations as b has numbers.

    Every row of the batch has its own step sizes. A row stops for good when its residual has fallen to rounding, or
    where ``v^T V v`` is not positive in its direction v, so that V is not what is assumed. The products go on for the
    other rows: their number is always ``iterations``.

    Source: Hestenes and Stiefel 1952.

    Args:
        product: ``v -> V v`` on each row, V symmetric and positive definite.
        b: ``[B, ...]``.
        iterations: products with V.
    """

    def dot(v: Tensor, w: Tensor) -> Tensor:
        return (v * w).flatten(1).sum(1).reshape(-1, *[1] * (v.ndim - 1))

    u, residual, direction = torch.zeros_like(b), b, b
    squared = dot(b, b)
    rounding = (10 * torch.finfo(b.dtype).eps) ** 2 * squared
    for _ in range(iterations):
        moved = product(direction)
        curvature = dot(direction, moved)
        go = (squared > rounding) & (curvature > 0)
        step = torch.where(go, squared / curvature, 0)
        u = u + step * direction
        residual = residual - step * moved
        previous, squared = squared, torch.where(go, dot(residual, residual), 0)  # 0 stops a row for good
        direction = torch.where(go, residual + squared / previous * direction, 0)
    return u
