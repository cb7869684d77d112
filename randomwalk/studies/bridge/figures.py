"""Figures of a bridge: paths, pairs and errors, and an animation, returned as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from randomwalk.studies.bridge.gaussian import GaussianBridge
from randomwalk.studies.bridge.measures import Paths

GREY, INK, BLUE, RED = "0.8", "0.25", "#2a6fba", "#b5482a"
SHOWN = 2500
"""Largest number of points in a scatter plot."""
NUM_PATHS, NUM_PAIRS = 50, 80
MOMENTS_SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Ends:
    """Exact points to draw under the simulated ones, ``[n, 2]`` each, and the names of both ends."""

    source: np.ndarray
    target: np.ndarray
    source_name: str
    target_name: str

    @property
    def reach(self) -> float:
        """Half the side of the visible square."""
        both = np.abs(np.concatenate([self.source, self.target]))
        return float(1.2 * np.quantile(both, 0.999))


@dataclass(frozen=True)
class Curve:
    """Transport cost of the pairs of each fit, and lines to compare with."""

    fits: Sequence[int]
    costs: Sequence[float]
    lines: dict[str, float]
    exact: Sequence[float] | None = None


def colours(points: np.ndarray) -> np.ndarray:
    """Colours ``[n, 3]`` in [0, 1] of points ``[n, 2]``, by their direction from the middle; paler near it."""
    from matplotlib.colors import hsv_to_rgb

    middle = points - np.median(points, axis=0)
    hue = (np.arctan2(middle[:, 1], middle[:, 0]) / (2 * np.pi)) % 1.0
    radius = np.hypot(middle[:, 0], middle[:, 1])
    strength = 0.45 + 0.5 * np.clip(radius / np.quantile(radius, 0.9), 0, 1)
    found: np.ndarray = hsv_to_rgb(np.stack([hue, strength, np.full_like(hue, 0.82)], 1))
    return found


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _square(axis: Any, reach: float) -> None:
    axis.set_anchor("N")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_color("0.85")


def _tidy(axis: Any) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


# --- paths and pairs --------------------------------------------------------------------------------------------------


def bridge_figure(paths: dict[bool, Paths], ends: Ends, curve: Curve | None = None) -> bytes:
    """Draw the points of each direction at five times over the exact ends, paths, pairs, and cost by fit; a PNG.

    A point keeps the colour of its start.

    Args:
        paths: of one direction or both; forward under True.
    """
    rows = len(paths) + 1
    figure = _figure((13, 2.75 * rows + 0.35))
    grid = figure.add_gridspec(
        rows, 5, left=0.045, right=0.985, top=1 - 0.4 / (2.75 * rows + 0.35), bottom=0.075, wspace=0.06, hspace=0.16
    )
    for row, forward in enumerate(sorted(paths, reverse=True)):
        _draw_times(figure, [grid[row, column] for column in range(5)], paths[forward], ends, forward)
    ratios = [*[1.0] * len(paths), 2.1, *([1.3] if curve is not None else [])]
    last = grid[rows - 1, :].subgridspec(1, len(ratios), wspace=0.18, width_ratios=ratios)
    for column, forward in enumerate(sorted(paths, reverse=True)):
        _draw_paths(figure.add_subplot(last[column]), paths[forward], ends, forward)
    _draw_pairs(figure.add_subplot(last[len(paths)]), paths[max(paths)], ends)
    if curve is not None:
        _draw_curve(figure.add_subplot(last[len(paths) + 1]), curve)
    return _png(figure)


def _draw_times(figure: Any, places: Sequence[Any], way: Paths, ends: Ends, forward: bool) -> None:
    colour, shown = colours(way.points[0])[:SHOWN], np.linspace(0, 1, len(places))
    for place, t in zip(places, shown, strict=True):
        axis = figure.add_subplot(place)
        if t in (0.0, 1.0):
            exact = ends.source if t == 0 else ends.target
            axis.scatter(*exact[:SHOWN].T, s=9, color=GREY, linewidths=0)
        axis.scatter(*way.at(t)[:SHOWN].T, s=2.2, c=colour, linewidths=0)
        _square(axis, ends.reach)
        if forward or t in (0.0, 1.0):
            name = ends.source_name if t == 0 else ends.target_name if t == 1 else ""
            axis.set_title(f"t = {t:g}" + (f", {name}" if name else ""), fontsize=10, color=INK)
    first = figure.axes[-len(places)]
    first.set_ylabel("forward  →" if forward else "←  backward", fontsize=11, color=INK)


def _draw_paths(axis: Any, way: Paths, ends: Ends, forward: bool) -> None:
    axis.scatter(*ends.source[:SHOWN].T, s=2, color="#cfe0f2", linewidths=0)
    axis.scatter(*ends.target[:SHOWN].T, s=2, color="#f2d6cc", linewidths=0)
    colour = colours(way.points[0])
    for i in range(min(NUM_PATHS, way.points.shape[1])):
        axis.plot(*way.points[:, i].T, color=colour[i], linewidth=0.7, alpha=0.8)
    axis.scatter(*way.points[0, :NUM_PATHS].T, s=14, c=colour[:NUM_PATHS], edgecolors="white", linewidths=0.5, zorder=3)
    axis.scatter(
        *way.points[-1, :NUM_PATHS].T, s=16, c=colour[:NUM_PATHS], marker="s", edgecolors=INK, linewidths=0.5, zorder=3
    )
    _square(axis, ends.reach)
    axis.set_title(f"{NUM_PATHS} paths {'forward' if forward else 'backward'}, ● to ■", fontsize=10, color=INK)


def _draw_pairs(axis: Any, way: Paths, ends: Ends) -> None:
    x0, x1 = way.pairs()
    colour, gap = colours(x0), 2.6 * ends.reach
    shift = np.array([gap, 0.0])
    axis.scatter(*ends.source[:SHOWN].T, s=2, color=GREY, linewidths=0)
    axis.scatter(*(ends.target[:SHOWN] + shift).T, s=2, color=GREY, linewidths=0)
    for i in range(min(NUM_PAIRS, len(x0))):
        axis.plot(*np.stack([x0[i], x1[i] + shift]).T, color=colour[i], linewidth=0.6, alpha=0.7)
    axis.set_anchor("N")
    axis.set(xlim=(-ends.reach, gap + ends.reach), ylim=(-ends.reach, ends.reach), aspect="equal", xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_color("0.85")
    axis.set_title(f"{NUM_PAIRS} pairs of the coupling", fontsize=10, color=INK)


def _draw_curve(axis: Any, curve: Curve) -> None:
    axis.plot(curve.fits, curve.costs, color=BLUE, marker="o", markersize=3.5, label="pairs of each fit")
    if curve.exact is not None:
        axis.plot(
            range(len(curve.exact)),
            curve.exact,
            color=RED,
            linewidth=1,
            marker="x",
            markersize=4,
            label="exact iteration",
        )
    for (name, value), style in zip(curve.lines.items(), ("--", ":"), strict=False):
        axis.axhline(value, color=INK, linestyle=style, linewidth=1, label=name)
    axis.set_title("transport cost E |X₁ - X₀|²", fontsize=10, color=INK)
    axis.set_xlabel("fit", fontsize=9, labelpad=1)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7.5, frameon=False)
    axis.xaxis.get_major_locator().set_params(integer=True)
    _tidy(axis)


# --- between Gaussians -----------------------------------------------------------------------------------------------


def gaussian_figure(
    paths: dict[bool, Paths], exact: GaussianBridge, table: Sequence[dict[str, Any]], curve: Curve
) -> bytes:
    """Plot moments over time, their errors, and the iteration against the exact one; a PNG."""
    figure = _figure((14.5, 4.4))
    axes = figure.subplots(1, 4, width_ratios=[1.15, 1, 1, 1])
    figure.subplots_adjust(left=0.025, right=0.99, top=0.91, bottom=0.24, wspace=0.22)
    _draw_ellipses(axes[0], paths, exact)
    for axis, key, title in (
        (axes[1], "mean", "error of the mean / √tr Σ"), (axes[2], "covariance", "error of the covariance / |Σ|")
    ):  # fmt: skip
        _draw_errors(axis, table, key, title)
    _draw_curve(axes[3], curve)
    for axis, columns in ((axes[0], 3), (axes[3], 2)):
        place = {"loc": "upper right", "bbox_to_anchor": (1.0, -0.13), "ncols": columns, "columnspacing": 1.0}
        axis.legend(fontsize=8, frameon=False, **place)
    handles, names = axes[1].get_legend_handles_labels()
    middle = (axes[1].get_position().x0 + axes[2].get_position().x1) / 2
    figure.legend(handles, names, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(middle, 0.02), ncols=3)
    return _png(figure)


def _ellipse(mean: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Curve at two standard deviations, ``[100, 2]``."""
    angle = np.linspace(0, 2 * np.pi, 100)
    found: np.ndarray = mean + 2 * np.stack([np.cos(angle), np.sin(angle)], 1) @ np.linalg.cholesky(S).T
    return found


