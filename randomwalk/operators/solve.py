"""Conjugate gradients, each row of a batch for itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from randomwalk.errors import RunError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Relative residual ``||b - M x|| / ||b||`` at which a row is solved, in each precision."""


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float | None = None, max_iterations: int = 2000
) -> Tensor:
    """Solution x of ``M x = b``, M symmetric positive semi-definite and b in its range, for every row.

    Starts from 0, so that of several solutions it finds the one of smallest norm. A row stops when its own residual,
    as the recursion carries it, is at most ``tolerance * ||b||``; rows do not influence each other.

    Source: Hestenes & Stiefel 1952.

    Args:
        apply: ``M v`` for ``v`` shaped like b, row by row.
        b: ``[B, ...]``.
        tolerance: by default :data:`TOLERANCE` of b's type.
        max_iterations: until it gives up.

    Raises:
        RunError: a row has not reached the tolerance.
    """
    goal = (TOLERANCE[b.dtype] if tolerance is None else tolerance) ** 2 * _dot(b, b)
    x, residual, direction, squared = torch.zeros_like(b), b, b, _dot(b, b)
    for _ in range(max_iterations):
        active = squared > goal
        if not active.any():
            return x
        image = apply(direction)
        curvature = _dot(direction, image)
        active &= curvature > 0
        step = torch.where(active, squared / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        before, squared = squared, _dot(residual, residual)
        direction = residual + torch.where(active, squared / before, 0.0) * direction
    if (squared > goal).any():
        shares = (squared / _dot(b, b)).nan_to_num().sqrt()
        raise RunError(
            f"conjugate gradients reached a relative residual of {float(shares.max()):.1e} in {max_iterations} "
            "iterations, which is not enough: the operator is too ill-conditioned; take more measurement noise, or an "
            "operator with a spectral decomposition (a blur with boundary: circular, or for small images dense: true)"
        )
    return x


def largest_eigenvalue(apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 300) -> float:
    """Largest eigenvalue of the symmetric positive semi-definite M, from below, by Lanczos' method.

    Stops when 10 iterations change it by less than a part in ``10^10``.

    Args:
        apply: ``M v`` for ``v`` shaped like ``start``.
        start: float64, not orthogonal to the eigenvector; a random one is not.
    """
    v, last = start / start.norm(), torch.zeros_like(start)
    diagonal: list[float] = []
    beside: list[float] = []
    found = [0.0]
    for k in range(iterations):
        w = apply(v)
        diagonal.append(float((w * v).sum()))
        w = w - diagonal[-1] * v - (beside[-1] * last if beside else 0)
        norm = float(w.norm())
        enough = norm <= 1e-12 * max(map(abs, diagonal)) or k == iterations - 1
        if enough or k % 10 == 9:
            off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
            matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off + off.T
            found.append(float(torch.linalg.eigvalsh(matrix)[-1]))
        if enough or (k % 10 == 9 and found[-1] - found[-2] <= 1e-10 * found[-1]):
            break
        beside.append(norm)
        v, last = w / norm, v
    return max(found[-1], 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every row, shaped to scale it."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
