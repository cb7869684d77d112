"""Sampling tasks that run in a second: a network with seeded weights, and images of noise."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from page_tools import lasting
from PIL import Image

from randomwalk.config import SampleConfig
from randomwalk.config.files import load_sample_config
from randomwalk.denoisers.checkpoints import build_network, save_denoiser
from randomwalk.sampling.foresight import notes_of
from randomwalk.sampling.task import Task

ROOT = Path(__file__).resolve().parent.parent
SIZE = 12
NETWORK = {
    "name": "unet",
    "image_size": SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 32,
    "channel_mult": [1],
    "num_res_blocks": 1,
    "attention_resolutions": [],
}


def save_weights(path: Path, seed: int = 0, scale: float = 0.03) -> Path:
    """Save a tiny VP network with seeded weights, none of them zero."""
    draws = torch.Generator().manual_seed(seed)
    zeros = build_network(NETWORK).state_dict()
    state = {key: torch.randn(value.shape, generator=draws) * scale for key, value in zeros.items()}
    save_denoiser(path, {"network": NETWORK, "denoiser": {"name": "vp"}}, state)
    return path


def save_images(folder: Path, count: int) -> Path:
    """Save seeded grey images of different sizes, in reverse order of their names."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for i in reversed(range(count)):
        pixels = draws.integers(0, 256, (SIZE + i, SIZE + 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture {chr(ord('a') + i)}.png")
    return folder


def write_config(folder: Path, count: int = 5, **changes: Any) -> Path:
    """Write weights, ``count`` images and a config; ``changes`` replace top-level keys (None removes one)."""
    folder.mkdir(parents=True, exist_ok=True)
    task: dict[str, Any] = {
        "seed": 3,
        "output": str(folder / "run"),
        "network": {"path": str(save_weights(folder / "weights.safetensors"))},
        "data": {"path": str(save_images(folder / "images", count))},
        "measurement": {"operator": {"name": "inpainting", "missing": 0.5}, "noise": {"std": 0.2}},
        "sampler": {
            "name": "random_walk",
            "step_scale": 0.7,
            "preconditioned": True,
            "schedule": {"name": "geometric", "num_steps": 6, "sigma_max": 20.0},
        },
        "batch_size": 2,
        "device": "cpu",
        "animation_frames": 3,
    }
    task.update(changes)
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in task.items() if value is not None}))
    return path


def make_config(folder: Path, count: int = 5, **changes: Any) -> SampleConfig:
    """Config of `write_config`."""
    return load_sample_config(write_config(folder, count, **changes))


def files_of(run: Path) -> dict[str, bytes]:
    """Contents of all files of a run that must not depend on when, where and in how many parts it ran.

    Times are removed from metrics.csv, from the records and from the report; of run.json, which describes when and
    where, only the name counts.
    """
    found = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    for name in found:
        if name.startswith("state/"):
            record = json.loads(found[name])
            for row in record["rows"]:
                row["seconds"] = 0
            found[name] = json.dumps(record).encode()
    found["run.json"] = b""
    found["metrics.csv"] = repr([{**row, "seconds": ""} for row in read_metrics(run)]).encode()
    found["report.html"] = repr(lasting(run / "report.html")).encode()
    return found


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def arrays_of(run: Path) -> dict[str, np.ndarray]:
    """Arrays of a run by name."""
    return {path.stem: np.load(path) for path in sorted((run / "arrays").glob("*.npy"))}


def other_notes(task: Task) -> list[str]:
    """The notes of a task besides those about its schedule, which is of few steps to be quick, and its precision."""
    return [note for note in notes_of(task) if not note.startswith(("sampler.schedule", "precision:"))]
