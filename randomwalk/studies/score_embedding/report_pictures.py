"""Images of a report: samples beside the truth, the way of a sample, the embedding and its field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.config.score_embedding import EmbeddingMethod
from randomwalk.images.sheets import Row as Tiles
from randomwalk.images.sheets import overview
from randomwalk.studies.score_embedding.report_data import Embedded, Run
from randomwalk.studies.score_embedding.report_figures import FAINT, INK, SMALL, Panel, size_of

WIDTH = 7.3
"""Width of a figure, in inches."""
LABEL, GAP, LINE, BAR = 0.62, 0.06, 0.13, 0.34
"""Width of the labels of rows, gap between tiles, height of a line of type and of the scale of colours; inches."""
FILLED = 0.65
"""Least share of the width that tiles in several lines fill."""
SAMPLE_ROWS, WAYS = 3, 3
"""Most samples of an image, and most images, of which the way or the embedding is shown."""
ERROR_WHITE = 0.25
"""Error of a pixel, in [0, 1], that is drawn in the brightest colour."""


def pixels(image: np.ndarray) -> np.ndarray:
    """An image ``[C, H, W]`` in [0, 1] as uint8 ``[H, W]`` or ``[H, W, 3]``; what lies outside is clipped."""
    clipped = np.clip(np.nan_to_num(image), 0, 1)
    whole = (clipped * 255).round().astype(np.uint8)
    return whole[0] if len(whole) == 1 else whole.transpose(1, 2, 0)


def stem(name: str) -> str:
    """A file's name without folder and suffix."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last


def pictures(run: Run, embedded: Embedded | None, side: float = 1.1) -> list[Panel]:
    """Samples, the way of one, and the embedding, as far as the run has them.

    Args:
        run: the run.
        embedded: what it embeds.
        side: largest side of an image, in inches.
    """
    if run.shown <= WAYS:
        panels = [_few_panel(run, side)]
    else:
        panels = [_samples_panel(run, side)]
        if run.frames is not None:
            panels.append(_frames_panel(run, run.frames, side))
    if embedded is not None:
        panels.append(_embedding_panel(run, embedded, side))
    return panels


def samples_picture(run: Run) -> Image.Image:
    """The truth over the samples, for a viewer of images: samples.png."""
    names, rows = run.names(), []
    for s, sample in enumerate(run.samples[:SAMPLE_ROWS]):
        targets = run.targets(s)
        if s == 0 or not run.told:
            captions = [] if run.told else [names[target] for target in targets]
            rows.append(Tiles("truth" if run.told else "nearest", [pixels(run.truth[i]) for i in targets], captions))
        label = "sample" if len(run.samples) == 1 else f"sample {s}"
        rows.append(Tiles(label, [pixels(image) for image in sample[: run.shown]], _qualities(run, s)))
    return overview(rows, names[: run.shown] if run.told else ())


def _qualities(run: Run, sample: int) -> list[str]:
    """SSIM and PSNR of one sample of each image that is shown."""
    found = {row["image"]: row for row in run.table("metrics") if row["sample"] == sample}
    return [f"{found[i]['ssim']:.3f}, {found[i]['psnr']:.1f} dB" if i in found else "" for i in range(run.shown)]


# --- tiles -----------------------------------------------------------------------------------------------------------

Tile = tuple[np.ndarray, dict[str, Any], str]
"""Image, options of imshow, text under it."""
Line = tuple[str, Sequence[Tile]]
"""The label of a row, and its tiles."""


def _tile_side(columns: int, most: float) -> float:
    return min(most, (WIDTH - LABEL) / columns - GAP)


def _columns(lines: Sequence[Line], most: float) -> int:
    """Number of tiles in a line: all of them, or half as many, say, in two lines, if these are ``most``
    inches wide and fill most of the page."""
    count = max(len(tiles) for _, tiles in lines)
    room = max(1, int((WIDTH - LABEL) / (most + GAP)))
    folded = math.ceil(count / math.ceil(count / room))
    return folded if folded * (most + GAP) > FILLED * (WIDTH - LABEL) else count


