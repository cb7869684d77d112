"""Predictors: steps of the reverse of an SDE, from one noise level to the one below it.

    step = predict(sde, score, z, level, below)        mean and standard deviation of z' given z
    z    = step.draw(noise)

``score`` is the score of z at ``level``, the gradient of the log density of z_t. With ``flow``, the step follows the
probability flow and adds no noise. Every predictor works for every SDE, and equals the one of the reference
implementation where that exists.

Source: Song et al. 2021, arXiv 2011.13456, appendices D.1, E and F; for the flow of ``ancestral``, DDIM, Song et al.
2021, arXiv 2010.02502.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from score_sde.sdes import SDE, Level, broadcast, transition


class Step(NamedTuple):
    """Normal(mean, std^2 I), with ``std`` 0-dim or one for each sample ``[B]``."""

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """Draw z', given standard normal ``noise``."""
        return self.mean + broadcast(self.std, self.mean) * noise


def euler_maruyama(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """Euler's step in time, ``dt = t - t'``:

        mean = z - (f(z, t) - g^2 score) dt,    std = g sqrt(dt)

    and for the flow ``mean = z - (f(z, t) - g^2 score / 2) dt``. It uses only the times of the levels. For VE, where
    t' = 0 is the level sigma_min and not the data, the last step leaves noise of sigma_min.
    """
    dt = level.t - below.t
    added = sde.diffusion(level.t) ** 2 * dt
    mean = z - broadcast(dt, z) * sde.drift(z, level.t) + broadcast(_share(flow) * added, z) * score
    return Step(mean, added.sqrt() * (not flow))


def reverse_diffusion(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """Step of the forward chain, z = z' + f + G n (``SDE.discretize``), reversed like the SDE:

        mean = z - f + G^2 score,    std = G

    and for the flow ``mean = z - f + G^2 score / 2``. For sub-VP, whose chain is Euler's, it equals `euler_maruyama`.
    """
    f, G = sde.discretize(z, level, below)
    return Step(z - f + broadcast(_share(flow) * G**2, z) * score, G * (not flow))


def ancestral(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """DDPM's step: z' given z and x0, with x0 from Tweedie's formula.

    The exact chain is ``z = r z' + sqrt(V) n`` with ``r = a / a'`` and ``V = s^2 - r^2 s'^2``, so

        mean = (z + V score) / r
        var  = V s'^2 / s^2

    which is the variance of ``z' | z, x0``, exact if the data are a single point (DDPM's beta-tilde). For SDEs that
    preserve the variance (VP, OU), ``var = 1 - r^2`` (DDPM's beta), as in the reference, exact for data from
    Normal(0, I). The flow is DDIM, ``mean = a' x0 + s' eps`` with x0 and eps from the score: the same family of steps
    without variance.
    """
    ratio, added = transition(level, below)
    removed = level.s * (level.s - ratio * below.s) if flow else added
    mean = (z + broadcast(removed, z) * score) / broadcast(ratio, z)
    variance = added if sde.preserves_variance else added * (below.s / level.s) ** 2
    return Step(mean, variance.sqrt() * (not flow))


def _share(flow: bool) -> float:
    """Factor of g^2 score in the drift: 1 for the reverse SDE, 1/2 for the flow."""
    return 0.5 if flow else 1.0


Predictor = Callable[[SDE, Tensor, Tensor, Level, Level, bool], Step]

PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
}


def unchanged(z: Tensor, level: Level, below: Level) -> Step:
    """Omit the predictor: take x = z / a to the level below unchanged, ``z' = (a' / a) z``.

    The reference keeps z instead, which is the same for VE but scales x for VP and sub-VP.
    """
    return Step(z * broadcast(below.a / level.a, z), torch.zeros_like(level.s))
