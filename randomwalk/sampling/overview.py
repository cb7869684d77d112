"""Overview of a run: its images side by side, with an enlarged detail of large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from randomwalk.images import pictures, sheets
from randomwalk.images.kinds import stem_of
from randomwalk.images.tensors import to_bytes
from randomwalk.runs.folder import RunFolder
from randomwalk.sampling.batch import Batch
from randomwalk.sampling.names import Names
from randomwalk.sampling.report import MEAN, std_white
from randomwalk.sampling.task import Task

COLUMNS, SAMPLES, GRID, CLASSES = 8, 2, 64, 10
"""Most images in a row, samples of an image, images of an unconditional run, and classes."""


class Overview:
    """Overview of the images in a run folder."""

    def __init__(self, folder: RunFolder, task: Task, names: Names) -> None:
        self.folder, self.task, self.names = folder, task, names

    def draw(self, rows: Sequence[Mapping[str, Any]]) -> Image.Image:
        """Overview of all images.

        Args:
            rows: of metrics.csv.
        """
        images = sorted({row["image"] for row in rows})
        if self.task.images.source is None:
            return self._sheet(images)
        columns = images[:COLUMNS]
        psnr = {(row["image"], row["sample"]): row.get("psnr") for row in rows}
        shown = []
        if not self.task.config.given:
            shown.append(sheets.Row("truth", [self._picture(f"{self.names.stem(i)}_truth") for i in columns]))
        if all(self.folder.has(f"images/{self.names.stem(i)}_measurement.png") for i in columns):
            before = {row["image"]: row.get("measurement_psnr") for row in rows if row["sample"] == 0}
            tiles = [self._picture(f"{self.names.stem(i)}_measurement") for i in columns]
            shown.append(sheets.Row("measurement", tiles, [_decibel(before.get(i)) for i in columns]))
        count = self.task.config.num_samples
        kinds: list[int | str] = [*range(min(count, SAMPLES)), *([MEAN] if count > 1 else [])]
        for kind in kinds:
            label = "restored" if count == 1 else f"mean of {count}" if kind == MEAN else f"sample {kind}"
            tiles = [self._picture(self.names.sample(i, kind)) for i in columns]
            shown.append(sheets.Row(label, tiles, [_decibel(psnr.get((i, kind))) for i in columns]))
        shown += self._details(columns, kinds[-1])
        if count > 1:
            label = f"std (0 to {std_white(self.task.config):g})"
            shown.append(sheets.Row(label, [self._picture(f"{self.names.stem(i)}_std") for i in columns]))
        return sheets.overview(shown, [PurePosixPath(stem_of(self.task.images.names[i])).name for i in columns])

    def _details(self, images: Sequence[int], kind: int | str) -> list[sheets.Row]:
        """Rows of an enlarged detail of large images: of what was measured, restored, and of the truth."""
        names = {"restored": [self.names.sample(i, kind) for i in images]}
        for what in ("measurement", "truth"):
            if all(self.folder.has(f"images/{self.names.stem(i)}_{what}.png") for i in images):
                names[what] = [f"{self.names.stem(i)}_{what}" for i in images]
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
            return sheets.grid([self._picture(self.names.stem(image)) for image in images[:GRID]])
        shown = {k: [i for i in images if self.task.label_of(i) == k] for k in classes[:CLASSES]}
        rows = [
            sheets.Row(str(self.task.class_of(of_one[0])), [self._picture(self.names.stem(i)) for i in of_one])
            for of_one in (found[:COLUMNS] for found in shown.values())
        ]
        return sheets.overview(rows, side=96)

    def _picture(self, name: str) -> np.ndarray:
        """Image of the folder on white, ``[H, W]`` or ``[H, W, 3]``."""
        path = self.folder.file(f"images/{name}.png")
        picture = pictures.read(path.read_bytes(), str(path))
        return picture.on_white(1)[..., 0] if picture.grey else picture.on_white(3)


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


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"
