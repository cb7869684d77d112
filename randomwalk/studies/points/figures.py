"""Figures of points, scores and SDEs, returned as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.rng import Stream, generator
from randomwalk.studies.points.datasets import STD

DATA, SAMPLES, LINE, FAINT = "#5a6b7b", "#c2512f", "#2a6fba", "#b8c0c8"
REACH = 2.6
"""Half the width of the axes, in standard deviations of the sets: 5.2."""
SHOWN = 10_000
"""Largest number of points in a panel."""

Field = Callable[[np.ndarray, float], np.ndarray]
"""``score(x, sigma)`` of points ``[n, 2]``, ``[n, 2]``."""


def _figure(width: float, height: float, dpi: int = 100) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image(figure: Any) -> Image.Image:
    """Image of the figure, with a palette, which takes a third of the bytes."""
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return Image.open(out).convert("RGB").quantize(256, dither=Image.Dither.NONE)


def _plane(axis: Any, title: str, reach: float = REACH * STD) -> None:
    """Set equal axes around the origin, with few ticks."""
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    axis.set_xticks([-4, 0, 4])
    axis.set_yticks([-4, 0, 4])
    axis.tick_params(labelsize=8, color=FAINT, labelcolor="#707880")
    for spine in axis.spines.values():
        spine.set_color(FAINT)


def _dots(axis: Any, points: np.ndarray, colour: str) -> None:
    shown = points[:SHOWN]
    size, alpha = (1.5, 0.5) if len(shown) > 4000 else (4.0, 0.6)
    axis.scatter(*shown.T, s=size, alpha=alpha, color=colour, linewidths=0, rasterized=True)


def samples(points: np.ndarray, truth: np.ndarray | None = None, caption: str = "") -> Image.Image:
    """Draw samples, beside as many points of the set if it is known.

    Args:
        points: ``[n, 2]``.
        truth: points of the set.
        caption: line below the panels.
    """
    panels = [("samples", points, SAMPLES)] if truth is None else [
        ("data", truth[: len(points)], DATA), ("samples", points, SAMPLES)
    ]  # fmt: skip
    figure = _figure(3.6 * len(panels), 3.9 if not caption else 4.2)
    for axis, (title, shown, colour) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _dots(axis, shown, colour)
        _plane(axis, title)
    if caption:
        figure.supxlabel(caption, fontsize=10, color="#404850")
    return _image(figure)


# --- scores ------------------------------------------------------------------------------------------------------


def _grid(side: int) -> np.ndarray:
    ticks = np.linspace(-REACH * STD, REACH * STD, side + 2)[1:-1]
    return np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2).astype(np.float32)


def _arrows(axis: Any, grid: np.ndarray, field: np.ndarray, sigma: float) -> Any:
    """Draw arrows of equal length along the score, coloured by ``sigma |score|``."""
    length = np.linalg.norm(field, axis=1)
    unit = field / np.maximum(length, 1e-12)[:, None]
    look = {"scale": 1.2 * len(grid) ** 0.5, "width": 0.006, "headwidth": 4.5, "pivot": "mid"}
    return axis.quiver(*grid.T, *unit.T, sigma * length, cmap="viridis", clim=(0, 3), **look)


def score_field(
    score: Field, levels: Sequence[tuple[str, float]], truth: np.ndarray | None, seed: int = 0
) -> Image.Image:
    """Draw the score at some noise levels, over noisy points of the set.

    Arrows have equal length; their colour is ``sigma |score|``, the distance to the denoised point in units of sigma.

    Args:
        score: of the network.
        levels: a title and a noise level for each panel.
        truth: points of the set ``[n, 2]``.
        seed: of the noise on them.
    """
    grid, draws = _grid(19), generator(seed, Stream.POINTS_FIELD)
    figure = _figure(3.3 * len(levels) + 0.5, 3.7)
    axes = figure.subplots(1, len(levels), squeeze=False)[0]
    for axis, (title, sigma) in zip(axes, levels, strict=True):
        if truth is not None:
            noisy = truth[:3000] + sigma * draws.standard_normal((len(truth[:3000]), 2))
            axis.scatter(*noisy.T, s=3, color=SAMPLES, alpha=0.35, linewidths=0)
        shown = _arrows(axis, grid, score(grid, sigma), sigma)
        _plane(axis, title)
    figure.colorbar(shown, ax=axes, label="σ |score|", shrink=0.85, pad=0.01, extend="max")
    return _image(figure)


def score_error(
    learned: Field, true: Field, levels: Sequence[tuple[str, float]], errors: Mapping[float, float]
) -> Image.Image:
    """Draw the true score, the learned one and their difference at some noise levels, and the error at all levels.

    Args:
        learned, true: the two scores.
        levels: a title and a noise level for each column.
        errors: relative error by noise level.
    """
    grid, fine = _grid(15), _grid(80)
    side = REACH * STD
    figure = _figure(2.75 * len(levels) + 0.8, 11.2)
    rows = figure.subplots(4, len(levels), squeeze=False, height_ratios=[1, 1, 1, 0.75])
    for column, (title, sigma) in enumerate(levels):
        for axis, field, name in zip(rows[:2, column], (true, learned), ("true score", "learned score"), strict=True):
            arrows = _arrows(axis, grid, field(grid, sigma), sigma)
            _plane(axis, title if name == "true score" else "")
        difference = sigma * np.linalg.norm(learned(fine, sigma) - true(fine, sigma), axis=1).reshape(80, 80)
        shown = rows[2, column].imshow(
            difference, origin="lower", extent=(-side, side, -side, side), cmap="magma", vmin=0, vmax=1
        )
        _plane(rows[2, column], "")
    for row, name in zip(rows, ("true score", "learned score", "|difference|"), strict=False):
        row[0].set_ylabel(name, fontsize=11)
    figure.colorbar(arrows, ax=rows[:2], label="σ |score|", shrink=0.6, pad=0.01, extend="max")
    figure.colorbar(shown, ax=rows[2], label="σ |difference|", shrink=0.85, pad=0.01, extend="max")
    for axis in rows[3]:
        axis.remove()
    axis = figure.add_subplot(rows[3, 0].get_gridspec()[3, :])
    axis.loglog(list(errors), list(errors.values()), ".-", color=LINE)
    axis.set(xlabel="noise level σ", ylabel="relative error", title="relative error of the score at noisy points")
    _tidy(axis)
    return _image(figure)


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


# --- SDEs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SDECurves:
    """Mean and standard deviation of an SDE against time, in closed form and simulated at some times.

    Attributes:
        name: of the SDE.
        t, mean, std: closed form.
        times, means, stds: of the simulation of ``num_paths`` paths.
        wide: whether the standard deviation needs a logarithmic axis.
    """

    name: str
    t: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    times: np.ndarray
    means: np.ndarray
    stds: np.ndarray
    num_paths: int
    wide: bool


def sde_figure(curves: Sequence[SDECurves]) -> Image.Image:
    """Plot mean and standard deviation of SDEs against time: closed form as lines, a simulation as dots."""
    figure = _figure(2.9 * len(curves) + 0.4, 5.1)
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    for column, found in enumerate(curves):
        pairs = (("mean", found.mean, found.means), ("standard deviation", found.std, found.stds))
        for axis, (label, theory, simulated) in zip(axes[:, column], pairs, strict=True):
            axis.plot(found.t, theory, color=LINE, label="theory")
            error = 2 * found.stds / found.num_paths**0.5 if label == "mean" else None
            dots: dict[str, Any] = {"color": SAMPLES, "markersize": 4, "elinewidth": 1}
            axis.errorbar(found.times, simulated, error, fmt="o", label="simulation (± 2 standard errors)", **dots)
            if column == 0:
                axis.set_ylabel(label)
            _tidy(axis)
        low, high = axes[0, column].get_ylim()
        axes[0, column].set_ylim(min(low, -0.1), max(high, 1.1))
        if found.wide:
            axes[1, column].set_yscale("log")
        axes[0, column].set_title(found.name)
        axes[1, column].set_xlabel("time t")
    lines = axes[0, 0].get_legend_handles_labels()
    # Below the panels, where it hides no dots.
    figure.legend(*lines, loc="outside lower center", ncols=min(2, len(curves)), frameon=False, fontsize=9)
    return _image(figure)


# --- particles ---------------------------------------------------------------------------------------------------


def particles(walk: np.ndarray, sigmas: Sequence[float], truth: np.ndarray | None = None) -> list[Image.Image]:
    """Draw the frames of an animation: the points at each noise level, over the set in grey.

    Points are drawn as ``2 x / sqrt(4 + sigma^2)``, which gives noisy sets the same spread at all levels.

    Args:
        walk: ``[frames, n, 2]``.
        sigmas: noise level of each frame, 0 of the last.
        truth: points of the set.
    """
    frames = []
    for x, sigma in zip(walk, sigmas, strict=True):
        figure = _figure(3.6, 3.9, dpi=90)
        axis = figure.subplots()
        if truth is not None:
            axis.scatter(*truth[:2000].T, s=2, color=FAINT, linewidths=0)
        axis.scatter(*(STD * x / np.sqrt(STD**2 + sigma**2)).T, s=3, color=SAMPLES, alpha=0.7, linewidths=0)
        _plane(axis, f"σ = {sigma:.3g}" if sigma else "samples")
        frames.append(_image(figure))
    return frames


def animation(frames: Sequence[Image.Image], milliseconds: int = 90, hold: int = 2000) -> bytes:
    """Encode an animated GIF that repeats for ever and holds the last frame."""
    out = BytesIO()
    palette = frames[-1].convert("RGB").quantize(32, dither=Image.Dither.NONE)
    small = [frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(small) - 1) + [hold]
    small[0].save(out, "GIF", save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=False)
    return out.getvalue()
