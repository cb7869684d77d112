"""Correctors: steps of Langevin dynamics that keep to a level.

    step = correct(score, z, noise, level, below, snr)        a length tau of the step, chosen; and then
    z    = z + tau score + sqrt(2 tau) noise

``score`` is that of z at ``level``. They need nothing of an SDE but the coefficients of the level and of the one below,
so they go with any. The factor ``(a / a')^2`` of their lengths is 1 for VE and DDPM's alpha for VP, as in the reference
implementation, and defined for the other SDEs, where that has none.

The stationary law of steps of a fixed length is not quite that of the level: of Normal(0, v) the variance is
``v / (1 - tau / (2 v))``. With ``tau = 2 (snr s)^2`` and v not below s^2 that is at most ``1 / (1 - snr^2)``, 2.6% too
much for 0.16.

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
    """A length from the norms of noise and score, ``tau = 2 (a / a')^2 (snr |noise| / |score|)^2``.

    With norms of each sample the length depends on the draw and on the place. For d numbers in a sample that leads to
    ``p^(d / (d + 2)) |score|^2`` in place of the density p, even if steps are short: the variance of a Gaussian is
    ``(1 + 2 / d)^2`` times too large. For images that is little (0.5% for 28 x 28 pixels), in the plane it is four
    times: there take `annealed_langevin`. Means over a large batch do not have this error.

    Args:
        noise: the unit draws that go into `Step.draw`, too.
        norms: "sample", each its own; or "batch", their means over the batch as in the reference, where a sample then
            depends on those beside it.
    """
    size, slope = noise.flatten(1).norm(dim=1), score.flatten(1).norm(dim=1)
    if norms == "batch":
        size, slope = size.mean(), slope.mean()
    return _step(score, z, 2 * (level.a / below.a).to(size) ** 2 * (snr * size / slope) ** 2)


def annealed_langevin(
    score: Tensor, z: Tensor, noise: Tensor, level: Level, below: Level, snr: float = 0.16, norms: str = "sample"
) -> Step:
    """A length from the level alone, ``tau = 2 (a / a')^2 (snr s)^2``. ``noise`` and ``norms`` are not looked at."""
    return _step(score, z, 2 * (level.a / below.a) ** 2 * (snr * level.s) ** 2)


def _step(score: Tensor, z: Tensor, tau: Tensor) -> Step:
    return Step(z + broadcast(tau, z) * score, (2 * tau).sqrt())


Corrector = Callable[[Tensor, Tensor, Tensor, Level, Level, float, str], Step]

CORRECTORS: dict[str, Corrector] = {"langevin": langevin, "annealed_langevin": annealed_langevin}
