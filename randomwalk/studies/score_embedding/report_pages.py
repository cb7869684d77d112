"""The report of a run on A4 pages."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from randomwalk.images.sheets import new_figure
from randomwalk.studies.score_embedding.report_data import Run
from randomwalk.studies.score_embedding.report_figures import (
    FAINT,
    INK,
    SMALL,
    Panel,
    crossing_table,
    metric_table,
    size_of,
    timings,
)
from randomwalk.studies.score_embedding.report_pictures import WIDTH
from randomwalk.studies.score_embedding.report_settings import Pair, settings, subtitle, title

PAGE = (8.27, 11.69)
MARGIN, BETWEEN = 0.485, 0.16
LINE = 0.142
"""Height of a line of type, in inches."""


@dataclass
class Block:
    """A row of the page: its height in inches, and what draws it into a part of the page."""

    height: float
    draw: Any


SIDES = (1.5, 1.4, 1.25, 1.1, 1.0, 0.9, 0.77, 0.7, 0.6)
HEIGHTS = (3.4, 3.0, 2.6, 2.3, 2.1, 1.9, 1.7, 1.5)
"""Largest side of an image and height of the curves, in inches, to choose from."""


def pdf(run: Run, curves: Sequence[Panel], pictures: Callable[[float], Sequence[Panel]]) -> bytes:
    """The report as a PDF file; see `pages`."""
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages

    out = BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(out, metadata={"Title": title(run)}) as file:
        for page in pages(run, curves, pictures):
            file.savefig(page)
    return out.getvalue()


def pages(run: Run, curves: Sequence[Panel], pictures: Callable[[float], Sequence[Panel]]) -> list[Any]:
    """The pages of the report as figures: two of them at most, or one, with the sizes that leave least of them blank.

    Args:
        run: what it is about.
        curves: up to three beside each other.
        pictures: panels that are as wide as the page, by the largest side of an image in them.
    """
    blocks = [Block(0.52, lambda part: _head(part, run)), _settings_block(settings(run)), _tables(run)]
    layouts = []
    for side in SIDES:
        shown = [_picture_block(panel) for panel in pictures(side)]
        layouts += [_paginate([*blocks, *_curve_blocks(curves, height), *shown]) for height in HEIGHTS]
    fitting = [layout for layout in layouts if len(layout) <= 2] or layouts[-1:]
    return [_page(page) for page in max(fitting, key=lambda layout: min(map(_used, layout)))]


def _used(page: Sequence[Block]) -> float:
    return sum(block.height for block in page)


def _paginate(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks page by page, in their order."""
    pages: list[list[Block]] = [[]]
    for block in blocks:
        used = sum(other.height + BETWEEN for other in pages[-1])
        if pages[-1] and used + block.height > PAGE[1] - 2 * MARGIN:
            pages.append([])
        pages[-1].append(block)
    return pages


def _page(blocks: Sequence[Block]) -> Any:
    figure = new_figure(PAGE, dpi=200)
    heights = [MARGIN]
    for block in blocks:
        heights += [block.height, BETWEEN]
    heights.append(PAGE[1] - sum(heights))
    grid = {"height_ratios": heights, "width_ratios": [MARGIN, PAGE[0] - 2 * MARGIN, MARGIN], "wspace": 0, "hspace": 0}
    places = figure.add_gridspec(len(heights), 3, **grid)
    for k, block in enumerate(blocks):
        block.draw(figure.add_subfigure(places[1 + 2 * k, 1]))
    return figure


def _columns(part: Any, widths: Sequence[float]) -> list[Any]:
    places = part.add_gridspec(1, len(widths), width_ratios=widths, wspace=0)
    return [part.add_subfigure(places[k]) for k in range(len(widths))]


# --- type ------------------------------------------------------------------------------------------------------------


def _write(part: Any, x: float, y: float, text: str, size: float = SMALL, **options: Any) -> None:
    """Text at x inches from the left and y inches from the top."""
    wide, high = size_of(part)
    options = {"va": "top", "color": INK, "linespacing": 1.25, **options}
    part.text(x / wide, 1 - y / high, text, fontsize=size, **options)


def _wrapped(text: str, width: float, size: float = SMALL) -> list[str]:
    """Lines that have room in ``width`` inches; a letter is 0.56 of the size wide, on the average."""
    return textwrap.wrap(text, max(10, int(width * 72 / (0.56 * size))))


def _head(part: Any, run: Run) -> None:
    _write(part, 0, 0, title(run), 15, weight="bold")
    _write(part, 0, 0.32, subtitle(run), SMALL + 0.5, color=FAINT)


