"""The Fokker-Planck equation of a log density, solved exactly: no iteration, no time steps.

Without drift ``p = exp(m)`` obeys the heat equation, ``p_t = g^2 / 2 (p_xx + p_yy)``, whose solution at any later time
is two small matrix products (Cole 1951; Hopf 1950):

    m(t) = log(K_H exp(m0) K_W^T),    K = exp(tau L),    tau = (s(t)^2 - s(t0)^2) / 2

L is the second difference along an axis. With a linear drift, ``dx = -b x / 2 dt + g dw``, mass moves from y to
``a y + s n`` about the middle of the grid, so there are such matrices too. They conserve mass and are positive, hence
the maximum principle, all to rounding, at any step of time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import scipy.fft
import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.studies.score_embedding import kernels
from randomwalk.studies.score_embedding.solution import Boundary, Solution, gradient
from score_sde.devices import exact, with_float64
from score_sde.sde import SDE, float64, transition

TINY = 1e-280
"""A density below this, of its largest, may lack what underflowed (1e-308 each); it is computed by logarithms."""


def heat_time(sde: SDE, t0: float | Tensor, t1: float | Tensor) -> Tensor:
    """Half the variance that noise adds from t0 to t1, ``tau = (s1^2 - (a1 / a0)^2 s0^2) / 2``, float64.

    Without drift that is half the integral of g^2.
    """
    return transition(sde.level(t1), sde.level(t0))[1] / 2


@dataclass(frozen=True)
class Kernels:
    """Where the mass of every row and of every column is at each later level: ``p_n = R_n p_0 C_n^T + inflow_n``.

    Attributes:
        times: ``[N]``; the first is that of p_0 and has no matrices.
        rows: R, ``[N - 1, H, H]``.
        columns: C, ``[N - 1, W, W]``.
        log_inflow: log of what comes in from p = 1 outside (dirichlet), ``[N - 1, H, W]``.
        logarithm: log R of the size H, log C of the size W.
    """

    times: Tensor
    rows: Tensor
    columns: Tensor
    log_inflow: Tensor | None
    logarithm: Callable[[int], Tensor]


def make_kernels(
    shape: tuple[int, int],
    times: Tensor,
    sde: SDE,
    *,
    spacing: float = 1.0,
    boundary: Boundary = "neumann",
    device: torch.device | str = "cpu",
) -> Kernels:
    """The matrices for images ``[..., H, W]`` of a shape, for all times: made once, they serve any number of images.

    The other arguments are those of :func:`solve`.
    """
    times, device = _checked(times), with_float64(torch.device(device))
    if has_drift(sde, times):
        if boundary != "neumann":
            raise InputError(f"boundary {boundary!r}: only neumann is available with the drift of {type(sde).__name__}")
        ratio = sde.mean_coefficient(times[1:]) / sde.mean_coefficient(times[0])
        std = (2 * heat_time(sde, times[0], times[1:])).clamp(min=0).sqrt() / spacing
        logarithm = partial(kernels.log_drift, ratio, std)
        rows, columns = (kernels.flush(logarithm(size).exp()).to(device) for size in shape)
        return Kernels(times.to(device), rows, columns, None, logarithm)
    tau = _heat_times(sde, times, spacing)
    height, width = shape
    rows = kernels.heat(tau, height, boundary).to(device)
    columns = rows if height == width else kernels.heat(tau, width, boundary).to(device)
    log_inflow = None
    if boundary == "dirichlet":
        x, y = (kernels.log_escape(tau, size) for size in shape)
        stay = torch.log1p(-x.exp().clamp(max=1))
        log_inflow = torch.logaddexp(x[:, :, None], stay[:, :, None] + y[:, None]).to(device)
    return Kernels(times.to(device), rows, columns, log_inflow, partial(kernels.log_heat, tau, boundary=boundary))


def _checked(times: Tensor) -> Tensor:
    times = float64(times).cpu()
    if not (times >= times[0]).all():
        raise InputError(f"times: {times.min():g} is before the first one, {times[0]:g}, that of the initial density")
    return times


def _heat_times(sde: SDE, times: Tensor, spacing: float) -> Tensor:
    """Heat times from the first level to the others, ``[N - 1]``, in units of the spacing squared."""
    return heat_time(sde, times[0], times[1:]).clamp(min=0) / spacing**2


def has_drift(sde: SDE, times: Tensor) -> bool:
    """Whether the SDE pulls towards 0."""
    return bool((sde.rate(times) != 0).any())


def solve(
    m0: Tensor,
    times: Tensor,
    sde: SDE,
    *,
    spacing: float = 1.0,
    boundary: Boundary = "neumann",
    method: str = "matrix",
    prepared: Kernels | None = None,
) -> Solution:
    """The log density at all times, on m0's device, and its gradient.

    Boundaries: ``neumann`` mirrors the density at the border, and mass stays; ``periodic`` continues it at the other
    side; ``dirichlet`` has m = 0, a density of 1, outside, as the paper pads, so m0 + c does not lead to m + c there.
    With a drift the grid is centred at 0, p is constant in each pixel, and mass that leaves the grid is put back (see
    `kernels.log_drift`): the density ends as Normal(0, 1), in units of 1 / spacing
    pixels, so choose a spacing with which the image is some of them wide.

    Args:
        m0: ``[n, C, H, W]``, the log density at ``times[0]``, finite; an additive constant does not matter.
        times: ``[N]``, none before the first.
        sde: drift-free, or with linear drift.
        spacing: of the pixels, in units of the SDE.
        boundary: neumann, dirichlet or periodic.
        method: matrix; or dct, drift-free SDEs only, whose cost is nearly proportional to the number of pixels: the
            transform along both axes (cosine, sine or Fourier, by boundary) is multiplied by ``exp(-tau lambda)``. Its
            error of 1e-16 of the largest density is one of ``1e-16 exp(max m - m)`` in m; that of matrix is 1e-15 in m
            at any dynamic range.
        prepared: matrices for the method matrix, of the same shape, times, SDE, spacing and boundary.

    Raises:
        InputError: m0 is not finite, or the method or boundary cannot be had.

    Source: the equation, Na, Gao and Wan 2024, arXiv 2404.06661, section 3.1.
    """
    if m0.ndim != 4 or not m0.isfinite().all():
        raise InputError(f"initial log density of shape {tuple(m0.shape)}: expected finite numbers [n, C, H, W]")
    m0, times = exact(m0), _checked(times)
    shape = (m0.shape[2], m0.shape[3])
    fields = m0.flatten(0, 1)
    top = fields.amax((1, 2), keepdim=True)
    if boundary == "dirichlet":
        top = top.clamp(min=0)
    m = m0.new_empty(len(times), *fields.shape)
    m[0] = fields
    if method == "matrix":
        made = prepared or make_kernels(shape, times, sde, spacing=spacing, boundary=boundary, device=m0.device)
        later = _by_matrix(fields - top, top, made)
    elif method == "dct":
        if has_drift(sde, times):
            raise InputError(f"method 'dct': it is for SDEs without drift; {type(sde).__name__} needs 'matrix'")
        later = _by_transform(fields - top, top, _heat_times(sde, times, spacing).to(m0.device), boundary)
    else:
        raise InputError(f"method {method!r}: unknown; expected matrix or dct")
    torch.add(later, top, out=m[1:])
    m = m.unflatten(1, m0.shape[:2])
    return Solution(times.to(m0.device), m, gradient(m, spacing, boundary))


def _by_matrix(m0: Tensor, top: Tensor, made: Kernels) -> Tensor:
    """Log density of the levels after the first, ``[B, H, W] -> [N - 1, B, H, W]``; m0 is at most 0."""
    levels, (batch, height, width) = len(made.rows), m0.shape
    p = made.rows.flatten(0, 1) @ m0.exp().transpose(0, 1).reshape(height, batch * width)
    p = (p.reshape(levels, height * batch, width) @ made.columns.mT).reshape(levels, height, batch, width)
    p = p.transpose(1, 2)
    if made.log_inflow is not None:
        p = p + (made.log_inflow[:, None] - top).exp()
    m = p.log()
    poor = torch.nonzero(p.amin((1, 2, 3)) < TINY).flatten().tolist()
    if poor:
        m[poor] = _by_logarithms(m0, top, made, poor)
    return m


def _by_logarithms(m0: Tensor, top: Tensor, made: Kernels, levels: list[int]) -> Tensor:
    """The same products with logarithms of sums of exponentials, row by row: slow, and right at any dynamic range."""
    rows, columns = (made.logarithm(size)[levels].to(m0) for size in m0.shape[1:])
    out = []
    for n, level in enumerate(levels):
        m = torch.stack([(row[:, None] + m0).logsumexp(1) for row in rows[n]], dim=1)
        m = torch.stack([(column + m).logsumexp(2) for column in columns[n]], dim=2)
        out.append(m if made.log_inflow is None else torch.logaddexp(m, made.log_inflow[level] - top))
    return torch.stack(out)


def _by_transform(m0: Tensor, top: Tensor, tau: Tensor, boundary: str) -> Tensor:
    """Same as :func:`_by_matrix`, by the transform in which L is diagonal."""
    outside = (-top).exp() if boundary == "dirichlet" else m0.new_zeros(())
    flow = _transform if m0.device.type == "cpu" else _ring_transform
    p = flow(m0.exp() - outside, tau, boundary) + outside
    # The maximum principle, which rounding would violate where p is tiny.
    least = m0.amin((1, 2), keepdim=True)
    return torch.maximum(p.clamp(min=0).log(), torch.minimum(least, -top) if boundary == "dirichlet" else least)


def _transform(p: Tensor, tau: Tensor, boundary: str) -> Tensor:
    """Heat flow by real transforms of the image's own size, ``[B, H, W] -> [T, B, H, W]``."""
    height, width = p.shape[1:]
    first = 1 if boundary == "dirichlet" else 0
    ring = [kernels.period(size, boundary) for size in (height, width)]
    last = width // 2 + 1 if boundary == "periodic" else width
    x, y = (torch.arange(size, dtype=torch.float64) + first for size in (height, last))
    decay = _decay(tau, x, y, ring)[:, None].numpy()
    axes = (-2, -1)
    if boundary == "periodic":
        hat = scipy.fft.rfft2(p.numpy(), axes=axes)
        return torch.from_numpy(scipy.fft.irfft2(hat * decay, s=(height, width), axes=axes))
    forward, back = (scipy.fft.dctn, scipy.fft.idctn) if boundary == "neumann" else (scipy.fft.dstn, scipy.fft.idstn)
    kind = 2 if boundary == "neumann" else 1
    return torch.from_numpy(back(forward(p.numpy(), kind, axes=axes) * decay, kind, axes=axes, overwrite_x=True))


