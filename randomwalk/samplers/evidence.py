"""Evidence of a measurement, ``log p(y)``: how well a prior, an operator and a noise level fit it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.operators import Measurement
from randomwalk.operators.noise import GaussianNoise
from randomwalk.rng import Draws
from randomwalk.samplers.sampler import Sampler, Sigmas

WIDE = 10.0
"""Variance of the noise at the upper end, in mean squares of the residual of the prior."""
FLAT = 1e3
"""Standard deviation of a noise at which y says nothing, in largest residuals."""


def log_evidence(
    sampler: Sampler,
    denoiser: Denoiser,
    measurement: Measurement,
    sigmas: Sigmas | None = None,
    *,
    num_samples: int = 100,
    nodes: int = 16,
    draws: Draws | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate ``log p(y)``, by integrating over the noise level t from that of y to one at which y says little.

    With ``p_t(y) = E Normal(y; A X, t^2 I)`` and the residual ``r = y - A X`` of the posterior at noise t,

        d log p_t(y) / d log t = E |r|^2 / t^2 - m

    for m entries of y. The integral is a Gauss-Legendre sum of posterior means, from samples of their own at each node.
    At its upper end T, where ``T^2 = 10 e`` and ``e = E |y - A X|^2`` under the prior,

        log p_T(y) = -m log(2 pi T^2) / 2 - e / (2 T^2),    up to Var |r|^2 / (8 T^4)

    which is 1/800 of the relative variance of the squared residual. The estimate is as good as the sampler: a walk with
    momentum is for many measurements. For few, take the weights of `TweedieSMC.particles`, whose mean estimates p(y).

    Source: thermodynamic integration, Gelman and Meng 1998, "Simulating normalizing constants".

    Args:
        sampler: of the posterior, with independent samples.
        measurement: M measurements with Gaussian noise.
        sigmas: see :meth:`Sampler.sample`.
        num_samples: of each measurement, at each noise level.
        nodes: number of noise levels of the sum; two more runs are made at its upper end.
        draws: random numbers of M num_samples rows, for all runs in turn.

    Returns:
        The estimate and its standard error, from the spread of the samples alone, both ``[M]``.

    Raises:
        InputError: the noise is not Gaussian, or the samples depend on each other.
    """
    noise, operator, y = measurement.noise, measurement.operator, measurement.y
    if noise.name != "gaussian" or sampler.coupled_samples or num_samples < 2:
        raise InputError(
            f"log_evidence: noise {noise.name}, {num_samples} samples by {type(sampler).__name__}; expected Gaussian "
            "noise and two or more independent samples"
        )
    entries = y[0].numel()

    def squares(std: float) -> Tensor:
        """``|r|^2`` of samples at this noise level, ``[M, num_samples]``."""
        given = Measurement(operator, GaussianNoise(std), y)
        x = sampler.sample(denoiser, sigmas, given, num_samples=num_samples, draws=draws)
        return given.repeated(num_samples).residual(x).double().flatten(1).square().sum(1).reshape(len(y), -1)

    size = math.sqrt(math.prod(operator.image_shape))
    prior = squares(FLAT * (float(y.flatten(1).norm(dim=1).max()) + operator.norm() * size)).mean(1)
    top = math.sqrt(WIDE * float(prior.max()))
    value = -entries / 2 * math.log(2 * math.pi * top**2) - squares(top).mean(1) / (2 * top**2)
    variance = torch.zeros_like(value)
    if top <= noise.std:
        raise InputError(f"log_evidence: the noise, {noise.std:g}, is too large: y says nothing about the image")
    places, weights = np.polynomial.legendre.leggauss(nodes)
    length = math.log(top / noise.std)
    for place, weight in zip(places.tolist(), (length / 2 * weights).tolist(), strict=True):
        std = noise.std * math.exp(length * (1 + place) / 2)
        found = squares(std) / std**2
        value = value - weight * (found.mean(1) - entries)
        variance = variance + weight**2 * found.var(1) / num_samples
    return value, variance.sqrt()
