"""Densities of an image: initial conditions of the Fokker-Planck equation.

Each channel of an image gets a log density m0 on the grid of its pixels. There is no natural one; three are known:

* ``value_pair_kde`` (Na, Gao and Wan 2024, arXiv 2404.06661, section 4): how usual the pair of values
  ``(I[k, j], I[j, k])`` is among all such pairs of the channel, by a kernel estimate in the square of values. The set
  of pairs is symmetric, so m0 is too: an image and its mirror image about the diagonal have the same.
* ``intensity``: the image itself, as a density of positions.
* ``position_kde`` (Lau, Na and Wan 2025, arXiv 2511.17634): a kernel estimate from positions drawn by intensity.

Images are u in [0, 1], ``[n, C, H, W]``; m0 has their shape, float64. A constant added to m0 is of no consequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from randomwalk import lookup, rng
from randomwalk.errors import InputError
from score_sde.devices import exact

ROUNDING = 1 / (12 * 255**2)
"""Variance of rounding to 8 bits: the least that values are taken to have, so that a constant channel has a density."""

CHUNK = 2**22
"""Numbers in the largest table of pairs of points that is held at once: 32 MB."""

PUBLISHED_BINS, FLOOR = 256, 1e-300
"""The published code's bins along each axis, and its least density of pairs."""


# --- pairs of values -------------------------------------------------------------------------------------------------


def value_pair_kde(images: Tensor, estimator: str = "histogram", bins: int = 128) -> Tensor:
    """Log density of the pairs ``(I[k, j], I[j, k])`` at each pixel's own pair, a kernel estimate of each channel.

    Estimators: ``gaussian`` is a normal kernel with Scott's factor ``n^(-1/6)`` times the covariance of the n = H^2
    pairs, exact, O(n^2) operations and O(n) memory. ``histogram`` is the same kernel by linear binning along the
    principal axes (sum and difference of the two values) and linear interpolation: it tends to ``gaussian`` as the
    square of the bins' width, in O(n) operations; with 128 bins a photograph's m0 is within 0.005, 0.001 on average.
    ``published`` is the published code's: a histogram of the unit square with 256 bins along each axis, smoothed with
    Scott's factor as the bandwidth itself, which is several times as wide.

    Args:
        images: square ones.
        estimator: gaussian, histogram or published.
        bins: of histogram, along each axis.

    Raises:
        InputError: images that are not square or not in [0, 1], an unknown estimator, fewer than 2 bins.
    """
    _check(images)
    if images.shape[2] != images.shape[3]:
        raise InputError(
            f"value_pair_kde: images of {images.shape[2]}x{images.shape[3]} pixels have no pairs (I[k, j], I[j, k]); "
            "take square ones, or the density intensity or position_kde"
        )
    if bins < 2:
        raise InputError(f"value_pair_kde: bins={bins}; expected 2 or more")
    estimate = lookup.find("value_pair_kde: estimator", _ESTIMATORS, estimator)
    m0 = [estimate(field, bins) for field in exact(images).flatten(0, 1)]
    return torch.stack(m0).unflatten(0, images.shape[:2])


def scott(num: int) -> float:
    """Scott's factor of a kernel estimate from ``num`` points in the plane."""
    return num ** (-1 / 6)


