"""Files of a run that samples images: those of each batch, and the summary at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from randomwalk.errors import InputError
from randomwalk.images import metrics, pictures, sheets
from randomwalk.images.array_source import ArraySource
from randomwalk.images.tensors import to_bytes
from randomwalk.rng import Stream, generator
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.report import Page
from randomwalk.sampling import calibration, figures, fit, intervals, measuring, report
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.calibration import Calibration
from randomwalk.sampling.names import Names
from randomwalk.sampling.overview import Overview, measurement_picture
from randomwalk.sampling.progress import Recorder, Snapshot
from randomwalk.sampling.report import MEAN, std_white
from randomwalk.sampling.results import Results, is_number
from randomwalk.sampling.summary import summary_table, summary_text
from randomwalk.sampling.task import Task, Watch

COLUMNS = [
    "image", "name", "label", "class", "sample",
    *metrics.QUALITIES, *(f"measurement_{quality}" for quality in metrics.QUALITIES),
    "residual", "fit", "noise_of_255", "evaluations", "vjps", "seconds",
]  # fmt: skip
NUMBERS = [column for column in COLUMNS if column not in ("name", "class", "sample")]
ANIMATED_SIDE = 512
"""Longest side of images that are animated."""
MOST_REASONS = 5
SPREAD_KINDS = (MEAN, "std", "low", "high")
"""Arrays of an image that come from several samples."""


class ImageResults(Results):
    """Results of a run that samples images: PNG and ``.npy`` files, animations, tables and an overview."""

    def __init__(self, folder: RunFolder, task: Task) -> None:
        super().__init__(folder, task)
        self.names = Names(task)
        self._snapshots: list[Snapshot] = []

    # --- a batch -------------------------------------------------------------------------------------------------

    def watch_batch(self, ids: Sequence[SampleId]) -> Watch:
        """Callback that records the first sample of each image of the next batch, unless images are large."""
        small = max(self.task.images.shape_of(ids[0].image)[1:]) <= ANIMATED_SIDE
        rows = [row for row, one in enumerate(ids) if one.sample == 0 and small]
        recorder = Recorder(rows, self.task.num_steps, self.task.config.animation_frames)
        self._snapshots = recorder.snapshots
        return recorder.watch

    def write_batch(self, b: int, batch: Batch | None, skipped: Mapping[int, str], notes: Sequence[str]) -> None:
        """Write the images, arrays, animations and the record of batch ``b``; see `Results.write_batch`."""
        files: list[str] = []
        if batch is not None:
            for row in range(len(batch.ids)):
                files += self._write_sample(batch, row)
            files += self._write_animations(batch)
        rows = [] if batch is None else self._rows(batch)
        reasons = [{"image": i, "name": self.task.images.names[i], "reason": why} for i, why in skipped.items()]
        self.write_record(b, {"rows": rows, "skipped": reasons, "notes": list(notes)}, files)

    def fits(self, b: int, record: Mapping[str, Any]) -> bool:
        """Whether a JSON object is a record: a list of rows, and one of skipped images with the reasons."""
        rows, skipped, notes = record.get("rows"), record.get("skipped"), record.get("notes", [])
        if not (isinstance(rows, list) and isinstance(skipped, list) and isinstance(notes, list)):
            return False
        images = range(len(self.task.images))
        return all(
            isinstance(row, dict) and row.keys() <= set(COLUMNS) and type(row.get("sample")) is int
            and all(row.get(key) is None or is_number(row[key]) for key in NUMBERS)
            and is_number(row.get("seconds")) and is_number(row.get("evaluations"))
            and type(row.get("image")) is int and row["image"] in images
            for row in rows
        ) and all(
            isinstance(one, dict) and type(one.get("image")) is int and one["image"] in images
            and isinstance(one.get("reason"), str)
            for one in skipped
        ) and all(isinstance(line, str) for line in notes)  # fmt: skip

    def _about(self, image: int, sample: int | str) -> dict[str, Any]:
        """First columns of a row of metrics.csv."""
        label, label_name = self.task.label_of(image), self.task.class_of(image)
        return {
            "image": image,
            "name": self.task.images.names[image],
            "label": label,
            "class": label_name,
            "sample": sample,
        }

    def _rows(self, batch: Batch) -> list[dict[str, Any]]:
        restored: list[dict[str, Any]] = [{} for _ in batch.ids]
        baseline: list[dict[str, Any]] = [{} for _ in batch.ids]
        if batch.truth is not None:
            restored = metrics.qualities(batch.x, batch.truth)
            if batch.baseline is not None:
                baseline = metrics.qualities(batch.baseline, batch.truth)
        return [
            {
                **self._about(one.image, one.sample),
                **restored[row],
                **{f"measurement_{key}": value for key, value in baseline[row].items()},
                "residual": None if batch.residuals is None else round(batch.residuals[row], 4),
                "fit": self._fit(batch, row),
                "noise_of_255": None if batch.noise_std is None else round(batch.noise_std * 127.5, 3),
                "evaluations": batch.evaluations,
                "vjps": batch.vjps,
                "seconds": round(batch.seconds, 4),
            }
            for row, one in enumerate(batch.ids)
        ]

    def _fit(self, batch: Batch, row: int) -> float | None:
        """P-value of the test of a sample's residual; None where it does not apply."""
        if batch.residuals is None or batch.entries is None or not fit.is_tested(self.task):
            return None
        return float(f"{fit.p_value(batch.residuals[row], batch.entries[row]):.4g}")

    def _write_sample(self, batch: Batch, row: int) -> list[str]:
        """Write a sample, and with the first of an image its truth and measurement; the names of the files."""
        image, first = batch.ids[row].image, batch.ids[row].sample == 0
        name, stem = self.names.sample(image, batch.ids[row].sample), self.names.stem(image)
        images, arrays = {name: batch.x[row]}, {name: batch.x[row]}
        if first and batch.truth is not None:
            images[f"{stem}_truth"] = batch.truth[row]
            if self.task.config.num_samples > 1:  # a picture cuts and rounds, and shows two channels as one
                arrays[f"{stem}_truth"] = batch.truth[row]
        if first and batch.measurement is not None:
            arrays[f"{stem}_measurement"] = batch.measurement[row]
        self._write_images(image, images)
        names = [f"images/{key}.png" for key in images]
        if first and (picture := measurement_picture(batch, row)) is not None:
            names.append(f"images/{stem}_measurement.png")
            self.folder.write_image(names[-1], picture)
        for key, values in arrays.items():
            names.append(f"arrays/{key}.npy")
            self.folder.write_array(names[-1], values.float().cpu().numpy())
        return names

    def _write_images(self, image: int, shown: Mapping[str, torch.Tensor]) -> None:
        """Write images ``[C, H, W]`` by name; if they keep their size, with depth, alpha and metadata of their file."""
        if (
            self.task.images.sizes is None
            or self.task.images.source is None
            or isinstance(self.task.images.source, ArraySource)
        ):
            for name, x in shown.items():
                self.folder.write_image(f"images/{name}.png", to_bytes(x[None])[0])
            return
        like, coloured = self.task.images.source.picture(image), not self.task.images.is_grey(image)
        gps = self.task.config.data is None or self.task.config.data.gps
        for name, x in shown.items():
            self.folder.write_bytes(f"images/{name}.png", pictures.encode(x, like, coloured, gps))

    def _write_animations(self, batch: Batch) -> list[str]:
        steps, lossless = self.task.num_steps, max(batch.x.shape[-2:]) <= 64
        firsts = [row for row, one in enumerate(batch.ids) if one.sample == 0] if self._snapshots else []

        def encoded(n: int) -> bytes:
            row = firsts[n]
            picture = measurement_picture(batch, row)
            before = [] if picture is None else [("measurement", picture)]
            after = [] if batch.truth is None else [("truth", to_bytes(batch.truth[row : row + 1])[0])]
            frames = [
                sheets.frame(
                    [*before, ("walk", shot.walk[n]), ("denoised", shot.denoised[n]), *after],
                    f"step {shot.k + 1} of {steps},  sigma {shot.sigma:.3g}",
                    (shot.k + 1) / steps,
                )
                for shot in self._snapshots
            ]
            return sheets.animation(frames, lossless)

        written = [f"images/{self.names.stem(batch.ids[row].image)}_walk.webp" for row in firsts]
        with ThreadPoolExecutor(torch.get_num_threads()) as executor:  # the encoder leaves Python to other threads
            for name, data in zip(written, executor.map(encoded, range(len(firsts))), strict=True):
                self.folder.write_bytes(name, data)
        return written

    # --- the end -------------------------------------------------------------------------------------------------

    def finish(self, num_batches: int) -> int:
        """Write metrics.csv, overview.png and the calibration, and print the summary; see `Results.finish`."""
        records = self.records(num_batches)
        rows = [row for record in records for row in record["rows"]]
        skipped = {entry["image"]: entry for record in records for entry in record["skipped"]}
        reasons = [f"image {image}: {skipped[image]['reason']}" for image in sorted(skipped)]
        if self.task.config.num_samples > 1:
            rows += [self._write_mean(image) for image in sorted({row["image"] for row in rows})]
        rows.sort(key=lambda row: (row["image"], row["sample"] == MEAN, row["sample"]))
        write_csv(self.folder, "metrics.csv", COLUMNS, rows)
        if rows:
            self.folder.write_image("overview.png", Overview(self.folder, self.task, self.names).draw(rows))
        elif self.folder.discard(with_results=True):
            shown = "\n  ".join(reasons[:MOST_REASONS])
            raise InputError(f"none of the {len(reasons)} images can be used:\n  {shown}")
        print(summary_text(rows, self.task.config.num_samples), end="")
        calibrations = self._calibrate(rows)
        self.remarks = figures.calibration_lines(calibrations)
        if self.task.config.intervals is not None:
            self.remarks.append(self._write_intervals(Path(self.task.config.intervals), rows))
        if fits := fit.remark(rows):
            self.remarks.append(fits)
        if isinstance(self.task.images.source, ArraySource):
            self.remarks += self._write_in_units(self.task.images.source, rows)
        for line in self.remarks:
            print(f"  {line}")
        folder = self.folder.path
        print(f"pictures: {folder / 'overview.png'} and {folder / 'images'}")
        print(f"numbers:  {folder / 'metrics.csv'}")
        if isinstance(self.task.images.source, ArraySource):
            print(f"in units: {folder / 'units'}")
        if calibrations:
            print(f"spread:   {folder / 'calibration.png'} and {folder / 'calibration.csv'}")
        if not reasons:
            return 0
        found = f"{len(reasons)} of {len(self.task.images)} images could not be read and were skipped"
        print("\n  ".join([f"error: {found}:", *reasons]), file=sys.stderr)
        return 1

    def page(self, finished: bool) -> Page:
        """Report with the images, and the metrics of metrics.csv, or of the batches done so far."""
        records = self.present_records()
        rows = report.rows_of(self.folder) if finished else [row for record in records for row in record["rows"]]
        notes = [line for record in records for line in record.get("notes", ())]
        for entry in (entry for record in records for entry in record["skipped"]):
            notes.append(f"image {entry['image']} was skipped: {entry['reason']}")
        summary = summary_table(rows, self.task.config.num_samples)
        return report.page(self.folder, self.task.config, rows, finished, notes, summary, self.remarks)

    def _calibrate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Calibration]:
        """Compare the samples of all images with the truth: calibration.csv and calibration.png.

        Args:
            rows: of metrics.csv.

        Returns:
            Calibration by choice of pixels; empty without several samples of an image, or without the truth.
        """
        images = sorted({row["image"] for row in rows})
        if self.task.config.num_samples < 2 or not images or self.task.config.given:
            return {}
        counts: dict[str, list[np.ndarray]] = {"contested": [], "all": []}
        for image in images:
            samples, truth = self._samples(image), self.task.load_truth(image).numpy()
            ranks = calibration.pixel_ranks(samples, truth, generator(self.task.config.seed, Stream.TIES, image))
            chosen = {"contested": ranks[calibration.contested(samples, truth)], "all": ranks}
            for kind, found in chosen.items():
                counts[kind].append(calibration.counts(found, len(samples)))
        calibrations = {kind: Calibration(np.stack(found)) for kind, found in counts.items()}
        table = [{"pixels": kind, **row} for kind, found in calibrations.items() for row in found.table()]
        write_csv(self.folder, "calibration.csv", calibration.COLUMNS, table)
        self.folder.write_bytes("calibration.png", figures.calibration_figure(calibrations))
        return calibrations

    def _write_intervals(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write the ends of the recalibrated intervals of all images, and say how wide they are.

        Args:
            path: file of the calibration.
            rows: of metrics.csv.
        """
        made, halves, covered = intervals.read(path), [], []
        for image in sorted({row["image"] for row in rows}):
            stem = self.names.stem(image)
            mean, std = (self.folder.read_array(f"arrays/{stem}_{kind}.npy") for kind in ("mean", "std"))
            ends = intervals.bounds(mean, std, made.factor, cut=not isinstance(self.task.images.source, ArraySource))
            halves.append(float((ends[1] - ends[0]).mean()) / 2)
            if not self.task.config.given:
                truth = self.task.load_truth(image).numpy()
                covered.append(float(((ends[0] <= truth) & (truth <= ends[1])).mean()))
            for kind, end in zip(("low", "high"), ends, strict=True):
                self.folder.write_array(f"arrays/{stem}_{kind}.npy", end)
                self._write_images(image, {f"{stem}_{kind}": torch.from_numpy(end)})
        return intervals.remark(made, halves, covered)

    def _write_in_units(self, source: ArraySource, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write samples, mean, deviation and intervals in the formats and units of the files; remarks on them.

        Args:
            source: of the arrays.
            rows: of metrics.csv.
        """
        remarks = []
        for file, images in source.groups(sorted({row["image"] for row in rows})).items():
            name, suffix = source.file_name(file)
            stem = self.names.numbered(images[0], name)
            for kind in (*(f"sample{s}" for s in range(self.task.config.num_samples)), *SPREAD_KINDS):
                names = {i: f"arrays/{self.names.sample(i, kind)}.npy" for i in images}
                if all(map(self.folder.has, names.values())):
                    results = {i: self.folder.read_array(found) for i, found in names.items()}
                    data = source.encoded(file, results, kind == "std", measuring.keeps_channels(self.task.config))
                    self.folder.write_bytes(f"units/{stem}_{kind}{suffix}", data)
            missing = source.num_slices(file) - len(images)
            if missing:
                remarks.append(
                    f"{name}{suffix}: {missing} slices are not restored, and are NaN (in DICOM the least value)"
                )
        return remarks

    def _samples(self, image: int) -> np.ndarray:
        """All samples of an image, ``[S, C, H, W]``."""
        names = [f"arrays/{self.names.sample(image, s)}.npy" for s in range(self.task.config.num_samples)]
        return np.stack([self.folder.read_array(name) for name in names])

    def _write_mean(self, image: int) -> dict[str, Any]:
        """Write mean and standard deviation of an image's samples; the mean's row of metrics.csv."""
        samples = self._samples(image)
        mean, std = samples.mean(0), samples.std(0, ddof=1)
        stem = self.names.stem(image)
        self.folder.write_array(f"arrays/{stem}_mean.npy", mean)
        self.folder.write_array(f"arrays/{stem}_std.npy", std)
        self._write_images(image, {f"{stem}_mean": torch.from_numpy(mean)})
        self.folder.write_image(
            f"images/{stem}_std.png", sheets.std_map(np.sqrt((std**2).mean(0)), std_white(self.task.config))
        )
        if self.task.config.given:
            return self._about(image, MEAN)
        truth = self.task.load_truth(image)[None]
        return {**self._about(image, MEAN), **metrics.qualities(torch.from_numpy(mean)[None], truth)[0]}