def _draw_ellipses(axis: Any, paths: dict[bool, Paths], exact: GaussianBridge) -> None:
    for t in MOMENTS_SHOWN:
        at = float(paths[True].times[int(np.abs(paths[True].times - t).argmin())])
        axis.plot(
            *_ellipse(exact.mean(at), exact.covariance(at)).T,
            color="0.55",
            linewidth=2.4,
            label="exact" if t == 0 else None,
        )
        for forward, colour, style in ((True, BLUE, "--"), (False, RED, ":")):
            points = paths[forward].at(at).astype(np.float64)
            name = ("forward" if forward else "backward") if t == 0 else None
            axis.plot(
                *_ellipse(points.mean(0), np.cov(points.T)).T, color=colour, linestyle=style, linewidth=1.3, label=name
            )
        mean, S = exact.mean(at), exact.covariance(at)
        lowest = mean - 2 * S[:, 1] / S[1, 1] ** 0.5
        label = {"xytext": (-2, -1), "textcoords": "offset points", "ha": "right", "va": "top"}
        axis.annotate(f"t = {t:g}", lowest, fontsize=8, color=INK, **label)
    axis.margins(0.1)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xticks=[], yticks=[])
    axis.set_title("two standard deviations at five times", fontsize=10, color=INK)
    for spine in axis.spines.values():
        spine.set_color("0.85")


