"""Curves and tables of a report, each drawn into a figure or a part of one that the caller sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from randomwalk.images.sheets import tidy
from randomwalk.studies.score_embedding.report_data import SHOWN, Row, Run, mean_over

COLOURS = ("#2a6fba", "#b5482a", "#3f8f5f", "#8a5aa8", "#c99b2e", "#3a9aa8", "#a8577f", "#6b7a3a")
INK, FAINT, PALE = "#232328", "#70767e", "#d9dde2"
SMALL = 7.0
"""Size of most of the type, in points."""


@dataclass
class Panel:
    """A picture of the report.

    Attributes:
        name: short, of letters only.
        title: of the part of the report.
        caption: what is seen, in sentences.
        size: width and height in inches; a page gives it its own width and this height.
        draw: draws it into an empty figure.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Any], None]


def size_of(figure: Any) -> tuple[float, float]:
    """Width and height of a figure, or a part of one, in inches."""
    return figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi


def inches(figure: Any, left: float, bottom: float, right: float, top: float) -> Any:
    """Axes with margins in inches, whatever the size of the figure (or part of one) is."""
    width, height = size_of(figure)
    wide, high = max(width - left - right, 0.1), max(height - bottom - top, 0.1)
    axis: Any = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axis.tick_params(labelsize=SMALL, color=FAINT)
    return axis


def heading(figure: Any, text: str) -> None:
    """A title in the upper left corner."""
    wide, high = size_of(figure)
    figure.text(0.02 / wide, 1 - 0.03 / high, text, fontsize=SMALL + 1.5, color=INK, va="top")


# --- curves ----------------------------------------------------------------------------------------------------------


def curves(run: Run) -> list[Panel]:
    """Loss, SSIM, PSNR, MSE and residuals, as far as the run has them."""
    panels = [_metric_panel(run, *which) for which in _METRICS] if run.table("profile") else []
    panels.append(Panel("loss", "Loss", _loss_caption(run), (3.8, 2.3), lambda figure: _loss(figure, run)))
    if run.table("convergence"):
        caption = "Relative change of the log density from one iteration of the solver to the next, of each image."
        panels.append(Panel("residuals", "Solver", caption, (3.8, 2.3), lambda figure: _residuals(figure, run)))
    return panels


_METRICS = (("ssim", "SSIM", "linear"), ("psnr", "PSNR [dB]", "linear"), ("mse", "MSE", "log"))
_UNMIXED = "the images take turns, a step each"


def _metric_panel(run: Run, key: str, label: str, scale: str) -> Panel:
    many = run.shown > 1
    what = "Quality of the sample" if not many else "Mean over the samples (black) and the sample of each image"
    if many and not run.told:
        what = "Mean over the samples (black) and each of them, measured by the image that is nearest"
    caption = f"{what}, against seconds of density, solver and training; epochs above. "
    caption += "The clock stands still while samples are measured. "
    if _precomputed(run) > 0.005 * (run.seconds("total") or 0.0):
        caption += "Grey: density and solver, before the first step. "
    levels = sorted({row["level"] for row in run.table("crossings")})
    if levels:
        caption += f"Dashed: {'sustained' if many else 'its sustained'} crossings of the levels of SSIM (dotted)"
        caption += ", by the mean." if many else "."
    return Panel(key, label.split(" ")[0], caption, (3.8, 2.5), lambda figure: _metric(figure, run, key, label, scale))


def _precomputed(run: Run) -> float:
    return sum(run.seconds(stage) or 0.0 for stage in ("density", "solve"))


def _metric(figure: Any, run: Run, key: str, label: str, scale: str) -> None:
    axis = inches(figure, 0.4, 0.4, 0.12, 0.47)
    rows = run.table("profile")
    times = mean_over(rows, "seconds", lambda row: row["step"])
    if run.shown > 1:
        for image in range(run.shown):
            own = mean_over([row for row in rows if row["image"] == image], key, lambda row: row["step"])
            axis.plot([times[s] for s in own], [*own.values()], color=COLOURS[image], linewidth=0.8, alpha=0.7)
    mean = mean_over(rows, key, lambda row: row["step"])
    colour = INK if run.shown > 1 else COLOURS[0]
    axis.plot([*times.values()], [*mean.values()], color=colour, linewidth=1.5)
    axis.set_yscale(scale)
    _limits(axis, key, [*mean.values()])
    axis.set_xlim(0, max(times.values()) * 1.02 or 1)
    if _precomputed(run):
        axis.axvspan(0, _precomputed(run), color=PALE, linewidth=0, zorder=0)
    _mark_crossings(axis, run, key)
    axis.set_xlabel("seconds", fontsize=SMALL, labelpad=1)
    tidy(axis)
    _epochs_above(axis, run)
    heading(figure, label)


