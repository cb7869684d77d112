"""The Gaussian with the first two moments of X given X_s = x, by Tweedie's formulas, and its update by y.

    E[X | X_s = x] = D(x, s),    Cov[X | X_s = x] = C = s^2 dD/dx

The covariance is known by products ``C v``, one backward pass through the denoiser each. Those with the k columns of
``Omega = [A^T, Z]`` (every row of A, then random probes Z) give its Nystroem approximation

    C Omega (Omega^T C Omega)^-1 Omega^T C = B B^T,    B [d, k] (kept as its transpose, rows are faster)

which is exact for the measured directions, ``A B B^T A^T = A C A^T``, exact altogether if k = d, and never larger
than C. A number c stands for the rest: ``C ~ B B^T + c (I - Pi)``, Pi the projection on the columns of B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from randomwalk.operators import Operator
from randomwalk.samplers.sampler import Problem
from score_sde.devices import exact

_DEPENDENT = 1e-10
"""Eigenvalues below this fraction of the largest are rounding errors of linearly dependent directions."""


@dataclass(frozen=True)
class Moments:
    """``X | X_s = x ~ Normal(D, B B^T + c (I - Pi))``, in float64, and on the CPU if the device has no float64.

    Attributes:
        x, mean: the state and D(x, s), ``[B, d]``.
        basis, inner: ``E^T [B, k, d]`` with orthonormal rows (or zero ones) and ``F [B, k, k]``, where ``B = E F``.
        seen: A B, ``[B, m, k]``.
        residual: y - A D, ``[B, m]``.
        rest: c, ``[B, 1]``.
    """

    x: Tensor
    mean: Tensor
    basis: Tensor
    inner: Tensor
    seen: Tensor
    residual: Tensor
    rest: Tensor

    def log_evidence(self, eta: float) -> Tensor:
        """``log Normal(y; A D, A C A^T + eta^2 I)``, ``[B]``, without the constant."""
        spread = self.seen @ self.seen.mT + eta**2 * torch.eye(self.seen.shape[1]).to(self.seen)
        root = torch.linalg.cholesky(spread)
        white = torch.linalg.solve_triangular(root, self.residual[..., None], upper=False)[..., 0]
        return -white.square().sum(1) / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1)

    def take(self, rows: Tensor) -> Moments:
        """The moments of some rows, in the order given."""
        return Moments(*(value[rows] for value in vars(self).values()))

    def move(self, eta: float, keep: float, variance: float, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Draw of the next state ``x' = keep x + (1 - keep) X + sqrt(variance) n``, with X by these moments given y.

        In the columns of E and orthogonal to them (a = 1 - keep):

            prior kernel  M(x' | x)    = Normal(keep x + a D,            variance + a^2 F F^T   | variance + a^2 c)
            proposal      Q(x' | x, y) = Normal(keep x + a (D + E F xi), variance + a^2 F P F^T | variance + a^2 c)
            P = (I + (A B)^T (A B) / eta^2)^-1,    xi = P (A B)^T (y - A D) / eta^2

        They differ in the k directions of B alone, so their ratio does not depend on the dimension of x.

        Args:
            eta: standard deviation of the noise in y, positive.
            keep: weight of x.
            variance: of the fresh noise, positive.
            normal: draws ``[B, d]``.

        Returns:
            x', ``[B, d]``, and ``log M(x' | x) - log Q(x' | x, y)``, ``[B]``.
        """
        basis, inner, a = self.basis, self.inner, 1 - keep
        eye = torch.eye(inner.shape[1]).to(inner)
        posterior = torch.linalg.cholesky(eye + self.seen.mT @ self.seen / eta**2)
        xi = torch.cholesky_solve(self.seen.mT @ self.residual[..., None] / eta**2, posterior)
        half = torch.linalg.solve_triangular(posterior, inner.mT, upper=False)  # half^T half = F P F^T
        wide = torch.linalg.cholesky(variance * eye + a**2 * inner @ inner.mT)
        values, vectors = torch.linalg.eigh(variance * eye + a**2 * half.mT @ half)
        values = values.clamp_min(variance)
        n_inside = basis @ normal[..., None]
        # The symmetric root: another basis of the same space, as rounding may choose, gives the same step.
        step = vectors @ (values.sqrt()[..., None] * (vectors.mT @ n_inside))
        from_wide = torch.linalg.solve_triangular(wide, a * inner @ xi + step, upper=False)
        log_ratio = (n_inside.square() - from_wide.square()).sum((1, 2)) / 2
        log_ratio = log_ratio + values.log().sum(1) / 2 - wide.diagonal(dim1=1, dim2=2).log().sum(1)
        outside = normal - (basis.mT @ n_inside)[..., 0]
        x = keep * self.x + a * self.mean + (variance + a**2 * self.rest).sqrt() * outside
        return x + (basis.mT @ (a * inner @ xi + step))[..., 0], log_ratio