def _draw_errors(axis: Any, table: Sequence[dict[str, Any]], key: str, title: str) -> None:
    styles = {
        "forward": (BLUE, "-"),
        "backward": (RED, "-"),
        "forward, exact drift": (BLUE, ":"),
        "backward, exact drift": (RED, ":"),
    }
    for direction, (colour, style) in styles.items():
        lines = sorted((line for line in table if line["direction"] == direction), key=lambda line: float(line["t"]))
        times, values = [line["t"] for line in lines], [line[f"{key}_error"] for line in lines]
        axis.plot(times, values, color=colour, linestyle=style, linewidth=1.3, label=direction)
    lines = sorted((line for line in table if line["direction"] == "forward"), key=lambda line: float(line["t"]))
    times, noise = [line["t"] for line in lines], [line[f"{key}_noise"] for line in lines]
    axis.plot(times, noise, color="0.5", linewidth=1, linestyle="--", label="noise of this many points")
    axis.set_title(title, fontsize=10, color=INK)
    axis.set_xlabel("t", fontsize=9, labelpad=1)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    _tidy(axis)


# --- animation -------------------------------------------------------------------------------------------------------


def animation(paths: dict[bool, Paths], ends: Ends, frames: int, num: int = 500, side: int = 280) -> bytes:
    """Animate the points, in a panel for each direction; an animated WebP that repeats for ever.

    Args:
        frames: number of frames, evenly spaced in time.
        num: number of points.
        side: of a panel in pixels.
    """
    pictures = [_frame(paths, ends, step, num, side) for step in np.linspace(0, 1, frames)]
    out = BytesIO()
    durations = [700, *[70] * (frames - 2), 1500] if frames > 1 else [1500]
    pictures[0].save(
        out, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=50, method=4
    )  # fmt: skip
    return out.getvalue()


def _frame(paths: dict[bool, Paths], ends: Ends, done: float, num: int, side: int) -> Image.Image:
    """Draw the frame at the share ``done`` of the time; drawn large and reduced, for smooth edges."""
    scale, gap, head, foot = 3, 10, 24, 14
    width, height = gap + len(paths) * (side + gap), head + side + foot
    sheet = Image.new("RGB", (scale * width, scale * height), "white")
    draw = ImageDraw.Draw(sheet)
    font: Any = ImageFont.load_default(13 * scale)
    for column, forward in enumerate(sorted(paths, reverse=True)):
        left, t = gap + column * (side + gap), done if forward else 1 - done
        names = (ends.source_name, ends.target_name) if forward else (ends.target_name, ends.source_name)
        title = f"{names[0]} to {names[1]}   t = {t:.2f}"
        draw.text((scale * (left + side / 2), scale * head / 2), title, (60, 60, 66), font, "mm")

        def place(points: np.ndarray, left: int = left) -> np.ndarray:
            found: np.ndarray = scale * (
                np.array([left, head]) + side * (0.5 + 0.5 * points * np.array([1, -1]) / ends.reach)
            )
            return found

        goal = place((ends.target if forward else ends.source)[:1200])
        for x, y in goal:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=(216, 216, 222))
        colour = (255 * colours(paths[forward].points[0])[:num]).astype(int)
        r = 2.1 * scale
        for (x, y), c in zip(place(paths[forward].at(t)[:num]), colour, strict=True):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in c))
        bar = scale * np.array([left, head + side + 5, left + side, head + side + 8])
        draw.rectangle(list(bar), fill=(228, 228, 232))
        length = scale * side * (t if forward else 1 - t)
        start = bar[0] if forward else bar[2] - length
        draw.rectangle([start, bar[1], start + length, bar[3]], fill=(42, 111, 186) if forward else (181, 72, 42))
    return sheet.resize((width, height), Image.Resampling.LANCZOS)
