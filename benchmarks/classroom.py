"""Points in the plane: every set, every SDE and every loss, trained, sampled and compared with the floor.

Each row is configs/toy/SET_train.yaml and SET_sample.yaml with the changes that the row names. Chamfer distance and
earth mover's distance are means over 100 clouds of 100 points; the floor is that of two exact sets. A row is met if
both are within 25% of their floors, and on the swiss roll if the Chamfer distance is at most 0.0975.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.common import ROOT, Report, bar, parser, start
from support.engine import Records

from randomwalk import distributed
from randomwalk.config.files import load_sample_config, load_train_config
from randomwalk.rng import Stream, generator
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.loading import load_task
from randomwalk.studies.points import datasets, figures, metrics
from randomwalk.studies.points.simulation import sde_curves
from randomwalk.studies.points.training import PointTrainingSet
from randomwalk.training.trainer import MODEL, Trainer
from score_sde import sdes

CONFIGS = ROOT / "configs" / "toy"
SETS = ("swiss_roll", "moons", "circles", "s_curve", "checkerboard", "eight_gaussians", "pinwheel", "mixture")
ROLL = "swiss_roll"
FLOOR_REPEATS = 20
MOST, MOST_ON_ROLL = 1.25, 0.0975


def with_sde(sde: str, prediction: str = "v", **objective: Any) -> tuple[str, ...]:
    """Changes of the config: a network that is told the time of an SDE, at even times if nothing else is said."""
    settings = {"levels": "{name: even_time}", **objective}
    written = ", ".join(f"{key}: {value}" for key, value in settings.items())
    denoiser = f"{{name: sde, sde: {sde}, prediction: {prediction}}}"
    return f"denoiser={denoiser}", "network.time_scale=1", f"objective={{{written}}}"


VP = "{name: vp}"
EDM_LEVELS = "{name: log_normal, mean: -0.3, std: 1.3}"
"""Levels of the configs. Losses that do not look at X are noisy where the network is steep, at low noise levels."""


def without_x(name: str, **objective: Any) -> tuple[str, ...]:
    """Changes of the config: a loss that does not look at X. Its epsilon weight keeps the noise of all levels alike."""
    return with_sde(VP, "epsilon", name=name, levels=EDM_LEVELS, **objective)


@dataclass(frozen=True)
class Row:
    """A training: the set, what the table says of it, and the changes of the config."""

    group: str
    label: str
    points: str = ROLL
    changes: tuple[str, ...] = ()


ROWS = [
    *(Row("sets", name, name) for name in SETS),
    Row("SDEs", "EDM"),
    Row("SDEs", "OU", changes=with_sde("{name: ou}")),
    Row("SDEs", "OU, EDM's levels", changes=with_sde("{name: ou}", levels=EDM_LEVELS)),
    Row("SDEs", "VP", changes=with_sde(VP)),
    Row("SDEs", "sub-VP", changes=with_sde("{name: sub_vp}")),
    Row("SDEs", "VE", changes=with_sde("{name: ve}")),
    Row("losses", "epsilon", changes=with_sde(VP, "epsilon")),
    Row("losses", "x0", changes=with_sde(VP, "x0")),
    Row("losses", "v", changes=with_sde(VP, "v")),
    Row("losses", "score", changes=with_sde(VP, "score")),
    Row("losses", "likelihood weight", changes=with_sde(VP, weight="likelihood", levels="{name: log_uniform}")),
    Row("losses", "EDM weight"),
    Row("losses", "implicit, exact", changes=without_x("implicit_score_matching", divergence="exact")),
    Row("losses", "implicit, Hutchinson", changes=without_x("implicit_score_matching", divergence="hutchinson")),
    Row("losses", "sliced", changes=without_x("sliced_score_matching")),
]  # fmt: skip
TITLES = {
    "sets": "Sets, with EDM's denoiser and weight",
    "SDEs": "SDEs, on the swiss roll",
    "losses": "Losses, on the swiss roll (VP, except EDM): predictions, weights, and losses that do not use X",
}


def train_and_sample(row: Row, options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """Distances of the samples to the set with their errors, and CPU seconds; and the samples."""
    changes = [*row.changes, *([f"num_images={options.num_images}"] if options.num_images else [])]
    device = distributed.choose_device(options.device)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = load_train_config(CONFIGS / f"{row.points}_train.yaml", [*changes, f"output={folder}"])
        Trainer(config, distributed.connect(options.device), RunFolder(folder), PointTrainingSet(config)).run()
        trained = time.process_time()
        overrides = [f"network.path={Path(folder) / MODEL}", f"output={folder}", f"device={options.device}"]
        task = load_task(load_sample_config(CONFIGS / f"{row.points}_sample.yaml", overrides), device)
        batches = [task.sample(units, None) for units in task.batches()]
    points = torch.cat([batch.x for batch in batches]).flatten(1).cpu().numpy()
    found: dict[str, Any] = {"train_seconds": trained - began, "sample_seconds": time.process_time() - trained}
    exact = datasets.make(row.points)
    truth = exact.sample(len(points), generator(task.config.seed, Stream.POINTS_TRUTH))
    for name, distance in metrics.METRICS.items():
        measured, floor = distance(points, truth), metrics.floor(name, exact, len(points), options.floor_repeats)
        found[name] = [measured.value, measured.error, floor.value, floor.error]
    return found, points


def verdict(row: Row, found: dict[str, Any]) -> str:
    """Verdict on the distances."""
    near = all(found[name][0] <= MOST * found[name][2] for name in metrics.METRICS)
    return "met" if near and (row.points != ROLL or found["chamfer"][0] <= MOST_ON_ROLL) else "MISSED"


def cells(row: Row, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    shown = [row.label]
    for name, digits in (("chamfer", 4), ("emd", 3)):
        value, error, floor, _ = found[name]
        shown += [f"{value:.{digits}f} ± {error:.{digits}f}", f"{floor:.{digits}f}", f"{value / floor:.2f}"]
    return [*shown, f"{found['train_seconds']:.0f} + {found['sample_seconds']:.0f}", verdict(row, found)]


def tables(report: Report, found: dict[str, dict[str, Any]]) -> None:
    """Print all tables and keep the results."""
    head = ["", "Chamfer", "floor", "ratio", "EMD", "floor", "ratio", "CPU s (train + sample)", "within 25%"]
    for group, title in TITLES.items():
        rows = [row for row in ROWS if row.group == group and key(row) in found]
        for row in rows:
            values = found[key(row)]
            for name, unit in (("chamfer", "squared distance"), ("emd", "distance")):
                for metric, value in zip((name, f"{name}_error", f"{name}_floor"), values[name], strict=False):
                    report.add(row.points, f"{group}: {row.label}", metric, value, unit)
            report.add(row.points, f"{group}: {row.label}", "cpu", values["train_seconds"], "s")
        if rows:
            report.table(title, head, [cells(row, found[key(row)]) for row in rows])


def key(row: Row) -> str:
    """Key of a training; rows with the same changes share one."""
    return f"{row.points} {' '.join(row.changes)}".strip()


def options() -> argparse.ArgumentParser:
    """Options of this script."""
    made = parser(__doc__ or "")
    made.add_argument("--rows", nargs="+", choices=sorted({row.label for row in ROWS}), help="only these")
    made.add_argument("--num-images", type=int, metavar="N", help="points seen in training (those of the configs)")
    made.add_argument("--resume", metavar="FOLDER", help="reuse the rows that an earlier run has finished")
    return made


def main(chosen: argparse.Namespace) -> int:
    """Train, sample and print."""
    rows = [row for row in ROWS if not chosen.rows or row.label in chosen.rows]
    chosen.floor_repeats = 2 if chosen.quick else FLOOR_REPEATS
    if chosen.quick:
        rows = [row for row in rows if row.label in chosen.rows] if chosen.rows else rows[:1]
        chosen.num_images = chosen.num_images or 256_000
    report = Report("classroom", chosen, str(distributed.choose_device(chosen.device)), ["POT"])
    records = Records(report.folder, chosen.resume)
    report.folder.write_image("sde.png", figures.sde_figure([sde_curves(sdes.make(name)) for name in sdes.SDES]))
    found: dict[str, dict[str, Any]] = {}
    with bar(len({key(row) for row in rows}), "classroom", "trainings") as tick:
        for row in rows:
            if key(row) in found:
                continue
            settings = {"num_images": chosen.num_images, "floors": chosen.floor_repeats, "version": 1}
            kept = records.of("classroom", key(row), settings)
            if "result" not in kept:
                kept["result"], points = train_and_sample(row, chosen)
                records.save()
                report.folder.write_array(f"samples/{row.label}.npy", points)
            found[key(row)] = kept["result"]
            tick(1, f"{row.label}: {found[key(row)]['chamfer'][0]:.4f}")
    tables(report, found)
    return report.finish()


if __name__ == "__main__":
    start(main, options())
