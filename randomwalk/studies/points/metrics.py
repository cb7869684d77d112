"""Distances between two sets of points, taken in small clouds: Chamfer and earth mover's.

Neither is 0 between two exact sets, since a cloud of 100 points is not the whole distribution. The distance between two
exact sets is the floor, with which every distance is to be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from randomwalk.errors import InputError
from randomwalk.lookup import optional_library
from randomwalk.rng import Stream, generator
from randomwalk.studies.points.datasets import PointSet

CLOUD = 100
"""Points in a cloud."""


@dataclass(frozen=True)
class Distance:
    """Mean distance over clouds, and its standard error (nan for a single cloud)."""

    value: float
    error: float


def clouds(points: np.ndarray) -> np.ndarray:
    """Split points ``[n, 2]``, in their order, into clouds ``[n // 100, 100, 2]``; the rest is left out.

    Raises:
        InputError: there are fewer than 100.
    """
    count = len(points) // CLOUD
    if not count:
        raise InputError(f"distances are measured between clouds of {CLOUD} points; found only {len(points)}")
    return points[: count * CLOUD].reshape(count, CLOUD, 2).astype(np.float64)


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances ``[k, 100, 100]`` between the points of each pair of clouds."""
    found: np.ndarray = np.square(a[:, :, None] - b[:, None]).sum(3)
    return found


def _mean(values: np.ndarray) -> Distance:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Distance(float(values.mean()), error)


def chamfer(a: np.ndarray, b: np.ndarray) -> Distance:
    """Chamfer distance: squared distance to the nearest point of the other cloud, averaged, in both directions:

        mean_i min_j ||a_i - b_j||^2 + mean_j min_i ||a_i - b_j||^2

    for each pair of clouds of 100 points, averaged over the clouds (the definition of the tutorial HelloScore, KAIST).

    Args:
        a, b: points ``[n, 2]``, equally many.
    """
    squared = _squared(clouds(a), clouds(b))
    return _mean(squared.min(2).mean(1) + squared.min(1).mean(1))


def emd(a: np.ndarray, b: np.ndarray) -> Distance:
    """Earth mover's distance, ``min over permutations of mean_i ||a_i - b_p(i)||``, averaged over clouds of 100.

    Args:
        a, b: points ``[n, 2]``, equally many.

    Raises:
        InputError: the package POT is not installed.
    """
    ot = optional_library("ot", "bridge", "the earth mover's distance")
    costs = np.sqrt(_squared(clouds(a), clouds(b)))
    return _mean(np.array([float(ot.emd2([], [], cost)) for cost in costs]))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Distance]] = {"chamfer": chamfer, "emd": emd}


@cache
def floor(metric: str, points: PointSet, num: int, repeats: int, seed: int = 0) -> Distance:
    """Distance between two exact sets of ``num`` points, averaged over ``repeats`` pairs of them."""
    pairs = [generator(seed, Stream.POINTS_FLOOR, i) for i in range(repeats)]
    found = [METRICS[metric](points.sample(num, g), points.sample(num, g)) for g in pairs]
    error = math.sqrt(sum(distance.error**2 for distance in found)) / repeats
    return Distance(sum(distance.value for distance in found) / repeats, error)
