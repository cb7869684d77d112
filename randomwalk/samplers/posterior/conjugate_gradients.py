"""Conjugate gradients on a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from randomwalk.operators.solve import dot, iterates


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Approximate solutions u of ``V u = b``, from u = 0: exact after as many iterations as b has entries.

    Every row of the batch has its own step sizes. A row stops when its residual is down to rounding, or when
    ``v^T V v`` is not positive in its direction v, against the assumption on V. The products continue for the other
    rows: their number is always ``iterations``.

    Source: Hestenes and Stiefel 1952.

    Args:
        product: ``v -> V v`` on each row, V symmetric and positive definite.
        b: ``[B, ...]``.
        iterations: products with V.
    """
    goal = (10 * torch.finfo(b.dtype).eps) ** 2 * dot(b, b)
    return next(islice(iterates(product, b, goal, restart=False), iterations, None))[0]
