"""Sheets of image tiles, animations, and the basics of Matplotlib figures; everything is returned, nothing written."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

INK, FAINT, PAPER, BAR = (35, 35, 40), (120, 120, 128), (255, 255, 255), (42, 111, 186)
THUMBNAIL = 320
"""Longest side in pixels of an image in an overview."""
KERNEL_SIDE = 256
"""Longest side in pixels of the picture of a blur kernel, unless it has more entries."""
STD_WHITE, STD_WHITE_OF_ARRAYS = 0.5, 0.1
"""Standard deviation, in [-1, 1] units, of the brightest colour of `std_map`: for pictures, and for arrays, whose small
differences matter."""
LABEL_WIDTH = 160
"""Largest width in pixels of the label of a row."""


def enlarged(pixels: np.ndarray, side: int) -> Image.Image:
    """Enlarge a uint8 image ``[H, W]`` or ``[H, W, 3]`` by repeating pixels, its long side to ``side`` at most.

    A larger image is scaled down to that.
    """
    image = Image.fromarray(pixels).convert("RGB")
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image
    factor = side // max(image.size)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def enlarged_to(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge an image to ``height`` by ``width`` by repeating pixels, if these are multiples of its size."""
    rows, columns = height // pixels.shape[0], width // pixels.shape[1]
    return pixels.repeat(rows, axis=0).repeat(columns, axis=1) if min(rows, columns) > 1 else pixels


def kernel_picture(kernel: np.ndarray) -> np.ndarray:
    """Grey image of a blur kernel ``[k, l]``: 0 is black and its largest value white, each entry a square of pixels."""
    shown = (255 * np.clip(kernel / max(kernel.max(), 1e-300), 0, 1)).round().astype(np.uint8)
    factor = max(1, KERNEL_SIDE // max(shown.shape))
    return shown.repeat(factor, axis=0).repeat(factor, axis=1)


def detail(before: np.ndarray, after: np.ndarray, least: int = 96) -> tuple[slice, slice] | None:
    """Square of an image, a quarter of its short side, where its edges are strong and it differs most from ``before``.

    The product of the mean absolute differences, from ``before`` and between neighbours, is largest there.

    Args:
        before, after: images ``[H, W]`` or ``[H, W, 3]`` of one size.
        least: images whose short side is shorter have none: they are small enough to be seen whole.
    """
    height, width = after.shape[:2]
    if before.shape[:2] != (height, width) or min(height, width) < least:
        return None
    side = min(height, width) // 4
    old, new = (x.reshape(height, width, -1).mean(2, dtype=np.float32) for x in (before, after))
    edges = np.abs(np.diff(new, axis=0, append=new[-1:])) + np.abs(np.diff(new, axis=1, append=new[:, -1:]))
    score = uniform_filter(np.abs(new - old), side) * uniform_filter(edges, side)
    inside = score[side // 2 : height - side // 2, side // 2 : width - side // 2]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(top), int(top) + side), slice(int(left), int(left) + side)


def std_map(std: np.ndarray, white: float = STD_WHITE) -> np.ndarray:
    """Colours ``[H, W, 3]`` of standard deviations ``[H, W]``, on a fixed scale from 0 to ``white``."""
    from matplotlib import colormaps  # slow to import: most runs draw neither maps nor histograms

    colours = colormaps["magma"](np.clip(std / white, 0, 1))[..., :3]
    return (colours * 255).round().astype(np.uint8)


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _shorten(text: str, width: float, font: Any) -> str:
    """``text`` with its middle left out if it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if font.getlength(short) <= width:
            return short
    return ""


def _write(draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, size: int, colour: Any, anchor: str) -> None:
    draw.text(xy, text, font=_font(size), fill=colour, anchor=anchor)


@dataclass
class Row:
    """One row of an overview: its label, an image per column (None leaves it empty), and a caption for each."""

    label: str
    images: Sequence[np.ndarray | None]
    captions: Sequence[str] = ()


def overview(rows: Sequence[Row], headings: Sequence[str] = (), side: int = 128) -> Image.Image:
    """Draw rows of labelled tiles; small images are enlarged by repeating pixels, large ones scaled to `THUMBNAIL`.

    Args:
        rows: rows with equally many images.
        headings: title of each column.
        side: side of a tile in pixels, at least that of the images up to `THUMBNAIL`.
    """
    gap, caption, label_size = 8, 20, 15
    sizes = [image.shape[:2] for row in rows for image in row.images if image is not None]
    side = max(side, min(THUMBNAIL, *(max(size) for size in sizes)))
    tiles = [[None if image is None else enlarged(image, side) for image in row.images] for row in rows]
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


def grid(images: Sequence[np.ndarray], side: int = 96) -> Image.Image:
    """Draw images in a nearly square grid without labels."""
    columns = int(np.ceil(np.sqrt(len(images))))
    padded = [*images, *[None] * (-len(images) % columns)]
    return overview([Row("", padded[i : i + columns]) for i in range(0, len(padded), columns)], side=side)


def frame(panels: Sequence[tuple[str, np.ndarray]], text: str, done: float, side: int = 128) -> Image.Image:
    """Draw a frame of an animation: captioned tiles side by side, above a progress bar and a line of text.

    Args:
        panels: caption and image of each tile.
        text: line of text.
        done: filled share of the bar, from 0 to 1.
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
    """Encode an animated WebP that repeats forever and holds its last frame for longer.

    Args:
        frames: images of one size.
        lossless: smaller and faster for enlarged small images, larger and slower for photographs.
        milliseconds: duration of a frame.
        hold: duration of the last frame.
    """
    out = BytesIO()
    options = {"lossless": True, "quality": 0} if lossless else {"quality": 80}
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, method=0, **options
    )
    return out.getvalue()


def new_figure(size: tuple[float, float], dpi: int = 110) -> Any:
    """Make a Matplotlib figure of ``size`` inches, without a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def tidy(axis: Any) -> None:
    """Give an axis a faint grid and no frame at the top and on the right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def png(figure: Any) -> bytes:
    """Encode a figure as a PNG, and empty it.

    Matplotlib's parser of labels leaves exceptions behind that refer to the frames of all its callers until Python's
    next full collection of garbage, and so to the network of a run. In a thread of its own it has no callers.
    """
    out = BytesIO()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(figure.savefig, out, format="png", metadata={"Software": None}).result()
    figure.clear()
    return out.getvalue()


def legend_below(axis: Any) -> None:
    """Put the legend below the label of the axis, where it hides no curve."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 3, "columnspacing": 1.0}
    axis.legend(fontsize=8, frameon=False, **place)
