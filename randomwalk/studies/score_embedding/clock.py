"""Clock of the stages of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

COUNTED = ("density", "solve", "training")
"""Stages that count as training time; making samples on the way does not."""


class Clock:
    """Seconds by stage.

    Args:
        device: a stage ends when its work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys((*COUNTED, "profiling", "sampling"), 0.0)

    @property
    def total(self) -> float:
        """Seconds of the counted stages."""
        return sum(self.seconds[stage] for stage in COUNTED)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.seconds[name] += time.perf_counter() - started