def _limits(axis: Any, key: str, mean: Sequence[float]) -> None:
    finite = [value for value in mean if np.isfinite(value)]
    if key == "ssim":
        axis.set_ylim(min(0.0, *finite, 0.0), 1.0)
    elif key == "mse":
        positive = [value for value in finite if value > 0]
        if not positive:
            axis.set_yscale("linear")
            return
        # Labels at whole decades only: those between, long as they are, would lie on the panel beside it.
        axis.set_ylim(10.0 ** np.floor(np.log10(min(positive))), 10.0 ** np.ceil(np.log10(max(positive)) + 1e-9))
        axis.tick_params(axis="y", which="minor", labelleft=False)


def _mark_crossings(axis: Any, run: Run, key: str) -> None:
    """Vertical lines where the levels are crossed for good; in the panel of SSIM the levels too."""
    found = [row for row in run.table("crossings") if row["kind"] == "sustained" and row["image"] == _whole(run)]
    for place, row in enumerate(sorted(found, key=lambda row: row["level"])):
        colour = COLOURS[(1, 3, 4)[place % 3]]
        if key == "ssim":
            axis.axhline(row["level"], color=colour, linestyle=":", linewidth=0.8)
        if row["seconds"] is not None:
            axis.axvline(row["seconds"], color=colour, linestyle="--", linewidth=0.8)


def _whole(run: Run) -> str:
    """Name in crossings.csv of the curve of the mean, or of the only image."""
    called = {row["image"] for row in run.table("crossings")}
    return "mean" if "mean" in called or not called else sorted(called)[0]


def _epochs_above(axis: Any, run: Run) -> None:
    """A second axis at the top, on which round epochs stand at the seconds at which they were reached."""
    from matplotlib.ticker import MaxNLocator

    log = run.table("log")
    epochs, at = np.array([row["epoch"] for row in log]), np.array([row["seconds"] for row in log])
    left, right = axis.get_xlim()
    if len(log) < 2:
        return
    ticks = [e for e in MaxNLocator(5, integer=True).tick_values(epochs[0], epochs[-1]) if epochs[0] <= e <= epochs[-1]]
    twin = axis.secondary_xaxis("top")
    places = np.interp(ticks, epochs, at)
    kept = [k for k, place in enumerate(places) if left <= place <= right]
    twin.set_xticks(places[kept], [f"{ticks[k]:g}" for k in kept])
    twin.tick_params(labelsize=SMALL - 0.5, color=FAINT, labelcolor=FAINT, pad=1)
    twin.set_xlabel("epochs", fontsize=SMALL - 0.5, color=FAINT, labelpad=2)
    twin.spines["top"].set_color(PALE)


def _loss_caption(run: Run) -> str:
    weight = "the squared error of the predicted noise, averaged over pixels"
    if run.config.method.name == "score_embedding":
        weight = "denoising score matching, summed over pixels"
    caption = f"Loss of the steps (faint) and their running median, against epochs: {weight}."
    if len(_with_curves(run)) > 1:
        caption += f" A colour for each image: {_UNMIXED}."
    return caption


def _with_curves(run: Run) -> list[int | None]:
    """Images whose steps have a curve of their own; None, for all of them together, if they are mixed or many."""
    images = sorted({row["image"] for row in run.table("log")})
    return [*images] if len(images) <= SHOWN else [None]


def _loss(figure: Any, run: Run) -> None:
    axis = inches(figure, 0.45, 0.4, 0.12, 0.3)
    log = run.table("log")
    for place, image in enumerate(_with_curves(run)):
        rows = [row for row in log if image in (None, row["image"])]
        epochs, losses = [row["epoch"] for row in rows], np.array([row["loss"] for row in rows])
        colour = COLOURS[place % len(COLOURS)]
        axis.plot(epochs, losses, color=colour, alpha=0.25, linewidth=0.6)
        axis.plot(epochs, running_median(losses), color=colour, linewidth=1.3)
    if all(row["loss"] > 0 for row in log):
        axis.set_yscale("log")
    axis.set_xlabel("epochs", fontsize=SMALL, labelpad=1)
    axis.tick_params(which="minor", labelsize=SMALL - 1, color=FAINT)
    heading(figure, "Loss")
    tidy(axis)


