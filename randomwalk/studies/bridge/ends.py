"""End distributions of a bridge, from their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from randomwalk.denoisers.mixture import GaussianMixture
from randomwalk.studies.bridge.gaussian import GaussianBridge, schroedinger_bridge
from randomwalk.studies.points import datasets
from randomwalk.studies.points.datasets import PointSet


def make_end(settings: Mapping[str, Any]) -> PointSet:
    """Make a named set, or a Gaussian from ``{"name": "normal", "mean": [2], "covariance": [2, 2]}``.

    Raises:
        InputError: an unknown name.
    """
    if settings["name"] != "normal":
        return datasets.make(settings["name"])
    mean, covariance = (np.array(settings[key], dtype=np.float64)[None] for key in ("mean", "covariance"))
    mixture = GaussianMixture(np.ones(1), mean, covariance)
    return PointSet("normal", lambda n, g: mixture.sample(n, g).numpy(), mixture)


def moments(end: PointSet) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean ``[2]`` and covariance ``[2, 2]`` of a Gaussian; None for any other distribution."""
    mixture = end.mixture
    if mixture is None or len(mixture.means) != 1:
        return None
    values, basis = mixture.eigenvalues[0].double().numpy(), mixture.basis
    if basis is None:
        return mixture.means[0].double().numpy(), np.diag(np.broadcast_to(values, (2,)))
    vectors = basis[0].double().numpy()
    return mixture.means[0].double().numpy(), (vectors * values) @ vectors.T


def exact_bridge(source: PointSet, target: PointSet, sigma: float) -> GaussianBridge | None:
    """Schroedinger bridge in closed form, if both ends are Gaussian."""
    first, last = moments(source), moments(target)
    return None if first is None or last is None else schroedinger_bridge(*first, *last, sigma)
