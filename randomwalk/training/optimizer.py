"""Gradient descent of a network: Adam or Muon, the learning rate by step, and the averaged parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from randomwalk.config.training import EMASettings, Optimizer
from randomwalk.training.ema import EMA
from randomwalk.training.muon import MuonAndAdam


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam | MuonAndAdam:
    """Make the optimizer that the settings name; Adam is fused, since small networks spend their time in its calls."""
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
    """Learning rate of a step: linear warm-up over the first examples, then constant or falling to 0 at the end.

    Args:
        settings: peak, warm-up and shape.
        step: counted from 0.
        total_steps: of the training.
        batch_size: examples in a step.
        done: share of the training that is done, where that is not ``step / total_steps``.
    """
    done = step / total_steps if done is None else min(done, 1.0)
    rate = settings.learning_rate * min(1.0, (step + 1) * batch_size / max(settings.warmup_images, 1))
    if settings.decay == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    elif settings.decay == "linear":
        rate *= min(1.0, (1 - done) / settings.cooldown)
    return rate


class Descent:
    """Gradient descent of a network, with averages of its parameters.

    Args:
        network: whose parameters are averaged.
        parameters: those that are optimized.
        settings: of the optimizer.
        ema: of the average; None for no average.
        total_steps: of the training.
        batch_size: examples in a step.

    Attributes:
        steps: taken so far.
        rate: learning rate of the last step.
    """

    def __init__(
        self, network: nn.Module, parameters: Iterable[nn.Parameter], settings: Optimizer, ema: EMASettings | None,
        total_steps: int, batch_size: int,
    ) -> None:  # fmt: skip
        self.network, self.parameters, self.settings = network, list(parameters), settings
        self.optimizer = make_optimizer(settings, self.parameters)
        self.ema = None if ema is None else EMA(network, ema.half_life_images, ema.warmup_ratio)
        self.total_steps, self.batch_size = total_steps, batch_size
        self.steps, self.rate = 0, 0.0

    def step(self, losses: Iterable[Tensor], done: float | None = None) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            losses: scalars whose sum is the loss. The gradient of each is taken before the next one is asked for.
            done: see `learning_rate`.

        Returns:
            The loss, and the norm of its gradient before it is clipped.
        """
        self.rate = learning_rate(self.settings, self.steps, self.total_steps, self.batch_size, done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for loss in losses:
            loss.backward()
            total = total.to(loss.device) + loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip or math.inf)
        self.optimizer.step()
        self.steps += 1
        if self.ema is not None:
            self.ema.update(self.network, self.batch_size, self.steps * self.batch_size)
        return total, norm

    def averaged_state(self) -> dict[str, Tensor]:
        """State dict of the network with averaged parameters, or with the current ones if there is no average."""
        return self.network.state_dict() if self.ema is None else self.ema.state_dict_of(self.network)

    def state(self) -> dict[str, Any]:
        """State of the optimizer and of the average."""
        return {"optimizer": self.optimizer.state_dict(), "ema": None if self.ema is None else self.ema.average}

    def load_state(self, state: dict[str, Any], steps: int) -> None:
        """Continue from a `state` after ``steps`` steps."""
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in (state["ema"] or {}).items():
            assert self.ema is not None
            self.ema.average[name].copy_(value)
        self.steps = steps
