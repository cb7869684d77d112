"""Tasks with photographs of mixed sizes: a tiny PhotoUNet with seeded weights, and seeded smooth colour images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sampling_tools import write_config

from randomwalk.denoisers.checkpoints import build_network, save_denoiser

NETWORK = {"name": "photo_unet", "image_size": 32, "widths": [8, 8], "num_blocks": [1, 1], "code_size": 16}
DENOISER = {"name": "edm", "sigma_min": 0.005, "sigma_max": 12.0}
SAMPLER = {
    "name": "random_walk",
    "step_scale": 0.7,
    "preconditioned": True,
    "schedule": {"name": "geometric", "num_steps": 3, "sigma_min": 0.05, "sigma_max": 10.0},
}
SIZES = ((20, 26), (33, 17), (20, 26), (20, 26), (24, 24))


def save_photo_weights(path: Path, scale: float = 0.2, **network: Any) -> Path:
    """Save a tiny network without zero weights, so that an output depends on pixels far away."""
    described = {**NETWORK, **network}
    state = build_network(described).state_dict()
    draws = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(value.shape, generator=draws) * scale / max(1, value[0].numel()) ** 0.5
        for key, value in state.items()
    }
    save_denoiser(path, {"network": described, "denoiser": DENOISER}, state)
    return path


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Image of smooth colours, uint8 ``[H, W, 3]``."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def write_photo_config(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES, **changes: Any) -> Path:
    """Write a config of `sampling_tools` for photographs of these sizes (a.png, b.png, ...), with fit "keep"."""
    images = folder / "photographs"
    images.mkdir(parents=True)
    for i, size in enumerate(sizes):
        Image.fromarray(photograph(*size, seed=i)).save(images / f"{chr(ord('a') + i)}.png")
    task: dict[str, Any] = {
        "network": {"path": str(save_photo_weights(folder / "photo.safetensors"))},
        "data": {"path": str(images), "fit": "keep"},
        "sampler": SAMPLER,
        "animation_frames": 2,
    }
    return write_config(folder, count=1, **{**task, **changes})
