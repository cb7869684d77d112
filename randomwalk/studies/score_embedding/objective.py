"""Times and loss of a training with embedded scores."""

from __future__ import annotations

import torch
from torch import Tensor

from score_sde.sdes import SDE, broadcast


def stratified_times(level: Tensor, uniform: Tensor, num_levels: int, eps: float, law: str = "full") -> Tensor:
    """A time in the part of [eps, 1] that belongs to each level.

        full        t = eps + (1 - eps) (i + U) / N
        published   t = eps + i (1 - dt / 2 - eps) / N + (U - eps) dt / 2,    dt = 1 / N

    The published times come from the lower half of each part and never exceed 1 - dt, about, though sampling starts at
    t = 1: there the network extrapolates.

    Args:
        level: i, ``[B]``.
        uniform: U, ``[B]``, uniform on [0, 1).
        num_levels: N.
        eps: the first time.
        law: full or published.
    """
    if law == "published":
        step = 1 / num_levels
        return eps + level * (1 - step / 2 - eps) / num_levels + (uniform - eps) * step / 2
    return eps + (1 - eps) * (level + uniform) / num_levels


def score_matching_loss(score: Tensor, noise: Tensor, times: Tensor, sde: SDE) -> Tensor:
    """Denoising score matching, ``||s std(t) + z||^2 / (2 g(t)^2)``, summed over pixels, ``[B]``.

    The paper calls it a sliced Wasserstein loss; there is neither a slice nor a Wasserstein distance in it. The network
    that has learnt one image knows z, and its loss is 0.

    Args:
        score: s, the network's output for ``u^n + std(t) z``, ``[B, C, H, W]``.
        noise: z.
        times: t, ``[B]``.
        sde: gives std and g.
    """
    error = broadcast(sde.std(times), score) * score + noise
    return error.square().flatten(1).sum(1) / (2 * sde.diffusion(times).to(score) ** 2)


def draw_levels(size: int, num_levels: int, uniform: Tensor) -> Tensor:
    """Places of a batch in as many rounds over all levels as it takes: ``size`` of them, drawn without replacement, in
    their order.

    Args:
        size: of the batch.
        num_levels: N.
        uniform: one draw for each of ``ceil(size / N) N`` places; the smallest are taken.

    Returns:
        Places ``[size]``; the level is the place modulo N.
    """
    return torch.argsort(uniform)[:size].sort().values
