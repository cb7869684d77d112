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


def learning_rate(settings: Optimizer, images: int, batch_size: int, done: float) -> float:
    """Learning rate of a step: linear warm-up over the first examples, then constant or falling to 0 at the end.

    Args:
        settings: peak, warm-up and shape.
        images: examples before this step.
        batch_size: examples in this step.
        done: share of the training that is done before this step.
    """
    done = min(done, 1.0)
    rate = settings.learning_rate * min(1.0, (images + batch_size) / max(settings.warmup_images, 1))
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
        batch_size: examples in a step.

    Attributes:
        steps: taken so far.
        images: examples that they were taken with.
        rate: learning rate of the last step.
    """

    def __init__(
        self, network: nn.Module, parameters: Iterable[nn.Parameter], settings: Optimizer, ema: EMASettings | None,
        batch_size: int,
    ) -> None:  # fmt: skip
        self.network, self.parameters, self.settings = network, list(parameters), settings
        self.optimizer = make_optimizer(settings, self.parameters)
        self.ema = None if ema is None else EMA(network, ema.half_life_images, ema.warmup_ratio)
        self.batch_size = batch_size
        self.steps, self.images, self.rate = 0, 0, 0.0

    def step(self, losses: Iterable[Tensor], done: float) -> tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            losses: scalars whose sum is the loss. The gradient of each is taken before the next one is asked for.
            done: see `learning_rate`.

        Returns:
            The loss, and the norm of its gradient before it is clipped.
        """
        self.rate = learning_rate(self.settings, self.images, self.batch_size, done)
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
        self.images += self.batch_size
        if self.ema is not None:
            self.ema.update(self.network, self.batch_size, self.images)
        return total, norm

    def averaged_state(self) -> dict[str, Tensor]:
        """State dict of the network with averaged parameters, or with the current ones if there is no average."""
        return self.network.state_dict() if self.ema is None else self.ema.state_dict_of(self.network)

    def state(self) -> dict[str, Any]:
        """State of the optimizer and of the average, and how far they are."""
        ema = None if self.ema is None else self.ema.average
        return {"optimizer": self.optimizer.state_dict(), "ema": ema, "step": self.steps, "images": self.images}

    def load_state(self, state: dict[str, Any], steps: int, images: int) -> None:
        """Continue from a `state` after so many steps and examples, with the settings of this one."""
        self.optimizer.load_state_dict(state["optimizer"])
        set_moments(self.optimizer, self.settings)
        for name, value in (state["ema"] or {}).items():
            assert self.ema is not None
            self.ema.average[name].copy_(value)
        self.steps, self.images = steps, images


def set_moments(optimizer: torch.optim.Adam | MuonAndAdam, settings: Optimizer) -> None:
    """Put settings in the place of those that came with a saved state."""
    values = {"betas": tuple(settings.betas), "weight_decay": settings.weight_decay, "momentum": settings.momentum}
    for group in optimizer.param_groups:
        group.update({key: value for key, value in values.items() if key in group})
