"""Adam with its learning rate, as the section ``optimizer`` of a training says."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from randomwalk.config import Optimizer


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam; fused, since the networks for points are so small that its calls count."""
    return torch.optim.Adam(
        parameters, lr=settings.learning_rate, betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay, fused=True,
    )  # fmt: skip


def learning_rate(settings: Optimizer, step: int, total_steps: int, batch_size: int) -> float:
    """Of a step: linear warm-up over the first examples, then constant or a half cosine to 0."""
    rate = settings.learning_rate * min(1.0, (step + 1) * batch_size / max(settings.warmup_images, 1))
    if settings.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return rate