def _folded(lines: Sequence[Line], above: Sequence[str], most: float) -> list[tuple[Sequence[Line], Sequence[str]]]:
    """Rows and what is written above them, by `_columns`."""
    each, count = _columns(lines, most), max(len(tiles) for _, tiles in lines)
    return [
        ([(label, tiles[k : k + each]) for label, tiles in lines], above[k : k + each]) for k in range(0, count, each)
    ]


def _height(lines: Sequence[Line], above: Sequence[str], most: float) -> float:
    side, total = _tile_side(_columns(lines, most), most), 0.0
    for rows, words in _folded(lines, above, most):
        captions = sum(LINE for _, tiles in rows if any(text for *_, text in tiles))
        total += len(rows) * (side + GAP) + captions + (LINE if words else 0)
    return total


def _draw_tiles(figure: Any, lines: Sequence[Line], most: float, above: Sequence[str] = ()) -> None:
    """Rows of square tiles from the left, in inches; ``above`` is written over the columns."""
    wide, y = size_of(figure)
    side = _tile_side(_columns(lines, most), most)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set(xlim=(0, wide), ylim=(0, y), aspect="auto")
    for rows, words in _folded(lines, above, most):
        for c, text in enumerate(words):
            _type(figure, _middle(c, side), y - 0.01, _fitting(text, side), "center", "top", FAINT)
        y = _draw_rows(figure, axis, rows, side, y - (LINE if words else 0))


def _draw_rows(figure: Any, axis: Any, lines: Sequence[Line], side: float, y: float) -> float:
    """Rows of tiles below ``y``; where they end."""
    for label, tiles in lines:
        y -= side
        _type(figure, LABEL - 0.07, y + side / 2, label, "right", "center", INK)
        for c, (shown, options, _) in enumerate(tiles):
            left = _middle(c, side) - side / 2
            place = {"interpolation": "nearest", "extent": (left, left + side, y, y + side), "aspect": "auto"}
            axis.imshow(shown, **{**place, **options})
        words = [text for *_, text in tiles]
        if any(words):
            for c, text in enumerate(words):
                _type(figure, _middle(c, side), y - 0.02, text, "center", "top", FAINT)
            y -= LINE
        y -= GAP
    return y


def _middle(column: int, side: float) -> float:
    return LABEL + column * (side + GAP) + side / 2


def _type(figure: Any, x: float, y: float, text: str, across: str, along: str, colour: str) -> None:
    wide, high = size_of(figure)
    figure.text(x / wide, y / high, text, fontsize=SMALL - 0.5, color=colour, ha=across, va=along, linespacing=1.1)


def _fitting(text: str, width: float) -> str:
    """Name shortened to ``width`` inches."""
    room = max(4, int(width * 72 / (0.6 * (SMALL - 0.5))))
    return text if len(text) <= room else text[: room - 3] + "..."


def _grey(image: np.ndarray) -> dict[str, Any]:
    return {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}


def _picture(image: np.ndarray, text: str = "") -> Tile:
    shown = pixels(image)
    return shown, _grey(shown), text


# --- samples ---------------------------------------------------------------------------------------------------------


def _error_words(run: Run) -> str:
    words = f"the error of {'the' if len(run.samples) == 1 else 'the first'} sample: the mean over the channels of "
    return words + f"|sample - truth|, from 0 (black) to {ERROR_WHITE:g} or more (bright)."


def _start_words(run: Run) -> str:
    sampling, words = run.config.sampling, ""
    if sampling.start == "truth":
        words = f" The start holds {100 * sampling.truth_weight:g}% of the true image: the sampling is told the answer."
    if sampling.minmax:
        words += " SSIM, PSNR and MSE are of samples that were stretched to [0, 1]; those in the pictures are not."
    return words


