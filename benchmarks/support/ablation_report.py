"""Tables and figure of score_embedding_ablation.py."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from randomwalk.config.score_embedding import DDPMMethod, EmbeddingMethod, ScoreEmbeddingConfig
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding.measures import interpolate, sustained_crossing
from support.arms import Arm
from support.common import Report
from support.engine import Record

LEVELS = (0.9, 0.95)
CONTROL = "none"
"""The arm that the others are compared with, run by run."""

Found = Mapping[tuple[str, str], Sequence[Record]]
"""Records by image and arm, one for each seed."""


@dataclass(frozen=True)
class Crossing:
    """When a run got to a level and stayed there."""

    steps: float
    seconds: float


def crossing(record: Record, level: float, hold: int) -> Crossing | None:
    """The sustained crossing of a run, or None; the closed form has one measurement, which is enough."""
    curve = record["curve"]
    steps, values = curve["step"], curve["ssim"]
    place = sustained_crossing(steps, values, level, min(hold, len(values)) if record.get("untrained") else hold)
    return None if place is None else Crossing(place, interpolate(steps, curve["seconds"], place))


def spread(values: Sequence[float], digits: int) -> str:
    """``median (least to most)``; a dash for none."""
    if not values:
        return "-"
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def median_of_all(values: Sequence[float], runs: int) -> float:
    """Median over all runs, those that did not get there counted as later than any that did: inf if they are half."""
    return statistics.median([*values, *[math.inf] * (runs - len(values))])


def ratio(values: Sequence[float], control: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of ``values / control``, pair by pair, and its 95% confidence interval (Student's t)."""
    logs = [math.log(a / b) for a, b in zip(values, control, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), math.nan, math.nan
    from scipy.stats import t

    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def write(
    report: Report,
    arms: Sequence[Arm],
    configs: Mapping[str, ScoreEmbeddingConfig],
    images: Sequence[str],
    found: Found,
) -> None:
    """Everything."""
    labels = {arm.name: arm.label for arm in arms}
    settings_table(report, labels, configs, found)
    for image in images:
        results_table(report, image, labels, configs, [image], found)
    if len(images) > 1:
        results_table(report, "all images", labels, configs, images, found)
    add_runs(report, configs, found)
    report.save()
    draw(report.folder, labels, configs, images, found)


# --- tables ----------------------------------------------------------------------------------------------------------


def peak_rate(config: ScoreEmbeddingConfig) -> float:
    """The highest learning rate that the training gets to: the warm-up may be longer than it."""
    optimizer, seen = config.optimizer, config.num_steps * config.batch_size
    return optimizer.learning_rate * (min(1.0, seen / optimizer.warmup_images) if optimizer.warmup_images else 1.0)


def how(config: ScoreEmbeddingConfig) -> str:
    """The method of an arm in a few words."""
    method = config.method
    if isinstance(method, DDPMMethod):
        steps = method.num_steps or method.num_timesteps
        return f"beta {method.beta_min:g} to {method.beta_max:g}, {steps} steps of {method.sampler}"
    assert isinstance(method, EmbeddingMethod)
    field = {"score": method.solver.name, "random": f"random ({method.solver.name})", "none": "none"}[method.embedding]
    return f"sigma {method.base:g}, N {method.num_levels}, field: {field}"


def settings_table(
    report: Report, labels: Mapping[str, str], configs: Mapping[str, ScoreEmbeddingConfig], found: Found
) -> None:
    """Description of each arm."""
    head = ["arm", "method", "batch", "learning rate", "highest reached", "warm-up", "EMA", "clip", "steps", "every"]
    rows = []
    for arm, config in configs.items():
        if any(record.get("untrained") for (_, name), runs in found.items() if name == arm for record in runs):
            rows.append([labels[arm], how(config), *["-"] * (len(head) - 2)])
            continue
        optimizer, average = config.optimizer, config.ema
        rows.append(
            [
                labels[arm],
                how(config),
                str(config.batch_size),
                f"{optimizer.learning_rate:.1e}",
                f"{peak_rate(config):.1e}",
                f"{optimizer.warmup_images / config.batch_size:g}",
                "no" if average is None else f"{0.5 ** (config.batch_size / average.half_life_images):.5g}",
                "no" if optimizer.gradient_clip is None else f"{optimizer.gradient_clip:g}",
                str(config.num_steps),
                str(config.profile.every_steps),
            ]
        )
    report.table(
        "Arms",
        head,
        rows,
        [
            "warm-up: steps in which the learning rate rises from 0; where it is longer than the training, the rate "
            "never reaches its nominal value",
            "EMA: decay of the average of the parameters, which makes the samples (smaller at first)",
            "steps: of the optimizer, at most; a run ends when it has kept SSIM 0.95",
            "every: steps between two measurements, the resolution of the crossings (which are interpolated)",
        ],
    )


def results_table(
    report: Report,
    case: str,
    labels: Mapping[str, str],
    configs: Mapping[str, ScoreEmbeddingConfig],
    images: Sequence[str],
    found: Found,
) -> None:
    """Steps and seconds to the levels on some images."""
    head = ["arm"]
    for level in LEVELS:
        head += [f"{level:.2f}: runs", "steps", "seconds", f"steps / those of {CONTROL}"]
    rows = []
    for arm, label in labels.items():
        runs = [record for image in images for record in found[image, arm]]
        row = [label]
        for level in LEVELS:
            reached = [c for record in runs if (c := crossing(record, level, configs[arm].profile.hold))]
            row += [f"{len(reached)} of {len(runs)}"]
            row += [spread([c.steps for c in reached], 0), spread([c.seconds for c in reached], 1)]
            row += [against_control(report, case, arm, level, configs, images, found)]
            _add(report, case, label, level, reached, len(runs))
        rows.append([*row, spread([max(r["curve"]["ssim"]) for r in runs if r["curve"]["ssim"]], 3)])
        for stage in ("density", "solve"):
            if values := [record["timings"][stage] for record in runs if stage in record["timings"]]:
                report.add(case, label, f"{stage}_seconds_median", statistics.median(values), "s")
    windows = sorted({config.profile.hold * (config.profile.every_steps or 0) for config in configs.values()})
    notes = [
        "SSIM of a sample to the photograph, in windows of 7 x 7 pixels; a level is reached when all measurements "
        f"of {' or '.join(map(str, windows))} steps in a row have it; runs that did not reach it are counted, but are "
        "in no column of steps or seconds",
        "median (least to most); seconds: density, solver and training, without measuring",
        f"steps / those of {CONTROL}: geometric mean over the pairs of one image and seed in which both reached it, "
        "with its 95% interval and the number of pairs",
    ]
    every = [(arm, record) for image in images for arm in labels for record in found[image, arm]]
    if failed := [f"{arm}: {record['failed']}" for arm, record in every if "failed" in record]:
        notes.append("trainings that failed: " + "; ".join(failed))
    report.table(case, [*head, "best SSIM"], rows, notes)


def against_control(
    report: Report,
    case: str,
    arm: str,
    level: float,
    configs: Mapping[str, ScoreEmbeddingConfig],
    images: Sequence[str],
    found: Found,
) -> str:
    """Steps in units of those of the control, over the pairs in which both got there."""
    if arm == CONTROL or CONTROL not in configs or any(r.get("untrained") for r in found[images[0], arm]):
        return ""
    pairs = []
    for image in images:
        for own, other in zip(found[image, arm], found[image, CONTROL], strict=True):
            a, b = (crossing(r, level, configs[name].profile.hold) for r, name in ((own, arm), (other, CONTROL)))
            if a and b and a.steps > 0 and b.steps > 0:
                pairs.append((a.steps, b.steps))
    if not pairs:
        return "-"
    value, low, high = ratio(*zip(*pairs, strict=True))
    name = f"steps_{level:g}_over_{CONTROL}"
    for metric, number in ((name, value), (f"{name}_low", low), (f"{name}_high", high), (f"{name}_pairs", len(pairs))):
        report.add(case, arm, metric, number, "1")
    return f"{value:.2f} ({low:.2f} to {high:.2f}; {len(pairs)})" if len(pairs) > 1 else f"{value:.2f} (1)"


def _add(report: Report, case: str, label: str, level: float, reached: Sequence[Crossing], runs: int) -> None:
    report.add(case, label, f"reached_{level:g}", len(reached), "1")
    report.add(case, label, f"runs_{level:g}", runs, "1")
    for what, unit in (("steps", "1"), ("seconds", "s")):
        values = [float(getattr(c, what)) for c in reached]
        report.add(case, label, f"{what}_{level:g}_median_of_all", median_of_all(values, runs), unit)
        for name, function in (("median", statistics.median), ("min", min), ("max", max)):
            if values:
                report.add(case, label, f"{what}_{level:g}_{name}", function(values), unit)


def add_runs(report: Report, configs: Mapping[str, ScoreEmbeddingConfig], found: Found) -> None:
    """Every run, for results.csv."""
    for (image, arm), runs in found.items():
        for seed, record in enumerate(runs):
            case = f"{image}, seed {seed}"
            for level in LEVELS:
                if place := crossing(record, level, configs[arm].profile.hold):
                    report.add(case, arm, f"steps_{level:g}", place.steps, "1")
                    report.add(case, arm, f"seconds_{level:g}", place.seconds, "s")
            if record["curve"]["ssim"]:
                report.add(case, arm, "best_ssim", max(record["curve"]["ssim"]), "1")
                report.add(case, arm, "last_step", record["curve"]["step"][-1], "1")
                report.add(case, arm, "evaluations_per_sample", statistics.median(record["curve"]["evaluations"]), "1")
            for stage, seconds in record["timings"].items():
                report.add(case, arm, f"{stage}_seconds", seconds, "s")


# --- the figure ------------------------------------------------------------------------------------------------------


def band(runs: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[n]``, and least, median and most of SSIM there ``[3, n]``; a run that has ended keeps its last value."""
    curves = [record["curve"] for record in runs if record["curve"]["step"]]
    if not curves:
        return np.zeros(0), np.zeros((3, 0))
    steps = np.unique(np.concatenate([curve["step"] for curve in curves]))
    values = np.stack([np.interp(steps, curve["step"], curve["ssim"]) for curve in curves])
    return steps, np.stack([values.min(0), np.median(values, 0), values.max(0)])


def draw(
    folder: RunFolder,
    labels: Mapping[str, str],
    configs: Mapping[str, ScoreEmbeddingConfig],
    images: Sequence[str],
    found: Found,
) -> None:
    """SSIM against steps: a column for each image, embeddings above and DDPM below; ablation.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5 + 3.6 * len(images), 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(images), squeeze=False, sharex="row", sharey=True)
    for axis, image in zip(axes[0], images, strict=True):
        axis.set_title(image)
    for column, image in enumerate(images):
        for number, (arm, label) in enumerate(labels.items()):
            row = 0 if isinstance(configs[arm].method, EmbeddingMethod) else 1
            _curve(axes[row, column], found[image, arm], label, f"C{number}")
            if arm == CONTROL:
                _curve(axes[1, column], found[image, arm], label, f"C{number}")
    for axis in axes.flatten():
        for level in LEVELS:
            axis.axhline(level, color="0.7", linewidth=0.8)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("optimizer steps")
    for axis in axes[:, 0]:
        axis.set_ylabel("SSIM to the photograph")
    for axis in axes[:, -1]:  # beside the curves, which may be anywhere
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    folder.write_bytes("ablation.png", picture.getvalue())


def _curve(axis: Any, runs: Sequence[Record], label: str, colour: str) -> None:
    if any(record.get("untrained") for record in runs):
        value = statistics.median(record["curve"]["ssim"][0] for record in runs)
        axis.axhline(value, color="0.2", linestyle=":", label=label)
        return
    steps, (low, middle, high) = band(runs)
    axis.plot(steps, middle, color=colour, label=label)
    axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
