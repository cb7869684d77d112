"""Weighted particles of several measurements at once.

A row of ``[M, S]`` holds the S particles of one measurement. States are ``[M * S, ...]``, the particles of one
measurement in turn. Nothing here mixes the rows of different measurements. Weights are in float64, and on the CPU if
the device of the states has no float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from randomwalk.errors import RunError
from score_sde.devices import exact


def normalized(log_weights: Tensor) -> Tensor:
    """Weights that sum to 1 over the particles of each measurement, ``[M, S]`` float64.

    Args:
        log_weights: ``[M, S]``, up to a constant for each measurement; ``-inf`` is a weight of 0.

    Raises:
        RunError: one of them is NaN or ``+inf``, or all the particles of a measurement have weight 0.
    """
    weights = exact(log_weights).softmax(1)
    if not weights.isfinite().all():
        raise RunError(
            "the weights of the particles of a measurement are not finite, or all are 0: "
            "take more noise levels, or check the network and the measurement"
        )
    return weights


def log_mean(log_weights: Tensor) -> Tensor:
    """``log((1/S) sum_i w_i)`` of each measurement, ``[M]`` float64."""
    return exact(log_weights).logsumexp(1) - math.log(log_weights.shape[1])


def effective_sample_size(weights: Tensor) -> Tensor:
    """``1 / sum_i w_i^2``, ``[M]``: S for equal weights, 1 if one particle has all the weight.

    Args:
        weights: ``[M, S]`` with rows that sum to 1.
    """
    return 1 / weights.square().sum(1)


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """Indices of the particles that are kept by systematic resampling, ``[M, S]``, in increasing order.

    Particle i is kept once for each of the S points ``(j + u) / S`` in its share of [0, 1). For u uniform on [0, 1)
    that is ``S w_i`` times on average, and never off by more than one.

    Source: Kitagawa 1996, "Monte Carlo filter and smoother"; Douc, Cappe and Moulines 2005, arXiv cs/0507025.

    Args:
        weights: ``[M, S]`` with rows that sum to 1.
        u: ``[M]``, one draw from [0, 1) for each measurement.
    """
    ends = exact(weights).cumsum(1)
    ends = ends / ends[:, -1:]  # rounding: the last end is 1
    size = weights.shape[1]
    points = (torch.arange(size, device=ends.device) + u.to(ends)[:, None]) / size
    below_one = 1 - torch.finfo(torch.float64).eps / 2
    return torch.searchsorted(ends, points.clamp(max=below_one), right=True)


def resampled(log_weights: Tensor, u: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Systematic resampling of the measurements whose effective sample size is below ``threshold * S``.

    Args:
        log_weights: ``[M, S]``.
        u: ``[M]``, one draw from [0, 1) for each measurement.
        threshold: 0 for never, 1 for always (unless the weights are all equal).

    Returns:
        Rows of the particles that are kept, ``[M * S]``, and their log weights ``[M, S]`` float64. Where they were
        resampled the new weights are all the mean of the old ones, so that estimates of normalizing constants, which
        are means of weights, stay unbiased.
    """
    weights = normalized(log_weights)
    num, size = weights.shape
    low = (effective_sample_size(weights) < threshold * size * (1 - 1e-12))[:, None]
    kept = torch.where(low, systematic(weights, u), torch.arange(size, device=weights.device))
    rows = (kept + size * torch.arange(num, device=weights.device)[:, None]).flatten()
    return rows, torch.where(low, log_mean(log_weights)[:, None], exact(log_weights))
