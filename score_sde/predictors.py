"""Predictors: steps of the reverse of an SDE, from a level to the one below it.

    step = predict(sde, score, z, level, below)        mean and standard deviation of z' given z
    z    = step.draw(noise)

``score`` is that of z at ``level``, the gradient of the log density of z_t. With ``flow`` the step is one of the
probability flow and draws nothing. Every predictor works for every SDE; where the reference implementation has one, it
is the same step.

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
    """Normal(mean, std^2 I); ``std`` 0-dim or ``[B]``, one for each sample."""

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """A draw of z' from unit draws."""
        return self.mean + broadcast(self.std, self.mean) * noise


def euler_maruyama(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """Euler's step in time, ``dt = t - t'``:

        mean = z - (f(z, t) - g^2 score) dt,    std = g sqrt(dt)

    and of the flow ``mean = z - (f(z, t) - g^2 score / 2) dt``. Only the times of the two levels count. For VE, where
    t' = 0 is the level sigma_min and not the data, the last step leaves the noise of sigma_min.
    """
    dt = level.t - below.t
    added = sde.diffusion(level.t) ** 2 * dt
    mean = z - broadcast(dt, z) * sde.drift(z, level.t) + broadcast(_share(flow) * added, z) * score
    return Step(mean, added.sqrt() * (not flow))


def reverse_diffusion(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """The forward chain's own step z = z' + f + G n (``SDE.discretize``), reversed as the SDE is:

        mean = z - f + G^2 score,    std = G

    and of the flow ``mean = z - f + G^2 score / 2``. For sub-VP, whose chain is Euler's, it is `euler_maruyama`.
    """
    f, G = sde.discretize(z, level, below)
    return Step(z - f + broadcast(_share(flow) * G**2, z) * score, G * (not flow))


def ancestral(sde: SDE, score: Tensor, z: Tensor, level: Level, below: Level, flow: bool = False) -> Step:
    """DDPM's step: z' given z and x0, the latter put in by Tweedie's formula.

    The exact chain is ``z = r z' + sqrt(V) n`` with ``r = a / a'`` and ``V = s^2 - r^2 s'^2``, so

        mean = (z + V score) / r
        var  = V s'^2 / s^2

    which is the variance of ``z' | z, x0``: right if the data are one point (DDPM's beta-tilde). The SDEs that preserve
    the variance (VP, OU) take ``var = 1 - r^2`` (DDPM's beta), as the reference does: right if they are Normal(0, I).
    The flow is DDIM, ``mean = a' x0 + s' eps`` with x0 and eps those that the score tells: the same family of steps,
    with no variance.
    """
    ratio, added = transition(level, below)
    removed = level.s * (level.s - ratio * below.s) if flow else added
    mean = (z + broadcast(removed, z) * score) / broadcast(ratio, z)
    variance = added if sde.preserves_variance else added * (below.s / level.s) ** 2
    return Step(mean, variance.sqrt() * (not flow))


def _share(flow: bool) -> float:
    """Of g^2 score in the drift: 1 of the reverse SDE, 1/2 of the flow."""
    return 0.5 if flow else 1.0


Predictor = Callable[[SDE, Tensor, Tensor, Level, Level, bool], Step]

PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
}


def unchanged(z: Tensor, level: Level, below: Level) -> Step:
    """No predictor: x = z / a is taken to the level below as it is, ``z' = (a' / a) z``.

    For VE that is the reference's, which leaves z alone. It does so for VP and sub-VP too, where that scales x.
    """
    return Step(z * broadcast(below.a / level.a, z), torch.zeros_like(level.s))
