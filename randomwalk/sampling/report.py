"""Report of a sampling run, from the files of its folder: images, metrics and schedule."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from randomwalk.config import SampleConfig
from randomwalk.config.operators import parts_of
from randomwalk.images.sheets import STD_WHITE, STD_WHITE_OF_ARRAYS, std_map
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Column, Extra, Page, Picture, Shown, Table, link, size_of_png

MEAN = "mean"
"""Entry of the column ``sample`` for the mean of an image's samples."""
RESTORED = "restored"
WORDS = ("name", "class", "sample")
"""Columns of metrics.csv that are text."""
TABLE = (
    Column("name", "image", text=True), Column("class", "class", text=True), Column("sample", "sample"),
    Column("measurement_psnr", "PSNR before, dB", 2), Column("psnr", "PSNR, dB", 2),
    Column("measurement_ssim", "SSIM before", 3), Column("ssim", "SSIM", 3),
    Column("psnr_minmax", "min-max PSNR, dB", 2), Column("residual", "residual / noise", 2),
    Column("fit", "p of the residual", 3), Column("noise_of_255", "noise, of 255", 1),
    Column("evaluations", "evaluations", 0), Column("vjps", "Jacobian products", 0), Column("seconds", "seconds", 2),
)  # fmt: skip
"""Columns of metrics.csv in the table of images."""
MOST_ROWS = 2000
_KIND = re.compile(
    r"(\d+)(?:_.*?)??(?:_(sample\d+|truth|measurement|mean|std|low|high|walk))?\.(?:png|webp)", re.DOTALL
)
_FIGURES = {
    "schedule.png": ("Schedule", ""),
    "calibration.png": ("Calibration", "how often the truth lies where the samples say it does"),
}


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of metrics.csv; none if the run is not finished.

    Raises:
        InputError: it is damaged.
    """

    def value(key: str, cell: str) -> Any:
        if cell == "":
            return None
        if key in WORDS:
            return int(cell) if key == "sample" and cell != MEAN else cell
        return int(cell) if key in ("image", "label") else float(cell)

    def read(row: Mapping[str, str]) -> dict[str, Any]:
        made = {key: value(key, cell) for key, cell in row.items()}
        if made["image"] is None or made["sample"] is None:
            raise ValueError("a row names no image or sample")
        return made

    try:
        return [read(row) for row in folder.read_csv("metrics.csv")]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise report.damaged(folder, "metrics.csv", error) from error


def pictures_of(folder: RunFolder) -> dict[int, dict[str, str]]:
    """Names of the pictures of a run: by number of the image, and by kind ("truth", "sample0", ...)."""
    found: dict[int, dict[str, str]] = {}
    if folder.file("images").is_dir():
        for entry in os.scandir(folder.file("images")):
            if match := _KIND.fullmatch(entry.name):
                found.setdefault(int(match[1]), {})[match[2] or "sample0"] = f"images/{entry.name}"
    return found


def std_white(config: SampleConfig) -> float:
    """Standard deviation of the brightest colour in the maps of a run."""
    arrays = config.data is not None and config.data.range is not None
    return STD_WHITE_OF_ARRAYS if arrays else STD_WHITE


def images_of(
    folder: RunFolder, rows: Sequence[Mapping[str, Any]], conditional: bool, white: float = STD_WHITE
) -> dict[int, Shown]:
    """Images of a run by number, as a page shows them; at most `report.MOST_IMAGES`.

    Args:
        folder: of the run.
        rows: of metrics.csv.
        conditional: whether there are measurements.
        white: standard deviation of the brightest colour of the maps.
    """
    of_image: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_image.setdefault(row["image"], []).append(row)
    pictures, shown = pictures_of(folder), {}
    for image in sorted(of_image):
        names = pictures.get(image, {})
        kinds = sorted((kind for kind in names if kind.startswith("sample")), key=lambda kind: int(kind[6:]))
        size = size_of_png(folder.file(names[kinds[0]])) if kinds else None
        if size is None:
            continue
        one = RESTORED if conditional else "sample"
        labels = {"measurement": "measurement"} | {
            kind: one if len(kinds) == 1 else f"sample {kind[6:]}" for kind in kinds
        }
        labels |= {"mean": f"mean of {len(kinds)}", "truth": "truth"}
        shown[image] = Shown(
            str(of_image[image][0].get("name") or f"image {image}"),
            [Picture(label, link(names[kind])) for kind, label in labels.items() if kind in names],
            size,
            _caption(of_image[image]),
            _extras(names, white),
        )
        if len(shown) == report.MOST_IMAGES:
            break
    return shown


def _extras(names: Mapping[str, str], white: float) -> list[Extra]:
    """Map of the standard deviation, with its colour bar, and the animation, where there are any."""
    found = []
    if "std" in names:
        colours = std_map(np.linspace(0, white, 17)[None], white)[0]
        scale = {
            "colours": ["rgb({} {} {})".format(*colour) for colour in colours.tolist()],
            "low": "0",
            "high": f"{white:g} or more",
        }
        said = "standard deviation of the samples at each pixel, in units in which black is -1 and white 1"
        found.append(Extra("Spread", link(names["std"]), scale, said))
    if "walk" in names:
        found.append(Extra("Animation", link(names["walk"]), caption="the walk, and the denoised image at its steps"))
    return found


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Class and figures of merit of an image: those of the mean of its samples if there are several."""
    row = next((row for row in rows if row["sample"] == MEAN), rows[0])
    before = rows[0].get("measurement_psnr")
    parts = [str(row["class"])] if row.get("class") else []
    if row.get("psnr") is not None:
        parts.append("PSNR " + (f"{before:.1f} → " if before is not None else "") + f"{row['psnr']:.1f} dB")
        parts += [f"SSIM {row['ssim']:.3f}"] if row.get("ssim") is not None else []
    elif rows[0].get("noise_of_255") is not None:
        parts.append(f"noise {rows[0]['noise_of_255']:.1f} of 255")
    return ", ".join(parts)


