"""How a network is told the noise level: by the time of an SDE, by its logarithm, or by its place in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from score_sde.sdes import SDE


class Time(Protocol):
    """The law between the noise level in variance-exploding coordinates and what the network sees."""

    @property
    def sigma_min(self) -> float:
        """Lowest noise level."""

    @property
    def sigma_max(self) -> float:
        """Highest noise level."""

    def label(self, sigma: Tensor) -> Tensor:
        """What the network sees at the noise level sigma, float64."""

    def levels(self, u: Tensor) -> Tensor:
        """Noise levels at even times: the quantile function of sigma in training, u uniform on [0, 1]."""


@dataclass(frozen=True)
class ContinuousTime:
    """The network sees ``scale * t / T``, t the time of an SDE at which the noise level is sigma.

    Args:
        sde: whose time it is.
        start: the lowest time, as a share of T: what sampling and training leave out near the data.
        scale: 999, so that codes made for 1000 discrete levels fit.
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
        """``scale * t / T`` at which the noise level is sigma."""
        return self.scale / self.sde.T * self.sde.time(sigma)

    def levels(self, u: Tensor) -> Tensor:
        """sigma at ``t / T = start + u (1 - start)``."""
        return self.sde.sigma(self.sde.T * (self.start + u.double() * (1 - self.start)))


@dataclass(frozen=True)
class LogSigma(ContinuousTime):
    """The same noise levels, but the network sees ``ln(sigma) / 4``, as in EDM (Karras et al. 2022, arXiv 2206.00364).

    In the time of the VP SDE all low levels are next to 0: with betas of 0.1 and 9.9, sigma from 0.005 to 0.02, over
    which an epsilon network's gain falls to a quarter, is 0.3 to 3.4 of 999.
    """

    def label(self, sigma: Tensor) -> Tensor:
        """``ln(sigma) / 4``."""
        return sigma.log() / 4


class DiscreteTime(nn.Module):
    """The network sees the index in a table of noise levels; between two of them, a fraction found by interpolation.

    Index 0 is the lowest level, of every SDE. (Score-SDE's discrete VE networks count from the highest one down: label
    ``N - 1 - i`` there is ``i`` here.)

    Args:
        table: the noise levels in ascending order, float64 ``[N]``.
    """

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        if table.ndim != 1 or len(table) < 2 or not (table.diff() > 0).all():
            raise ValueError("a table of noise levels has at least two of them, in ascending order")
        self.register_buffer("table", table.double(), persistent=False)

    @property
    def sigma_min(self) -> float:
        """First level of the table."""
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        """Last level of the table."""
        return float(self.table[-1])

    def label(self, sigma: Tensor) -> Tensor:
        """Fractional index whose linearly interpolated level is sigma; the nearest end outside the table."""
        sigma = sigma.double().contiguous()
        upper = torch.searchsorted(self.table, sigma).clamp(1, len(self.table) - 1)
        low, high = self.table[upper - 1], self.table[upper]
        return (upper - 1) + ((sigma - low) / (high - low)).clamp(0, 1)

    def levels(self, u: Tensor) -> Tensor:
        """The level at a uniform integer index."""
        return self.table[(u * len(self.table)).long().clamp(max=len(self.table) - 1)]
