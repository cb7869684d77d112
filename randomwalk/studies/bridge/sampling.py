"""Sampling runs of bridges, the run behind ``sample.py``: send points over a trained bridge."""

from __future__ import annotations

import numpy as np
import torch

from randomwalk.config.bridge import MOST_POSITIONS, NUM_POINTS, BridgeSampleConfig
from randomwalk.config.files import dump
from randomwalk.errors import InputError, RunError
from randomwalk.images.arrays import read_array
from randomwalk.progress import bar
from randomwalk.rng import Stream, generator
from randomwalk.runs import report as reports
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.session import only_process, session
from randomwalk.studies.bridge import figures, measures, report
from randomwalk.studies.bridge.measures import Paths, Row
from randomwalk.studies.bridge.model import Bridge, load_bridge
from randomwalk.studies.bridge.simulation import time_grid
from randomwalk.studies.bridge.training import exact_ends, table
from randomwalk.studies.points import metrics

FLOOR_REPEATS = 10
_FURTHEST = 1e6
DIRECTIONS = {"both": (True, False), "forward": (True,), "backward": (False,)}


def read_points(path: str) -> np.ndarray:
    """Read the points ``[n, 2]``, float32, of a .npy file.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    points = read_array(path, f"points: {path}")
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise InputError(f"points: {path} has shape {points.shape}; expected [n, 2], points in the plane")
    if np.abs(points).max() > _FURTHEST:
        raise InputError(f"points: {path} has entries beyond {_FURTHEST:g}, far from all that a bridge is trained on")
    return points.astype(np.float32)


def run(config: BridgeSampleConfig, folder: RunFolder | None = None, dry_run: bool = False) -> int:
    """Send points over a trained bridge.

    An interrupted run starts again from the beginning, in its folder: it takes seconds, and every file is a function of
    the config.

    Args:
        config: of the run.
        folder: of an interrupted run; None for a new one.
        dry_run: only check the config and the files.

    Returns:
        The exit status.

    Raises:
        InputError: there are several processes, or a file is missing or does not fit.
        RunError: the simulated points are not finite.
    """
    context = only_process(config.device, "sampling a bridge")
    if dry_run:
        bridge, _ = _inputs(config, context.device)
        print(dump(config), end="")
        print(f"# ok: a bridge between {bridge.source.name} and {bridge.target.name}, sigma {bridge.sigma:g}")
        return 0
    rows: list[Row] = []
    with session("sample", config.output, context, folder) as held, bar(4, "sampling", "parts") as tick:
        folder, (bridge, given) = held.folder, _inputs(config, context.device)
        held.begin(config)
        tick(0, "paths")
        paths = _paths(config, bridge, given, str(context.device))
        tick(1, "figure")
        _write(folder, paths)
        ends = exact_ends(bridge, config.seed)
        folder.write_bytes("bridge.png", figures.bridge_figure(paths, ends))
        tick(1, "animation")
        if config.animation_frames:
            folder.write_bytes("bridge.webp", figures.animation(paths, ends, config.animation_frames))
        tick(1, "distances")
        if given is None and (rows := _rows(bridge, paths, config.seed)):
            columns = measures.COLUMNS
            write_csv(folder, "metrics.csv", columns, [{key: getattr(row, key) for key in columns} for row in rows])
        reports.write(folder, report.sampling_page(folder, config))
        tick(1, "done")
    if rows:
        print("\n".join(table(rows)))
    names = ["forward" if forward else "backward" for forward in DIRECTIONS[config.direction]]
    print(f"points: {', '.join(str(folder.file(f'{name}.npy')) for name in names)}")
    print(f"figures: {folder.file('bridge.png')}, {folder.file('bridge.webp')}")
    print(f"report: {folder.file(reports.NAME)}")
    return 0


def _inputs(config: BridgeSampleConfig, device: torch.device) -> tuple[Bridge, np.ndarray | None]:
    """Bridge, and the starting points that are given, if any."""
    bridge = load_bridge(config.bridge.path, config.bridge.weights, device)
    if config.points is None:
        return bridge, None
    points = read_points(config.points)
    if len(points) * config.num_steps > MOST_POSITIONS:
        raise InputError(
            f"points: {config.points} has {len(points)} points, for num_steps {config.num_steps}; allowed: at most "
            f"{MOST_POSITIONS:,} positions, the product of the two"
        )
    return bridge, points


def _write(folder: RunFolder, paths: dict[bool, Paths]) -> None:
    """Write both ends of all paths.

    Raises:
        RunError: the points are not finite.
    """
    for forward, way in paths.items():
        if not np.isfinite(way.points).all():
            raise RunError("the simulated points are not finite; are the given points far from those of the training?")
        name = "forward" if forward else "backward"
        folder.write_array(f"{name}.npy", way.points[-1])
        folder.write_array(f"{name}_start.npy", way.points[0])


def _paths(config: BridgeSampleConfig, bridge: Bridge, given: np.ndarray | None, device: str) -> dict[bool, Paths]:
    if given is None:
        num, directions = config.num_points or NUM_POINTS, DIRECTIONS[config.direction]
        return measures.send(bridge, directions, num, config.num_steps, config.grid, config.seed, device)
    forward = config.direction == "forward"
    times = time_grid(config.num_steps, config.grid, backward=not forward)
    draws = generator(config.seed, Stream.BRIDGE_NOISE, forward)
    return {forward: measures.simulate_paths(bridge.drift(forward), given, times, bridge.sigma, draws, device)}


def _rows(bridge: Bridge, paths: dict[bool, Paths], seed: int) -> list[Row]:
    """Distances of the ends to the exact ones; none for too few points."""
    if min(way.points.shape[1] for way in paths.values()) < 2 * metrics.CLOUD:
        return []
    rows = measures.end_rows(bridge, paths, FLOOR_REPEATS, seed)
    return rows + measures.middle_rows(paths) if len(paths) == 2 else rows
