"""The figures that matter in what a run has left, and the time of the whole of a training; for `every_config.py`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from randomwalk.config import SampleConfig, TrainConfig
from randomwalk.errors import InputError
from randomwalk.images.noise_estimation import estimate_noise
from randomwalk.runs.folder import RunFolder
from support.config_plan import Job, units

Figure = tuple[str, float, str]
"""Metric, value, unit."""


def figures(job: Job, folder: Path) -> list[Figure]:
    """Main figure of a run: quality where the truth is known, otherwise the remaining noise; the loss of a training."""
    run = RunFolder(folder)
    metrics = run.read_csv("metrics.csv")
    if metrics and "metric" in metrics[0]:  # of points
        return [(row["metric"], float(row["value"]), "") for row in metrics if row["metric"] in ("chamfer", "emd")]
    if metrics and "measure" in metrics[0]:  # of a bridge
        ends = [row for row in metrics if row["measure"] == "end_chamfer"]
        return [(f"chamfer {row['direction']}", float(row["value"]), "") for row in ends]
    if isinstance(job.config, SampleConfig):
        found = _means(metrics, {"psnr": "dB", "measurement_psnr": "dB"})
        return found or _means(metrics, {"residual": "of the noise"}) or _noise(folder)
    found = _means(metrics, {"psnr": "dB", "ssim": ""})
    if isinstance(job.config, TrainConfig):
        last = (run.read_csv("validation.csv") or [{}])[-1]
        shown = [(key, "dB" if key.startswith("psnr") else "") for key in last if key.startswith(("psnr", "chamfer"))]
        found = [(key, float(last[key]), unit) for key, unit in shown if last[key]]
    loss = run.read_csv("log.csv")
    return found + ([("loss", float(loss[-1]["loss"]), "")] if loss else [])


def _means(rows: Sequence[dict[str, str]], columns: dict[str, str]) -> list[Figure]:
    values = {key: [float(row[key]) for row in rows if row.get(key)] for key in columns}
    return [(key, sum(found) / len(found), columns[key]) for key, found in values.items() if found]


def _noise(folder: Path) -> list[Figure]:
    """Mean of the noise that is estimated in new images, for which there is no truth; of those where it can be."""
    found = []
    for path in sorted((folder / "arrays").glob("*.npy")):
        with contextlib.suppress(InputError):
            found.append(estimate_noise(torch.from_numpy(np.load(path, allow_pickle=False))))
    return [("estimated noise", 127.5 * sum(found) / len(found), "of 255")] if found else []


def whole_seconds(job: Job, folder: Path, seconds: float) -> float:
    """Duration of a full training, from the speed of a shortened one after its start in log.csv.

    Args:
        job: the training.
        folder: what the one that was cut has left.
        seconds: that it took by the clock on the wall, as log.csv counts.
    """
    assert job.config is not None
    total, unit = units(job.config)
    rows = RunFolder(folder).read_csv("log.csv")
    done = _done(rows, unit)
    clock = [float(row["seconds"]) for row in rows]
    first = 1 if len(rows) > 2 else 0  # the first step has the start in it
    if len(rows) < 2 or done[-1] <= done[first]:
        return math.nan
    return seconds + (clock[-1] - clock[first]) / (done[-1] - done[first]) * (total - done[-1])


def _done(rows: Sequence[dict[str, str]], unit: str) -> list[float]:
    """Progress at each row; a bridge counts the steps of each of its fits from 0."""
    found: list[float] = []
    before = 0.0
    for last, row in zip([None, *rows], rows, strict=False):
        if last is not None and last.get("fit") != row.get("fit"):
            before = found[-1]
        found.append(before + float(row[unit]))
    return found
