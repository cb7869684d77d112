"""Training of denoisers on points: batches of fresh points, and the distance of samples to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from randomwalk import samplers, training
from randomwalk.config import TrainConfig
from randomwalk.config.training import PointData
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.rng import Stream, TorchDraws, generator, torch_generator
from randomwalk.samplers import schedules
from randomwalk.studies.points import datasets, figures, metrics
from randomwalk.studies.points.datasets import as_images, as_points
from randomwalk.training.examples import GOLDEN
from randomwalk.training.foreseen import warnings_of
from randomwalk.training.validation import Validation

NUM_VALIDATION = 2000
NUM_STEPS = 20


def run(config: TrainConfig, resume: str | None = None, dry_run: bool = False) -> int:
    """Train a denoiser of points; see `randomwalk.training.run`."""
    return training.run(config, resume, dry_run, PointTrainingSet)


class PointExamples:
    """Parts of the batches for this process, from a given position on.

    A batch of fresh points and their noise is a function of (seed, position of its first point). Every process draws
    the whole batch, which costs less than a generator for every point, and takes its share.

    Args:
        config: of the training.
        points: the set.
        rank, size: this process takes the ``rank``-th of ``size`` equal parts of every batch.
        first: position of the first point of all processes.
        micro_batch: examples in one part.
    """

    def __init__(
        self, config: TrainConfig, points: datasets.PointSet, rank: int, size: int, first: int, micro_batch: int
    ) -> None:
        self.config, self.points, self.first, self.micro_batch = config, points, first, micro_batch
        share = config.batch_size // size
        self.share = slice(rank * share, (rank + 1) * share)
        self.offset = float(generator(config.seed, Stream.OFFSET).random())
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next part: X ``[b, 2, 1, 1]``, u ``[b]``, N ``[b, 2, 1, 1]``."""
        if not self._parts:
            batch = [tensor[self.share].split(self.micro_batch) for tensor in self.batch(self.first)]
            self._parts, self.first = list(zip(*batch, strict=True))[::-1], self.first + self.config.batch_size
        return self._parts.pop()

    def batch(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the batch from a position on; the values of u are a low-discrepancy sequence, as for images."""
        size, draws = self.config.batch_size, generator(self.config.seed, Stream.NOISE, first)
        x = as_images(self.points.sample(size, draws))
        noise = torch.from_numpy(draws.standard_normal((size, 2), dtype=np.float32))[:, :, None, None]
        u = (self.offset + np.arange(first, first + size) * GOLDEN) % 1.0
        return x, torch.from_numpy(u.astype(np.float32)), noise


class PointTrainingSet:
    """Unlimited points drawn from a 2-D distribution."""

    unit = "points"

    def __init__(self, config: TrainConfig, bar: bool = True) -> None:
        assert isinstance(config.data, PointData)
        self.config, self.points = config, datasets.make(config.data.set)

    @property
    def description(self) -> str:
        """Name of the set, in words."""
        return f"points of the set {self.points.name}, new ones at every step"

    @property
    def classes(self) -> list[str]:
        """Points have no classes."""
        return []

    def facts(self) -> dict[str, Any]:
        """Points are drawn anew, as the config says."""
        return {}

    def check(self) -> list[str]:
        """Points have no problems."""
        return []

    def warnings(self) -> list[str]:
        """Find settings that are likely to spoil the training, one line each."""
        return warnings_of(self.config)

    def examples(self, rank: int, size: int, first: int, micro_batch: int) -> PointExamples:
        """Examples of a process from a position on."""
        return PointExamples(self.config, self.points, rank, size, first, micro_batch)

    def validate(self, denoiser: Denoiser) -> Validation:
        """Measure the Chamfer distance of samples, and the squared distance of denoised points, to fresh points."""
        device, draws = next(denoiser.parameters()).device, generator(self.config.seed, Stream.VALIDATION)
        truth = self.points.sample(NUM_VALIDATION, draws)
        x = as_images(truth).to(device)
        noise = torch.from_numpy(draws.standard_normal((NUM_VALIDATION, 2), dtype=np.float32)).to(device).view_as(x)
        samples = as_points(self._sample(denoiser, device))
        values = {"chamfer": metrics.chamfer(samples, truth).value}
        for sigma in self.config.validation_sigmas:
            error = denoiser(x + sigma * noise, sigma) - x
            values[f"denoising_at_{sigma:g}"] = float(error.square().flatten(1).sum(1).mean())
        picture = figures.samples(samples, truth)
        return Validation(values, "squared distance to fresh points", picture, self.unit, logarithmic=True)

    def _sample(self, denoiser: Denoiser, device: torch.device) -> Tensor:
        """Draw samples from the same noise every time."""
        draws = TorchDraws(NUM_VALIDATION, torch_generator(self.config.seed, Stream.VALIDATION_SAMPLES))
        high = min(denoiser.sigma_max, 80.0)
        sigmas = schedules.make("karras", NUM_STEPS, sigma_min=max(denoiser.sigma_min, 0.02), sigma_max=high)
        x = (high * draws.normal((2, 1, 1))).to(device)
        return samplers.make("heun").sample(denoiser, sigmas, start=x)
