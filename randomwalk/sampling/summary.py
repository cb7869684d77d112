"""Summary of a run: means over the images, with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from randomwalk.images import metrics
from randomwalk.runs.report import Column, Table
from randomwalk.sampling.report import MEAN

LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "psnr_minmax": "min-max PSNR (dB)", "residual": "residual / noise"}
"""Rows of the printed table."""
MEANS = "mean over the images ± standard error"


def summary_text(rows: Sequence[Mapping[str, Any]], num_samples: int) -> str:
    """Means over the images and their standard errors, as a text table; empty if nothing was sampled."""
    samples = [row for row in rows if row["sample"] != MEAN]
    if not samples:
        return ""
    seconds = metrics.over_images(samples, "seconds") or (0.0, 0.0)
    images = len({row["image"] for row in samples})
    head = f"{images} images" + (f", {num_samples} samples of each" if num_samples > 1 else "")
    spent = f"{samples[0]['evaluations']} network evaluations"
    if samples[0].get("vjps"):
        spent += f", {samples[0]['vjps']} vector-Jacobian products"
    lines = [f"{head}: {spent} and {seconds[0]:.3g} s per sample"]
    columns, table = _means(rows, num_samples)
    if table:
        lines.append("  " + " " * 18 + "".join(f"{name:>20}" for name in columns))
        lines += [f"  {label:<18}" + "".join(f"{cell:>20}" for cell in cells) for label, cells in table.items()]
        lines.append(f"  ({MEANS})")
    return "\n".join(lines) + "\n"


def summary_table(rows: Sequence[Mapping[str, Any]], num_samples: int) -> Table | None:
    """Means over the images for the report; None if nothing is measured."""
    columns, table = _means(rows, num_samples)
    if not table:
        return None
    cells = [{"what": label, **dict(zip(columns, found, strict=True))} for label, found in table.items()]
    heads = [Column("what", "", text=True), *(Column(name, name) for name in columns)]
    return Table("Summary", heads, cells, MEANS, first=True)


def _means(rows: Sequence[Mapping[str, Any]], num_samples: int) -> tuple[list[str], dict[str, list[str]]]:
    """Columns of the summary, and its cells by the label of the row."""
    samples = [row for row in rows if row["sample"] != MEAN]
    columns = {"measurement": ("measurement_", samples), "restored": ("", samples)}
    if num_samples > 1:
        columns["mean of samples"] = ("", [row for row in rows if row["sample"] == MEAN])
    table = {}
    for key, label in LABELS.items():
        cells = [metrics.over_images(chosen, prefix + key) for prefix, chosen in columns.values()]
        if any(cells):
            table[label] = [_cell(cell, key) for cell in cells]
    return list(columns), table


def _cell(value: tuple[float, float] | None, key: str) -> str:
    if value is None:
        return "-"
    digits = 3 if key == "ssim" else 2
    error = f" ± {value[1]:.{digits}f}" if value[1] == value[1] else ""
    return f"{value[0]:.{digits}f}{error}"
