"""Random numbers that belong to an image, not to a batch or a process; the table of all streams.

Every draw comes from a generator named by integers such as ``(seed, image, sample)``. The name alone determines the
numbers, so they are the same at any batch size, on any number of processes, and in a resumed run. They are drawn on the
host, so that they are also the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum, unique
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@unique
class Stream(IntEnum):
    """Uses of random numbers, each with streams of its own: ``generator(seed, use, ...)``.

    The images of a sampling run have the two streams of `measurement_stream` and `sample_stream`, whose second number
    is below all of these. A use keeps its number for ever, since the number fixes its draws.
    """

    # sampling
    TIES = 2**31
    """Ranks of true pixels that equal a sample's, by image."""
    POINTS_TRUTH = 2**31 + 1
    """Exact points that samples are compared with."""
    POINTS_ERROR = 2**31 + 2
    """Noise on the exact points at which a score is compared."""
    POINTS_FLOOR = 2**31 + 3
    """Pairs of exact sets of points, by pair."""
    POINTS_FIELD = 2**31 + 4
    """Noise on the points in the picture of a score."""
    POINTS_PATHS = 2**31 + 5
    """Paths of an SDE from one point."""

    # settings that are tried before a run
    NORM = 2**31 + 10
    """Start of the iteration for an operator's norm."""
    UNSEEN = 2**31 + 11
    """Image on which an operator's spectrum is looked at."""
    REMAINDER = 2**31 + 12
    """Walk along a schedule whose remaining noise is forecast."""
    ADJOINT = 2**31 + 13
    """Image and measurement on which another library's adjoint is tried."""
    PHYSICS = 2**31 + 14
    """Draws of another library's operator when it is made."""

    # training of a denoiser
    WEIGHTS = 2**31 + 20
    """Initial weights."""
    ORDER = 2**31 + 21
    """Order of the images, by epoch."""
    AUGMENTATION = 2**31 + 22
    """Cut, scale and orientation of an image, by position."""
    SPLIT = 2**31 + 23
    """Choice of the validation images."""
    DROPOUT = 2**31 + 24
    """Dropout inside the network, by step and process."""
    OFFSET = 2**31 + 25
    """Start of the low-discrepancy sequence of noise levels."""
    NOISE = 2**31 + 26
    """Noise on the examples, by position; of points, the examples too, by position of the batch."""
    VALIDATION = 2**31 + 27
    """Noise on the validation examples."""
    VALIDATION_SAMPLES = 2**31 + 28
    """Initial noise of the samples of a validation."""
    LABEL_DROPOUT = 2**31 + 29
    """Choice of the examples whose label is dropped, by position."""
    PROBES = 2**31 + 30
    """Probe vectors of score matching, by step."""
    CAMERA = 2**31 + 31
    """Noise of a camera, by position."""
    PHANTOMS = 2**31 + 32
    """Phantoms, by image."""

    # bridge; those of a direction are named by 0 (backward, or the source) or 1 after the use
    BRIDGE_WEIGHTS = 2**31 + 40
    """Initial weights."""
    BRIDGE_SPREAD = 2**31 + 41
    """Points by which the distance between both ends is measured."""
    BRIDGE_PAIRS = 2**31 + 42
    """Simulated pairs, by fit."""
    BRIDGE_BATCH = 2**31 + 43
    """Batches, by fit and step."""
    BRIDGE_CHECK = 2**31 + 44
    """Exact points with which the end of a fit is compared, by fit."""
    BRIDGE_START = 2**31 + 45
    """Starts of paths, by direction."""
    BRIDGE_NOISE = 2**31 + 46
    """Noise of paths, by direction."""
    BRIDGE_EXACT = 2**31 + 47
    """Exact points that ends of paths are compared with, by direction."""
    BRIDGE_PLANS = 2**31 + 48
    """Points between which transport plans are computed, by repeat."""
    BRIDGE_SHOWN = 2**31 + 49
    """Exact points in the figures, by end."""

    # score embedding
    EMBEDDING_WEIGHTS = 2**31 + 60
    """Initial weights."""
    EMBEDDING_BATCH = 2**31 + 61
    """Batches, by step."""
    EMBEDDING_DROPOUT = 2**31 + 62
    """Dropout inside the network, by step."""
    EMBEDDING_SAMPLES = 2**31 + 63
    """Samples, by image and sample."""
    EMBEDDING_DENSITY = 2**31 + 64
    """Densities that are estimated from draws."""
    EMBEDDING_RANDOM_FIELD = 2**31 + 65
    """Random field in place of the computed one."""


def generator(*key: int) -> np.random.Generator:
    """Generator of the stream named by non-negative integers; different names give independent streams.

    NumPy takes missing numbers for zeros, so a name says how long it is, unless it has three numbers as the streams of
    images have.
    """
    mark = () if len(key) == 3 else (len(key),)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key, spawn_key=mark)))


def measurement_stream(seed: int, image: int) -> np.random.Generator:
    """Generator of an image's mask and measurement noise, in this order."""
    return generator(seed, image, 0)


def sample_stream(seed: int, image: int, sample: int) -> np.random.Generator:
    """Generator of the start and the steps of a sample of an image."""
    return generator(seed, image, 1 + sample)


def torch_generator(*key: int) -> torch.Generator:
    """PyTorch's generator for the CPU, seeded from the stream named by integers."""
    return torch.Generator().manual_seed(int(generator(*key).integers(2**31)))


def seed_torch(device: torch.device, *key: int) -> None:
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
        """``[B]`` float64 draws, uniform on [0, 1), on the CPU, since not all devices have float64."""
        return torch.tensor([gen.random() for gen in self.generators], dtype=torch.float64)

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
