"""The linear systems of the semi-implicit scheme, one for each image and channel, and three ways to solve them.

All of a batch have the matrix of a five-point stencil on an H x W grid,

    A = I - D (S - 4 I) - sum over axes of a (plus - minus),

plus and minus the two neighbours along an axis, S the sum of all four, D one number and a one number for each pixel
and axis (see `finite_difference` for what they are). With neighbours beyond the border
mirrored or periodic each row sums to 1: A leaves constants as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from randomwalk.errors import RunError
from randomwalk.studies.score_embedding.solution import Boundary

AXES = (-2, -1)
LARGEST_ADVECTION = 0.4
"""By how much |a| may exceed D in the preconditioner of alternating directions, whose lines are dominated by their
diagonal if it is less than 1/2."""
RESTARTS = 10
ROUNDING = 1e-14
"""Relative residual that float64 reaches with certainty; no tolerance is taken as less."""

Solver = Callable[["Stencil", Tensor, Tensor, float], Tensor]
"""``solver(stencil, b, guess, tolerance)``: x with ``|b - A x| <= tolerance |b|`` for each item, all ``[B, H, W]``."""


@dataclass(frozen=True)
class Stencil:
    """The matrices of a batch.

    Attributes:
        diffusion: D >= 0.
        advection: a, ``[B, 2, H, W]``, for the axes H and W.
        boundary: what lies beyond the border: the mirror image at the pixel's edge, 0, or the other side.
    """

    diffusion: float
    advection: Tensor
    boundary: Boundary

    def apply(self, x: Tensor) -> Tensor:
        """A x, ``[B, H, W]``."""
        total = (1 + 4 * self.diffusion) * x
        for n, axis in enumerate(AXES):
            minus, plus = neighbours(x, axis, self.boundary)
            total -= self.diffusion * (plus + minus) + self.advection[:, n] * (plus - minus)
        return total

    def take(self, items: Tensor) -> Stencil:
        """Some of the batch."""
        return Stencil(self.diffusion, self.advection[items], self.boundary)

    def matrix(self, item: int) -> Any:
        """A of one item as a sparse matrix, compressed by column, pixels row by row.

        Off the diagonal it has entries at the offsets ±1 and ±W, none of which couples the end of a row to the
        beginning of the next one.
        """
        height, width = self.advection.shape[-2:]
        own = np.arange(height * width).reshape(height, width)
        rows, columns, values = [own.ravel()], [own.ravel()], [np.full(own.size, 1 + 4 * self.diffusion)]
        for n, axis in enumerate(AXES):
            a = self.advection[item, n].cpu().numpy()
            for direction in (1, -1):
                there, kept = _neighbour_index(own, axis, direction, self.boundary)
                rows.append(own[kept])
                columns.append(there[kept])
                values.append((-self.diffusion - direction * a)[kept])
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sparse.coo_array(entries, shape=(own.size, own.size)).tocsc()  # entries of the same place are added


def neighbours(x: Tensor, axis: int, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """The values before and after each pixel along an axis."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    if boundary == "dirichlet":
        first, last = torch.zeros_like(first), torch.zeros_like(last)
    elif boundary == "periodic":
        first, last = last, first
    inner = x.shape[axis] - 1
    return torch.cat([first, x.narrow(axis, 0, inner)], axis), torch.cat([x.narrow(axis, 1, inner), last], axis)


def _neighbour_index(own: np.ndarray, axis: int, direction: int, boundary: Boundary) -> tuple[np.ndarray, np.ndarray]:
    """Number of the pixel that stands for each pixel's neighbour, and whether there is one."""
    there = np.roll(own, -direction, axis)
    outside = np.zeros(own.shape, dtype=bool)
    edge = (slice(None), -1 if direction > 0 else 0)
    outside[edge if axis == -1 else edge[::-1]] = True
    if boundary == "neumann":
        there = np.where(outside, own, there)
    return there, ~outside if boundary == "dirichlet" else np.ones_like(outside)


def norm(x: Tensor) -> Tensor:
    """2-norm of each item, ``[B]``."""
    return torch.linalg.vector_norm(x, dim=AXES)


# --- sparse LU ----------------------------------------------------------------------------------------------------


def lu(stencil: Stencil, b: Tensor, guess: Tensor, tolerance: float) -> Tensor:
    """One sparse LU factorisation (SuperLU) for each item, on the processor, whatever the guess and the tolerance.

    The solution of a matrix that is singular in floating point is NaN.
    """

    def solved(n: int) -> np.ndarray:
        right = b[n].cpu().numpy().ravel()
        try:
            found: np.ndarray = splu(stencil.matrix(n), permc_spec="MMD_AT_PLUS_A").solve(right)
        except RuntimeError:  # "Factor is exactly singular"; other builds of SuperLU give infinite numbers instead
            return np.full_like(right, np.nan)
        return found

    return torch.from_numpy(np.stack([solved(n) for n in range(len(b))])).reshape(b.shape).to(b.device)