def moments(problem: Problem, x: Tensor, sigma: float, measured: Mapping[int, Tensor], probes: int) -> Moments:
    """The moments at the states ``x [B, C, H, W]``: one evaluation, ``m + probes + 1`` backward passes.

    Args:
        problem: its operator is linear, with m entries of y that are not always 0.
        x: states at the noise level ``sigma``.
        sigma: s.
        measured: the columns of A^T, see :func:`measured_directions`.
        probes: number of random directions in addition.
    """
    denoised, product = problem.denoiser.linearized(x, sigma)
    directions = [*measured.values(), *(problem.normal() for _ in range(probes))]
    times_c = sigma**2 * _rows([product(v) for v in directions])
    core = _rows(directions) @ times_c.mT
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)  # a network's Jacobian is not quite symmetric
    kept = values > _DEPENDENT * values[:, -1:]
    scaled = torch.where(kept, values.clamp_min(0), 1).rsqrt() * kept
    factor = (vectors * scaled[:, None]).mT @ times_c
    seen = times_c.new_zeros((len(x), problem.measurement.y[0].numel(), len(directions)))
    seen[:, list(measured)] = (vectors * (values.clamp_min(0).sqrt() * kept)[:, None])[:, : len(measured)]
    squares, axes = torch.linalg.eigh(factor @ factor.mT)
    root = squares.clamp_min(0).sqrt() * (squares > _DEPENDENT * squares[:, -1:])
    basis = (axes * torch.where(root > 0, 1 / root.clamp_min(1e-300), 0)[:, None]).mT @ factor
    z = _rows([problem.normal()])
    outside = z - (z @ basis.mT) @ basis
    curvature = sigma**2 * _rows([product(outside.reshape(x.shape).to(x))])
    share, norm = (outside * curvature).sum((1, 2)), outside.square().sum((1, 2))
    rest = torch.where(norm > 1e-8 * x[0].numel(), share / norm.clamp_min(1e-300), 0).clamp(0, sigma**2)
    return Moments(
        x=exact(x.flatten(1)),
        mean=exact(denoised.flatten(1)),
        basis=basis,
        inner=root[..., None] * axes.mT,
        seen=seen,
        residual=exact(problem.residual(denoised).flatten(1)),
        rest=rest[:, None],
    )


@dataclass(frozen=True)
class ImplicitMoments:
    """``X | X_s = x ~ Normal(D, c I)``; given y its mean is ``D + C A^T (A C A^T + eta^2 I)^-1 (y - A D)``.

    The approximation for a y with too many entries for a backward pass each: one number c stands for every covariance
    but that of the mean, which comes from a few iterations of conjugate gradients.

    Attributes:
        operator: A; needs ``spectral``.
        variance: c.
        x, mean, shift: the state, D, and the shift of the mean by y, ``[B, C, H, W]``, float64 if the device has it.
        residual: ``y - A D``, ``[B, ...]``, alike.
    """

    operator: Operator
    variance: float
    x: Tensor
    mean: Tensor
    shift: Tensor
    residual: Tensor

    def log_evidence(self, eta: float) -> Tensor:
        """``log Normal(y; A D, c A A^T + eta^2 I)``, ``[B]``, up to a constant of each measurement."""
        c, pulled = self.variance, self.operator.adjoint(self.residual)
        explained = c * pulled * self.operator.spectral(lambda t: (t > 0) / (c * t + eta**2), pulled)
        return (explained.flatten(1).sum(1) - self.residual.square().flatten(1).sum(1)) / (2 * eta**2)

    def take(self, rows: Tensor) -> ImplicitMoments:
        """The moments of some rows, in the order given. Only rows of the same measurement may change places."""
        return replace(self, x=self.x[rows], mean=self.mean[rows], shift=self.shift[rows], residual=self.residual[rows])

    def move(self, eta: float, keep: float, variance: float, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Draw of the next state and its log ratio, like `Moments.move`, with a = 1 - keep and

            M(x' | x)    = Normal(keep x + a D,           (variance + a^2 c) I)
            Q(x' | x, y) = Normal(keep x + a (D + shift), variance I + a^2 c eta^2 (c A^T A + eta^2 I)^-1)

        The ratio lacks a constant of each measurement.
        """
        a, c, normal = 1 - keep, self.variance, normal.to(self.x).reshape(self.x.shape)
        step = a * self.shift + self.operator.spectral(
            lambda t: (variance + a**2 * c * eta**2 / (c * t + eta**2)).sqrt(), normal
        )
        log_ratio = (normal.square() - step.square() / (variance + a**2 * c)).flatten(1).sum(1) / 2
        return (keep * self.x + a * self.mean + step).flatten(1), log_ratio


def measured_directions(operator: Operator, y: Tensor) -> dict[int, Tensor]:
    """The columns of A^T, ``[B, C, H, W]`` each, by their places in y; without those that are 0 for the whole batch.

    Args:
        operator: A, linear.
        y: measurements ``[B, ...]``, for their shape and type.
    """
    units = torch.eye(y[0].numel()).to(y).reshape(-1, *y.shape[1:])
    columns = {place: operator.adjoint(unit.expand(y.shape)) for place, unit in enumerate(units)}
    return {place: column for place, column in columns.items() if column.any()}


def _rows(images: list[Tensor]) -> Tensor:
    """``[B, k, d]`` float64 of k batches of images."""
    return torch.stack([exact(image.flatten(1)) for image in images], 1)