def _principal(field: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Coordinates of the pairs along their principal axes, ``[H, W]`` each, and the kernel's standard deviations there.

    The set of pairs is symmetric, hence the axes are the sum and the difference.
    """
    for axis in ((field + field.T) / math.sqrt(2), (field - field.T) / math.sqrt(2)):
        yield axis, scott(axis.numel()) * axis.var().clamp(min=ROUNDING).sqrt()


def _exact(field: Tensor, _bins: int) -> Tensor:
    axes = list(_principal(field))
    rows, columns = torch.triu_indices(*field.shape, device=field.device)
    white = torch.stack([(axis - axis.mean()) / std for axis, std in axes], dim=-1)
    upper = _log_mean_kernel(white.flatten(0, 1), white[rows, columns])
    m0 = torch.empty_like(field)
    m0[rows, columns] = upper
    m0[columns, rows] = upper  # the pair and its mirror image are equally usual
    return m0 - math.log(2 * math.pi) - (axes[0][1] * axes[1][1]).log()


def _log_mean_kernel(points: Tensor, at: Tensor) -> Tensor:
    """Log of the mean over the points ``[n, 2]`` of ``exp(-|at - point|^2 / 2)``, for each ``at [q, 2]``."""
    half = points.square().sum(1) / 2
    parts = []
    for some in at.split(max(1, CHUNK // len(points))):
        exponent = torch.addmm(half, some, points.T, beta=-1).sub_(some.square().sum(1, keepdim=True) / 2)
        parts.append(exponent.exp_().mean(1))
    return torch.cat(parts).log()


def _histogram(field: Tensor, bins: int) -> Tensor:
    place, smooth, scale = [], [], field.new_ones(())
    for axis, std in _principal(field):
        low, high = axis.min(), axis.max()
        width = ((high - low) / (bins - 1)).clamp(min=1e-3 * std)
        place.append(((axis - low) / width).flatten())
        # Binning and interpolation spread each point by width^2 / 6 on average, which the kernel then need not.
        variance = (std**2 - width**2 / 3).clamp(min=std**2 / 4)
        distance = width * torch.arange(bins, dtype=field.dtype, device=field.device)
        smooth.append(torch.exp(-((distance[:, None] - distance) ** 2) / (2 * variance)))
        scale = scale * variance.sqrt()
    corners, weights = _corners(place[0], place[1], bins)
    counts = field.new_zeros(bins * bins).index_add_(0, corners.flatten(), weights.flatten())
    density = smooth[0] @ counts.reshape(bins, bins) @ smooth[1]
    m0 = (density.log().flatten()[corners] * weights).sum(0).reshape(field.shape)
    return (m0 + m0.T) / 2 - math.log(2 * math.pi * field.numel()) - scale.log()


def _corners(x: Tensor, y: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The four nodes around each point ``[n]`` of a grid of bins x bins, by number, and their weights: ``[4, n]``."""
    i, j = (one.floor().clamp(0, bins - 2) for one in (x, y))
    p, q = x - i, y - j
    first = (i * bins + j).long()
    corners = torch.stack([first, first + 1, first + bins, first + bins + 1])
    return corners, torch.stack([(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q])


def _published(field: Tensor, _bins: int) -> Tensor:
    bins = PUBLISHED_BINS
    # As there: the interpolation is half a bin off, and one of logarithms.
    pairs = [one.flatten() for one in (field.T.cpu().numpy(), field.cpu().numpy())]
    counts = np.histogram2d(pairs[0], pairs[1], bins=bins, range=[[0, 1], [0, 1]], density=True)[0]
    smooth = ndimage.gaussian_filter(counts, sigma=scott(field.numel()) * bins, mode="reflect")
    place = [np.clip(one * bins, 0, bins - 1) for one in pairs]
    m0 = ndimage.map_coordinates(np.log(smooth.clip(min=FLOOR)), place, order=1, mode="nearest")
    return torch.from_numpy(m0).to(field).reshape(field.shape)


_ESTIMATORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "histogram": _histogram,
    "gaussian": _exact,
    "published": _published,
}


# --- densities of positions ------------------------------------------------------------------------------------------


def intensity(images: Tensor, offset: float = 0.1) -> Tensor:
    """``log p`` with ``p = (I + offset) / sum(I + offset)``, the sum over the pixels of each channel.

    Raises:
        InputError: images that are not in [0, 1], or an offset that is not positive.
    """
    _check(images, offset)
    m = (exact(images) + offset).log()
    return m - m.flatten(2).logsumexp(2)[..., None, None]


def position_kde(
    images: Tensor,
    num_points: int = 2000,
    offset: float = 0.1,
    jitter: float = 0.01,
    floor: float = 1e-10,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """Log density of positions in the unit square, a kernel estimate from pixels drawn by intensity; unit mass.

    Pixels are drawn with a probability proportional to the mean over the channels of ``I + offset``, moved by normal
    numbers, and kept in the square; the kernel is normal, Scott's factor times their covariance. All channels get the
    same. Each image draws from a child of the generator: in their order, the images of a set may come in any batches.

    Args:
        images: of any shape.
        num_points: drawn from each image.
        offset: added to the intensities.
        jitter: standard deviation of the movement; the square's side is 1.
        floor: the least density, of the square.
        generator: of the draws; that of the stream 0 if None.

    Raises:
        InputError: images that are not in [0, 1], or numbers out of range.
    """
    _check(images, offset)
    if num_points < 3 or not jitter > 0 or not floor > 0:
        raise InputError(
            f"position_kde: num_points={num_points}, jitter={jitter}, floor={floor}; expected three points or more "
            "and positive numbers"
        )
    images = exact(images)
    height, width = images.shape[2:]
    grid = torch.cartesian_prod(_sides(height), _sides(width))
    out = []
    draws_of_all = generator or rng.generator(0, rng.Stream.EMBEDDING_DENSITY)
    for image, draws in zip(images.cpu(), draws_of_all.spawn(len(images)), strict=True):
        weight = (image.mean(0) + offset).flatten()
        drawn = torch.from_numpy(draws.choice(len(grid), size=num_points, p=(weight / weight.sum()).numpy()))
        moved = grid[drawn] + jitter * torch.from_numpy(draws.standard_normal((num_points, 2)))
        m = _plane_kde(moved.clamp(0, 1).to(images.device), grid.to(images.device)).clamp(min=math.log(floor))
        out.append((m - m.logsumexp(0)).reshape(1, height, width).expand(images.shape[1:]))
    return torch.stack(out)


def _sides(size: int) -> Tensor:
    return torch.linspace(0, 1, size, dtype=torch.float64)


def _plane_kde(points: Tensor, at: Tensor) -> Tensor:
    """Log of the estimate from the points ``[n, 2]`` at ``[q, 2]``, normal, by Scott's factor and the covariance."""
    root = torch.linalg.cholesky(points.T.cov()) * scott(len(points))
    white = torch.linalg.solve_triangular(root, (torch.cat([points, at]) - points.mean(0)).T, upper=False).T
    log_scale = math.log(2 * math.pi) + root.diagonal().log().sum()
    return _log_mean_kernel(white[: len(points)], white[len(points) :]) - log_scale


# --- by name ---------------------------------------------------------------------------------------------------------


def _check(images: Tensor, offset: float = 1.0) -> None:
    if images.ndim != 4 or not ((images >= 0) & (images <= 1)).all():
        raise InputError(f"images of shape {tuple(images.shape)}: expected numbers in [0, 1], [n, C, H, W]")
    if not offset > 0:
        raise InputError(f"offset={offset}: expected a positive number, or black would have no logarithm")


DENSITIES: dict[str, Callable[..., Tensor]] = {
    "value_pair_kde": value_pair_kde,
    "intensity": intensity,
    "position_kde": position_kde,
}


def make(name: str, images: Tensor, **settings: Any) -> Tensor:
    """The log density called ``name`` of images u in [0, 1], ``[n, C, H, W]``, with the settings of its function.

    Raises:
        InputError: an unknown name or setting, or images that it cannot be had of.
    """
    density = lookup.find("density", DENSITIES, name)
    lookup.check_settings(f"density {name!r}", density, settings, ("images",))
    return density(images, **settings)
