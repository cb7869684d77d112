"""Files of a sampling run: those of each batch, and the summary at the end."""

from __future__ import annotations

import contextlib
import re
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from randomwalk.errors import InputError, RunError
from randomwalk.images import metrics, pictures, sheets
from randomwalk.images.array_source import ArraySource
from randomwalk.images.kinds import stem_of
from randomwalk.images.tensors import to_bytes
from randomwalk.lookup import shortened
from randomwalk.rng import Stream, generator
from randomwalk.runs import report as reports
from randomwalk.runs.folder import RunFolder, write_csv
from randomwalk.runs.report import Column, Page, Table
from randomwalk.sampling import calibration, figures, fit, intervals, measuring, report
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.calibration import Calibration
from randomwalk.sampling.progress import Recorder, Snapshot
from randomwalk.sampling.report import MEAN, std_white
from randomwalk.sampling.task import Task, Watch

COLUMNS = [
    "image", "name", "label", "class", "sample",
    *metrics.QUALITIES, *(f"measurement_{quality}" for quality in metrics.QUALITIES),
    "residual", "fit", "noise_of_255", "evaluations", "vjps", "seconds",
]  # fmt: skip
NUMBERS = [column for column in COLUMNS if column not in ("name", "class", "sample")]
LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "psnr_minmax": "min-max PSNR (dB)", "residual": "residual / noise"}
"""Rows of the printed table."""
MEANS = "mean over the images ± standard error"
ANIMATED_SIDE = 512
"""Longest side of images that are animated."""
OVERVIEW_COLUMNS, OVERVIEW_SAMPLES, OVERVIEW_GRID, OVERVIEW_CLASSES = 8, 2, 64, 10
MOST_REASONS = 5
SPREAD_KINDS = (MEAN, "std", "low", "high")
"""Arrays of an image that come from several samples."""
PLAIN = "._-\u200c\u200d"
"""Marks that stay in names; the last two join and part letters in Persian and in the languages of India."""
MOST_BYTES = 150
"""Longest part of an image's name in the names of its files, which have at most 255 bytes with number and suffix."""


