"""Report of a run: samples.png and report.html, made from the files in its folder alone."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL.Image import Image

from randomwalk.config.score_embedding import DDPMMethod
from randomwalk.images.sheets import Row, new_figure, overview, png, tidy
from randomwalk.runs.folder import RunFolder
from randomwalk.studies.score_embedding import report_data
from randomwalk.studies.score_embedding.report_data import SHOWN, Embedded, Run, alpha_bar_end, mean_over

ROWS, COLUMNS = 3, 8
"""Largest number of images, or of samples of an image, and of states or levels that a sheet shows."""
ERROR_WHITE = 0.25
"""Error of a pixel, in [0, 1], that is shown as the brightest colour."""
COLOURS = ("#2a6fba", "#b5482a", "#3f8f5f", "#8a5aa8", "#c99b2e", "#3a9aa8", "#a8577f", "#6b7a3a")
INK, PALE = "#232328", "#d9dde2"
STAGES = {
    "density": "density", "solve": "solver", "training": "training", "total": "total",
    "profiling": "measuring curves (apart)", "sampling": "final samples (apart)",
}  # fmt: skip
"""Stages of timings.csv and their labels; the total is the sum of those before it."""

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def write(folder: RunFolder) -> list[Path]:
    """Write samples.png and report.html of a finished run, and return their paths.

    Raises:
        InputError: a required file is missing or damaged.
    """
    run = report_data.read(folder)
    page = html(run, report_data.embedded(folder, run, ROWS, COLUMNS))
    return [folder.write_image("samples.png", samples_sheet(run)), folder.write_text("report.html", page)]


# --- page ------------------------------------------------------------------------------------------------------------

_STYLE = """
body { margin: 0 auto; max-width: 66rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #232328; }
h1, td { overflow-wrap: anywhere; }
figcaption, th { color: #70767e; font-weight: normal; }
.wide { overflow-x: auto; font-size: .9rem; }
td, th { padding: .2rem .9rem .2rem 0; text-align: right; }
td:first-child, th:first-child, .settings td { text-align: left; }
figure { margin: 0; }
img { max-width: max(100%, 40rem); height: auto; }
"""
_CURVES = {
    "profile": "Quality of the samples (black: their mean; colours: images) against the seconds of density, solver "
    "(both grey) and training; the clock stands still during measurements. Dashed: sustained crossings of the SSIM "
    "levels (dotted) by the mean.",
    "log": "Loss of the steps (faint) and its running median.",
    "convergence": "Residual: relative change of the log density of an image in an iteration of the solver.",
}


def html(run: Run, embedded: Embedded | None) -> str:
    """Self-contained HTML page with the settings, tables, curves and images of a run."""
    method, n = run.config.method, len(run.truth)
    kind = f"sampler {method.sampler}" if isinstance(method, DDPMMethod) else f"embedding: {method.embedding}"
    images = f"{n} image{'s' if n > 1 else ''} of {run.truth.shape[2]} x {run.truth.shape[3]} pixels"
    title = escape(f"{method.name} ({kind}), {images}")
    origin = [run.folder.name, *(str(run.environment.get(key, "")) for key in ("device_name", "started"))]
    yaml = (run.folder / "config.yaml").read_text(encoding="utf-8")
    crossings = crossing_table(run)
    parts = [
        f"<h1>{title}</h1>\n<p>{escape(', '.join(part for part in origin if part))}</p>",
        f"<h2>Settings</h2>\n{_table([], settings(run), 'settings')}<pre class=wide>{escape(yaml)}</pre>",
        f"<h2>Timings</h2>\n{_table(*timing_table(run))}",
        f"<h2>Final samples</h2>\n{_table(*metric_table(run))}",
        f"<h2>Crossings of SSIM</h2>\n{_table(*crossings)}" if crossings[1] else "",
        _figure("Curves", png(curves(run)), " ".join(words for name, words in _CURVES.items() if run.table(name))),
        *(_figure(name, _png(image), caption) for name, image, caption in sheets(run, embedded)),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{title}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{"".join(parts)}\n</body></html>\n'


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in headings)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines if line)
    return f'<div class="wide"><table class="{kind}">{body}</table></div>'


def _png(image: Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _figure(title: str, data: bytes, caption: str) -> str:
    image = f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    return f'<h2>{title}</h2>\n<figure class="wide">{image}<figcaption>{escape(caption)}</figcaption></figure>'


# --- tables ----------------------------------------------------------------------------------------------------------


def settings(run: Run) -> list[list[str]]:
    """Labels and values of settings and outcomes that config.yaml does not say, or only in passing."""
    config, method, log = run.config, run.config.method, run.table("log")
    rate, peak = config.optimizer.learning_rate, max(row["learning_rate"] for row in log)
    reached = f"{rate:g}; peak reached {peak:.3g}" + (f", {100 * peak / rate:.0f}% of it" if peak < 0.99 * rate else "")
    start = "noise only"
    if config.sampling.start == "truth":
        start = f"{100 * config.sampling.truth_weight:g}% of the true image, and noise: it contains the answer"
    steps = f"{log[-1]['step']:.0f} of {config.num_steps} (epoch {log[-1]['epoch']:g})"
    pairs = [["steps", steps], ["learning rate", reached], ["start of sampling", start]]
    if isinstance(method, DDPMMethod):
        last = alpha_bar_end(method.beta_min, method.beta_max, method.num_timesteps)
        left = f"training keeps {100 * math.sqrt(last):.2g}% of the image at the step where sampling starts"
        pairs.append(["alpha_bar_T", f"{last:.2g}: {left}"])
    if run.parameters is not None:
        pairs.append(["parameters", f"{run.parameters:,}"])
    return pairs


def timing_table(run: Run) -> Table:
    """Seconds of every stage: those inside the total, the total, and the others."""
    cells = []
    for stage, label in STAGES.items():
        taken, total = run.seconds(stage), run.seconds("total")
        if taken is not None:
            share = f"{100 * taken / total:.1f}%" if total and "apart" not in label else ""
            cells.append([label, seconds(taken), share])
    return ["stage", "time", "of the total"], cells


def metric_table(run: Run) -> Table:
    """Quality of each image, averaged over its samples (of each sample if sampling is unconditional), and its mean."""
    digits = {"ssim": ".4f", "psnr": ".2f", "mse": ".5f", "evaluations": ".0f"}
    names, nearest, rows = run.names(), [run.targets(sample) for sample in range(len(run.samples))], []
    for row in run.table("metrics"):
        image, sample = row["image"], row["sample"]
        group = (str(image), names[image])
        if not run.conditional:
            which = str(image) if len(nearest) == 1 else f"{image}.{sample}"
            group = (which, f"{which}, {names[nearest[sample][image]] if image < run.shown else ''}")
        rows.append(row | {"group": group})
    means = {key: mean_over(rows, key, "group") for key in digits}
    groups = [*means["ssim"]]
    cells = [[group[-1], *(format(means[key][group], digits[key]) for key in digits)] for group in groups[:SHOWN]]
    if len(groups) > 1:
        overall = (format(np.mean([*means[key].values()]), digits[key]) for key in digits)
        cells.append([f"mean of {len(groups)}", *overall])
    return ["image" if run.conditional else "sample, its nearest", "SSIM", "PSNR [dB]", "MSE", "evaluations"], cells


def crossing_table(run: Run) -> Table:
    """When the SSIM of the mean, or of the only image, crossed each level; no rows if nothing was profiled."""
    cells = []
    for row in sorted(run.mean_crossings(), key=lambda row: (row["level"], row["kind"] != "sustained")):
        when = ["not reached", "", "", ""]
        if row["seconds"] is not None:
            when = [seconds(row["seconds"]), f"{row['step']:.0f}", f"{row['epoch']:.0f}", f"{row['mse']:.5f}"]
        cells.append([f"{row['level']:g}, {row['kind']}", *when])
    return ["SSIM", "time", "step", "epoch", "MSE then"], cells


def seconds(value: float) -> str:
    """A time with its unit."""
    return f"{value:,.1f} s" if value >= 1 else f"{1000 * value:.3g} ms"


# --- curves ----------------------------------------------------------------------------------------------------------


def curves(run: Run) -> Any:
    """Matplotlib figure of SSIM, PSNR and MSE, the loss and the solver's residual, as far as the run has them."""
    panels: list[tuple[str, Callable[[Any, Run], None]]] = [("Loss", _plot_loss)]
    if run.table("profile"):
        qualities = {"ssim": "SSIM", "psnr": "PSNR [dB]", "mse": "MSE"}
        panels = [*((label, partial(_plot_quality, key=key)) for key, label in qualities.items()), *panels]
    if run.table("convergence"):
        panels.append(("Residual of the solver", _plot_residuals))
    columns, lines = min(len(panels), 3), math.ceil(len(panels) / 3)
    figure = new_figure((3.4 * columns, 2.7 * lines), dpi=140)
    figure.set_layout_engine("constrained")
    for place, (label, plot) in enumerate(panels, 1):
        axis = figure.add_subplot(lines, columns, place)
        axis.set_title(label, fontsize=10, loc="left")
        plot(axis, run)
        axis.tick_params(which="both", labelsize=8)
        tidy(axis)
    return figure


def _plot_quality(axis: Any, run: Run, key: str) -> None:
    rows = run.table("profile")
    times, mean = mean_over(rows, "seconds", "step"), mean_over(rows, key, "step")
    for image in range(run.shown) if run.shown > 1 else ():
        own = mean_over([row for row in rows if row["image"] == image], key, "step")
        axis.plot([times[step] for step in own], [*own.values()], color=COLOURS[image], linewidth=0.8, alpha=0.7)
    axis.plot([*times.values()], [*mean.values()], color=INK, linewidth=1.5)
    if key == "ssim":
        axis.set_ylim(min(0.0, *mean.values()), 1.0)
    axis.set_yscale("log" if key == "mse" and min(mean.values()) > 0 else "linear")
    axis.set_xlim(0, max(times.values()) * 1.02 or 1)
    axis.set_xlabel("seconds", fontsize=8)
    axis.axvspan(0, sum(run.seconds(stage) or 0.0 for stage in ("density", "solve")), color=PALE, linewidth=0, zorder=0)
    for place, row in enumerate(row for row in run.mean_crossings() if row["kind"] == "sustained"):
        colour = COLOURS[1 + place % 7]
        if key == "ssim":
            axis.axhline(row["level"], color=colour, linestyle=":", linewidth=0.8)
        if row["seconds"] is not None:
            axis.axvline(row["seconds"], color=colour, linestyle="--", linewidth=0.8)


def _plot_loss(axis: Any, run: Run) -> None:
    log = run.table("log")
    images = sorted({row["image"] for row in log})
    for place, image in enumerate(images if len(images) <= SHOWN else [None]):
        rows = [row for row in log if image in (None, row["image"])]
        epochs, losses = [row["epoch"] for row in rows], np.array([row["loss"] for row in rows])
        axis.plot(epochs, losses, color=COLOURS[place], alpha=0.25, linewidth=0.6)
        axis.plot(epochs, running_median(losses), color=COLOURS[place], linewidth=1.3)
    axis.set_yscale("log" if min(row["loss"] for row in log) > 0 else "linear")
    axis.set_xlabel("epochs", fontsize=8)


def running_median(values: np.ndarray) -> np.ndarray:
    """Median of each value and its neighbours, about one thirtieth of all values, fewer at the ends."""
    half = max(1, len(values) // 60)
    return np.array([np.median(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])


def _plot_residuals(axis: Any, run: Run) -> None:
    for image in range(SHOWN):
        own = [row for row in run.table("convergence") if row["image"] == image]
        x, y = [row["iteration"] for row in own], [row["residual"] for row in own]
        axis.semilogy(x, y, color=COLOURS[image], marker="o", markersize=2.5, linewidth=1)
    axis.set_xlabel("iteration", fontsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)


# --- images ----------------------------------------------------------------------------------------------------------


def pixels(image: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W]`` or ``[H, W, 3]`` of an image ``[C, H, W]`` in [0, 1], clipped and never stretched."""
    whole = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    return whole[0] if len(whole) == 1 else whole.transpose(1, 2, 0)


def _coloured(values: np.ndarray, low: float, high: float, colours: str) -> np.ndarray:
    """uint8 ``[H, W, 3]`` of values ``[H, W]`` by a colour map over [low, high]."""
    return (colormaps[colours]((values - low) / (high - low))[..., :3] * 255).round().astype(np.uint8)


def sheets(run: Run, embedded: Embedded | None) -> list[tuple[str, Image, str]]:
    """Title, sheet and caption: samples, their trajectories and the embedding, as far as the run has them."""
    size = max(run.truth.shape[2:])
    side = size * math.ceil(128 / size)  # enlarged by a whole factor, and not narrower than the captions
    caption = "The error is the mean over channels of |sample - truth| of the first samples, from 0 (black) to "
    caption += f"{ERROR_WHITE:g} or more (bright). Images are clipped to [0, 1] and never stretched."
    found = [("Samples beside the truth", samples_sheet(run, side, errors=True), caption)]
    names = [_stem(name) for name in run.names()]
    if run.frames is not None:
        chosen = np.unique(np.linspace(0, len(run.frames) - 1, COLUMNS).round().astype(int))
        labels = names if run.conditional else [f"sample {k}" for k in range(run.shown)]
        rows = [Row(labels[k], [pixels(run.frames[f, k]) for f in chosen]) for k in range(min(run.shown, ROWS))]
        caption = "States of the sampling, from its start to its end."
        found.append(("From noise to image", overview(rows, [f"state {f}" for f in chosen], side), caption))
    if embedded is not None:
        rows, fields = [], embedded.field.mean(2)
        reach = float(np.abs(fields).max()) or 1.0
        for k in range(fields.shape[1]):
            moved = embedded.images[:, k]
            rms = np.sqrt(((moved - run.truth[k]) ** 2).mean((1, 2, 3)))
            rows.append(Row(names[k], [pixels(u) for u in moved], [f"moved {value:.3f}" for value in rms]))
            rows.append(Row("field", [_coloured(field[k], -reach, reach, "RdBu_r") for field in fields]))
        headings = [f"n={n}, t={t:.2f}" for n, t in zip(embedded.levels, embedded.times, strict=True)]
        caption = "Images as the training sees them at level n and time t, with the root mean square of their "
        caption += "displacement, and the field that moves them, averaged over channels, on one scale from "
        caption += f"{-reach:.3g} (blue) to {reach:.3g} (red). The field of level 0 moves nothing."
        found.append(("The embedded images and their field", overview(rows, headings, side), caption))
    return found


def samples_sheet(run: Run, side: int = 128, errors: bool = False) -> Image:
    """Truth, or nearest training images, above the samples, with a row of errors if wanted; samples.png."""
    names, rows, above = run.names(), [], "truth" if run.conditional else "nearest"
    for s, sample in enumerate(run.samples[:ROWS]):
        targets = run.targets(s)
        if s == 0 or not run.conditional:
            captions = [] if run.conditional else [_stem(names[target]) for target in targets]
            rows.append(Row(above, [pixels(run.truth[target]) for target in targets], captions))
        words = [""] * len(run.truth)
        for row in run.table("metrics"):
            if row["sample"] == s:
                words[row["image"]] = f"{row['ssim']:.3f}, {row['psnr']:.1f} dB"
        label = "sample" if len(run.samples) == 1 else f"sample {s}"
        rows.append(Row(label, [pixels(image) for image in sample[: run.shown]], words[: run.shown]))
    if errors:
        error = np.abs(run.samples[0, : run.shown] - run.truth[run.targets(0)]).mean(1)
        rows.append(Row("error", [_coloured(values, 0, ERROR_WHITE, "inferno") for values in error]))
    return overview(rows, names[: run.shown] if run.conditional else (), side)


def _stem(name: str) -> str:
    """File name without folder and suffix, cut to the width of a tile."""
    stem = Path(name).stem
    return stem if len(stem) <= 16 else f"{stem[:13]}..."
