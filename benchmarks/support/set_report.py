"""Table and figure of score_embedding_set.py."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from randomwalk.config.score_embedding import ScoreEmbeddingConfig
from randomwalk.images.metrics import mean_and_error
from randomwalk.images.sheets import grid
from randomwalk.images.tensors import to_bytes
from randomwalk.runs.folder import RunFolder
from support import frechet, unconditional
from support.ablation_report import CONTROL
from support.arms import Arm
from support.common import Report, cell
from support.engine import Record

Floors = Mapping[str, tuple[float, float]]
"""Distances of true images, with the standard deviation over sets."""
SHOWN = (0, 2, 4, 6)
"""Noise levels in the table, of those that are measured."""


def sheet(folder: RunFolder, name: str, images: Tensor) -> None:
    """A picture of some samples."""
    folder.write_image(f"samples_{name}.png", grid(list(to_bytes(images[:64])), side=64))


def floor(judge: unconditional.Judge, train: Tensor, num_images: int, num_samples: int) -> Floors:
    """Reference distances: those of the training images, and of as many others."""
    sets = [part for part in train[num_images:].split(num_samples) if len(part) == num_samples][:20]
    others = frechet.spread([judge.distances(part)[1] for part in sets])
    return {"the training images": (judge.distances(train[:num_images])[1], float("nan")), "other images": others}


def write(
    report: Report,
    arms: Sequence[Arm],
    configs: Mapping[str, ScoreEmbeddingConfig],
    found: Mapping[str, Sequence[Record]],
    floors: Floors,
    judge: unconditional.Judge,
) -> None:
    """The table, results.csv and the figure."""
    first = next(iter(found.values()))[0]
    head = ["arm", "steps", "density and solver (s)", "shift", "loss", f"loss / {CONTROL}"]
    head += [f"MSE, sigma {first['sigma'][k]:.2g}" for k in SHOWN]
    rows = []
    for arm in arms:
        runs = found[arm.name]
        rows.append(
            [
                arm.label,
                _cell([r["steps"] for r in runs], 0),
                _cell([r["timings"].get("density", 0) + r["timings"].get("solve", 0) for r in runs], 1),
                _cell([r["shift"][-1] if r["shift"] else 0 for r in runs], 3),
                _cell([r["loss"] for r in runs], 1),
                _against(found, arm.name),
                *(_cell([r["mse"][k] for r in runs], 4) for k in SHOWN),
                _cell([r["frechet"] for r in runs], 2),
            ]
        )
        _add(report, arm.label, runs)
    for name, value in floors.items():
        rows.append([name, *[""] * (len(head) - 1), cell(value)])
        report.add("floor", name, "frechet_to_test", value[0], "1")
    config = next(iter(configs.values()))
    limit = f"{config.time_limit / 60:g} minutes" if config.time_limit is not None else "as many steps"
    free = [arm.label for arm in arms if arm.trained and not arm.counted]
    report.table(
        f"{limit} of density, solver and training",
        [*head, "Frechet distance"],
        rows,
        [
            f"mean over {len(next(iter(found.values())))} seeds ± standard error; one thread each",
            *(f"{label}: the seconds of its density and solver are not in the budget" for label in free),
            "shift: by how much the embedding moves the images at the last level, root mean square, pixels in [0, 1]",
            "loss: that of the training without embedding, on test images that no arm has seen, with the same noise "
            f"for all; loss / {CONTROL}: geometric mean over seeds, with its 95% interval",
            "MSE: of D(x, sigma) on these images, sigma and pixels in [-1, 1]; the other levels are in results.csv",
            "Frechet distance: of samples to the 10,000 test images, squared, in the features of a classifier with a "
            f"test accuracy of {100 * judge.accuracy:.2f}%; last rows: true images, ± standard deviation over sets",
        ],
    )
    draw(report.folder, arms, found, floors)


def _cell(values: Sequence[float], digits: int) -> str:
    return cell(mean_and_error(list(map(float, values))), digits)


def _against(found: Mapping[str, Sequence[Record]], arm: str) -> str:
    from support.ablation_report import ratio

    if arm == CONTROL or CONTROL not in found:
        return ""
    own, other = ([record["loss"] for record in found[name]] for name in (arm, CONTROL))
    value, low, high = ratio(own, other)
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if len(own) > 1 else f"{value:.3f}"


def _add(report: Report, label: str, runs: Sequence[Record]) -> None:
    for seed, run in enumerate(runs):
        case = f"seed {seed}"
        for sigma, value in zip(run["sigma"], run["mse"], strict=True):
            report.add(case, label, f"mse_sigma_{sigma:.3g}", value, "1")
        for metric in ("loss", "frechet", "steps"):
            report.add(case, label, metric, run[metric], "1")
        for stage in ("density", "solve", "training"):
            report.add(case, label, f"{stage}_seconds", run["timings"].get(stage, 0.0), "s")
        report.add(case, label, "shift", run["shift"][-1] if run["shift"] else 0.0, "1")


def draw(
    folder: RunFolder,
    arms: Sequence[Arm],
    found: Mapping[str, Sequence[Record]],
    floors: Floors,
) -> None:
    """Errors in units of those without embedding, by noise level; distances of samples; set.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    shown = [arm for arm in arms if arm.trained]
    for number, arm in enumerate(shown):
        if CONTROL in found:
            _errors(left, arm, found, f"C{number}")
        values = [record["frechet"] for record in found[arm.name]]
        right.plot(values, [number] * len(values), "o", color=f"C{number}", alpha=0.7)
        right.plot(statistics.fmean(values), number, "|", color="0.1", markersize=18)
    right.axvline(floors["other images"][0], color="0.5", linestyle=":", label="as many true images")
    right.set(xlabel="Frechet distance to the test images", ylim=(len(shown) - 0.5, -0.5))
    right.set_yticks(range(len(shown)), [arm.label for arm in shown])
    left.set(xlabel="sigma (pixels in [-1, 1])", ylabel="error on test images / without embedding")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    folder.write_bytes("set.png", picture.getvalue())


def _errors(axis: Any, arm: Arm, found: Mapping[str, Sequence[Record]], colour: str) -> None:
    own, other = (np.array([record["mse"] for record in found[name]]) for name in (arm.name, CONTROL))
    values, sigma = own / other, found[arm.name][0]["sigma"]
    axis.plot(sigma, np.exp(np.log(values).mean(0)), marker=".", color=colour, label=arm.label)
    axis.fill_between(sigma, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
