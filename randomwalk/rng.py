"""Random numbers that belong to an image, not to a batch or a process.

Every draw comes from a generator named by integers such as ``(seed, image)``. The name alone fixes
the numbers, so they are the same at any batch size, on any number of processes, and after a resumed run.
Numbers are drawn on the host, so that they are also the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> np.random.Generator:
    """Generator of the stream named by non-negative integers; distinct names give independent streams."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


class ImageDraws:
    """Standard normal draws for a batch, row ``b`` of every tensor taken from ``generators[b]``.

    Args:
        generators: one per image of the batch.
        device: where the tensors are delivered.
    """

    def __init__(self, generators: Sequence[np.random.Generator], device: torch.device | str = "cpu") -> None:
        self.generators = list(generators)
        self.device = torch.device(device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``[B, *shape]`` float32 draws of Normal(0, 1)."""
        out = np.empty((len(self.generators), *shape), dtype=np.float32)
        for row, gen in zip(out, self.generators, strict=True):
            gen.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(out).to(self.device)

    def noise(self, k: int, x: Tensor) -> Tensor:
        """The walk's ``noise`` argument: one draw per step, shaped like the state ``x``."""
        return self.normal(x.shape[1:]).to(x.dtype)
