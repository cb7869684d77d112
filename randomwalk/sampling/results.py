"""Records of a sampling run: which batches are done, and with which files."""

from __future__ import annotations

import contextlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from randomwalk.errors import InputError, RunError
from randomwalk.runs import report as reports
from randomwalk.runs.folder import RunFolder
from randomwalk.runs.report import Page
from randomwalk.sampling.batch import Batch, SampleId
from randomwalk.sampling.task import Task, Watch


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


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number, and none that is too large for a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _size_and_crc(path: Path) -> list[int]:
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]
