"""Exponential moving average of the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of the parameters of a module. Buffers are not averaged.

        average <- d average + (1 - d) parameter,    d = 2^(-batch / h),    h = min(half_life, ratio * images seen)

    The half-life h is counted in images, so that it does not depend on the batch size. While few images have been
    seen it is a share of their number, so that the average forgets the initial weights (Karras et al. 2022,
    arXiv 2206.00364).

    Args:
        module: whose parameters are averaged.
        half_life: in images.
        warmup_ratio: the ratio above; None for no warm-up.
    """

    def __init__(self, module: nn.Module, half_life: float, warmup_ratio: float | None) -> None:
        self.half_life, self.warmup_ratio = half_life, warmup_ratio
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    def decay(self, batch_size: int, images_seen: int) -> float:
        """d for a step on ``batch_size`` images, after which ``images_seen`` have been seen in all."""
        half_life = self.half_life
        if self.warmup_ratio is not None:
            half_life = min(half_life, self.warmup_ratio * images_seen)
        return 0.5 ** (batch_size / half_life)

    @torch.no_grad()
    def update(self, module: nn.Module, batch_size: int, images_seen: int) -> None:
        """Move the average towards the parameters of ``module`` after a step."""
        parameters = dict(module.named_parameters())
        averages = [self.average[name] for name in parameters]
        values = [p.detach() for p in parameters.values()]
        torch._foreach_lerp_(averages, values, 1 - self.decay(batch_size, images_seen))

    def state_dict_of(self, module: nn.Module) -> dict[str, Tensor]:
        """State dict of ``module`` with the averages in place of its parameters."""
        return {name: self.average.get(name, value) for name, value in module.state_dict().items()}

    @contextlib.contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Replace the parameters of ``module`` by the averages inside the block."""
        raw = {name: p.detach().clone() for name, p in module.named_parameters()}
        module.load_state_dict(self.state_dict_of(module))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in module.named_parameters():
                    p.copy_(raw[name])
