"""Files of a run, read and checked for its report."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.config.validate import validate
from randomwalk.config.yamltext import read_document
from randomwalk.denoisers.weight_files import open_safetensors
from randomwalk.errors import InputError
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding.embedding import displacements, field_of, random_like
from score_sde.sdes import PowerVE

SHOWN = 8
"""Largest number of images that a report shows."""

Row = dict[str, Any]

_COLUMNS = {
    "log.csv": "step epoch image loss learning_rate seconds",
    "profile.csv": "step epoch seconds image sample mse psnr ssim evaluations",
    "timings.csv": "stage seconds",
    "convergence.csv": "iteration image residual",
    "metrics.csv": "image name sample mse psnr ssim evaluations",
    "crossings.csv": "kind image level seconds step epoch mse",
}
_TEXTS = {"timings.csv": {"stage"}, "metrics.csv": {"name"}, "crossings.csv": {"kind", "image"}}
_REQUIRED = ("log.csv", "timings.csv", "metrics.csv")
_REMEDY = "train.py with --no-train makes samples and their numbers again, with --resume the rest"


class Embedded(NamedTuple):
    """First images of a run, moved by its field; the field of level 0 moves nothing."""

    levels: np.ndarray  # indices [L]
    times: np.ndarray  # of these levels, [L]
    images: np.ndarray  # moved images u^n, [L, k, C, H, W]
    field: np.ndarray  # [L, k, C, H, W]


@dataclass
class Run:
    """A finished run."""

    folder: Path
    config: ScoreEmbeddingConfig
    environment: dict[str, Any]  # contents of run.json; empty without that file
    truth: np.ndarray  # training images in [0, 1], [n, C, H, W]
    samples: np.ndarray  # S samples of each of the first k images, [S, k, C, H, W]
    frames: np.ndarray | None  # states along the trajectories of the first samples, [F, k, C, H, W], if kept
    tables: dict[str, list[Row]]  # rows of each CSV file, by its name without the suffix
    parameters: int | None  # of the network, if its weights were kept

    @property
    def shown(self) -> int:
        """Number of samples shown beside each other."""
        return min(self.samples.shape[1], SHOWN)

    @property
    def conditional(self) -> bool:
        """Whether it is known which image a sample should be; otherwise it is compared with the nearest image."""
        classes, start = self.config.network.num_classes, self.config.sampling.start
        return classes is not None or start == "truth" or len(self.truth) == 1

    def targets(self, sample: int) -> list[int]:
        """Indices of the training images with which the shown samples are compared."""
        if self.conditional:
            return list(range(self.shown))
        made = self.samples[sample, : self.shown].reshape(self.shown, -1).astype(np.float64)
        if self.config.sampling.minmax:
            low, high = made.min(1, keepdims=True), made.max(1, keepdims=True)
            made = (made - low) / np.maximum(high - low, 1e-12)
        flat = self.truth.reshape(len(self.truth), -1)
        return [int(((flat - u) ** 2).sum(1).argmin()) for u in made]

    def table(self, name: str) -> list[Row]:
        """Rows of a CSV file, none without that file."""
        return self.tables.get(name, [])

    def mean_crossings(self) -> list[Row]:
        """Rows of crossings.csv for the mean over images, or for the only image."""
        rows = self.table("crossings")
        return [row for row in rows if row["image"] == "mean"] or [row for row in rows if row["image"] == "0"]

    def seconds(self, stage: str) -> float | None:
        """Seconds of a stage in timings.csv."""
        return next((row["seconds"] for row in self.table("timings") if row["stage"] == stage), None)

    def names(self) -> list[str]:
        """Name of each image; its number where metrics.csv has no row for it."""
        found = {row["image"]: row["name"] for row in self.table("metrics")}
        return [found.get(image, f"image {image}") for image in range(len(self.truth))]


def read(folder: RunFolder) -> Run:
    """Read and check the files of a run.

    Raises:
        InputError: a required file is missing, or a file is damaged; the message names it.
    """
    config = validate(ScoreEmbeddingConfig, read_document(_required(folder, "config.yaml")))
    truth = _array(folder, "images.npy", "n C H W", (config.data.num_images, config.data.channels, None, None))
    samples = _array(folder, "samples.npy", "S k C H W", (None, None, *truth.shape[1:]))
    if samples.shape[1] > len(truth):
        raise InputError(
            f"{folder.file('samples.npy')}: has samples of {samples.shape[1]} images, but images.npy has {len(truth)}"
        )
    shape = (None, *samples.shape[1:])
    frames = _array(folder, "frames.npy", "F k C H W", shape) if folder.has("frames.npy") else None
    tables = {name[:-4]: _table(folder, name) for name in _COLUMNS if name in _REQUIRED or folder.has(name)}
    for name, rows in tables.items():
        path = folder.file(f"{name}.csv")
        if path.name in _REQUIRED and not rows:
            raise InputError(f"{path}: holds no rows; {_REMEDY}")
        images = {row["image"] for row in rows} if name in ("profile", "metrics", "convergence") else set()
        if outside := images - {*range(len(truth))}:
            raise InputError(f"{path}: image {min(outside)} is not one of the {len(truth)} in images.npy")
    environment = folder.facts()
    if not isinstance(environment, dict):
        raise InputError(f"{folder.file('run.json')}: holds no settings; {_REMEDY}")
    parameters = None
    if folder.has("model.safetensors"):
        path = folder.file("model.safetensors")
        try:
            with open_safetensors(path, "np") as file:
                parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    return Run(folder.path, config, environment, truth, samples, frames, tables, parameters)


def _required(folder: RunFolder, name: str) -> Path:
    if not folder.has(name):
        raise InputError(f"{folder.file(name)}: is missing, and the report needs it; {_REMEDY}")
    return folder.file(name)


def _array(folder: RunFolder, name: str, axes: str, shape: Sequence[int | None], mapped: bool = False) -> np.ndarray:
    """Read a .npy file of floats and check its shape, where None stands for any length."""
    path = _required(folder, name)
    try:
        found = folder.read_array(name, mapped)
    except InputError as error:
        raise InputError(f"{path}: is not an array that can be read ({error.__cause__}); {_REMEDY}") from error
    fits = found.ndim == len(shape) and all(w is None or s == w for s, w in zip(found.shape, shape, strict=True))
    if not fits or 0 in found.shape or found.dtype.kind != "f":
        wanted = ", ".join(f"{a}={s}" if s is not None else a for a, s in zip(axes.split(), shape, strict=True))
        raise InputError(f"{path}: found {found.dtype} {list(found.shape)}; expected floats [{wanted}]; {_REMEDY}")
    return found


def _table(folder: RunFolder, name: str) -> list[Row]:
    path = _required(folder, name)
    columns, texts, rows = _COLUMNS[name].split(), _TEXTS.get(name, set()), list[Row]()
    may_be_empty = {"seconds", "step", "epoch", "mse"} if name == "crossings.csv" else set[str]()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := {*columns} - {*(reader.fieldnames or ())}:
                raise InputError(f"{path}: has no column {', '.join(sorted(missing))}; {_REMEDY}")
            for line in reader:
                empty = {key for key in may_be_empty if line[key] == ""}
                numbers = {key: float(line[key]) for key in columns if key not in texts | empty}
                rows.append({**dict.fromkeys(empty), **{key: line[key] for key in texts}, **numbers})
    except (OSError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: row {len(rows) + 1} cannot be read ({error}); {_REMEDY}") from error
    for row in rows:
        row.update({key: int(row[key]) for key in ("image", "sample") if isinstance(row.get(key), float)})
    return rows


def mean_over(rows: Sequence[Row], key: str, by: str) -> dict[Any, float]:
    """Means of the column ``key`` over the rows with the same entry in ``by``, in the order of their first row."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row[key])
    return {group: float(np.mean(values)) for group, values in groups.items()}


