"""Random numbers that belong to an image, not to a batch or a process.

Every draw comes from a generator named by integers such as ``(seed, image)``. The name alone determines the numbers, so
they are the same at any batch size, on any number of processes, and in a resumed run. They are drawn on the host, so
that they are also the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> np.random.Generator:
    """Generator of the stream named by non-negative integers; different names give independent streams."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def seed_dropout(device: torch.device, *key: int) -> None:
    """Seed PyTorch's own generators from the stream named by integers, for layers that draw from them.

    ``torch.manual_seed`` would take a millisecond on machines without a GPU.
    """
    seed = int(generator(*key).integers(2**31))
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Draws(Protocol):
    """Random numbers for a batch of B rows."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``[B, *shape]`` draws of Normal(0, 1)."""

    def uniform(self) -> Tensor:
        """``[B]`` draws, uniform on [0, 1)."""

    def noise(self, k: int, x: Tensor) -> Tensor:
        """Noise of step ``k``, shaped like the state ``x``: the ``noise`` argument of samplers."""


class ImageDraws:
    """Draws for a batch, with row ``b`` of every tensor from ``generators[b]``.

    Args:
        generators: one per image of the batch.
        device: device of the tensors.
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

    def uniform(self) -> Tensor:
        """``[B]`` float64 draws, uniform on [0, 1)."""
        return torch.tensor([gen.random() for gen in self.generators], dtype=torch.float64, device=self.device)

    def noise(self, k: int, x: Tensor) -> Tensor:
        """Noise of step ``k``, shaped like the state ``x``: the ``noise`` argument of samplers."""
        return self.normal(x.shape[1:]).to(x.dtype)


class TorchDraws:
    """Draws for a batch from one generator: fast, for large batches whose rows need not be reproduced one by one.

    Args:
        rows: number of rows B.
        generator: generator on the tensors' device; PyTorch's default if None.
        device, dtype: device and type of the tensors.
    """

    def __init__(
        self,
        rows: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.generator = rows, generator
        self.device, self.dtype = torch.device(device), dtype

    def normal(self, shape: Sequence[int]) -> Tensor:
        """``[B, *shape]`` draws of Normal(0, 1)."""
        return torch.randn((self.rows, *shape), generator=self.generator, device=self.device, dtype=self.dtype)

    def uniform(self) -> Tensor:
        """``[B]`` draws, uniform on [0, 1)."""
        return torch.rand(self.rows, generator=self.generator, device=self.device, dtype=self.dtype)

    def noise(self, k: int, x: Tensor) -> Tensor:
        """Noise of step ``k``, shaped like the state ``x``: the ``noise`` argument of samplers."""
        return self.normal(x.shape[1:]).to(x)


class StepNoise:
    """Draws for a sampler that takes one for each step, written as a function ``noise(k, x)`` of step and state."""

    def __init__(self, noise: Callable[[int, Tensor], Tensor]) -> None:
        self._noise = noise

    def normal(self, shape: Sequence[int]) -> Tensor:
        raise NotImplementedError("StepNoise has nothing but the noise of each step")

    def uniform(self) -> Tensor:
        raise NotImplementedError("StepNoise has nothing but the noise of each step")

    def noise(self, k: int, x: Tensor) -> Tensor:
        """The draw of step k, like the state ``x``."""
        return self._noise(k, x)