def _metrics(rows: Sequence[Mapping[str, Any]], shown: Iterable[int]) -> Table:
    """Table of all samples; the names lead to the images."""
    places = {image: f"#image-{k}" for k, image in enumerate(shown)}
    columns = [column for column in TABLE if any(row.get(column.key) is not None for row in rows)]
    if not any(row.get("vjps") for row in rows):
        columns = [column for column in columns if column.key != "vjps"]
    if all(row["sample"] == 0 for row in rows):
        columns = [column for column in columns if column.key != "sample"]
    kept = [
        {**{c.key: row.get(c.key) for c in columns}, "name": row.get("name") or f"image {row['image']}",
         "href": places.get(row["image"], "")}
        for row in rows[:MOST_ROWS]
    ]  # fmt: skip
    left = f"The first {MOST_ROWS} of {len(rows)} rows of metrics.csv." if len(rows) > MOST_ROWS else ""
    names = [] if any(column.key == "name" for column in columns) else [TABLE[0]]
    return Table("Metrics", [*names, *columns], kept, f"Click a heading to sort. {left}".strip())


def title_of(config: SampleConfig) -> tuple[str, str]:
    """Title of the page, and the line below it."""
    weights = PurePosixPath(Path(config.network.path).as_posix()).name
    schedule = f", {config.sampler.schedule.num_steps} steps" if config.sampler.schedule else ""
    line = f"sampler {config.sampler.name}{schedule}, weights {weights}, seed {config.seed}"
    if config.measurement is None:
        return "Samples", line
    names = " and ".join(part.name.replace("_", " ") for part in parts_of(config.measurement.operator))
    return names[:1].upper() + names[1:], line


def page(
    folder: RunFolder, config: SampleConfig, rows: Sequence[Mapping[str, Any]], finished: bool,
    notes: Sequence[str] = (), summary: Table | None = None, remarks: Sequence[str] = (),
) -> Page:  # fmt: skip
    """Report of a run that samples images.

    Args:
        folder: of the run.
        config: of the run.
        rows: of metrics.csv.
        finished: whether the run is.
        notes: on single images, and why some were skipped.
        summary: means over the images.
        remarks: on the calibration.
    """
    made = report.described(folder, "sample", *title_of(config), finished)
    made.warnings = list(dict.fromkeys([*made.warnings, *(line.removeprefix("warning: ") for line in notes)]))
    made.remarks = remarks
    shown = images_of(folder, rows, config.measurement is not None, std_white(config))
    made.images = list(shown.values())
    count = len({row["image"] for row in rows})
    made.images_title = f"{count} image{'s' if count != 1 else ''}"
    if count > len(shown):
        made.images_note = f"The first {len(shown)} of {count} images; all are in {folder.file('images')}."
    labels = list(dict.fromkeys(picture.label for one in made.images for picture in one.pictures))
    if labels:
        results = [label for label in labels if label not in ("measurement", "truth")]
        made.right = next((label for label in results if label.startswith("mean")), results[0])
        made.left = next((label for label in ("measurement", "truth") if label in labels), results[0])
    if rows:
        made.tables = [*([summary] if summary else []), _metrics(rows, shown)]
    made.figures = report.figures_in(folder, _FIGURES)
    if folder.has("kernel.png"):
        made.figures = [*made.figures, report.Figure("Blur kernel", link("kernel.png"), plot=False)]
    return made