class Results(ABC):
    """Writer of a run's results, which also knows which batches are done.

    A batch is done when its record in ``state/`` exists and the files that it lists are as they were written: of the
    same size and CRC-32. The record is written last.

    Args:
        folder: of the run.
        task: the task that is sampled.

    Attributes:
        damage: why batches are done again, a line each.
        remarks: sentences for the report, when the run is finished.
    """

    def __init__(self, folder: RunFolder, task: Task) -> None:
        self.folder, self.task = folder, task
        self.damage: list[str] = []
        self.remarks: list[str] = []

    def record(self, b: int) -> str:
        """Name of the record of batch ``b``."""
        return f"state/batch_{b:05d}.json"

    def write_record(self, b: int, facts: Mapping[str, Any], files: Iterable[str]) -> None:
        """Write the record of batch ``b``, whose files are written."""
        found = {name: _size_and_crc(self.folder.file(name)) for name in dict.fromkeys(files)}
        self.folder.write_json(self.record(b), {**facts, "files": found})

    def read_record(self, b: int) -> dict[str, Any]:
        """Read the record of batch ``b``.

        Raises:
            InputError: it is not what `write_record` writes.
        """
        record = self.folder.read_json(self.record(b))
        if not (isinstance(record, dict) and isinstance(record.get("files"), dict) and self.fits(b, record)):
            raise InputError(f"{self.folder.file(self.record(b))}: is not the record of a batch of this run")
        return record

    @abstractmethod
    def fits(self, b: int, record: Mapping[str, Any]) -> bool:
        """Whether a JSON object is the record of batch ``b``, by its keys and their types."""

    def records(self, num_batches: int) -> list[dict[str, Any]]:
        """Read the records of all batches.

        Raises:
            RunError: one is missing.
            InputError: one is damaged.
        """
        for name in map(self.record, range(num_batches)):
            if not self.folder.has(name):
                raise RunError(f"{self.folder.file(name)} is missing: the work is not complete")
        return [self.read_record(b) for b in range(num_batches)]

    def present_records(self) -> list[dict[str, Any]]:
        """Records of the batches done so far, in their order, without damaged ones."""
        found = []
        numbers = (path.stem.rpartition("_")[2] for path in self.folder.path.glob("state/batch_*.json"))
        for b in sorted(int(number) for number in numbers if number.isdecimal()):
            with contextlib.suppress(InputError):
                found.append(self.read_record(b))
        return found

    def skipped(self) -> set[int]:
        """Images that were skipped in the batches done so far; none of those of damaged records."""
        return {entry["image"] for record in self.present_records() for entry in record.get("skipped", ())}

    def is_done(self, b: int) -> bool:
        """Whether batch ``b`` is complete; an image that was skipped and can be read by now must be done again.

        A damaged record or file is noted in `damage`.
        """
        if not self.folder.has(self.record(b)):
            return False
        try:
            record = self.read_record(b)
        except InputError as error:
            self.damage.append(f"{error}; batch {b} is done again")
            return False
        for name, written in record["files"].items():
            if self.folder.has(name) and _size_and_crc(self.folder.file(name)) != written:
                self.damage.append(f"{self.folder.file(name)}: is damaged; batch {b} is done again")
                return False
        return all(map(self.folder.has, record["files"])) and not any(
            self._can_be_read(skipped["image"]) for skipped in record.get("skipped", ())
        )

    def _can_be_read(self, image: int) -> bool:
        try:
            self.task.load_measurable(image)
        except InputError:
            return False
        return True

    @abstractmethod
    def watch_batch(self, ids: Sequence[SampleId]) -> Watch:
        """Callback that records the steps of the next batch."""

    @abstractmethod
    def write_batch(self, b: int, batch: Batch | None, skipped: Mapping[int, str], notes: Sequence[str]) -> None:
        """Write the files and the record of batch ``b``.

        Args:
            b: number of the batch.
            batch: its result; None if all its images were skipped.
            skipped: images that cannot be read, and why.
            notes: on its images, a line each.
        """

    @abstractmethod
    def page(self, finished: bool) -> Page:
        """Report of what the folder has, when the run is finished or on the way."""

    def write_report(self, done: int | None = None, total: int = 0) -> Path:
        """Write report.html: of the finished run, or of one in progress with so many steps done."""
        page = self.page(done is None)
        page.progress = None if done is None else {"done": done, "total": total, "unit": "steps"}
        return reports.write(self.folder, page)

    @abstractmethod
    def finish(self, num_batches: int) -> int:
        """Write and print the summary of a run whose batches are all done.

        Returns:
            Exit status: 0, or 1 if images were skipped.

        Raises:
            InputError: no image can be used.
            RunError: a batch is missing.
        """


