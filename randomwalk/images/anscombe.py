"""Anscombe's transform: counts of photons, and counts with read noise, to values with Gaussian noise of variance 1."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from score_sde.devices import exact

TABLE = 64.0
"""Largest mean count, in photons, whose transform is tabulated; above it the inverse is ``z^2 / 4 - 1/8 - r^2``."""
ENTRIES = 600
"""Entries of the table, evenly spaced in the root of the count."""


def stabilised(counts: Tensor, read_std: float = 0.0) -> Tensor:
    """``z = 2 sqrt(k + 3/8 + r^2)``, whose variance is close to 1 from a few photons on, whatever their mean.

    Source: Anscombe 1948; with read noise Starck, Murtagh and Bijaoui 1998.

    Args:
        counts: k, counts of photons, with read noise added.
        read_std: r, standard deviation of the read noise in photons.
    """
    return 2 * (counts + (3 / 8 + read_std**2)).clamp(min=0).sqrt()


def unbiased_inverse(z: Tensor, read_std: float = 0.0) -> Tensor:
    """The mean count whose transform has the mean z, at least 0: what a denoised z stands for.

    The algebraic inverse of the transform would be too dark, since the mean of a root is not the root of the mean.

    Source: Makitalo and Foi 2011, "Optimal inversion of the Anscombe transformation in low-count Poisson image
    denoising"; 2013, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian noise".

    Args:
        z: means of transformed counts.
        read_std: r, as in `stabilised`.
    """
    means, transformed = _table(read_std)
    low = np.interp(z.detach().cpu().double().numpy(), transformed, means)
    high = exact(z) ** 2 / 4 - (1 / 8 + read_std**2)
    return torch.where(exact(z) > transformed[-1], high, torch.as_tensor(low).to(high)).to(z)


@cache
def _table(read_std: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts from 0 to `TABLE`, and the mean transform of each."""
    from scipy.stats import poisson

    means = np.linspace(0, math.sqrt(TABLE), ENTRIES) ** 2
    counts = np.arange(int(TABLE + 12 * math.sqrt(TABLE)))
    n = np.linspace(-7, 7, 401) if read_std > 0 else np.zeros(1)
    density = np.exp(-(n**2) / 2)
    roots = 2 * np.sqrt(np.maximum(counts[:, None] + read_std * n + 3 / 8 + read_std**2, 0))
    return means, poisson.pmf(counts, means[:, None]) @ (roots @ (density / density.sum()))