# --- Krylov -------------------------------------------------------------------------------------------------------


def bicgstab(stencil: Stencil, b: Tensor, guess: Tensor, tolerance: float) -> Tensor:
    """BiCGSTAB, preconditioned by ``I - D (S - 4 I)``, which is diagonal in the eigenvectors of the two axes."""
    return _krylov(Spectral, stencil, b, guess, tolerance)


def adi(stencil: Stencil, b: Tensor, guess: Tensor, tolerance: float) -> Tensor:
    """BiCGSTAB, preconditioned by one sweep of alternating directions: the product of the two axes' operators."""
    return _krylov(AlternatingDirections, stencil, b, guess, tolerance)


class Spectral:
    """The inverse of ``I - D (S - 4 I)``: cosines (DCT-II, neumann), sines (DST-I, dirichlet), Fourier (periodic)."""

    def __init__(self, stencil: Stencil) -> None:
        height, width = stencil.advection.shape[-2:]
        device = stencil.advection.device
        of_height, self.rows = eigenvectors(height, stencil.boundary, device)
        of_width, self.columns = eigenvectors(width, stencil.boundary, device)
        self.values = 1 + stencil.diffusion * (of_height[:, None] + of_width)

    def take(self, items: Tensor) -> Spectral:
        return self

    def __call__(self, r: Tensor) -> Tensor:
        return self.rows @ ((self.rows.T @ r @ self.columns) / self.values) @ self.columns.T


@lru_cache(maxsize=16)
def eigenvectors(size: int, boundary: Boundary, device: torch.device) -> tuple[Tensor, Tensor]:
    """Eigenvalues and orthonormal eigenvectors (columns) of the negative second difference along an axis."""
    eye = torch.eye(size, dtype=torch.float64, device=device)
    minus, plus = neighbours(eye, 0, boundary)
    values, vectors = torch.linalg.eigh(2 * eye - minus - plus)
    return values, vectors


class AlternatingDirections:
    """The inverse of ``(I - L_H) (I - L_W)``, the parts of A along each axis: tridiagonal systems, all lines at once.

    The advection is clamped so that the lines stay diagonally dominant and need no pivots; a preconditioner may differ
    from A. Source: Peaceman and Rachford 1955; Douglas 1955.
    """

    def __init__(self, stencil: Stencil) -> None:
        self.axes = [Tridiagonal.along(stencil, n) for n in range(2)]

    def take(self, items: Tensor) -> AlternatingDirections:
        part = object.__new__(AlternatingDirections)
        part.axes = [one.take(items) for one in self.axes]
        return part

    def __call__(self, r: Tensor) -> Tensor:
        for one in self.axes:
            r = one.solve(r)
        return r


@dataclass(frozen=True)
class Tridiagonal:
    """Tridiagonal systems along an axis after parallel cyclic reduction.

    Each round adds multiples of the rows ``distance`` away so that a row is coupled to those twice as far, until there
    are none or the couplings vanish. Source: Hockney and Jesshope 1981, Parallel Computers.
    """

    axis: int
    rounds: list[tuple[int, Tensor, Tensor]]
    diagonal: Tensor
    periodic: bool

    @classmethod
    def along(cls, stencil: Stencil, n: int) -> Tridiagonal:
        """Coefficients of one axis (0: H, 1: W) of a stencil."""
        axis, d, periodic = AXES[n], stencil.diffusion, stencil.boundary == "periodic"
        a = stencil.advection[:, n].clamp(-d - LARGEST_ADVECTION, d + LARGEST_ADVECTION)
        lower, upper, diagonal = a - d, -a - d, torch.full_like(a, 1 + 2 * d)
        if not periodic:
            for outer, place in ((lower, 0), (upper, a.shape[axis] - 1)):
                if stencil.boundary == "neumann":
                    diagonal.narrow(axis, place, 1).add_(outer.narrow(axis, place, 1))
                outer.narrow(axis, place, 1).zero_()
        return cls._reduce(axis, lower, diagonal, upper, periodic)

    @classmethod
    def _reduce(cls, axis: int, lower: Tensor, diagonal: Tensor, upper: Tensor, periodic: bool) -> Tridiagonal:
        rounds, distance = [], 1
        while bool((lower.abs() + upper.abs() > 1e-17 * diagonal).any()):
            below = -lower / _shifted(diagonal, axis, distance, periodic, 1.0)
            above = -upper / _shifted(diagonal, axis, -distance, periodic, 1.0)
            diagonal = (
                diagonal
                + below * _shifted(upper, axis, distance, periodic)
                + above * _shifted(lower, axis, -distance, periodic)
            )
            lower = below * _shifted(lower, axis, distance, periodic)
            upper = above * _shifted(upper, axis, -distance, periodic)
            rounds.append((distance, below, above))
            distance *= 2
        return cls(axis, rounds, diagonal, periodic)

    def take(self, items: Tensor) -> Tridiagonal:
        rounds = [(distance, below[items], above[items]) for distance, below, above in self.rounds]
        return Tridiagonal(self.axis, rounds, self.diagonal[items], self.periodic)

    def solve(self, r: Tensor) -> Tensor:
        """x of all lines, ``[B, H, W]``."""
        for distance, below, above in self.rounds:
            r = (
                r
                + below * _shifted(r, self.axis, distance, self.periodic)
                + above * _shifted(r, self.axis, -distance, self.periodic)
            )
        return r / self.diagonal


