"""Pictures of a run: tiles, animations, the overview, the noise schedule. Everything returns images; no files."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from randomwalk.samplers import Plan
from randomwalk.samplers.walk import PreconditionedStep
from randomwalk.sampling.calibration import CONTESTED, Calibration

INK, FAINT, PAPER, BAR = (35, 35, 40), (120, 120, 128), (255, 255, 255), (42, 111, 186)
THUMBNAIL = 320
"""Longest side in pixels of an image in an overview."""
STD_WHITE = 0.5
LABEL_WIDTH = 160  # of the label of a row, in pixels
"""Standard deviation, in [-1, 1] units, that the pictures of it show as the brightest colour."""


def enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    """A uint8 image ``[H, W]`` or ``[H, W, 3]`` whose pixels are repeated until its long side is ``side`` or nearly.

    A larger one is scaled down to that.
    """
    image = Image.fromarray(pixels).convert("RGB")
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image
    factor = side // max(image.size)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def enlarged_to(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A smaller image brought to ``height`` by ``width`` by repeating pixels, where these are multiples."""
    rows, columns = height // pixels.shape[0], width // pixels.shape[1]
    return pixels.repeat(rows, axis=0).repeat(columns, axis=1) if min(rows, columns) > 1 else pixels


def std_map(std: np.ndarray) -> np.ndarray:
    """Standard deviations ``[H, W]`` as colours ``[H, W, 3]``, on the fixed scale from 0 to `STD_WHITE`."""
    from matplotlib import colormaps

    colours = colormaps["magma"](np.clip(std / STD_WHITE, 0, 1))[..., :3]
    return (colours * 255).round().astype(np.uint8)


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shorten(text: str, width: float, font: Any) -> str:
    """``text``, its middle left out if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if font.getlength(short) <= width:
            return short
    return ""


def _write(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, colour: Any, anchor: str) -> None:
    draw.text(xy, text, font=_font(size), fill=colour, anchor=anchor)


# --- overview ------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One row of an overview: what it shows, an image for each column (None leaves it empty), a caption for each."""

    label: str
    images: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()


