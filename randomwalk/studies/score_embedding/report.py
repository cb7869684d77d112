"""Report of a run: an HTML page and a figure, made of the files in its folder and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from randomwalk.images.sheets import new_figure, png
from randomwalk.run_folder import RunFolder
from randomwalk.studies.score_embedding import report_data
from randomwalk.studies.score_embedding.report_data import Run
from randomwalk.studies.score_embedding.report_figures import (
    INSIDE,
    Panel,
    crossing_table,
    curves,
    metric_table,
    seconds,
    stage_label,
    stages,
    timings,
)
from randomwalk.studies.score_embedding.report_pictures import WAYS, pictures, samples_picture
from randomwalk.studies.score_embedding.report_settings import settings, subtitle, title

COLUMNS = 8
"""Levels of the embedding that are shown."""


def write(folder: RunFolder) -> list[Path]:
    """Write samples.png and report.html.

    Args:
        folder: folder of a finished run.

    Returns:
        Paths of both.

    Raises:
        InputError: a file that is needed is missing or damaged.
    """
    run = report_data.read(folder)
    embedded = report_data.embedded(folder, run, images_embedded(run), COLUMNS)
    return [
        folder.write_image("samples.png", samples_picture(run)),
        folder.write_text("report.html", html(run, curves(run), pictures(run, embedded))),
    ]


def images_embedded(run: Run) -> int:
    """Number of images whose embedding is shown: fewer beside many samples."""
    return min(len(run.truth), WAYS if run.shown <= WAYS else 2)


# --- the page --------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #232328; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.where, figcaption { color: #70767e; font-size: .85rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .9rem .2rem 0; text-align: right; vertical-align: top; font-weight: normal; }
td:first-child, th:first-child, .settings td { text-align: left; }
th, .settings td:first-child { color: #70767e; }
tr.total td { font-weight: bold; border-top: 1px solid #d9dde2; }
.settings td { overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; }
figure { margin: 0 0 1rem; }
img { max-width: 100%; height: auto; }
.wide img { min-width: 40rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 1.5rem; }
"""


def html(run: Run, lines: Sequence[Panel], images: Sequence[Panel]) -> str:
    """Self-contained HTML page.

    Args:
        run: the run.
        lines: its curves.
        images: its rows of images.
    """
    crossings = crossing_table(run)
    parts = [
        f"<h1>{escape(title(run))}</h1>",
        f'<p class="where">{escape(subtitle(run))}</p>',
        _section("Settings", _pairs(settings(run))),
        _section("Timings", _timings(run) + _figure(timings(run))),
        _section("Final samples", _table(*metric_table(run))),
        _section("Crossings of SSIM", _table(*crossings)) if crossings[1] else "",
        _section("Curves", _curves(lines)),
        *(_section(panel.title, f'<div class="wide">{_figure(panel)}</div>') for panel in images),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(run))}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _section(name: str, body: str) -> str:
    return f"<h2>{escape(name)}</h2>\n{body}"


def _cells(row: Iterable[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr>{_cells(pair)}</tr>" for pair in pairs)
    return f'<table class="settings">{rows}</table>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(f"<tr{' class=total' if row[0].startswith('mean of') else ''}>{_cells(row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{_cells(headings, "th")}</tr>{body}</table></div>'


def _timings(run: Run) -> str:
    total = run.seconds("total")
    rows = []
    for stage, value in stages(run):
        share = f"{100 * value / total:.1f}%" if total and stage in (*INSIDE, "total") else ""
        kind = " class=total" if stage == "total" else ""
        rows.append(f"<tr{kind}>{_cells([stage_label(stage), seconds(value), share])}</tr>")
    return f"<table><tr>{_cells(['stage', 'time', 'of the total'], 'th')}</tr>{''.join(rows)}</table>"


def _curves(panels: Sequence[Panel]) -> str:
    """Curves beside each other where there is room; a caption that several share stands under the last of them."""
    found = []
    for k, panel in enumerate(panels):
        again = k + 1 < len(panels) and panels[k + 1].caption == panel.caption
        found.append(_figure(replace(panel, caption="") if again else panel))
    return f'<div class="curves">{"".join(found)}</div>'


def _figure(panel: Panel) -> str:
    figure = new_figure(panel.size, dpi=160)
    panel.draw(figure)
    data = base64.b64encode(png(figure)).decode()
    picture = f'<img alt="{escape(panel.title)}" src="data:image/png;base64,{data}">'
    words = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    return f"<figure>{picture}{words}</figure>"
