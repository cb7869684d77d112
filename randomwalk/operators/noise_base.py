"""The interface of measurement noise, and what the kinds of noise share."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.rng import Draws, TorchDraws


class MeasuresOnes(Protocol):
    """Part of an operator that noise may depend on."""

    def of_ones(self) -> Tensor:
        """``A 1``, ``[1, *measurement_shape]``."""


class Noise:
    """Distribution of the measurement given ``A(x)``. Subclasses define ``apply`` and ``log_prob``.

    Attributes:
        name: in YAML.
        std: standard deviation in [-1, 1] pixel units, or a typical one where it varies; 0 for no noise.
        copies: of how many copies of a measurement it is the noise, see `of_copies`.
    """

    name: str
    std: float
    copies: int = 1

    @property
    def stable_std(self) -> float:
        """``1 / stable_std^2`` bounds the curvature of the log-likelihood, so that steps of its square are stable."""
        return self.std

    def apply(self, y: Tensor, draws: Draws | None = None) -> Tensor:
        """Noisy measurements ``[B, ...]`` of the exact ones.

        Args:
            y: exact measurements ``[B, ...]``.
            draws: row b of the noise comes from row b of these; by default from PyTorch's generator.
        """
        raise NotImplementedError

    def brightened(self, gain: float) -> Noise:
        """Noise of ``gain (y + 1) - 1``, the measurement made brighter by a factor."""
        raise NotImplementedError

    def of_copies(self, count: int) -> Noise:
        """Noise of each of ``count`` copies of one measurement, such that their log-likelihoods add up to its own.

        A network for colours sees a grey picture as three equal channels. As three measurements with independent
        noise they would get too much weight.
        """
        raise NotImplementedError

    def of_operator(self, operator: MeasuresOnes) -> Noise:
        """Noise of what an operator measures; the same unless it depends on more than ``A(x)``."""
        return self

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``log f(y | A(x))`` for each image, ``[B]``.

        Args:
            y: measurements ``[B, ...]``.
            clean: ``A(x)``, of the same shape.
        """
        raise NotImplementedError

    def score(self, y: Tensor, clean: Tensor) -> Tensor:
        """Derivative of ``log f(y | A(x))`` by each entry of ``A(x)``, of the shape of y.

        Args:
            y: measurements ``[B, ...]``.
            clean: ``A(x)``, of the same shape.
        """
        with torch.enable_grad():
            clean = clean.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(y, clean).sum(), clean)[0]


def normal(y: Tensor, draws: Draws | None) -> Tensor:
    """Draws of Normal(0, 1) of the shape of y."""
    draws = TorchDraws(len(y), device=y.device, dtype=y.dtype) if draws is None else draws
    return draws.normal(y.shape[1:])


def require_pixels(y: Tensor, name: str, what: str) -> None:
    """Refuse measurements that are far darker than black, and so no pixels.

    Args:
        y: exact measurements.
        name: of the noise.
        what: black gives.

    Raises:
        InputError: an entry is below -1.5; a sharpening operator may overshoot a little, which counts as dark.
    """
    if y.min() < -1.5:
        raise InputError(
            f"noise: {name} is for measurements that are pixels, from -1 ({what}) up, but this operator gives "
            f"{float(y.min()):.2f}; use gaussian noise, or another operator"
        )