def _settings_block(pairs: Sequence[Pair]) -> Block:
    """Two columns of labels and values."""
    label, column = 1.05, WIDTH / 2
    lines = [_wrapped(value, column - label - 0.1) for _, value in pairs]
    heights = [LINE * len(found) + 0.03 for found in lines]
    half = next(k for k in range(1, len(pairs) + 1) if sum(heights[:k]) >= sum(heights) / 2)

    def draw(part: Any) -> None:
        for left, which in ((0.0, range(half)), (column, range(half, len(pairs)))):
            y = 0.04
            for k in which:
                _write(part, left, y, pairs[k][0], color=FAINT)
                _write(part, left + label, y, "\n".join(lines[k]))
                y += heights[k]

    return Block(max(sum(heights[:half]), sum(heights[half:])) + 0.06, draw)


def _table(part: Any, heading: str, table: tuple[list[str], list[list[str]]], widths: Sequence[float]) -> None:
    """A table, its first column to the left and the others to the right, in inches."""
    headings, rows = table
    ends = [sum(widths[: k + 1]) for k in range(len(widths))]
    _write(part, 0, 0.03, heading, SMALL + 1.5)
    for n, row in enumerate([headings, *rows]):
        y = 0.26 + LINE * 1.08 * n
        last = n > 0 and row[0].startswith("mean of")
        for k, text in enumerate(row):
            place = {"x": ends[k], "ha": "right"} if k else {"x": 0.0, "ha": "left"}
            x = float(place["x"])  # type: ignore[arg-type]
            shown = text if len(text) <= 24 else text[:21] + "..."
            colour = FAINT if n == 0 else INK
            _write(part, x, y, shown, ha=place["ha"], color=colour, weight="bold" if last else "normal")


def _tables(run: Run) -> Block:
    """Timings at the left; the metrics of the samples and the crossings at the right."""
    metrics, crossings, bars = metric_table(run), crossing_table(run), timings(run)
    first = 0.26 + LINE * 1.08 * (len(metrics[1]) + 1)
    second = 0.42 + LINE * 1.08 * (len(crossings[1]) + 1) if crossings[1] else 0.0

    def draw(part: Any) -> None:
        left, _, right = _columns(part, [3.1, 0.3, WIDTH - 3.4])
        bars.draw(_top(left, bars.size[1]))
        if not crossings[1]:
            _table(right, "Final samples", metrics, (1.5, 0.5, 0.6, 0.6, 0.7))
            return
        heights = [first + 0.1, max(size_of(right)[1] - first - 0.1, 0.1)]
        places = right.add_gridspec(2, 1, height_ratios=heights, hspace=0)
        _table(right.add_subfigure(places[0]), "Final samples", metrics, (1.5, 0.5, 0.6, 0.6, 0.7))
        _table(right.add_subfigure(places[1]), "Crossings of SSIM", crossings, (1.1, 0.9, 0.6, 0.6, 0.7))

    return Block(max(first + second, bars.size[1]), draw)


def _top(part: Any, height: float) -> Any:
    """The uppermost ``height`` inches of a part."""
    rest = size_of(part)[1] - height
    if rest < 0.01:
        return part
    return part.add_subfigure(part.add_gridspec(2, 1, height_ratios=[height, rest], hspace=0)[0])


# --- panels ----------------------------------------------------------------------------------------------------------


def _curve_blocks(curves: Sequence[Panel], height: float) -> list[Block]:
    """What samples are like in one row, the loss and the solver in another."""
    metrics = [panel for panel in curves if panel.name in ("ssim", "psnr", "mse")]
    others = [panel for panel in curves if panel.name not in ("ssim", "psnr", "mse")]
    return [_curve_row(row, height) for row in (metrics, others) if row]


def _curve_row(panels: Sequence[Panel], height: float) -> Block:
    width = WIDTH / len(panels)
    alike = len({panel.caption for panel in panels}) == 1
    captions = [_wrapped(p.caption, WIDTH if alike else width - 0.2, SMALL - 0.5) for p in panels]
    below = LINE * (len(captions[0]) if alike else max(len(lines) for lines in captions))

    def draw(part: Any) -> None:
        places = part.add_gridspec(2, 1, height_ratios=[height, below], hspace=0)
        for figure, panel in zip(_columns(part.add_subfigure(places[0]), [1.0] * len(panels)), panels, strict=True):
            panel.draw(figure)
        words = part.add_subfigure(places[1])
        for k, lines in enumerate(captions[:1] if alike else captions):
            _write(words, k * width, 0.0, "\n".join(lines), SMALL - 0.5, color=FAINT)

    return Block(height + below, draw)


def _picture_block(panel: Panel) -> Block:
    lines = _wrapped(panel.caption, WIDTH, SMALL - 0.5)
    above, below = 0.22, LINE * len(lines) + 0.02

    def draw(part: Any) -> None:
        places = part.add_gridspec(3, 1, height_ratios=[above, panel.size[1], below], hspace=0)
        _write(part.add_subfigure(places[0]), 0, 0, panel.title, SMALL + 1.5)
        panel.draw(part.add_subfigure(places[1]))
        _write(part.add_subfigure(places[2]), 0, 0.02, "\n".join(lines), SMALL - 0.5, color=FAINT)

    return Block(above + panel.size[1] + below, draw)
