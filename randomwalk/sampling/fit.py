"""Does y fit the network, the operator and the noise level? The chi-square test of the residual.

If all three are right and x is a sample of the posterior, then (x, y) has the same distribution as an image and its
measurement. So for n entries of y with Gaussian noise,

    |y - A x|^2 / eta^2  ~  chi-square with n degrees of freedom,

exactly, for any prior: the data-averaged posterior is the prior (Geweke 2004, "Getting it right"; Talts et al. 2018,
arXiv 1804.06788). A larger residual means more noise than stated, another operator, or an image that the network does
not expect; a smaller one means less noise. The posterior mean, or a sample that is closer to it, has smaller residuals,
so the test is for samplers of the posterior alone (`Sampler.samples_posterior`).

The residual is also the slope of the evidence, by Fisher's identity:

    d log p(y) / d log eta = E[|y - A x|^2 | y] / eta^2 - n.

A step of expectation maximisation replaces eta by eta r, with ``r^2 = E[|y - A x|^2 | y] / (eta^2 n)``. It never lowers
log p(y) (Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import chdtr, chdtrc

from randomwalk.config.noise import GaussianNoiseSettings
from randomwalk.sampling.task import Task

LEVEL = 0.001
"""Share of right measurements that the test rejects."""
NAMED = 3
"""Most images in a remark."""


def is_tested(task: Task) -> bool:
    """Whether the test applies: samples of the posterior, and Gaussian noise whose level is stated, not estimated."""
    settings = task.config.measurement
    if settings is None or settings.noise_is_estimated or not isinstance(settings.noise, GaussianNoiseSettings):
        return False
    return task.sampler.samples_posterior


def p_value(residual: float, entries: float) -> float:
    """Two-sided p-value of the chi-square test.

    Args:
        residual: ``|y - A x| / (eta sqrt(n))``.
        entries: n.
    """
    square = residual**2 * entries
    return min(1.0, 2 * min(float(chdtr(entries, square)), float(chdtrc(entries, square))))


def of_samples(p_values: Sequence[float]) -> float:
    """P-value from those of several samples of one measurement, which depend on each other: twice their mean.

    Source: Rueschendorf 1982; Vovk and Wang 2020, "Combining p-values via averaging".
    """
    return p_values[0] if len(p_values) == 1 else min(1.0, 2 * sum(p_values) / len(p_values))


def noise_factor(residuals: Sequence[float]) -> float:
    """Factor r of a step of expectation maximisation, from the residuals of samples: their root mean square."""
    return math.sqrt(sum(one**2 for one in residuals) / len(residuals))


def remark(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the measurements of a run fit, in words; nothing if none is tested.

    Args:
        rows: of metrics.csv, with ``fit`` and ``residual``.
    """
    tested: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("fit") is not None:
            tested.setdefault(row["image"], []).append(row)
    if not tested:
        return ""
    test = f"chi-square test of the residual at {100 * LEVEL:g}%"
    p_values = {image: of_samples([row["fit"] for row in found]) for image, found in tested.items()}
    rejected = sorted((image for image in tested if p_values[image] < LEVEL), key=p_values.__getitem__)
    if not rejected:
        return f"fit: the measurements are as the network, the operator and the noise level let expect ({test})"
    factors = {image: noise_factor([row["residual"] for row in tested[image]]) for image in rejected}
    shown = ", ".join(f"{tested[image][0]['name']} {factors[image]:.2f}" for image in rejected[:NAMED])
    others = ", ..." if len(rejected) > NAMED else ""
    factor = noise_factor(list(factors.values()))
    cause = (
        "more noise than stated, another operator, or images unlike those that the network was trained on"
        if factor > 1
        else "less noise than stated"
    )
    return (
        f"fit: {len(rejected)} of {len(tested)} measurements do not fit ({test}; residual in units of the noise: "
        f"{shown}{others}): {cause}; measurement.noise.std {factor:.2f} times as large would fit better"
    )
