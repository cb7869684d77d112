"""Transition kernels along one axis of a pixel grid: where the mass of each pixel is after a while, exactly.

Heat flow ``p' = L p`` with the second difference L is a random walk in continuous time, whose kernel on an endless line
is ``exp(-x) I_d(x)`` at the distance d, I the modified Bessel function and ``x = 2 tau / spacing^2``. On a ring of P
pixels it is the sum over all ways round, and every boundary is a ring: mirrored at the pixel's edge (neumann, P = 2 H),
mirrored with a changed sign beyond a wall (dirichlet, P = 2 H + 2), or itself (periodic, P = H).

Kernels are computed as logarithms, from sums of positive numbers wherever that can be: each entry is right to nearly
all digits, also where it is 1e-200 of the largest. The eigenvectors of L alone, ``V exp(-tau lambda) V^T``, would leave
rounding errors of either sign there, and the logarithm of the density needs them to be right. Everything is float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPECTRAL = 1 / 16
"""Fraction of P^2: above this x the ring's Fourier series is accurate to all digits; below it, few turns count."""


def log_bessel(x: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """``log(exp(-x) I_d(x))`` for d = 0, ..., order: ``[order + 1, *x.shape]``, x at least 0.

    By the continued fraction of the ratios ``I_d / I_(d-1) = x / (2 d + x I_(d+1) / I_d)``, from high orders down, and
    ``exp(x) = I_0 + 2 (I_1 + I_2 + ...)``.
    """
    # A ratio that is wrong at the order N is so at 0 by the factor (I_N / I_0)^2, about exp(-N^2 / x).
    high = order + 10 + math.ceil(7 * math.sqrt(x.max(initial=0.0)))
    ratios = np.empty((high, *x.shape))
    ratio = x / (high - 0.5 + np.sqrt((high + 0.5) ** 2 + x**2))
    for d in range(high, 0, -1):
        ratio = x / (2 * d + x * ratio)
        ratios[d - 1] = ratio
    with np.errstate(divide="ignore"):  # x = 0: all mass at d = 0
        logs = np.log(ratios).cumsum(0)
    first = -np.log1p(2 * np.exp(logs).sum(0))
    return np.concatenate([first[None], first + logs[:order]])


def log_ring(tau: Tensor, period: int) -> Tensor:
    """Log of the heat kernel on a ring of P pixels at the distances 0, ..., P - 1, ``[T] -> [T, P]``.

    Args:
        tau: heat times in units of the spacing squared.
        period: P.
    """
    x = 2 * tau
    out = tau.new_empty(len(tau), period)
    flat = x > SPECTRAL * period**2
    if flat.any():
        angle = torch.arange(period // 2 + 1, dtype=torch.float64) * (math.pi / period)
        out[flat] = torch.fft.irfft(torch.exp(-2 * x[flat, None] * angle.sin() ** 2), n=period).log()
    if not flat.all():
        turns = math.ceil(max(3 * period, 40) / period)
        orders = (torch.arange(period) + period * torch.arange(-turns, turns + 1)[:, None]).abs()
        line = torch.from_numpy(log_bessel(x[~flat].numpy(), int(orders.max())))
        out[~flat] = line[orders].logsumexp(0).T
    return out


def heat(tau: Tensor, size: int, boundary: str) -> Tensor:
    """``exp(tau L)`` on a line of ``size`` pixels, ``[T] -> [T, size, size]``; entries below 1e-300 are 0.

    The matrix is symmetric; its rows sum to 1, with dirichlet to what has not met a wall, see :func:`log_escape`.
    """
    ring = log_ring(tau, period(size, boundary)).exp()
    near, far = _by_difference(ring, size), _by_sum(ring, size, boundary)
    if boundary == "dirichlet":  # late, both are the same to all digits: the density then comes from the walls
        near = (near - far).clamp(min=0)
    elif boundary == "neumann":
        near = near + far
    return flush(near)


def log_heat(tau: Tensor, size: int, boundary: str) -> Tensor:
    """The logarithm of :func:`heat`, at any range."""
    ring = log_ring(tau, period(size, boundary))
    near, far = _by_difference(ring, size), _by_sum(ring, size, boundary)
    if boundary == "dirichlet":
        left = torch.log(-torch.expm1((far - near).clamp(max=0)))
        return torch.where(near > -torch.inf, near + left, near)
    return torch.logaddexp(near, far) if boundary == "neumann" else near


def flush(kernel: Tensor) -> Tensor:
    """Entries below 1e-300 as 0: next to the end of the exponents' range they slow a matrix product tenfold."""
    return kernel.masked_fill_(kernel < 1e-300, 0)


def _by_difference(ring: Tensor, size: int) -> Tensor:
    """``ring[|i - j|]``, ``[T, P] -> [T, size, size]``."""
    both = torch.cat([ring[:, 1:size].flip(1), ring[:, :size]], dim=1)
    return both.unfold(1, size, 1).flip(1)


def _by_sum(ring: Tensor, size: int, boundary: str) -> Tensor:
    """``ring[i + j + 1]``, the distance from i to the mirrored j, of neumann; with dirichlet ``ring[i + j + 2]``."""
    first = {"neumann": 1, "dirichlet": 2, "periodic": 0}[boundary]
    return ring[:, first:].unfold(1, size, 1)[:, :size]


def period(size: int, boundary: str) -> int:
    """Pixels of the ring that a line of ``size`` pixels with this boundary is a part of."""
    return {"neumann": 2 * size, "dirichlet": 2 * size + 2, "periodic": size}[boundary]


def log_escape(tau: Tensor, size: int) -> Tensor:
    """Log of the mass that a walk from each pixel has lost at the walls (dirichlet), ``[T] -> [T, size]``.

    The density is 1 at the two walls and 2 at the mirrored pixels, in excess of the mirrored one that vanishes there.
    """
    ring = log_ring(tau, 2 * size + 2)
    weight = torch.zeros(2 * size + 2, dtype=torch.float64)
    weight[size + 1 : -1], weight[[size, -1]] = 2, 1
    place = torch.arange(2 * size + 2)
    distance = (place - torch.arange(size)[:, None]).abs()
    return (ring[:, distance] + weight.log()).logsumexp(-1)


def log_drift(a: Tensor, s: Tensor, size: int) -> Tensor:
    """Log of the kernel of ``x = a y + s n``, n normal, of pixels about the middle of a line: ``[T, size, size]``.

    Mass lies evenly in each pixel y and is collected over each pixel x: both integrals are exact. Columns are
    normalised, so that mass that leaves the grid is put back in proportion.

    Args:
        a: factors, 0 < a <= 1.
        s: standard deviations in pixels; 0 is taken as 1e-9.
    """
    s = s.clamp(min=1e-9)[:, None, None]
    a = a[:, None, None]
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    distance = (x[:, None] - a * x).abs()
    # The kernel is the second difference of H(z), the integral of the normal tail probability from z on.
    z = [(distance + shift) / s for shift in (-(1 + a) / 2, -(1 - a) / 2, (1 - a) / 2, (1 + a) / 2)]
    nearest = z[0].clamp(min=0)
    parts = [_tail_integral(one, nearest) for one in z]
    mass = (parts[0] - parts[1]) - (parts[2] - parts[3])
    log = mass.clamp(min=0).log() - nearest**2 / 2
    return log - log.logsumexp(-2, keepdim=True)


def _tail_integral(z: Tensor, scale: Tensor) -> Tensor:
    """``exp(scale^2 / 2) H(z)`` with ``H(z) = phi(z) - z Q(z)``; scale is at most z where z > 0, and 0 elsewhere."""
    size = z.abs()
    # 1 - z Q(z) / phi(z) cancels at large z, where its series serves.
    inverse = 1 / size.clamp(min=1) ** 2
    series = inverse * (1 - 3 * inverse + 15 * inverse**2)
    direct = 1 - size * math.sqrt(math.pi / 2) * torch.special.erfcx(size / math.sqrt(2))
    bracket = torch.where(size > 300, series, direct)
    exponent = torch.where(z > 0, -(z - scale) * (z + scale) / 2, -(z**2) / 2)
    return bracket * exponent.exp() / math.sqrt(2 * math.pi) + (-z).clamp(min=0)
