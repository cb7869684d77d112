"""Conjugate gradients and Lanczos' method, for every row of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from randomwalk.errors import RunError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Relative residual ``||b - M x|| / ||b||`` at which a row is solved, in each precision."""


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 2000,
    enough: int | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solution x of ``M x = b``, M symmetric positive semi-definite and b in its range, for every row.

    Starts from 0 and so finds the solution of smallest norm. A row stops when its recursively updated residual is at
    most ``tolerance * ||b||``; rows do not influence each other.

    Source: Hestenes & Stiefel 1952.

    Args:
        apply: ``M v`` for ``v`` shaped like b, row by row.
        b: ``[B, ...]``.
        tolerance: :data:`TOLERANCE` of b's type by default.
        max_iterations: limit on the iterations.
        enough: number of iterations after which x is returned as it is, instead of ``max_iterations``.
        preconditioner: ``C v``, C symmetric positive definite and near to ``M^-1``, row by row. Residuals r are then
            measured by ``sqrt(r^T C r)``.

    Raises:
        RunError: a row has not reached the tolerance.
    """
    tolerance = TOLERANCE[b.dtype] if tolerance is None else tolerance
    steps = iterates(apply, b, tolerance, restart=True, preconditioner=preconditioner)
    for x, share in islice(steps, (max_iterations if enough is None else enough) + 1):
        if not (share > tolerance).any():
            return x
    if enough is not None:
        return x
    raise RunError(
        f"conjugate gradients reached a relative residual of {float(share.max()):.1e} in {max_iterations} "
        "iterations, which is not enough: the operator is too ill-conditioned; use more measurement noise, or an "
        "operator with a spectral decomposition (a blur with boundary: circular, or for small images dense: true)"
    )


def iterates(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float,
    *,
    restart: bool,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless iterates ``x`` after 0, 1, 2, ... products with M, with the relative residual of each row.

    Args:
        apply: ``M v`` for ``v`` shaped like b, row by row.
        b: ``[B, ...]``.
        tolerance: relative residual at which a row stops.
        restart: whether a row whose direction v violates ``v^T M v > 0`` restarts from its residual, since rounding
            must be the cause; otherwise it stops, since M is not positive semi-definite.
        preconditioner: see :func:`conjugate_gradients`.
    """
    x, residual = torch.zeros_like(b), b
    towards = b if preconditioner is None else preconditioner(b)
    direction, squared = towards, dot(b, towards)
    first = squared
    while True:
        yield x, (squared.clamp_min(0) / first).nan_to_num().sqrt()
        image = apply(direction)
        curvature = dot(direction, image)
        active = (squared > tolerance**2 * first) & (curvature > 0)
        step = torch.where(active, squared / curvature, 0.0)
        x = x + step * direction
        residual = residual - step * image
        towards = residual if preconditioner is None else preconditioner(residual)
        before, squared = squared, dot(residual, towards)
        conjugate = towards + squared / before * direction
        direction = torch.where(active, conjugate, towards if restart else 0.0)


def largest_eigenvalue(apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 300) -> float:
    """Largest eigenvalue of the symmetric positive semi-definite M, from below, by Lanczos' method.

    Stops when 10 iterations change it by less than a part in ``10^10``.

    Args:
        apply: ``M v`` for ``v`` shaped like ``start``.
        start: not orthogonal to the eigenvector, such as a random one.
    """
    v, last = start / start.norm(), torch.zeros_like(start)
    settled = 1e-10 if start.dtype == torch.float64 else 1e-6
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
        if enough or (k % 10 == 9 and found[-1] - found[-2] <= settled * found[-1]):
            break
        beside.append(norm)
        v, last = w / norm, v
    return max(found[-1], 0.0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every row, of a shape that scales the rows."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