def _few_panel(run: Run, side: float) -> Panel:
    """A row for each image: the way of its sample, the sample, the truth, the error."""
    frames = [] if run.frames is None else [run.frames[f] for f in _chosen(run.frames)]
    made, truth = run.samples[:SAMPLE_ROWS], run.truth[run.targets(0)]
    called = ["sample"] if len(run.samples) == 1 else [f"sample {s}" for s in range(len(made))]
    above = ["start", *[""] * (len(frames) - 1)] if frames else []
    above += [*called, "truth" if run.told else "nearest", "error"]
    errors, names, lines = _errors(run), run.names(), []
    for k in range(run.shown):
        way = [_picture(frame[k]) for frame in frames]
        samples = [_picture(u[k], _ssim(run, s)[k]) for s, u in enumerate(made)]
        label = _label(names[k], run.shown) if run.told else f"sample {k}"
        lines.append((label, [*way, *samples, _picture(truth[k]), errors[k]]))
    height = _height(lines, above, side)
    caption = "The way from noise to image; " if frames else ""
    caption += "what the trained network makes, with its SSIM; "
    caption += "what was to be learnt; " if run.told else "the nearest of the training images; "
    caption += f"{_error_words(run)} Clipped to [0, 1] and never stretched.{_start_words(run)}"
    if len(run.truth) > run.shown:
        caption += f" The training has {len(run.truth)} images; of {run.shown} there are samples."
    return Panel(
        "samples", "Samples beside the truth", caption[0].upper() + caption[1:], (WIDTH, height),
        lambda figure: _draw_tiles(figure, lines, side, above),
    )  # fmt: skip


def _samples_panel(run: Run, side: float) -> Panel:
    """A column for each image."""
    lines, above = _sample_rows(run)
    height = _height(lines, above, side)
    first = "What was to be learnt" if run.told else "The nearest of the training images"
    caption = f"{first}; what the trained network makes, with its SSIM; and {_error_words(run)}{_start_words(run)}"
    if len(run.truth) > run.shown:
        caption += f" The training has {len(run.truth)} images; of {run.shown} there are samples."
    return Panel(
        "samples", "Samples beside the truth", caption, (WIDTH, height),
        lambda figure: _draw_tiles(figure, lines, side, above),
    )  # fmt: skip


def _ssim(run: Run, sample: int) -> list[str]:
    found = {row["image"]: row["ssim"] for row in run.table("metrics") if row["sample"] == sample}
    return [f"SSIM {found[i]:.4f}" if i in found else "" for i in range(run.shown)]


def _errors(run: Run) -> list[Tile]:
    """The error of the first sample of each image."""
    options = {"cmap": "inferno", "vmin": 0, "vmax": ERROR_WHITE}
    errors = np.abs(run.samples[0, : run.shown] - run.truth[run.targets(0)]).mean(1)
    return [(error, options, "") for error in errors]


def _sample_rows(run: Run) -> tuple[list[Line], list[str]]:
    """A column for each image."""
    lines: list[Line] = []
    names = run.names()
    for s, sample in enumerate(run.samples[:SAMPLE_ROWS]):
        which = "" if len(run.samples) == 1 else f" {s}"
        targets = run.targets(s)
        if s == 0 or not run.told:
            lines.append(("truth" if run.told else "nearest", [_picture(run.truth[i]) for i in targets]))
        made = [_picture(u, text) for u, text in zip(sample, _ssim(run, s), strict=False)]
        lines.append((f"sample{which}", made))
    lines.append(("error", _errors(run)))
    alike = run.told or len(run.samples) == 1
    return lines, [stem(names[i]) for i in run.targets(0)] if alike else []


# --- the way ---------------------------------------------------------------------------------------------------------


def _chosen(frames: np.ndarray) -> np.ndarray:
    """Which of the states are shown: at most eight."""
    return np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 8)).round().astype(int))


