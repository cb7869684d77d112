"""Images of a report: samples beside the truth, the way of a sample, the embedding and its field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.report import Row as Tiles
from randomwalk.report import overview
from randomwalk.score_embedding.report_data import Embedded, Run, mean_over
from randomwalk.score_embedding.report_figures import FAINT, INK, SMALL, Panel, size_of

WIDTH = 7.3
"""Of a page between its margins, in inches."""
LABEL, GAP, LINE = 0.62, 0.06, 0.13
"""Width of the labels of rows, gap between tiles, height of a line of type; inches."""
SAMPLE_ROWS, WAYS = 3, 3
"""Most samples of an image, and most images, of which the way or the embedding is shown."""
ERROR_WHITE = 0.25
"""Error of a pixel, in [0, 1], that is drawn in the brightest colour."""


def pixels(image: np.ndarray) -> np.ndarray:
    """An image ``[C, H, W]`` in [0, 1] as uint8 ``[H, W]`` or ``[H, W, 3]``; what lies outside is clipped."""
    clipped = np.clip(np.nan_to_num(image), 0, 1)
    whole = (clipped * 255).round().astype(np.uint8)
    return whole[0] if len(whole) == 1 else whole.transpose(1, 2, 0)


def pictures(run: Run, embedded: Embedded | None) -> list[Panel]:
    """Samples, the way of one, and the embedding, as far as the run has them."""
    panels = [_samples_panel(run)]
    if run.frames is not None:
        panels.append(_frames_panel(run, run.frames))
    if embedded is not None:
        panels.append(_embedding_panel(run, embedded))
    return panels


def samples_picture(run: Run) -> Image.Image:
    """The truth over the samples, for a viewer of images: samples.png."""
    names, shown = run.names()[: run.shown], run.shown
    rows = [Tiles("truth", [pixels(image) for image in run.truth[:shown]])]
    for s, sample in enumerate(run.samples[:SAMPLE_ROWS]):
        label = "sample" if len(run.samples) == 1 else f"sample {s}"
        rows.append(Tiles(label, [pixels(image) for image in sample[:shown]], [*_qualities(run, s)]))
    return overview(rows, names)


def _qualities(run: Run, sample: int) -> list[str]:
    """SSIM and PSNR of one sample of each image that is shown."""
    found = {row["image"]: row for row in run.table("metrics") if row["sample"] == sample}
    return [
        f"{found[i]['ssim']:.3f}, {found[i]['psnr']:.1f} dB" if i in found else "" for i in range(run.shown)
    ]


# --- tiles -----------------------------------------------------------------------------------------------------------

Tile = tuple[np.ndarray, dict[str, Any], str]
"""What to draw, options of imshow, the words under it."""
Line = tuple[str, Sequence[Tile]]
"""The label of a row, and its tiles."""


def _tile_side(columns: int, most: float, width: float = WIDTH) -> float:
    return min(most, (width - LABEL) / columns - GAP)


def _height(lines: Sequence[Line], side: float, above: bool = False) -> float:
    captions = sum(LINE for _, tiles in lines if any(text for *_, text in tiles))
    return len(lines) * (side + GAP) + captions + (LINE if above else 0)


def _draw_tiles(figure: Any, lines: Sequence[Line], most: float, above: Sequence[str] = ()) -> None:
    """Rows of square tiles from the left, in inches; ``above`` is written over the columns."""
    wide, high = size_of(figure)
    columns = max(len(tiles) for _, tiles in lines)
    side = _tile_side(columns, most, wide)
    y = high - (LINE if above else 0)
    for c, text in enumerate(above):
        x = LABEL + c * (side + GAP) + side / 2
        _type(figure, x, high - 0.02, _fitting(text, side), "center", "top", FAINT)
    for label, tiles in lines:
        y -= side
        _type(figure, LABEL - 0.07, y + side / 2, label, "right", "center", INK)
        for c, (shown, options, _) in enumerate(tiles):
            axis = figure.add_axes(((LABEL + c * (side + GAP)) / wide, y / high, side / wide, side / high))
            axis.imshow(shown, **{"interpolation": "nearest", "aspect": "auto", **options})
            axis.set_axis_off()
        words = [text for *_, text in tiles]
        if any(words):
            for c, text in enumerate(words):
                x = LABEL + c * (side + GAP) + side / 2
                _type(figure, x, y - 0.02, text, "center", "top", FAINT)
            y -= LINE
        y -= GAP


def _type(figure: Any, x: float, y: float, text: str, across: str, along: str, colour: str) -> None:
    wide, high = size_of(figure)
    figure.text(x / wide, y / high, text, fontsize=SMALL - 0.5, color=colour, ha=across, va=along, linespacing=1.1)


def _fitting(text: str, width: float) -> str:
    """As much of a name as has room in ``width`` inches."""
    room = max(4, int(width * 72 / (0.6 * (SMALL - 0.5))))
    return text if len(text) <= room else text[: room - 3] + "..."


def _grey(image: np.ndarray) -> dict[str, Any]:
    return {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}


def _picture(image: np.ndarray, text: str = "") -> Tile:
    shown = pixels(image)
    return shown, _grey(shown), text


# --- samples ---------------------------------------------------------------------------------------------------------


def _samples_panel(run: Run) -> Panel:
    lines = _sample_lines(run)
    most = 1.25 if run.shown <= 4 else 1.0
    height = _height(lines, _tile_side(run.shown, most), True)
    caption = "What was to be learnt, what the trained network makes with its SSIM under it, and the error: the mean over "
    caption += f"the channels of |sample - truth|, from 0 (black) to {ERROR_WHITE:g} or more (bright)."
    outside = float(np.mean((run.samples < 0) | (run.samples > 1)))
    if outside:
        caption += f" {100 * outside:.2g}% of the values lie outside [0, 1] and are shown clipped."
    if run.config.sampling.minmax:
        caption += " SSIM, PSNR and MSE are of the min-max stretched samples; the pictures are not stretched by this report."
    if len(run.truth) > run.shown:
        caption += f" The first {run.shown} of {len(run.truth)} images."
    names = run.names()[: run.shown]
    return Panel(
        "samples", "Samples beside the truth", caption, (WIDTH, height),
        lambda figure: _draw_tiles(figure, lines, most, names),
    )  # fmt: skip


def _sample_lines(run: Run) -> list[Line]:
    lines: list[Line] = [("truth", [_picture(image) for image in run.truth[: run.shown]])]
    for s, sample in enumerate(run.samples[:SAMPLE_ROWS]):
        which = "" if len(run.samples) == 1 else f" {s}"
        rows = [row for row in run.table("metrics") if row["sample"] == s]
        ssim = mean_over(rows, "ssim", lambda row: row["image"])
        words = [f"{ssim[i]:.4f}" if i in ssim else "" for i in range(run.shown)]
        tiles = [_picture(image, text) for image, text in zip(sample, words, strict=False)]
        lines.append((f"sample{which}", tiles))
    errors = np.abs(run.samples[0] - run.truth)[: run.shown].mean(1)
    options = {"cmap": "inferno", "vmin": 0, "vmax": ERROR_WHITE}
    lines.append(("error", [(error, options, "") for error in errors]))
    return lines


# --- the way ---------------------------------------------------------------------------------------------------------


def _frames_panel(run: Run, frames: np.ndarray) -> Panel:
    chosen = np.unique(np.linspace(0, len(frames) - 1, 8).round().astype(int))
    count = min(len(run.truth), WAYS)
    names = run.names()
    lines: list[Line] = [
        (_label(names[image], count), [_picture(frames[f, image]) for f in chosen]) for image in range(count)
    ]
    above = ["start", *[""] * (len(chosen) - 2), "end"] if len(chosen) > 1 else ["end"]
    height = _height(lines, _tile_side(len(chosen), 1.0), True)
    caption = f"States of the first sample from noise to image{_of_first(run, count)}, clipped to [0, 1] and never "
    caption += "stretched."
    if run.config.sampling.start == "truth":
        weight = run.config.sampling.truth_weight
        caption += f" The start holds {100 * weight:g}% of the true image: the sampling is told the answer."
    return Panel(
        "frames", "From noise to image", caption, (WIDTH, height),
        lambda figure: _draw_tiles(figure, lines, 1.0, above),
    )  # fmt: skip


def _label(name: str, count: int) -> str:
    return _fitting(name.rpartition("/")[2].rpartition(".")[0] or name, LABEL) if count > 1 else ""


def _of_first(run: Run, count: int) -> str:
    return f" (the first {count} of {len(run.truth)} images)" if count < len(run.truth) else ""


# --- the embedding ---------------------------------------------------------------------------------------------------


def _embedding_panel(run: Run, found: Embedded) -> Panel:
    count = found.images.shape[1]
    first = found.images[0] if found.levels[0] == 0 else run.truth[:count]
    reach = float(np.abs(found.field).max()) or 1.0
    field_options = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    names = run.names()
    lines: list[Line] = []
    for image in range(count):
        moved = [
            _picture(u, f"rms {_rms(u - first[image]):.3f}") for u in found.images[:, image]
        ]
        name = _label(names[image], count)
        lines.append((f"{name}\nimage" if name else "image", moved))
        lines.append(("field", [(field[image].mean(0), field_options, "") for field in found.field]))
    above = [f"n={n}, t={t:.2f}" for n, t in zip(found.levels, found.times, strict=True)]
    most = 1.0
    height = _height(lines, _tile_side(len(found.levels), most), True) + 0.34
    method = run.config.method
    what = {"score": "the Fokker-Planck score", "random": "a random field of the score's norm"}
    component = {"sum": "its two components summed", "rows": "its component along rows of pixels (H)",
                 "columns": "its component along columns of pixels (W)"}  # fmt: skip
    caption = f"What the training sees instead of the image, by level n and time t: the image moved along "
    caption += f"{what[getattr(method, 'embedding')]}, {component[getattr(method, 'component')]}; rms is how far it moved. "
    caption += f"Under it the field F, mean over channels, on one symmetric scale for all levels, from -{reach:.3g} (blue) "
    caption += f"to {reach:.3g} (red). The field of n = 0 moves nothing."
    caption += " Images are clipped to [0, 1]." + _of_first(run, count)
    return Panel(
        "embedding", "The embedded images and their field", caption, (WIDTH, height),
        lambda figure: _draw_embedding(figure, lines, most, above, reach),
    )  # fmt: skip


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _draw_embedding(figure: Any, lines: Sequence[Line], most: float, above: Sequence[str], reach: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    _draw_tiles(figure, lines, most, above)
    wide, high = size_of(figure)
    side = _tile_side(len(above), most, wide)
    width = len(above) * (side + GAP) - GAP
    axis = figure.add_axes((LABEL / wide, 0.2 / high, min(width, 2.4) / wide, 0.08 / high))
    bar = figure.colorbar(ScalarMappable(Normalize(-reach, reach), "RdBu_r"), cax=axis, orientation="horizontal")
    bar.set_ticks([-reach, 0, reach], labels=[f"-{reach:.3g}", "0", f"{reach:.3g}"])
    bar.outline.set_visible(False)
    axis.tick_params(labelsize=SMALL - 0.5, length=2, color=FAINT)
    _type(figure, LABEL - 0.07, 0.24, "F", "right", "center", INK)


