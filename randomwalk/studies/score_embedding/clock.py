"""How long each stage of a run took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

COUNTED = ("density", "solve", "training")
"""The stages that count: what has to be done to have a trained network. Samples made to look at it do not."""


class Clock:
    """Seconds by stage.

    Args:
        device: whose work a stage waits for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys((*COUNTED, "profiling", "sampling"), 0.0)

    @property
    def total(self) -> float:
        """Of the stages that count."""
        return sum(self.seconds[stage] for stage in COUNTED)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.seconds[name] += time.perf_counter() - started