def _frames_panel(run: Run, frames: np.ndarray, side: float) -> Panel:
    chosen = _chosen(frames)
    count = min(run.shown, WAYS)
    names = [_label(name, count) if run.told else f"sample {k}" for k, name in enumerate(run.names()[:count])]
    lines: list[Line] = [(name, [_picture(frames[f, k]) for f in chosen]) for k, name in enumerate(names)]
    above = ["start", *[""] * (len(chosen) - 2), "end"] if len(chosen) > 1 else ["end"]
    height = _height(lines, above, side)
    caption = "States on the way from noise to image, clipped to [0, 1] and never stretched."
    if run.samples.shape[1] > count:
        caption += f" The first {count} of {run.samples.shape[1]} samples."
    return Panel(
        "frames", "From noise to image", caption, (WIDTH, height),
        lambda figure: _draw_tiles(figure, lines, side, above),
    )  # fmt: skip


def _label(name: str, count: int) -> str:
    return _fitting(stem(name), LABEL) if count > 1 else ""


def _of_first(run: Run, count: int) -> str:
    return f" (the first {count} of {len(run.truth)} images)" if count < len(run.truth) else ""


# --- the embedding ---------------------------------------------------------------------------------------------------


def _embedding_panel(run: Run, found: Embedded, side: float) -> Panel:
    count = found.images.shape[1]
    first = found.images[0] if found.levels[0] == 0 else run.truth[:count]
    fields = found.field.mean(2)
    reach = float(np.abs(fields).max()) or 1.0
    field_options = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    names = run.names()
    lines: list[Line] = []
    for image in range(count):
        moved = [_picture(u, f"rms {_rms(u - first[image]):.3f}") for u in found.images[:, image]]
        name = _label(names[image], count)
        lines.append((f"{name}\nimage" if name else "image", moved))
        lines.append(("field", [(field[image], field_options, "") for field in fields]))
    above = [f"n={n}, t={t:.2f}" for n, t in zip(found.levels, found.times, strict=True)]
    height = _height(lines, above, side) + BAR
    caption = "What the training sees instead of the image, by level n and time t: the image moved along "
    caption += f"{_what(run)}; rms is how far it moved. Under it the field F, mean over channels, on one scale "
    caption += f"for all levels, symmetric, from -{reach:.3g} (blue) to {reach:.3g} (red). The field of n = 0 moves "
    caption += "nothing. Images are clipped to [0, 1]." + _of_first(run, count)
    return Panel(
        "embedding", "The embedded images and their field", caption, (WIDTH, height),
        lambda figure: _draw_embedding(figure, lines, side, above, reach),
    )  # fmt: skip


def _what(run: Run) -> str:
    """Description of the field that moves the images."""
    method = run.config.method
    assert isinstance(method, EmbeddingMethod)
    if method.embedding == "random":
        return "a random field of the score's norm"
    component = {"sum": "two components summed", "rows": "component along H", "columns": "component along W"}
    return f"the Fokker-Planck score, its {component[method.component]}"


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _draw_embedding(figure: Any, lines: Sequence[Line], most: float, above: Sequence[str], reach: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    _draw_tiles(figure, lines, most, above)
    wide, high = size_of(figure)
    columns = _columns(lines, most)
    width = columns * (_tile_side(columns, most) + GAP) - GAP
    axis = figure.add_axes((LABEL / wide, 0.2 / high, min(width, 2.4) / wide, 0.08 / high))
    bar = figure.colorbar(ScalarMappable(Normalize(-reach, reach), "RdBu_r"), cax=axis, orientation="horizontal")
    bar.set_ticks([-reach, 0, reach], labels=[f"-{reach:.3g}", "0", f"{reach:.3g}"])
    bar.outline.set_visible(False)
    axis.tick_params(labelsize=SMALL - 0.5, length=2, color=FAINT)
    _type(figure, LABEL - 0.07, 0.24, "F", "right", "center", INK)
