"""The files of a run, read and checked, for its report."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from randomwalk.config.score_embedding import EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.config.validate import validate
from randomwalk.config.yamltext import read_document
from randomwalk.errors import InputError
from randomwalk.run_folder import RunFolder
from randomwalk.studies.score_embedding.embedding import displacements, field_of, random_like
from score_sde.sdes import PowerVE

SHOWN = 8
"""Most images that a report shows."""

Row = dict[str, Any]

_NUMBERS: dict[str, Sequence[str]] = {
    "log.csv": ("step", "epoch", "image", "loss", "learning_rate", "seconds"),
    "profile.csv": ("step", "epoch", "seconds", "image", "sample", "mse", "psnr", "ssim", "evaluations"),
    "timings.csv": ("seconds",),
    "convergence.csv": ("iteration", "image", "residual"),
    "metrics.csv": ("image", "sample", "mse", "psnr", "ssim", "evaluations"),
    "crossings.csv": ("level", "seconds", "step", "epoch", "mse"),
}
_TEXTS: dict[str, Sequence[str]] = {
    "timings.csv": ("stage",),
    "metrics.csv": ("name",),
    "crossings.csv": ("kind", "image"),
}
_MAY_BE_EMPTY = {"crossings.csv": {"seconds", "step", "epoch", "mse"}}


@dataclass
class Embedded:
    """First images of a run, embedded by its field.

    Attributes:
        levels: indices ``[L]``; level 0 is the image itself.
        times: of these levels, ``[L]``.
        images: moved images u^n, ``[L, k, C, H, W]``.
        field: what moves them, ``[L, k, C, H, W]``; that of level 0 moves nothing.
    """

    levels: np.ndarray
    times: np.ndarray
    images: np.ndarray
    field: np.ndarray


@dataclass
class Run:
    """A finished run.

    Attributes:
        folder: its folder.
        config: its settings.
        environment: what run.json says about the machine; empty without that file.
        truth: the images that it was to learn, in [0, 1], ``[n, C, H, W]``.
        samples: of the first k of them, ``[S, k, C, H, W]``.
        frames: states of the first sample's trajectory, ``[F, k, C, H, W]``, if they were kept.
        tables: rows of each CSV file that is there, by its name without the suffix.
    """

    folder: Path
    config: ScoreEmbeddingConfig
    environment: dict[str, Any]
    truth: np.ndarray
    samples: np.ndarray
    frames: np.ndarray | None
    tables: dict[str, list[Row]]

    @property
    def shown(self) -> int:
        """Number of samples shown beside each other."""
        return min(self.samples.shape[1], SHOWN)

    @property
    def told(self) -> bool:
        """Whether the sampling is told which image to make; otherwise a sample is measured by the nearest of them."""
        known = self.config.network.num_classes is not None or self.config.sampling.start == "truth"
        return known or len(self.truth) == 1

    def targets(self, sample: int) -> list[int]:
        """Which image each of the shown samples was measured by."""
        if self.told:
            return list(range(self.shown))
        made = self.samples[sample, : self.shown].reshape(self.shown, -1).astype(np.float64)
        if self.config.sampling.minmax:
            low, high = made.min(1, keepdims=True), made.max(1, keepdims=True)
            made = (made - low) / np.maximum(high - low, 1e-12)
        flat = self.truth.reshape(len(self.truth), -1)
        return [int(((flat - u) ** 2).sum(1).argmin()) for u in made]

    def table(self, name: str) -> list[Row]:
        """Rows of a CSV file, none if it is not there."""
        return self.tables.get(name, [])

    def seconds(self, stage: str) -> float | None:
        """Seconds of a stage in timings.csv."""
        return next((row["seconds"] for row in self.table("timings") if row["stage"] == stage), None)

    def names(self) -> list[str]:
        """Name of each image; its number where metrics.csv does not know it."""
        found = {row["image"]: row["name"] for row in self.table("metrics")}
        return [found.get(image, f"image {image}") for image in range(len(self.truth))]

    def parameters(self) -> int | None:
        """Size of the network, if its weights are in the folder."""
        path = self.folder / "model.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {_REMEDY}") from error


def read(folder: RunFolder) -> Run:
    """Everything that a report is made of.

    Raises:
        InputError: a file that is needed is missing, or one that is there is damaged; the message names it.
    """
    config = validate(ScoreEmbeddingConfig, read_document(_there(folder, "config.yaml")))
    truth = _array(folder, "images.npy", "n C H W", (config.data.num_images, config.data.channels, None, None))
    samples = _array(folder, "samples.npy", "S k C H W", (None, None, *truth.shape[1:]))
    if samples.shape[1] > len(truth):
        raise InputError(f"{folder.file('samples.npy')}: of {samples.shape[1]} images, but images.npy has {len(truth)}")
    shape = (None, *samples.shape[1:])
    frames = _array(folder, "frames.npy", "F k C H W", shape) if folder.has("frames.npy") else None
    needed = ("log.csv", "timings.csv", "metrics.csv")
    tables = {name[:-4]: _table(folder, name) for name in _NUMBERS if name in needed or folder.has(name)}
    for name in ("log", "timings", "metrics"):
        if not tables[name]:
            raise InputError(f"{folder.file(name + '.csv')}: holds no rows; {_REMEDY}")
    for name in ("profile", "metrics", "convergence"):
        for row in tables.get(name, []):
            if not 0 <= row["image"] < len(truth):
                raise InputError(
                    f"{folder.file(name + '.csv')}: image {row['image']:g} is not one of the {len(truth)} in images.npy"
                )
    environment = folder.read_json("run.json") if folder.has("run.json") else {}
    if not isinstance(environment, dict):
        raise InputError(f"{folder.file('run.json')}: holds no settings; {_REMEDY}")
    return Run(folder.path, config, environment, truth, samples, frames, tables)


_REMEDY = "train.py with --no-train makes samples and their numbers again, with --resume the rest"


def _there(folder: RunFolder, name: str) -> Path:
    if not folder.has(name):
        raise InputError(f"{folder.file(name)}: is missing, and the report needs it; {_REMEDY}")
    return folder.file(name)


def _array(folder: RunFolder, name: str, axes: str, shape: Sequence[int | None], **options: Any) -> np.ndarray:
    """A .npy file whose shape is as said, None standing for any."""
    path = _there(folder, name)
    try:
        found: np.ndarray = np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: is not an array that can be read ({error}); {_REMEDY}") from error
    fits = found.ndim == len(shape) and all(w is None or s == w for s, w in zip(found.shape, shape, strict=True))
    if not fits or 0 in found.shape or found.dtype.kind != "f":
        wanted = ", ".join(f"{a}={s}" if s is not None else a for a, s in zip(axes.split(), shape, strict=True))
        raise InputError(f"{path}: found {found.dtype} {list(found.shape)}; expected floats [{wanted}]; {_REMEDY}")
    return found


def _table(folder: RunFolder, name: str) -> list[Row]:
    path = _there(folder, name)
    numbers, texts, optional = _NUMBERS[name], _TEXTS.get(name, ()), _MAY_BE_EMPTY.get(name, set())
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := {*numbers, *texts} - {*(reader.fieldnames or ())}:
                raise InputError(f"{path}: has no column {', '.join(sorted(missing))}; {_REMEDY}")
            for line in reader:
                row: Row = {key: line[key] for key in texts}
                for key in numbers:
                    row[key] = None if line[key] == "" and key in optional else float(line[key])
                rows.append(row)
    except (OSError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: row {len(rows) + 1} cannot be read ({error}); {_REMEDY}") from error
    for row in rows:
        row.update({key: int(row[key]) for key in ("image", "sample") if isinstance(row.get(key), float)})
    return rows


# --- numbers ---------------------------------------------------------------------------------------------------------


def mean_over(rows: Sequence[Row], key: str, by: Callable[[Row], Any]) -> dict[Any, float]:
    """Means of a column over the rows that have the same ``by``, in the order of their first row."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row[key])
    return {group: float(np.mean(values)) for group, values in groups.items()}


