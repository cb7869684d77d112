"""The files of a sampling run of points: all points in one array, distances to the set, and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from randomwalk.denoisers.checkpoints import read_config
from randomwalk.denoisers.wrappers import Probe
from randomwalk.progress import bar
from randomwalk.rng import Stream, generator
from randomwalk.runs import report as reports
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.report import Column, Page
from randomwalk.sampling import report
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.image_results import ImageResults
from randomwalk.sampling.results import Results, is_number
from randomwalk.sampling.task import Task, Watch
from randomwalk.studies.points import datasets, figures, metrics, scores
from randomwalk.studies.points.simulation import sde_curves, sde_of

COLUMNS = ("metric", "value", "error", "floor", "floor_error", "ratio")
REPORTED = (
    Column("metric", "metric", text=True), Column("value", "value", 4), Column("error", "standard error", 4),
    Column("floor", "floor", 4), Column("floor_error", "its error", 4), Column("ratio", "ratio", 2),
)  # fmt: skip
"""Columns of metrics.csv in the report."""
SAID_OF_FLOOR = "The floor is the same distance between two sets of true points."
FIGURES = {
    "samples.png": ("Samples", ""),
    "particles.gif": ("Particles", "the first points at steps of the walk"),
    "score_field.png": ("Score", "arrows of equal length; the colour is the distance to the denoised point over σ"),
    "score_error.png": ("Error of the score", "where the density is known"),
    "sde.png": ("Stochastic differential equation", ""),
    "schedule.png": ("Schedule", ""),
}
SHOWN_LEVELS = (2.0, 1.0, 0.5, 0.2)
ERROR_LEVELS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
MOVING = 1500
"""Points in the animation."""
FLOOR_REPEATS = 4


def results_for(folder: RunFolder, task: Task) -> Results:
    """Writer of a task's results: `PointResults` if the task samples points (images of one pixel with two channels)."""
    points = task.images.source is None and task.images.shape == (2, 1, 1)
    return PointResults(folder, task) if points else ImageResults(folder, task)


def set_of(task: Task) -> datasets.PointSet | None:
    """The set that the weights were trained on, if they say so."""
    network = task.config.network
    said: Any = read_config(network.path) if network.name == "file" else None
    for key in ("training", "config", "data"):  # which may be anything in the files of others
        said = said.get(key) if isinstance(said, dict) else None
    name = said.get("set") if isinstance(said, dict) and said.get("dataset") == "points" else None
    return datasets.make(name) if name in datasets.SETS else None


class Recorder:
    """Keeps where the first points of a batch are after some of the steps, the last among them.

    Args:
        num_steps: of the walk.
        count: how many frames.
    """

    def __init__(self, num_steps: int, count: int) -> None:
        ends = [round(k) for k in np.linspace(0, num_steps - 1, count)] if count else []
        self._steps, self._num_steps = set(ends), num_steps
        self.frames: list[np.ndarray] = []
        self.sigmas: list[float] = []

    def watch(self, k: int, x: Tensor, sigma: float, probe: Probe) -> None:
        """Keep the state after step k if that is due. Its level is known when the next step has been done."""
        if len(self.sigmas) < len(self.frames):
            self.sigmas.append(sigma)
        if k in self._steps:
            self.frames.append(x[:MOVING].detach().flatten(1).float().cpu().numpy().copy())
            if k == self._num_steps - 1:
                self.sigmas.append(0.0)


