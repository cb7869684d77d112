"""Reports of bridges: their training, and points sent over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from randomwalk.config.bridge import BridgeConfig, BridgeSampleConfig
from randomwalk.runs import report
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Chart, Column, Line, Page
from randomwalk.training.report import curve

COLUMNS = (
    Column("measure", "measure", text=True), Column("direction", "direction", text=True), Column("value", "value", 4),
    Column("error", "standard error", 4), Column("reference", "ideal", 4), Column("what", "the ideal is", text=True),
)  # fmt: skip
"""Columns of metrics.csv in the report."""
FIGURES = {
    "bridge.png": ("Bridge", ""),
    "bridge.webp": ("Animation", ""),
    "gaussian.png": ("Compared with the exact bridge", ""),
}


def training_page(folder: RunFolder, config: BridgeConfig, finished: bool) -> Page:
    """Report of the training of a bridge.

    Raises:
        InputError: a log is damaged.
    """
    ends = f"{config.bridge.source.name} and {config.bridge.target.name}".replace("_", " ")
    about = f"{config.bridge.iterations} fits, sigma {config.bridge.sigma:g}, seed {config.seed}"
    made = report.described(folder, "train", f"Training of a bridge between {ends}", about, finished)
    log, fits = (folder.read_log(name, lambda _: True) for name in ("log.csv", "fits.csv"))
    made.charts = [*_losses(log), *_fits(fits)]
    return _measured(made, folder, finished)


def sampling_page(folder: RunFolder, config: BridgeSampleConfig) -> Page:
    """Report of points that were sent over a bridge."""
    about = f"{config.num_steps} steps, direction {config.direction}, seed {config.seed}"
    return _measured(report.described(folder, "sample", "Points sent over a bridge", about, True), folder, True)


def _measured(page: Page, folder: RunFolder, finished: bool) -> Page:
    if finished:
        page.tables = report.table_in(folder, "metrics.csv", "Metrics", COLUMNS)
        page.figures = report.figures_in(folder, FIGURES)
    return page


def _losses(log: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss of both directions against the logged steps of all fits."""
    found: dict[str, list[list[float]]] = {}
    for k, row in enumerate(log):
        found.setdefault(row["direction"], []).append([k, float(row["loss"])])
    lines = [Line(direction, report.thinned(points)) for direction, points in found.items()]
    return [Chart("Training loss", "logged steps of all fits", lines, log=True)] if lines else []


def _fits(fits: Sequence[Mapping[str, Any]]) -> list[Chart]:
    titles = {"transport_cost": "Transport cost of the pairs", "chamfer": "Distance of their simulated end to its set"}
    curves = {key: curve(fits, "fit", key) for key in titles}
    return [Chart(titles[key], "fit", [Line(titles[key].lower(), points)]) for key, points in curves.items() if points]