def _shifted(x: Tensor, axis: int, distance: int, periodic: bool, fill: float = 0.0) -> Tensor:
    """``x[i - distance]`` along an axis, ``fill`` where there is none."""
    size = x.shape[axis]
    if periodic:
        return x.roll(distance, axis)
    kept = size - abs(distance)
    moved = torch.full_like(x, fill)
    if kept > 0:
        moved.narrow(axis, max(distance, 0), kept).copy_(x.narrow(axis, max(-distance, 0), kept))
    return moved


Preconditioner = Callable[[Stencil], Any]


def _krylov(make: Preconditioner, stencil: Stencil, b: Tensor, guess: Tensor, tolerance: float) -> Tensor:
    """Restarted where the true residual is not what the recursion says, or the recursion breaks down."""
    limit = max(tolerance, ROUNDING) * norm(b)
    x, precondition = guess.clone(), make(stencil)
    for _ in range(RESTARTS):
        r = b - stencil.apply(x)
        todo = (norm(r) > limit).nonzero().flatten()
        if not len(todo):
            return x
        part = stencil, precondition
        if len(todo) < len(b):
            part = stencil.take(todo), precondition.take(todo)
        x[todo] += _bicgstab(*part, r[todo], limit[todo])
    worst = float((norm(b - stencil.apply(x)) / norm(b)).max())
    raise RunError(
        f"BiCGSTAB has not converged after {RESTARTS} starts: relative residual {worst:.1e}, tolerance "
        f"{tolerance:.1e}; use linear_solver='lu', or smaller steps in time"
    )


def _bicgstab(stencil: Stencil, precondition: Any, r: Tensor, limit: Tensor, max_iterations: int = 100) -> Tensor:
    """The solution of ``A x = r``; an item is left alone as soon as its residual is within its limit.

    Source: van der Vorst 1992, SIAM J. Sci. Stat. Comput. 13, 631.
    """
    found = torch.zeros_like(r)
    active = torch.arange(len(r), device=r.device)
    x, shadow, p = found.clone(), r, r
    rho = _dot(shadow, r)
    for _ in range(max_iterations):
        direction = precondition(p)
        v = stencil.apply(direction)
        alpha = _ratio(rho, _dot(shadow, v))
        half = r - alpha * v
        correction = precondition(half)
        t = stencil.apply(correction)
        omega = _ratio(_dot(t, half), _dot(t, t))
        x = x + alpha * direction + omega * correction
        r = half - omega * t
        before, rho = rho, _dot(shadow, r)
        p = r + _ratio(rho, before) * _ratio(alpha, omega) * (p - omega * v)
        running = norm(r) > 0.5 * limit  # half of it: the true residual differs a little
        if not bool(running.all()):
            found[active] = x
            active, limit = active[running], limit[running]
            if not len(active):
                break
            x, r, shadow, p, rho = (one[running] for one in (x, r, shadow, p, rho))
            kept = running.nonzero().flatten()
            stencil, precondition = stencil.take(kept), precondition.take(kept)
    else:
        found[active] = x
    return found


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of each item, ``[B, 1, 1]``."""
    return (x * y).sum(AXES, keepdim=True)


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    """x / y, 0 where y is 0 (the recursion stops there and is started anew)."""
    return torch.where(y == 0, 0.0, x / torch.where(y == 0, 1.0, y))


SOLVERS: dict[str, Solver] = {"lu": lu, "bicgstab": bicgstab, "adi": adi}
