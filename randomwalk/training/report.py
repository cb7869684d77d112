"""Report of a training of a denoiser, from the files of its folder: curves, samples and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from randomwalk.config import TrainConfig
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Chart, Line, Page, Picture, Shown, link, size_of_png, thinned

MOST_STAGES = 24
"""Number of the sheets of samples that share a slider, evenly spread over the training."""
_TITLES = {"psnr": "PSNR of denoised validation images, dB", "chamfer": "squared distance of samples to fresh points"}


def page(folder: RunFolder, config: TrainConfig, unit: str, finished: bool) -> Page:
    """Report of a training.

    Args:
        folder: of the run.
        config: of the run.
        unit: plural of the examples.
        finished: whether the run is.

    Raises:
        InputError: a log is damaged.
    """
    size = f"batches of {config.batch_size}, {config.num_images:,} {unit} in all"
    about = f"network {config.network.name}, denoiser {config.denoiser.name}, {size}, seed {config.seed}"
    made = report.described(folder, "train", "Training", about, finished)
    log, validation = (folder.read_log(name, lambda _: True) for name in ("log.csv", "validation.csv"))
    made.charts = [*_losses(log, unit), *_validations(validation, unit), *_others(log, unit)]
    made.images = _stages(folder, unit)
    made.images_title = "Samples as the training goes on"
    if made.images:
        made.left, made.right = (made.images[0].pictures[k].label for k in (0, -1))
    return made


def curve(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[list[float]]:
    """Points of a curve through the cells of two columns, without empty ones."""
    return thinned([[float(row[x]), float(row[y])] for row in rows if row.get(x) and row.get(y)])


def smoothed(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Running mean of a curve over a fortieth of it."""
    width = max(1, len(points) // 40)
    values = np.convolve([y for _, y in points], np.ones(width) / width, mode="valid")
    return [[x, float(f"{y:.6g}")] for (x, _), y in zip(points[width - 1 :], values, strict=True)]


def _losses(log: Sequence[Mapping[str, Any]], unit: str) -> list[Chart]:
    points = curve(log, "images", "loss")
    if not points:
        return []
    lines = [Line("loss of a batch", points)]
    if len(points) >= 80:
        lines.append(Line("running mean", smoothed(points)))
    return [Chart("Training loss", f"{unit} seen", lines, log=True)]


def _validations(rows: Sequence[Mapping[str, Any]], unit: str) -> list[Chart]:
    """Curves of the validations: a chart for each measure, and a line in it for each noise level."""
    charts: dict[str, Chart] = {}
    for key in rows[0] if rows else ():
        if key in ("step", "images", "seconds"):
            continue
        name, _, sigma = key.rpartition("_at_")
        name, label = (name, f"σ = {sigma}") if name else (key, key)
        title = _TITLES.get(name, name.replace("_", " "))
        chart = charts.setdefault(name, Chart(f"Validation: {title}", f"{unit} seen", [], log=name != "psnr"))
        chart.lines = [*chart.lines, Line(label, curve(rows, "images", key))]
    return [chart for chart in charts.values() if all(line.points for line in chart.lines)]


def _others(log: Sequence[Mapping[str, Any]], unit: str) -> list[Chart]:
    """Curves of the learning rate and the gradient."""
    titles = {"learning_rate": "Learning rate", "gradient_norm": "Norm of the gradient"}
    lines = {key: curve(log, "images", key) for key in titles}
    return [
        Chart(title, f"{unit} seen", [Line(title.lower(), lines[key])], log=key == "gradient_norm")
        for key, title in titles.items()
        if len(lines[key]) > 1
    ]


def _stages(folder: RunFolder, unit: str) -> list[Shown]:
    """Samples of the validations, as pictures of one image, the first and the last under the slider."""
    found = sorted(path for path in folder.file("samples").glob("*.png") if path.stem.isdecimal())
    if not found:
        return []
    chosen = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, MOST_STAGES).round().astype(int))]
    size = size_of_png(chosen[-1])
    if size is None:
        return []
    pictures = [Picture(f"{int(path.stem):,} {unit}", link(f"samples/{path.name}")) for path in chosen]
    return [Shown("samples from the same noise", pictures, size)]
