"""Adam or Muon with its learning rate, as the section ``optimizer`` of a training says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from randomwalk.config.training import Optimizer
from randomwalk.training.muon import MuonAndAdam


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam | MuonAndAdam:
    """The optimizer that is named; Adam is fused, since the networks for points are so small that its calls count."""
    adam: dict[str, Any] = {
        "lr": settings.learning_rate, "betas": (settings.betas[0], settings.betas[1]),
        "weight_decay": settings.weight_decay, "fused": True,
    }  # fmt: skip
    if settings.name == "muon":
        return MuonAndAdam(parameters, momentum=settings.momentum, **adam)
    return torch.optim.Adam(parameters, **adam)


def learning_rate(
    settings: Optimizer, step: int, total_steps: int, batch_size: int, done: float | None = None
) -> float:
    """Of a step: linear warm-up over the first examples, then constant, or falling to 0 at the end.

    Args:
        settings: peak, warm-up and shape.
        step, total_steps: from 0; and their number.
        batch_size: examples of a step.
        done: share of the training that lies behind, where it is not ``step / total_steps``.
    """
    done = step / total_steps if done is None else min(done, 1.0)
    rate = settings.learning_rate * min(1.0, (step + 1) * batch_size / max(settings.warmup_images, 1))
    if settings.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    elif settings.decay == "linear":
        rate *= min(1.0, (1 - done) / settings.cooldown)
    return rate
