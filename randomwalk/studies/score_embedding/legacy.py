"""The scheme as the preprint prints it and as its public code computes it, error for error: for reproduction only.

It does not discretise the Fokker-Planck equation, nor is it close to one that does. With ``D = g^2 dt / (2 h^2)``,
``A = g^2 dt / (4 h)``, h the spacing, pixels numbered row by row and s the lagged score (one number for each pixel):

* **Signs.** The entries for the next pixel and the pixel below are ``+D - A s``, those for the previous pixel and the
  one above ``-D - A s``, on a diagonal of ``1 + 4 D``; right would be ``-D - A s`` and ``-D + A s``. What should
  diffuse moves the field to one side, and what should move it scales a sum. Rows sum to ``1 + 4 D`` at s = 0 instead
  of 1, so that constants, and the scores with them, die out: to 0.034 of what they were over ten levels of the base 2.
* **Place of the coefficients.** s is that of the neighbour (the column of the matrix), not that of the row's pixel.
* **Ends of rows.** The last pixel of a row is coupled to the first of the next row.
* **Score.** ``(m[i+1] - m[i-1]) / (2 h)`` along the numbering of the pixels: the difference of columns alone, across
  the ends of rows, with 0 before the first and after the last pixel of the image.
* **Steps.** ``dt = 1 / N``, whereas the N levels are ``(1 - eps) / (N - 1)`` apart.
* **Precision.** Scores and log densities are kept in float32, so that the residual does not fall below about 1e-8.
* **Border.** Outside the image m = 0, a density of 1.

Each iteration sweeps over all levels with the scores of the iteration before (at first 1 everywhere), one sparse LU
factorisation for each level and channel; an image whose residual has reached the tolerance is not computed again.

Two things differ from the code: there is a limit to the number of iterations, and the offsets of the pixels above and
below are ±W where the code has ±H, which is the same for its square images.

Source: Na, Gao and Wan 2024, arXiv 2404.06661, and its public code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from randomwalk.errors import InputError, RunError
from randomwalk.studies.score_embedding.solution import Solution
from score_sde.devices import with_float64
from score_sde.sdes import SDE


def solve(
    m0: Tensor,
    times: Tensor,
    sde: SDE,
    *,
    spacing: float = 1.0,
    tolerance: float = 2e-8,
    max_iterations: int = 100,
) -> Solution:
    """The published fields; on the processor.

    Args:
        m0: log densities, ``[n, C, H, W]``.
        times: ``[N]``, N evenly spaced numbers from eps to 1: where g is evaluated. The step of time is 1 / N.
        sde: drift-free; its ``diffusion`` is g.
        spacing: h, the distance of two pixels.
        tolerance: of an image's relative change in an iteration.
        max_iterations: the code has no limit.

    Returns:
        The fields as float64. The one score of each pixel is component 1, along the columns; component 0 is 0.

    Raises:
        InputError: arguments that do not fit.
        RunError: no convergence.
    """
    if m0.ndim != 4 or not bool(m0.isfinite().all()):
        raise InputError(f"m0 {list(m0.shape)}: expected finite log densities [images, channels, H, W]")
    times = times.to("cpu", torch.float64)
    if bool(sde.rate(times).any()):
        raise InputError(f"{type(sde).__name__}: the published scheme is for SDEs without drift")
    (num_images, channels, height, width), levels = m0.shape, len(times)
    shape = (num_images, channels, levels, height * width)
    g = sde.diffusion(times).numpy().astype(np.float32)
    m = np.zeros(shape, dtype=np.float32)
    m[:, :, 0] = m0.detach().cpu().numpy().reshape(num_images, channels, -1)
    before, score = np.ones_like(m), np.ones_like(m)
    running = list(range(num_images))
    latest = [0.0] * num_images
    residuals: list[list[float]] = []
    while running:
        if len(residuals) == max_iterations:
            raise RunError(
                f"the published scheme has not converged after {max_iterations} iterations, relative change "
                f"{max(latest):.1e}, tolerance {tolerance:.1e}; in float32 it does not fall below about 1e-8"
            )
        for image in running:
            for channel in range(channels):
                _sweep(m[image, channel], score[image, channel], g, width, spacing)
            score[image] = flat_difference(m[image], spacing)
            latest[image] = float(np.linalg.norm(m[image] - before[image]) / np.linalg.norm(before[image]))
            before[image] = m[image]
        residuals.append([latest[image] if image in running else 0.0 for image in range(num_images)])
        running = [image for image in running if not latest[image] <= tolerance]
    fields = [torch.from_numpy(one).double().movedim(2, 0).unflatten(-1, (height, width)) for one in (m, score)]
    both = torch.stack([torch.zeros_like(fields[1]), fields[1]], dim=-3)
    times, log_density, both = (one.to(with_float64(m0.device)) for one in (times, fields[0], both))
    return Solution(times, log_density, both, len(residuals), residuals)


def _sweep(m: np.ndarray, score: np.ndarray, g: np.ndarray, width: int, spacing: float) -> None:
    """All levels of one channel, ``m [N, H W]`` in place, with the scores ``[N, H W]`` of the iteration before."""
    for n in range(1, len(m)):
        system = matrix(score[n], float(g[n]), 1 / len(m), width, spacing)
        m[n] = splu(system).solve(m[n - 1].astype(np.float64))


def matrix(score: np.ndarray, g: float, dt: float, width: int, spacing: float = 1.0) -> Any:
    """The published matrix of one level, from the lagged scores of the pixels, row by row."""
    size = len(score)
    diffusion, advection = 0.5 * g**2 * dt / spacing**2, 0.25 * g**2 * dt / spacing
    plus, minus = diffusion - advection * score, -diffusion - advection * score
    diagonals = [np.full(size, 1 + 4 * diffusion), plus[1:], minus[:-1], plus[width:], minus[:-width]]
    return sparse.diags_array(diagonals, offsets=[0, 1, -1, width, -width], dtype=np.float64, format="csc")


def flat_difference(m: np.ndarray, spacing: float = 1.0) -> np.ndarray:
    """The published score of ``m [..., H W]``: the central difference along the numbering of the pixels."""
    wide = np.pad(m, [(0, 0)] * (m.ndim - 1) + [(1, 1)])
    return (wide[..., 2:] - wide[..., :-2]) / (2 * spacing)
