"""Validation during training: PSNR on held-out images, and a grid of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from randomwalk import samplers
from randomwalk.config import TrainConfig
from randomwalk.config.training import TrainData
from randomwalk.denoisers.denoiser import Denoiser
from randomwalk.errors import InputError
from randomwalk.rng import ImageDraws, Stream, generator
from randomwalk.samplers import schedules
from randomwalk.training.examples import Split
from randomwalk.training.labels import classes_in_turn, conditioned_on, labels_of

BATCH = 64
GRID = 36
GRID_STEPS = 40


@dataclass
class Validation:
    """Result of a validation.

    Attributes:
        values: by name; values at a noise level are called ``name_at_SIGMA``.
        title: of their curves.
        picture: samples, as `RunFolder.write_image` takes them.
        unit: plural name of the examples.
        logarithmic: whether the curves have a logarithmic axis.
    """

    values: dict[str, float]
    title: str
    picture: Any
    unit: str
    logarithmic: bool = False


def denoising_psnr(denoiser: Denoiser, split: Split, config: TrainConfig) -> dict[float, float]:
    """Mean PSNR in dB of D(X + sigma N, sigma) on the validation images, by sigma.

    The peak is 2, the length of [-1, 1]. Damaged images are left out. The noise of image i is drawn from (seed, i), the
    same at every validation.
    """
    device = next(denoiser.parameters()).device
    data = config.data
    assert isinstance(data, TrainData)
    size = (data.validation_size or data.image_size,) * 2
    sums: dict[float, float] = dict.fromkeys(config.validation_sigmas, 0.0)
    count = 0
    for start in range(0, len(split.validation), BATCH):
        loaded = {}
        for i in split.validation[start : start + BATCH].tolist():
            try:
                loaded[i] = split.source.load(i, data.channels, size, data.fit)
            except InputError:
                split.skip(i)
        if not loaded:
            continue
        indices, x, count = list(loaded), torch.stack(list(loaded.values())).to(device), count + len(loaded)
        noise = ImageDraws([generator(config.seed, Stream.VALIDATION, i) for i in indices], device).normal(x.shape[1:])
        conditional = conditioned_on(denoiser, labels_of(config, split.source, indices))
        for sigma in sums:
            mse = (conditional(x + sigma * noise, sigma).clamp(-1, 1) - x).square().flatten(1).mean(1)
            sums[sigma] += float((10 * torch.log10(4 / mse)).sum())
    return {sigma: total / max(count, 1) for sigma, total in sums.items()}


def sample_grid(denoiser: Denoiser, config: TrainConfig) -> Tensor:
    """Draw samples ``[36, C, H, W]`` by the small-variance DDPM walk, from the same noise every time.

    The classes of a class-conditional network take turns.
    """
    device = next(denoiser.parameters()).device
    size = config.data.image_size
    draws = ImageDraws([generator(config.seed, Stream.VALIDATION_SAMPLES, i) for i in range(GRID)], device)
    high = min(denoiser.sigma_max, 80.0)
    sigmas = schedules.make("karras", GRID_STEPS, sigma_min=max(denoiser.sigma_min, 0.02), sigma_max=high)
    x = high * draws.normal((config.data.channels, size, size))
    conditional = conditioned_on(denoiser, classes_in_turn(config, GRID))
    return samplers.make("ddpm_small").sample(conditional, sigmas, start=x, draws=draws)
