"""Correctors: steps of Langevin dynamics at one noise level.

    step = correct(score, z, noise, level, below, snr)        chooses the step size tau, and then
    z    = z + tau score + sqrt(2 tau) noise

``score`` is the score of z at ``level``. Correctors use only the coefficients of the level and of the one below, so
they work for every SDE. The factor ``(a / a')^2`` of the step size is 1 for VE and DDPM's alpha for VP, as in the
reference implementation, and extends it to the other SDEs.

The stationary distribution of steps of a fixed size is not exactly that of the level: for Normal(0, v), its variance is
``v / (1 - tau / (2 v))``. With ``tau = 2 (snr s)^2`` and v of at least s^2, the variance is too large by a factor of at
most ``1 / (1 - snr^2)``, or 2.6% for 0.16.

Source: Song et al. 2021, arXiv 2011.13456, appendix G, algorithms 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from score_sde.predictors import Step
from score_sde.sdes import Level, broadcast

NORMS = ("sample", "batch")


def langevin(
    score: Tensor, z: Tensor, noise: Tensor, level: Level, below: Level, snr: float = 0.16, norms: str = "sample"
) -> Step:
    """Step size from the norms of noise and score, ``tau = 2 (a / a')^2 (snr |noise| / |score|)^2``.

    With the norms of each sample, the step size depends on the draw and on the position. In d dimensions, the chain
    then converges to ``p^(d / (d + 2)) |score|^2`` instead of the density p, even for small steps: the variance of a
    Gaussian becomes ``(1 + 2 / d)^2`` times too large. This is little for images (0.5% for 28 x 28 pixels), but a
    factor of four in the plane, where `annealed_langevin` is the right choice. Means over a large batch avoid this.

    Args:
        noise: the same standard normal draws as in `Step.draw`.
        norms: "sample" takes the norms of each sample; "batch" their means over the batch, as in the reference, so that
            a sample depends on the others.
    """
    size, slope = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if norms == "batch":
        size, slope = size.mean(), slope.mean()
    return _step(score, z, 2 * (level.a / below.a).to(size) ** 2 * (snr * size / slope) ** 2)


def annealed_langevin(
    score: Tensor, z: Tensor, noise: Tensor, level: Level, below: Level, snr: float = 0.16, norms: str = "sample"
) -> Step:
    """Step size from the level alone, ``tau = 2 (a / a')^2 (snr s)^2``; ``noise`` and ``norms`` are ignored."""
    return _step(score, z, 2 * (level.a / below.a) ** 2 * (snr * level.s) ** 2)


def _step(score: Tensor, z: Tensor, tau: Tensor) -> Step:
    return Step(z + broadcast(tau, z) * score, (2 * tau).sqrt())


Corrector = Callable[[Tensor, Tensor, Tensor, Level, Level, float, str], Step]

CORRECTORS: dict[str, Corrector] = {"langevin": langevin, "annealed_langevin": annealed_langevin}