class ImageResults(Results):
    """Results of a run that samples images: PNG and ``.npy`` files, animations, tables and an overview."""

    def __init__(self, folder: RunFolder, task: Task) -> None:
        super().__init__(folder, task)
        self.conditional = task.source is not None
        self._digits = max(4, len(str(len(task.names) - 1)))
        self._snapshots: list[Snapshot] = []

    def stem(self, image: int) -> str:
        """Start of the names of an image's files: its number, and its own name if it has one."""
        number = f"{image:0{self._digits}d}"
        if not self.conditional:
            return number
        return f"{number}_{shortened(plain_name(stem_of(self.task.names[image])), MOST_BYTES)}"

    def sample_name(self, image: int, sample: int | str) -> str:
        """Name of a sample's files, without folder and suffix."""
        kind = sample if isinstance(sample, str) else f"sample{sample}"
        return f"{self.stem(image)}_{kind}" if self.conditional else self.stem(image)

    # --- a batch -------------------------------------------------------------------------------------------------

    def watch_batch(self, ids: Sequence[SampleId]) -> Watch:
        """Callback that records the first sample of each image of the next batch, unless images are large."""
        small = max(self.task.shape_of(ids[0].image)[1:]) <= ANIMATED_SIDE
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
        reasons = [{"image": i, "name": self.task.names[i], "reason": why} for i, why in skipped.items()]
        self.write_record(b, {"rows": rows, "skipped": reasons, "notes": list(notes)}, files)

    def fits(self, b: int, record: Mapping[str, Any]) -> bool:
        """Whether a JSON object is a record: a list of rows, and one of skipped images with the reasons."""
        rows, skipped, notes = record.get("rows"), record.get("skipped"), record.get("notes", [])
        if not (isinstance(rows, list) and isinstance(skipped, list) and isinstance(notes, list)):
            return False
        images = range(len(self.task.names))
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
        return {"image": image, "name": self.task.names[image], "label": label, "class": label_name, "sample": sample}

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
        name, stem = self.sample_name(image, batch.ids[row].sample), self.stem(image)
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
        if self.task.sizes is None or self.task.source is None or isinstance(self.task.source, ArraySource):
            for name, x in shown.items():
                self.folder.write_image(f"images/{name}.png", to_bytes(x[None])[0])
            return
        like, coloured = self.task.source.picture(image), not self.task.is_grey(image)
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

        written = [f"images/{self.stem(batch.ids[row].image)}_walk.webp" for row in firsts]
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
            self.folder.write_image("overview.png", self._overview(rows))
        elif self.folder.discard(with_results=True):
            shown = "\n  ".join(reasons[:MOST_REASONS])
            raise InputError(f"none of the {len(reasons)} images can be used:\n  {shown}")
        print(_summary(rows, self.task.config.num_samples), end="")
        calibrations = self._calibrate(rows)
        self.remarks = figures.calibration_lines(calibrations)
        if self.task.config.intervals is not None:
            self.remarks.append(self._write_intervals(Path(self.task.config.intervals), rows))
        if fits := fit.remark(rows):
            self.remarks.append(fits)
        if isinstance(self.task.source, ArraySource):
            self.remarks += self._write_in_units(self.task.source, rows)
        for line in self.remarks:
            print(f"  {line}")
        folder = self.folder.path
        print(f"pictures: {folder / 'overview.png'} and {folder / 'images'}")
        print(f"numbers:  {folder / 'metrics.csv'}")
        if isinstance(self.task.source, ArraySource):
            print(f"in units: {folder / 'units'}")
        if calibrations:
            print(f"spread:   {folder / 'calibration.png'} and {folder / 'calibration.csv'}")
        if not reasons:
            return 0
        found = f"{len(reasons)} of {len(self.task.names)} images could not be read and were skipped"
        print("\n  ".join([f"error: {found}:", *reasons]), file=sys.stderr)
        return 1

    def page(self, finished: bool) -> Page:
        """Report with the images, and the metrics of metrics.csv, or of the batches done so far."""
        records = self.present_records()
        rows = report.rows_of(self.folder) if finished else [row for record in records for row in record["rows"]]
        notes = [line for record in records for line in record.get("notes", ())]
        for entry in (entry for record in records for entry in record["skipped"]):
            notes.append(f"image {entry['image']} was skipped: {entry['reason']}")
        summary = _summary_table(rows, self.task.config.num_samples)
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
            stem = self.stem(image)
            mean, std = (self.folder.read_array(f"arrays/{stem}_{kind}.npy") for kind in ("mean", "std"))
            ends = intervals.bounds(mean, std, made.factor, cut=not isinstance(self.task.source, ArraySource))
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
            stem = f"{images[0]:0{self._digits}d}_{shortened(plain_name(name), MOST_BYTES)}"
            for kind in (*(f"sample{s}" for s in range(self.task.config.num_samples)), *SPREAD_KINDS):
                names = {i: f"arrays/{self.sample_name(i, kind)}.npy" for i in images}
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
        names = [f"arrays/{self.sample_name(image, s)}.npy" for s in range(self.task.config.num_samples)]
        return np.stack([self.folder.read_array(name) for name in names])

    def _write_mean(self, image: int) -> dict[str, Any]:
        """Write mean and standard deviation of an image's samples; the mean's row of metrics.csv."""
        samples = self._samples(image)
        mean, std = samples.mean(0), samples.std(0, ddof=1)
        stem = self.stem(image)
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

    def _overview(self, rows: Sequence[Mapping[str, Any]]) -> Image.Image:
        images = sorted({row["image"] for row in rows})
        if not self.conditional:
            return self._sheet(images)
        columns = images[:OVERVIEW_COLUMNS]
        psnr = {(row["image"], row["sample"]): row.get("psnr") for row in rows}
        shown = []
        if not self.task.config.given:
            shown.append(sheets.Row("truth", [self._picture(f"{self.stem(i)}_truth") for i in columns]))
        if all(self.folder.has(f"images/{self.stem(i)}_measurement.png") for i in columns):
            before = {row["image"]: row.get("measurement_psnr") for row in rows if row["sample"] == 0}
            tiles = [self._picture(f"{self.stem(i)}_measurement") for i in columns]
            shown.append(sheets.Row("measurement", tiles, [_decibel(before.get(i)) for i in columns]))
        count = self.task.config.num_samples
        kinds: list[int | str] = [*range(min(count, OVERVIEW_SAMPLES)), *([MEAN] if count > 1 else [])]
        for kind in kinds:
            label = "restored" if count == 1 else f"mean of {count}" if kind == MEAN else f"sample {kind}"
            tiles = [self._picture(self.sample_name(i, kind)) for i in columns]
            shown.append(sheets.Row(label, tiles, [_decibel(psnr.get((i, kind))) for i in columns]))
        shown += self._details(columns, kinds[-1])
        if count > 1:
            label = f"std (0 to {std_white(self.task.config):g})"
            shown.append(sheets.Row(label, [self._picture(f"{self.stem(i)}_std") for i in columns]))
        return sheets.overview(shown, [PurePosixPath(stem_of(self.task.names[i])).name for i in columns])

    def _details(self, images: Sequence[int], kind: int | str) -> list[sheets.Row]:
        """Rows of an enlarged detail of large images: of what was measured, restored, and of the truth."""
        names = {"restored": [self.sample_name(i, kind) for i in images]}
        for what in ("measurement", "truth"):
            if all(self.folder.has(f"images/{self.stem(i)}_{what}.png") for i in images):
                names[what] = [f"{self.stem(i)}_{what}" for i in images]
        if "measurement" not in names:
            return []
        found: dict[str, list[np.ndarray | None]] = {what: [] for what in ("measurement", "restored", "truth")}
        for k in range(len(images)):
            pictures_ = {what: self._picture(of_all[k]) for what, of_all in names.items()}
            where = sheets.detail(pictures_["measurement"], pictures_["restored"])
            for what, picture in pictures_.items():
                found[what].append(None if where is None else picture[where])
        return [
            sheets.Row(f"detail: {what}", tiles)
            for what, tiles in found.items()
            if any(tile is not None for tile in tiles)
        ]

    def _sheet(self, images: Sequence[int]) -> Image.Image:
        """Overview of an unconditional run: a row for each class, or a square."""
        classes = sorted({label for image in images if (label := self.task.label_of(image)) is not None})
        if len(classes) < 2:
            return sheets.grid([self._picture(self.stem(image)) for image in images[:OVERVIEW_GRID]])
        shown = {k: [i for i in images if self.task.label_of(i) == k] for k in classes[:OVERVIEW_CLASSES]}
        rows = [
            sheets.Row(str(self.task.class_of(of_one[0])), [self._picture(self.stem(i)) for i in of_one])
            for of_one in (found[:OVERVIEW_COLUMNS] for found in shown.values())
        ]
        return sheets.overview(rows, side=96)

    def _picture(self, name: str) -> np.ndarray:
        """Image of the folder on white, ``[H, W]`` or ``[H, W, 3]``."""
        path = self.folder.file(f"images/{name}.png")
        picture = pictures.read(path.read_bytes(), str(path))
        return picture.on_white(1)[..., 0] if picture.grey else picture.on_white(3)


