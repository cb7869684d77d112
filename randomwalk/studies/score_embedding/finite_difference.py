"""The Fokker-Planck equation of a log density by finite differences: the paper's scheme with the right signs.

For the SDE ``dx = f dt + g dw`` with a linear drift ``f = -b(t) (x - c) / 2``, c the centre of the grid, the log
density m of x obeys

    m_t = 1/2 g^2 Laplace(m) + 1/2 g^2 |grad m|^2 + b (x - c) . grad m / 2 + b

(in two dimensions div f = -b; for a drift-free SDE b = 0). A step of backward Euler to the time t_n, with the
five-point Laplacian, central first differences and one factor of the quadratic term from the iterate before,
s = grad m^(k-1), is linear in m^(k):

    m^(k) - dt [g^2 / 2 Laplace + (g^2 s + b (x - c)) / 2 . grad] m^(k) = m_(n-1) + dt b,

g and b those of t_n and ``dt = t_n - t_(n-1)``. In the notation of `Stencil`: ``D = g^2 dt / (2 h^2)`` and
``a = dt (g^2 s + b (x - c)) / (4 h)`` on a grid of spacing h. The rows of the matrix sum to 1. First order in time,
second in space, where m is smooth. Each step is iterated until m does not change, before the next one begins: the
paper's code sweeps over all levels in each iteration instead, to the same solution with more work.

Source: Na, Gao and Wan 2024, arXiv 2404.06661, whose matrix has other signs (`legacy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from randomwalk.errors import InputError, RunError
from randomwalk.studies.score_embedding.linear import SOLVERS, Stencil, norm
from randomwalk.studies.score_embedding.solution import Boundary, Solution, gradient
from score_sde.devices import exact
from score_sde.sdes import SDE

Quadratic = Literal["gradient", "scalar"]
Linearisation = Literal["lagged", "newton"]
LinearSolver = Literal["lu", "bicgstab", "adi"]


def solve(
    m0: Tensor,
    times: Tensor,
    sde: SDE,
    *,
    spacing: float = 1.0,
    boundary: Boundary = "neumann",
    linear_solver: LinearSolver = "lu",
    tolerance: float = 2e-8,
    max_iterations: int = 50,
    quadratic: Quadratic = "gradient",
    linearisation: Linearisation = "lagged",
) -> Solution:
    """The log densities at the times, from the one at the first of them.

    Args:
        m0: log densities, ``[n, C, H, W]``; a two-dimensional problem for each image and channel.
        times: ``[N]``, ascending; a step of time leads from each to the next.
        sde: its ``diffusion`` and ``rate`` are g and b.
        spacing: h, the distance of two pixels.
        boundary: what lies beyond the border: the mirror image (neumann), the density 1 (dirichlet; the paper's), or
            the other side (periodic).
        linear_solver: sparse LU on the processor; BiCGSTAB, preconditioned by the equation without advection; or
            BiCGSTAB preconditioned by alternating directions. The latter two work on all images at once on the device
            of m0, start from the iterate before, and leave an image alone once it has converged.
        tolerance: of the relative change of a channel in the last iteration of a step; linear systems are solved to a
            tenth of it.
        max_iterations: in a step of time.
        quadratic: the equation's ``|grad m|^2``, or the preprint's ``(m_x + m_y)^2``, which is not the equation of an
            isotropic noise. The preprint's score is then the sum of the two components.
        linearisation: the paper's lagged factor; or Newton's method, ``|grad m|^2 ~ 2 s . grad m - |s|^2``, which
            comes to the same solution in three or four iterations, also where lagging takes dozens (steep fields, long
            steps).

    Returns:
        The solution. ``iterations`` are those of the step that needed most; a channel that has converged in a step no
        longer changes, and counts with 0 in the residuals of that step's later iterations.

    Raises:
        InputError: arguments that do not fit.
        RunError: no convergence.
    """
    _check(m0, times, spacing, linear_solver, tolerance, max_iterations)
    times = times.to("cpu", torch.float64)
    shape, m = m0.shape, exact(m0.detach()).flatten(0, 1)
    position = _centred(shape[-2], shape[-1], spacing).to(m.device)
    levels, changes, sizes = [m], [], [norm(m)[None]]
    for n in range(1, len(times)):
        t = times[n]
        g2, b, dt = float(sde.diffusion(t)) ** 2, float(sde.rate(t)), float(t - times[n - 1])
        step = _Step(g2, b, dt, spacing, boundary, quadratic, linearisation, position)
        m, change, size = _iterate(step, m, linear_solver, tolerance, max_iterations, f"level {n} (t = {float(t):.4g})")
        levels.append(m)
        changes.append(change)
        sizes.append(size)
    log_density = torch.stack(levels).unflatten(1, shape[:2])
    residuals = _residuals(changes, sizes, shape[0])
    score = gradient(log_density, spacing, boundary)
    return Solution(times.to(m.device), log_density, score, len(residuals), residuals)


@dataclass(frozen=True)
class _Step:
    """The equations of one step of time, for items ``[B, H, W]``; position is x - c, ``[2, H, W]``."""

    g2: float
    b: float
    dt: float
    spacing: float
    boundary: Boundary
    quadratic: Quadratic
    linearisation: Linearisation
    position: Tensor

    def system(self, below: Tensor, m: Tensor) -> tuple[Stencil, Tensor]:
        """A and the right side, from m of the level below and the iterate m."""
        half, right = 0.5 * self.g2 * self.dt, below + self.dt * self.b
        score = gradient(m, self.spacing, self.boundary)
        square = score.square().sum(dim=-3)
        if self.quadratic == "scalar":
            score = score.sum(dim=-3, keepdim=True).expand_as(score)
            square = score[..., 0, :, :].square()
        if self.linearisation == "newton":
            score, right = 2 * score, right - half * square
        advection = (half * score + 0.5 * self.b * self.dt * self.position) / (2 * self.spacing)
        return Stencil(half / self.spacing**2, advection, self.boundary), right


def _iterate(
    step: _Step, m: Tensor, linear_solver: LinearSolver, tolerance: float, max_iterations: int, place: str
) -> tuple[Tensor, Tensor, Tensor]:
    """m of the next level ``[B, H, W]``, and for each iteration the change and the size before it, both ``[K, B]``."""
    below, m = m, m.clone()
    active = torch.arange(len(m), device=m.device)
    changes, sizes = [], []
    for _ in range(max_iterations):
        size, change = norm(m), m.new_zeros(len(m))
        guess = m[active]
        stencil, right = step.system(below[active], guess)
        m[active] = SOLVERS[linear_solver](stencil, right, guess, tolerance / 10)
        change[active] = norm(m[active] - guess)
        changes.append(change)
        sizes.append(size)
        if not bool(change.isfinite().all()):
            raise RunError(f"finite differences, {place}: the iteration diverges; use more levels or the exact solver")
        active = active[change[active] > tolerance * size[active]]
        if not len(active):
            return m, torch.stack(changes), torch.stack(sizes)
    worst = float((changes[-1] / sizes[-1]).max())
    raise RunError(
        f"finite differences, {place}: the fixed point has not converged after {max_iterations} iterations, relative "
        f"change {worst:.1e}, tolerance {tolerance:.1e}; use more levels, linearisation='newton', or the exact solver"
    )


def _residuals(changes: list[Tensor], sizes: list[Tensor], num_images: int) -> list[list[float]]:
    """Relative change of each image over all levels and channels, for each iteration."""
    most = max((len(change) for change in changes), default=0)
    rows = []
    for k in range(most):
        change = sum(one[k] ** 2 for one in changes if k < len(one))
        size = sum(one[min(k, len(one) - 1)] ** 2 for one in sizes)
        per_image = [torch.as_tensor(one).reshape(num_images, -1).sum(1).sqrt() for one in (change, size)]
        rows.append((per_image[0] / per_image[1].clamp_min(torch.finfo(torch.float64).tiny)).tolist())
    return rows


def _centred(height: int, width: int, spacing: float) -> Tensor:
    """x - c of every pixel, ``[2, H, W]``."""
    axes = [spacing * (torch.arange(size, dtype=torch.float64) - (size - 1) / 2) for size in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _check(
    m0: Tensor, times: Tensor, spacing: float, linear_solver: str, tolerance: float, max_iterations: int
) -> None:
    if m0.ndim != 4 or not bool(m0.isfinite().all()):
        raise InputError(f"m0 {list(m0.shape)}: expected finite log densities [images, channels, H, W]")
    if times.ndim != 1 or not len(times) or bool((times.diff() <= 0).any()):
        raise InputError("times: expected ascending numbers, the first that of m0")
    if linear_solver not in SOLVERS:
        raise InputError(f"linear_solver={linear_solver!r}: expected {', '.join(SOLVERS)}")
    if not 0 < spacing < math.inf or not 0 < tolerance < 1 or max_iterations < 1:
        found = f"spacing={spacing}, tolerance={tolerance}, max_iterations={max_iterations}"
        raise InputError(f"{found}: expected positive numbers, the tolerance below 1")