def _ring_transform(p: Tensor, tau: Tensor, boundary: str) -> Tensor:
    """Same as :func:`_transform`, on any device, by Fourier transforms on rings along both axes."""
    height, width = p.shape[1:]
    for axis in (1, 2):
        zero = torch.zeros_like(p.narrow(axis, 0, 1))
        if boundary == "neumann":
            p = torch.cat([p, p.flip(axis)], dim=axis)
        elif boundary == "dirichlet":
            p = torch.cat([p, zero, -p.flip(axis), zero], dim=axis)
    x, y = (torch.arange(size, dtype=p.dtype, device=p.device) for size in (p.shape[1], p.shape[2] // 2 + 1))
    hat = torch.fft.rfft2(p) * _decay(tau, x, y, p.shape[1:])[:, None]
    return torch.fft.irfft2(hat, s=p.shape[1:])[..., :height, :width]


def _decay(tau: Tensor, x: Tensor, y: Tensor, ring: list[int] | torch.Size) -> Tensor:
    """``exp(-tau lambda)`` of the modes x and y, ``[T, X, Y]``: ``lambda = 4 sin^2(pi k / P)`` along each axis."""
    along = [4 * torch.sin(torch.pi * k / size) ** 2 for k, size in zip((x, y), ring, strict=True)]
    return torch.exp(-tau[:, None, None] * (along[0][:, None] + along[1]))