def overview(rows: Sequence[Row], headings: Sequence[str] = (), side: int = 128) -> Image.Image:
    """Rows of labelled tiles; small images are enlarged by repeating pixels, large ones scaled down to `THUMBNAIL`.

    Args:
        rows: what to show, each with as many images as there are columns.
        headings: a title for each column.
        side: side of a tile in pixels, at least that of the images up to `THUMBNAIL`.
    """
    gap, caption, label_size = 8, 20, 15
    sizes = [image.shape[:2] for row in rows for image in row.images if image is not None]
    tiles = [_tile(row, max(side, min(THUMBNAIL, *(max(size) for size in sizes)))) for row in rows]
    width, height = (max(getattr(t, k) for ts in tiles for t in ts if t is not None) for k in ("width", "height"))
    labels = [_shorten(row.label, LABEL_WIDTH, _font(label_size)) for row in rows]
    left = gap + round(max((_font(label_size).getlength(label) for label in labels), default=0))
    left += gap if left > gap else 0
    top = gap + (caption if headings else 0)
    heights = [height + gap + (caption if row.captions else 0) for row in rows]
    columns = max(len(row.images) for row in rows)
    sheet = Image.new("RGB", (left + columns * (width + gap), top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, heading in enumerate(headings):
        x = left + c * (width + gap) + width / 2
        _write(draw, (x, gap), _shorten(heading, width, _font(13)), 13, FAINT, "mt")
    y = top
    for row, label, images, row_height in zip(rows, labels, tiles, heights, strict=True):
        _write(draw, (left - gap, y + height / 2), label, label_size, INK, "rm")
        for c, tile in enumerate(images):
            x0 = left + c * (width + gap)
            if tile is not None:
                sheet.paste(tile, (x0 + (width - tile.width) // 2, y + (height - tile.height) // 2))
            if row.captions:
                _write(draw, (x0 + width / 2, y + height + 3), row.captions[c], 13, INK, "mt")
        y += row_height
    return sheet


def _tile(row: Row, side: int) -> list[Image.Image | None]:
    return [None if image is None else enlarged(image, side) for image in row.images]


def grid(images: Sequence[np.ndarray], side: int = 96) -> Image.Image:
    """Images in a nearly square grid without labels."""
    columns = int(np.ceil(np.sqrt(len(images))))
    padded = [*images, *[None] * (-len(images) % columns)]
    return overview([Row("", padded[i : i + columns]) for i in range(0, len(padded), columns)], side=side)


# --- animation -----------------------------------------------------------------------------------------------


def frame(panels: Sequence[tuple[str, np.ndarray]], text: str, done: float, side: int = 128) -> Image.Image:
    """One frame: captioned tiles side by side, with a bar and a line of text under them.

    Args:
        panels: caption and image of each tile.
        text: the line.
        done: how far the bar is, from 0 to 1.
        side: side of a tile in pixels, at least that of the images.
    """
    gap, line = 8, 20
    side = max(side, *(max(image.shape[:2]) for _, image in panels))
    tiles = [(caption, enlarged(image, side)) for caption, image in panels]
    width, height = (max(getattr(tile, k) for _, tile in tiles) for k in ("width", "height"))
    picture = Image.new("RGB", (gap + len(tiles) * (width + gap), line + gap + height + gap + line + 4), PAPER)
    draw = ImageDraw.Draw(picture)
    for c, (caption, tile) in enumerate(tiles):
        x0 = gap + c * (width + gap)
        _write(draw, (x0 + width / 2, gap / 2 + line / 2), _shorten(caption, width, _font(14)), 14, INK, "mm")
        picture.paste(tile, (x0 + (width - tile.width) // 2, line + gap // 2 + (height - tile.height) // 2))
    bottom = line + gap // 2 + height + gap // 2
    draw.rectangle([gap, bottom, picture.width - gap - 1, bottom + 3], fill=(225, 225, 230))
    draw.rectangle([gap, bottom, gap + round(done * (picture.width - 2 * gap - 1)), bottom + 3], fill=BAR)
    _write(draw, (picture.width / 2, bottom + 8), text, 13, FAINT, "mt")
    return picture


def animation(frames: Sequence[Image.Image], lossless: bool, milliseconds: int = 120, hold: int = 1800) -> bytes:
    """An animated WebP that repeats for ever, the last frame held for longer.

    Args:
        frames: all of one size.
        lossless: the smaller and faster choice for enlarged small images, the larger and slower one for photographs.
        milliseconds: for which a frame is shown.
        hold: the same for the last one.
    """
    out = BytesIO()
    options = {"lossless": True, "quality": 0} if lossless else {"quality": 80}
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, method=0, **options
    )
    return out.getvalue()


# --- curves --------------------------------------------------------------------------------------------------


def new_figure(size: tuple[float, float], dpi: int = 110) -> Any:
    """A Matplotlib figure of ``size`` inches, without a window or any global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Any) -> None:
    """A faint grid, and no frame at the top and on the right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def png(figure: Any) -> bytes:
    """The figure as a PNG."""
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def schedule_figure(levels: Sequence[float], plan: Plan | None = None, norm: float | None = None) -> bytes:
    """Noise levels as a PNG; of a walk, noise level, step size and temperature of every step.

    Args:
        levels: of the schedule.
        plan: of the walk, if the sampler is one.
        norm: the operator's, for preconditioned steps: their smallest gain is in that direction.
    """
    figure = new_figure((11, 3.5) if plan is not None else (4.2, 3.2))
    axes = figure.subplots(1, 3 if plan is not None else 1, squeeze=False)[0]
    left, bottom = (0.05, 0.23) if plan is not None else (0.13, 0.15)
    figure.subplots_adjust(left=left, right=0.985, top=0.9, bottom=bottom, wspace=0.2)
    sigmas = np.asarray(levels if plan is None else plan.sigmas)
    axes[0].semilogy(np.arange(len(sigmas)), sigmas, color="#2a6fba")
    axes[0].set_title("noise level σ")
    if plan is not None:
        _draw_walk(axes, plan, norm)
    for axis in axes:
        axis.set_xlabel("step k" if plan is not None else "level")
        axis.minorticks_off()
        axis.xaxis.get_major_locator().set_params(integer=True)
        tidy(axis)
    return png(figure)


def _draw_walk(axes: Any, plan: Plan, norm: float | None) -> None:
    k, sigmas = np.arange(len(plan.sigmas)), np.asarray(plan.sigmas)
    for label, values in _step_sizes(plan, norm).items():
        axes[1].semilogy(k, values, label=label)
    axes[1].semilogy(k, sigmas**2, color="0.7", linestyle=":", label="σ² (a jump to the denoised image)", zorder=0)
    axes[1].set_title("step size τ")
    _legend_below(axes[1])
    axes[2].plot(k, plan.temperatures, color="#b5482a")
    axes[2].set_title("temperature T")
    axes[2].set_ylim(bottom=0)


def _legend_below(axis: Any) -> None:
    """The legend under the label of the axis, where it hides no curve."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 3, "columnspacing": 1.0}
    axis.legend(fontsize=8, frameon=False, **place)


def _step_sizes(plan: Plan, norm: float | None) -> dict[str, np.ndarray]:
    steps = plan.step_sizes
    if all(isinstance(step, PreconditionedStep) for step in steps):
        c = [(step.scale, step.sigma, step.eta) for step in steps if isinstance(step, PreconditionedStep)]
        eigenvalue = (1.0 if norm is None else norm) ** 2
        return {
            "τ where nothing is measured": np.array([s * sigma**2 for s, sigma, _ in c]),
            "τ where most is measured": np.array([s / (1 / sigma**2 + eigenvalue / eta**2) for s, sigma, eta in c]),
        }
    if all(isinstance(step, (int, float)) for step in steps):
        return {"τ": np.array([float(step) for step in steps if isinstance(step, (int, float))])}
    return {}


# --- calibration ---------------------------------------------------------------------------------------------


def calibration_lines(calibrations: Mapping[str, Calibration]) -> list[str]:
    """What to print: whether the spread of the samples is to be believed."""
    if not calibrations:
        return []
    chosen, everything = calibrations["contested"], calibrations["all"]
    if chosen.num_pixels == 0:
        return [f"samples and truth agree everywhere (std below {CONTESTED:g}): no spread to judge"]
    share = chosen.num_pixels / everything.num_pixels
    which = f"of the contested pixels ({100 * share:.0f}% of all)"
    return [
        f"{chosen.summary()} {which}: {chosen.verdict()}",
        f"{everything.summary()} of all pixels; contested: std of samples and truth together above {CONTESTED:g}",
    ]


def calibration_figure(calibrations: Mapping[str, Calibration]) -> bytes:
    """Rank histograms, and coverage against its nominal level, each with 95% intervals over images, as a PNG.

    Args:
        calibrations: by the name of the pixels that they are about; the first one is what counts.
    """
    figure = new_figure((10, 4.2))
    histogram, coverage = figure.subplots(1, 2, width_ratios=[1.35, 1])
    figure.subplots_adjust(left=0.075, right=0.98, top=0.84, bottom=0.2, wspace=0.2)
    styles = [("#2a6fba", 0.55), ("0.35", 0.0)]
    for (name, found), (colour, filled) in zip(calibrations.items(), styles, strict=False):
        if found.num_pixels:
            _draw_ranks(histogram, found, colour, filled)
            _draw_coverage(coverage, found, f"{name} pixels", colour)
    first = next(iter(calibrations.values()))
    places = first.num_samples + 1
    histogram.axhline(1, color="#b5482a", linestyle="--", linewidth=1)
    histogram.set(xlabel=f"rank of the truth among {first.num_samples} samples", ylabel=f"share of pixels x {places}")
    histogram.set_ylim(bottom=0)
    histogram.xaxis.get_major_locator().set_params(integer=True)
    histogram.set_title("Rank histogram, 95% intervals over images", loc="left", fontsize=11)
    coverage.plot([0, 1], [0, 1], color="#b5482a", linestyle="--", linewidth=1, label="right samples")
    coverage.set(xlabel="nominal level of the interval", ylabel="share of true pixels inside", xlim=(0, 1), ylim=(0, 1))
    coverage.set_title("Coverage", loc="left", fontsize=11)
    _legend_below(coverage)
    for axis in (histogram, coverage):
        tidy(axis)
    figure.suptitle(calibration_lines(calibrations)[0], fontsize=10, x=0.075, ha="left")
    return png(figure)


def _draw_ranks(axis: Any, found: Calibration, colour: str, filled: float) -> None:
    shares, places = found.histogram(), found.num_samples + 1
    ranks, heights = np.arange(places), np.array([share.value for share in shares]) * places
    if filled:
        axis.bar(ranks, heights, width=1, color=colour, alpha=filled, edgecolor="white", linewidth=0.5)
        axis.errorbar(ranks, heights, [share.margin * places for share in shares], color=colour, fmt="none")
    else:
        axis.stairs(heights, np.arange(places + 1) - 0.5, color=colour)


def _draw_coverage(axis: Any, found: Calibration, label: str, colour: str) -> None:
    levels = found.coverages()
    nominal, shares = [c.expected for c in levels], [c.value for c in levels]
    axis.plot(nominal, shares, color=colour, marker="o", markersize=3, label=label)
    low, high = ([c.value + sign * c.margin for c in levels] for sign in (-1, 1))
    axis.fill_between(nominal, low, high, color=colour, alpha=0.2, linewidth=0)
