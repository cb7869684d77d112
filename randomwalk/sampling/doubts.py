"""Signs in a restored photograph that the noise level or the blur kernel was wrong.

A noise level that is too small shows in the residual: the sampler takes noise for signal and fits it. A wrong kernel
does not, since every blur can be fitted: it shows in the picture, by values that no picture has, and by ripples.
"""

from __future__ import annotations

from torch import Tensor

from randomwalk.sampling.batch import Batch
from randomwalk.sampling.task import Task

MOST, LEAST = 1.0, 0.6
"""Residuals, in units of the noise given, between which a restoration with that noise lies."""
OUTSIDE, RIPPLES = 0.04, 4.0
"""Share of values outside the range, and total variation in units of that of the photograph, of a wrong kernel."""
SIDE, STEPS = 160, 16
"""Side of the cut-out, and steps of the walk, with which a kernel is tried both ways."""
TURNED = 0.95
"""Total variation with the turned kernel, in units of that with the kernel, below which the turned one looks right."""
SKEW = 0.1
"""Part of a kernel that moves when it is turned, below which turning it changes little."""


def of_batch(task: Task, batch: Batch) -> list[str]:
    """Doubts about the restorations of given blurred photographs, one line each; none for other tasks."""
    return []


def of_orientation(task: Task, y: Tensor) -> list[str]:
    """One line if a cut-out of a photograph looks better with the kernel turned by 180 degrees."""
    return []


def total_variation(x: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels ``[..., H, W]``, along both axes."""
    return float((x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean())