def running_median(values: np.ndarray) -> np.ndarray:
    """Median of each value and its neighbours, about one thirtieth of them all, fewer at the ends."""
    half = max(1, len(values) // 60)
    return np.array([np.median(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])


def _residuals(figure: Any, run: Run) -> None:
    axis = inches(figure, 0.45, 0.4, 0.12, 0.3)
    rows = run.table("convergence")
    for image in sorted({row["image"] for row in rows})[:SHOWN]:
        own = [row for row in rows if row["image"] == image]
        x, y = [row["iteration"] for row in own], [row["residual"] for row in own]
        axis.semilogy(x, y, color=COLOURS[image % len(COLOURS)], marker="o", markersize=2.5, linewidth=1)
    axis.set_xlabel("iteration", fontsize=SMALL, labelpad=1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    heading(figure, "Residual of the solver")
    tidy(axis)


# --- timings ---------------------------------------------------------------------------------------------------------

INSIDE, APART = ("density", "solve", "training"), ("profiling", "sampling")
_EXPLAINED = {
    "density": "density", "solve": "solver", "training": "training", "total": "total",
    "profiling": "measuring curves", "sampling": "final samples",
}  # fmt: skip


def stages(run: Run) -> list[tuple[str, float]]:
    """Every stage of timings.csv with its seconds: what the total holds, the total, and what it does not hold."""
    found = {row["stage"]: row["seconds"] for row in run.table("timings")}
    order = [*INSIDE, "total", *APART]
    return [(stage, found[stage]) for stage in [*order, *(s for s in found if s not in order)] if stage in found]


def stage_label(stage: str) -> str:
    """Label of a stage."""
    name = _EXPLAINED.get(stage, stage)
    return f"{name} (apart)" if stage in APART else name


def timings(run: Run) -> Panel:
    """Bars, one for each stage."""
    caption = "Seconds of every stage. The total is density, solver and training; what is paler is not in it."
    return Panel("timings", "Timings", caption, (3.8, 1.7), lambda figure: _timings(figure, run))


def _timings(figure: Any, run: Run) -> None:
    axis = inches(figure, 1.42, 0.08, 0.62, 0.24)
    found = stages(run)
    places = np.arange(len(found))
    colours = [INK if s == "total" else COLOURS[0] if s in INSIDE else "#b9cbe0" for s, _ in found]
    axis.barh(places, [value for _, value in found], color=colours, height=0.62)
    axis.set_yticks(places, [stage_label(stage) for stage, _ in found], fontsize=SMALL)
    axis.invert_yaxis()
    axis.set_xticks([])
    for place, (_, value) in zip(places, found, strict=True):
        axis.annotate(
            seconds(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL
        )
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.spines["left"].set_color(PALE)
    axis.tick_params(axis="y", length=0)
    heading(figure, "Timings")


def seconds(value: float) -> str:
    """A time that reads well."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs" if value else "0 s"
    if value < 0.1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 1000 else f"{value:,.0f} s"


# --- tables ----------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: str) -> str:
    """A cell: empty for None."""
    return "" if value is None else format(value, digits)


def metric_table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: an image each, samples averaged, and the mean of all; or, of samples that were not told which
    image to make, a sample each."""
    rows = run.table("metrics")
    digits = {"ssim": ".4f", "psnr": ".2f", "mse": ".5f", "evaluations": ".0f"}
    names = run.names()
    if run.told:
        labels = [(row["image"], names[row["image"]]) for row in rows]
    else:
        like = [run.targets(sample) for sample in range(len(run.samples))]
        labels = [((row["sample"], row["image"]), _likeness(row, like, names)) for row in rows]
    groups = dict(labels)
    rows = [row | {"group": group} for row, (group, _) in zip(rows, labels, strict=True)]
    columns = {key: mean_over(rows, key, lambda row: row["group"]) for key in digits}
    cells = [
        [label, *(number(columns[key][group], digits[key]) for key in digits)]
        for group, label in [*groups.items()][:SHOWN]
    ]
    if len(groups) > 1:
        means = [number(float(np.mean([*columns[key].values()])), digits[key]) for key in digits]
        cells.append([f"mean of {len(groups)}", *means])
    return ["image" if run.told else "sample, its nearest", "SSIM", "PSNR [dB]", "MSE", "evaluations"], cells


def _likeness(row: Row, like: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    nearest = names[like[row["sample"]][row["image"]]] if row["image"] < len(like[row["sample"]]) else ""
    return f"{row['image']}, {nearest}" if len(like) == 1 else f"{row['image']}.{row['sample']}, {nearest}"


def crossing_table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a level and a kind each, of the mean or the only image; no rows if nothing was profiled."""
    rows: list[Row] = [row for row in run.table("crossings") if row["image"] == _whole(run)]
    cells = []
    for row in sorted(rows, key=lambda row: (row["level"], row["kind"] != "sustained")):
        which = f"{row['level']:g}, {row['kind']}"
        if row["seconds"] is None:
            cells.append([which, "not reached", "", "", ""])
            continue
        where = [number(row[key], ".0f") for key in ("step", "epoch")]
        cells.append([which, seconds(row["seconds"]), *where, number(row["mse"], ".5f")])
    return ["SSIM", "time", "step", "epoch", "MSE then"], cells
