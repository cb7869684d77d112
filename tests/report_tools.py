"""Made-up run folders like those of trainings with embedded scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from randomwalk.runs.folder import RunFolder, write_csv

PROFILE = ["step", "epoch", "seconds", "image", "sample", "mse", "psnr", "ssim", "evaluations"]
METRICS = ["image", "name", "sample", "mse", "psnr", "ssim", "evaluations"]
CROSSINGS = ["level", "kind", "image", "seconds", "step", "epoch", "mse"]
LOG = ["step", "epoch", "image", "loss", "learning_rate", "seconds"]
BEFORE = 2.5
"""Seconds that density and solver take."""


def config(n: int, size: int, method: str, channels: int, **sampling: Any) -> dict[str, Any]:
    """Settings of a made-up run."""
    methods = {
        "score_embedding": {
            "name": "score_embedding", "base": 2.0, "num_levels": 10,
            "solver": {"name": "semi_implicit", "linear_solver": "lu", "tolerance": 2e-8},
        },
        "ddpm": {"name": "ddpm", "beta_min": 1e-4, "beta_max": 0.002},
    }  # fmt: skip
    return {
        "output": "results/made_up",
        "data": {"path": "data/photographs", "image_size": size, "num_images": n, "channels": channels},
        "method": methods[method],
        "network": {"name": "ddpm_unet", "image_size": size, "num_channels": channels, "nf": 32},
        "optimizer": {"learning_rate": 2e-4, "warmup_images": 4000, "gradient_clip": 1.0},
        "ema": None if method == "score_embedding" else {"half_life_images": 138629.0, "warmup_ratio": 0.077},
        "batch_size": 10,
        "num_steps": 300,
        "sampling": {"start": "prior", **sampling},
    }


def scene(n: int, size: int, channels: int) -> np.ndarray:
    """Images in [0, 1] with edges and slopes, ``[n, C, H, W]``."""
    y, x = np.mgrid[:size, :size] / size
    images = []
    for k in range(n):
        disc = (x - 0.5) ** 2 + (y - 0.35 - 0.05 * (k % 6)) ** 2 < 0.07
        slopes = [0.2 + 0.15 * c + 0.5 * (x if (k + c) % 2 else y) for c in range(channels)]
        planes = [np.where(disc, 0.9 - 0.25 * c, slope) for c, slope in enumerate(slopes)]
        images.append(np.stack(planes))
    return np.clip(np.stack(images), 0, 1).astype(np.float32)


def fake_run(
    path: Path, n: int = 3, size: int = 32, method: str = "score_embedding", *, profile: bool = True,
    frames: bool = True, samples: int = 1, channels: int = 3, names: list[str] | None = None, **sampling: Any,
) -> RunFolder:  # fmt: skip
    """Write all files of a report, optionally without those of ``profile`` or ``frames``."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    folder = RunFolder(path)
    settings = config(n, size, method, channels, **sampling)
    folder.write_text("config.yaml", yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    folder.write_json("run.json", {"device_name": "a processor", "started": "2024-05-01T12:00:00+00:00"})
    truth = scene(n, size, channels)
    folder.write_array("images.npy", truth)
    count = min(n, 8)
    made = truth[:count] + rng.normal(0, 0.05, (samples, count, *truth.shape[1:])).astype(np.float32)
    made = made.clip(0, 1)
    folder.write_array("samples.npy", made)
    if frames:
        noise = rng.normal(0, 1.5, made[0].shape)
        states = [(1 - a) * noise + a * made[0] for a in np.linspace(0, 1, 5)]
        folder.write_array("frames.npy", np.stack(states).astype(np.float32))
    names = names or [f"{('astronaut', 'chelsea', 'coffee')[k % 3]}.png" for k in range(n)]
    rows = [
        {"image": i, "name": names[i], "sample": s, "mse": float(np.mean((made[s, i] - truth[i]) ** 2)), "psnr": 26.02,
         "ssim": 0.9512 - 0.01 * (i % 7), "evaluations": 146}
        for i in range(count) for s in range(samples)
    ]  # fmt: skip
    write_csv(folder, "metrics.csv", METRICS, rows)
    if method == "score_embedding":
        _write_field(folder, truth, rng)
    _write_log(folder, n, method, rng)
    if profile:
        _write_profile(folder, n, rng)
    return folder


def _write_field(folder: RunFolder, truth: np.ndarray, rng: np.random.Generator) -> None:
    times = np.linspace(1e-3, 1, 10)
    rows, columns = np.gradient(truth, axis=(-2, -1))
    score = np.stack([rows, columns], 2)
    folder.write_array("scores.npy", np.stack([3 * score * (1 - 0.6 * t) for t in times]).astype(np.float32))
    folder.write_array("times.npy", times)
    residuals = [
        {"iteration": k, "image": i, "residual": 10.0 ** (-k - 0.2 * i)} for k in range(8) for i in range(len(truth))
    ]
    write_csv(folder, "convergence.csv", ["iteration", "image", "residual"], residuals)


def _write_log(folder: RunFolder, n: int, method: str, rng: np.random.Generator) -> None:
    steps = 300
    log = []
    for step in range(1, steps + 1):
        loss = (880 if method == "score_embedding" else 1.0) * (0.02 + np.exp(-step / 60)) * np.exp(rng.normal(0, 0.2))
        image = -1 if method == "ddpm" else (step - 1) % n
        row = {"step": step, "epoch": step / n, "image": image, "loss": loss, "learning_rate": 2e-4 * step / 400}
        log.append({**row, "seconds": BEFORE + 0.2 * step})
    write_csv(folder, "log.csv", LOG, log)
    stages = {"density": 0.5, "solve": 2.0, "training": 60.0, "total": 62.5, "profiling": 31.25, "sampling": 4.0}
    write_csv(folder, "timings.csv", ["stage", "seconds"], [{"stage": k, "seconds": v} for k, v in stages.items()])


def _write_profile(folder: RunFolder, n: int, rng: np.random.Generator) -> None:
    rows = []
    for step in range(10, 301, 10):
        for i in range(min(n, 8)):
            ssim = 0.97 - 0.9 * np.exp(-step / (50 + 10 * (i % 5))) + rng.normal(0, 0.01)
            mse = 0.001 + 0.3 * np.exp(-step / 40)
            rows.append({"step": step, "epoch": step / n, "seconds": BEFORE + 0.2 * step, "image": i, "sample": 0,
                         "mse": mse, "psnr": -10 * np.log10(mse), "ssim": ssim, "evaluations": 80})  # fmt: skip
    write_csv(folder, "profile.csv", PROFILE, rows)
    crossings = []
    for image in ["mean", *range(min(n, 8))] if n > 1 else [0]:
        found = {"seconds": 31.7, "step": 146, "epoch": 146 / n, "mse": 0.0085}
        crossings += [{"level": 0.9, "kind": kind, "image": image, **found} for kind in ("sustained", "first")]
        crossings.append({"level": 0.95, "kind": "first", "image": image, **found, "seconds": 44.125})
        crossings.append({"level": 0.95, "kind": "sustained", "image": image})
    write_csv(folder, "crossings.csv", CROSSINGS, crossings)