class PointResults(Results):
    """Results of a run that samples points: all points in one array, distances to the set, and figures."""

    def __init__(self, folder: RunFolder, task: Task) -> None:
        super().__init__(folder, task)
        self.set = set_of(task)
        self._recorder: Recorder | None = None

    # --- a batch -------------------------------------------------------------------------------------------------

    def watch_batch(self, ids: Sequence[SampleId]) -> Watch:
        """Callback that records the first points of the run."""
        frames = self.task.config.animation_frames if ids[0].image == 0 else 0
        self._recorder = Recorder(self.task.num_steps, frames)
        return self._recorder.watch

    def write_batch(self, b: int, batch: Batch | None, skipped: Mapping[int, str], notes: Sequence[str]) -> None:
        """Write the points and the record of batch ``b``; points are never skipped, and have no notes."""
        assert batch is not None and not skipped
        files = {f"arrays/batch_{b:05d}.npy": batch.x.flatten(1).float().cpu().numpy()}
        if self._recorder is not None and self._recorder.frames:
            files |= {"arrays/walk.npy": np.stack(self._recorder.frames)}
            files |= {"arrays/walk_sigmas.npy": np.array(self._recorder.sigmas)}
        for name, array in files.items():
            self.folder.write_array(name, array)
        facts = {"evaluations": batch.evaluations, "seconds": round(batch.seconds * len(batch.ids), 4)}
        self.write_record(b, facts, files)

    def fits(self, b: int, record: Mapping[str, Any]) -> bool:
        """Whether a JSON object is a record: the number of evaluations, and the seconds."""
        return all(is_number(record.get(key)) for key in ("evaluations", "seconds"))

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, num_batches: int) -> int:
        """Write samples.npy, metrics.csv and the figures, and print the summary; see `Results.finish`."""
        records = self.records(num_batches)
        points = np.concatenate([self.folder.read_array(f"arrays/batch_{b:05d}.npy") for b in range(num_batches)])
        self.folder.write_array("samples.npy", points)
        seconds = sum(record["seconds"] for record in records)
        work = f"{records[0]['evaluations']} network evaluations each, {seconds:.3g} s in all"
        lines = [f"{len(points):,} points: {work}"]
        truth = None
        if self.set is not None:
            truth = self.set.sample(len(points), generator(self.task.config.seed, Stream.POINTS_TRUTH))
        with bar(3, "measuring", "parts") as tick:
            tick(0, "distances")
            rows = self._distances(points, truth)
            tick(1, "scores")
            rows += self._score_errors(truth)
            write_csv(self.folder, "metrics.csv", COLUMNS, rows)
            tick(1, "pictures")
            self._draw(points, truth, rows)
            tick(1, "done")
        lines += [_line(row) for row in rows]
        if self.set is None:
            lines.append("  the weights do not say which set they were trained on: there is nothing to compare with")
        print("\n".join(lines))
        print(f"pictures: {self.folder.file('samples.png')}, and others beside it")
        print(f"numbers:  {self.folder.file('metrics.csv')}, {self.folder.file('samples.npy')}")
        return 0

    def page(self, finished: bool) -> Page:
        """Report with the figures and the distances."""
        made = reports.described(
            self.folder, "sample", "Samples of points", report.title_of(self.task.config)[1], finished
        )
        if finished:
            made.tables = reports.table_in(self.folder, "metrics.csv", "Metrics", REPORTED, SAID_OF_FLOOR)
            made.figures = reports.figures_in(self.folder, FIGURES)
        return made

    def _distances(self, points: np.ndarray, truth: np.ndarray | None) -> list[dict[str, Any]]:
        if self.set is None or truth is None or len(points) < metrics.CLOUD:
            return []
        rows = []
        for name, distance in metrics.METRICS.items():
            found = distance(points, truth)
            floor = metrics.floor(name, self.set, len(points), FLOOR_REPEATS)
            row = {"metric": name, "value": found.value, "error": found.error}
            row |= {"floor": floor.value, "floor_error": floor.error, "ratio": found.value / floor.value}
            rows.append({key: round(x, 5) if isinstance(x, float) else x for key, x in row.items()})
        return rows

    def _score_errors(self, truth: np.ndarray | None) -> list[dict[str, Any]]:
        """Relative error of the learned score by noise level, where the density is known; score_error.png."""
        if self.set is None or self.set.mixture is None or truth is None:
            return []
        denoiser = self.task.denoiser
        learned, true = scores.field_of(denoiser, self.task.device), scores.field_of(self.set.mixture)
        levels = scores.within(denoiser, ERROR_LEVELS)
        draws = generator(self.task.config.seed, Stream.POINTS_ERROR)
        errors = scores.relative_errors(learned, true, truth[:5000], levels, draws)
        shown = scores.titled(denoiser, scores.within(denoiser, SHOWN_LEVELS))
        self.folder.write_image("score_error.png", figures.score_error(learned, true, shown, errors))
        return [{"metric": f"score_error_at_{s:g}", "value": round(e, 5)} for s, e in errors.items()]

    def _draw(self, points: np.ndarray, truth: np.ndarray | None, rows: Sequence[Mapping[str, Any]]) -> None:
        denoiser = self.task.denoiser
        caption = ",  ".join(
            f"{row['metric']} {row['value']:.3f} (floor {row['floor']:.3f})" for row in rows if "floor" in row
        )
        self.folder.write_image("samples.png", figures.samples(points, truth, caption))
        levels = scores.titled(denoiser, scores.within(denoiser, SHOWN_LEVELS))
        field = scores.field_of(denoiser, self.task.device)
        self.folder.write_image("score_field.png", figures.score_field(field, levels, truth))
        if (sde := sde_of(denoiser)) is not None:
            self.folder.write_image("sde.png", figures.sde_figure([sde_curves(sde)]))
        if self.folder.has("arrays/walk.npy"):
            frames = figures.particles(
                self.folder.read_array("arrays/walk.npy"),
                self.folder.read_array("arrays/walk_sigmas.npy").tolist(),
                truth,
            )
            self.folder.write_bytes("particles.gif", figures.animation(frames))


def _line(row: Mapping[str, Any]) -> str:
    if "floor" not in row:
        sigma = row["metric"].rpartition("_")[2]
        return f"  relative error of the score at sigma {sigma}: {100 * row['value']:.1f}%"
    error = "" if math.isnan(row["error"]) else f" ± {row['error']:.4f}"
    return (
        f"  {row['metric']:<8} {row['value']:.4f}{error}   "
        f"floor {row['floor']:.4f} ± {row['floor_error']:.4f}   ratio {row['ratio']:.2f}"
    )
