"""Sets of points in the plane, by name.

Each is a distribution from which any number of independent points can be drawn. All have the same scale: mean 0 and
standard deviation `STD`, both taken over the two coordinates together, so that the shapes are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.errors import InputError

STD = 2.0
"""Standard deviation of every set, over both coordinates together."""

Draw = Callable[[int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class PointSet:
    """Distribution of points.

    Attributes:
        name: in YAML.
        draw: ``draw(n, generator) -> [n, 2]`` float64.
        mixture: the distribution, if it is a Gaussian mixture; its density and score are then known.
    """

    name: str
    draw: Draw
    mixture: GaussianMixture | None = None

    def sample(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Draw ``num`` independent points, ``[num, 2]`` float32."""
        return self.draw(num, generator).astype(np.float32)


def _swiss_roll(n: int, g: np.random.Generator) -> np.ndarray:
    """Spiral ``t (cos t, sin t)`` of the swiss roll, seen along its axis.

    t runs from 1.5 pi to 4.5 pi. The roll has a hole, so that only a quarter of the points lie in the middle third.
    """
    third = g.choice(3, n, p=[3 / 8, 2 / 8, 3 / 8])
    t = np.pi * (1.5 + third + g.random(n))
    return t[:, None] * np.stack([np.cos(t), np.sin(t)], 1)


def _moons(n: int, g: np.random.Generator) -> np.ndarray:
    """Two half circles of radius 1, the lower one at (1, 0.5), with noise of 0.05."""
    phi, lower = np.pi * g.random(n), g.random(n) < 0.5
    upper_points = np.stack([np.cos(phi), np.sin(phi)], 1)
    lower_points = np.stack([1 - np.cos(phi), 0.5 - np.sin(phi)], 1)
    return np.where(lower[:, None], lower_points, upper_points) + 0.05 * g.standard_normal((n, 2))


def _circles(n: int, g: np.random.Generator) -> np.ndarray:
    """Two circles of radius 1 and 0.5, with noise of 0.03."""
    phi, radius = 2 * np.pi * g.random(n), np.where(g.random(n) < 0.5, 0.5, 1.0)
    return radius[:, None] * np.stack([np.cos(phi), np.sin(phi)], 1) + 0.03 * g.standard_normal((n, 2))


def _s_curve(n: int, g: np.random.Generator) -> np.ndarray:
    """An S: ``(sin t, sign(t) (cos t - 1))``, t uniform on [-1.5 pi, 1.5 pi]."""
    t = 3 * np.pi * (g.random(n) - 0.5)
    return np.stack([np.sin(t), np.sign(t) * (np.cos(t) - 1)], 1)


def _checkerboard(n: int, g: np.random.Generator) -> np.ndarray:
    """Uniform on the eight dark squares of a board of 4 x 4."""
    square = g.integers(8, size=n)
    row, column = square // 2, 2 * (square % 2) + (square // 2) % 2
    return np.stack([column, row], 1) + g.random((n, 2)) - 2


def _pinwheel(n: int, g: np.random.Generator) -> np.ndarray:
    """Five blades: Normal(1, 0.3^2) along a radius, 0.05 across, turned by a quarter of e^r (Johnson et al. 2016)."""
    radial, across = 1 + 0.3 * g.standard_normal(n), 0.05 * g.standard_normal(n)
    angle = 2 * np.pi / 5 * g.integers(5, size=n) + 0.25 * np.exp(radial)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * radial - sin * across, sin * radial + cos * across], 1)


def _eight_gaussians() -> GaussianMixture:
    """Eight round Gaussians on a circle."""
    angle = np.arange(8) * np.pi / 4
    means = 2.8 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return GaussianMixture(np.ones(8), means, np.full(8, 0.2**2))


def _mixture() -> GaussianMixture:
    """Four Gaussians of different weights, shapes and directions."""
    angle, long, short = np.array([0.3, 2.2, -0.7, 1.2]), np.array([1.1, 0.9, 0.5, 0.3]), np.array([0.3, 0.2, 0.4, 0.3])
    along = np.stack([np.cos(angle), np.sin(angle)], 1)
    outer = along[:, :, None] * along[:, None]
    covariances = short[:, None, None] ** 2 * np.eye(2) + (long**2 - short**2)[:, None, None] * outer
    means = np.array([[-2.2, 1.0], [1.8, 2.0], [2.0, -2.0], [-1.6, -2.2]])
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    return GaussianMixture(weights, means - weights @ means, covariances)


CURVES: dict[str, Draw] = {
    "swiss_roll": _swiss_roll,
    "moons": _moons,
    "circles": _circles,
    "s_curve": _s_curve,
    "checkerboard": _checkerboard,
    "pinwheel": _pinwheel,
}
MIXTURES: dict[str, Callable[[], GaussianMixture]] = {
    "gaussian": lambda: GaussianMixture(np.ones(1), np.zeros((1, 2)), STD**2),
    "eight_gaussians": _eight_gaussians,
    "mixture": _mixture,
}
SETS = (*CURVES, *MIXTURES)


@cache
def make(name: str) -> PointSet:
    """Make the set called ``name``.

    Raises:
        InputError: an unknown name.
    """
    if name in MIXTURES:
        mixture = MIXTURES[name]()
        return PointSet(name, lambda n, g: mixture.sample(n, g).numpy(), mixture)
    if name not in CURVES:
        raise InputError(f"point set {name!r} is unknown; known are {', '.join(SETS)}")
    raw = CURVES[name]
    many = raw(1_000_000, np.random.Generator(np.random.PCG64(0)))  # mean and spread of the distribution, not of a draw
    mean, std = many.mean(), many.std()
    return PointSet(name, lambda n, g: (raw(n, g) - mean) * (STD / std))


def as_images(points: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Points ``[n, 2]`` as images of one pixel, ``[n, 2, 1, 1]`` float32, as networks take them."""
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))[:, :, None, None].to(device)


def as_points(x: Tensor) -> np.ndarray:
    """Images ``[n, 2, 1, 1]`` as points ``[n, 2]``."""
    found: np.ndarray = x.detach().flatten(1).cpu().numpy()
    return found
