"""Training runs of bridges: the run behind ``train.py``, and its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from randomwalk.config.bridge import BridgeConfig
from randomwalk.config.files import dump
from randomwalk.progress import bar
from randomwalk.rng import Stream, generator
from randomwalk.runs.checkpoints import MODEL
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.report import NAME as REPORT
from randomwalk.runs.session import only_process, session
from randomwalk.studies.bridge import figures, gaussian, measures
from randomwalk.studies.bridge.ends import exact_bridge
from randomwalk.studies.bridge.gaussian import GaussianBridge
from randomwalk.studies.bridge.measures import Row
from randomwalk.studies.bridge.model import Bridge
from randomwalk.studies.bridge.trainer import BridgeTrainer, build_bridge
from randomwalk.training.foreseen import warn

LABELS = {"normal": "Gaussian", "gaussian": "Gaussian"}
NUM_SHOWN = 4000
"""Number of the exact points in the figures."""


def run(config: BridgeConfig, resume: str | None = None, dry_run: bool = False) -> int:
    """Train a bridge in a new folder, or resume the run in the folder ``resume``; then measure the bridge.

    Returns:
        The exit status.

    Raises:
        InputError: there are several processes, or the folder cannot be used.
        RunError: the training failed; its last checkpoint stays.
    """
    context = only_process(config.device, "training a bridge")
    if dry_run:
        print(dump(config), end="")
        bridge = build_bridge(config)
        parameters = sum(p.numel() for p in bridge.parameters())
        print(f"# ok: {_names(bridge)}, {parameters:,} parameters in both directions")
        return 0
    with session("train", config.output, context, RunFolder.resume(resume) if resume else None) as held:
        held.begin(config)
        folder, trainer = held.folder, BridgeTrainer(config, context.device, held.folder)
        if resume:
            trainer.resume()
        warnings = trainer.warnings()
        warn(warnings)
        held.keep_notes(warnings)
        start = f"from fit {trainer.fit}" if trainer.fit else "from the start"
        print(f"bridge between {_names(trainer.bridge)}, sigma {trainer.bridge.sigma:g}; {start}", flush=True)
        trainer.run()
        print("\n".join(table(report(trainer, folder))))
        trainer.write_report()
        print(
            f"weights: {folder.file(MODEL)}\nnumbers: {folder.file('metrics.csv')}\n"
            f"figures: {folder.file('bridge.png')}, {folder.file('bridge.webp')}\nreport:  {folder.file(REPORT)}"
        )
    return 0


def _names(bridge: Bridge) -> str:
    return f"{bridge.source.name} and {bridge.target.name}"


def exact_ends(bridge: Bridge, seed: int) -> figures.Ends:
    """Exact points of both ends, for the figures."""
    ends = (bridge.source, bridge.target)
    source, target = (end.sample(NUM_SHOWN, generator(seed, Stream.BRIDGE_SHOWN, k)) for k, end in enumerate(ends))
    return figures.Ends(source, target, *(LABELS.get(end.name, end.name.replace("_", " ")) for end in ends))


def report(trainer: BridgeTrainer, folder: RunFolder) -> list[Row]:
    """Measure the averaged bridge of a training; write its numbers and figures."""
    config, bridge = trainer.config, trainer.averaged_bridge()
    seed, settings = config.seed, config.evaluation
    num, num_steps, grid = settings.num_points, settings.num_steps, config.bridge.grid
    with bar(7, "measuring", "parts") as tick:
        tick(0, "paths")
        paths = measures.send(bridge, (True, False), num, num_steps, grid, seed, trainer.device)
        rows: list[Row] = []
        for forward, way in paths.items():
            tick(1, "forward end" if forward else "backward end")
            rows += measures.end_rows(bridge, {forward: way}, settings.floor_repeats, seed)
        tick(1, "middle")
        rows += measures.middle_rows(paths)
        tick(1, "transport")
        rows += measures.regularity_rows(bridge, paths, settings.num_transport, seed)
        exact = exact_bridge(bridge.source, bridge.target, bridge.sigma)
        curve = _curve(trainer.logs["fits.csv"], rows, exact, config.bridge.first_coupling == "independent")
        tick(1, "figures")
        if exact is not None:
            references = measures.exact_paths(
                exact, paths, lambda forward: generator(seed, Stream.BRIDGE_NOISE, forward)
            )
            more, moments = measures.gaussian_rows(exact, paths, references)
            rows += more
            write_csv(folder, "moments.csv", measures.MOMENTS, moments)
            folder.write_bytes("gaussian.png", figures.gaussian_figure(paths, exact, moments, curve))
        write_csv(folder, "metrics.csv", measures.COLUMNS, [_cells(row) for row in rows])
        ends = exact_ends(bridge, seed)
        folder.write_bytes("bridge.png", figures.bridge_figure(paths, ends, curve))
        tick(1, "animation")
        if settings.animation_frames:
            folder.write_bytes("bridge.webp", figures.animation(paths, ends, settings.animation_frames))
        tick(1, "done")
    return rows


def _curve(
    fits: Sequence[dict[str, Any]], rows: Sequence[Row], exact: GaussianBridge | None, independent: bool
) -> figures.Curve:
    """Transport cost of the pairs of every fit, and of the pairs that the trained bridge makes."""
    final = "forward" if len(fits) % 2 == 0 else "backward"
    last = next(row for row in rows if row.measure == "transport_cost" and row.direction == final)
    optimal = next(row for row in rows if row.measure == "transport_cost_optimal")
    lines = {"entropic plan (the bridge)": last.reference or math.nan, "optimal plan": optimal.value}
    costs = [float(line["transport_cost"]) for line in fits] + [last.value]
    iterates = None
    if exact is not None and independent:
        iterates = [b.transport_cost() for b in gaussian.markovian_fitting(gaussian.independent(exact), len(fits))]
    return figures.Curve(range(len(costs)), costs, lines, iterates)


def _cells(row: Row) -> dict[str, Any]:
    numbers = {"value": row.value, "error": row.error, "reference": row.reference}
    written = {key: None if value is None or math.isnan(value) else f"{value:.6g}" for key, value in numbers.items()}
    return {"measure": row.measure, "direction": row.direction, "what": row.what, **written}


def table(rows: Sequence[Row]) -> list[str]:
    """Rows as aligned columns of text: value and standard error, value of a perfect bridge, and their ratio."""
    lines = [("", "value", "ideal", "ratio", "the ideal is")]
    for row in rows:
        value = f"{row.value:.4g}" + ("" if math.isnan(row.error) else f" ± {row.error:.1g}")
        ideal = "" if row.reference is None else f"{row.reference:.4g}"
        ratio = f"{row.value / row.reference:.3f}" if row.reference else ""
        name = row.measure.replace("_", " ") + (f", {row.direction}" if row.direction else "")
        lines.append((name, value, ideal, ratio, row.what))
    first, *others = (max(map(len, column)) for column in zip(*(line[:4] for line in lines), strict=True))
    return [
        f"  {name:<{first}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, others, strict=True)) + f"  {what}"
        for name, *cells, what in lines
    ]
