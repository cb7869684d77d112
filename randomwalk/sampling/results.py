"""The files of a sampling run: what each batch leaves, and what is made of them all at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics, pictures
from randomwalk.images import sheets as report
from randomwalk.images.tensors import to_pixels
from randomwalk.rng import generator
from randomwalk.run_folder import RunFolder, write_csv
from randomwalk.sampling import calibration, figures
from randomwalk.sampling.batch import Batch, Unit
from randomwalk.sampling.calibration import Calibration
from randomwalk.sampling.progress import Recorder, Snapshot
from randomwalk.sampling.task import TIES_STREAM, Task, Watch

COLUMNS = [
    "image", "name", "label", "class", "sample",
    *metrics.QUALITIES, *(f"measurement_{quality}" for quality in metrics.QUALITIES),
    "residual", "noise_of_255", "evaluations", "vjps", "seconds",
]  # fmt: skip
MEAN = "mean"
"""What the column ``sample`` says in the row of the mean of an image's samples."""
ANIMATED_SIDE = 512
"""Longest side of the images of which there are animations."""
OVERVIEW_COLUMNS, OVERVIEW_SAMPLES, OVERVIEW_GRID, OVERVIEW_CLASSES = 8, 2, 64, 10


class Results:
    """Writes and finds the results of a task in its folder.

    A batch is done when its record in ``state/`` is there, which is written last and names its other files.

    Args:
        folder: the run's.
        task: what is sampled.
    """

    def __init__(self, folder: RunFolder, task: Task) -> None:
        self.folder, self.task = folder, task
        self.conditional = task.source is not None
        self._digits = max(4, len(str(len(task.names) - 1)))
        self._snapshots: list[Snapshot] = []

    def stem(self, image: int) -> str:
        """Beginning of the names of an image's files: its number, and its own name if it has one."""
        number = f"{image:0{self._digits}d}"
        if not self.conditional:
            return number
        name = str(PurePosixPath(self.task.names[image]).with_suffix(""))
        return f"{number}_{re.sub('[^A-Za-z0-9._-]+', '_', name)[:60]}"

    def sample_name(self, image: int, sample: int | str) -> str:
        """Name of a sample's files without folder and suffix."""
        kind = sample if isinstance(sample, str) else f"sample{sample}"
        return f"{self.stem(image)}_{kind}" if self.conditional else self.stem(image)

    # --- a batch -------------------------------------------------------------------------------------------------

    def _record(self, b: int) -> str:
        return f"state/batch_{b:05d}.json"

    def is_done(self, b: int) -> bool:
        """Whether nothing is left to do for batch ``b``: a skipped image that can be read by now counts as left."""
        if not self.folder.has(self._record(b)):
            return False
        record = self.folder.read_json(self._record(b))
        return all(self.folder.has(name) for name in record["files"]) and not any(
            self._can_be_read(skipped["image"]) for skipped in record["skipped"]
        )

    def _can_be_read(self, image: int) -> bool:
        try:
            self.task.load_measurable(image)
        except InputError:
            return False
        return True

    def watch_batch(self, units: Sequence[Unit]) -> Watch:
        """What looks at the steps of the batch that comes next: the first sample of each small image is filmed."""
        small = max(self.task.shape_of(units[0].image)[1:]) <= ANIMATED_SIDE
        rows = [row for row, unit in enumerate(units) if unit.sample == 0 and small]
        recorder = Recorder(rows, self.task.num_steps, self.task.config.animation_frames)
        self._snapshots = recorder.snapshots
        return recorder.watch

    def write_batch(self, b: int, batch: Batch | None, skipped: Mapping[int, str] | None = None) -> None:
        """Write the pictures, the arrays and the record of batch ``b``.

        Args:
            b: its number.
            batch: what came of it; None if all its images were skipped.
            skipped: images that could not be read, and why.
        """
        files: list[str] = []
        rows = [] if batch is None else self._rows(batch)
        if batch is not None:
            for row in range(len(batch.units)):
                files += self._write_unit(batch, row)
            files += self._write_animations(batch, self._snapshots)
        left_out = [{"image": i, "name": self.task.names[i], "reason": why} for i, why in (skipped or {}).items()]
        self.folder.write_json(self._record(b), {"rows": rows, "skipped": left_out, "files": files})

    def _rows(self, batch: Batch) -> list[dict[str, Any]]:
        restored: list[dict[str, Any]] = [{} for _ in batch.units]
        baseline: list[dict[str, Any]] = [{} for _ in batch.units]
        if batch.truth is not None:
            restored = metrics.qualities(batch.x, batch.truth)
            if batch.baseline is not None:
                baseline = metrics.qualities(batch.baseline, batch.truth)
        return [
            {
                "image": unit.image,
                "name": self.task.names[unit.image],
                "label": self.task.label_of(unit.image),
                "class": self.task.class_of(unit.image),
                "sample": unit.sample,
                **restored[row],
                **{f"measurement_{key}": value for key, value in baseline[row].items()},
                "residual": None if batch.residuals is None else round(batch.residuals[row], 4),
                "noise_of_255": None if batch.noise_std is None else round(batch.noise_std * 127.5, 3),
                "evaluations": batch.evaluations,
                "vjps": batch.vjps,
                "seconds": round(batch.seconds, 4),
            }
            for row, unit in enumerate(batch.units)
        ]

    def _write_unit(self, batch: Batch, row: int) -> list[str]:
        unit = batch.units[row]
        name = self.sample_name(unit.image, unit.sample)
        shown = {name: batch.x[row]}
        arrays = {name: batch.x[row]}
        views: dict[str, np.ndarray] = {}
        if unit.sample == 0 and batch.measurement is not None:
            stem = self.stem(unit.image)
            if batch.truth is not None:
                shown[f"{stem}_truth"] = batch.truth[row]
            arrays[f"{stem}_measurement"] = batch.measurement[row]
            picture = measurement_picture(batch, row)
            if picture is not None:
                views[f"{stem}_measurement"] = picture
        self._write_images(unit.image, shown)
        for key, pixels in views.items():
            self.folder.write_image(f"images/{key}.png", pixels)
        for key, values in arrays.items():
            self.folder.write_array(f"arrays/{key}.npy", values.float().cpu().numpy())
        return [f"images/{key}.png" for key in (*shown, *views)] + [f"arrays/{key}.npy" for key in arrays]

    def _write_images(self, image: int, shown: Mapping[str, torch.Tensor]) -> None:
        """Write images ``[C, H, W]`` by their names; with all that belongs to the picture if it keeps its own size."""
        if self.task.sizes is None or self.task.source is None:
            for name, x in shown.items():
                self.folder.write_image(f"images/{name}.png", to_pixels(x))
            return
        like, coloured = self.task.source.picture(image), not self.task.is_grey(image)
        for name, x in shown.items():
            self.folder.write_bytes(f"images/{name}.png", pictures.encode(x, like, coloured))

    def _write_animations(self, batch: Batch, snapshots: Sequence[Snapshot]) -> list[str]:
        if not snapshots:
            return []
        written = []
        steps = self.task.num_steps
        for n, row in enumerate(r for r, unit in enumerate(batch.units) if unit.sample == 0):
            before, after = [], []
            picture = measurement_picture(batch, row)
            if picture is not None:
                before.append(("measurement", picture))
            if batch.truth is not None:
                after.append(("truth", to_pixels(batch.truth[row])))
            frames = [
                report.frame(
                    [*before, ("walk", shot.walk[n]), ("denoised", shot.denoised[n]), *after],
                    f"step {shot.k + 1} of {steps},  sigma {shot.sigma:.3g}",
                    (shot.k + 1) / steps,
                )
                for shot in snapshots
            ]
            written.append(f"images/{self.stem(batch.units[row].image)}_walk.webp")
            self.folder.write_bytes(written[-1], report.animation(frames, lossless=max(batch.x.shape[-2:]) <= 64))
        return written

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, num_batches: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Sum up a run whose batches are all done: means of samples, metrics.csv, overview.png.

        Returns:
            The rows of metrics.csv and the images that were skipped.
        """
        rows: list[dict[str, Any]] = []
        skipped: dict[int, dict[str, Any]] = {}
        for b in range(num_batches):
            if not self.folder.has(self._record(b)):
                raise RunError(f"{self.folder.file(self._record(b))} is missing: the work is not complete")
            record = self.folder.read_json(self._record(b))
            rows += record["rows"]
            skipped.update({entry["image"]: entry for entry in record["skipped"]})
        if self.task.config.num_samples > 1:
            rows += [self._write_mean(image) for image in sorted({row["image"] for row in rows})]
        rows.sort(key=lambda row: (row["image"], row["sample"] == MEAN, row["sample"]))
        write_csv(self.folder, "metrics.csv", COLUMNS, rows)
        if rows:
            self.folder.write_image("overview.png", self._overview(rows))
        return rows, [skipped[image] for image in sorted(skipped)]

    def calibrate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Calibration]:
        """Compare the samples of all images with the truth: calibration.csv and calibration.png.

        Args:
            rows: what `finish` has returned.

        Returns:
            What there is to say of which pixels; empty without several samples of images, or the truth.
        """
        images = sorted({row["image"] for row in rows})
        if self.task.config.num_samples < 2 or not images or self.task.config.given:
            return {}
        counts: dict[str, list[np.ndarray]] = {"contested": [], "all": []}
        for image in images:
            samples, truth = self._samples(image), self.task.load_image(image).numpy()
            ranks = calibration.pixel_ranks(samples, truth, generator(self.task.config.seed, image, *TIES_STREAM))
            chosen = {"contested": ranks[calibration.contested(samples, truth)], "all": ranks}
            for kind, found in chosen.items():
                counts[kind].append(calibration.counts(found, len(samples)))
        calibrations = {kind: Calibration(np.stack(found)) for kind, found in counts.items()}
        table = [{"pixels": kind, **row} for kind, found in calibrations.items() for row in found.table()]
        write_csv(self.folder, "calibration.csv", calibration.COLUMNS, table)
        self.folder.write_bytes("calibration.png", figures.calibration_figure(calibrations))
        return calibrations

    def _samples(self, image: int) -> np.ndarray:
        """All samples of an image, ``[S, C, H, W]``."""
        names = [f"arrays/{self.sample_name(image, s)}.npy" for s in range(self.task.config.num_samples)]
        return np.stack([np.load(self.folder.file(name), allow_pickle=False) for name in names])

    def _write_mean(self, image: int) -> dict[str, Any]:
        """Mean and standard deviation of an image's samples."""
        samples = self._samples(image)
        mean, std = samples.mean(0), samples.std(0, ddof=1)
        stem = self.stem(image)
        self.folder.write_array(f"arrays/{stem}_mean.npy", mean)
        self.folder.write_array(f"arrays/{stem}_std.npy", std)
        self._write_images(image, {f"{stem}_mean": torch.from_numpy(mean)})
        self.folder.write_image(f"images/{stem}_std.png", report.std_map(np.sqrt((std**2).mean(0))))
        facts = {"image": image, "name": self.task.names[image], "sample": MEAN}
        facts |= {"label": self.task.label_of(image), "class": self.task.class_of(image)}
        if self.task.config.given:
            return facts
        truth = self.task.load_image(image)[None]
        return {**facts, **metrics.qualities(torch.from_numpy(mean)[None], truth)[0]}

    def _overview(self, rows: Sequence[Mapping[str, Any]]) -> Image.Image:
        images = sorted({row["image"] for row in rows})
        if not self.conditional:
            return self._sheet(images)
        columns = images[:OVERVIEW_COLUMNS]
        psnr = {(row["image"], row["sample"]): row.get("psnr") for row in rows}
        shown = []
        if not self.task.config.given:
            shown.append(report.Row("truth", [self._picture(f"{self.stem(i)}_truth") for i in columns]))
        if all(self.folder.has(f"images/{self.stem(i)}_measurement.png") for i in columns):
            before = {row["image"]: row.get("measurement_psnr") for row in rows if row["sample"] == 0}
            tiles = [self._picture(f"{self.stem(i)}_measurement") for i in columns]
            shown.append(report.Row("measurement", tiles, [_decibel(before.get(i)) for i in columns]))
        count = self.task.config.num_samples
        kinds: list[int | str] = [*range(min(count, OVERVIEW_SAMPLES)), *([MEAN] if count > 1 else [])]
        for kind in kinds:
            label = "restored" if count == 1 else f"mean of {count}" if kind == MEAN else f"sample {kind}"
            tiles = [self._picture(self.sample_name(i, kind)) for i in columns]
            shown.append(report.Row(label, tiles, [_decibel(psnr.get((i, kind))) for i in columns]))
        if count > 1:
            label = f"std (0 to {report.STD_WHITE:g})"
            shown.append(report.Row(label, [self._picture(f"{self.stem(i)}_std") for i in columns]))
        return report.overview(shown, [PurePosixPath(self.task.names[i]).stem for i in columns])

    def _sheet(self, images: Sequence[int]) -> Image.Image:
        """Images that were made from nothing: a row for each class, or a square."""
        classes = sorted({label for image in images if (label := self.task.label_of(image)) is not None})
        if len(classes) < 2:
            return report.grid([self._picture(self.stem(image)) for image in images[:OVERVIEW_GRID]])
        shown = {k: [i for i in images if self.task.label_of(i) == k] for k in classes[:OVERVIEW_CLASSES]}
        rows = [
            report.Row(str(self.task.class_of(of_one[0])), [self._picture(self.stem(i)) for i in of_one])
            for of_one in (found[:OVERVIEW_COLUMNS] for found in shown.values())
        ]
        return report.overview(rows, side=96)

    def _picture(self, name: str) -> np.ndarray:
        """A picture of the folder as it looks on paper, ``[H, W]`` or ``[H, W, 3]``."""
        path = self.folder.file(f"images/{name}.png")
        picture = pictures.read(path.read_bytes(), str(path))
        return picture.on_white(1)[..., 0] if picture.grey else picture.on_white(3)


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"


def measurement_picture(batch: Batch, row: int) -> np.ndarray | None:
    """The measurement of a row as it can be looked at; None if nothing can be seen of it.

    What A cannot produce is left out, so that missing pixels are grey and not noise. A smaller image is brought to
    the size of the true one by repeating pixels. Of a measurement that is no image (a vector, a spectrum) the baseline
    is shown: ``A^+ y`` or ``A^T y``.
    """
    if batch.visible is None:
        return None
    visible, (channels, height, width) = batch.visible[row], batch.x.shape[-3:]
    fits = visible.ndim == 3 and visible.shape[1] <= height and visible.shape[2] <= width
    if not fits or visible.shape[0] not in (1, channels) or channels not in (1, 3):
        if batch.baseline is None:
            return None
        visible = batch.baseline[row]
    return report.enlarged_to(to_pixels(visible), height, width)