def alpha_bar_end(beta_min: float, beta_max: float, num_timesteps: int) -> float:
    """Last alpha_bar of a linear beta schedule: the share of the image's variance at the start of sampling."""
    return float(np.prod(1 - np.linspace(beta_min, beta_max, num_timesteps)))


def embedded(folder: RunFolder, run: Run, count: int, columns: int) -> Embedded | None:
    """Embed the first ``count`` images of a run at up to ``columns`` evenly spread levels, by the field in its folder.

    Returns:
        None if nothing was embedded.
    """
    method = run.config.method
    if not isinstance(method, EmbeddingMethod) or method.embedding == "none" or not folder.has("scores.npy"):
        return None
    channels, height, width = run.truth.shape[1:]
    shape = (method.num_levels, len(run.truth), channels, 2, height, width)
    scores = _array(folder, "scores.npy", "N n C 2 H W", shape, mapped=True)[:, :count]
    times = _array(folder, "times.npy", "N", (method.num_levels,))
    field = field_of(torch.from_numpy(np.array(scores, dtype=np.float64)), method.component)
    if method.embedding == "random":
        field = random_like(field, run.config.seed)
    g = PowerVE(method.base).diffusion(torch.from_numpy(times))
    moved = torch.from_numpy(run.truth[:count]).double() + displacements(field, g)
    levels = np.unique(np.linspace(0, method.num_levels - 1, columns).round().astype(int))
    return Embedded(levels, times[levels], moved.numpy()[levels], field.numpy()[levels])