def plain_name(name: str) -> str:
    """Name with the letters, digits and symbols of all languages; ``_`` for what a shell or a system may not take."""
    kept = (c if c in PLAIN or (c.isalnum() if c.isascii() else c.isprintable()) else " " for c in name)
    return re.sub(" +", "_", "".join(kept))


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number, and none that is too large for a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _size_and_crc(path: Path) -> list[int]:
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"


def _summary(rows: Sequence[Mapping[str, Any]], num_samples: int) -> str:
    """Means over the images and their standard errors, as a text table."""
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


def _summary_table(rows: Sequence[Mapping[str, Any]], num_samples: int) -> Table | None:
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


def measurement_picture(batch: Batch, row: int) -> np.ndarray | None:
    """Measurement of a row as an image; None if it cannot be shown as one.

    Only the part in the range of A is shown, so that missing pixels are grey and not noise. A smaller image is enlarged
    to the size of the true one by repeating pixels. A measurement that is not an image (a vector, a spectrum) is shown
    by its baseline, ``A^+ y`` or ``A^T y``.
    """
    if batch.visible is None:
        return None
    visible, (channels, height, width) = batch.visible[row], batch.x.shape[-3:]
    fits = visible.ndim == 3 and visible.shape[1] <= height and visible.shape[2] <= width
    if not fits or visible.shape[0] not in (1, channels):
        if batch.baseline is None:
            return None
        visible = batch.baseline[row]
    return sheets.enlarged_to(to_bytes(visible[None])[0], height, width)
