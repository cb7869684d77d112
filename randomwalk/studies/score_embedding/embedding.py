"""Images moved along a field, level by level: the embedding itself.

    u^0 = u,    u^n = u^(n-1) - g(t_n)^2 F_n dt / 2,    dt = 1 / N

is Euler's method for the probability flow with the field F_n in the place of the score (Na, Gao and Wan 2024, arXiv
2404.06661, section 3.2). F_n has a value for each pixel: of the two components of the gradient of the log density the
paper takes the sum. The field of the first level moves nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from randomwalk.rng import Stream, generator


def field_of(score: Tensor, component: str) -> Tensor:
    """The field that is embedded, ``[N, n, C, 2, H, W] -> [N, n, C, H, W]``.

    Args:
        score: gradient of the log density, component 0 along H and 1 along W.
        component: sum, rows (0) or columns (1).
    """
    return score.sum(-3) if component == "sum" else score[..., {"rows": 0, "columns": 1}[component], :, :]


def random_like(field: Tensor, seed: int) -> Tensor:
    """A random field with the norm of ``field [N, n, C, H, W]`` at every level, in each channel of each image.

    It has one direction for all levels, since the directions of the computed fields hardly change from level to level:
    independent ones would cancel, and move the images less.
    """
    draws = generator(seed, Stream.EMBEDDING_RANDOM_FIELD).standard_normal(tuple(field.shape[1:]))
    direction = torch.from_numpy(draws).to(field)
    direction = direction / direction.flatten(-2).norm(dim=-1)[..., None, None]
    return field.flatten(-2).norm(dim=-1)[..., None, None] * direction


def displacements(field: Tensor, g: Tensor) -> Tensor:
    """Cumulative displacement at each level, the sum of ``- g_n^2 F_n / (2 N)`` up to it, ``[N, ...]``.

    Args:
        field: F, ``[N, ...]``.
        g: diffusion coefficients at the times of the levels, ``[N]``.
    """
    steps = -0.5 / len(field) * g.to(field).reshape(-1, *[1] * (field.ndim - 1)) ** 2 * field
    steps[0] = 0
    return steps.cumsum(0)
