"""Measurement noise, and the likelihood that follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from randomwalk.errors import InputError
from randomwalk.operators import Operator
from randomwalk.rng import Draws


class Noise:
    """A law of the measurement given ``A(x)``. A subclass defines ``apply`` and ``log_prob``.

    Attributes:
        name: in YAML.
        std: standard deviation in [-1, 1] pixel units, or one that stands for it where it varies; 0 for no noise.
    """

    name: str
    std: float

    def apply(self, y: Tensor, draws: Draws) -> Tensor:
        """Noisy measurements ``[B, ...]`` of the exact ones, row b of the noise from row b of the ``draws``."""
        raise NotImplementedError

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``log f(y | A(x))`` for each image, ``[B]``.

        Args:
            y: measurements ``[B, ...]``.
            clean: ``A(x)``, of the same shape.
        """
        raise NotImplementedError


class GaussianNoise(Noise):
    """``y + std n`` with ``n ~ Normal(0, I)``, also where a mask has removed the pixel.

    Args:
        std: standard deviation, on the scale of ``pixel_range``.
        pixel_range: black and white of that scale. The attribute ``std`` is on ours, [-1, 1]: 0.2 on (0, 1)
            becomes 0.4.

    Raises:
        InputError: ``std`` is not positive or the range is empty.
    """

    name = "gaussian"

    def __init__(self, std: float, pixel_range: Sequence[float] = (-1, 1)) -> None:
        low, high = pixel_range
        if not low < high:
            raise InputError(f"noise: pixel_range={tuple(pixel_range)}; expected black below white, as in [-1, 1]")
        if not 0 < std < math.inf:
            raise InputError(f"noise: std={std}; expected a positive number")
        self.std = std * 2 / (high - low)

    def apply(self, y: Tensor, draws: Draws) -> Tensor:
        return y + self.std * draws.normal(y.shape[1:]).to(y)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """``-||y - A(x)||^2 / (2 std^2) - (m/2) log(2 pi std^2)``."""
        residual = (y - clean).flatten(1)
        constant = residual.shape[1] / 2 * math.log(2 * math.pi * self.std**2)
        return -residual.square().sum(1) / (2 * self.std**2) - constant


class Likelihood:
    """``f(y | x)`` of the measurement ``y = noise(A(x))``.

    Args:
        operator: A.
        measurement: y, ``[B, *operator.measurement_shape]``, or one ``[1, ...]`` for the whole batch.
        noise: its law.
    """

    def __init__(self, operator: Operator, measurement: Tensor, noise: Noise) -> None:
        self.operator = operator
        self.measurement = measurement
        self.noise = noise

    @property
    def std(self) -> float:
        """Standard deviation of the noise, in [-1, 1] pixel units."""
        return self.noise.std

    def log_prob(self, x: Tensor) -> Tensor:
        """``log f(y | x)`` for each image, ``[B]``."""
        return self.noise.log_prob(self.measurement, self.operator(x))

    def score(self, x: Tensor) -> Tensor:
        """``grad_x log f(y | x)``, for Gaussian noise ``J(x)^T (y - A(x)) / std^2``, where ``J = A`` if A is linear."""
        if self.operator.linear and isinstance(self.noise, GaussianNoise):
            return self.operator.adjoint(self.measurement - self.operator(x)) / self.std**2
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(x).sum(), x)[0]


class GaussianLikelihood(Likelihood):
    """``f(y | x)`` of the measurement ``y = A(x) + e``, ``e ~ Normal(0, std^2 I)``.

    Args:
        operator: A.
        measurement: y, ``[B, *operator.measurement_shape]``, or one ``[1, ...]`` for the whole batch.
        std: of the noise, in [-1, 1] pixel units.
    """

    def __init__(self, operator: Operator, measurement: Tensor, std: float) -> None:
        super().__init__(operator, measurement, GaussianNoise(std))
