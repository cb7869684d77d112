"""Tasks in which the pictures are the measurements, and pictures for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from any_size_tools import SAMPLER, photograph, save_photo_weights
from sampling_tools import write_config

from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.images import pictures
from randomwalk.images.pictures import Picture
from randomwalk.operators.noise import Noise
from randomwalk.sampling.loading import load_task
from randomwalk.sampling.task import Task

DENOISING = {"operator": {"name": "denoising"}, "noise": {"std": 25, "pixel_range": [0, 255]}, "given": True}
BESIDE = {**DENOISING, "operator": {"name": "inpainting", "mask": "beside"}}
AUTO = {"operator": {"name": "denoising"}, "noise": {"std": "auto"}, "given": True}


def save_picture(path: Path, pixels: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """Save pixels, uint8 or uint16 ``[H, W, C]``, as a picture, and return them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Picture(pixels, alpha)
    path.write_bytes(pictures.encode(picture.tensor(pixels.shape[2]), picture))
    return pixels


def noisy_photograph(height: int, width: int, of_255: float, seed: int = 0) -> np.ndarray:
    """Photograph with Gaussian noise of standard deviation ``of_255``, uint8 ``[H, W, 3]``."""
    noise = np.random.default_rng(seed).normal(0, of_255, (height, width, 3))
    return (photograph(height, width, seed) * 0.5 + 64 + noise).round().clip(0, 255).astype(np.uint8)


def config_for(folder: Path, path: Path, measurement: dict[str, Any], **changes: Any) -> SampleConfig:
    """Config of a task on the pictures at ``path``."""
    task: dict[str, Any] = {
        "network": {"path": str(save_photo_weights(folder / "photo.safetensors"))},
        "data": {"path": str(path)},
        "measurement": measurement,
        "sampler": SAMPLER,
        "animation_frames": 2,
    }
    return load_sample_config(write_config(folder, count=1, **{**task, **changes}))


def task_for(folder: Path, path: Path, measurement: dict[str, Any], **changes: Any) -> Task:
    """Task on the pictures at ``path``, on the CPU."""
    return load_task(config_for(folder, path, measurement, **changes), torch.device("cpu"))


def told(task: Task, monkeypatch: pytest.MonkeyPatch, image: int = 0) -> tuple[Noise, torch.Tensor]:
    """Noise and measurement that the sampler receives for an image."""
    seen: list[Any] = []

    def sample(self: Any, denoiser: Any, sigmas: Any, measurement: Any, **rest: Any) -> torch.Tensor:
        seen.extend([measurement.noise, measurement.y])
        return torch.zeros(1, *measurement.operator.image_shape)

    monkeypatch.setattr(type(task.sampler), "sample", sample)
    [units] = [units for units in task.batches() if units[0].image == image]
    task.sample(units, torch.stack([task.load_measurable(unit.image) for unit in units]))
    return seen[0], seen[1]