def alpha_bar_end(beta_min: float, beta_max: float, num_timesteps: int) -> float:
    """The last alpha_bar of a linear table: the share of the image's variance where the sampling starts."""
    return float(np.prod(1 - np.linspace(beta_min, beta_max, num_timesteps)))


def embedded(folder: RunFolder, run: Run, count: int, columns: int) -> Embedded | None:
    """The first images of a run at some of its levels; None where nothing was embedded.

    Args:
        folder: the run's; scores.npy and times.npy hold its field.
        run: the rest of it.
        count: of images.
        columns: of levels, evenly spread.
    """
    method = run.config.method
    if not isinstance(method, EmbeddingMethod) or method.embedding == "none" or not folder.has("scores.npy"):
        return None
    channels, height, width = run.truth.shape[1:]
    shape = (method.num_levels, len(run.truth), channels, 2, height, width)
    scores = _array(folder, "scores.npy", "N n C 2 H W", shape, mmap_mode="r")[:, :count]
    times = _array(folder, "times.npy", "N", (method.num_levels,))
    field = field_of(torch.from_numpy(np.array(scores, dtype=np.float64)), method.component)
    if method.embedding == "random":
        field = random_like(field, run.config.seed)
    g = PowerVE(method.base).diffusion(torch.from_numpy(times))
    moved = torch.from_numpy(run.truth[:count]).double() + displacements(field, g)
    levels = np.unique(np.linspace(0, method.num_levels - 1, columns).round().astype(int))
    return Embedded(levels, times[levels], moved.numpy()[levels], field.numpy()[levels])
