"""Scores of networks and of mixtures on points, and their relative errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.studies.points.datasets import as_images
from randomwalk.studies.points.figures import Field
from randomwalk.studies.points.simulation import sde_of
from score_sde.sdes import EDM


def field_of(denoiser: Denoiser, device: torch.device | str = "cpu") -> Field:
    """The score of a denoiser as a function of points ``[n, 2]`` and sigma."""

    def score(x: np.ndarray, sigma: float) -> np.ndarray:
        with torch.inference_mode():
            return denoiser.score(as_images(x, device), sigma).flatten(1).cpu().double().numpy()

    return score


def relative_errors(
    learned: Field, true: Field, truth: np.ndarray, sigmas: Sequence[float], generator: np.random.Generator
) -> dict[float, float]:
    """``sqrt(E ||learned - true||^2 / E ||true||^2)`` at noisy points of the set, by noise level.

    Args:
        learned, true: the scores.
        truth: points of the set ``[n, 2]``.
        sigmas: noise levels.
        generator: of the noise.
    """
    found = {}
    for sigma in sigmas:
        x = truth + sigma * generator.standard_normal(truth.shape)
        exact = true(x, sigma)
        found[float(sigma)] = math.sqrt(float(np.square(learned(x, sigma) - exact).sum() / np.square(exact).sum()))
    return found


def within(denoiser: Denoiser, sigmas: Sequence[float]) -> list[float]:
    """Noise levels in the denoiser's range."""
    return [sigma for sigma in sigmas if denoiser.sigma_min <= sigma <= denoiser.sigma_max]


def titled(denoiser: Denoiser, sigmas: Sequence[float]) -> list[tuple[str, float]]:
    """Titles of noise levels, with the time of the network's SDE if it has one, and the levels."""
    sde = sde_of(denoiser)
    if sde is None or isinstance(sde, EDM):  # whose time is sigma
        return [(f"σ = {sigma:g}", sigma) for sigma in sigmas]
    return [(f"t = {float(sde.time(sigma)):.3g},  σ = {sigma:g}", sigma) for sigma in sigmas]
