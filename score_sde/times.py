"""Units in which a network takes the noise level: the time of an SDE, a logarithm, or an index into a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from score_sde.devices import WITHOUT_FLOAT64, exact
from score_sde.sdes import SDE


class Time(Protocol):
    """Map between the noise level in variance-exploding coordinates and the label that the network takes."""

    @property
    def sigma_min(self) -> float:
        """Lowest noise level."""

    @property
    def sigma_max(self) -> float:
        """Highest noise level."""

    def label(self, sigma: Tensor) -> Tensor:
        """Label of the noise level sigma, float64."""

    def levels(self, u: Tensor) -> Tensor:
        """Noise levels at uniform times: the quantile function of sigma in training, for u uniform on [0, 1]."""


@dataclass(frozen=True)
class ContinuousTime:
    """The label is ``scale * t / T``, with t the time of an SDE at which the noise level is sigma.

    Args:
        sde: SDE that defines the time.
        start: lowest time of sampling and training, as a fraction of T.
        scale: largest label; 999 suits embeddings made for 1000 discrete levels.
    """

    sde: SDE
    start: float = 1e-5
    scale: float = 999.0

    @property
    def sigma_min(self) -> float:
        """Noise level at the lowest time."""
        return float(self.sde.sigma(self.start * self.sde.T))

    @property
    def sigma_max(self) -> float:
        """Noise level at T."""
        return float(self.sde.sigma(self.sde.T))

    def label(self, sigma: Tensor) -> Tensor:
        """``scale * t / T``, with t the time at which the noise level is sigma."""
        return self.scale / self.sde.T * self.sde.time(sigma)

    def levels(self, u: Tensor) -> Tensor:
        """Noise level sigma at ``t / T = start + u (1 - start)``."""
        return self.sde.sigma(self.sde.T * (self.start + exact(u) * (1 - self.start)))


@dataclass(frozen=True)
class LogSigma(ContinuousTime):
    """The same noise levels with the label ``ln(sigma) / 4``, as in EDM (Karras et al. 2022, arXiv 2206.00364).

    In the time of the VP SDE, all low levels are close to 0: with betas of 0.1 and 9.9, sigma from 0.005 to 0.02, over
    which the gain of an epsilon network falls to a quarter, maps to 0.3 to 3.4 of 999.
    """

    def label(self, sigma: Tensor) -> Tensor:
        """Label ``ln(sigma) / 4``."""
        return sigma.log() / 4


@dataclass(frozen=True)
class StraightTime:
    """Time t of the straight path ``(1 - t) X + t N``, on which ``sigma = t / (1 - t)``; the label is ``scale * t``.

    Args:
        start, end: range of t.
        scale: factor of the label.
        shift: of the times that are even in u: ``t = shift u / (1 + (shift - 1) u)``.

    Raises:
        ValueError: the range is not inside 0 to 1, or the shift is not positive.
    """

    start: float = 0.001
    end: float = 0.999
    scale: float = 999.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.start < self.end < 1:
            raise ValueError(f"times from {self.start} to {self.end}: expected 0 < t_min < t_max < 1")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift={self.shift}: expected a positive number")

    @property
    def sigma_min(self) -> float:
        """Noise level at the start."""
        return self.start / (1 - self.start)

    @property
    def sigma_max(self) -> float:
        """Noise level at the end."""
        return self.end / (1 - self.end)

    def label(self, sigma: Tensor) -> Tensor:
        """``scale * t``."""
        return self.scale * sigma / (1 + sigma)

    def levels(self, u: Tensor) -> Tensor:
        """Noise levels at times that are even in u but for the shift, from the start to the end.

        The shift multiplies sigma: ``t / (1 - t) = shift u / (1 - u)``.
        """
        low, high = (t / (self.shift * (1 - t) + t) for t in (self.start, self.end))
        even = low + exact(u) * (high - low)
        return self.shift * even / (1 - even)


class DiscreteTime(nn.Module):
    """The label is the index in a table of noise levels, interpolated linearly between two of them.

    Index 0 is the lowest level for every SDE. (Score-SDE's discrete VE networks count from the highest one down: label
    ``N - 1 - i`` there is ``i`` here.)

    Args:
        table: noise levels in ascending order, float64 ``[N]``.
        scale: factor of the label.

    Raises:
        ValueError: the table is not ascending, or has fewer than two levels.
    """

    table: Tensor

    def __init__(self, table: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        if table.ndim != 1 or len(table) < 2 or not (table.diff() > 0).all():
            raise ValueError("a table of noise levels has at least two of them, in ascending order")
        self.register_buffer("table", table.double(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiscreteTime:
        """Move the table as the network moves, but not to a device without float64."""
        here = fn(self.table.new_zeros((), dtype=torch.float32)).device
        return self if here.type in WITHOUT_FLOAT64 else super()._apply(fn, recurse)

    @property
    def sigma_min(self) -> float:
        """Lowest level of the table."""
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        """Highest level of the table."""
        return float(self.table[-1])

    def label(self, sigma: Tensor) -> Tensor:
        """Fractional index whose linearly interpolated level is sigma; the nearest end outside the table."""
        return self.scale * self.index(sigma)

    def index(self, sigma: Tensor) -> Tensor:
        """The label without its factor."""
        sigma = exact(sigma).contiguous()
        upper = torch.searchsorted(self.table, sigma).clamp(1, len(self.table) - 1)
        low, high = self.table[upper - 1], self.table[upper]
        return (upper - 1) + ((sigma - low) / (high - low)).clamp(0, 1)

    def levels(self, u: Tensor) -> Tensor:
        """Level at a uniform integer index."""
        return self.table[(u * len(self.table)).long().clamp(max=len(self.table) - 1)]
